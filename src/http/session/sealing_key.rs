//! The encryption of cookies.

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::random;

/// The bytes of a nonce. With random nonces of 192 bits the chance that any two of 2^80 cookies under one key share one is
/// 2^-32 (C2SP XAES-256-GCM), so the number of cookies needs no limit. With the 96 bits of AES-GCM alone a key would have to
/// be replaced after 2^32 cookies (NIST SP 800-38D, section 8.3).
const NONCE: usize = 24;

const TAG: usize = 16;

/// What a sealed text has in bytes beside the text.
#[cfg(test)]
pub(super) const OVERHEAD: usize = NONCE + TAG;

/// What the key is for: another use of the same secret must have another label, and then gets another key.
const LABEL: &[u8] = b"aside sealed cookie, XAES-256-GCM";

/// A key that encrypts and authenticates cookies with XAES-256-GCM (<https://c2sp.org/XAES-256-GCM>): AES-256-GCM under a key
/// that is derived for each cookie from the first half of its nonce. XChaCha20-Poly1305 takes three times as long for a
/// short cookie. The key has no `Debug`, so that it cannot be logged.
pub(super) struct SealingKey {
    aes: Aes256,
    /// The subkey K1 of CMAC.
    subkey: u128,
}

impl SealingKey {
    /// Derives the key from a secret of high entropy, by the one-step function with SHA-256 of NIST SP 800-56C, section 4.1.
    pub(super) fn derive(secret: &str) -> SealingKey {
        let digest =
            Sha256::new().chain_update(1_u32.to_be_bytes()).chain_update(secret).chain_update(LABEL).finalize();
        SealingKey::from_bytes(digest.into())
    }

    /// Returns a random key.
    ///
    /// # Errors
    /// An error if the operating system returns no random bytes.
    pub(super) fn random() -> Result<SealingKey> {
        random::bytes().map(SealingKey::from_bytes)
    }

    fn from_bytes(key: [u8; 32]) -> SealingKey {
        let aes = Aes256::new(&key.into());
        let mut block = [0; 16].into();
        aes.encrypt_block(&mut block);
        let block = u128::from_be_bytes(block.into());
        SealingKey { aes, subkey: (block << 1) ^ ((block >> 127) * 0b1000_0111) }
    }

    /// Returns the cipher for a nonce, and its nonce.
    fn cipher(&self, nonce: &[u8; NONCE]) -> (Aes256Gcm, Nonce<U12>) {
        let derived = |counter| {
            let mut block = [0, counter, b'X', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            block[4..].copy_from_slice(&nonce[..12]);
            (u128::from_be_bytes(block) ^ self.subkey).to_be_bytes().into()
        };
        let mut blocks = [derived(1), derived(2)];
        self.aes.encrypt_blocks(&mut blocks);
        let mut key = [0; 32];
        key[..16].copy_from_slice(&blocks[0]);
        key[16..].copy_from_slice(&blocks[1]);
        (Aes256Gcm::new(&key.into()), std::array::from_fn(|index| nonce[12 + index]).into())
    }

    /// Encrypts a text for the cookie of this name. The result has only the URL-safe letters of RFC 4648, section 5: some
    /// clients quote a value with a slash (Python's `http.cookies`), and others read a plus sign as a space.
    ///
    /// # Errors
    /// An error if the operating system returns no random bytes.
    pub(super) fn seal(&self, name: &str, text: &str) -> Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(self.seal_with(&random::bytes()?, name, text)))
    }

    fn seal_with(&self, nonce: &[u8; NONCE], name: &str, text: &str) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(NONCE + text.len() + TAG);
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(text.as_bytes());
        let (cipher, nonce) = self.cipher(nonce);
        let tag = cipher.encrypt_inout_detached(&nonce, name.as_bytes(), (&mut sealed[NONCE..]).into());
        sealed.extend_from_slice(&tag.expect("only texts of 64 GiB are too long"));
        sealed
    }

    /// Decrypts what was sealed with this key for the cookie of this name.
    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Option<String> {
        let (nonce, rest) = sealed.split_first_chunk()?;
        let (text, tag) = rest.split_last_chunk::<TAG>()?;
        let (mut text, tag) = (text.to_vec(), Tag::from(*tag));
        let (cipher, nonce) = self.cipher(nonce);
        cipher.decrypt_inout_detached(&nonce, name.as_bytes(), text.as_mut_slice().into(), &tag).ok()?;
        String::from_utf8(text).ok()
    }
}

