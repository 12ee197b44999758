//! The queue between the threads that log and the one thread that writes their lines.
//!
//! Routine lines (requests, tasks and jobs) wait up to [`LAG`], so that many are written in one call. A thread that logs another
//! line waits until the line is written, unless the log is not read. All lines are in one buffer and so keep their order, but
//! each kind has space of its own: a flood of routine lines displaces no warning.

use std::fmt;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::sync::{lock, wait_while, wait_while_for};

/// The longest time that a routine line waits for others.
const LAG: Duration = Duration::from_millis(50);

/// The most bytes of each kind of line that wait while nothing is written.
const SPACE: usize = 1 << 20;

/// The number of waiting bytes at which routine lines are written before their lag is over.
const BATCH: usize = 64 << 10;

/// How long a thread waits for its line to be written. A wait that is longer shows that the log is not read.
const PATIENCE: Duration = Duration::from_millis(200);

/// The kinds of lines, each with its own space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The access log, and tasks and jobs that ended well.
    Routine,
    Other,
}

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signals the writer that a first line or an urgent one waits.
    work: Condvar,
    /// Signals the waiting threads that a batch was written.
    written: Condvar,
}

#[derive(Debug)]
struct State {
    lines: Vec<u8>,
    /// The waiting bytes of each kind.
    waiting: [usize; 2],
    dropped: Dropped,
    is_urgent: bool,
    /// Set by a thread that lost its patience, until the next batch is written: the log is not read.
    is_stalled: bool,
    /// The number of bytes that were ever added, and how many of them were written or lost.
    added: u64,
    done: u64,
}

/// The dropped lines of each kind.
type Dropped = [u64; 2];

impl Queue {
    pub(super) const fn new() -> Queue {
        let state = State {
            lines: Vec::new(),
            waiting: [0; 2],
            dropped: [0; 2],
            is_urgent: false,
            is_stalled: false,
            added: 0,
            done: 0,
        };
        Queue { state: Mutex::new(state), work: Condvar::new(), written: Condvar::new() }
    }

