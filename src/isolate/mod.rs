//! Functions and jobs in child processes: what they break there is a failure here.
//!
//! The parent starts this same program again, with its own arguments and one more variable in the environment. The child
//! comes through the user's `main` to `App::run` or `App::work` as the parent did, finds the variable there, and runs what
//! the parent asks for: `function` knows the functions of an application by their names, and `jobs` its jobs.
//!
//! Three ways lead from one to the other. The **channel** (`protocol`) carries calls and cancellations one way, log records,
//! progress and outcomes the other; what a call prints cannot spoil it. **Standard output and error** of the child are one
//! pipe, whose lines go to the log, and whose last lines say what the process died of (`child_output`). The **exit status**
//! says how it ended. `call` watches all three and the clock for one call; `process` is the child as the parent sees it;
//! `child` is the other side.
//!
//! A job has a process of its own for each attempt. Functions share a `pool` of warm children, each of which is used again
//! after a clean end alone (`hygiene`).
//!
//! A child ends with its parent, whatever becomes of that: the operating system kills it (on Linux), and the end of the
//! channel is its end as well.

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
