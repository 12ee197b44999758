//! The live fragments of an application: their definitions, and what their pages need.

use std::panic::Location;

use super::parts::Part;
use super::{App, routing};
use crate::error::Error;
use crate::http::request::Request;
use crate::http::templates::live_function::LiveFragments;
use crate::live;
use crate::live::definition::{Definition, IntoLive};
use crate::live::states::LiveStates;

/// The live fragments that an application defines.
#[derive(Default)]
pub(super) struct LiveDefinitions(Vec<Definition>);

impl App {
    /// Defines a live fragment: `{{ live("posts") }}` in a template shows a state, and the open page follows its changes.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn add(req: &mut Request) -> Result<Response> {
    ///     let (posts, title) = (req.session_live::<Vec<String>>()?, req.text()?);
    ///     posts.update(|posts| posts.push(title)); // every open page of this session shows it
    ///     Ok(redirect("/"))
    /// }
    ///
    /// let app = App::new()
    ///     .live("posts", "posts.html", Request::session_live::<Vec<String>>)
    ///     .template("posts.html", "<ul>{% for title in state %}<li>{{ title }}</li>{% endfor %}</ul>")
    ///     .template("page.html", "<h1>Posts</h1> {{ live('posts') }}")
    ///     .get("/", |req: &mut Request| req.render("page.html", ()))
    ///     .post("/", add);
    ///
    /// let mut client = TestClient::new(app);
    /// client.post("/").body("text/plain", "Hello").send();
    /// assert!(client.get("/").text().contains("<ul><li>Hello</li></ul>"));
    /// assert_eq!(client.events("/_aside/live/posts").next().data, "<ul><li>Hello</li></ul>");
    /// ```
    ///
    /// `f` returns the state for a request: a [`Live`](crate::Live) state, the progress of a task, an `Option`, or a
    /// `Result` of these ([`IntoLive`](crate::live::IntoLive)): the state of this session
    /// ([`session_live`](Request::session_live)), a task of this session ([`session_task`](Request::session_task)), the state
    /// of a key ([`keyed_live`](Request::keyed_live)), or a state that the application stores. `template` is rendered with it,
    /// as [`Request::live`] describes; in the page it is a [`Live::fragment`](crate::Live::fragment).
    ///
    /// The stream is at `/_aside/live/NAME`, below the path of a mounted application. Hooks run for the stream as for a page
    /// at this path, and `f` runs again. An error of either refuses the stream with its status: the page keeps its content,
    /// and requests the stream again after half a second to half a minute. While a page is rendered, an error of `f` is the
    /// page's error. If `f` returns `None`, the page shows nothing; an open page empties the fragment and stops. A finished
    /// state opens no stream.
    ///
    /// `{{ live("photo", id=17) }}` passes arguments, which `f` reads with [`req.param("id")`](Request::param), for the page
    /// and for the stream alike. Clients can change the arguments in the stream's URL: `f` must check the client's access. An
    /// argument that is `none` is left out. All arguments together may have 4,096 bytes.
    ///
    /// Names are unique in the whole site, and consist of letters, digits, `-` and `_`. If a mounted application has hooks,
    /// only pages below its path can show its fragments.
    #[track_caller]
    pub fn live<F, L>(mut self, name: &str, template: &str, f: F) -> App
    where
        F: Fn(&mut Request) -> L + Send + Sync + 'static,
        L: IntoLive,
    {
        let location = Location::caller();
        let live = Definition::new(name, template, f, location);
        let (route, stream) = (live.route(), live.stream());
        if self.add_live(live) { self.get(&route, stream) } else { self }
    }

    /// Defines a live fragment for the progress of the session's task with this name:
    /// `.live_task("import", "aside/progress.html")` and `{{ live("import") }}`.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn start(req: &mut Request) -> Result<Response> {
    ///     req.session_task("import")?.spawn(|task| task.message("100 rows"));
    ///     Ok(redirect("/"))
    /// }
    ///
    /// let app = App::new()
    ///     .live_task("import", "aside/progress.html")
    ///     .template("page.html", "{{ live('import') }}")
    ///     .get("/", |req: &mut Request| req.render("page.html", ()))
    ///     .post("/", start);
    ///
    /// let mut client = TestClient::new(app);
    /// client.post("/").send();
    /// client.drain();
    /// assert!(client.get("/").text().contains("100 rows"));
    /// ```
    ///
    /// It calls [`live`](App::live) with the [`Request::session_task`] of this name. If the session has no such task, the
    /// page shows nothing. The template has the fields of [`Progress`](crate::tasks::Progress); `aside/progress.html` is
    /// built in.
    #[track_caller]
    pub fn live_task(self, name: &str, template: &str) -> App {
        let task = name.to_owned();
        self.live(name, template, move |req: &mut Request| req.session_task(&task))
    }

    /// Adds a definition, and returns true, unless its name is invalid or taken.
    fn add_live(&mut self, live: Definition) -> bool {
        let (name, location) = (&live.name, live.location);
        let first = self.live.0.iter().find(|other| other.name == *name).map(|other| other.location);
        let taken = first.map(|first| {
            Error::internal(format!("the name of the live fragment `{name}` at {location} is already used at {first}"))
        });
        let problem = taken.or_else(|| live.check().err());
        let fits = problem.is_none();
        self.problems.extend(problem);
        self.live.0.extend(fits.then_some(live));
        fits
    }

    /// Adds the live fragments of an application that is mounted below a path.
    pub(super) fn mount_live(&mut self, prefix: &str, definitions: LiveDefinitions) {
        definitions.0.into_iter().for_each(|mut live| {
            live.prefix.insert_str(0, prefix);
            self.add_live(live);
        });
    }

    /// Adds what live fragments need: the route of their script, the template of progress, and the states by key.
    pub(super) fn prepare_live(&mut self) {
        routing::get(live::script).into_routes(live::SCRIPT_PATH).for_each(|route| self.add(route));
        let (name, source) = live::PROGRESS;
        // First, so that a template of the site with this name has precedence.
        self.templates.add_default(name, source);
        let definitions = std::mem::take(&mut self.live.0);
        self.values.insert(live_fragments(definitions, &self.parts));
        self.values.insert(LiveStates::default());
    }
}

/// Returns the fragments for the template function `live`. Only pages for which the stream's hooks run may show a fragment.
fn live_fragments(definitions: Vec<Definition>, parts: &[Part]) -> LiveFragments {
    let hooks = |path: &str| {
        let with_hooks = parts.iter().filter(|part| !part.before.is_empty() && part.holds(path));
        with_hooks
            .map(|part| &part.prefix)
            .max_by_key(|prefix| prefix.len())
            .filter(|prefix| !prefix.is_empty())
            .cloned()
    };
    let fragment = |live: Definition| {
        let hooks = hooks(&live.path());
        (live.name.clone(), live.show(hooks))
    };
    definitions.into_iter().map(fragment).collect()
}
