//! Restarts without loss: SIGUSR2 starts the program again on the same listening socket, under load.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::process::{Log, PATIENCE, until};
use crate::site::Setup;
use crate::sqlite_faults::TestStore;
use crate::storm::number;

/// The clients that keep their connections, and those that connect for each job that they enqueue.
const KEEPING: usize = 6;
const ENQUEUING: usize = 2;

/// The processes of one site, of which the last one serves. It is killed on drop.
struct Generations {
    log: Log,
    pids: Vec<Pid>,
}

impl Generations {
    fn new(log: Log, first: u32) -> Generations {
        Generations { log, pids: vec![pid(first)] }
    }

    fn current(&self) -> Pid {
        self.pids[self.pids.len() - 1]
    }

    /// Restarts the site, and waits until the next process serves.
    fn restart(&mut self) {
        let before = self.handed_over().len();
        kill_process(self.current(), Signal::USR2).expect("the process is there");
        self.pids.push(until("the next process serves", || self.handed_over().get(before).copied()));
    }

    /// Returns the processes that the log says serve, in order.
    fn handed_over(&self) -> Vec<Pid> {
        let text = self.log.text();
        let numbers = text.lines().filter_map(|line| line.split_once("Process ")?.1.split_once(" serves now"));
        numbers.map(|(number, _)| pid(number.parse().expect("a process id"))).collect()
    }

    /// Waits until all processes but the last one have ended.
    fn wait_for_former(&self) {
        let (_, former) = self.pids.split_last().expect("a process");
        // The first one is a child of this process, and ends when it is waited for.
        until("the former processes end", || {
            former.iter().skip(1).all(|pid| test_kill_process(*pid).is_err()).then_some(())
        });
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        // The first process is killed by its `Child`.
        for pid in self.pids.iter().skip(1) {
            let _ = kill_process(*pid, Signal::KILL);
        }
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a process id")
}

/// A connection that is used for several requests.
struct Client {
    addr: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    connected: usize,
}

impl Client {
    fn new(addr: SocketAddr) -> Client {
        Client { addr, connection: None, connected: 0 }
    }

    /// Sends a request, and returns the body of the response. Every failure is a lost request: the server closes a connection
    /// only after it has announced that.
    fn send(&mut self, head: &str) -> String {
        let mut connection = self.connection.take().unwrap_or_else(|| self.connect());
        connection
            .get_mut()
            .write_all(format!("{head} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .expect("a connection that is open");
        let (mut closes, mut length, mut status) = (false, 0, String::new());
        loop {
            let mut line = String::new();
            assert_ne!(
                connection.read_line(&mut line).expect("a response"),
                0,
                "the connection from {:?} was closed without a response to {head}",
                connection.get_ref().local_addr()
            );
            let line = line.trim_end().to_ascii_lowercase();
            if status.is_empty() {
                status = line;
                continue;
            }
            closes |= line == "connection: close";
            length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().expect("a length"));
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).expect("the whole response");
        let body = String::from_utf8(body).expect("text");
        assert!(status.starts_with("http/1.1 200"), "{status}: {body}");
        self.connection = Some(connection).filter(|_| !closes);
        body
    }

    fn connect(&mut self) -> BufReader<TcpStream> {
        self.connected += 1;
        let stream = TcpStream::connect(self.addr).expect("the site accepts connections");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        BufReader::new(stream)
    }
}

/// What the clients of a storm share.
#[derive(Default)]
struct Load {
    answered: AtomicUsize,
    enqueued: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Load {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Requests pages over one connection, with pauses of up to 20 ms, until the storm is over. Returns the number of connections.
    fn request_pages(&self, addr: SocketAddr, client: usize) -> usize {
        let mut connection = Client::new(addr);
        for n in 0_u64.. {
            if self.is_over() {
                break;
            }
            assert_eq!(connection.send("GET /"), "a page");
            self.answered.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis((n * 7 + client as u64 * 3) % 20));
        }
        connection.connected
    }

