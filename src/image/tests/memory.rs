//! The memory that images take.

use std::io::Write;

use ::image::ImageFormat;

use super::*;
use crate::config::Config;

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
    let name = format!("image::tests::memory::{test}");
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
                client.within(|| crate::background::task::background(move || resize(from, to, Fit::Inside(100, 100))))
            })
            .collect();
        tasks.into_iter().for_each(|task| assert_eq!(task.join().unwrap().unwrap(), Size::new(100, 100)));
    };
    let used = megabytes_for(resize_twelve);
    assert!((10..50).contains(&used), "{used} MB");
    // An image larger than the whole limit is refused, and the next one is not.
    client.within(|| {
        let refused = Image::decode(red(2500, 2500, Format::Png)).unwrap_err();
        assert!(refused.chain().contains("16,777,216 bytes for all images (ASIDE_MAX_IMAGE_MEMORY)"));
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
    let with_chunk = |kind: &[u8; 4], data: &[&[u8]]| [&png[..33], &chunk(kind, &data.concat()), &png[33..]].concat();
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
fn a_reused_buffer_reveals_nothing_of_the_previous_image() {
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
        assert_eq!(buffer::kept_bytes(), Some(300 * 300 * 3));
        assert!(Image::decode(&cut).is_err());
        drop(Image::decode(&first)?);
        let image = Image::decode(&second)?;
        assert!(image.pixels.as_bytes().iter().all(|&byte| byte == 3));
        crate::error::ok(())
    };
    client.within(|| crate::background::task::background(work)).join().unwrap().unwrap();
    client.drain();
    drop(Image::decode(png(7)).unwrap());
    assert!(buffer::kept_bytes().is_none(), "outside a task nothing is kept");
}
