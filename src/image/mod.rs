//! Pictures made smaller: [`resize`], and [`Image`] for several sizes from one decoding.
//!
//! What comes in is a stranger's bytes. So the format is read from the content, never from the name; the header is held
//! against [`Limits`] before anything is decoded; whatever goes wrong with the picture itself is a 422 with words for the
//! visitor; and what goes out is only pixels: upright, in sRGB, without location, camera or name. Of the metadata, only the
//! orientation and the color profile are read; a profile over 4 MiB is ignored.

mod budget;
mod cost;
mod metadata;
mod scaled_jpeg;

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, Cursor, Read, Seek, Write};
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use ::image::codecs::gif::GifEncoder;
use ::image::metadata::Orientation;
use ::image::{
    ColorType, DynamicImage, Frame, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult,
    RgbImage, RgbaImage,
};
use fast_image_resize::pixels::{U8, U8x3, U8x4};
use fast_image_resize::{IntoImageView, IntoImageViewMut, PixelTrait, ResizeOptions, Resizer};
use jpeg_encoder::{ColorType as JpegColor, SamplingFactor};
use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};

use self::budget::{BUDGET, FILES, Kept, Share};
use self::metadata::{Metadata, PixelReader, jpeg_scans, largest_webp_frame};
use crate::background::scope::{Context, is_task};
use crate::config::Config;
use crate::error::{BoxError, Error, Result};

/// Where JPEG is hard to tell from the original, at a third of the bytes of 95.
const JPEG_QUALITY: u8 = 85;

/// From 1 (best colours) to 30; at 1 a GIF of 800 x 600 takes seconds, and 10 is hard to tell from it.
const GIF_SPEED: i32 = 10;

/// A progressive JPEG has about ten scans. Each costs a pass over the whole picture and a few bytes in the file, so that
/// without a bound a small file could keep a processor busy for hours.
const MAX_JPEG_SCANS: usize = 100;

const JPEG_END: &[u8] = &[0xff, 0xd9];

const NOT_AN_IMAGE: &str = "This is not an image that can be read (JPEG, PNG, WebP or GIF).";

/// Makes the picture `from` fit, and writes it to `to`.
///
/// ```
/// use aside::image::{Fit, resize};
/// # let folder = tempfile::tempdir()?;
/// # std::env::set_current_dir(&folder)?;
/// # image::RgbImage::new(3000, 4000).save("upload.jpg")?;
///
/// let size = resize("upload.jpg", "small.webp", Fit::Inside(800, 800))?;
/// assert_eq!(size.to_string(), "600 x 800");
/// # aside::ok(())
/// ```
///
/// What `from` is (JPEG, PNG, WebP or GIF; of an animation the first picture) its content says, whatever its name. The
/// format of `to` is its extension's: see [`Format`]. The orientation that a camera noted is applied, colours become sRGB,
/// and all that is not pixels is left out. `to` appears whole or not at all: it is written beside and renamed, in place of
/// what was there. The two may be the same file. [`Limits`] are the default ones.
///
/// A photo of 12 megapixels takes some hundredths of a second: leave that to `background`, with a `Pool` when many may
/// come at once. A JPEG is decoded no larger than it has to be, as by [`Image::open_for`].
///
/// # Errors
/// 422 with words for the visitor: no image, broken, cut short, or over a limit. 500: a file that cannot be read or
/// written, or an extension that no format has.
pub fn resize(from: impl AsRef<Path>, to: impl AsRef<Path>, fit: Fit) -> Result<Size> {
    Image::open_for(from, fit)?.save(to, fit)
}

/// A width and a height, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// From left to right.
    pub width: u32,
    /// From top to bottom.
    pub height: u32,
}

impl Size {
    fn new(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    fn of(pixels: &DynamicImage) -> Size {
        Size::new(pixels.width(), pixels.height())
    }

    fn turned(self) -> Size {
        Size::new(self.height, self.width)
    }

    fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn fits_in(self, room: Size) -> bool {
        self.width <= room.width && self.height <= room.height
    }

    /// The largest size inside `room` with the proportions of `self`, a pixel at least.
    fn grown_or_shrunk_to(self, room: Size) -> Size {
        let part = |side: u32, of: u32, whole: u32| {
            let (side, of, whole) = (u64::from(side), u64::from(of), u64::from(whole));
            // At most the room's other side, so it is a u32 again.
            ((side * of + whole / 2) / whole).max(1) as u32
        };
        let is_wider = u64::from(self.width) * u64::from(room.height) > u64::from(self.height) * u64::from(room.width);
        if is_wider {
            Size::new(room.width, part(room.width, self.height, self.width))
        } else {
            Size::new(part(room.height, self.width, self.height), room.height)
        }
    }
}

impl From<(u32, u32)> for Size {
    fn from((width, height): (u32, u32)) -> Size {
        Size { width, height }
    }
}

/// As in `800 x 600`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", grouped(self.width.into()), grouped(self.height.into()))
    }
}

/// How a picture is made to fit a width and a height, in pixels. A side of 0 is taken as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fit {
    /// The whole picture, inside the width and the height. It keeps its proportions and is never enlarged.
    Inside(u32, u32),
    /// Exactly the width and the height, filled from the middle: what stands over is cut off, the same on both sides, and a
    /// smaller picture is enlarged.
    Cover(u32, u32),
}

impl Fit {
    /// As large as it is.
    const WHOLE: Fit = Fit::Inside(u32::MAX, u32::MAX);

    /// The same, for a picture that is still to be turned upright.
    fn lying(self, orientation: Orientation) -> Fit {
        match self {
            Fit::Inside(width, height) if is_turned(orientation) => Fit::Inside(height, width),
            Fit::Cover(width, height) if is_turned(orientation) => Fit::Cover(height, width),
            fit => fit,
        }
    }

    /// What becomes of a picture: the part in its middle that is taken, and the size which that gets.
    fn plan(self, from: Size) -> (Size, Size) {
        match self {
            Fit::Inside(width, height) => {
                let room = Size::new(width.max(1), height.max(1));
                (from, if from.fits_in(room) { from } else { from.grown_or_shrunk_to(room) })
            }
            Fit::Cover(width, height) => {
                let to = Size::new(width.max(1), height.max(1));
                (to.grown_or_shrunk_to(from), to)
            }
        }
    }

    /// By how much a picture may be divided before it is made to fit, and still not be enlarged for that.
    fn divisor(self, from: Size) -> u32 {
        let (part, to) = self.plan(from);
        let is_enough = |by: &u32| to.fits_in(Size::new(part.width / by, part.height / by));
        [8, 4, 2].into_iter().find(is_enough).unwrap_or(1)
    }
}

/// A format that pictures are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// For photos: `.jpg`, `.jpeg`. Quality 85; what is transparent becomes white.
    Jpeg,
    /// For drawings and screenshots, and what is transparent: `.png`.
    Png,
    /// As PNG and smaller: `.webp`. Without loss, so a photo is larger than as JPEG.
    WebP,
    /// For what cannot read PNG: `.gif`. 256 colours.
    Gif,
}

impl Format {
    /// The format that a file's extension stands for, in capitals or not.
    ///
    /// ```
    /// use aside::image::Format;
    ///
    /// assert_eq!(Format::of("photos/17.JPG")?, Format::Jpeg);
    /// assert!(Format::of("photos/17.bmp").is_err());
    /// # aside::ok(())
    /// ```
    ///
    /// # Errors
    /// 500 for any other extension, or none: the name is the program's choice.
    pub fn of(path: impl AsRef<Path>) -> Result<Format> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            Some("jpg" | "jpeg") => Ok(Format::Jpeg),
            Some("png") => Ok(Format::Png),
            Some("webp") => Ok(Format::WebP),
            Some("gif") => Ok(Format::Gif),
            _ => Err(Error::internal(format!(
                "no image format has the extension of {path:?}; end the name in .jpg, .jpeg, .png, .webp or .gif"
            ))),
        }
    }

    /// What a response with it says as its `Content-Type`, as in `image/png`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Jpeg => "image/jpeg",
            Format::Png => "image/png",
            Format::WebP => "image/webp",
            Format::Gif => "image/gif",
        }
    }
}

