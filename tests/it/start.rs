//! The start of a process: the banner, refused settings, and a socket from the service manager. Each test starts a process
//! with an environment of its own.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(all(feature = "epoll", target_os = "linux"))]
use aside::Config;
#[cfg(all(feature = "epoll", target_os = "linux"))]
use aside::config::ServerKind;
use aside::routing::get;
use aside::{App, Request};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a client waits for its page: a process may start slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Another process of this test binary, with [`site_in_a_child`] as its only test.
struct Site {
    child: Child,
    log: BufReader<ChildStderr>,
}

/// The path of the page that counts the user's visits in the session.
const VISITS: &str = "/visits";

impl Site {
    fn start(environment: &[(&str, &str)], stdin: Stdio) -> Site {
        static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
        Site::start_in(FOLDER.path(), environment, stdin)
    }

    fn start_in(folder: &Path, environment: &[(&str, &str)], stdin: Stdio) -> Site {
        // The shell moves its standard input to the descriptor where a service manager puts a socket.
        let hand_over = r#"[ -z "$HAND_OVER" ] || { exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; }; exec "$0" "$@""#;
        let mut child = Command::new("sh")
            .args(["-c", hand_over])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "start::site_in_a_child", "--nocapture", "--test-threads=1"])
            .current_dir(folder)
            .env("ASIDE_TEST_START", "1")
            .env("ASIDE_ADDR", "127.0.0.1:0")
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Site { child, log }
    }

    /// Reads the log up to the line with this text.
    fn log_to(&mut self, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            assert_ne!(self.log.read_line(&mut text).unwrap(), 0, "the log ended without {wanted:?}: {text}");
        }
        text
    }

    /// Returns the log of a process that refuses to start.
    fn refusal(mut self) -> String {
        let mut text = String::new();
        while self.log.read_line(&mut text).unwrap() > 0 {
            assert!(!text.contains("aside listens on"), "the process has started: {text}");
        }
        assert!(!self.child.wait().unwrap().success());
        text
    }
}

impl Site {
    /// Starts a process on the socket of a service manager.
    fn on(listener: &TcpListener, server: &str) -> Site {
        let environment = [
            ("HAND_OVER", "1"),
            ("ASIDE_SERVER", server),
            ("ASIDE_GRACE", "5"),
            ("RUST_LOG", "info,aside::access=warn"),
        ];
        let mut site = Site::start(&environment, Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        site.log_to("aside listens on");
        site
    }

    /// Stops the process as a service manager does, and checks that it ends cleanly within its grace.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let log = std::io::read_to_string(&mut self.log).unwrap();
        assert!(self.child.wait().unwrap().success() && log.contains("All requests are answered."), "{log}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the other tests start this as another process.
#[test]
fn site_in_a_child() {
    if std::env::var_os("ASIDE_TEST_START").is_none() {
        return;
    }
    let app = App::new().route("/hello/{name}", get(|req: &mut Request| req.param::<String>("name")).name("hello"));
    let app = app.post("/orders", |_| "ordered").templates("pages").static_files("/files", "public");
    let visits = |req: &mut Request| {
        let visits = req.session().get::<u32>("visits").unwrap_or(0) + 1;
        req.session().insert("visits", visits);
        visits.to_string()
    };
    if let Err(error) = app.get(VISITS, visits).run() {
        eprintln!("Error: {error:?}");
        std::process::exit(1);
    }
}

#[test]
fn a_grace_beyond_the_range_of_the_clock_is_refused_at_start() {
    let refusal = Site::start(&[("ASIDE_GRACE", "18446744073709551615")], Stdio::null()).refusal();
    assert!(refusal.contains("ASIDE_GRACE takes 0 to 31622400 seconds"), "{refusal}");
}

#[test]
fn the_banner_of_development_lists_routes_and_settings() {
    let mut site = Site::start(&[("ASIDE_MAIL_URL", "file:letters")], Stdio::null());
    let banner = site.log_to("    mail ");
    assert!(banner.contains("INFO aside::server: aside listens on http://127.0.0.1:"), "{banner}");
    assert!(banner.contains(&format!(" over {} (development)\n", crate::server())), "{banner}");
    for part in [
        "GET     /hello/{name}   tests/it/start.rs:",
        "  hello\n",
        "POST    /orders ",
        "sessions   with a key in /",
        "/data/development/secret\n",
        "templates  in /",
        "/pages (not there)\n",
        "static     /files/ from /",
        "/public (not there)\n",
        "panel      at /_aside\n",
        "files in /",
        "/letters\n",
    ] {
        assert!(banner.contains(part), "{part:?} in {banner}");
    }
    assert_eq!(banner.matches("/_aside").count(), 1, "its routes are not the site's: {banner}");
}

/// Returns the page with the number of visits, and the session's cookie.
fn visit(site: &mut Site, cookie: Option<&str>) -> (String, Option<String>) {
    let banner = site.log_to(" over ");
    let url = banner.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let request = ureq::get(format!("{url}{VISITS}"));
    let request = cookie.iter().fold(request, |request, cookie| request.header("Cookie", *cookie));
    let mut response = request.call().unwrap();
    let cookie = response
        .headers()
        .get("Set-Cookie")
        .map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned());
    (response.body_mut().read_to_string().unwrap(), cookie)
}

#[test]
fn a_restart_in_development_keeps_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Site::start_in(folder.path(), &[], Stdio::null());
    let (first, cookie) = visit(&mut start(), None);
    let (second, _) = visit(&mut start(), cookie.as_deref());
    assert_eq!((first.as_str(), second.as_str()), ("1", "2"));
    assert!(folder.path().join("data/development/.gitignore").exists());
}

#[test]
fn a_folder_in_which_the_secret_cannot_be_kept_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "a file").unwrap();
    let mut site = Site::start_in(folder.path(), &[], Stdio::null());
    let log = site.log_to("aside listens on");
    assert!(log.contains("WARN aside::session: Could not keep the secret of sessions in /"), "{log}");
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
}

