//! Multipart bodies: forms with files (RFC 7578).
//!
//! The parser writes files to temporary files as they arrive. They are deleted with the [`Multipart`] that holds them;
//! [`Upload::save_to`] keeps a file.

mod parser;

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use percent_encoding::percent_decode;
use tempfile::{NamedTempFile, TempPath};

use self::parser::{Parser, PartHeaders};
use super::idempotency;
use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;

/// The number of bytes from which the type of a file is detected; `infer` uses no more.
const SNIFF: u64 = 8 << 10;

/// The longest file name that common file systems accept, in bytes.
const LONGEST_NAME: usize = 255;

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
        let caller = Location::caller();
        self.multipart_with(&mut |_| true).map_err(|error| error.or_at(caller))
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
        Error::too_large(format!("The body is larger than {} bytes (ASIDE_MAX_UPLOAD).", self.upload))
    }

    fn over_text(&self) -> Error {
        let message = format!("The text fields are larger than {} bytes together (ASIDE_MAX_FORM).", self.text);
        Error::too_large(message)
    }

    fn over_parts(&self) -> Error {
        Error::too_large(format!("The body has more than {} parts (ASIDE_MAX_PARTS).", self.parts))
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
    let create = || NamedTempFile::with_prefix("aside-").map(BufWriter::new).map_err(failed);
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
    Upload::new(clean(filename), file.into_temp_path()).map(Content::File).map_err(failed)
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
            None => Err(Error::unprocessable(format!("The field `{name}` is missing."))),
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
            None => Err(Error::unprocessable(format!("The field `{name}` has no file: please choose a file."))),
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
            let message = format!("The form has more than {} fields (ASIDE_MAX_FIELDS).", self.max_fields);
            return Err(Error::too_large(message));
        }
        Ok(())
    }
}

/// One part of a multipart body, as the client sent it.
#[derive(Debug)]
pub struct Part {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The bytes, and their text with U+FFFD if they are not valid UTF-8.
    Text(Vec<u8>, Option<String>),
    File(Upload),
    NoFile,
}

impl Part {
    fn from_headers(headers: &PartHeaders) -> Result<Part> {
        let disposition = headers.get("content-disposition").unwrap_or_default();
        if !is_form_data(disposition) {
            return Err(Error::bad_request("A part of the multipart body has no Content-Disposition of form-data."));
        }
        let parameters = parameters(disposition);
        let name = only(&parameters, "name")?;
        let name = name.ok_or_else(|| Error::bad_request("A part of the multipart body has no name."))?;
        let name = str::from_utf8(name).map_err(|_| Error::bad_request("The name of a part is not UTF-8."))?;
        // `filename*` is not allowed in a form (RFC 7578, section 4.2), but some clients send nothing else. If both are
        // present, two servers could read different names, so the plain `filename` counts.
        let plain = only(&parameters, "filename")?.map(|name| unescape(&String::from_utf8_lossy(name)));
        let extended = only(&parameters, "filename*")?.map(extended_value);
        Ok(Part {
            name: unescape(name),
            filename: plain.or(extended),
            content_type: headers.get("content-type").map(|value| String::from_utf8_lossy(value).into_owned()),
            content: Content::NoFile,
        })
    }

    /// Returns the field's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file name that the client sent, which may be a path or empty; `None` for a text field. Do not save a
    /// file under this name: see [`Upload::save_to`].
    pub fn filename(&self) -> Option<&str> {
        self.filename.as_deref()
    }

