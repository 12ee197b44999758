//! Huffman tables for one image. A baseline JPEG with the usual tables is written again with tables of its own, without any
//! change to its pixels: one pass counts the symbols, a second one replaces the codes. That takes no memory for
//! coefficients, and the scan stays a single one. jpeg-encoder's optimized mode holds all coefficients, and writes a scan
//! for each component, which some decoders read into a wrong image.

use super::header::{Header, Scan};
use super::huffman::{Bits, Coefficient, Huffman};

/// The longest code of a JPEG, in bits.
const LONGEST: usize = 16;

/// The counts of symbols, by table: two for means and two for the other coefficients, as in `tables`.
type Counts = [[u32; 256]; 4];

/// Returns the same JPEG with optimal Huffman tables. `None` for one that is not baseline with a single scan.
pub(in crate::image) fn optimized(jpeg: &[u8]) -> Option<Vec<u8>> {
    let (header, scan, bytes) = Header::read(jpeg)?;
    if header.is_progressive || header.restarts > 0 || scan.parts.len() != header.components.len() {
        return None;
    }
    let mut counts: Counts = [[0; 256]; 4];
    Symbols { header: &header, scan: &scan, bits: Bits::new(bytes) }
        .each(|table, symbol, _| counts[table][usize::from(symbol)] += 1)?;
    let tables = counts.each_ref().map(Codes::new);
    let mut output = Output { bytes: Vec::with_capacity(jpeg.len()), bits: 0, held: 0 };
    output.header(&jpeg[..jpeg.len() - bytes.len()], &tables)?;
    Symbols { header: &header, scan: &scan, bits: Bits::new(bytes) }.each(|table, symbol, value| {
        let (code, length) = tables[table].codes[usize::from(symbol)];
        let size = u32::from(symbol & 15);
        output.put(u64::from(code) << size | u64::from(value), u32::from(length) + size);
    })?;
    Some(output.end())
}

/// The symbols of a scan.
struct Symbols<'a> {
    header: &'a Header,
    scan: &'a Scan,
    bits: Bits<'a>,
}

impl Symbols<'_> {
    /// Calls `f` with each symbol, the number of its table and the bits of its value.
    fn each(mut self, mut f: impl FnMut(usize, u8, u16)) -> Option<()> {
        let header = self.header;
        let mcus = header.width.div_ceil(8 * header.across) * header.height.div_ceil(8 * header.down);
        for _ in 0..mcus {
            for part in &self.scan.parts {
                let component = &header.components[part.component];
                let (dc, ac) = (header.dc.get(part.dc)?.as_ref()?, header.ac.get(part.ac)?.as_ref()?);
                for _ in 0..component.across * component.down {
                    let mean = self.bits.next(dc)?;
                    f(part.dc & 1, size(mean), value(mean));
                    self.waves(ac, |symbol, value| f(2 + (part.ac & 1), symbol, value))?;
                }
            }
        }
        self.bits.skip_marker(0xd9)
    }

    /// Reads the coefficients of a block after its mean.
    #[inline]
    fn waves(&mut self, table: &Huffman, mut f: impl FnMut(u8, u16)) -> Option<()> {
        let mut at = 1;
        while at < 64 {
            let next = self.bits.next(table)?;
            if next.zeros == Coefficient::NO_MORE {
                f(0, 0);
                return Some(());
            }
            f(next.zeros << 4 | size(next), value(next));
            at += usize::from(next.zeros) + 1;
        }
        (at == 64).then_some(())
    }
}

/// Returns the number of bits of a coefficient's value.
#[inline]
fn size(coefficient: Coefficient) -> u8 {
    (16 - coefficient.value.unsigned_abs().leading_zeros()) as u8
}

/// Returns the bits of a coefficient's value: those of a negative one are inverted.
#[inline]
fn value(coefficient: Coefficient) -> u16 {
    let size = size(coefficient);
    (coefficient.value - i16::from(coefficient.value < 0)) as u16 & ((1_u32 << size) - 1) as u16
}

/// A Huffman table for writing.
struct Codes {
    /// The number of codes of each length, from 1 on.
    counts: [u8; LONGEST],
    /// The symbols, those with short codes first.
    symbols: Vec<u8>,
    /// The code of each symbol, and its length in bits.
    codes: [(u16, u8); 256],
}

