//! The integration tests: one binary, so that it is linked once. Each file says what belongs there.

mod background;
mod logs;
mod pages;
