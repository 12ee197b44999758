//! The integration tests: one binary, so that it is linked once. Each file names its subject.

mod app;
mod background;
#[cfg(all(feature = "image", feature = "mail", feature = "webhook"))]
mod bad_input;
mod comparison;
mod compiler_messages;
mod conformance;
#[cfg(feature = "embed")]
mod embedded;
mod endings;
mod error_pages;
mod failure_hooks;
#[cfg(all(unix, feature = "sqlite", feature = "mail"))]
mod file_modes;
mod files;
mod forms;
mod guard;
mod hostile;
#[cfg(feature = "image")]
mod images;
mod isolated;
mod job_output;
mod jobs;
mod json_log;
#[cfg(all(feature = "epoll", target_os = "linux"))]
mod limits;
mod live;
mod live_fragments;
mod locations;
mod log_lines;
mod log_output;
mod logs;
mod metrics;
mod middleware;
mod minimum_rust;
mod multipart;
mod nested_tasks;
mod pages;
mod panel;
mod panel_jobs;
#[cfg(feature = "mail")]
mod panel_requests;
#[cfg(feature = "sqlite")]
mod panics;
mod percent;
mod readme;
#[cfg(all(unix, feature = "redis"))]
#[allow(dead_code)] // No test here kills or suspends the server.
#[path = "../support/redis.rs"]
mod redis_server;
mod seeds;
mod sentry;
mod sessions;
mod shares;
mod start;
mod streams;
mod testing;
// The lists hold for this platform, and only the dependencies of the compiled features are certain to be downloaded.
#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    feature = "mail",
    feature = "image",
    feature = "webhook",
    feature = "sqlite",
    feature = "epoll"
))]
mod weight;
mod wire;

/// The transport under test. `ASIDE_SERVER=tiny_http cargo test --test it` selects the other one on Linux.
fn server() -> aside::config::ServerKind {
    aside::Config::from_env().expect("settings that can be used").server
}

fn is_tiny_http() -> bool {
    server() == aside::config::ServerKind::TinyHttp
}
