//! The log of a process: batches, a reader that does not read, a full disk, and what is written before an end. Each test starts
//! a site in another process, on a listener of this one.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, Stdio};

use aside::{App, Error, Request, Result};
use rustix::process::{Pid, Signal, kill_process};

struct Site {
    child: Child,
    stream: BufReader<TcpStream>,
}

impl Site {
    /// Starts a site with its log in `stderr`, and connects to it.
    fn start(stderr: Stdio) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = BufReader::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        // The shell moves its standard input to the descriptor where a service manager puts a socket.
        let hand_over = r#"exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" "$@""#;
        let child = Command::new("sh")
            .args(["-c", hand_over])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "log_output::site_in_a_child", "--nocapture", "--test-threads=1"])
            .env("ASIDE_TEST_LOG", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Site { child, stream }
    }

    /// Starts a site with its log in a pipe, and reads the log up to the banner's first line.
    fn with_pipe() -> (Site, BufReader<ChildStderr>) {
        let mut site = Site::start(Stdio::piped());
        let mut log = BufReader::new(site.child.stderr.take().unwrap());
        line(&mut log, "aside listens on");
        (site, log)
    }

    /// Sends a request for each path, one after the other.
    fn get(&mut self, paths: impl Iterator<Item = String>) {
        for path in paths {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            self.stream.get_mut().write_all(request.as_bytes()).unwrap();
            self.response();
        }
    }

    fn response(&mut self) {
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "the connection ended");
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        self.stream.read_exact(&mut vec![0; length]).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log up to the line with this text, and returns that line.
fn line(log: &mut BufReader<ChildStderr>, wanted: &str) -> String {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the log ended without {wanted:?}");
    }
    line
}

/// Returns the numbers in the paths of the access lines.
fn numbers<'l>(log: impl Iterator<Item = &'l str>) -> Vec<usize> {
    let path = |line: &'l str| line.split_once("] INFO aside::access: GET /page/")?.1.split(['/', ' ']).next();
    log.filter_map(path).map(|number| number.parse().unwrap()).collect()
}

fn paths(count: usize, tail: &str) -> impl Iterator<Item = String> {
    let tail = tail.to_owned();
    (0..count).map(move |number| format!("/page/{number}{tail}"))
}

/// Not a test: the other tests start this as another process.
#[test]
fn site_in_a_child() {
    if std::env::var_os("ASIDE_TEST_LOG").is_none() {
        return;
    }
    // The hook of an application that ends its process.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let fail = |_: &mut Request| -> Result<()> { Err(Error::internal("the page failed")) };
    let panic = |_: &mut Request| {
        let _ = std::thread::spawn(|| panic!("outside of a handler")).join();
    };
    App::new().get("/page/{*rest}", |_: &mut Request| "page").get("/fail", fail).get("/panic", panic).run().unwrap();
}

#[test]
fn the_access_lines_of_a_burst_arrive_in_order() {
    let (mut site, log) = Site::with_pipe();
    site.get(paths(200, ""));
    let lines: Vec<String> =
        log.lines().map(Result::unwrap).filter(|line| line.contains("GET /page/")).take(200).collect();
    assert_eq!(numbers(lines.iter().map(String::as_str)), Vec::from_iter(0..200));
}

#[test]
fn a_line_that_waits_for_others_is_written_without_them() {
    let (mut site, mut log) = Site::with_pipe();
    site.get(paths(1, ""));
    line(&mut log, "GET /page/0");
}

/// Regression: a pipe that nothing reads stopped the site.
#[test]
fn a_site_whose_log_is_not_read_goes_on_and_logs_later_what_it_dropped() {
    let (mut site, mut log) = Site::with_pipe();
    let tail = format!("/{}", "x".repeat(2_000));
    let count = 1_500;
    site.get(paths(count, &tail));
    site.get(["/fail".to_owned()].into_iter());
    let mut text = String::new();
    while !text.contains("The log was not read") {
        assert_ne!(log.read_line(&mut text).unwrap(), 0, "the log ended");
    }
    site.signal(Signal::TERM);
    log.read_to_string(&mut text).unwrap();
    assert!(site.child.wait().unwrap().success());
    let lines = || text.lines();
    let written = numbers(lines());
    assert!(written.is_sorted() && written.len() < count, "{} lines", written.len());
    let counts = lines()
        .filter_map(|line| line.split_once(" WARN aside::log: The log was not read: ")?.1.split_once(" routine lines"));
    let dropped: usize = counts.map(|(count, _)| count.parse::<usize>().unwrap()).sum();
    // The page that failed has an access line too.
    let failed = lines().filter(|line| line.contains("INFO aside::access: GET /fail")).count();
    assert_eq!(written.len() + failed + dropped, count + 1);
    let error = "the page failed";
    assert!(lines().any(|line| line.contains("ERROR aside::http") && line.contains(error)), "no {error:?}");
}

#[test]
fn a_site_whose_log_is_closed_goes_on() {
    let (mut site, log) = Site::with_pipe();
    drop(log);
    site.get(paths(50, ""));
    site.get(["/fail", "/page/1"].into_iter().map(str::to_owned));
    site.signal(Signal::TERM);
    assert!(site.child.wait().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_site_with_its_log_on_a_full_disk_goes_on() {
    let mut site = Site::start(Stdio::from(File::options().write(true).open("/dev/full").unwrap()));
    site.get(paths(50, ""));
    site.get(["/fail", "/page/1"].into_iter().map(str::to_owned));
    site.signal(Signal::TERM);
    assert!(site.child.wait().unwrap().success());
}

#[test]
fn a_shutdown_writes_the_lines_that_wait() {
    let (mut site, mut log) = Site::with_pipe();
    site.get(paths(20, ""));
    site.signal(Signal::TERM);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(numbers(text.lines()), Vec::from_iter(0..20));
    assert!(site.child.wait().unwrap().success());
}

#[test]
fn a_signal_that_ends_the_process_at_once_writes_the_lines_that_wait() {
    let (mut site, mut log) = Site::with_pipe();
    site.get(paths(20, ""));
    site.signal(Signal::QUIT);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(numbers(text.lines()), Vec::from_iter(0..20));
}

#[test]
fn a_panic_that_ends_the_process_writes_the_lines_that_wait() {
    let (mut site, mut log) = Site::with_pipe();
    site.get(paths(20, ""));
    site.stream.get_mut().write_all(b"GET /panic HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(numbers(text.lines()), Vec::from_iter(0..20));
    assert!(!site.child.wait().unwrap().success());
}
