//! What a client sends on a connection of the epoll transport: the size of the pieces in the first byte, then all bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((at_once, sent)) = bytes.split_first() {
        aside::fuzzing::connection(sent, usize::from(*at_once));
    }
});
