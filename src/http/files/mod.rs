//! Files as responses: their type, their validators, a part of them.
//!
//! A file is opened once, and its length and its validators are those of what was opened, so that one that is replaced
//! meanwhile is sent as it was. What a visitor may name is checked twice: the name, before it touches the disk, and the
//! place it leads to, after all links.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::request::{Method, Request};
use super::response::Response;
use crate::error::{Error, Result, Status};

/// A folder whose files anybody may have.
#[derive(Debug, Clone)]
pub(crate) struct StaticFiles {
    dir: PathBuf,
}

impl StaticFiles {
    /// The files of a folder, which need not be there yet.
    pub(crate) fn new(dir: impl Into<PathBuf>) -> StaticFiles {
        StaticFiles { dir: dir.into() }
    }

    /// The file that the rest of the path names, decoded. In production a browser may keep it for an hour; in development
    /// it asks each time.
    ///
    /// # Errors
    /// 404 for what is no file of the folder, or begins with a dot; 412 when a precondition fails.
    pub(crate) fn respond(&self, req: &Request, rest: &str) -> Result<Response> {
        let path = self.find(rest).ok_or(Status::NOT_FOUND)?;
        let cache = if req.config().is_development() { "no-cache" } else { "public, max-age=3600" };
        Opened::at(&path)?.respond(req, cache)
    }

    /// Where the name leads to, when that is in the folder.
    fn find(&self, rest: &str) -> Option<PathBuf> {
        let folder = self.dir.canonicalize().ok()?;
        let path = join(&folder, rest)?.canonicalize().ok()?;
        // A link may lead to a hidden file of the same folder: that one is as hidden by its own name.
        let inside = path.strip_prefix(&folder).ok()?;
        let shown = |part: Component<'_>| !part.as_os_str().as_encoded_bytes().starts_with(b".");
        inside.components().all(shown).then_some(path)
    }
}

/// The path of that name in a folder, when the name is one that stays there: no part of it is empty or begins with a dot
/// (which is `..` too), and none has what some system takes for a separator or an end.
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

/// The media type that goes with a name, text as UTF-8.
pub(crate) fn content_type(path: &Path) -> String {
    let guessed = mime_guess::from_path(path).first_or_octet_stream();
    let text = guessed.type_() == "text" || guessed.subtype() == "javascript";
    if text { format!("{}; charset=utf-8", guessed.essence_str()) } else { guessed.essence_str().to_owned() }
}

impl Request {
    /// Answers with a file: its type from its name, its validators, and the part of it that was asked for.
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
    /// The path is the application's own, and is followed wherever it leads: never make it from a visitor's text. A browser
    /// asks again each time and other caches keep nothing (`private, no-cache`); `.header("Cache-Control", …)` says
    /// otherwise.
    ///
    /// # Errors
    /// 404 when there is no such file, 412 when a precondition fails, 500 when it cannot be opened.
    pub fn send_file(&self, path: impl AsRef<Path>) -> Result<Response> {
        Opened::at(path.as_ref())?.respond(self, "private, no-cache")
    }
}

/// A file that was opened, as it was then.
struct Opened {
    file: File,
    content_type: String,
    length: u64,
    modified: Option<SystemTime>,
    etag: String,
}

