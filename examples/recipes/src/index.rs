//! Each recipe is short, has a test that runs here, and is listed in the guide.

use std::fs;
use std::path::Path;

const MAX_LINES: usize = 80;

const GUIDE: &str = include_str!("../../../docs/guide/16-recipes.md");
const TESTS: &str = include_str!("lib.rs");

/// Returns the name and the source of each recipe.
fn recipes() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let recipe = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.map(recipe).collect()
}

#[test]
fn each_recipe_has_at_most_80_lines() {
    for (name, source) in recipes() {
        let lines = source.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines");
    }
}

#[test]
fn each_recipe_says_how_to_run_it() {
    for (name, source) in recipes() {
        let head: Vec<&str> = source
            .lines()
            .take_while(|line| line.starts_with("//! "))
            .collect();
        let command = format!("`cargo run --bin {name}");
        let is_there = head.iter().any(|line| line.contains(&command));
        assert!(
            (1..=3).contains(&head.len()) && is_there,
            "{name} begins with {head:?}"
        );
    }
}

#[test]
fn each_recipe_has_a_test_that_runs_here() {
    for (name, source) in recipes() {
        assert!(source.contains("#[test]\n"), "{name} has no test");
        assert!(
            TESTS.contains(&format!("\"bin/{name}.rs\"")),
            "src/lib.rs lacks {name}"
        );
    }
}

#[test]
fn the_guide_lists_each_recipe_in_one_line() {
    let listed = |line: &str| Some(line.strip_prefix("- `")?.split_once("`: ")?.0.to_owned());
    let mut listed: Vec<String> = GUIDE.lines().filter_map(listed).collect();
    let mut names: Vec<String> = recipes().into_iter().map(|(name, _)| name).collect();
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
}
