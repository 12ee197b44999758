//! Files as responses: content type, validators, ranges.
//!
//! A file is opened once, and its length and validators are those of the opened file, so that a file replaced during
//! the response is sent as it was. A path from the client is checked twice: the name, before the disk is accessed, and
//! the canonical path, after all symbolic links. A file that is embedded in the program has the same headers; its tag is
//! the hash of its content, and it has no date, so that two builds of one source are the same.

pub(crate) mod compression;
pub(crate) mod content_disposition;
pub(crate) mod folder;
pub(crate) mod folders;
pub(crate) mod precompressed;

mod conditions;
pub(crate) mod hashes;
mod ranges;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::conditions::{Validators, Verdict};
use self::folder::{EmbeddedContent, Folder, Place};
use self::hashes::Hashes;
use self::precompressed::{Accepted, CODINGS, Coding, is_compressible};
use self::ranges::Wanted;
use super::request::{Method, Request};
use super::response::{Response, ResponseBody};
use crate::error::{Error, OrHere, Result, Status};

/// A folder whose files any client may read. Clones share the hashes.
#[derive(Clone)]
pub(crate) struct StaticFiles {
    folder: Folder,
    hashes: Hashes,
}

impl StaticFiles {
    /// Returns the files of a folder, which may be missing yet.
    pub(crate) fn new(folder: impl Into<Folder>) -> StaticFiles {
        StaticFiles { folder: folder.into(), hashes: Hashes::default() }
    }

    /// Returns the file at the rest of the path, decoded. In production a browser may cache it for an hour; in
    /// development it revalidates each time; at a URL with the file's hash it may cache it for a year.
    ///
    /// If a file with the same name plus `.br`, `.zst` or `.gz` exists and is not older than the file, a client that
    /// accepts the coding gets that one.
    ///
    /// # Errors
    /// 404 if the path is not a file of the folder, or has a part that begins with a dot; 412 if a precondition fails.
    pub(crate) fn respond(&self, req: &Request, rest: &str) -> Result<Response> {
        let (original, path) = self.open(rest)?;
        let cache = self.caching(req, rest, &original);
        let file = self.precompressed(req, rest, original);
        let public_version = file.is_settled().then(|| version(&path.to_string_lossy(), &file.validators.etag));
        let mut response = file.respond(req, cache)?.marked_as_asset();
        response.public_version = public_version;
        Ok(response)
    }

    /// Returns a file and its path.
    fn open(&self, rest: &str) -> Result<(Opened, PathBuf)> {
        match &self.folder.0 {
            Place::Disk(dir) => {
                let path = find(dir, rest).ok_or(Status::NOT_FOUND)?;
                Ok((Opened::at(&path)?, path))
            }
            Place::Program(embedded) => {
                let file = embedded.find(rest).ok_or(Status::NOT_FOUND)?;
                Ok((Opened::embedded(file.name, &file.content), PathBuf::from(file.name)))
            }
        }
    }

