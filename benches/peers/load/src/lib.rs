//! A load generator: one thread, non-blocking sockets on an epoll, a fixed number of connections.
//!
//! Every response is looked at, and every connection is accounted for: a rate says nothing of those that never get an
//! answer. [`run`] with [`Pace::Closed`] asks again as soon as it is answered; with [`Pace::Open`] it asks at fixed times,
//! whatever the server does, and counts from when it saw that a request was due, so that a stall is not one slow answer but all
//! that were due meanwhile.
//!
//! The generator has no core of its own, so its own delay is a separate figure. The kernel stamps each packet that arrives
//! (`SO_TIMESTAMPNS`): the time of a response ends with that stamp, and the time from the stamp until the generator has read
//! the response is the generator's.

mod answer;
mod herd;

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use answer::{Answer, Expect};
use answer::{Parsed, parse};
pub use hdrhistogram::Histogram;
pub use herd::{Herd, ask};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use socket2::{Domain, Socket, Type};

/// How long is waited for answers that are still out when the time is over.
const GRACE: Duration = Duration::from_secs(1);

/// After a refused connection.
const PAUSE: Duration = Duration::from_millis(10);

/// A connection that took longer to open is counted.
const LATE_OPENING: Duration = Duration::from_millis(500);

const TIMER: u64 = u64::MAX;

/// A request, and the response that it must get.
pub struct Target {
    pub addr: SocketAddr,
    pub request: Vec<u8>,
    pub expect: Expect,
}

#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each connection asks again when it has its answer.
    Closed,
    /// One request each that often, over whichever connection is free.
    Open(Duration),
}

/// The outcome of a load.
pub struct Outcome {
    /// Requests that went out.
    pub sent: u64,
    /// Right answers within the time.
    pub in_time: u64,
    /// Right answers, with those that came in the second after it.
    pub right: u64,
    /// The number of unexpected responses, and the first of them.
    pub wrong: u64,
    pub first_wrong: Option<String>,
    /// Connections that were refused, or broke with a request under way.
    pub broken: u64,
    /// Connections that the server closed after an answer, each of which was opened again.
    pub closed: u64,
    /// Connections that never had an answer.
    pub silent: usize,
    /// First connections that took over half a second to open: the server's queue was full, and the system tried again after
    /// a second.
    pub late_openings: u64,
    /// Requests that had no answer a second after the end.
    pub unanswered: u64,
    /// From when a request was sent, or seen to be due, until the last byte of its answer reached the socket, in nanoseconds;
    /// the unanswered with the time they waited.
    pub times: Histogram<u64>,
    /// The time until this program had read the response, as a client without time stamps measures it.
    pub seen: Histogram<u64>,
    /// The delay of this program itself with requests that were due.
    pub late: Histogram<u64>,
    /// The delay of this program itself from the arrival of an answer until it had read it.
    pub read_late: Histogram<u64>,
    pub elapsed: Duration,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome {
            sent: 0,
            in_time: 0,
            right: 0,
            wrong: 0,
            first_wrong: None,
            broken: 0,
            closed: 0,
            silent: 0,
            late_openings: 0,
            unanswered: 0,
            times: histogram(),
            seen: histogram(),
            late: histogram(),
            read_late: histogram(),
            elapsed: Duration::ZERO,
        }
    }

    /// Right answers a second.
    pub fn rate(&self) -> f64 {
        self.in_time as f64 / self.elapsed.as_secs_f64()
    }

    /// The times that wrk reports for the same run: until the answer was read, and with its correction for requests that a
    /// slow answer kept from being sent. For each answer that took longer than the mean, wrk adds answers that took one mean
    /// less, two means less, and so on.
    pub fn as_wrk(&self, connections: usize) -> Histogram<u64> {
        let each = self.in_time / connections.max(1) as u64;
        match each {
            0 => self.seen.clone(),
            _ => self.seen.clone_correct(self.elapsed.as_nanos() as u64 / each),
        }
    }
}

/// From a microsecond to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("these are bounds")
}

/// Sends requests for a duration, over a number of connections.
///
/// # Errors
/// When the system refuses sockets or timers; what the server does wrong is in the outcome.
pub fn run(target: &Target, connections: usize, pace: Pace, time: Duration) -> io::Result<Outcome> {
    let mut run = Run::new(target, connections, pace, time)?;
    run.begin()?;
    while run.goes_on() {
        run.turn()?;
    }
    Ok(run.end())
}

/// Lets this thread run before others, or not any more: a visitor is on another machine, and waits for no processor here.
/// It is refused to all but root.
pub fn hurry(yes: bool) -> bool {
    rustix::process::setpriority_process(None, if yes { -10 } else { 0 }).is_ok()
}

