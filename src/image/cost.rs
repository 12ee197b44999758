//! The memory that it takes to decode an image: the pixels and the decoder's own buffers.

use ::image::{ColorType, ImageFormat};

use super::Size;
use super::metadata::{JpegFrame, first_gif_frame, jpeg_frame, jpeg_scans, webp_chunks};

/// Returns the bytes for the whole image as `color`, converted to 8 bits.
pub(super) fn whole(format: ImageFormat, size: Size, color: ColorType, bytes: &[u8]) -> u64 {
    let pixels = size.pixels();
    let decoded = pixels * u64::from(color.bytes_per_pixel());
    let converted = match color {
        ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8 => 0,
        ColorType::L16 => pixels,
        color if color.has_alpha() => pixels * 4,
        _ => pixels * 3,
    };
    // The decoder has been dropped when its pixels are converted.
    decoded + converted.max(beside(format, size, decoded, bytes))
}

/// Returns the bytes for a JPEG at 1/`by` of its size in each direction, with the working rows.
pub(super) fn divided(size: Size, by: u32, color: ColorType, bytes: &[u8]) -> u64 {
    let (width, height) = (u64::from(size.width.div_ceil(by)), u64::from(size.height.div_ceil(by)));
    let stored = blocks(size, bytes).map_or(0, |(frame, units)| {
        let (across, down) = frame.unit();
        let stored = |(wide, high): &(u8, u8)| {
            let (wide, high) = (u64::from(*wide), u64::from(*high));
            // Subsampled colors are decoded from more coefficients.
            let side = (8 / u64::from(by) * (across / wide.max(1)).min(down / high.max(1))).min(8);
            wide * high * (side * side * 2 + 8)
        };
        units * frame.sampling.iter().map(stored).sum::<u64>()
    });
    width * (height + 64) * u64::from(color.bytes_per_pixel()) + stored
}

/// Returns the bytes that the decoder of a format holds beside the pixels, according to its code.
fn beside(format: ImageFormat, size: Size, decoded: u64, bytes: &[u8]) -> u64 {
    match format {
        ImageFormat::Jpeg => bytes.len() as u64 + coefficients(size, bytes),
        ImageFormat::Png => decoded / u64::from(size.height) * 4, // rows before and after their filter
        ImageFormat::WebP => size.pixels() * webp_bytes_per_pixel(bytes),
        ImageFormat::Gif => {
            // A frame narrower than the canvas is decoded separately.
            let frame = first_gif_frame(bytes).map_or(0, Size::pixels);
            if first_gif_frame(bytes).is_some_and(|frame| frame.width == size.width) { 0 } else { frame * 4 }
        }
        _ => 0,
    }
}

/// Returns the bytes for the coefficients of a JPEG with several scans, two bytes each: all are kept until the last scan.
fn coefficients(size: Size, bytes: &[u8]) -> u64 {
    blocks(size, bytes).map_or(0, |(frame, units)| {
        let blocks: u64 = frame.sampling.iter().map(|(across, down)| u64::from(*across) * u64::from(*down)).sum();
        units * blocks * 64 * 2
    })
}

/// Returns the frame of a JPEG with several scans, and the number of its interleaving units.
fn blocks(size: Size, bytes: &[u8]) -> Option<(JpegFrame, u64)> {
    let frame = jpeg_frame(bytes).filter(|frame| frame.is_progressive || jpeg_scans(bytes).0 > 1)?;
    let (across, down) = frame.unit();
    let units = u64::from(size.width).div_ceil(8 * across) * u64::from(size.height).div_ceil(8 * down);
    Some((frame, units))
}

/// Returns the bytes per pixel of a WebP. Luma and chroma of a lossy image take 2, its transparency 5, a lossless image 5
/// (it is decoded with transparency). A frame of an animation is also copied onto a canvas.
fn webp_bytes_per_pixel(bytes: &[u8]) -> u64 {
    let (mut most, mut is_animated) = (2, false);
    for kind in webp_chunks(bytes) {
        match &kind {
            b"VP8L" => most = most.max(5),
            b"ALPH" => most = most.max(7),
            b"ANMF" => is_animated = true,
            _ => {}
        }
    }
    if is_animated { 12 } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{DecodeOptions, Format, Image};

    #[test]
    fn a_progressive_jpeg_counts_its_coefficients() {
        let size = Size::new(100, 50);
        let jpeg = |set: fn(&mut jpeg_encoder::Encoder<&mut Vec<u8>>)| {
            let mut jpeg = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
            set(&mut encoder);
            encoder.encode(&[9; 100 * 50 * 3], 100, 50, jpeg_encoder::ColorType::Rgb).unwrap();
            jpeg
        };
        let cost = |jpeg: &[u8]| whole(ImageFormat::Jpeg, size, ColorType::Rgb8, jpeg) - jpeg.len() as u64;
        assert_eq!(cost(&jpeg(|encoder| encoder.set_progressive(false))), 15_000);
        // 13 x 7 blocks for each color; in the second image, 7 x 4 units of four blocks and two.
        let full = |encoder: &mut jpeg_encoder::Encoder<&mut Vec<u8>>| {
            encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
            encoder.set_progressive(true);
        };
        let half = |encoder: &mut jpeg_encoder::Encoder<&mut Vec<u8>>| {
            encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
            encoder.set_progressive(true);
        };
        assert_eq!(cost(&jpeg(full)), 15_000 + 13 * 7 * 3 * 128);
        assert_eq!(cost(&jpeg(half)), 15_000 + 7 * 4 * 6 * 128);
    }

    #[test]
    fn conversions_and_working_buffers_count() {
        let size = Size::new(100, 50);
        let cost = |format, color, bytes: &[u8]| whole(format, size, color, bytes);
        assert_eq!(cost(ImageFormat::Png, ColorType::Rgb8, b""), 15_000 + 4 * 300);
        assert_eq!(cost(ImageFormat::Png, ColorType::Rgba16, b""), 40_000 + 20_000);
        assert_eq!(cost(ImageFormat::WebP, ColorType::Rgb8, b"RIFF....WEBPVP8L\x02\0\0\0xx"), 15_000 + 25_000);
        let gif = crate::image::encode::encoded(&::image::RgbImage::new(100, 50).into(), Format::Gif, false).unwrap();
        assert_eq!(cost(ImageFormat::Gif, ColorType::Rgba8, &gif), 20_000);
        // The limit applies to the total.
        let png = crate::image::encode::encoded(&::image::RgbImage::new(100, 50).into(), Format::Png, false).unwrap();
        assert!(DecodeOptions::new().max_memory(16_200).decode(&png).is_ok());
        assert!(DecodeOptions::new().max_memory(16_199).decode(&png).is_err() && Image::decode(&png).is_ok());
    }
}
