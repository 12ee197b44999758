//! A webhook as a durable job, and its stored form.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fault::is_temporary;
use super::{LIMITS, Webhook};
use crate::background::retry::Retry;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result};
use crate::jobs::Job;

/// The number of attempts of a webhook job, and its first backoff: about three days in all, with one attempt an hour after
/// the first hours.
const JOB_ATTEMPTS: u32 = 90;
const JOB_FIRST_BACKOFF: Duration = Duration::from_secs(10);

/// A webhook as a job: `req.enqueue(webhook)?` stores it, so that it [survives the process](Webhook#sent-or-enqueued).
impl Job for Webhook {
    const NAME: &'static str = "webhook";
    /// A separate queue, so that a slow receiver does not delay other jobs.
    const QUEUE: &'static str = "webhook";
    const PRIVATE: bool = true;

    fn retry() -> Retry {
        Retry::exponential(JOB_ATTEMPTS, JOB_FIRST_BACKOFF)
            .only_if(|error| is_temporary(error) || is_of_a_later_version(error))
    }

    fn label(&self) -> String {
        self.task_name()
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        self.deliver()
    }
}

/// Returns true if a later version of the program may have enqueued the webhook, during a deployment.
fn is_of_a_later_version(error: &Error) -> bool {
    error.find_source::<serde_json::Error>().is_some()
}

/// The stored form of a webhook. A new field has a default, and is written only if it is set. An earlier version of the
/// program refuses a field that it does not know, and the job waits for a version that knows it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    url: String,
    id: String,
    body: String,
    /// The secret in base64, since it may be any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    public_only: bool,
}

impl Serialize for Webhook {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let body = self.body().map_err(|error| S::Error::custom(error.chain()))?;
        let stored = Stored {
            url: self.url.clone(),
            id: self.id.clone(),
            // It is JSON, which is UTF-8.
            body: String::from_utf8(body.to_vec()).map_err(S::Error::custom)?,
            secret: self.secret.as_ref().map(|secret| STANDARD.encode(secret)),
            headers: self.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            public_only: self.public_only,
        };
        stored.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Webhook {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Webhook, D::Error> {
        let stored = Stored::deserialize(from)?;
        // The error does not show the text, which is a secret.
        let decode = |text| STANDARD.decode(text).map_err(|_| D::Error::custom("the webhook's secret is not base64"));
        Ok(Webhook {
            url: stored.url,
            id: stored.id,
            body: Ok(stored.body.into_bytes()),
            secret: stored.secret.map(decode).transpose()?,
            headers: stored.headers.into_iter().collect(),
            public_only: stored.public_only,
            limits: LIMITS,
        })
    }
}
