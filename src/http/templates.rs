//! Pages from templates: Jinja's syntax, through minijinja.
//!
//! There is one environment for an application, made once; a page costs its rendering and nothing else. In development a
//! template is read again when its file changed, and so is every one that it extends or includes.

pub(crate) mod live_function;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, merge_maps};
use minijinja::{
    AutoEscape, Environment, ErrorKind, Output, State, TemplateSource, UndefinedBehavior, Value, escape_formatter,
    path_loader,
};
use serde::Serialize;

use super::files;
use super::files::folders::StaticFolders;
use super::guard::policy;
use super::once;
use super::request::Request;
use super::response::Response;
use super::session::{self, Glance};
use super::urls::Urls;
use crate::error::{Error, Result};
use crate::sync::lock;
use crate::watched::{Key, Seen, Watched};

/// The templates of an application: a folder, and those that are compiled in.
pub(crate) struct Templates {
    /// Which of those of this process.
    id: u64,
    environment: Environment<'static>,
    compiled_in: Arc<Mutex<BTreeMap<String, Cow<'static, str>>>>,
    dir: PathBuf,
    reload: bool,
}

impl Templates {
    /// The templates of a folder, which need not be there. With `reload` (development) a file comes before a template of
    /// the same name that is compiled in, so that it can be edited, and is read again when it changed. Without, what is
    /// compiled in comes first and a file is read at its first use, so that a running site does not change under its
    /// visitors.
    ///
    /// Undefined variables are errors where they are printed, compared, looped over or looked into, and false in a bare `if`: a name
    /// that was mistyped is a page that says so, and not a receipt with a hole. `{{ title | default("Shop") }}` is for what
    /// may be missing.
    pub(crate) fn new(dir: impl Into<PathBuf>, reload: bool) -> Templates {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let (id, dir) = (IDS.fetch_add(1, Ordering::Relaxed), dir.into());
        let compiled_in = Arc::default();
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(auto_escape);
        environment.set_formatter(write_value);
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_auto_reload(reload);
        // So that an error has the template's lines and says which name was undefined, in a release build too.
        environment.set_debug(true);
        environment.add_global("live", live_function::without_request());
        environment.set_loader(loader(dir.clone(), Arc::clone(&compiled_in)));
        Templates { id, environment, compiled_in, dir, reload }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a template that is compiled in: `include_str!("../templates/page.html")`.
    ///
    /// # Errors
    /// When it is no template; the line is named.
    pub(crate) fn add(&mut self, name: &str, source: impl Into<Cow<'static, str>>) -> Result<()> {
        let source = source.into();
        self.environment
            .template_from_named_str(name, &source)
            .map_err(|error| Error::from(error).context(format!("the template `{name}` cannot be used")))?;
        if self.reload {
            lock(&self.compiled_in).insert(name.to_owned(), source);
            return Ok(());
        }
        Ok(self.environment.add_template_owned(name.to_owned(), source)?)
    }

    /// Reads all pages and texts of the folder, so that a mistake in one shows at the start and not to its first visitor.
    ///
    /// # Errors
    /// When one is no template; all of them are named, with their lines.
    pub(crate) fn read_all(&self) -> Result<()> {
        let mut names = Vec::new();
        collect(&self.dir, "", &mut names);
        let read = |name: &String| self.environment.get_template(name).err();
        let wrong: Vec<String> = names.iter().filter_map(read).map(|error| Error::from(error).chain()).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::internal(format!("templates that cannot be used: {}", wrong.join("; ")))),
        }
    }

    /// The page that a template makes of these values.
    ///
    /// # Errors
    /// 500, with the template, the line and what was undefined in its chain; or with the file that was looked for.
    pub(crate) fn render(&self, name: &str, context: Value) -> Result<String> {
        let rendered = self.environment.get_template(name).and_then(|template| template.render(context));
        rendered.map_err(|error| Error::from(error).context(format!("cannot render `{name}`")))
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Templates({}, reload: {})", self.dir.display(), self.reload)
    }
}

/// The names of what is surely a template. A folder that cannot be read has none.
fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), names);
        } else if matches!(extension(&name).as_str(), "html" | "htm" | "xml" | "txt" | "text") {
            names.push(format!("{prefix}{name}"));
        }
    }
}

