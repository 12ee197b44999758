//! Forms, queries and JSON: what a visitor sent, as a type.
//!
//! [`Request::form`] is for handlers that answer a wrong form with an error page; [`Request::submitted`] and [`Form`] are
//! for pages that show what was typed beside what was wrong with it.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object};
use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::Value;

use super::fields::{self, Reading};
use super::multipart::{Multipart, Part};
use super::names::Sent;
use super::once;
use super::request::Request;
use crate::error::{Error, Result, Status};

const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";

/// Fields by name and value, in the order in which they were sent.
type Pairs = Vec<(String, String)>;

impl Request {
    /// The form in the body, urlencoded or multipart, as a type.
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
    /// The type is a struct or a map. Repeated fields fill a `Vec`, blank ones among them; none sent is an empty one. A
    /// checkbox is a `bool`: `on` when it is ticked, not sent when it is not. A blank field is `None` for an optional type
    /// that cannot be blank (`Option<u64>`, a date), and `Some("")` for `Option<String>`. Spaces around numbers are
    /// dropped. Fields that the type does not have are ignored, unless it says `#[serde(deny_unknown_fields)]`. Behind
    /// `#[serde(flatten)]` serde hands out texts only, so put no numbers there; a type that has it takes no files.
    ///
    /// **Names with brackets** fill structs, lists and maps within: `address[city]`, `items[0][name]`, `items[][name]`,
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
    /// The numbers of a list say what belongs together and in which order; they may have gaps, and may be words
    /// (`items[new][sku]`), which come last. With `items[]` the next item begins where a name comes again, so number the
    /// items where one of their fields may be missing: a checkbox, a choice of several. A group in which everything was
    /// left blank is `None` for an optional type that cannot be blank (`Vec<Option<Item>>` for rows that may stay empty).
    /// Errors name a field as it was typed: `address[city]`. A field of the type that has brackets itself
    /// (`#[serde(rename = "tags[]")]`) is taken by its name, and a map of texts takes every name as it is. So are names
    /// whose brackets do not match or that have more than 8 pairs of them. Dots mean nothing.
    ///
    /// # Errors
    /// 415 for another content type; 413 over `ASIDE_MAX_FORM` (1 MiB) or `ASIDE_MAX_FIELDS` (1,000), and for a multipart
    /// form as [`multipart`](Request::multipart); 400 when it was cut short; 422, naming the field, when one is missing or
    /// cannot be read.
    #[track_caller]
    pub fn form<T: DeserializeOwned>(&mut self) -> Result<T> {
        let caller = Location::caller();
        let read = self.sent::<T>().and_then(|sent| first_refusal(&sent, "field", Status::UNPROCESSABLE_CONTENT));
        read.map_err(|error| error.or_at(caller))
    }

    /// The form in the body with all that is wrong with it, for a page that shows both; see [`Form`].
    ///
    /// The type may have files too: an [`Upload`](crate::Upload), an `Option` of it, or a `Vec` for
    /// `<input type="file" multiple>`. A field in which no file was chosen is missing. The form needs
    /// `enctype="multipart/form-data"`.
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
    /// No page can fill a file in again: when a form is refused what was typed is kept, and the visitor chooses the file a
    /// second time. `form.values.photo` is its name, to be shown.
    ///
    /// # Errors
    /// As [`form`](Request::form) but for 422: a field that is missing or cannot be read is in [`Form::errors`].
    #[track_caller]
    pub fn submitted<T: DeserializeOwned>(&mut self) -> Result<Form<T>> {
        let caller = Location::caller();
        self.sent::<T>().map(Form::typed).map_err(|error| error.or_at(caller))
    }

    fn sent<T: DeserializeOwned>(&mut self) -> Result<Vec<(String, Sent)>> {
        match self.content_type().as_deref() {
            Some(MULTIPART) => sent(&self.multipart_with(&mut fields::takes_file::<T>)?),
            _ => Ok(texts(self.form_pairs()?)),
        }
    }

