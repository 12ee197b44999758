//! A JPEG decoder for a half, a quarter or an eighth of the size, as in libjpeg. It evaluates only the low ones of the 64
//! frequencies of a block of 8 x 8 pixels, and only at fewer points. A small image is then never computed or held in memory
//! at the full size of the photo.
//!
//! It decodes the JPEGs of cameras: baseline, gray or YCbCr, in a single scan. For any other or malformed JPEG it returns
//! `None`, and `image` decodes the whole image and decides. This decoder therefore reports no reasons, and may give up
//! whenever it is in doubt.

use std::array::from_fn;
use std::f32::consts::{FRAC_1_SQRT_2, PI};
use std::ops::ControlFlow;

use ::image::{DynamicImage, GrayImage, RgbImage};

use super::Size;

/// The frequencies of a block in the order of the file, low ones first: the row times eight, plus the column.
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The longest code with its value, in bits, that a single table lookup decodes: nearly all are shorter.
const SHORT: u32 = 10;

/// Decodes a JPEG of this size at 1/`by` of it (2, 4 or 8) in each direction, rounded up. `buffer` provides the buffer for its
/// pixels.
pub(super) fn decode(jpeg: &[u8], size: Size, by: u32, buffer: impl FnOnce(u64) -> Vec<u8>) -> Option<DynamicImage> {
    let (header, scan) = Header::read(jpeg)?;
    // The limits were checked against the size that another decoder read.
    if Size::new(header.width as u32, header.height as u32) != size {
        return None;
    }
    let (width, height) = (size.width.div_ceil(by), size.height.div_ceil(by));
    let buffer = buffer(u64::from(width) * u64::from(height) * header.components.len() as u64);
    let pixels = Decoder::new(&header, scan, by as usize)?.pixels(width as usize, height as usize, buffer)?;
    match header.components.len() {
        1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    }
}

/// Returns true if the scan of a JPEG of this size has neither missing nor extra data before the end marker. `None` for a
/// JPEG that this decoder cannot read.
pub(super) fn is_whole(jpeg: &[u8], size: Size) -> Option<bool> {
    Header::read(jpeg)?;
    Some(decode(jpeg, size, 8, |_| Vec::new()).is_some())
}

/// The segments before the pixels.
#[derive(Default)]
struct Header {
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// The number of blocks in one MCU (the unit of interleaved components), horizontally and vertically.
    across: usize,
    down: usize,
    /// The tables by number, with their values in the order of the file.
    quantization: [Option<[f32; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    /// The number of MCUs from one restart marker to the next; 0 without restart markers.
    restarts: usize,
    is_rgb: bool,
}

/// One color component of the image.
#[derive(Default)]
struct Component {
    id: u8,
    /// The number of its blocks in one MCU.
    across: usize,
    down: usize,
    quantization: usize,
    dc: usize,
    ac: usize,
}

impl Header {
    /// Reads the header, and returns it with the bytes of the scan.
    fn read(jpeg: &[u8]) -> Option<(Header, &[u8])> {
        let mut header = Header::default();
        let mut rest = jpeg.strip_prefix(&[0xff, 0xd8])?;
        loop {
            let (&[0xff, marker, high, low], after) = rest.split_first_chunk()? else { return None };
            let length = usize::from(u16::from_be_bytes([high, low])).checked_sub(2)?;
            let (segment, after) = after.split_at_checked(length)?;
            rest = after;
            if header.take(marker, segment)?.is_break() {
                return Some((header, rest));
            }
        }
    }

    /// Reads a segment. Breaks at the last one, which the scan follows.
    fn take(&mut self, marker: u8, segment: &[u8]) -> Option<ControlFlow<()>> {
        match marker {
            0xc0 | 0xc1 if self.components.is_empty() => self.frame(segment)?,
            0xc4 => self.huffman(segment)?,
            0xda => return self.scan(segment).map(ControlFlow::Break),
            0xdb => self.quantization(segment)?,
            0xdd => self.restarts = usize::from(u16::from_be_bytes(segment.try_into().ok()?)),
            0xee => self.is_rgb |= segment.starts_with(b"Adobe") && segment.get(11) == Some(&0),
            0xe0..=0xef | 0xfe => {}
            _ => return None, // progressive, arithmetic and other kinds
        }
        Some(ControlFlow::Continue(()))
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let (&[8, h1, h0, w1, w0, count], components) = segment.split_first_chunk()? else { return None };
        (self.height, self.width) = (u16::from_be_bytes([h1, h0]).into(), u16::from_be_bytes([w1, w0]).into());
        let is_known = matches!(count, 1 | 3) && components.len() == usize::from(count) * 3;
        if !is_known || self.width == 0 || self.height == 0 {
            return None;
        }
        self.components = components.chunks_exact(3).map(Component::new).collect::<Option<_>>()?;
        if let [gray] = &mut self.components[..] {
            // The MCU of a single component is always one block, whatever its sampling factors.
            (gray.across, gray.down) = (1, 1);
        }
        self.across = self.components.iter().map(|component| component.across).max()?;
        self.down = self.components.iter().map(|component| component.down).max()?;
        self.is_rgb |= self.components.iter().map(|component| component.id).eq(*b"RGB");
        // Usually, brightness has at least the resolution of the colors. Otherwise the result would differ too much from
        // the whole image.
        let brightness = self.components.first()?;
        (brightness.across == self.across && brightness.down == self.down).then_some(())
    }

    fn quantization(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&which, values)) = segment.split_first() {
            // The first four bits announce 16-bit values, which only 12-bit images need.
            let (values, rest) = values.split_first_chunk::<64>()?;
            *self.quantization.get_mut(usize::from(which))? = Some(values.map(f32::from));
            segment = rest;
        }
        Some(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&which, table)) = segment.split_first() {
            let (counts, symbols) = table.split_first_chunk::<16>()?;
            let (symbols, rest) = symbols.split_at_checked(counts.iter().map(|&count| usize::from(count)).sum())?;
            let tables = if which & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(which & !0x10))? = Some(Huffman::new(counts, symbols)?);
            segment = rest;
        }
        Some(())
    }

    /// Reads the header of the scan, which must have all components in order.
    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let (&count, rest) = segment.split_first()?;
        let (tables, range) = rest.split_at_checked(usize::from(count) * 2)?;
        if self.is_rgb || usize::from(count) != self.components.len() || count == 0 || range != [0, 63, 0] {
            return None;
        }
        for (component, table) in self.components.iter_mut().zip(tables.chunks_exact(2)) {
            if component.id != table[0] {
                return None;
            }
            (component.dc, component.ac) = (usize::from(table[1] >> 4), usize::from(table[1] & 15));
        }
        Some(())
    }
}