/// Returns the bytes of a sealed value as the client sent it; `None` if they are not in its letters.
pub(super) fn decode(value: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SealingKey {
        SealingKey::derive("a secret of more than 32 bytes for tests")
    }

    fn open(key: &SealingKey, name: &str, value: &str) -> Option<String> {
        key.open(name, &decode(value)?)
    }

    proptest! {
        #[test]
        fn a_sealed_text_opens_under_its_name_only(name in "[a-z_-]{1,20}", other in "[a-z_-]{1,20}", text in any::<String>()) {
            let sealed = key().seal(&name, &text).unwrap();
            prop_assert_eq!(decode(&sealed).unwrap().len(), text.len() + OVERHEAD);
            prop_assert_eq!(open(&key(), &other, &sealed).is_some(), other == name);
            prop_assert_eq!(open(&key(), &name, &sealed), Some(text));
            prop_assert_eq!(open(&SealingKey::random().unwrap(), &name, &sealed), None);
        }

        #[test]
        fn any_changed_byte_is_refused(text in any::<String>(), at in any::<prop::sample::Index>(), change in 1..=u8::MAX) {
            let mut sealed = decode(&key().seal("a", &text).unwrap()).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= change;
            prop_assert_eq!(key().open("a", &sealed), None);
        }

        #[test]
        fn arbitrary_values_are_refused(value in any::<String>(), bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(open(&key(), "a", &value), None);
            prop_assert_eq!(key().open("a", &bytes), None);
        }
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let sealed = key().seal("a", "text").unwrap();
        assert!((0..sealed.len()).all(|length| open(&key(), "a", &sealed[..length]).is_none()));
        for more in ["A", "AA", "AAAA", "=", "==", " ", "."] {
            assert_eq!(open(&key(), "a", &format!("{sealed}{more}")), None, "{more:?}");
        }
    }

    /// Base64 has letters with unused bits at its end: two values for one text could be counted as two cookies.
    #[test]
    fn one_text_has_one_value() {
        for text in ["", "a", "ab", "abc"] {
            let sealed = key().seal("a", text).unwrap();
            let (start, last) = sealed.split_at(sealed.len() - 1);
            for letter in ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']) {
                let value = format!("{start}{letter}");
                assert_eq!(open(&key(), "a", &value).is_some(), last == letter.to_string(), "{value}");
            }
        }
    }

    #[test]
    fn every_cookie_has_its_own_nonce() {
        let sealed: std::collections::HashSet<_> = (0..1_000).map(|_| key().seal("a", "text").unwrap()).collect();
        let nonces: std::collections::HashSet<_> = sealed.iter().map(|sealed| &sealed[..NONCE * 4 / 3]).collect();
        assert_eq!(nonces.len(), 1_000);
    }

    /// The test vectors of the specification, one for each value of the first bit of the block that the subkey is made from.
    #[test]
    fn the_test_vectors_of_the_specification_are_sealed_and_opened() {
        for (key, name, expected) in [
            (1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
        ] {
            let key = SealingKey::from_bytes([key; 32]);
            let sealed = key.seal_with(b"ABCDEFGHIJKLMNOPQRSTUVWX", name, "XAES-256-GCM");
            assert_eq!(random::hex(&sealed[NONCE..]), expected);
            assert_eq!(key.open(name, &sealed).as_deref(), Some("XAES-256-GCM"));
        }
    }
}