    /// The fields of the form in the body by name and value, in order.
    ///
    /// # Errors
    /// As [`form`](Request::form) but for 422.
    #[track_caller]
    pub fn form_pairs(&mut self) -> Result<Vec<(String, String)>> {
        let caller = Location::caller();
        let pairs = match self.content_type().as_deref() {
            Some(URLENCODED) => self.urlencoded_pairs(),
            Some(MULTIPART) => self.multipart_with(&mut |_| false).and_then(|body| body.pairs()),
            other => Err(unsupported(&format!("{URLENCODED} or {MULTIPART}"), other)),
        };
        pairs.map_err(|error| error.or_at(caller))
    }

    fn urlencoded_pairs(&mut self) -> Result<Pairs> {
        let pairs = pairs(&self.bytes()?, self.config().max_fields, "form")?;
        once::note(self, pairs.iter().map(|(name, text)| (&name[..], &text[..])));
        Ok(pairs)
    }

    /// The query as a type, by the same rules as [`form`](Request::form).
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
    /// 400, naming the parameter, when one is missing or cannot be read; 413 over `ASIDE_MAX_FIELDS` (1,000).
    #[track_caller]
    pub fn query<T: DeserializeOwned>(&self) -> Result<T> {
        let caller = Location::caller();
        let pairs = self.query_pairs();
        let read = pairs.and_then(|pairs| first_refusal(&texts(pairs), "parameter", Status::BAD_REQUEST));
        read.map_err(|error| error.or_at(caller))
    }

    /// The parameters of the query by name and value, in order.
    ///
    /// # Errors
    /// 413 over `ASIDE_MAX_FIELDS` (1,000).
    #[track_caller]
    pub fn query_pairs(&self) -> Result<Vec<(String, String)>> {
        let caller = Location::caller();
        let pairs = pairs(self.query_string().as_bytes(), self.config().max_fields, "query");
        pairs.map_err(|error| error.or_at(caller))
    }

    /// The body, which is JSON, as a type.
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
    /// 415 when the content type is neither `application/json` nor one that ends in `+json`; 413 over `ASIDE_MAX_FORM`;
    /// 400 with line and column when it is no JSON; 422 with the path (`items[1].quantity`) when it is JSON of another
    /// shape.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let caller = Location::caller();
        self.read_json().map_err(|error| error.or_at(caller))
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

impl Multipart {
    /// The fields as a type, files among them, by the same rules as [`Request::form`] and [`Request::submitted`].
    ///
    /// # Errors
    /// 422, naming the field, when one is missing or cannot be read; 413 over `ASIDE_MAX_FIELDS`.
    #[track_caller]
    pub fn form<T: DeserializeOwned>(&self) -> Result<T> {
        let caller = Location::caller();
        let read = sent(self).and_then(|sent| first_refusal(&sent, "field", Status::UNPROCESSABLE_CONTENT));
        read.map_err(|error| error.or_at(caller))
    }