impl Component {
    fn new(bytes: &[u8]) -> Option<Component> {
        let &[id, sampling, quantization] = bytes else { return None };
        let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
        let is_usual = |blocks: usize| matches!(blocks, 1 | 2 | 4);
        let usual = Component { id, across, down, quantization: quantization.into(), ..Component::default() };
        (is_usual(across) && is_usual(down)).then_some(usual)
    }
}

/// A decoded code: a number of zeros, followed by a value.
#[derive(Clone, Copy, Default)]
struct Coefficient {
    value: i16,
    zeros: u8,
    /// The length of the code with its value, in bits; 0 if it is too long for the lookup table.
    length: u8,
}

impl Coefficient {
    /// The number of zeros that stands for the end of the block.
    const NO_MORE: u8 = 64;

    /// Reads the value from the bits after a code of this length. Its symbol has four bits for the number of zeros, and
    /// four for the size of the value.
    #[inline]
    fn new(symbol: u8, length: u32, after: u64) -> Coefficient {
        let (zeros, size) = (symbol >> 4, u32::from(symbol & 15));
        let zeros = if symbol == 0 { Coefficient::NO_MORE } else { zeros };
        let bits = after.checked_shr(64 - size).unwrap_or(0) as i32;
        // Values whose first bit is 0 are negative.
        let is_negative = size > 0 && bits >> (size - 1) == 0;
        let value = if is_negative { bits - (1 << size) + 1 } else { bits };
        Coefficient { value: value as i16, zeros, length: (length + size) as u8 }
    }
}

/// A Huffman table.
struct Huffman {
    /// The coefficients by the next `SHORT` bits, where these hold both code and value.
    short: Box<[Coefficient; 1 << SHORT]>,
    /// For each code length: the end of its codes, as 16 bits, and the offset from a code to its symbol.
    lengths: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Huffman> {
        let (mut code, mut first, mut lengths) = (0, 0, [(0, 0); 17]);
        for (length, &count) in (1..=16).zip(counts) {
            code += i32::from(count);
            if code > 1 << length {
                return None;
            }
            first += i32::from(count);
            lengths[length] = ((code as u32) << (16 - length), first - code);
            code <<= 1;
        }
        let short = Box::new([Coefficient::default(); 1 << SHORT]);
        let mut table = Huffman { short, lengths, symbols: symbols.to_vec() };
        for bits in 0..1 << SHORT {
            let coefficient = table.look_up((bits as u64) << (64 - SHORT)).unwrap_or_default();
            if u32::from(coefficient.length) <= SHORT {
                table.short[bits] = coefficient;
            }
        }
        Some(table)
    }

