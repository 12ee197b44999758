//! The figures of jobs, for a build without the feature `jobs`: none.

use super::text::Text;
use crate::background::scope::Scope;

#[derive(Default)]
pub(super) struct JobMetrics {}

impl JobMetrics {
    pub(super) fn write(&self, _scope: &Scope, _text: &mut Text) {}
}
