//! Typed forms and queries.
//!
//! [`Request::form`] is for handlers that answer an invalid form with an error page; [`Request::submitted`] and
//! [`Form`] are for pages that show the entered values with an error beside each.

#[cfg(feature = "templates")]
mod for_templates;

use std::collections::BTreeMap;
use std::panic::Location;

use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;
use serde::ser::Serialize;
use serde_json::Value;

use super::deserializer::{self, Reading};
use super::field_path::Sent;
use super::idempotency;
use super::multipart::{Multipart, Part, too_many_fields};
use super::refused_form;
use crate::error::{Error, OrHere, Result, Status};
use crate::http::input::FromInput;
use crate::http::request::Request;

const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";

/// Fields by name and value, in the order in which they were sent.
type Pairs = Vec<(String, String)>;

impl Request {
    /// Reads the form in the body, urlencoded or multipart, into a type.
    ///
    /// ```
    /// use aside::{Request, Response, Result, redirect};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Order { email: String, quantity: u32, gift: bool, tags: Vec<String>, coupon: Option<u64> }
    ///
    /// fn create_order(req: &mut Request) -> Result<Response> {
    ///     let order: Order = req.form()?;
    ///     println!("{} for {}", order.quantity, order.email);
    ///     Ok(redirect("/orders"))
    /// }
    /// ```
    ///
    /// The type is a struct or a map. Repeated fields fill a `Vec`, including blank ones; a field that was not sent is
    /// an empty `Vec`. A checkbox is a `bool`: a browser sends `on` if it is ticked and nothing otherwise. A blank
    /// field is `None` for an optional type that cannot be blank (`Option<u64>`, a date), and `Some("")` for
    /// `Option<String>`. Spaces around numbers are removed. Fields that the type does not have are ignored, unless it
    /// has `#[serde(deny_unknown_fields)]`. Below `#[serde(flatten)]` serde passes texts only, so do not put numbers
    /// there; a type with it takes no files.
    ///
    /// **Names with brackets** fill nested structs, lists and maps: `address[city]`, `items[0][name]`, `items[][name]`,
    /// `tags[]`, `prices[17]`.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Order { address: Address, items: Vec<Item>, billing: Option<Address>, tags: Vec<String> }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Address { street: String, city: String }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Item { sku: String, quantity: u32, gift: bool }
    /// ```
    ///
    /// The numbers of a list group and order its fields. They may have gaps, and may be message (`items[new][sku]`),
    /// which come last. With `items[]` the next item begins when a name repeats, so number the items if one of their
    /// fields may be missing, such as a checkbox or a multiple choice. A group in which everything was left blank is
    /// `None` for an optional type that cannot be blank (`Vec<Option<Item>>` for rows that may stay empty). Errors name
    /// a field as the client sent it: `address[city]`. A field of the type with brackets in its own name
    /// (`#[serde(rename = "tags[]")]`) is matched literally, and a map of texts takes every name literally. So are
    /// names whose brackets do not match or that have more than 8 pairs of brackets. Dots have no meaning.
    ///
    /// # Errors
    /// 415 for another content type; 413 over `ASIDE_MAX_FORM` (1 MiB) or `ASIDE_MAX_FIELDS` (1,000), and for a
    /// multipart form the errors of [`multipart`](Request::multipart); 400 if the body was cut short; 422, naming the
    /// field, if a field is missing or cannot be read.
    #[track_caller]
    pub fn form<T: FromInput>(&mut self) -> Result<T> {
        let read = self.sent::<T>().and_then(|sent| first_refusal(&sent, "field", Status::UNPROCESSABLE_CONTENT));
        read.or_here()
    }

    /// Reads the form in the body together with all its errors, for a page that shows both; see [`Form`].
    ///
    /// The type may have files too: an [`Upload`](crate::Upload), an `Option` of it, or a `Vec` for `<input type="file"
    /// multiple>`. A file field is missing if the user chose no file. The form needs `enctype="multipart/form-data"`.
    ///
    /// ```
    /// use aside::{Form, Request, Response, Result, Upload, context, redirect};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct NewPhoto { title: String, photo: Upload }
    ///
    /// fn upload(req: &mut Request) -> Result<Response> {
    ///     let mut form: Form<NewPhoto> = req.submitted()?;
    ///     form.require(&["title"])
    ///         .check("photo", |new| new.photo.content_type() == "image/jpeg", "Please choose a JPEG.");
    ///     let new = match form.valid() {
    ///         Ok(new) => new,
    ///         Err(form) => return Ok(req.render("new.html", context! { form })?.status(form.status())),
    ///     };
    ///     new.photo.save_to("data/photos")?;
    ///     Ok(redirect("/"))
    /// }
    /// ```
    ///
    /// A page cannot fill in a file field again: if the form is invalid, the other values are kept, and the user
    /// chooses the file a second time. `form.values.photo` is the file's name, to be shown.
    ///
    /// # Errors
    /// The errors of [`form`](Request::form) without 422: a field that is missing or cannot be read is in
    /// [`Form::errors`].
    #[track_caller]
    pub fn submitted<T: FromInput>(&mut self) -> Result<Form<T>> {
        self.sent::<T>().map(Form::typed).or_here()
    }

