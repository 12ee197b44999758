//! The panel's pages about jobs: their content, their actions, and that no job can do harm. The jobs are in memory; the
//! pages' own unit tests cover an unreachable engine.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aside::jobs::{JobInfo, JobState, NewJob};
use aside::tasks::Retry;
use aside::testing::{TestClient, TestJobs, TestResponse};
use aside::{App, Config, Error, Job, Jobs, Result, Status, TaskContext};
use serde::{Deserialize, Serialize};

use crate::panel::{assert_hidden, development, page, production, section};

/// A job that ends as its fields say. A failed one is dead at once.
#[derive(Serialize, Deserialize, Default)]
struct Work {
    label: String,
    fails: Option<String>,
}

impl Job for Work {
    const NAME: &'static str = "work";

    fn retry() -> Retry {
        Retry::exponential(1, Duration::from_secs(60))
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        task.output(&format!("output of {}", self.label))?;
        task.message(self.label);
        self.fails.map_or(Ok(()), |words| Err(Error::internal(words)))
    }
}

fn work(label: &str) -> Work {
    Work { label: label.to_owned(), fails: None }
}

fn failing(label: &str, words: &str) -> Work {
    Work { label: label.to_owned(), fails: Some(words.to_owned()) }
}

/// A job that fails, and is retried twice, after about a minute.
#[derive(Serialize, Deserialize)]
struct Flaky;

impl Job for Flaky {
    const NAME: &'static str = "flaky";

    fn retry() -> Retry {
        Retry::exponential(3, Duration::from_secs(60))
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        Err(Error::internal("it rains"))
    }
}

/// A job with private content.
#[derive(Serialize, Deserialize)]
struct Secret {
    password: String,
}

impl Job for Secret {
    const NAME: &'static str = "secret";
    const PRIVATE: bool = true;

    fn run(self, task: &TaskContext) -> Result<()> {
        task.output(&self.password)
    }
}

/// A job that runs until its gate opens, or until it checks for cancellation.
#[derive(Serialize, Deserialize)]
struct Held {
    gate: String,
}

/// The start message of a held job, and the gate that it waits for, with its progress then.
type Gate = (Sender<()>, Receiver<u64>);

static GATES: Mutex<Option<HashMap<String, Gate>>> = Mutex::new(None);

impl Job for Held {
    const NAME: &'static str = "held";
    const QUEUE: &'static str = "gates";

    fn run(self, task: &TaskContext) -> Result<()> {
        let (begins, waits) = GATES.lock().unwrap().as_mut().and_then(|gates| gates.remove(&self.gate)).unwrap();
        begins.send(()).unwrap();
        for done in waits {
            task.progress(done, 4);
            task.check_cancelled()?;
        }
        Ok(())
    }
}

/// A held job that a worker runs.
struct Holding {
    id: u64,
    let_go: Option<Sender<u64>>,
    runs: JoinHandle<Option<JobInfo>>,
}

impl Holding {
    fn begin(jobs: &TestJobs, gate: &str) -> Holding {
        let ((begins, begun), (let_go, waits)) = (mpsc::channel(), mpsc::channel());
        GATES.lock().unwrap().get_or_insert_default().insert(gate.to_owned(), (begins, waits));
        let id = jobs.enqueue(Held { gate: gate.to_owned() }).unwrap().id;
        let theirs = jobs.clone();
        let runs = thread::spawn(move || theirs.run_next());
        begun.recv().unwrap();
        Holding { id, let_go: Some(let_go), runs }
    }

    fn go_on(&self, done: u64) {
        self.let_go.as_ref().unwrap().send(done).unwrap();
    }

    fn end(mut self) -> JobInfo {
        self.let_go = None;
        self.runs.join().unwrap().unwrap()
    }
}

fn jobs() -> Jobs {
    Jobs::memory().register::<Work>().register::<Flaky>().register::<Secret>().register::<Held>()
}

fn client() -> TestClient {
    TestClient::new(development().jobs(jobs()))
}

fn enqueue<J: Job>(client: &TestClient, job: impl Into<NewJob<J>>) -> u64 {
    client.jobs().enqueue(job).unwrap().id
}

/// Returns a dead job.
fn dead(client: &TestClient, label: &str) -> u64 {
    let id = enqueue(client, failing(label, "it broke"));
    assert_eq!(client.jobs().run_next().unwrap().state, JobState::Dead);
    id
}

fn state(client: &TestClient, id: u64) -> Option<JobState> {
    client.jobs().find(id).unwrap().map(|job| job.state)
}

/// Submits the form of a button. Returns the text of the page that it leads to.
fn press(client: &mut TestClient, path: &str) -> String {
    let response = client.post(path).form(&[]).send();
    assert_eq!(response.status_code(), Status::new(303), "{path}: {}", response.text());
    let back = response.location().unwrap().to_owned();
    let page = page(client, &back);
    let flash = page.split("<p class=\"flash\" role=\"status\">").nth(1).expect("it says what it did");
    flash.split("</p>").next().unwrap().to_owned()
}

