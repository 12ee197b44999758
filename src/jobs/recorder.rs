//! The outcomes of ended attempts on their way to the engine.
//!
//! A job runs on a pooled thread, which does not wait for the engine: it adds the ended attempt here and does other work.
//! The claiming thread records all outcomes that it finds in one call, together with its next claim. An outcome that is
//! not recorded yet belongs to a running job: it is in the heartbeats, its lease is renewed, a shutdown waits for it, and
//! if the process dies the job runs again.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::attempt::{Ended, FIRST_WAIT, LONGEST_WAIT};
use super::engine::{ClaimRequest, Claimed, EndedAttempt, Exchanged};
use super::facade::Jobs;
use crate::background::registry::Registry;
use crate::error::{Error, Result};
use crate::panics;
use crate::sync::{Notify, lock};

/// The largest number of outcomes in one call.
const MOST_OUTCOMES: usize = 256;

/// The size of the outputs, in bytes, beyond which a call takes no further outcome.
const MAX_OUTPUTS_LEN: usize = 4 << 20;

/// The longest wait for further outcomes for the same call.
const MAX_GATHER: Duration = Duration::from_millis(1);

/// The attempts that have ended in a process and that its claiming thread has not taken yet.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    ended: Vec<Ended>,
    /// The number of ended attempts at which the claiming thread is notified.
    wanted: usize,
    /// True while the claiming thread runs.
    is_open: bool,
}

impl Recorder {
    /// Records that the claiming thread runs.
    pub(super) fn open(&self) {
        let mut queue = lock(&self.0);
        (queue.is_open, queue.wanted) = (true, 1);
    }

    /// Adds an ended attempt. Without a claiming thread, as in a test and after the end of the runner, this thread records
    /// the outcome.
    pub(super) fn add(&self, ended: Ended, jobs: &Jobs, registry: &Registry) {
        let mut queue = lock(&self.0);
        if !queue.is_open {
            drop(queue);
            return Outcomes::of(ended).record_all(jobs, registry);
        }
        queue.ended.push(ended);
        let is_wanted = queue.ended.len() == queue.wanted;
        drop(queue);
        if is_wanted {
            jobs.shared.changed.notify();
        }
    }

    /// Waits until `wanted` attempts have ended, at most that time, or until `changed` is notified for another reason.
    fn gather(&self, wanted: usize, most: Duration, changed: &Notify, seen: &mut u64) {
        let mut queue = lock(&self.0);
        if queue.ended.len() >= wanted {
            return;
        }
        queue.wanted = wanted;
        drop(queue);
        changed.wait_as(seen, most);
        lock(&self.0).wanted = 1;
    }

    /// Records that the claiming thread ends. Returns the attempts that it has not taken.
    pub(super) fn close(&self) -> Vec<Ended> {
        let mut queue = lock(&self.0);
        queue.is_open = false;
        std::mem::take(&mut queue.ended)
    }
}

/// The outcomes that one thread reports to the engine.
#[derive(Default)]
pub(super) struct Outcomes {
    /// The outcomes that are not reported yet.
    ended: Vec<Ended>,
    /// The outcomes of the next call, or of a call that has failed. It is repeated with the same outcomes, since the engine
    /// may have executed it.
    call: Vec<Ended>,
    is_unanswered: bool,
    /// The outcomes that the engine has refused, each with the time when it is reported again.
    refused: Vec<(Instant, Ended)>,
    /// The number of jobs that the last call has started, and its duration.
    last_call: (usize, Duration),
}

impl Outcomes {
    fn of(ended: Ended) -> Outcomes {
        Outcomes { ended: vec![ended], ..Outcomes::default() }
    }

    /// Waits a moment for the jobs that the last call has started. Short jobs end together: without the wait, the first one
    /// would have a call of its own, and the others would share the next one.
    pub(super) fn gather(&mut self, recorder: &Recorder, changed: &Notify, seen: &mut u64) {
        let (started, took) = std::mem::take(&mut self.last_call);
        if started > 0 {
            recorder.gather(started, (took / 2).min(MAX_GATHER), changed, seen);
        }
    }

    /// Takes the ended attempts, and selects the outcomes of the next call. Returns true if there are any, or if the last call
    /// is to be repeated.
    pub(super) fn prepare(&mut self, recorder: &Recorder) -> bool {
        self.ended.append(&mut lock(&recorder.0).ended);
        self.select();
        self.is_unanswered || !self.call.is_empty()
    }

    /// Takes the last attempts, after the recorder was closed. Refused outcomes are reported again at once.
    pub(super) fn take_last(&mut self, ended: Vec<Ended>) {
        self.ended.extend(ended);
        let now = Instant::now();
        self.refused.iter_mut().for_each(|(at, _)| *at = now);
    }

