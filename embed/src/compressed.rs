//! The compressed forms of a file: one that is beside it, or one that is made here.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use brotli::enc::BrotliEncoderParams;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::folder::{File, Files};

/// A content coding.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Coding {
    Brotli,
    /// Only from files beside the original: browsers that accept it accept Brotli too, which is smaller.
    Zstandard,
    Gzip,
}

/// The codings, in the order of aside's `http::files::precompressed`.
pub(crate) const CODINGS: [Coding; 3] = [Coding::Brotli, Coding::Zstandard, Coding::Gzip];

/// The compressed form of a file.
pub(crate) enum Form {
    Made(Vec<u8>),
    /// The path of a file beside the original.
    Sibling(PathBuf),
}

/// The sizes of files that are compressed. A smaller one fits one packet anyway; a larger one would take minutes, since
/// Cargo compiles macros without optimization.
const SIZES: std::ops::RangeInclusive<u64> = 1 << 10..=8 << 20;

/// The largest file that Brotli compresses as well as it can, at about 50 kB a second. For a larger one it takes a tenth of the
/// time, and makes a tenth more bytes.
const MAX_BEST: u64 = 128 << 10;

/// The extensions of text under any name. The types are those that the server compresses, too: `tests/it/embedded.rs` of aside
/// compares both.
const TEXT: &str = "appcache atom css csv geojson gpx htm html ics js json jsonld kml map md mjs rss rtf svg tsv ttf txt vtt wasm \
                    webapp webmanifest xhtml xml xsl xul yaml yml";

/// Returns the form of a file in this coding, if it is smaller than the file.
///
/// # Errors
/// A message if the file cannot be read.
pub(crate) fn form(file: &File, coding: Coding, files: &Files) -> Result<Option<Form>, String> {
    if let Some(sibling) = sibling(file, coding, files) {
        return Ok(Some(Form::Sibling(sibling)));
    }
    if coding == Coding::Zstandard || !is_text(&file.name) || !SIZES.contains(&file.length) {
        return Ok(None);
    }
    let made = fs::read(&file.path).and_then(|bytes| Ok((encode(&bytes, coding)?, bytes.len())));
    let (made, length) = made.map_err(|error| format!("could not compress {}: {error}", file.path.display()))?;
    Ok((made.len() < length).then_some(Form::Made(made)))
}

/// Returns the path of `app.css.br` beside `app.css`, unless it is older. Most checkouts have whole seconds only.
fn sibling(file: &File, coding: Coding, files: &Files) -> Option<PathBuf> {
    let ending = match coding {
        Coding::Brotli => ".br",
        Coding::Zstandard => ".zst",
        Coding::Gzip => ".gz",
    };
    let name = format!("{}{ending}", file.name);
    let at = files.files.binary_search_by(|other| other.name.cmp(&name)).ok()?;
    let sibling = &files.files[at];
    (seconds(sibling.modified?) >= seconds(file.modified?)).then(|| sibling.path.clone())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn is_text(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    TEXT.split(' ').any(|text| text == extension)
}

fn encode(bytes: &[u8], coding: Coding) -> io::Result<Vec<u8>> {
    let mut made = Vec::new();
    if coding == Coding::Gzip {
        let mut encoder = GzEncoder::new(made, Compression::best());
        encoder.write_all(bytes)?;
        return encoder.finish();
    }
    let quality = if bytes.len() as u64 <= MAX_BEST { 11 } else { 9 };
    let params = BrotliEncoderParams { quality, size_hint: bytes.len(), ..BrotliEncoderParams::default() };
    brotli::BrotliCompress(&mut &bytes[..], &mut made, &params)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_decides_about_compression_whatever_its_case() {
        assert!(is_text("css/app.CSS") && is_text("стиль.css") && is_text("a.min.js"));
        assert!(!is_text("photo.jpg") && !is_text("css") && !is_text("a.css/photo.webp") && !is_text("app.css.br"));
    }
}