    /// The fields with all that is wrong with them, for a page that shows both; see [`Form`].
    ///
    /// # Errors
    /// As [`form`](Multipart::form) but for 422.
    #[track_caller]
    pub fn submitted<T: DeserializeOwned>(&self) -> Result<Form<T>> {
        let caller = Location::caller();
        sent(self).map(Form::typed).map_err(|error| error.or_at(caller))
    }
}

/// Texts for a type; what [`once`] needs is none of its fields.
fn texts(pairs: Pairs) -> Vec<(String, Sent)> {
    let ours = |(name, _): &(String, String)| name == once::FIELD;
    pairs.into_iter().filter(|pair| !ours(pair)).map(|(name, text)| (name, Sent::Text(text))).collect()
}

/// The same of a multipart body, with its files in their places.
fn sent(body: &Multipart) -> Result<Vec<(String, Sent)>> {
    body.check_count()?;
    let text = |part: &Part| part.text().map(|text| Sent::Text(text.to_owned()));
    let content = |part: &Part| text(part).or_else(|| part.upload().cloned().map(Sent::File));
    let parts = body.parts().iter().filter(|part| part.name() != once::FIELD);
    Ok(parts.filter_map(|part| Some((part.name().to_owned(), content(part)?))).collect())
}

/// Deserializes the fields, or returns the first fault with that status.
fn first_refusal<T: DeserializeOwned>(sent: &[(String, Sent)], noun: &str, status: Status) -> Result<T> {
    let reading = fields::read(sent);
    match (reading.refusals.first(), reading.value) {
        (Some(refusal), _) => Err(Error::new(status, refusal.technical(noun))),
        (None, Some(value)) => Ok(value),
        (None, None) => Err(Error::new(status, "The form cannot be read.")),
    }
}

fn unsupported(expected: &str, came: Option<&str>) -> Error {
    let came = came.filter(|name| !name.is_empty()).unwrap_or("none");
    let words = format!("The body must be {expected}; its Content-Type is {came}.");
    Error::new(Status::UNSUPPORTED_MEDIA_TYPE, words)
}

fn refused_json(error: serde_path_to_error::Error<serde_json::Error>) -> Error {
    if !error.inner().is_data() {
        return malformed_json(error.into_inner());
    }
    let path = error.path().to_string();
    let words = error.into_inner().to_string();
    Error::unprocessable(match path.as_str() {
        "." => format!("The JSON does not fit: {words}"),
        path => format!("The field `{path}`: {words}"),
    })
}

fn malformed_json(error: serde_json::Error) -> Error {
    Error::bad_request(format!("The body is no JSON: {error}."))
}

/// The urlencoded parser of the WHATWG URL standard (section 5.1), byte for byte. Nothing is malformed there: an escape that
/// is none stays as it is, and what is no UTF-8 becomes U+FFFD.
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

/// "UTF-8 decode without BOM" is without looking for one: a byte order mark stays.
fn decode(bytes: &[u8]) -> String {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

fn check_count(count: usize, limit: usize, noun: &str) -> Result<()> {
    let words = || format!("The {noun} has more than {limit} fields (ASIDE_MAX_FIELDS).");
    if count > limit { Err(Error::too_large(words())) } else { Ok(()) }
}

/// A form as it was typed, and what is wrong with it.
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
///         .check("email", |order| order.email.contains('@'), "That is no mail address.")
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
/// A template reads `form.values.email`, `form.errors.email` and `form.valid`, and for fields that may be repeated
/// `form.lists.tags`, which is a list however many were sent:
///
/// ```html
/// <input name="email" value="{{ form.values.email }}">
/// {% if form.errors.email %}<p class="error">{{ form.errors.email }}</p>{% endif %}
/// <input type="checkbox" name="tags" value="red" {% if "red" in form.lists.tags %}checked{% endif %}>
/// ```
///
/// A name with brackets is looked up with them: `form.values["address[city]"]`, `form.errors["items[0][name]"]`. A field
/// that was not sent is blank in `values`, and a field without an error is blank in `errors`. An error of the form as a whole
/// is under `form`. Do not fill in a password again.
#[derive(Debug, Clone)]
pub struct Form<T> {
    lists: BTreeMap<String, Vec<String>>,
    errors: BTreeMap<String, String>,
    /// With stand-ins for the fields that could not be read.
    value: Option<T>,
}

/// The name under which an error goes that is about no single field.
const WHOLE: &str = "form";

impl<T> Default for Form<T> {
    fn default() -> Form<T> {
        Form { lists: BTreeMap::new(), errors: BTreeMap::new(), value: None }
    }
}

impl<T> Form<T> {
    /// A form in which nothing has been typed, for the page that is visited first. It has no errors, and no value.
    pub fn empty() -> Form<T> {
        Form::default()
    }

    /// The same form with that text in a field: what a page suggests.
    ///
    /// ```
    /// # #[derive(serde::Deserialize)] struct Order;
    /// let form: aside::Form<Order> = aside::Form::empty().with("quantity", 1);
    /// assert_eq!(form.typed_in("quantity"), "1");
    /// ```
    pub fn with(mut self, field: &str, text: impl ToString) -> Form<T> {
        self.lists.entry(field.to_owned()).or_default().push(text.to_string());
        self
    }

    /// What was typed into a field, the first of several; empty when nothing was.
    pub fn typed_in(&self, field: &str) -> &str {
        self.lists.get(field).and_then(|texts| texts.first()).map_or("", String::as_str)
    }

    /// The errors by field. At most one each: the first that was found, or the last that was set by hand.
    pub fn errors(&self) -> &BTreeMap<String, String> {
        &self.errors
    }

    /// Sets a field's error: what only the database could know, for one. `"form"` stands for the form as a whole.
    pub fn error(&mut self, field: &str, words: impl Into<String>) -> &mut Form<T> {
        self.errors.insert(field.to_owned(), words.into());
        self
    }

    /// Those fields must not be left blank; spaces alone are blank.
    pub fn require(&mut self, fields: &[&str]) -> &mut Form<T> {
        for field in fields {
            let blank = self.lists.get(*field).is_none_or(|texts| texts.iter().all(|text| text.trim().is_empty()));
            if blank {
                self.first_error(field, "Please fill this in.");
            }
        }
        self
    }

    /// A rule for a field, and the words for when it is broken. A field that has an error already is not looked at.
    ///
    /// The other fields may be wrong at the same time, so that a visitor hears of everything at once; those that could
    /// not be read are 1, `false` or empty for the rule. A rule over several fields is for
    /// [`check_together`](Form::check_together).
    pub fn check(&mut self, field: &str, rule: impl FnOnce(&T) -> bool, words: impl Into<String>) -> &mut Form<T> {
        self.check_together(&[field], rule, words)
    }

    /// A rule over several fields, looked at when none of them has an error. The words go to the first.
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
    pub fn check_together(
        &mut self,
        fields: &[&str],
        rule: impl FnOnce(&T) -> bool,
        words: impl Into<String>,
    ) -> &mut Form<T> {
        let sound = !fields.iter().any(|field| self.errors.contains_key(*field));
        let broken = sound && self.value.as_ref().is_some_and(|value| !rule(value));
        if broken {
            self.first_error(fields.first().unwrap_or(&WHOLE), words);
        }
        self
    }

    /// A rule for a field that may fail to give an answer: a question to the database. Otherwise as [`check`](Form::check).
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
    /// The rule's own.
    pub fn try_check<E>(
        &mut self,
        field: &str,
        rule: impl FnOnce(&T) -> Result<bool, E>,
        words: impl Into<String>,
    ) -> Result<&mut Form<T>, E> {
        let mut failed = None;
        self.check(field, |value| rule(value).map_err(|error| failed = Some(error)).unwrap_or(true), words);
        failed.map_or(Ok(self), Err)
    }

    fn first_error(&mut self, field: &str, words: impl Into<String>) {
        self.errors.entry(field.to_owned()).or_insert_with(|| words.into());
    }

    /// The status of the page that shows it: 422 when something is wrong with it, 200 otherwise.
    pub fn status(&self) -> Status {
        if self.errors.is_empty() { Status::OK } else { Status::UNPROCESSABLE_CONTENT }
    }

    /// Whether it was sent and nothing is wrong with it.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty() && self.value.is_some()
    }

    /// The value, while nothing is wrong with it: for a question to the database whose answer may be another
    /// [`error`](Form::error).
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.errors.is_empty())
    }

    /// The value.
    ///
    /// # Errors
    /// The form itself, to be shown again, when something is wrong with it.
    pub fn valid(mut self) -> Result<T, Form<T>> {
        match self.value.take() {
            Some(value) if self.errors.is_empty() => Ok(value),
            value => Err(Form { value, ..self }),
        }
    }
}

