//! A program that a task runs: its output arrives line by line, and it ends with the task (Unix).

use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::failure::Cancelled;
use super::task_context::TaskContext;
use crate::bounds;
use crate::error::{Error, OrHere, Result};

/// The longest line, in bytes: what follows is passed on as another line.
const LONGEST_LINE: usize = 10_000;

/// The longest last line in an error, in bytes.
const LONGEST_REASON: usize = 500;

/// The bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// The most bytes that a pipe holds (`/proc/sys/fs/pipe-max-size`).
const FULLEST_PIPE: usize = 1 << 20;

/// The longest wait for output before the next look at the task and the program.
const CHECK: Duration = Duration::from_millis(50);

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

impl TaskContext {
    /// Runs a program (Unix), and passes each line of its output and error output to a function while it runs.
    ///
    /// ```
    /// use aside::Task;
    /// use std::process::Command;
    ///
    /// let handle = Task::named("listing").spawn(|task| {
    ///     let mut lines = 0;
    ///     task.run_command(Command::new("ls").args(["-l", "/"]), |line| {
    ///         task.message(line);
    ///         lines += 1;
    ///     })?;
    ///     aside::ok(lines)
    /// });
    /// assert!(handle.join().unwrap() > 1);
    /// ```
    ///
    /// Pass the input of a user as an argument (`.arg(name)`, or `$1` of a script), never as a part of a script's text, where it
    /// could be a command. Mind that a program may take an argument that begins with `-` for an option. The program inherits the
    /// environment of the site, with its secrets: [`Command::env_clear`] prevents that.
    ///
    /// Its standard input is empty. Lines are without their line ends; bytes that are not UTF-8 become `�`, and a line above
    /// 10,000 bytes is passed on in pieces.
    ///
    /// The program is the first of a process group, which ends with the call: programs that it leaves behind are killed, unless
    /// they have left the group. When the task is cancelled or its deadline has passed, the group gets SIGTERM, and after 5 s
    /// SIGKILL. A graceful shutdown cancels a task that still runs after `ASIDE_GRACE`. If the process of the site is killed, the
    /// program runs on.
    ///
    /// # Errors
    /// The error of the operating system if the program cannot be started; an error with its exit status and its last line if it
    /// fails; [`Cancelled`](crate::tasks::Cancelled) if the task was told to cancel.
    #[track_caller]
    pub fn run_command(&self, command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
        let name = command.get_program().display().to_string();
        let mut last = String::new();
        let pass_on = |text: &str| {
            last.clear();
            last.push_str(&bounds::shorten(text, LONGEST_REASON));
            line(text);
        };
        let ended =
            self.follow(command, pass_on).map_err(|error| error.context(format!("cannot run `{name}`"))).or_here()?;
        match ended.success() {
            true => Ok(()),
            false => Err(Error::internal(format!("`{name}` ended with {ended}; its last line: {last}"))),
        }
    }

    fn follow(&self, command: &mut Command, line: impl FnMut(&str)) -> Result<ExitStatus> {
        let mut program = Program::start(command)?;
        let mut lines = Lines { line, unfinished: Vec::new() };
        let mut told = None;
        // It is asked first, so that what it wrote before its end is read after the question.
        while !program.has_ended()? {
            if self.is_cancelled() && told.is_none() {
                program.send(Signal::TERM);
                told = Some(Instant::now());
            }
            if told.is_some_and(|told: Instant| told.elapsed() >= GRACE) {
                return Err(Cancelled.into());
            }
            program.read(&mut lines)?;
        }
        program.send(Signal::KILL);
        // What a process that has left the group writes from now on has no end.
        let mut left = FULLEST_PIPE;
        while left > 0 && program.read(&mut lines)? {
            left -= CHUNK;
        }
        lines.end();
        self.check_cancelled()?;
        Ok(program.end()?)
    }
}

/// A running program and its output. Its process group does not outlive this value.
struct Program {
    child: Child,
    /// The output, until its end.
    output: Option<PipeReader>,
    /// The exit status, once it is taken. From then on another process may have its number.
    status: Option<ExitStatus>,
}

impl Program {
    fn start(command: &mut Command) -> io::Result<Program> {
        let (output, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&output, true)?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
        let child = command.spawn();
        // Closes the ends of the pipe that the command has, so that the output has an end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Program { child: child?, output: Some(output), status: None })
    }

