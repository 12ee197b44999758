//! JPEGs with several scans: progressive ones, and those with a scan for each component. Of each block, only the
//! coefficients that the reduced size needs are stored, and one bit for each of the others.

use super::ZIGZAG;
use super::header::{Component, Header, Part, Scan};
use super::huffman::{Bits, Coefficient, Huffman};

/// The coefficients of one component.
pub(super) struct Stored {
    /// The number of blocks in a row, with those that fill the last MCU, and without.
    stride: usize,
    across: usize,
    /// The number of rows without those that fill the last MCU.
    down: usize,
    /// The blocks of the component in one MCU.
    mcu: (usize, usize),
    /// The side of a decoded block, and so the number of coefficients stored of each column and row.
    side: usize,
    /// For each block, the values by row and column.
    values: Vec<i16>,
    /// For each block, the coefficients other than 0, from the lowest bit on in the order of the file.
    nonzero: Vec<u64>,
    /// The coefficients that are stored, in the same order.
    kept: u64,
    is_begun: bool,
}

/// A scan being read.
struct Reader<'a, 'b> {
    header: &'a Header,
    scan: &'a Scan,
    bits: Bits<'b>,
    /// The mean of the last block of each component. The next one is stored as a difference.
    means: [i32; 4],
    /// The number of blocks left without further coefficients.
    run: u32,
    /// The number of MCUs since the last restart, and the number of restarts.
    since: usize,
    restarts: u8,
}

/// Reads all scans of a JPEG, from its first one on. `sides` are the sides of decoded blocks by component.
pub(super) fn read(header: &mut Header, mut scan: Scan, mut rest: &[u8], sides: &[usize]) -> Option<Vec<Stored>> {
    let components = header.components.iter().zip(sides);
    let mut stored: Vec<Stored> = components.map(|(component, side)| Stored::new(header, component, *side)).collect();
    loop {
        rest = Reader::new(header, &scan, rest).read(&mut stored)?;
        let (next, after) = header.next_scan(rest)?;
        rest = after;
        match next {
            Some(next) => scan = next,
            None => return stored.iter().all(|component| component.is_begun).then_some(stored),
        }
    }
}

impl Stored {
    fn new(header: &Header, component: &Component, side: usize) -> Stored {
        let (wide, high) = (header.width.div_ceil(8 * header.across), header.height.div_ceil(8 * header.down));
        let (stride, rows) = (wide * component.across, high * component.down);
        let is_kept = |wave: u8| usize::from(wave % 8) < side && usize::from(wave / 8) < side;
        Stored {
            stride,
            across: (header.width * component.across).div_ceil(8 * header.across),
            down: (header.height * component.down).div_ceil(8 * header.down),
            mcu: (component.across, component.down),
            side,
            values: vec![0; stride * rows * side * side],
            nonzero: vec![0; stride * rows],
            kept: ZIGZAG.iter().enumerate().map(|(at, wave)| u64::from(is_kept(*wave)) << at).sum(),
            is_begun: false,
        }
    }

    /// Returns the values of a block, by row and column.
    pub(super) fn block(&self, row: usize, column: usize) -> &[i16] {
        let size = self.side * self.side;
        &self.values[(row * self.stride + column) * size..][..size]
    }

    #[inline]
    fn value(&mut self, block: usize, at: usize) -> &mut i16 {
        let wave = usize::from(ZIGZAG[at]);
        &mut self.values[(block * self.side + wave / 8) * self.side + wave % 8]
    }

    /// Reads a further bit of each of these coefficients, which are not 0.
    #[inline]
    fn refine(&mut self, block: usize, coefficients: u64, step: i16, bits: &mut Bits<'_>) -> Option<()> {
        let count = coefficients.count_ones();
        let mut further = u64::from(bits.number(count.min(32))?);
        if count > 32 {
            further = further << (count - 32) | u64::from(bits.number(count - 32)?);
        }
        let mut kept = coefficients & self.kept;
        while kept != 0 {
            let at = kept.trailing_zeros();
            let after = coefficients.checked_shr(at + 1).unwrap_or(0).count_ones();
            if further >> after & 1 != 0 {
                let value = self.value(block, at as usize);
                *value = value.wrapping_add(value.signum() * step);
            }
            kept &= kept - 1;
        }
        Some(())
    }
}

impl<'a, 'b> Reader<'a, 'b> {
    fn new(header: &'a Header, scan: &'a Scan, bytes: &'b [u8]) -> Reader<'a, 'b> {
        Reader { header, scan, bits: Bits::new(bytes), means: [0; 4], run: 0, since: 0, restarts: 0 }
    }