    /// Returns the cache policy for this request. A URL with an outdated hash leads to the current file, which must not
    /// be cached under it.
    fn caching(&self, req: &Request, rest: &str, file: &Opened) -> &'static str {
        let is_right = |asked: &str| self.hash_of(rest, file).is_ok_and(|hash| hash == asked);
        match hashes::requested(req.query_string()) {
            Some(asked) if is_right(asked) => "public, max-age=31536000, immutable",
            _ if req.config().is_development() => "no-cache",
            _ => "public, max-age=3600",
        }
    }

    /// Returns the hash of a file's contents.
    ///
    /// # Errors
    /// 404 if the path is not a file of the folder, 500 if it cannot be read.
    fn hash(&self, rest: &str) -> Result<String> {
        if let Some(hash) = self.known_hash(rest) {
            return Ok(hash);
        }
        let (file, _) = self.open(rest)?;
        self.hash_of(rest, &file)
    }

    /// Returns the hash of a version of the file that was checked and read before.
    fn known_hash(&self, rest: &str) -> Option<String> {
        let metadata = join(self.folder.on_disk()?, rest)?.metadata().ok()?;
        self.hashes.known(&version(rest, &etag(&metadata)))
    }

    fn hash_of(&self, rest: &str, file: &Opened) -> Result<String> {
        match &file.content {
            Content::File(content) => self.hashes.of(&version(rest, &file.validators.etag), content),
            Content::Embedded(_) => Ok(file.validators.opaque().to_owned()),
        }
    }

    /// Returns the file, or the precompressed form that the client prefers.
    fn precompressed(&self, req: &Request, rest: &str, mut original: Opened) -> Opened {
        let available: Vec<_> = CODINGS.into_iter().filter_map(|coding| self.form(rest, &original, coding)).collect();
        original.varies |= !available.is_empty();
        let chosen = Accepted::of(req.headers()).choose(available.iter().map(|(coding, _)| *coding));
        let chosen = available.into_iter().find(|(coding, _)| Some(*coding) == chosen);
        match chosen.and_then(|(coding, form)| Some((coding, form.open()?))) {
            Some((coding, form)) => form.into_form_of(original, coding),
            None => original,
        }
    }

    /// Returns the precompressed form of a file, unless the file was changed since.
    fn form(&self, rest: &str, original: &Opened, coding: Coding) -> Option<(Coding, Form)> {
        let form = match &self.folder.0 {
            Place::Disk(dir) => Form::Sibling(sibling(dir, rest, original, coding)?),
            Place::Program(embedded) => Form::Embedded(embedded.find(rest)?.form(coding)?),
        };
        Some((coding, form))
    }
}

