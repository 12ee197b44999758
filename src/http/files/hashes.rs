//! Hashes of file contents, for URLs that change with the file.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::error::Result;
use crate::random;

/// The number of bytes of a hash in a URL, with two digits each: enough that two versions of a file never collide.
const BYTES: usize = 8;

/// The hashes of files, each computed once for each version of a file. Clones share the memory.
#[derive(Clone, Default)]
pub(super) struct Hashes(Cache<String>);

impl Hashes {
    /// Returns the hash of the file's contents. The key names one version of one file.
    pub(super) fn of(&self, key: &str, file: &File) -> Result<String> {
        self.0.remember(key, Duration::MAX, || hash(file))
    }

    /// Returns the hash if it was computed before.
    pub(super) fn known(&self, key: &str) -> Option<String> {
        self.0.get(key)
    }
}

/// Reads the file to its end, and rewinds it.
fn hash(mut file: &File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(in_address(hasher))
}

/// Returns the hash of embedded contents.
pub(crate) fn of(bytes: &[u8]) -> String {
    in_address(Sha256::new_with_prefix(bytes))
}

fn in_address(hasher: Sha256) -> String {
    random::hex(&hasher.finalize()[..BYTES])
}

/// Returns the hash in a query, if the query has a hash and nothing else.
pub(super) fn requested(query: &str) -> Option<&str> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    query.strip_prefix("v=").filter(|hash| hash.len() == 2 * BYTES && hash.bytes().all(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_in_a_query_has_one_form() {
        assert_eq!(requested("v=9f86d081884c7d65"), Some("9f86d081884c7d65"));
        for query in [
            "",
            "v=",
            "v=9f86",
            "V=9f86d081884c7d65",
            "v=9F86D081884C7D65",
            "v=9f86d081884c7d65&a",
            "a&v=9f86d081884c7d65",
        ] {
            assert_eq!(requested(query), None, "{query}");
        }
    }
}
