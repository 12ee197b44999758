//! The arguments of the program, read into a command.

#[cfg(feature = "jobs")]
use super::jobs_arguments::JobsCommand;
use super::list::unknown;

/// A command of a site's program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Serve,
    #[cfg(feature = "jobs")]
    Work,
    Routes,
    Check,
    Secret,
    Help,
    #[cfg(feature = "jobs")]
    Jobs(JobsCommand),
}

impl Command {
    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    /// One line about what is wrong.
    pub(super) fn parse(arguments: &[&str]) -> Result<Command, String> {
        let (command, rest) = match arguments {
            [] => return Ok(Command::Serve),
            #[cfg(feature = "jobs")]
            ["jobs", rest @ ..] => return JobsCommand::parse(rest).map(Command::Jobs),
            ["serve", rest @ ..] => (Command::Serve, rest),
            #[cfg(feature = "jobs")]
            ["work", rest @ ..] => (Command::Work, rest),
            ["routes", rest @ ..] => (Command::Routes, rest),
            ["check", rest @ ..] => (Command::Check, rest),
            ["secret", rest @ ..] => (Command::Secret, rest),
            ["help" | "--help" | "-h", ..] => return Ok(Command::Help),
            [other, ..] => return Err(unknown(other, "")),
        };
        match rest {
            [] => Ok(command),
            ["--help" | "-h", ..] => Ok(Command::Help),
            [more, ..] => Err(format!("`{}` takes no argument, and got `{}`", arguments[0], more.escape_debug())),
        }
    }
}

#[cfg(all(test, feature = "jobs"))]
mod tests {
    use super::super::jobs_arguments::Which;
    use super::super::list::commands;
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn each_command_is_read() {
        assert_eq!(parse(""), Ok(Command::Serve));
        for (name, arguments, _) in commands() {
            let line =
                format!("{name} {}", arguments.replace("ID…|dead", "dead").replace("ID…", "3 4").replace("ID", "3"));
            let read = parse(&line.replace("STATE", "dead").replace("QUEUE", "mail"));
            assert!(read.is_ok(), "{line}: {read:?}");
        }
        assert_eq!(parse("jobs retry 3 17"), Ok(Command::Jobs(JobsCommand::Retry(Which::Ids(vec![3, 17])))));
        assert_eq!(parse("jobs discard dead"), Ok(Command::Jobs(JobsCommand::Discard(Which::Dead))));
        assert_eq!(parse("serve --help"), Ok(Command::Help));
    }

    #[test]
    fn misuse_is_one_line_that_says_what_to_write() {
        for (line, message) in [
            ("srve", "`srve` is not a command; did you mean `serve`?"),
            ("--port", "`--port` is not a command"),
            ("work now", "`work` takes no argument, and got `now`"),
            ("jobs lst dead", "`jobs lst` is not a command; did you mean `list`?"),
            ("jobs list", "write `jobs list STATE`"),
            (
                "jobs list deed",
                "`deed` is not a state of jobs (waiting, scheduled, running, done, dead, cancelled); did you mean `dead`?",
            ),
            ("jobs retry", "write `jobs retry ID…|dead`"),
            ("jobs cancel", "write `jobs cancel ID…`"),
            ("jobs show -1", "`-1` is not the id of a job, which is a whole number"),
            ("jobs retry 3 dead", "`dead` is not the id of a job, which is a whole number"),
            ("jobs pause", "write `jobs pause QUEUE`"),
        ] {
            assert_eq!(parse(line).unwrap_err(), message);
        }
    }
}
