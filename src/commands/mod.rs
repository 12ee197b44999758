//! The commands of a site's own program, such as `shop work` and `shop jobs list dead`.

mod arguments;
#[cfg(feature = "jobs")]
mod jobs;
#[cfg(feature = "jobs")]
mod jobs_arguments;
mod list;

use std::env;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::process;

use self::arguments::Command;
use self::list::help;
use crate::app::App;
use crate::error::Result;
use crate::random;

/// The exit status for arguments that are not a command, as of a shell's own commands.
const MISUSE: i32 = 2;

/// What a command prints, and whether it has found something to correct.
struct Report {
    text: String,
    is_ok: bool,
}

impl From<String> for Report {
    fn from(text: String) -> Report {
        Report { text, is_ok: true }
    }
}

impl App {
    /// Runs the command that the program's arguments name, or serves the site if they name none: the last line of a program that
    /// is also operated from a shell.
    ///
    /// ```no_run
    /// use aside::{App, Request};
    ///
    /// fn main() -> aside::Result<()> {
    ///     App::new().get("/", |_req: &mut Request| "Hello").main()
    /// }
    /// ```
    ///
    /// | Command | |
    /// |---|---|
    /// | `shop`, `shop serve` | serves the site: [`run`](App::run) |
    /// | `shop work` | runs the jobs, without a server: `App::work` |
    /// | `shop routes` | lists the routes, with their names and their lines in the source |
    /// | `shop check` | lists the settings to change before the site goes public: [`Config::deploy_check`](crate::Config::deploy_check) |
    /// | `shop secret` | prints a new value for `ASIDE_SECRET` |
    /// | `shop jobs` | counts the jobs, and lists the queues |
    /// | `shop jobs list dead` | lists the newest 100 jobs of a state |
    /// | `shop jobs show 17` | shows one job with its failures |
    /// | `shop jobs retry 17 18`, `shop jobs retry dead` | retries jobs, or all dead jobs |
    /// | `shop jobs discard 17`, `shop jobs discard dead` | deletes jobs, or all dead jobs |
    /// | `shop jobs cancel 17` | cancels jobs |
    /// | `shop jobs pause mail`, `shop jobs resume mail` | pauses a queue in all processes, and resumes it |
    /// | `shop --help` | lists the commands |
    ///
    /// The commands about jobs use the store of the application, also while other processes use it. No command migrates: the
    /// application migrates the tables of the jobs when it opens the store.
    ///
    /// The exit status is 0, or 1 after an error and if `check` has found something, or 2 if the arguments are not a command;
    /// the last line on standard error then says what is wrong.
    ///
    /// # Errors
    /// The errors of [`run`](App::run), and of the job store.
    pub fn main(self) -> Result<()> {
        // A child process has the arguments of its parent, which may be a test.
        let app = self.serve_parent_in_child()?;
        let arguments: Vec<String> = env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let (program, rest) = arguments.split_first().map_or(("site", &[][..]), |(program, rest)| (program, rest));
        let program = Path::new(program).file_name().map_or(program.into(), |name| name.to_string_lossy());
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        match Command::parse(&rest) {
            Ok(Command::Serve) => app.run(),
            #[cfg(feature = "jobs")]
            Ok(Command::Work) => app.work(),
            Ok(command) => app.report(command, &program).and_then(print),
            Err(misuse) => {
                eprintln!("{program}: {misuse} (`{program} --help` lists the commands)");
                process::exit(MISUSE)
            }
        }
    }

    fn report(self, command: Command, program: &str) -> Result<Report> {
        match command {
            Command::Routes => Ok(self.with_panel().build()?.route_lines().into()),
            Command::Check => self.check_settings(),
            Command::Secret => Ok(format!("{}\n", random::hex(&random::bytes::<32>()?)).into()),
            #[cfg(feature = "jobs")]
            Command::Jobs(command) => jobs::run(&self, command),
            _ => Ok(help(program).into()),
        }
    }

    fn check_settings(self) -> Result<Report> {
        let advice = self.build()?.advice();
        match advice.is_empty() {
            true => Ok("The settings are ready for production.\n".to_owned().into()),
            false => Ok(Report { text: advice.join("\n") + "\n", is_ok: false }),
        }
    }
}

/// Prints a report, and ends the process with status 1 if it has found something. A reader that has enough, such as `head`, is
/// not an error.
fn print(report: Report) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(report.text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    if report.is_ok { Ok(()) } else { process::exit(1) }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