    /// Returns the coefficient at the start of these bits, or `None` for an unknown code.
    fn look_up(&self, bits: u64) -> Option<Coefficient> {
        let code = (bits >> 48) as u32;
        let length = (1..=16).find(|&length| code < self.lengths[length].0)?;
        let index = (code >> (16 - length)) as i32 + self.lengths[length].1;
        Some(Coefficient::new(*self.symbols.get(index as usize)?, length as u32, bits << length))
    }
}

/// A reader for the bits of a scan.
#[derive(Clone, Copy)]
struct Bits<'a> {
    /// The next `held` bits, from the top; zeros after them.
    bits: u64,
    held: u32,
    rest: &'a [u8],
}

impl<'a> Bits<'a> {
    fn new(rest: &'a [u8]) -> Bits<'a> {
        Bits { bits: 0, held: 0, rest }
    }

    /// Reads until at least 32 bits are held, the longest code with its value; fewer before a marker.
    #[inline]
    fn refill(&mut self) {
        if self.held >= 32 {
            return;
        }
        match self.rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) {
            Some(next) if !has_marker(next) => {
                let bytes = (64 - self.held) / 8;
                let after = self.held + bytes * 8;
                self.bits |= (next >> self.held) & !u64::MAX.checked_shr(after).unwrap_or(0);
                self.held = after;
                self.rest = &self.rest[bytes as usize..];
            }
            _ => self.refill_bytewise(),
        }
    }

    fn refill_bytewise(&mut self) {
        while self.held <= 56 {
            let (byte, rest) = match *self.rest {
                [0xff, 0, ref rest @ ..] => (0xff, rest), // the zero distinguishes it from a marker
                [0xff, ..] | [] => return,
                [byte, ref rest @ ..] => (byte, rest),
            };
            self.bits |= u64::from(byte) << (56 - self.held);
            self.held += 8;
            self.rest = rest;
        }
    }

    #[inline]
    fn next(&mut self, table: &Huffman) -> Option<Coefficient> {
        self.refill();
        let mut next = table.short[(self.bits >> (64 - SHORT)) as usize];
        if next.length == 0 {
            next = table.look_up(self.bits)?;
        }
        self.held = self.held.checked_sub(next.length.into())?;
        self.bits <<= next.length;
        Some(next)
    }

    /// Skips the next marker, which must be this one.
    fn skip_marker(&mut self, marker: u8) -> Option<()> {
        *self = Bits::new(self.rest.strip_prefix(&[0xff, marker])?);
        Some(())
    }
}

/// Returns true if one of these bytes is 0xff.
fn has_marker(bytes: u64) -> bool {
    let (ones, tops) = (u64::MAX / 255, u64::MAX / 255 * 128);
    (!bytes).wrapping_sub(ones) & bytes & tops != 0
}

/// A component being decoded, one row of MCUs at a time.
struct Plane<'a> {
    quantization: &'a [f32; 64],
    dc: &'a Huffman,
    ac: &'a Huffman,
    /// The mean of the last block. The next one is stored as a difference.
    mean: i32,
    /// The number of its blocks in one MCU.
    across: usize,
    down: usize,
    /// The side of a decoded block: 1, 2, 4 or 8 pixels.
    side: usize,
    /// The value of each cosine at each point of a side.
    waves: [[f32; 8]; 8],
    /// The number of image pixels per pixel of this component, in each direction: more than 1 for subsampled colors.
    spread: (usize, usize),
    /// The width of the row.
    width: usize,
    pixels: Vec<u8>,
}

struct Decoder<'a> {
    header: &'a Header,
    planes: Vec<Plane<'a>>,
    bits: Bits<'a>,
    /// The number of MCUs since the last restart, and the number of restarts.
    since: usize,
    restarts: u8,
    /// The number of image lines in a row of MCUs.
    lines: usize,
}

