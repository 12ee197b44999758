//! Multipart bodies: forms with files (RFC 7578).
//!
//! The parser writes files to temporary files as they arrive. They are deleted with the [`Multipart`] that holds them;
//! [`Upload::save_to`] keeps a file.

pub(crate) mod filename;
mod parameters;
mod parser;
mod part;
mod upload;

use std::borrow::Cow;
use std::io::{self, BufWriter, Read, Write};

use tempfile::NamedTempFile;

use self::parameters::{only, parameters};
use self::parser::Parser;
use self::part::Content;
pub use self::part::Part;
pub use self::upload::Upload;
use super::idempotency;
use crate::config::Config;
use crate::error::{Error, OrHere, Result, Status};
use crate::http::request::Request;
use crate::log_text::{bytes, numbered, size};

impl Request {
    /// Reads the multipart body: text fields and uploaded files.
    ///
    /// ```
    /// use aside::{Request, Response, Result, redirect};
    ///
    /// fn create_photo(req: &mut Request) -> Result<Response> {
    ///     let form = req.multipart()?;
    ///     let title = form.text("title")?;
    ///     let path = form.file("photo")?.save_to("data/photos")?;
    ///     println!("{title} is at {}", path.display());
    ///     Ok(redirect("/photos"))
    /// }
    /// ```
    ///
    /// # Errors
    /// 415 for another content type; 413 if the body is over `ASIDE_MAX_UPLOAD` (32 MiB), its text fields together are
    /// over `ASIDE_MAX_FORM` (1 MiB), or it has more than `ASIDE_MAX_PARTS` (100) parts; 400 if it was cut short or is
    /// malformed; 500 if the temporary files cannot be written.
    #[track_caller]
    pub fn multipart(&mut self) -> Result<Multipart> {
        self.multipart_with(&mut |_| true).or_here()
    }

    /// Returns the multipart body, with only those files whose field names `takes_file` accepts. Other files are not
    /// written to disk.
    pub(crate) fn multipart_with(&mut self, takes_file: &mut dyn FnMut(&str) -> bool) -> Result<Multipart> {
        if let Some(read) = self.extension::<ReadAhead>().and_then(|ahead| ahead.0.take()) {
            return Ok(read);
        }
        let boundary = self.boundary()?;
        let limits = Limits::of(self.config());
        if self.content_length().is_some_and(|length| length > limits.upload) {
            return Err(limits.over_upload());
        }
        let parts = read_parts(self.body(), &boundary, limits, takes_file)?;
        idempotency::record_identity(
            self,
            parts.iter().map(|part| (part.name(), part.text().or(part.filename()).unwrap_or_default())),
        );
        Ok(Multipart { parts, max_fields: limits.fields })
    }

    /// Reads the body now, and keeps it for a later call of the handler.
    ///
    /// # Errors
    /// The errors of [`multipart`](Request::multipart).
    pub(crate) fn read_multipart_ahead(&mut self) -> Result<()> {
        let form = self.multipart()?;
        self.set_extension(ReadAhead(Some(form)));
        Ok(())
    }