    /// Reads the scan, and returns the bytes after it.
    fn read(mut self, stored: &mut [Stored]) -> Option<&'b [u8]> {
        match &self.scan.parts[..] {
            [part] => self.blocks(part, &mut stored[part.component])?,
            parts => self.mcus(parts, stored)?,
        }
        self.bits.end()
    }

    /// Reads a scan of one component, block by block.
    fn blocks(&mut self, part: &Part, stored: &mut Stored) -> Option<()> {
        for row in 0..stored.down {
            for column in 0..stored.across {
                self.restart()?;
                self.block(part, stored, row * stored.stride + column)?;
            }
        }
        stored.is_begun |= self.scan.first == 0;
        Some(())
    }

    /// Reads a scan of several components, MCU by MCU.
    fn mcus(&mut self, parts: &[Part], stored: &mut [Stored]) -> Option<()> {
        let (wide, high) =
            (self.header.width.div_ceil(8 * self.header.across), self.header.height.div_ceil(8 * self.header.down));
        for (mcu, part) in (0..wide * high).flat_map(|mcu| parts.iter().map(move |part| (mcu, part))) {
            if part.component == parts[0].component {
                self.restart()?;
            }
            let stored = &mut stored[part.component];
            let (across, down) = stored.mcu;
            for y in 0..down {
                let first = (mcu / wide * down + y) * stored.stride + mcu % wide * across;
                (first..first + across).try_for_each(|block| self.block(part, stored, block))?;
            }
        }
        parts.iter().for_each(|part| stored[part.component].is_begun = true);
        Some(())
    }

    /// Reads the restart marker before an MCU, if one is due.
    fn restart(&mut self) -> Option<()> {
        if self.header.restarts > 0 && self.since == self.header.restarts {
            self.bits.skip_marker(0xd0 + self.restarts % 8)?;
            self.restarts = self.restarts.wrapping_add(1);
            (self.since, self.run, self.means) = (0, 0, [0; 4]);
        }
        self.since += 1;
        Some(())
    }

    fn block(&mut self, part: &Part, stored: &mut Stored, block: usize) -> Option<()> {
        match (self.scan.first, self.scan.is_refinement) {
            (0, false) => self.mean(part, stored, block)?,
            (0, true) => {
                *stored.value(block, 0) |= (self.bits.number(1)? << self.scan.later_bits) as i16;
                return Some(());
            }
            (_, true) => return self.refine(self.header.ac.get(part.ac)?.as_ref()?, stored, block),
            _ => {}
        }
        if self.scan.last == 0 { Some(()) } else { self.waves(self.header.ac.get(part.ac)?.as_ref()?, stored, block) }
    }

    fn mean(&mut self, part: &Part, stored: &mut Stored, block: usize) -> Option<()> {
        let difference = self.bits.next(self.header.dc.get(part.dc)?.as_ref()?)?.value;
        let mean = &mut self.means[part.component];
        *mean = mean.wrapping_add(difference.into());
        *stored.value(block, 0) = (*mean << self.scan.later_bits) as i16;
        Some(())
    }

    /// Reads the coefficients of a block after its mean, or the first bits of them.
    fn waves(&mut self, table: &Huffman, stored: &mut Stored, block: usize) -> Option<()> {
        if self.run > 0 {
            self.run -= 1;
            return Some(());
        }
        let (mut bits, later_bits, last) = (self.bits, self.scan.later_bits, self.scan.last);
        let (mut at, mut nonzero) = (self.scan.first.max(1), 0);
        while at <= last {
            let next = bits.next(table)?;
            if next.value != 0 {
                at += usize::from(next.zeros);
                let bit = 1_u64.checked_shl(at as u32)?;
                nonzero |= bit;
                if stored.kept & bit != 0 {
                    *stored.value(block, at) = next.value << later_bits;
                }
            } else if next.zeros == 15 {
                at += 15;
            } else {
                self.run = self.end_of_blocks(next, &mut bits)? - 1;
                break;
            }
            at += 1;
        }
        stored.nonzero[block] |= nonzero;
        self.bits = bits;
        Some(())
    }

    /// Returns the number of blocks that end with this code, including the current one.
    fn end_of_blocks(&self, code: Coefficient, bits: &mut Bits<'_>) -> Option<u32> {
        match code.zeros {
            Coefficient::NO_MORE => Some(1),
            size if self.header.is_progressive => Some((1 << size) + bits.number(size.into())?),
            _ => None,
        }
    }

    /// Reads a further bit of the coefficients of a block, and those that are not 0 from this bit on.
    fn refine(&mut self, table: &Huffman, stored: &mut Stored, block: usize) -> Option<()> {
        let (mut bits, step, last) = (self.bits, 1_i16 << self.scan.later_bits, self.scan.last);
        let before = stored.nonzero[block];
        let (mut at, mut nonzero) = (self.scan.first, before);
        while self.run == 0 && at <= last {
            let next = bits.next(table)?;
            if next.value == 0 && next.zeros != 15 {
                self.run = self.end_of_blocks(next, &mut bits)?;
                break;
            }
            // The code counts zeros only; the coefficients in between get their bits.
            let to = after_zeros(before, at, next.zeros).min(last + 1);
            let between = before & range(at, to);
            if between != 0 {
                stored.refine(block, between, step, &mut bits)?;
            }
            if next.value != 0 {
                let bit = 1_u64.checked_shl(to as u32).filter(|_| next.value.abs() == 1 && to <= last)?;
                nonzero |= bit;
                if stored.kept & bit != 0 {
                    *stored.value(block, to) = next.value * step;
                }
            }
            at = to + 1;
        }
        if self.run > 0 {
            self.run -= 1;
            let rest = before & range(at, last + 1);
            if rest != 0 {
                stored.refine(block, rest, step, &mut bits)?;
            }
        }
        stored.nonzero[block] = nonzero;
        self.bits = bits;
        Some(())
    }
}

/// Returns the position of the bit that is 0 after so many other zeros, from `at` on. The result may exceed 63.
#[inline]
fn after_zeros(bits: u64, at: usize, zeros: u8) -> usize {
    let mut to = at + usize::from(zeros);
    loop {
        let next = at + usize::from(zeros) + (bits & range(at, to + 1)).count_ones() as usize;
        if next == to {
            return to;
        }
        to = next;
    }
}

/// Returns a number whose bits from `from` to before `to` are set.
#[inline]
fn range(from: usize, to: usize) -> u64 {
    let below = |at: usize| 1_u64.checked_shl(at as u32).unwrap_or(0).wrapping_sub(1);
    below(to) & !below(from)
}