#[test]
fn a_start_in_development_warns_of_nothing_and_production_needs_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let log = Site::start_in(folder.path(), &[], Stdio::null()).log_to("aside listens on");
    assert!(!log.contains("WARN"), "{log}");
    let folder = tempfile::tempdir().unwrap();
    let secret = "k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf";
    let production = [("ASIDE_ENV", "production"), ("ASIDE_SECRET", secret)];
    Site::start_in(folder.path(), &production, Stdio::null()).log_to("aside listens on");
    assert!(!folder.path().join("data/development").exists());
}

#[test]
fn a_misspelled_variable_is_named_at_the_start() {
    let mut site = Site::start(&[("ASIDE_MAX_UPLAOD", "1"), ("ASIDE_TILL", "7000")], Stdio::null());
    let log = site.log_to("aside listens on");
    assert!(
        log.contains("WARN aside::config: ASIDE_MAX_UPLAOD is not a setting; did you mean ASIDE_MAX_UPLOAD?"),
        "{log}"
    );
    assert!(!log.contains("ASIDE_TILL"), "{log}");
}

#[test]
fn an_error_at_the_start_has_no_http_status() {
    let refusal = Site::start(&[("ASIDE_ADDR", "nowhere")], Stdio::null()).refusal();
    let line = refusal.lines().find(|line| line.starts_with("Error: ")).unwrap();
    assert!(line.contains("ASIDE_ADDR") && !line.contains("500"), "{line}");
}

#[test]
fn production_warns_of_each_setting_to_change() {
    let secret = "k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf";
    let mut site = Site::start(&[("ASIDE_ENV", "production"), ("ASIDE_SECRET", secret)], Stdio::null());
    let log = site.log_to("aside listens on");
    for setting in ["ASIDE_URL", "ASIDE_ALLOWED_HOSTS", "ASIDE_TRUSTED_PROXIES", "ASIDE_STORE", "cargo built"] {
        assert!(log.contains(&format!("WARN aside::check: {setting} ")), "{setting} in {log}");
    }
    for folder in [
        "App::templates names a folder that does not exist: /",
        "App::static_files names a folder that does not exist: /",
    ] {
        assert!(log.contains(folder), "{folder} in {log}");
    }
    assert!(!log.contains(secret) && !log.contains("/orders"), "{log}");
}

#[test]
fn an_unusable_setting_is_refused_with_its_name() {
    for (name, value) in [
        ("ASIDE_GRACE", "25s"),
        ("ASIDE_TRUSTED_PROXIES", "nginx"),
        ("ASIDE_TRUSTED_ORIGINS", "shop"),
        ("ASIDE_STORE", "redis://x"),
        ("ASIDE_MAIL_URL", "smtp.example.org"),
        ("ASIDE_ADDR", "nowhere"),
        ("ASIDE_ENV", "production"),
    ] {
        let part = Site::start(&[(name, value)], Stdio::null()).refusal();
        let named = if name == "ASIDE_ENV" { "ASIDE_SECRET must be set in production" } else { name };
        assert!(part.contains(named), "{name}: {part}");
    }
}