type Loaded = std::result::Result<Option<TemplateSource>, minijinja::Error>;

/// Looks in the folder, then among what is compiled in. Names that would leave the folder are looked for in neither.
fn loader(
    dir: PathBuf,
    compiled_in: Arc<Mutex<BTreeMap<String, Cow<'static, str>>>>,
) -> impl Fn(&str) -> Loaded + Send + Sync + 'static {
    let from_folder = path_loader(dir.clone());
    move |name| {
        let Some(path) = files::join(&dir, name) else {
            let words =
                format!("`{name}` is no name of a template: a path inside {}, without `.` or `..`", shown(&dir));
            return Err(minijinja::Error::new(ErrorKind::TemplateNotFound, words));
        };
        if let Some(source) = from_folder(name)? {
            return Ok(Some(source));
        }
        if let Some(source) = lock(&compiled_in).get(name).cloned() {
            // Up to date until there is a file of that name.
            return Ok(Some(TemplateSource::from(source).with_uptodate_check(move || !path.exists())));
        }
        let words = format!("there is no file `{name}` in {}, and none compiled in by that name", shown(&dir));
        Err(minijinja::Error::new(ErrorKind::TemplateNotFound, words))
    }
}

/// The folder in full: a relative one is looked for where the process was started, which is what is wrong most often.
fn shown(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

/// How values are escaped, by the template's name: as JSON in `.json` and its like, not in plain text, and as HTML in all
/// others, known or not: what is escaped without need looks odd, what is not escaped in a page lets a visitor write it.
fn auto_escape(name: &str) -> AutoEscape {
    match extension(name).as_str() {
        "txt" | "text" | "md" | "csv" => AutoEscape::None,
        "json" | "json5" | "js" | "yaml" | "yml" => AutoEscape::Json,
        _ => AutoEscape::Html,
    }
}

/// Writes a value as minijinja does, but for the slash in HTML: it needs no escape there, and every link would be full of
/// `&#x2f;` for those who read the page's source.
fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> std::result::Result<(), minijinja::Error> {
    match value.as_str() {
        Some(text) if !value.is_safe() && matches!(state.auto_escape(), AutoEscape::Html) => Ok(write_html(out, text)?),
        _ => escape_formatter(out, state, value),
    }
}

fn write_html(out: &mut Output<'_>, mut text: &str) -> fmt::Result {
    let escape = |byte| match byte {
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'&' => Some("&amp;"),
        b'"' => Some("&quot;"),
        b'\'' => Some("&#x27;"),
        _ => None,
    };
    while let Some((at, escaped)) = text.bytes().enumerate().find_map(|(at, byte)| Some((at, escape(byte)?))) {
        out.write_str(&text[..at])?;
        out.write_str(escaped)?;
        text = &text[at + 1..];
    }
    out.write_str(text)
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
    /// Answers with a template of the application, filled in with a [`context!`](crate::context!) or any value that
    /// serde can write.
    ///
    /// ```
    /// use aside::{Request, Response, Result, context};
    ///
    /// fn orders(req: &mut Request) -> Result<Response> {
    ///     req.render("orders.html", context! { title => "Your orders", orders => ["a camera", "two lenses"] })
    /// }
    /// ```
    ///
    /// The media type goes by the name, and so does escaping: `.txt` is plain text and not escaped, `.json` is escaped as
    /// JSON, and all others as HTML. Every template also has `flashes` (the messages of [`flash`](Request::flash), each
    /// with `kind` and `message`; those that a page has shown are gone), `user` (the id of whoever is logged in, as text,
    /// or none), `path` (this request's), `request_id`, `url_for(name, …)` ([`url_for`](Request::url_for)), `csp_nonce`
    /// ([`csp_nonce`](Request::csp_nonce)), [`once()`](Request::once) for a form that must not be answered twice and
    /// `live(name)` for a part of the page that changes while it is looked at ([`App::live`](crate::App::live)); a
    /// value of the same name in the context comes first. `{{ static('app.css') }}` is the address of a file of
    /// [`App::static_files`](crate::App::static_files) with a hash of its content, `/static/app.css?v=…`, which a browser
    /// keeps until the file changes; a file that is not there is an error.
    ///
    /// In development a template that changed is read again. An undefined name is an error where it is printed, and false
    /// in an `if`; `{{ title | default("Shop") }}` is for what may be missing.
    ///
    /// # Errors
    /// 500 when the template is not there, cannot be read or fails; the log has the template, the line and the reason. The
    /// error of a live fragment is the page's, with its status.
    pub fn render(&mut self, name: &str, context: impl Serialize) -> Result<Response> {
        let templates = templates_of(self)?;
        let glance = Arc::new(Glance::of(self));
        let flashes = Arc::new(Flashes::of(&glance));
        let visitor = Value::from_object(Visitor(Arc::clone(&glance)));
        let has_key = Arc::new(AtomicBool::new(false));
        let context = merge_maps([provided(self, &flashes, &has_key), visitor, map(context)?]);
        let page = live_function::with_function(self, |live| templates.render(name, merge_maps([live, context])))?;
        glance.note(self);
        if flashes.shown.load(Ordering::Relaxed) {
            session::note_shown(self);
        }
        if has_key.load(Ordering::Relaxed) {
            once::note_shown(self);
        }
        Ok(Response::bytes(&content_type(name), page.into_bytes()))
    }
}

/// A template that is rendered again and again, on other threads: the part of a page that changes. It knows the state and
/// nothing of a request, so that it is the same in the page and in the stream, and one rendering serves all who watch.
pub(crate) struct Fragment {
    templates: Arc<Templates>,
    key: Key,
    provided: Value,
}

/// The template of that name.
pub(crate) fn fragment(req: &Request, name: &str) -> Result<Fragment> {
    let templates = templates_of(req)?;
    let provided = private::context([
        ("static", static_address(req)),
        ("url_for", Value::from_function(url_for(req.scope().get().unwrap_or_default()))),
    ]);
    Ok(Fragment { key: (templates.id, name.to_owned()), templates, provided })
}

impl Fragment {
    /// The template with that state: its fields by their names, and the whole as `state`.
    pub(crate) fn render<T: Clone + Serialize>(&self, watched: &Watched<T>, seen: &Seen<T>) -> Result<Arc<str>> {
        let render = || {
            let whole = private::context([("state", private::value(&*seen.value))]);
            let fields = map(&*seen.value).unwrap_or_else(|_| private::context([]));
            self.templates.render(&self.key.1, merge_maps([self.provided.clone(), whole, fields]))
        };
        // A template that is being worked on may change where the state does not.
        if self.templates.reload { Ok(render()?.into()) } else { watched.make_once(seen.version, &self.key, render) }
    }
}

fn templates_of(req: &Request) -> Result<Arc<Templates>> {
    req.scope().get::<Templates>().ok_or_else(|| {
        let words = "this application has no templates: name their folder with `App::templates(dir)`, or compile one in \
                     with `App::template(name, source)`";
        Error::internal(words)
    })
}

/// What every template has.
fn provided(req: &Request, flashes: &Arc<Flashes>, has_key: &Arc<AtomicBool>) -> Value {
    private::context([
        ("flashes", Value::from_dyn_object(Arc::clone(flashes))),
        ("once", once::function(Arc::clone(has_key))),
        ("path", Value::from(req.path())),
        ("request_id", Value::from(req.id())),
        ("csp_nonce", Value::from_object(Nonce(Arc::clone(req.nonce())))),
        ("static", static_address(req)),
        ("url_for", Value::from_function(url_for(req.scope().get().unwrap_or_default()))),
    ])
}

/// The path of a route: `{{ url_for("photo", id=17) }}`.
fn url_for(urls: Arc<Urls>) -> impl Fn(&str, Kwargs) -> std::result::Result<Value, minijinja::Error> {
    move |name, params| {
        let value = |key| Ok((key, params.peek::<Value>(key)?.to_string()));
        let pairs: std::result::Result<_, minijinja::Error> = params.args().map(value).collect();
        let url = urls
            .build(name, pairs?)
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.chain()))?;
        Ok(Value::from(url))
    }
}

