//! Jobs in memory: for tests, and for a site that may lose them.
//!
//! One lock guards one [`State`]. Each job is listed in the indexes of its state, and moves between them only through
//! [`State::change`], so that no index is forgotten: waiting jobs by rank in their queue, scheduled jobs by due time,
//! finished jobs by the time of their end. A claim reads only the first entries of a queue, regardless of its length.
//!
//! All workers are in one process, and still have leases: each [`Jobs`](super) with the same memory is a worker, and
//! the thread that sends its heartbeats may have ended.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::engine::{
    Abilities, AttemptFailure, CLOCK_SLACK, Capacity, ClaimRequest, Claimed, EndedAttempt, Engine, Enqueued, Entry,
    Exchanged, HeartbeatReply, HeldJob, LATEST_TICK, MOST_FAILURES, MOST_INTERRUPTIONS, MOST_OLDEST, PRIORITY_STEP,
    Recovered, Resolution, ResolvedAttempt, Retention, When, WorkerId, host, wait_after_interruption,
};
use super::record::{
    FailureGroup, FailureKind, JobCounts, JobFailure, JobInfo, JobState, Millis, QueueInfo, StoredOutput, WorkerInfo,
    error_group,
};
use crate::error::Result;
use crate::sync::{Notify, lock};

/// The shortest gap between two observations after which the earlier one is too old to expire a lease.
const MAX_GAP: Duration = Duration::from_secs(5);

/// An engine that stores jobs in memory.
pub(crate) struct Memory {
    state: Mutex<State>,
}

/// All jobs, with their indexes.
#[derive(Default)]
struct State {
    jobs: HashMap<u64, Box<Job>>,
    by_state: BTreeMap<JobState, BTreeSet<u64>>,
    /// The waiting and running jobs, by queue; without empty queues.
    queue_entries: BTreeMap<String, QueueEntries>,
    scheduled: BTreeSet<(Millis, u64)>,
    /// The jobs that [`prune`](Engine::prune) may delete: done or cancelled, by the time of their end.
    prunable: BTreeSet<(Millis, u64)>,
    /// The unique keys in use, each with the name of the job's type.
    unique: HashMap<(String, String), u64>,
    /// The jobs of each trace.
    by_trace: HashMap<String, BTreeSet<u64>>,
    /// The dead jobs by the time of their end, for each type and error.
    groups: BTreeMap<(String, String), BTreeSet<(Millis, u64)>>,
    workers: BTreeMap<String, Worker>,
    paused: BTreeSet<String>,
    ticks: HashMap<String, Millis>,
    listeners: Vec<Weak<Notify>>,
    /// The time of the last check for expired leases.
    observed_at: Option<Instant>,
    last_id: u64,
    last_token: u64,
    last_worker: u64,
}

/// A job with the fields that only the engine needs.
struct Job {
    info: JobInfo,
    /// The time from which the job waits, which determines its rank.
    since: Millis,
    /// The delay, if the due time was given as a delay.
    wait: Option<Millis>,
    /// The kind of the last failure, for a dead job.
    cause: FailureKind,
    /// The error of its group, for a dead job.
    error: String,
    /// The token of the last claim.
    token: u64,
    /// The worker that runs the job.
    worker: Option<String>,
}

/// The jobs of one queue.
#[derive(Default)]
struct QueueEntries {
    waiting: BTreeSet<(Millis, u64)>,
    running: u64,
}

/// A worker that has joined and whose lease has not expired.
#[derive(Default)]
struct Worker {
    heartbeats: u64,
    heartbeat_at: Option<Millis>,
    /// The number of heartbeats at the last observation, and the time when it was first observed.
    seen: Option<(u64, Instant)>,
    held: BTreeSet<u64>,
}

