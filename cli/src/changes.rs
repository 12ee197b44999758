//! Changes of a site that are made together or not at all.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::Failure;

/// New files, and edits of existing ones. The paths are those in the site.
#[derive(Default)]
pub struct Changes {
    pub new_files: Vec<(String, String)>,
    /// The path, the text before and the text after.
    pub edits: Vec<(String, String, String)>,
}

impl Changes {
    /// Edits a file, which keeps its line ends.
    pub fn edit(&mut self, path: &str, before: String, after: String) {
        let has_windows_line_ends = before.contains("\r\n");
        let after = if has_windows_line_ends { after.replace("\r\n", "\n").replace('\n', "\r\n") } else { after };
        self.edits.push((path.to_owned(), before, after));
    }

    /// Makes the changes. After a failure, those that were made are taken back.
    pub fn make(&self, root: &Path) -> Result<(), Failure> {
        let mut made = Made::default();
        let done = self.try_make(root, &mut made);
        if done.is_err() {
            made.take_back();
        }
        done
    }

    fn try_make(&self, root: &Path, made: &mut Made) -> Result<(), Failure> {
        for (path, text) in &self.new_files {
            let file = root.join(path);
            made.create_folder(file.parent().unwrap_or(root))
                .map_err(|error| Failure::io("write", Path::new(path), &error))?;
            made.create(&file, text).map_err(|error| Failure::io("write", Path::new(path), &error))?;
        }
        for (path, before, after) in &self.edits {
            let file = root.join(path);
            replace(&file, after).map_err(|error| Failure::io("write", Path::new(path), &error))?;
            made.edited.push((file, before.clone()));
        }
        Ok(())
    }
}

/// The changes that were made.
#[derive(Default)]
struct Made {
    created: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    edited: Vec<(PathBuf, String)>,
}

impl Made {
    fn create_folder(&mut self, folder: &Path) -> std::io::Result<()> {
        if !folder.is_dir() {
            fs::create_dir(folder)?;
            self.folders.push(folder.to_owned());
        }
        Ok(())
    }

    /// Refuses an existing file, also one that has just been created by another process.
    fn create(&mut self, file: &Path, text: &str) -> std::io::Result<()> {
        let mut open = OpenOptions::new().write(true).create_new(true).open(file)?;
        self.created.push(file.to_owned());
        open.write_all(text.as_bytes())
    }

    fn take_back(&self) {
        self.edited.iter().for_each(|(file, before)| drop(replace(file, before)));
        self.created.iter().for_each(|file| drop(fs::remove_file(file)));
        self.folders.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Replaces a file by renaming a complete one, with the same permissions. A link leads to the new file.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let file = &fs::canonicalize(file)?;
    let draft = file.with_extension(format!("aside-{}", std::process::id()));
    let written = fs::write(&draft, text)
        .and_then(|()| fs::set_permissions(&draft, fs::metadata(file)?.permissions()))
        .and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}
