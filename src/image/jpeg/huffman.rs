//! Huffman codes, and the bits of a scan.

use std::cell::OnceCell;

/// The longest code with its value, in bits, that a single table lookup decodes: nearly all are shorter.
const SHORT: u32 = 10;

/// The number of bits that one lookup skips at most.
const SKIPPED: u32 = 12;

/// A decoded code: a number of zeros, followed by a value.
#[derive(Clone, Copy, Default)]
pub(super) struct Coefficient {
    pub(super) value: i16,
    pub(super) zeros: u8,
    /// The length of the code with its value, in bits.
    length: u8,
}

/// An entry of the lookup table.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// The coefficient, if the bits hold its code with its value.
    coefficient: Coefficient,
    /// Otherwise the symbol and the length of its code; 0 if the code is too long, too.
    symbol: u8,
    code: u8,
}

impl Coefficient {
    /// The number of zeros that stands for the end of the block.
    pub(super) const NO_MORE: u8 = 64;

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

/// A number of coefficients that are skipped at once.
#[derive(Clone, Copy, Default)]
struct Skipped {
    /// The length of their codes with their values, in bits; 0 if not even one code is whole.
    length: u8,
    /// The number of coefficients, including zeros, and `ENDS` if they are the last ones of the block.
    coefficients: u8,
}

impl Skipped {
    const ENDS: u8 = 0x80;
}

/// A Huffman table.
pub(super) struct Huffman {
    /// The coefficients by the next `SHORT` bits, where these hold both code and value.
    short: Box<[Entry; 1 << SHORT]>,
    /// The coefficients that the next `SKIPPED` bits hold; of tables for skipping only.
    skipped: OnceCell<Box<[Skipped; 1 << SKIPPED]>>,
    /// For each code length: the end of its codes, as 16 bits, and the offset from a code to its symbol.
    lengths: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Huffman {
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Huffman> {
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
        let short = Box::new([Entry::default(); 1 << SHORT]);
        let mut table = Huffman { short, skipped: OnceCell::new(), lengths, symbols: symbols.to_vec() };
        for bits in 0..1 << SHORT {
            table.short[bits] = table.entry((bits as u64) << (64 - SHORT), SHORT).unwrap_or_default();
        }
        Some(table)
    }

    /// Returns the symbol at the start of these bits and the length of its code, or `None` for an unknown code.
    fn look_up(&self, bits: u64) -> Option<(u8, u32)> {
        let code = (bits >> 48) as u32;
        let length = (1..=16).find(|&length| code < self.lengths[length].0)?;
        let index = (code >> (16 - length)) as i32 + self.lengths[length].1;
        Some((*self.symbols.get(index as usize)?, length as u32))
    }

    /// Returns what the first `count` of these bits hold of a coefficient.
    fn entry(&self, bits: u64, count: u32) -> Option<Entry> {
        let (symbol, code) = self.look_up(bits).filter(|(_, code)| *code <= count)?;
        let coefficient = Coefficient::new(symbol, code, bits << code);
        let is_whole = u32::from(coefficient.length) <= count;
        let coefficient = if is_whole { coefficient } else { Coefficient::default() };
        Some(Entry { coefficient, symbol, code: code as u8 })
    }

    /// Returns the table for skipping coefficients, several in one lookup.
    fn skipped(&self) -> &[Skipped; 1 << SKIPPED] {
        self.skipped.get_or_init(|| {
            let mut table = Box::new([Skipped::default(); 1 << SKIPPED]);
            table.iter_mut().enumerate().for_each(|(bits, skipped)| *skipped = self.skippable(bits));
            table
        })
    }

    /// Returns the coefficients whose codes these bits hold. The value of the last one may reach beyond them.
    fn skippable(&self, bits: usize) -> Skipped {
        let mut skipped = Skipped::default();
        while u32::from(skipped.length) < SKIPPED {
            let rest = (bits as u64) << (64 - SKIPPED + u32::from(skipped.length));
            let found = self.look_up(rest).filter(|(_, code)| u32::from(skipped.length) + code <= SKIPPED);
            let Some((symbol, code)) = found else { break };
            let next = Coefficient::new(symbol, code, 0);
            if next.zeros == Coefficient::NO_MORE {
                skipped.length += next.length;
                skipped.coefficients |= Skipped::ENDS;
                break;
            }
            if skipped.coefficients + next.zeros + 1 > 63 {
                break;
            }
            skipped.length += next.length;
            skipped.coefficients += next.zeros + 1;
        }
        skipped
    }
}

/// A reader for the bits of a scan.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    /// The next `held` bits, from the top; zeros after them.
    bits: u64,
    held: u32,
    rest: &'a [u8],
}

impl<'a> Bits<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Bits<'a> {
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
    pub(super) fn next(&mut self, table: &Huffman) -> Option<Coefficient> {
        self.refill();
        let entry = table.short[(self.bits >> (64 - SHORT)) as usize];
        let mut next = entry.coefficient;
        if next.length == 0 {
            let (symbol, code) = match entry.code {
                0 => table.look_up(self.bits)?,
                code => (entry.symbol, code.into()),
            };
            next = Coefficient::new(symbol, code, self.bits << code);
        }
        self.held = self.held.checked_sub(next.length.into())?;
        self.bits <<= next.length;
        Some(next)
    }

    /// Skips the rest of a block, whose next coefficient is `at`.
    #[inline]
    pub(super) fn skip_block(&mut self, table: &Huffman, mut at: usize) -> Option<()> {
        let skippable = table.skipped();
        while at < 64 {
            self.refill();
            let skipped = skippable[(self.bits >> (64 - SKIPPED)) as usize];
            let after = at + usize::from(skipped.coefficients & !Skipped::ENDS);
            if skipped.length == 0 || after > 63 {
                // A long code, or possibly the start of the next block.
                let next = self.next(table)?;
                if next.zeros == Coefficient::NO_MORE {
                    break;
                }
                at += usize::from(next.zeros) + 1;
                continue;
            }
            self.held = self.held.checked_sub(skipped.length.into())?;
            self.bits <<= skipped.length;
            if skipped.coefficients & Skipped::ENDS != 0 {
                break;
            }
            at = after;
        }
        (at <= 64).then_some(())
    }

    /// Reads up to 32 bits as a number.
    #[inline]
    pub(super) fn number(&mut self, count: u32) -> Option<u32> {
        self.refill();
        self.held = self.held.checked_sub(count)?;
        let number = self.bits.checked_shr(64 - count).unwrap_or(0) as u32;
        self.bits <<= count;
        Some(number)
    }

    /// Returns the bytes from the marker after the scan on, if the scan has been read up to its padding.
    pub(super) fn end(self) -> Option<&'a [u8]> {
        (self.held < 8 && self.rest.first() == Some(&0xff)).then_some(self.rest)
    }

    /// Skips the next marker, which must be this one.
    pub(super) fn skip_marker(&mut self, marker: u8) -> Option<()> {
        *self = Bits::new(self.rest.strip_prefix(&[0xff, marker])?);
        Some(())
    }
}

/// Returns true if one of these bytes is 0xff.
fn has_marker(bytes: u64) -> bool {
    let (ones, tops) = (u64::MAX / 255, u64::MAX / 255 * 128);
    (!bytes).wrapping_sub(ones) & bytes & tops != 0
}
