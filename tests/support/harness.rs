//! A test harness whose tests can report at run time that they were skipped, and why: they count as ignored. It takes the
//! arguments of the standard harness that select tests: names, `--exact`, `--skip`, `--list`, `--test-threads`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// The result of a test that did not panic.
pub enum Completion {
    Completed,
    /// The reason why the test was skipped.
    Ignored(String),
}

impl Completion {
    pub fn ignored_with(reason: impl Into<String>) -> Completion {
        Completion::Ignored(reason.into())
    }
}

/// A test.
pub struct Trial {
    name: &'static str,
    test: Box<dyn Fn() -> Completion + Send + Sync>,
}

impl Trial {
    pub fn new(name: &'static str, test: impl Fn() -> Completion + Send + Sync + 'static) -> Trial {
        Trial { name, test: Box::new(test) }
    }

    /// Runs the test, prints its result, and returns it; `None` if the test panicked.
    fn run(&self) -> Option<Completion> {
        let completion = catch_unwind(AssertUnwindSafe(&self.test)).ok();
        match &completion {
            Some(Completion::Completed) => println!("test {} ... ok", self.name),
            Some(Completion::Ignored(reason)) => println!("test {} ... ignored, {reason}", self.name),
            None => println!("test {} ... FAILED", self.name),
        }
        completion
    }
}

/// The arguments of the program.
struct Arguments {
    names: Vec<String>,
    skipped: Vec<String>,
    is_exact: bool,
    lists: bool,
    threads: usize,
}

impl Arguments {
    /// # Panics
    /// Panics at an argument that is unknown, since it would run other tests than the caller wants.
    fn read() -> Arguments {
        let threads = std::env::var("RUST_TEST_THREADS").ok().and_then(|number| number.parse().ok());
        let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let mut read = Arguments { names: vec![], skipped: vec![], is_exact: false, lists: false, threads };
        let split = |arg: String| match arg.split_once('=').filter(|_| arg.starts_with("--")) {
            Some((name, value)) => vec![name.to_owned(), value.to_owned()],
            None => vec![arg],
        };
        let mut args = std::env::args().skip(1).flat_map(split);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--exact" => read.is_exact = true,
                "--list" => read.lists = true,
                "--skip" => read.skipped.push(value()),
                "--test-threads" => read.threads = value().parse().expect("a number of threads"),
                "--format" | "--color" => drop(value()),
                "--nocapture" | "--no-capture" | "--show-output" | "--include-ignored" | "--quiet" | "-q" => {}
                option if option.starts_with('-') => panic!("unknown option {option}"),
                _ => read.names.push(arg),
            }
        }
        read
    }

    fn selects(&self, test: &str) -> bool {
        let matches = |name: &String| if self.is_exact { test == name } else { test.contains(name.as_str()) };
        (self.names.is_empty() || self.names.iter().any(matches)) && !self.skipped.iter().any(matches)
    }
}

/// Runs the tests that the arguments of the program select.
pub fn run(trials: Vec<Trial>) -> ExitCode {
    let args = Arguments::read();
    let all = trials.len();
    let selected: VecDeque<Trial> = trials.into_iter().filter(|trial| args.selects(trial.name)).collect();
    if args.lists {
        selected.iter().for_each(|trial| println!("{}: test", trial.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    let (began, filtered) = (Instant::now(), all - selected.len());
    let (next, results) = (Mutex::new(selected), Mutex::new(Vec::new()));
    let work = || {
        while let Some(trial) = { next.lock().unwrap().pop_front() } {
            let result = trial.run();
            results.lock().unwrap().push((trial.name, result));
        }
    };
    thread::scope(|scope| (0..args.threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    report(&results.into_inner().unwrap(), filtered, began)
}

fn report(results: &[(&str, Option<Completion>)], filtered: usize, began: Instant) -> ExitCode {
    let failed: Vec<&str> = results.iter().filter(|(_, result)| result.is_none()).map(|(name, _)| *name).collect();
    let ignored = results.iter().filter(|(_, result)| matches!(result, Some(Completion::Ignored(_)))).count();
    failed.iter().for_each(|name| println!("failed: {name}"));
    println!(
        "\ntest result: {}. {} passed; {} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        results.len() - failed.len() - ignored,
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    // The code of the standard harness.
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