/// How large a picture may be, checked from its header before anything is decoded.
///
/// ```
/// use aside::image::Limits;
///
/// let avatars = Limits::default().max_pixels(10_000_000);
/// let error = avatars.decode(b"<svg>").unwrap_err();
/// assert_eq!(error.status_code().code(), 422);
/// ```
///
/// A PNG of a few kilobytes can hold 50,000 x 50,000 pixels, which take 10 GB: that is what these are against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    max_pixels: u64,
    max_memory: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_pixels: 50_000_000, max_memory: 512 * 1024 * 1024 }
    }
}

impl Limits {
    /// At most so many pixels, width times height. 50 million unless set: the largest of today's common cameras.
    pub fn max_pixels(mut self, pixels: u64) -> Limits {
        self.max_pixels = pixels;
        self
    }

    /// Limits the memory for decoding, in bytes: the pixels (3 or 4 bytes each, or twice that at 16 bits), their 8-bit copy
    /// and the decoder's buffers. The file itself may not be larger either. The default is 512 MiB. It never exceeds
    /// `ASIDE_MAX_IMAGE_MEMORY`, which applies to all images together.
    pub fn max_memory(mut self, bytes: u64) -> Limits {
        self.max_memory = bytes;
        self
    }

    /// [`Image::open`] with these limits.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Image> {
        self.open_for(path, Fit::WHOLE)
    }

    /// [`Image::open_for`] with these limits.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn open_for(self, path: impl AsRef<Path>, largest: Fit) -> Result<Image> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::from(error).context(format!("cannot open {path:?}")))?;
        let length = file.metadata()?.len().min(self.max_memory);
        let _file = FILES.take(length, max_memory() / 4)?;
        self.read_for(file, largest)
    }

    /// [`Image::read`] with these limits.
    ///
    /// # Errors
    /// Those of [`Image::read`].
    pub fn read(self, from: impl Read) -> Result<Image> {
        self.read_for(from, Fit::WHOLE)
    }

    /// [`Image::read_for`] with these limits.
    ///
    /// # Errors
    /// Those of [`Image::read`].
    pub fn read_for(self, from: impl Read, largest: Fit) -> Result<Image> {
        // The whole of it first: the decoders want most of it in memory, and an error of the disk is told from a broken
        // picture for certain.
        let mut bytes = Vec::new();
        from.take(self.max_memory.saturating_add(1)).read_to_end(&mut bytes)?;
        self.decode_for(bytes, largest)
    }

    /// [`Image::decode`] with these limits.
    ///
    /// # Errors
    /// Those of [`Image::decode`].
    pub fn decode(self, bytes: impl AsRef<[u8]>) -> Result<Image> {
        self.decode_for(bytes, Fit::WHOLE)
    }

    /// [`Image::decode_for`] with these limits.
    ///
    /// # Errors
    /// Those of [`Image::decode`].
    pub fn decode_for(self, bytes: impl AsRef<[u8]>, largest: Fit) -> Result<Image> {
        let bytes = bytes.as_ref();
        // No panic is known in the decoders (1.5 million mutated pictures found none), and one that a stranger finds is no
        // reason for a 500.
        catch_unwind(|| self.decode_or_panic(bytes, largest))
            .unwrap_or_else(|payload| Err(unreadable(panicked(&*payload))))
    }

    fn decode_or_panic(self, bytes: &[u8], largest: Fit) -> Result<Image> {
        let format = ::image::guess_format(bytes).map_err(unreadable)?;
        let bytes = if format == ImageFormat::Jpeg { self.whole_jpeg(bytes)? } else { Cow::Borrowed(bytes) };
        let (size, color) = self.header(format, &bytes)?;
        let Metadata { orientation, profile } = Metadata::read(format, &bytes);
        let divisor = if format == ImageFormat::Jpeg { largest.lying(orientation).divisor(size) } else { 1 };
        let (pixels, divisor, mut share) = match self.divided(&bytes, size, color, divisor)? {
            Some((pixels, share)) => (pixels, divisor, share),
            None => {
                let share = self.share(cost::whole(format, size, color, &bytes))?;
                (self.pixels(format, &bytes)?, 1, share)
            }
        };
        share.shrink(pixels.as_bytes().len() as u64);
        let to_srgb = profile.and_then(|profile| ToSrgb::new(&profile, color));
        Ok(Image { pixels, divisor, size, orientation, to_srgb, _share: share })
    }

    /// Returns the pixels of a JPEG at a fraction of its size, if it can be decoded that way.
    fn divided(self, jpeg: &[u8], size: Size, color: ColorType, divisor: u32) -> Result<Option<(DynamicImage, Share)>> {
        if divisor == 1 {
            return Ok(None);
        }
        let share = self.share(cost::divided(size, divisor, color))?;
        Ok(scaled_jpeg::decode(jpeg, size, divisor, room).map(|pixels| (pixels, share)))
    }

    fn pixels(self, format: ImageFormat, bytes: &[u8]) -> Result<DynamicImage> {
        decoded(self.decoder(format, bytes)?).map(eight_bits).map_err(|error| self.refusal(error))
    }

    fn header(self, format: ImageFormat, bytes: &[u8]) -> Result<(Size, ColorType)> {
        let decoder = self.decoder(format, bytes)?;
        Ok((decoder.dimensions().into(), decoder.color_type()))
    }

    /// Takes the share of the common memory budget for an image of `bytes`, and waits for it.
    fn share(self, bytes: u64) -> Result<Share> {
        if bytes > self.max_memory {
            return Err(self.over_memory());
        }
        let most = max_memory();
        if bytes > most {
            return Err(Error::unprocessable(format!(
                "The image needs more memory than the limit of {} bytes for all images (ASIDE_MAX_IMAGE_MEMORY).",
                grouped(most)
            )));
        }
        BUDGET.take(bytes, most)
    }

    /// Returns a decoder that has read the header and found it within the limits. It sees no metadata.
    fn decoder(self, format: ImageFormat, bytes: &[u8]) -> Result<impl ImageDecoder> {
        let mut limits = ::image::Limits::default();
        limits.max_alloc = Some(self.max_memory);
        limits.clone().reserve_usize(bytes.len()).map_err(|error| self.refusal(error))?;

        let source: Box<dyn Source + '_> = match format {
            ImageFormat::WebP => Box::new(Cursor::new(bytes)), // which leaves metadata alone, and seeks
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
            return Err(unreadable(format!("the JPEG has {scans} scans")));
        }
        if has_end {
            return Ok(Cow::Borrowed(bytes));
        }
        let pixels = bytes.strip_suffix(&[0xff]).unwrap_or(bytes); // the first half of the marker
        let jpeg = [pixels, JPEG_END].concat();
        let (size, color) = self.header(ImageFormat::Jpeg, &jpeg)?;
        let _share = self.share(cost::whole(ImageFormat::Jpeg, size, color, &jpeg))?;
        let is_whole = match scaled_jpeg::is_whole(&jpeg, size) {
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

    fn check_size(self, size: Size) -> Result<()> {
        if size.pixels() == 0 {
            return Err(unreadable(format!("the image has {size} pixels")));
        }
        if size.pixels() > self.max_pixels {
            let limit = rounded(self.max_pixels);
            return Err(Error::unprocessable(format!(
                "The image has {size} pixels; the limit is {limit} (image::Limits::max_pixels)."
            )));
        }
        Ok(())
    }

    /// The error for the visitor: over our limit, or no picture.
    fn refusal(self, error: ImageError) -> Error {
        match error {
            ImageError::Limits(_) => self.over_memory().with_source(error),
            _ => unreadable(error),
        }
    }

    fn over_memory(self) -> Error {
        Error::unprocessable(format!(
            "The image needs more memory than the limit of {} bytes (image::Limits::max_memory).",
            grouped(self.max_memory)
        ))
    }
}

