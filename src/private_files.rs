//! Files and folders that only the process's own user can read.
//!
//! The mode is set when a file is created, and not by the umask, which all threads of the process share. An existing file
//! keeps its mode: an operator may have opened it to a group.

#[cfg(feature = "sqlite")]
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Creates a new file with mode 0600, opened for writing.
///
/// # Errors
/// An error if the file exists or cannot be created.
#[cfg(feature = "sqlite")]
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates an empty file with mode 0600 if there is none. SQLite treats it as a new database, and copies its mode to the
/// files beside it (`-wal`, `-shm`, `-journal`).
///
/// # Errors
/// An error if it cannot be created.
#[cfg(feature = "sqlite")]
pub(crate) fn create_if_missing(path: &Path) -> io::Result<()> {
    match create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Creates a folder with mode 0700 if there is none. Missing parent folders get the default mode, since they may have other
/// contents.
///
/// # Errors
/// An error if it cannot be created.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if !path.is_dir() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix, feature = "sqlite", feature = "mail"))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_files_are_private_and_existing_files_keep_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let [file, old, mail] = ["new", "old", "data/mail"].map(|name| folder.path().join(name));
        fs::write(&old, "kept").unwrap();
        fs::set_permissions(&old, PermissionsExt::from_mode(0o640)).unwrap();
        create_if_missing(&file).unwrap();
        create_if_missing(&old).unwrap();
        assert_eq!((mode(&file), mode(&old), fs::read(&old).unwrap()), (0o600, 0o640, b"kept".to_vec()));
        create_folder(&mail).unwrap();
        assert_eq!(mode(&mail), 0o700);
        assert_ne!(mode(mail.parent().unwrap()), 0o700);
        fs::set_permissions(&mail, PermissionsExt::from_mode(0o750)).unwrap();
        create_folder(&mail).unwrap();
        assert_eq!(mode(&mail), 0o750);
        assert!(create_folder(&file).is_err() && create_folder(&file.join("below")).is_err());
    }
}
