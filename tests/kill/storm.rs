//! The storm: jobs are enqueued and completed while their processes are killed with SIGKILL, repeatedly, at random
//! moments. In the end every acknowledged job has been completed, its effect exists once, and each job that ran more
//! than once was running in a process when that was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use aside::Jobs;
use aside::jobs::JobState;

use crate::ledger::{Ledger, Line, now};
use crate::process::{Child, PATIENCE, agent, until};
use crate::site::{Setup, address};

/// The number of threads that enqueue.
const ENQUEUERS: usize = 4;

/// The number of jobs by which the enqueuing threads may be ahead of the workers.
const MOST_AHEAD: usize = 300;

/// The longest time for which a process that started at once continues before it is killed; milliseconds.
const LONGEST_LIFE: u64 = 200;

/// The parameters of a storm.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) kills: usize,
    /// The number of worker processes beside the site.
    pub(crate) workers: usize,
    /// The file of the jobs, if they are in a file.
    pub(crate) file: Option<PathBuf>,
    /// A function that is called at every tenth kill.
    pub(crate) tenth: Option<Box<dyn FnMut()>>,
}

/// Random numbers that are reproducible with the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }

    fn pause(&mut self, most: u64) {
        thread::sleep(Duration::from_micros(self.below(most * 1000)));
    }
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is to be a number")))
}

/// The state shared by the enqueuing threads and the killing one.
#[derive(Default)]
struct Shared {
    /// The address of the site, while it is available.
    base: Mutex<Option<String>>,
    is_there: Condvar,
    /// The key of each acknowledged job, with its id.
    acknowledged: Mutex<BTreeMap<String, u64>>,
    unanswered: AtomicUsize,
    done: AtomicUsize,
    is_over: AtomicBool,
}

impl Shared {
    fn place(&self, base: Option<String>) {
        *self.base.lock().expect("the site's address") = base;
        self.is_there.notify_all();
    }

    /// The loop of an enqueuing thread.
    fn enqueue_loop(&self, enqueuer: usize, mut dice: Dice) {
        let (mut agent, mut known) = (None, String::new());
        for n in 0_u32.. {
            let Some(base) = self.wait_for_address() else { return };
            if base != known {
                // A connection to a killed process is not reused.
                (agent, known) = (Some(new_agent()), base);
            }
            self.enqueue(agent.as_ref().expect("an agent"), &known, format!("{enqueuer}-{n}"));
            dice.pause(if self.ahead() > MOST_AHEAD { 200 } else { 8 });
        }
    }

    /// Waits for the address of the site; `None` after the end.
    fn wait_for_address(&self) -> Option<String> {
        let absent = |base: &mut Option<String>| base.is_none() && !self.is_over.load(Ordering::Relaxed);
        let base = self.base.lock().expect("the site's address");
        let (base, _) = self.is_there.wait_timeout_while(base, PATIENCE, absent).expect("the site's address");
        base.clone().filter(|_| !self.is_over.load(Ordering::Relaxed))
    }

    fn ahead(&self) -> usize {
        let acknowledged = self.acknowledged.lock().expect("the acknowledged").len();
        acknowledged.saturating_sub(self.done.load(Ordering::Relaxed))
    }

