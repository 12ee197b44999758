//! The time and memory for resizing a photo. Run `cargo bench --bench image`; the results are in `benches/README.md`.
//!
//! It resizes a photo of 12 megapixels to fit in 800 x 800, from file to file, alternating between three ways within one
//! run: `image` with its own Lanczos3, aside before it decoded JPEGs at a reduced size, and aside now. Other formats follow.
//! The memory of each way is measured in a separate process. `cargo bench --bench image -- kinds` compares five kinds of
//! photos, as baseline and progressive JPEGs. With `ASIDE_PEERS_PYTHON` (a Python with Pillow) or
//! `ASIDE_PEERS_SHARP` (a folder in which `npm install sharp` was run), these take part, and the resulting images are
//! compared.

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use aside::image::{DecodeOptions, Fit, resize};
use fast_image_resize::{ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, Rgb, RgbImage};

#[path = "image/kinds.rs"]
mod kinds;

const ROUNDS: usize = 15;
const FIT: Fit = Fit::Inside(800, 800);

/// A function that resizes the first file, and writes the result to the second.
type Way = fn(&Path, &Path);
const WAYS: [(&str, Way); 3] = [("`image` alone", by_image), ("before", as_before), ("now", as_now)];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, way, from, to] = &arguments[..] {
        return alone(way, Path::new(from), Path::new(to));
    }
    let folder = tempfile::tempdir().expect("a folder");
    if arguments.iter().any(|argument| argument == "kinds") {
        return kinds::measure(folder.path());
    }
    let photo = photo(4000, 3000);
    let jpeg = folder.path().join("photo.jpg");
    let mut file = fs::File::create(&jpeg).expect("a file");
    photo.write_with_encoder(JpegEncoder::new_with_quality(&mut file, 80)).expect("a JPEG");
    println!("a JPEG of {:.1} MB to fit in 800 x 800, {ROUNDS} rounds in turns", megabytes(&jpeg));
    in_turns(&jpeg);
    parts(&jpeg);
    memory(&jpeg);
    for name in ["photo.png", "photo.webp", "photo.gif"] {
        let from = folder.path().join(name);
        photo.save(&from).expect("that format");
        let to = folder.path().join("small.jpg");
        let mut times: Vec<f64> = (0..3).map(|_| milliseconds(|| as_now(&from, &to))).collect();
        println!("{name}, {:.1} MB: {:.0} ms", megabytes(&from), median(&mut times));
    }
}

/// Returns an image with smooth areas of many sizes, some sharp edges, and sensor noise. Its JPEG is as large as that of a
/// camera.
fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (x as f32, y as f32);
        let octave = |octave: u32| {
            (noise(across, down, 1024.0 / (1 << octave) as f32, octave) - 0.5) * 0.55_f32.powi(octave as i32)
        };
        let light: f32 = (0..9).map(octave).sum();
        let edge = if noise(across, down, 90.0, 99) > 0.72 { 0.25 } else { 0.0 };
        Rgb([700.0, 500.0, 300.0].map(|size| {
            let colour = noise(across, down, size, size as u32) - 0.5;
            let grain = (random(x, y, size as u32) + random(y, x, size as u32 + 1) - 1.0) * 0.075;
            ((0.5 + 0.5 * light + 0.35 * colour + edge + grain) * 255.0) as u8
        }))
    })
}

/// Interpolates between random values at a distance of `size`.
fn noise(x: f32, y: f32, size: f32, seed: u32) -> f32 {
    let (x, y) = (x / size, y / size);
    let smooth = |part: f32| part * part * (3.0 - 2.0 * part);
    let (across, down) = (smooth(x.fract()), smooth(y.fract()));
    let at = |right: u32, below: u32| random(x as u32 + right, y as u32 + below, seed);
    let mix = |one: f32, other: f32, part: f32| one * (1.0 - part) + other * part;
    mix(mix(at(0, 0), at(1, 0), across), mix(at(0, 1), at(1, 1), across), down)
}

