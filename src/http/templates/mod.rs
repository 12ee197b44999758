//! Pages from templates with Jinja's syntax, rendered by minijinja.
//!
//! An application has one environment, created once, so a page costs only its rendering. In development a template is
//! read again when its file changed, and so are all that it extends or includes.

pub(crate) mod live_function;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use minijinja::functions::Function;
use minijinja::value::{Enumerator, FunctionArgs, FunctionResult, Kwargs, Object, ObjectRepr, merge_maps};
use minijinja::{
    AutoEscape, Environment, ErrorKind, Output, State, TemplateSource, UndefinedBehavior, Value, escape_formatter,
    path_loader,
};
use serde::Serialize;

use super::files;
use super::files::folder::{Embedded, Folder, Place};
use super::files::folders::StaticFolders;
use super::forms::{idempotency, refused_form};
use super::html::write_escaped;
use super::request::Request;
use super::response::Response;
use super::security::headers;
use super::session::{self, SessionView};
use super::url_for::Urls;
use crate::background::request_info::RequestInfo;
use crate::background::scope::Scope;
use crate::error::{Error, OrHere, Result};
use crate::log_text::absolute;
use crate::nearest::did_you_mean;
use crate::random;
use crate::sync::lock;
use crate::watch::{Key, Seen, Watched};

/// The templates of an application: a folder, and single ones that are compiled in.
pub(crate) struct Templates {
    /// The number of this set of templates in the process.
    id: u64,
    environment: Environment<'static>,
    compiled_in: CompiledIn,
    context_processors: Vec<ContextProcessor>,
    folder: Folder,
    reload: bool,
}

/// Returns values for a page from its request.
type ContextProcessor = Box<dyn Fn(&mut Request) -> Result<Value> + Send + Sync>;

/// The sources of templates that are not in the folder.
type CompiledIn = Arc<Mutex<BTreeMap<String, Cow<'static, str>>>>;

