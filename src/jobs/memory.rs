//! Jobs kept in memory: for tests, and for a site that may forget them.
//!
//! One lock around one [`State`]. Every job is in the drawers that its state belongs in, and moves between them only through
//! [`State::change`], so that none is forgotten: waiting ones lie by rank in the line of their queue, scheduled ones by due
//! time, ended ones by the time of their end. A claim looks at the first of a line, however long that is.
//!
//! All is in one process, and yet its workers have leases as elsewhere: each [`Jobs`](super) on one memory is a worker, and
//! the thread that beats for it may have ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::engine::{
    Abilities, Beat, CLOCK_SLACK, Claimed, End, Ending, Engine, Enqueued, Entry, Held, Keep, LATEST_TICK,
    MOST_FAILURES, MOST_INTERRUPTIONS, PRIORITY_STEP, Room, When, WorkerId, wait_after_interruption,
};
use super::record::{Cause, JobCounts, JobFailure, JobInfo, JobState, Kept, Millis, QueueInfo};
use crate::error::Result;
use crate::sync::{Notify, lock};

/// How long nobody may have looked for life, at the least, before what was seen is too old to say who is gone.
const BLINK: Duration = Duration::from_secs(5);

/// Keeps jobs as long as the process lives.
pub(crate) struct Memory {
    state: Mutex<State>,
}

/// All that is known, and where to find it.
#[derive(Default)]
struct State {
    jobs: HashMap<u64, Box<Job>>,
    by_state: BTreeMap<JobState, BTreeSet<u64>>,
    /// What waits and runs, by queue; none for a queue where nothing does.
    lines: BTreeMap<String, Line>,
    scheduled: BTreeSet<(Millis, u64)>,
    /// What [`trim`](Engine::trim) may take: done or cancelled, by the time of its end.
    trimmable: BTreeSet<(Millis, u64)>,
    /// Unique keys in use, each with the name of the job's type.
    unique: HashMap<(String, String), u64>,
    workers: BTreeMap<String, Worker>,
    paused: BTreeSet<String>,
    ticks: HashMap<String, Millis>,
    listeners: Vec<Weak<Notify>>,
    /// When somebody last looked who is gone.
    looked_at: Option<Instant>,
    last_id: u64,
    last_token: u64,
    last_worker: u64,
}

/// A job with what only the engine knows of it.
struct Job {
    info: JobInfo,
    /// Since when it waits, or was to: what its rank is counted from.
    since: Millis,
    /// How long it was to wait, when its due time was given so.
    wait: Option<Millis>,
    /// The cause, for a dead job.
    cause: Cause,
    /// The last claim.
    token: u64,
    /// Whose claim that was, while it runs.
    worker: Option<String>,
}

/// One queue.
#[derive(Default)]
struct Line {
    waiting: BTreeSet<(Millis, u64)>,
    running: u64,
}

/// One worker that has joined and was not taken for dead.
#[derive(Default)]
struct Worker {
    beats: u64,
    /// How many beats somebody saw, and when first that many.
    seen: Option<(u64, Instant)>,
    held: BTreeSet<u64>,
}

