//! Images that are broken, truncated, hostile or over a limit.

use ::image::{GrayImage, Luma};
use jpeg_encoder::{ColorType as JpegColor, SamplingFactor};

use super::*;
use crate::image::decode::{MAX_JPEG_SCANS, NOT_AN_IMAGE};

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

fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]), chunk(b"IEND", b"")];
    [b"\x89PNG\r\n\x1a\n".as_slice(), &chunks.concat()].concat()
}

#[test]
fn a_pixel_flood_is_refused_by_its_header() {
    let flood = png_that_claims(50_000, 50_000);
    assert!(flood.len() < 100);
    let error = refused(&flood);
    assert_eq!(error.message(), Some("The image can have at most 50 million pixels."));
    let detail = "it has 50,000 x 50,000 pixels; the limit is 50 million (image::DecodeOptions::max_pixels)";
    assert!(error.chain().ends_with(detail), "{error:?}");
}

#[test]
fn the_limits_can_be_set() {
    let png = red(100, 100, Format::Png);
    assert!(DecodeOptions::new().max_pixels(10_000).decode(&png).is_ok());
    let error = DecodeOptions::new().max_pixels(9_999).decode(&png).unwrap_err();
    assert!(error.chain().contains("100 x 100 pixels; the limit is 9,999 ("), "{error:?}");
    for (bytes, memory) in [(&png, 29_999), (&png, 20), (&red(100, 100, Format::Jpeg), 29_999)] {
        let error = DecodeOptions::new().max_memory(memory).decode(bytes).unwrap_err();
        assert_eq!(error.status_code().code(), 422);
        assert!(error.chain().contains("image::DecodeOptions::max_memory"), "{error:?}");
    }
    assert_eq!(DecodeOptions::new().max_memory(9).read(&png[..]).unwrap_err().status_code().code(), 422);
}

#[test]
fn a_file_that_is_not_an_image_is_a_422() {
    for bytes in [b"".as_slice(), b"\0", b"Dear Anna,\nhere is no picture.\n", b"\xff\xd8", b"GIF89a", b"BM\0\0"] {
        not_an_image(bytes);
    }
    not_an_image(b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    not_an_image(&png_that_claims(0, 5));
}

#[test]
fn a_truncated_image_is_refused() {
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
        let small = DecodeOptions::new().largest_fit(Fit::Inside(8, 8)).decode(&jpeg[..jpeg.len() - 2]).unwrap();
        assert_eq!(
            small.divisor,
            DecodeOptions::new().largest_fit(Fit::Inside(8, 8)).decode(jpeg).unwrap().divisor,
            "JPEG {number}"
        );
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
fn a_jpeg_with_too_many_scans_is_refused() {
    let jpeg = red(8, 8, Format::Jpeg);
    let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let end = jpeg.len() - 2;
    let many = [&jpeg[..end], &jpeg[scan..end].repeat(MAX_JPEG_SCANS), &jpeg[end..]].concat();
    not_an_image(&many);
}

#[test]
fn mutated_images_never_cause_a_500() {
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
