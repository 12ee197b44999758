//! The output of a child in lines: for the log, and to find the cause of its death in the last of them.

use std::collections::VecDeque;

use crate::bounds;

/// The longest line, in bytes; the rest of a longer one is dropped.
const LONGEST: usize = 4 << 10;

/// The number of last lines that are kept.
const KEPT: usize = 20;

/// The number of bytes of the last line in a failure message.
const LONGEST_QUOTE: usize = 300;

/// Turns bytes into lines. It holds one line and the last few, whatever the child prints.
#[derive(Default)]
pub(super) struct ChildOutput {
    line: Vec<u8>,
    is_cut: bool,
    last: VecDeque<String>,
}

impl ChildOutput {
    /// Adds printed bytes, and calls `each` with each line that is complete.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LONGEST - self.line.len();
            self.is_cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.end_line(&mut each);
            }
        }
    }

    /// Ends the output: the rest is a line.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&str)) {
        self.end_line(&mut each);
    }

    fn end_line(&mut self, each: &mut impl FnMut(&str)) {
        let mut line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        if std::mem::take(&mut self.is_cut) {
            line.push('…');
        }
        self.line.clear();
        if line.is_empty() {
            return;
        }
        each(&line);
        if is_of_backtrace(&line) {
            return;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Returns the last line that contains all of these words.
    pub(super) fn with(&self, words: &[&str]) -> Option<&str> {
        self.last.iter().rev().find(|line| words.iter().all(|words| line.contains(words))).map(String::as_str)
    }

    /// Returns the last line, as a failure message contains it.
    pub(super) fn last_line(&self) -> Option<String> {
        self.last.back().map(|line| bounds::shorten(line, LONGEST_QUOTE).into_owned())
    }
}

/// Returns true for a line of a backtrace, which has no cause and would displace the line that has it.
fn is_of_backtrace(line: &str) -> bool {
    let text = line.trim_start();
    let is_frame = text.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let is_indented = text.len() < line.len();
    is_indented && (is_frame || text.starts_with("at ")) || line == "stack backtrace:" || line.starts_with("note: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(lines: &mut ChildOutput, bytes: &[u8]) -> Vec<String> {
        let mut completed = Vec::new();
        lines.feed(bytes, |line| completed.push(line.to_owned()));
        completed
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = ChildOutput::default();
        assert_eq!(completed(&mut lines, b"one\ntw"), ["one"]);
        assert_eq!(completed(&mut lines, "o\r\n\nжук".as_bytes()), ["two"]);
        assert_eq!(completed(&mut lines, b"\n\xff!\nend"), ["жук", "\u{fffd}!"]);
        let mut rest = Vec::new();
        lines.finish(|line| rest.push(line.to_owned()));
        lines.finish(|line| rest.push(line.to_owned()));
        assert_eq!(rest, ["end"]);
        assert_eq!((lines.with(&["t", "w"]), lines.with(&["none"])), (Some("two"), None));
        assert_eq!(lines.last_line().as_deref(), Some("end"));
    }

    #[test]
    fn a_backtrace_takes_no_last_line_away() {
        let mut lines = ChildOutput::default();
        let frames = "   0: std::alloc::rust_oom\n             at /rustc/library/std/src/alloc.rs:1:2\n".repeat(30);
        let note = "note: run with `RUST_BACKTRACE=full` for more\n";
        let all = format!("memory allocation of 9 bytes failed\nstack backtrace:\n{frames}{note}");
        assert_eq!(completed(&mut lines, all.as_bytes()).len(), 63, "the log has all of it");
        assert_eq!(lines.last_line().as_deref(), Some("memory allocation of 9 bytes failed"));
    }

    #[test]
    fn a_flood_without_a_line_break_and_one_of_lines_are_bounded() {
        let mut lines = ChildOutput::default();
        for _ in 0..1_000 {
            assert!(completed(&mut lines, &[b'x'; 1_000]).is_empty());
        }
        assert!(lines.line.len() <= LONGEST && lines.line.capacity() <= 4 * LONGEST);
        let line = completed(&mut lines, b"\nshort\n");
        assert_eq!((line[0].len(), line[0].ends_with('…'), line[1].as_str()), (LONGEST + 3, true, "short"));
        (0..1_000).for_each(|number| drop(completed(&mut lines, format!("{number}\n").as_bytes())));
        assert_eq!((lines.last.len(), lines.last[0].as_str()), (KEPT, "980"));
    }
}
