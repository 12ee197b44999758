//! Five kinds of photos of 12 megapixels, drawn, as baseline and as progressive JPEGs: the time to fit them in 800 x 800,
//! and the size of the result where sharp's looks as much like the original.

use std::fs;
use std::path::Path;

use image::{GrayImage, Rgb, RgbImage};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use super::{Peer, as_now, decoded, likeness, median, milliseconds, noise, random, resized};

const ROUNDS: usize = 9;

/// The qualities at which sharp's sizes are measured. Between two of them, the size is interpolated.
const QUALITIES: [u32; 8] = [60, 70, 78, 82, 85, 88, 93, 100];

/// A color of 0 to 255 per channel, before sensor noise.
type Kind = fn(f32, f32) -> [f32; 3];
const KINDS: [(&str, Kind, f32); 5] = [
    ("portrait", portrait, 8.0),
    ("landscape", landscape, 14.0),
    ("text", text, 8.0),
    ("night", night, 34.0),
    ("screenshot", screenshot, 0.0),
];

pub fn measure(folder: &Path) {
    let mut peers = Peer::all();
    println!("five kinds of photos, 4000 x 3000, to fit in 800 x 800; {ROUNDS} rounds in turns, medians in ms");
    for (name, kind, grain) in KINDS {
        let whole = drawn(kind, grain);
        let original = resized(&whole.clone().into()).to_rgb8();
        let baseline = folder.join(format!("{name}.jpg"));
        fs::write(&baseline, camera(&whole)).expect("a file");
        times(name, "baseline", &baseline, &mut peers);
        let Some(sharp) = peers.iter_mut().find(|peer| peer.name == "sharp") else { continue };
        sizes(name, &baseline, &original, sharp);
        let progressive = folder.join(format!("{name}-progressive.jpg"));
        sharp.ask(&baseline, &progressive, "progressive");
        times(name, "progressive", &progressive, &mut peers);
    }
}

/// Returns the file of a camera: baseline, with colors at half the resolution.
fn camera(pixels: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode(pixels, pixels.width() as u16, pixels.height() as u16, ColorType::Rgb).expect("a JPEG");
    bytes
}

fn times(name: &str, structure: &str, from: &Path, peers: &mut [Peer]) {
    let to = from.with_file_name("small.jpg");
    let mut all = vec![Vec::new(); peers.len() + 1];
    for _ in 0..ROUNDS {
        all[0].push(milliseconds(|| as_now(from, &to)));
        for (peer, times) in peers.iter_mut().zip(&mut all[1..]) {
            times.push(peer.turn(from, &to));
        }
    }
    let ours = median(&mut all[0]);
    let megabytes = fs::metadata(from).map_or(0.0, |file| file.len() as f64 / 1e6);
    print!("{name}, {structure}, {megabytes:.1} MB: aside {ours:.1}");
    for (peer, times) in peers.iter().zip(&mut all[1..]) {
        let time = median(times);
        print!(", {} {time:.1} (aside: {:.2} of it)", peer.name, ours / time);
    }
    println!();
}

/// Compares the sizes at the same quality number, and at the same SSIM to the original.
fn sizes(name: &str, from: &Path, original: &RgbImage, sharp: &mut Peer) {
    let to = from.with_file_name("size.jpg");
    let made = |to: &Path| {
        let small = decoded(to).to_rgb8();
        (color_likeness(&small, original), fs::metadata(to).expect("a file").len() as f64)
    };
    as_now(from, &to);
    let (ours, size) = made(&to);
    let points: Vec<(f64, f64)> = QUALITIES
        .map(|quality| {
            sharp.ask(from, &to, &quality.to_string());
            made(&to)
        })
        .to_vec();
    let same = points[QUALITIES.iter().position(|quality| *quality == 85).expect("85")];
    let equal = match points.windows(2).find(|pair| (pair[0].0..=pair[1].0).contains(&ours)) {
        Some(pair) => {
            let part = (ours - pair[0].0) / (pair[1].0 - pair[0].0);
            format!("{:.2} of sharp's at equal SSIM", size / (pair[0].1.powf(1.0 - part) * pair[1].1.powf(part)))
        }
        None => format!("sharp's SSIM is {:.4} to {:.4} at 60 to 100", points[0].0, points[points.len() - 1].0),
    };
    println!(
        "  {name}: {size} bytes, SSIM {ours:.4}; sharp at 85: {} bytes, SSIM {:.4}; {:.2} of sharp's size, {equal}",
        same.1,
        same.0,
        size / same.1
    );
}

/// Returns the mean SSIM of red, green and blue.
fn color_likeness(one: &RgbImage, other: &RgbImage) -> f64 {
    let channel = |image: &RgbImage, which: usize| -> GrayImage {
        GrayImage::from_fn(image.width(), image.height(), |x, y| image::Luma([image.get_pixel(x, y)[which]]))
    };
    (0..3).map(|which| likeness(&channel(one, which), &channel(other, which))).sum::<f64>() / 3.0
}

fn drawn(kind: Kind, grain: f32) -> RgbImage {
    RgbImage::from_fn(4000, 3000, |x, y| {
        let color = kind(x as f32, y as f32);
        let mut seed = 0;
        Rgb(color.map(|channel| {
            seed += 1;
            (channel + (random(x, y, seed) + random(y, x, seed + 7) - 1.0) * grain) as u8
        }))
    })
}

fn mixed(one: [f32; 3], other: [f32; 3], part: f32) -> [f32; 3] {
    let part = part.clamp(0.0, 1.0);
    [0, 1, 2].map(|channel| one[channel] * (1.0 - part) + other[channel] * part)
}

