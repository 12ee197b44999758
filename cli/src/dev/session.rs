//! The course of a session: what follows a change, a build, and a step of a process of the site.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::ansi::{escape, html};
use super::board::{self, Board, Problem};
use super::cargo_build::{self, CargoBuild, Outcome, Refusal};
use super::gate::Gate;
use super::say;
use super::site_process::{SiteProcess, Start, Step};
use super::watch::{Changes, Watched};
use crate::arguments::DevOptions;

/// How long pages wait for the end of the former process.
const PATIENCE: Duration = Duration::from_millis(500);

pub enum Event {
    /// A signal ends this process.
    Stop,
    Changed(Changes),
    /// The build with this number has ended.
    Built(u64, Outcome),
    /// The process with this number has made a step.
    Site(u64, Step),
    /// The former process with this number has had its time to end.
    FormerIsLate(u64),
}

/// What a session needs.
pub struct Parts {
    pub root: PathBuf,
    pub options: DevOptions,
    pub listener: Arc<TcpListener>,
    pub events_port: u16,
    pub gate: Gate,
    pub watched: Arc<Watched>,
    pub board: Arc<Board>,
    pub tell: Sender<Event>,
}

pub struct Session {
    parts: Parts,
    /// The number of the last build.
    builds: u64,
    /// The number of the last process. It begins with the time, so that pages of a former session differ.
    starts: u64,
    build: Option<CargoBuild>,
    began: Instant,
    /// The process that is starting, the one that serves, and those that are being stopped.
    starting: Option<SiteProcess>,
    serving: Option<SiteProcess>,
    stopping: Vec<SiteProcess>,
    /// The program that starts as soon as all processes have ended.
    waiting: Option<PathBuf>,
    /// True from the moment at which the starting process may accept connections, and no other one does, until it serves.
    is_handed_over: bool,
    /// The program of the last build, if that was successful.
    built: Option<PathBuf>,
    /// The number of the former process, until pages are told of the one that serves.
    former: Option<u64>,
    /// True if pages are to reload once no build is running or starting any more.
    reload_is_due: bool,
    /// The program of the last process, and when it was built.
    started: Option<(PathBuf, SystemTime)>,
}

impl Session {
    pub fn new(parts: Parts) -> Session {
        Session {
            parts,
            builds: 0,
            starts: board::now(),
            build: None,
            began: Instant::now(),
            starting: None,
            serving: None,
            stopping: Vec::new(),
            waiting: None,
            is_handed_over: false,
            built: None,
            former: None,
            reload_is_due: false,
            started: None,
        }
    }

    /// Builds and serves until a signal.
    ///
    /// # Errors
    /// An error if Cargo cannot be started, or the socket cannot be used.
    pub fn run(mut self, events: &Receiver<Event>) -> io::Result<()> {
        self.parts.gate.open()?;
        let mut ran = self.start_build();
        while ran.is_ok() {
            match events.recv() {
                Ok(Event::Stop) | Err(_) => break,
                Ok(Event::Changed(changes)) => ran = self.changed(changes),
                Ok(Event::Built(number, outcome)) if number == self.builds => ran = self.built(outcome),
                Ok(Event::Built(..)) => {}
                Ok(Event::Site(number, step)) => ran = self.step(number, step),
                Ok(Event::FormerIsLate(number)) => self.announce_after(number),
            }
        }
        self.stop(events);
        ran
    }

    fn changed(&mut self, changes: Changes) -> io::Result<()> {
        if changes.style {
            self.parts.board.update(|state| state.styles = board::now());
        }
        // Until the new build serves, the former one may lack what a changed template uses, such as a route.
        self.reload_is_due |= changes.page;
        if changes.page && changes.code.is_none() {
            self.tell_pages();
        }
        let Some(file) = changes.code else { return self.start_again() };
        say(&format!("{} changed", file.strip_prefix(&self.parts.root).unwrap_or(&file).display()));
        self.start_build()
    }

    /// Starts the program of the last build if it has ended: perhaps a template was invalid, which has changed now.
    fn start_again(&mut self) -> io::Result<()> {
        let has_process = self.starting.is_some() || self.serving.is_some() || self.waiting.is_some();
        let Some(program) = self.built.clone().filter(|_| self.build.is_none() && !has_process) else { return Ok(()) };
        self.began = Instant::now();
        self.parts.board.update(|state| state.problem = None);
        self.start_site(program)
    }

