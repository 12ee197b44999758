//! The names of this module for systems other than Unix: each returns an error that says that they need Unix.

use std::sync::Arc;

use super::protocol::{Call, Target, VARIABLE, plain_error};
use crate::background::failure::{Failure, Outcome};
use crate::background::scope::Scope;
use crate::background::task_context::TaskContext;

/// A stand-in: the program cannot be started again here.
#[derive(Debug, Clone)]
pub(crate) struct Program;

impl Program {
    pub(crate) fn own() -> Program {
        Program
    }

    pub(crate) fn test(_name: Option<&str>) -> Program {
        Program
    }
}

/// A pool that never has children.
#[derive(Debug)]
pub(crate) struct Pool;

impl Pool {
    pub(crate) fn new(_program: Program) -> Arc<Pool> {
        Arc::new(Pool)
    }

    /// # Errors
    /// In every call.
    pub(crate) fn run(self: &Arc<Pool>, call: &Call, _input: &str, _task: &TaskContext) -> Outcome<Option<String>> {
        Err(refusal(call))
    }
}

/// # Errors
/// Always.
pub(crate) fn run_once(_program: &Program, call: &Call, _input: &str, _task: &TaskContext) -> Outcome<Option<String>> {
    Err(refusal(call))
}

/// # Errors
/// Never: there are no children.
pub(super) fn refuse_inside_a_child(_target: Target) -> Result<(), Failure> {
    Ok(())
}

/// The type of a function that runs a call, which is never used here.
pub(crate) type Dispatch = dyn Fn(&Call, &str, &TaskContext) -> Outcome<Option<String>> + Send + Sync;

/// There are no children: the variable was set by mistake.
pub(crate) fn is_asked_for(_knows: impl FnOnce(&Call) -> bool) -> bool {
    exit()
}

/// There are no children: the variable was set by mistake.
pub(crate) fn child_main(_scope: &Scope, _dispatch: Arc<Dispatch>) -> ! {
    exit()
}

fn refusal(call: &Call) -> Failure {
    let message = match call.target {
        Target::Function { .. } => {
            "an isolated function needs Unix: run the program there, or call the function in a task"
        }
        Target::Job { .. } => "an isolated job needs Unix: run it there, or do without `const ISOLATED: bool = true`",
    };
    Failure::Error(plain_error(format!("{}: {message}", call.label)))
}

fn exit() -> ! {
    eprintln!("{VARIABLE} is set, and isolated functions and jobs need Unix: unset it to start the site");
    std::process::exit(1)
}
