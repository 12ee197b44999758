//! The options of `cargo build` that `aside dev` passes on.

use crate::nearest::nearest;

/// Options without a value.
const FLAGS: [&str; 16] = [
    "--all-features",
    "--no-default-features",
    "--release",
    "-r",
    "--workspace",
    "--locked",
    "--offline",
    "--frozen",
    "--keep-going",
    "--timings",
    "--ignore-rust-version",
    "--future-incompat-report",
    "--verbose",
    "-v",
    "--quiet",
    "-q",
];

/// Options with a value.
const WITH_VALUE: [&str; 14] = [
    "--bin",
    "--example",
    "--package",
    "-p",
    "--features",
    "-F",
    "--jobs",
    "-j",
    "--profile",
    "--target",
    "--target-dir",
    "--exclude",
    "--config",
    "-Z",
];

/// What other tools call the address. Cargo has none of them.
const ADDRESS: [&str; 5] = ["--port", "--host", "--address", "--addr", "--bind"];

/// Checks that each argument is an option that `aside dev` passes on to Cargo, or the value of one.
pub fn check(arguments: &[String]) -> Result<(), String> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (option, attached) = split(argument);
        let is_short_flags = argument.len() > 2 && argument.strip_prefix('-').is_some_and(is_flags);
        if is_short_flags || FLAGS.contains(&option) && attached.is_none() {
            continue;
        }
        if !WITH_VALUE.contains(&option) {
            return Err(unknown(argument, option));
        }
        let value = attached.or_else(|| rest.next().map(String::as_str)).unwrap_or_default();
        if value.is_empty() || value.starts_with('-') {
            return Err(format!("`{option}` takes a value"));
        }
        if option == "-p" && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(about_address("-p"));
        }
    }
    Ok(())
}

/// Splits `--bin=shop`, `-F=search` and `-Fsearch`.
fn split(argument: &str) -> (&str, Option<&str>) {
    match argument.split_once('=') {
        Some((option, value)) if option.starts_with('-') => return (option, Some(value)),
        _ => {}
    }
    let is_short = argument.starts_with('-') && !argument.starts_with("--");
    match argument.split_at_checked(2) {
        Some((option, value)) if is_short && !value.is_empty() => (option, Some(value)),
        _ => (argument, None),
    }
}

/// Returns true for the letters of flags, as in `-vv`.
fn is_flags(letters: &str) -> bool {
    letters.chars().all(|letter| "vqr".contains(letter))
}

fn unknown(argument: &str, option: &str) -> String {
    let shown = argument.escape_debug();
    // With one dash, the letters after the first one belong to the name.
    let name = if option.starts_with("--") { option } else { argument };
    let known = FLAGS.into_iter().chain(WITH_VALUE).chain(ADDRESS).filter(|known| known.len() > 2);
    match nearest(name, known).filter(|_| argument.starts_with('-')) {
        Some(near) if ADDRESS.contains(&near) => about_address(&shown.to_string()),
        near => {
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            format!(
                "`aside dev` takes options of `cargo build`, and after `--` arguments of the site; `{shown}` is neither{near}"
            )
        }
    }
}

fn about_address(option: &str) -> String {
    format!(
        "`aside dev` takes the address from the environment, and not from `{option}`: ASIDE_ADDR=127.0.0.1:9000 aside dev"
    )
}

#[cfg(test)]
mod tests {
    fn check(line: &str) -> Result<(), String> {
        super::check(&line.split_whitespace().map(str::to_owned).collect::<Vec<String>>())
    }

    #[test]
    fn options_of_cargo_are_passed_on() {
        for line in [
            "",
            "--bin shop",
            "--bin=shop",
            "-p shop -F a,b",
            "-F=a -Fb -pshop -j4 -j 4",
            "-r -vv -qr --release",
            "--example chat --all-features --no-default-features --locked --offline --frozen",
            "--profile fast --target x86_64-unknown-linux-musl --target-dir out",
            "--config net.retry=1 --config=a=b -Z unstable",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn another_option_is_refused_with_the_nearest() {
        for (line, part) in [
            ("--relase", "`--relase` is neither; did you mean `--release`?"),
            ("--bni shop", "did you mean `--bin`?"),
            ("-release", "did you mean `--release`?"),
            ("--xyzzy", "`--xyzzy` is neither"),
            ("--message-format=short", "is neither"),
            ("--manifest-path Cargo.toml", "is neither"),
            ("--release=yes", "is neither"),
            ("shop", "`shop` is neither"),
            ("-é", "is neither"),
            ("--bin", "`--bin` takes a value"),
            ("--bin --release", "`--bin` takes a value"),
            ("-F=", "`-F` takes a value"),
        ] {
            let message = check(line).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn an_address_is_an_environment_variable() {
        for line in ["--port 9000", "--port=9000", "--prot 9000", "--host 0.0.0.0", "-p 9000", "-p9000", "--address x"]
        {
            let message = check(line).unwrap_err();
            assert!(message.contains("ASIDE_ADDR=127.0.0.1:9000 aside dev"), "{line}: {message}");
        }
    }
}