impl Templates {
    /// Returns the templates of a folder, which may be missing. With `reload` (development) a file takes precedence
    /// over a compiled-in template of the same name, so that it can be edited, and is read again when it changed. Without
    /// `reload`, a compiled-in template takes precedence, and a file is read at its first use, so that a running site
    /// does not change while clients use it.
    ///
    /// An undefined variable is an error if it is printed, compared, iterated or accessed, and false in a bare `if`: a
    /// mistyped name fails the page instead of leaving a gap in a receipt. Use `{{ title | default("Shop") }}` for a
    /// value that may be missing.
    pub(crate) fn new(folder: impl Into<Folder>, reload: bool) -> Templates {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let (id, folder) = (IDS.fetch_add(1, Ordering::Relaxed), folder.into());
        let compiled_in = CompiledIn::default();
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(auto_escape);
        environment.set_formatter(write_value);
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_auto_reload(reload);
        // With debug information an error has the template's lines and the undefined name, in a release build too.
        environment.set_debug(true);
        environment.add_global("live", live_function::without_request());
        let compiled = Arc::clone(&compiled_in);
        match &folder.0 {
            Place::Disk(dir) => environment.set_loader(disk_loader(dir.clone(), compiled)),
            Place::Program(embedded) => environment.set_loader(program_loader(*embedded, compiled)),
        }
        Templates { id, environment, compiled_in, context_processors: Vec::new(), folder, reload }
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn add_filter<F, Rv, Args>(&mut self, name: String, filter: F)
    where
        F: Function<Rv, Args>,
        Rv: FunctionResult,
        Args: for<'a> FunctionArgs<'a>,
    {
        self.environment.add_filter(name, filter);
    }

    pub(crate) fn add_global(&mut self, name: String, value: Value) {
        self.environment.add_global(name, value);
    }

    pub(crate) fn add_context_processor<C: Serialize>(
        &mut self,
        process: impl Fn(&mut Request) -> Result<C> + Send + Sync + 'static,
    ) {
        self.context_processors.push(Box::new(move |req| map(process(req)?)));
    }

    /// Adds what the context processors return.
    fn process(&self, req: &mut Request, contexts: &mut Vec<Value>) -> Result<()> {
        if self.context_processors.is_empty() {
            return Ok(());
        }
        let processing = Processing::begin(req)?;
        for process in &self.context_processors {
            contexts.push(process(processing.0)?);
        }
        Ok(())
    }

    /// Adds a compiled-in template: `include_str!("../../templates/page.html")`.
    ///
    /// # Errors
    /// 500, naming the line, if the template is invalid.
    pub(crate) fn add(&mut self, name: &str, source: impl Into<Cow<'static, str>>) -> Result<()> {
        let source = source.into();
        self.environment
            .template_from_named_str(name, &source)
            .map_err(|error| Error::from(error).context(format!("the template `{name}` is invalid")))?;
        if self.reload {
            lock(&self.compiled_in).insert(name.to_owned(), source);
            return Ok(());
        }
        Ok(self.environment.add_template_owned(name.to_owned(), source)?)
    }

    /// Reads all pages and texts of the folder, so that an invalid one is found at the start and not by its first
    /// client.
    ///
    /// # Errors
    /// 500, naming all invalid templates with their lines.
    pub(crate) fn read_all(&self) -> Result<()> {
        let names = names(&self.folder);
        let read = |name: &String| self.environment.get_template(name).err();
        let wrong: Vec<String> = names.iter().filter_map(read).map(|error| Error::from(error).chain()).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::internal(format!("invalid templates: {}", wrong.join("; ")))),
        }
    }

    /// Renders a template with these values.
    ///
    /// # Errors
    /// 500, with the template, the line and the undefined name in its chain; or with the file that was not found.
    pub(crate) fn render(&self, name: &str, context: Value) -> Result<String> {
        let rendered = self.environment.get_template(name).and_then(|template| template.render(context));
        rendered.map_err(|error| Error::from(error).context(format!("cannot render `{name}`")))
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Templates({}, reload: {})", self.folder, self.reload)
    }
}

/// Returns the names of files that are surely templates. An unreadable folder has none.
fn names(folder: &Folder) -> Vec<String> {
    match &folder.0 {
        Place::Program(embedded) => embedded.names().filter(|name| is_page(name)).map(str::to_owned).collect(),
        Place::Disk(dir) => {
            let mut names = Vec::new();
            collect(dir, "", &mut names);
            names
        }
    }
}

/// Returns true for the extensions of pages and texts.
fn is_page(name: &str) -> bool {
    matches!(extension(name).as_str(), "html" | "htm" | "xml" | "txt" | "text")
}

/// Collects the names of a folder on the disk.
fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), names);
        } else if is_page(&name) {
            names.push(format!("{prefix}{name}"));
        }
    }
}

type Loaded = std::result::Result<Option<TemplateSource>, minijinja::Error>;

/// Returns a loader that searches the folder, then the compiled-in templates. Names that would leave the folder are
/// refused.
fn disk_loader(dir: PathBuf, compiled_in: CompiledIn) -> impl Fn(&str) -> Loaded + Send + Sync + 'static {
    let from_folder = path_loader(dir.clone());
    move |name| {
        let Some(path) = files::join(&dir, name) else {
            return not_found(format!(
                "`{name}` is not a valid template name, which is a path inside {} without `.` or `..`",
                absolute(&dir)
            ));
        };
        if let Some(source) = from_folder(name)? {
            return Ok(Some(source));
        }
        if let Some(source) = lock(&compiled_in).get(name).cloned() {
            // The compiled-in template is current until a file of that name exists.
            return Ok(Some(TemplateSource::from(source).with_uptodate_check(move || !path.exists())));
        }
        let folder = absolute(&dir);
        let missing = match dir.is_dir() {
            true => format!("there is no file `{name}` in {folder}"),
            false => format!("the folder {folder} does not exist"),
        };
        nowhere(name, &missing, names(&Folder::from(&dir)), &compiled_in)
    }
}