/// A picture in memory, decoded and upright: for several sizes from one decoding.
///
/// ```
/// use aside::image::{Fit, Format, Image};
/// # let folder = tempfile::tempdir()?;
/// # std::env::set_current_dir(&folder)?;
/// # image::RgbImage::new(3000, 2000).save("upload.jpg")?;
///
/// let photo = Image::open_for("upload.jpg", Fit::Inside(1600, 1600))?;
/// for side in [1600, 800, 200] {
///     photo.save(format!("{side}.jpg"), Fit::Inside(side, side))?;
/// }
/// let thumbnail: Vec<u8> = photo.encode(Fit::Cover(64, 64), Format::Png)?;
/// # aside::ok(())
/// ```
///
/// It holds its pixels, three or four bytes each: 36 MB for a photo of 12 megapixels, 4000 x 3000. Opened *for* 1600 pixels a
/// side, as a JPEG, it holds 9 MB and is decoded sooner.
///
/// All images of the process together take at most `ASIDE_MAX_IMAGE_MEMORY` (512 MiB), and files being read and reusable
/// buffers up to half as much again. If the memory is used up, the next image waits: in a task, a job or a command while
/// other images are released, in a handler while at most `ASIDE_MAX_WAITING` workers wait. A thread that holds an image
/// never waits for a second one, since it would block itself; it may exceed the limit.
#[derive(Clone)]
pub struct Image {
    /// As they lie in the file: turning is cheaper once they are fewer.
    pixels: DynamicImage,
    /// How many pixels of the file one of these stands for, across and down.
    divisor: u32,
    /// That of the whole picture, as it lies in the file.
    size: Size,
    orientation: Orientation,
    /// For a picture with a colour profile of its own: what its pixels have to go through to mean the same without it.
    to_srgb: Option<ToSrgb>,
    /// The share of the memory budget for the pixels, held until the image is dropped.
    _share: Share,
}

/// A setting of the application: bytes for all images together (`ASIDE_MAX_IMAGE_MEMORY`).
pub(crate) struct MaxMemory(pub(crate) u64);

/// Returns the limit of the application that this thread works for, or of the environment.
fn max_memory() -> u64 {
    static ENVIRONMENTS: LazyLock<u64> = LazyLock::new(|| Config::from_env().unwrap_or_default().max_image_memory);
    Context::current().scope.get::<MaxMemory>().map_or_else(|| *ENVIRONMENTS, |most| most.0)
}

impl Image {
    /// The picture in a file, whatever its name. [`Limits`] are the default ones.
    ///
    /// # Errors
    /// 422 with a message for the visitor: not an image, broken, truncated, or over a limit. 500 if the file cannot be
    /// read. 503 with `Retry-After` if too many handlers wait for memory, or no memory was released for a minute.
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        Limits::default().open(path)
    }

    /// The picture in a file, for sizes up to the largest that is wanted of it.
    ///
    /// ```
    /// use aside::image::{Fit, Image};
    /// # let folder = tempfile::tempdir()?;
    /// # std::env::set_current_dir(&folder)?;
    /// # image::RgbImage::new(3000, 2000).save("upload.jpg")?;
    ///
    /// let photo = Image::open_for("upload.jpg", Fit::Inside(800, 800))?;
    /// assert_eq!(photo.size().to_string(), "3,000 x 2,000");
    /// photo.save("800.jpg", Fit::Inside(800, 800))?;
    /// photo.save("square.jpg", Fit::Cover(200, 200))?;
    /// # aside::ok(())
    /// ```
    ///
    /// A JPEG as cameras write it (baseline, gray or YCbCr) is then decoded at a half, a quarter or an eighth of its size:
    /// the smallest that is as large as that. A progressive or CMYK one, a PNG, a WebP and a GIF are decoded whole, as by
    /// [`Image::open`]. What is larger than was said here still comes out at its size, but less sharp.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn open_for(path: impl AsRef<Path>, largest: Fit) -> Result<Image> {
        Limits::default().open_for(path, largest)
    }

    /// The picture that a reader gives, an upload for instance. [`Limits`] are the default ones.
    ///
    /// # Errors
    /// 422 with words for the visitor: no image, broken, cut short, or over a limit. 500 when reading fails.
    pub fn read(from: impl Read) -> Result<Image> {
        Limits::default().read(from)
    }

    /// The picture that a reader gives, for sizes up to that: see [`Image::open_for`].
    ///
    /// # Errors
    /// Those of [`Image::read`].
    pub fn read_for(from: impl Read, largest: Fit) -> Result<Image> {
        Limits::default().read_for(from, largest)
    }

    /// The picture in these bytes. [`Limits`] are the default ones.
    ///
    /// # Errors
    /// 422 with words for the visitor: no image, broken, cut short, or over a limit.
    pub fn decode(bytes: impl AsRef<[u8]>) -> Result<Image> {
        Limits::default().decode(bytes)
    }

    /// The picture in these bytes, for sizes up to that: see [`Image::open_for`].
    ///
    /// # Errors
    /// Those of [`Image::decode`].
    pub fn decode_for(bytes: impl AsRef<[u8]>, largest: Fit) -> Result<Image> {
        Limits::default().decode_for(bytes, largest)
    }

    /// Its size, upright, and whole whatever it was opened for.
    pub fn size(&self) -> Size {
        if is_turned(self.orientation) { self.size.turned() } else { self.size }
    }

    /// Makes it fit and writes it to a file: the format is the extension's, and the size is what it came to.
    ///
    /// The file appears whole or not at all: it is written beside and renamed, in place of what was there.
    ///
    /// # Errors
    /// 500: the file cannot be written, or its name ends in no format's extension.
    pub fn save(&self, to: impl AsRef<Path>, fit: Fit) -> Result<Size> {
        let to = to.as_ref();
        let _copies = self.copies(fit);
        let pixels = self.fitted(fit)?;
        let bytes = encoded(&pixels, Format::of(to)?)?;
        write_beside(to, &bytes).map_err(|error| error.context(format!("cannot write {to:?}")))?;
        Ok(Size::of(&pixels))
    }

    /// Makes it fit and gives the bytes of a file of that format.
    ///
    /// # Errors
    /// 500: the format cannot hold so large a picture (WebP ends at 16,383 pixels a side, JPEG and GIF at 65,535).
    pub fn encode(&self, fit: Fit, format: Format) -> Result<Vec<u8>> {
        let _copies = self.copies(fit);
        encoded(&self.fitted(fit)?, format)
    }

    /// Takes the share for the pixels at their new size, and for a second copy on the way to a file. This thread holds the
    /// image, so it does not wait.
    fn copies(&self, fit: Fit) -> Share {
        let (_, to) = fit.lying(self.orientation).plan(self.size);
        BUDGET.take_past(2 * to.pixels() * u64::from(self.pixels.color().bytes_per_pixel()))
    }

    /// The pixels at their new size: upright, 8 bits a channel, sRGB.
    fn fitted(&self, fit: Fit) -> Result<DynamicImage> {
        let mut pixels = self.scaled(fit.lying(self.orientation))?;
        if let Some(to_srgb) = &self.to_srgb {
            to_srgb.apply(&mut pixels)?;
        }
        pixels.apply_orientation(self.orientation);
        Ok(pixels)
    }

    fn scaled(&self, fit: Fit) -> Result<DynamicImage> {
        let (part, to) = fit.plan(self.size);
        let (left, top) = ((self.size.width - part.width) / 2, (self.size.height - part.height) / 2);
        // In the pixels that there are, the last of which may stand for less than a whole one.
        let [left, top, width, height] =
            [left, top, part.width, part.height].map(|side| f64::from(side) / f64::from(self.divisor));
        // Lanczos3, and with the colours weighed by their alpha: what is transparent leaves no dark rim.
        let options = ResizeOptions::new().crop(left, top, width, height);
        let mut small = DynamicImage::new(to.width, to.height, self.pixels.color());
        match self.pixels.color() {
            ColorType::L8 => resample::<U8>(&self.pixels, &mut small, &options),
            ColorType::Rgb8 => resample::<U8x3>(&self.pixels, &mut small, &options),
            _ => resample::<U8x4>(&self.pixels, &mut small, &options),
        }?;
        Ok(small)
    }
}

/// Whether width and height change places on the way to upright.
fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Its size; millions of pixels would tell nobody anything.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({})", self.size())
    }
}

thread_local! {
    /// Room for the next picture that this thread decodes.
    static ROOM: RefCell<Option<(Vec<u8>, Kept)>> = const { RefCell::new(None) };
}

/// A size above glibc's largest mmap threshold: such a block is mapped separately and unmapped when freed. Otherwise each
/// thread that has decoded an image may keep that much memory. Untouched pages take no memory.
const MAPPED: usize = 33 << 20;

