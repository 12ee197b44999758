//! The command line.

use std::collections::BTreeSet;
use std::ffi::OsString;

use crate::Failure;
use crate::cargo_options;
use crate::feature::Feature;
use crate::generate::Kind;
use crate::name::{ItemName, SiteName};
use crate::nearest::did_you_mean;

pub const HELP: &str = "\
aside makes a site, adds pages, forms, jobs and mails to it, and serves it during development.

Usage:
    aside new NAME [--with FEATURES] [--aside PATH]
    aside generate page|form|job|mail NAME
    aside dev [--stop-first] [OPTIONS OF CARGO BUILD] [-- ARGUMENTS OF THE SITE]

aside new NAME makes a site in the folder NAME. Its `cargo test` passes at once.
    --with FEATURES    login, jobs, mail, uploads, live, separated by commas; or all
    --aside PATH       the checkout of aside that the site depends on

aside generate adds to the site of the current folder, and overwrites nothing:
    page NAME          a page with its template, its route and a test
    form NAME          a page with a form, and errors beside its fields
    job NAME           a job, which survives a crash
    mail NAME          a mail with its template

aside dev builds the site of the current folder and serves it on ASIDE_ADDR (127.0.0.1:8000). After each change it
builds and starts the site again, and open pages reload. Errors of the compiler are shown in the browser too.
    --bin NAME         the program, if the package has more than one; and other options of `cargo build`
    --stop-first       stops the former process before the new one starts, if only one can hold what the site opens

    --help             shows this text
    --version          shows the version
";

const GENERATE: &str = "`aside generate` takes a kind and a name: `aside generate page|form|job|mail NAME`";

/// The option for a site of which only one process can run at a time.
const STOP_FIRST: &str = "--stop-first";

/// A site to make.
#[derive(Debug, PartialEq)]
pub struct NewSite {
    pub name: SiteName,
    pub features: BTreeSet<Feature>,
    /// The checkout of aside; by default the one that this command was built from.
    pub aside: Option<String>,
}

#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Version,
    New(NewSite),
    Generate(Kind, ItemName),
    Dev(DevOptions),
}

/// How `aside dev` builds and starts the site.
#[derive(Debug, PartialEq)]
pub struct DevOptions {
    /// True if the former process is stopped before the new one starts.
    pub stops_first: bool,
    /// The options of `cargo build`.
    pub cargo: Vec<String>,
    /// The arguments of the site's program.
    pub site: Vec<String>,
}

impl Command {
    /// Parses the arguments after the name of the program.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
        let arguments = arguments.map(text).collect::<Result<Vec<String>, Failure>>()?;
        let is_help = |argument: &String| argument == "--help" || argument == "-h";
        // What follows `--` is for the site.
        if arguments.is_empty() || arguments.iter().take_while(|argument| *argument != "--").any(is_help) {
            return Ok(Command::Help);
        }
        match (arguments[0].as_str(), &arguments[1..]) {
            ("help", _) => Ok(Command::Help),
            ("--version" | "-V", _) => Ok(Command::Version),
            ("new", rest) => new_site(rest).map(Command::New),
            ("generate" | "g", rest) => generate(rest),
            ("dev", rest) => dev(rest).map(Command::Dev),
            (other, _) => Err(misuse(no_command(other))),
        }
    }
}

fn no_command(name: &str) -> String {
    let message = format!("there is no command `{}`", name.escape_debug());
    match did_you_mean(name, ["new", "generate", "dev", "help"]) {
        near if near.is_empty() => message + "; `aside --help` lists them",
        near => message + &near,
    }
}

fn text(argument: OsString) -> Result<String, Failure> {
    argument.into_string().map_err(|argument| misuse(format!("the argument {argument:?} is not valid UTF-8")))
}

fn misuse(message: impl Into<String>) -> Failure {
    Failure::Misuse(message.into())
}

fn new_site(arguments: &[String]) -> Result<NewSite, Failure> {
    const USAGE: &str = "`aside new` takes one name, such as `aside new shop`";
    let (mut names, mut features, mut aside) = (Vec::new(), BTreeSet::new(), None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (option, attached) = match argument.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || attached.clone().or_else(|| rest.next().cloned()).filter(|value| !value.is_empty());
        match option {
            "--with" => features.extend(Feature::parse_list(&value().unwrap_or_default()).map_err(misuse)?),
            "--aside" => {
                aside = Some(value().ok_or_else(|| misuse("`--aside` takes the path of a checkout of aside"))?)
            }
            // A name that begins with one dash is refused as a name.
            _ if option.starts_with("--") => {
                return Err(misuse(format!("`aside new` has no option `{option}`; it takes `--with` and `--aside`")));
            }
            _ => names.push(argument),
        }
    }
    match names[..] {
        [name] => Ok(NewSite { name: SiteName::parse(name).map_err(misuse)?, features, aside }),
        [] => Err(misuse(USAGE)),
        [_, surplus, ..] => Err(misuse(format!("{USAGE}; `{}` is one too many", surplus.escape_debug()))),
    }
}

