//! The formats that images are written in, and their encoders.

use std::io::{Cursor, Write};
use std::path::Path;

use ::image::codecs::gif::GifEncoder;
use ::image::{DynamicImage, Frame, ImageFormat, RgbImage};
use jpeg_encoder::{ColorType as JpegColor, SamplingFactor};

use crate::error::{Error, Result};

/// The quality of JPEGs: hardly distinguishable from the original, at a third of the size of quality 95.
const JPEG_QUALITY: u8 = 85;

/// The speed of the GIF color reduction, from 1 (best colors) to 30. At 1, a GIF of 800 x 600 takes seconds; 10 looks
/// almost the same.
const GIF_SPEED: i32 = 10;

/// A format that images are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// JPEG (`.jpg`, `.jpeg`), for photos. Its quality is 85. Transparent pixels become white.
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

pub(super) fn encoded(pixels: &DynamicImage, format: Format) -> Result<Vec<u8>> {
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
    // Colors at full resolution: at half the resolution, the edges of red areas turn dark.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    match pixels {
        DynamicImage::ImageLuma8(gray) => encoder.encode(gray, width, height, JpegColor::Luma)?,
        DynamicImage::ImageRgb8(colors) => encoder.encode(colors, width, height, JpegColor::Rgb)?,
        _ => encoder.encode(&on_white(pixels), width, height, JpegColor::Rgb)?,
    }
    Ok(())
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
