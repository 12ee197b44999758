//! The README's order page, as a reader copies it (a documentation test of the crate checks that it compiles), its
//! figures, the guide's settings, and what these and the other documents name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aside::testing::TestClient;
use aside::{App, Config, Request, Response, Result, context, redirect};

const README: &str = include_str!("../../README.md");
const CONFIGURATION: &str = include_str!("../../docs/guide/11-configuration.md");

/// Returns the code blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}");
    let starts = README.match_indices(&fence).map(|(at, _)| at);
    let block = |at: usize| README[at..].split_once('\n').unwrap().1.split_once("```").unwrap().0;
    starts.map(block).collect()
}

/// GitHub and crates.io show the lines that rustdoc hides, and without them a reader has an incomplete program.
#[test]
fn no_example_has_hidden_lines() {
    let is_hidden = |line: &&str| *line == "#" || line.starts_with("# ");
    let hidden: Vec<&str> = blocks("rust").iter().flat_map(|block| block.lines()).filter(is_hidden).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn the_log_names_the_line_that_started_the_task() {
    let program = *blocks("rust").iter().find(|block| block.contains("background(move")).unwrap();
    let line = program.lines().position(|line| line.contains("background(move")).unwrap() + 1;
    let log = blocks("text")[0];
    assert!(log.contains(&format!("create_order (src/main.rs:{line}) failed: ")), "{line}: {log}");
}

#[test]
fn the_template_of_the_order_page_shows_its_context() {
    let app = App::with_config(Config::default())
        .template("orders.html", blocks("html")[0])
        .get("/orders", |req: &mut Request| {
            let orders = [context! { email => "anna@example.org", quantity => 3 }];
            req.render("orders.html", context! { orders })
        })
        .post("/orders", |req: &mut Request| -> Result<Response> {
            req.flash("success", "Processing your order!");
            Ok(redirect("/orders"))
        });
    let mut client = TestClient::new(app);
    client.post("/orders").send();
    let page = client.get("/orders").text().to_owned();
    assert!(page.contains("<p>3 for anna@example.org</p>") && page.contains("<p>Processing your order!</p>"), "{page}");
}

const BENCHES: &str = include_str!("../../benches/README.md");

/// Returns the rows of the table with this header.
fn table(text: &'static str, head: &str) -> Vec<Vec<&'static str>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = rows.map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
}

/// Returns the numbers of a cell such as ``1.90 (`background()`: 0.28)``.
fn numbers(cell: &str) -> Vec<f64> {
    let is_of_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    cell.split(|letter| !is_of_number(letter)).filter_map(|number| number.parse().ok()).collect()
}

/// The README compares forms with axum's `spawn_blocking`, benches/README.md with its async task. Each ratio is a median of
/// rounds, so that their quotients differ a little.
#[test]
fn the_comparison_with_other_frameworks_has_the_benchmark_results() {
    let ours = table(README, "| 32 connections, 2 cores, axum = 1");
    let theirs = table(BENCHES, "| 32 connections | plain text | template, 50 rows");
    let measured = |name: &str| theirs.iter().find(|row| row[0].replace("**", "").starts_with(name)).unwrap();
    let blocking = numbers(measured("axum")[3].split("spawn_blocking` ").nth(1).unwrap())[0];
    assert!(ours[0][3].contains("`background()`"), "its own figure is beside the other: {:?}", ours[0]);
    for row in &ours {
        let name = row[0].split(" (").next().unwrap().replace("aside, ", "aside ").replace("Flask under", "Flask,");
        if name == "axum" {
            continue;
        }
        let measured = measured(&name);
        assert_eq!(row[1..3], measured[1..3], "{name}");
        let (forms, measured) = (numbers(row[3]), numbers(measured[3]));
        assert_eq!(forms.len(), measured.len(), "{name}");
        for (form, measured) in forms.into_iter().zip(measured) {
            let expected = measured / blocking;
            assert!((form - expected).abs() <= 0.1 * expected + 0.01, "{name}: {form}, not {expected:.2}");
        }
    }
}

/// Returns the settings in the guide's table with their defaults.
fn settings() -> BTreeMap<&'static str, &'static str> {
    let mut settings = BTreeMap::new();
    for row in table(CONFIGURATION, "| Variable | Default") {
        let names: Vec<&str> = row[0].split(", ").map(|name| name.trim_matches('`')).collect();
        // In a row with one setting, a comma in its default is part of the text.
        let defaults: Vec<&str> = if names.len() > 1 { row[1].split(", ").collect() } else { vec![row[1]] };
        for (at, name) in names.into_iter().enumerate().filter(|(_, name)| name.starts_with("ASIDE_")) {
            settings.insert(name, defaults.get(at).copied().unwrap_or_default());
        }
    }
    settings
}

#[test]
fn the_table_of_settings_is_complete() {
    const HIDDEN: &str = "ASIDE_LOOPBACK_CLIENTS";
    let code = include_str!("../../src/config/variables.rs");
    let read = code.split("self.").skip(1).filter_map(|call| call.split('"').nth(1));
    let read: BTreeSet<&str> = read.filter(|name| name.starts_with("ASIDE_") && *name != HIDDEN).collect();
    let told: BTreeSet<&str> = settings().into_keys().collect();
    assert_eq!(told, read);
}

#[test]
fn the_table_of_settings_has_the_defaults() {
    let (config, settings) = (Config::default(), settings());
    let number = |name: &str| {
        let mut words = settings[name].split([' ', ',']);
        let number: u64 = words.next().unwrap().parse().unwrap_or_else(|_| panic!("{name}: {}", settings[name]));
        number
            << match words.next() {
                Some("KiB") => 10,
                Some("MiB") => 20,
                _ => 0,
            }
    };
    for (name, default) in [
        ("ASIDE_SESSION_IDLE", config.session_idle.as_secs()),
        ("ASIDE_SESSION_LIFETIME", config.session_lifetime.as_secs()),
        ("ASIDE_GRACE", config.grace.as_secs()),
        ("ASIDE_MAX_TASKS", config.max_tasks as u64),
        ("ASIDE_MAX_QUEUED_TASKS", config.max_queued_tasks as u64),
        ("ASIDE_MAX_TASK_THREADS", config.max_task_threads as u64),
        ("ASIDE_BACKGROUND_NICE", config.nice as u64),
        ("ASIDE_MAX_WORKERS", config.max_workers as u64),
        ("ASIDE_SLOW_REQUEST", config.slow_request.as_secs()),
        ("ASIDE_MAX_STREAMS", config.max_streams as u64),
        ("ASIDE_MAX_HEAD", config.max_head as u64),
        ("ASIDE_MAX_HEADERS", config.max_headers as u64),
        ("ASIDE_MAX_CONNECTIONS", config.max_connections as u64),
        ("ASIDE_MAX_REQUESTS", config.max_requests.into()),
        ("ASIDE_HEAD_TIMEOUT", config.head_timeout.as_secs()),
        ("ASIDE_IDLE_TIMEOUT", config.idle_timeout.as_secs()),
        ("ASIDE_WRITE_TIMEOUT", config.write_timeout.as_secs()),
        ("ASIDE_BODY_TIMEOUT", config.body_timeout.as_secs()),
        ("ASIDE_MIN_RATE", config.min_rate),
        ("ASIDE_MAX_BUFFERED", config.max_buffered as u64),
        ("ASIDE_MAX_UNSENT", config.max_unsent as u64),
        ("ASIDE_MAX_FORM", config.max_form),
        ("ASIDE_MAX_UPLOAD", config.max_upload),
        ("ASIDE_MAX_FIELDS", config.max_fields as u64),
        ("ASIDE_MAX_PARTS", config.max_parts as u64),
        ("ASIDE_MAX_COMPRESSED", config.max_compressed),
        ("ASIDE_MAX_IMAGE_MEMORY", config.max_image_memory),
        ("ASIDE_MAIL_CONNECTIONS", config.mail_connections as u64),
    ] {
        assert_eq!(number(name), default, "{name}");
    }
    let words = [("ASIDE_ADDR", config.address), ("ASIDE_TEMPLATES", config.templates.display().to_string())];
    for (name, default) in words {
        assert_eq!(settings[name], format!("`{default}`"), "{name}");
    }
    assert_eq!(settings["ASIDE_SOCKET_MODE"], format!("{:o}", config.socket_mode));
}

/// The tests in `src/config/mod.rs` cover the settings that the configuration refuses; the start of the site refuses these.
#[test]
fn an_unusable_setting_is_refused_at_startup_by_its_name() {
    let config = || Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let list = |text: &str| vec![text.to_owned()];
    let mut settings = vec![
        ("ASIDE_ADDR", Config { address: "nowhere".into(), ..config() }),
        ("ASIDE_URL", Config { url: Some("ftp://example.org".into()), ..config() }),
        ("ASIDE_ALLOWED_HOSTS", Config { allowed_hosts: list("two names"), ..config() }),
        ("ASIDE_TRUSTED_PROXIES", Config { trusted_proxies: list("10.0.0.0/99"), ..config() }),
        ("ASIDE_TRUSTED_ORIGINS", Config { trusted_origins: list("example.org/path"), ..config() }),
        ("ASIDE_STORE", Config { store: Some("postgres:".into()), ..config() }),
        ("ASIDE_TEMPLATES", Config { templates: "no/such/folder".into(), ..config() }),
        ("ASIDE_TEMPLATES", Config { templates: "Cargo.toml".into(), ..config() }),
    ];
    if cfg!(feature = "mail") {
        settings.push(("ASIDE_MAIL_URL", Config { mail_url: Some("smtp://[bad".into()), ..config() }));
        settings.push(("ASIDE_MAIL_FROM", Config { mail_from: Some("nobody".into()), ..config() }));
    }
    for (name, config) in settings {
        let words = App::with_config(config).start().err().map(|error| error.chain()).unwrap_or_default();
        assert!(words.contains(name), "{name}: {words:?}");
    }
    App::with_config(config()).start().expect("the default folder of templates may be missing").stop();
}

/// Returns the names between backticks in a text.
fn named(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Adds all sources of a folder, with their path.
fn sources(folder: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// Only the application can allow cross-origin reads.
#[test]
fn no_source_of_the_framework_allows_other_origins_to_read() {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    assert!(!all.iter().any(|source| source.to_ascii_lowercase().contains("access-control-allow-origin")));
}

#[test]
fn the_security_notes_name_existing_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    ["src", "tests", "examples"].iter().for_each(|folder| sources(&root.join(folder), &mut all));
    let is_name = |name: &&str| {
        name.matches('_').count() > 1 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let names: Vec<&str> = named(include_str!("../../docs/security.md")).into_iter().filter(is_name).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(all.iter().any(|source| source.contains(&format!("fn {name}("))), "there is no test {name}");
    }
}

/// The documents name files relative to the crate, to `src`, or to their own folder.
#[test]
fn the_map_of_the_code_base_names_existing_functions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut code = String::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => code.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let functions = named(include_str!("../../CONTRIBUTING.md")).into_iter().filter_map(|name| {
        let (of, function) = name.split_once("::")?;
        of.starts_with(char::is_uppercase).then_some((name, of, function))
    });
    let mut count = 0;
    for (name, of, function) in functions {
        let has = |what: &str| code.contains(&format!("{what}(")) || code.contains(&format!("{what}<"));
        assert!(has(&format!("fn {function}")), "CONTRIBUTING.md: {name}");
        assert!(["struct", "trait", "enum"].iter().any(|kind| code.contains(&format!("{kind} {of}"))), "{name}");
        count += 1;
    }
    assert!(count > 15, "{count} functions are named");
}

#[test]
fn the_documents_name_existing_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (document, text) in [
        ("README.md", README),
        ("CONTRIBUTING.md", include_str!("../../CONTRIBUTING.md")),
        ("docs/security.md", include_str!("../../docs/security.md")),
        ("docs/guide/07-jobs.md", include_str!("../../docs/guide/07-jobs.md")),
        ("docs/guide/08-live-pages.md", include_str!("../../docs/guide/08-live-pages.md")),
        ("docs/guide/09-mail-and-webhooks.md", include_str!("../../docs/guide/09-mail-and-webhooks.md")),
        ("docs/guide/10-testing.md", include_str!("../../docs/guide/10-testing.md")),
        ("docs/guide/12-deployment.md", include_str!("../../docs/guide/12-deployment.md")),
        ("docs/guide/11-configuration.md", CONFIGURATION),
        ("docs/comparison.md", include_str!("../../docs/comparison.md")),
        ("docs/job-guarantees.md", include_str!("../../docs/job-guarantees.md")),
        ("benches/README.md", BENCHES),
    ] {
        let own = root.join(document).parent().unwrap().to_owned();
        let starts = ["src/", "tests/", "examples/", "docs/", "benches/", "server/", "jobs/", "http/", "fuzz/"];
        for path in named(text).into_iter().filter(|path| starts.iter().any(|start| path.starts_with(start))) {
            let places = [root.join(path), root.join("src").join(path), own.join(path)];
            let is_there = |place: &std::path::PathBuf| place.exists() || place.with_extension("rs").exists();
            assert!(places.iter().any(is_there), "{document}: {path}");
        }
    }
}

