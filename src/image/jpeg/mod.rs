//! A JPEG decoder for a half, a quarter or an eighth of the size, as in libjpeg. It evaluates only the low ones of the 64
//! frequencies of a block of 8 x 8 pixels, and only at fewer points. A small image is then never computed or held in memory
//! at the full size of the photo.
//!
//! It decodes baseline and progressive JPEGs, gray or YCbCr. For any other or malformed JPEG it returns `None`, and `image`
//! decodes the whole image and decides. This decoder therefore reports no reasons, and may give up whenever it is in doubt.

mod header;
mod huffman;
mod optimize;
mod stored;

use std::array::from_fn;
use std::f32::consts::{FRAC_1_SQRT_2, PI};

use ::image::{DynamicImage, GrayImage, RgbImage};

use self::header::{Component, Header, Scan};
use self::huffman::{Bits, Coefficient, Huffman};
pub(super) use self::optimize::optimized;
use self::stored::Stored;
use super::Size;

/// The frequencies of a block in the order of the file, low ones first: the row times eight, plus the column.
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Decodes a JPEG of this size at 1/`by` of it (1, 2, 4 or 8) in each direction, rounded up. `buffer` provides the buffer for
/// its pixels.
pub(super) fn decode(jpeg: &[u8], size: Size, by: u32, buffer: impl FnOnce(u64) -> Vec<u8>) -> Option<DynamicImage> {
    let (mut header, scan, bytes) = Header::read(jpeg)?;
    // The limits were checked against the size that another decoder read.
    if Size::new(header.width as u32, header.height as u32) != size {
        return None;
    }
    let (width, height) = (size.width.div_ceil(by), size.height.div_ceil(by));
    let channels = header.components.len();
    let sides: Vec<usize> = header.components.iter().map(|component| header.side(component, by as usize)).collect();
    let is_single = !header.is_progressive && scan.parts.len() == channels;
    let source = if is_single {
        Source::Scan(Single::new(&scan, bytes))
    } else {
        Source::Stored(stored::read(&mut header, scan, bytes, &sides)?)
    };
    let buffer = buffer(u64::from(width) * u64::from(height) * channels as u64);
    let pixels = Decoder::new(&header, source, &sides, by as usize)?.pixels(width as usize, height as usize, buffer)?;
    match channels {
        1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    }
}

/// Returns true if the scans of a JPEG of this size have neither missing nor extra data before the end marker. `None` for a
/// JPEG that this decoder cannot read.
pub(super) fn is_whole(jpeg: &[u8], size: Size) -> Option<bool> {
    Header::read(jpeg)?;
    Some(decode(jpeg, size, 8, |_| Vec::new()).is_some())
}

/// A component being decoded, one row of MCUs at a time.
struct Plane<'a> {
    /// The factors of the coefficients, in the order of the file.
    quantization: &'a [f32; 64],
    /// The number of its blocks in one MCU.
    across: usize,
    down: usize,
    /// The side of a decoded block: 1, 2, 4 or 8 pixels.
    side: usize,
    /// The values of the table by row and column.
    table: [f32; 64],
    /// The value of each cosine at each point of a side.
    waves: [[f32; 8]; 8],
    /// The number of image pixels per pixel of this component, in each direction: more than 1 for subsampled colors.
    spread: (usize, usize),
    /// The width of the row.
    width: usize,
    pixels: Vec<u8>,
}

/// Where the coefficients come from.
enum Source<'a> {
    /// A single scan of all components, read block by block.
    Scan(Single<'a>),
    /// The coefficients from several scans, by component.
    Stored(Vec<Stored>),
}

/// A scan of all components of a baseline JPEG.
struct Single<'a> {
    scan: &'a Scan,
    bits: Bits<'a>,
    /// The mean of the last block of each component. The next one is stored as a difference.
    means: [i32; 3],
    /// The number of MCUs since the last restart, and the number of restarts.
    since: usize,
    restarts: u8,
}

struct Decoder<'a> {
    header: &'a Header,
    planes: Vec<Plane<'a>>,
    source: Source<'a>,
    /// The number of image lines in a row of MCUs.
    lines: usize,
}

impl Header {
    /// Returns the number of image pixels that a block of the component covers, horizontally and vertically.
    fn covered(&self, component: &Component, by: usize) -> (usize, usize) {
        (8 * self.across / component.across / by, 8 * self.down / component.down / by)
    }

    /// Returns the side of a decoded block of the component. Subsampled colors are decoded from more frequencies.
    fn side(&self, component: &Component, by: usize) -> usize {
        let (wide, high) = self.covered(component, by);
        wide.min(high).min(8)
    }
}

