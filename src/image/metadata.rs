//! The blocks of an image file, and the metadata that affects its pixels: the orientation and the color profile.
//!
//! With a whole file, the decoders read every metadata block into memory, inflate or copy it, and do not count it toward
//! their limit: a 300 KB iCCP chunk takes 600 MB. They therefore read the file through [`PixelReader`], which omits
//! metadata, and this module reads the needed metadata within a limit.
//!
//! Broken metadata is ignored, as browsers do: the image is shown without it. If the blocks themselves are malformed, the
//! rest of the file goes to the decoder, which decides.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use ::image::ImageFormat;
use ::image::metadata::Orientation;
use flate2::read::ZlibDecoder;

use super::Size;

/// The largest color profile, in bytes; a larger one is ignored. Profiles of cameras and screens have a few hundred bytes,
/// the largest in use (of scanners and presses) 2 MB.
const MAX_PROFILE: usize = 4 << 20;

/// The largest number of parts of a JPEG's profile.
const MAX_PARTS: usize = 255;

/// The purpose of a block.
#[derive(Clone, Copy)]
enum Role<'a> {
    /// Needed to decode the pixels.
    Pixels,
    /// Exif, starting at its TIFF header.
    Exif(&'a [u8]),
    /// A color profile or a part of it, in the format's packing.
    Profile(&'a [u8]),
    /// Anything else: text, thumbnails, previews.
    Other,
}

/// The blocks of a file, in order and without gaps (except for the header of a WebP).
struct Blocks<'a> {
    rest: &'a [u8],
    /// Returns the length and the role of the block at the start of these bytes.
    first: fn(&'a [u8]) -> (usize, Role<'a>),
}

impl<'a> Blocks<'a> {
    fn new(format: ImageFormat, bytes: &'a [u8]) -> Blocks<'a> {
        match format {
            ImageFormat::Png => Blocks { rest: bytes, first: png_block },
            ImageFormat::Jpeg => Blocks { rest: bytes, first: jpeg_block },
            ImageFormat::Gif => Blocks { rest: bytes, first: gif_block },
            ImageFormat::WebP => Blocks::of_webp(bytes.get(12..).unwrap_or_default()),
            _ => Blocks { rest: bytes, first: all },
        }
    }

    /// The chunks after the header of a WebP, or of one of its frames.
    fn of_webp(chunks: &'a [u8]) -> Blocks<'a> {
        Blocks { rest: chunks, first: webp_block }
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = (&'a [u8], Role<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (length, role) = (self.first)(self.rest);
        let (block, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some((block, role))
    }
}

/// The rest of the file, for the decoder.
fn all(rest: &[u8]) -> (usize, Role<'_>) {
    (rest.len(), Role::Pixels)
}

/// A chunk: length, type, data and checksum. The type of a critical chunk starts with a capital letter.
fn png_block(rest: &[u8]) -> (usize, Role<'_>) {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    if rest.starts_with(SIGNATURE) {
        return (SIGNATURE.len(), Role::Pixels);
    }
    let Some((&[a, b, c, d, kind @ ..], after)) = rest.split_first_chunk::<8>() else { return all(rest) };
    let Some(data) = after.get(..u32::from_be_bytes([a, b, c, d]) as usize) else { return all(rest) };
    let role = match &kind {
        b"eXIf" => Role::Exif(data),
        b"iCCP" => Role::Profile(data),
        b"tRNS" => Role::Pixels,
        [first, ..] if first.is_ascii_uppercase() => Role::Pixels,
        _ => Role::Other,
    };
    (rest.len().min(8 + data.len() + 4), role)
}

/// A segment, a marker without a segment, or the bytes of a scan.
fn jpeg_block(rest: &[u8]) -> (usize, Role<'_>) {
    match *rest {
        [0xff, 0xff, ..] => (rest.iter().take_while(|byte| **byte == 0xff).count() - 1, Role::Pixels), // padding
        [0xff, 0x01 | 0xd0..=0xd8, ..] => (2, Role::Pixels),
        [0xff, 0xd9, ..] => all(rest), // the end; cameras append previews and films
        [0xff, 0x00, ..] => (scan_length(rest), Role::Pixels),
        [0xff, marker, high, low, ..] => {
            let length = 2 + usize::from(u16::from_be_bytes([high, low]));
            let Some(data) = rest.get(4..length) else { return all(rest) };
            (length, jpeg_role(marker, data))
        }
        [0xff, ..] => all(rest),
        _ => (scan_length(rest), Role::Pixels),
    }
}

fn jpeg_role(marker: u8, data: &[u8]) -> Role<'_> {
    let exif = data.strip_prefix(b"Exif\0\0").map(Role::Exif);
    let profile = data.strip_prefix(b"ICC_PROFILE\0").map(Role::Profile);
    match marker {
        0xe1 => exif.unwrap_or(Role::Other),
        0xe2 => profile.unwrap_or(Role::Other),
        0xe3..=0xed | 0xef | 0xfe => Role::Other,
        _ => Role::Pixels, // APP0 and APP14, JFIF's and Adobe's, describe the colors
    }
}

/// Returns the length up to the next marker that is neither a restart nor a 0xff among the pixels.
fn scan_length(rest: &[u8]) -> usize {
    let is_marker = |at: &usize| rest.get(at + 1).is_some_and(|next| !matches!(next, 0x00 | 0xd0..=0xd7));
    memchr::memchr_iter(0xff, rest).find(is_marker).unwrap_or(rest.len())
}

/// The header with its color table, or an extension; from the first image on, the rest of the file.
fn gif_block(rest: &[u8]) -> (usize, Role<'_>) {
    match *rest {
        [b'G', b'I', b'F', _, _, _, _, _, _, _, flags, ..] => {
            let colors = if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) };
            (rest.len().min(13 + colors), Role::Pixels)
        }
        [0x21, label, ref body @ ..] => {
            let Some(length) = sub_blocks_length(body) else { return all(rest) };
            let profile = body[..length].strip_prefix(b"\x0bICCRGBG1012").map(Role::Profile);
            let role = match label {
                0xf9 => Role::Pixels, // the transparent color
                0xff => profile.unwrap_or(Role::Other),
                _ => Role::Other,
            };
            (2 + length, role)
        }
        _ => all(rest),
    }
}

