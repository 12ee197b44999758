//! Recurring jobs: enqueued at the times of a crontab, in its time zone.

use jiff::Timestamp;

use super::crontab::Crontab;
use super::engine::{Engine, Entry};
use super::record::Millis;
use crate::error::{Error, Result};

/// A job and the times that it is enqueued at.
#[derive(Clone)]
pub(super) struct Schedule {
    /// By which the engine remembers when it was last due.
    name: String,
    crontab: Crontab,
    entry: Entry,
}

impl Schedule {
    /// A schedule, the so-manieth of its type and crontab.
    ///
    /// # Errors
    /// When the crontab cannot be read, or never comes.
    pub(super) fn new(crontab: &str, entry: Entry, number: usize) -> Result<Schedule> {
        let parsed = Crontab::parse(crontab)?;
        // Not by what is in it, which may be different at each start, and nobody's business.
        let name = format!("{} {crontab} {number}", entry.name);
        let schedule = Schedule { name, crontab: parsed, entry };
        schedule.after(0).map(|_| schedule)
    }

    /// Whether it is one of that type and crontab.
    pub(super) fn is_of(&self, name: &str, crontab: &str) -> bool {
        self.name.starts_with(&format!("{name} {crontab} "))
    }

    /// Enqueues it when it is due and no process has done so, and says when it is due next. What was due while nobody ran is
    /// enqueued once.
    ///
    /// # Errors
    /// When the engine cannot.
    pub(super) fn tick(&self, engine: &dyn Engine, now: Millis) -> Result<Millis> {
        let Some(last) = engine.last_tick(&self.name)? else {
            // Seen for the first time: what was due before it was there is nobody's.
            engine.tick(&self.name, now, None, now)?;
            return self.after(now);
        };
        match self.last_due(last, now)? {
            Some(due) => {
                engine.tick(&self.name, due, Some(self.entry.clone()), now)?;
                self.after(now)
            }
            // The clock may have been put back behind the last time.
            None => self.after(last.max(now)),
        }
    }

    /// The last time after one and up to another that it was due.
    fn last_due(&self, after: Millis, up_to: Millis) -> Result<Option<Millis>> {
        if self.after(after)? > up_to {
            return Ok(None);
        }
        // Back from the end in wider and wider steps: a minutely job of a site that was off for a year has half a million.
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
    use crate::jobs::record::JobState;

    fn schedule(crontab: &str) -> Schedule {
        let [name, label, payload, queue] = ["a", "a", "null", "default"].map(str::to_owned);
        let entry = Entry { name, label, payload, queue, priority: 0, unique: None, when: When::Now, origin: None };
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
    fn what_was_missed_is_the_last_of_its_times() {
        let schedule = schedule("0,1,2 3 * * * UTC");
        let last_due = |from, to| schedule.last_due(at(from), at(to)).unwrap();
        let last = at("2026-11-20T03:02:00Z");
        assert_eq!(last_due("2026-11-01T00:00:00Z", "2026-11-20T03:10:00Z"), Some(last));
        assert_eq!(last_due("2026-11-20T03:01:00Z", "2026-11-20T03:10:00Z"), Some(last));
        assert_eq!(last_due("2026-11-20T03:02:00Z", "2026-11-20T23:00:00Z"), None);
    }
}
