//! States that requests begin on demand: one for each session, and one for each key, of each type.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};

use super::{Live, LiveMap};
use crate::background::task::Task;
use crate::bounds::{self, LONGEST_KEY};
use crate::error::{Error, OrHere, Result};
use crate::http::request::Request;
use crate::sync::lock;

/// The states of an application. Those of sessions and those of keys are apart: a client that chooses many keys takes no
/// capacity from sessions, and a key never names a session's state.
#[derive(Default)]
pub(crate) struct LiveStates {
    of_sessions: ByType,
    of_keys: ByType,
}

/// A map for each type of state.
#[derive(Default)]
struct ByType(Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>);

impl ByType {
    fn map<T: Clone + Send + Sync + 'static>(&self) -> LiveMap<String, T> {
        let mut maps = lock(&self.0);
        let map = maps.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(LiveMap::<String, T>::new()));
        map.downcast_ref::<LiveMap<String, T>>().expect("each type has its own map").clone()
    }
}

impl Request {
    /// Returns the state of this type that belongs to this session, and begins it with its default if there is none.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// #[derive(Clone, Default, serde::Serialize)]
    /// struct Import { rows: u32 }
    ///
    /// fn start(req: &mut Request) -> Result<Response> {
    ///     let import = req.session_live::<Import>()?;
    ///     Ok(redirect("/").background(move || (0..100).for_each(|_| import.update(|import| import.rows += 1))))
    /// }
    ///
    /// let app = App::new()
    ///     .live("import", "import.html", Request::session_live::<Import>)
    ///     .template("import.html", "{{ rows }} rows")
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
    /// Another session never gets it. It is kept in memory, in a [`LiveMap`] for each type under the
    /// [`Session::id`](crate::Session::id), and forgotten a minute after its last use, when no page follows it and no task
    /// holds it. At most 10,000 unused states of a type are kept. A login or logout changes the id, and begins a new state.
    /// Two states of one session are two types.
    ///
    /// # Errors
    /// 500 if the operating system has no random numbers for a new session.
    #[track_caller]
    pub fn session_live<T>(&mut self) -> Result<Live<T>>
    where
        T: Clone + Default + Send + Sync + 'static,
    {
        let session = self.session().id()?;
        Ok(self.live_states().or_here()?.of_sessions.map().entry(session, T::default))
    }

    /// Returns the state of this type that belongs to this key, for all clients, and begins it with its default if there is
    /// none: one for each order, say, or each room of a chat.
    ///
    /// ```
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// #[derive(Clone, Default, serde::Serialize)]
    /// struct Room { lines: Vec<String> }
    ///
    /// fn room_of(req: &mut Request) -> Result<aside::Live<Room>> {
    ///     let room: u64 = req.param("id")?; // and here the handler checks that this user may see the room
    ///     req.keyed_live(room)
    /// }
    ///
    /// fn say(req: &mut Request) -> Result<Response> {
    ///     let line = req.text()?;
    ///     room_of(req)?.update(|room| room.lines.push(line));
    ///     Ok(redirect("/"))
    /// }
    ///
    /// App::new()
    ///     .live("room", "room.html", room_of) // {{ live("room", id=17) }}
    ///     .post("/rooms/{id}", say);
    /// ```
    ///
    /// A client that chooses the key sees the state of that key: check that the client may. Keys of one type share a
    /// [`LiveMap`], with its limits: a state is forgotten a minute after its last use, and at most 10,000 unused states are
    /// kept. A key may have any length: a key over 64 bytes is stored as its hash.
    ///
    /// # Errors
    /// 500 for a request outside an application.
    #[track_caller]
    pub fn keyed_live<T>(&self, key: impl Display) -> Result<Live<T>>
    where
        T: Clone + Default + Send + Sync + 'static,
    {
        let key = bounds::key(&key.to_string(), LONGEST_KEY).into_owned();
        Ok(self.live_states().or_here()?.of_keys.map().entry(key, T::default))
    }

    fn live_states(&self) -> Result<Arc<LiveStates>> {
        self.scope().get().ok_or_else(|| Error::internal("a live state by session or key needs an application"))
    }

