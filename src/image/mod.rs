//! Image resizing: [`resize`] for one size, [`Image`] for several sizes from one decoding.
//!
//! Uploads are untrusted input:
//!
//! - The format is detected from the content, never from the file name.
//! - The header is checked against the limits of [`DecodeOptions`] before anything is decoded.
//! - A fault of the image itself is a 422 with a message for the user.
//! - The result holds only pixels: upright, in sRGB, without location, camera or name. Of the metadata, only the
//!   orientation and the color profile are read. A profile over 4 MiB is ignored.

mod budget;
mod buffer;
mod cost;
mod decode;
mod encode;
mod jpeg;
mod metadata;
mod size;
mod srgb;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use ::image::metadata::Orientation;
use ::image::{ColorType, DynamicImage};
use fast_image_resize::pixels::{U8, U8x3, U8x4};
use fast_image_resize::{IntoImageView, IntoImageViewMut, PixelTrait, ResizeOptions, Resizer};

use self::budget::{BUDGET, Share};
pub use self::decode::DecodeOptions;
pub use self::encode::Format;
use self::encode::{encoded, write_atomically};
use self::size::is_turned;
pub use self::size::{Fit, Size};
use self::srgb::ToSrgb;
use crate::background::scope::{Context, is_task};
use crate::config::Config;
use crate::error::{Error, OrHere, Result};

/// Resizes the image file `from`, and writes the result to `to`.
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
/// The format of `from` (JPEG, PNG, WebP or GIF; the first frame of an animation) is detected from its content, whatever
/// its name. The format of `to` follows from its extension: see [`Format`]. The orientation in the metadata is applied,
/// colors are converted to sRGB, and all metadata is removed. `to` is written atomically: a temporary file in the same
/// folder is renamed, and replaces an existing file. `from` and `to` may be the same file. The default limits of
/// [`DecodeOptions`] apply.
///
/// A photo of 12 megapixels takes some hundredths of a second: run this in the [`background`](crate::background), in a
/// [`Pool`](crate::Pool) if many uploads may arrive at once. A JPEG is decoded at a reduced size where possible: see
/// [`DecodeOptions::largest_fit`]. [`Image::progressive`] writes a progressive JPEG.
///
/// # Errors
/// 422 with a message for the user: not an image, broken, truncated, or over a limit. 500: a file cannot be read or
/// written, or the extension of `to` is unknown. 503 as for [`Image::open`].
#[track_caller]
pub fn resize(from: impl AsRef<Path>, to: impl AsRef<Path>, fit: Fit) -> Result<Size> {
    DecodeOptions::new().largest_fit(fit).open(from)?.save(to, fit)
}

/// A decoded image in memory, for several sizes from one decoding.
///
/// ```
/// use aside::image::{DecodeOptions, Fit, Format};
/// # let folder = tempfile::tempdir()?;
/// # std::env::set_current_dir(&folder)?;
/// # image::RgbImage::new(3000, 2000).save("upload.jpg")?;
///
/// let photo = DecodeOptions::new().largest_fit(Fit::Inside(1600, 1600)).open("upload.jpg")?;
/// for side in [1600, 800, 200] {
///     photo.save(format!("{side}.jpg"), Fit::Inside(side, side))?;
/// }
/// let thumbnail: Vec<u8> = photo.encode(Fit::Cover(64, 64), Format::Png)?;
/// # aside::ok(())
/// ```
///
/// It holds its pixels, three or four bytes each: 36 MB for a photo of 12 megapixels (4000 x 3000). A JPEG with a
/// [`largest_fit`](DecodeOptions::largest_fit) of 1600 pixels per side holds 9 MB and is decoded faster.
///
/// All images of the process together take at most `ASIDE_MAX_IMAGE_MEMORY` (512 MiB), and files being read and reusable
/// buffers up to half as much again. If the memory is used up, the next image waits: in a task, a job or a command while
/// other images are released, in a handler while at most `ASIDE_MAX_WAITING` workers wait. A thread that holds an image
/// never waits for a second one, since it would block itself; it may exceed the limit.
#[derive(Clone)]
pub struct Image {
    /// The pixels, not rotated yet: rotation is cheaper after resizing.
    pixels: DynamicImage,
    /// The number of pixels of the file per decoded pixel, in each direction.
    divisor: u32,
    /// The size of the whole image, before rotation.
    size: Size,
    orientation: Orientation,
    /// The conversion to sRGB, for an image with a color profile.
    to_srgb: Option<ToSrgb>,
    /// True if JPEGs are written as progressive ones.
    is_progressive: bool,
    /// The share of the memory budget for the pixels, held until the image is dropped.
    _share: Share,
}

/// The memory limit of an application for all images together, in bytes (`ASIDE_MAX_IMAGE_MEMORY`).
pub(crate) struct MaxMemory(pub(crate) u64);

/// Returns the limit of the application that this thread works for, or of the environment.
fn max_memory() -> u64 {
    static FROM_ENV: LazyLock<u64> = LazyLock::new(|| Config::from_env().unwrap_or_default().max_image_memory);
    Context::current().scope.get::<MaxMemory>().map_or_else(|| *FROM_ENV, |limit| limit.0)
}

