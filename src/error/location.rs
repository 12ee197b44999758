//! Source locations, and which of them are in the application's code.

use std::panic::Location;
use std::path::Path;

/// Parts of the paths of files that the application's author did not write: of the standard library, and of dependencies that
/// cargo fetched.
const FOREIGN: [&str; 8] = [
    "/rustc/",
    "/rustlib/",
    "/.cargo/",
    "/cargo/registry/",
    "/cargo/git/",
    "/library/std/",
    "/library/core/",
    "/library/alloc/",
];

/// Returns true for a file of the standard library, of a dependency that cargo fetched, or of this crate: a location there does
/// not help a user to find a fault.
pub(crate) fn is_foreign(file: &str) -> bool {
    let file = file.replace('\\', "/");
    FOREIGN.iter().any(|folder| file.contains(folder)) || is_of_the_framework(file.trim_start_matches("./"))
}

/// Returns a location if it is in the application's code.
pub(crate) fn own(location: &'static Location<'static>) -> Option<&'static Location<'static>> {
    Some(location).filter(|location| !is_foreign(location.file()))
}

/// Returns a location as text: `src/orders.rs:41`.
pub(crate) fn text(location: &Location<'_>) -> String {
    format!("{}:{}", location.file(), location.line())
}

/// Returns true if a source file, as the compiler names it, belongs to this crate.
fn is_of_the_framework(file: &str) -> bool {
    // This file is `src/error/location.rs`.
    Path::new(file!()).ancestors().nth(2).is_some_and(|source| Path::new(file).starts_with(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_application_are_its_own() {
        for foreign in [
            "/rustc/59807616e/library/core/src/option.rs",
            "/home/ada/.cargo/registry/src/index.crates.io-1/serde-1.0/src/de.rs",
            "/usr/local/cargo/git/checkouts/x/src/lib.rs",
            r"C:\Users\ada\.cargo\registry\src\x\lib.rs",
            file!(),
            "./src/app/mod.rs",
        ] {
            assert!(is_foreign(foreign), "{foreign}");
        }
        for own in ["site/main.rs", "examples/darkroom/main.rs", "tests/it/app.rs", "/srv/shop/lib.rs", ""] {
            assert!(!is_foreign(own), "{own}");
        }
    }
}
