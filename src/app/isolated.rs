//! The isolated functions of an application, and its part as a child process.

use std::sync::Arc;

use super::App;
use super::service::Service;
use crate::background::failure::Failure;
use crate::background::scope::Values;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result};
use crate::isolate::{self, Call, Functions, IsolatedFunction, Isolation, Program, Target};
use crate::jobs::Jobs;

/// The isolated functions that an application registers, and the program that a child process runs.
pub(super) struct IsolatedFunctions {
    functions: Functions,
    program: Program,
}

impl Default for IsolatedFunctions {
    fn default() -> IsolatedFunctions {
        IsolatedFunctions { functions: Functions::default(), program: Program::own() }
    }
}

impl IsolatedFunctions {
    /// Adds the functions of a mounted application.
    pub(super) fn mount(&mut self, other: IsolatedFunctions) {
        self.functions.merge(other.functions);
    }

    /// Has child processes run this test alone.
    pub(super) fn for_tests(&mut self) {
        self.program = Program::test(std::thread::current().name());
    }

    /// Returns the mistakes in the registrations, which are reported when the application starts.
    pub(super) fn problems(&self) -> &[String] {
        self.functions.problems()
    }

    /// Adds the functions to the values of the application.
    pub(super) fn add_to(self, values: &mut Values) {
        values.insert(Isolation::new(self.functions, self.program));
    }
}

impl App {
    /// Registers a function that [`isolated`](crate::isolated()) runs in a child process, so that the child finds it.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Result, isolated};
    ///
    /// fn double(n: u64) -> Result<u64> { Ok(2 * n) }
    ///
    /// let client = TestClient::new(App::new().isolated(double));
    /// assert_eq!(client.within(|| isolated(double, 21)).join()?, 42);
    /// # aside::ok(())
    /// ```
    ///
    /// A function of a [mounted](App::mount) application is registered for the whole site. A closure is refused when the
    /// application starts, since it has no name.
    pub fn isolated<F, M>(mut self, f: F) -> App
    where
        F: IsolatedFunction<M>,
    {
        self.isolated.functions.register(f);
        self
    }

    /// Returns true if this process is a child that runs the isolated functions of its parent.
    pub(crate) fn is_in_child() -> bool {
        isolate::is_child()
    }

    /// Serves the parent if this is a child process, and then exits.
    ///
    /// # Errors
    /// If this is a child process and the application cannot start.
    pub(crate) fn serve_parent_in_child(self) -> Result<App> {
        if isolate::is_child() {
            self.build()?.serve_parent();
        }
        Ok(self)
    }
}

impl Service {
    /// Runs the calls of the parent process, in a child process, and then exits.
    fn serve_parent(&self) -> ! {
        let (isolation, jobs) = (self.isolation(), self.scope().get::<Jobs>());
        let dispatch = move |call: &Call, input: &str, task: &TaskContext| match call.target {
            Target::Function { .. } => isolation.call(&call.name, input, task),
            Target::Job { id, token } => match &jobs {
                Some(jobs) => jobs.run_isolated(call, (id, token), input, task),
                None => {
                    let message = "cannot run an isolated job in this child process: the application has no jobs";
                    Err(Failure::Error(Error::internal(message)))
                }
            },
        };
        isolate::child_main(self.scope(), Arc::new(dispatch))
    }

    /// Does the same if this is a child process and the application knows the function or job that the parent calls. If it
    /// does not, a later application of the program may.
    pub(crate) fn serve_parent_if_asked(&self) {
        let jobs = self.scope().get::<Jobs>();
        let knows = |call: &Call| match call.target {
            Target::Function { .. } => self.isolation().knows(&call.name),
            Target::Job { .. } => jobs.is_some_and(|jobs| jobs.knows(&call.name)),
        };
        if isolate::is_child() && isolate::is_asked_for(knows) {
            self.serve_parent();
        }
    }

    /// Returns the isolated functions.
    ///
    /// # Panics
    /// Never: every application has them, even if there are none.
    fn isolation(&self) -> Arc<Isolation> {
        self.scope().state()
    }

    /// Makes the functions known to the whole process.
    pub(crate) fn register_isolated(&self) {
        self.isolation().is_started();
    }
}
