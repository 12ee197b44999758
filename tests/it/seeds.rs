//! The samples of the five documents that this project answers: one example for each document, with its tests in the same
//! file, and the tables of `docs/comparison.md` and `docs/job-guarantees.md`.

#[cfg(all(feature = "mail", feature = "image"))]
#[path = "../../examples/seed_asok.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_asok;
#[cfg(feature = "mail")]
#[path = "../../examples/seed_bocadillo.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_bocadillo;
#[path = "../../examples/seed_wave.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_wave;

#[path = "../../examples/seed_nicegui.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_nicegui;
#[path = "../../examples/seed_reflex.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_reflex;

#[cfg(target_os = "linux")]
#[path = "../support/browser.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
pub(crate) mod browser;

use std::collections::BTreeSet;
use std::fs;
#[cfg(unix)]
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
#[cfg(unix)]
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use aside::server::Server;
use aside::testing::EventReader;
use aside::{App, Config, Error, Request, Result, Status};
#[cfg(unix)]
use tempfile::TempDir;

/// A service on the loopback interface that the examples call. The test sees each call and answers it.
pub(crate) struct Service {
    calls: Receiver<Call>,
    server: Server,
}

/// A call that waits for its answer. A call that is dropped is answered with 503.
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) body: String,
    answer: Sender<String>,
}