/// The image size from which such a block is allocated.
const LARGE: usize = 1 << 20;

/// Returns an empty buffer for an image of `bytes`: the one that this thread used last, or a new one.
fn room(bytes: u64) -> Vec<u8> {
    let bytes = bytes as usize;
    let kept = ROOM.take().map(|(mut room, _)| {
        room.clear();
        room
    });
    kept.filter(|room| room.capacity() >= bytes)
        .unwrap_or_else(|| Vec::with_capacity(if bytes < LARGE { bytes } else { bytes.max(MAPPED) }))
}

/// What a decoder gives, in the room that the last picture of this thread left.
///
/// Tens of megabytes are mapped for each picture otherwise and unmapped after it. Measured, that keeps the threads that make
/// pages waiting for milliseconds whatever their priority, and room that is used again does not. It is given back with the
/// thread: a task's is kept for some seconds.
fn decoded(decoder: impl ImageDecoder) -> ImageResult<DynamicImage> {
    let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
    if !matches!(color, ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return DynamicImage::from_decoder(decoder);
    }
    let mut room = room(decoder.total_bytes());
    // Zeroed: a decoder that stops short must not show the picture before.
    room.resize(decoder.total_bytes() as usize, 0);
    decoder.read_image(&mut room)?;
    let pixels = match color {
        ColorType::L8 => GrayImage::from_raw(width, height, room).map(DynamicImage::from),
        ColorType::Rgb8 => RgbImage::from_raw(width, height, room).map(DynamicImage::from),
        _ => RgbaImage::from_raw(width, height, room).map(DynamicImage::from),
    };
    Ok(pixels.expect("there are as many bytes as the decoder asked for"))
}

/// Leaves its room to the next picture, on a thread that is a task's.
impl Drop for Image {
    fn drop(&mut self) {
        if is_task() {
            let bytes = std::mem::take(&mut self.pixels).into_bytes();
            if let Some(kept) = BUDGET.keep(bytes.capacity() as u64, max_memory()) {
                // Not when the thread itself is at its end.
                let _ = ROOM.try_with(|room| room.replace(Some((bytes, kept))));
            }
        }
    }
}

/// By the kind of pixel: left to find it out itself the library would be compiled for all thirteen that there are.
fn resample<P: PixelTrait>(from: &DynamicImage, to: &mut DynamicImage, options: &ResizeOptions) -> Result<()> {
    let views = from.image_view::<P>().zip(to.image_view_mut::<P>());
    let (from, mut to) =
        views.ok_or_else(|| Error::internal("the pixels are of another kind than their colour says"))?;
    Ok(Resizer::new().resize_typed(&from, &mut to, options)?)
}

/// As gray, RGB or RGBA of 8 bits a channel: more is of no use on a page, and three of the four formats have none.
fn eight_bits(pixels: DynamicImage) -> DynamicImage {
    match pixels.color() {
        ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8 => pixels,
        ColorType::L16 => pixels.to_luma8().into(),
        color if color.has_alpha() => pixels.to_rgba8().into(),
        _ => pixels.to_rgb8().into(),
    }
}

/// A conversion from an image's own colors to sRGB.
#[derive(Clone)]
enum ToSrgb {
    /// A conversion of red, green and blue together.
    Colours(Arc<Transform8BitExecutor>),
    /// A conversion of gray values.
    Grays(Box<[u8; 256]>),
}

impl ToSrgb {
    /// Returns `None` for a profile that is broken or of another kind than the pixels (such as that of a CMYK JPEG, which
    /// the decoder has converted to RGB). The values are then used unchanged, as browsers do.
    fn new(profile: &[u8], color: ColorType) -> Option<ToSrgb> {
        let profile = ColorProfile::new_from_slice(profile).ok()?;
        let to_srgb = |from, to| {
            profile.create_transform_8bit(from, &ColorProfile::new_srgb(), to, TransformOptions::default()).ok()
        };
        match (profile.color_space, color.has_color()) {
            (DataColorSpace::Rgb, true) => {
                let layout = if color.has_alpha() { Layout::Rgba } else { Layout::Rgb };
                to_srgb(layout, layout).map(ToSrgb::Colours)
            }
            (DataColorSpace::Gray, false) => {
                let (grays, mut colours) = (std::array::from_fn::<u8, 256, _>(|gray| gray as u8), [0; 256 * 3]);
                to_srgb(Layout::Gray, Layout::Rgb)?.transform(&grays, &mut colours).ok()?;
                // The profile is gray, so red, green and blue are one channel.
                Some(ToSrgb::Grays(Box::new(std::array::from_fn(|gray| colours[gray * 3]))))
            }
            _ => None,
        }
    }

    fn apply(&self, pixels: &mut DynamicImage) -> Result<()> {
        match (self, pixels) {
            (ToSrgb::Colours(transform), DynamicImage::ImageRgb8(colours)) => {
                transform.transform(&colours.clone(), colours)?
            }
            (ToSrgb::Colours(transform), DynamicImage::ImageRgba8(colours)) => {
                transform.transform(&colours.clone(), colours)?
            }
            (ToSrgb::Grays(table), DynamicImage::ImageLuma8(grays)) => {
                grays.iter_mut().for_each(|gray| *gray = table[usize::from(*gray)]);
            }
            // Gray with transparency.
            (ToSrgb::Grays(table), DynamicImage::ImageRgba8(grays)) => {
                let grays = grays.pixels_mut().flat_map(|pixel| &mut pixel.0[..3]);
                grays.for_each(|gray| *gray = table[usize::from(*gray)]);
            }
            _ => {} // no other pair exists
        }
        Ok(())
    }
}

/// The input of a decoder.
trait Source: BufRead + Seek {}

impl<T: BufRead + Seek> Source for T {}

fn encoded(pixels: &DynamicImage, format: Format) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, pixels, format)
        .map_err(|error| error.context(format!("cannot encode as {}", format.content_type())))?;
    Ok(bytes)
}

fn encode_into(bytes: &mut Vec<u8>, pixels: &DynamicImage, format: Format) -> Result<()> {
    match format {
        Format::Jpeg => encode_jpeg(bytes, pixels)?,
        Format::Png => pixels.write_to(&mut Cursor::new(bytes), ImageFormat::Png)?,
        Format::WebP => pixels.write_to(&mut Cursor::new(bytes), ImageFormat::WebP)?,
        Format::Gif => GifEncoder::new_with_speed(bytes, GIF_SPEED).encode_frame(Frame::new(pixels.to_rgba8()))?,
    }
    Ok(())
}

fn encode_jpeg(bytes: &mut Vec<u8>, pixels: &DynamicImage) -> Result<()> {
    let (width, height) = (u16::try_from(pixels.width())?, u16::try_from(pixels.height())?);
    let mut encoder = jpeg_encoder::Encoder::new(bytes, JPEG_QUALITY);
    // Colours at the full resolution: at half of it the rim of what is red turns dark.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    match pixels {
        DynamicImage::ImageLuma8(gray) => encoder.encode(gray, width, height, JpegColor::Luma)?,
        DynamicImage::ImageRgb8(colours) => encoder.encode(colours, width, height, JpegColor::Rgb)?,
        _ => encoder.encode(&on_white(pixels), width, height, JpegColor::Rgb)?,
    }
    Ok(())
}

fn on_white(pixels: &DynamicImage) -> RgbImage {
    let over_white = |colour: u8, alpha: u8| {
        let (colour, alpha) = (u16::from(colour), u16::from(alpha));
        ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let mut flat = RgbImage::new(pixels.width(), pixels.height());
    for (to, from) in flat.pixels_mut().zip(pixels.to_rgba8().pixels()) {
        let [red, green, blue, alpha] = from.0;
        to.0 = [red, green, blue].map(|colour| over_white(colour, alpha));
    }
    flat
}

/// Writes into a temporary file in the same folder, which then takes the name; on failure it is removed.
fn write_beside(to: &Path, bytes: &[u8]) -> Result<()> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // A temporary file is its owner's alone; a picture is for the web server beside us as well. The umask still counts.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".aside-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(to).map_err(|error| error.error)?;
    Ok(())
}