/// Returns the lines of a document that are not in a code block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let is_kept = |letter: &char| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter);
    headings
        .map(|heading| heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// Returns all pages for readers: those at the root, in `docs` and in the guide.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let in_folder = |folder| fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let pages = ["", "docs", "docs/guide", "benches"].into_iter().flat_map(in_folder);
    pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Returns the label and the target of each link definition, such as `[jobs]: 07-jobs.md`.
fn definitions(text: &str) -> impl Iterator<Item = (&str, &str)> {
    prose(text).filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
}

/// Returns the targets of the links in a document that lead to other documents.
fn links(text: &str) -> Vec<&str> {
    let inline = prose(text).flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    let targets = inline.chain(definitions(text).map(|(_, target)| target));
    targets.filter(|target| !target.starts_with("http")).collect()
}

#[test]
fn the_links_of_the_documents_lead_to_pages_and_headings_that_are_there() {
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
                let anchors = anchors(&fs::read_to_string(&target).unwrap());
                assert!(anchors.iter().any(|one| one == anchor), "{}: {link}, of {anchors:?}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count} links");
}

/// rustdoc resolves the labels by `links.md`, and cannot resolve a link to a file.
#[test]
fn the_links_of_the_guide_lead_to_the_same_pages_in_files_and_in_rustdoc() {
    let source = include_str!("../../src/guide/mod.rs");
    let files: Vec<(&str, &str)> =
        source.lines().filter_map(|line| line.strip_prefix("page!(")?.split_once(", \"")).collect();
    let files: BTreeMap<&str, &str> =
        files.into_iter().map(|(module, rest)| (module, rest.split('"').next().unwrap())).collect();
    let modules: BTreeMap<&str, &str> = definitions(include_str!("../../src/guide/links.md")).collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for file in files.values().copied().chain(["guide/README.md"]) {
        let text = fs::read_to_string(docs.join(file)).unwrap();
        assert_eq!(links(&text).len(), definitions(&text).count(), "{file} has an inline link to a file");
        for (label, target) in definitions(&text) {
            let module = modules.get(label).unwrap_or_else(|| panic!("links.md lacks {label}, of {file}"));
            let (module, anchor) = module.split_once('#').unwrap_or((module, ""));
            let in_rustdoc = docs.join(files[module.trim_start_matches("crate::guide::")]);
            let (path, in_file) = target.split_once('#').unwrap_or((target, ""));
            let path = docs.join(file).with_file_name(path);
            assert_eq!(path.canonicalize().unwrap(), in_rustdoc.canonicalize().unwrap(), "{file}: {label}");
            assert_eq!(in_file, anchor, "{file}: {label}");
        }
    }
    let pages = fs::read_dir(docs.join("guide")).unwrap().map(|entry| entry.unwrap().file_name());
    let missing: Vec<_> =
        pages.filter(|name| name != "README.md" && !source.contains(name.to_str().unwrap())).collect();
    assert!(missing.is_empty(), "src/guide/mod.rs lacks {missing:?}");
}
