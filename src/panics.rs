//! Panics, caught with their location.
//!
//! The payload that `catch_unwind` returns has no location; the panic hook has it. One hook, installed once, records a panic
//! while a [`catch`] is on the stack of the thread, and passes all other panics to the hook that was installed before.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::{forget, needs_drop};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Once, OnceLock};

use crate::error::backtraces::Trace;
use crate::error::frames;
use crate::error::location::{self, is_foreign};

thread_local! {
    /// The number of catches on the stack of this thread.
    static CATCHING: Cell<usize> = const { Cell::new(0) };
    /// The last panic that the hook recorded on this thread.
    static SEEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Runs `f`. Returns a panic in it as an error, and does not print it.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Panic> {
    let (mut f, mut value) = (Some(f), None);
    catch_any(&mut || value = f.take().map(|f| f()))?;
    Ok(value.expect("without a panic `f` has returned"))
}

/// [`catch`] for any type, so that it is compiled once.
fn catch_any(f: &mut dyn FnMut()) -> Result<(), Panic> {
    install();
    let _depth = Depth::enter();
    // A value that `f` leaves half changed belongs to the application, or is behind one of its locks, which are poisoned then.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let panic = describe(&*payload);
        // A payload's own drop may panic, again with a payload whose drop panics: that payload is leaked.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            forget(second);
        }
        panic
    })
}

/// Drops an application value. A panic in its drop is caught and logged.
pub(crate) fn discard<T>(value: T) {
    if !needs_drop::<T>() {
        return;
    }
    if let Err(panic) = catch(|| drop(value)) {
        log::error!(target: "aside::panics", "A value panicked in its drop: {}", panic.to_string().escape_debug());
    }
}

/// An application value. A panic in its drop is caught and logged.
pub(crate) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Contained<T> {
        Contained(Some(value))
    }

    /// Returns the value itself.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect(THERE)
    }
}

/// The message of an impossible panic: only `into_inner` and the drop take the value out.
const THERE: &str = "the value has not been taken out";

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(THERE)
    }
}

impl<T> DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(THERE)
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

/// A caught panic: its message, location and backtrace.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Panic {
    /// The message, or `(no message)` if the payload was not text.
    pub message: String,
    /// The location in the application's code, as file and line: of the panic itself, or, for a panic in a library, of the last
    /// call before it. `None` if the program has no debug information for that, if `resume_unwind` propagated the payload, or
    /// if another panic hook was installed later.
    pub location: Option<String>,
    pub(crate) trace: Option<Trace>,
}

