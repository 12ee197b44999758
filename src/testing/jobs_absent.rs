//! The test client without the feature `jobs`: no application has any.

use std::time::Duration;

use super::TestClient;

impl TestClient {
    pub(super) fn start_schedules(&self) {}

    pub(super) fn advance_jobs(&self, _time: Duration) {}

    pub(super) fn runs_next_job(&self) -> bool {
        false
    }
}