    fn boundary(&self) -> Result<String> {
        let content_type = self.content_type();
        if content_type.as_deref() != Some("multipart/form-data") {
            let received = content_type.filter(|name| !name.is_empty()).unwrap_or("none".to_owned());
            let message = format!("The body must be multipart/form-data; its Content-Type is {received}.");
            return Err(Error::new(Status::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let parameters = parameters(self.header("Content-Type").unwrap_or_default().as_bytes());
        let boundary = only(&parameters, "boundary")?.map(String::from_utf8_lossy).filter(|text| is_boundary(text));
        let message = "The Content-Type must have a boundary of 1 to 70 characters.";
        boundary.map(|text| text.into_owned()).ok_or_else(|| Error::bad_request(message))
    }
}

/// A body that was read before the handler asked for it.
struct ReadAhead(Option<Multipart>);

/// The limits of one body, by the names of their settings.
#[derive(Clone, Copy)]
struct Limits {
    upload: u64,
    text: u64,
    parts: usize,
    fields: usize,
}

impl Limits {
    fn of(config: &Config) -> Limits {
        Limits { upload: config.max_upload, text: config.max_form, parts: config.max_parts, fields: config.max_fields }
    }

    fn over_upload(&self) -> Error {
        over_upload(self.upload)
    }

    fn over_text(&self) -> Error {
        let detail = format!("the text fields are larger than {} together (ASIDE_MAX_FORM)", bytes(self.text));
        Error::too_large(format!("The text can have at most {}.", size(self.text))).with_detail(detail)
    }

    fn over_parts(&self) -> Error {
        let detail = format!("the body has more than {} (ASIDE_MAX_PARTS)", numbered(self.parts, "part", "parts"));
        Error::too_large("The form has too many fields or files.").with_detail(detail)
    }
}

/// Reads all parts, and skips files whose field names `takes_file` rejects.
fn read_parts(
    body: &mut (dyn Read + Send),
    boundary: &str,
    limits: Limits,
    takes_file: &mut dyn FnMut(&str) -> bool,
) -> Result<Vec<Part>> {
    let mut parser = Parser::new(body, boundary, limits);
    let mut parts = Vec::new();
    let mut text_left = limits.text;
    while let Some(headers) = parser.next()? {
        if parts.len() == limits.parts {
            return Err(limits.over_parts());
        }
        let mut part = Part::from_headers(&headers)?;
        part.content = match &part.filename {
            Some(filename) if takes_file(&part.name) => read_file(&mut parser, filename)?,
            Some(_) => parser.content(|_| Ok(())).map(|()| Content::NoFile)?,
            None => text_content(read_text(&mut parser, &mut text_left, limits)?),
        };
        parts.push(part);
    }
    Ok(parts)
}

fn read_text(parser: &mut Parser<'_>, left: &mut u64, limits: Limits) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    parser.content(|piece| {
        *left = left.checked_sub(piece.len() as u64).ok_or_else(|| limits.over_text())?;
        text.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(text)
}

/// Decodes text as the Fetch standard decodes a field: UTF-8, with U+FFFD for invalid bytes.
fn text_content(bytes: Vec<u8>) -> Content {
    let decoded = match String::from_utf8_lossy(&bytes) {
        Cow::Owned(decoded) => Some(decoded),
        Cow::Borrowed(_) => None,
    };
    Content::Text(bytes, decoded)
}

/// Reads a file. A part without a file name and without bytes is not an upload: the user chose no file.
fn read_file(parser: &mut Parser<'_>, filename: &str) -> Result<Content> {
    let failed = |error: io::Error| {
        let dir = std::env::temp_dir();
        Error::from(error).context(format!("cannot write an upload to {}", dir.display()))
    };
    let mut file: Option<BufWriter<NamedTempFile>> = None;
    let create = || upload::temporary_file().map(BufWriter::new).map_err(failed);
    if !filename.is_empty() {
        file = Some(create()?);
    }
    parser.content(|piece| {
        if file.is_none() && !piece.is_empty() {
            file = Some(create()?);
        }
        file.as_mut().map_or(Ok(()), |file| file.write_all(piece)).map_err(failed)
    })?;
    let Some(file) = file else { return Ok(Content::NoFile) };
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    // Only the path is kept: an upload that is not open uses no file descriptor.
    Upload::new(filename, file.into_temp_path()).map(Content::File).map_err(failed)
}

/// A multipart body, read completely: text fields in memory, files in temporary files that are deleted with it.
///
/// ```
/// use aside::{Request, Result};
///
/// fn apply(req: &mut Request) -> Result<String> {
///     let form = req.multipart()?;
///     let name = form.text("name")?;
///     let letters = form.files("letters"); // <input type="file" name="letters" multiple>
///     let size: u64 = letters.iter().map(|letter| letter.size()).sum();
///     Ok(format!("{name} sent {} letters, {size} bytes", letters.len()))
/// }
/// ```
#[derive(Debug)]
pub struct Multipart {
    parts: Vec<Part>,
    max_fields: usize,
}

impl Multipart {
    /// Returns all parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.name == name)
    }

    /// Returns the text field of this name, the first of several. It may be blank.
    ///
    /// # Errors
    /// 422 if there is none.
    #[track_caller]
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.named(name).find_map(Part::text) {
            Some(text) => Ok(text),
            None => Err(Error::unprocessable(format!("{name}: Please fill this in."))
                .with_detail(format!("the field `{name}` is missing"))),
        }
    }

    /// Returns all text fields of this name, in order; the list may be empty.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        self.named(name).filter_map(Part::text).collect()
    }

    /// Returns the file that the user chose in the field of this name, the first of several. It may be empty.
    ///
    /// # Errors
    /// 422 if the user chose none.
    #[track_caller]
    pub fn file(&self, name: &str) -> Result<&Upload> {
        match self.named(name).find_map(Part::upload) {
            Some(upload) => Ok(upload),
            None => Err(Error::unprocessable(format!("{name}: Please choose a file."))
                .with_detail(format!("the field `{name}` has no file"))),
        }
    }

    /// Returns all files that the user chose in the field of this name, in order; the list may be empty.
    pub fn files(&self, name: &str) -> Vec<&Upload> {
        self.named(name).filter_map(Part::upload).collect()
    }

    /// Returns the text fields as pairs of name and value, in order.
    ///
    /// # Errors
    /// 413 over `ASIDE_MAX_FIELDS`.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, String)>> {
        self.check_count()?;
        let text = |part: &Part| Some((part.name.clone(), part.text()?.to_owned()));
        Ok(self.parts.iter().filter_map(text).collect())
    }

    /// # Errors
    /// 413 over `ASIDE_MAX_FIELDS`.
    pub(crate) fn check_count(&self) -> Result<()> {
        if self.parts.iter().filter_map(Part::text).count() > self.max_fields {
            return Err(too_many_fields(self.max_fields, "form"));
        }
        Ok(())
    }
}

/// Returns the error for a body that is larger than `ASIDE_MAX_UPLOAD`.
pub(crate) fn over_upload(limit: u64) -> Error {
    let detail = format!("the body is larger than {} (ASIDE_MAX_UPLOAD)", bytes(limit));
    Error::too_large(format!("Files can have at most {}.", size(limit))).with_detail(detail)
}

/// Returns the error for more fields than `ASIDE_MAX_FIELDS`.
pub(super) fn too_many_fields(limit: usize, noun: &str) -> Error {
    let detail = format!("the {noun} has more than {} (ASIDE_MAX_FIELDS)", numbered(limit, "field", "fields"));
    Error::too_large(format!("The {noun} has too many fields.")).with_detail(detail)
}

/// Returns true for the characters that RFC 2046 (section 5.1.1) allows, and the other ASCII characters that clients
/// use.
fn is_boundary(text: &str) -> bool {
    (1..=70).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.ends_with(' ')
}

#[cfg(test)]
mod tests;
