//! Generated sites, built and tested: without features, with each alone and with all; `ASIDE_NEW_ALL=1` tests all 32 combinations.
//!
//! They share the target folder of this build, so that the dependencies are built once.

#[allow(dead_code)] // Other tests use the rest.
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{assert_formatted, combinations, run, text};

/// Runs cargo in a site, without network.
fn cargo(site: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(site)
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    let is_ok = output.status.success();
    assert!(is_ok, "{}: {arguments:?}:\n{}{}", site.display(), text(&output.stdout), text(&output.stderr));
}

/// Returns the target folder of this build.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Makes a site with these features. Its folder is the same each time, so that a second run builds little.
fn make(folder: &Path, features: &str) -> PathBuf {
    let name = format!("site-{features}").replace(',', "-");
    let name = name.trim_end_matches('-');
    let _ = fs::remove_dir_all(folder.join(name)); // from a former run
    match features {
        "" => run(folder, &["new", name]),
        features => run(folder, &["new", name, "--with", features]),
    };
    folder.join(name)
}

fn check(site: &Path) {
    assert_formatted(site);
    cargo(site, &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]);
    cargo(site, &["test", "--quiet"]);
}

#[test]
fn generated_sites_pass_their_tests_and_clippy() {
    let folder = target().join("tmp/sites");
    fs::create_dir_all(&folder).unwrap();
    let all = combinations();
    let is_tested = |features: &&String| {
        let number = features.split(',').filter(|name| !name.is_empty()).count();
        number <= 1 || number == 5 || std::env::var_os("ASIDE_NEW_ALL").is_some()
    };
    for features in all.iter().filter(is_tested) {
        let site = make(&folder, features);
        check(&site);
        if features == &all[0] || features == &all[31] {
            add_each_kind(&site);
            check(&site);
        }
    }
}

fn add_each_kind(site: &Path) {
    for (kind, name) in [("page", "about-us"), ("form", "order"), ("job", "clean-up"), ("mail", "welcome")] {
        run(site, &["generate", kind, name]);
    }
}
