//! Live fragments that an application defines by name: the fragment and its stream from one function.

use std::panic::Location;
use std::sync::Arc;

use serde::Serialize;

use super::{Live, LiveFragment};
use crate::background::handle::{TaskHandle, TaskInfo};
use crate::background::task::Task;
use crate::error::{BoxError, Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::http::stream::source::{Pause, StreamSource};
use crate::http::stream::sse::Event;
use crate::http::templates::live_function::{Arguments, Show};
use crate::watch::Call;

/// The longest query of a stream's address, in bytes. Servers and proxies take about 8,000 for the whole request line.
const LONGEST_QUERY: usize = 4_096;

/// A [`Live`] state of any type, as [`App::live`](crate::App::live) keeps it.
pub struct LiveSource(Box<dyn Source>);

/// The operations on a state of any type.
trait Source {
    fn fragment(&self, req: &Request, url: &str, template: &str) -> Result<LiveFragment>;

    fn stream(&self, req: &Request, template: &str) -> Result<Response>;
}

impl<T> Source for Live<T>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    fn fragment(&self, req: &Request, url: &str, template: &str) -> Result<LiveFragment> {
        self.fragment(req, url, template)
    }

    fn stream(&self, req: &Request, template: &str) -> Result<Response> {
        req.live(self, template)
    }
}

impl std::fmt::Debug for LiveSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LiveSource")
    }
}

/// A return type of the function of [`App::live`](crate::App::live): a [`Live`] state (also as [`Request::state`] returns
/// it), the progress of a task ([`TaskInfo`], [`TaskHandle`], [`Task`]), an `Option` of these, or a `Result` of these with
/// any error.
///
/// Your own type that contains one delegates:
///
/// ```
/// use aside::live::{IntoLive, LiveSource};
/// use aside::{App, Live, Request, Result};
///
/// #[derive(Clone)]
/// struct Board(Live<Vec<String>>);
///
/// impl IntoLive for &Board {
///     fn into_live(self) -> Result<Option<LiveSource>> {
///         self.0.clone().into_live()
///     }
/// }
///
/// App::new()
///     .state(Board(Live::new(Vec::new())))
///     .live("board", "board.html", |req: &mut Request| req.state::<Board>().into_live());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be shown as a live fragment",
    note = "the function returns a Live, a TaskInfo, a TaskHandle or a Task, an Option of one, or a Result of them"
)]
pub trait IntoLive {
    /// Returns the state, or `None` to show nothing.
    ///
    /// # Errors
    /// An error refuses the page and the stream.
    fn into_live(self) -> Result<Option<LiveSource>>;
}

impl<T> IntoLive for Live<T>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    fn into_live(self) -> Result<Option<LiveSource>> {
        Ok(Some(LiveSource(Box::new(self))))
    }
}

/// The application's state of this type: `req.state::<Live<Posts>>()`.
impl<T> IntoLive for Arc<Live<T>>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    fn into_live(self) -> Result<Option<LiveSource>> {
        Live::clone(&self).into_live()
    }
}

impl IntoLive for LiveSource {
    fn into_live(self) -> Result<Option<LiveSource>> {
        Ok(Some(self))
    }
}

impl IntoLive for TaskInfo {
    fn into_live(self) -> Result<Option<LiveSource>> {
        self.live().into_live()
    }
}

impl<T> IntoLive for TaskHandle<T> {
    fn into_live(self) -> Result<Option<LiveSource>> {
        self.live().into_live()
    }
}

/// The progress of the last task with this key, if there is one. A task without a key is an error.
impl IntoLive for Task {
    fn into_live(self) -> Result<Option<LiveSource>> {
        if !self.has_key() {
            return Err(Error::internal("a task without a key cannot be found: use `Task::key` or `req.session_task`"));
        }
        self.find().into_live()
    }
}

impl<L: IntoLive> IntoLive for Option<L> {
    fn into_live(self) -> Result<Option<LiveSource>> {
        self.map_or(Ok(None), L::into_live)
    }
}

impl<L: IntoLive, E: Into<BoxError>> IntoLive for Result<L, E> {
    fn into_live(self) -> Result<Option<LiveSource>> {
        self.map_err(Error::from_box)?.into_live()
    }
}