    fn sent<T: DeserializeOwned>(&mut self) -> Result<Vec<(String, Sent)>> {
        match self.content_type().as_deref() {
            Some(MULTIPART) => sent(&self.multipart_with(&mut deserializer::takes_file::<T>)?),
            _ => Ok(texts(self.form_pairs()?)),
        }
    }

    /// Returns the fields of the form in the body as pairs of name and value, in order.
    ///
    /// # Errors
    /// The errors of [`form`](Request::form) without 422.
    #[track_caller]
    pub fn form_pairs(&mut self) -> Result<Vec<(String, String)>> {
        let pairs = match self.content_type().as_deref() {
            Some(URLENCODED) => self.urlencoded_pairs(),
            Some(MULTIPART) => self.multipart_with(&mut |_| false).and_then(|body| body.pairs()),
            other => Err(unsupported(&format!("{URLENCODED} or {MULTIPART}"), other)),
        };
        pairs.or_here()
    }

    fn urlencoded_pairs(&mut self) -> Result<Pairs> {
        let pairs = pairs(&self.bytes()?, self.config().max_fields, "form")?;
        idempotency::record_identity(self, pairs.iter().map(|(name, text)| (&name[..], &text[..])));
        Ok(pairs)
    }

    /// Reads the query into a type, by the rules of [`form`](Request::form).
    ///
    /// ```
    /// use aside::{Request, Result};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Page { page: Option<u32>, tag: Vec<String> }
    ///
    /// fn photos(req: &mut Request) -> Result<String> {
    ///     let Page { page, tag } = req.query()?;
    ///     Ok(format!("page {} of {}", page.unwrap_or(1), tag.join(" and ")))
    /// }
    /// ```
    ///
    /// # Errors
    /// 400, naming the parameter, if a parameter is missing or cannot be read; 413 over `ASIDE_MAX_FIELDS` (1,000).
    #[track_caller]
    pub fn query<T: FromInput>(&self) -> Result<T> {
        let pairs = self.query_pairs();
        let read = pairs.and_then(|pairs| first_refusal(&texts(pairs), "parameter", Status::BAD_REQUEST));
        read.or_here()
    }

    /// Returns the parameters of the query as pairs of name and value, in order.
    ///
    /// # Errors
    /// 413 over `ASIDE_MAX_FIELDS` (1,000).
    #[track_caller]
    pub fn query_pairs(&self) -> Result<Vec<(String, String)>> {
        let pairs = pairs(self.query_string().as_bytes(), self.config().max_fields, "query");
        pairs.or_here()
    }
}

impl Multipart {
    /// Reads the fields into a type, including files, by the rules of [`Request::form`] and [`Request::submitted`].
    ///
    /// # Errors
    /// 422, naming the field, if a field is missing or cannot be read; 413 over `ASIDE_MAX_FIELDS`.
    #[track_caller]
    pub fn form<T: FromInput>(&self) -> Result<T> {
        let read = sent(self).and_then(|sent| first_refusal(&sent, "field", Status::UNPROCESSABLE_CONTENT));
        read.or_here()
    }

    /// Reads the fields together with all their errors, for a page that shows both; see [`Form`].
    ///
    /// # Errors
    /// The errors of [`form`](Multipart::form) without 422.
    #[track_caller]
    pub fn submitted<T: FromInput>(&self) -> Result<Form<T>> {
        sent(self).map(Form::typed).or_here()
    }
}

/// Returns the pairs as texts for the deserializer, without the field of [`once`].
fn texts(pairs: Pairs) -> Vec<(String, Sent)> {
    let ours = |(name, _): &(String, String)| name == idempotency::FIELD;
    pairs.into_iter().filter(|pair| !ours(pair)).map(|(name, text)| (name, Sent::Text(text))).collect()
}