    /// Returns the media type that the client sent, with its parameters. For a file see [`Upload::content_type`].
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Returns the length of the content in bytes.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Text(bytes, _) => bytes.len() as u64,
            Content::File(upload) => upload.size(),
            Content::NoFile => 0,
        }
    }

    /// Opens the content, text or file, for reading from its start.
    ///
    /// # Errors
    /// 500 if the temporary file cannot be read.
    pub fn open(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match &self.content {
            Content::Text(bytes, _) => Box::new(bytes.as_slice()),
            Content::File(upload) => Box::new(upload.open()?),
            Content::NoFile => Box::new(io::empty()),
        })
    }

    /// Returns the text of a text field, which is a part without a file name. Invalid UTF-8 becomes U+FFFD, as in a
    /// urlencoded form; [`open`](Part::open) returns the bytes.
    pub fn text(&self) -> Option<&str> {
        let Content::Text(bytes, decoded) = &self.content else { return None };
        decoded.as_deref().or_else(|| std::str::from_utf8(bytes).ok())
    }

    /// Returns the file, if the user chose one.
    pub fn upload(&self) -> Option<&Upload> {
        if let Content::File(upload) = &self.content { Some(upload) } else { None }
    }
}

/// Returns the parameters of a header value, which follow the first semicolon. Their names are in lower case.
///
/// Browsers send a quote inside a quoted value as `%22`, other clients as `\"`. But a backslash before the quote that
/// ends the value belongs to a file name.
fn parameters(value: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = value.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &value[at + 1..]);
    while let Some(equals) = rest.iter().position(|byte| matches!(byte, b'=' | b';')) {
        let (name, after) = (&rest[..equals], &rest[equals + 1..]);
        if rest[equals] == b';' {
            rest = after;
            continue;
        }
        let name = String::from_utf8_lossy(name).trim().to_ascii_lowercase();
        let (value, left) = match after.trim_ascii_start() {
            [b'"', quoted @ ..] => quoted_value(quoted),
            plain => {
                let end = plain.iter().position(|byte| *byte == b';').unwrap_or(plain.len());
                (plain[..end].trim_ascii().to_vec(), &plain[end..])
            }
        };
        found.push((name, value));
        rest = left.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &left[at + 1..]);
    }
    found
}

/// Reads a quoted value after its opening quote. Returns the value, and the rest after the closing quote.
fn quoted_value(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'\\', b'"', after @ ..] if !ends_here(after) => {
                value.push(b'"');
                rest = after;
            }
            [b'\\', b'\\', after @ ..] => {
                value.push(b'\\');
                rest = after;
            }
            [b'"', after @ ..] => return (value, after),
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return (value, rest),
        }
    }
}

/// Returns true if a quote before this input closes its value: nothing follows, or the next parameter follows.
fn ends_here(after: &[u8]) -> bool {
    let [b';', next @ ..] = after.trim_ascii_start() else { return after.trim_ascii().is_empty() };
    let next = next.trim_ascii_start();
    let name = next.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'*').count();
    name > 0 && next[name..].starts_with(b"=")
}

/// Returns the parameter of this name. A repeated parameter is an error, since two readers could each use another one.
fn only<'p>(parameters: &'p [(String, Vec<u8>)], name: &str) -> Result<Option<&'p [u8]>> {
    let mut found = parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_slice());
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Error::bad_request(format!("The parameter `{name}` is given twice."))),
        (one, None) => Ok(one),
    }
}

/// Returns the value of a parameter with a charset, as in `utf-8'en'%c3%a9.txt` (RFC 8187, section 3.2.1). Bytes that
/// are not UTF-8 or Latin-1 become U+FFFD. A value in another form is used unchanged.
fn extended_value(value: &[u8]) -> String {
    let mut pieces = value.splitn(3, |byte| *byte == b'\'');
    let (Some(charset), Some(_), Some(encoded)) = (pieces.next(), pieces.next(), pieces.next()) else {
        return String::from_utf8_lossy(value).into_owned();
    };
    let decoded = percent_decode(encoded);
    match charset.eq_ignore_ascii_case(b"iso-8859-1") {
        true => decoded.map(char::from).collect(),
        false => decoded.decode_utf8_lossy().into_owned(),
    }
}

/// Returns true for the characters that RFC 2046 (section 5.1.1) allows, and the other ASCII characters that clients
/// use.
fn is_boundary(text: &str) -> bool {
    (1..=70).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.ends_with(' ')
}

