//! Multipart bodies: forms with files (RFC 7578).
//!
//! The files go to temporary files as they come in and are gone with the [`Multipart`] that holds them; what is to stay
//! goes through [`Upload::save_to`]. The parser is multer's, which is asynchronous, over a body that blocks: it is polled
//! here, without a runtime (see [`Source`]).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use percent_encoding::percent_decode_str;
use tempfile::{NamedTempFile, TempPath};

use super::request::{Request, unreadable};
use crate::config::Config;
use crate::error::{Error, Result, Status};

/// What is read from the body at once.
const CHUNK: usize = 16 << 10;

/// What may be read without a part beginning or going on: the header of a part, or what stands before the first.
const HEAD: usize = 16 << 10;

/// What of a file is looked at to tell its type; `infer` asks for no more.
const SNIFF: u64 = 8 << 10;

/// The longest name of a file that the usual file systems take, in bytes.
const LONGEST_NAME: usize = 255;

impl Request {
    /// The multipart body: text fields and uploaded files.
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
    /// 415 for another content type; 413 when the body is over `ASIDE_MAX_UPLOAD` (32 MiB), its text fields together are
    /// over `ASIDE_MAX_FORM` (1 MiB), or it has more than `ASIDE_MAX_PARTS` (100) parts; 400 when it was cut short or is
    /// malformed; 500 when the temporary files cannot be written.
    pub fn multipart(&mut self) -> Result<Multipart> {
        let boundary = self.boundary()?;
        let limits = Limits::of(self.config());
        if self.content_length().is_some_and(|length| length > limits.upload) {
            return Err(limits.over_upload());
        }
        read_parts(self.body(), &boundary, limits).map(|parts| Multipart { parts, max_fields: limits.fields })
    }

    fn boundary(&self) -> Result<String> {
        let content_type = self.content_type();
        if content_type.as_deref() != Some("multipart/form-data") {
            let came = content_type.filter(|name| !name.is_empty()).unwrap_or("none".to_owned());
            let words = format!("The body must be multipart/form-data; its Content-Type is {came}.");
            return Err(Error::new(Status::UNSUPPORTED_MEDIA_TYPE, words));
        }
        let parameters = parameters(self.header("Content-Type").unwrap_or_default().as_bytes());
        let boundary = text_of(&parameters, "boundary").filter(|text| (1..=70).contains(&text.len()));
        boundary.ok_or_else(|| Error::bad_request("The Content-Type has no boundary of 1 to 70 characters."))
    }
}

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
        let words = format!("The text fields are larger than {} bytes together (ASIDE_MAX_FORM).", self.text);
        Error::too_large(words)
    }

    fn over_parts(&self) -> Error {
        Error::too_large(format!("The body has more than {} parts (ASIDE_MAX_PARTS).", self.parts))
    }
}

/// The body as the stream that multer reads.
///
/// multer reads as long as it is given something, into memory. So after each chunk it is told once that there is nothing
/// yet: it then works on what it has, and [`wait`] polls it again. And it sets no bound to what comes before a part: so a
/// chunk is refused when too much has come since it last had something to say.
struct Source<'r> {
    body: &'r mut (dyn Read + Send),
    limits: Limits,
    read: u64,
    unheard: &'r AtomicUsize,
    resting: bool,
}

impl Source<'_> {
    fn chunk(&mut self) -> Option<Result<Vec<u8>>> {
        if self.unheard.load(Ordering::Relaxed) >= HEAD {
            return Some(Err(Error::bad_request(format!(
                "No part begins within {HEAD} bytes, or its header is longer."
            ))));
        }
        let mut buffer = [0; CHUNK];
        let count = loop {
            match self.body.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(unreadable(error))),
            }
        };
        self.read += count as u64;
        self.unheard.fetch_add(count, Ordering::Relaxed);
        Some(if self.read > self.limits.upload { Err(self.limits.over_upload()) } else { Ok(buffer[..count].to_vec()) })
    }
}

impl Stream for Source<'_> {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.resting = !self.resting;
        if self.resting { Poll::Ready(self.chunk()) } else { Poll::Pending }
    }
}

/// Waits for what never waits: each poll reads from the body, which blocks.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// multer over a [`Source`].
struct Parser<'r> {
    multer: multer::Multipart<'r>,
    unheard: &'r AtomicUsize,
}

