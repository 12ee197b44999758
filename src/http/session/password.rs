//! Password hashes with argon2id, so that a stolen database does not reveal the passwords.
//!
//! ```
//! use aside::password;
//!
//! # fn main() -> aside::Result<()> {
//! let stored = password::hash("correct horse battery staple")?; // into the database
//! assert!(password::verify("correct horse battery staple", Some(&stored))?);
//! assert!(!password::verify("correct horse", Some(&stored))?);
//! # Ok(())
//! # }
//! ```
//!
//! A hash is slow on purpose: 20 to 50 ms of a core and 19 MiB of memory, with the parameters of OWASP's Password
//! Storage Cheat Sheet (argon2id, m = 19,456 KiB, t = 2, p = 1). Hashes run on dedicated threads: half as many as there
//! are cores, and at least one. In a handler, further calls wait for their turn, in at most a quarter of the workers
//! (`ASIDE_MAX_WAITING`). Above that a request gets 503 with `Retry-After`, so that other pages stay available during a
//! flood of logins. In a task, a job or a command both functions wait without limit. [`login`](crate::Request::login)
//! shows a complete login.
//!
//! The bytes of the UTF-8 text are hashed. Unicode is not normalized: `é` typed as one character and as `e` with an
//! accent are two passwords. Normalize before both functions (NFC) if your users' keyboards differ in this.
//!
//! An empty password is hashed like any other. The form must refuse it, and any with fewer than 8 characters (OWASP
//! ASVS 5, 6.2.1), and should not demand a mixture of character types.

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, CustomizedPasswordHasher, PasswordVerifier};

use super::argon2id::Hasher;
use super::hashing;
use crate::error::{Error, OrHere, Result};
use crate::random;

/// The largest length of a password in bytes. Longer input is an attempt to keep the server busy.
const MAX_BYTES: usize = 1_024;

/// The start of the hashes that [`hash`] makes.
const CURRENT: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

/// A hash without a password, against which the password of an unknown user is checked.
const UNKNOWN_USER: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGlzIGhlcmUhIQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Returns the hash of a password for the database, with its salt and parameters (a PHC string of 97 characters):
/// `$argon2id$v=19$m=19456,t=2,p=1$…$…`. Two hashes of one password differ.
///
/// # Errors
/// 422 if the password is longer than 1,024 bytes; 503 if too many requests wait for a hash; 500 if the operating
/// system provides no random bytes or no thread.
#[track_caller]
pub fn hash(password: &str) -> Result<String> {
    if password.len() > MAX_BYTES {
        return Err(Error::unprocessable(format!("The password is longer than {MAX_BYTES} bytes.")));
    }
    let password = password.to_owned();
    let salt = random::bytes::<16>().or_here()?;
    let hash = move || Hasher.hash_password_with_params(password.as_bytes(), &salt, Params::new(19_456, 2, 1, None)?);
    let hashed: password_hash::Result<PasswordHash> = hashing::run(hash).or_here()?;
    hashed.map(|hash| hash.to_string()).map_err(|error| Error::from(error).context("the password cannot be hashed"))
}

/// Returns true if the password matches the stored hash. `None` stands for an unknown user: the check takes as long, so
/// that the time does not reveal which users exist, and returns false. A password of more than 1,024 bytes returns
/// false at once.
///
/// ```
/// use aside::password;
///
/// assert!(!password::verify("whatever", None).unwrap());
/// ```
///
/// Hashes from elsewhere are accepted if they are PHC strings of argon2, in any variant and with any parameters;
/// [`needs_rehash`] tells which of them to replace.
///
/// # Errors
/// 503 if too many requests wait for a hash; 500 if the stored hash is invalid. The error does not contain it.
#[track_caller]
pub fn verify(typed: &str, stored: Option<&str>) -> Result<bool> {
    if typed.len() > MAX_BYTES {
        return Ok(false);
    }
    let hash = PasswordHash::new(stored.unwrap_or(UNKNOWN_USER)).map_err(invalid_hash).or_here()?;
    // Without them the library has nothing to compare with, and reports a wrong password.
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(invalid_hash(password_hash::Error::EncodingInvalid));
    }
    let typed = typed.to_owned();
    match hashing::run(move || Hasher.verify_password(typed.as_bytes(), &hash)).or_here()? {
        Ok(()) => Ok(stored.is_some()),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(invalid_hash(error)),
    }
}

