//! The types that a task may return as they are, without a `Result` around them.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{NonZero, Saturating, Wrapping};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime};

/// A value that contains no error, so that a task can return it without a `Result`.
///
/// ```
/// use aside::background;
///
/// let sum = background(|| 41 + 1);
/// assert_eq!(sum.join().unwrap().unwrap(), 42);
/// ```
///
/// These types of the standard library are plain values: numbers, `bool`, `char`, text, paths, times, network addresses; and
/// options, tuples of up to 12, arrays, references, boxes, `Arc`s and collections **of plain values**.
///
/// A type of your own becomes one with an empty implementation. It should not contain a `Result` or the handle of another
/// task:
///
/// ```
/// use aside::tasks::PlainValue;
/// use aside::background;
///
/// struct Totals {
///     orders: u64,
/// }
///
/// impl PlainValue for Totals {}
///
/// let totals = background(|| Totals { orders: 3 });
/// assert_eq!(totals.join().unwrap().unwrap().orders, 3);
/// ```
///
/// Any other value, such as one of another crate, is returned in [`aside::ok(value)`](crate::ok()).
///
/// # What is not a plain value
///
/// `Result`, `Box<dyn Error>`, [`Failure`](crate::Failure) and the handles of tasks and threads. A task that returns a
/// `Result` returns it as it is, and its error is logged. Within another value the error would be lost silently, so this
/// does not compile:
///
/// ```compile_fail
/// let rows = ["1", "x"];
/// aside::background(move || rows.map(|row| row.parse::<u32>()).into_iter().collect::<Vec<_>>());
/// ```
///
/// ```compile_fail
/// aside::background(|| Some("x").map(|row| row.parse::<u32>()));
/// ```
///
/// ```compile_fail
/// aside::background(|| ("x".parse::<u32>(), 1));
/// ```
///
/// Collect into one `Result`, or use `transpose` and `?`:
///
/// ```
/// let rows = ["1", "2"];
/// let handle = aside::background(move || rows.iter().map(|row| row.parse::<u32>()).collect::<Result<Vec<_>, _>>());
/// assert_eq!(handle.join().unwrap().unwrap(), [1, 2]);
/// ```
///
/// A deliberate exception is possible: `aside::ok(results)` returns the results as a value, and their errors are not logged.
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}` as a plain value",
    label = "the closure of this task returns a value that is or contains `{Self}`",
    note = "for any value: end the closure in `aside::ok(value)`; to return nothing, end it in a semicolon",
    note = "for a type of your own whose values contain no error: `impl aside::tasks::PlainValue for {Self} {{}}`",
    note = "a `Result` inside another value would lose its error: use `?`, or collect into one `Result`, and return that"
)]
pub trait PlainValue {}

macro_rules! plain_integers {
    ($($type:ty),+) => { $(impl PlainValue for $type {} impl PlainValue for NonZero<$type> {})+ };
}

plain_integers!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

macro_rules! plain_values {
    ($($type:ty),+ $(,)?) => { $(impl PlainValue for $type {})+ };
}

plain_values!(f32, f64, bool, char, Ordering);
plain_values!(str, String, CStr, CString, Path, PathBuf, OsStr, OsString);
plain_values!(Duration, Instant, SystemTime, ThreadId);
plain_values!(IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6);

macro_rules! plain_wrappers {
    ($($type:ident),+) => { $(impl<T: PlainValue> PlainValue for $type<T> {})+ };
}

plain_wrappers!(Option, Reverse, Saturating, Wrapping, Range, RangeInclusive);
plain_wrappers!(Vec, VecDeque, LinkedList, BinaryHeap, BTreeSet);

impl<T: PlainValue> PlainValue for [T] {}
impl<T: PlainValue, const N: usize> PlainValue for [T; N] {}
impl<T: PlainValue + ?Sized> PlainValue for &T {}
impl<T: PlainValue + ?Sized> PlainValue for Box<T> {}
impl<T: PlainValue + ?Sized> PlainValue for Arc<T> {}
impl<T: PlainValue + ToOwned + ?Sized> PlainValue for Cow<'_, T> {}
impl<T: PlainValue, S> PlainValue for HashSet<T, S> {}
impl<K: PlainValue, V: PlainValue, S> PlainValue for HashMap<K, V, S> {}
impl<K: PlainValue, V: PlainValue> PlainValue for BTreeMap<K, V> {}

macro_rules! plain_tuples {
    ($(($($part:ident),*))+) => { $(impl<$($part: PlainValue),*> PlainValue for ($($part,)*) {})+ };
}

plain_tuples! {
    ()
    (A)
    (A, B)
    (A, B, C)
    (A, B, C, D)
    (A, B, C, D, E)
    (A, B, C, D, E, F)
    (A, B, C, D, E, F, G)
    (A, B, C, D, E, F, G, H)
    (A, B, C, D, E, F, G, H, I)
    (A, B, C, D, E, F, G, H, I, J)
    (A, B, C, D, E, F, G, H, I, J, K)
    (A, B, C, D, E, F, G, H, I, J, K, L)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::marker::PhantomData;
    use std::thread::JoinHandle;

    use super::*;
    use crate::background::failure::{Failure, IntoOutcome, Outcome};
    use crate::background::handle::TaskHandle;

    /// Decides at compile time if a task may return a type: the inherent constant exists only for those, and is preferred.
    struct Probe<T>(PhantomData<T>);

    impl<T: IntoOutcome> Probe<T> {
        const CAN_BE_RETURNED: bool = true;
    }

    trait Otherwise {
        const CAN_BE_RETURNED: bool = false;
    }

    impl<T> Otherwise for Probe<T> {}

    macro_rules! refused {
        ($($type:ty),+ $(,)?) => {
            [$((<Probe<$type>>::CAN_BE_RETURNED, stringify!($type))),+]
                .into_iter().filter_map(|(is_taken, name)| (!is_taken).then_some(name)).collect::<Vec<_>>()
        };
    }

    type Failing = Result<u8, Failure>;
    type Twelve = (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8);

    #[test]
    fn a_task_may_return_plain_values_of_the_standard_library() {
        let numbers = refused!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);
        let wrapped = refused!(NonZero<u8>, NonZero<i64>, Wrapping<u8>, Saturating<u8>, Reverse<u8>, Range<u8>);
        let small = refused!((), bool, char, Ordering, RangeInclusive<u8>);
        let text = refused!(String, &'static str, Cow<'static, str>, Box<str>, Arc<str>, CString);
        let paths = refused!(PathBuf, &'static Path, Cow<'static, Path>, Arc<Path>, OsString);
        let times = refused!(Duration, Instant, SystemTime);
        let addresses = refused!(IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6);
        let collections = refused!(
            Vec<u8>,
            VecDeque<u8>,
            LinkedList<u8>,
            BinaryHeap<u8>,
            HashMap<String, Vec<u8>>,
            BTreeMap<String, Vec<u8>>,
            HashSet<u8>,
            BTreeSet<u8>,
            [u8; 32],
            Box<[u8]>,
        );
        let nested = refused!(Option<Vec<(String, [f64; 2])>>, (u8,), Twelve, Box<u8>, Arc<Vec<u8>>, Option<()>);
        let results = refused!(Result<u8, String>, Outcome<Vec<u8>>, Result<Vec<Failing>, Failure>);
        for refused in [numbers, wrapped, small, text, paths, times, addresses, collections, nested, results] {
            assert!(refused.is_empty(), "{refused:?}");
        }
    }

    #[test]
    fn a_task_may_not_return_a_result_or_a_handle_inside_another_value() {
        assert_eq!(
            refused!(
                Vec<Failing>,
                VecDeque<Failing>,
                Option<Failing>,
                Option<Vec<Option<Failing>>>,
                (Failing, u8),
                (u8, Failing),
                [Failing; 2],
                Box<[Failing]>,
                Box<Failing>,
                Arc<Failing>,
                HashMap<u8, Failing>,
                BTreeMap<u8, Failing>,
                Vec<JoinHandle<Outcome<u8>>>,
                JoinHandle<Outcome<u8>>,
                TaskHandle<u8>,
                Option<TaskHandle<u8>>,
                Failure,
                Option<Failure>,
                Box<dyn Error + Send + Sync>,
                Vec<Box<dyn Error + Send + Sync>>,
                std::io::Error,
            )
            .len(),
            21
        );
    }

    #[test]
    fn an_application_type_can_be_marked_as_plain() {
        struct Marked;
        struct Unmarked;
        impl PlainValue for Marked {}
        assert_eq!(refused!(Marked, Vec<Marked>, Unmarked, Vec<Unmarked>), ["Unmarked", "Vec<Unmarked>"]);
    }
}
