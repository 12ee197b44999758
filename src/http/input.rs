//! The types that the input of a request is read into.
//!
//! Each trait stands for one of another crate, of which the compiler would say only that it is missing. Its own message says
//! what to write.

use std::str::FromStr;

use serde::de::DeserializeOwned;

use crate::owned_data::OwnsItsData;

/// A type that [`Request::param`](crate::Request::param) returns: any type that implements [`FromStr`].
///
/// ```
/// use std::str::FromStr;
///
/// use aside::testing::TestClient;
/// use aside::{App, Error, Request, Result};
///
/// struct Sku(String);
///
/// impl FromStr for Sku {
///     type Err = Error;
///
///     fn from_str(text: &str) -> Result<Sku> {
///         match text.strip_prefix("sku-") {
///             Some(rest) => Ok(Sku(rest.to_owned())),
///             None => Err(Error::bad_request("not a SKU")),
///         }
///     }
/// }
///
/// fn item(req: &mut Request) -> Result<String> {
///     let Sku(number) = req.param("sku")?;
///     Ok(number)
/// }
///
/// let mut client = TestClient::new(App::new().get("/items/{sku}", item));
/// assert_eq!(client.get("/items/sku-17").text(), "17");
/// assert_eq!(client.get("/items/17").status_code().code(), 404);
/// ```
#[diagnostic::on_unimplemented(
    message = "a parameter cannot be read as `{Self}`",
    label = "the type of this parameter is `{Self}`",
    note = "name the type where the value is stored: `let id: u64 = req.param(\"id\")?`",
    note = "the type is a number, `String`, or any other that implements `std::str::FromStr`"
)]
pub trait FromParam: FromStr {}

#[diagnostic::do_not_recommend]
impl<T: FromStr> FromParam for T {}

/// A type that the input of a request is read into: any type that implements [`Deserialize`](serde::Deserialize) and owns its
/// data.
///
/// [`Request::form`](crate::Request::form), [`submitted`](crate::Request::submitted), [`query`](crate::Request::query),
/// [`json`](crate::Request::json) and [`Session::get`](crate::Session::get) return it.
///
/// ```
/// use aside::http::FromInput;
/// use aside::{Request, Result};
///
/// /// Reads a form or JSON, as the client sent it.
/// fn read<T: FromInput>(req: &mut Request) -> Result<T> {
///     match req.content_type().as_deref() {
///         Some("application/json") => req.json(),
///         _ => req.form(),
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the input of a request cannot be read as `{Self}`",
    label = "the type of this value is `{Self}`",
    note = "name the type where the value is stored: `let order: Order = req.form()?`",
    note = "add `#[derive(serde::Deserialize)]` to the type, and to the types of its fields"
)]
pub trait FromInput: DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: for<'de> OwnsItsData<'de>> FromInput for T {}