impl<'a> Decoder<'a> {
    fn new(header: &'a Header, source: Source<'a>, sides: &[usize], by: usize) -> Option<Decoder<'a>> {
        let mcus = header.width.div_ceil(header.across * 8);
        let plane = |(component, &side): (&'a Component, &usize)| {
            let (wide, high) = header.covered(component, by);
            let width = mcus * component.across * side;
            let quantization = component.quantization.as_ref()?;
            Some(Plane {
                quantization,
                table: by_wave(quantization),
                across: component.across,
                down: component.down,
                side,
                waves: waves(side),
                spread: (wide / side, high / side),
                width,
                pixels: vec![0; width * component.down * side],
            })
        };
        let planes = header.components.iter().zip(sides).map(plane).collect::<Option<_>>()?;
        Some(Decoder { header, planes, source, lines: 8 / by * header.down })
    }

    fn pixels(mut self, width: usize, height: usize, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
        let line = width * self.planes.len();
        buffer.clear();
        buffer.resize(line * height, 0);
        for (row, lines) in buffer.chunks_mut(line * self.lines).enumerate() {
            match &mut self.source {
                Source::Scan(scan) => scan.row(self.header, &mut self.planes)?,
                Source::Stored(stored) => {
                    self.planes.iter_mut().zip(stored).for_each(|(plane, stored)| plane.row(stored, row));
                }
            }
            for (y, line) in lines.chunks_exact_mut(line).enumerate() {
                self.line(y, line);
            }
        }
        if let Source::Scan(scan) = &mut self.source {
            // Fails if further scans or unexpected bytes follow.
            scan.bits.skip_marker(0xd9)?;
        }
        Some(buffer)
    }

    /// Writes the line `y` of the row from its components.
    fn line(&self, y: usize, line: &mut [u8]) {
        match &self.planes[..] {
            [gray] => line.copy_from_slice(&gray.line(y)[..line.len()]),
            [luma, blue, red] if luma.spread.0 == 1 && blue.spread.0 == 1 && red.spread.0 == 1 => {
                let colors = luma.line(y).iter().zip(blue.line(y)).zip(red.line(y));
                for (pixel, ((&luma, &blue), &red)) in line.as_chunks_mut().0.iter_mut().zip(colors) {
                    *pixel = rgb(luma, blue, red);
                }
            }
            planes => {
                for (x, pixel) in line.as_chunks_mut().0.iter_mut().enumerate() {
                    let [luma, blue, red] = from_fn(|which| planes[which].line(y)[x / planes[which].spread.0]);
                    *pixel = rgb(luma, blue, red);
                }
            }
        }
    }
}

impl Plane<'_> {
    fn line(&self, y: usize) -> &[u8] {
        &self.pixels[y / self.spread.1 * self.width..][..self.width]
    }

    /// Computes a row of MCUs from stored coefficients.
    fn row(&mut self, stored: &Stored, row: usize) {
        for down in 0..self.down {
            for column in 0..self.width / self.side {
                let values = stored.block(row * self.down + down, column);
                match self.side {
                    1 => self.stored_block::<1>(values, column, down),
                    2 => self.stored_block::<2>(values, column, down),
                    4 => self.stored_block::<4>(values, column, down),
                    _ => self.stored_block::<8>(values, column, down),
                }
            }
        }
    }

    fn stored_block<const N: usize>(&mut self, values: &[i16], column: usize, down: usize) {
        let mut sums = Sums::<N>::new();
        for (at, value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
            let (u, v) = (at % N, at / N);
            sums.add(u, v, f32::from(*value) * self.table[v * 8 + u], &self.waves);
        }
        self.put(column, down, sums.pixels(&self.waves));
    }

    /// Decodes the blocks of an MCU of a baseline JPEG.
    fn mcu<const N: usize>(
        &mut self,
        mcu: usize,
        tables: [&Huffman; 2],
        mean: &mut i32,
        all: &mut Bits<'_>,
    ) -> Option<()> {
        let mut bits = *all;
        for down in 0..self.down {
            for across in 0..self.across {
                let block = self.block::<N>(tables, mean, &mut bits)?;
                self.put(mcu * self.across + across, down, block);
            }
        }
        *all = bits;
        Some(())
    }

    fn put<const N: usize>(&mut self, column: usize, down: usize, block: [[u8; N]; N]) {
        for (y, line) in block.iter().enumerate() {
            let start = (down * N + y) * self.width + column * N;
            self.pixels[start..start + N].copy_from_slice(line);
        }
    }

    /// Decodes the next block, `N` pixels high and wide.
    #[inline]
    fn block<const N: usize>(
        &self,
        [dc, ac]: [&Huffman; 2],
        mean: &mut i32,
        bits: &mut Bits<'_>,
    ) -> Option<[[u8; N]; N]> {
        *mean = mean.wrapping_add(bits.next(dc)?.value.into());
        let mut sums = Sums::<N>::new();
        sums.add(0, 0, *mean as f32 * self.quantization[0], &self.waves);
        let mut at = 1;
        while at <= const { last_needed(N) } {
            let next = bits.next(ac)?;
            if next.zeros == Coefficient::NO_MORE {
                return Some(sums.pixels(&self.waves));
            }
            at += usize::from(next.zeros);
            let wave = usize::from(*ZIGZAG.get(at)?);
            let (u, v) = (wave % 8, wave / 8);
            if u < N && v < N {
                sums.add(u, v, f32::from(next.value) * self.quantization[at], &self.waves);
            }
            at += 1;
        }
        bits.skip_block(ac, at)?;
        Some(sums.pixels(&self.waves))
    }
}