#[test]
fn a_socket_from_the_service_manager_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // A client that connects before the process starts waits, and is answered.
    let mut early = TcpStream::connect(addr).unwrap();
    early.write_all(b"GET /hello/early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut site = Site::start(&[("HAND_OVER", "1")], Stdio::from(OwnedFd::from(listener)));
    assert!(site.log_to("aside listens on").contains(&format!("http://{addr} ")));
    let mut reply = String::new();
    early.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("early"), "{reply}");
}

/// Returns the servers of this build.
fn servers() -> &'static [&'static str] {
    if cfg!(all(feature = "epoll", target_os = "linux")) { &["epoll", "tiny_http"] } else { &["tiny_http"] }
}

/// Clients that request pages until they are stopped, each on a connection of its own.
struct Load {
    answered: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(addr: SocketAddr) -> Load {
        let (answered, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (answered, is_over) = (answered.clone(), is_over.clone());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let page = ask(addr).unwrap_or_else(|error| format!("{error}, after {answered:?} pages"));
                    assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("load"), "{page}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Load { answered, is_over, clients }
    }

    /// Waits until `pages` further pages have been served, or a request failed.
    fn goes_on_for(&self, pages: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < before + pages {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client was not answered");
            std::thread::yield_now();
        }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

fn ask(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /hello/load HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Regression: a stop closed the socket for every process that shared it. Clients were refused, and the next process served
/// none.
#[test]
fn restarts_on_a_socket_from_systemd_lose_no_client() {
    for server in servers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let start_site = || Site::on(&listener, server);
        let load = Load::on(listener.local_addr().unwrap());
        // One process after the other, as under systemd.
        for _ in 0..3 {
            let site = start_site();
            load.goes_on_for(100);
            site.stop();
        }
        // The next process starts before the last one has ended.
        let mut site = start_site();
        for _ in 0..3 {
            let next = start_site();
            load.goes_on_for(100);
            std::mem::replace(&mut site, next).stop();
            load.goes_on_for(100);
        }
        load.end();
        site.stop();
    }
}

#[test]
fn a_client_that_connects_between_two_processes_waits_for_the_second() {
    for server in servers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let start_site = || Site::on(&listener, server);
        start_site().stop();
        let between = std::thread::spawn(move || ask(addr).unwrap());
        while !has_waiting(&listener) {
            std::thread::yield_now();
        }
        let site = start_site();
        assert!(between.join().unwrap().ends_with("load"));
        site.stop();
    }
}

/// Returns true if a connection waits to be accepted.
fn has_waiting(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)) == Ok(1)
}

#[test]
fn a_handed_over_descriptor_that_is_not_a_socket_is_refused() {
    let part = Site::start(&[("HAND_OVER", "1")], Stdio::null()).refusal();
    assert!(part.contains("LISTEN_FDS"), "{part}");
}

/// Sandboxes and old emulators refuse epoll: the site is served in any case.
#[cfg(all(feature = "epoll", target_os = "linux"))]
#[test]
fn tiny_http_serves_with_a_warning_if_epoll_is_refused() {
    crate::logs::record();
    for call in [libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait] {
        let served = std::thread::spawn(move || {
            // From here on, for this thread and the threads that it starts.
            refuse(call);
            let config = Config { address: "127.0.0.1:0".into(), server: ServerKind::Epoll, ..Config::default() };
            let app = App::with_config(config).get("/hello/load", |_: &mut Request| "load");
            let server = app.start().unwrap();
            ask(server.addr()).unwrap()
        });
        let page = served.join().unwrap();
        assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("load"), "{page}");
    }
    let lines = crate::logs::at(log::Level::Warn, "`epoll` cannot start");
    assert!(lines.len() == 3 && lines[0].contains("using `tiny_http` instead"), "{lines:?}");
}

#[cfg(all(feature = "epoll", target_os = "linux"))]
fn refuse(call: i64) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let target = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new([(call, Vec::new())].into(), SeccompAction::Allow, refusal, target).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}
