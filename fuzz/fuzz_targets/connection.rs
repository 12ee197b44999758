//! The input of a connection of the epoll transport. The first byte is the size of the pieces in which the rest arrives.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((at_once, sent)) = bytes.split_first() {
        aside::fuzzing::connection(sent, usize::from(*at_once));
    }
});
