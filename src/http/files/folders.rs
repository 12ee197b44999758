//! The static folders of an application, and URLs of their files that change with the contents, so that a browser may
//! cache them for a year.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::StaticFiles;
use super::folder::Folder;
use crate::error::{Error, Result, Status};

/// The characters that are encoded in the path of a URL (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The static folders of an application, in the order in which they were added. `static('app.css')` in a template
/// searches them.
#[derive(Default)]
pub(crate) struct StaticFolders(Vec<(String, StaticFiles)>);

impl StaticFolders {
    /// Adds a folder that is served under a path.
    pub(crate) fn add(&mut self, path: &str, files: StaticFiles) {
        self.0.push((path.trim_end_matches('/').to_owned(), files));
    }

    /// Adds the folders of an application that is mounted under a path.
    pub(crate) fn add_below(&mut self, prefix: &str, others: StaticFolders) {
        self.0.extend(others.0.into_iter().map(|(path, files)| (format!("{prefix}{path}"), files)));
    }

    /// Returns each path with its folder.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&str, &Folder)> {
        self.0.iter().map(|(path, files)| (path.as_str(), &files.folder))
    }

    /// Returns the URL of a file with a hash of its contents: `/static/app.css?v=9f86d081884c7d65` for `app.css`, in
    /// the first folder that has it, or for `/static/app.css`.
    ///
    /// # Errors
    /// 500 if there is no such file, naming the folders that were searched.
    pub(crate) fn url(&self, name: &str) -> Result<String> {
        for (path, files) in &self.0 {
            let Some(rest) = within(path, name) else { continue };
            match files.hash(rest) {
                Err(error) if error.status_code() == Status::NOT_FOUND => {}
                hash => {
                    let address = format!("{path}/{rest}");
                    return Ok(format!("{}?v={}", utf8_percent_encode(&address, ENCODED), hash?));
                }
            }
        }
        Err(self.not_found(name))
    }

    fn not_found(&self, name: &str) -> Error {
        if self.0.is_empty() {
            let hint = "no folder is served: add one with `App::static_files(\"/static\", \"static\")`";
            return Error::internal(format!("static({name:?}): {hint}"));
        }
        let folders: Vec<_> = self.0.iter().map(|(path, files)| format!("{path}/ ({})", files.folder)).collect();
        Error::internal(format!("static({name:?}): there is no such file in {}", folders.join(", ")))
    }
}

/// Returns a name relative to the folder served under `path`; `None` for a file of another folder.
fn within<'n>(path: &str, name: &'n str) -> Option<&'n str> {
    if name.starts_with('/') { name.strip_prefix(path)?.strip_prefix('/') } else { Some(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> (tempfile::TempDir, StaticFolders) {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = StaticFolders::default();
        for (path, name) in [("/static", "one"), ("/фото/", "two")] {
            std::fs::create_dir_all(dir.path().join(name).join("css")).unwrap();
            folders.add(path, StaticFiles::new(dir.path().join(name)));
        }
        std::fs::write(dir.path().join("secret.txt"), "s").unwrap();
        std::fs::write(dir.path().join("one/app.css"), "test").unwrap();
        std::fs::write(dir.path().join("two/app.css"), "other").unwrap();
        std::fs::write(dir.path().join("two/css/100% ж?.css"), "test").unwrap();
        (dir, folders)
    }

    /// The first digits of `printf test | sha256sum`.
    const TEST: &str = "9f86d081884c7d65";

    #[test]
    fn a_name_becomes_a_url_with_a_hash() {
        let (dir, folders) = folders();
        let address = format!("/static/app.css?v={TEST}");
        assert_eq!(folders.url("app.css").unwrap(), address);
        assert_eq!(folders.url("/static/app.css").unwrap(), address);
        let encoded = format!("/%D1%84%D0%BE%D1%82%D0%BE/css/100%25%20%D0%B6%3F.css?v={TEST}");
        assert_eq!(folders.url("css/100% ж?.css").unwrap(), encoded, "in the second folder");
        assert_eq!(folders.url("/фото/css/100% ж?.css").unwrap(), encoded);
        std::fs::write(dir.path().join("one/app.css"), "edited").unwrap();
        assert_ne!(folders.url("app.css").unwrap(), address);
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_the_folders() {
        let (dir, folders) = folders();
        for name in ["nothing.css", "/app.css", "/static", "/static/", "/staticapp.css", "css", "", "../secret.txt"] {
            let error = folders.url(name).unwrap_err();
            assert_eq!(error.status_code(), Status::INTERNAL_SERVER_ERROR, "{name}");
            let chain = error.chain();
            let folder = dir.path().join("two").display().to_string();
            assert!(chain.contains(&format!("{name:?}")) && chain.contains(&folder), "{chain}");
        }
        let none = StaticFolders::default().url("app.css").unwrap_err().chain();
        assert!(none.contains("App::static_files"), "{none}");
    }
}
