//! An application without the feature `live`: it defines no live fragments.

use super::App;

/// The live fragments that an application defines: none.
#[derive(Default)]
pub(super) struct LiveDefinitions(());

impl App {
    pub(super) fn mount_live(&mut self, _prefix: &str, _definitions: LiveDefinitions) {}

    pub(super) fn prepare_live(&mut self) {}
}