/// The response's nonce, made when a template looks at it.
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
        f.write_str(policy::make(&self.0))
    }
}

/// `static('app.css')`, in a template.
fn static_address(req: &Request) -> Value {
    let folders = req.scope().get::<StaticFolders>().unwrap_or_default();
    Value::from_function(move |name: &str| {
        folders.url(name).map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.chain()))
    })
}

fn map(context: impl Serialize) -> Result<Value> {
    let value = private::value(&context);
    match value.kind() {
        minijinja::value::ValueKind::Map => Ok(value),
        minijinja::value::ValueKind::None | minijinja::value::ValueKind::Undefined => Ok(private::context([])),
        kind => Err(Error::internal(format!("a template is filled in with names and values, not with a {kind}"))),
    }
}

/// The flash messages, read when a template first looks at them, and noted as shown when it takes one out.
struct Flashes {
    glance: Arc<Glance>,
    messages: OnceLock<Vec<Value>>,
    shown: AtomicBool,
}

impl Flashes {
    fn of(glance: &Arc<Glance>) -> Flashes {
        Flashes { glance: Arc::clone(glance), messages: OnceLock::new(), shown: AtomicBool::new(false) }
    }

    fn messages(&self) -> &[Value] {
        self.messages.get_or_init(|| self.glance.flashes().map(private::value).collect())
    }
}

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
        let message = self.messages().get(key.as_usize()?).cloned();
        self.shown.fetch_or(message.is_some(), Ordering::Relaxed);
        message
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.messages().len())
    }
}