    /// Adds a line, or counts it as dropped if its kind has no space left. Waits until a line that is not routine is
    /// written, unless the log is not read.
    pub(super) fn push(&self, kind: Kind, line: &[u8]) {
        let mut state = lock(&self.state);
        // A line that is longer than the space is not lost.
        let waiting = state.waiting[kind as usize];
        if waiting > 0 && waiting + line.len() > SPACE {
            state.dropped[kind as usize] += 1;
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        state.waiting[kind as usize] += line.len();
        state.added += line.len() as u64;
        let becomes_urgent = !state.is_urgent && (kind == Kind::Other || state.lines.len() >= BATCH);
        state.is_urgent |= becomes_urgent;
        if was_empty || becomes_urgent {
            self.work.notify_one();
        }
        if kind == Kind::Other && !state.is_stalled {
            self.wait_until_written(state, PATIENCE);
        }
    }

    /// Waits until all lines that were added before are written, at most `most`.
    pub(super) fn flush(&self, most: Duration) {
        let mut state = lock(&self.state);
        state.is_urgent |= !state.lines.is_empty();
        self.work.notify_one();
        self.wait_until_written(state, most);
    }

    /// Does what [`flush`](Queue::flush) does, unless the log is known to be not read.
    pub(super) fn flush_if_read(&self, most: Duration) {
        if !lock(&self.state).is_stalled {
            self.flush(most);
        }
    }

    fn wait_until_written(&self, state: MutexGuard<'_, State>, most: Duration) {
        let until = state.added;
        let mut state = wait_while_for(&self.written, state, most, |state| state.done < until);
        state.is_stalled |= state.done < until;
    }

    /// Writes lines to `output` until the process ends. `format` makes a line of the log from a message.
    pub(super) fn run<W: FnMut(&[u8]) -> io::Result<usize>>(
        &self,
        output: &mut Output<W>,
        format: impl Fn(&mut Vec<u8>, fmt::Arguments<'_>),
    ) -> ! {
        loop {
            self.write_batch(output, &format);
        }
    }

    fn write_batch<W: FnMut(&[u8]) -> io::Result<usize>>(
        &self,
        output: &mut Output<W>,
        format: &impl Fn(&mut Vec<u8>, fmt::Arguments<'_>),
    ) {
        let (dropped, until) = self.take(&mut output.batch);
        output.write(dropped, format);
        let mut state = lock(&self.state);
        state.done = until;
        state.is_stalled = false;
        drop(state);
        self.written.notify_all();
    }

    /// Waits for a batch of lines and takes it. Returns the numbers of the lines that were dropped after the last line of their
    /// kind in it, and how many bytes were ever added.
    fn take(&self, batch: &mut Vec<u8>) -> (Dropped, u64) {
        let state = wait_while(&self.work, lock(&self.state), |state| state.lines.is_empty());
        let mut state = wait_while_for(&self.work, state, LAG, |state| !state.is_urgent);
        std::mem::swap(&mut state.lines, batch);
        state.waiting = [0; 2];
        state.is_urgent = false;
        (std::mem::take(&mut state.dropped), state.added)
    }
}

/// What the writer writes to, and what it could not write.
pub(super) struct Output<W> {
    write: W,
    batch: Vec<u8>,
    /// The number of lines that were dropped or could not be written, until a line says so.
    dropped: Dropped,
    failed: u64,
    error: Option<io::Error>,
    /// Set if the last line is incomplete.
    is_torn: bool,
}

impl<W: FnMut(&[u8]) -> io::Result<usize>> Output<W> {
    pub(super) fn new(write: W) -> Output<W> {
        Output { write, batch: Vec::new(), dropped: [0; 2], failed: 0, error: None, is_torn: false }
    }

    /// Writes the batch. If that succeeds, also writes what was lost before.
    fn write(&mut self, dropped: Dropped, format: &impl Fn(&mut Vec<u8>, fmt::Arguments<'_>)) {
        for (sum, dropped) in self.dropped.iter_mut().zip(dropped) {
            *sum += dropped;
        }
        if self.write_all() && (self.dropped != [0; 2] || self.failed > 0) {
            self.format_losses(format);
            if self.write_all() {
                (self.dropped, self.failed, self.error) = ([0; 2], 0, None);
            }
        }
    }

    fn format_losses(&mut self, format: &impl Fn(&mut Vec<u8>, fmt::Arguments<'_>)) {
        let [routine, other] = self.dropped;
        if routine + other > 0 {
            let text =
                format_args!("The log was not read: {routine} routine lines and {other} other lines were dropped.");
            format(&mut self.batch, text);
        }
        if let (failed @ 1.., Some(error)) = (self.failed, &self.error) {
            format(&mut self.batch, format_args!("Could not write {failed} lines of the log: {error}"));
        }
    }

    /// Writes and empties the batch. Returns false if a part of it could not be written.
    fn write_all(&mut self) -> bool {
        let mut rest = &self.batch[..];
        let end: &[u8] = if self.is_torn { b"\n" } else { b"" };
        let written = write_all(&mut self.write, &mut &*end, &mut self.is_torn)
            .and_then(|()| write_all(&mut self.write, &mut rest, &mut self.is_torn));
        self.failed += rest.iter().filter(|byte| **byte == b'\n').count() as u64;
        let is_written = written.is_ok();
        self.error = written.err().or(self.error.take());
        self.batch.clear();
        // The space of a flood is returned.
        self.batch.shrink_to(2 * BATCH);
        is_written
    }
}

/// Writes `rest`, which has what was not written after an error. Sets `is_torn` if that is the end of a line.
fn write_all(
    write: &mut impl FnMut(&[u8]) -> io::Result<usize>,
    rest: &mut &[u8],
    is_torn: &mut bool,
) -> io::Result<()> {
    while let Some(most) = rest.len().checked_sub(1) {
        let last = write(rest)?.checked_sub(1).ok_or(io::ErrorKind::WriteZero)?.min(most);
        *is_torn = rest[last] != b'\n';
        *rest = &rest[last + 1..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn format(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
        out.extend_from_slice(format!("{text}\n").as_bytes());
    }

    #[test]
    fn a_flood_of_routine_lines_leaves_space_for_a_warning_after_them() {
        let queue = Queue::new();
        lock(&queue.state).is_stalled = true;
        let line = [b'a'; 1024];
        (0..3000).for_each(|_| queue.push(Kind::Routine, &line));
        queue.push(Kind::Other, b"warning\n");
        let mut batch = Vec::new();
        assert_eq!(queue.take(&mut batch).0, [3000 - SPACE as u64 / 1024, 0]);
        assert_eq!(batch.len(), SPACE + 8);
        assert!(batch.ends_with(b"warning\n"));
    }

    #[test]
    fn a_thread_waits_for_its_line_and_all_before_it() {
        let queue = Arc::new(Queue::new());
        let written = Arc::new(Mutex::new(Vec::new()));
        let (writer, sink) = (queue.clone(), written.clone());
        std::thread::spawn(move || {
            let write = |lines: &[u8]| {
                lock(&sink).extend_from_slice(lines);
                Ok(lines.len())
            };
            writer.run(&mut Output::new(write), format)
        });
        queue.push(Kind::Routine, b"page\n");
        queue.push(Kind::Other, b"error\n");
        let state = lock(&queue.state);
        // On a machine that stands still for longer than its patience the thread gives up.
        assert!(state.is_stalled || *lock(&written) == b"page\nerror\n");
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_in_the_log_and_the_torn_line_is_ended() {
        let mut written = Vec::new();
        let mut space = 5;
        let mut fills = 1;
        let mut output = Output::new(|lines: &[u8]| {
            let count = lines.len().min(space);
            written.extend_from_slice(&lines[..count]);
            space -= count;
            if count > 0 {
                return Ok(count);
            }
            (space, fills) = if fills > 0 { (0, fills - 1) } else { (1 << 10, 0) };
            Err(io::Error::other("disk full"))
        });
        for lines in ["1\n2\n345\n6\n", "7\n8\n9999999\n", "next\n9999999\n"] {
            output.batch.extend_from_slice(lines.as_bytes());
            output.write([0; 2], &format);
        }
        drop(output);
        let text = String::from_utf8(written).unwrap();
        assert_eq!(text, "1\n2\n3\nnext\n9999999\nCould not write 5 lines of the log: disk full\n");
    }

    #[test]
    fn the_number_of_dropped_lines_follows_the_lines_that_were_kept() {
        let mut written = Vec::new();
        let mut output = Output::new(|lines: &[u8]| {
            written.extend_from_slice(lines);
            Ok(lines.len())
        });
        output.batch.extend_from_slice(b"kept\n");
        output.write([3, 1], &format);
        output.batch.extend_from_slice(b"next\n");
        output.write([0; 2], &format);
        drop(output);
        let text = String::from_utf8(written).unwrap();
        let count = "The log was not read: 3 routine lines and 1 other lines were dropped.";
        assert_eq!(text, format!("kept\n{count}\nnext\n"));
    }
}
