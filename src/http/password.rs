//! Passwords, kept so that who steals the database does not have them: argon2id.
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
//! A hash is slow on purpose: some 20 to 50 ms of a core and 19 MiB of memory, as OWASP's Password Storage Cheat Sheet has
//! it (argon2id, m = 19,456 KiB, t = 2, p = 1). Hashes run on dedicated threads: half as many as there are cores, and at
//! least one. In a handler, further calls wait for their turn, in at most a quarter of the workers (`ASIDE_MAX_WAITING`).
//! Above that a request gets 503 with `Retry-After`, so that other pages stay available during a flood of logins. In a
//! task, a job or a command both functions wait without limit. [`login`](crate::login()) shows a whole login.
//!
//! What counts is the bytes of the UTF-8 text. No form of Unicode is made of it: `é` typed as one character and as `e` with
//! an accent are two passwords. Normalise before both functions (NFC) where your visitors' keyboards differ so.
//!
//! An empty password is one like any other here. It is the form that refuses it, and one of fewer than 8 characters
//! (OWASP ASVS 5, 6.2.1), and that asks for no mixture of kinds.

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, CustomizedPasswordHasher, PasswordVerifier};

use super::argon2id::Hasher;
use super::hashing;
use crate::error::{Error, Result};

/// Bytes of a password. Nobody types more, and whoever sends more wants to keep us busy.
const MOST_BYTES: usize = 1_024;

/// What a hash of ours begins with.
const OURS: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

/// A hash like any other, of no password: what an unknown user's is compared with.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGlzIGhlcmUhIQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What to keep in place of a password, with its salt and how it was made (a PHC string, 97 characters):
/// `$argon2id$v=19$m=19456,t=2,p=1$…$…`. Two hashes of one password differ.
///
/// # Errors
/// 422 if the password is longer than 1,024 bytes; 503 if too many requests wait for a hash; 500 if the operating system
/// provides no random bytes or no thread.
pub fn hash(password: &str) -> Result<String> {
    if password.len() > MOST_BYTES {
        return Err(Error::unprocessable(format!("The password is longer than {MOST_BYTES} bytes.")));
    }
    let password = password.to_owned();
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(Error::from_box)?;
    let hash = move || Hasher.hash_password_with_params(password.as_bytes(), &salt, Params::new(19_456, 2, 1, None)?);
    let hashed: password_hash::Result<PasswordHash> = hashing::run(hash)?;
    hashed.map(|hash| hash.to_string()).map_err(|error| Error::from(error).context("the password cannot be hashed"))
}

/// Whether that was the password. `None` stands for a user who is not there: it takes as long, so that the time does not
/// tell who is, and is false. So is a password of more than 1,024 bytes, at once.
///
/// ```
/// use aside::password;
///
/// assert!(!password::verify("whatever", None).unwrap());
/// ```
///
/// Hashes made elsewhere are understood when they are PHC strings of argon2, in any variant and with any parameters;
/// [`needs_rehash`] says which to make anew.
///
/// # Errors
/// 503 if too many requests wait for a hash; 500 if the stored hash is invalid. The error does not contain it.
pub fn verify(typed: &str, stored: Option<&str>) -> Result<bool> {
    if typed.len() > MOST_BYTES {
        return Ok(false);
    }
    let hash = PasswordHash::new(stored.unwrap_or(NOBODYS)).map_err(no_hash)?;
    // Without them the library has nothing to compare with, and calls it a wrong password.
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(no_hash(password_hash::Error::EncodingInvalid));
    }
    let typed = typed.to_owned();
    match hashing::run(move || Hasher.verify_password(typed.as_bytes(), &hash))? {
        Ok(()) => Ok(stored.is_some()),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(no_hash(error)),
    }
}

/// Whether a hash was made in another way than [`hash`] makes it now. At a login, the one moment when the password is
/// there, make it anew:
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
    !stored.starts_with(OURS)
}

fn no_hash(error: impl Into<Error>) -> Error {
    let words = "the stored password is no hash of argon2 (`$argon2id$…`): was it kept as it was typed, or cut short?";
    error.into().context(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_itself_is_right() {
        let stored = hash("pässwörd").unwrap();
        assert!(stored.starts_with(OURS) && stored.len() == 97, "{stored}");
        assert!(verify("pässwörd", Some(&stored)).unwrap());
        assert!(!verify("passwort", Some(&stored)).unwrap());
        assert!(!verify("", Some(&stored)).unwrap());
    }

    /// The same work, whether the user is there or not: the hash to compare with costs what ours cost.
    #[test]
    fn nobody_has_a_hash_that_costs_the_same() {
        let nobody = PasswordHash::new(NOBODYS).unwrap();
        assert!(NOBODYS.starts_with(OURS));
        assert_eq!(nobody.hash.unwrap().len(), Params::DEFAULT_OUTPUT_LEN);
        assert_eq!(nobody.salt.unwrap().len(), password_hash::try_generate_salt().unwrap().len());
        assert!(!verify("", None).unwrap());
    }

    /// A hash made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`.
    #[test]
    fn a_hash_made_elsewhere_is_understood_and_to_be_made_anew() {
        let elsewhere = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify("password", Some(elsewhere)).unwrap());
        assert!(needs_rehash(elsewhere) && needs_rehash("") && !needs_rehash(NOBODYS));
    }

    #[test]
    fn a_stored_hash_that_is_none_is_an_error_that_does_not_show_it() {
        let cut = &NOBODYS[..60];
        let no_output = &NOBODYS[..NOBODYS.rfind('$').unwrap()];
        for stored in ["hunter2", "", "$", "$2b$10$abcdefghijklmnopqrstuv", "$scrypt$ln=1$c29tZXNhbHQ$AAAA", no_output]
        {
            let error = verify("hunter2", Some(stored)).unwrap_err();
            let chain = error.chain();
            assert!(chain.contains("no hash of argon2"), "{stored}: {chain}");
            assert!(stored.len() < 2 || !chain.contains(stored), "{chain}");
        }
        assert!(!verify("hunter2", Some(cut)).unwrap_or(false));
    }

    #[test]
    fn a_password_beyond_reason_is_refused_before_it_costs_anything() {
        let long = "x".repeat(MOST_BYTES + 1);
        assert_eq!(hash(&long).unwrap_err().status(), crate::error::Status::UNPROCESSABLE_CONTENT);
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
