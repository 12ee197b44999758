//! Decoding within limits.

use std::any::Any;
use std::borrow::Cow;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, Cursor, Read, Seek};
use std::panic::catch_unwind;
use std::path::Path;

use ::image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::budget::{BUDGET, FILES, Share};
use super::metadata::{JpegFrame, Metadata, PixelReader, before_jpeg_scan, jpeg_frame, jpeg_scans, largest_webp_frame};
use super::size::{grouped, rounded};
use super::srgb::ToSrgb;
use super::{Fit, Image, Size, buffer, cost, jpeg, max_memory};
use crate::error::{BoxError, Error, OrHere, Result};

/// The largest number of scans of a JPEG. A progressive JPEG has about ten. Each scan costs a pass over the whole image but
/// only a few bytes of the file: without a limit, a small file could keep a processor busy for hours.
pub(super) const MAX_JPEG_SCANS: usize = 100;

const JPEG_END: &[u8] = &[0xff, 0xd9];

/// The message for a user whose image exceeds a limit.
const TOO_LARGE: &str = "The image is too large. Please choose a smaller one.";

pub(super) const NOT_AN_IMAGE: &str = "This is not an image that can be read (JPEG, PNG, WebP or GIF).";

/// Options for decoding an image: its limits, and the largest size that is needed of it.
///
/// ```
/// use aside::image::DecodeOptions;
///
/// let avatars = DecodeOptions::new().max_pixels(10_000_000);
/// let error = avatars.decode(b"<svg>").unwrap_err();
/// assert_eq!(error.status_code().code(), 422);
/// ```
///
/// The limits are checked against the header before anything is decoded: a PNG of a few kilobytes can hold
/// 50,000 x 50,000 pixels, which take 10 GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    max_pixels: u64,
    max_memory: u64,
    largest_fit: Fit,
}

impl Default for DecodeOptions {
    fn default() -> DecodeOptions {
        DecodeOptions { max_pixels: 50_000_000, max_memory: 512 * 1024 * 1024, largest_fit: Fit::WHOLE }
    }
}

impl DecodeOptions {
    /// Returns the default options: 50 million pixels, 512 MiB, and the full size of the image.
    pub fn new() -> DecodeOptions {
        DecodeOptions::default()
    }

    /// Sets the largest number of pixels, width times height. The default is 50 million, the most of today's common
    /// cameras.
    pub fn max_pixels(mut self, pixels: u64) -> DecodeOptions {
        self.max_pixels = pixels;
        self
    }

    /// Limits the memory for decoding, in bytes: the pixels (3 or 4 bytes each, or twice that at 16 bits), their 8-bit copy
    /// and the decoder's buffers. The file itself may not be larger either. The default is 512 MiB. It never exceeds
    /// `ASIDE_MAX_IMAGE_MEMORY`, which applies to all images together.
    pub fn max_memory(mut self, bytes: u64) -> DecodeOptions {
        self.max_memory = bytes;
        self
    }

    /// Sets the largest size that the image is needed in, so that a JPEG can be decoded at a reduced size: faster, and with
    /// less memory. The default is the full size.
    ///
    /// ```
    /// use aside::image::{DecodeOptions, Fit};
    /// # let folder = tempfile::tempdir()?;
    /// # std::env::set_current_dir(&folder)?;
    /// # image::RgbImage::new(3000, 2000).save("upload.jpg")?;
    ///
    /// let photo = DecodeOptions::new().largest_fit(Fit::Inside(800, 800)).open("upload.jpg")?;
    /// assert_eq!(photo.size().to_string(), "3,000 x 2,000");
    /// photo.save("800.jpg", Fit::Inside(800, 800))?;
    /// photo.save("square.jpg", Fit::Cover(200, 200))?;
    /// # aside::ok(())
    /// ```
    ///
    /// A JPEG in gray or YCbCr is decoded at a half, a quarter or an eighth of its size: the smallest of these that is not
    /// smaller than `fit`. A JPEG in CMYK or RGB, a PNG, a WebP and a GIF are decoded at their full size. A later resize to more than `fit` has the requested size, but is less sharp.
    pub fn largest_fit(mut self, fit: Fit) -> DecodeOptions {
        self.largest_fit = fit;
        self
    }

    /// Decodes an image file, whatever its name.
    ///
    /// # Errors
    /// The errors of [`Image::open`].
    #[track_caller]
    pub fn open(self, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let file =
            File::open(path).map_err(|error| Error::from(error).context(format!("cannot open {path:?}"))).or_here()?;
        let length = file.metadata()?.len().min(self.max_memory);
        let _file = FILES.take(length, max_memory() / 4).or_here()?;
        self.read(file)
    }