impl<'a> Single<'a> {
    fn new(scan: &'a Scan, bytes: &'a [u8]) -> Single<'a> {
        Single { scan, bits: Bits::new(bytes), means: [0; 3], since: 0, restarts: 0 }
    }

    /// Decodes a row of MCUs.
    fn row(&mut self, header: &Header, planes: &mut [Plane<'_>]) -> Option<()> {
        for mcu in 0..header.width.div_ceil(header.across * 8) {
            self.restart(header.restarts)?;
            for ((plane, part), mean) in planes.iter_mut().zip(&self.scan.parts).zip(&mut self.means) {
                let tables = [header.dc.get(part.dc)?.as_ref()?, header.ac.get(part.ac)?.as_ref()?];
                match plane.side {
                    1 => plane.mcu::<1>(mcu, tables, mean, &mut self.bits),
                    2 => plane.mcu::<2>(mcu, tables, mean, &mut self.bits),
                    4 => plane.mcu::<4>(mcu, tables, mean, &mut self.bits),
                    _ => plane.mcu::<8>(mcu, tables, mean, &mut self.bits),
                }?;
            }
        }
        Some(())
    }

    /// Reads the restart marker before an MCU, if one is due.
    fn restart(&mut self, interval: usize) -> Option<()> {
        if interval > 0 && self.since == interval {
            self.bits.skip_marker(0xd0 + self.restarts % 8)?;
            self.restarts = self.restarts.wrapping_add(1);
            (self.since, self.means) = (0, [0; 3]);
        }
        self.since += 1;
        Some(())
    }
}

/// The sums of the frequencies of each row of a block, evaluated at `N` points horizontally.
struct Sums<const N: usize> {
    rows: [[f32; N]; N],
    /// The number of rows in use.
    high: usize,
}

impl<const N: usize> Sums<N> {
    #[inline]
    fn new() -> Sums<N> {
        Sums { rows: [[0.0; N]; N], high: 0 }
    }

    #[inline]
    fn add(&mut self, u: usize, v: usize, value: f32, waves: &[[f32; 8]; 8]) {
        (0..N).for_each(|x| self.rows[v][x] += value * waves[u][x]);
        self.high = self.high.max(v + 1);
    }

    /// Sums the rows vertically, around medium gray.
    #[inline]
    fn pixels(&self, waves: &[[f32; 8]; 8]) -> [[u8; N]; N] {
        let mut block = [[0; N]; N];
        for (y, line) in block.iter_mut().enumerate() {
            let mut sums = [128.0; N];
            for (v, row) in self.rows[..self.high].iter().enumerate() {
                (0..N).for_each(|x| sums[x] += row[x] * waves[v][y]);
            }
            *line = sums.map(rounded);
        }
        block
    }
}

/// Returns the last coefficient, in the order of the file, that a block of this side needs.
const fn last_needed(side: usize) -> usize {
    let mut at = 63;
    while ZIGZAG[at] as usize != (side - 1) * 9 {
        at -= 1;
    }
    at
}

/// Rounds by adding 2²³, after which a float has no fraction: much faster than a cast, which must handle NaN.
#[inline]
fn rounded(value: f32) -> u8 {
    (value.clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8
}

/// Returns the cosines of the transform for a block of this side: fewer points of the same functions.
fn waves(side: usize) -> [[f32; 8]; 8] {
    let wave = |u: usize, x: usize| match u {
        0 => FRAC_1_SQRT_2 / 2.0,
        _ => ((2 * x + 1) as f32 * u as f32 * PI / (2 * side) as f32).cos() / 2.0,
    };
    from_fn(|u| from_fn(|x| wave(u, x)))
}

/// Returns the values by row and column.
fn by_wave(values: &[f32; 64]) -> [f32; 64] {
    let mut table = [0.0; 64];
    ZIGZAG.iter().zip(values).for_each(|(wave, value)| table[usize::from(*wave)] = *value);
    table
}

/// Converts luma and its differences to blue and red into red, green and blue, as JFIF defines it.
#[inline]
fn rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let (luma, blue, red) = ((i32::from(luma) << 16) + (1 << 15), i32::from(blue) - 128, i32::from(red) - 128);
    let channels = [luma + 91_881 * red, luma - 22_554 * blue - 46_802 * red, luma + 116_130 * blue];
    channels.map(|channel| (channel >> 16).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests;