/// Returns a loader that searches an embedded folder, then the compiled-in templates.
fn program_loader(embedded: Embedded, compiled_in: CompiledIn) -> impl Fn(&str) -> Loaded + Send + Sync + 'static {
    move |name| {
        if let Some(file) = embedded.find(name) {
            let source = str::from_utf8(file.content.bytes).map_err(|error| {
                minijinja::Error::new(ErrorKind::SyntaxError, format!("the template `{name}` is not UTF-8: {error}"))
            })?;
            return Ok(Some(source.into()));
        }
        if let Some(source) = lock(&compiled_in).get(name).cloned() {
            return Ok(Some(source.into()));
        }
        let missing = format!("there is no file `{name}` in the embedded folder {}", embedded.name);
        nowhere(name, &missing, embedded.names().map(str::to_owned).collect(), &compiled_in)
    }
}

/// Returns the error for a name that is nowhere, with the name that it is nearly.
fn nowhere(name: &str, missing: &str, mut names: Vec<String>, compiled_in: &CompiledIn) -> Loaded {
    names.extend(lock(compiled_in).keys().cloned());
    let hint = did_you_mean(name, names.iter().map(String::as_str));
    not_found(format!("{missing}, and no compiled-in template of that name{hint}"))
}

fn not_found(message: String) -> Loaded {
    Err(minijinja::Error::new(ErrorKind::TemplateNotFound, message))
}

/// Chooses the escaping by the template's name: JSON in `.json` and similar files, none in plain text, and HTML in all
/// others, known or not. An unnecessary escape looks odd, but a missing one lets users inject markup.
fn auto_escape(name: &str) -> AutoEscape {
    match extension(name).as_str() {
        "txt" | "text" | "md" | "csv" => AutoEscape::None,
        "json" | "json5" | "js" | "yaml" | "yml" => AutoEscape::Json,
        _ => AutoEscape::Html,
    }
}

/// Writes a value like minijinja, except for the slash in HTML, which is not escaped ([`html`](super::html)).
pub(crate) fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> std::result::Result<(), minijinja::Error> {
    match value.as_str() {
        Some(text) if !value.is_safe() && matches!(state.auto_escape(), AutoEscape::Html) => {
            Ok(write_escaped(out, text)?)
        }
        _ => escape_formatter(out, state, value),
    }
}

