//! The formats that images are written in, and their encoders.

use std::io::{Cursor, Write};
use std::path::Path;

use ::image::codecs::gif::GifEncoder;
use ::image::{DynamicImage, Frame, ImageFormat, RgbImage};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType as JpegColor, SamplingFactor};

use super::jpeg;
use crate::error::{Error, Result};

/// The quality of JPEGs: hardly distinguishable from the original, at a third of the size of quality 95.
const JPEG_QUALITY: u8 = 85;

/// The difference in chroma, of 255, from which an edge is sharp. The grain of a photo is far below.
const SHARP: i32 = 40;

/// The colors stay at full resolution if more than one in so many pixels is at a sharp edge.
const EDGES_PER: usize = 2_000;

/// The speed of the GIF color reduction, from 1 (best colors) to 30. At 1, a GIF of 800 x 600 takes seconds; 10 looks
/// almost the same.
const GIF_SPEED: i32 = 10;

/// A format that images are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// JPEG (`.jpg`, `.jpeg`), for photos. Its quality is 85. Transparent pixels become white. The colors have half of the
    /// resolution (4:2:0), or the full one (4:4:4) if the image has sharp edges between strong colors, as text and
    /// drawings do.
    Jpeg,
    /// PNG (`.png`), for drawings, screenshots and transparency.
    Png,
    /// Lossless WebP (`.webp`): smaller than PNG. A photo is larger than as JPEG.
    WebP,
    /// GIF (`.gif`), for programs that cannot read PNG. It has 256 colors.
    Gif,
}

impl Format {
    /// Returns the format for a file's extension, in upper or lower case.
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
    /// 500 if the extension is missing or unknown: the program chose the name, not the user.
    #[track_caller]
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

    /// Returns the media type for `Content-Type`, such as `image/png`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Jpeg => "image/jpeg",
            Format::Png => "image/png",
            Format::WebP => "image/webp",
            Format::Gif => "image/gif",
        }
    }
}

/// Returns the bytes of a file. `is_progressive` applies to JPEGs.
pub(super) fn encoded(pixels: &DynamicImage, format: Format, is_progressive: bool) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, pixels, format, is_progressive)
        .map_err(|error| error.context(format!("cannot encode as {}", format.content_type())))?;
    Ok(bytes)
}

fn encode_into(bytes: &mut Vec<u8>, pixels: &DynamicImage, format: Format, is_progressive: bool) -> Result<()> {
    match format {
        Format::Jpeg => encode_jpeg(bytes, pixels, is_progressive)?,
        Format::Png => pixels.write_to(&mut Cursor::new(bytes), ImageFormat::Png)?,
        Format::WebP => pixels.write_to(&mut Cursor::new(bytes), ImageFormat::WebP)?,
        Format::Gif => GifEncoder::new_with_speed(bytes, GIF_SPEED).encode_frame(Frame::new(pixels.to_rgba8()))?,
    }
    Ok(())
}

fn encode_jpeg(bytes: &mut Vec<u8>, pixels: &DynamicImage, is_progressive: bool) -> Result<()> {
    let (width, height) = (u16::try_from(pixels.width())?, u16::try_from(pixels.height())?);
    let flat = matches!(pixels, DynamicImage::ImageRgba8(_)).then(|| on_white(pixels).into());
    let pixels = flat.as_ref().unwrap_or(pixels);
    let mut usual = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut usual, JPEG_QUALITY);
    encoder.set_sampling_factor(if has_sharp_colors(pixels) { SamplingFactor::F_1_1 } else { SamplingFactor::F_2_2 });
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.set_progressive(is_progressive);
    encoder.set_optimized_huffman_tables(is_progressive);
    let color = if pixels.color().has_color() { JpegColor::Rgb } else { JpegColor::Luma };
    encoder.encode(pixels.as_bytes(), width, height, color)?;
    *bytes = if is_progressive { usual } else { jpeg::optimized(&usual).unwrap_or(usual) };
    Ok(())
}

/// Returns true if the image has sharp edges between strong colors: text, drawings, a red sign. At half the resolution of
/// the colors, such edges turn dark or gray. In photos of other things the difference is invisible.
fn has_sharp_colors(pixels: &DynamicImage) -> bool {
    let DynamicImage::ImageRgb8(colors) = pixels else { return false };
    let row = 3 * colors.width() as usize;
    let bytes = colors.as_raw();
    let below = bytes.get(row..).unwrap_or_default();
    // Every second pixel of each row with the one below, and each pixel of every second row with the next one.
    let edges = count_edges(bytes, below, 2)
        + bytes.chunks_exact(row.max(3)).step_by(2).map(|row| count_edges(row, &row[3..], 1)).sum::<usize>();
    2 * edges * EDGES_PER > colors.width() as usize * colors.height() as usize
}

