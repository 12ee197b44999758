//! What the command writes and what it refuses. Nothing is built here: see `sites.rs`.

mod generate;
mod new;
#[path = "../support/mod.rs"]
mod support;