    /// Returns a task of this name that belongs to this session: to run it, to find it, and to show its progress.
    ///
    /// ```
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn start(req: &mut Request) -> Result<Response> {
    ///     req.session_task("import")?.spawn(|task| {
    ///         for row in 0..100 {
    ///             task.check_cancelled()?;
    ///             task.progress(row, 100);
    ///         }
    ///         aside::ok(())
    ///     });
    ///     Ok(redirect("/"))
    /// }
    ///
    /// fn cancel(req: &mut Request) -> Result<Response> {
    ///     req.session_task("import")?.find().inspect(|import| import.cancel());
    ///     Ok(redirect("/"))
    /// }
    ///
    /// App::new()
    ///     .live_task("import", "aside/progress.html")
    ///     .template("page.html", "{{ live('import') }}")
    ///     .post("/", start)
    ///     .post("/cancel", cancel);
    /// ```
    ///
    /// Its [key](Task::key) contains the [`Session::id`](crate::Session::id), so that no other session finds it. Of several
    /// such tasks the newest that has not ended is found, or else the newest that has.
    ///
    /// # Errors
    /// 500 if the operating system has no random numbers for a new session.
    #[track_caller]
    pub fn session_task(&mut self, name: &str) -> Result<Task> {
        let session = self.session().id()?;
        Ok(Task::named(name).key(format!("{name} of session {session}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};
    use crate::http::session::Keys;
    use crate::http::session::store::Store;

    fn requests() -> impl FnMut() -> Request {
        let config = Arc::new(Config { secrets: vec!["a".repeat(32)], ..Config::default() });
        let mut values = Values::default();
        values.insert(Keys::new(&config, None).unwrap());
        values.insert(Store::open(&config).unwrap());
        values.insert(LiveStates::default());
        let scope = Scope::new(Registry::new(&config), values);
        move || {
            let mut req = Request::new(Method::Get, "/", Headers::new(), Body::empty());
            req.admit(scope.clone(), config.clone(), "3f9a1c".into());
            req
        }
    }

    #[test]
    fn states_of_keys_and_of_sessions_have_separate_limits() {
        let mut request = requests();
        let mut session = request();
        session.session_live::<u32>().unwrap().update(|number| *number = 7);
        let req = request();
        let held = req.keyed_live::<u32>("held").unwrap();
        held.update(|number| *number = 8);
        for number in 0..25_000 {
            req.keyed_live::<u32>(number).unwrap();
        }
        (0..100).for_each(|number| drop(req.keyed_live::<u32>(format!("{number}{}", "x".repeat(1 << 20))).unwrap()));
        let states = req.scope().get::<LiveStates>().unwrap();
        let count = states.of_keys.map::<u32>().len();
        assert!((5_000..=10_000).contains(&count), "{count}");
        assert_eq!(*req.keyed_live::<u32>("held").unwrap().get(), 8, "what is in use stays");
        assert_eq!(*session.session_live::<u32>().unwrap().get(), 7, "keys take nothing from sessions");
        for _ in 0..12_000 {
            request().session_live::<u64>().unwrap();
        }
        let count = states.of_sessions.map::<u64>().len();
        assert!((5_000..=10_000).contains(&count), "{count}");
        assert_eq!(*session.session_live::<u32>().unwrap().get(), 7, "each type has its own map");
    }

    #[test]
    fn a_state_belongs_to_its_type_and_its_session_or_key() {
        let mut request = requests();
        let (mut one, mut other) = (request(), request());
        one.session_live::<u32>().unwrap().update(|number| *number = 1);
        assert_eq!(*one.session_live::<u32>().unwrap().get(), 1);
        assert_eq!(*one.session_live::<u64>().unwrap().get(), 0);
        assert_eq!(*other.session_live::<u32>().unwrap().get(), 0);
        let id = one.session().id().unwrap();
        assert_eq!(*other.keyed_live::<u32>(id).unwrap().get(), 0, "a key is never a session");
        one.keyed_live::<u32>(17).unwrap().update(|number| *number = 2);
        assert_eq!(*other.keyed_live::<u32>("17").unwrap().get(), 2);
    }
}
