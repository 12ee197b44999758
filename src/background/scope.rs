//! Where work comes from: the request, and the application with all that is its own.
//!
//! Both go along from request to task to nested task, in a thread-local that [`Context::enter`] sets and resets, so that
//! free functions such as `background` and `Mail::send` need no argument, and two applications in one process (two tests,
//! say) do not see each other's tasks and mail.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};

use super::registry::{Record, Registry, RequestInfo};
use crate::config::Config;

/// What belongs to one application: its tasks, and a value of each type it was given (mailer, templates, state).
#[derive(Clone)]
pub(crate) struct Scope(Arc<Inner>);

/// The same, without keeping it alive: for what it holds itself.
#[derive(Clone)]
pub(crate) struct WeakScope(Weak<Inner>);

impl WeakScope {
    /// The scope, while somebody keeps it.
    pub(crate) fn upgrade(&self) -> Option<Scope> {
        self.0.upgrade().map(Scope)
    }
}

struct Inner {
    registry: Registry,
    values: Values,
}

impl Scope {
    /// A scope with these values.
    pub(crate) fn new(registry: Registry, values: Values) -> Scope {
        Scope(Arc::new(Inner { registry, values }))
    }

    /// The process's own, for work that no application started.
    pub(crate) fn process() -> Scope {
        static PROCESS: LazyLock<Scope> = LazyLock::new(|| {
            let config = Config::from_env().unwrap_or_default();
            Scope::new(Registry::new(&config), Values::default())
        });
        PROCESS.clone()
    }

    /// The same, without keeping it alive.
    pub(crate) fn downgrade(&self) -> WeakScope {
        WeakScope(Arc::downgrade(&self.0))
    }

    /// The tasks.
    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The value of that type, when the application has one.
    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.values.get()
    }

    /// The application's state of that type.
    ///
    /// # Panics
    /// When `App::state` was not given one.
    pub(crate) fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.get().unwrap_or_else(|| {
            let name = std::any::type_name::<T>();
            panic!("there is no state of type {name}: give it to the application with `App::state(value)`")
        })
    }
}

/// The values of a scope in the making, one of each type.
#[derive(Default)]
pub(crate) struct Values(BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Values {
    /// Puts a value in, in place of one of the same type.
    pub(crate) fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Arc::new(value));
    }

    /// The value of that type, when there is one.
    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>()).cloned()?.downcast().ok()
    }

    /// Puts all of another's in. Whether no type was there twice; then ours stays.
    pub(crate) fn merge(&mut self, others: Values) -> bool {
        let twice = others.0.keys().any(|key| self.0.contains_key(key));
        others.0.into_iter().for_each(|(key, value)| {
            self.0.entry(key).or_insert(value);
        });
        !twice
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// What goes along with a thread of work.
#[derive(Clone)]
pub(crate) struct Context {
    /// The application.
    pub(crate) scope: Scope,
    /// The request, when there is one.
    pub(crate) origin: Option<Arc<RequestInfo>>,
    /// The task that this thread is, when it is one.
    pub(crate) task: Option<Arc<Record>>,
}

impl Context {
    /// This thread's, or the process's own.
    pub(crate) fn current() -> Context {
        let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
        current.unwrap_or_else(|| Context { scope: Scope::process(), origin: None, task: None })
    }

    /// Makes this the thread's context until the guard goes.
    pub(crate) fn enter(self) -> Entered {
        Entered(CURRENT.replace(Some(self)))
    }
}

/// The task that this thread is, when it is one.
pub(crate) fn current_task() -> Option<Arc<Record>> {
    CURRENT.with_borrow(|current| current.as_ref()?.task.clone())
}

/// Whether this thread is a task's.
#[cfg(feature = "image")]
pub(crate) fn is_task() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(|current| current.task.is_some()))
}

/// Puts the former context back when dropped.
pub(crate) struct Entered(Option<Context>);

impl Drop for Entered {
    fn drop(&mut self) {
        let former = self.0.take();
        let _ = CURRENT.try_with(|current| current.replace(former));
    }
}
