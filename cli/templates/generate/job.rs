//! The job `__path__`.

use aside::{Job, Result, TaskContext};
use serde::{Deserialize, Serialize};

/// The input of the job: `req.enqueue(__Type__ { id })?` stores it, and a worker runs it.
#[derive(Deserialize, Serialize)]
pub struct __Type__ {
    pub id: i64,
}

impl Job for __Type__ {
    const NAME: &'static str = "__path__";

    /// Runs at least once. An error is retried with backoff.
    fn run(self, task: &TaskContext) -> Result<()> {
        task.message(format!("working on {}", self.id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aside::jobs::JobState;

    use super::__Type__;
    use crate::test_site::test_site;

    #[test]
    fn the_job_is_done() {
        let (_data, client) = test_site();
        client.jobs().enqueue(__Type__ { id: 17 }).unwrap();
        let job = client.jobs().run_next().unwrap();
        let errors: Vec<String> = job.failures.into_iter().map(|failure| failure.message).collect();
        assert_eq!(job.state, JobState::Done, "{}", errors.join("\n"));
    }
}