impl<'r> Parser<'r> {
    fn new(body: &'r mut (dyn Read + Send), boundary: &str, limits: Limits, unheard: &'r AtomicUsize) -> Parser<'r> {
        let source = Source { body, limits, read: 0, unheard, resting: false };
        Parser { multer: multer::Multipart::new(source, boundary), unheard }
    }

    fn next(&mut self) -> Result<Option<multer::Field<'r>>> {
        let field = wait(self.multer.next_field()).map_err(refused);
        self.unheard.store(0, Ordering::Relaxed);
        field
    }

    /// Hands the content of a part on, piece by piece.
    fn content(&self, mut field: multer::Field<'r>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while let Some(piece) = wait(field.chunk()).map_err(refused)? {
            self.unheard.store(0, Ordering::Relaxed);
            take(&piece)?;
        }
        Ok(())
    }
}

fn refused(error: multer::Error) -> Error {
    match error {
        // Ours, out of the source, with its status.
        multer::Error::StreamReadFailed(error) => Error::from_box(error),
        multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders => {
            Error::bad_request("The multipart body was cut short or is malformed.").with_source(error)
        }
        error => Error::bad_request("A part of the multipart body has malformed headers.").with_source(error),
    }
}

fn read_parts(body: &mut (dyn Read + Send), boundary: &str, limits: Limits) -> Result<Vec<Part>> {
    let unheard = AtomicUsize::new(0);
    let mut parser = Parser::new(body, boundary, limits, &unheard);
    let mut parts = Vec::new();
    let mut text_left = limits.text;
    while let Some(field) = parser.next()? {
        if parts.len() == limits.parts {
            return Err(limits.over_parts());
        }
        let mut part = Part::from_headers(&field)?;
        part.content = match &part.filename {
            Some(filename) => read_file(&parser, field, filename)?,
            None => Content::Text(read_text(&parser, field, &mut text_left, limits)?),
        };
        parts.push(part);
    }
    Ok(parts)
}

fn read_text<'r>(parser: &Parser<'r>, field: multer::Field<'r>, left: &mut u64, limits: Limits) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    parser.content(field, |piece| {
        *left = left.checked_sub(piece.len() as u64).ok_or_else(|| limits.over_text())?;
        text.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(text)
}

/// What is sent for a file field where none was chosen (no name, no bytes) is no upload.
fn read_file<'r>(parser: &Parser<'r>, field: multer::Field<'r>, filename: &str) -> Result<Content> {
    let failed = |error: io::Error| {
        let place = std::env::temp_dir();
        Error::from(error).context(format!("cannot keep an upload in {}", place.display()))
    };
    let mut file: Option<BufWriter<NamedTempFile>> = None;
    let create = || NamedTempFile::with_prefix("aside-").map(BufWriter::new).map_err(failed);
    if !filename.is_empty() {
        file = Some(create()?);
    }
    parser.content(field, |piece| {
        if file.is_none() && !piece.is_empty() {
            file = Some(create()?);
        }
        file.as_mut().map_or(Ok(()), |file| file.write_all(piece)).map_err(failed)
    })?;
    let Some(file) = file else { return Ok(Content::NoFile) };
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    // The path alone: an upload that nobody reads holds no descriptor.
    Upload::new(clean(filename), file.into_temp_path()).map(Content::File).map_err(failed)
}

/// A multipart body, read whole: its text fields in memory, its files in temporary ones that are deleted with it.
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
    /// All parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.name == name)
    }

    /// The text field of that name, the first of several. It may be blank.
    ///
    /// # Errors
    /// 422 when there is none, 400 when it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<&str> {
        let text = self.named(name).find_map(Part::text);
        text.unwrap_or_else(|| Err(Error::unprocessable(format!("The field `{name}` is missing."))))
    }

    /// All text fields of that name, in order; none is fine.
    ///
    /// # Errors
    /// 400 when one is not UTF-8.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>> {
        self.named(name).filter_map(Part::text).collect()
    }

    /// The file that was chosen in the field of that name, the first of several. It may be empty.
    ///
    /// # Errors
    /// 422 when none was chosen.
    pub fn file(&self, name: &str) -> Result<&Upload> {
        let words = || format!("The field `{name}` has no file: please choose a file.");
        self.named(name).find_map(Part::upload).ok_or_else(|| Error::unprocessable(words()))
    }

    /// All files that were chosen in the field of that name, in order; none is fine.
    pub fn files(&self, name: &str) -> Vec<&Upload> {
        self.named(name).filter_map(Part::upload).collect()
    }

    /// The text fields by name and value, in order.
    ///
    /// # Errors
    /// 400 when one is not UTF-8, 413 over `ASIDE_MAX_FIELDS`.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, String)>> {
        let texts = || self.parts.iter().filter_map(|part| Some((part.name.clone(), part.text()?)));
        if texts().count() > self.max_fields {
            let words = format!("The form has more than {} fields (ASIDE_MAX_FIELDS).", self.max_fields);
            return Err(Error::too_large(words));
        }
        texts().map(|(name, text)| Ok((name, text?.to_owned()))).collect()
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
    Text(Vec<u8>),
    File(Upload),
    NoFile,
}