/// Counts the pixels whose chroma is far from that of their neighbors, at steps of so many pixels.
fn count_edges(pixels: &[u8], neighbors: &[u8], step: usize) -> usize {
    let pairs = pixels.as_chunks::<3>().0.iter().zip(neighbors.as_chunks::<3>().0);
    pairs.step_by(step).filter(|(one, other)| is_sharp(one, other)).count()
}

/// Returns true if the blue or red differences to the luma (ITU-T T.871) of two pixels are far apart.
fn is_sharp(one: &[u8; 3], other: &[u8; 3]) -> bool {
    let [red, green, blue] = [0, 1, 2].map(|channel| i32::from(one[channel]) - i32::from(other[channel]));
    let (to_blue, to_red) = (128 * blue - 43 * red - 85 * green, 128 * red - 107 * green - 21 * blue);
    to_blue.abs().max(to_red.abs()) > SHARP << 8
}

fn on_white(pixels: &DynamicImage) -> RgbImage {
    let over_white = |color: u8, alpha: u8| {
        let (color, alpha) = (u16::from(color), u16::from(alpha));
        ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let mut flat = RgbImage::new(pixels.width(), pixels.height());
    for (to, from) in flat.pixels_mut().zip(pixels.to_rgba8().pixels()) {
        let [red, green, blue, alpha] = from.0;
        to.0 = [red, green, blue].map(|color| over_white(color, alpha));
    }
    flat
}

/// Writes a file atomically: a temporary file in the same folder is renamed, or removed on failure.
pub(super) fn write_atomically(to: &Path, bytes: &[u8]) -> Result<()> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // By default, only the owner can read a temporary file. A web server on the same machine must be able to read the
    // image. The umask still applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".aside-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(to).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ::image::Rgb;

    use super::*;
    use crate::image::metadata::{jpeg_frame, jpeg_scans};

    fn is_full(width: u32, height: u32, color: impl Fn(u32, u32) -> [u8; 3]) -> bool {
        has_sharp_colors(&RgbImage::from_fn(width, height, |x, y| Rgb(color(x, y))).into())
    }

    #[test]
    fn colors_stay_at_full_resolution_beside_sharp_edges() {
        const RED: [u8; 3] = [220, 20, 20];
        const WHITE: [u8; 3] = [255; 3];
        for line in [20, 21] {
            assert!(is_full(64, 48, |x, _| if x < line { RED } else { WHITE }), "beside");
            assert!(is_full(64, 48, |_, y| if y < line { RED } else { WHITE }), "below");
        }
        // A line of text in a large screenshot.
        assert!(is_full(800, 600, |x, y| if y / 12 == 20 && x % 9 < 2 { RED } else { WHITE }));
        assert!(is_full(800, 600, |x, y| if (x / 80 + y / 60) % 2 == 0 { [0, 90, 200] } else { [250, 250, 240] }));
    }

    #[test]
    fn colors_of_photos_are_halved() {
        let grain = |x: u32, y: u32| (x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77)) >> 16;
        let grained = |x: u32, y: u32, channel: u32| (grain(x + channel, y * 3 + channel) % 24) as u8;
        assert!(!is_full(400, 300, |x, y| [(x / 2) as u8, (y / 2) as u8, ((x + y) / 4) as u8]), "a gradient");
        assert!(!is_full(400, 300, |x, y| [0, 1, 2].map(|channel| 90 + grained(x, y, channel))), "grain");
        assert!(!is_full(400, 300, |x, _| if x % 7 < 3 { [0; 3] } else { [255; 3] }), "black and white edges");
        assert!(!is_full(1, 1, |_, _| [255, 0, 0]) && !is_full(1, 5_000, |_, _| [255, 0, 0]));
    }

    /// A scan for each component becomes a wrong image in some decoders.
    #[test]
    fn a_jpeg_has_a_single_scan_or_is_progressive() {
        let gradient = RgbImage::from_fn(90, 70, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, 90])).into();
        let scans = |is_progressive| {
            let jpeg = encoded(&gradient, Format::Jpeg, is_progressive).unwrap();
            (jpeg_frame(&jpeg).unwrap().is_progressive, jpeg_scans(&jpeg).0 > 1)
        };
        assert_eq!((scans(false), scans(true)), ((false, false), (true, true)));
    }
}