impl Opened {
    fn at(path: &Path) -> Result<Opened> {
        // Asked before too: to open a device can do something, and a pipe would wait for its writer.
        if !path.metadata().map_err(|error| refused(path, error))?.is_file() {
            return Err(Status::NOT_FOUND.into());
        }
        let file = open(path).map_err(|error| refused(path, error))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Status::NOT_FOUND.into());
        }
        // A date to come is not one to send (RFC 9110, section 8.8.2.1).
        let modified = metadata.modified().ok().map(|time| time.min(SystemTime::now()));
        Ok(Opened { file, content_type: content_type(path), length: metadata.len(), modified, etag: etag(&metadata) })
    }

    fn respond(self, req: &Request, cache: &str) -> Result<Response> {
        let wanted = self.check(req)?;
        let dated = self.modified.filter(|time| *time >= UNIX_EPOCH).map(httpdate::fmt_http_date);
        let etag = self.etag.clone();
        let response = self.send(wanted)?.header("ETag", etag).header("Cache-Control", cache);
        Ok(match dated {
            Some(date) => response.header("Last-Modified", date),
            None => response,
        })
    }

    fn send(mut self, wanted: Wanted) -> Result<Response> {
        let length = self.length;
        let response = match wanted {
            Wanted::NotModified => return Ok(Response::new().status(Status::NOT_MODIFIED)),
            Wanted::OutOfRange => {
                let response = Response::text("The file is shorter than that.\n").status(Status::RANGE_NOT_SATISFIABLE);
                return Ok(response.header("Content-Range", format!("bytes */{length}")));
            }
            Wanted::Whole => Response::file(self.file, length),
            Wanted::Part(first, last) => {
                self.file.seek(SeekFrom::Start(first))?;
                let response = Response::file(self.file, last - first + 1).status(Status::PARTIAL_CONTENT);
                response.header("Content-Range", format!("bytes {first}-{last}/{length}"))
            }
        };
        Ok(response.header("Content-Type", self.content_type).header("Accept-Ranges", "bytes"))
    }

    /// What the preconditions and the range come to, in the order of RFC 9110, section 13.2.2.
    fn check(&self, req: &Request) -> Result<Wanted> {
        if !self.may_go_on(req) {
            let words = "The file is not the one that was asked for any more.";
            return Err(Error::new(Status::PRECONDITION_FAILED, words));
        }
        if self.is_known(req) {
            return Ok(Wanted::NotModified);
        }
        Ok(self.range(req))
    }

    fn may_go_on(&self, req: &Request) -> bool {
        if req.headers().contains("If-Match") {
            return listed(req, "If-Match").any(|tag| tag == "*" || tag == self.etag);
        }
        // A date that cannot be read is no date.
        date(req, "If-Unmodified-Since").is_none_or(|since| self.seconds().is_some_and(|changed| changed <= since))
    }

    fn is_known(&self, req: &Request) -> bool {
        if req.headers().contains("If-None-Match") {
            let same = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag;
            return listed(req, "If-None-Match").any(same);
        }
        date(req, "If-Modified-Since").is_some_and(|since| self.seconds().is_some_and(|changed| changed <= since))
    }

    /// When it was changed, to the second, as dates in headers are.
    fn seconds(&self) -> Option<u64> {
        self.modified.map(|time| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// The range, for GET alone (RFC 9110, section 14.2), and only of the very file that the client has the rest of.
    fn range(&self, req: &Request) -> Wanted {
        let mut ranges = req.headers().get_all("Range");
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Wanted::Whole };
        let same = req.header("If-Range").is_none_or(|tag| tag.trim() == self.etag);
        if *req.method() == Method::Get && same { parse_range(range, self.length) } else { Wanted::Whole }
    }
}

/// What of a file is to be sent.
#[derive(Debug, PartialEq)]
enum Wanted {
    Whole,
    /// From this byte to that one, both included.
    Part(u64, u64),
    OutOfRange,
    NotModified,
}

/// One range of bytes. What is no range, or several, means the whole: a server may do as if none had been asked for.
fn parse_range(value: &str, length: u64) -> Wanted {
    let range = value.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = range.and_then(|(_, range)| range.trim().split_once('-')) else { return Wanted::Whole };
    let of = |digits: &str| if digits.is_empty() { Some(None) } else { number(digits).map(Some) };
    let (Some(first), Some(last)) = (of(first), of(last)) else { return Wanted::Whole };
    match (first, last) {
        (None, None) => Wanted::Whole,
        (Some(first), Some(last)) if first > last => Wanted::Whole,
        (Some(first), _) if first >= length => Wanted::OutOfRange,
        (Some(first), last) => Wanted::Part(first, last.unwrap_or(u64::MAX).min(length - 1)),
        (None, Some(0)) => Wanted::OutOfRange,
        // The last bytes of an empty file are there, all none of them, and cannot be said as a range.
        (None, Some(_)) if length == 0 => Wanted::Whole,
        (None, Some(count)) => Wanted::Part(length.saturating_sub(count), length - 1),
    }
}

