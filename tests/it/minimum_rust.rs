//! The minimum Rust version in the README, in Cargo.toml, and of the dependencies. Clippy's `incompatible_msrv` checks the
//! code itself.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The minimum version in Cargo.toml.
const OURS: &str = env!("CARGO_PKG_RUST_VERSION");

/// The features that this test is compiled with. Only their dependencies are certain to be downloaded.
const FEATURES: [(&str, bool); 7] = [
    ("embed", cfg!(feature = "embed")),
    ("mail", cfg!(feature = "mail")),
    ("image", cfg!(feature = "image")),
    ("webhook", cfg!(feature = "webhook")),
    ("sqlite", cfg!(feature = "sqlite")),
    ("redis", cfg!(feature = "redis")),
    ("epoll", cfg!(feature = "epoll")),
];

#[test]
fn the_readme_names_the_minimum_version() {
    assert!(include_str!("../../README.md").contains(&format!("\n\nRust {OURS}. MIT or Apache-2.0")), "{OURS}");
}

#[test]
fn no_dependency_needs_a_newer_rust() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let needed = dependencies(&metadata["resolve"]);
    let newer: Vec<String> = packages
        .iter()
        .filter(|package| needed.contains(text(&package["id"])))
        .filter(|package| package["rust_version"].as_str().is_some_and(|theirs| version(theirs) > version(OURS)))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(needed.len() > 50, "only {} dependencies were found", needed.len());
    assert!(newer.is_empty(), "these need more than Rust {OURS}: {newer:?}");
}

/// Returns cargo's metadata of the packages on this platform, without network access.
fn metadata() -> Value {
    let features: Vec<&str> = FEATURES.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--no-default-features"])
        .args(["--features", &features.join(","), "--filter-platform", &host()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

/// Returns the packages that a build needs, directly or indirectly, without those for tests only.
fn dependencies(resolve: &Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Value> =
        resolve["nodes"].as_array().unwrap().iter().map(|node| (text(&node["id"]), node)).collect();
    let (mut needed, mut next) = (BTreeSet::new(), vec![text(&resolve["root"])]);
    while let Some(package) = next.pop() {
        let all = nodes[package]["deps"].as_array().unwrap().iter();
        let built = all.filter(|one| one["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev"));
        next.extend(built.map(|one| text(&one["pkg"])).filter(|package| needed.insert(*package)));
    }
    needed
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Returns the numbers of a version: `1.89` is 1.89.0.
fn version(version: &str) -> [u32; 3] {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}