/// A precompressed form that is not opened yet.
enum Form {
    Sibling(PathBuf),
    Embedded(&'static EmbeddedContent),
}

impl Form {
    fn open(self) -> Option<Opened> {
        match self {
            Form::Sibling(path) => Opened::at(&path).ok(),
            Form::Embedded(content) => Some(Opened::embedded("", content)),
        }
    }
}

/// Returns the path of a file beside the original that has its precompressed form, and is not older.
fn sibling(dir: &Path, rest: &str, original: &Opened, coding: Coding) -> Option<PathBuf> {
    let name = format!("{rest}{}", coding.ending);
    // Checked first, since it is cheap, and most files have no such form.
    let metadata = join(dir, &name)?.metadata().ok().filter(Metadata::is_file)?;
    let is_current = !is_older(metadata.modified().ok()?, original.validators.modified?);
    is_current.then(|| find(dir, &name)).flatten()
}

/// Returns the canonical path of a name, if it is in the folder.
fn find(dir: &Path, rest: &str) -> Option<PathBuf> {
    let folder = dir.canonicalize().ok()?;
    let path = join(&folder, rest)?.canonicalize().ok()?;
    // A link may lead to a hidden file of the same folder, whose own name hides it too.
    let inside = path.strip_prefix(&folder).ok()?;
    let shown = |part: Component<'_>| !part.as_os_str().as_encoded_bytes().starts_with(b".");
    inside.components().all(shown).then_some(path)
}

/// Returns the key of one version of one file of a folder: the tag distinguishes versions, the name distinguishes files
/// on different disks.
fn version(rest: &str, etag: &str) -> String {
    format!("{etag} {rest}")
}

/// Returns true if a file is older than another. Some compressors copy the original's time without the fraction of a
/// second: that counts as the same time.
fn is_older(file: SystemTime, other: SystemTime) -> bool {
    let fraction = file.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    match fraction {
        0 => conditions::seconds(file) < conditions::seconds(other),
        _ => file < other,
    }
}

/// Returns the path of a name in a folder, if the name stays there: no part of it is empty or begins with a dot (which
/// includes `..`), and none has a character that some operating system treats as a separator or as the end.
pub(crate) fn join(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut path = folder.to_path_buf();
    for part in name.split('/') {
        let drive = cfg!(windows) && part.contains(':');
        if part.is_empty() || part.starts_with('.') || part.contains(['\\', '\0']) || drive {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

/// Returns the media type for a file name, with UTF-8 as the charset of text.
pub(crate) fn content_type(path: &Path) -> String {
    let guessed = mime_guess::from_path(path).first_or_octet_stream();
    let text = guessed.type_() == "text" || guessed.subtype() == "javascript";
    if text { format!("{}; charset=utf-8", guessed.essence_str()) } else { guessed.essence_str().to_owned() }
}

impl Request {
    /// Responds with a file: with the content type of its name, its validators, and the range that the client asked
    /// for.
    ///
    /// ```
    /// use aside::{Request, Response, Result};
    ///
    /// fn photo(req: &mut Request) -> Result<Response> {
    ///     let id: u64 = req.param("id")?; // a number: no way out of the folder
    ///     req.send_file(format!("data/photos/{id}.jpg"))
    /// }
    /// ```
    ///
    /// The path belongs to the application, and is followed without checks: never make it from the client's text. A
    /// browser revalidates each time, and shared caches store nothing (`private, no-cache`); change that with
    /// `.header("Cache-Control", …)`.
    ///
    /// # Errors
    /// 404 if there is no such file, 412 if a precondition fails, 500 if it cannot be opened.
    #[track_caller]
    pub fn send_file(&self, path: impl AsRef<Path>) -> Result<Response> {
        Opened::at(path.as_ref()).or_here()?.respond(self, "private, no-cache").or_here()
    }
}

/// The age from which no change of a file has the same time as the one before. FAT counts in steps of two seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// An opened file, with its state at that time.
struct Opened {
    content: Content,
    length: u64,
    content_type: String,
    validators: Validators,
    /// The content coding, if the file is the precompressed form of another.
    coding: Option<Coding>,
    /// True if another client may get another coding.
    varies: bool,
}

impl Opened {
    /// Returns an embedded file, or a form of one.
    fn embedded(name: &str, content: &'static EmbeddedContent) -> Opened {
        let content_type = content_type(Path::new(name));
        Opened {
            length: content.bytes.len() as u64,
            varies: is_compressible(&content_type),
            content_type,
            validators: Validators { etag: format!("\"{}\"", content.hash()), modified: None },
            content: Content::Embedded(content.bytes),
            coding: None,
        }
    }

    fn at(path: &Path) -> Result<Opened> {
        // Checked before opening too: opening a device can have effects, and a pipe waits for its writer.
        if !path.metadata().map_err(|error| refused(path, error))?.is_file() {
            return Err(Status::NOT_FOUND.into());
        }
        let file = open(path).map_err(|error| refused(path, error))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Status::NOT_FOUND.into());
        }
        // A date in the future must not be sent (RFC 9110, section 8.8.2.1).
        let modified = metadata.modified().ok().map(|time| time.min(SystemTime::now()));
        let validators = Validators { etag: etag(&metadata), modified };
        let content_type = content_type(path);
        let varies = is_compressible(&content_type);
        let content = Content::File(file);
        Ok(Opened { content, length: metadata.len(), content_type, validators, coding: None, varies })
    }

    /// Returns the file as the encoded form of another one: with the other's content type, and a tag that no other form
    /// has (section 8.8.3.3).
    fn into_form_of(mut self, original: Opened, coding: Coding) -> Opened {
        self.validators.etag = format!("\"{}-{}\"", self.validators.opaque(), coding.name);
        Opened { content_type: original.content_type, coding: Some(coding), varies: true, ..self }
    }

    /// Returns true if the tag names this content for good. A file that was changed a moment ago may be changed again
    /// within the resolution of its time, which would leave the tag as it is.
    fn is_settled(&self) -> bool {
        let age = self.validators.modified.and_then(|modified| modified.elapsed().ok());
        age.is_some_and(|age| age >= SETTLED)
    }

    fn respond(self, req: &Request, cache: &'static str) -> Result<Response> {
        match self.validators.check(req) {
            Verdict::Failed => {
                let message = "The file has changed since the version that the request names.";
                Err(Error::new(Status::PRECONDITION_FAILED, message))
            }
            Verdict::NotModified => Ok(self.described(cache).status(Status::NOT_MODIFIED)),
            Verdict::Proceed => {
                let wanted = self.range(req);
                self.send(wanted, cache)
            }
        }
    }

    /// Returns the headers that a cache needs with and without the content (section 15.4.5).
    fn described(&self, cache: &'static str) -> Response {
        let response =
            Response::new().own_header("ETag", self.validators.etag.clone()).own_header("Cache-Control", cache);
        if self.varies { response.own_header("Vary", "Accept-Encoding") } else { response }
    }

    fn send(mut self, wanted: Wanted, cache: &'static str) -> Result<Response> {
        let mut response = self.described(cache).own_header("Accept-Ranges", "bytes");
        if let Some(time) = self.validators.modified.filter(|time| *time >= UNIX_EPOCH) {
            response = response.own_header("Last-Modified", httpdate::fmt_http_date(time));
        }
        if let Some(coding) = self.coding {
            response = response.own_header("Content-Encoding", coding.name);
        }
        let length = self.length;
        match wanted {
            Wanted::Unsatisfiable => return Ok(out_of_range(length)),
            Wanted::Whole => response.body = self.content.part(0..length)?,
            Wanted::Part(part) => {
                response.body = self.content.part(part.clone())?;
                let content_range = ranges::content_range(&part, length);
                response = response.status(Status::PARTIAL_CONTENT).own_header("Content-Range", content_range);
            }
            Wanted::Parts(parts) => {
                let (kind, body) = ranges::multipart(self.content, &self.content_type, length, parts)?;
                (self.content_type, response.body) = (kind, body);
                response = response.status(Status::PARTIAL_CONTENT);
            }
        }
        Ok(response.own_header("Content-Type", self.content_type))
    }

    /// Returns the requested range, for GET only (section 14.2), and only if the client's partial copy is of this
    /// version.
    fn range(&self, req: &Request) -> Wanted {
        let Some(range) = conditions::only(req, "Range") else { return Wanted::Whole };
        if *req.method() != Method::Get || !self.validators.is_same(req) {
            return Wanted::Whole;
        }
        match ranges::wanted(range, self.length) {
            // The header would say that the whole body is encoded, but only its parts are.
            Wanted::Parts(_) if self.coding.is_some() => Wanted::Whole,
            wanted => wanted,
        }
    }
}

/// The bytes of a file.
enum Content {
    File(File),
    Embedded(&'static [u8]),
}

impl Content {
    /// Returns a range of the bytes, which must be within them.
    fn part(self, range: Range<u64>) -> io::Result<ResponseBody> {
        match self {
            Content::File(mut file) => {
                // Only if it is needed: it is a system call.
                if range.start > 0 {
                    file.seek(SeekFrom::Start(range.start))?;
                }
                Ok(ResponseBody::File(file, range.end - range.start))
            }
            Content::Embedded(bytes) => Ok(ResponseBody::Bytes(slice(bytes, &range).into())),
        }
    }
}

/// Returns a range of bytes in memory.
fn slice(bytes: &'static [u8], range: &Range<u64>) -> &'static [u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// Returns the response for a range beyond the end of the file.
fn out_of_range(length: u64) -> Response {
    let response = Response::text("The file ends before the requested range.\n").status(Status::RANGE_NOT_SATISFIABLE);
    response.header("Content-Range", format!("bytes */{length}")).header("Accept-Ranges", "bytes")
}

/// Returns a strong tag: a rewritten file has another modification time, and a replaced one another inode too.
fn etag(metadata: &Metadata) -> String {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanoseconds = since.unwrap_or(Duration::ZERO).as_nanos();
    format!("\"{:x}-{nanoseconds:x}-{:x}\"", metadata.len(), inode(metadata))
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// Opens the file without blocking, in case it has just become a pipe.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// Returns the error for a file that cannot be opened: 404, unless the server is at fault.
fn refused(path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    match error.kind() {
        NotFound | NotADirectory | InvalidFilename | InvalidInput => Status::NOT_FOUND.into(),
        PermissionDenied => {
            log::warn!(target: "aside::files", "Could not open {}, so the response is 404: {error}", path.display());
            Status::NOT_FOUND.into()
        }
        _ => Error::from(error).context(format!("cannot open {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::http::headers::Headers;
    use crate::http::request::Body;

    fn request_of(method: Method, headers: &[(&str, &str)]) -> Request {
        let config = Config::default();
        let scope = Scope::new(Registry::new(&config), Values::default());
        let headers = Headers::from_iter(headers.iter().copied());
        let mut req = Request::new(method, "/static/a.txt", headers, Body::empty());
        req.admit(scope, Arc::new(config), "3f9a1c".into());
        req
    }

    fn get(headers: &[(&str, &str)]) -> Request {
        request_of(Method::Get, headers)
    }

    fn folder() -> (tempfile::TempDir, StaticFiles) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("static");
        std::fs::create_dir_all(root.join("css")).unwrap();
        std::fs::write(root.join("a.txt"), "0123456789").unwrap();
        std::fs::write(root.join("css/app.css"), "a{}").unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        std::fs::write(root.join(".hidden"), "h").unwrap();
        std::fs::write(dir.path().join("secret.txt"), "s").unwrap();
        (dir, StaticFiles::new(root))
    }

    fn text(response: Response) -> String {
        let mut text = Vec::new();
        response.body.write_to(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn code(result: Result<Response>) -> u16 {
        result.map_or_else(|error| error.status_code().code(), |response| response.status_code().code())
    }

    #[test]
    fn a_file_has_its_type_and_validators() {
        let (_dir, files) = folder();
        let response = files.respond(&get(&[]), "css/app.css").unwrap();
        assert_eq!(response.headers().get("Content-Type"), Some("text/css; charset=utf-8"));
        assert_eq!(response.headers().get("Accept-Ranges"), Some("bytes"));
        assert_eq!(response.headers().get("Cache-Control"), Some("no-cache"));
        assert!(response.headers().get("ETag").unwrap().starts_with('"'));
        assert!(response.headers().contains("Last-Modified"));
        assert_eq!(text(response), "a{}");
    }

    #[test]
    fn only_an_unchanging_static_file_names_its_version() {
        let (dir, files) = folder();
        let path = dir.path().join("static/css/app.css");
        let version = || files.respond(&get(&[]), "css/app.css").unwrap().public_version;
        let aged = |seconds| {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        assert_eq!(version(), None, "it was written a moment ago");
        aged(60);
        let first = version();
        assert!(first.is_some() && version() == first);
        aged(50);
        assert!(version().is_some() && version() != first);
        assert_eq!(get(&[]).send_file(&path).unwrap().public_version, None, "it may be for this client alone");
        assert!(files.hash("css/app.css").is_ok());
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        let (dir, files) = folder();
        let outside = dir.path().join("secret.txt");
        let outside = outside.to_str().unwrap();
        for name in [
            "",
            "/",
            ".",
            "..",
            "../secret.txt",
            "css/../../secret.txt",
            "css/../a.txt",
            "..\\secret.txt",
            "css\\app.css",
            "a.txt\0",
            "a.txt/",
            "a.txt/b",
            "css",
            "css/",
            "css//app.css",
            ".hidden",
            "./a.txt",
            "%2e%2e/secret.txt",
            "nothing",
            outside,
            "/etc/passwd",
        ] {
            assert_eq!(code(files.respond(&get(&[]), name)), 404, "{name:?}");
        }
        let long = "x".repeat(5_000);
        assert_eq!(code(files.respond(&get(&[]), &long)), 404);
        assert_eq!(code(StaticFiles::new(dir.path().join("none")).respond(&get(&[]), "a.txt")), 404);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside_and_pipes_do_not_hang() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        use std::os::unix::fs::symlink;
        let (dir, files) = folder();
        let root = dir.path().join("static");
        symlink(dir.path().join("secret.txt"), root.join("out.txt")).unwrap();
        symlink(dir.path(), root.join("up")).unwrap();
        symlink(root.join("a.txt"), root.join("in.txt")).unwrap();
        symlink(root.join(".hidden"), root.join("shown.txt")).unwrap();
        symlink(root.join("loop"), root.join("loop")).unwrap();
        symlink("/dev/zero", root.join("zero")).unwrap();
        mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for name in ["out.txt", "up/secret.txt", "shown.txt", "loop", "zero", "pipe"] {
            assert_eq!(code(files.respond(&get(&[]), name)), 404, "{name}");
        }
        assert_eq!(code(files.respond(&get(&[]), "in.txt")), 200);
        assert_eq!(code(get(&[]).send_file(root.join("pipe"))), 404);
        assert_eq!(code(get(&[]).send_file("/dev/zero")), 404);
    }

    #[test]
    fn a_current_copy_is_not_sent_again() {
        let (_dir, files) = folder();
        let first = files.respond(&get(&[]), "a.txt").unwrap();
        let (etag, date) = (first.headers().get("ETag").unwrap(), first.headers().get("Last-Modified").unwrap());
        let weak = format!("\"x\", W/{etag}");
        let long_ago = "Thu, 01 Jan 1970 00:00:01 GMT";
        for (headers, expected) in [
            (vec![("If-None-Match", etag)], 304),
            (vec![("If-None-Match", &weak)], 304),
            (vec![("If-None-Match", "*")], 304),
            (vec![("If-None-Match", "\"x\"")], 200),
            (vec![("If-Modified-Since", date)], 304),
            (vec![("If-Modified-Since", long_ago)], 200),
            (vec![("If-Modified-Since", "yesterday")], 200),
            (vec![("If-Modified-Since", date), ("If-None-Match", "\"x\"")], 200),
            (vec![("If-Match", etag)], 200),
            (vec![("If-Match", &weak)], 412),
            (vec![("If-Unmodified-Since", long_ago)], 412),
            (vec![("If-Unmodified-Since", date)], 200),
            (vec![("If-None-Match", etag), ("Range", "bytes=0-1")], 304),
        ] {
            assert_eq!(code(files.respond(&get(&headers), "a.txt")), expected, "{headers:?}");
        }
        let known = files.respond(&get(&[("If-None-Match", etag)]), "a.txt").unwrap();
        assert!(known.headers().contains("ETag") && known.headers().contains("Cache-Control"));
        assert!(!known.headers().contains("Content-Type"));
        assert_eq!(known.body.length(), Some(0));
    }

    #[test]
    fn a_range_applies_to_get_and_the_same_version() {
        let (_dir, files) = folder();
        let etag = files.respond(&get(&[]), "a.txt").unwrap().headers().get("ETag").unwrap().to_owned();
        let range = ("Range", "bytes=0-1");
        assert_eq!(code(files.respond(&get(&[range, ("If-Range", &etag)]), "a.txt")), 206);
        assert_eq!(code(files.respond(&get(&[range, ("If-Range", "\"x\"")]), "a.txt")), 200);
        let head = files.respond(&request_of(Method::Head, &[range]), "a.txt").unwrap();
        assert_eq!((head.status_code(), head.body.length()), (Status::OK, Some(10)));
    }
}