/// Digits alone; more than fit are as good as the most that do.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().unwrap_or(u64::MAX))
}

fn listed<'r>(req: &'r Request, name: &'r str) -> impl Iterator<Item = &'r str> {
    req.headers().get_all(name).flat_map(|value| value.split(',')).map(str::trim)
}

fn date(req: &Request, name: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(req.header(name)?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Strong: a file that is written anew has another time, one that is put in its place another number too.
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

/// Opens it without waiting, should it have become a pipe just now.
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

/// What a file that cannot be opened is to the visitor: not there, unless the fault is the machine's.
fn refused(path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    match error.kind() {
        NotFound | NotADirectory | InvalidFilename | InvalidInput => Status::NOT_FOUND.into(),
        PermissionDenied => {
            log::warn!(target: "aside::files", "{} cannot be read by this process: {error}", path.display());
            Status::NOT_FOUND.into()
        }
        _ => Error::from(error).context(format!("cannot open {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::http::headers::Headers;
    use crate::http::request::Body;
    use crate::http::response::ResponseBody;

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
        match response.body {
            ResponseBody::Bytes(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
            ResponseBody::File(file, length) => io::read_to_string(file.take(length)).unwrap(),
            ResponseBody::Stream(_) => panic!("a stream"),
        }
    }

    fn code(result: Result<Response>) -> u16 {
        result.map_or_else(|error| error.status().code(), |response| response.status_code().code())
    }

    #[test]
    fn a_file_comes_with_its_type_and_validators() {
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
    fn nothing_leads_out_of_the_folder() {
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
    fn what_the_client_has_is_not_sent_again() {
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
    fn one_range_is_a_part() {
        let (_dir, files) = folder();
        for (range, content_range, body) in [
            ("bytes=2-4", "bytes 2-4/10", "234"),
            ("bytes=7-", "bytes 7-9/10", "789"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-99", "bytes 0-9/10", "0123456789"),
            ("Bytes=0-99999999999999999999999", "bytes 0-9/10", "0123456789"),
        ] {
            let response = files.respond(&get(&[("Range", range)]), "a.txt").unwrap();
            assert_eq!(response.status_code(), Status::PARTIAL_CONTENT, "{range}");
            assert_eq!(response.headers().get("Content-Range"), Some(content_range));
            assert_eq!(text(response), body);
        }
    }

    #[test]
    fn other_ranges_are_the_whole_or_refused() {
        for range in ["bytes=4-2", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "bytes=+1-2", "lines=0-1", "0-1"]
        {
            assert_eq!(parse_range(range, 10), Wanted::Whole, "{range}");
        }
        for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
            assert_eq!(parse_range(range, 10), Wanted::OutOfRange, "{range}");
        }
        assert_eq!((parse_range("bytes=0-", 0), parse_range("bytes=-5", 0)), (Wanted::OutOfRange, Wanted::Whole));
        let (_dir, files) = folder();
        let response = files.respond(&get(&[("Range", "bytes=10-")]), "a.txt").unwrap();
        assert_eq!(response.status_code(), Status::RANGE_NOT_SATISFIABLE);
        assert_eq!(response.headers().get("Content-Range"), Some("bytes */10"));
    }

    #[test]
    fn a_range_is_for_get_and_for_the_same_file() {
        let (_dir, files) = folder();
        let etag = files.respond(&get(&[]), "a.txt").unwrap().headers().get("ETag").unwrap().to_owned();
        let range = ("Range", "bytes=0-1");
        assert_eq!(code(files.respond(&get(&[range, ("If-Range", &etag)]), "a.txt")), 206);
        assert_eq!(code(files.respond(&get(&[range, ("If-Range", "\"x\"")]), "a.txt")), 200);
        let head = files.respond(&request_of(Method::Head, &[range]), "a.txt").unwrap();
        assert_eq!((head.status_code(), head.body.length()), (Status::OK, Some(10)));
    }
}
