//! Queries of the job store whose results are on pages that must not wait for an engine that does not answer.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::polled_page::spawn_thread;
use crate::error::Result;
use crate::jobs::Jobs;
use crate::sync::{lock, wait_while_for};

/// The longest wait of a page for the result. After it the page is shown without the result.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A query of the job store for all pages. One thread runs it at a time, so that an engine that does not answer blocks one
/// thread and not one for each page.
pub(super) struct BoundedQuery<T>(Arc<Shared<T>>);

struct Shared<T> {
    query: fn(&Jobs) -> Result<T>,
    result: Mutex<QueryResult<T>>,
    changed: Condvar,
}

struct QueryResult<T> {
    is_running: bool,
    /// The last result; `None` while the query runs.
    last: Option<Arc<Result<T>>>,
}

impl<T: Send + Sync + 'static> BoundedQuery<T> {
    pub(super) fn new(query: fn(&Jobs) -> Result<T>) -> BoundedQuery<T> {
        let result = Mutex::new(QueryResult { is_running: false, last: None });
        BoundedQuery(Arc::new(Shared { query, result, changed: Condvar::new() }))
    }

    /// Returns the result, or `None` if the engine does not answer in time.
    pub(super) fn ask(&self, jobs: &Jobs) -> Option<Arc<Result<T>>> {
        let mut result = lock(&self.0.result);
        if !result.is_running {
            let (asked, jobs) = (self.0.clone(), jobs.clone());
            result.is_running = spawn_thread(move || asked.put((asked.query)(&jobs)));
            result.last = None;
        }
        wait_while_for(&self.0.changed, result, MAX_WAIT, |result| result.is_running).last.clone()
    }
}

impl<T> Shared<T> {
    fn put(&self, result: Result<T>) {
        *lock(&self.result) = QueryResult { is_running: false, last: Some(Arc::new(result)) };
        self.changed.notify_all();
    }
}
