//! The files of a folder, in order: those that `App::static_files` would serve from the disk.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The most bytes of a folder. A linker needs several times as much memory, and a program of 2 GiB does not link at all.
const MAX_BYTES: u64 = 256 << 20;

/// The files of a folder.
pub(crate) struct Files {
    /// The absolute path of the folder.
    pub(crate) folder: PathBuf,
    /// The files, ordered by name.
    pub(crate) files: Vec<File>,
}

/// A file of a folder.
#[derive(Debug)]
pub(crate) struct File {
    /// The path in the folder, with `/` between its parts.
    pub(crate) name: String,
    /// The absolute path, after all links.
    pub(crate) path: PathBuf,
    pub(crate) length: u64,
    pub(crate) modified: Option<SystemTime>,
}

impl Files {
    /// Finds the files of a folder, whose path is relative to that of the package.
    ///
    /// Hidden files and backups of editors are left out. An empty folder is one without files.
    ///
    /// # Errors
    /// A message if the folder is missing or has a file that would be missing in the program.
    pub(crate) fn find(name: &str, package: &Path) -> Result<Files, String> {
        let path = package.join(name);
        let is_folder = fs::metadata(&path).map_err(|error| not_found(&path, package, &error))?.is_dir();
        if !is_folder {
            return Err(format!("{} is not a folder", path.display()));
        }
        let folder = path.canonicalize().map_err(|error| unreadable(&path, &error))?;
        let mut files = Files { folder: folder.clone(), files: Vec::new() };
        files.add(&folder, "", &mut vec![folder.clone()])?;
        files.files.sort_by(|one, other| one.name.cmp(&other.name));
        files.check_size()?;
        Ok(files)
    }

    /// Adds the files of a folder and of its subfolders. `above` has the folder and those above it.
    fn add(&mut self, folder: &Path, prefix: &str, above: &mut Vec<PathBuf>) -> Result<(), String> {
        let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(folder, &error))?;
            let Some(name) = shown(&entry)? else { continue };
            let (path, metadata) = self.resolve(&entry.path())?;
            if metadata.is_file() {
                let (length, modified) = (metadata.len(), metadata.modified().ok());
                self.files.push(File { name: format!("{prefix}{name}"), path, length, modified });
            } else if metadata.is_dir() {
                if above.contains(&path) {
                    return Err(format!("{} is a symbolic link to a folder around it", entry.path().display()));
                }
                above.push(path.clone());
                self.add(&path, &format!("{prefix}{name}/"), above)?;
                above.pop();
            } else {
                return Err(format!("{} is neither a file nor a folder", entry.path().display()));
            }
        }
        Ok(())
    }

    /// Returns the path after all links, which must stay in the folder: a server refuses those that do not.
    fn resolve(&self, path: &Path) -> Result<(PathBuf, Metadata), String> {
        let real = path.canonicalize().map_err(|error| unreadable(path, &error))?;
        let metadata = real.metadata().map_err(|error| unreadable(path, &error))?;
        let inside = real.strip_prefix(&self.folder).ok();
        let is_hidden = |inside: &Path| inside.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        match inside {
            None => Err(format!(
                "{} is a symbolic link that leads out of the folder, to {}",
                path.display(),
                real.display()
            )),
            Some(inside) if is_hidden(inside) => {
                Err(format!("{} is a symbolic link to a hidden file, {}", path.display(), real.display()))
            }
            Some(_) => Ok((real, metadata)),
        }
    }

    fn check_size(&self) -> Result<(), String> {
        let total: u64 = self.files.iter().map(|file| file.length).sum();
        let Some(largest) = self.files.iter().max_by_key(|file| file.length).filter(|_| total > MAX_BYTES) else {
            return Ok(());
        };
        Err(format!(
            "the files have {total} bytes, and a program can hold {MAX_BYTES} of a folder; the largest is {}, of {} bytes. \
             Serve large files from the disk: `App::static_files(\"/files\", \"/srv/files\")`",
            largest.path.display(),
            largest.length
        ))
    }
}

/// Returns the name of an entry, if it is neither hidden nor the backup of an editor.
fn shown(entry: &DirEntry) -> Result<Option<String>, String> {
    let name = entry.file_name();
    if name.as_encoded_bytes().starts_with(b".") || is_backup(name.as_encoded_bytes()) {
        return Ok(None);
    }
    let is_in_urls = |name: &&str| !name.contains('\\');
    match name.to_str().filter(is_in_urls) {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(format!("no URL can name {:?}: rename it, in UTF-8 and without a backslash", entry.path())),
    }
}

/// Returns true for `page.html~`, `#page.html#`, `page.html.bak`, `page.html.orig` and `page.html.swp`.
fn is_backup(name: &[u8]) -> bool {
    let ends = |end: &[u8]| name.ends_with(end);
    ends(b"~") || (name.starts_with(b"#") && ends(b"#")) || ends(b".bak") || ends(b".orig") || ends(b".swp")
}

fn not_found(path: &Path, package: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no folder {}: a path is looked for from the folder of Cargo.toml, {}",
            path.display(),
            package.display()
        ),
        _ => unreadable(path, error),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("could not read {}: {error}", path.display())
}
