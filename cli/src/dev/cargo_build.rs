//! One run of `cargo build`. The terminal shows what Cargo prints; the pages show its progress and its errors.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::ansi;
use super::process_group;

/// What Cargo prints at the beginning of a line that is neither an error nor a warning.
const STATUS: [&str; 14] = [
    "Compiling",
    "Checking",
    "Building",
    "Finished",
    "Blocking",
    "Updating",
    "Locking",
    "Adding",
    "Downloading",
    "Downloaded",
    "Fresh",
    "Dirty",
    "Running",
    "Removed",
];

/// The most bytes of messages that are kept.
const MOST: usize = 256 << 10;

/// The most bytes of a line of them.
const LONGEST_LINE: usize = 4 << 10;

/// The outcome of a build: its programs, or why there are none.
pub type Outcome = Result<Vec<PathBuf>, Refusal>;

/// A build that failed.
pub struct Refusal {
    /// The messages of Cargo, with colors.
    pub messages: String,
    /// True if Cargo has begun to build: its options and the manifest are valid.
    pub has_begun: bool,
}

/// A running build.
pub struct CargoBuild {
    child: Arc<Mutex<Child>>,
    group: u32,
}

impl CargoBuild {
    /// Starts Cargo. `progress` is called with each step, and `end` with the outcome.
    ///
    /// # Errors
    /// An error if Cargo cannot be started.
    pub fn start(
        folder: &Path,
        options: &[String],
        progress: impl Fn(&str) + Send + 'static,
        end: impl FnOnce(Outcome) + Send + 'static,
    ) -> io::Result<CargoBuild> {
        let mut child = command(folder, options).spawn()?;
        let (programs, messages) = (child.stdout.take(), child.stderr.take());
        let group = child.id();
        let child = Arc::new(Mutex::new(child));
        let waited = child.clone();
        thread::spawn(move || {
            let programs = thread::spawn(move || programs.map(read_programs).unwrap_or_default());
            let messages = messages.map(|messages| read_messages(messages, progress)).unwrap_or_default();
            let (programs, has_begun) = programs.join().unwrap_or_default();
            // Both outputs are closed, so that this does not block for long.
            let is_built =
                waited.lock().unwrap_or_else(PoisonError::into_inner).wait().is_ok_and(|status| status.success());
            end(if is_built { Ok(programs) } else { Err(Refusal { messages, has_begun }) });
        });
        Ok(CargoBuild { child, group })
    }

    /// Ends Cargo with all compilers and build scripts that it has started.
    pub fn cancel(self) {
        process_group::end(self.group, &self.child);
    }
}

fn command(folder: &Path, options: &[String]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .arg("build")
        // Without its manifest, a site below another package would have that one built.
        .arg("--manifest-path")
        .arg(folder.join("Cargo.toml"))
        .args(options)
        .args(["--color", "always", "--message-format", "json-render-diagnostics"])
        .current_dir(folder)
        // Pages show the progress, and Cargo writes none to a pipe.
        .env("CARGO_TERM_PROGRESS_WHEN", "always")
        .env("CARGO_TERM_PROGRESS_WIDTH", "80")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// Returns the programs in the messages of Cargo, which are lines of JSON, and if there is any message.
fn read_programs(output: impl Read) -> (Vec<PathBuf>, bool) {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok).peekable();
    let has_begun = lines.peek().is_some();
    (lines.filter_map(|line| program(&line)).collect(), has_begun)
}