/// Submits "Retry all" or "Discard all" on its page, for one name or for all.
fn press_all(client: &mut TestClient, page: &str, action: &str, name: &str) -> TestResponse {
    let until = page.split("name=\"until\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    client.post(&format!("/_aside/jobs/dead/{action}")).form(&[("name", name), ("until", until)]).send()
}

#[test]
fn without_jobs_the_panel_has_no_page_about_them() {
    let mut client = TestClient::new(development());
    assert!(!page(&mut client, "/_aside").contains("Jobs"));
    for path in ["/_aside/jobs", "/_aside/jobs/live", "/_aside/jobs/dead", "/_aside/jobs/1"] {
        assert_eq!(client.get(path).status_code(), Status::NOT_FOUND, "{path}");
    }
    assert_eq!(client.post("/_aside/queues/pause?queue=q").send().status_code(), Status::NOT_FOUND);
}

#[test]
fn other_users_cannot_see_or_change_jobs() {
    let mut client = client();
    let (broken, waiting) = (dead(&client, "hidden"), enqueue(&client, work("hidden")));
    assert_eq!(broken, 1, "the paths name it");
    assert_hidden(&mut client, |request| request.peer("192.0.2.1:5000").send());
    assert_eq!((state(&client, broken), state(&client, waiting)), (Some(JobState::Dead), Some(JobState::Waiting)));
    assert!(client.jobs().queues().unwrap().iter().all(|queue| !queue.is_paused));
    let app = production().jobs(jobs());
    assert_hidden(&mut TestClient::new(app), |request| request.peer("127.0.0.1:5000").send());
}

#[test]
fn a_cross_site_request_has_no_effect() {
    let mut client = client();
    let id = dead(&client, "wanted");
    for path in ["/_aside/jobs/1/discard", "/_aside/jobs/dead/discard", "/_aside/queues/pause?queue=default"] {
        let request = client.post(path).header("Sec-Fetch-Site", "cross-site");
        assert_eq!(request.form(&[("name", ""), ("until", "9999999999999")]).send().status_code(), Status::FORBIDDEN);
    }
    assert_eq!(state(&client, id), Some(JobState::Dead));
}

#[test]
fn each_empty_list_says_that_it_is_empty() {
    let mut client = client();
    let overview = page(&mut client, "/_aside/jobs");
    for heading in ["Running", "Waiting", "Scheduled", "Dead", "Done", "Cancelled"] {
        assert!(section(&overview, heading).contains("There are none."), "{heading}: {overview}");
        let list = page(&mut client, &format!("/_aside/jobs/{}", heading.to_lowercase()));
        assert!(list.contains("There are none.") && !list.contains("<table"), "{list}");
    }
    let queues = section(&overview, "Queues");
    assert!(queues.contains("<bdi>default</bdi>") && queues.contains("<bdi>gates</bdi>"), "{queues}");
    assert!(overview.contains("stored in <bdi>memory"), "{overview}");
}

#[test]
fn the_overview_groups_dead_jobs_and_shows_paused_and_lagging_queues() {
    let mut client = client();
    for label in ["one", "two", "three"] {
        dead(&client, label);
    }
    enqueue(&client, work("in line"));
    client.advance(Duration::from_secs(120));
    let overview = page(&mut client, "/_aside");
    let attention = section(&overview, "Needs attention");
    assert!(attention.contains("3 jobs") && attention.contains("it broke"), "{attention}");
    assert!(!attention.contains("href=\"/_aside/tasks/"), "the attempts of a job are no failed tasks: {attention}");
    assert!(attention.contains(">lags</span>") && attention.contains("<bdi>default</bdi>"), "{attention}");
    client.jobs().pause("default").unwrap();
    let overview = page(&mut client, "/_aside");
    let attention = section(&overview, "Needs attention");
    assert!(attention.contains(">paused</span>") && attention.contains("1 waits"), "{attention}");
}

/// Regression: above "Failures 1", the overview said that no task failed in the last 24 hours, in a process a minute old.
#[test]
fn the_overview_tells_failed_attempts_that_are_retried_and_the_start_of_a_young_process() {
    let mut client = client();
    let overview = page(&mut client, "/_aside");
    assert!(overview.contains("after its last attempt, since the start of the application, <time"), "{overview}");
    assert!(!overview.contains("24 hours") && !overview.contains("failed attempt"), "{overview}");
    enqueue(&client, Flaky);
    client.drain();
    let overview = page(&mut client, "/_aside");
    let sentence = "<a href=\"/_aside/tasks\">1 failed attempt</a> of jobs and tasks was retried, or will be.";
    assert!(overview.contains("All is well.") && overview.contains(sentence), "{overview}");
}

#[test]
fn a_queue_that_lags_needs_attention_without_any_failure() {
    let mut client = client();
    enqueue(&client, work("in line"));
    assert!(page(&mut client, "/_aside").contains("All is well."));
    client.advance(Duration::from_secs(120));
    assert!(!page(&mut client, "/_aside").contains("All is well."));
}

#[test]
fn dead_jobs_beyond_the_shown_groups_are_counted_on_the_overview() {
    let mut client = client();
    for letter in 'a'..='z' {
        enqueue(&client, failing("one", &format!("no {letter}")));
    }
    client.drain();
    let overview = page(&mut client, "/_aside");
    let attention = section(&overview, "Needs attention");
    assert_eq!(attention.matches(">dead</span>").count(), 20, "{attention}");
    assert!(attention.contains(">6 older dead jobs<"), "{attention}");
}

#[test]
fn each_job_is_in_the_list_of_its_state() {
    let mut client = client();
    enqueue(&client, Flaky);
    client.drain();
    dead(&client, "broken one");
    enqueue(&client, work("well done"));
    client.drain();
    let unwanted = enqueue(&client, work("unwanted"));
    client.jobs().cancel(unwanted).unwrap();
    let holding = Holding::begin(&client.jobs(), "list");
    holding.go_on(3);
    enqueue(&client, work("in line"));
    enqueue(&client, work("later").delay(Duration::from_secs(3600)));
    while client.jobs().find(holding.id).unwrap().unwrap().done < 3 {
        thread::yield_now();
    }
    let overview = page(&mut client, "/_aside/jobs");
    let lists = [
        ("Running", &["<bdi>held</bdi>", "75 %, 3 of 4", "for ", "queue <bdi>gates</bdi>", "Cancel<"][..]),
        ("Waiting", &["<bdi>in line</bdi>", ", <bdi>work</bdi>", "Cancel<"]),
        ("Scheduled", &["<bdi>later</bdi>", "<bdi>flaky</bdi>", "it rains", "Run now<", "Cancel<"]),
        ("Dead", &["<bdi>broken one</bdi>", "it broke", "Retry<", "Discard<"]),
        ("Done", &["<bdi>well done</bdi>", "Discard<"]),
        ("Cancelled", &["<bdi>unwanted</bdi>", "Retry<", "Discard<"]),
    ];
    for (heading, words) in lists {
        let (on_overview, list) = (section(&overview, heading), heading.to_lowercase());
        let alone = page(&mut client, &format!("/_aside/jobs/{list}"));
        for word in words {
            assert!(on_overview.contains(word), "{word} under {heading}: {on_overview}");
            assert!(alone.contains(word), "{word} in {alone}");
        }
        let count = if list == "scheduled" { 2 } else { 1 };
        assert!(overview.contains(&format!("{count}<span class=\"unseen\"> {list}<")), "{list}: {overview}");
        assert_eq!(on_overview.matches(&format!("<tr id=\"{list}-")).count(), count, "{heading}: {on_overview}");
    }
    let queues = section(&overview, "Queues");
    let gates = queues.split("<bdi>gates</bdi>").nth(1).unwrap();
    assert!(gates.contains("data-label=\"Running\" class=\"number\">1<"), "{queues}");
    assert!(page(&mut client, "/_aside").contains("<span class=\"badge\">1<span class=\"unseen\"> dead</span></span>"));
    holding.end();
}

#[test]
fn a_job_is_shown_with_all_its_fields() {
    let mut client = client();
    let id = enqueue(&client, Flaky.unique("weather-17").priority(5));
    for _ in 0..3 {
        client.drain();
        client.advance(Duration::from_secs(3600));
    }
    client.drain();
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    for words in
        ["weather-17", ">5<", "<bdi>default</bdi>", ">dead</span>", "Enqueued", "Ended", "no request", "Retry<"]
    {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    let failures = section(&shown, "What went wrong");
    assert_eq!(failures.matches("class=\"happened\" dir=\"auto\">it rains<").count(), 3, "{failures}");
    assert!(
        failures.find("Attempt 3,").unwrap() < failures.find("Attempt 1,").unwrap(),
        "the newest first: {failures}"
    );
    assert_eq!(failures.matches(" open>").count(), 1, "{failures}");
    assert!(section(&shown, "Payload").contains(">null</pre>"), "{shown}");
    let id = enqueue(&client, failing("Größe", "x"));
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    let payload = section(&shown, "Payload");
    assert!(payload.contains("{\n  &quot;label&quot;: &quot;Größe&quot;,\n  &quot;fails&quot;"), "{payload}");
    assert!(shown.contains("never</span>") && !shown.contains("What went wrong"), "{shown}");
}

#[test]
fn the_output_of_a_job_is_shown_on_its_page_and_in_no_list() {
    let mut client = client();
    let id = enqueue(&client, work("<i>7</i>"));
    let path = format!("/_aside/jobs/{id}");
    assert!(!page(&mut client, &path).contains("Output"));
    let mut events = client.events(&format!("{path}/live"));
    client.drain();
    while !events.next().data.contains("<h2>Output</h2>") {}
    let shown = page(&mut client, &path);
    assert!(section(&shown, "Output").contains(">&quot;output of &lt;i&gt;7&lt;/i&gt;&quot;</pre>"), "{shown}");
    for list in ["/_aside/jobs", "/_aside/jobs/done"] {
        let list = page(&mut client, list);
        assert!(list.contains("&lt;i&gt;7") && !list.contains("output of"), "{list}");
    }
    // A long label is shortened.
    let id = enqueue(&client, work(&"x".repeat(100_000)));
    client.drain();
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    assert!(section(&shown, "Output").len() < 11_000, "{} bytes", shown.len());
}

#[test]
fn private_content_is_not_shown() {
    let kept = Jobs::memory();
    let others = kept.clone().register::<Secret>().register::<Work>();
    let mut client = TestClient::new(development().jobs(kept.register::<Secret>()));
    let id = enqueue(&client, Secret { password: "hush-17".into() });
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    assert!(shown.contains("the job is private") && !shown.contains("hush-17"), "{shown}");
    client.drain();
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    assert!(section(&shown, "Output").contains("the job is private") && !shown.contains("hush-17"), "{shown}");
    // A job of an unregistered type counts as private.
    let id = others.enqueue(work("hush-18").queue("default")).unwrap().id;
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    assert!(shown.contains("its type is not registered") && !shown.contains("&quot;label"), "{shown}");
}

#[test]
fn each_button_runs_its_action() {
    let mut client = client();
    let waits = enqueue(&client, work("one"));
    assert_eq!(press(&mut client, &format!("/_aside/jobs/{waits}/cancel")), format!("one (job {waits}) is cancelled."));
    assert_eq!(state(&client, waits), Some(JobState::Cancelled));
    let said = press(&mut client, &format!("/_aside/jobs/{waits}/cancel"));
    assert_eq!(said, format!("one (job {waits}) has already ended."));
    let said = press(&mut client, &format!("/_aside/jobs/{waits}/retry"));
    assert_eq!(said, format!("one (job {waits}) waits for a worker now."));
    assert_eq!(state(&client, waits), Some(JobState::Waiting));
    assert!(press(&mut client, &format!("/_aside/jobs/{waits}/retry")).ends_with("already waits or runs."));
    client.drain();
    assert!(press(&mut client, &format!("/_aside/jobs/{waits}/retry")).ends_with("is already done."));
    assert!(press(&mut client, &format!("/_aside/jobs/{waits}/cancel")).ends_with("has already ended."));
    assert!(press(&mut client, &format!("/_aside/jobs/{waits}/discard")).ends_with("was discarded."));
    assert_eq!(state(&client, waits), None);
    let later = enqueue(&client, work("later").delay(Duration::from_secs(3600)));
    assert!(press(&mut client, &format!("/_aside/jobs/{later}/retry")).ends_with("waits for a worker now."));
    assert_eq!(state(&client, later), Some(JobState::Waiting));
    client.drain();
    let broken = dead(&client, "broken");
    assert!(press(&mut client, &format!("/_aside/jobs/{broken}/cancel")).ends_with("has already ended."));
    assert!(press(&mut client, &format!("/_aside/jobs/{broken}/discard?back=/_aside/jobs/dead")).contains("discarded"));
    assert_eq!(state(&client, broken), None);
}

#[test]
fn a_running_job_is_told_to_cancel_and_is_not_discarded() {
    let mut client = client();
    let holding = Holding::begin(&client.jobs(), "cancel");
    let path = format!("/_aside/jobs/{}", holding.id);
    assert!(press(&mut client, &format!("{path}/discard")).ends_with("runs and was not discarded: cancel it first."));
    let said = press(&mut client, &format!("{path}/cancel?back={path}"));
    assert_eq!(said, format!("held (job {}) was told to cancel.", holding.id));
    let shown = page(&mut client, &path);
    assert!(shown.contains("told to cancel") && !shown.contains("<button>"), "{shown}");
    assert!(section(&page(&mut client, "/_aside/jobs"), "Running").contains("told to cancel"));
    holding.go_on(1);
    assert_eq!(holding.end().state, JobState::Cancelled);
}

#[test]
fn a_job_whose_unique_key_is_in_use_stays_dead_and_the_page_says_why() {
    let mut client = client();
    let broken = enqueue(&client, failing("first", "x").unique("key"));
    client.drain();
    enqueue(&client, work("second").unique("key"));
    let said = press(&mut client, &format!("/_aside/jobs/{broken}/retry"));
    assert!(said.contains("another job with its unique key waits or runs"), "{said}");
    assert_eq!(state(&client, broken), Some(JobState::Dead));
}

#[test]
fn an_action_redirects_only_within_the_site() {
    let mut client = client();
    let id = enqueue(&client, work("one"));
    let backs =
        [("?back=/_aside/jobs/waiting", "/_aside/jobs/waiting"), ("?back=https://elsewhere.example/", "/_aside/jobs")];
    for (back, expected) in backs.into_iter().chain([("", "/_aside/jobs")]) {
        let response = client.post(&format!("/_aside/jobs/{id}/cancel{back}")).send();
        assert_eq!(response.location(), Some(expected), "{back}");
    }
}

#[test]
fn a_queue_with_any_name_can_be_paused_and_resumed() {
    let odd = "a/b ?q=1&x#é%2F\r\n\"<b>\u{202e}";
    let mut client = TestClient::new(development().jobs(jobs().queue(odd, 1)));
    for (word, is_paused) in [("pause", true), ("resume", false)] {
        let overview = page(&mut client, "/_aside/jobs");
        assert!(!overview.contains("<b>") && !overview.contains('\u{202e}'), "{overview}");
        let mut actions = overview.split("action=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let action = actions.find(|action| action.contains(&format!("/{word}?queue=a"))).expect("its button");
        let said = press(&mut client, &action.replace("&amp;", "&"));
        assert!(said.contains(r"The queue a/b ?q=1&amp;x#é%2F\r\n"), "{said}");
        let queues = client.jobs().queues().unwrap();
        assert_eq!(queues.iter().find(|queue| queue.name == odd).unwrap().is_paused, is_paused, "{queues:?}");
        assert_eq!(queues.iter().filter(|queue| queue.is_paused).count(), usize::from(is_paused), "{queues:?}");
    }
    for bad in ["", "?queue=", &format!("?queue={}", "q".repeat(201))] {
        let response = client.post(&format!("/_aside/queues/pause{bad}")).send();
        assert_eq!(response.status_code(), Status::BAD_REQUEST, "{bad}");
    }
    assert!(client.jobs().queues().unwrap().iter().all(|queue| !queue.is_paused));
}

#[test]
fn a_paused_queue_is_shown_as_paused() {
    let mut client = client();
    client.jobs().pause("default").unwrap();
    let overview = page(&mut client, "/_aside/jobs");
    let queues = section(&overview, "Queues");
    assert!(queues.contains("paused</strong>") && queues.contains("Resume<") && queues.contains("open"), "{queues}");
}

#[test]
fn all_dead_jobs_can_be_retried_or_discarded_together() {
    let mut client = client();
    let works: Vec<u64> = (0..3).map(|n| dead(&client, &format!("work {n}"))).collect();
    let flaky = enqueue(&client, Flaky);
    for _ in 0..4 {
        client.drain();
        client.advance(Duration::from_secs(3600));
    }
    let list = page(&mut client, "/_aside/jobs/dead");
    assert!(list.contains("<option value=\"flaky\">") && list.contains("<option value=\"work\">"), "{list}");
    let response = press_all(&mut client, &list, "retry", "flaky");
    assert_eq!(response.location(), Some("/_aside/jobs/dead"));
    assert!(page(&mut client, "/_aside/jobs/dead").contains(">1 dead job waits for a worker now.<"));
    assert_eq!(state(&client, flaky), Some(JobState::Waiting));
    // A job that died after the page was loaded is not affected.
    client.advance(Duration::from_secs(1));
    client.jobs().pause("default").unwrap();
    client.jobs().cancel(flaky).unwrap();
    client.jobs().resume("default").unwrap();
    let younger = dead(&client, "younger");
    press_all(&mut client, &list, "discard", "");
    assert!(page(&mut client, "/_aside/jobs/dead").contains(">3 dead jobs were discarded.<"));
    assert!(works.iter().all(|id| state(&client, *id).is_none()));
    assert_eq!(state(&client, younger), Some(JobState::Dead));
    for fields in [&[("name", "")][..], &[("name", ""), ("until", "x")], &[("until", "9999999999999")], &[]] {
        let response = client.post("/_aside/jobs/dead/discard").form(fields).send();
        assert!(response.status_code().code() >= 400 && response.status_code().code() < 500, "{fields:?}");
    }
    assert_eq!(state(&client, younger), Some(JobState::Dead));
}

#[test]
fn a_group_of_dead_jobs_is_retried_or_discarded_together() {
    let mut client = client();
    let rainy: Vec<u64> = (0..2).map(|n| dead_of(&client, &format!("order {n} in the rain"))).collect();
    let other = dead_of(&client, "it broke");
    let list = page(&mut client, "/_aside/jobs/dead");
    assert!(list.contains("order # in the rain") && list.contains(">Discard 2<"), "{list}");
    let until = client.jobs().find(other).unwrap().unwrap().ended_at.unwrap().to_string();
    let like = rainy[1].to_string();
    let fields = [("name", ""), ("until", &*until), ("like", &*like)];
    client.post("/_aside/jobs/dead/retry").form(&fields).send();
    let states: Vec<_> = rainy.iter().chain([&other]).map(|id| state(&client, *id).unwrap()).collect();
    assert_eq!(states, [JobState::Waiting, JobState::Waiting, JobState::Dead]);
    // The group is gone, and no other job is affected.
    client.post("/_aside/jobs/dead/discard").form(&[("name", ""), ("until", &*until), ("like", "9999")]).send();
    assert!(page(&mut client, "/_aside/jobs").contains("0 dead jobs were discarded."));
    assert_eq!(state(&client, other), Some(JobState::Dead));
}

/// Returns a dead job with that error.
fn dead_of(client: &TestClient, message: &str) -> u64 {
    let id = enqueue(client, failing("x", message));
    client.drain();
    id
}

#[test]
fn jobs_are_found_by_text_type_and_state() {
    let mut client = client();
    let (broken, fine) = (dead(&client, "Größe 17"), enqueue(&client, work("größe <18>")));
    enqueue(&client, Flaky);
    enqueue(&client, Secret { password: "größe".into() });
    let mut ids = |query: &str| -> Vec<String> {
        let found = page(&mut client, &format!("/_aside/jobs/search{query}"));
        assert!(found.contains("newest 10,000"), "{found}");
        found.split("<tr id=\"found-").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let (broken, fine) = (broken.to_string(), fine.to_string());
    assert_eq!(ids("?text=gr%C3%B6%C3%9Fe&name=&state="), [&*fine, &*broken]);
    assert_eq!(ids("?text=IT+BROKE"), [&*broken]);
    assert_eq!(ids("?text=gr%C3%B6%C3%9Fe&state=waiting"), [&*fine]);
    assert_eq!((ids("?name=flaky").len(), ids("").len(), ids("?text=nowhere").len()), (1, 4, 0));
    let form = page(&mut client, "/_aside/jobs/search?text=%3Cb%3E&name=flaky&state=dead");
    for words in ["value=\"&lt;b&gt;\"", "value=\"flaky\"", "<option selected>dead", "No job was found."] {
        assert!(form.contains(words), "{words} in {form}");
    }
    assert!(page(&mut client, "/_aside/jobs").contains("action=\"/_aside/jobs/search\""));
}

#[test]
fn a_schedule_is_listed_and_run_now() {
    let jobs = jobs().cron("0 3 * * * Europe/Berlin", work("nightly <b>"));
    let mut client = TestClient::new(development().jobs(jobs));
    let overview = page(&mut client, "/_aside/jobs");
    let schedules = section(&overview, "Schedules");
    assert!(schedules.contains("0 3 * * * Europe/Berlin") && schedules.contains("nightly &lt;b&gt;"), "{schedules}");
    let action = schedules.split("action=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    assert!(press(&mut client, &action).starts_with("It is enqueued as job "));
    assert_eq!(client.jobs().counts().unwrap().waiting, 1);
    assert!(press(&mut client, "/_aside/schedules/run?name=other").contains("no such schedule"));
}

#[test]
fn waiting_jobs_are_listed_in_the_order_in_which_they_start() {
    let mut client = client();
    let ordinary = enqueue(&client, work("ordinary"));
    let urgent = enqueue(&client, work("urgent").priority(5));
    let overview = page(&mut client, "/_aside/jobs");
    let waiting = section(&overview, "Waiting");
    let at = |id: u64| waiting.find(&format!("id=\"waiting-{id}\"")).unwrap();
    assert!(at(urgent) < at(ordinary), "{waiting}");
}

#[test]
fn the_page_of_a_job_shows_the_lines_around_a_failure() {
    let mut client = client();
    let id = dead(&client, "x");
    let shown = page(&mut client, &format!("/_aside/jobs/{id}"));
    let failures = section(&shown, "What went wrong");
    assert!(failures.contains("<code>tests/it/panel_jobs.rs:") && failures.contains("<mark>"), "{failures}");
    assert!(failures.contains(">failed</span> Attempt 1,"), "{failures}");
}

#[test]
fn one_action_affects_at_most_five_hundred_jobs() {
    let mut client = client();
    client.jobs().enqueue_all((0..503).map(|n| failing(&format!("many {n}"), "x"))).unwrap();
    client.drain();
    let list = page(&mut client, "/_aside/jobs/dead");
    press_all(&mut client, &list, "discard", "");
    assert!(
        page(&mut client, "/_aside").contains(">500 dead jobs were discarded. There may be more: repeat the action")
    );
    assert_eq!(client.jobs().counts().unwrap().dead, 3);
    press_all(&mut client, &list, "retry", "work");
    assert!(page(&mut client, "/_aside").contains(">3 dead jobs wait for a worker now.<"));
    assert_eq!(client.jobs().counts().unwrap().waiting, 3);
}

/// A job that panics or times out at its only attempt.
#[derive(Serialize, Deserialize)]
struct Doomed {
    panics: bool,
}

impl Job for Doomed {
    const NAME: &'static str = "doomed";
    const DEADLINE: Option<Duration> = Some(Duration::from_millis(1));

    fn retry() -> Retry {
        Retry::exponential(1, Duration::from_secs(60))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        assert!(!self.panics, "as it was told");
        task.sleep(Duration::from_secs(600))?;
        Ok(())
    }
}

#[test]
fn dead_jobs_are_counted_by_cause() {
    let jobs = Jobs::memory().register::<Work>().register::<Doomed>();
    let mut client = TestClient::new(development().jobs(jobs));
    client.jobs().enqueue(failing("fails", "it rains")).unwrap();
    client.jobs().enqueue_all([true, false, true].map(|panics| Doomed { panics })).unwrap();
    client.drain();
    let counts = client.jobs().counts().unwrap();
    assert_eq!((counts.dead, counts.timed_out, counts.panicked, counts.abandoned), (4, 1, 2, 0));
    let overview = page(&mut client, "/_aside/jobs");
    assert!(overview.contains("</a><small>1 timed out</small><small>2 panicked</small></dd>"), "{overview}");
}

#[test]
fn a_long_list_is_paged() {
    let mut client = client();
    client.jobs().enqueue_all((1..=205).map(|n| work(&format!("job of {n}")))).unwrap();
    let overview = page(&mut client, "/_aside/jobs");
    let waiting = section(&overview, "Waiting");
    assert_eq!(waiting.matches("<tr id=").count(), 10, "{waiting}");
    assert!(waiting.contains("\"/_aside/jobs/waiting\">All waiting jobs"), "{waiting}");
    let (mut path, mut seen) = ("/_aside/jobs/waiting".to_owned(), Vec::new());
    for expected in [100, 100, 5] {
        let list = page(&mut client, &path);
        let ids = list.split("<tr id=\"waiting-").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap());
        let ids: Vec<u64> = ids.collect();
        assert_eq!(ids.len(), expected, "{path}");
        seen.extend(ids);
        let next = list.split("rel=\"next\"").next().filter(|before| before.len() < list.len());
        path = next
            .map_or(String::new(), |before| before.rsplit("href=\"").next().unwrap().split('"').next().unwrap().into());
    }
    assert_eq!((seen, &*path), ((1..=205).rev().collect::<Vec<u64>>(), ""));
    assert!(page(&mut client, "/_aside/jobs/waiting?before=1").contains("There are none older."));
    // An action leads back to the page with its button.
    assert!(page(&mut client, "/_aside/jobs/waiting?before=50").contains("?back=/_aside/jobs/waiting%3Fbefore%3D50\""));
    assert_eq!(client.get("/_aside/jobs/waiting?before=x").status_code(), Status::BAD_REQUEST);
    page(&mut client, "/_aside/jobs/waiting?before=18446744073709551615");
}

#[test]
fn the_page_of_a_missing_job_is_a_404() {
    let mut client = client();
    for id in ["17", "0", "18446744073709551615"] {
        let posts = ["cancel", "retry", "discard"].map(|action| format!("/_aside/jobs/{id}/{action}"));
        let mut responses = vec![client.get(&format!("/_aside/jobs/{id}"))];
        responses.extend(posts.iter().map(|path| client.post(path).send()));
        for response in responses {
            assert_eq!(response.status_code(), Status::NOT_FOUND);
            assert!(response.text().contains("There is no job with that number"), "{}", response.text());
            assert!(
                response.text().replace("&#x2f;", "/").contains("\"/_aside/jobs\">All jobs<"),
                "{}",
                response.text()
            );
        }
    }
    for path in
        ["/_aside/jobs/x", "/_aside/jobs/-1", "/_aside/jobs/dying", "/_aside/jobs/dead/live", "/_aside/jobs/x/live"]
    {
        assert_eq!(client.get(path).status_code(), Status::NOT_FOUND, "{path}");
    }
    // The stream of a missing job ends, so that the page does not reconnect forever.
    let mut events = client.events("/_aside/jobs/17/live");
    assert!(events.next().data.contains("This job no longer exists."));
    assert_eq!(events.next().name, "end");
}

#[test]
fn other_methods_are_refused() {
    let mut client = client();
    let posts = ["queues/pause", "queues/resume"].into_iter().chain([
        "jobs/dead/retry",
        "jobs/dead/discard",
        "jobs/1/cancel",
        "jobs/1/retry",
        "jobs/1/discard",
    ]);
    for path in posts.map(|path| format!("/_aside/{path}")) {
        let response = client.get(&path);
        assert_eq!(
            (response.status_code(), response.header("Allow")),
            (Status::METHOD_NOT_ALLOWED, Some("POST")),
            "{path}"
        );
    }
    for path in ["/_aside/jobs", "/_aside/jobs/dead", "/_aside/jobs/1", "/_aside/jobs/live"] {
        let response = client.post(path).send();
        assert_eq!(
            (response.status_code(), response.header("Allow")),
            (Status::METHOD_NOT_ALLOWED, Some("GET, HEAD")),
            "{path}"
        );
    }
}

#[test]
fn a_malicious_job_is_harmless() {
    let hostile = "<script>alert(1)</script>\" onx='1'\u{202e}\u{7}\nعربي Привет";
    let mut client = TestClient::new(development().jobs(jobs().queue(&format!("q{hostile}"), 4)));
    let long = "é".repeat(100_000);
    let (label, words) = (format!("{hostile}{long}"), format!("{hostile}{long}"));
    let new = |fails: Option<&String>| {
        let job = Work { label: label.clone(), fails: fails.cloned() };
        job.unique(format!("u{hostile}")).queue(format!("q{hostile}"))
    };
    let dead = enqueue(&client, new(Some(&words)));
    client.drain();
    let done = enqueue(&client, new(None));
    client.drain();
    let cancelled = enqueue(&client, new(None));
    client.jobs().cancel(cancelled).unwrap();
    let scheduled = enqueue(&client, new(None).delay(Duration::from_secs(60)));
    let paths = [dead, done, cancelled, scheduled].map(|id| format!("/_aside/jobs/{id}"));
    let lists = ["", "/dead", "/done", "/cancelled", "/scheduled"].map(|list| format!("/_aside/jobs{list}"));
    for path in paths.iter().chain(&lists) {
        let page = page(&mut client, path);
        assert!(!page.contains("<script>alert") && !page.contains("onx='1'"), "{path}: {page}");
        assert!(!page.contains(['\u{202e}', '\u{7}']), "{path}");
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;") && page.contains(r"\u{202e}"),
            "{path}: {page}"
        );
        assert!(page.contains("عربي Привет") && page.len() < 100_000, "{path}: {} bytes", page.len());
    }
    let said = press(&mut client, &format!("/_aside/jobs/{dead}/discard"));
    assert!(said.starts_with("&lt;script&gt;alert(1)") && said.ends_with("was discarded."), "{said}");
}

#[test]
fn a_job_and_its_task_link_to_each_other() {
    let mut client = client();
    let holding = Holding::begin(&client.jobs(), "task");
    let overview = page(&mut client, "/_aside/tasks");
    let link = format!("<a href=\"/_aside/jobs/{id}\">job {id}</a>", id = holding.id);
    assert!(section(&overview, "Now").contains(&link), "{overview}");
    assert!(page(&mut client, "/_aside/tasks/1").contains(&format!("href=\"/_aside/jobs/{}\"", holding.id)));
    let shown = page(&mut client, &format!("/_aside/jobs/{}", holding.id));
    assert!(shown.contains("<a href=\"/_aside/tasks/1\">task 1</a>"), "{shown}");
    holding.end();
    assert!(section(&page(&mut client, "/_aside/tasks"), "Ended").contains(&link));
}

/// Regression: a task with the key `job-17` was shown as an attempt of the job 17.
#[test]
fn a_task_with_the_key_of_a_job_is_not_shown_as_its_attempt() {
    let mut client = client();
    client.within(|| aside::Task::named("x").key("job-17").spawn(|_| ())).join().unwrap();
    let overview = page(&mut client, "/_aside/tasks");
    assert!(overview.contains("key <bdi>job-17</bdi>") && !overview.contains("/jobs/17"), "{overview}");
}

#[test]
fn an_open_page_shows_a_job_start_and_end() {
    let mut client = client();
    let mut events = client.events("/_aside/jobs/live");
    assert!(section(&events.next().data, "Waiting").contains("There are none."));
    let mut shown = |heading: &str, words: &str| {
        while !section(&events.next().data, heading).contains(words) {
            // The elapsed time of a running job changes, so there are events in between.
        }
    };
    let id = enqueue(&client, failing("seen-live", "x"));
    shown("Waiting", "seen-live");
    client.drain();
    shown("Dead", "seen-live");
    client.jobs().discard(id).unwrap();
    shown("Dead", "There are none.");
    client.jobs().pause("default").unwrap();
    shown("Queues", "paused");
}

#[test]
fn the_page_of_a_job_shows_its_progress_and_its_end() {
    let mut client = client();
    let holding = Holding::begin(&client.jobs(), "live");
    let path = format!("/_aside/jobs/{}", holding.id);
    assert!(page(&mut client, &path).contains(&format!("<aside-live src=\"{path}/live\"")));
    let mut events = client.events(&format!("{path}/live"));
    let mut shown = |words: &str| {
        while !events.next().data.contains(words) {
            // The elapsed time of a running job changes, so there are events in between.
        }
    };
    holding.go_on(3);
    shown("75 %, 3 of 4");
    holding.end();
    shown(">done</span>");
    while events.next().name != "end" {}
    assert!(!page(&mut client, &path).contains("aside-live src"));
}

#[test]
fn the_open_page_of_a_discarded_job_says_so() {
    let mut client = client();
    let id = enqueue(&client, work("short-lived").delay(Duration::from_secs(60)));
    let mut events = client.events(&format!("/_aside/jobs/{id}/live"));
    assert!(events.next().data.contains("scheduled"));
    client.jobs().discard(id).unwrap();
    while !events.next().data.contains("This job no longer exists.") {}
    while events.next().name != "end" {}
}

#[test]
fn a_server_shows_its_jobs_over_a_socket() {
    let jobs = jobs();
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let server = App::with_config(config).jobs(jobs.clone()).start().unwrap();
    let url = |path: &str| format!("http://{}{path}", server.addr());
    let ((begins, begun), (let_go, waits)) = (mpsc::channel(), mpsc::channel());
    GATES.lock().unwrap().get_or_insert_default().insert("socket".into(), (begins, waits));
    let id = jobs.enqueue(Held { gate: "socket".into() }).unwrap().id;
    begun.recv().unwrap();
    let mut live = ureq::get(url("/_aside/jobs/live")).call().unwrap();
    assert_eq!(live.headers().get("Content-Type").unwrap(), "text/event-stream");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(live.body_mut().as_reader()));
    let mut shown = |words: &str| while !lines.next().unwrap().unwrap().contains(words) {};
    shown(&format!("id=\"running-{id}\""));
    let_go.send(2).unwrap();
    shown("50 %, 2 of 4");
    let cancelled = ureq::post(url(&format!("/_aside/jobs/{id}/cancel"))).send_empty().unwrap();
    assert!(cancelled.into_body().read_to_string().unwrap().contains("<h1>Jobs</h1>"), "it leads back");
    let_go.send(3).unwrap();
    shown(&format!("id=\"cancelled-{id}\""));
    server.stop();
}
