//! The pixels of the result: orientation, colors, transparency and metadata.

use ::image::codecs::png::PngEncoder;
use ::image::{GrayImage, ImageEncoder, Luma};
use moxcms::ColorProfile;

use super::*;

fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let entry = [0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
    let exif = [b"Exif\0\0II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat();
    with_segment(jpeg, 0xe1, &exif)
}

#[test]
fn every_exif_orientation_is_applied() {
    const COLORS: [(char, [u8; 3]); 4] = [('R', [255, 0, 0]), ('G', [0, 255, 0]), ('B', [0, 0, 255]), ('W', [255; 3])];
    // In the file, 64 x 32: red and green above, blue and white below.
    let lying = RgbImage::from_fn(64, 32, |x, y| Rgb(COLORS[(x / 32 + y / 16 * 2) as usize].1));
    let jpeg = bytes_of(lying, Format::Jpeg);
    // From the table in the standard, which says where the first row and the first column belong.
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
                COLORS.iter().find(|color| color.1 == [r, g, b]).map_or('?', |color| color.0)
            })
            .collect();
        assert_eq!(seen, corners, "orientation {orientation}");
    }
}

#[test]
fn a_rotated_image_covers_the_requested_size() {
    let image = Image::decode(with_orientation(&red(64, 32, Format::Jpeg), 6)).unwrap();
    assert_eq!(shown(&image.encode(Fit::Cover(30, 10), Format::Png).unwrap()).dimensions(), (30, 10));
}

#[test]
fn metadata_is_removed() {
    let secret = with_segment(&with_orientation(&red(8, 8, Format::Jpeg), 6), 0xfe, b"Anna's garden");
    for format in FORMATS {
        let bytes = Image::decode(&secret).unwrap().encode(AS_IT_IS, format).unwrap();
        for word in [b"Exif".as_slice(), b"EXIF", b"eXIf", b"Anna"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word));
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
fn all_pixel_types_are_read() {
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

/// Returns a red JPEG of 8 x 8 pixels in CMYK, inverted as Adobe writes it: 0 % cyan, full magenta and yellow, 0 % black.
fn cmyk_red() -> Vec<u8> {
    let segment =
        |marker: u8, data: &[u8]| [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat();
    let components: Vec<u8> = (1..=4).flat_map(|id| [id, 0x11, 0]).collect();
    let scanned: Vec<u8> = (1..=4).flat_map(|id| [id, 0]).collect();
    // Each component is one block: its mean in ten bits, with a code of the first table, and its end, with one of the second.
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
fn a_cmyk_jpeg_is_read() {
    let image = Image::decode(cmyk_red()).unwrap();
    let pixels = shown(&image.encode(AS_IT_IS, Format::Png).unwrap());
    assert!(is_near(pixels.get_pixel(4, 4), [255, 0, 0, 255]), "{:?}", pixels.get_pixel(4, 4));
}

#[test]
fn colors_are_converted_to_srgb() {
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
    let jpeg =
        with_segment(&bytes_of(gray.clone(), Format::Jpeg), 0xe2, &[&b"ICC_PROFILE\0\x01\x01"[..], &linear].concat());
    for (bytes, what) in [(png(gray), "gray"), (png(deep), "16 bits"), (png(transparent), "alpha"), (jpeg, "JPEG")] {
        let out = Image::decode(&bytes).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
        // Half of the light corresponds to 188 in sRGB.
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

#[test]
fn a_broken_profile_is_ignored() {
    let mut png = Vec::new();
    let mut encoder = PngEncoder::new(&mut png);
    encoder.set_icc_profile(vec![0xff; 200]).unwrap();
    RgbImage::from_pixel(8, 8, RED).write_with_encoder(encoder).unwrap();
    let out = Image::decode(&png).unwrap().encode(AS_IT_IS, Format::Png).unwrap();
    assert_eq!(shown(&out).get_pixel(4, 4).0, [255, 0, 0, 255]);
}