impl<'a> Decoder<'a> {
    fn new(header: &'a Header, scan: &'a [u8], by: usize) -> Option<Decoder<'a>> {
        let mcus = header.width.div_ceil(header.across * 8);
        let plane = |component: &Component| {
            // The number of image pixels that a block covers. Subsampled colors are decoded from more frequencies.
            let wide = 8 / by * header.across / component.across;
            let high = 8 / by * header.down / component.down;
            let side = wide.min(high).min(8);
            let width = mcus * component.across * side;
            Some(Plane {
                quantization: header.quantization.get(component.quantization)?.as_ref()?,
                dc: header.dc.get(component.dc)?.as_ref()?,
                ac: header.ac.get(component.ac)?.as_ref()?,
                mean: 0,
                across: component.across,
                down: component.down,
                side,
                waves: waves(side),
                spread: (wide / side, high / side),
                width,
                pixels: vec![0; width * component.down * side],
            })
        };
        let planes = header.components.iter().map(plane).collect::<Option<_>>()?;
        let lines = 8 / by * header.down;
        Some(Decoder { header, planes, bits: Bits::new(scan), since: 0, restarts: 0, lines })
    }

    fn pixels(mut self, width: usize, height: usize, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
        let line = width * self.planes.len();
        buffer.clear();
        buffer.resize(line * height, 0);
        for lines in buffer.chunks_mut(line * self.lines) {
            self.row()?;
            for (y, line) in lines.chunks_exact_mut(line).enumerate() {
                self.line(y, line);
            }
        }
        // Fails if further scans or unexpected bytes follow.
        self.bits.skip_marker(0xd9)?;
        Some(buffer)
    }

    /// Decodes a row of MCUs.
    fn row(&mut self) -> Option<()> {
        for mcu in 0..self.header.width.div_ceil(self.header.across * 8) {
            self.restart()?;
            for plane in &mut self.planes {
                match plane.side {
                    1 => plane.mcu::<1>(mcu, &mut self.bits),
                    2 => plane.mcu::<2>(mcu, &mut self.bits),
                    4 => plane.mcu::<4>(mcu, &mut self.bits),
                    _ => plane.mcu::<8>(mcu, &mut self.bits),
                }?;
            }
        }
        Some(())
    }

    /// Reads the restart marker before an MCU, if one is due.
    fn restart(&mut self) -> Option<()> {
        if self.header.restarts > 0 && self.since == self.header.restarts {
            self.bits.skip_marker(0xd0 + self.restarts % 8)?;
            self.restarts = self.restarts.wrapping_add(1);
            self.since = 0;
            self.planes.iter_mut().for_each(|plane| plane.mean = 0);
        }
        self.since += 1;
        Some(())
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

    fn mcu<const N: usize>(&mut self, mcu: usize, shared: &mut Bits<'_>) -> Option<()> {
        let mut bits = *shared;
        for down in 0..self.down {
            for across in 0..self.across {
                let block = self.block::<N>(&mut bits)?;
                let left = (mcu * self.across + across) * N;
                for (y, line) in block.iter().enumerate() {
                    let start = (down * N + y) * self.width + left;
                    self.pixels[start..start + N].copy_from_slice(line);
                }
            }
        }
        *shared = bits;
        Some(())
    }

    /// Decodes the next block, `N` pixels high and wide.
    fn block<const N: usize>(&mut self, bits: &mut Bits<'_>) -> Option<[[u8; N]; N]> {
        self.mean = self.mean.wrapping_add(bits.next(self.dc)?.value.into());
        // Sums the frequencies of each row horizontally.
        let mut rows = [[0.0; N]; N];
        rows[0] = [self.mean as f32 * self.quantization[0] * self.waves[0][0]; N];
        let (mut at, mut high) = (1, 1);
        while at < 64 {
            let next = bits.next(self.ac)?;
            if next.zeros == Coefficient::NO_MORE {
                break;
            }
            at += usize::from(next.zeros);
            let wave = usize::from(*ZIGZAG.get(at)?);
            let (u, v) = (wave % 8, wave / 8);
            if u < N && v < N {
                let value = f32::from(next.value) * self.quantization[at];
                (0..N).for_each(|x| rows[v][x] += value * self.waves[u][x]);
                high = high.max(v + 1);
            }
            at += 1;
        }
        // Sums the rows vertically, around medium gray.
        let mut block = [[0; N]; N];
        for (y, line) in block.iter_mut().enumerate() {
            let mut sums = [128.0; N];
            for (v, row) in rows[..high].iter().enumerate() {
                (0..N).for_each(|x| sums[x] += row[x] * self.waves[v][y]);
            }
            *line = sums.map(rounded);
        }
        Some(block)
    }
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

/// Converts luma and its differences to blue and red into red, green and blue, as JFIF defines it.
#[inline]
fn rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let (luma, blue, red) = ((i32::from(luma) << 16) + (1 << 15), i32::from(blue) - 128, i32::from(red) - 128);
    let channels = [luma + 91_881 * red, luma - 22_554 * blue - 46_802 * red, luma + 116_130 * blue];
    channels.map(|channel| (channel >> 16).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests;
