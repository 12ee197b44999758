//! The template function `live`: `{{ live("photo", id=17) }}`.
//!
//! It calls a function of the application with the request. Functions of a template may not borrow, so the request is
//! moved into this one while the page is rendered, and moved back afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Kwargs, Object};
use minijinja::{Error as TemplateError, ErrorKind, Value};

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

/// The state that the function shares with the renderer. It holds the request while a page is rendered.
#[derive(Default)]
struct Shared {
    request: Mutex<Option<Request>>,
    /// The error of a fragment, which is the page's: the template's error has neither its status nor its message.
    failure: Mutex<Option<Error>>,
}

/// Moves the request back once the page is rendered, even after a panic.
struct MovedRequest<'r> {
    owner: &'r mut Request,
    shared: Arc<Shared>,
}

impl<'r> MovedRequest<'r> {
    fn new(owner: &'r mut Request) -> MovedRequest<'r> {
        let stand_in = Request::new(Method::Get, "", Headers::new(), Body::empty());
        let request = Mutex::new(Some(std::mem::replace(owner, stand_in)));
        MovedRequest { owner, shared: Arc::new(Shared { request, ..Shared::default() }) }
    }
}

impl Drop for MovedRequest<'_> {
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
    let moved = MovedRequest::new(req);
    let rendered = render(function(fragments, moved.shared.clone()));
    let failure = lock(&moved.shared.failure).take();
    match (rendered, failure) {
        (Err(_), Some(failure)) => Err(failure),
        (rendered, _) => rendered,
    }
}

fn function(fragments: Arc<LiveFragments>, shared: Arc<Shared>) -> Value {
    Value::from_object(Function { fragments, shared })
}

/// The name `live` of a page's template, and its function, created when the template reads it.
struct Function {
    fragments: Arc<LiveFragments>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("live")
    }
}

impl Object for Function {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let function = Arc::clone(self);
        let live = move |name: &str, arguments: Kwargs| function.show(name, &arguments);
        (key.as_str()? == "live").then(|| Value::from_function(live))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["live"])
    }
}

impl Function {
    fn show(&self, name: &str, arguments: &Kwargs) -> std::result::Result<Value, TemplateError> {
        let call = || {
            let show = self.fragments.find(name)?;
            match &mut *lock(&self.shared.request) {
                Some(request) => show(request, read(name, arguments)?),
                None => Err(Error::internal(NO_REQUEST)),
            }
        };
        let html = call().map_err(|error| {
            let shown = refuse(error.chain());
            let error =
                if error.status_code().is_server_error() { error.context(format!("live(`{name}`)")) } else { error };
            lock(&self.shared.failure).get_or_insert(error);
            shown
        })?;
        Ok(Value::from_safe_string(html))
    }
}

/// The error of a call without a request, for example in a mail.
const NO_REQUEST: &str = "`live` needs a request: it works in pages that `req.render` renders, and in templates that they extend \
                          or include, but not in mail, imported macros or the template of a live fragment";

/// The function in all other templates.
pub(super) fn without_request() -> Value {
    Value::from_function(|_name: &str, _arguments: Kwargs| Err::<Value, _>(refuse(NO_REQUEST)))
}

fn refuse(message: impl Into<std::borrow::Cow<'static, str>>) -> TemplateError {
    TemplateError::new(ErrorKind::InvalidOperation, message)
}

/// Returns the arguments as text, without those that are `none`.
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
