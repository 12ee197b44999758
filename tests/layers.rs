//! The layers of the code base, as a table. A module may import from modules of lower layers, and of its own layer if no
//! cycle results. Imports from the crate root are refused: they hide the module that owns an item.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layer of each module, submodules included. The longest matching entry counts.
const LAYERS: &[(&str, u32)] = &[
    ("bounds", 0),
    ("channel", 0),
    ("deadline", 0),
    ("error", 0),
    ("guide", 0),
    ("log_limit", 0),
    ("log_text", 0),
    ("message_groups", 0),
    ("nearest", 0),
    ("owned_data", 0),
    ("panics", 0),
    ("private_files", 0),
    ("random", 0),
    ("sync", 0),
    ("trust", 0),
    ("utc", 0),
    ("watch", 0),
    ("worker_routes", 0),
    ("worker_share", 0),
    ("background", 1),
    ("cache", 1),
    ("config", 1),
    ("http", 1),
    ("image", 1),
    ("sqlite", 1),
    ("http::error_pages", 2),
    ("http::files", 2),
    ("http::forms", 2),
    ("http::live_reload", 2),
    ("http::security", 2),
    ("http::session", 2),
    ("http::stream::sse", 2),
    ("http::templates", 2),
    ("http::url_for", 2),
    ("failures", 3),
    ("isolate", 3),
    ("live", 3),
    ("jobs", 4),
    ("jobs::backends", 5),
    ("jobs::memory", 5),
    ("jobs::redis", 5),
    ("jobs::sqlite", 5),
    ("jobs::transaction", 5),
    ("failures::alerts", 5),
    ("mail", 5),
    ("metrics", 5),
    ("webhook", 5),
    ("app", 6),
    ("panel", 7),
    ("fuzzing", 8),
    ("server", 8),
    ("commands", 8),
    ("testing", 8),
];

/// The modules that each module imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_module_has_a_layer() {
    let missing: Vec<_> = imports().into_keys().filter(|module| layer(module).is_none()).collect();
    assert!(missing.is_empty(), "add the layers of these modules to tests/layers.rs: {missing:?}");
}

#[test]
fn every_module_of_the_table_exists() {
    let modules = imports();
    let gone: Vec<_> =
        LAYERS.iter().filter(|(entry, _)| !modules.keys().any(|module| is_within(module, entry))).collect();
    assert!(gone.is_empty(), "these modules of the table have no file: {gone:?}");
}

#[test]
fn no_module_imports_from_a_higher_layer() {
    for (from, targets) in imports() {
        for to in targets {
            assert!(
                layer(&to) <= layer(&from),
                "{from} (layer {:?}) imports {to} (layer {:?})",
                layer(&from),
                layer(&to)
            );
        }
    }
}

#[test]
fn no_imports_form_a_cycle() {
    let imports = imports();
    for module in imports.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&String> = imports[module].iter().collect();
        while let Some(next) = open.pop() {
            assert_ne!(next, module, "{module} imports itself through {reached:?}");
            if reached.insert(next) {
                open.extend(imports.get(next).into_iter().flatten());
            }
        }
    }
}

#[test]
fn no_module_imports_from_the_crate_root() {
    for (file, code) in sources() {
        for path in paths(&code, "crate::") {
            let first = path.chars().next().unwrap_or('{');
            assert!(first.is_lowercase(), "{file:?} imports `crate::{path}`; import it from the module that owns it");
        }
    }
}

#[test]
fn tiny_http_is_used_only_in_its_transport_and_background_knows_nothing_of_http() {
    for (file, code) in sources() {
        let module = module_of(&file);
        let code = code.replace("self::tiny_http::", "");
        assert!(!code.contains("tiny_http::") || is_within(&module, "server::tiny_http"), "{module} names tiny_http");
        assert!(!module.starts_with("background") || !code.contains("http::"), "{module} uses HTTP");
    }
}

/// Checks the parser of imports, so that a mistake in it does not let every import pass.
#[test]
fn an_import_is_found_anywhere_in_the_code() {
    let code =
        "use crate::http::request::Request;\nfn f() { crate::mail::send(); super::router::at(); }\n// crate::app\n";
    let modules: BTreeSet<String> = ["http::request", "mail", "http::router", "app"].map(str::to_owned).into();
    let seen = targets("http::form", &without_comments(code), &modules);
    assert_eq!(seen, ["http::request", "http::router", "mail"].map(str::to_owned).into());
}

fn layer(module: &str) -> Option<u32> {
    let entries = LAYERS.iter().filter(|(entry, _)| is_within(module, entry));
    entries.max_by_key(|(entry, _)| entry.len()).map(|(_, layer)| *layer)
}

fn is_within(module: &str, parent: &str) -> bool {
    module == parent || module.strip_prefix(parent).is_some_and(|rest| rest.starts_with("::"))
}

fn imports() -> Imports {
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

/// Returns the module of a path: `http::request` of `http::request::Request`.
fn longest_module(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    modules.iter().filter(|module| is_within(path, module)).max_by_key(|module| module.len()).cloned()
}

/// Returns the path that follows each occurrence of a prefix.
fn paths(code: &str, prefix: &str) -> Vec<String> {
    let starts = code.match_indices(prefix).filter(|(at, _)| !code[..*at].ends_with('$'));
    let path = |at: usize| {
        let rest = &code[at + prefix.len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    starts.map(|(at, _)| path(at)).collect()
}

/// Returns the files below `src` except the crate root, without unit tests and comments.
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
    files.map(|file| (file.strip_prefix(&src).expect("the file is below src").to_owned(), code(&file))).collect()
}

fn without_comments(code: &str) -> String {
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder can be listed") {
        let path = entry.expect("the entries of a source folder can be read").path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.extend(path.extension().is_some_and(|end| end == "rs").then_some(path)),
        }
    }
}

/// Returns the module of a file: `http::request` of `http/request.rs`, `http` of `http/mod.rs`.
fn module_of(file: &Path) -> String {
    let path = file.with_extension("").to_string_lossy().replace(std::path::MAIN_SEPARATOR, "::");
    path.strip_suffix("::mod").unwrap_or(&path).to_owned()
}