impl Image {
    /// Decodes an image file, whatever its name, at its full size and with the default limits of [`DecodeOptions`].
    ///
    /// # Errors
    /// 422 with a message for the user: not an image, broken, truncated, or over a limit. 500 if the file cannot be
    /// read. 503 with `Retry-After` if too many handlers wait for memory, or no memory was released for a minute.
    #[track_caller]
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        DecodeOptions::new().open(path)
    }

    /// Decodes the image that a reader supplies, such as an upload, as [`open`](Image::open) does.
    ///
    /// # Errors
    /// 422 with a message for the user: not an image, broken, truncated, or over a limit. 500 if reading fails. 503 as for
    /// [`Image::open`].
    #[track_caller]
    pub fn read(from: impl Read) -> Result<Image> {
        DecodeOptions::new().read(from)
    }

    /// Decodes the image in these bytes, as [`open`](Image::open) does.
    ///
    /// # Errors
    /// 422 with a message for the user: not an image, broken, truncated, or over a limit. 503 as for [`Image::open`].
    #[track_caller]
    pub fn decode(bytes: impl AsRef<[u8]>) -> Result<Image> {
        DecodeOptions::new().decode(bytes)
    }

    /// Returns the size of the upright image in the file, even if it was decoded at a reduced size.
    pub fn size(&self) -> Size {
        if is_turned(self.orientation) { self.size.turned() } else { self.size }
    }

    /// Sets if JPEGs are written as progressive ones: a browser shows the whole image early, at first without details. The
    /// default is false. Other formats ignore it.
    ///
    /// ```
    /// use aside::image::{DecodeOptions, Fit};
    /// # let folder = tempfile::tempdir()?;
    /// # std::env::set_current_dir(&folder)?;
    /// # image::RgbImage::new(3000, 2000).save("upload.jpg")?;
    ///
    /// let fit = Fit::Inside(1600, 1600);
    /// DecodeOptions::new().largest_fit(fit).open("upload.jpg")?.progressive(true).save("large.jpg", fit)?;
    /// # aside::ok(())
    /// ```
    ///
    /// Writing one takes longer and 9 more bytes per pixel, since all of it is in memory before the first byte.
    pub fn progressive(mut self, is_progressive: bool) -> Image {
        self.is_progressive = is_progressive;
        self
    }

    /// Resizes the image, writes it to a file, and returns the new size. The extension determines the [`Format`].
    ///
    /// The file is written atomically: a temporary file in the same folder is renamed, and replaces an existing file.
    ///
    /// # Errors
    /// 500: the file cannot be written, or its extension is unknown.
    #[track_caller]
    pub fn save(&self, to: impl AsRef<Path>, fit: Fit) -> Result<Size> {
        let to = to.as_ref();
        let _copies = self.copies(fit);
        let pixels = self.fitted(fit).or_here()?;
        let bytes = encoded(&pixels, Format::of(to)?, self.is_progressive).or_here()?;
        write_atomically(to, &bytes).map_err(|error| error.context(format!("cannot write {to:?}"))).or_here()?;
        Ok(Size::of(&pixels))
    }

    /// Resizes the image, and returns the bytes of a file in this format.
    ///
    /// # Errors
    /// 500: the image is too large for the format (WebP holds 16,383 pixels per side, JPEG and GIF 65,535).
    #[track_caller]
    pub fn encode(&self, fit: Fit, format: Format) -> Result<Vec<u8>> {
        let _copies = self.copies(fit);
        encoded(&self.fitted(fit).or_here()?, format, self.is_progressive).or_here()
    }

    /// Takes the share for the pixels at their new size, and for a second copy on the way to a file. This thread holds the
    /// image, so it does not wait.
    fn copies(&self, fit: Fit) -> Share {
        let (_, to) = fit.before_rotation(self.orientation).plan(self.size);
        // Three channels, and their coefficients of two bytes each.
        let progressive = if self.is_progressive { 9 } else { 0 };
        BUDGET.take_past(to.pixels() * (2 * u64::from(self.pixels.color().bytes_per_pixel()) + progressive))
    }

    /// Returns the resized pixels: upright, 8 bits per channel, sRGB.
    fn fitted(&self, fit: Fit) -> Result<DynamicImage> {
        let mut pixels = self.scaled(fit.before_rotation(self.orientation))?;
        if let Some(to_srgb) = &self.to_srgb {
            to_srgb.apply(&mut pixels)?;
        }
        pixels.apply_orientation(self.orientation);
        Ok(pixels)
    }

    fn scaled(&self, fit: Fit) -> Result<DynamicImage> {
        let (part, to) = fit.plan(self.size);
        let (left, top) = ((self.size.width - part.width) / 2, (self.size.height - part.height) / 2);
        // In decoded pixels, the last of which may be only partly covered.
        let [left, top, width, height] =
            [left, top, part.width, part.height].map(|side| f64::from(side) / f64::from(self.divisor));
        // Lanczos3, with colors weighted by alpha: transparent pixels leave no dark rim.
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

/// Shows the size, not the pixels.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({})", self.size())
    }
}

/// Keeps the pixel buffer for the next image, on the thread of a task.
impl Drop for Image {
    fn drop(&mut self) {
        if is_task() {
            buffer::keep(std::mem::take(&mut self.pixels).into_bytes());
        }
    }
}

/// Resizes pixels of the type `P`. With a dynamic type, the library would be compiled for all of its thirteen pixel types.
fn resample<P: PixelTrait>(from: &DynamicImage, to: &mut DynamicImage, options: &ResizeOptions) -> Result<()> {
    let views = from.image_view::<P>().zip(to.image_view_mut::<P>());
    let (from, mut to) =
        views.ok_or_else(|| Error::internal("cannot resize an image: its pixels do not match its color type"))?;
    Ok(Resizer::new().resize_typed(&from, &mut to, options)?)
}

#[cfg(test)]
mod tests;
