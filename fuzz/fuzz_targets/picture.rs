//! The decoder of uploaded images, at a reduced size.
#![no_main]

use aside::image::{DecodeOptions, Fit, Format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let fit = Fit::Inside(40, 40);
    let options = DecodeOptions::new().max_pixels(1 << 20).max_memory(64 << 20).largest_fit(fit);
    if let Ok(image) = options.decode(bytes) {
        let small = image.encode(fit, Format::Jpeg).expect("a decoded image can be encoded");
        assert!(!small.is_empty());
    }
});
