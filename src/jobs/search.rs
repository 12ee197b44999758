//! The search for jobs by state, type and text, among the newest jobs.

use super::engine::Engine;
use super::facade::Jobs;
use super::record::{JobInfo, JobState};
use crate::error::Result;

/// The number of newest jobs that a search examines.
pub(crate) const MOST_SEARCHED: usize = 10_000;

/// The largest number of jobs that are read at once, and the size of their payloads from which fewer are read.
const MAX_BATCH: usize = 64;
const LARGE_BATCH: usize = 4 << 20;

/// The conditions of a search: a job meets all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct JobFilter {
    pub(crate) state: Option<JobState>,
    /// The name of the job type.
    pub(crate) name: Option<String>,
    /// A text in the label, the name, the last error or the arguments, in upper or lower case. The arguments of a private job
    /// are not searched.
    pub(crate) text: Option<String>,
    /// The short id of the request that enqueued the job, in upper or lower case.
    pub(crate) request_id: Option<String>,
}

/// The result of a search.
#[derive(Debug, PartialEq)]
pub(crate) struct FoundJobs {
    /// The jobs, the newest first, without their outputs.
    pub(crate) jobs: Vec<JobInfo>,
    /// True if there are older jobs that were not examined, because [`MOST_SEARCHED`] were.
    pub(crate) is_limited: bool,
}

impl Jobs {
    /// Returns at most `most` jobs that meet the conditions, among the newest [`MOST_SEARCHED`] jobs in that state, or among
    /// the newest of all.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn search(&self, filter: &JobFilter, most: usize) -> Result<FoundJobs> {
        self.search_newest(filter, most, MOST_SEARCHED)
    }

    fn search_newest(&self, filter: &JobFilter, most: usize, limit: usize) -> Result<FoundJobs> {
        let (matcher, mut newest) = (Matcher::new(self, filter), NewestFirst::new(&*self.engine, filter.state));
        let (mut found, mut examined) = (Vec::new(), 0);
        while found.len() < most && examined < limit {
            let Some(job) = newest.next()? else { break };
            examined += 1;
            if matcher.matches(&job) {
                found.push(job);
            }
        }
        let is_limited = found.len() < most && examined == limit && newest.next()?.is_some();
        Ok(FoundJobs { jobs: self.up_to_date(|_| Ok(found))?, is_limited })
    }
}

/// The conditions of a search, prepared for many jobs.
struct Matcher<'a> {
    jobs: &'a Jobs,
    name: Option<&'a str>,
    request_id: Option<&'a str>,
    /// The text in lower case; empty for none.
    text: String,
    /// The text as it is within a JSON string.
    json: String,
}

impl Matcher<'_> {
    fn new<'a>(jobs: &'a Jobs, filter: &'a JobFilter) -> Matcher<'a> {
        let text = filter.text.as_deref().unwrap_or_default().trim().to_lowercase();
        let json = serde_json::Value::from(text.as_str()).to_string();
        let request_id = filter.request_id.as_deref();
        Matcher { jobs, name: filter.name.as_deref(), request_id, json: json[1..json.len() - 1].to_owned(), text }
    }

    fn matches(&self, job: &JobInfo) -> bool {
        self.name.is_none_or(|name| name == job.name)
            && self.request_id.is_none_or(|id| has_id(job, id))
            && (self.text.is_empty() || self.has_text(job))
    }

    fn has_text(&self, job: &JobInfo) -> bool {
        let error = job.failures.last().map_or("", |failure| &failure.message);
        if [&job.label, &job.name, error].iter().any(|text| text.to_lowercase().contains(&self.text)) {
            return true;
        }
        if self.jobs.is_private(&job.name) {
            return false;
        }
        let payload = job.payload.to_lowercase();
        payload.contains(&self.text) || payload.contains(&self.json)
    }
}

/// Returns true if the request that enqueued the job has this short id: `POST /orders 3f9a1c`.
fn has_id(job: &JobInfo, id: &str) -> bool {
    let own = job.request.as_deref().and_then(|request| request.rsplit(' ').next());
    own.is_some_and(|own| own.eq_ignore_ascii_case(id))
}

/// The jobs of one or all states, by descending id, read in batches.
struct NewestFirst<'a> {
    states: Vec<NewestOfState<'a>>,
    /// The id of the last job. A job that changes its state during the search may be read twice.
    last: u64,
}

impl<'a> NewestFirst<'a> {
    fn new(engine: &'a dyn Engine, state: Option<JobState>) -> NewestFirst<'a> {
        let states = state.map_or_else(|| JobState::ALL.to_vec(), |state| vec![state]);
        let of = |state| NewestOfState { engine, state, before: None, batch: 4, read: Vec::new(), is_exhausted: false };
        NewestFirst { states: states.into_iter().map(of).collect(), last: u64::MAX }
    }

    fn next(&mut self) -> Result<Option<JobInfo>> {
        loop {
            self.states.iter_mut().try_for_each(NewestOfState::fill)?;
            let newest = self.states.iter_mut().max_by_key(|state| state.read.last().map(|job| job.id));
            let Some(job) = newest.and_then(|state| state.read.pop()) else { return Ok(None) };
            if job.id < self.last {
                self.last = job.id;
                return Ok(Some(job));
            }
        }
    }
}

/// The jobs of one state.
struct NewestOfState<'a> {
    engine: &'a dyn Engine,
    state: JobState,
    before: Option<u64>,
    /// The number of jobs to read next.
    batch: usize,
    /// The jobs that were read, the newest last.
    read: Vec<JobInfo>,
    is_exhausted: bool,
}

