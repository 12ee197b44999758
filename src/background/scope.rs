//! The context of work: its application and its request.
//!
//! Both pass from a request to its tasks and to their nested tasks, in a thread-local that [`Context::enter`] sets and
//! resets. Free functions such as `background` and `Mail::send` therefore need no argument, and two applications in one
//! process (two tests, for example) do not see each other's tasks and mail.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};

use super::lineage::Lineage;
use super::record::Record;
use super::registry::Registry;
use crate::config::Config;

/// The registry and the values of one application: its tasks, and one value for each type (mailer, templates, state).
#[derive(Clone)]
pub(crate) struct Scope(Arc<Inner>);

/// A weak reference to a [`Scope`], for values that the scope itself holds.
#[derive(Clone)]
pub(crate) struct WeakScope(Weak<Inner>);

impl WeakScope {
    /// Returns the scope, if it still exists.
    pub(crate) fn upgrade(&self) -> Option<Scope> {
        self.0.upgrade().map(Scope)
    }
}

struct Inner {
    registry: Registry,
    values: Values,
}

impl Scope {
    /// Creates a scope with a registry and values.
    pub(crate) fn new(registry: Registry, values: Values) -> Scope {
        Scope(Arc::new(Inner { registry, values }))
    }

    /// Returns the scope of the process, for work that no application started.
    pub(crate) fn process() -> Scope {
        static PROCESS: LazyLock<Scope> = LazyLock::new(|| {
            let config = Config::from_env().unwrap_or_default();
            Scope::new(Registry::new(&config), Values::default())
        });
        PROCESS.clone()
    }

    /// Returns a weak reference to the scope.
    pub(crate) fn downgrade(&self) -> WeakScope {
        WeakScope(Arc::downgrade(&self.0))
    }

    /// Returns the registry of the tasks.
    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Returns the application's value of type `T`, if it has one.
    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.values.get()
    }

    /// Returns the application's state of type `T`.
    ///
    /// # Panics
    /// If `App::state` was not called with a value of that type.
    #[track_caller]
    pub(crate) fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        match self.get() {
            Some(value) => value,
            None => panic!("{}", self.0.values.no_state(std::any::type_name::<T>())),
        }
    }
}

/// The values of a scope that is being built, one for each type.
#[derive(Default)]
pub(crate) struct Values {
    by_type: BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>,
    /// The names of the types that the application has added.
    states: Vec<&'static str>,
}

/// The largest number of types that a message lists.
const MOST_LISTED: usize = 10;

impl Values {
    /// Inserts a value, in place of one of the same type.
    pub(crate) fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.by_type.insert(TypeId::of::<T>(), Arc::new(value));
    }

    /// Inserts a value that the application has added.
    pub(crate) fn insert_state<T: Any + Send + Sync>(&mut self, value: T) {
        let name = std::any::type_name::<T>();
        // The panel is an application too.
        self.states.extend(Some(name).filter(|name| !name.starts_with("aside::panel")));
        self.insert(value);
    }

    /// Returns the message for a type without a value.
    fn no_state(&self, name: &str) -> String {
        let mut message = format!("the application has no state of type `{name}`: add it with `App::state(value)`");
        let listed: Vec<_> = self.states.iter().take(MOST_LISTED).map(|state| format!("`{state}`")).collect();
        let rest = self.states.len().saturating_sub(MOST_LISTED);
        if !listed.is_empty() {
            message += &format!("; it has state of the types {}", listed.join(", "));
        }
        if rest > 0 {
            message += &format!(" and {rest} more");
        }
        message
    }

    /// Returns the value of type `T`, if there is one.
    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.by_type.get(&TypeId::of::<T>()).cloned()?.downcast().ok()
    }

    /// Inserts all values of another set. Values that exist already stay. Returns false if a type was in both sets.
    pub(crate) fn merge(&mut self, others: Values) -> bool {
        let has_duplicates = others.by_type.keys().any(|key| self.by_type.contains_key(key));
        self.states.extend(others.states);
        others.by_type.into_iter().for_each(|(key, value)| {
            self.by_type.entry(key).or_insert(value);
        });
        !has_duplicates
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// The context of work on one thread.
#[derive(Clone)]
pub(crate) struct Context {
    /// The application.
    pub(crate) scope: Scope,
    /// The request and the trace, if there are any, and the work that starts other work here.
    pub(crate) lineage: Lineage,
    /// The task that this thread runs, if it runs one.
    pub(crate) task: Option<Arc<Record>>,
}

impl Context {
    /// Returns the context of work in an application that no request has started.
    pub(crate) fn of(scope: Scope) -> Context {
        Context { scope, lineage: Lineage::default(), task: None }
    }

    /// Returns the context of this thread, or of the process if the thread has none.
    pub(crate) fn current() -> Context {
        let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
        current.unwrap_or_else(|| Context::of(Scope::process()))
    }

    /// Makes this the thread's context until the guard is dropped.
    pub(crate) fn enter(self) -> Entered {
        Entered(CURRENT.replace(Some(self)))
    }
}

/// Passes the context of this thread to `read`. Returns `None` if there is none, or if it is being changed.
pub(crate) fn with_current<R>(read: impl FnOnce(&Context) -> R) -> Option<R> {
    let read = |current: &RefCell<Option<Context>>| Some(read(current.try_borrow().ok()?.as_ref()?));
    CURRENT.try_with(read).ok().flatten()
}

/// Returns the task that this thread runs, if it runs one.
pub(crate) fn current_task() -> Option<Arc<Record>> {
    CURRENT.with_borrow(|current| current.as_ref()?.task.clone())
}

/// Returns true if this thread runs a task.
#[cfg(feature = "image")]
pub(crate) fn is_task() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(|current| current.task.is_some()))
}

/// A guard that restores the previous context when dropped.
pub(crate) struct Entered(Option<Context>);

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.0.take();
        let _ = CURRENT.try_with(|current| current.replace(previous));
    }
}
