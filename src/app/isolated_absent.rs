//! An application without the feature `isolate`: it has no isolated functions and is never a child process.

use super::App;
use super::service::Service;
use crate::background::scope::Values;
use crate::error::Result;

/// The isolated functions that an application registers: none.
#[derive(Default)]
pub(super) struct IsolatedFunctions(());

impl IsolatedFunctions {
    pub(super) fn mount(&mut self, _other: IsolatedFunctions) {}

    pub(super) fn for_tests(&mut self) {}

    pub(super) fn problems(&self) -> &[String] {
        &[]
    }

    pub(super) fn add_to(self, _values: &mut Values) {}
}

impl App {
    pub(crate) fn is_in_child() -> bool {
        false
    }

    pub(crate) fn serve_parent_in_child(self) -> Result<App> {
        Ok(self)
    }
}

impl Service {
    pub(crate) fn serve_parent_if_asked(&self) {}

    pub(crate) fn register_isolated(&self) {}
}
