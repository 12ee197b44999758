use ::image::{RgbaImage, imageops};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::*;
use crate::image::decode::NOT_AN_IMAGE;
use crate::image::{DecodeOptions, Fit, Format, Image};

/// Returns smooth colors with sharp edges, as of text, and sensor noise. Neither side is a multiple of the block size.
fn photo() -> RgbImage {
    let mut seed = 1_u32;
    RgbImage::from_fn(331, 245, |x, y| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (noise, ink) = ((seed >> 24) as f32 / 16.0, if x % 40 < 6 && y % 60 < 45 { 90.0 } else { 0.0 });
        let cloud = |across: f32, down: f32| ((x as f32 / across).sin() + (y as f32 / down).cos()) * 50.0 + 120.0;
        ::image::Rgb([cloud(31.0, 47.0), cloud(43.0, 29.0), cloud(71.0, 37.0)].map(|c| (c + noise - ink) as u8))
    })
}

fn jpeg(change: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
    let (photo, mut bytes) = (photo(), Vec::new());
    let mut encoder = Encoder::new(&mut bytes, 92);
    change(&mut encoder);
    encoder.encode(&photo, photo.width() as u16, photo.height() as u16, ColorType::Rgb).unwrap();
    bytes
}

fn gray() -> Vec<u8> {
    let (photo, mut bytes) = (imageops::grayscale(&photo()), Vec::new());
    let encoder = Encoder::new(&mut bytes, 92);
    encoder.encode(&photo, photo.width() as u16, photo.height() as u16, ColorType::Luma).unwrap();
    bytes
}

fn upright(mut jpeg: Vec<u8>, orientation: u8) -> Vec<u8> {
    let exif =
        [b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation, 0, 0, 0][..], &[0; 4]];
    jpeg.splice(2..2, exif.concat());
    jpeg
}

fn resized(image: &Image, fit: Fit) -> RgbaImage {
    ::image::load_from_memory(&image.encode(fit, Format::Png).unwrap()).unwrap().to_rgba8()
}

/// Asserts that the JPEG is decoded at 1/`divisor`, and that the result differs from the result at full size by less
/// than three of 256 steps on average.
fn same_divided_by(divisor: u32, jpeg: &[u8], fit: Fit) {
    let (whole, scaled) = (Image::decode(jpeg).unwrap(), DecodeOptions::new().largest_fit(fit).decode(jpeg).unwrap());
    assert_eq!((scaled.divisor, scaled.size()), (divisor, whole.size()));
    let (whole, scaled) = (resized(&whole, fit), resized(&scaled, fit));
    assert_eq!(whole.dimensions(), scaled.dimensions());
    let total: u64 = whole.iter().zip(scaled.iter()).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    let difference = total as f64 / whole.len() as f64;
    assert!(difference < 3.0, "a mean difference of {difference}, {fit:?}");
}

#[test]
fn a_scaled_jpeg_looks_like_the_resized_image() {
    use SamplingFactor::*;
    for sampling in [F_1_1, F_2_1, F_1_2, F_2_2] {
        let jpeg = jpeg(|encoder| encoder.set_sampling_factor(sampling));
        same_divided_by(2, &jpeg, Fit::Inside(120, 120));
        same_divided_by(4, &jpeg, Fit::Inside(80, 80));
        same_divided_by(8, &jpeg, Fit::Inside(30, 30));
        same_divided_by(4, &jpeg, Fit::Cover(50, 60));
    }
    same_divided_by(2, &gray(), Fit::Cover(100, 20));
    same_divided_by(8, &gray(), Fit::Inside(40, 40));
}

#[test]
fn a_scaled_jpeg_is_upright() {
    for orientation in 1..=8 {
        let jpeg = upright(jpeg(|_| ()), orientation);
        same_divided_by(4, &jpeg, Fit::Inside(75, 60));
        same_divided_by(2, &jpeg, if orientation < 5 { Fit::Cover(160, 40) } else { Fit::Cover(40, 160) });
    }
}

#[test]
fn restart_markers_are_skipped() {
    let jpeg = jpeg(|encoder| encoder.set_restart_interval(7));
    same_divided_by(4, &jpeg, Fit::Inside(80, 80));
}

#[test]
fn a_jpeg_is_not_decoded_smaller_than_needed() {
    let jpeg = jpeg(|_| ());
    same_divided_by(1, &jpeg, Fit::Inside(166, 166));
    same_divided_by(1, &jpeg, Fit::Inside(u32::MAX, 200));
    // The width alone would allow a quarter.
    same_divided_by(2, &jpeg, Fit::Cover(20, 122));
}

/// Returns the pixels at 1/`by` of the size.
fn scaled(jpeg: &[u8], by: u32) -> Vec<u8> {
    decode(jpeg, Size::new(331, 245), by, |_| Vec::new()).expect("a JPEG that is decoded here").into_bytes()
}

const SAMPLINGS: [SamplingFactor; 6] = {
    use SamplingFactor::*;
    [F_1_1, F_2_1, F_1_2, F_2_2, F_4_1, F_4_2]
};

