//! Errors of SQLite, with the file and the remedy.

use rusqlite::ErrorCode;

use crate::error::Error;
use crate::jobs::engine::Unavailable;

/// Returns the error of an operation on that file.
#[track_caller]
pub(super) fn error(file: &str, error: &rusqlite::Error) -> Error {
    Error::from(unavailable(file, error))
}

/// Returns the error with its reason for clients.
pub(super) fn unavailable(file: &str, error: &rusqlite::Error) -> Unavailable {
    Unavailable { reason: reason(error), message: message(file, error) }
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

fn message(file: &str, error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process or connection has it locked for too long: check what holds a transaction open there (a \
             backup, a shell, a slow write), and try again"
        }
        Some(ErrorCode::DiskFull) => "the disk is full: free space on it, and try again",
        Some(ErrorCode::NotADatabase) => {
            "this is not a SQLite database, or it is encrypted: name another file for the jobs"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "this database is damaged: restore a backup, or save the readable part with `sqlite3 FILE .recover`"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it cannot be written: give this user the right to write the file and its folder"
        }
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened: check that it is a file and not a folder, and that this user may read and write it and its folder"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk failed: check the log of the operating system",
        Some(ErrorCode::TooBig) => "a text is larger than SQLite can store",
        _ => "SQLite refused",
    };
    format!("the jobs in {file}: {advice} ({error})")
}