fn is_form_data(disposition: &[u8]) -> bool {
    let kind = disposition.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"form-data")
}

/// Reverts the escapes that a browser makes in a name, and no others (HTML, "multipart form data").
fn unescape(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

/// A file that a user uploaded. It is temporary until it is [saved](Upload::save_to).
#[derive(Clone)]
pub struct Upload {
    filename: String,
    kind: FileKind,
    size: u64,
    /// Shared, so that a form's value and the body can both own the upload. `None` for a stand-in.
    temporary: Arc<Option<TempPath>>,
    /// True once a saved file shares the data of the temporary file on the disk.
    linked: Arc<AtomicBool>,
}

impl Upload {
    fn new(filename: String, temporary: TempPath) -> io::Result<Upload> {
        let mut file = File::open(&temporary)?;
        let size = file.metadata()?.len();
        let mut head = Vec::new();
        (&mut file).take(SNIFF).read_to_end(&mut head)?;
        let kind = FileKind::of(&head, size > head.len() as u64);
        Ok(Upload { filename, kind, size, temporary: Arc::new(Some(temporary)), linked: Arc::default() })
    }

    /// Returns an empty upload, in place of a missing one.
    pub(crate) fn empty() -> io::Result<Upload> {
        Upload::new(clean(""), NamedTempFile::with_prefix("aside-")?.into_temp_path())
    }

    /// Returns an upload without a file, to test if a type takes one.
    pub(crate) fn stand_in() -> Upload {
        let (filename, kind) = (clean(""), FileKind::of(b"", false));
        Upload { filename, kind, size: 0, temporary: Arc::default(), linked: Arc::default() }
    }

    pub(crate) fn is_stand_in(&self) -> bool {
        self.temporary.is_none()
    }

    /// Returns the file's name for display: without folders, control characters, marks that change the writing
    /// direction, and dots at its ends. Characters with a meaning on Windows (`a:b`) become `_`, and Windows device
    /// names get a `_` in front (`_con.txt`). At most 255 bytes; `file` if nothing is left.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// Returns the media type, detected from the content: the type that the client sent is ignored. `text/plain` for
    /// UTF-8 text, `application/octet-stream` for unknown content.
    pub fn content_type(&self) -> &str {
        self.kind.content_type
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the path of the temporary file. The file is deleted when the [`Multipart`] and all clones of the upload
    /// are dropped.
    pub fn path(&self) -> &Path {
        Option::as_ref(&self.temporary).map_or(Path::new(""), |path| path)
    }

    /// Opens the temporary file for reading from its start.
    ///
    /// # Errors
    /// 500 if the file cannot be read.
    pub fn open(&self) -> Result<File> {
        File::open(self.path()).map_err(|error| Error::from(error).context("cannot read an upload"))
    }

    /// Saves the file in a folder, which is created if it is missing, and returns the path of the saved file.
    ///
    /// ```
    /// # fn save(req: &mut aside::Request) -> aside::Result<()> {
    /// let path = req.multipart()?.file("photo")?.save_to("data/photos")?;
    /// assert_eq!(path.extension().unwrap(), "jpg"); // data/photos/9f86d081884c7d659a2feaa0c55ad015.jpg
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The saved file has a random name with the extension of the content's type: `bin` for unknown content, and `txt`
    /// for all kinds of text, including HTML and XML, which a browser would run if they were served unchanged. Saving
    /// never overwrites a file, and never leaves a partial file. The saved file has the permissions of an ordinary new
    /// file.
    ///
    /// # Errors
    /// 500 if the folder cannot be written or the disk is full.
    pub fn save_to(&self, dir: impl AsRef<Path>) -> Result<PathBuf> {
        let dir = dir.as_ref();
        let saved = self.save(dir);
        saved.map_err(|error| Error::from(error).context(format!("cannot save an upload in {}", dir.display())))
    }

    fn save(&self, dir: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(dir)?;
        let name = random_name()?;
        let path = dir.join(format!("{name}.{}", self.kind.extension));
        let beside = Unfinished::new(dir.join(format!(".{name}.part")))?;
        if !self.link(&beside, &path) {
            copy(&mut File::open(self.path())?, &beside.file)?;
            beside.become_file(&path)?;
        }
        Ok(path)
    }

    /// Adds a hard link to the temporary file, which saves it without a copy on the same file system. Only once: two
    /// saved files must be two files.
    fn link(&self, ordinary: &Unfinished, path: &Path) -> bool {
        if self.linked.swap(true, Ordering::Relaxed) {
            return false;
        }
        let permissions = ordinary.file.metadata().map(|metadata| metadata.permissions());
        permissions.and_then(|like| fs::set_permissions(self.path(), like)).is_ok()
            && fs::hard_link(self.path(), path).is_ok()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("filename", &self.filename)
            .field("content_type", &self.content_type())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Returns 32 random hexadecimal digits that cannot be guessed.
pub(crate) fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An unfinished file beside its final path. It has the permissions of an ordinary new file, which can only be found by
/// creating one, and is deleted unless it was finished.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn new(path: PathBuf) -> io::Result<Unfinished> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Unfinished { path, file })
    }

    /// The name is random, so a rename, used where the file system has no links, cannot overwrite a file.
    fn become_file(&self, path: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, path).or_else(|_| fs::rename(&self.path, path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn copy(from: &mut impl Read, mut to: &File) -> io::Result<()> {
    io::copy(from, &mut to).map(drop)
}

/// The type of a file, from its first bytes.
#[derive(Clone, Copy)]
struct FileKind {
    content_type: &'static str,
    extension: &'static str,
}

impl FileKind {
    fn of(head: &[u8], more: bool) -> FileKind {
        match infer::get(head) {
            Some(kind) if kind.mime_type().starts_with("text/") => {
                FileKind { content_type: kind.mime_type(), extension: "txt" }
            }
            Some(kind) => FileKind { content_type: kind.mime_type(), extension: kind.extension() },
            None if is_text(head, more) => FileKind { content_type: "text/plain", extension: "txt" },
            None => FileKind { content_type: "application/octet-stream", extension: "bin" },
        }
    }
}

/// Returns true for UTF-8 without control characters except white space. The last character may be incomplete if more
/// follows.
fn is_text(head: &[u8], more: bool) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if more && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && !text.chars().any(|c| c.is_control() && !c.is_whitespace())
}

/// Returns a file name that is safe to show, and also safe to use as a file name.
pub(crate) fn clean(filename: &str) -> String {
    let last = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|c| !is_hidden(*c)).map(|c| if is_special(c) { '_' } else { c }).collect();
    let name = shown.trim_matches(|c: char| c == '.' || c.is_whitespace());
    match name {
        "" => "file".to_owned(),
        name if is_device(name) => shorten(&format!("_{name}"), LONGEST_NAME),
        name => shorten(name, LONGEST_NAME),
    }
}

/// Returns true for control characters, line ends, and marks that change the writing direction.
fn is_hidden(c: char) -> bool {
    let marks = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || marks || c == '\u{feff}'
}

/// Returns true for characters with a meaning in Windows file names, including the colon of alternate data streams.
fn is_special(c: char) -> bool {
    matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*')
}

/// Returns true for the name of a Windows device, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered =
        |stem: &str| stem.strip_prefix("COM").or(stem.strip_prefix("LPT")).is_some_and(|rest| rest.len() == 1);
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered(&stem)
}

/// Shortens a name to at most `longest` bytes, and keeps its extension if it has one.
fn shorten(name: &str, longest: usize) -> String {
    if name.len() <= longest {
        return name.to_owned();
    }
    let (stem, extension) = match name.rfind('.') {
        Some(at) if name.len() - at <= 32 => name.split_at(at),
        _ => (name, ""),
    };
    let stem_bytes = longest - extension.len();
    let end = (0..=stem_bytes.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{extension}", &stem[..end])
}

#[cfg(test)]
mod tests;