impl<T: DeserializeOwned> Form<T> {
    fn typed(sent: Vec<(String, Sent)>) -> Form<T> {
        let Reading { value, refusals } = fields::read(&sent);
        let mut form = Form { value, ..Form::default() };
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
    /// A form in which a value stands already, for a page that changes it.
    ///
    /// # Errors
    /// 500 when the value is no struct or map, or cannot be written as JSON.
    pub fn filled(value: &T) -> Result<Form<T>> {
        // By way of the text: a number stands there as short as it can be, and in a value of its own as an `f64`.
        let json: Value = serde_json::from_str(&serde_json::to_string(value)?)?;
        let fields = json.as_object().ok_or_else(|| Error::internal("Form::filled takes a struct or a map"))?;
        let mut form = Form::default();
        fields.iter().for_each(|(name, value)| fill(&mut form.lists, name, value));
        Ok(form)
    }
}

/// Writes a value as the fields that it would be read from.
fn fill(lists: &mut BTreeMap<String, Vec<String>>, name: &str, value: &Value) {
    let is_group = |value: &Value| value.is_object() || value.is_array();
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(key, value)| fill(lists, &format!("{name}[{key}]"), value)),
        Value::Array(values) => values.iter().enumerate().for_each(|(place, value)| match is_group(value) {
            true => fill(lists, &format!("{name}[{place}]"), value),
            false => fill(lists, name, value),
        }),
        Value::String(text) => lists.entry(name.to_owned()).or_default().push(text.clone()),
        plain => lists.entry(name.to_owned()).or_default().push(plain.to_string()),
    }
}

