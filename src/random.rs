//! Random bytes from the operating system, and bytes as text.

use crate::error::{Error, Result};

/// Returns random bytes that cannot be guessed.
///
/// # Errors
/// An error if the operating system returns none.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(Error::from(error).context("could not get random bytes from the operating system")),
    }
}

/// Returns a unique name that cannot be guessed: 128 random bits in hexadecimal digits.
///
/// # Errors
/// An error if the operating system returns no random bytes.
pub(crate) fn name() -> Result<String> {
    bytes::<16>().map(|bytes| hex(&bytes))
}

/// Returns the bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