/// Returns the length of the sub-blocks, including the empty one that ends them.
fn sub_blocks_length(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *body.get(at)? {
            0 => return Some(at + 1),
            length => at += 1 + usize::from(length),
        }
    }
}

/// A chunk: type, length and data, padded to an even length.
fn webp_block(rest: &[u8]) -> (usize, Role<'_>) {
    let Some((&[a, b, c, d, length @ ..], after)) = rest.split_first_chunk::<8>() else { return all(rest) };
    let length = u32::from_le_bytes(length) as usize;
    let Some(data) = after.get(..length) else { return all(rest) };
    let role = match &[a, b, c, d] {
        b"EXIF" => Role::Exif(data.strip_prefix(b"Exif\0\0").unwrap_or(data)),
        b"ICCP" => Role::Profile(data),
        b"XMP " => Role::Other,
        _ => Role::Pixels,
    };
    (rest.len().min(8 + length.next_multiple_of(2)), role)
}

/// A file without its metadata, for the sequential decoders of PNG, JPEG and GIF.
pub(super) struct PixelReader<'a> {
    blocks: Blocks<'a>,
    /// The unread bytes of the current block.
    block: &'a [u8],
}

impl<'a> PixelReader<'a> {
    pub(super) fn new(format: ImageFormat, bytes: &'a [u8]) -> PixelReader<'a> {
        PixelReader { blocks: Blocks::new(format, bytes), block: &[] }
    }
}

impl BufRead for PixelReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.block.is_empty() {
            let next = self.blocks.find(|(_, role)| matches!(role, Role::Pixels));
            self.block = next.map_or(&[], |(block, _)| block);
        }
        Ok(self.block)
    }

    fn consume(&mut self, count: usize) {
        self.block = &self.block[count..];
    }
}

impl Read for PixelReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Required by the decoders' types, but not called by the decoders that use this reader.
impl Seek for PixelReader<'_> {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The metadata that changes the appearance of an image.
pub(super) struct Metadata<'a> {
    pub(super) orientation: Orientation,
    /// An ICC profile of up to [`MAX_PROFILE`] bytes.
    pub(super) profile: Option<Cow<'a, [u8]>>,
}

impl<'a> Metadata<'a> {
    pub(super) fn read(format: ImageFormat, bytes: &'a [u8]) -> Metadata<'a> {
        let (mut exif, mut profile) = (None, Vec::new());
        for (_, role) in Blocks::new(format, bytes) {
            match role {
                Role::Exif(data) => exif = exif.or(Some(data)),
                Role::Profile(data) if profile.len() < MAX_PARTS => profile.push(data),
                _ => {}
            }
        }
        let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
        let profile = unpacked(format, profile).filter(|profile| profile.len() <= MAX_PROFILE);
        Metadata { orientation, profile }
    }
}

fn unpacked(format: ImageFormat, mut parts: Vec<&[u8]>) -> Option<Cow<'_, [u8]>> {
    let first = *parts.first()?;
    match format {
        ImageFormat::Png => inflated(first).map(Cow::Owned),
        ImageFormat::Gif => Some(Cow::Owned(joined(first))),
        ImageFormat::Jpeg => {
            // Each part starts with its number, from 1, and the number of parts.
            parts.sort_by_key(|part| part.first().copied());
            let is_part = |(number, part): (u8, &&[u8])| part.starts_with(&[number, parts.len() as u8]);
            let is_whole = (1..=u8::MAX).zip(&parts).all(is_part);
            is_whole.then(|| parts.iter().flat_map(|part| &part[2..]).copied().take(MAX_PROFILE + 1).collect())
        }
        _ => Some(Cow::Borrowed(first)),
    }
}

