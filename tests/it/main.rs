//! The integration tests: one binary, so that it is linked once. Each file says what belongs there.

mod background;
#[cfg(all(feature = "image", feature = "mail", feature = "webhook"))]
mod bad_input;
mod conformance;
mod hostile;
mod logs;
mod multipart;
mod pages;
mod wire;
