//! What SQLite says, in words that name the file and what to do about it.

use rusqlite::ErrorCode;

use crate::error::Error;
use crate::jobs::engine::Unavailable;

/// The error of an operation on that file.
#[track_caller]
pub(super) fn error(file: &str, error: &rusqlite::Error) -> Error {
    Error::from(unavailable(file, error))
}

/// Returns the fault with its reason for clients.
pub(super) fn unavailable(file: &str, error: &rusqlite::Error) -> Unavailable {
    Unavailable { reason: reason(error), words: words(file, error) }
}

fn reason(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "the database is locked",
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => "the database is damaged",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "the database cannot be written",
        Some(ErrorCode::CannotOpen) => "the database cannot be opened",
        Some(ErrorCode::SystemIoFailure) => "the disk failed",
        _ => "the database refuses",
    }
}

fn words(file: &str, error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process or connection has it locked, and for too long: see what holds a transaction open there (a \
             backup, a shell, a slow write), and try again"
        }
        Some(ErrorCode::DiskFull) => "there is no room left for it: make some on that disk, and try again",
        Some(ErrorCode::NotADatabase) => {
            "this is no SQLite database (or an encrypted one): name another file for the jobs"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "this database is damaged: put back a copy, or save what is readable with `sqlite3 FILE .recover`"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it cannot be written: give this user the right to write the file and its folder"
        }
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened: see that it is a file and no folder, and that this user may read and write it and its folder"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk failed under it: see what the system's log says",
        Some(ErrorCode::TooBig) => "a text in it is larger than SQLite can keep",
        _ => "SQLite refused",
    };
    format!("the jobs in {file}: {advice} ({error})")
}
