//! Recurring jobs: enqueued at the times of a crontab, in its time zone.

use jiff::Timestamp;

use super::crontab::Crontab;
use super::engine::{Engine, Entry};
use super::record::{Millis, ScheduleInfo};
use crate::background::trace_id::TraceId;
use crate::error::{Error, Result};

/// A job with the times at which it is enqueued.
#[derive(Clone)]
pub(super) struct Schedule {
    /// The name under which the engine stores the last tick.
    name: String,
    text: String,
    crontab: Crontab,
    entry: Entry,
}

impl Schedule {
    /// Creates the nth schedule of its type and crontab.
    ///
    /// # Errors
    /// An error if the crontab is malformed, or has no time within four years.
    pub(super) fn new(crontab: &str, entry: Entry, number: usize) -> Result<Schedule> {
        let parsed = Crontab::parse(crontab)?;
        // The name does not depend on the payload, which may be private and may differ at each start.
        let name = format!("{} {crontab} {number}", entry.name);
        let schedule = Schedule { name, text: crontab.to_owned(), crontab: parsed, entry };
        schedule.after(0).map(|_| schedule)
    }

    /// Returns true if it is a schedule of that type and crontab.
    pub(super) fn is_of(&self, name: &str, crontab: &str) -> bool {
        self.name.starts_with(&format!("{name} {crontab} "))
    }