fn plain_name(name: &str) -> &str {
    [".j2", ".jinja2", ".jinja"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

fn extension(name: &str) -> String {
    plain_name(name).rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_ascii_lowercase())
}

fn content_type(name: &str) -> String {
    match extension(name).as_str() {
        "" => "text/html; charset=utf-8".into(),
        "xml" => "application/xml; charset=utf-8".into(),
        _ => files::content_type(Path::new(plain_name(name))),
    }
}

impl Request {
    /// Renders a template of the application with a [`context!`](crate::context!) or any value that serde can
    /// serialize, and responds with the page.
    ///
    /// ```
    /// use aside::{Request, Response, Result, context};
    ///
    /// fn orders(req: &mut Request) -> Result<Response> {
    ///     req.render("orders.html", context! { title => "Your orders", orders => ["a camera", "two lenses"] })
    /// }
    /// ```
    ///
    /// The name determines the media type and the escaping: `.txt` is plain text and not escaped, `.json` is escaped as
    /// JSON, and all others as HTML. Every template also has `flashes` (the messages of [`flash`](Request::flash), each
    /// with `kind` and `message`; shown messages are removed), `user` (the id of the logged-in user, as text, or none),
    /// `path` (of this request), `request_id`, `url_for(name, …)` ([`url_for`](Request::url_for)), `csp_nonce`
    /// ([`csp_nonce`](Request::csp_nonce)), [`once()`](Request::once) for a form that must not be processed twice and
    /// `live(name)` for a part of the page that is updated while it is open ([`App::live`](crate::App::live)). A value
    /// of the same name in the context takes precedence. The application adds its own
    /// [filters](crate::App::template_filter), [globals](crate::App::template_global) and values of the request
    /// ([`context_processor`](crate::App::context_processor)). `{{ static('app.css') }}` is the URL of a file of
    /// [`App::static_files`](crate::App::static_files) with a hash of its content, `/static/app.css?v=…`, which a
    /// browser caches until the file changes; a missing file is an error.
    ///
    /// In development a changed template is read again. An undefined name is an error if it is printed, and false in an
    /// `if`; use `{{ title | default("Shop") }}` for a value that may be missing.
    ///
    /// # Errors
    /// 500 if the template is missing, cannot be read or fails; the log has the template, the line and the reason. The
    /// error of a live fragment becomes the page's, with its status.
    #[track_caller]
    pub fn render(&mut self, name: &str, context: impl Serialize) -> Result<Response> {
        let templates = templates_of(self).or_here()?;
        let provided = Arc::new(Provided::of(self));
        let mut contexts = vec![Value::from_dyn_object(Arc::clone(&provided))];
        templates.process(self, &mut contexts).or_here()?;
        contexts.push(map(context).or_here()?);
        let context = merge_maps(contexts);
        let page =
            live_function::with_function(self, |live| templates.render(name, merge_maps([live, context]))).or_here()?;
        if self.config().is_development() {
            refused_form::warn_of_hidden_errors(name, self.origin());
        }
        provided.session_view.note(self);
        if provided.has_shown.load(Ordering::Relaxed) {
            session::note_shown(self);
        }
        if provided.has_key.load(Ordering::Relaxed) {
            idempotency::note_shown(self);
        }
        Ok(Response::bytes(&content_type(name), page.into_bytes()))
    }
}

/// A request for which context processors run, until this is dropped, also by a panic: an error page may be rendered after it.
struct Processing<'r>(&'r mut Request);

/// True while they run.
struct IsProcessing(bool);

impl Processing<'_> {
    /// # Errors
    /// If they run already: one of them has called `render`, which would call it without an end.
    fn begin(req: &mut Request) -> Result<Processing<'_>> {
        if req.extension::<IsProcessing>().is_some_and(|is_processing| is_processing.0) {
            return Err(Error::internal("a context processor has called `render`, which calls the context processors"));
        }
        req.set_extension(IsProcessing(true));
        Ok(Processing(req))
    }
}

impl Drop for Processing<'_> {
    fn drop(&mut self) {
        self.0.set_extension(IsProcessing(false));
    }
}

/// A template that is rendered again for each change, on other threads: the part of a page that changes. It has the
/// state but no request, so that it is the same in the page and in the stream, and one rendering serves all clients.
pub(crate) struct Fragment {
    templates: Arc<Templates>,
    key: Key,
    provided: Value,
}

/// Returns the fragment of a template.
pub(crate) fn fragment(req: &Request, name: &str) -> Result<Fragment> {
    let templates = templates_of(req)?;
    let provided = private::context([("static", static_address(&req.scope())), ("url_for", url_for(&req.scope()))]);
    Ok(Fragment { key: (templates.id, name.to_owned()), templates, provided })
}

impl Fragment {
    /// Renders the template with a state: its fields by name, and the whole as `state`.
    pub(crate) fn render<T: Clone + Serialize>(&self, watched: &Watched<T>, seen: &Seen<T>) -> Result<Arc<str>> {
        let render = || {
            let whole = private::context([("state", private::value(&*seen.value))]);
            let fields = map(&*seen.value).unwrap_or_else(|_| private::context([]));
            self.templates.render(&self.key.1, merge_maps([self.provided.clone(), whole, fields]))
        };
        // In development the template may change without a change of the state.
        if self.templates.reload { Ok(render()?.into()) } else { watched.render_once(seen.version, &self.key, render) }
    }
}

