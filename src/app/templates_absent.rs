//! An application without the feature `templates`.

use crate::background::scope::{Scope, Values};
use crate::config::Config;
use crate::error::Result;
use crate::http::files::folder::Folder;

/// The templates that an application defines: none.
#[derive(Default)]
pub(super) struct TemplateDefinitions(());

impl TemplateDefinitions {
    pub(super) fn mount(&mut self, _other: TemplateDefinitions) {}

    pub(super) fn add_to(self, _values: &mut Values, _config: &Config) -> Result<()> {
        Ok(())
    }
}

pub(super) fn folder(_scope: &Scope) -> Option<Folder> {
    None
}
