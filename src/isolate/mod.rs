//! Functions and jobs in child processes: a crash there is a failure of the call here.
//!
//! The parent starts its own program again, with its own arguments and one more environment variable. The child runs the
//! user's `main` up to `App::run` or `App::work`, finds the variable there, and runs the calls that the parent sends:
//! `function` finds the functions of an application by their names, and `jobs` its jobs.
//!
//! Parent and child are connected in three ways. The **channel** (`protocol`) carries calls and cancellations to the child,
//! and log records, progress and outcomes to the parent; printed output cannot corrupt it. **Standard output and error** of
//! the child are one pipe: the parent logs its lines, and finds the cause of a crash in the last of them (`child_output`).
//! The **exit status** says how the process ended. `call` watches all three and the time limit of one call; `process` is
//! the parent's side of a child; `child` is the child's side.
//!
//! A job has a process of its own for each attempt. Functions share a `pool` of warm children. A child is used again only
//! if a call has left nothing behind (`hygiene`).
//!
//! A child ends with its parent, however the parent ends: the operating system kills it (on Linux), and the child exits at
//! the end of the channel.

#[cfg(unix)]
mod call;
#[cfg(unix)]
mod child;
#[cfg(unix)]
mod child_output;
mod function;
#[cfg(unix)]
mod hygiene;
#[cfg(unix)]
mod limits;
mod log_values;
#[cfg(unix)]
mod pool;
#[cfg(unix)]
mod process;
mod protocol;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(not(unix))]
mod unsupported;
#[cfg(unix)]
mod wake;

#[cfg(unix)]
use call::refuse_inside_a_child;
#[cfg(unix)]
pub(crate) use call::run_once;
#[cfg(unix)]
pub(crate) use child::{child_main, is_asked_for};
pub(crate) use function::{Functions, Isolation};
pub use function::{Isolated, IsolatedFunction, isolated};
#[cfg(unix)]
pub(crate) use pool::Pool;
#[cfg(unix)]
pub(crate) use process::Program;
pub(crate) use protocol::{Call, Limits, Target, is_child};
#[cfg(not(unix))]
use unsupported::refuse_inside_a_child;
#[cfg(not(unix))]
pub(crate) use unsupported::{Pool, Program, child_main, is_asked_for, run_once};