impl Part {
    fn from_headers(field: &multer::Field<'_>) -> Result<Part> {
        let header = |name: &str| field.headers().get(name).map(|value| value.as_bytes());
        // multer's own reading takes a `name=` inside a file's name for the part's.
        let parameters = parameters(header("content-disposition").unwrap_or_default());
        let name = parameters.iter().find(|(key, _)| key == "name").map(|(_, value)| value.clone());
        let name = name.ok_or_else(|| Error::bad_request("A part of the multipart body has no name."))?;
        let name = String::from_utf8(name).map_err(|_| Error::bad_request("The name of a part is not UTF-8."))?;
        let filename = text_of(&parameters, "filename").map(|text| unescape(&text));
        Ok(Part {
            name: unescape(&name),
            filename: filename.or_else(|| extended(&text_of(&parameters, "filename*")?)),
            content_type: header("content-type").map(|value| String::from_utf8_lossy(value).trim().to_owned()),
            content: Content::NoFile,
        })
    }

    /// The field's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's name as the client gave it, which may be a path, or empty; none for a text field. Never a name to save
    /// it under: see [`Upload::save_to`].
    pub fn filename(&self) -> Option<&str> {
        self.filename.as_deref()
    }

    /// The media type as the client gave it, parameters and all. For a file see [`Upload::content_type`].
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The length of the content in bytes.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.len() as u64,
            Content::File(upload) => upload.size(),
            Content::NoFile => 0,
        }
    }

    /// The content, text or file, from its beginning.
    ///
    /// # Errors
    /// 500 when the temporary file cannot be read.
    pub fn open(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match &self.content {
            Content::Text(text) => Box::new(text.as_slice()),
            Content::File(upload) => Box::new(upload.open()?),
            Content::NoFile => Box::new(io::empty()),
        })
    }

    /// The text, when this is a text field: one without a file's name.
    ///
    /// # Errors
    /// 400 when it is not UTF-8.
    pub fn text(&self) -> Option<Result<&str>> {
        let Content::Text(text) = &self.content else { return None };
        let words = || format!("The field `{}` is not UTF-8.", self.name);
        Some(std::str::from_utf8(text).map_err(|_| Error::bad_request(words())))
    }

    /// The file, when one was chosen.
    pub fn upload(&self) -> Option<&Upload> {
        if let Content::File(upload) = &self.content { Some(upload) } else { None }
    }
}

/// The parameters of a header value, their names in lower case: what comes after the first semicolon.
///
/// A quote inside a quoted value comes as `%22` from browsers and as `\"` from others. A backslash before a quote that
/// ends the value is one from a file's name, though.
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

/// A quoted value from behind its opening quote, and what is left behind the closing one.
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

/// Whether a quote before this closes its value: nothing follows, or the next parameter does.
fn ends_here(after: &[u8]) -> bool {
    let [b';', next @ ..] = after.trim_ascii_start() else { return after.trim_ascii().is_empty() };
    let next = next.trim_ascii_start();
    let name = next.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'*').count();
    name > 0 && next[name..].starts_with(b"=")
}

