//! The pixel buffer that a thread reuses for its next image.

use std::cell::RefCell;

use ::image::{ColorType, DynamicImage, GrayImage, ImageDecoder, ImageResult, RgbImage, RgbaImage};

use super::budget::{BUDGET, Kept};
use super::max_memory;

thread_local! {
    /// The buffer that this thread reuses for its next image.
    static BUFFER: RefCell<Option<(Vec<u8>, Kept)>> = const { RefCell::new(None) };
}

/// Keeps the buffer of a dropped image for the next one, while the budget allows it.
pub(super) fn keep(bytes: Vec<u8>) {
    if let Some(kept) = BUDGET.keep(bytes.capacity() as u64, max_memory()) {
        // Fails while the thread exits.
        let _ = BUFFER.try_with(|buffer| buffer.replace(Some((bytes, kept))));
    }
}

/// Returns the size of this thread's kept buffer.
#[cfg(test)]
pub(super) fn kept_bytes() -> Option<usize> {
    BUFFER.with_borrow(|buffer| buffer.as_ref().map(|(bytes, _)| bytes.len()))
}

/// A size above glibc's largest mmap threshold: such a block is mapped separately and unmapped when freed. Otherwise each
/// thread that has decoded an image may keep that much memory. Untouched pages take no memory.
const MAPPED: usize = 33 << 20;

/// The image size from which such a block is allocated.
const LARGE: usize = 1 << 20;

/// Returns an empty buffer for an image of `bytes`: the one that this thread used last, or a new one.
pub(super) fn take(bytes: u64) -> Vec<u8> {
    let bytes = bytes as usize;
    let kept = BUFFER.take().map(|(mut buffer, _)| {
        buffer.clear();
        buffer
    });
    kept.filter(|buffer| buffer.capacity() >= bytes)
        .unwrap_or_else(|| Vec::with_capacity(if bytes < LARGE { bytes } else { bytes.max(MAPPED) }))
}

/// Returns the decoder's pixels, in the buffer that this thread used last.
///
/// Otherwise, tens of megabytes are mapped and unmapped for each image. Measured, that delays the threads that handle
/// requests by milliseconds, whatever their priority; a reused buffer does not. The buffer is freed when the thread exits:
/// a task's thread stays for some seconds.
pub(super) fn decode(decoder: impl ImageDecoder) -> ImageResult<DynamicImage> {
    let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
    if !matches!(color, ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return DynamicImage::from_decoder(decoder);
    }
    let mut buffer = take(decoder.total_bytes());
    // Zeroed: a decoder that stops early must not reveal the previous image.
    buffer.resize(decoder.total_bytes() as usize, 0);
    decoder.read_image(&mut buffer)?;
    let pixels = match color {
        ColorType::L8 => GrayImage::from_raw(width, height, buffer).map(DynamicImage::from),
        ColorType::Rgb8 => RgbImage::from_raw(width, height, buffer).map(DynamicImage::from),
        _ => RgbaImage::from_raw(width, height, buffer).map(DynamicImage::from),
    };
    Ok(pixels.expect("the buffer has the length that the decoder requires"))
}
