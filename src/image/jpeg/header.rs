//! The segments of a JPEG that describe its pixels.

use std::ops::ControlFlow;

use super::huffman::Huffman;

/// The size and the tables of a JPEG.
#[derive(Default)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    /// The number of blocks in one MCU (the unit of interleaved components), horizontally and vertically.
    pub(super) across: usize,
    pub(super) down: usize,
    /// The tables by number, with their values in the order of the file.
    quantization: [Option<[f32; 64]>; 4],
    pub(super) dc: [Option<Huffman>; 4],
    pub(super) ac: [Option<Huffman>; 4],
    /// The number of MCUs from one restart marker to the next; 0 without restart markers.
    pub(super) restarts: usize,
    is_rgb: bool,
    pub(super) is_progressive: bool,
}

/// One color component of the image.
#[derive(Default)]
pub(super) struct Component {
    id: u8,
    /// The number of its blocks in one MCU.
    pub(super) across: usize,
    pub(super) down: usize,
    quantization_table: usize,
    /// The values of the table at its first scan. Later ones may replace the table for other components.
    pub(super) quantization: Option<[f32; 64]>,
}

/// The header of a scan: what the following bytes hold of which components.
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// The first and the last coefficient, in the order of the file.
    pub(super) first: usize,
    pub(super) last: usize,
    /// True for a further bit of coefficients that an earlier scan began.
    pub(super) is_refinement: bool,
    /// The number of bits that later scans add.
    pub(super) later_bits: u8,
}

/// One component in a scan, with its Huffman tables.
pub(super) struct Part {
    pub(super) component: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

impl Header {
    /// Reads the segments up to the first scan, and returns the bytes of the scan too.
    pub(super) fn read(jpeg: &[u8]) -> Option<(Header, Scan, &[u8])> {
        let mut header = Header::default();
        let (scan, rest) = header.next_scan(jpeg.strip_prefix(&[0xff, 0xd8])?)?;
        Some((header, scan?, rest))
    }

    /// Reads the segments up to the next scan, and returns it with its bytes; no scan at the end of the JPEG. The outer
    /// option is `None` for anything else.
    pub(super) fn next_scan<'a>(&mut self, mut rest: &'a [u8]) -> Option<(Option<Scan>, &'a [u8])> {
        loop {
            match *rest {
                [0xff, 0xff, ..] => rest = &rest[1..], // padding
                [0xff, 0xd9, ..] => return Some((None, rest)),
                [0xff, marker, high, low, ref after @ ..] => {
                    let length = usize::from(u16::from_be_bytes([high, low])).checked_sub(2)?;
                    let (segment, after) = after.split_at_checked(length)?;
                    rest = after;
                    if let ControlFlow::Break(scan) = self.take(marker, segment)? {
                        return Some((Some(scan), rest));
                    }
                }
                _ => return None,
            }
        }
    }

    /// Reads a segment. Breaks at the header of a scan.
    fn take(&mut self, marker: u8, segment: &[u8]) -> Option<ControlFlow<Scan>> {
        match marker {
            0xc0..=0xc2 if self.components.is_empty() => {
                self.is_progressive = marker == 0xc2;
                self.frame(segment)?;
            }
            0xc4 => self.huffman(segment)?,
            0xda => return self.scan(segment).map(ControlFlow::Break),
            0xdb => self.quantization(segment)?,
            0xdd => self.restarts = usize::from(u16::from_be_bytes(segment.try_into().ok()?)),
            0xee => self.is_rgb |= segment.starts_with(b"Adobe") && segment.get(11) == Some(&0),
            0xe0..=0xef | 0xfe => {}
            _ => return None, // arithmetic and other kinds
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

    fn scan(&mut self, segment: &[u8]) -> Option<Scan> {
        let (&count, rest) = segment.split_first()?;
        let (parts, &[first, last, bits]) = rest.split_at_checked(usize::from(count) * 2)? else { return None };
        if self.is_rgb || parts.is_empty() {
            return None;
        }
        let parts = parts.as_chunks().0.iter().map(|part| self.part(*part)).collect::<Option<Vec<Part>>>()?;
        // The components have the order of the frame.
        let scan = Scan {
            first: first.into(),
            last: last.into(),
            is_refinement: bits >> 4 != 0,
            later_bits: bits & 15,
            parts: parts.is_sorted_by(|one, other| one.component < other.component).then_some(parts)?,
        };
        self.is_valid(&scan).then_some(scan)
    }

    fn part(&mut self, [id, tables]: [u8; 2]) -> Option<Part> {
        let component = self.components.iter().position(|component| component.id == id)?;
        let part = &mut self.components[component];
        part.quantization = part.quantization.or(*self.quantization.get(part.quantization_table)?);
        Some(Part { component, dc: usize::from(tables >> 4), ac: usize::from(tables & 15) })
    }

    /// Returns true if the scan has a range of coefficients that its kind of JPEG allows.
    fn is_valid(&self, scan: &Scan) -> bool {
        if !self.is_progressive {
            return (scan.first, scan.last, scan.is_refinement, scan.later_bits) == (0, 63, false, 0);
        }
        let is_range = if scan.first == 0 { scan.last == 0 } else { scan.first <= scan.last && scan.parts.len() == 1 };
        is_range && scan.last < 64 && scan.later_bits < 14
    }
}

impl Component {
    fn new(bytes: &[u8]) -> Option<Component> {
        let &[id, sampling, quantization_table] = bytes else { return None };
        let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
        let is_usual = |blocks: usize| matches!(blocks, 1 | 2 | 4);
        let quantization_table = quantization_table.into();
        let usual = Component { id, across, down, quantization_table, ..Component::default() };
        (is_usual(across) && is_usual(down)).then_some(usual)
    }
}