impl Memory {
    /// An empty one.
    pub(crate) fn new() -> Memory {
        Memory { state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Engine for Memory {
    fn describe(&self) -> String {
        "memory (jobs are forgotten when the process ends)".to_owned()
    }

    fn abilities(&self) -> Abilities {
        Abilities { is_durable: false, is_shared: false, has_transactions: false }
    }

    fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        self.state().listeners.push(Arc::downgrade(listener));
        Ok(())
    }

    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>> {
        let mut state = self.state();
        let enqueued = jobs.into_iter().map(|entry| state.enqueue(entry, now)).collect();
        state.notify();
        Ok(enqueued)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn join(&self) -> Result<WorkerId> {
        let mut state = self.state();
        state.last_worker += 1;
        let id = state.last_worker.to_string();
        state.workers.insert(id.clone(), Worker::default());
        Ok(WorkerId(id))
    }

    fn beat(&self, worker: &WorkerId, held: &[Held], _now: Millis) -> Result<Beat> {
        Ok(self.state().beat(worker, held))
    }

    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        self.state().give_back(&worker.0, |job| job.release(now));
        Ok(())
    }

    fn recover(&self, lease: Duration, now: Millis) -> Result<usize> {
        Ok(self.state().recover(lease, now, Instant::now()))
    }

    fn claim(&self, worker: &WorkerId, rooms: &[Room], now: Millis) -> Result<Vec<Claimed>> {
        Ok(self.state().claim(worker, rooms, now))
    }

    fn next_due(&self) -> Result<Option<Millis>> {
        Ok(self.state().scheduled.first().map(|(due, _)| *due))
    }

    fn settle(&self, id: u64, token: u64, ending: Ending, now: Millis) -> Result<bool> {
        let mut state = self.state();
        let is_its_own = state.running(id, token).is_some();
        if is_its_own {
            state.change(id, |job| job.end(ending, now));
            state.notify();
        }
        Ok(is_its_own)
    }

    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>> {
        let mut state = self.state();
        state.change(id, |job| job.cancel(now));
        state.notify();
        Ok(state.jobs.get(&id).map(|job| job.info.state))
    }

    fn revive(&self, id: u64, now: Millis) -> Result<bool> {
        let mut state = self.state();
        let may_wait = state.jobs.get(&id).is_some_and(|job| job.can_be_revived() && state.is_free_for(job));
        if may_wait {
            state.change(id, |job| job.revive(now));
            state.notify();
        }
        Ok(may_wait)
    }

    fn discard(&self, id: u64) -> Result<bool> {
        let mut state = self.state();
        let rests = state.jobs.get(&id).is_some_and(|job| job.info.state != JobState::Running);
        Ok(rests && state.take(id).is_some())
    }

    fn pause(&self, queue: &str, paused: bool) -> Result<()> {
        let mut state = self.state();
        if paused {
            state.paused.insert(queue.to_owned());
        } else {
            state.paused.remove(queue);
            state.notify();
        }
        Ok(())
    }

    fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        Ok(self.state().jobs.get(&id).map(|job| job.info.clone()))
    }

    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        let all = self.state();
        let Some(ids) = all.by_state.get(&state) else { return Ok(Vec::new()) };
        let newest_first = ids.range(..before.unwrap_or(u64::MAX)).rev().take(most);
        Ok(newest_first.filter_map(|id| all.jobs.get(id)).map(|job| job.info.clone().without_output()).collect())
    }

    fn counts(&self) -> Result<JobCounts> {
        let (mut counts, all) = (JobCounts::default(), self.state());
        for (state, ids) in &all.by_state {
            *counts.of(*state) = ids.len() as u64;
        }
        let dead = all.by_state.get(&JobState::Dead).into_iter().flatten();
        for job in dead.filter_map(|id| all.jobs.get(id)) {
            counts.dead_of(job.cause).into_iter().for_each(|count| *count += 1);
        }
        Ok(counts)
    }

    fn queues(&self) -> Result<Vec<QueueInfo>> {
        let state = self.state();
        let names: BTreeSet<&String> = state.lines.keys().chain(&state.paused).collect();
        Ok(names.into_iter().map(|name| state.queue(name)).collect())
    }

    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>> {
        Ok(self.state().ticks.get(schedule).copied())
    }

    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool> {
        let mut state = self.state();
        if state.ticks.get(schedule).is_some_and(|last| due <= *last) {
            return Ok(false);
        }
        state.ticks.insert(schedule.to_owned(), due);
        if let Some(entry) = job {
            state.enqueue(entry, now);
            state.notify();
        }
        Ok(true)
    }

    fn trim(&self, keep: Keep, now: Millis) -> Result<usize> {
        Ok(self.state().trim(keep, now))
    }

