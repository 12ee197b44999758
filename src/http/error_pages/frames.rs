//! Backtraces, with the application's frames marked.

use serde::Serialize;

use super::sanitize::visible;
use crate::error::is_of_the_framework;

/// The largest number of frames. A longer backtrace is a recursion, whose start is enough.
const MAX_FRAMES: usize = 200;

/// A frame of a backtrace.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Frame {
    /// The name of the function.
    pub(super) name: String,
    /// The file, line and column, if the program has debug information.
    pub(super) location: Option<String>,
    /// True if the application wrote the function, and not the standard library, this crate or another.
    pub(super) own: bool,
}

/// Parses a backtrace as the standard library prints it: `  12: site::save`, and on the next line `             at
/// ./src/main.rs:17:5`. An inlined call has no number.
pub(super) fn frames(backtrace: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in backtrace.lines().map(str::trim) {
        if let (Some(location), Some(frame)) = (line.strip_prefix("at "), frames.last_mut()) {
            frame.set_location(location);
        } else if frames.len() < MAX_FRAMES {
            frames.push(Frame { name: visible(without_number(line)), location: None, own: false });
        } else {
            break;
        }
    }
    frames
}

fn without_number(line: &str) -> &str {
    match line.split_once(": ") {
        Some((number, name)) if number.parse::<usize>().is_ok() => name,
        _ => line,
    }
}

impl Frame {
    fn set_location(&mut self, location: &str) {
        // Frames of the C library have locations too.
        self.own = location.contains(".rs:") && !is_foreign(location) && !is_ours(&self.name);
        self.location = Some(visible(location));
    }
}

/// Returns true for a file of the standard library, of a dependency that cargo fetched, or of this crate.
pub(super) fn is_foreign(location: &str) -> bool {
    let location = location.replace('\\', "/");
    let folders =
        ["/rustc/", "/rustlib/", "/.cargo/", "/cargo/registry/", "/library/std/", "/library/core/", "/library/alloc/"];
    folders.iter().any(|folder| location.contains(folder)) || is_of_the_framework(location.trim_start_matches("./"))
}

/// Returns true if the function belongs to this crate.
fn is_ours(name: &str) -> bool {
    let ours = module_path!().split("::").next();
    name.trim_start_matches(['<', '&', '*']).split([':', '[']).next() == ours
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKTRACE: &str = "   0: std::backtrace::Backtrace::capture
             at /rustc/59807616e/library/std/src/backtrace.rs:331:18
   1: aside::error::Error::made_at
             at /home/ada/aside/src/error.rs:190:9
   2: <shop::Order as core::ops::Drop>::drop
             at ./site/main.rs:17:5
      shop::save
             at ./site/main.rs:40:9
   3: <aside::app::App>::get::<shop::save>::{closure#0}
             at /home/ada/aside/src/app.rs:99:5
   4: serde::de::visit
             at /home/ada/.cargo/registry/src/index.crates.io-1/serde-1.0/src/de.rs:1:1
   5: start_thread
             at ./nptl/pthread_create.c:442:8
   6: __libc_start_main
";

    #[test]
    fn frames_of_the_application_are_marked() {
        let frames = frames(BACKTRACE);
        let own: Vec<_> = frames.iter().filter(|frame| frame.own).map(|frame| frame.name.as_str()).collect();
        assert_eq!(own, ["<shop::Order as core::ops::Drop>::drop", "shop::save"]);
        assert_eq!(frames.len(), 8);
        assert_eq!(frames[3].location.as_deref(), Some("./site/main.rs:40:9"));
        assert_eq!(frames[7], Frame { name: "__libc_start_main".into(), location: None, own: false });
    }

    #[test]
    fn a_recursion_is_cut_and_invalid_lines_are_harmless() {
        assert_eq!(frames(&BACKTRACE.repeat(1_000)).len(), MAX_FRAMES);
        assert!(frames("").is_empty());
        assert_eq!(frames("at nowhere\n\u{0}").len(), 2);
    }
}
