//! The list of the commands, which `--help` and the messages about misuse show.

use crate::nearest::did_you_mean;

/// A command with its arguments and its purpose, as `--help` lists them.
type Line = (&'static str, &'static str, &'static str);

const OF_THE_SITE: &[Line] = &[
    ("serve", "", "serve the site; the command if none is given"),
    ("routes", "", "list the routes"),
    ("check", "", "check the settings before the site goes public; status 1 if one should change"),
    ("secret", "", "print a new value for ASIDE_SECRET"),
    ("--help", "", "print this list"),
];

#[cfg(not(feature = "jobs"))]
const OF_JOBS: &[Line] = &[];

#[cfg(feature = "jobs")]
const OF_JOBS: &[Line] = &[
    ("work", "", "run the jobs, without a server"),
    ("jobs", "", "count the jobs, and list the queues"),
    ("jobs list", "STATE", "list the newest jobs: waiting, scheduled, running, done, dead or cancelled"),
    ("jobs show", "ID", "show one job with its failures"),
    ("jobs retry", "ID…|dead", "retry jobs, or all dead jobs"),
    ("jobs discard", "ID…|dead", "delete jobs, or all dead jobs"),
    ("jobs cancel", "ID…", "cancel jobs"),
    ("jobs pause", "QUEUE", "start no further job of a queue"),
    ("jobs resume", "QUEUE", "start the jobs of a paused queue again"),
];

pub(super) fn commands() -> impl Iterator<Item = Line> {
    OF_THE_SITE.iter().chain(OF_JOBS).copied()
}

/// Returns the text of `--help`.
pub(super) fn help(program: &str) -> String {
    let call = |(name, arguments, _): Line| format!("{name} {arguments}").trim_end().to_owned();
    let width = commands().map(|command| call(command).chars().count()).max().unwrap_or(0);
    let lines: String = commands().map(|command| format!("    {:<width$}  {}\n", call(command), command.2)).collect();
    format!(
        "Usage: {program} [COMMAND]\n\nCommands:\n{lines}\nThe settings are environment variables that begin with ASIDE_.\n"
    )
}

/// Returns the message for a command with too few or too many arguments.
#[cfg(feature = "jobs")]
pub(super) fn wrong_number(command: &str) -> String {
    let arguments = commands().find(|(name, ..)| *name == command).map_or("", |(_, arguments, _)| arguments);
    format!("write `{command} {arguments}`")
}

/// Returns the message for an unknown command of a group, such as `jobs `.
pub(super) fn unknown(argument: &str, group: &str) -> String {
    let names = commands().filter_map(|(name, ..)| name.strip_prefix(group));
    format!("`{group}{}` is not a command{}", argument.escape_debug(), did_you_mean(argument, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_each_command() {
        let help = help("shop");
        assert!(help.starts_with("Usage: shop [COMMAND]\n"));
        assert!(commands().all(|(name, _, what)| help.contains(&format!("    {name} ")) && help.contains(what)));
    }
}