    /// Enqueues the job if it is due and no other process has enqueued it. Returns the time when it is due next. If
    /// times were missed while no process ran, the job is enqueued once.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(super) fn tick(&self, engine: &dyn Engine, now: Millis) -> Result<Millis> {
        let Some(last) = engine.last_tick(&self.name)? else {
            // A new schedule does not enqueue the job for earlier times.
            engine.tick(&self.name, now, None, now)?;
            return self.after(now);
        };
        match self.last_due(last, now)? {
            Some(due) => {
                engine.tick(&self.name, due, Some(self.new_entry()), now)?;
                self.after(now)
            }
            // The clock may have been set back before the last tick.
            None => self.after(last.max(now)),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the schedule with its last and next due times.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(super) fn info(&self, engine: &dyn Engine, now: Millis) -> Result<ScheduleInfo> {
        // The first tick of a new schedule, and one that a clock set back has repaired, are not due times.
        let is_due_time = |tick: &Millis| self.after(tick - 1).is_ok_and(|due| due == *tick);
        let last = engine.last_tick(&self.name)?;
        Ok(ScheduleInfo {
            name: self.name.clone(),
            job: self.entry.name.clone(),
            label: self.entry.label.clone(),
            crontab: self.text.clone(),
            last: last.filter(is_due_time),
            next: self.after(last.map_or(now, |last| last.max(now))).ok(),
        })
    }

    /// Returns the record of a new job, which begins a trace.
    pub(super) fn new_entry(&self) -> Entry {
        Entry { trace: Some(TraceId::new().to_string()), ..self.entry.clone() }
    }

    /// Returns the last due time after `after`, and at or before `up_to`.
    fn last_due(&self, after: Millis, up_to: Millis) -> Result<Option<Millis>> {
        if self.after(after)? > up_to {
            return Ok(None);
        }
        // Searches backwards from the end in doubling steps: a minutely job of a site that was down for a year has half
        // a million times.
        let mut step = 60_000;
        loop {
            let from = (up_to - step).max(after);
            let mut due = self.after(from)?;
            if due <= up_to {
                while let Some(next) = Some(self.after(due)?).filter(|next| *next <= up_to) {
                    due = next;
                }
                return Ok(Some(due));
            }
            step *= 2;
        }
    }

    fn after(&self, time: Millis) -> Result<Millis> {
        let never = |error: Error| error.context(format!("the schedule of the job `{}` never runs", self.entry.name));
        let time = Timestamp::from_millisecond(time).map_err(|error| never(Error::from(error)))?;
        self.crontab.after(time).map(|next| next.as_millisecond()).map_err(never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::engine::When;
    use crate::jobs::facade::Jobs;
    use crate::jobs::job::Job;
    use crate::jobs::job::tests::Quick;
    use crate::jobs::record::JobState;

    fn schedule(crontab: &str) -> Schedule {
        let [name, label, payload, queue] = ["a", "a", "null", "default"].map(str::to_owned);
        let (priority, unique, when, origin, trace, parent) = (0, None, When::Now, None, None, None);
        let entry = Entry { name, label, payload, queue, priority, unique, when, origin, trace, parent };
        Schedule::new(crontab, entry, 0).unwrap()
    }

    fn at(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// Checks the schedule each minute, as a worker does. Returns the times at which each job was enqueued.
    fn enqueued(crontab: &str, from: &str, until: &str) -> Vec<String> {
        let (jobs, schedule) = (Jobs::memory(), schedule(crontab));
        for now in (at(from)..at(until)).step_by(60_000) {
            schedule.tick(&*jobs.engine, now).unwrap();
        }
        let mut times: Vec<Millis> =
            jobs.list(JobState::Waiting, None).unwrap().iter().map(|job| job.enqueued_at).collect();
        times.sort_unstable();
        times.into_iter().map(|time| Timestamp::from_millisecond(time).unwrap().to_string()).collect()
    }

    #[test]
    fn a_job_in_the_hour_of_a_clock_change_is_enqueued_once() {
        let daily = "30 2 * * * Europe/Berlin";
        let spring = enqueued(daily, "2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z");
        assert_eq!(spring, ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]);
        let autumn = enqueued(daily, "2027-10-30T12:00:00Z", "2027-11-01T12:00:00Z");
        assert_eq!(autumn, ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
        let weekly = enqueued("30 2 * * SUN Europe/Berlin", "2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z");
        assert_eq!(weekly, ["2027-03-28T01:00:00Z"]);
        let half_hours = enqueued("*/30 * * * * Europe/Berlin", "2027-10-31T00:00:00Z", "2027-10-31T02:01:00Z");
        assert_eq!(half_hours.len(), 4, "the first look only notes the time: {half_hours:?}");
    }

    #[test]
    fn missed_ticks_are_enqueued_once_at_the_last_of_their_times() {
        let schedule = schedule("0,1,2 3 * * * UTC");
        let last_due = |from, to| schedule.last_due(at(from), at(to)).unwrap();
        let last = at("2026-11-20T03:02:00Z");
        assert_eq!(last_due("2026-11-01T00:00:00Z", "2026-11-20T03:10:00Z"), Some(last));
        assert_eq!(last_due("2026-11-20T03:01:00Z", "2026-11-20T03:10:00Z"), Some(last));
        assert_eq!(last_due("2026-11-20T03:02:00Z", "2026-11-20T23:00:00Z"), None);
    }

    #[test]
    fn a_schedule_shows_its_last_and_next_due_times() {
        let (jobs, schedule) = (Jobs::memory(), schedule("0 3 * * * Europe/Berlin"));
        let info = |now| schedule.info(&*jobs.engine, at(now)).unwrap();
        let (start, first) = ("2026-11-20T12:00:00Z", "2026-11-21T02:00:00Z");
        assert_eq!((info(start).last, info(start).next), (None, Some(at(first))));
        schedule.tick(&*jobs.engine, at(start)).unwrap();
        assert_eq!((info(start).last, info(start).next), (None, Some(at(first))), "the first tick only notes the time");
        schedule.tick(&*jobs.engine, at("2026-11-21T02:00:10Z")).unwrap();
        let info = info("2026-11-21T02:00:20Z");
        assert_eq!((info.last, info.next), (Some(at(first)), Some(at("2026-11-22T02:00:00Z"))));
        assert_eq!((info.job.as_str(), info.crontab.as_str()), ("a", "0 3 * * * Europe/Berlin"));
    }

    #[test]
    fn a_schedule_that_is_run_now_keeps_its_due_times() {
        let jobs = Jobs::memory().cron("0 3 * * * UTC", Quick).cron("0 4 * * * UTC", Quick);
        jobs.enqueue_scheduled().unwrap();
        let before = jobs.schedules().unwrap();
        let (name, next) = (before[1].name.clone(), before[1].next);
        let ids = [(); 2].map(|()| jobs.run_schedule_now(&name).unwrap().unwrap().id);
        let found = ids.map(|id| jobs.find(id).unwrap().unwrap());
        assert!(found[0].trace.is_some() && found[0].trace != found[1].trace);
        assert_eq!((found[0].name.as_str(), found[0].state), (Quick::NAME, JobState::Waiting));
        assert_eq!((jobs.schedules().unwrap()[1].next, jobs.counts().unwrap().waiting), (next, 2));
        assert_eq!(jobs.run_schedule_now("missing").unwrap(), None);
    }
}