impl Codes {
    fn new(counts: &[u32; 256]) -> Codes {
        let lengths = lengths(counts);
        let mut symbols: Vec<u8> = (0..=255).filter(|symbol| lengths[usize::from(*symbol)] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        let mut table = Codes { counts: [0; LONGEST], symbols, codes: [(0, 0); 256] };
        let (mut code, mut before) = (0_u32, 0);
        for symbol in &table.symbols {
            let length = lengths[usize::from(*symbol)];
            code <<= length - before;
            table.codes[usize::from(*symbol)] = (code as u16, length);
            table.counts[usize::from(length) - 1] += 1;
            (code, before) = (code + 1, length);
        }
        table
    }
}

/// Returns the length of each symbol's code, at most 16 bits; 0 for a symbol that does not occur (ITU-T T.81, K.2). A code
/// of ones only is not used: one more symbol, the least frequent one, reserves it.
fn lengths(counts: &[u32; 256]) -> [u8; 256] {
    const RESERVED: usize = 256;
    let mut nodes: Vec<(u64, Vec<usize>)> = vec![(0, vec![RESERVED])];
    nodes.extend((0..256).filter(|at| counts[*at] > 0).map(|at| (u64::from(counts[at]), vec![at])));
    let mut depths = [0_usize; 257];
    while nodes.len() > 1 {
        // The two least frequent ones, the last of which is removed first.
        nodes.sort_by_key(|node| std::cmp::Reverse(node.0));
        let (one, other) = (nodes.pop().unwrap_or_default(), nodes.pop().unwrap_or_default());
        let symbols = [one.1, other.1].concat();
        symbols.iter().for_each(|symbol| depths[*symbol] += 1);
        nodes.push((one.0 + other.0, symbols));
    }
    let mut per_depth = [0_usize; 257];
    depths.iter().for_each(|depth| per_depth[*depth] += 1);
    shorten(&mut per_depth);
    per_depth.iter_mut().rev().find(|count| **count > 0).into_iter().for_each(|longest| *longest -= 1); // the reserved code
    let mut symbols: Vec<usize> = (0..256).filter(|symbol| counts[*symbol] > 0).collect();
    symbols.sort_by_key(|symbol| (depths[*symbol], *symbol));
    let mut lengths = [0; 256];
    let ordered = (1..=LONGEST).flat_map(|length| std::iter::repeat_n(length as u8, per_depth[length]));
    symbols.iter().zip(ordered).for_each(|(symbol, length)| lengths[*symbol] = length);
    lengths
}

/// Moves codes of more than 16 bits up: two of them and a shorter one become three.
fn shorten(per_depth: &mut [usize; 257]) {
    per_depth[0] = 0;
    for long in (LONGEST + 1..257).rev() {
        while per_depth[long] > 0 {
            let Some(short) = (1..long - 1).rev().find(|short| per_depth[*short] > 0) else { return };
            per_depth[long] -= 2;
            per_depth[long - 1] += 1;
            per_depth[short + 1] += 2;
            per_depth[short] -= 1;
        }
    }
}

/// The JPEG being written.
struct Output {
    bytes: Vec<u8>,
    /// The last `held` bits are not written yet.
    bits: u64,
    held: u32,
}

impl Output {
    /// Copies the segments before the scan, with these tables in place of theirs.
    fn header(&mut self, mut segments: &[u8], tables: &[Codes; 4]) -> Option<()> {
        let start;
        (start, segments) = segments.split_at_checked(2)?;
        self.bytes.extend(start);
        while let [0xff, marker, high, low, ..] = *segments {
            let length = 2 + usize::from(u16::from_be_bytes([high, low]));
            let (segment, rest) = segments.split_at_checked(length)?;
            if marker == 0xda {
                tables.iter().zip([0, 1, 0x10, 0x11]).for_each(|(table, number)| self.table(table, number));
            }
            if marker != 0xc4 {
                self.bytes.extend(segment);
            }
            segments = rest;
        }
        segments.is_empty().then_some(())
    }

    fn table(&mut self, table: &Codes, number: u8) {
        if table.symbols.is_empty() {
            return;
        }
        let length = (2 + 1 + LONGEST + table.symbols.len()) as u16;
        self.bytes.extend([0xff, 0xc4]);
        self.bytes.extend(length.to_be_bytes());
        self.bytes.push(number);
        self.bytes.extend(table.counts);
        self.bytes.extend(&table.symbols);
    }

    /// Appends bits, at most 32.
    #[inline]
    fn put(&mut self, bits: u64, count: u32) {
        self.bits = self.bits << count | bits;
        self.held += count;
        if self.held >= 32 {
            self.held -= 32;
            self.flush((self.bits >> self.held) as u32);
        }
    }

    /// Writes bytes; a zero distinguishes 0xff from a marker.
    #[inline]
    fn flush(&mut self, word: u32) {
        let bytes = word.to_be_bytes();
        if bytes.contains(&0xff) {
            for byte in bytes {
                self.byte(byte);
            }
        } else {
            self.bytes.extend(bytes);
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
        if byte == 0xff {
            self.bytes.push(0);
        }
    }

    /// Pads the last byte with ones, and writes the end marker.
    fn end(mut self) -> Vec<u8> {
        let padding = (8 - self.held % 8) % 8;
        self.put((1 << padding) - 1, padding);
        while self.held > 0 {
            self.held -= 8;
            self.byte((self.bits >> self.held) as u8);
        }
        self.bytes.extend([0xff, 0xd9]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the counts of a Fibonacci sequence, whose best codes are as long as there are symbols.
    fn fibonacci(count: usize) -> [u32; 256] {
        let mut counts = [0; 256];
        let (mut one, mut other) = (1, 1);
        for at in counts.iter_mut().take(count) {
            *at = one;
            (one, other) = (other, one + other);
        }
        counts
    }

    #[test]
    fn codes_are_prefix_free_and_have_at_most_16_bits() {
        for count in [1, 2, 3, 15, 16, 17, 30, 40] {
            let table = Codes::new(&fibonacci(count));
            assert_eq!(table.symbols.len(), count);
            let used: u32 = table.symbols.iter().map(|at| 1 << (16 - table.codes[usize::from(*at)].1)).sum();
            assert!(used < 1 << 16, "{count} symbols: a code of ones only");
            assert!(Huffman::new(&table.counts, &table.symbols).is_some(), "{count} symbols");
        }
        let all = Codes::new(&[7; 256]);
        assert!(Huffman::new(&all.counts, &all.symbols).is_some() && all.symbols.len() == 256);
        assert!(Codes::new(&[0; 256]).symbols.is_empty());
    }

    #[test]
    fn frequent_symbols_have_short_codes() {
        let table = Codes::new(&fibonacci(12));
        // The first two are equally rare.
        let lengths: Vec<u8> = (1..12).map(|at| table.codes[at].1).collect();
        assert!(lengths.is_sorted_by(|one, other| one > other) && lengths[10] == 1, "{lengths:?}");
    }
}
