//! Delivery faults of webhooks.

use std::error::Error as StdError;
use std::fmt;

use super::public::NotPublic;
use crate::error::{Error, Status};

/// A delivery fault.
#[derive(Debug)]
pub(super) struct Fault {
    message: String,
    /// True if a later attempt may succeed.
    is_temporary: bool,
    source: Option<ureq::Error>,
}

impl Fault {
    /// Returns the fault for a response other than 2xx.
    pub(super) fn of_status(host: &str, code: u16) -> Fault {
        // A receiver may send a code that HTTP does not define.
        let status = if (100..=599).contains(&code) { Status::new(code).to_string() } else { code.to_string() };
        let message = format!("webhook to {host} answered {}", status.trim_end());
        Fault { message, is_temporary: matches!(code, 408 | 429 | 500..=599), source: None }
    }

    /// Returns the fault for a request without a response.
    pub(super) fn of_transport(host: &str, error: ureq::Error) -> Fault {
        if let ureq::Error::Other(cause) = &error
            && let Some(refused) = cause.downcast_ref::<NotPublic>()
        {
            let message = format!("webhook to {host} was not sent: {refused}");
            return Fault { message, is_temporary: false, source: None };
        }
        let is_temporary = matches!(
            error,
            // This includes an expired certificate: it is renewed sooner or later.
            ureq::Error::Io(_)
                | ureq::Error::Tls(_)
                | ureq::Error::Rustls(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::ConnectProxyFailed(_)
                | ureq::Error::Protocol(_)
        );
        Fault { message: format!("cannot deliver the webhook to {host}"), is_temporary, source: Some(error) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

pub(super) fn is_temporary(error: &Error) -> bool {
    let fault = error.source().and_then(|source| source.downcast_ref::<Fault>());
    fault.is_some_and(|fault| fault.is_temporary)
}
