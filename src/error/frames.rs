//! Backtraces, with the application's frames marked.

use serde::Serialize;

use super::location::is_foreign;

/// The largest number of frames. A longer backtrace is a recursion, whose start is enough.
const MAX_FRAMES: usize = 200;

/// A frame of a backtrace.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The name of the function.
    pub(crate) name: String,
    /// The file, line and column, if the program has debug information.
    pub(crate) location: Option<String>,
    /// True if the application wrote the function, and not the standard library, this crate or another.
    pub(crate) own: bool,
}

/// Parses a backtrace as the standard library prints it: `  12: site::save`, and on the next line `             at
/// ./src/main.rs:17:5`. An inlined call has no number.
pub(crate) fn frames(backtrace: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in backtrace.lines().map(str::trim) {
        if let (Some(location), Some(frame)) = (line.strip_prefix("at "), frames.last_mut()) {
            frame.set_location(location);
        } else if frames.len() < MAX_FRAMES {
            frames.push(Frame { name: without_number(line).to_owned(), location: None, own: false });
        } else {
            break;
        }
    }
    disown_framework(&mut frames);
    frames
}

/// Marks the frames in this crate's files as not the application's. The name of an inlined function has no path, and the
/// debug information has absolute paths, so that neither tells: the call that captures the backtrace does.
fn disown_framework(frames: &mut [Frame]) {
    let source_of = |frame: &Frame| Some(frame.location.as_ref()?.split_once(CAPTURE)?.0.to_owned());
    let Some(source) = frames.iter().filter(|frame| is_ours(&frame.name)).find_map(source_of) else { return };
    for frame in frames {
        frame.own &= !frame.location.as_ref().is_some_and(|location| location.starts_with(&source));
    }
}

/// The path, within this crate's source folder, of the file that captures backtraces.
const CAPTURE: &str = "error/backtraces.rs:";

/// The modules from which the framework calls the application. The frames below are of the application that has started the
/// framework, such as `main` or a test.
const CALLERS: [&str; 2] = ["aside::app::service::", "aside::background::run::"];

/// Returns the location of the application's last call in a backtrace, as file and line.
pub(crate) fn last_own_call(backtrace: &str) -> Option<String> {
    let calls = frames(backtrace).into_iter();
    let mut within = calls.take_while(|frame| !CALLERS.iter().any(|caller| frame.name.contains(caller)));
    let own = within.find(|frame| frame.own)?.location?;
    let (file_and_line, _column) = own.rsplit_once(':')?;
    Some(file_and_line.trim_start_matches("./").to_owned())
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
        self.location = Some(location.to_owned());
    }
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
        assert_eq!(last_own_call(BACKTRACE).as_deref(), Some("site/main.rs:17"));
        assert_eq!(frames.len(), 8);
        let service = "   1: aside::app::service::Service::dispatch\n             at /aside/src/app/service.rs:9:9\n";
        assert_eq!(last_own_call(&format!("{service}{BACKTRACE}")), None, "the caller of the framework");
        assert_eq!(frames[3].location.as_deref(), Some("./site/main.rs:40:9"));
        assert_eq!(frames[7], Frame { name: "__libc_start_main".into(), location: None, own: false });
    }

    /// Regression: the name of an inlined function has no path, so that a function of the framework counted as the application's.
    #[test]
    fn an_inlined_function_of_the_framework_is_not_the_applications() {
        let inlined = "   0: aside::error::backtraces::Trace::force_capture
             at /home/ada/aside/src/error/backtraces.rs:35:48
   1: made_at
             at /home/ada/aside/src/error/mod.rs:265:51
   2: save
             at /home/ada/shop/src/main.rs:40:9
";
        assert_eq!(last_own_call(inlined).as_deref(), Some("/home/ada/shop/src/main.rs:40"));
    }

    #[test]
    fn a_recursion_is_cut_and_invalid_lines_are_harmless() {
        assert_eq!(frames(&BACKTRACE.repeat(1_000)).len(), MAX_FRAMES);
        assert!(frames("").is_empty());
        assert_eq!(frames("at nowhere\n\u{0}").len(), 2);
    }
}