/// Finds the state for a request.
type FindSource = dyn Fn(&mut Request) -> Result<Option<LiveSource>> + Send + Sync;

/// A live fragment as the application defines it.
pub(crate) struct Definition {
    pub(crate) name: String,
    /// The location of the definition.
    pub(crate) location: &'static Location<'static>,
    /// The path of the mounted application that defines it; empty for the whole site.
    pub(crate) prefix: String,
    template: String,
    find: Arc<FindSource>,
}

impl Definition {
    pub(crate) fn new<F, L>(name: &str, template: &str, f: F, location: &'static Location<'static>) -> Definition
    where
        F: Fn(&mut Request) -> L + Send + Sync + 'static,
        L: IntoLive,
    {
        Definition {
            name: name.to_owned(),
            location,
            prefix: String::new(),
            template: template.to_owned(),
            find: Arc::new(move |req| f(req).into_live()),
        }
    }

    /// Returns an error if the name cannot be part of an address.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if (1..=64).contains(&self.name.len()) && self.name.bytes().all(fits) {
            return Ok(());
        }
        let (name, location) = (&self.name, self.location);
        let message = format!("App::live(`{name}`) at {location}: a name has 1 to 64 letters, digits, `-` or `_`");
        Err(Error::internal(message))
    }

    /// Returns the path of the stream within the application that defines the fragment.
    pub(crate) fn route(&self) -> String {
        format!("{BUILTIN}/live/{}", self.name)
    }

    /// Returns the path of the stream in the whole site.
    pub(crate) fn path(&self) -> String {
        format!("{}{}", self.prefix, self.route())
    }

    /// Returns the handler of the stream's route.
    pub(crate) fn stream(&self) -> impl Fn(&mut Request) -> Result<Response> + use<> {
        let (template, find) = (self.template.clone(), self.find.clone());
        move |req| {
            let arguments = req.query_pairs()?;
            match req.with_arguments(None, arguments, |req| find(req))? {
                Some(LiveSource(source)) => source.stream(req, &template),
                None => Ok(Response::event_source(Nothing)),
            }
        }
    }

    /// Returns the function that renders the fragment in a page. Pages outside the path `hooks`, whose hooks guard the stream,
    /// are refused.
    pub(crate) fn show(self, hooks: Option<String>) -> Show {
        Box::new(move |req, arguments| {
            if let Some(path) = hooks.as_deref().filter(|path| !is_below(req.path(), path)) {
                return Err(Error::internal(format!(
                    "the fragment is defined in the application at `{path}`, whose hooks do not run for this page: show it \
                     on pages below `{path}`, or define it in the outer application"
                )));
            }
            let url = self.url(&arguments)?;
            let source = req.with_arguments(Some(self.name.clone()), arguments, |req| (self.find)(req))?;
            let part = source.map(|LiveSource(source)| source.fragment(req, &url, &self.template)).transpose()?;
            Ok(part.map_or_else(String::new, |part| part.to_string()))
        })
    }

    /// Returns the address of the stream, with the arguments as its query.
    fn url(&self, arguments: &Arguments) -> Result<String> {
        if arguments.is_empty() {
            return Ok(self.path());
        }
        let query = serde_urlencoded::to_string(arguments)?;
        if query.len() > LONGEST_QUERY {
            let bytes = query.len();
            return Err(Error::internal(format!(
                "the arguments take {bytes} bytes in the stream's address, more than {LONGEST_QUERY}: pass an id, and find \
                 the rest by it"
            )));
        }
        Ok(format!("{}?{query}", self.path()))
    }
}

/// Returns true if a path is `path` or below it.
fn is_below(page: &str, path: &str) -> bool {
    page.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The stream of a fragment without a state: it empties the element in the page, and ends.
struct Nothing;

impl StreamSource for Nothing {
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause> {
        // An event without data is not delivered.
        for event in [Event::new(" "), Event::new("").named("end")] {
            out.extend_from_slice(event.to_wire().as_bytes());
        }
        None
    }

    fn call_when_new(&self, call: Call) {
        call();
    }
}