impl NewestOfState<'_> {
    /// Reads the next batch, if the last one is used up.
    fn fill(&mut self) -> Result<()> {
        if !self.read.is_empty() || self.is_exhausted {
            return Ok(());
        }
        self.read = self.engine.list(self.state, self.before, self.batch)?;
        self.read.reverse();
        self.is_exhausted = self.read.len() < self.batch;
        self.before = self.read.first().map(|job| job.id);
        let size: usize = self.read.iter().map(|job| job.payload.len()).sum();
        self.batch = if size > LARGE_BATCH { (self.batch / 2).max(1) } else { (self.batch * 2).min(MAX_BATCH) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::background::retry::Retry;
    use crate::background::task_context::TaskContext;
    use crate::error::Error;
    use crate::jobs::job::Job;

    #[derive(Serialize, Deserialize)]
    struct Note(String);

    impl Job for Note {
        const NAME: &'static str = "note";

        fn retry() -> Retry {
            Retry::exponential(1, Duration::from_secs(1))
        }

        fn run(self, _task: &TaskContext) -> Result<()> {
            if self.0.starts_with("broken") { Err(Error::internal(format!("Order {} lost", self.0))) } else { Ok(()) }
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Secret(String);

    impl Job for Secret {
        const NAME: &'static str = "secret";
        const PRIVATE: bool = true;

        fn label(&self) -> String {
            "the label of a secret".to_owned()
        }

        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }

    fn jobs() -> Jobs {
        Jobs::memory().register::<Note>().register::<Secret>()
    }

    fn note(jobs: &Jobs, text: &str) -> u64 {
        jobs.enqueue(Note(text.to_owned())).unwrap().id
    }

    fn of_text(text: &str) -> JobFilter {
        JobFilter { text: Some(text.to_owned()), ..JobFilter::default() }
    }

    #[track_caller]
    fn found(jobs: &Jobs, filter: &JobFilter) -> Vec<u64> {
        let found = jobs.search(filter, 100).unwrap();
        assert!(!found.is_limited);
        found.jobs.iter().map(|job| job.id).collect()
    }

    #[test]
    fn a_text_is_found_in_the_label_the_last_error_and_the_arguments_in_any_case() {
        let jobs = jobs();
        let [broken, quoted, accented] =
            ["broken 17", "say \"yes\"\nagain", "Über alles"].map(|text| note(&jobs, text));
        while jobs.run_next().unwrap().is_some() {}
        let secret = jobs.enqueue(Secret("hunter2".to_owned())).unwrap().id;
        assert_eq!(found(&jobs, &of_text("order BROKEN 17 Lost")), [broken]);
        assert_eq!(found(&jobs, &of_text("\"yes\"\n")), [quoted]);
        assert_eq!(found(&jobs, &of_text(" über ")), [accented]);
        assert_eq!(found(&jobs, &of_text("OF A SECRET")), [secret]);
        assert_eq!(found(&jobs, &of_text("note")), [accented, quoted, broken]);
        assert_eq!(found(&jobs, &of_text("missing")), Vec::<u64>::new());
        assert_eq!(found(&jobs, &JobFilter::default()), [secret, accented, quoted, broken]);
    }

    #[test]
    fn the_arguments_of_private_and_unregistered_jobs_are_not_searched() {
        let jobs = jobs();
        let secret = jobs.enqueue(Secret("hunter2".to_owned())).unwrap().id;
        note(&jobs, "Hunter3");
        assert_eq!(found(&jobs, &of_text("hunter2")), Vec::<u64>::new());
        let named = JobFilter { name: Some("secret".to_owned()), ..JobFilter::default() };
        assert_eq!(found(&jobs, &named), [secret]);
        let unregistered = Jobs { config: Jobs::memory().config, ..jobs.clone() };
        assert_eq!((found(&unregistered, &of_text("hunter3")), found(&jobs, &of_text("hunter3"))), (vec![], vec![2]));
    }

    #[test]
    fn a_search_combines_its_conditions() {
        let jobs = jobs();
        let dead: Vec<u64> = (0..3).map(|i| note(&jobs, &format!("broken {i}"))).collect();
        while jobs.run_next().unwrap().is_some() {}
        let waiting = note(&jobs, "broken 2");
        let filter = |state| JobFilter { state: Some(state), name: Some("note".to_owned()), ..of_text("broken 2") };
        assert_eq!(found(&jobs, &filter(JobState::Dead)), [dead[2]]);
        assert_eq!(found(&jobs, &filter(JobState::Waiting)), [waiting]);
        assert_eq!(
            found(&jobs, &JobFilter { name: Some("secret".to_owned()), ..filter(JobState::Dead) }),
            Vec::<u64>::new()
        );
    }

    #[test]
    fn a_search_ends_after_the_newest_jobs_and_says_so() {
        let jobs = jobs();
        let ids: Vec<u64> = (0..300).map(|i| note(&jobs, &format!("number {i}"))).collect();
        for id in ids.iter().step_by(3) {
            jobs.cancel(*id).unwrap();
        }
        let all = jobs.search_newest(&JobFilter::default(), 1_000, 300).unwrap();
        assert!(all.jobs.iter().map(|job| job.id).eq(ids.iter().rev().copied()) && !all.is_limited);
        let search = |text: &str, most, limit| {
            let found = jobs.search_newest(&of_text(text), most, limit).unwrap();
            (found.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), found.is_limited)
        };
        assert_eq!(search("number 99", 10, 200), (vec![], true));
        assert_eq!(search("number 99", 10, 201), (vec![ids[99]], true));
        assert_eq!(search("number 299", 1, 5), (vec![ids[299]], false));
        assert_eq!(search("number 0", 10, 299), (vec![], true));
        assert_eq!(search("number 0", 10, 300), (vec![ids[0]], false));
    }
}