    /// Returns true if the program has ended. Its status is not taken yet, so that no other group has its number.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(Pid::from_child(&self.child)), options)?.is_some())
    }

    /// Sends a signal to the process group. An error means that there is no process left in it.
    fn send(&self, signal: Signal) {
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// Ends the process group, and takes the exit status of the program.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        self.send(Signal::KILL);
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// Waits a moment for output, and passes on what has come. Returns false if nothing has.
    fn read(&mut self, lines: &mut Lines<impl FnMut(&str)>) -> io::Result<bool> {
        let Some(output) = &mut self.output else {
            thread::sleep(CHECK);
            return Ok(false);
        };
        wait_for(output)?;
        let mut chunk = [0; CHUNK];
        match output.read(&mut chunk) {
            Ok(0) => self.output = None,
            Ok(count) => lines.add(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(self.output.is_some())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn wait_for(output: &PipeReader) -> io::Result<()> {
    let most = Timespec::try_from(CHECK).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Splits output into lines.
struct Lines<F> {
    line: F,
    unfinished: Vec<u8>,
}

impl<F: FnMut(&str)> Lines<F> {
    fn add(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in part.chunks(LONGEST_LINE) {
                if self.unfinished.len() + piece.len() > LONGEST_LINE {
                    self.end();
                }
                self.unfinished.extend_from_slice(piece);
            }
            if self.unfinished.ends_with(b"\n") {
                self.pass();
            }
        }
    }

    /// Passes on the last line, which may have no line end.
    fn end(&mut self) {
        if !self.unfinished.is_empty() {
            self.pass();
        }
    }

    fn pass(&mut self) {
        let line = String::from_utf8_lossy(&self.unfinished);
        let line = line.strip_suffix('\n').unwrap_or(&line);
        (self.line)(line.strip_suffix('\r').unwrap_or(line));
        self.unfinished.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;
    use crate::background::failure::{Failure, Outcome};
    use crate::background::task::Task;

    /// Runs a script in a task of its own.
    fn run(script: &str, input: &str) -> (Vec<String>, Outcome<()>) {
        let (script, input) = (script.to_owned(), input.to_owned());
        let (sender, lines) = mpsc::channel();
        let task = Task::named("script").spawn(move |task| {
            let mut command = Command::new("sh");
            task.run_command(command.args(["-c", &script, "sh", &input]), |line| sender.send(line.to_owned()).unwrap())
        });
        let outcome = task.join();
        (lines.iter().collect(), outcome)
    }

    /// Waits until a process that the kernel lists has ended: a zombie has no command line.
    fn is_gone(pid: &str) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        let path = Path::new("/proc").join(pid).join("cmdline");
        while fs::read(&path).is_ok_and(|command| !command.is_empty()) {
            if Instant::now() > until {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    #[test]
    fn output_and_errors_arrive_as_lines_in_order() {
        let (lines, outcome) =
            run(r#"echo one; echo "two $1" >&2; printf '\nthree\r\nf\377ur'; read x; exit 3"#, "$(id);`id`");
        assert_eq!(lines, ["one", "two $(id);`id`", "", "three", "f\u{fffd}ur"]);
        let failure = outcome.unwrap_err().to_string();
        assert_eq!(failure, "`sh` ended with exit status: 3; its last line: f\u{fffd}ur");
    }

    #[test]
    fn a_long_line_is_passed_on_in_pieces() {
        let (lines, outcome) = run("head -c 25000 /dev/zero | tr '\\0' x; echo; echo end", "");
        let lengths: Vec<usize> = lines.iter().map(String::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 25_003);
        assert!(lengths.iter().all(|length| *length <= LONGEST_LINE), "{lengths:?}");
        assert!(outcome.is_ok() && lines.last().unwrap() == "end");
    }

    #[test]
    fn output_that_was_written_just_before_the_end_is_complete() {
        let (lines, outcome) = run("head -c 1000000 /dev/zero | tr '\\0' '\\n'", "");
        assert!(outcome.is_ok() && lines.len() == 1_000_000, "{} lines, {outcome:?}", lines.len());
    }

    #[test]
    fn a_program_that_closes_its_output_is_waited_for() {
        let (lines, outcome) = run("echo one; exec >&- 2>&-; cat /proc/self/maps >/dev/null; exit 4", "");
        let failure = outcome.unwrap_err().to_string();
        assert_eq!(
            (failure.as_str(), lines),
            ("`sh` ended with exit status: 4; its last line: one", vec!["one".into()])
        );
    }

    #[test]
    fn a_program_that_cannot_be_started_is_an_error_with_its_name() {
        let task = Task::named("missing").spawn(|task| task.run_command(&mut Command::new("/no/such/program"), |_| ()));
        let failure = task.join().unwrap_err().to_string();
        assert!(failure.starts_with("cannot run `/no/such/program`: No such file"), "{failure}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_that_is_left_behind_ends_with_the_call() {
        let (lines, outcome) = run("sleep 600 & echo $!", "");
        outcome.unwrap();
        assert!(is_gone(&lines[0]));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_has_left_the_group_and_writes_on_does_not_keep_the_task() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"mkfifo "$1"; setsid sh -c 'echo >"$1"; exec yes' sh "$1" & read x <"$1"; echo ended"#;
        let (lines, outcome) = run(script, folder.path().join("has-left").to_str().unwrap());
        assert!(outcome.is_ok() && lines.iter().any(|line| line == "ended"), "{outcome:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_cancelled_task_ends_its_program_and_what_that_started() {
        let (sender, lines) = mpsc::channel();
        let task = Task::named("long").spawn(move |task| {
            let script = "trap 'echo bye; exit' TERM; sleep 600 & echo $!; wait";
            task.run_command(Command::new("sh").args(["-c", script]), |line| sender.send(line.to_owned()).unwrap())
        });
        let pid = lines.recv().unwrap();
        task.cancel();
        assert!(matches!(task.join(), Err(Failure::Cancelled)));
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["bye"], "it can end by itself");
        assert!(is_gone(&pid));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_whose_lines_make_the_task_panic_ends() {
        let (sender, lines) = mpsc::channel();
        let task = Task::named("panics").spawn(move |task| {
            task.run_command(Command::new("sh").args(["-c", "echo $$; sleep 600"]), |line| {
                sender.send(line.to_owned()).unwrap();
                panic!("on purpose");
            })
        });
        assert!(matches!(task.join(), Err(Failure::Panic(_))));
        assert!(is_gone(&lines.recv().unwrap()));
    }
}
