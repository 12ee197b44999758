//! The weight of a site: the crates that it builds, with and without the default features. `.ci/run` checks the size of the
//! program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The most crates of a site, this one included.
const MOST: [(&str, usize); 2] = [("default", 165), ("none", 90)];

/// A crate is one more thing to compile, to trust and to update, so that each new one is a decision.
#[test]
fn a_site_builds_the_listed_crates() {
    for (features, most) in MOST {
        let found = crates(features);
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/weight/{features}.txt"));
        let listed = fs::read_to_string(&list).unwrap();
        let listed: Vec<&str> = listed.lines().collect();
        let written = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{features}.txt"));
        fs::write(&written, found.join("\n") + "\n").unwrap();
        assert!(
            found == listed,
            "features: {features}. {} crates instead of {}; new: {:?}; gone: {:?}. `cargo tree -e normal,build -i NAME` shows \
             who needs a crate. If a new one is worth its weight, say why in the commit, and\ncp {} {}",
            found.len(),
            listed.len(),
            difference(&found, &listed),
            difference(&listed, &found),
            written.display(),
            list.display()
        );
        assert!(found.len() <= most, "features: {features}. {} crates, and the most are {most}", found.len());
    }
}

/// Returns the names of the crates that a site builds, in order; a name twice if two versions of it are built.
fn crates(features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .args((features == "none").then_some("--no-default-features"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let versions: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    versions
        .iter()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the entries of `these` that `those` does not have as many times.
fn difference(these: &[impl AsRef<str>], those: &[impl AsRef<str>]) -> Vec<String> {
    let mut those: Vec<&str> = those.iter().map(AsRef::as_ref).collect();
    let is_new = |name: &&str| match those.iter().position(|other| other == name) {
        Some(at) => {
            those.swap_remove(at);
            false
        }
        None => true,
    };
    these.iter().map(AsRef::as_ref).filter(is_new).map(str::to_owned).collect()
}