/// Regression: zune-jpeg 0.5.15 decodes separate scans into a wrong image if the colors have half of the height.
#[test]
fn separate_scans_are_decoded_like_a_single_one() {
    for sampling in SAMPLINGS {
        let with = |is_optimized| {
            jpeg(|encoder| {
                encoder.set_sampling_factor(sampling);
                encoder.set_optimized_huffman_tables(is_optimized); // writes a scan for each component
            })
        };
        let (single, separate) = (with(false), with(true));
        for by in [1, 2, 4, 8] {
            assert!(scaled(&single, by) == scaled(&separate, by), "{sampling:?} at 1/{by}");
        }
        let [single, separate] = [single, separate].map(|jpeg| resized(&Image::decode(&jpeg).unwrap(), Fit::WHOLE));
        let total: u64 = single.iter().zip(separate.iter()).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
        let difference = total as f64 / single.len() as f64;
        assert!(difference < 2.0, "a mean difference of {difference} at full size, {sampling:?}");
    }
}

#[test]
fn a_progressive_jpeg_is_decoded_like_a_baseline_one() {
    for sampling in SAMPLINGS {
        let with = |is_progressive, restarts| {
            jpeg(|encoder| {
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(is_progressive);
                encoder.set_restart_interval(restarts);
            })
        };
        for by in [1, 2, 4, 8] {
            let baseline = scaled(&with(false, 0), by);
            assert!(baseline == scaled(&with(true, 0), by), "{sampling:?} at 1/{by}");
            assert!(baseline == scaled(&with(true, 5), by), "{sampling:?} at 1/{by} with restart markers");
        }
    }
    same_divided_by(4, &jpeg(|encoder| encoder.set_progressive(true)), Fit::Inside(80, 80));
}

/// The tables of a photo's own make it smaller and change no pixel.
#[test]
fn optimized_huffman_tables_change_no_pixel() {
    let mut jpegs: Vec<Vec<u8>> = vec![gray()];
    jpegs.extend(SAMPLINGS[..4].iter().map(|sampling| jpeg(|encoder| encoder.set_sampling_factor(*sampling))));
    for (number, usual) in jpegs.iter().enumerate() {
        let optimized = optimized(usual).unwrap();
        assert!(optimized.len() * 100 < usual.len() * 99, "{} from {}, {number}", optimized.len(), usual.len());
        assert!(scaled(&optimized, 1) == scaled(usual, 1), "JPEG {number}");
        let [one, other] = [usual, &optimized].map(|jpeg| ::image::load_from_memory(jpeg).unwrap());
        assert!(one == other, "JPEG {number}, by the decoder of `image`");
    }
    assert!(optimized(&jpeg(|encoder| encoder.set_progressive(true))).is_none());
    assert!(optimized(&jpeg(|encoder| encoder.set_restart_interval(3))).is_none());
    assert!(optimized(&jpegs[1][..900]).is_none());
}

#[test]
fn a_jpeg_in_rgb_is_decoded_whole() {
    // According to the names of the components.
    let mut named = jpeg(|encoder| encoder.set_sampling_factor(SamplingFactor::F_1_1));
    let frame = named.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    (0..3).for_each(|i| named[frame + 10 + i * 3] = b"RGB"[i]);
    assert!(decode(&named, Size::new(331, 245), 4, |_| Vec::new()).is_none());
}

#[test]
fn a_resize_beyond_the_largest_fit_has_the_requested_size() {
    let image = DecodeOptions::new().largest_fit(Fit::Inside(40, 40)).decode(jpeg(|_| ())).unwrap();
    assert_eq!((image.divisor, resized(&image, Fit::Inside(200, 200)).dimensions()), (8, (200, 148)));
}

#[test]
fn a_truncated_jpeg_is_refused() {
    let whole = jpeg(|_| ());
    for length in (0..whole.len()).step_by(97) {
        let cut = &whole[..length];
        assert!(decode(cut, Size::new(331, 245), 8, |_| Vec::new()).is_none());
        let error = DecodeOptions::new().largest_fit(Fit::Inside(30, 30)).decode(cut).unwrap_err();
        assert_eq!((error.status_code().code(), error.message()), (422, Some(NOT_AN_IMAGE)));
        // With an end marker it is refused here too, and `image` decides.
        let ended = [cut, &[0xff, 0xd9]].concat();
        assert!(decode(&ended, Size::new(331, 245), 8, |_| Vec::new()).is_none());
    }
}

#[test]
fn a_jpeg_of_another_size_than_checked_is_refused() {
    assert!(decode(&gray(), Size::new(331, 244), 8, |_| Vec::new()).is_none());
}

#[test]
fn mutated_jpegs_cause_no_panic() {
    let mut seed = 7_usize;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let progressive = jpeg(|encoder| encoder.set_progressive(true));
    let separate = jpeg(|encoder| encoder.set_optimized_huffman_tables(true));
    for whole in [gray(), jpeg(|encoder| encoder.set_restart_interval(3)), progressive, separate] {
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=next(4) {
                let at = if next(2) == 0 { next(bytes.len()) } else { next(scan + 16) };
                bytes[at] = next(256) as u8;
            }
            for by in [2, 4, 8] {
                // Broken or not, it must end without a panic.
                let _ = decode(&bytes, Size::new(331, 245), by, |_| Vec::new());
            }
        }
    }
}