fn text_of(parameters: &[(String, Vec<u8>)], name: &str) -> Option<String> {
    let (_, value) = parameters.iter().find(|(key, _)| key == name)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// What a browser escapes in a name, and nothing else (HTML, "multipart form data").
fn unescape(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

/// `UTF-8''%D1%84.txt` (RFC 8187), which has no place in a form and comes from some clients all the same.
fn extended(value: &str) -> Option<String> {
    let (_charset, rest) = value.split_once('\'')?;
    let (_language, text) = rest.split_once('\'')?;
    Some(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

/// A file that a visitor uploaded: a temporary one until it is [saved](Upload::save_to).
pub struct Upload {
    filename: String,
    kind: FileKind,
    size: u64,
    temporary: TempPath,
    /// Whether a saved file shares the temporary one's bytes on the disk.
    linked: AtomicBool,
}

impl Upload {
    fn new(filename: String, temporary: TempPath) -> io::Result<Upload> {
        let mut file = File::open(&temporary)?;
        let size = file.metadata()?.len();
        let mut head = Vec::new();
        (&mut file).take(SNIFF).read_to_end(&mut head)?;
        let kind = FileKind::of(&head, size > head.len() as u64);
        Ok(Upload { filename, kind, size, temporary, linked: AtomicBool::new(false) })
    }

    /// The file's name, to be shown: without folders, control characters, marks that turn the direction of writing, and
    /// dots at its beginning; at most 255 bytes; `file` when nothing is left.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// The media type, told from the content: what the client says is not looked at. `text/plain` for UTF-8 text,
    /// `application/octet-stream` for what is not known.
    pub fn content_type(&self) -> &str {
        self.kind.content_type
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the temporary file is. It is gone when the [`Multipart`] is dropped.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Opens the temporary file for reading, from its beginning.
    ///
    /// # Errors
    /// 500 when it cannot be read.
    pub fn open(&self) -> Result<File> {
        File::open(&self.temporary).map_err(|error| Error::from(error).context("cannot read an upload"))
    }

    /// Saves the file in that folder, which is created if need be, and returns its path there.
    ///
    /// ```
    /// # fn save(req: &mut aside::Request) -> aside::Result<()> {
    /// let path = req.multipart()?.file("photo")?.save_to("data/photos")?;
    /// assert_eq!(path.extension().unwrap(), "jpg"); // data/photos/9f86d081884c7d659a2feaa0c55ad015.jpg
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Its name there is a random one, with the extension of the content's type: `bin` for what is not known, and `txt` for
    /// every kind of text, HTML and XML among them, which a browser would run if they were served as they are. Nothing is
    /// ever overwritten, and the file is there whole or not at all. It may be read by whom other new files may be read.
    ///
    /// # Errors
    /// 500 when the folder cannot be written or the disk is full.
    pub fn save_to(&self, dir: impl AsRef<Path>) -> Result<PathBuf> {
        let dir = dir.as_ref();
        let saved = self.save(dir);
        saved.map_err(|error| Error::from(error).context(format!("cannot save an upload in {}", dir.display())))
    }

    fn save(&self, dir: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(dir)?;
        let name = random_name()?;
        let path = dir.join(format!("{name}.{}", self.kind.extension));
        let beside = Beside::new(dir.join(format!(".{name}.part")))?;
        if !self.link(&beside, &path) {
            copy(&mut File::open(&self.temporary)?, &beside.file)?;
            beside.become_file(&path)?;
        }
        Ok(path)
    }

    /// Gives the temporary file a second name, which is all there is to saving it on the same file system. Once only: two
    /// saved files are to be two files.
    fn link(&self, ordinary: &Beside, path: &Path) -> bool {
        if self.linked.swap(true, Ordering::Relaxed) {
            return false;
        }
        let permissions = ordinary.file.metadata().map(|metadata| metadata.permissions());
        permissions.and_then(|like| fs::set_permissions(&self.temporary, like)).is_ok()
            && fs::hard_link(&self.temporary, path).is_ok()
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

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An unfinished file beside the one that it is to become. It has the permissions of an ordinary new file, which nothing
/// but making one tells, and is deleted unless it was finished.
struct Beside {
    path: PathBuf,
    file: File,
}

impl Beside {
    fn new(path: PathBuf) -> io::Result<Beside> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Beside { path, file })
    }

    /// The name is random: nothing is there that a rename, where the file system has no links, could overwrite.
    fn become_file(&self, path: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, path).or_else(|_| fs::rename(&self.path, path))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn copy(from: &mut impl Read, mut to: &File) -> io::Result<()> {
    io::copy(from, &mut to).map(drop)
}

/// What a file is, by its first bytes.
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

/// UTF-8 without control characters but for white space. The last character may be cut where there is more.
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

/// A file's name that can be shown, and would do no harm as one either.
fn clean(filename: &str) -> String {
    let last = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let harmless = |c: &char| {
        !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let name: String = last.chars().filter(harmless).collect();
    let name = name.trim_start_matches(|c: char| c == '.' || c.is_whitespace());
    let name = name.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    if name.is_empty() { "file".to_owned() } else { shorten(name, LONGEST_NAME) }
}

/// At most that many bytes, the extension kept if it is one.
fn shorten(name: &str, longest: usize) -> String {
    if name.len() <= longest {
        return name.to_owned();
    }
    let (stem, extension) = match name.rfind('.') {
        Some(at) if name.len() - at <= 32 => name.split_at(at),
        _ => (name, ""),
    };
    let room = longest - extension.len();
    let end = (0..=room.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{extension}", &stem[..end])
}