impl Service {
    pub(crate) fn start() -> Service {
        let (tell, calls) = channel();
        let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
        let wait = move |req: &mut Request| -> Result<String> {
            let (answer, answered) = channel();
            let call = Call { path: req.path().to_owned(), body: req.text()?, answer };
            let _ = tell.send(call);
            answered.recv().map_err(|_| Error::new(Status::SERVICE_UNAVAILABLE, "The test refuses this call."))
        };
        let server = App::with_config(config).fallback(wait).start().unwrap();
        Service { calls, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// Waits for the next call.
    pub(crate) fn next_call(&self) -> Call {
        self.calls.recv().unwrap()
    }

    /// Returns true if no call waits.
    pub(crate) fn has_no_call(&self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// Waits for `N` simultaneous calls, and returns them in the order of their paths.
    pub(crate) fn calls<const N: usize>(&self) -> [Call; N] {
        let mut calls = std::array::from_fn(|_| self.next_call());
        calls.sort_by(|one: &Call, other| one.path.cmp(&other.path));
        calls
    }
}

impl Call {
    pub(crate) fn answer(self, text: &str) {
        self.answer.send(text.to_owned()).unwrap();
    }

    pub(crate) fn fail(self) {}
}

/// Waits for an event that contains the text, and returns its data.
pub(crate) fn wait_for(events: &mut EventReader, text: &str) -> String {
    loop {
        let event = events.next();
        if event.data.contains(text) {
            return event.data;
        }
    }
}

/// An example in a separate process, in an empty folder: this test binary, with the one test that calls the example's
/// `main`. The process ends when this value is dropped, also if a test panics.
#[cfg(unix)]
pub(crate) struct SiteProcess {
    process: Child,
    pub(crate) url: String,
    /// Kept in any case: without a reader, the process could not log.
    #[cfg_attr(not(all(feature = "mail", feature = "image")), allow(dead_code, reason = "Asok's tests read it"))]
    pub(crate) log: Lines<BufReader<ChildStderr>>,
    _folder: TempDir,
}

#[cfg(unix)]
impl SiteProcess {
    /// Set in the process, where the test `runs_the_site_in_a_child_process` calls `main`.
    pub(crate) const VARIABLE: &str = "ASIDE_TEST_SITE";

    /// Starts the example of this module, with these settings, and waits until it listens.
    pub(crate) fn start(module: &str, settings: &[(&str, &str)]) -> SiteProcess {
        let (_, module) = module.split_once("::").unwrap();
        let folder = TempDir::new().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::runs_the_site_in_a_child_process"), "--nocapture"])
            .envs([(Self::VARIABLE, "1"), ("ASIDE_ADDR", "127.0.0.1:0"), ("ASIDE_BACKGROUND_NICE", "0")])
            .envs(settings.iter().copied())
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let listens = log.find(|line| line.as_ref().unwrap().contains("aside listens on http://")).unwrap().unwrap();
        let address = listens.split("http://").nth(1).unwrap().split(' ').next().unwrap();
        SiteProcess { process, url: format!("http://{address}"), log, _folder: folder }
    }

    /// Returns the number of its running child processes.
    #[cfg(target_os = "linux")]
    pub(crate) fn children(&self) -> usize {
        let stats =
            fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
        let parent = |stat: &String| stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok();
        stats.filter(|stat| parent(stat) == Some(self.process.id())).count()
    }
}

#[cfg(unix)]
impl Drop for SiteProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const COMPARISON: &str = include_str!("../../docs/comparison.md");
const GUARANTEES: &str = include_str!("../../docs/job-guarantees.md");

/// Each document with its example, and the numbers of its samples and caveats.
pub(crate) const DOCUMENTS: [(&str, &str, &str, [usize; 2]); 5] = [
    ("Asok", "examples/seed_asok.rs", include_str!("../../examples/seed_asok.rs"), [7, 1]),
    ("Bocadillo", "examples/seed_bocadillo.rs", include_str!("../../examples/seed_bocadillo.rs"), [2, 2]),
    ("Wave", "examples/seed_wave.rs", include_str!("../../examples/seed_wave.rs"), [6, 2]),
    ("Reflex", "examples/seed_reflex.rs", include_str!("../../examples/seed_reflex.rs"), [4, 3]),
    ("NiceGUI", "examples/seed_nicegui.rs", include_str!("../../examples/seed_nicegui.rs"), [6, 2]),
];

/// The properties that the documents describe, one row each.
const PROPERTIES: [&str; 10] = [
    "Starts",
    "Gives back",
    "Failure",
    "Cancel",
    "Shutdown",
    "Limit",
    "Shared state",
    "Progress on the page",
    "Process isolation",
    "Mail",
];

/// The counterpart of a sample or caveat of a document.
pub(crate) struct Counterpart<'s> {
    /// `Sample 2` or `Caveat 1`.
    pub(crate) mark: &'s str,
    /// The document's heading or sentence.
    pub(crate) title: &'s str,
    /// The difference, from the comment below the marker.
    here: String,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl<'s> Counterpart<'s> {
    /// Reads all counterparts, each from its marker (`// Sample 2: "API"`) to the next.
    pub(crate) fn of(source: &'s str) -> Vec<Counterpart<'s>> {
        let lines: Vec<&str> = source.lines().collect();
        let is_marker = |line: &str| {
            ["// Sample ", "// Caveat ", "// The page", "#[cfg(test)]"].iter().any(|start| line.starts_with(start))
        };
        let marks: Vec<usize> = (0..lines.len()).filter(|&at| is_marker(lines[at])).collect();
        let between = marks.windows(2).map(|pair| (pair[0], &lines[pair[0]..pair[1]]));
        between.filter_map(|(at, lines)| Counterpart::read(at, lines)).collect()
    }

    fn read(at: usize, lines: &[&'s str]) -> Option<Counterpart<'s>> {
        let (mark, title) = lines[0].strip_prefix("// ")?.split_once(": ")?;
        let title = &title[title.find('"')? + 1..title.rfind('"')?];
        let comment = lines[1..].iter().map_while(|line| line.strip_prefix("// "));
        let length = lines.iter().rposition(|line| !line.is_empty())? + 1;
        Some(Counterpart { mark, title, here: comment.collect::<Vec<_>>().join(" "), first: at + 1, last: at + length })
    }

    fn is_caveat(&self) -> bool {
        self.mark.starts_with("Caveat")
    }

    /// Returns the prefix of the names of its tests: `sample_2`.
    fn key(&self) -> String {
        self.mark.to_lowercase().replace(' ', "_")
    }

    fn row(&self, file: &str, tests: &[&str]) -> String {
        let Counterpart { title, here, first, last, .. } = self;
        let link = format!("[{file}:{first}–{last}](../{file}#L{first}-L{last})");
        let mine: Vec<String> =
            tests.iter().filter(|test| answers(test, &self.key())).map(|test| format!("`{test}`")).collect();
        assert!(!mine.is_empty(), "{} of {file} has no test", self.mark);
        let (tests, title) = (mine.join(", "), title.replace('*', r"\*"));
        match self.is_caveat() {
            true => format!("| “{title}” | {here} | {link} | {tests} |\n"),
            false => format!("| {title} | {link} | {tests} |\n"),
        }
    }
}

/// Returns true if the name of a test has this prefix among its first: `sample_2_caveat_1_each_post_is_on_the_page`.
fn answers(test: &str, key: &str) -> bool {
    let mut rest = test;
    while let Some(number) = rest.strip_prefix("sample_").or_else(|| rest.strip_prefix("caveat_")) {
        let (number, after) = number.split_once('_').unwrap_or((number, ""));
        if rest[..rest.len() - after.len()].trim_end_matches('_') == key {
            return true;
        }
        assert!(number.parse::<u32>().is_ok(), "{test} has no number");
        rest = after;
    }
    false
}

/// Returns the names of the tests in a source.
fn tests_in(source: &str) -> Vec<&str> {
    let after = source.split("#[test]\n").skip(1);
    after.filter_map(|code| code.split_once("fn ")?.1.split('(').next()).collect()
}

/// Returns the table of a document, as the comparison should have it.
fn table(file: &str, source: &str, of_caveats: bool) -> String {
    let head = match of_caveats {
        true => "| Caveat | Here | Lines | Tests |\n|---|---|---|---|\n",
        false => "| Sample | Lines | Tests |\n|---|---|---|\n",
    };
    let counterparts = Counterpart::of(source);
    let tests = tests_in(source);
    let rows = counterparts.iter().filter(|one| one.is_caveat() == of_caveats).map(|one| one.row(file, &tests));
    head.to_owned() + &rows.collect::<String>()
}

#[test]
fn the_comparison_maps_each_sample_and_caveat_to_its_lines_and_tests() {
    let mut wanted = String::new();
    for (document, file, source, _) in DOCUMENTS {
        let (samples, caveats) = (table(file, source, false), table(file, source, true));
        let text = format!("### {document}, samples and caveats\n\n{samples}\n{caveats}");
        if !COMPARISON.contains(&text) {
            wanted += &format!("\n{text}");
        }
    }
    assert!(wanted.is_empty(), "docs/comparison.md should have these tables, as they are:\n{wanted}");
}

#[test]
fn every_sample_and_caveat_has_its_marker() {
    for (document, file, source, counts) in DOCUMENTS {
        let marks: Vec<String> = Counterpart::of(source).iter().map(|one| one.mark.to_owned()).collect();
        let numbered = |kind: &str, count| (1..=count).map(|number| format!("{kind} {number}")).collect::<Vec<_>>();
        let all = [numbered("Sample", counts[0]), numbered("Caveat", counts[1])].concat();
        assert_eq!(marks, all, "{document}, in {file}");
    }
}

#[test]
fn each_property_and_promise_names_tests_that_are_there() {
    let mut tests = Vec::new();
    for folder in ["src", "tests", "examples"] {
        read_tests(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut tests);
    }
    let properties = rows_below(COMPARISON, "| | Here | Tests |\n|---|---|---|\n");
    assert_eq!(properties.iter().map(|row| row[0]).collect::<Vec<_>>(), PROPERTIES);
    let promises = promises();
    assert!(!promises.is_empty());
    for row in properties.into_iter().chain(promises) {
        let named = named_in(&row);
        assert!(!named.is_empty(), "no test is named for {}", row[0]);
        for name in named {
            assert!(tests.iter().any(|test| test == name), "there is no test {name} ({})", row[0]);
        }
    }
}

/// The engines of jobs, as the table of guarantees names them.
const ENGINES: [&str; 3] = ["memory", "SQLite", "Redis"];

#[test]
fn a_test_over_each_engine_runs_over_all_three() {
    for (source, helper) in
        [(include_str!("jobs.rs"), "on_each_engine"), (include_str!("job_output.rs"), "on_two_handles")]
    {
        let helper = function(source, helper);
        assert!(["Jobs::memory(", "Jobs::sqlite(", "Jobs::redis("].iter().all(|engine| helper.contains(engine)));
    }
    for (source, engine) in [
        (include_str!("../../src/jobs/memory.rs"), "memory"),
        (include_str!("../../src/jobs/sqlite/tests.rs"), "sqlite"),
        (include_str!("../../src/jobs/redis/tests.rs"), "redis"),
    ] {
        assert!(source.contains(&format!("conformance!({engine}, ")), "{engine}");
    }
}

#[test]
fn each_promise_names_the_engines_that_its_tests_run_over() {
    for row in promises() {
        let told = row[2].split(':').next().unwrap();
        let told: BTreeSet<&str> = if told == "all" { ENGINES.into() } else { told.split(", ").collect() };
        let tested: BTreeSet<&str> = named_in(&row).into_iter().flat_map(engines_of).collect();
        assert_eq!(told, tested, "{}", row[0]);
    }
}

/// Returns the engines that a test runs on; none if it needs no engine.
fn engines_of(test: &str) -> Vec<&'static str> {
    const SUITE: &str = include_str!("../../src/jobs/conformance.rs");
    const JOBS: &str = include_str!("jobs.rs");
    const OUTPUT: &str = include_str!("job_output.rs");
    const KILL: &str = include_str!("../kill/main.rs");
    const SQLITE: &str = include_str!("../../src/jobs/sqlite/tests.rs");
    const REDIS: &str = include_str!("../../src/jobs/redis/tests.rs");
    let is_in = |source| has_function(source, test);
    let is_trial = |engine| KILL.contains(&format!("{engine}_faults::{test},"));
    let is_helped =
        |source| ["on_each_engine(", "on_two_handles("].iter().any(|helper| function(source, test).contains(helper));
    let is_over_each = is_in(SUITE) || is_helped(JOBS) || is_helped(OUTPUT);
    let is_over_sqlite = is_trial("sqlite") || is_in(SQLITE) || function(JOBS, test).contains("Jobs::sqlite(");
    let is_over_redis = is_trial("redis") || is_in(REDIS);
    let is_over = [is_over_each, is_over_each || is_over_sqlite, is_over_each || is_over_redis];
    ENGINES.into_iter().zip(is_over).filter_map(|(engine, is_over)| is_over.then_some(engine)).collect()
}

fn has_function(source: &str, name: &str) -> bool {
    source.contains(&format!("fn {name}("))
}

/// Returns the text of a function, up to the next test; empty for an unknown name.
fn function<'s>(source: &'s str, name: &str) -> &'s str {
    let (_, from) = source.split_once(&format!("fn {name}(")).unwrap_or_default();
    from.split("#[test]").next().unwrap_or_default()
}

/// The table of what jobs guarantee.
fn promises() -> Vec<Vec<&'static str>> {
    rows_below(GUARANTEES, "| Promise | Who else | Engines | Tests |\n|---|---|---|---|\n")
}

/// Returns the tests that a row names in its last column.
fn named_in<'r>(row: &[&'r str]) -> Vec<&'r str> {
    row.last().map_or(Vec::new(), |tests| tests.split('`').skip(1).step_by(2).collect())
}

/// Returns the rows of the table with this head.
fn rows_below(page: &'static str, head: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = page.split_once(head).expect("the page has the table");
    let rows = table.lines().map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
}

/// Collects the names of all tests below a folder.
fn read_tests(folder: &Path, tests: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_tests(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            tests.extend(tests_in(&source).into_iter().map(str::to_owned));
            tests.extend(trials_in(&path, &source));
        }
    }
}

/// Returns the names of tests without `#[test]`: the conformance suite of the engines, and the fault tests with real processes.
fn trials_in(path: &Path, source: &str) -> Vec<String> {
    let is_suite = path.ends_with("jobs/conformance.rs") || path.to_string_lossy().contains("_faults.rs");
    let public =
        source.lines().filter_map(|line| line.trim().strip_prefix("pub")?.split_once("fn ")?.1.split('(').next());
    public.filter(|_| is_suite).map(|name| name.split('<').next().unwrap_or(name).to_owned()).collect()
}