    fn clock_went_back(&self, now: Millis) -> Result<()> {
        self.state().clock_went_back(now);
        Ok(())
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

/// Where things lie.
impl State {
    /// Takes a job out of every drawer.
    fn take(&mut self, id: u64) -> Option<Box<Job>> {
        let job = self.jobs.remove(&id)?;
        if let Some(ids) = self.by_state.get_mut(&job.info.state) {
            ids.remove(&id);
        }
        if let Some(key) = job.key_in_use() {
            self.unique.remove(&key);
        }
        match job.info.state {
            JobState::Waiting | JobState::Running => self.leave_line(&job),
            JobState::Scheduled => drop(self.scheduled.remove(&(job.info.due_at, id))),
            JobState::Done | JobState::Cancelled => drop(self.trimmable.remove(&(job.ended_at(), id))),
            JobState::Dead => {}
        }
        Some(job)
    }

    /// Puts a job into the drawers of its state.
    fn put(&mut self, job: Box<Job>) {
        let id = job.info.id;
        self.by_state.entry(job.info.state).or_default().insert(id);
        if let Some(key) = job.key_in_use() {
            self.unique.insert(key, id);
        }
        match job.info.state {
            JobState::Waiting | JobState::Running => self.enter_line(&job),
            JobState::Scheduled => drop(self.scheduled.insert((job.info.due_at, id))),
            JobState::Done | JobState::Cancelled => drop(self.trimmable.insert((job.ended_at(), id))),
            JobState::Dead => {}
        }
        self.jobs.insert(id, job);
    }

    /// The only way to change a job: out of the drawers of its old state and into those of the new one.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some(mut job) = self.take(id) {
            change(&mut job);
            self.put(job);
        }
    }

    fn enter_line(&mut self, job: &Job) {
        if !self.lines.contains_key(&job.info.queue) {
            self.lines.insert(job.info.queue.clone(), Line::default());
        }
        let Some(line) = self.lines.get_mut(&job.info.queue) else { return };
        if job.info.state == JobState::Waiting {
            line.waiting.insert((job.rank(), job.info.id));
        } else {
            line.running += 1;
            if let Some(worker) = job.worker.as_ref().and_then(|worker| self.workers.get_mut(worker)) {
                worker.held.insert(job.info.id);
            }
        }
    }

    fn leave_line(&mut self, job: &Job) {
        let Some(line) = self.lines.get_mut(&job.info.queue) else { return };
        if job.info.state == JobState::Waiting {
            line.waiting.remove(&(job.rank(), job.info.id));
        } else {
            line.running -= 1;
            if let Some(worker) = job.worker.as_ref().and_then(|worker| self.workers.get_mut(worker)) {
                worker.held.remove(&job.info.id);
            }
        }
        if line.waiting.is_empty() && line.running == 0 {
            self.lines.remove(&job.info.queue);
        }
    }

    /// The job, if it runs and that is its last token.
    fn running(&self, id: u64, token: u64) -> Option<&Job> {
        let job = self.jobs.get(&id)?;
        (job.info.state == JobState::Running && job.token == token).then_some(job)
    }

    /// Whether no other job has its unique key.
    fn is_free_for(&self, job: &Job) -> bool {
        let owner = job.key().and_then(|key| self.unique.get(&key));
        owner.is_none_or(|owner| *owner == job.info.id)
    }

    fn queue(&self, name: &str) -> QueueInfo {
        let line = self.lines.get(name);
        QueueInfo {
            name: name.to_owned(),
            waiting: line.map_or(0, |line| line.waiting.len() as u64),
            running: line.map_or(0, |line| line.running),
            is_paused: self.paused.contains(name),
        }
    }

    /// Lets all look who wait for work, and forgets those who do not wait any more.
    fn notify(&mut self) {
        self.listeners.retain(|listener| listener.upgrade().inspect(|listener| listener.notify()).is_some());
    }
}

/// What happens.
impl State {
    fn enqueue(&mut self, entry: Entry, now: Millis) -> Enqueued {
        let job = Job::new(self.last_id + 1, entry, now);
        if let Some(id) = job.key().and_then(|key| self.unique.get(&key)) {
            return Enqueued { id: *id, is_new: false };
        }
        self.last_id += 1;
        self.put(Box::new(job));
        Enqueued { id: self.last_id, is_new: true }
    }

