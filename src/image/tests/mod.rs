//! Resizing through the public functions, and the images that the tests use.

mod memory;
mod pixels;
mod untrusted;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ::image::{Rgb, RgbImage, Rgba, RgbaImage};
use tempfile::TempDir;

use super::*;

const FORMATS: [Format; 4] = [Format::Jpeg, Format::Png, Format::WebP, Format::Gif];
const RED: Rgb<u8> = Rgb([255, 0, 0]);
const AS_IT_IS: Fit = Fit::WHOLE;

fn bytes_of(pixels: impl Into<DynamicImage>, format: Format) -> Vec<u8> {
    encoded(&pixels.into(), format, false).unwrap()
}

fn red(width: u32, height: u32, format: Format) -> Vec<u8> {
    bytes_of(RgbImage::from_pixel(width, height, RED), format)
}

/// Returns an image whose pixels all differ, so that no format compresses it well.
fn noise(side: u32, format: Format) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut byte = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    bytes_of(RgbImage::from_fn(side, side, |_, _| Rgb([byte(), byte(), byte()])), format)
}

/// Returns the pixels as a page would show them.
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

/// Inserts a segment after the start marker of a JPEG.
fn with_segment(jpeg: &[u8], marker: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, data, &jpeg[2..]].concat()
}

#[test]
fn every_format_is_converted_to_every_format() {
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

/// Inserts an application block after the header of a GIF and its color table.
fn with_application_block(gif: &[u8], name: &[u8; 11], data: &[u8]) -> Vec<u8> {
    let header = 13 + if gif[10] & 0x80 == 0 { 0 } else { 6 << (gif[10] & 7) };
    let sub_blocks: Vec<u8> = data.chunks(255).flat_map(|data| [&[data.len() as u8][..], data].concat()).collect();
    [&gif[..header], &[0x21, 0xff, 11], name, &sub_blocks, &[0], &gif[header..]].concat()
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
fn tiny_and_very_long_images_are_resized() {
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
fn cover_crops_to_the_center() {
    // Green in the middle third, red to its left and right.
    let striped = RgbImage::from_fn(90, 30, |x, _| if x / 30 == 1 { Rgb([0, 255, 0]) } else { RED });
    let image = Image::decode(bytes_of(striped, Format::Png)).unwrap();
    let pixels = shown(&image.encode(Fit::Cover(15, 15), Format::Png).unwrap());
    assert_eq!(pixels.dimensions(), (15, 15));
    // Except at the rim, where the filter reads a little past the edge.
    let is_green = |x: u32| is_near(pixels.get_pixel(x, 7), [0, 255, 0, 255]);
    assert!((3..12).all(is_green));
    assert_eq!(pixels.get_pixel(0, 7), pixels.get_pixel(14, 7), "the same on both sides");
}

#[test]
fn the_format_is_detected_from_the_content() {
    let folder = TempDir::new().unwrap();
    let (from, to) = (folder.path().join("photo.jpg"), folder.path().join("small.JPEG"));
    fs::write(&from, red(40, 20, Format::Png)).unwrap();
    assert_eq!(resize(&from, &to, Fit::Inside(10, 10)).unwrap(), Size::new(10, 5));
    assert!(fs::read(&to).unwrap().starts_with(b"\xff\xd8"));
    assert_eq!(resize(&from, &from, Fit::Inside(10, 10)).unwrap(), Size::new(10, 5), "onto itself");
}

#[test]
fn a_failed_resize_leaves_no_files() {
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
fn a_written_image_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let (usual, ours) = (folder.path().join("a.png"), folder.path().join("b.png"));
    fs::write(&usual, red(4, 4, Format::Png)).unwrap();
    resize(&usual, &ours, AS_IT_IS).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&usual));
}

#[test]
fn an_image_is_send_and_sync() {
    fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Image>();
}
