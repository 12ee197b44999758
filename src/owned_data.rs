//! A bound for types that serde reads, whose name explains the compiler's message about a type that borrows.

use serde::Deserialize;

/// A type that serde can read from any input. `T: for<'de> OwnsItsData<'de>` means `T: DeserializeOwned`.
///
/// A type that borrows, such as `&str` or a struct with a `&str`, fails a bound of this form only when lifetimes are
/// checked. The compiler's message then names nothing but the trait: "implementation of `OwnsItsData` is not general enough".
#[doc(hidden)]
pub trait OwnsItsData<'de>: Deserialize<'de> {}

#[diagnostic::do_not_recommend]
impl<'de, T: Deserialize<'de>> OwnsItsData<'de> for T {}
