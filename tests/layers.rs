//! The house as a table: a file may import from rooms on lower floors, and within its own floor where no cycle comes of
//! it. Imports from the crate's root are refused: they hide where a thing lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room's floor. A room is a file, or a folder with all that is in it.
const FLOORS: &[(&str, u32)] = &[
    ("bounds", 0),
    ("deadline", 0),
    ("error", 0),
    ("log_limit", 0),
    ("panics", 0),
    ("private_files", 0),
    ("sync", 0),
    ("trust", 0),
    ("watch", 0),
    ("worker_routes", 0),
    ("worker_share", 0),
    ("background", 1),
    ("cache", 1),
    ("config", 1),
    ("http", 1),
    ("image", 1),
    ("http::files", 2),
    ("http::forms", 2),
    ("http::security", 2),
    ("http::session", 2),
    ("http::stream::sse", 2),
    ("http::templates", 2),
    ("http::url_for", 2),
    ("isolate", 3),
    ("live", 3),
    ("jobs", 4),
    ("jobs::backends", 5),
    ("jobs::memory", 5),
    ("jobs::redis", 5),
    ("jobs::sqlite", 5),
    ("jobs::transaction", 5),
    ("mail", 5),
    ("webhook", 5),
    ("app", 6),
    ("panel", 7),
    ("fuzzing", 8),
    ("server", 8),
    ("testing", 8),
];

/// A module and the modules it names.
type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_file_has_a_floor() {
    let homeless: Vec<_> = arrows().into_keys().filter(|module| floor(module).is_none()).collect();
    assert!(homeless.is_empty(), "give these a floor in tests/layers.rs: {homeless:?}");
}

#[test]
fn every_room_of_the_table_is_there() {
    let modules = arrows();
    let gone: Vec<_> =
        FLOORS.iter().filter(|(room, _)| !modules.keys().any(|module| is_within(module, room))).collect();
    assert!(gone.is_empty(), "no file is in these rooms any more: {gone:?}");
}

#[test]
fn nobody_imports_from_a_floor_above() {
    for (from, targets) in arrows() {
        for to in targets {
            assert!(
                floor(&to) <= floor(&from),
                "{from} (floor {:?}) imports {to} (floor {:?})",
                floor(&from),
                floor(&to)
            );
        }
    }
}

#[test]
fn nobody_imports_in_a_circle() {
    let arrows = arrows();
    for module in arrows.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&String> = arrows[module].iter().collect();
        while let Some(next) = open.pop() {
            assert_ne!(next, module, "{module} imports itself by way of {reached:?}");
            if reached.insert(next) {
                open.extend(arrows.get(next).into_iter().flatten());
            }
        }
    }
}

#[test]
fn nobody_imports_from_the_root() {
    for (file, code) in sources() {
        for path in paths(&code, "crate::") {
            let first = path.chars().next().unwrap_or('{');
            assert!(first.is_lowercase(), "{file:?} imports `crate::{path}`; import it from the room where it lives");
        }
    }
}

#[test]
fn the_lower_floors_do_not_know_the_libraries_of_the_upper_ones() {
    for (file, code) in sources() {
        let module = module_of(&file);
        let code = code.replace("self::tiny_http::", "");
        assert!(!code.contains("tiny_http::") || module == "server::tiny_http", "{module} names tiny_http");
        assert!(!module.starts_with("background") || !code.contains("http::"), "{module} knows of HTTP");
    }
}

/// A small drawing of the rule itself, so that a mistake in the reader above does not let everything through.
#[test]
fn an_import_is_seen_wherever_it_stands() {
    let code =
        "use crate::http::request::Request;\nfn f() { crate::mail::send(); super::router::at(); }\n// crate::app\n";
    let modules: BTreeSet<String> = ["http::request", "mail", "http::router", "app"].map(str::to_owned).into();
    let seen = targets("http::form", &without_comments(code), &modules);
    assert_eq!(seen, ["http::request", "http::router", "mail"].map(str::to_owned).into());
}

fn floor(module: &str) -> Option<u32> {
    let rooms = FLOORS.iter().filter(|(room, _)| is_within(module, room));
    rooms.max_by_key(|(room, _)| room.len()).map(|(_, floor)| *floor)
}

fn is_within(module: &str, room: &str) -> bool {
    module == room || module.strip_prefix(room).is_some_and(|rest| rest.starts_with("::"))
}

fn arrows() -> Arrows {
    let sources = sources();
    let modules: BTreeSet<String> = sources.iter().map(|(file, _)| module_of(file)).collect();
    sources.iter().map(|(file, code)| (module_of(file), targets(&module_of(file), code, &modules))).collect()
}

fn targets(module: &str, code: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or(String::new(), |(parent, _)| format!("{parent}::"));
    let rooted = paths(code, "crate::").into_iter();
    let beside = paths(code, "super::").into_iter().map(|path| format!("{parent}{path}"));
    rooted.chain(beside).filter_map(|path| longest_module(&path, modules)).filter(|to| to != module).collect()
}

/// `http::request` of `http::request::Request`.
fn longest_module(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    modules.iter().filter(|module| is_within(path, module)).max_by_key(|module| module.len()).cloned()
}

/// What follows each occurrence of a prefix, as far as it is a path.
fn paths(code: &str, prefix: &str) -> Vec<String> {
    let starts = code.match_indices(prefix).filter(|(at, _)| !code[..*at].ends_with('$'));
    let path = |at: usize| {
        let rest = &code[at + prefix.len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    starts.map(|(at, _)| path(at)).collect()
}

/// The files under `src` but the root, without their unit tests.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let is_test = |file: &PathBuf| file.with_extension("").components().any(|part| part.as_os_str() == "tests");
    let files = files.into_iter().filter(|file| file != &src.join("lib.rs") && !is_test(file));
    let code = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("a source file can be read");
        without_comments(text.split("#[cfg(test)]\nmod tests").next().unwrap_or(""))
    };
    files.map(|file| (file.strip_prefix(&src).expect("it is under src").to_owned(), code(&file))).collect()
}

fn without_comments(code: &str) -> String {
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder can be listed") {
        let path = entry.expect("its entries can be read").path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.extend(path.extension().is_some_and(|end| end == "rs").then_some(path)),
        }
    }
}

/// `http::request` of `http/request.rs`, `http` of `http/mod.rs`.
fn module_of(file: &Path) -> String {
    let path = file.with_extension("").to_string_lossy().replace(std::path::MAIN_SEPARATOR, "::");
    path.strip_suffix("::mod").unwrap_or(&path).to_owned()
}