    /// Decodes the image that a reader supplies.
    ///
    /// # Errors
    /// The errors of [`Image::read`].
    #[track_caller]
    pub fn read(self, from: impl Read) -> Result<Image> {
        // Reads everything first: the decoders need most of it in memory, and an I/O error is then clearly distinguished
        // from a broken image.
        let mut bytes = Vec::new();
        from.take(self.max_memory.saturating_add(1)).read_to_end(&mut bytes)?;
        self.decode(bytes)
    }

    /// Decodes the image in these bytes.
    ///
    /// # Errors
    /// The errors of [`Image::decode`].
    #[track_caller]
    pub fn decode(self, bytes: impl AsRef<[u8]>) -> Result<Image> {
        let bytes = bytes.as_ref();
        // No panic is known in the decoders (1.5 million mutated images caused none). An image that causes one is refused
        // as unreadable: it is not a fault of the server.
        catch_unwind(|| self.decode_or_panic(bytes))
            .unwrap_or_else(|payload| Err(unreadable(panicked(&*payload))))
            .or_here()
    }

    fn decode_or_panic(self, bytes: &[u8]) -> Result<Image> {
        let format = ::image::guess_format(bytes).map_err(unreadable)?;
        let bytes = if format == ImageFormat::Jpeg { self.whole_jpeg(bytes)? } else { Cow::Borrowed(bytes) };
        let (size, color) = self.header(format, &bytes)?;
        let Metadata { orientation, profile } = Metadata::read(format, &bytes);
        let divisor =
            if format == ImageFormat::Jpeg { self.largest_fit.before_rotation(orientation).divisor(size) } else { 1 };
        let separate = format == ImageFormat::Jpeg && has_separate_scans(&bytes);
        let divided = if divisor > 1 || separate { self.divided(&bytes, size, color, divisor)? } else { None };
        let (pixels, divisor, mut share) = match divided {
            Some((pixels, share)) => (pixels, divisor, share),
            None if separate => return Err(unreadable("the JPEG has separate scans for its components")),
            None => {
                let share = self.share(cost::whole(format, size, color, &bytes))?;
                (self.pixels(format, &bytes)?, 1, share)
            }
        };
        share.shrink(pixels.as_bytes().len() as u64);
        let to_srgb = profile.and_then(|profile| ToSrgb::new(&profile, color));
        Ok(Image { pixels, divisor, size, orientation, to_srgb, is_progressive: false, _share: share })
    }

    /// Returns the pixels of a JPEG at a fraction of its size, if it can be decoded that way.
    fn divided(self, jpeg: &[u8], size: Size, color: ColorType, divisor: u32) -> Result<Option<(DynamicImage, Share)>> {
        let share = self.share(cost::divided(size, divisor, color, jpeg))?;
        Ok(jpeg::decode(jpeg, size, divisor, buffer::take).map(|pixels| (pixels, share)))
    }

    fn pixels(self, format: ImageFormat, bytes: &[u8]) -> Result<DynamicImage> {
        buffer::decode(self.decoder(format, bytes)?).map(eight_bits).map_err(|error| self.refusal(error))
    }

    fn header(self, format: ImageFormat, bytes: &[u8]) -> Result<(Size, ColorType)> {
        // The decoder copies what it reads: tens of megabytes of a scan are not needed here.
        let start = if format == ImageFormat::Jpeg { before_jpeg_scan(bytes) } else { bytes };
        self.check_length(bytes)?;
        let decoder = self.decoder(format, start)?;
        Ok((decoder.dimensions().into(), decoder.color_type()))
    }

    /// Takes the share of the common memory budget for an image of `bytes`, and waits for it.
    fn share(self, bytes: u64) -> Result<Share> {
        if bytes > self.max_memory {
            return Err(self.over_memory());
        }
        let limit = max_memory();
        if bytes > limit {
            return Err(Error::unprocessable(TOO_LARGE).with_detail(format!(
                "it needs more memory than the limit of {} bytes for all images (ASIDE_MAX_IMAGE_MEMORY)",
                grouped(limit)
            )));
        }
        BUDGET.take(bytes, limit)
    }

