//! The decoder of uploaded images, at a reduced size.
#![no_main]

use aside::image::{Fit, Format, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let fit = Fit::Inside(40, 40);
    let limits = Limits::default().max_pixels(1 << 20).max_memory(64 << 20);
    if let Ok(picture) = limits.decode_for(bytes, fit) {
        let small = picture.encode(fit, Format::Jpeg).expect("what was read can be written");
        assert!(!small.is_empty());
    }
});