/// What is known of the visitor, found out when a template asks for it.
struct Visitor(Arc<Glance>);

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visitor")
    }
}

impl Object for Visitor {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str()? == "user").then(|| Value::from(self.0.user()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["user"])
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
/// A value is anything that serde can write; it is borrowed, and copied into the context. A name alone stands for the
/// variable of that name.
#[macro_export]
macro_rules! context {
    () => { $crate::__private::context([]) };
    (@ $name:ident) => { $crate::__private::value(&$name) };
    (@ $name:ident $value:expr) => { $crate::__private::value(&$value) };
    ($($name:ident $(=> $value:expr)?),+ $(,)?) => {
        $crate::__private::context([$((::core::stringify!($name), $crate::context!(@ $name $($value)?))),+])
    };
}

/// What [`context!`](crate::context!) comes to. Public for the macro, hidden, and no promise.
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
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};
    use crate::http::response::ResponseBody;
    use crate::http::session::Keys;
    use crate::http::store::Store;

    fn templates(sources: &[(&str, &str)]) -> Templates {
        let mut templates = Templates::new("no/such/folder", false);
        for (name, source) in sources {
            templates.add(name, source.to_string()).unwrap();
        }
        templates
    }

    #[test]
    fn what_is_escaped_in_a_page_is_not_the_slash() {
        let templates = templates(&[("page.html", "{{ text }}|{{ text | safe }}"), ("mail.txt", "{{ text }}")]);
        let text = "/a?b='1'&c=\"2\"</script>/";
        let page = templates.render("page.html", private::context([("text", Value::from(text))])).unwrap();
        assert_eq!(page, format!("/a?b=&#x27;1&#x27;&amp;c=&quot;2&quot;&lt;/script&gt;/|{text}"));
        let mail = templates.render("mail.txt", private::context([("text", Value::from(text))])).unwrap();
        assert_eq!(mail, text);
    }

    #[test]
    fn mistakes_in_a_folder_are_found_before_anybody_asks() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("shop")).unwrap();
        std::fs::write(folder.path().join("fine.html"), "{{ title }}").unwrap();
        std::fs::write(folder.path().join("app.js"), "{{{{").unwrap();
        let templates = || Templates::new(folder.path(), false);
        templates().read_all().unwrap();
        Templates::new(folder.path().join("gone"), false).read_all().unwrap();
        std::fs::write(folder.path().join("shop/cart.html"), "one\n{% if %}").unwrap();
        std::fs::write(folder.path().join("mail.txt"), "{{ open").unwrap();
        let words = templates().read_all().unwrap_err().to_string();
        assert!(words.contains("shop/cart.html:2") && words.contains("mail.txt:1"), "{words}");
    }

    fn request(method: Method, cookie: &str, templates: Option<Templates>) -> Request {
        let config = Arc::new(Config { secrets: vec!["a".repeat(32)], ..Config::default() });
        let mut values = Values::default();
        values.insert(Keys::new(&config).unwrap());
        values.insert(Store::open(&config).unwrap());
        if let Some(templates) = templates {
            values.insert(templates);
        }
        let scope = Scope::new(Registry::new(&config), values);
        let mut req = Request::new(method, "/orders?x=1", Headers::from_iter([("Cookie", cookie)]), Body::empty());
        req.admit(scope, config, "3f9a1c".into());
        req
    }

    fn text(response: Response) -> String {
        match response.body {
            ResponseBody::Bytes(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
            _ => panic!("no bytes"),
        }
    }

    fn finished(req: &mut Request, mut response: Response) -> Option<String> {
        session::save(req, &mut response);
        response.headers().get("Set-Cookie").map(|line| line.split(';').next().unwrap().to_owned())
    }

    #[test]
    fn escaping_and_media_type_go_by_the_name() {
        let names = ["a.html", "a.HTM", "a.xml", "a", "a.svg", "a.html.j2", "a.txt", "a.json"];
        let sources = names.map(|name| (name, "{{ v }}"));
        let mut req = request(Method::Get, "", Some(templates(&sources)));
        let mut made = names.iter().map(|name| {
            let response = req.render(name, context! { v => "<'" }).unwrap();
            (response.headers().get("Content-Type").unwrap().to_owned(), text(response))
        });
        for _ in 0..6 {
            assert_eq!(made.next().unwrap().1, "&lt;&#x27;");
        }
        assert_eq!(made.next().unwrap(), ("text/plain; charset=utf-8".into(), "<'".into()));
        let (media_type, body) = made.next().unwrap();
        assert_eq!((media_type.as_str(), body.as_str()), ("application/json", "\"<'\""));
    }

    #[test]
    fn a_context_takes_whatever_serde_writes() {
        #[derive(Serialize)]
        struct Photo {
            title: String,
        }
        let photo = Photo { title: "Harbour & sea".into() };
        let templates = templates(&[("p.txt", "{{ photo.title }} {{ n }} {{ owner.name }} {{ none is none }}")]);
        let context = context! { photo, n => 40 + 2, owner => context! { name => "Asok" }, none => None::<u8>, };
        assert_eq!(templates.render("p.txt", context).unwrap(), "Harbour & sea 42 Asok True");
        assert_eq!(photo.title, "Harbour & sea", "it was borrowed");
    }

    #[test]
    fn safe_text_stays_safe_on_its_way() {
        let templates = templates(&[("p.html", "{{ part }}{{ rest }}")]);
        let part = Value::from_safe_string("<b>1</b>".into());
        assert_eq!(templates.render("p.html", context! { part, rest => "<" }).unwrap(), "<b>1</b>&lt;");
    }

    #[test]
    fn an_error_names_template_line_and_name() {
        let templates = templates(&[("page.html", "{% include 'part.html' %}"), ("part.html", "one\n{{ custmer }}")]);
        let chain = templates.render("page.html", context! {}).unwrap_err().chain();
        for words in ["page.html", "part.html:2", "custmer"] {
            assert!(chain.contains(words), "{words} is not in {chain}");
        }
    }

    #[test]
    fn what_is_undefined_may_be_asked_for_and_not_printed() {
        let templates = templates(&[
            ("a.txt", "{% if user %}in{% else %}out{% endif %} {{ title | default('Shop') }}"),
            ("b.txt", "{% for x in rows %}{% endfor %}"),
        ]);
        assert_eq!(templates.render("a.txt", context! {}).unwrap(), "out Shop");
        assert!(templates.render("b.txt", context! {}).is_err());
    }

    #[test]
    fn a_missing_template_names_file_and_folder() {
        let chain = templates(&[]).render("nothing.html", context! {}).unwrap_err().chain();
        assert!(chain.contains("nothing.html") && chain.contains("no/such/folder"), "{chain}");
        assert!(shown(Path::new("no/such")).starts_with('/') || cfg!(windows));
    }

    #[test]
    fn names_never_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("templates")).unwrap();
        std::fs::write(dir.path().join("secret.html"), "s").unwrap();
        let absolute = dir.path().join("secret.html");
        for reload in [true, false] {
            let templates = Templates::new(dir.path().join("templates"), reload);
            for name in ["../secret.html", "x/../../secret.html", "..\\secret.html", absolute.to_str().unwrap(), ""] {
                assert!(templates.render(name, context! {}).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn a_changed_file_is_read_again_in_development_also_when_it_is_included() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, age: u64| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        write("page.html", "{% extends 'base.html' %}{% block b %}1{% endblock %}", 100);
        write("base.html", "<a>{% block b %}{% endblock %}", 100);
        let (development, production) = (Templates::new(dir.path(), true), Templates::new(dir.path(), false));
        for templates in [&development, &production] {
            assert_eq!(templates.render("page.html", context! {}).unwrap(), "<a>1");
        }
        write("base.html", "<b>{% block b %}{% endblock %}", 50);
        assert_eq!(development.render("page.html", context! {}).unwrap(), "<b>1");
        assert_eq!(production.render("page.html", context! {}).unwrap(), "<a>1");
    }

    #[test]
    fn the_folder_comes_first_in_development_and_what_is_compiled_in_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        for (reload, second) in [(true, "file"), (false, "compiled in")] {
            let path = dir.path().join("page.html");
            let _ = std::fs::remove_file(&path);
            let mut templates = Templates::new(dir.path(), reload);
            templates.add("page.html", "compiled in").unwrap();
            assert_eq!(templates.render("page.html", context! {}).unwrap(), "compiled in");
            std::fs::write(&path, "file").unwrap();
            assert_eq!(templates.render("page.html", context! {}).unwrap(), second);
        }
        let words = Templates::new(dir.path(), true).add("x.html", "{% if %}").unwrap_err().chain();
        assert!(words.contains("x.html:1"), "{words}");
    }

    #[test]
    fn a_page_knows_its_path_and_request() {
        let sources = [("p.txt", "{{ path }} {{ request_id }} {{ flashes | length }}")];
        let mut req = request(Method::Get, "", Some(templates(&sources)));
        assert_eq!(text(req.render("p.txt", ()).unwrap()), "/orders 3f9a1c 0");
        assert_eq!(text(req.render("p.txt", context! { path => "mine" }).unwrap()), "mine 3f9a1c 0");
        assert!(req.render("p.txt", 7).is_err());
        let chain = request(Method::Get, "", None).render("p.txt", ()).unwrap_err().chain();
        assert!(chain.contains("App::templates"), "{chain}");
    }

    #[test]
    fn flash_messages_are_gone_once_a_page_has_shown_them() {
        let all = || {
            Some(templates(&[
                ("none.html", "{{ path }}"),
                ("ask.html", "{% if flashes %}{{ flashes | length }}{% endif %}"),
                ("show.html", "{% for flash in flashes %}[{{ flash.kind }}: {{ flash.message }}]{% endfor %}"),
                ("fail.html", "{% for flash in flashes %}{{ flash.kind }}{% endfor %}{{ undefined_name }}"),
            ]))
        };
        let mut req = request(Method::Post, "", all());
        req.flash("success", "<Done>");
        let cookie = finished(&mut req, Response::new()).unwrap();

        for (method, name) in [(Method::Get, "none.html"), (Method::Get, "ask.html"), (Method::Head, "show.html")] {
            let mut req = request(method, &cookie, all());
            let response = req.render(name, ()).unwrap();
            assert_eq!(finished(&mut req, response), None, "{name}");
        }
        let mut req = request(Method::Get, &cookie, all());
        assert!(req.render("fail.html", ()).is_err());
        assert_eq!(finished(&mut req, Response::new()), None, "the page failed");

        let mut req = request(Method::Get, &cookie, all());
        let response = req.render("show.html", ()).unwrap();
        let removed = cookie.split('=').next().unwrap().to_owned() + "=";
        assert_eq!(finished(&mut req, Response::new()), Some(removed), "shown, and nothing is left");
        assert_eq!(text(response), "[success: &lt;Done&gt;]");
    }

    #[test]
    fn a_message_for_this_very_page_is_shown_on_it() {
        let sources = [("show.txt", "{% for flash in flashes %}{{ flash.message }}{% endfor %}")];
        let mut req = request(Method::Post, "", Some(templates(&sources)));
        req.flash("error", "Not quite.");
        assert_eq!(text(req.render("show.txt", ()).unwrap()), "Not quite.");
        assert_eq!(finished(&mut req, Response::new()), None);
    }
}
