//! Failures as the panel shows them: grouped by equal errors.

use std::collections::HashMap;

use serde::Serialize;

use super::moment::Moment;
use crate::http::error_pages::sanitize::visible_line;
use crate::jobs::record::{self, Millis, error_group};

/// The number of groups on a page.
pub(super) const MOST_GROUPS: usize = 20;

/// The length of one text, in characters.
const LONGEST: usize = 200;

/// One failure.
pub(super) struct Failed<'a> {
    /// The id of the task or job, or the trace of the request.
    pub(super) id: String,
    pub(super) name: &'a str,
    pub(super) message: &'a str,
    pub(super) at: Millis,
}

/// Failures with an equal error.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct FailureGroup {
    /// The name of the tasks or jobs, or the route of the requests.
    name: String,
    /// The message of the newest failure; of jobs, with `#` for each number.
    message: String,
    count: u64,
    /// The time of the newest failure.
    last: Option<Moment>,
    last_at: Millis,
    /// The id of the task or job that failed last, or the trace of the request.
    newest: String,
}

impl FailureGroup {
    /// Returns a group of dead jobs.
    pub(super) fn of_jobs(group: &record::FailureGroup, now: Millis) -> FailureGroup {
        let record::FailureGroup { name, error, count, last_at, newest } = group;
        FailureGroup {
            name: visible_line(name, LONGEST),
            message: visible_line(error, LONGEST),
            count: *count,
            last: Moment::of_job(*last_at, now),
            last_at: *last_at,
            newest: newest.to_string(),
        }
    }
}

/// Failures by their name and error.
#[derive(Default)]
pub(super) struct FailureGroups(HashMap<(String, String), Group>);

struct Group {
    count: u64,
    newest: String,
    last: Millis,
    message: String,
}

impl FailureGroups {
    pub(super) fn add(&mut self, failed: &Failed<'_>) {
        let key = (failed.name.to_owned(), error_group(failed.message));
        let group = self.0.entry(key).or_insert_with(|| Group {
            count: 0,
            newest: failed.id.clone(),
            last: Millis::MIN,
            message: String::new(),
        });
        group.count += 1;
        if failed.at >= group.last {
            (group.last, group.newest) = (failed.at, failed.id.clone());
            group.message = visible_line(failed.message, LONGEST);
        }
    }

    /// Returns the groups with the last failures, the newest first.
    pub(super) fn newest_first(self, now: Millis) -> Vec<FailureGroup> {
        let mut groups: Vec<_> = self.0.into_iter().collect();
        groups.sort_by(|(_, one), (_, other)| (other.last, &other.newest).cmp(&(one.last, &one.newest)));
        let shown = groups.into_iter().take(MOST_GROUPS).map(|((name, _), group)| FailureGroup {
            name: visible_line(&name, LONGEST),
            message: group.message,
            count: group.count,
            last: Moment::of_job(group.last, now),
            last_at: group.last,
            newest: group.newest,
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(failures: &[(u64, &str, &str, Millis)]) -> Vec<FailureGroup> {
        let mut groups = FailureGroups::default();
        for &(id, name, message, at) in failures {
            groups.add(&Failed { id: id.to_string(), name, message, at });
        }
        groups.newest_first(10_000)
    }

    #[test]
    fn failures_with_an_equal_error_are_one_group() {
        let groups = groups(&[
            (1, "charge", "order 17 is sold", 1_000),
            (3, "charge", "order 2048 is sold", 3_000),
            (2, "charge", "it rains", 4_000),
            (4, "mail", "order 17 is sold", 2_000),
        ]);
        let shown: Vec<_> =
            groups.iter().map(|group| (&*group.name, &*group.message, group.count, &*group.newest)).collect();
        let expected = [
            ("charge", "it rains", 1, "2"),
            ("charge", "order 2048 is sold", 2, "3"),
            ("mail", "order 17 is sold", 1, "4"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_number_of_groups_and_their_size_are_bounded() {
        let names: Vec<String> = (0..50).map(|n| format!("{}{n}", "a".repeat(1_000))).collect();
        let message = "\u{202e}b".repeat(10_000);
        let failures: Vec<_> = names.iter().map(|name| (1, &**name, &*message, 1)).collect();
        let groups = groups(&failures);
        assert_eq!(groups.len(), MOST_GROUPS);
        assert!(groups.iter().all(|group| group.name.len() < 250 && group.message.len() < 2_500));
        assert!(groups.iter().all(|group| !group.message.contains('\u{202e}')));
    }
}
