//! An uploaded file: what it is, and how it is saved.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::{NamedTempFile, TempPath};

use super::filename::clean;
use crate::error::{Error, OrHere, Result};
use crate::random;

/// The number of bytes from which the type of a file is detected; `infer` uses no more.
const SNIFF: u64 = 8 << 10;

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
    /// Returns an upload of this file, under the file name that the client sent.
    pub(super) fn new(filename: &str, temporary: TempPath) -> io::Result<Upload> {
        let mut file = File::open(&temporary)?;
        let size = file.metadata()?.len();
        let mut head = Vec::new();
        (&mut file).take(SNIFF).read_to_end(&mut head)?;
        let kind = FileKind::of(&head, size > head.len() as u64);
        let (filename, temporary) = (clean(filename), Arc::new(Some(temporary)));
        Ok(Upload { filename, kind, size, temporary, linked: Arc::default() })
    }

    /// Returns an empty upload, in place of a missing one.
    pub(crate) fn empty() -> io::Result<Upload> {
        Upload::new("", temporary_file()?.into_temp_path())
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

    /// Returns the path of the temporary file. The file is deleted when the [`Multipart`](crate::multipart::Multipart) and all clones of the upload
    /// are dropped.
    pub fn path(&self) -> &Path {
        Option::as_ref(&self.temporary).map_or(Path::new(""), |path| path)
    }

    /// Opens the temporary file for reading from its start.
    ///
    /// # Errors
    /// 500 if the file cannot be read.
    #[track_caller]
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
    #[track_caller]
    pub fn save_to(&self, dir: impl AsRef<Path>) -> Result<PathBuf> {
        let dir = dir.as_ref();
        let saved = self.save(dir, &random::name().or_here()?);
        saved.map_err(|error| Error::from(error).context(format!("cannot save an upload in {}", dir.display())))
    }

    fn save(&self, dir: &Path, name: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(dir)?;
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

/// Creates the file for an upload, which is deleted with its path.
pub(super) fn temporary_file() -> io::Result<NamedTempFile> {
    NamedTempFile::with_prefix("aside-")
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

/// The start of a file in Microsoft's Compound File Binary format ([MS-CFB], section 2.2): Office documents until 2003,
/// installers, messages of Outlook. What it is stands elsewhere in the file.
const OLE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";

/// The type of a file, from its first bytes.
#[derive(Clone, Copy)]
struct FileKind {
    content_type: &'static str,
    extension: &'static str,
}

impl FileKind {
    fn of(head: &[u8], more: bool) -> FileKind {
        match infer::get(head) {
            // `infer` calls each of them a Word document.
            Some(_) if head.starts_with(OLE) => {
                FileKind { content_type: "application/x-ole-storage", extension: "ole" }
            }
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

#[cfg(test)]
mod tests;