fn unreadable(source: impl Into<BoxError>) -> Error {
    Error::unprocessable(NOT_AN_IMAGE).with_source(source)
}

fn panicked(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    format!("the decoder panicked: {}", text.unwrap_or("(no message)"))
}

/// `50 million` for what is whole millions, `50,000,001` for the rest.
fn rounded(number: u64) -> String {
    if number > 0 && number.is_multiple_of(1_000_000) {
        format!("{} million", grouped(number / 1_000_000))
    } else {
        grouped(number)
    }
}

/// With a comma between each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::image::codecs::png::PngEncoder;
    use ::image::{ImageEncoder, Luma, Rgb, Rgba, RgbaImage};
    use tempfile::TempDir;

    use super::*;

    const FORMATS: [Format; 4] = [Format::Jpeg, Format::Png, Format::WebP, Format::Gif];
    const RED: Rgb<u8> = Rgb([255, 0, 0]);
    const AS_IT_IS: Fit = Fit::WHOLE;

    fn bytes_of(pixels: impl Into<DynamicImage>, format: Format) -> Vec<u8> {
        encoded(&pixels.into(), format).unwrap()
    }

    fn red(width: u32, height: u32, format: Format) -> Vec<u8> {
        bytes_of(RgbImage::from_pixel(width, height, RED), format)
    }

    /// Every pixel another colour, so that no format makes it small.
    fn noise(side: u32, format: Format) -> Vec<u8> {
        let mut seed = 1_u32;
        let mut byte = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        bytes_of(RgbImage::from_fn(side, side, |_, _| Rgb([byte(), byte(), byte()])), format)
    }

    fn refused(bytes: &[u8]) -> Error {
        let error = Image::decode(bytes).expect_err("this must be refused");
        assert_eq!(error.status_code().code(), 422, "{error:?}");
        error
    }

    fn not_an_image(bytes: &[u8]) {
        let error = refused(bytes);
        assert_eq!(error.message(), Some(NOT_AN_IMAGE));
        assert!(error.source().is_some());
    }

    /// The picture as a page would show it.
    fn shown(bytes: &[u8]) -> RgbaImage {
        ::image::load_from_memory(bytes).unwrap().to_rgba8()
    }

    fn is_near(one: &Rgba<u8>, other: [u8; 4]) -> bool {
        one.0.iter().zip(other).all(|(one, other)| one.abs_diff(other) < 12)
    }

    fn names_in(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let body = [kind.as_slice(), data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc.sum().to_be_bytes()].concat()
    }

    fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]), chunk(b"IEND", b"")];
        [b"\x89PNG\r\n\x1a\n".as_slice(), &chunks.concat()].concat()
    }

    /// Puts a segment behind a JPEG's start marker.
    fn with_segment(jpeg: &[u8], marker: u8, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, marker], &length, data, &jpeg[2..]].concat()
    }

    fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let entry = [0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
        let exif = [b"Exif\0\0II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat();
        with_segment(jpeg, 0xe1, &exif)
    }

    #[test]
    fn every_format_becomes_every_format() {
        for from in FORMATS {
            let image = Image::decode(red(40, 20, from)).unwrap();
            for to in FORMATS {
                let bytes = image.encode(Fit::Inside(20, 20), to).unwrap();
                assert_eq!(::image::guess_format(&bytes).unwrap().to_mime_type(), to.content_type());
                let pixels = shown(&bytes);
                assert_eq!(pixels.dimensions(), (20, 10));
                assert!(is_near(pixels.get_pixel(10, 5), [255, 0, 0, 255]), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn it_is_shown_upright_whatever_the_camera_noted() {
        const COLOURS: [(char, [u8; 3]); 4] =
            [('R', [255, 0, 0]), ('G', [0, 255, 0]), ('B', [0, 0, 255]), ('W', [255; 3])];
        // As it lies in the file, 64 x 32: red and green above, blue and white below.
        let lying = RgbImage::from_fn(64, 32, |x, y| Rgb(COLOURS[(x / 32 + y / 16 * 2) as usize].1));
        let jpeg = bytes_of(lying, Format::Jpeg);
        // From the standard's table: where the first row and the first column belong.
        let upright = ["RGBW", "GRWB", "WBGR", "BWRG", "RBGW", "BRWG", "WGBR", "GWRB"];
        for (orientation, corners) in (1..).zip(upright) {
            let image = Image::decode(with_orientation(&jpeg, orientation)).unwrap();
            let turned = orientation >= 5;
            assert_eq!(image.size(), if turned { Size::new(32, 64) } else { Size::new(64, 32) });
            let pixels = shown(&image.encode(Fit::Inside(32, 32), Format::Png).unwrap());
            let (width, height) = pixels.dimensions();
            assert_eq!((width, height), if turned { (16, 32) } else { (32, 16) });
            let places = [(2, 2), (width - 3, 2), (2, height - 3), (width - 3, height - 3)];
            let seen: String = places
                .iter()
                .map(|(x, y)| {
                    let [r, g, b, _] = pixels.get_pixel(*x, *y).0.map(|channel| if channel > 127 { 255 } else { 0 });
                    COLOURS.iter().find(|colour| colour.1 == [r, g, b]).map_or('?', |colour| colour.0)
                })
                .collect();
            assert_eq!(seen, corners, "orientation {orientation}");
        }
    }

    #[test]
    fn a_turned_picture_covers_the_size_that_was_asked_for() {
        let image = Image::decode(with_orientation(&red(64, 32, Format::Jpeg), 6)).unwrap();
        assert_eq!(shown(&image.encode(Fit::Cover(30, 10), Format::Png).unwrap()).dimensions(), (30, 10));
    }

    #[test]
    fn metadata_is_left_out() {
        let secret = with_segment(&with_orientation(&red(8, 8, Format::Jpeg), 6), 0xfe, b"Anna's garden");
        for format in FORMATS {
            let bytes = Image::decode(&secret).unwrap().encode(AS_IT_IS, format).unwrap();
            for word in [b"Exif".as_slice(), b"EXIF", b"eXIf", b"Anna"] {
                assert!(!bytes.windows(word.len()).any(|window| window == word));
            }
        }
    }

    #[test]
    fn a_pixel_flood_is_refused_by_its_header() {
        let flood = png_that_claims(50_000, 50_000);
        assert!(flood.len() < 100);
        assert_eq!(
            refused(&flood).message(),
            Some("The image has 50,000 x 50,000 pixels; the limit is 50 million (image::Limits::max_pixels).")
        );
    }

    #[test]
    fn the_limits_can_be_set() {
        let png = red(100, 100, Format::Png);
        assert!(Limits::default().max_pixels(10_000).decode(&png).is_ok());
        let error = Limits::default().max_pixels(9_999).decode(&png).unwrap_err();
        assert!(error.message().unwrap().contains("100 x 100 pixels; the limit is 9,999 ("), "{error:?}");
        for (bytes, memory) in [(&png, 29_999), (&png, 20), (&red(100, 100, Format::Jpeg), 29_999)] {
            let error = Limits::default().max_memory(memory).decode(bytes).unwrap_err();
            assert_eq!(error.status_code().code(), 422);
            assert!(error.message().unwrap().contains("image::Limits::max_memory"), "{error:?}");
        }
        assert_eq!(Limits::default().max_memory(9).read(&png[..]).unwrap_err().status_code().code(), 422);
    }

    #[test]
    fn what_is_no_image_is_the_visitors_mistake() {
        for bytes in [b"".as_slice(), b"\0", b"Dear Anna,\nhere is no picture.\n", b"\xff\xd8", b"GIF89a", b"BM\0\0"] {
            not_an_image(bytes);
        }
        not_an_image(b"<svg xmlns='http://www.w3.org/2000/svg'/>");
        not_an_image(&png_that_claims(0, 5));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        for format in FORMATS {
            let whole = noise(64, format);
            assert!(Image::decode(&whole).is_ok());
            for length in [whole.len() / 10, whole.len() / 2, whole.len() * 9 / 10] {
                not_an_image(&whole[..length]);
            }
        }
        // A thumbnail in the metadata has an end marker of its own.
        let jpeg = with_segment(&noise(64, Format::Jpeg), 0xe1, &red(8, 8, Format::Jpeg));
        assert!(Image::decode(&jpeg).is_ok());
        not_an_image(&jpeg[..jpeg.len() - 100]);
    }

    fn jpeg_with(width: u16, set: impl FnOnce(&mut jpeg_encoder::Encoder<&mut Vec<u8>>)) -> Vec<u8> {
        let mut seed = 1_u32;
        let pixels: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(usize::from(width) * usize::from(width) * 3)
        .collect();
        let mut jpeg = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
        set(&mut encoder);
        encoder.encode(&pixels, width, width, JpegColor::Rgb).unwrap();
        jpeg
    }

    #[test]
    fn a_jpeg_may_lack_only_its_end_marker() {
        let gray: DynamicImage = GrayImage::from_fn(33, 33, |x, y| Luma([(x * y) as u8])).into();
        let jpegs = [
            jpeg_with(64, |_| {}),
            jpeg_with(50, |encoder| encoder.set_sampling_factor(SamplingFactor::F_2_2)),
            jpeg_with(50, |encoder| encoder.set_restart_interval(2)),
            jpeg_with(50, |encoder| encoder.set_optimized_huffman_tables(true)),
            jpeg_with(50, |encoder| encoder.set_progressive(true)),
            bytes_of(gray, Format::Jpeg),
        ];
        for (number, jpeg) in jpegs.iter().enumerate() {
            let pixels = |bytes: &[u8]| Image::decode(bytes).unwrap().pixels.as_bytes().to_vec();
            for lacking in [1, 2] {
                assert!(pixels(&jpeg[..jpeg.len() - lacking]) == pixels(jpeg), "JPEG {number} without {lacking} bytes");
            }
            let small = Image::decode_for(&jpeg[..jpeg.len() - 2], Fit::Inside(8, 8)).unwrap();
            assert_eq!(small.divisor, Image::decode_for(jpeg, Fit::Inside(8, 8)).unwrap().divisor, "JPEG {number}");
            for lacking in (4..40).step_by(3).chain([jpeg.len() / 3, jpeg.len() / 2]) {
                let cut = Image::decode(&jpeg[..jpeg.len() - lacking]);
                assert_eq!(
                    cut.map_err(|error| error.status_code().code()).err(),
                    Some(422),
                    "JPEG {number} without {lacking} bytes"
                );
            }
        }
    }

    #[test]
    fn a_jpeg_with_scans_without_end_is_refused() {
        let jpeg = red(8, 8, Format::Jpeg);
        let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        let end = jpeg.len() - 2;
        let many = [&jpeg[..end], &jpeg[scan..end].repeat(MAX_JPEG_SCANS), &jpeg[end..]].concat();
        not_an_image(&many);
    }

    #[test]
    fn no_bytes_make_it_our_mistake() {
        let mut seed = 7_usize;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for format in FORMATS {
            let whole = noise(16, format);
            for _ in 0..300 {
                let mut bytes = whole.clone();
                for _ in 0..=next(4) {
                    let at = if next(2) == 0 { next(bytes.len()) } else { next(64) };
                    bytes[at] = next(256) as u8;
                }
                if let Err(error) = Image::decode(&bytes) {
                    assert_eq!(error.status_code().code(), 422, "{error:?}");
                    assert!(!error.chain().contains("panicked"), "{error:?}");
                }
            }
        }
    }

    #[test]
    fn transparency_is_kept_and_becomes_white_in_a_jpeg() {
        let half = RgbaImage::from_fn(40, 40, |x, _| if x < 20 { Rgba([0; 4]) } else { Rgba([255, 0, 0, 255]) });
        let image = Image::decode(bytes_of(half, Format::Png)).unwrap();
        for format in [Format::Png, Format::WebP, Format::Gif] {
            let pixels = shown(&image.encode(Fit::Inside(20, 20), format).unwrap());
            assert!(pixels.get_pixel(2, 2)[3] == 0 && is_near(pixels.get_pixel(17, 2), [255, 0, 0, 255]));
        }
        let pixels = shown(&image.encode(Fit::Inside(21, 21), Format::Jpeg).unwrap());
        assert!(is_near(pixels.get_pixel(2, 2), [255; 4]));
        let is_dark = |pixel: &Rgba<u8>| pixel[0] < 200;
        assert!(!pixels.pixels().any(is_dark), "the black of what is transparent shows at the rim");
    }

    #[test]
    fn any_depth_and_kind_of_pixels_is_read() {
        let images: [DynamicImage; 6] = [
            ::image::ImageBuffer::from_pixel(9, 9, Luma([128_u8])).into(),
            ::image::ImageBuffer::from_pixel(9, 9, Luma([0x8080_u16])).into(),
            ::image::ImageBuffer::from_pixel(9, 9, ::image::LumaA([128_u8, 255])).into(),
            ::image::ImageBuffer::from_pixel(9, 9, ::image::LumaA([0x8080_u16, 0xffff])).into(),
            ::image::ImageBuffer::from_pixel(9, 9, Rgb([0x8080_u16; 3])).into(),
            ::image::ImageBuffer::from_pixel(9, 9, Rgba([0x8080_u16, 0x8080, 0x8080, 0xffff])).into(),
        ];
        for pixels in images {
            let image = Image::decode(bytes_of(pixels, Format::Png)).unwrap();
            for format in FORMATS {
                let shown = shown(&image.encode(Fit::Cover(4, 4), format).unwrap());
                assert!(is_near(shown.get_pixel(1, 1), [128, 128, 128, 255]), "{:?} {format:?}", image.pixels.color());
            }
        }
    }

    /// A JPEG of 8 x 8 pixels in CMYK, as Adobe writes it: inverted. Red is no cyan, all magenta, all yellow, no black.
    fn cmyk_red() -> Vec<u8> {
        let segment =
            |marker: u8, data: &[u8]| [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat();
        let components: Vec<u8> = (1..=4).flat_map(|id| [id, 0x11, 0]).collect();
        let scanned: Vec<u8> = (1..=4).flat_map(|id| [id, 0]).collect();
        // Each component is one block: its mean in ten bits, by the codes of the first table, and the end, by the second's.
        let (full, none) = ("10_1111111000_0", "10_0000000111_0");
        let bits: Vec<char> = [full, none, none, full, "1111"].concat().replace('_', "").chars().collect();
        let bytes = bits.chunks(8).map(|byte| u8::from_str_radix(&byte.iter().collect::<String>(), 2).unwrap());
        let stuffed = bytes.flat_map(|byte| if byte == 0xff { vec![0xff, 0] } else { vec![byte] });
        let lengths = |counts: &[u8]| [counts, &[0; 16][counts.len()..]].concat();
        [
            vec![0xff, 0xd8],
            segment(0xee, b"Adobe\0\x64\0\0\0\0\0"),
            segment(0xdb, &[&[0][..], &[1; 64]].concat()),
            segment(0xc0, &[&[8, 0, 8, 0, 8, 4][..], &components].concat()),
            segment(0xc4, &[&[0][..], &lengths(&[1, 1]), &[0, 10]].concat()),
            segment(0xc4, &[&[0x10][..], &lengths(&[1]), &[0]].concat()),
            segment(0xda, &[&[4][..], &scanned, &[0, 63, 0]].concat()),
            stuffed.collect(),
            vec![0xff, 0xd9],
        ]
        .concat()
    }

    #[test]
    fn cmyk_is_read() {
        let image = Image::decode(cmyk_red()).unwrap();
        let pixels = shown(&image.encode(AS_IT_IS, Format::Png).unwrap());
        assert!(is_near(pixels.get_pixel(4, 4), [255, 0, 0, 255]), "{:?}", pixels.get_pixel(4, 4));
    }

    #[test]
    fn colours_of_another_profile_become_srgb() {
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_icc_profile(ColorProfile::new_display_p3().encode().unwrap()).unwrap();
        RgbImage::from_pixel(8, 8, Rgb([200, 100, 100])).write_with_encoder(encoder).unwrap();
        let out = Image::decode(&png).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
        let pixels = shown(&out);
        assert!(is_near(pixels.get_pixel(4, 4), [213, 95, 97, 255]), "{:?}", pixels.get_pixel(4, 4));
        assert!(!out.windows(4).any(|window| window == b"iCCP"));
    }

    fn gray_profile(gamma: f32) -> Vec<u8> {
        ColorProfile::new_gray_with_gamma(gamma).encode().unwrap()
    }

    /// A GIF with an application block after the header and its 256 colors.
    fn with_application_block(gif: &[u8], name: &[u8; 11], data: &[u8]) -> Vec<u8> {
        let header = 13 + if gif[10] & 0x80 == 0 { 0 } else { 6 << (gif[10] & 7) };
        let sub_blocks: Vec<u8> = data.chunks(255).flat_map(|data| [&[data.len() as u8][..], data].concat()).collect();
        [&gif[..header], &[0x21, 0xff, 11], name, &sub_blocks, &[0], &gif[header..]].concat()
    }

    #[test]
    fn gray_profiles_are_applied() {
        let linear = gray_profile(1.0);
        let png = |pixels: DynamicImage| {
            let mut png = Vec::new();
            let mut encoder = PngEncoder::new(&mut png);
            encoder.set_icc_profile(linear.clone()).unwrap();
            pixels.write_with_encoder(encoder).unwrap();
            png
        };
        let gray: DynamicImage = GrayImage::from_pixel(8, 8, Luma([128])).into();
        let deep: DynamicImage = ::image::ImageBuffer::from_pixel(8, 8, Luma([0x8080_u16])).into();
        let transparent: DynamicImage = ::image::ImageBuffer::from_pixel(8, 8, ::image::LumaA([128_u8, 255])).into();
        let jpeg = with_segment(
            &bytes_of(gray.clone(), Format::Jpeg),
            0xe2,
            &[&b"ICC_PROFILE\0\x01\x01"[..], &linear].concat(),
        );
        for (bytes, what) in [(png(gray), "gray"), (png(deep), "16 bits"), (png(transparent), "alpha"), (jpeg, "JPEG")]
        {
            let out = Image::decode(&bytes).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
            // Half of the light is 188 in sRGB.
            assert_eq!(shown(&out).get_pixel(4, 4).0, [188, 188, 188, 255], "{what}");
        }
        // A profile for gray does not apply to colors, and vice versa.
        let wrong = png(RgbImage::from_pixel(8, 8, Rgb([128; 3])).into());
        let out = Image::decode(&wrong).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
        assert_eq!(shown(&out).get_pixel(4, 4).0, [128, 128, 128, 255]);
    }

    #[test]
    fn a_profile_is_found_in_every_format_that_has_one() {
        let profile = ColorProfile::new_display_p3().encode().unwrap();
        let pixels = RgbImage::from_pixel(8, 8, Rgb([200, 100, 100]));
        let jpeg = bytes_of(pixels.clone(), Format::Jpeg);
        let (first, second) = profile.split_at(100);
        let part = |number: u8, data: &[u8]| [&b"ICC_PROFILE\0"[..], &[number, 2], data].concat();
        let jpeg = with_segment(&with_segment(&jpeg, 0xe2, &part(1, first)), 0xe2, &part(2, second));
        let gif = with_application_block(&bytes_of(pixels.clone(), Format::Gif), b"ICCRGBG1012", &profile);
        let mut webp = Vec::new();
        let mut encoder = ::image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
        encoder.set_icc_profile(profile).unwrap();
        pixels.write_with_encoder(encoder).unwrap();
        for bytes in [jpeg, gif, webp] {
            let out = Image::decode(&bytes).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
            assert!(is_near(shown(&out).get_pixel(4, 4), [213, 95, 97, 255]), "{:?}", shown(&out).get_pixel(4, 4));
        }
    }

    /// Returns the peak memory of `work` in megabytes, beyond the memory in use before. The process must do nothing else.
    #[cfg(target_os = "linux")]
    fn megabytes_for(work: impl FnOnce()) -> u64 {
        let read = |name: &str| -> u64 {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
        };
        fs::write("/proc/self/clear_refs", "5").unwrap(); // resets the peak
        let before = read("VmRSS:");
        work();
        read("VmHWM:").saturating_sub(before) / 1024
    }

    /// Runs an ignored test of this file in a separate process.
    #[cfg(target_os = "linux")]
    fn alone(test: &str) {
        let name = format!("image::tests::{test}");
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", &name, "--include-ignored", "--nocapture"]).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    /// Regression: a 300 KB iCCP chunk took 600 MB, which neither the memory limit nor the pixel limit noticed.
    #[cfg(target_os = "linux")]
    #[test]
    fn metadata_takes_no_memory() {
        alone("metadata_takes_no_memory_measured");
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "run alone by metadata_takes_no_memory"]
    fn metadata_takes_no_memory_measured() {
        for (name, bytes) in bombs() {
            let size = bytes.len() >> 20;
            let used = megabytes_for(|| drop(Image::decode(&bytes)));
            assert!(used < 24, "{name} of {size} MB took {used} MB");
        }
    }

    /// Regression: twenty uploads of a 49-megapixel PNG of 1.2 MB took 2.2 GB.
    #[cfg(target_os = "linux")]
    #[test]
    fn images_share_one_budget() {
        alone("images_share_one_budget_measured");
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "run alone by images_share_one_budget"]
    fn images_share_one_budget_measured() {
        const MEMORY: u64 = 16 << 20;
        let folder = TempDir::new().unwrap();
        let from = folder.path().join("large.png");
        fs::write(&from, red(2000, 2000, Format::Png)).unwrap(); // 12 MB
        let config = Config { max_image_memory: MEMORY, ..Config::default() };
        let client = crate::testing::TestClient::new(crate::app::App::with_config(config));
        let resize_twelve = || {
            let tasks: Vec<_> = (0..12)
                .map(|number| {
                    let (from, to) = (from.clone(), folder.path().join(format!("{number}.jpg")));
                    client
                        .within(|| crate::background::task::background(move || resize(from, to, Fit::Inside(100, 100))))
                })
                .collect();
            tasks.into_iter().for_each(|task| assert_eq!(task.join().unwrap().unwrap(), Size::new(100, 100)));
        };
        let used = megabytes_for(resize_twelve);
        assert!((10..50).contains(&used), "{used} MB");
        // An image larger than the whole limit is refused, and the next one is not.
        client.within(|| {
            let refused = Image::decode(red(2500, 2500, Format::Png)).unwrap_err();
            assert!(refused.message().unwrap().contains("16,777,216 bytes for all images (ASIDE_MAX_IMAGE_MEMORY)"));
            assert_eq!(refused.status_code().code(), 422);
            assert!(Image::open(&from).is_ok());
        });
    }

    /// Images of one pixel with tens of megabytes of metadata, or metadata that inflates to a hundred.
    #[cfg(target_os = "linux")]
    fn bombs() -> Vec<(&'static str, Vec<u8>)> {
        const LARGE: usize = 40 << 20;
        let mut zeros = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..100).for_each(|_| zeros.write_all(&[0; 1 << 20]).unwrap());
        let zeros = zeros.finish().unwrap();
        let large = vec![b'x'; LARGE];
        let png = red(1, 1, Format::Png);
        let with_chunk =
            |kind: &[u8; 4], data: &[&[u8]]| [&png[..33], &chunk(kind, &data.concat()), &png[33..]].concat();
        let jpeg = red(1, 1, Format::Jpeg);
        let with_segments = |marker: u8, prefix: &[u8]| {
            let segment = [prefix, &[b'x'; 65_000]].concat();
            let segments = [&[0xff, marker], &(segment.len() as u16 + 2).to_be_bytes()[..], &segment].concat();
            [&jpeg[..2], &segments.repeat(LARGE / 65_000), &jpeg[2..]].concat()
        };
        let gif = red(1, 1, Format::Gif);
        let riff = |chunks: &[(&[u8; 4], &[u8])]| {
            let chunk = |(kind, data): &(&[u8; 4], &[u8])| {
                [&kind[..], &(data.len() as u32).to_le_bytes(), data, &[0][..data.len() % 2]].concat()
            };
            let body: Vec<u8> = chunks.iter().flat_map(chunk).collect();
            [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &body].concat()
        };
        let webp = red(1, 1, Format::WebP);
        let lossless = &webp[20..];
        let canvas = |flags: u8| [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flood = [0x30, 1, 0, 0x9d, 1, 0x2a, 0xff, 0x3f, 0xff, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let frame = [&[0; 16][..], b"VP8 ", &(flood.len() as u32).to_le_bytes(), &flood].concat();
        vec![
            ("iCCP", with_chunk(b"iCCP", &[b"p\0\0", &zeros])),
            ("zTXt", with_chunk(b"zTXt", &[b"XML:com.adobe.xmp\0\0", &zeros])),
            ("iTXt", with_chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\x01\0\0\0", &zeros])),
            ("tEXt", with_chunk(b"tEXt", &[b"Comment\0", &large])),
            ("eXIf", with_chunk(b"eXIf", &[&large])),
            ("Exif in a JPEG", with_segments(0xe1, b"Exif\0\0")),
            ("XMP in a JPEG", with_segments(0xe1, b"http://ns.adobe.com/xap/1.0/\0")),
            ("profile in a JPEG", with_segments(0xe2, b"ICC_PROFILE\0\x01\x01")),
            ("IPTC in a JPEG", with_segments(0xed, b"Photoshop 3.0\0")),
            ("comments in a JPEG", with_segments(0xfe, b"")),
            ("XMP in a GIF", with_application_block(&gif, b"XMP DataXMP", &large)),
            ("profile in a GIF", with_application_block(&gif, b"ICCRGBG1012", &large)),
            ("profile in a WebP", riff(&[(b"VP8X", &canvas(0x20)), (b"ICCP", &large), (b"VP8L", lossless)])),
            ("Exif in a WebP", riff(&[(b"VP8X", &canvas(0x08)), (b"VP8L", lossless), (b"EXIF", &large)])),
            ("a lossy frame beyond the canvas", riff(&[(b"VP8X", &canvas(0)), (b"VP8 ", &flood)])),
            ("an animation's", riff(&[(b"VP8X", &canvas(2)), (b"ANIM", &[0; 6]), (b"ANMF", &frame)])),
        ]
    }

    #[test]
    fn a_broken_profile_is_passed_over() {
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_icc_profile(vec![0xff; 200]).unwrap();
        RgbImage::from_pixel(8, 8, RED).write_with_encoder(encoder).unwrap();
        let out = Image::decode(&png).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
        assert_eq!(shown(&out).get_pixel(4, 4).0, [255, 0, 0, 255]);
    }

    #[test]
    fn inside_keeps_the_proportions_and_never_enlarges() {
        let sizes = [
            ((4000, 3000), Fit::Inside(800, 800), (800, 600)),
            ((3000, 4000), Fit::Inside(800, 800), (600, 800)),
            ((800, 600), Fit::Inside(800, 800), (800, 600)),
            ((1, 1), Fit::Inside(800, 800), (1, 1)),
            ((10_000, 1), Fit::Inside(800, 800), (800, 1)),
            ((1, 10_000), Fit::Inside(800, 800), (1, 800)),
            ((100, 100), Fit::Inside(0, 0), (1, 1)),
            ((u32::MAX, u32::MAX), Fit::Inside(u32::MAX, 1), (1, 1)),
            ((1, 1), Fit::Cover(30, 20), (30, 20)),
            ((10_000, 1), Fit::Cover(30, 20), (30, 20)),
        ];
        for ((width, height), fit, to) in sizes {
            assert_eq!(fit.plan(Size::new(width, height)).1, Size::from(to), "{width} x {height}, {fit:?}");
        }
    }

    #[test]
    fn small_and_long_pictures_come_through() {
        for (width, height) in [(1, 1), (10_000, 1), (1, 10_000), (3, 7)] {
            let image = Image::decode(red(width, height, Format::Png)).unwrap();
            for fit in [Fit::Inside(800, 800), Fit::Cover(20, 30), Fit::Inside(1, 1)] {
                for format in FORMATS {
                    let pixels = shown(&image.encode(fit, format).unwrap());
                    assert!(is_near(pixels.get_pixel(0, 0), [255, 0, 0, 255]));
                }
            }
        }
    }

    #[test]
    fn cover_takes_the_middle() {
        // Green in the middle third, red to its left and right.
        let striped = RgbImage::from_fn(90, 30, |x, _| if x / 30 == 1 { Rgb([0, 255, 0]) } else { RED });
        let image = Image::decode(bytes_of(striped, Format::Png)).unwrap();
        let pixels = shown(&image.encode(Fit::Cover(15, 15), Format::Png).unwrap());
        assert_eq!(pixels.dimensions(), (15, 15));
        // But for the rim, where the filter looks a little past the edge.
        let is_green = |x: u32| is_near(pixels.get_pixel(x, 7), [0, 255, 0, 255]);
        assert!((3..12).all(is_green));
        assert_eq!(pixels.get_pixel(0, 7), pixels.get_pixel(14, 7), "the same on both sides");
    }

    #[test]
    fn the_content_counts_and_not_the_name() {
        let folder = TempDir::new().unwrap();
        let (from, to) = (folder.path().join("photo.jpg"), folder.path().join("small.JPEG"));
        fs::write(&from, red(40, 20, Format::Png)).unwrap();
        assert_eq!(resize(&from, &to, Fit::Inside(10, 10)).unwrap(), Size::new(10, 5));
        assert!(fs::read(&to).unwrap().starts_with(b"\xff\xd8"));
        assert_eq!(resize(&from, &from, Fit::Inside(10, 10)).unwrap(), Size::new(10, 5), "onto itself");
    }

    #[test]
    fn nothing_is_left_behind_on_failure() {
        let folder = TempDir::new().unwrap();
        let (from, broken) = (folder.path().join("a.png"), folder.path().join("b.png"));
        fs::write(&from, red(4, 4, Format::Png)).unwrap();
        fs::write(&broken, b"no").unwrap();
        fs::create_dir(folder.path().join("taken.png")).unwrap();
        let try_it =
            |from: &Path, to: &str| resize(from, folder.path().join(to), AS_IT_IS).unwrap_err().status_code().code();
        assert_eq!(try_it(&broken, "out.png"), 422);
        assert_eq!(try_it(&from, "out.bmp"), 500);
        assert_eq!(try_it(&from, "out"), 500);
        assert_eq!(try_it(&from, "taken.png"), 500, "a folder is in the way");
        assert_eq!(try_it(&from, "nowhere/out.png"), 500);
        assert_eq!(try_it(&folder.path().join("none.png"), "out.png"), 500);
        assert_eq!(try_it(folder.path(), "out.png"), 500, "a folder cannot be read");
        let mut names = names_in(&folder);
        names.sort();
        assert_eq!(names, ["a.png", "b.png", "taken.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_written_is_readable_like_any_other_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        let (usual, ours) = (folder.path().join("a.png"), folder.path().join("b.png"));
        fs::write(&usual, red(4, 4, Format::Png)).unwrap();
        resize(&usual, &ours, AS_IT_IS).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&usual));
    }

    #[test]
    fn an_image_goes_from_thread_to_thread() {
        fn goes<T: Send + Sync + 'static>() {}
        goes::<Image>();
    }

    #[test]
    fn the_room_of_one_picture_is_the_next_ones_and_shows_nothing_of_it() {
        let client = crate::testing::TestClient::new(crate::app::App::with_config(crate::config::Config::default()));
        let png = |value: u8| {
            let mut bytes = Vec::new();
            let picture = RgbImage::from_pixel(300, 300, ::image::Rgb([value; 3]));
            picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
            bytes
        };
        let (first, second) = (png(250), png(3));
        let cut = second[..second.len() / 2].to_vec();
        let work = move || {
            drop(Image::decode(&first)?);
            assert_eq!(ROOM.with_borrow(|room| room.as_ref().map(|(bytes, _)| bytes.len())), Some(300 * 300 * 3));
            assert!(Image::decode(&cut).is_err());
            drop(Image::decode(&first)?);
            let image = Image::decode(&second)?;
            assert!(image.pixels.as_bytes().iter().all(|&byte| byte == 3));
            crate::error::ok(())
        };
        client.within(|| crate::background::task::background(work)).join().unwrap().unwrap();
        client.drain();
        drop(Image::decode(png(7)).unwrap());
        assert!(ROOM.with_borrow(Option::is_none), "outside a task nothing is kept");
    }
}