    fn claim(&mut self, worker: &WorkerId, rooms: &[Room], now: Millis) -> Vec<Claimed> {
        self.make_waiting(now);
        // Who was taken for dead has nobody who would notice when it really is: it gets nothing until it has joined anew.
        if !self.workers.contains_key(&worker.0) {
            return Vec::new();
        }
        let mut claimed = Vec::new();
        for room in rooms {
            let first = self.first_of(room);
            claimed.extend(first.into_iter().filter_map(|id| self.begin(id, worker, now)));
        }
        claimed
    }

    fn first_of(&self, room: &Room) -> Vec<u64> {
        match self.lines.get(&room.queue) {
            Some(line) if !self.paused.contains(&room.queue) => {
                line.waiting.iter().take(room.free).map(|(_, id)| *id).collect()
            }
            _ => Vec::new(),
        }
    }

    fn begin(&mut self, id: u64, worker: &WorkerId, now: Millis) -> Option<Claimed> {
        self.last_token += 1;
        let token = self.last_token;
        self.change(id, |job| job.begin(worker, token, now));
        self.jobs.get(&id).map(|job| job.claimed())
    }

    /// Lets wait what is due, of all queues: what has no room or is paused would be due again and again otherwise.
    fn make_waiting(&mut self, now: Millis) {
        while let Some((_, id)) = self.scheduled.first().copied().filter(|(due, _)| *due <= now) {
            self.change(id, Job::come_due);
        }
    }

    fn beat(&mut self, worker: &WorkerId, held: &[Held]) -> Beat {
        let Some(known) = self.workers.get_mut(&worker.0) else {
            return Beat { is_evicted: true, ..Beat::default() };
        };
        known.beats += 1;
        let mut beat = Beat::default();
        for held in held {
            match self.running(held.id, held.token).map(|job| job.info.is_cancelling) {
                None => beat.lost.push(held.id),
                Some(true) => beat.cancel.push(held.id),
                Some(false) => {}
            }
            self.note_progress(held);
        }
        beat
    }

    fn note_progress(&mut self, held: &Held) {
        let is_its_own = self.running(held.id, held.token).is_some();
        let job = self.jobs.get_mut(&held.id).filter(|_| is_its_own);
        if let (Some(job), Some((done, total, message))) = (job, &held.progress) {
            (job.info.done, job.info.total) = (*done, *total);
            job.info.message.clone_from(message);
        }
    }

    /// Takes back all that a worker holds, and forgets it. How many jobs that were.
    fn give_back(&mut self, worker: &str, mut change: impl FnMut(&mut Job)) -> usize {
        let held = self.workers.remove(worker).map(|worker| worker.held).unwrap_or_default();
        for id in &held {
            self.change(*id, &mut change);
        }
        self.notify();
        held.len()
    }

    fn recover(&mut self, lease: Duration, now: Millis, at: Instant) -> usize {
        let gone = self.gone(lease, at);
        gone.iter().map(|worker| self.give_back(worker, |job| job.interrupt(now))).sum()
    }

    /// The workers of which no beat was seen for a lease.
    ///
    /// Where nobody looked for long, the whole process stood still (it was stopped, or the machine slept) and nobody could
    /// have beaten: everybody then has a lease from now on.
    fn gone(&mut self, lease: Duration, at: Instant) -> Vec<String> {
        let blink = BLINK.max(lease / 2);
        let stood_still = self.looked_at.is_none_or(|looked_at| at.saturating_duration_since(looked_at) > blink);
        self.looked_at = Some(at);
        let silent = self.workers.iter_mut().filter_map(|(id, worker)| {
            let seen = worker.seen.filter(|(beats, _)| *beats == worker.beats && !stood_still);
            let (_, since) = *worker.seen.insert(seen.unwrap_or((worker.beats, at)));
            (seen.is_some() && at.saturating_duration_since(since) >= lease).then(|| id.clone())
        });
        silent.collect()
    }