    /// Returns a decoder that has read the header and found it within the limits. It does not see the metadata.
    fn decoder(self, format: ImageFormat, bytes: &[u8]) -> Result<impl ImageDecoder> {
        let mut limits = ::image::Limits::default();
        limits.max_alloc = Some(self.max_memory);

        let source: Box<dyn Source + '_> = match format {
            ImageFormat::WebP => Box::new(Cursor::new(bytes)), // its decoder seeks past the metadata
            _ => Box::new(PixelReader::new(format, bytes)),
        };
        let mut reader = ImageReader::with_format(source, format);
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(|error| self.refusal(error))?;
        self.check_size(decoder.dimensions().into())?;
        if format == ImageFormat::WebP && largest_webp_frame(bytes) > Size::from(decoder.dimensions()).pixels() {
            return Err(unreadable("a frame of the WebP is larger than its canvas"));
        }
        let reserved = limits.reserve(decoder.total_bytes()).and_then(|()| decoder.set_limits(limits));
        reserved.map_err(|error| self.refusal(error))?;
        Ok(decoder)
    }

    /// Refuses JPEGs that the decoder would accept although they are truncated (it paints the missing part gray) or have
    /// too many scans. Adds an end marker if only that is missing.
    fn whole_jpeg(self, bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
        let (scans, has_end) = jpeg_scans(bytes);
        if scans > MAX_JPEG_SCANS {
            return Err(unreadable(format!("the JPEG has {scans} scans; the limit is {MAX_JPEG_SCANS}")));
        }
        if has_end {
            return Ok(Cow::Borrowed(bytes));
        }
        let pixels = bytes.strip_suffix(&[0xff]).unwrap_or(bytes); // the first half of the marker
        let jpeg = [pixels, JPEG_END].concat();
        let (size, color) = self.header(ImageFormat::Jpeg, &jpeg)?;
        let _share = self.share(cost::whole(ImageFormat::Jpeg, size, color, &jpeg))?;
        let is_whole = match jpeg::is_whole(&jpeg, size) {
            Some(is_whole) => is_whole,
            None => self.ignores_filler(pixels)?,
        };
        if is_whole { Ok(Cow::Owned(jpeg)) } else { Err(unreadable("the JPEG is cut short")) }
    }

    /// Returns true if extra bytes before the end marker do not change the image: in a truncated image they would replace
    /// the missing data. For kinds of JPEG that only the decoder can read, since the decoder does not report it. Several
    /// fillers are tried, because some contain no valid code and are skipped.
    fn ignores_filler(self, pixels: &[u8]) -> Result<bool> {
        let without = self.digest(pixels, &[])?;
        for filler in [0x2d, 0x5a, 0xb4, 0xd2] {
            if self.digest(pixels, &[filler; 64])? != without {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns a hash of the pixels of a JPEG that ends in `filler`.
    fn digest(self, jpeg: &[u8], filler: &[u8]) -> Result<u64> {
        let jpeg = [jpeg, filler, JPEG_END].concat();
        let pixels = self.pixels(ImageFormat::Jpeg, &jpeg)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(pixels.as_bytes());
        Ok(hasher.finish())
    }

    fn check_length(self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > self.max_memory { Err(self.over_memory()) } else { Ok(()) }
    }

    fn check_size(self, size: Size) -> Result<()> {
        if size.pixels() == 0 {
            return Err(unreadable(format!("the image has {size} pixels")));
        }
        if size.pixels() > self.max_pixels {
            let limit = rounded(self.max_pixels);
            return Err(Error::unprocessable(format!("The image can have at most {limit} pixels.")).with_detail(
                format!("it has {size} pixels; the limit is {limit} (image::DecodeOptions::max_pixels)"),
            ));
        }
        Ok(())
    }

    /// Returns the error for the user: over the memory limit, or not a readable image.
    fn refusal(self, error: ImageError) -> Error {
        match error {
            ImageError::Limits(_) => self.over_memory(),
            _ => unreadable(error),
        }
    }

    fn over_memory(self) -> Error {
        Error::unprocessable(TOO_LARGE).with_detail(format!(
            "it needs more memory than the limit of {} bytes (image::DecodeOptions::max_memory)",
            grouped(self.max_memory)
        ))
    }
}

/// Returns true for a JPEG whose components have scans of their own and different heights. zune-jpeg 0.5.15 decodes it into
/// a wrong image (0.5.16-rc3 does not).
fn has_separate_scans(jpeg: &[u8]) -> bool {
    let has_heights = |frame: JpegFrame| {
        let mut heights = frame.sampling.iter().map(|(_, down)| down);
        let first = heights.next();
        !frame.is_progressive && heights.any(|height| Some(height) != first)
    };
    jpeg_frame(jpeg).is_some_and(has_heights) && jpeg_scans(jpeg).0 > 1
}

/// The input of a decoder.
trait Source: BufRead + Seek {}

impl<T: BufRead + Seek> Source for T {}

/// Converts pixels to gray, RGB or RGBA with 8 bits per channel. A page cannot show more, and three of the four formats
/// cannot hold more.
fn eight_bits(pixels: DynamicImage) -> DynamicImage {
    match pixels.color() {
        ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8 => pixels,
        ColorType::L16 => pixels.to_luma8().into(),
        color if color.has_alpha() => pixels.to_rgba8().into(),
        _ => pixels.to_rgb8().into(),
    }
}

fn unreadable(source: impl Into<BoxError>) -> Error {
    Error::unprocessable(NOT_AN_IMAGE).with_source(source)
}

fn panicked(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    format!("the decoder panicked: {}", text.unwrap_or("(no message)"))
}
