//! A job in a process of its own: what it breaks there is a failure record here.
//!
//! The parent starts this same program once more, with its own arguments and one more variable in the environment. The
//! child comes through the user's `main` to `App::run` or `App::work` as the parent did, finds the variable there, reads
//! its order from the channel that it has in the place of standard input, does that one job and exits.
//!
//! Three ways lead from one to the other. The **channel** (`protocol.rs`) carries the order and a cancellation one way, log
//! records, progress and the result the other; what a job prints cannot spoil it. **Standard output and error** of the child
//! are one pipe, whose lines go to the log, and whose last lines say what the process died of. The **exit status** says
//! how it ended. `parent.rs` watches all three and the clock; `child.rs` is the other side.
//!
//! The child ends with its parent, whatever becomes of that: the system kills it (on Linux), and the end of the channel is
//! its end as well.

#[cfg(unix)]
mod child;
#[cfg(not(unix))]
mod elsewhere;
#[cfg(unix)]
mod lines;
#[cfg(unix)]
mod parent;
mod protocol;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(unix)]
pub(crate) use child::child_main;
#[cfg(not(unix))]
pub(crate) use elsewhere::{child_main, run};
#[cfg(unix)]
pub(crate) use parent::run;
pub(crate) use protocol::{Limits, Order, is_child};
