//! A folder of the application: on the disk, or embedded in the program.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::hashes;
use super::precompressed::{CODINGS, Coding};
use crate::log_text::absolute;

/// A folder of templates or of static files: on the disk, or [embedded](crate::embed!) in the program.
///
/// ```
/// use aside::App;
///
/// App::new().templates("pages").static_files("/static", std::path::Path::new("/srv/shop").join("static"));
/// ```
///
/// A path becomes a folder on the disk, which is read while the application runs. A relative path is resolved from the
/// working directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Folder(pub(crate) Place);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Disk(PathBuf),
    Program(Embedded),
}

impl Folder {
    /// Returns the path of a folder on the disk.
    pub(crate) fn on_disk(&self) -> Option<&Path> {
        match &self.0 {
            Place::Disk(path) => Some(path),
            Place::Program(_) => None,
        }
    }

    /// Returns true if the folder does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        self.on_disk().is_some_and(|path| !path.is_dir())
    }
}

/// Writes the absolute path, or that the folder is in the program.
impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Disk(path) => f.write_str(&absolute(path)),
            Place::Program(embedded) => write!(f, "the program ({})", embedded.name),
        }
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({self})")
    }
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for Folder {
    fn from(path: &T) -> Folder {
        Folder(Place::Disk(PathBuf::from(path)))
    }
}

impl From<PathBuf> for Folder {
    fn from(path: PathBuf) -> Folder {
        Folder(Place::Disk(path))
    }
}

impl From<String> for Folder {
    fn from(path: String) -> Folder {
        Folder(Place::Disk(path.into()))
    }
}

impl From<OsString> for Folder {
    fn from(path: OsString) -> Folder {
        Folder(Place::Disk(path.into()))
    }
}

/// The files of a folder that is compiled in, ordered by name.
#[derive(Clone, Copy)]
pub(crate) struct Embedded {
    /// The folder's name in the source.
    pub(crate) name: &'static str,
    files: &'static [EmbeddedFile],
}

impl Embedded {
    /// Returns the file with a name such as `css/app.css`.
    pub(crate) fn find(&self, name: &str) -> Option<&'static EmbeddedFile> {
        let at = self.files.binary_search_by(|file| file.name.cmp(name)).ok()?;
        Some(&self.files[at])
    }

    /// Returns the names of all files.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.files.iter().map(|file| file.name)
    }
}

impl PartialEq for Embedded {
    fn eq(&self, other: &Embedded) -> bool {
        std::ptr::eq(self.files, other.files)
    }
}

impl Eq for Embedded {}

/// A file that is compiled in.
pub struct EmbeddedFile {
    pub(crate) name: &'static str,
    pub(crate) content: EmbeddedContent,
    /// The compressed forms, in the order of [`CODINGS`].
    forms: [Option<EmbeddedContent>; CODINGS.len()],
}

impl EmbeddedFile {
    /// Makes a file with its forms in `br`, `zstd` and `gzip`.
    pub const fn new(name: &'static str, bytes: &'static [u8], forms: [Option<&'static [u8]>; 3]) -> EmbeddedFile {
        let [br, zstd, gzip] = forms;
        let forms = [EmbeddedContent::form(br), EmbeddedContent::form(zstd), EmbeddedContent::form(gzip)];
        EmbeddedFile { name, content: EmbeddedContent::new(bytes), forms }
    }

    /// Returns the compressed form in a coding.
    pub(crate) fn form(&self, coding: Coding) -> Option<&EmbeddedContent> {
        let at = CODINGS.iter().position(|other| *other == coding)?;
        self.forms[at].as_ref()
    }
}

/// Bytes that are compiled in, and their hash, which is computed when it is first needed.
pub(crate) struct EmbeddedContent {
    pub(crate) bytes: &'static [u8],
    hash: OnceLock<String>,
}

impl EmbeddedContent {
    const fn new(bytes: &'static [u8]) -> EmbeddedContent {
        EmbeddedContent { bytes, hash: OnceLock::new() }
    }

    const fn form(bytes: Option<&'static [u8]>) -> Option<EmbeddedContent> {
        match bytes {
            Some(bytes) => Some(EmbeddedContent::new(bytes)),
            None => None,
        }
    }

    pub(crate) fn hash(&self) -> &str {
        self.hash.get_or_init(|| hashes::of(self.bytes))
    }
}

/// What [`embed!`](crate::embed!) expands to. Public for the macro, hidden, and not part of the API.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod private {
    pub use super::EmbeddedFile;
    use super::{Embedded, Folder, Place};
    #[cfg(feature = "embed")]
    pub use aside_embed::folder;

    pub fn on_disk(path: &'static str) -> Folder {
        Folder::from(path)
    }

    pub fn in_program(name: &'static str, files: &'static [EmbeddedFile]) -> Folder {
        Folder(Place::Program(Embedded { name, files }))
    }
}

/// Returns a folder of the package as a [`Folder`](crate::Folder) that a release has in its program, so that one file is
/// all that is deployed.
///
/// ```
/// use aside::{App, embed};
///
/// App::new().templates(embed!("templates")).static_files("/help", embed!("docs"));
/// ```
///
/// The path is relative to the folder of `Cargo.toml`, and a string without escapes. With debug assertions (`cargo run`,
/// `cargo test`) the folder is read from the disk, from the same path, so that a change shows without a build. Without
/// (`cargo build --release`) the files are in the program:
///
/// - Static files have the responses of [`App::static_files`](crate::App::static_files), with a tag that is the same in each
///   build, and without `Last-Modified`.
/// - Text from 1 KiB to 8 MiB is compressed with Brotli and gzip when the program is built. A file `app.css.br`,
///   `app.css.zst` or `app.css.gz` beside `app.css` is used in place of that, unless it is older.
/// - Templates are parsed when the application starts, in development too; an invalid one is an error.
///
/// Hidden files are left out, and so are backups of editors (`a~`, `#a#`, `a.bak`, `a.orig`, `a.swp`). A folder may be empty.
/// It may have 256 MiB.
///
/// Cargo builds again when a file changes or is removed, but does not see a new file. Let `main` in `build.rs` tell it to look
/// at the folders:
///
/// ```no_run
/// println!("cargo::rerun-if-changed=build.rs");
/// // In development nothing is to be built.
/// if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
///     println!("cargo::rerun-if-changed=templates");
///     println!("cargo::rerun-if-changed=static");
/// }
/// ```
///
/// A compile error says so if the folder does not exist, or has a symbolic link that leads out of it, a file whose name no URL
/// can have, or more than 256 MiB.
///
/// ```compile_fail
/// aside::embed!("tempaltes"); // there is no folder /home/ada/shop/tempaltes
/// ```
#[cfg(feature = "embed")]
#[macro_export]
macro_rules! embed {
    ($folder:literal) => {{
        use $crate::__embedded as __aside_embedded;
        #[cfg(debug_assertions)]
        let folder = $crate::__embedded::folder!(disk $folder);
        #[cfg(not(debug_assertions))]
        let folder = $crate::__embedded::folder!(program $folder);
        folder
    }};
    ($($wrong:tt)*) => {
        ::core::compile_error!("write `embed!(\"static\")`: the path of a folder, from the folder of Cargo.toml")
    };
}
