//! Where there is no Unix: the same names, which say so.

use super::protocol::{Order, VARIABLE, said};
use crate::background::failure::{Failure, Outcome};
use crate::background::scope::Scope;
use crate::background::task::TaskContext;

/// Runs no job.
///
/// # Errors
/// Always.
pub(crate) fn run(order: &Order, _task: &TaskContext) -> Result<(), Failure> {
    let words = "an isolated job needs Unix: run it there, or do without `const ISOLATED: bool = true`";
    Err(Failure::Error(said(format!("{}: {words}", order.label))))
}

/// There are no children here: whoever set the variable made a mistake.
pub(crate) fn child_main(_scope: &Scope, _run: impl FnOnce(&Order, &TaskContext) -> Outcome<()> + Send + 'static) -> ! {
    eprintln!("{VARIABLE} is set, and isolated jobs need Unix: unset it to start the site");
    std::process::exit(1)
}