    fn select(&mut self) {
        if self.is_unanswered {
            return;
        }
        let now = Instant::now();
        self.call.extend(self.refused.extract_if(.., |(at, _)| *at <= now).map(|(_, ended)| ended));
        let mut outputs_len = 0;
        let fits = |ended: &&Ended| {
            outputs_len += ended.output_len();
            outputs_len <= MAX_OUTPUTS_LEN
        };
        let least = usize::from(!self.ended.is_empty());
        let most = self.ended.iter().take(MOST_OUTCOMES).take_while(fits).count().max(least);
        self.ended[..most].iter().for_each(Ended::mark_recording);
        self.call.extend(self.ended.drain(..most));
    }

    /// Reports the outcomes to the engine with a claim, starts the claimed jobs, and ends the tasks whose outcomes are
    /// recorded. If the process stops, outcomes that cannot be recorded now are given up: the jobs run again elsewhere.
    pub(super) fn exchange(
        &mut self,
        jobs: &Jobs,
        claim: Option<ClaimRequest<'_>>,
        stops: bool,
        mut start: impl FnMut(Claimed),
    ) -> Result<()> {
        let outcomes: Vec<EndedAttempt> = self.call.iter().map(Ended::outcome).collect();
        let began = Instant::now();
        // Until the reply is here: if the engine panics, the call is repeated as after an error.
        self.is_unanswered = true;
        let Exchanged { recorded, claimed } = match jobs.engine.exchange(&outcomes, claim, jobs.now()) {
            Ok(exchanged) => exchanged,
            Err(error) => {
                self.last_call = Default::default();
                self.fail(&error, stops);
                return Err(error);
            }
        };
        self.is_unanswered = false;
        self.last_call = (claimed.as_ref().map_or(0, Vec::len), began.elapsed());
        let claimed = claimed.map(|claimed| claimed.into_iter().for_each(|job| contain(|| start(job))));
        for (ended, recorded) in std::mem::take(&mut self.call).into_iter().zip(recorded) {
            contain(|| self.end(ended, recorded, stops));
        }
        if !outcomes.is_empty() {
            jobs.shared.follow.poll();
        }
        claimed
    }

    fn end(&mut self, mut ended: Ended, recorded: Result<bool>, stops: bool) {
        match recorded {
            Ok(is_ours) => ended.end(is_ours),
            Err(error) if stops => ended.give_up(&error),
            Err(error) => self.refused.push((ended.refuse(&error), ended)),
        }
    }

    /// Handles a failed call: its outcomes are reported again, or given up.
    fn fail(&mut self, error: &Error, stops: bool) {
        if stops {
            self.give_up(error);
        } else {
            self.call.iter_mut().for_each(|ended| ended.log_failure(error));
        }
    }

    /// Gives up all outcomes, since the process stops: the jobs run again elsewhere.
    pub(super) fn give_up(&mut self, error: &Error) {
        let refused = self.refused.drain(..).map(|(_, ended)| ended);
        let all: Vec<Ended> = self.call.drain(..).chain(self.ended.drain(..)).chain(refused).collect();
        all.into_iter().for_each(|ended| contain(|| ended.give_up(error)));
        self.is_unanswered = false;
    }

    /// Records the outcomes on this thread, and repeats this until the engine answers or the process stops.
    fn record_all(mut self, jobs: &Jobs, registry: &Registry) {
        let mut backoff = FIRST_WAIT;
        while self.are_left() {
            let stops = registry.is_closing();
            if stops {
                self.take_last(Vec::new());
            }
            self.select();
            let mut wait = backoff;
            match self.exchange(jobs, None, stops, drop) {
                Ok(()) => wait = self.wait().unwrap_or_default(),
                Err(_) => backoff = (backoff * 2).min(LONGEST_WAIT),
            }
            if self.are_left() {
                registry.wait_until_closing(wait);
            }
        }
    }

    /// Returns true if outcomes are not recorded yet.
    pub(super) fn are_left(&self) -> bool {
        !(self.ended.is_empty() && self.call.is_empty() && self.refused.is_empty())
    }

    /// Returns the time until a refused outcome is reported again.
    pub(super) fn wait(&self) -> Option<Duration> {
        let next = self.refused.iter().map(|(at, _)| *at).min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }
}

/// Calls `f`, and logs a panic in it, so that one job does not affect the others.
fn contain(f: impl FnOnce()) {
    if let Err(panic) = panics::catch(f) {
        log::error!(target: "aside::jobs", "The start or the end of a job panicked: {panic}");
    }
}

#[cfg(test)]
mod tests;
