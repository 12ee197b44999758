//! Runs the command in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The command, with this folder as its current one.
pub fn aside(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aside"));
    command.args(arguments).current_dir(folder);
    command
}

/// Runs the command, which must succeed, and returns what it prints.
pub fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = aside(folder, arguments).output().unwrap();
    let errors = text(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
    text(&output.stdout)
}

/// Runs the command, which must refuse with one line and exit code 2, and returns the line.
pub fn refusal(folder: &Path, arguments: &[&str]) -> String {
    let output = aside(folder, arguments).output().unwrap();
    one_line(&output, 2)
}

/// Returns the only line on standard error.
pub fn one_line(output: &Output, code: i32) -> String {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let line = errors.strip_prefix("aside: ").and_then(|errors| errors.strip_suffix('\n')).expect(&errors);
    assert!(!line.contains('\n'), "{line}");
    line.to_owned()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Returns an empty folder, and a new site in it.
pub fn site(features: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    match features {
        "" => run(folder.path(), &["new", "shop"]),
        features => run(folder.path(), &["new", "shop", "--with", features]),
    };
    let site = folder.path().join("shop");
    (folder, site)
}

/// All combinations of features, the empty one first and all of them last.
pub fn combinations() -> Vec<String> {
    const FEATURES: [&str; 5] = ["login", "jobs", "mail", "uploads", "live"];
    let is_in = |set: usize, at: usize| set & (1 << at) != 0;
    let names = |set: usize| (0..5).filter(move |&at| is_in(set, at)).map(|at| FEATURES[at]).collect::<Vec<&str>>();
    (0..32).map(|set| names(set).join(",")).collect()
}

/// Returns the paths of all files below a folder, without those of Git, in order.
pub fn files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir().unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with(".git") => {}
                true => folders.push(path),
                false => files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    files.sort();
    files
}

/// Checks the format of all Rust files of a site with its own settings.
pub fn assert_formatted(site: &Path) {
    let output = Command::new("rustfmt")
        .args(["--edition", "2024", "--check", "src/main.rs"])
        .current_dir(site)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