/// Returns the texts and files of a multipart body, in order, without the field of [`once`].
fn sent(body: &Multipart) -> Result<Vec<(String, Sent)>> {
    body.check_count()?;
    let text = |part: &Part| part.text().map(|text| Sent::Text(text.to_owned()));
    let content = |part: &Part| text(part).or_else(|| part.upload().cloned().map(Sent::File));
    let parts = body.parts().iter().filter(|part| part.name() != idempotency::FIELD);
    Ok(parts.filter_map(|part| Some((part.name().to_owned(), content(part)?))).collect())
}

/// Deserializes the fields, or returns the first refusal as an error with the given status.
fn first_refusal<T: DeserializeOwned>(sent: &[(String, Sent)], noun: &str, status: Status) -> Result<T> {
    let reading = deserializer::read(sent);
    match (reading.refusals.first(), reading.value) {
        (Some(refusal), _) => Err(Error::new(status, refusal.sentence()).with_detail(refusal.technical(noun))),
        (None, Some(value)) => Ok(value),
        (None, None) => Err(Error::new(status, "The form cannot be read.")),
    }
}

pub(super) fn unsupported(expected: &str, received: Option<&str>) -> Error {
    let received = received.filter(|name| !name.is_empty()).unwrap_or("none");
    let message = format!("The body must be {expected}; its Content-Type is {received}.");
    Error::new(Status::UNSUPPORTED_MEDIA_TYPE, message)
}

/// Parses urlencoded pairs as the WHATWG URL standard does (section 5.1), byte for byte. No input is malformed: an
/// invalid escape stays as it is, and invalid UTF-8 becomes U+FFFD.
fn pairs(bytes: &[u8], limit: usize, noun: &str) -> Result<Pairs> {
    let sequences = || bytes.split(|byte| *byte == b'&').filter(|sequence| !sequence.is_empty());
    check_count(sequences().count(), limit, noun)?;
    let pair = |sequence: &[u8]| {
        let mut halves = sequence.splitn(2, |byte| *byte == b'=');
        let mut half = || decode(halves.next().unwrap_or_default());
        (half(), half())
    };
    Ok(sequences().map(pair).collect())
}

/// Decodes one name or value. "UTF-8 decode without BOM" does not look for a byte order mark: it stays.
fn decode(bytes: &[u8]) -> String {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

fn check_count(count: usize, limit: usize, noun: &str) -> Result<()> {
    if count > limit { Err(too_many_fields(limit, noun)) } else { Ok(()) }
}

/// A submitted form: the entered values and their errors.
///
/// ```
/// use aside::{Form, Request, Response, Result, context, redirect};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Order { email: String, quantity: u32 }
///
/// fn new_order(req: &mut Request) -> Result<Response> {
///     page(req, &Form::empty())
/// }
///
/// fn create_order(req: &mut Request) -> Result<Response> {
///     let mut form: Form<Order> = req.submitted()?;
///     form.require(&["email"])
///         .check("email", |order| order.email.contains('@'), "This is not a mail address.")
///         .check("quantity", |order| (1..=100).contains(&order.quantity), "Between 1 and 100, please.");
///     let order = match form.valid() {
///         Ok(order) => order,
///         Err(form) => return page(req, &form),
///     };
///     println!("{} for {}", order.quantity, order.email);
///     Ok(redirect("/orders"))
/// }
///
/// fn page(req: &mut Request, form: &Form<Order>) -> Result<Response> {
///     Ok(req.render("orders.html", context! { form })?.status(form.status()))
/// }
/// ```
///
/// A template (feature `templates`) reads `form.values.email`, `form.errors.email` and `form.valid`. For fields that may repeat,
/// `form.lists.tags` is always a list, for any number of values:
///
/// ```html
/// <input name="email" value="{{ form.values.email }}">
/// {% if form.errors.email %}<p class="error">{{ form.errors.email }}</p>{% endif %}
/// <input type="checkbox" name="tags" value="red" {% if "red" in form.lists.tags %}checked{% endif %}>
/// ```
///
/// A name with brackets is looked up with them: `form.values["address[city]"]`, `form.errors["items[0][name]"]`. A
/// field that was not sent is blank in `values`, and a field without an error is blank in `errors`. An error of the
/// whole form is under `form`. Do not fill in a password again.
///
/// The log has the messages of a form that has errors when the handler calls [`valid`](Form::valid), [`is_valid`](Form::is_valid)
/// or [`status`](Form::status), at `info` for `aside::http`. In development it also has a warning for each error that the page does
/// not show, and for each misspelled field in a call of the handler.
#[derive(Debug, Clone)]
pub struct Form<T> {
    lists: BTreeMap<String, Vec<String>>,
    errors: BTreeMap<String, String>,
    /// The value, with stand-ins for the fields that could not be read.
    value: Option<T>,
    /// The names of the type's fields, if the form was sent and its type has named fields.
    names: &'static [&'static str],
}

