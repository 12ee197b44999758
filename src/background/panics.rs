//! Panics, caught with their place.
//!
//! The payload that `catch_unwind` gives has no place; the panic hook has it. One hook, installed once, writes down what it
//! sees while a [`catch`] is on the stack of that thread, and passes on everything else to the hook that was there before.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::failure::Panic;

thread_local! {
    /// How many catches are on this thread's stack.
    static CATCHING: Cell<usize> = const { Cell::new(0) };
    /// What the hook saw last on this thread.
    static SEEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic in it comes back as a value, and is not printed.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Panic> {
    install();
    let _depth = Depth::enter();
    // What `f` leaves half done is either its own or behind a lock that says so: nothing of ours is reached through it.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let panic = describe(&*payload);
        // A payload's own drop may panic; that one has nobody left to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        panic
    })
}

struct Depth;

impl Depth {
    fn enter() -> Depth {
        CATCHING.set(CATCHING.get() + 1);
        Depth
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        CATCHING.set(CATCHING.get() - 1);
    }
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if CATCHING.try_with(Cell::get).unwrap_or(0) > 0 { write_down(info) } else { previous(info) }
        }));
    });
}

fn write_down(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let panic = Panic {
        message: message(info.payload()),
        place: info.location().map(|place| format!("{}:{}", place.file(), place.line())),
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    };
    let _ = SEEN.try_with(|seen| seen.replace(Some(panic)));
}

/// What the hook saw of this payload. `resume_unwind` calls no hook: a record of an earlier panic, which `f` itself
/// caught, does not match and is not used.
fn describe(payload: &(dyn Any + Send)) -> Panic {
    let message = message(payload);
    match SEEN.take() {
        Some(seen) if seen.message == message => seen,
        _ => Panic { message, place: None, backtrace: None },
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)").to_owned()
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::*;

    #[test]
    fn a_panic_has_its_words_and_its_place() {
        let line = line!() + 1;
        let panic = catch(|| panic!("boom {}", 7)).unwrap_err();
        assert_eq!(panic.message, "boom 7");
        assert_eq!(panic.place, Some(format!("{}:{line}", file!())));
    }

    #[test]
    fn a_record_that_is_not_of_this_payload_is_not_used() {
        let panic = catch(|| {
            let _ = catch_unwind(|| panic!("first"));
            resume_unwind(Box::new("second"))
        });
        let panic: Panic = panic.map(|never: ()| never).unwrap_err();
        assert_eq!((panic.message.as_str(), panic.place), ("second", None));
    }

    #[test]
    fn a_payload_may_be_anything() {
        assert_eq!(catch(|| std::panic::panic_any(42)).map(|never: ()| never).unwrap_err().message, "(no message)");
    }
}