/// Returns the program that a message names. Those of build scripts are not named.
fn program(message: &str) -> Option<PathBuf> {
    if !message.starts_with(r#"{"reason":"compiler-artifact""#) {
        return None;
    }
    let (_, text) = message.rsplit_once(r#""executable":""#)?;
    let (mut path, mut chars) = (String::new(), text.chars());
    loop {
        match chars.next()? {
            '"' => return Some(path.into()),
            // A path has no characters that are written as numbers, but for control characters.
            '\\' => path.push(chars.next()?),
            c => path.push(c),
        }
    }
}

/// Passes what Cargo prints on to the terminal, reports its progress, and returns its messages.
fn read_messages(output: impl Read, progress: impl Fn(&str)) -> String {
    let (mut output, mut kept, mut line) = (BufReader::new(output), String::new(), Vec::new());
    let (is_terminal, is_colored) = (io::stderr().is_terminal(), is_colored());
    while let Some(end) = next_line(&mut output, &mut line) {
        let text = String::from_utf8_lossy(&line);
        let plain = ansi::plain(&text);
        if is_terminal || end == b'\n' {
            let shown = if is_colored { text.trim_start_matches("\x1b[K") } else { plain.as_str() };
            // The bar of the progress stays on its line.
            let clear = if is_terminal { "\x1b[K" } else { "" };
            let _ = write!(io::stderr(), "{clear}{shown}{}", char::from(end)); // standard error may be closed
        }
        let first = plain.split_whitespace().next().unwrap_or_default();
        match STATUS.contains(&first) {
            true => progress(plain.trim()),
            false if end == b'\n' => keep(&mut kept, text.trim_start_matches("\x1b[K")),
            false => {}
        }
        line.clear();
    }
    kept
}

/// Keeps a line. If there are too many, the last ones and the errors are left.
fn keep(kept: &mut String, line: &str) {
    kept.extend([start(line, LONGEST_LINE), "\n"]);
    if kept.len() > MOST {
        let least = start(kept, MOST - MOST / 4);
        let last = least.rfind("\n\n").filter(|at| *at > MOST / 2).unwrap_or(least.len());
        let (former, last) = kept.split_at(last);
        let former = only_errors(former);
        *kept = format!("{}\n\n{last}", start(&former, MOST / 2));
    }
}

/// Returns the text up to this number of bytes, without a part of a character.
fn start(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// Returns true if standard error is a terminal that shows colors.
pub fn is_colored() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Reads up to the end of a line, and returns it: a new line, or the return with which the next line replaces this one.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Option<u8> {
    loop {
        let buffer = input.fill_buf().ok().filter(|buffer| !buffer.is_empty())?;
        let end = buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let (taken, found) = (end.unwrap_or(buffer.len()), end.map(|at| buffer[at]));
        line.extend_from_slice(&buffer[..taken]);
        input.consume(taken + usize::from(found.is_some()));
        if found.is_some() {
            return found;
        }
    }
}

/// Returns the errors among the messages, which blank lines separate. Without one, returns all.
pub fn errors(messages: &str) -> String {
    match only_errors(messages) {
        errors if errors.is_empty() => messages.trim_matches('\n').to_owned(),
        errors => errors,
    }
}

/// Returns the messages that begin with `error`: each with its source lines and its causes, up to the next message.
fn only_errors(messages: &str) -> String {
    let mut is_error = false;
    let lines = messages.trim_matches('\n').split_inclusive('\n').filter(|line| {
        let text = ansi::plain(start(line, 64));
        is_error = text.starts_with("error") || (is_error && !text.starts_with("warning"));
        is_error
    });
    lines.collect::<String>().trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_program_is_read_from_the_messages_of_cargo() {
        let message = |executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"shop"}},"filenames":[],"executable":{executable},"fresh":true}}"#
            )
        };
        assert_eq!(program(&message(r#""/a \"b\"/target/debug/shop""#)), Some(r#"/a "b"/target/debug/shop"#.into()));
        assert_eq!(program(&message("null")), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn progress_is_told_from_messages() {
        let output = "\x1b[1m\x1b[92m   Compiling\x1b[0m shop v0.1.0\n    Building [==>   ] 12/40: serde\r\
                      \x1b[K\x1b[1m\x1b[91merror\x1b[0m: no\n --> src/main.rs:1:1\n";
        let steps = RefCell::new(Vec::new());
        let messages = read_messages(output.as_bytes(), |step| steps.borrow_mut().push(step.to_owned()));
        assert_eq!(*steps.borrow(), ["Compiling shop v0.1.0", "Building [==>   ] 12/40: serde"]);
        assert_eq!(messages, "\x1b[1m\x1b[91merror\x1b[0m: no\n --> src/main.rs:1:1\n");
    }

    #[test]
    fn errors_are_shown_without_the_warnings() {
        let messages = "warning: unused\n --> src/a.rs:1:1\n\n\
                        \x1b[91merror[E1]\x1b[0m: no\n --> src/a.rs:2:1\n\nerror: could not compile\n";
        assert_eq!(errors(messages), "\x1b[91merror[E1]\x1b[0m: no\n --> src/a.rs:2:1\n\nerror: could not compile");
        assert_eq!(errors("failed to parse\n"), "failed to parse");
        let script = "error: failed to run custom build command\n\nCaused by:\n  a panic in build.rs";
        assert_eq!(errors(&format!("warning: unused manifest key\n{script}\nwarning: build failed\n")), script);
    }

    #[test]
    fn errors_are_kept_before_and_after_many_warnings() {
        let mut kept = String::new();
        let warnings = |kept: &mut String| {
            for number in 0..20_000 {
                keep(kept, &format!("warning: {number} is unused, and has a long text\n --> src/main.rs:1:1\n"));
            }
        };
        keep(&mut kept, "error: the first\n --> src/main.rs:2:2\n");
        warnings(&mut kept);
        keep(&mut kept, "error: the second\n --> src/main.rs:3:3\n");
        warnings(&mut kept);
        keep(&mut kept, &format!("error: the third {}", "é".repeat(MOST)));
        let errors = errors(&kept);
        for error in ["the first", "the second", "the third"] {
            assert!(errors.contains(error), "{error}");
        }
        assert!(kept.len() <= MOST && !errors.contains("unused"));
        (0..2_000).for_each(|_| keep(&mut kept, &"one line ".repeat(100)));
        assert!(kept.len() <= MOST);
    }
}