    fn trim(&mut self, keep: Keep, now: Millis) -> usize {
        let age = Millis::try_from(keep.age.as_millis()).unwrap_or(Millis::MAX);
        let oldest = now.saturating_sub(age);
        let mut trimmed = 0;
        while let Some((ended_at, id)) = self.trimmable.first().copied() {
            if ended_at >= oldest && self.trimmable.len() as u64 <= keep.count {
                break;
            }
            self.take(id);
            trimmed += 1;
        }
        trimmed
    }

    fn clock_went_back(&mut self, now: Millis) {
        let later: Vec<u64> = self.scheduled.range((now, 0)..).map(|(_, id)| *id).collect();
        for id in later {
            self.change(id, |job| job.wait_no_longer_than_told(now));
        }
        self.ticks.values_mut().filter(|last| **last > now.saturating_add(LATEST_TICK)).for_each(|last| *last = now);
        self.notify();
    }
}

impl Job {
    fn new(id: u64, entry: Entry, now: Millis) -> Job {
        let info = JobInfo {
            id,
            name: entry.name,
            label: entry.label,
            queue: entry.queue,
            priority: entry.priority,
            state: JobState::Waiting,
            attempt: 0,
            interruptions: 0,
            payload: entry.payload,
            unique: entry.unique,
            origin: entry.origin,
            enqueued_at: now,
            due_at: now,
            began_at: None,
            ended_at: None,
            is_cancelling: false,
            done: 0,
            total: 0,
            message: String::new(),
            failures: Vec::new(),
            output: Kept::Nothing,
        };
        let mut job = Job { info, since: now, wait: None, cause: Cause::Failed, token: 0, worker: None };
        job.wait_for(entry.when, now);
        job
    }

    /// What the line is sorted by: the smallest goes first.
    fn rank(&self) -> Millis {
        self.since.saturating_sub(Millis::from(self.info.priority) * PRIORITY_STEP)
    }

    fn key(&self) -> Option<(String, String)> {
        self.info.unique.as_ref().map(|unique| (self.info.name.clone(), unique.clone()))
    }

    fn key_in_use(&self) -> Option<(String, String)> {
        self.key().filter(|_| !self.info.state.is_finished())
    }

    fn ended_at(&self) -> Millis {
        self.info.ended_at.unwrap_or_default()
    }

    fn claimed(&self) -> Claimed {
        let info = &self.info;
        Claimed {
            id: info.id,
            token: self.token,
            name: info.name.clone(),
            label: info.label.clone(),
            payload: info.payload.clone(),
            queue: info.queue.clone(),
            attempt: info.attempt,
            origin: info.origin.clone(),
            enqueued_at: info.enqueued_at,
        }
    }

    /// Waits from now on, or is scheduled when its time is still to come.
    fn wait_for(&mut self, when: When, now: Millis) {
        let due = match when {
            When::Now => now,
            When::At(time) => time,
            When::After(wait) => now.saturating_add(wait),
        };
        self.info.state = if due > now { JobState::Scheduled } else { JobState::Waiting };
        self.info.due_at = due;
        self.since = due.max(now);
        self.wait = if let When::After(wait) = when { Some(wait) } else { None };
    }

    fn come_due(&mut self) {
        self.info.state = JobState::Waiting;
    }

    fn wait_no_longer_than_told(&mut self, now: Millis) {
        let due = self.wait.map(|wait| now.saturating_add(wait));
        if let Some(due) = due.filter(|due| due.saturating_add(CLOCK_SLACK) < self.info.due_at) {
            (self.info.due_at, self.since) = (due, due);
        }
    }

    fn begin(&mut self, worker: &WorkerId, token: u64, now: Millis) {
        self.token = token;
        self.worker = Some(worker.0.clone());
        let info = &mut self.info;
        info.state = JobState::Running;
        info.attempt += 1;
        (info.began_at, info.ended_at) = (Some(now), None);
        (info.done, info.total, info.message) = (0, 0, String::new());
    }

