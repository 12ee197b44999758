//! Files and folders that the process's own user alone may read.
//!
//! The mode is given when a file is made, and never by the umask of the process, which belongs to all of its threads. What
//! is there already keeps its mode: an operator may have opened it to a group.

#[cfg(feature = "sqlite")]
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Creates a new file, 0600, to be written.
///
/// # Errors
/// When there is one already, or none can be made.
#[cfg(feature = "sqlite")]
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates an empty file, 0600, unless there is one. SQLite takes it for a new database, and gives its mode to the files
/// beside it (`-wal`, `-shm`, `-journal`).
///
/// # Errors
/// When none can be made.
#[cfg(feature = "sqlite")]
pub(crate) fn create_if_missing(path: &Path) -> io::Result<()> {
    match create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Creates a folder, 0700, unless there is one. Those above it are ordinary ones: other things may lie in them.
///
/// # Errors
/// When it cannot be made.
#[cfg(feature = "mail")]
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
    fn what_is_made_is_private_and_what_is_there_keeps_its_mode() {
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
