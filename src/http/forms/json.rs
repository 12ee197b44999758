//! JSON bodies, read into a type, with messages that name no Rust types.

use serde::de::DeserializeOwned;

use super::form::unsupported;
use crate::error::{Error, OrHere, Result};
use crate::http::input::FromInput;
use crate::http::request::Request;

impl Request {
    /// Reads the JSON body into a type.
    ///
    /// ```
    /// use aside::{Request, Result};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Item { sku: String, quantity: u32 }
    ///
    /// fn add(req: &mut Request) -> Result<String> {
    ///     let items: Vec<Item> = req.json()?;
    ///     Ok(format!("{} items", items.len()))
    /// }
    /// ```
    ///
    /// # Errors
    /// 415 if the content type is neither `application/json` nor ends in `+json`; 413 over `ASIDE_MAX_FORM`; 400 with
    /// line and column if the body is not valid JSON; 422 with the path (`items[1].quantity`) if the JSON does not
    /// match the type.
    #[track_caller]
    pub fn json<T: FromInput>(&mut self) -> Result<T> {
        self.read_json().or_here()
    }

    fn read_json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let content_type = self.content_type();
        let is_json = |name: &String| name == "application/json" || name.ends_with("+json");
        if !content_type.as_ref().is_some_and(is_json) {
            return Err(unsupported("application/json", content_type.as_deref()));
        }
        let bytes = self.bytes()?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(refused_json)?;
        json.end().map_err(malformed_json)?;
        Ok(value)
    }
}

fn refused_json(error: serde_path_to_error::Error<serde_json::Error>) -> Error {
    if !error.inner().is_data() {
        return malformed_json(error.into_inner());
    }
    let path = error.path().to_string();
    let detail = error.into_inner().to_string();
    let message = without_rust_types(&detail);
    let message = match path.as_str() {
        "." => format!("The JSON does not fit: {message}."),
        path => format!("The field `{path}`: {message}."),
    };
    Error::unprocessable(message).with_detail(detail)
}

fn malformed_json(error: serde_json::Error) -> Error {
    Error::bad_request(format!("The body is not valid JSON: {error}."))
}

/// Returns a message of serde with the expected type in the terms of JSON: `expected a whole number from 0 to 255`.
fn without_rust_types(message: &str) -> String {
    let Some((found, expected)) = message.split_once(", expected ") else { return message.to_owned() };
    let (expected, position) = expected.rsplit_once(" at line ").unwrap_or((expected, ""));
    let at = if position.is_empty() { String::new() } else { format!(" at line {position}") };
    format!("{found}, expected {}{at}", in_json(expected))
}

/// Returns the name of a type as serde writes it, in the terms of JSON.
fn in_json(expected: &str) -> String {
    let range = |least: i128, most: u128| format!("a whole number from {least} to {most}");
    match expected {
        "u8" => range(0, u8::MAX.into()),
        "u16" => range(0, u16::MAX.into()),
        "u32" => range(0, u32::MAX.into()),
        "u64" | "usize" | "u128" => "a whole number that is not negative".to_owned(),
        "i8" => range(i8::MIN.into(), i8::MAX as u128),
        "i16" => range(i16::MIN.into(), i16::MAX as u128),
        "i32" => range(i32::MIN.into(), i32::MAX as u128),
        "i64" | "isize" | "i128" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "unit" => "null".to_owned(),
        "a map" => "an object".to_owned(),
        "a sequence" => "an array".to_owned(),
        object if object.starts_with("struct ") => "an object".to_owned(),
        array if array.starts_with("tuple struct ") => "an array".to_owned(),
        other => other.to_owned(),
    }
}