/// Returns true if the hash was not made by the current [`hash`] function. Replace it at a login, the only time when
/// the password is available:
///
/// ```
/// use aside::{Result, password};
///
/// fn after_login(typed: &str, stored: &mut String) -> Result<()> {
///     if password::needs_rehash(stored) {
///         *stored = password::hash(typed)?;
///     }
///     Ok(())
/// }
/// ```
pub fn needs_rehash(stored: &str) -> bool {
    !stored.starts_with(CURRENT)
}

fn invalid_hash(error: impl Into<Error>) -> Error {
    let message = "the stored password is not an argon2 hash (`$argon2id$…`): it may be plain text, or cut short";
    error.into().context(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_matches() {
        let stored = hash("pässwörd").unwrap();
        assert!(stored.starts_with(CURRENT) && stored.len() == 97, "{stored}");
        assert!(verify("pässwörd", Some(&stored)).unwrap());
        assert!(!verify("passwort", Some(&stored)).unwrap());
        assert!(!verify("", Some(&stored)).unwrap());
    }

    /// The check costs the same for an unknown user: its hash has the parameters of current hashes.
    #[test]
    fn an_unknown_user_costs_the_same_time() {
        let unknown_user = PasswordHash::new(UNKNOWN_USER).unwrap();
        assert!(UNKNOWN_USER.starts_with(CURRENT));
        assert_eq!(unknown_user.hash.unwrap().len(), Params::DEFAULT_OUTPUT_LEN);
        assert_eq!(unknown_user.salt.unwrap().len(), password_hash::try_generate_salt().unwrap().len());
        assert!(!verify("", None).unwrap());
    }

    /// A hash made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`.
    #[test]
    fn a_hash_from_elsewhere_is_accepted_and_needs_a_rehash() {
        let elsewhere = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify("password", Some(elsewhere)).unwrap());
        assert!(needs_rehash(elsewhere) && needs_rehash("") && !needs_rehash(UNKNOWN_USER));
    }

    #[test]
    fn an_invalid_stored_hash_is_an_error_that_does_not_contain_it() {
        let cut = &UNKNOWN_USER[..60];
        let no_output = &UNKNOWN_USER[..UNKNOWN_USER.rfind('$').unwrap()];
        for stored in ["hunter2", "", "$", "$2b$10$abcdefghijklmnopqrstuv", "$scrypt$ln=1$c29tZXNhbHQ$AAAA", no_output]
        {
            let error = verify("hunter2", Some(stored)).unwrap_err();
            let chain = error.chain();
            assert!(chain.contains("not an argon2 hash"), "{stored}: {chain}");
            assert!(stored.len() < 2 || !chain.contains(stored), "{chain}");
        }
        assert!(!verify("hunter2", Some(cut)).unwrap_or(false));
    }

    #[test]
    fn a_password_that_is_too_long_is_refused_without_hashing() {
        let long = "x".repeat(MAX_BYTES + 1);
        assert_eq!(hash(&long).unwrap_err().status_code(), crate::error::Status::UNPROCESSABLE_CONTENT);
        assert!(!verify(&long, Some("not even a hash")).unwrap());
    }

    #[cfg(target_os = "linux")]
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    }

    /// Regression: each thread that hashed a password kept 58 MiB. Measured in a separate process, without other tests.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_hash_returns_its_memory() {
        const NAME: &str = "http::password::tests::a_hash_returns_its_memory";
        const ALONE: &str = "ASIDE_TEST_HASHES_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", NAME]).env(ALONE, "1").output().unwrap();
            return assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        let before = resident();
        for _ in 0..5 {
            verify("whatever", None).unwrap();
            hash("whatever").unwrap();
        }
        let kept = resident().saturating_sub(before);
        assert!(kept < 15, "{kept} MiB");
    }
}