struct Run<'t> {
    target: &'t Target,
    pace: Pace,
    epoll: OwnedFd,
    timer: Option<OwnedFd>,
    slots: Vec<Slot>,
    /// Slots without a request, where the pace is open.
    free: Vec<usize>,
    /// When requests were seen to be due that no slot was free for.
    overdue: VecDeque<Instant>,
    /// Slots whose connection was refused, and when to try again.
    refused: VecDeque<(Instant, usize)>,
    began: Instant,
    until: Instant,
    /// When the last wait for events ended, on both clocks: stamps are of the second.
    woke: (Instant, SystemTime),
    /// The space for a stamp.
    control: Vec<u8>,
    ticks: u32,
    outcome: Outcome,
}

/// A connection, and the next one after it was closed.
#[derive(Default)]
struct Slot {
    stream: Option<TcpStream>,
    is_connecting: bool,
    /// Since when an answer is waited for.
    since: Option<Instant>,
    buffer: Vec<u8>,
    filled: usize,
    is_answered: bool,
}

impl<'t> Run<'t> {
    fn new(target: &'t Target, connections: usize, pace: Pace, time: Duration) -> io::Result<Run<'t>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let slots = (0..connections).map(|_| Slot { buffer: vec![0; 16 * 1024], ..Slot::default() }).collect();
        let began = Instant::now();
        let (free, until) = (Vec::new(), began + time);
        let (overdue, refused) = (VecDeque::new(), VecDeque::new());
        let outcome = Outcome::new();
        Ok(Run {
            target,
            pace,
            epoll,
            timer: None,
            slots,
            free,
            overdue,
            refused,
            began,
            until,
            woke: (began, SystemTime::now()),
            control: nix::cmsg_space!(nix::sys::time::TimeSpec),
            ticks: 0,
            outcome,
        })
    }

    fn begin(&mut self) -> io::Result<()> {
        match self.pace {
            Pace::Closed => (0..self.slots.len()).try_for_each(|slot| self.ask(slot, Instant::now())),
            Pace::Open(every) => {
                self.free = (0..self.slots.len()).collect();
                let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
                let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
                let every = Timespec::try_from(every).expect("a pace is short");
                let times = Itimerspec { it_interval: every, it_value: every };
                rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
                epoll::add(&self.epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
                self.timer = Some(timer);
                Ok(())
            }
        }
    }

    fn goes_on(&self) -> bool {
        let now = Instant::now();
        let is_waiting = || !self.overdue.is_empty() || self.slots.iter().any(|slot| slot.since.is_some());
        now < self.until || (now < self.until + GRACE && is_waiting())
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 256];
        let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let count = match epoll::wait(&self.epoll, &mut events, Some(&wait)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        self.woke = (Instant::now(), SystemTime::now());
        for event in &events[..count] {
            match event.data.u64() {
                TIMER => self.tick()?,
                slot => self.happened(slot as usize)?,
            }
        }
        self.try_again()
    }

    /// The requests that are due by now.
    fn tick(&mut self) -> io::Result<()> {
        let Pace::Open(every) = self.pace else { return Ok(()) };
        if let Some(timer) = &self.timer {
            // How often it went off is reckoned from the clock.
            let _ = rustix::io::read(timer, &mut [0; 8]);
        }
        loop {
            let (due, now) = (self.began + every * (self.ticks + 1), Instant::now());
            if due > now || due >= self.until {
                return Ok(());
            }
            self.ticks += 1;
            record(&mut self.outcome.late, now - due);
            match self.free.pop() {
                Some(slot) => self.ask(slot, now)?,
                None => self.overdue.push_back(now),
            }
        }
    }

    fn ask(&mut self, which: usize, since: Instant) -> io::Result<()> {
        let slot = &mut self.slots[which];
        slot.since = Some(since);
        slot.filled = 0;
        match &slot.stream {
            Some(_) => self.write(which),
            None => self.connect(which),
        }
    }

    fn connect(&mut self, which: usize) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(self.target.addr), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        // In progress, or refused: either is told when it becomes writable.
        let _ = socket.connect(&self.target.addr.into());
        let stream = TcpStream::from(socket);
        epoll::add(&self.epoll, &stream, EventData::new_u64(which as u64), EventFlags::OUT)?;
        let slot = &mut self.slots[which];
        (slot.stream, slot.is_connecting) = (Some(stream), true);
        Ok(())
    }

    fn happened(&mut self, which: usize) -> io::Result<()> {
        let slot = &mut self.slots[which];
        let Some(stream) = &slot.stream else { return Ok(()) };
        if slot.is_connecting {
            slot.is_connecting = false;
            if stream.take_error()?.is_some() {
                return self.broke(which);
            }
            epoll::modify(&self.epoll, stream, EventData::new_u64(which as u64), EventFlags::IN)?;
            // The time of the first request begins when it can be sent.
            if matches!(self.pace, Pace::Closed)
                && !slot.is_answered
                && let Some(since) = slot.since
            {
                self.outcome.late_openings += u64::from(since.elapsed() > LATE_OPENING);
                slot.since = Some(Instant::now());
            }
            return self.write(which);
        }
        self.read(which)
    }