fn dev(arguments: &[String]) -> Result<DevOptions, Failure> {
    let mut parts = arguments.splitn(2, |argument| argument == "--").map(<[String]>::to_vec);
    let (mut cargo, site) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let stops_first = cargo.iter().any(|option| option == STOP_FIRST);
    cargo.retain(|option| option != STOP_FIRST);
    cargo_options::check(&cargo).map_err(misuse)?;
    Ok(DevOptions { stops_first, cargo, site })
}

fn generate(arguments: &[String]) -> Result<Command, Failure> {
    if let Some(option) = arguments.iter().find(|argument| argument.starts_with("--")) {
        let option = option.escape_debug();
        return Err(misuse(format!("`aside generate` has no option `{option}`; it overwrites nothing")));
    }
    let Some((kind, names)) = arguments.split_first() else {
        return Err(misuse(GENERATE));
    };
    let kind = Kind::parse(kind).ok_or_else(|| {
        let (near, kind) = (did_you_mean(kind, Kind::NAMES.map(|(name, _)| name)), kind.escape_debug());
        misuse(format!("`aside generate` makes a page, a form, a job or a mail, and not `{kind}`{near}"))
    })?;
    let name = match names {
        [] => return Err(misuse(GENERATE)),
        [name] => name,
        [_, surplus, ..] => return Err(misuse(format!("{GENERATE}; `{}` is one too many", surplus.escape_debug()))),
    };
    Ok(Command::Generate(kind, ItemName::parse(name).map_err(misuse)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Command, String> {
        Command::parse(arguments.iter().map(OsString::from)).map_err(|failure| match failure {
            Failure::Misuse(message) => message,
            Failure::Failed(message) => panic!("{message}"),
        })
    }

    #[test]
    fn options_stand_before_or_after_the_name() {
        let features = BTreeSet::from([Feature::Login, Feature::Jobs]);
        let site = NewSite { name: SiteName::parse("shop").unwrap(), features, aside: Some("../aside".into()) };
        let site = Ok(Command::New(site));
        assert_eq!(parse(&["new", "shop", "--with", "jobs,login", "--aside", "../aside"]), site);
        assert_eq!(parse(&["new", "--with=jobs", "--aside=../aside", "--with=login", "shop"]), site);
    }

    #[test]
    fn a_wrong_command_line_is_refused_with_one_line() {
        for (arguments, part) in [
            (&["neu", "shop"][..], "there is no command `neu`"),
            (&["nwe", "shop"], "there is no command `nwe`; did you mean `new`?"),
            (&["dve"], "did you mean `dev`?"),
            (&["new"], "takes one name"),
            (&["new", "shop", "store"], "`store` is one too many"),
            (&["new", "shop", "--without", "jobs"], "no option `--without`"),
            (&["new", "shop", "--with"], "--with takes"),
            (&["new", "shop", "--aside"], "takes the path"),
            (&["generate"], "takes a kind and a name"),
            (&["generate", "page"], "takes a kind and a name"),
            (&["generate", "page", "about", "terms"], "`terms` is one too many"),
            (&["generate", "page", "about", "--force"], "no option `--force`"),
            (&["generate", "pages", "about"], "and not `pages`; did you mean `page`?"),
            (&["generate", "model", "order"], "a page, a form, a job or a mail"),
            (&["dev", "shop"], "`shop` is neither"),
            (&["dev", "--message-format=short"], "is neither"),
        ] {
            let message = parse(arguments).unwrap_err();
            assert!(message.contains(part) && !message.contains('\n'), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn aside_dev_passes_options_to_cargo_and_arguments_to_the_site() {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (cargo, site) = (strings(&["--bin", "shop", "-F=x"]), strings(&["serve", "--help"]));
        let options = DevOptions { stops_first: true, cargo, site };
        let arguments = ["dev", "--stop-first", "--bin", "shop", "-F=x", "--", "serve", "--help"];
        assert_eq!(parse(&arguments), Ok(Command::Dev(options)));
        assert_eq!(parse(&["dev"]), Ok(Command::Dev(DevOptions { stops_first: false, cargo: vec![], site: vec![] })));
    }

    #[test]
    fn no_arguments_are_a_request_for_help() {
        for arguments in [&[][..], &["--help"], &["help"], &["new", "--help"], &["generate", "page", "-h"]] {
            assert_eq!(parse(arguments), Ok(Command::Help), "{arguments:?}");
        }
    }
}