    fn enqueue_jobs(&self, addr: SocketAddr, client: usize) {
        for n in 0.. {
            if self.is_over() {
                break;
            }
            let id = format!("{client}-{n}");
            Client::new(addr).send(&format!("POST /enqueue?id={id}&what=short"));
            self.enqueued.lock().expect("the ids").push(id);
            thread::sleep(Duration::from_millis(15));
        }
    }
}

/// Restarts a site under load, and checks that no request was refused or dropped and that no job was lost.
fn storm(server: &'static str) {
    let store = TestStore::new();
    let more = vec![("ASIDE_SERVER", server.to_owned())];
    let site = Setup { more, grace: 20, ..store.setup() }.site();
    let addr = site.base.trim_start_matches("http://").parse().expect("an address");
    let mut generations = Generations::new(site.child.log.clone(), site.child.pid());
    let restarts = number("ASIDE_RESTARTS").unwrap_or(200);
    let load = Arc::new(Load::default());
    let connections: usize = thread::scope(|scope| {
        let load = &*load;
        let keeping: Vec<_> = (0..KEEPING).map(|n| scope.spawn(move || load.request_pages(addr, n))).collect();
        let enqueuing: Vec<_> = (0..ENQUEUING).map(|n| scope.spawn(move || load.enqueue_jobs(addr, n))).collect();
        for _ in 0..restarts {
            if keeping.iter().any(|client| client.is_finished()) || enqueuing.iter().any(|client| client.is_finished())
            {
                break;
            }
            generations.restart();
        }
        load.is_over.store(true, Ordering::Relaxed);
        enqueuing.into_iter().for_each(|client| client.join().expect("no request is lost"));
        keeping.into_iter().map(|client| client.join().expect("no request is lost")).sum()
    });
    assert_eq!(generations.pids.len() as u64, restarts + 1);
    let mut enqueued = load.enqueued.lock().expect("the ids").clone();
    enqueued.sort();
    until("all jobs are done", || (site.effects().len() == enqueued.len()).then_some(()));
    assert_eq!(site.effects(), enqueued, "each job has its effect once");
    generations.wait_for_former();
    let answered = load.answered.load(Ordering::Relaxed);
    println!(
        "{restarts} restarts over {server}: {answered} pages over {connections} kept connections and {} jobs, none lost",
        enqueued.len()
    );
}

pub(crate) fn no_request_and_no_job_is_lost_in_two_hundred_restarts_over_epoll() {
    storm("epoll");
}

pub(crate) fn no_request_and_no_job_is_lost_in_two_hundred_restarts_over_tiny_http() {
    storm("tiny_http");
}

/// A browser or a proxy holds connections open without a request. They are not what an operator must be warned of.
pub(crate) fn an_idle_connection_is_closed_at_the_end_of_the_grace_without_a_warning() {
    let store = TestStore::new();
    let site = Setup { grace: 1, ..store.setup() }.site();
    let addr = site.base.trim_start_matches("http://").parse().expect("an address");
    let mut idle = Client::new(addr);
    assert_eq!(idle.send("GET /"), "a page");
    let mut generations = Generations::new(site.child.log.clone(), site.child.pid());
    generations.restart();
    site.child.log.wait_for("Closing the connections that are still open after 1.0 s.");
    let mut connection = idle.connection.take().expect("an open connection");
    assert_eq!(connection.read(&mut [0]).expect("an orderly end"), 0);
    assert!(!site.child.log.text().contains("not answered"), "{}", site.child.log.text());
}

/// A program that cannot start leaves the old process serving, and the log says why.
pub(crate) fn a_start_that_fails_leaves_the_old_process_serving() {
    let store = TestStore::new();
    let broken = store.folder.path().join("broken");
    let site = Setup { more: vec![("KILL_BROKEN", broken.display().to_string())], ..store.setup() }.site();
    std::fs::write(&broken, "").expect("a file");
    site.signal(Signal::USR2);
    site.child.log.wait_for(
        "The new process does not serve: it ended before that (exit status: 1); this process continues to serve",
    );
    assert_eq!(site.get("/"), (200, "a page".into()));
    std::fs::remove_file(&broken).expect("the file");
    let mut generations = Generations::new(site.child.log.clone(), site.child.pid());
    generations.restart();
    assert_eq!(site.get("/"), (200, "a page".into()));
}

/// A program that never serves is ended with the process that waits for it.
pub(crate) fn a_stop_during_a_restart_ends_both_processes() {
    let store = TestStore::new();
    let hung = store.folder.path().join("hung");
    let mut site = Setup { more: vec![("KILL_HUNG", hung.display().to_string())], ..store.setup() }.site();
    std::fs::write(&hung, "").expect("a file");
    site.signal(Signal::USR2);
    let line = site.child.log.wait_for("is starting, with the listening socket");
    let starting = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the process id");
    let starting = pid(starting.parse().expect("a number"));
    site.signal(Signal::USR2);
    site.child.log.wait_for("is starting already");
    site.signal(Signal::TERM);
    assert!(site.child.wait().success());
    until("the new process ends", || test_kill_process(starting).is_err().then_some(()));
}

/// The file of a Unix socket stays for the next process, which removes it when it stops.
pub(crate) fn the_file_of_a_unix_socket_survives_a_restart() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let store = TestStore::new();
    let path = store.folder.path().join("site.sock");
    let child = Setup { more: vec![("ASIDE_ADDR", format!("unix:{}", path.display()))], ..store.setup() }.spawn("site");
    child.log.wait_for("aside listens on unix:");
    let mut generations = Generations::new(child.log.clone(), child.pid());
    generations.restart();
    generations.restart();
    generations.wait_for_former();
    assert!(get_over(&path).ends_with("a page"));
    kill_process(generations.current(), Signal::TERM).expect("the process is there");
    until("the file is removed", || (!path.exists()).then_some(()));
}

fn get_over(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("the site accepts connections");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    response
}

/// The service manager learns when the site serves, which process serves, and when it stops.
pub(crate) fn the_service_manager_learns_of_the_new_main_process() {
    let store = TestStore::new();
    let path = store.folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let told = || {
        let mut message = [0; 100];
        let length = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let site = Setup { more: vec![("NOTIFY_SOCKET", path.display().to_string())], ..store.setup() }.site();
    assert_eq!(told(), "READY=1");
    let mut generations = Generations::new(site.child.log.clone(), site.child.pid());
    generations.restart();
    // The two processes send theirs at the same moment.
    let mut both = [told(), told()];
    both.sort();
    let main = format!("MAINPID={}\nREADY=1", generations.current().as_raw_nonzero());
    assert_eq!(both, [main, "READY=1".to_owned()]);
    kill_process(generations.current(), Signal::TERM).expect("the process is there");
    assert_eq!(told(), "STOPPING=1");
}