impl Panic {
    /// Returns the backtrace as lines of text, in development or if `RUST_BACKTRACE` enabled it.
    pub fn backtrace(&self) -> Option<&str> {
        self.trace.as_ref().map(Trace::text)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.location.as_ref().map_or(Ok(()), |location| write!(f, ", at {location}"))
    }
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

/// Handles a panic outside of a [`catch`], and returns true if it has reported it.
pub(crate) type UncaughtHandler = fn(&PanicHookInfo<'_>) -> bool;

/// Set by [`on_uncaught`].
static ON_UNCAUGHT: OnceLock<UncaughtHandler> = OnceLock::new();

/// Calls `f` at each panic outside of a [`catch`], which may end the process, before the panic hook of the application. A panic
/// that `f` has reported is not printed by the hook of the standard library.
pub(crate) fn on_uncaught(f: UncaughtHandler) {
    let _ = ON_UNCAUGHT.set(f);
    install();
}

fn install() {
    static INSTALLED: Once = Once::new();
    // Setting a hook while this thread panics aborts the process. `run().unwrap()` drops the application in that state.
    if std::thread::panicking() {
        return;
    }
    INSTALLED.call_once(|| {
        let previous = take_hook();
        // Without a hook, the standard library returns its own one.
        let is_default = is_same(&*previous, &*take_hook());
        set_hook(Box::new(move |info| {
            if CATCHING.try_with(Cell::get).unwrap_or(0) > 0 {
                return record(info);
            }
            let is_reported = ON_UNCAUGHT.get().is_some_and(|f| f(info));
            if !(is_reported && is_default) {
                previous(info)
            }
        }));
    });
}

type Hook = dyn Fn(&PanicHookInfo<'_>) + Sync + Send;

/// Returns true if both hooks are the same function without captured values: a different function has another table of methods.
/// Hooks that compare as different although they are the same are called, which is safe.
fn is_same(one: &Hook, other: &Hook) -> bool {
    size_of_val(one) == 0 && std::ptr::eq(one, other)
}

/// Records a panic for the `catch` that it reaches.
fn record(info: &PanicHookInfo<'_>) {
    let panic = panic_of(info);
    let _ = SEEN.try_with(|seen| seen.replace(Some(panic)));
}

/// Returns the panic that a hook was called for.
pub(crate) fn panic_of(info: &PanicHookInfo<'_>) -> Panic {
    let trace = Trace::capture();
    let own = info.location().filter(|location| !is_foreign(location.file()));
    // A panic within the standard library or a dependency: its caller is what the user can change.
    let own_call = || frames::last_own_call(trace.clone().unwrap_or_else(Trace::force_capture).text());
    let location = own.map(location::text).or_else(own_call);
    Panic { message: message(info.payload()), location, trace }
}

/// Returns the recorded panic of a payload. `resume_unwind` calls no hook: the record of an earlier panic, which `f` caught
/// itself, does not match and is not used.
fn describe(payload: &(dyn Any + Send)) -> Panic {
    let message = message(payload);
    // At the end of a thread, the thread-local may be destroyed before the last values of the thread.
    match SEEN.try_with(RefCell::take).ok().flatten() {
        Some(seen) if seen.message == message => seen,
        _ => Panic { message, location: None, trace: None },
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
    fn a_panic_has_its_message() {
        let panic = catch(|| panic!("boom {}", 7)).unwrap_err();
        assert_eq!(panic.message, "boom 7");
    }

    #[test]
    fn a_record_of_another_payload_is_not_used() {
        let panic = catch(|| {
            let _ = catch_unwind(|| panic!("first"));
            resume_unwind(Box::new("second"))
        });
        let panic: Panic = panic.map(|never: ()| never).unwrap_err();
        assert_eq!((panic.message.as_str(), panic.location), ("second", None));
    }

    /// A value that panics in its drop, with a payload that does so too, as often as its count says.
    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            match self.0 {
                0 => panic!("the last one"),
                left => std::panic::panic_any(Bomb(left - 1)),
            }
        }
    }

    #[test]
    fn nested_panics_in_a_payloads_drop_are_contained() {
        for depth in 0..3 {
            let panic = catch(|| std::panic::panic_any(Bomb(depth))).map(|never: ()| never).unwrap_err();
            assert_eq!(panic.message, "(no message)");
            discard(Bomb(depth));
        }
    }

    #[test]
    fn a_drop_that_panics_during_unwinding_is_contained() {
        let panic = catch(|| {
            let _contained = Contained::new(Bomb(0));
            panic!("the first one")
        });
        let panic: Panic = panic.map(|never: ()| never).unwrap_err();
        assert_eq!(panic.message, "the first one");
    }

    #[test]
    fn a_payload_may_be_anything() {
        assert_eq!(catch(|| std::panic::panic_any(42)).map(|never: ()| never).unwrap_err().message, "(no message)");
    }

    /// Regression: `result.unwrap()` before the first caught panic aborted the process without a message.
    #[test]
    fn an_unwrapped_error_can_be_the_first_panic_of_a_process() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let test = "panics::tests::an_unwrapped_error_is_the_first_panic_of_this_process";
        let output = command.args(["--exact", test, "--include-ignored", "--nocapture"]).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed") && text.contains("the cause"), "{text}");
        assert!(!text.contains("caught by the hook"), "{text}");
    }

    #[test]
    #[ignore = "run in a process of its own by an_unwrapped_error_can_be_the_first_panic_of_a_process"]
    fn an_unwrapped_error_is_the_first_panic_of_this_process() {
        let failed = || -> crate::error::Result<()> { Err(std::io::Error::other("the cause").into()) };
        let payload = catch_unwind(|| failed().unwrap()).unwrap_err();
        assert!(message(&*payload).contains("the cause"));
        // The next panic still installs the hook, which prints nothing.
        assert!(catch(|| panic!("caught by the hook")).is_err());
    }
}
