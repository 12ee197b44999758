//! The template function `live`: `{{ live("photo", id=17) }}`.
//!
//! It calls a function of the application with the request. Functions of a template may not borrow, so the request itself is
//! lent to this one while the page is rendered, and taken back afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use minijinja::value::Kwargs;
use minijinja::{Error as TemplateError, ErrorKind, Value};

use super::private;
use crate::error::{Error, Result};
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request};
use crate::sync::lock;

/// The arguments of a call, by name.
pub(crate) type Arguments = Vec<(String, String)>;

/// Renders a live fragment for the page of a request.
pub(crate) type Show = Box<dyn Fn(&mut Request, Arguments) -> Result<String> + Send + Sync>;

/// The live fragments of an application, by name.
#[derive(Default)]
pub(crate) struct LiveFragments(BTreeMap<String, Show>);

impl FromIterator<(String, Show)> for LiveFragments {
    fn from_iter<I: IntoIterator<Item = (String, Show)>>(fragments: I) -> LiveFragments {
        LiveFragments(fragments.into_iter().collect())
    }
}

impl LiveFragments {
    fn find(&self, name: &str) -> Result<&Show> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<String> = self.0.keys().map(|name| format!("`{name}`")).collect();
            let known =
                if known.is_empty() { "none is defined".into() } else { format!("there are {}", known.join(", ")) };
            Error::internal(format!(
                "live(`{name}`): no live fragment has this name, {known}; define it with `App::live`"
            ))
        })
    }
}

/// Where the function looks for the request: there while a page is rendered.
#[derive(Default)]
struct Shared {
    request: Mutex<Option<Request>>,
    /// The error of a fragment, which is the page's: the template's error has neither its status nor its message.
    failure: Mutex<Option<Error>>,
}

/// Takes the request back when the page is rendered, or when that panicked.
struct Lent<'r> {
    owner: &'r mut Request,
    shared: Arc<Shared>,
}

impl<'r> Lent<'r> {
    fn new(owner: &'r mut Request) -> Lent<'r> {
        let stand_in = Request::new(Method::Get, "", Headers::new(), Body::empty());
        let request = Mutex::new(Some(std::mem::replace(owner, stand_in)));
        Lent { owner, shared: Arc::new(Shared { request, ..Shared::default() }) }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(request) = lock(&self.shared.request).take() {
            *self.owner = request;
        }
    }
}

/// Renders a page whose templates have the function.
///
/// # Errors
/// The error of a fragment, or of `render`.
pub(super) fn with_function(req: &mut Request, render: impl FnOnce(Value) -> Result<String>) -> Result<String> {
    let fragments: Arc<LiveFragments> = req.scope().get().unwrap_or_default();
    if fragments.0.is_empty() {
        return render(function(fragments, Arc::default()));
    }
    let lent = Lent::new(req);
    let rendered = render(function(fragments, lent.shared.clone()));
    let failure = lock(&lent.shared.failure).take();
    match (rendered, failure) {
        (Err(_), Some(failure)) => Err(failure),
        (rendered, _) => rendered,
    }
}

fn function(fragments: Arc<LiveFragments>, shared: Arc<Shared>) -> Value {
    let live = move |name: &str, arguments: Kwargs| {
        let call = || {
            let show = fragments.find(name)?;
            match &mut *lock(&shared.request) {
                Some(request) => show(request, read(name, &arguments)?),
                None => Err(Error::internal(NO_REQUEST)),
            }
        };
        let html = call().map_err(|error| {
            let told = refuse(error.chain());
            let error = if error.status().is_server_error() { error.context(format!("live(`{name}`)")) } else { error };
            lock(&shared.failure).get_or_insert(error);
            told
        })?;
        Ok::<_, TemplateError>(Value::from_safe_string(html))
    };
    private::context([("live", Value::from_function(live))])
}

/// Why there is no fragment in a mail.
const NO_REQUEST: &str = "`live` needs a request: it is there for pages that `req.render` renders, with what they extend and \
                          include, and not for mail, for imported macros or for the template of a live fragment";

/// The function of all other templates.
pub(super) fn without_request() -> Value {
    Value::from_function(|_name: &str, _arguments: Kwargs| Err::<Value, _>(refuse(NO_REQUEST)))
}

fn refuse(message: impl Into<std::borrow::Cow<'static, str>>) -> TemplateError {
    TemplateError::new(ErrorKind::InvalidOperation, message)
}

/// The arguments as text. One that is `none` is left out.
fn read(name: &str, arguments: &Kwargs) -> Result<Arguments> {
    let mut pairs = Vec::new();
    for key in arguments.args() {
        let value: Value = arguments.peek(key)?;
        if value.is_undefined() {
            return Err(Error::internal(format!("live(`{name}`): the value of the argument `{key}` is undefined")));
        }
        if !value.is_none() {
            pairs.push((key.to_owned(), value.to_string()));
        }
    }
    Ok(pairs)
}