fn templates_of(req: &Request) -> Result<Arc<Templates>> {
    req.scope().get::<Templates>().ok_or_else(|| {
        let message = "this application has no templates: set their folder with `App::templates(dir)`, or compile one \
                     in with `App::template(name, source)`";
        Error::internal(message)
    })
}

/// The values that every template has, each created when the template reads it.
struct Provided {
    request: Arc<RequestInfo>,
    scope: Scope,
    nonce: Arc<OnceLock<String>>,
    session_view: SessionView,
    /// The functions are kept: a template calls them often.
    url_for: OnceLock<Value>,
    static_address: OnceLock<Value>,
    /// The flash messages, read at the template's first access.
    messages: OnceLock<Vec<Value>>,
    /// Set when the template takes a message out.
    has_shown: AtomicBool,
    /// Set when the template calls `once`.
    has_key: AtomicBool,
}

impl Provided {
    fn of(req: &mut Request) -> Provided {
        Provided {
            session_view: SessionView::of(req),
            request: Arc::clone(req.origin()),
            scope: req.scope(),
            nonce: Arc::clone(req.nonce()),
            url_for: OnceLock::new(),
            static_address: OnceLock::new(),
            messages: OnceLock::new(),
            has_shown: AtomicBool::new(false),
            has_key: AtomicBool::new(false),
        }
    }

    fn messages(&self) -> &[Value] {
        self.messages.get_or_init(|| self.session_view.flashes().map(private::value).collect())
    }
}

impl fmt::Debug for Provided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provided")
    }
}

impl Object for Provided {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(match key.as_str()? {
            "csp_nonce" => Value::from_object(Nonce(Arc::clone(&self.nonce))),
            "flashes" => Value::from_object(Flashes(Arc::clone(self))),
            "once" => once(Arc::clone(self)),
            "path" => Value::from(self.request.path.as_str()),
            "request_id" => Value::from(self.request.id.as_str()),
            "static" => self.static_address.get_or_init(|| static_address(&self.scope)).clone(),
            "url_for" => self.url_for.get_or_init(|| url_for(&self.scope)).clone(),
            "user" => Value::from(self.session_view.user()),
            _ => return None,
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["csp_nonce", "flashes", "once", "path", "request_id", "static", "url_for", "user"])
    }
}

/// The template function `url_for`: `{{ url_for("photo", id=17) }}`.
fn url_for(scope: &Scope) -> Value {
    let urls: Arc<Urls> = scope.get().unwrap_or_default();
    Value::from_function(move |name: &str, params: Kwargs| {
        let value = |key| Ok((key, params.peek::<Value>(key)?.to_string()));
        let pairs: std::result::Result<_, minijinja::Error> = params.args().map(value).collect();
        let url = urls
            .build(name, pairs?)
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.chain()))?;
        Ok::<_, minijinja::Error>(Value::from(url))
    })
}

/// The template function `once`: renders the hidden field with a new key, and records the call.
fn once(provided: Arc<Provided>) -> Value {
    Value::from_function(move || {
        let key = random::bytes::<{ idempotency::KEY_BYTES }>().map_err(|error| {
            let error = error.context("could not create the key of a form");
            minijinja::Error::new(ErrorKind::InvalidOperation, error.chain())
        })?;
        provided.has_key.store(true, Ordering::Relaxed);
        let (name, key) = (idempotency::FIELD, random::hex(&key));
        let field = format!(r#"<input type="hidden" name="{name}" value="{key}">"#);
        Ok::<_, minijinja::Error>(Value::from_safe_string(field))
    })
}

/// The response's nonce, created when a template reads it.
struct Nonce(Arc<OnceLock<String>>);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

impl Object for Nonce {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(headers::nonce_value(&self.0))
    }
}