    /// A key is used once: it is unknown whether a job without a response was stored.
    fn enqueue(&self, agent: &ureq::Agent, base: &str, id: String) {
        let answer = agent.post(format!("{base}/enqueue?id={id}&what=short")).send_empty();
        let number = answer.ok().filter(|answer| answer.status() == 200);
        let number = number.and_then(|mut answer| answer.body_mut().read_to_string().ok()?.parse().ok());
        match number {
            Some(number) => drop(self.acknowledged.lock().expect("the acknowledged").insert(id, number)),
            None => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn new_agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    config.build().new_agent()
}

/// A process that was killed.
struct Killed {
    process: u32,
    /// The time when the next process was started.
    restarted: u64,
    /// The number of the next process.
    next: u32,
    /// The keys of the jobs that were running then, if that is known.
    running: Option<BTreeSet<String>>,
}

/// All participants.
pub(crate) struct Storm<'a> {
    plan: Plan,
    setup: Setup,
    ledger: &'a Ledger,
    dice: Dice,
    shared: Arc<Shared>,
    /// The first process is the site.
    processes: Vec<Child>,
    killed: Vec<Killed>,
}

impl<'a> Storm<'a> {
    pub(crate) fn new(plan: Plan, setup: Setup, ledger: &'a Ledger) -> Storm<'a> {
        let seed = number("ASIDE_KILL_SEED").unwrap_or_else(now);
        let kills = number("ASIDE_KILLS").map_or(plan.kills, |kills| kills as usize);
        println!("{}: {kills} kills, ASIDE_KILL_SEED={seed}", plan.name);
        let plan = Plan { kills, ..plan };
        let (processes, killed) = (Vec::new(), Vec::new());
        Storm { plan, setup, ledger, dice: Dice(seed), shared: Arc::default(), processes, killed }
    }

    /// Runs the storm, waits until all jobs are completed, and checks the result.
    pub(crate) fn run(mut self) {
        let began = Instant::now();
        self.processes = (0..=self.plan.workers).map(|at| self.spawn(at)).collect();
        (0..=self.plan.workers).for_each(|at| self.wait_for(at));
        let visitors = self.visitors();
        (0..self.plan.kills).for_each(|n| self.kill_one(n));
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.is_there.notify_all();
        visitors.into_iter().for_each(|enqueuer| enqueuer.join().expect("a visitor"));
        self.wait_for(0);
        let storm = began.elapsed();
        self.wait_until_all_is_done();
        self.judge(storm, began.elapsed());
    }

    fn visitors(&mut self) -> Vec<thread::JoinHandle<()>> {
        let enqueue_loop = |enqueuer| {
            let (shared, dice) = (self.shared.clone(), Dice(self.dice.below(u64::MAX)));
            thread::spawn(move || shared.enqueue_loop(enqueuer, dice))
        };
        (0..ENQUEUERS).map(enqueue_loop).collect()
    }

    fn spawn(&self, at: usize) -> Child {
        self.setup.spawn(if at == 0 { "site" } else { "worker" })
    }

    /// Waits until the process does its work.
    fn wait_for(&mut self, at: usize) {
        let child = &self.processes[at];
        if at > 0 {
            return drop(child.log.wait_for("aside works on the jobs in "));
        }
        let base = address(child).unwrap_or_else(|log| panic!("the site does not begin: {log}"));
        self.shared.place(Some(base));
    }

    fn kill_one(&mut self, n: usize) {
        self.dice.pause(LONGEST_LIFE);
        let at = self.dice.below(self.processes.len() as u64) as usize;
        if at == 0 {
            self.shared.place(None);
        }
        let process = self.processes[at].number();
        self.processes[at].kill();
        let running = self.running();
        let restarted = now();
        self.processes[at] = self.spawn(at);
        let next = self.processes[at].number();
        self.killed.push(Killed { process, restarted, next, running });
        // Some processes are killed while they start, most later, and some only when all running jobs are completed.
        if self.dice.below(6) > 0 || at > 0 {
            self.wait_for(at);
        }
        if n % 10 == 9 && self.plan.tenth.is_some() {
            // A site that starts at that moment would be refused, as its log says, and would not start.
            self.wait_for(0);
            self.plan.tenth.iter_mut().for_each(|tenth| tenth());
        }
        self.shared.done.store(self.ledger.count(), Ordering::Relaxed);
    }

    /// Returns the jobs that the dead process was running, according to its file. A copy of the file is read, so that
    /// the next process finds it as it was left.
    fn running(&self) -> Option<BTreeSet<String>> {
        let file = self.plan.file.as_ref().filter(|_| self.plan.workers == 0)?;
        let copy = tempfile::tempdir().expect("a folder");
        let target = copy.path().join("copy.db");
        if !file.exists() {
            return Some(BTreeSet::new());
        }
        copy_of(file, &target, "");
        copy_of(file, &target, "-wal");
        let jobs = Jobs::sqlite(&target).expect("what is left behind can be opened");
        Some(ids(&jobs))
    }

    fn get(&self, target: &str) -> String {
        let base = self.shared.base.lock().expect("the site's address").clone().expect("the site is there");
        let mut answer = agent().get(format!("{base}{target}")).call().expect("the site answers");
        assert_eq!(answer.status(), 200, "{target}");
        answer.body_mut().read_to_string().expect("a whole answer")
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        serde_json::from_str(&self.get("/counts")).expect("counts as JSON")
    }

    fn wait_until_all_is_done(&self) {
        until("nothing is left to do", || {
            let counts = self.counts();
            ["waiting", "scheduled", "running"].iter().all(|state| counts[*state] == 0).then_some(())
        });
    }

    /// Prints the figures, and fails if an invariant is violated.
    fn judge(&self, storm: Duration, all: Duration) {
        let lines = self.ledger.lines();
        let acknowledged = self.shared.acknowledged.lock().expect("the acknowledged");
        let mut done = BTreeMap::<&str, usize>::new();
        lines.iter().filter(|line| line.what == "done").for_each(|line| *done.entry(&line.id).or_default() += 1);
        let lost: Vec<_> = acknowledged.keys().filter(|id| !done.contains_key(&***id)).collect();
        let more = done.values().filter(|times| **times > 1).count();
        let unacknowledged = done.keys().filter(|id| !acknowledged.contains_key(**id)).count();
        let (counts, effects) = (self.counts(), self.effects());
        println!("{}: {} kills in {storm:.1?}, all done after {all:.1?}", self.plan.name, self.killed.len());
        println!("  acknowledged {}, of these lost {}", acknowledged.len(), lost.len());
        println!("  not answered {}, of these done {unacknowledged}", self.shared.unanswered.load(Ordering::Relaxed));
        println!("  done once {}, more than once {more}, dead {}", done.len() - more, counts["dead"]);
        println!("  interrupted runs {}", interrupted(&lines).len());
        self.print_recoveries(&lines);
        assert!(acknowledged.len() >= self.plan.kills, "hardly anything was enqueued");
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert_eq!(counts["dead"], 0, "dead: {}", self.get("/dead"));
        self.judge_repeated(&lines, &acknowledged);
        if let Some(effects) = effects {
            self.judge_effects(&effects, &acknowledged, &done);
        }
    }

    fn effects(&self) -> Option<Vec<String>> {
        self.plan.file.as_ref().map(|_| self.get("/effects").lines().map(str::to_owned).collect())
    }

    fn judge_effects(&self, effects: &[String], acknowledged: &BTreeMap<String, u64>, done: &BTreeMap<&str, usize>) {
        let once: BTreeSet<_> = effects.iter().collect();
        let without = acknowledged.keys().filter(|id| !once.contains(id)).count();
        println!("  effects {}, twice {}, without one {without}", effects.len(), effects.len() - once.len());
        assert_eq!(once.len(), effects.len(), "an effect is there twice");
        assert_eq!(without, 0, "an effect is missing");
        assert_eq!(effects.len(), done.len(), "what is done has its effect, and nothing else");
    }

    /// Checks each run of a job that was followed by another run: it was in a process that was killed while it ran the
    /// job.
    fn judge_repeated(&self, lines: &[Line], acknowledged: &BTreeMap<String, u64>) {
        let killed: BTreeMap<u32, &Killed> = self.killed.iter().map(|killed| (killed.process, killed)).collect();
        for (id, processes) in runs(lines) {
            for process in &processes[..processes.len() - 1] {
                let killed = killed
                    .get(process)
                    .unwrap_or_else(|| panic!("{id} ran again, and {process} was not killed: {processes:?}"));
                let was_running = killed.running.as_ref().is_none_or(|running| running.contains(id));
                assert!(was_running, "{id} ran again, and did not run when {process} was killed");
            }
            let distinct = processes.iter().collect::<BTreeSet<_>>().len();
            assert_eq!(distinct, processes.len(), "{id} ran twice in one process: {processes:?}");
            if processes.len() > 1
                && let Some(number) = acknowledged.get(id)
            {
                let job = self.get(&format!("/job?number={number}"));
                let job: serde_json::Value = serde_json::from_str(&job).expect("a job as JSON");
                let interruptions = job["interruptions"].as_u64().expect("a number") as usize;
                assert!(interruptions >= processes.len() - 1, "{id} began {} times: {job}", processes.len());
                assert_eq!(job["attempt"], 1, "an interruption does not count as an attempt: {job}");
            }
        }
    }

    /// Prints the time from the start of the next process to the first completion of an interrupted job.
    fn print_recoveries(&self, lines: &[Line]) {
        let interrupted = interrupted(lines);
        let recovery = |killed: &Killed| {
            let ids = interrupted.get(&killed.process)?;
            let is_next = |line: &&Line| match self.plan.workers {
                0 => line.process == killed.next,
                _ => line.process != killed.process,
            };
            let after = lines.iter().filter(|line| line.what == "done" && line.at >= killed.restarted);
            let first = after.filter(is_next).find(|line| ids.contains(&*line.id))?;
            Some(first.at - killed.restarted)
        };
        let mut times: Vec<u64> = self.killed.iter().filter_map(recovery).collect();
        times.sort_unstable();
        let (Some(most), count) = (times.last(), times.len()) else { return };
        println!("  recovered after: median {} ms, at most {most} ms ({count} of the kills)", times[count / 2]);
    }
}

fn copy_of(file: &Path, target: &Path, ending: &str) {
    let with = |path: &Path| PathBuf::from(format!("{}{ending}", path.display()));
    let (from, to) = (with(file), with(target));
    if from.exists() {
        std::fs::copy(from, to).expect("a copy");
    }
}

/// Returns the keys of the running jobs.
fn ids(jobs: &Jobs) -> BTreeSet<String> {
    let running = jobs.list(JobState::Running, None).expect("the jobs can be listed");
    let id = |payload: &str| {
        let work: serde_json::Value = serde_json::from_str(payload).expect("JSON");
        work["id"].as_str().expect("an id").to_owned()
    };
    running.iter().map(|job| id(&job.payload)).collect()
}

/// Returns the processes in which each job was started, in order.
fn runs(lines: &[Line]) -> BTreeMap<&str, Vec<u32>> {
    let mut runs = BTreeMap::<&str, Vec<u32>>::new();
    lines
        .iter()
        .filter(|line| line.what == "began")
        .for_each(|line| runs.entry(&line.id).or_default().push(line.process));
    runs
}

/// Returns the jobs that each process started and another process started again.
fn interrupted(lines: &[Line]) -> BTreeMap<u32, BTreeSet<&str>> {
    let mut interrupted = BTreeMap::<u32, BTreeSet<&str>>::new();
    for (id, processes) in runs(lines) {
        for process in &processes[..processes.len() - 1] {
            interrupted.entry(*process).or_default().insert(id);
        }
    }
    interrupted
}
