//! An application without the feature `panel`.

use crate::app::App;

impl App {
    pub(crate) fn with_panel(self) -> App {
        self
    }
}
