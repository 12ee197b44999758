//! The checks of a request head.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    aside::fuzzing::head(text);
});
