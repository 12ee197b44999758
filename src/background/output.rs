//! The output of a job: a value, as the JSON that engines store. It may be confidential, so `Debug` does not show it.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::log_text::bytes;

/// A value as JSON text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Output(Arc<str>);

impl Output {
    /// Serializes a value as JSON.
    ///
    /// # Errors
    /// An error if the value cannot be written as JSON: a map whose keys are not text, for example.
    pub(crate) fn of(value: &impl Serialize) -> Result<Output, serde_json::Error> {
        serde_json::to_string(value).map(Output::from_json)
    }

    /// Creates an output from the text that [`json`](Output::json) returned.
    pub(crate) fn from_json(json: impl Into<Arc<str>>) -> Output {
        Output(json.into())
    }

    /// Returns the JSON text.
    pub(crate) fn json(&self) -> &str {
        &self.0
    }

    /// Deserializes the value.
    ///
    /// # Errors
    /// An error if the JSON does not match the type.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|error| {
            let message = format!("the output cannot be read as a {}", std::any::type_name::<T>());
            Error::internal(message).with_source(error)
        })
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({})", bytes(self.0.len()))
    }
}

/// Serializes the value, not its text: a template can use its fields.
impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<Value>(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}
