//! What can go wrong with a file.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::ledger::Ledger;
use crate::site::Setup;
use crate::storm::{Plan, Storm};

/// A folder with a ledger, and jobs in a file.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) ledger: Ledger,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::start(folder.path());
        Place { folder, ledger }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::new(&format!("sqlite:{}", self.file().display()), &self.ledger)
    }
}

pub(crate) fn nothing_is_lost_in_two_hundred_kills() {
    let place = Place::new();
    let plan = Plan { name: "SQLite, one process", kills: 200, workers: 0, file: Some(place.file()) };
    Storm::new(plan, Setup { workers: 8, ..place.setup() }, &place.ledger).run();
}

/// A process that holds the file locked until its input ends.
pub(crate) fn hold() {}
