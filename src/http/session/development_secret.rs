//! The secret of a site in development: kept in a file, so that a restart logs no user out.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::log_text::absolute;
use crate::private_files;
use crate::random;

/// The folder of the secret, below the working directory.
const FOLDER: &str = "data/development";

/// The name of the file with the secret, in its folder.
const FILE: &str = "secret";

/// The smallest number of bytes of a secret, as for `ASIDE_SECRET`.
const LEAST: usize = 32;

/// Returns the path of the file with the secret.
pub(crate) fn file() -> PathBuf {
    Path::new(FOLDER).join(FILE)
}

/// Returns the secret that is kept for development, or `None` with a warning if it cannot be kept. See [`read_or_create`].
pub(crate) fn keep() -> Option<String> {
    read_or_create(Path::new(FOLDER)).map_err(|error| {
        let (file, cause) = (absolute(&file()), error.chain());
        log::warn!(
            target: "aside::session",
            "Could not keep the secret of sessions in {file}: {cause}; sessions end with this process. Set ASIDE_SECRET to \
             keep them (`openssl rand -base64 48` makes one)."
        );
    })
    .ok()
}

/// Returns the secret that is kept in a folder. Creates both if they are missing; processes that start at once get the same
/// secret. The folder is ignored by Git.
///
/// # Errors
/// An error if the secret cannot be read or created, or has fewer than 32 bytes.
fn read_or_create(folder: &Path) -> Result<String> {
    let file = folder.join(FILE);
    if !file.exists() {
        create(folder, &file)?;
    }
    let secret = fs::read_to_string(&file)?.trim().to_owned();
    match secret.len() {
        LEAST.. => Ok(secret),
        _ => Err(Error::internal(format!(
            "it has fewer than {LEAST} bytes; delete it, and the next start makes a new one"
        ))),
    }
}

fn create(folder: &Path, file: &Path) -> Result<()> {
    let secret = random::hex(&random::bytes::<32>()?);
    private_files::create_folder(folder)?;
    fs::write(folder.join(".gitignore"), "*\n")?;
    // Complete before it has its name: another process never reads a part of it.
    let mut new = NamedTempFile::new_in(folder)?;
    writeln!(new, "{secret}")?;
    Ok(unless_there(new.persist_noclobber(file).map_err(|error| error.error))?)
}

/// Returns no error if another process has created the file first.
fn unless_there<T>(created: io::Result<T>) -> io::Result<()> {
    match created {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    #[test]
    fn the_secret_is_created_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("data/development");
        let secrets: BTreeSet<String> = thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_create(&folder).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let secret = secrets.first().unwrap();
        assert!(secrets.len() == 1 && secret.len() == 64, "{secrets:?}");
        let names: BTreeSet<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, BTreeSet::from([".gitignore".into(), FILE.into()]));
        assert_eq!(fs::read_to_string(folder.join(".gitignore")).unwrap(), "*\n");
    }

    #[cfg(unix)]
    #[test]
    fn other_users_cannot_read_the_secret() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("development");
        read_or_create(&folder).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn an_unusable_secret_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        fs::write(&file, "short\n").unwrap();
        assert!(read_or_create(folder.path()).unwrap_err().to_string().contains("fewer than 32 bytes"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "short\n");
        assert!(read_or_create(&file).is_err(), "a file in place of the folder");
    }
}
