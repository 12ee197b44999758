//! The command `aside`: makes a site (`aside new`), adds to it (`aside generate`), and serves it while it is changed (`aside dev`).

mod arguments;
mod cargo_options;
mod changes;
#[cfg(unix)]
mod dev;
mod feature;
mod files;
mod generate;
mod name;
mod nearest;
mod new;
mod rust_source;
mod site_folder;
mod template;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Command, DevOptions, HELP};

/// Why a command was not carried out. Each has one line for the user.
#[derive(Debug)]
enum Failure {
    /// The command line is wrong, or does not fit the place. Exit code 2.
    Misuse(String),
    /// The operating system refused something. Exit code 1.
    Failed(String),
}

impl Failure {
    /// Returns the failure of an operation on files.
    fn io(operation: &str, path: &Path, error: &io::Error) -> Failure {
        Failure::Failed(format!("could not {operation} {}: {error}", path.display()))
    }
}

fn main() -> ExitCode {
    let outcome = Command::parse(std::env::args_os().skip(1)).and_then(run);
    let (message, code) = match outcome {
        Ok(text) => return print(&text),
        Err(Failure::Misuse(message)) => (message, 2),
        Err(Failure::Failed(message)) => (message, 1),
    };
    let _ = writeln!(io::stderr(), "aside: {message}"); // standard error may be closed
    ExitCode::from(code)
}

/// Carries out the command, and returns what it tells the user.
fn run(command: Command) -> Result<String, Failure> {
    match command {
        Command::Help => Ok(HELP.to_owned()),
        Command::Version => Ok(format!("aside {}\n", env!("CARGO_PKG_VERSION"))),
        Command::New(site) => new::make(&site),
        Command::Generate(kind, name) => generate::add(kind, &name),
        Command::Dev(options) => dev(options),
    }
}

#[cfg(unix)]
fn dev(options: DevOptions) -> Result<String, Failure> {
    dev::run(options)
}

#[cfg(not(unix))]
fn dev(_options: DevOptions) -> Result<String, Failure> {
    Err(Failure::Misuse("`aside dev` needs Unix; use `cargo run`".to_owned()))
}

fn current_folder() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| Failure::Failed(format!("could not find the current folder: {error}")))
}

/// Prints without a panic when the reader has gone, as in `aside --help | head -1`.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