/// `values`, `lists`, `errors` and `valid`, as a template reads them.
impl<T> Serialize for Form<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.lists.keys().map(|name| (name.clone(), self.typed_in(name).into())).collect();
        let lists = self.lists.iter().map(|(name, texts)| (name.clone(), texts.clone().into())).collect();
        let errors = self.errors.iter().map(|(name, words)| (name.clone(), words.into())).collect();
        let mut form = serializer.serialize_struct("Form", 4)?;
        form.serialize_field("values", &Typed::value(values, "".into()))?;
        form.serialize_field("lists", &Typed::value(lists, Vec::<String>::new().into()))?;
        form.serialize_field("errors", &Typed::value(errors, "".into()))?;
        form.serialize_field("valid", &self.is_valid())?;
        form.end()
    }
}

/// The entered values or the errors, by name. A missing name renders as blank and is not an error: on the first visit all
/// are missing.
#[derive(Debug)]
struct Typed {
    fields: BTreeMap<String, minijinja::Value>,
    blank: minijinja::Value,
}

impl Typed {
    fn value(fields: BTreeMap<String, minijinja::Value>, blank: minijinja::Value) -> minijinja::Value {
        minijinja::Value::from_object(Typed { fields, blank })
    }
}

impl Object for Typed {
    fn get_value(self: &Arc<Self>, name: &minijinja::Value) -> Option<minijinja::Value> {
        Some(self.fields.get(name.as_str()?).unwrap_or(&self.blank).clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.fields.keys().map(minijinja::Value::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::headers::Headers;
    use super::super::request::{Body, Method};
    use super::*;

    fn post(content_type: &str, body: &[u8]) -> Request {
        let headers = match content_type {
            "" => Headers::new(),
            name => Headers::from_iter([("Content-Type", name)]),
        };
        Request::new(Method::Post, "/", headers, Body::from(body.to_vec()))
    }

    fn typed(body: &str) -> Request {
        post(URLENCODED, body.as_bytes())
    }

    fn get(target: &str) -> Request {
        Request::new(Method::Get, target, Headers::new(), Body::empty())
    }

    fn refused<T>(result: Result<T>) -> (u16, String) {
        let error = result.err().expect("this must be refused");
        (error.status().code(), error.message().unwrap_or_default().to_owned())
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    struct Order {
        email: String,
        quantity: u32,
    }

    #[test]
    fn a_form_is_read() {
        let order: Order = typed("email=a%40b.c+%D1%8F&quantity=5&more=1").form().unwrap();
        assert_eq!(order, Order { email: "a@b.c я".into(), quantity: 5 });
        let multipart = b"--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nme\r\n--x\r\n\
            Content-Disposition: form-data; name=\"quantity\"\r\n\r\n7\r\n--x--\r\n";
        let order: Order = post("multipart/form-data; boundary=x", multipart).form().unwrap();
        assert_eq!(order, Order { email: "me".into(), quantity: 7 });
    }

    #[test]
    fn what_is_no_form_is_named() {
        let words = "The body must be application/x-www-form-urlencoded or multipart/form-data; its Content-Type is";
        assert_eq!(refused(post("text/plain", b"a=1").form::<Order>()), (415, format!("{words} text/plain.")));
        assert_eq!(refused(post("", b"a=1").form::<Order>()), (415, format!("{words} none.")));
        assert!(post("Application/X-WWW-Form-Urlencoded; charset=utf-8", b"a=1").form_pairs().is_ok());
    }

    #[test]
    fn limits_name_their_settings() {
        let (status, words) = refused(typed(&"&a=1".repeat(1_001)).form::<Order>());
        assert!(status == 413 && words.contains("ASIDE_MAX_FIELDS"), "{words}");
        assert_eq!(typed(&"&a=1".repeat(1_000)).form_pairs().unwrap().len(), 1_000);
        let (status, words) = refused(typed(&"a".repeat((1 << 20) + 1)).form::<Order>());
        assert!(status == 413 && words.contains("ASIDE_MAX_FORM"), "{words}");
    }

    /// The vectors follow the steps of the WHATWG URL standard, section 5.1, and of UTF-8 decode in its Encoding standard.
    #[test]
    fn urlencoded_is_parsed_as_the_standard_says() {
        for (body, expected) in [
            (&b""[..], &[][..]),
            (b"&", &[]),
            (b"&&", &[]),
            (b"a", &[("a", "")]),
            (b"a=", &[("a", "")]),
            (b"=a", &[("", "a")]),
            (b"=", &[("", "")]),
            (b"==", &[("", "=")]),
            (b"a=b=c", &[("a", "b=c")]),
            (b"a&&b&", &[("a", ""), ("b", "")]),
            (b"a=1;b=2", &[("a", "1;b=2")]),
            (b"a=1&amp;b=2", &[("a", "1"), ("amp;b", "2")]),
            (b"b=1&a=2&b=3", &[("b", "1"), ("a", "2"), ("b", "3")]),
            (b"+", &[(" ", "")]),
            (b"a+b=+c++", &[("a b", " c  ")]),
            (b"%2B=%2b", &[("+", "+")]),
            (b"%20=%26%3D", &[(" ", "&=")]),
            (b"%", &[("%", "")]),
            (b"%%=%2", &[("%%", "%2")]),
            (b"%zz=%4g", &[("%zz", "%4g")]),
            (b"%+1=%%41", &[("% 1", "%A")]),
            (b"%2541", &[("%41", "")]),
            (b"a=%00b", &[("a", "\0b")]),
            (b"a=\0\r\n\t", &[("a", "\0\r\n\t")]),
            (b"a=%0D%0A", &[("a", "\r\n")]),
            (b"a b=c d", &[("a b", "c d")]),
            (b"\xC3\xA9=%C3%A9\xC3%A9", &[("é", "éé")]),
            (b"%F0%9F%92%A9", &[("\u{1F4A9}", "")]),
            (b"%EF%BB%BFa=\xEF\xBB\xBFb", &[("\u{FEFF}a", "\u{FEFF}b")]),
            (b"%FE%FF", &[("\u{FFFD}\u{FFFD}", "")]),
            (b"%FF%FE", &[("\u{FFFD}\u{FFFD}", "")]),
            (b"a=%C3", &[("a", "\u{FFFD}")]),
            (b"a=\xC3&b=\xA9", &[("a", "\u{FFFD}"), ("b", "\u{FFFD}")]),
            (b"a=%C3=%A9", &[("a", "\u{FFFD}=\u{FFFD}")]),
            (b"%C2x", &[("\u{FFFD}x", "")]),
            (b"%ED%A0%80", &[("\u{FFFD}\u{FFFD}\u{FFFD}", "")]),
            (b"%ED%A0%BD%ED%B2%A9", &[("\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}", "")]),
            (b"%C0%80", &[("\u{FFFD}\u{FFFD}", "")]),
            (b"%F4%90%80%80", &[("\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}", "")]),
            (b"%E2%82=%F0%9F%92", &[("\u{FFFD}", "\u{FFFD}")]),
            (b"%EF%BF%BE%EF%BF%BF", &[("\u{FFFE}\u{FFFF}", "")]),
            (b"_charset_=windows-1252&x=%E9", &[("_charset_", "windows-1252"), ("x", "\u{FFFD}")]),
        ] {
            let read = post(URLENCODED, body).form_pairs().unwrap();
            let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_query_is_parsed_as_a_form_is() {
        let read = get("/?%FF=%C3&%ED%A0%80&&a;b").query_pairs().unwrap();
        let pairs = [("\u{FFFD}", "\u{FFFD}"), ("\u{FFFD}\u{FFFD}\u{FFFD}", ""), ("a;b", "")];
        assert_eq!(read, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_as_another_implementation_does(body in "[a&=+%0-9A-Fé;\\[\\]]{0,40}", noise: Vec<u8>) {
            for bytes in [body.as_bytes(), &noise, &[&noise, body.as_bytes()].concat()] {
                let theirs: Vec<(String, String)> = serde_urlencoded::from_bytes(bytes).unwrap();
                proptest::prop_assert_eq!(pairs(bytes, usize::MAX, "form").unwrap(), theirs);
            }
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(refused(typed("quantity=1").form::<Order>()), (422, "The field `email` is missing.".into()));
        assert_eq!(
            refused(typed("email=a&quantity=x").form::<Order>()),
            (422, "The field `quantity`: invalid digit found in string".into())
        );
        assert_eq!(
            refused(get("/?email=a&quantity=x").query::<Order>()),
            (400, "The parameter `quantity`: invalid digit found in string".into())
        );
    }

    #[test]
    fn pairs_come_in_order_and_as_browsers_write_them() {
        let pairs = get("/?b=1&a=&&c&b=2=3&%zz=%4&=x&a+b=%2B").query_pairs().unwrap();
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        assert_eq!(pairs, ["b:1", "a:", "c:", "b:2=3", "%zz:%4", ":x", "a b:+"]);
        assert!(get("/").query_pairs().unwrap().is_empty());
        assert!(typed("").form_pairs().unwrap().is_empty());
    }

    #[test]
    fn json_is_read_or_refused_with_its_place() {
        let json = |content_type: &str, body: &str| post(content_type, body.as_bytes()).json::<Vec<Order>>();
        let good = r#"[{"email":"a","quantity":1}]"#;
        assert_eq!(json("application/json; charset=utf-8", good).unwrap()[0].quantity, 1);
        assert!(json("application/vnd.orders+json", good).is_ok());
        assert_eq!(refused(json("text/plain", good)).0, 415);
        let (status, words) = refused(json("application/json", "[\n{\"email\" 1}]"));
        assert!(status == 400 && words.contains("line 2 column"), "{words}");
        for malformed in ["", "[", "[] x", "nope"] {
            assert_eq!(refused(json("application/json", malformed)).0, 400, "{malformed}");
        }
        let (status, words) = refused(json("application/json", r#"[{"email":"a","quantity":"x"}]"#));
        assert!(status == 422 && words.starts_with("The field `[0].quantity`: invalid type"), "{words}");
        let (status, words) = refused(json("application/json", r#"[{"quantity":1}]"#));
        assert!(status == 422 && words.contains("missing field `email`"), "{words}");
        assert_eq!(refused(json("application/json", "7")).0, 422);
        assert_eq!(refused(json("application/json", &"[".repeat(2 << 20))).0, 413);
    }

    #[test]
    fn a_valid_form_gives_its_value() {
        let mut form: Form<Order> = typed("email=a%40b&quantity=5").submitted().unwrap();
        form.require(&["email"]).check("email", |order| order.email.contains('@'), "No mail address.");
        assert!(form.is_valid() && form.value().is_some());
        assert_eq!(form.valid().unwrap().quantity, 5);
    }

    #[test]
    fn an_invalid_form_shows_everything_that_is_wrong_and_what_was_typed() {
        let mut form: Form<Order> = typed("email=nobody&quantity=many").submitted().unwrap();
        form.check("quantity", |_| panic!("a field that could not be read is not checked"), "")
            .check("email", |order| order.email.contains('@'), "No mail address.")
            .check_together(&["email", "quantity"], |_| panic!("neither is a rule over it"), "");
        let form = form.valid().unwrap_err();
        let shown = serde_json::to_value(&form).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({
                "values": { "email": "nobody", "quantity": "many" },
                "lists": { "email": ["nobody"], "quantity": ["many"] },
                "errors": { "email": "No mail address.", "quantity": "Please enter a whole number." },
                "valid": false,
            })
        );
    }

    #[test]
    fn blank_fields_are_asked_for() {
        let mut form: Form<Order> = typed("email=+&quantity=").submitted().unwrap();
        form.require(&["email", "quantity"]).check("email", |_| false, "not this one");
        assert_eq!(form.errors()["email"], "Please fill this in.");
        assert_eq!(form.errors()["quantity"], "Please fill this in.");
    }

    #[test]
    fn an_error_is_added_by_hand() {
        let mut form: Form<Order> = typed("email=a&quantity=1").submitted().unwrap();
        if form.value().is_some_and(|order| order.email == "a") {
            form.error("email", "Already taken.").error("form", "Try another.");
        }
        let form = form.valid().unwrap_err();
        assert!(form.value().is_none());
        assert_eq!(form.errors().len(), 2);
    }

    #[test]
    fn an_empty_form_has_no_errors_and_a_filled_one_its_values() {
        let form = Form::<Order>::empty().with("quantity", 1);
        assert!(form.errors().is_empty() && !form.is_valid());
        assert_eq!((form.typed_in("quantity"), form.typed_in("email")), ("1", ""));
        let form = Form::filled(&Order { email: "a&b=c d".into(), quantity: 2 }).unwrap();
        assert_eq!((form.typed_in("email"), form.typed_in("quantity")), ("a&b=c d", "2"));
        assert_eq!(Form::filled(&vec![vec![1]]).unwrap_err().status(), Status::INTERNAL_SERVER_ERROR);
        let nested = serde_json::json!({ "a": { "b": 0.1, "no": null }, "l": [1, true], "i": [{ "x": "y" }, {}, [2]] });
        let form = Form::filled(&nested).unwrap();
        let names = ["a[b]", "i[0][x]", "i[2]", "l"];
        assert!(form.lists.keys().eq(names), "{form:?}");
        assert_eq!((form.typed_in("a[b]"), &form.lists["l"]), ("0.1", &vec!["1".to_owned(), "true".to_owned()]));
    }

    #[test]
    fn a_form_that_is_no_form_is_an_error_all_the_same() {
        assert_eq!(refused(post("text/plain", b"").submitted::<Order>()).0, 415);
    }
}