/// Returns a number from 0 to 1 that depends only on the position and the seed.
fn random(x: u32, y: u32, seed: u32) -> f32 {
    let mut bits = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ seed.wrapping_mul(0xc2b2_ae3d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x2c1b_3c6d);
    bits = (bits ^ (bits >> 12)).wrapping_mul(0x297a_2d39);
    ((bits ^ (bits >> 15)) & 0xffff) as f32 / 65_535.0
}

fn by_image(from: &Path, to: &Path) {
    let small = decoded(from).resize(800, 800, FilterType::Lanczos3);
    fs::write(to, encoded(&small)).expect("a file");
}

fn as_before(from: &Path, to: &Path) {
    fs::write(to, encoded(&resized(&decoded(from)))).expect("a file");
}

fn as_now(from: &Path, to: &Path) {
    resize(from, to, FIT).expect("an image");
}

fn decoded(from: &Path) -> DynamicImage {
    image::load_from_memory(&fs::read(from).expect("a file")).expect("an image")
}

fn resized(pixels: &DynamicImage) -> DynamicImage {
    let mut small = DynamicImage::new(800, 600, pixels.color());
    Resizer::new().resize(pixels, &mut small, &ResizeOptions::new()).expect("the same kind of pixels");
    small
}

fn encoded(pixels: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(Cursor::new(&mut bytes), 85);
    pixels.write_with_encoder(encoder).expect("a JPEG");
    bytes
}

/// Runs all ways and all peers in turns, and compares their results with those of `image` and sharp.
fn in_turns(jpeg: &Path) {
    let mut peers = Peer::all();
    let names: Vec<&str> = WAYS.iter().map(|way| way.0).chain(peers.iter().map(|peer| peer.name)).collect();
    let to = |which: usize| jpeg.with_file_name(format!("small-{which}.jpg"));
    let mut times = vec![Vec::new(); names.len()];
    for _ in 0..ROUNDS {
        for (which, times) in times.iter_mut().enumerate() {
            let time = match WAYS.get(which) {
                Some((_, way)) => milliseconds(|| way(jpeg, &to(which))),
                None => peers[which - WAYS.len()].turn(jpeg, &to(which)),
            };
            times.push(time);
        }
    }
    let made: Vec<GrayImage> = (0..names.len()).map(|which| decoded(&to(which)).to_luma8()).collect();
    for (which, name) in names.iter().enumerate() {
        let (fastest, time) = (times[which].iter().copied().fold(f64::MAX, f64::min), median(&mut times[which]));
        let alike = (0..names.len()).filter(|&other| other != which);
        let alike: Vec<String> =
            alike.map(|other| format!("{:.4} to {}", likeness(&made[which], &made[other]), names[other])).collect();
        println!("{name}: median {time:.1} ms, fastest {fastest:.1} ms; SSIM {}", alike.join(", "));
    }
}

/// Measures the steps of a resize.
fn parts(jpeg: &Path) {
    let bytes = fs::read(jpeg).expect("a file");
    let (whole, part) = (decoded(jpeg), DecodeOptions::new().largest_fit(FIT).decode(&bytes).expect("an image"));
    let small = resized(&whole);
    let parts: [(&str, &dyn Fn()); 7] = [
        ("decode, `image`", &|| drop(decoded(jpeg))),
        ("decode, now", &|| drop(DecodeOptions::new().largest_fit(FIT).decode(&bytes))),
        ("resize, `image`", &|| drop(whole.resize(800, 800, FilterType::Lanczos3))),
        ("resize, before", &|| drop(resized(&whole))),
        ("encode, before", &|| drop(encoded(&small))),
        ("resize and encode, now", &|| drop(part.encode(FIT, aside::image::Format::Jpeg))),
        ("decode for 1600, 800, 200, now", &|| {
            drop(DecodeOptions::new().largest_fit(Fit::Inside(1600, 1600)).decode(&bytes))
        }),
    ];
    let mut times = parts.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (times, (_, part)) in times.iter_mut().zip(parts) {
            times.push(milliseconds(part));
        }
    }
    for (times, (name, _)) in times.iter_mut().zip(parts) {
        println!("  {name}: {:.1} ms", median(times));
    }
}