/// A face before a blurred background, with hair, eyes and red lips.
fn portrait(x: f32, y: f32) -> [f32; 3] {
    let inside = |left: f32, top: f32, wide: f32, high: f32| {
        (1.0 - ((x - left) / wide).powi(2) - ((y - top) / high).powi(2)) * 12.0
    };
    let background = mixed([70.0, 95.0, 80.0], [190.0, 180.0, 150.0], noise(x, y, 600.0, 1));
    let strands = noise(x, y / 12.0, 9.0, 2) * 40.0;
    let with_hair =
        mixed(background, [45.0 + strands, 30.0 + strands, 22.0 + strands], inside(2000.0, 1350.0, 900.0, 1150.0));
    let pores = noise(x, y, 7.0, 3) * 10.0 + noise(x, y, 300.0, 4) * 30.0;
    let skin = [205.0 + pores, 155.0 + pores, 130.0 + pores];
    let with_face = mixed(with_hair, skin, inside(2000.0, 1500.0, 680.0, 900.0));
    let with_lips = mixed(with_face, [185.0, 45.0, 60.0], inside(2000.0, 2050.0, 210.0, 70.0));
    let eyes = inside(1700.0, 1350.0, 90.0, 45.0).max(inside(2300.0, 1350.0, 90.0, 45.0));
    mixed(with_lips, [35.0, 45.0, 60.0], eyes)
}

/// A sky with clouds above hills, and a meadow in front.
fn landscape(x: f32, y: f32) -> [f32; 3] {
    let cloud = noise(x, y * 2.0, 500.0, 1) * 0.6 + noise(x, y * 2.0, 120.0, 2) * 0.4;
    let sky = mixed([90.0 + y / 30.0, 140.0 + y / 30.0, 215.0], [245.0; 3], cloud * 2.0 - 0.8);
    let ridge = 1200.0 + noise(x, 0.0, 700.0, 3) * 500.0 + noise(x, 0.0, 60.0, 4) * 60.0;
    let rock = noise(x, y, 90.0, 5) * 60.0 + noise(x, y, 12.0, 6) * 40.0;
    let with_hills = if y > ridge { [60.0 + rock, 70.0 + rock, 75.0 + rock] } else { sky };
    let blades = noise(x, y / 5.0, 6.0, 7) * 90.0 + noise(x, y, 200.0, 8) * 40.0;
    let flower = if noise(x, y, 24.0, 9) > 0.93 { 110.0 } else { 0.0 };
    mixed(with_hills, [30.0 + blades * 0.8 + flower, 60.0 + blades, 20.0 + blades * 0.3], (y - 2000.0) / 40.0)
}

/// A printed page under uneven light.
fn text(x: f32, y: f32) -> [f32; 3] {
    let light = 215.0 + noise(x, y, 1500.0, 1) * 35.0;
    let paper = [light, light - 3.0, light - 12.0];
    if is_ink(x, y, 64.0) { mixed(paper, [25.0, 25.0, 30.0], 0.95) } else { paper }
}

/// Returns true inside the strokes of letters, in lines of this height.
fn is_ink(x: f32, y: f32, line: f32) -> bool {
    let (column, row) = ((x / (line * 0.5)) as u32, (y / line) as u32);
    let (left, top) = ((x / (line * 0.5)).fract(), (y / line).fract());
    let shape = (random(column, row, 5) * 16.0) as u32;
    if shape < 3 || !(0.2..0.75).contains(&top) || left > 0.8 {
        return false;
    }
    let has = |bit: u32| shape >> bit & 1 == 1;
    let is_stem = (has(0) && left < 0.16) || (has(1) && left > 0.64);
    is_stem || (has(2) && top < 0.29) || (has(3) && top > 0.66) || (left - (top - 0.2)).abs() < 0.08
}

/// Dark houses with lit windows and colored lamps.
fn night(x: f32, y: f32) -> [f32; 3] {
    let haze = 18.0 + noise(x, y, 900.0, 1) * 22.0;
    let dark = [haze, haze + 2.0, haze + 12.0];
    let (column, row) = ((x / 130.0) as u32, (y / 150.0) as u32);
    let is_window = (0.3..0.7).contains(&(x / 130.0).fract()) && (0.3..0.7).contains(&(y / 150.0).fract());
    if is_window && y > 1300.0 && random(column, row, 2) > 0.8 {
        return [225.0, 180.0, 95.0];
    }
    let (across, down) = ((x / 400.0) as u32, (y / 400.0) as u32);
    let distance = ((x / 400.0).fract() - 0.5).hypot((y / 400.0).fract() - 0.5);
    let lamp =
        [[255.0, 190.0, 120.0], [120.0, 180.0, 255.0], [255.0, 70.0, 60.0]][(random(across, down, 3) * 2.99) as usize];
    if random(across, down, 4) > 0.6 { mixed(dark, lamp, 1.0 - distance * 7.0) } else { dark }
}

/// Windows with a red and a blue bar, buttons and lines of text; no noise.
fn screenshot(x: f32, y: f32) -> [f32; 3] {
    let (column, row) = ((x / 1000.0) as u32, (y / 750.0) as u32);
    let (left, top) = (x % 1000.0, y % 750.0);
    if left < 30.0 || top < 30.0 {
        return [236.0, 238.0, 242.0];
    }
    if top < 110.0 {
        return [[200.0, 30.0, 35.0], [30.0, 90.0, 200.0]][((column + row) % 2) as usize];
    }
    if (600.0..690.0).contains(&top) && (80.0..380.0).contains(&left) {
        return [40.0, 150.0, 80.0];
    }
    if top < 560.0 && left > 80.0 && is_ink(x, y, 48.0) { [40.0, 42.0, 48.0] } else { [255.0; 3] }
}
