//! The way of a file through serde, from a form to its type.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::http::forms::multipart::Upload;

/// The name with which [`Upload`] asks serde for a file.
pub(super) const NAME: &str = "aside::Upload";

thread_local! {
    /// Serde carries texts and numbers only. A file passes here, from the deserializer to the type on the same thread.
    static PENDING_UPLOAD: Cell<Option<Upload>> = const { Cell::new(None) };
    static STAND_IN_TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Passes a file on to the type that is being read.
pub(super) fn pass_on(file: Upload) {
    STAND_IN_TAKEN.set(STAND_IN_TAKEN.get() || file.is_stand_in());
    PENDING_UPLOAD.set(Some(file));
}

/// Runs `read`, and returns its result and whether a type took a stand-in for a file.
pub(super) fn observe_stand_in<R>(read: impl FnOnce() -> R) -> (R, bool) {
    STAND_IN_TAKEN.set(false);
    (read(), STAND_IN_TAKEN.get())
}

/// Reads a file field of a form's type: see [`Request::submitted`](crate::Request::submitted).
impl<'de> Deserialize<'de> for Upload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Upload, D::Error> {
        struct Taken;
        impl Visitor<'_> for Taken {
            type Value = Upload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file of a multipart form")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Upload, E> {
                PENDING_UPLOAD.take().ok_or_else(|| E::invalid_type(de::Unexpected::Unit, &self))
            }
        }
        deserializer.deserialize_newtype_struct(NAME, Taken)
    }
}