impl Memory {
    /// Creates an empty engine.
    pub(crate) fn new() -> Memory {
        Memory { state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Engine for Memory {
    fn describe(&self) -> String {
        "memory (jobs are lost when the process ends)".to_owned()
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

    fn heartbeat(&self, worker: &WorkerId, held: &[HeldJob], now: Millis) -> Result<HeartbeatReply> {
        Ok(self.state().heartbeat(worker, held, now))
    }

    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        self.state().remove_worker(&worker.0, |job| job.release(now));
        Ok(())
    }

    fn recover(&self, lease: Duration, now: Millis) -> Result<Recovered> {
        Ok(self.state().recover(lease, now, Instant::now()))
    }

    fn exchange(&self, ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>, now: Millis) -> Result<Exchanged> {
        let mut state = self.state();
        let recorded = ended.iter().map(|ended| Ok(state.resolve(ended, now))).collect();
        let claimed = claim.map(|claim| state.claim(claim.worker, claim.capacities, now)).unwrap_or_default();
        Ok(Exchanged { recorded, claimed: Ok(claimed) })
    }

    fn next_due(&self) -> Result<Option<Millis>> {
        Ok(self.state().scheduled.first().map(|(due, _)| *due))
    }

    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>> {
        let mut state = self.state();
        state.change(id, |job| job.cancel(now));
        state.notify();
        Ok(state.jobs.get(&id).map(|job| job.info.state))
    }

    fn revive(&self, id: u64, now: Millis) -> Result<bool> {
        let mut state = self.state();
        let can_revive = state.jobs.get(&id).is_some_and(|job| job.can_be_revived() && state.is_key_free(job));
        if can_revive {
            state.change(id, |job| job.revive(now));
            state.notify();
        }
        Ok(can_revive)
    }

    fn discard(&self, id: u64) -> Result<bool> {
        let mut state = self.state();
        let is_removable = state.jobs.get(&id).is_some_and(|job| job.info.state != JobState::Running);
        Ok(is_removable && state.remove(id))
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

    fn paused(&self) -> Result<BTreeSet<String>> {
        Ok(self.state().paused.clone())
    }

    fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        Ok(self.state().jobs.get(&id).map(|job| job.info.clone()))
    }

    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        let all = self.state();
        let Some(ids) = all.by_state.get(&state) else { return Ok(Vec::new()) };
        let newest_first = ids.range(..before.unwrap_or(u64::MAX)).rev().take(most);
        Ok(newest_first.filter_map(|id| all.jobs.get(id)).map(|job| job.info.clone().listed()).collect())
    }

    fn of_trace(&self, trace: &str, most: usize) -> Result<Vec<JobInfo>> {
        let state = self.state();
        let ids = state.by_trace.get(trace).into_iter().flatten().take(most);
        Ok(ids.filter_map(|id| state.jobs.get(id)).map(|job| job.info.clone().listed()).collect())
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
        let names: BTreeSet<&String> = state.queue_entries.keys().chain(&state.paused).collect();
        Ok(names.into_iter().map(|name| state.queue(name)).collect())
    }

    fn next_to_run(&self, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>> {
        let state = self.state();
        let of_queue = |name: &String| queue.is_none_or(|queue| queue == name);
        let queues = state.queue_entries.iter().filter(|(name, _)| of_queue(name));
        let mut first: Vec<(Millis, u64)> =
            queues.flat_map(|(_, entries)| entries.waiting.iter().take(most)).copied().collect();
        first.sort_unstable();
        let jobs = first.iter().take(most).filter_map(|(_, id)| state.jobs.get(id));
        Ok(jobs.map(|job| job.info.clone().listed()).collect())
    }

    fn failure_groups(&self, most: usize) -> Result<Vec<FailureGroup>> {
        let state = self.state();
        let group = |((name, error), jobs): (&(String, String), &BTreeSet<(Millis, u64)>)| {
            let (last_at, newest) = *jobs.last()?;
            let (name, error, count) = (name.clone(), error.clone(), jobs.len() as u64);
            Some(FailureGroup { name, error, count, last_at, newest })
        };
        let mut groups: Vec<FailureGroup> = state.groups.iter().filter_map(group).collect();
        groups.sort_by_key(|group| Reverse((group.last_at, group.newest)));
        groups.truncate(most);
        Ok(groups)
    }

    fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let state = self.state();
        let info = |(id, worker): (&String, &Worker)| WorkerInfo {
            id: id.clone(),
            host: host(),
            pid: Some(std::process::id()),
            heartbeat_at: worker.heartbeat_at,
            running: worker.held.len() as u64,
        };
        Ok(state.workers.iter().map(info).collect())
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

    fn prune(&self, keep: Retention, now: Millis) -> Result<usize> {
        Ok(self.state().prune(keep, now))
    }

    fn clock_went_back(&self, now: Millis) -> Result<()> {
        self.state().clock_went_back(now);
        Ok(())
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

/// The indexes.
impl State {
    /// Removes a job from all indexes.
    fn take(&mut self, id: u64) -> Option<Box<Job>> {
        let job = self.jobs.remove(&id)?;
        if let Some(ids) = self.by_state.get_mut(&job.info.state) {
            ids.remove(&id);
        }
        if let Some(key) = job.key_in_use() {
            self.unique.remove(&key);
        }
        match job.info.state {
            JobState::Waiting | JobState::Running => self.remove_from_queue(&job),
            JobState::Scheduled => drop(self.scheduled.remove(&(job.info.due_at, id))),
            JobState::Done | JobState::Cancelled => drop(self.prunable.remove(&(job.ended_at(), id))),
            JobState::Dead => self.remove_from_group(&job),
        }
        Some(job)
    }

    /// Adds a job to the indexes of its state.
    fn put(&mut self, job: Box<Job>) {
        let id = job.info.id;
        self.by_state.entry(job.info.state).or_default().insert(id);
        if let Some(key) = job.key_in_use() {
            self.unique.insert(key, id);
        }
        match job.info.state {
            JobState::Waiting | JobState::Running => self.add_to_queue(&job),
            JobState::Scheduled => drop(self.scheduled.insert((job.info.due_at, id))),
            JobState::Done | JobState::Cancelled => drop(self.prunable.insert((job.ended_at(), id))),
            JobState::Dead => {
                self.groups.entry(job.group()).or_default().insert((job.ended_at(), id));
            }
        }
        self.jobs.insert(id, job);
    }

    /// Deletes a job. Returns true if there was one.
    fn remove(&mut self, id: u64) -> bool {
        let Some(job) = self.take(id) else { return false };
        let Some(trace) = &job.info.trace else { return true };
        if let Some(jobs) = self.by_trace.get_mut(trace) {
            jobs.remove(&id);
        }
        if self.by_trace.get(trace).is_some_and(BTreeSet::is_empty) {
            self.by_trace.remove(trace);
        }
        true
    }

    /// Changes a job. This is the only way to do so: it moves the job from the indexes of its old state to those of the
    /// new one.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some(mut job) = self.take(id) {
            change(&mut job);
            self.put(job);
        }
    }

    fn remove_from_group(&mut self, job: &Job) {
        let group = job.group();
        if let Some(jobs) = self.groups.get_mut(&group) {
            jobs.remove(&(job.ended_at(), job.info.id));
        }
        if self.groups.get(&group).is_some_and(BTreeSet::is_empty) {
            self.groups.remove(&group);
        }
    }

    fn add_to_queue(&mut self, job: &Job) {
        if !self.queue_entries.contains_key(&job.info.queue) {
            self.queue_entries.insert(job.info.queue.clone(), QueueEntries::default());
        }
        let Some(entries) = self.queue_entries.get_mut(&job.info.queue) else { return };
        if job.info.state == JobState::Waiting {
            entries.waiting.insert((job.rank(), job.info.id));
        } else {
            entries.running += 1;
            if let Some(worker) = job.worker.as_ref().and_then(|worker| self.workers.get_mut(worker)) {
                worker.held.insert(job.info.id);
            }
        }
    }

    fn remove_from_queue(&mut self, job: &Job) {
        let Some(entries) = self.queue_entries.get_mut(&job.info.queue) else { return };
        if job.info.state == JobState::Waiting {
            entries.waiting.remove(&(job.rank(), job.info.id));
        } else {
            entries.running -= 1;
            if let Some(worker) = job.worker.as_ref().and_then(|worker| self.workers.get_mut(worker)) {
                worker.held.remove(&job.info.id);
            }
        }
        if entries.waiting.is_empty() && entries.running == 0 {
            self.queue_entries.remove(&job.info.queue);
        }
    }

    /// Returns the job, if it runs and the token is that of its last claim.
    fn running(&self, id: u64, token: u64) -> Option<&Job> {
        let job = self.jobs.get(&id)?;
        (job.info.state == JobState::Running && job.token == token).then_some(job)
    }

    /// Returns true if no other job uses the unique key of this one.
    fn is_key_free(&self, job: &Job) -> bool {
        let owner = job.key().and_then(|key| self.unique.get(&key));
        owner.is_none_or(|owner| *owner == job.info.id)
    }

    fn queue(&self, name: &str) -> QueueInfo {
        let entries = self.queue_entries.get(name);
        let first = entries.into_iter().flat_map(|entries| entries.waiting.iter().take(MOST_OLDEST));
        let oldest = first.filter_map(|(_, id)| self.jobs.get(id)).map(|job| job.since).min();
        QueueInfo {
            name: name.to_owned(),
            waiting: entries.map_or(0, |entries| entries.waiting.len() as u64),
            running: entries.map_or(0, |entries| entries.running),
            is_paused: self.paused.contains(name),
            oldest_at: oldest,
        }
    }

    /// Notifies the listeners, and removes those that were dropped.
    fn notify(&mut self) {
        self.listeners.retain(|listener| listener.upgrade().inspect(|listener| listener.notify()).is_some());
    }
}

/// The operations.
impl State {
    fn enqueue(&mut self, entry: Entry, now: Millis) -> Enqueued {
        let job = Job::new(self.last_id + 1, entry, now);
        if let Some(id) = job.key().and_then(|key| self.unique.get(&key)) {
            return Enqueued { id: *id, is_new: false };
        }
        self.last_id += 1;
        if let Some(trace) = &job.info.trace {
            self.by_trace.entry(trace.clone()).or_default().insert(job.info.id);
        }
        self.put(Box::new(job));
        Enqueued { id: self.last_id, is_new: true }
    }

    fn claim(&mut self, worker: &WorkerId, capacities: &[Capacity], now: Millis) -> Vec<Claimed> {
        self.make_waiting(now);
        // An expired worker gets no jobs until it has joined again: its death would not be detected.
        if !self.workers.contains_key(&worker.0) {
            return Vec::new();
        }
        let mut claimed = Vec::new();
        for capacity in capacities {
            let first = self.first_of(capacity);
            claimed.extend(first.into_iter().filter_map(|id| self.begin(id, worker, now)));
        }
        claimed
    }

    fn resolve(&mut self, ended: &EndedAttempt, now: Millis) -> bool {
        let is_current = self.running(ended.id, ended.token).is_some();
        if is_current {
            self.change(ended.id, |job| job.resolve(ResolvedAttempt::clone(&ended.resolved), now));
            self.notify();
        }
        is_current
    }

    fn first_of(&self, capacity: &Capacity) -> Vec<u64> {
        match self.queue_entries.get(&capacity.queue) {
            Some(entries) if !self.paused.contains(&capacity.queue) => {
                entries.waiting.iter().take(capacity.free).map(|(_, id)| *id).collect()
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

    /// Makes due jobs of all queues wait. Jobs of full or paused queues would otherwise be due again at each claim.
    fn make_waiting(&mut self, now: Millis) {
        while let Some((_, id)) = self.scheduled.first().copied().filter(|(due, _)| *due <= now) {
            self.change(id, Job::come_due);
        }
    }

    fn heartbeat(&mut self, worker: &WorkerId, held: &[HeldJob], now: Millis) -> HeartbeatReply {
        let Some(known) = self.workers.get_mut(&worker.0) else {
            return HeartbeatReply { is_evicted: true, ..HeartbeatReply::default() };
        };
        known.heartbeats += 1;
        known.heartbeat_at = Some(now);
        let mut reply = HeartbeatReply::default();
        for held in held {
            match self.running(held.id, held.token).map(|job| job.info.is_cancelling) {
                None => reply.lost.push(held.id),
                Some(true) => reply.cancel.push(held.id),
                Some(false) => {}
            }
            self.note_progress(held);
        }
        reply
    }

    fn note_progress(&mut self, held: &HeldJob) {
        let is_current = self.running(held.id, held.token).is_some();
        let job = self.jobs.get_mut(&held.id).filter(|_| is_current);
        if let (Some(job), Some((done, total, message))) = (job, &held.progress) {
            (job.info.done, job.info.total) = (*done, *total);
            job.info.message.clone_from(message);
        }
    }

    /// Removes a worker, and applies `change` to each of its jobs. Returns these jobs.
    fn remove_worker(&mut self, worker: &str, mut change: impl FnMut(&mut Job)) -> BTreeSet<u64> {
        let held = self.workers.remove(worker).map(|worker| worker.held).unwrap_or_default();
        for id in &held {
            self.change(*id, &mut change);
        }
        self.notify();
        held
    }

    fn recover(&mut self, lease: Duration, now: Millis, at: Instant) -> Recovered {
        let expired = self.expired(lease, at);
        let taken: Vec<u64> =
            expired.iter().flat_map(|worker| self.remove_worker(worker, |job| job.interrupt(now))).collect();
        let is_dead = |id: &u64| self.jobs.get(id).is_some_and(|job| job.info.state == JobState::Dead);
        Recovered { released: taken.len(), dead: taken.into_iter().filter(is_dead).collect() }
    }

    /// Returns the workers without a heartbeat for a whole lease.
    ///
    /// If the last check was too long ago, the whole process was suspended (it was stopped, or the machine slept) and
    /// no worker could send a heartbeat: each lease then starts again.
    fn expired(&mut self, lease: Duration, at: Instant) -> Vec<String> {
        let max_gap = MAX_GAP.max(lease / 2);
        let was_suspended =
            self.observed_at.is_none_or(|observed_at| at.saturating_duration_since(observed_at) > max_gap);
        self.observed_at = Some(at);
        let expired = self.workers.iter_mut().filter_map(|(id, worker)| {
            let seen = worker.seen.filter(|(heartbeats, _)| *heartbeats == worker.heartbeats && !was_suspended);
            let (_, since) = *worker.seen.insert(seen.unwrap_or((worker.heartbeats, at)));
            (seen.is_some() && at.saturating_duration_since(since) >= lease).then(|| id.clone())
        });
        expired.collect()
    }

    fn prune(&mut self, keep: Retention, now: Millis) -> usize {
        let age = Millis::try_from(keep.age.as_millis()).unwrap_or(Millis::MAX);
        let oldest = now.saturating_sub(age);
        let mut pruned = 0;
        while let Some((ended_at, id)) = self.prunable.first().copied() {
            if ended_at >= oldest && self.prunable.len() as u64 <= keep.count {
                break;
            }
            self.remove(id);
            pruned += 1;
        }
        pruned
    }

    fn clock_went_back(&mut self, now: Millis) {
        let later: Vec<u64> = self.scheduled.range((now, 0)..).map(|(_, id)| *id).collect();
        for id in later {
            self.change(id, |job| job.limit_wait(now));
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
            request: entry.origin,
            trace: entry.trace,
            parent: entry.parent,
            enqueued_at: now,
            due_at: now,
            began_at: None,
            ended_at: None,
            is_cancelling: false,
            done: 0,
            total: 0,
            message: String::new(),
            is_paused: false,
            failures: Vec::new(),
            output: StoredOutput::Absent,
        };
        let mut job = Job {
            info,
            since: now,
            wait: None,
            cause: FailureKind::Failed,
            error: String::new(),
            token: 0,
            worker: None,
        };
        job.wait_for(entry.when, now);
        job
    }

    /// Returns the rank, by which waiting jobs are sorted in ascending order.
    fn rank(&self) -> Millis {
        self.since.saturating_sub(Millis::from(self.info.priority) * PRIORITY_STEP)
    }

    fn key(&self) -> Option<(String, String)> {
        self.info.unique.as_ref().map(|unique| (self.info.name.clone(), unique.clone()))
    }

    fn key_in_use(&self) -> Option<(String, String)> {
        self.key().filter(|_| !self.info.state.is_finished())
    }

    fn group(&self) -> (String, String) {
        (self.info.name.clone(), self.error.clone())
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
            origin: info.request.clone(),
            trace: info.trace.clone(),
            parent: info.parent.clone(),
            enqueued_at: info.enqueued_at,
        }
    }

    /// Makes the job wait from now on, or schedules it for a later time.
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

    fn limit_wait(&mut self, now: Millis) {
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

    fn resolve(&mut self, resolved: ResolvedAttempt, now: Millis) {
        self.info.output = resolved.output().cloned().into();
        if let Some((done, total, message)) = resolved.last_values.progress {
            (self.info.done, self.info.total, self.info.message) = (done, total, message);
        }
        match resolved.resolution {
            Resolution::Done => self.finish(JobState::Done, now),
            Resolution::Retry { wait, failure } => {
                self.fail(failure, now);
                self.requeue_or_cancel(now, |job| job.wait_for(When::After(wait), now));
            }
            Resolution::Dead { failure } => {
                (self.cause, self.error) = (failure.kind, error_group(&failure.message));
                self.fail(failure, now);
                self.finish(JobState::Dead, now);
            }
            Resolution::Cancelled { failure } => {
                failure.into_iter().for_each(|failure| self.fail(failure, now));
                self.finish(JobState::Cancelled, now);
            }
            Resolution::Released => self.release(now),
        }
    }

    /// Returns the job to its old position in the queue, as if the attempt had not started.
    fn release(&mut self, now: Millis) {
        self.info.attempt -= 1;
        self.requeue_or_cancel(now, Job::come_due);
    }

    fn release_after(&mut self, wait: Millis, now: Millis) {
        self.info.attempt -= 1;
        self.requeue_or_cancel(now, |job| job.wait_for(When::After(wait), now));
    }

    /// Counts an interruption, and returns the job to its old position in the queue, unless it was interrupted too
    /// often.
    fn interrupt(&mut self, now: Millis) {
        self.info.interruptions += 1;
        let failure = AttemptFailure::interrupted(self.info.interruptions);
        let error = error_group(&failure.message);
        self.fail(failure, now);
        if self.info.interruptions < MOST_INTERRUPTIONS || self.info.is_cancelling {
            return match wait_after_interruption(self.info.interruptions) {
                0 => self.release(now),
                wait => self.release_after(wait, now),
            };
        }
        self.info.attempt -= 1;
        (self.cause, self.error) = (FailureKind::Abandoned, error);
        self.finish(JobState::Dead, now);
    }

    /// Makes the job wait again with `how`, unless it was cancelled, which its worker may not have received.
    fn requeue_or_cancel(&mut self, now: Millis, how: impl FnOnce(&mut Job)) {
        if self.info.is_cancelling {
            return self.finish(JobState::Cancelled, now);
        }
        self.worker = None;
        how(self);
    }

    fn fail(&mut self, failure: AttemptFailure, now: Millis) {
        let AttemptFailure { kind, message, location, backtrace } = failure;
        let (attempt, began_at) = (self.info.attempt, self.info.began_at);
        let failures = &mut self.info.failures;
        failures.push(JobFailure { attempt, at: now, began_at, kind, message, location, backtrace });
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

    /// Returns one of many jobs with mixed names, queues and priorities.
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
            trace: Some(format!("{:032x}", i / 3)),
            parent: None,
        }
    }

    fn capacity(free: usize) -> Capacity {
        Capacity { queue: "default".to_owned(), free }
    }

    /// A claim reads only the first entries of a queue: with a full scan, this test would take hours.
    #[test]
    fn a_million_jobs_wait_in_order() {
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
            let claimed = memory.claim(&worker, &[capacity(1)], now).unwrap().pop().unwrap();
            let info = memory.find(claimed.id).unwrap().unwrap();
            ranks.push((info.due_at - Millis::from(info.priority) * PRIORITY_STEP, info.id));
            assert!(memory.resolve(claimed.id, claimed.token, Resolution::Done.into(), now).unwrap());
        }
        assert!(ranks.is_sorted());
        assert_eq!(memory.counts().unwrap().waiting, JOBS - CLAIMS);
        assert_eq!(memory.prune(Retention { age: Duration::MAX, count: 5 }, now).unwrap() as u64, CLAIMS - 5);
    }

    /// A suspended process can send no heartbeats, so no lease expires when it resumes.
    #[test]
    fn a_worker_of_a_suspended_process_is_not_expired() {
        let memory = Memory::new();
        let worker = memory.join().unwrap();
        memory.enqueue(vec![Entry { when: When::Now, ..entry(2) }], 0).unwrap();
        assert_eq!(memory.claim(&worker, &[capacity(1)], 0).unwrap().len(), 1);
        let lease = Duration::from_secs(20);
        let began = Instant::now();
        let look = |seconds| memory.state().recover(lease, 0, began + Duration::from_secs(seconds)).released;
        assert_eq!([look(0), look(10), look(19)], [0; 3]);
        // The process was suspended for an hour. Then a whole lease of twenty seconds starts again.
        assert_eq!([look(3_619), look(3_625), look(3_635)], [0; 3]);
        assert!(!memory.heartbeat(&worker, &[], 0).unwrap().is_evicted);
        assert_eq!([look(3_640), look(3_650), look(3_659)], [0; 3]);
        assert_eq!(look(3_660), 1);
        assert!(memory.heartbeat(&worker, &[], 0).unwrap().is_evicted);
    }

    #[test]
    fn a_discarded_job_leaves_nothing_behind() {
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
        for claimed in memory.claim(&worker, &[capacity(99)], 0).unwrap() {
            memory.resolve(claimed.id, claimed.token, Resolution::Done.into(), 0).unwrap();
        }
        for id in 1..=100 {
            memory.discard(id).unwrap();
        }
        memory.leave(&worker, 0).unwrap();
        let state = memory.state();
        assert!(state.jobs.is_empty() && state.queue_entries.is_empty() && state.scheduled.is_empty());
        assert!(state.prunable.is_empty() && state.unique.is_empty() && state.workers.is_empty());
        assert!(state.by_trace.is_empty() && state.groups.is_empty());
        assert!(state.by_state.values().all(BTreeSet::is_empty) && state.listeners.is_empty());
    }
}
