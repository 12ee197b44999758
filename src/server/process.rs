//! The life of a process: it starts, serves until a signal, and then stops or hands over to a new process.

use std::fmt;

use super::log;
#[cfg(unix)]
use super::restart::{Handover, Restart, Supervisor};
#[cfg(unix)]
use super::service_manager;
use super::signals::{Event, Signals};
use crate::app::App;
use crate::config;
use crate::error::Result;

/// What a process runs until it stops.
pub(super) trait Process {
    /// Returns the listening socket for the next process; `None` if this one serves no pages.
    #[cfg(unix)]
    fn handover(&self) -> Option<&Handover>;

    /// Returns `aside dev`, if it has started this process.
    #[cfg(unix)]
    fn take_supervisor(&mut self) -> Option<Supervisor>;

    /// Logs what a restart forgets.
    #[cfg(unix)]
    fn warn_before_restart(&self);

    /// Stops accepting connections, which the next process does from now on.
    #[cfg(unix)]
    fn release_listener(&self);

    /// Accepts connections again, since the next process does not.
    #[cfg(unix)]
    fn take_listener_back(&self);

    /// Stops gracefully.
    fn stop(self, end: End);
}

/// The reason why a process stops.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// A signal, or a caller within the program.
    Told(&'static str),
    /// The process with this id serves now.
    #[cfg_attr(not(unix), allow(dead_code, reason = "this platform has no signals"))]
    HandedOver(u32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Told(why) => write!(f, "Stopping on {why}"),
            End::HandedOver(pid) => write!(f, "Process {pid} serves now, and this one stops"),
        }
    }
}

impl App {
    /// Starts what the process runs, waits for a signal, and stops it. A process that runs an isolated function serves its
    /// parent instead.
    pub(super) fn run_until_signal<P: Process>(self, start: impl FnOnce(App) -> Result<P>) -> Result<()> {
        let app = self.serve_parent_in_child()?;
        log::init(app.log_format());
        config::warn_of_misspelled_variables();
        let ran = run(app.keep_secret(), start);
        if let Err(error) = &ran {
            log::log_start_error(error);
        }
        // An error of the start ends the process too.
        log::flush();
        ran
    }
}

#[cfg(unix)]
fn run<P: Process>(app: App, start: impl FnOnce(App) -> Result<P>) -> Result<()> {
    let (signals, mut restart) = (Signals::watch()?, Restart::of_this_process());
    let mut process = start(app)?;
    process.take_supervisor().map_or(Ok(()), |supervisor| supervisor.watch(signals.sender()))?;
    service_manager::ready();
    loop {
        match signals.next() {
            Event::Stop(why) => {
                restart.abandon();
                service_manager::stopping();
                process.stop(End::Told(why));
                return Ok(());
            }
            Event::Restart => match process.handover() {
                Some(handover) => {
                    process.warn_before_restart();
                    restart.begin(handover, signals.sender());
                }
                None => {
                    ::log::info!(target: "aside::server", "SIGUSR2 is ignored: a process that only runs jobs loses none when it is stopped and started again.");
                }
            },
            Event::Prepared(new) => {
                process.release_listener();
                Restart::release(new);
            }
            Event::HandedOver(pid) => {
                service_manager::main_process_is(pid);
                process.stop(End::HandedOver(pid));
                return Ok(());
            }
            Event::NotStarted(reason) => {
                process.take_listener_back();
                restart.failed(&reason);
            }
        }
    }
}

#[cfg(not(unix))]
fn run<P: Process>(app: App, start: impl FnOnce(App) -> Result<P>) -> Result<()> {
    let (signals, process) = (Signals::watch()?, start(app)?);
    if let Event::Stop(why) = signals.next() {
        process.stop(End::Told(why));
    }
    Ok(())
}