/// The key of an error that belongs to no single field.
const WHOLE: &str = "form";

impl<T> Default for Form<T> {
    fn default() -> Form<T> {
        Form { lists: BTreeMap::new(), errors: BTreeMap::new(), value: None, names: &[] }
    }
}

impl<T> Form<T> {
    /// Returns a form without values and errors, for the first visit of the page.
    pub fn empty() -> Form<T> {
        Form::default()
    }

    /// Sets the text of a field, as a suggestion of the page.
    ///
    /// ```
    /// # #[derive(serde::Deserialize)] struct Order;
    /// let form: aside::Form<Order> = aside::Form::empty().with("quantity", 1);
    /// assert_eq!(form.typed_in("quantity"), "1");
    /// ```
    #[track_caller]
    pub fn with(mut self, field: &str, text: impl ToString) -> Form<T> {
        self.check_name(field);
        self.lists.entry(field.to_owned()).or_default().push(text.to_string());
        self
    }

    /// Returns the text that was entered in a field, the first of several; empty if there is none.
    pub fn typed_in(&self, field: &str) -> &str {
        self.lists.get(field).and_then(|texts| texts.first()).map_or("", String::as_str)
    }

    /// Returns the errors by field, at most one each: the first that was found, or the last that the handler set.
    pub fn errors(&self) -> &BTreeMap<String, String> {
        &self.errors
    }

    /// Sets the error of a field, such as one that only the database can find. `"form"` stands for the whole form.
    #[track_caller]
    pub fn error(&mut self, field: &str, message: impl Into<String>) -> &mut Form<T> {
        self.check_name(field);
        self.errors.insert(field.to_owned(), message.into());
        self
    }

    /// Adds an error for each of the fields that is blank or missing. White space alone is blank.
    #[track_caller]
    pub fn require(&mut self, fields: &[&str]) -> &mut Form<T> {
        for field in fields {
            self.check_name(field);
            let blank = self.lists.get(*field).is_none_or(|texts| texts.iter().all(|text| text.trim().is_empty()));
            if blank {
                self.first_error(field, "Please fill this in.");
            }
        }
        self
    }

    /// Checks a field with a rule, and sets the message as its error if the rule returns false. A field that has an
    /// error already is not checked.
    ///
    /// Other fields may have errors at the same time, so that the user sees all errors at once; fields that could not
    /// be read are 1, `false` or empty in the value that the rule gets. Use [`check_together`](Form::check_together)
    /// for a rule over several fields.
    #[track_caller]
    pub fn check(&mut self, field: &str, rule: impl FnOnce(&T) -> bool, message: impl Into<String>) -> &mut Form<T> {
        self.check_together(&[field], rule, message)
    }

    /// Checks several fields with one rule, if none of them has an error. The message becomes the error of the first.
    ///
    /// ```
    /// use aside::{Form, Request, Result};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Stay { from: u32, to: u32 }
    ///
    /// fn book(req: &mut Request) -> Result<()> {
    ///     let mut form: Form<Stay> = req.submitted()?;
    ///     form.check_together(&["to", "from"], |stay| stay.from < stay.to, "You leave before you arrive.");
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn check_together(
        &mut self,
        fields: &[&str],
        rule: impl FnOnce(&T) -> bool,
        message: impl Into<String>,
    ) -> &mut Form<T> {
        for field in fields {
            self.check_name(field);
        }
        let sound = !fields.iter().any(|field| self.errors.contains_key(*field));
        let broken = sound && self.value.as_ref().is_some_and(|value| !rule(value));
        if broken {
            self.first_error(fields.first().unwrap_or(&WHOLE), message);
        }
        self
    }