fn memory(jpeg: &Path) {
    let program = std::env::current_exe().expect("this program");
    for (name, _) in WAYS {
        let to = jpeg.with_file_name("small.jpg");
        let child = Command::new(&program).arg(name).arg(jpeg).arg(to).output().expect("a process");
        println!("  peak memory, {name}: {}", String::from_utf8_lossy(&child.stdout).trim());
    }
}

/// Resizes the photo in a separate process, and prints its peak memory.
fn alone(name: &str, from: &Path, to: &Path) {
    let way = WAYS.iter().find(|way| way.0 == name).expect("the name of a way");
    way.1(from, to);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!("{}", peak.unwrap_or("not known on this system").trim());
}

/// Another program that resizes an image for each line of its input.
struct Peer {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn all() -> Vec<Peer> {
        let script = |name: &str| format!("{}/benches/{name}", env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var("ASIDE_PEERS_PYTHON").ok();
        let python = python.map(|python| Peer::new("Pillow", Command::new(python).arg(script("image_peers.py"))));
        let sharp = std::env::var("ASIDE_PEERS_SHARP").ok();
        let sharp =
            sharp.map(|folder| Peer::new("sharp", Command::new("node").arg(script("image_peers.mjs")).arg(folder)));
        python.into_iter().chain(sharp).collect()
    }

    fn new(name: &'static str, command: &mut Command) -> Peer {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peer's program");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Peer { name, child, input, output: BufReader::new(output) }
    }

    /// Returns the milliseconds that the peer reports.
    fn turn(&mut self, from: &Path, to: &Path) -> f64 {
        self.ask(from, to, "85")
    }

    /// Writes the image with this quality, or, with `progressive`, the whole image as a progressive JPEG (sharp only).
    fn ask(&mut self, from: &Path, to: &Path, quality: &str) -> f64 {
        writeln!(self.input, "{}\t{}\t{quality}", from.display(), to.display()).expect("a peer that reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a peer that answers");
        line.trim().parse().expect("milliseconds")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the SSIM of the luma: the mean over windows of 8 x 8 pixels at a distance of 4.
fn likeness(one: &GrayImage, other: &GrayImage) -> f64 {
    assert_eq!(one.dimensions(), other.dimensions());
    let (columns, rows) = ((one.width() - 8) / 4 + 1, (one.height() - 8) / 4 + 1);
    let windows = (0..rows).flat_map(|y| (0..columns).map(move |x| (x * 4, y * 4)));
    windows.map(|(x, y)| likeness_of_windows(one, other, x, y)).sum::<f64>() / f64::from(columns * rows)
}

fn likeness_of_windows(one: &GrayImage, other: &GrayImage, left: u32, top: u32) -> f64 {
    let [mut a, mut b, mut aa, mut bb, mut ab] = [0.0; 5];
    for (x, y) in (0..8).flat_map(|y| (0..8).map(move |x| (left + x, top + y))) {
        let (p, q) = (f64::from(one.get_pixel(x, y)[0]), f64::from(other.get_pixel(x, y)[0]));
        (a, b, aa, bb, ab) = (a + p / 64.0, b + q / 64.0, aa + p * p / 64.0, bb + q * q / 64.0, ab + p * q / 64.0);
    }
    let (light, contrast) = ((0.01_f64 * 255.0).powi(2), (0.03_f64 * 255.0).powi(2));
    let spread = aa - a * a + bb - b * b;
    (2.0 * a * b + light) * (2.0 * (ab - a * b) + contrast) / ((a * a + b * b + light) * (spread + contrast))
}

fn milliseconds(f: impl FnOnce()) -> f64 {
    let began = Instant::now();
    f();
    began.elapsed().as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn megabytes(path: &Path) -> f64 {
    fs::metadata(path).map_or(0.0, |file| file.len() as f64 / 1e6)
}
