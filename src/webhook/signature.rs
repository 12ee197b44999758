//! Signatures of webhooks, and the check of a received one.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use crate::error::{Error, OrHere, Result};
use crate::http::request::Request;

/// The largest difference between the clocks of sender and receiver, in seconds.
pub(super) const TOLERANCE: i64 = 300;

/// Returns the signature of a webhook for the header `webhook-signature`. The timestamp is in seconds since 1970.
///
/// ```
/// let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// let body = br#"{"test": 2432232314}"#;
/// let signature = aside::webhook::sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body).unwrap();
/// assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
/// ```
///
/// # Errors
/// An error if the secret is empty, or is not base64 after `whsec_`.
#[track_caller]
pub fn sign(secret: impl AsRef<[u8]>, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
    let key = key(secret.as_ref()).or_here()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(Error::from_box).or_here()?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// Returns the bytes of a secret. The errors never show its text.
fn key(secret: &[u8]) -> Result<Vec<u8>> {
    let key = match secret.strip_prefix(b"whsec_") {
        Some(text) => STANDARD_PAD_INDIFFERENT
            .decode(text)
            .map_err(|_| Error::internal("the webhook's secret is not base64 after `whsec_`"))?,
        None => secret.to_vec(),
    };
    // Anyone can sign with an empty key.
    if key.is_empty() { Err(Error::internal("the webhook's secret is empty")) } else { Ok(key) }
}

/// Returns the body of a received webhook, of up to `ASIDE_MAX_FORM`, if it was signed with one of the secrets within the
/// last 5 minutes.
///
/// ```
/// use aside::{Request, Result, webhook};
///
/// fn paid(req: &mut Request) -> Result<&'static str> {
///     let body = webhook::verify(req, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])?;
///     let paid: serde_json::Value = serde_json::from_slice(&body)?;
///     log::info!("order {} is paid", paid["order"]);
///     Ok("thank you")
/// }
/// ```
///
/// Several secrets allow a gradual change from one to the next. A webhook may be received more than once, with the same
/// `webhook-id`.
///
/// # Errors
/// 400 if a header is missing or malformed. 401 if no signature matches, or the timestamp is more than 5 minutes from this
/// machine's clock. 413 if the body is too large. 500 if `secrets` is empty or has an invalid secret.
#[track_caller]
pub fn verify(req: &mut Request, secrets: &[impl AsRef<[u8]>]) -> Result<Vec<u8>> {
    verify_at(req, secrets, Timestamp::now().as_second()).or_here()
}

pub(super) fn verify_at(req: &mut Request, secrets: &[impl AsRef<[u8]>], now: i64) -> Result<Vec<u8>> {
    let (id, time) = (required(req, "webhook-id")?, required(req, "webhook-timestamp")?);
    let signatures = required(req, "webhook-signature")?;
    // Digits only: the signature covers the number as it was sent, and `sign` writes it without signs or leading zeros.
    let timestamp = time.parse::<i64>().ok().filter(|number| number.to_string() == time);
    let timestamp = timestamp.ok_or_else(|| {
        Error::bad_request("The header webhook-timestamp is not a whole number of seconds since 1970.")
    })?;
    if timestamp.abs_diff(now) > TOLERANCE.unsigned_abs() {
        return Err(Error::unauthorized("The webhook's timestamp is more than 5 minutes from this server's clock."));
    }
    let body = req.bytes()?;
    if is_signed(secrets, &id, timestamp, &body, &signatures)? {
        return Ok(body);
    }
    Err(Error::unauthorized("No signature of this webhook matches: it was signed with another secret, or changed."))
}

fn required(req: &Request, name: &str) -> Result<String> {
    let value = req.header(name).map(str::trim).filter(|value| !value.is_empty());
    value.map(str::to_owned).ok_or_else(|| Error::bad_request(format!("The header {name} is missing.")))
}

/// Returns true if one of the secrets made one of the signatures. All are compared, each in constant time.
fn is_signed(secrets: &[impl AsRef<[u8]>], id: &str, timestamp: i64, body: &[u8], signatures: &str) -> Result<bool> {
    if secrets.is_empty() {
        return Err(Error::internal("`webhook::verify` needs at least one secret"));
    }
    let mut matches = Choice::from(0);
    for secret in secrets {
        let expected = sign(secret, id, timestamp, body)?;
        for signature in signatures.split(' ') {
            matches |= signature.as_bytes().ct_eq(expected.as_bytes());
        }
    }
    Ok(matches.into())
}