/// The template function `static`: `static('app.css')`.
fn static_address(scope: &Scope) -> Value {
    let folders = scope.get::<StaticFolders>().unwrap_or_default();
    Value::from_function(move |name: &str| {
        folders.url(name).map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.chain()))
    })
}

fn map(context: impl Serialize) -> Result<Value> {
    let value = private::value(&context);
    match value.kind() {
        minijinja::value::ValueKind::Map => Ok(value),
        minijinja::value::ValueKind::None | minijinja::value::ValueKind::Undefined => Ok(private::context([])),
        kind => Err(Error::internal(format!("the context of a template must be a map or a struct, not a {kind}"))),
    }
}

/// The flash messages, marked as shown when the template takes one out.
struct Flashes(Arc<Provided>);

impl fmt::Debug for Flashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flashes")
    }
}

impl Object for Flashes {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let message = self.0.messages().get(key.as_usize()?).cloned();
        self.0.has_shown.fetch_or(message.is_some(), Ordering::Relaxed);
        message
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.messages().len())
    }
}

/// Names and values for a template.
///
/// ```
/// use aside::context;
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Photo { title: String }
///
/// let photo = Photo { title: "Harbour".into() };
/// let tags = vec!["sea", "evening"];
/// let page = context! { photo, tags, likes => tags.len() + 40, owner => context! { name => "Asok" } };
/// # let _ = (page, photo, tags);
/// ```
///
/// A value is anything that serde can serialize; it is borrowed, and copied into the context. A name alone stands for
/// the variable of this name.
#[macro_export]
macro_rules! context {
    () => { $crate::__private::context([]) };
    (@ $name:ident) => { $crate::__private::value(&$name) };
    (@ $name:ident $value:expr) => { $crate::__private::value(&$value) };
    ($($name:ident $(=> $value:expr)?),+ $(,)?) => {
        $crate::__private::context([$((::core::stringify!($name), $crate::context!(@ $name $($value)?))),+])
    };
    ($($wrong:tt)+) => { $crate::__wrong_context!($($wrong)+) };
}

/// Explains the first mistake in the arguments of [`context!`](crate::context!). Public for the macro, and hidden.
#[doc(hidden)]
#[macro_export]
macro_rules! __wrong_context {
    ($name:ident : $($rest:tt)*) => { $crate::__wrong_context!(@ $name) };
    ($name:ident = $($rest:tt)*) => { $crate::__wrong_context!(@ $name) };
    ($name:literal $($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "a name in `context!` has no quotes: write `name => value` in place of `", ::core::stringify!($name), "`"
        ))
    };
    (@ $name:ident) => {
        ::core::compile_error!(::core::concat!(
            "write `", ::core::stringify!($name), " => value` in `context!`, or `", ::core::stringify!($name),
            "` alone for the variable of this name"
        ))
    };
    ($name:ident => $value:expr, $($rest:tt)+) => { $crate::__wrong_context!($($rest)+) };
    ($name:ident, $($rest:tt)+) => { $crate::__wrong_context!($($rest)+) };
    ($($rest:tt)*) => {
        ::core::compile_error!(
            "write `context! { title => \"Orders\", orders }`: pairs of a name and a value, or the names of variables, \
             with a comma after each"
        )
    };
}

/// The functions behind [`context!`](crate::context!). Public for the macro, hidden, and not part of the API.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod private {
    use std::collections::BTreeMap;

    pub use minijinja::Value;
    use minijinja::value::Serde;
    use serde::Serialize;

    pub fn value<T: Serialize + ?Sized>(value: &T) -> Value {
        Value::from(Serde(value))
    }

    pub fn context<const N: usize>(pairs: [(&'static str, Value); N]) -> Value {
        Value::from(BTreeMap::from(pairs))
    }
}

#[cfg(test)]
mod tests;