    /// Tells pages which process serves, and to reload if a template or a static file has changed: not before the build that may
    /// belong to the change has come to its end.
    fn tell_pages(&mut self) {
        let has_newer = self.build.is_some() || self.starting.is_some() || self.waiting.is_some();
        if self.former.is_some() || self.reload_is_due && has_newer {
            return;
        }
        let reload_is_due = std::mem::take(&mut self.reload_is_due);
        let serving = self.serving.as_ref().map(|site| site.number);
        self.parts.board.update(|state| {
            state.build = serving.unwrap_or(state.build);
            if reload_is_due {
                state.changed = board::now();
            }
        });
    }

    /// Starts a build, in place of one that runs.
    fn start_build(&mut self) -> io::Result<()> {
        self.build.take().into_iter().for_each(CargoBuild::cancel);
        self.built = None;
        self.builds += 1;
        self.began = Instant::now();
        self.parts.watched.is_building.store(true, Ordering::Release);
        self.parts.board.update(|state| {
            state.problem = None;
            state.progress = "Building".to_owned();
        });
        let (number, tell, board) = (self.builds, self.parts.tell.clone(), self.parts.board.clone());
        let progress = move |step: &str| board.update(|state| state.progress = escape(step));
        let end = move |outcome| drop(tell.send(Event::Built(number, outcome)));
        let started = CargoBuild::start(&self.parts.root, &self.parts.options.cargo, progress, end);
        self.build = Some(started.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("Cargo was not found; install Rust from https://rustup.rs"),
            kind => io::Error::new(kind, format!("cargo build: {error}")),
        })?);
        Ok(())
    }

    fn built(&mut self, outcome: Outcome) -> io::Result<()> {
        self.build = None;
        self.parts.watched.is_building.store(false, Ordering::Release);
        match outcome.map(|programs| one_program(&programs)) {
            Ok(Ok(program)) => {
                self.built = Some(program.clone());
                self.parts.watched.add_files_of(&program);
                return self.start_site(program);
            }
            Ok(Err(message)) => self.fail("Cargo has built no program to start", &message),
            Err(refusal) if self.has_wrong_options(&refusal) => {
                let options = self.parts.options.cargo.join(" ");
                return Err(io::Error::other(format!("Cargo builds nothing with `{}`", options.escape_debug())));
            }
            Err(refusal) => self.fail("The build failed", &cargo_build::errors(&refusal.messages)),
        }
        Ok(())
    }

    /// Returns true if Cargo most likely refuses its options, such as an unknown name after `--bin`, which no change of a file
    /// corrects.
    fn has_wrong_options(&self, refusal: &Refusal) -> bool {
        self.builds == 1 && !refusal.has_begun && !self.parts.options.cargo.is_empty()
    }

    /// Shows why the newest build does not serve.
    fn fail(&mut self, title: &str, details: &str) {
        let serves = if self.serving.is_some() { "; the former build continues to serve" } else { "" };
        say(&format!("{}{serves}", title.to_lowercase()));
        self.parts.board.update(|state| {
            state.progress = String::new();
            state.problem = Some(Problem { title: format!("{title}{serves}"), details: html(details) });
        });
        self.tell_pages();
    }

    fn start_site(&mut self, program: PathBuf) -> io::Result<()> {
        let modified = modified(&program);
        if self.serving.is_some() && self.starting.is_none() && self.started == Some((program.clone(), modified)) {
            // Only what the program is not made of has changed.
            self.parts.board.update(|state| state.progress = String::new());
            self.tell_pages();
            return Ok(());
        }
        self.abandon_start();
        if self.parts.options.stops_first && self.stops_first()? {
            self.waiting = Some(program);
            return Ok(());
        }
        self.parts.board.update(|state| state.progress = "Starting".to_owned());
        match self.start_process(&program) {
            Ok(site) => {
                self.starting = Some(site);
                self.started = Some((program, modified));
            }
            Err(error) => self.fail("The site does not start", &error.to_string()),
        }
        Ok(())
    }

    fn start_process(&mut self, program: &Path) -> io::Result<SiteProcess> {
        self.starts += 1;
        let start = Start {
            program,
            arguments: &self.parts.options.site,
            root: &self.parts.root,
            listener: &self.parts.listener,
            events: self.parts.events_port,
            number: self.starts,
            is_colored: cargo_build::is_colored(),
        };
        let (number, tell) = (self.starts, self.parts.tell.clone());
        SiteProcess::start(&start, move |step| drop(tell.send(Event::Site(number, step))))
    }

    /// Stops the process that serves. Returns true if a process has not ended yet.
    fn stops_first(&mut self) -> io::Result<bool> {
        if let Some(former) = self.serving.take() {
            former.release();
            self.parts.board.update(|state| {
                state.serves = false;
                state.progress = "Stopping the former process".to_owned();
            });
            self.parts.gate.open()?;
            former.stop();
            self.stopping.push(former);
        }
        Ok(!self.stopping.is_empty())
    }

    /// Ends a process that is starting, since a newer build takes its place.
    fn abandon_start(&mut self) {
        self.stopping.extend(self.starting.take().inspect(SiteProcess::stop));
    }

    fn step(&mut self, number: u64, step: Step) -> io::Result<()> {
        let is_starting = self.starting.as_ref().is_some_and(|site| site.number == number);
        match step {
            Step::Prepared if is_starting => self.hand_over(),
            Step::Serves if is_starting => self.serves(),
            Step::Prepared | Step::Serves => {}
            Step::Ended { status, lines } => return self.ended(number, &status, &lines),
        }
        Ok(())
    }

    /// Lets the new process accept connections in place of the former one, or of the gate.
    fn hand_over(&mut self) {
        self.parts.gate.close();
        self.is_handed_over = true;
        self.serving.iter().for_each(SiteProcess::release);
        self.starting.iter().for_each(SiteProcess::accept);
    }

    fn serves(&mut self) {
        self.is_handed_over = false;
        let former = self.serving.take().inspect(SiteProcess::stop);
        self.serving = self.starting.take();
        say(&format!("the site serves after {:.1} s", self.began.elapsed().as_secs_f64()));
        let is_building = self.build.is_some();
        // Pages of the former process reload by its number. A change that a build is running for waits for that.
        self.reload_is_due &= is_building;
        self.parts.board.update(|state| {
            state.serves = true;
            if !is_building {
                state.progress = String::new();
            }
        });
        match former {
            Some(former) => {
                self.announce_later(former.number);
                self.stopping.push(former);
            }
            None => {
                self.former = None;
                self.tell_pages();
            }
        }
    }

    /// Tells pages of the new process when the former one has ended: until then, that one answers on connections which the
    /// browser has kept. It may take long to end.
    fn announce_later(&mut self, former: u64) {
        self.former = Some(former);
        let tell = self.parts.tell.clone();
        thread::spawn(move || {
            thread::sleep(PATIENCE);
            let _ = tell.send(Event::FormerIsLate(former));
        });
    }

    fn announce_after(&mut self, former: u64) {
        if self.former.take_if(|number| *number == former).is_some() {
            self.tell_pages();
        }
    }

    fn ended(&mut self, number: u64, status: &str, lines: &str) -> io::Result<()> {
        self.stopping.retain(|site| site.number != number);
        self.announce_after(number);
        if self.stopping.is_empty()
            && let Some(program) = self.waiting.take()
        {
            return self.start_site(program);
        }
        let title = if self.starting.take_if(|site| site.number == number).is_some() {
            self.started = None;
            if std::mem::take(&mut self.is_handed_over) {
                // The former process accepts no more connections.
                self.stopping.extend(self.serving.take().inspect(SiteProcess::stop));
            }
            format!("The site does not start ({status})")
        } else if self.serving.take_if(|site| site.number == number).is_some() {
            format!("The site has ended ({status}); it starts again after the next change")
        } else {
            return Ok(());
        };
        if self.serving.is_none() && !self.is_handed_over {
            self.parts.board.update(|state| state.serves = false);
            self.parts.gate.open()?;
        }
        self.fail(&title, lines);
        Ok(())
    }

    /// Stops everything that this process has started. A second signal ends the processes of the site at once.
    fn stop(mut self, events: &Receiver<Event>) {
        self.build.take().into_iter().for_each(CargoBuild::cancel);
        let mut sites: Vec<SiteProcess> =
            self.starting.take().into_iter().chain(self.serving.take()).chain(self.stopping).collect();
        sites.iter().for_each(SiteProcess::stop);
        while !sites.is_empty() {
            match events.recv() {
                Ok(Event::Site(number, Step::Ended { .. })) => sites.retain(|site| site.number != number),
                Ok(Event::Stop) | Err(_) => return sites.iter().for_each(SiteProcess::kill),
                Ok(_) => {}
            }
        }
    }
}

/// Returns the only program of a build.
fn one_program(programs: &[PathBuf]) -> Result<PathBuf, String> {
    match programs {
        [program] => Ok(program.clone()),
        [] => Err("The package has no program. Name an example with `aside dev --example NAME`.".to_owned()),
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|program| program.file_name()).map(|name| name.to_string_lossy()).collect();
            Err(format!(
                "The package has several programs: {}. Choose one with `aside dev --bin NAME`.",
                names.join(", ")
            ))
        }
    }
}

fn modified(program: &Path) -> SystemTime {
    program.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
