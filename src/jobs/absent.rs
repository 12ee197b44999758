//! What the application and the server ask of jobs, for a build without the feature `jobs`: no application has any, and
//! the compiler removes the code for them.

use std::sync::Arc;

#[cfg(feature = "isolate")]
use crate::background::failure::Outcome;
use crate::background::scope::Scope;
#[cfg(feature = "isolate")]
use crate::background::task_context::TaskContext;
use crate::error::Result;
#[cfg(feature = "isolate")]
use crate::isolate::Call;

/// The jobs of an application: none.
pub(crate) enum Jobs {}

impl Jobs {
    pub(crate) fn describe(&self) -> String {
        match *self {}
    }

    pub(crate) fn is_durable(&self) -> bool {
        match *self {}
    }

    pub(crate) fn outage(&self) -> Option<&'static str> {
        match *self {}
    }

    pub(crate) fn ready(&self) -> Result<(), &'static str> {
        match *self {}
    }

    pub(crate) fn for_tests(&self) {
        match *self {}
    }

    pub(crate) fn check(&self) -> Result<()> {
        match *self {}
    }

    pub(crate) fn belong_to(&self, _scope: &Scope) {
        match *self {}
    }

    #[cfg(feature = "isolate")]
    pub(crate) fn knows(&self, _name: &str) -> bool {
        match *self {}
    }

    #[cfg(feature = "isolate")]
    pub(crate) fn run_isolated(
        &self,
        _call: &Call,
        _attempt: (u64, u64),
        _payload: &str,
        _task: &TaskContext,
    ) -> Outcome<Option<String>> {
        match *self {}
    }
}

/// What runs the jobs: nothing.
pub(crate) mod runner {
    use super::*;

    pub(crate) enum JobRunner {}

    impl JobRunner {
        pub(crate) fn start(jobs: &Jobs, _scope: Scope) -> Result<Arc<JobRunner>> {
            match *jobs {}
        }

        pub(crate) fn stop_claiming(&self) {
            match *self {}
        }

        pub(crate) fn leave(&self) {
            match *self {}
        }
    }
}