    fn end(&mut self, ending: Ending, now: Millis) {
        self.info.output = ending.output().cloned().into();
        if let Some((done, total, message)) = ending.last.progress {
            (self.info.done, self.info.total, self.info.message) = (done, total, message);
        }
        match ending.end {
            End::Done => self.finish(JobState::Done, now),
            End::Retry { wait, words } => {
                self.fail(words, now);
                self.go_on(now, |job| job.wait_for(When::After(wait), now));
            }
            End::Dead { words, cause } => {
                self.fail(words, now);
                self.cause = cause;
                self.finish(JobState::Dead, now);
            }
            End::Cancelled { words } => {
                words.into_iter().for_each(|words| self.fail(words, now));
                self.finish(JobState::Cancelled, now);
            }
            End::Released => self.release(now),
        }
    }

    /// Back to where it was in the line, as if the try had not begun.
    fn release(&mut self, now: Millis) {
        self.info.attempt -= 1;
        self.go_on(now, Job::come_due);
    }

    fn release_for(&mut self, wait: Millis, now: Millis) {
        self.info.attempt -= 1;
        self.go_on(now, |job| job.wait_for(When::After(wait), now));
    }

    /// Back to where it was in the line, unless its process has ended under it too often.
    fn interrupt(&mut self, now: Millis) {
        self.info.interruptions += 1;
        if self.info.interruptions < MOST_INTERRUPTIONS || self.info.is_cancelling {
            return match wait_after_interruption(self.info.interruptions) {
                0 => self.release(now),
                wait => self.release_for(wait, now),
            };
        }
        let words = format!(
            "the process that ran it ended {MOST_INTERRUPTIONS} times before it did, and it may well be what ends it; \
             find out how (is memory short?), then retry it"
        );
        self.fail(words, now);
        self.info.attempt -= 1;
        self.cause = Cause::Abandoned;
        self.finish(JobState::Dead, now);
    }

    /// Is tried again, unless somebody wants it cancelled, which the worker may not have heard of.
    fn go_on(&mut self, now: Millis, how: impl FnOnce(&mut Job)) {
        if self.info.is_cancelling {
            return self.finish(JobState::Cancelled, now);
        }
        self.worker = None;
        how(self);
    }

    fn fail(&mut self, words: String, now: Millis) {
        let failures = &mut self.info.failures;
        failures.push(JobFailure { attempt: self.info.attempt, at: now, words });
        let surplus = failures.len().saturating_sub(MOST_FAILURES);
        failures.drain(..surplus);
    }

    fn finish(&mut self, state: JobState, now: Millis) {
        self.worker = None;
        self.info.state = state;
        self.info.is_cancelling = false;
        self.info.ended_at = Some(now);
    }

    fn cancel(&mut self, now: Millis) {
        match self.info.state {
            JobState::Waiting | JobState::Scheduled => self.finish(JobState::Cancelled, now),
            JobState::Running => self.info.is_cancelling = true,
            JobState::Done | JobState::Dead | JobState::Cancelled => {}
        }
    }

    fn can_be_revived(&self) -> bool {
        matches!(self.info.state, JobState::Scheduled | JobState::Dead | JobState::Cancelled)
    }