    /// Checks a field with a rule that can fail, such as a database query. Otherwise like [`check`](Form::check).
    ///
    /// ```
    /// use aside::{Form, Request, Result};
    /// # #[derive(serde::Deserialize)] struct SignUp { email: String }
    /// # fn is_free(email: &str) -> std::io::Result<bool> { Ok(true) }
    ///
    /// fn sign_up(req: &mut Request) -> Result<()> {
    ///     let mut form: Form<SignUp> = req.submitted()?;
    ///     form.require(&["email"]).try_check("email", |new| is_free(&new.email), "This address is taken.")?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The error of the rule.
    #[track_caller]
    pub fn try_check<E>(
        &mut self,
        field: &str,
        rule: impl FnOnce(&T) -> Result<bool, E>,
        message: impl Into<String>,
    ) -> Result<&mut Form<T>, E> {
        let mut failed = None;
        self.check(field, |value| rule(value).map_err(|error| failed = Some(error)).unwrap_or(true), message);
        failed.map_or(Ok(self), Err)
    }

    /// Warns in development if the code of the caller misspells a field's name.
    #[track_caller]
    fn check_name(&self, field: &str) {
        let root = field.split('[').next().unwrap_or_default();
        let is_known = [field, root].iter().any(|name| self.names.contains(name) || self.lists.contains_key(*name));
        if !is_known && field != WHOLE && !self.names.is_empty() {
            refused_form::warn_if_misspelled(root, self.names.iter().copied(), Location::caller());
        }
    }

    /// Notes the errors of a form that the handler refuses, for the log.
    fn note_refusal(&self) {
        if !self.errors.is_empty() {
            refused_form::note(&self.errors);
        }
    }

    fn first_error(&mut self, field: &str, message: impl Into<String>) {
        self.errors.entry(field.to_owned()).or_insert_with(|| message.into());
    }

    /// Returns the status of the page that shows the form: 422 if the form has errors, 200 otherwise.
    pub fn status(&self) -> Status {
        self.note_refusal();
        if self.errors.is_empty() { Status::OK } else { Status::UNPROCESSABLE_CONTENT }
    }

    /// Returns true if the form was sent and has no errors.
    pub fn is_valid(&self) -> bool {
        self.note_refusal();
        self.errors.is_empty() && self.value.is_some()
    }

    /// Returns the value if the form has no errors so far: for a database query whose result may be another
    /// [`error`](Form::error).
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.errors.is_empty())
    }

    /// Returns the value.
    ///
    /// # Errors
    /// The form itself, to be shown again, if it has errors.
    pub fn valid(mut self) -> Result<T, Form<T>> {
        self.note_refusal();
        match self.value.take() {
            Some(value) if self.errors.is_empty() => Ok(value),
            value => Err(Form { value, ..self }),
        }
    }
}

impl<T: DeserializeOwned> Form<T> {
    fn typed(sent: Vec<(String, Sent)>) -> Form<T> {
        let Reading { value, refusals, names } = deserializer::read(&sent);
        let mut form = Form { value, names, ..Form::default() };
        for refusal in refusals {
            form.first_error(refusal.field.as_deref().unwrap_or(WHOLE), refusal.friendly());
        }
        for (name, content) in sent {
            let text = match content {
                Sent::Text(text) => text,
                Sent::File(upload) => upload.filename().to_owned(),
            };
            form.lists.entry(name).or_default().push(text);
        }
        form
    }
}

impl<T: Serialize> Form<T> {
    /// Returns a form filled with an existing value, for a page that edits it.
    ///
    /// # Errors
    /// 500 if the value is not a struct or a map, or cannot be serialized as JSON.
    #[track_caller]
    pub fn filled(value: &T) -> Result<Form<T>> {
        // Through text: it holds a number in its shortest form, whereas a `Value` made directly holds an `f64`.
        let json: Value = serde_json::from_str(&serde_json::to_string(value)?)?;
        let fields =
            json.as_object().ok_or_else(|| Error::internal("Form::filled takes a struct or a map")).or_here()?;
        let mut form = Form::default();
        fields.iter().for_each(|(name, value)| fill(&mut form.lists, name, value));
        Ok(form)
    }
}

/// Writes a value as the fields from which it can be read.
fn fill(lists: &mut BTreeMap<String, Vec<String>>, name: &str, value: &Value) {
    let is_group = |value: &Value| value.is_object() || value.is_array();
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(key, value)| fill(lists, &format!("{name}[{key}]"), value)),
        Value::Array(values) => values.iter().enumerate().for_each(|(index, value)| match is_group(value) {
            true => fill(lists, &format!("{name}[{index}]"), value),
            false => fill(lists, name, value),
        }),
        Value::String(text) => lists.entry(name.to_owned()).or_default().push(text.clone()),
        plain => lists.entry(name.to_owned()).or_default().push(plain.to_string()),
    }
}

#[cfg(test)]
mod tests;