    fn write(&mut self, which: usize) -> io::Result<()> {
        let Some(mut stream) = self.slots[which].stream.as_ref() else { return Ok(()) };
        // A request is far smaller than what the system takes at once.
        match stream.write(&self.target.request) {
            Ok(count) if count == self.target.request.len() => {
                self.outcome.sent += 1;
                Ok(())
            }
            _ => self.broke(which),
        }
    }

    fn read(&mut self, which: usize) -> io::Result<()> {
        let slot = &mut self.slots[which];
        let Some(stream) = slot.stream.as_ref() else { return Ok(()) };
        if slot.filled == slot.buffer.len() {
            slot.buffer.resize(2 * slot.filled, 0);
        }
        let (is_end, stamp) = match receive(stream, &mut slot.buffer[slot.filled..], &mut self.control) {
            Ok((0, stamp)) => (true, stamp),
            Ok((count, stamp)) => {
                slot.filled += count;
                (false, stamp)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return self.broke(which),
        };
        let arrived = stamp.map_or(self.woke.0, |stamp| on_clock(stamp, self.woke));
        if slot.since.is_none() {
            // Closed by the server between two requests, or bytes that no request asked for.
            slot.stream = None;
            self.outcome.closed += 1;
            return Ok(());
        }
        match parse(&slot.buffer[..slot.filled], is_end) {
            Parsed::Part if is_end => self.broke(which),
            Parsed::Part => Ok(()),
            Parsed::Whole(answer) => {
                let wrong = self.target.expect.check(&answer).err();
                let is_over = answer.closes || is_end;
                self.answered(which, arrived, wrong, is_over)
            }
            Parsed::Broken => self.answered(which, arrived, Some("no HTTP response".into()), true),
        }
    }

    fn answered(&mut self, which: usize, arrived: Instant, wrong: Option<String>, is_over: bool) -> io::Result<()> {
        let slot = &mut self.slots[which];
        let now = Instant::now();
        if let Some(since) = slot.since.take() {
            record(&mut self.outcome.times, arrived.saturating_duration_since(since));
            record(&mut self.outcome.seen, now - since);
            record(&mut self.outcome.read_late, now.saturating_duration_since(arrived));
        }
        slot.is_answered = true;
        match wrong {
            None => {
                self.outcome.right += 1;
                self.outcome.in_time += u64::from(now <= self.until);
            }
            Some(words) => {
                self.outcome.wrong += 1;
                self.outcome.first_wrong.get_or_insert(words);
            }
        }
        if is_over {
            slot.stream = None;
            self.outcome.closed += 1;
        }
        self.next(which, now)
    }

    fn next(&mut self, which: usize, now: Instant) -> io::Result<()> {
        match self.pace {
            Pace::Closed if now < self.until => self.ask(which, now),
            Pace::Closed => Ok(()),
            Pace::Open(_) => match self.overdue.pop_front() {
                Some(due) => self.ask(which, due),
                None => {
                    self.free.push(which);
                    Ok(())
                }
            },
        }
    }

    /// The request goes out again over a new connection, and its time goes on.
    fn broke(&mut self, which: usize) -> io::Result<()> {
        self.slots[which].stream = None;
        self.outcome.broken += 1;
        self.refused.push_back((Instant::now() + PAUSE, which));
        Ok(())
    }

    fn try_again(&mut self) -> io::Result<()> {
        while let Some((at, which)) = self.refused.front().copied() {
            if Instant::now() < at {
                break;
            }
            self.refused.pop_front();
            if let Some(since) = self.slots[which].since {
                self.ask(which, since)?;
            }
        }
        Ok(())
    }

    fn end(mut self) -> Outcome {
        let waiting: Vec<Instant> = self.slots.iter().filter_map(|slot| slot.since).chain(self.overdue).collect();
        for since in &waiting {
            record(&mut self.outcome.times, since.elapsed());
            record(&mut self.outcome.seen, since.elapsed());
        }
        self.outcome.unanswered = waiting.len() as u64;
        let has_asked = |slot: &&Slot| matches!(self.pace, Pace::Closed) || slot.since.is_some();
        self.outcome.silent = self.slots.iter().filter(has_asked).filter(|slot| !slot.is_answered).count();
        self.outcome.elapsed = self.until - self.began;
        self.outcome
    }
}

/// Reads, and returns the number of bytes and the time at which the last of them arrived.
fn receive(stream: &TcpStream, into: &mut [u8], control: &mut [u8]) -> io::Result<(usize, Option<SystemTime>)> {
    let mut parts = [IoSliceMut::new(into)];
    let read = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(control), MsgFlags::empty())?;
    let stamp = read.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => Some(UNIX_EPOCH + Duration::from(time)),
        _ => None,
    });
    Ok((read.bytes, stamp))
}

/// A time of day on the steady clock, given one moment on both.
fn on_clock(stamp: SystemTime, (steady, day): (Instant, SystemTime)) -> Instant {
    match day.duration_since(stamp) {
        Ok(before) => steady.checked_sub(before).unwrap_or(steady),
        Err(after) => steady + after.duration(),
    }
}

fn record(times: &mut Histogram<u64>, time: Duration) {
    times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}