    fn revive(&mut self, now: Millis) {
        if self.info.state.is_finished() {
            (self.info.attempt, self.info.interruptions) = (0, 0);
        }
        self.info.ended_at = None;
        self.wait_for(When::Now, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::conformance;
    use crate::jobs::conformance::Bench;

    struct MemoryBench(Arc<Memory>);

    impl MemoryBench {
        fn new() -> MemoryBench {
            MemoryBench(Arc::new(Memory::new()))
        }
    }

    impl Bench for MemoryBench {
        fn engine(&self) -> Arc<dyn Engine> {
            self.0.clone()
        }

        fn another(&self) -> Arc<dyn Engine> {
            self.0.clone()
        }

        fn restarted(&self) -> Arc<dyn Engine> {
            Arc::new(Memory::new())
        }
    }

    conformance::conformance!(memory, || Ok(MemoryBench::new()));

    /// One of so many that names, queues and priorities are mixed.
    fn entry(i: u64) -> Entry {
        Entry {
            name: "resize-photo".to_owned(),
            label: String::new(),
            payload: format!(r#"{{"id":{i}}}"#),
            queue: ["default", "mail"][i as usize % 2].to_owned(),
            priority: (i * 7 % 11) as i32 - 5,
            unique: i.is_multiple_of(100).then(|| i.to_string()),
            when: if i.is_multiple_of(50) { When::After((i % 1_000) as Millis) } else { When::Now },
            origin: None,
        }
    }

    fn room(free: usize) -> Room {
        Room { queue: "default".to_owned(), free }
    }

    /// A claim looks at the first in line only: by looking at all, this test would take hours.
    #[test]
    fn a_million_wait_in_order() {
        const JOBS: u64 = 1_000_000;
        const CLAIMS: u64 = 20_000;
        let memory = Memory::new();
        for first in (0..JOBS).step_by(10_000) {
            memory.enqueue((first..first + 10_000).map(entry).collect(), first as Millis).unwrap();
        }
        let worker = memory.join().unwrap();
        let now = JOBS as Millis;
        let mut ranks = Vec::new();
        for _ in 0..CLAIMS {
            let claimed = memory.claim(&worker, &[room(1)], now).unwrap().pop().unwrap();
            let info = memory.find(claimed.id).unwrap().unwrap();
            ranks.push((info.due_at - Millis::from(info.priority) * PRIORITY_STEP, info.id));
            assert!(memory.settle(claimed.id, claimed.token, End::Done.into(), now).unwrap());
        }
        assert!(ranks.is_sorted());
        assert_eq!(memory.counts().unwrap().waiting, JOBS - CLAIMS);
        assert_eq!(memory.trim(Keep { age: Duration::MAX, count: 5 }, now).unwrap() as u64, CLAIMS - 5);
    }

    /// Where the process was stopped, or the machine slept, nobody could beat: nobody is taken for dead at the awakening.
    #[test]
    fn who_could_not_beat_is_not_gone() {
        let memory = Memory::new();
        let worker = memory.join().unwrap();
        memory.enqueue(vec![Entry { when: When::Now, ..entry(2) }], 0).unwrap();
        assert_eq!(memory.claim(&worker, &[room(1)], 0).unwrap().len(), 1);
        let lease = Duration::from_secs(20);
        let began = Instant::now();
        let look = |seconds| memory.state().recover(lease, 0, began + Duration::from_secs(seconds));
        assert_eq!([look(0), look(10), look(19)], [0; 3]);
        // It stood still for an hour; then there are twenty seconds, as for one that has just joined.
        assert_eq!([look(3_619), look(3_625), look(3_635)], [0; 3]);
        assert!(!memory.beat(&worker, &[], 0).unwrap().is_evicted);
        assert_eq!([look(3_640), look(3_650), look(3_659)], [0; 3]);
        assert_eq!(look(3_660), 1);
        assert!(memory.beat(&worker, &[], 0).unwrap().is_evicted);
    }

    #[test]
    fn nothing_is_left_of_what_is_taken_away() {
        let memory = Memory::new();
        let worker = memory.join().unwrap();
        let listener = Arc::new(Notify::default());
        memory.listen(&listener).unwrap();
        drop(listener);
        for enqueued in memory.enqueue((0..100).map(entry).collect(), 0).unwrap() {
            if enqueued.id % 3 == 0 {
                memory.cancel(enqueued.id, 0).unwrap();
            }
        }
        for claimed in memory.claim(&worker, &[room(99)], 0).unwrap() {
            memory.settle(claimed.id, claimed.token, End::Done.into(), 0).unwrap();
        }
        for id in 1..=100 {
            memory.discard(id).unwrap();
        }
        memory.leave(&worker, 0).unwrap();
        let state = memory.state();
        assert!(state.jobs.is_empty() && state.lines.is_empty() && state.scheduled.is_empty());
        assert!(state.trimmable.is_empty() && state.unique.is_empty() && state.workers.is_empty());
        assert!(state.by_state.values().all(BTreeSet::is_empty) && state.listeners.is_empty());
    }
}
