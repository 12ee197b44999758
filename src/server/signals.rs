//! Signals: graceful shutdown, restart, immediate end, and ignored signals.
//!
//! | Signal | Effect |
//! |---|---|
//! | SIGTERM, SIGINT | graceful shutdown |
//! | SIGHUP | graceful shutdown, unless it was ignored at start, as under `nohup` |
//! | one of these again, after [`SAME_STOP`] | the process ends at once |
//! | SIGQUIT | the process ends at once |
//! | SIGUSR2 | restart, see [`restart`](super::restart) |
//! | SIGUSR1 | a line in the log |

#[cfg(unix)]
pub(super) use imp::Signals;

/// An event that the process waits for while it serves.
#[cfg_attr(not(unix), allow(dead_code, reason = "this platform has no signals"))]
pub(super) enum Event {
    /// A signal tells the process to stop.
    Stop(&'static str),
    /// A signal tells the process to hand over to a new one.
    Restart,
    /// The new process is prepared, and waits at the other end until this one accepts no more connections.
    #[cfg(unix)]
    Prepared(std::os::unix::net::UnixStream),
    /// The new process with this id serves.
    HandedOver(u32),
    /// The new process does not serve, for this reason.
    NotStarted(String),
}

/// This platform has no signals: the process runs until it is killed.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn watch() -> crate::error::Result<Signals> {
        Ok(Signals)
    }

    pub(super) fn next(&self) -> Event {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(unix)]
mod imp {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

    use super::Event;
    use crate::channel::{Receiver, Sender, channel};
    use crate::error::Result;
    use crate::sync::spawn;

    /// How long a second signal counts as a copy of the first: a wrapper signals its child and then the child's group, a
    /// terminal signals the whole group, and each member may pass the signal on.
    const SAME_STOP: Duration = Duration::from_secs(1);

    /// The signals of this process, watched by a thread.
    pub(in crate::server) struct Signals {
        told: Receiver<Event>,
        tell: Arc<Sender<Event>>,
    }

    impl Signals {
        /// Starts to watch the signals.
        ///
        /// # Errors
        /// An error if the operating system refuses a handler or the thread.
        pub(in crate::server) fn watch() -> Result<Signals> {
            let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
            let watched = [SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2].into_iter().chain(hang_up);
            let mut signals = signal_hook::iterator::Signals::new(watched)?;
            let (tell, told) = channel();
            let tell = Arc::new(tell);
            let signaled = tell.clone();
            let watch = move || {
                let (mut first, mut last) = (None, Effect::Nothing);
                for signal in signals.forever() {
                    let effect = effect(signal, &mut first, Instant::now());
                    // Logged once: a wrapper may send many.
                    if (effect, last) != (Effect::SameStop, Effect::SameStop) {
                        act(effect, signal, &signaled);
                    }
                    last = effect;
                }
            };
            spawn("aside-signals", watch)?;
            Ok(Signals { told, tell })
        }

        /// Waits for the next event.
        pub(in crate::server) fn next(&self) -> Event {
            self.told.recv().unwrap_or(Event::Stop("an error"))
        }

        /// Returns the sender of events.
        pub(in crate::server) fn sender(&self) -> Arc<Sender<Event>> {
            self.tell.clone()
        }
    }

    /// The effect of a signal.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Effect {
        Stop,
        /// Belongs to the shutdown that has begun.
        SameStop,
        End,
        Restart,
        Nothing,
    }

    fn effect(signal: i32, first: &mut Option<Instant>, now: Instant) -> Effect {
        match (signal, *first) {
            (SIGQUIT, _) => Effect::End,
            (SIGUSR2, None) => Effect::Restart,
            (SIGUSR1 | SIGUSR2, _) => Effect::Nothing,
            (_, None) => {
                *first = Some(now);
                Effect::Stop
            }
            (_, Some(first)) if now.saturating_duration_since(first) < SAME_STOP => Effect::SameStop,
            (_, Some(_)) => Effect::End,
        }
    }

    fn act(effect: Effect, signal: i32, tell: &Sender<Event>) {
        let name = name(signal);
        match effect {
            Effect::Stop => {
                // No receiver exists if the start has failed.
                let _ = tell.send(Event::Stop(name));
            }
            Effect::Restart => drop(tell.send(Event::Restart)),
            Effect::SameStop => {
                log::info!(target: "aside::server", "{name} within a second of the first signal: counts as the same shutdown.")
            }
            Effect::Nothing => log::info!(target: "aside::server", "{name} is ignored."),
            Effect::End => {
                log::warn!(target: "aside::server", "{name}: ending at once. Running requests and tasks are lost.");
                super::super::log::flush();
                signal_hook::low_level::exit(128 + signal);
            }
        }
    }

    fn name(signal: i32) -> &'static str {
        match signal {
            SIGTERM => "SIGTERM",
            SIGINT => "SIGINT",
            SIGHUP => "SIGHUP (sent by a terminal that closes)",
            _ => signal_hook::low_level::signal_name(signal).unwrap_or("a signal"),
        }
    }

    /// Returns true if the process was started with this signal ignored, to outlive its terminal. Detected only on Linux.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask >> (signal - 1) & 1 == 1
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_signal_within_a_second_of_the_first_is_the_same_stop() {
            let (mut first, start) = (None, Instant::now());
            let mut at = |signal, millis| effect(signal, &mut first, start + Duration::from_millis(millis));
            assert_eq!([at(SIGUSR1, 0), at(SIGUSR2, 0)], [Effect::Nothing, Effect::Restart]);
            assert_eq!(
                [at(SIGTERM, 0), at(SIGTERM, 0), at(SIGINT, 999)],
                [Effect::Stop, Effect::SameStop, Effect::SameStop]
            );
            assert_eq!(
                [at(SIGUSR2, 1_500), at(SIGTERM, 1_000), at(SIGHUP, 9_000)],
                [Effect::Nothing, Effect::End, Effect::End]
            );
        }

        #[test]
        fn sigquit_ends_the_process_before_and_during_a_stop() {
            let mut first = None;
            assert_eq!(effect(SIGQUIT, &mut first, Instant::now()), Effect::End);
            assert_eq!(effect(SIGHUP, &mut first, Instant::now()), Effect::Stop);
            assert_eq!(effect(SIGQUIT, &mut first, Instant::now()), Effect::End);
        }
    }
}