/// Returns the profile of an iCCP chunk: a name, a zero byte, the compression method (0, the only one), the data.
fn inflated(chunk: &[u8]) -> Option<Vec<u8>> {
    let name = chunk.iter().position(|byte| *byte == 0)?;
    let compressed = chunk[name + 1..].strip_prefix(&[0])?;
    let mut profile = Vec::new();
    ZlibDecoder::new(compressed).take(MAX_PROFILE as u64 + 1).read_to_end(&mut profile).ok()?;
    Some(profile)
}

/// Returns the data of a GIF's sub-blocks, each of which starts with its length.
fn joined(mut sub_blocks: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some((&length, rest)) = sub_blocks.split_first()
        && let Some((block, rest)) = rest.split_at_checked(length.into())
        && data.len() <= MAX_PROFILE
    {
        data.extend_from_slice(block);
        sub_blocks = rest;
    }
    data
}

/// Returns the bytes of a JPEG before its first scan, with the header of the scan.
pub(super) fn before_jpeg_scan(bytes: &[u8]) -> &[u8] {
    let mut length = 0;
    for (block, _) in Blocks::new(ImageFormat::Jpeg, bytes) {
        length += block.len();
        if block.starts_with(&[0xff, 0xda]) {
            break;
        }
    }
    &bytes[..length]
}

/// Counts the scans of a JPEG, and reports if it has an end marker.
pub(super) fn jpeg_scans(bytes: &[u8]) -> (usize, bool) {
    let (mut scans, mut has_end) = (0, false);
    for (block, _) in Blocks::new(ImageFormat::Jpeg, bytes) {
        match block {
            [0xff, 0xda, ..] => scans += 1,
            [0xff, 0xd9, ..] => has_end = true,
            _ => {}
        }
    }
    (scans, has_end)
}

/// The layout of a JPEG's pixels.
pub(super) struct JpegFrame {
    pub(super) is_progressive: bool,
    /// For each component, the blocks across and down in the interleaving unit.
    pub(super) sampling: Vec<(u8, u8)>,
}

impl JpegFrame {
    /// Returns the most blocks of a component across and down in the interleaving unit.
    pub(super) fn unit(&self) -> (u64, u64) {
        let most = |factor: fn(&(u8, u8)) -> u8| {
            self.sampling.iter().map(factor).max().map_or(1, |most| u64::from(most.max(1)))
        };
        (most(|(across, _)| *across), most(|(_, down)| *down))
    }
}

pub(super) fn jpeg_frame(bytes: &[u8]) -> Option<JpegFrame> {
    Blocks::new(ImageFormat::Jpeg, bytes).find_map(|(block, _)| match block {
        [0xff, marker @ 0xc0..=0xcf, _, _, _, _, _, _, _, count, components @ ..]
            if !matches!(marker, 0xc4 | 0xc8 | 0xcc) =>
        {
            let components = components.chunks_exact(3).take(usize::from(*count));
            let sampling = components.map(|component| (component[1] >> 4, component[1] & 15)).collect();
            Some(JpegFrame { is_progressive: marker & 3 == 2, sampling })
        }
        _ => None,
    })
}

/// Returns the size of a GIF's first frame.
pub(super) fn first_gif_frame(bytes: &[u8]) -> Option<Size> {
    Blocks::new(ImageFormat::Gif, bytes).find_map(|(block, _)| match *block {
        [0x2c, _, _, _, _, w0, w1, h0, h1, ..] => {
            Some(Size::new(u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into()))
        }
        _ => None,
    })
}

/// Returns the types of a WebP's chunks.
pub(super) fn webp_chunks(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    Blocks::new(ImageFormat::WebP, bytes).filter_map(|(chunk, _)| chunk.first_chunk().copied())
}

/// Returns the number of pixels of the largest lossy frame of a WebP, by the headers of the frames. The decoder allocates
/// memory for that many before it checks that they fit on the canvas.
pub(super) fn largest_webp_frame(bytes: &[u8]) -> u64 {
    let pixels = |(chunk, _): (&[u8], _)| match chunk {
        [b'A', b'N', b'M', b'F', ..] => {
            let frame = chunk.get(24..).unwrap_or_default();
            Blocks::of_webp(frame).map(|(chunk, _)| lossy_pixels(chunk)).max().unwrap_or(0)
        }
        _ => lossy_pixels(chunk),
    };
    Blocks::new(ImageFormat::WebP, bytes).map(pixels).max().unwrap_or(0)
}

/// Returns width times height of a VP8 chunk; 0 for any other chunk.
fn lossy_pixels(chunk: &[u8]) -> u64 {
    let [b'V', b'P', b'8', b' ', _, _, _, _, _, _, _, _, _, _, w0, w1, h0, h1, ..] = *chunk else { return 0 };
    let side = |bytes: [u8; 2]| u64::from(u16::from_le_bytes(bytes) & 0x3fff);
    side([w0, w1]) * side([h0, h1])
}
