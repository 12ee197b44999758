//! How a process begins: what it says, what it refuses, and the socket that it may be handed. Each in a process of its own,
//! with an environment of its own.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use aside::{App, Request};

/// This test binary once more, with [`site_in_a_child`] as its only test.
struct Site {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Site {
    fn start(environment: &[(&str, &str)], stdin: Stdio) -> Site {
        // The shell puts what it was given as its input where a service manager puts a socket.
        let hand_over = r#"[ -z "$HAND_OVER" ] || { exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; }; exec "$0" "$@""#;
        let mut child = Command::new("sh")
            .args(["-c", hand_over])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "start::site_in_a_child", "--nocapture", "--test-threads=1"])
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

    /// The log down to the line with these words.
    fn log_to(&mut self, words: &str) -> String {
        let mut text = String::new();
        while !text.contains(words) {
            assert_ne!(self.log.read_line(&mut text).unwrap(), 0, "the log ended without {words:?}: {text}");
        }
        text
    }

    /// What it says when it does not begin at all.
    fn refusal(mut self) -> String {
        let mut text = String::new();
        while self.log.read_line(&mut text).unwrap() > 0 {
            assert!(!text.contains("aside listens on"), "it began: {text}");
        }
        assert!(!self.child.wait().unwrap().success());
        text
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what the others start as another process.
#[test]
fn site_in_a_child() {
    if std::env::var_os("ASIDE_TEST_START").is_none() {
        return;
    }
    let app = App::new().get("/hello/{name}", |req: &mut Request| req.param::<String>("name")).named("hello");
    app.post("/orders", |_| "ordered").templates("pages").run().unwrap();
}

#[test]
fn a_grace_past_what_the_clock_can_count_is_refused_at_start() {
    let refusal = Site::start(&[("ASIDE_GRACE", "18446744073709551615")], Stdio::null()).refusal();
    assert!(refusal.contains("ASIDE_GRACE takes 0 to 31622400 seconds"), "{refusal}");
}

#[test]
fn development_begins_with_what_a_developer_wants_to_know() {
    let mut site = Site::start(&[("ASIDE_MAIL_URL", "file:letters")], Stdio::null());
    let banner = site.log_to("    mail ");
    assert!(banner.contains("INFO aside::server: aside listens on http://127.0.0.1:"), "{banner}");
    assert!(banner.contains(&format!(" over {} (development)\n", crate::server())), "{banner}");
    for words in [
        "GET     /hello/{name}  tests/it/start.rs:",
        "  hello\n",
        "POST    /orders ",
        "made up",
        "panel      at /_aside\n",
        "files in letters",
    ] {
        assert!(banner.contains(words), "{words:?} in {banner}");
    }
    assert_eq!(banner.matches("/_aside").count(), 1, "its routes are not the site's: {banner}");
}

#[test]
fn production_begins_with_each_setting_to_change() {
    let secret = "k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf";
    let mut site = Site::start(&[("ASIDE_ENV", "production"), ("ASIDE_SECRET", secret)], Stdio::null());
    let log = site.log_to("aside listens on");
    for setting in ["ASIDE_URL", "ASIDE_ALLOWED_HOSTS", "ASIDE_TRUSTED_PROXIES", "ASIDE_STORE", "cargo built"] {
        assert!(log.contains(&format!("WARN aside::check: {setting} ")), "{setting} in {log}");
    }
    assert!(!log.contains(secret) && !log.contains("/orders"), "{log}");
}

#[test]
fn a_setting_that_cannot_be_used_ends_it_by_its_name() {
    for (name, value) in [
        ("ASIDE_GRACE", "25s"),
        ("ASIDE_TRUSTED_PROXIES", "nginx"),
        ("ASIDE_TRUSTED_ORIGINS", "shop"),
        ("ASIDE_STORE", "redis://x"),
        ("ASIDE_MAIL_URL", "smtp.example.org"),
        ("ASIDE_ADDR", "nowhere"),
        ("ASIDE_ENV", "production"),
    ] {
        let words = Site::start(&[(name, value)], Stdio::null()).refusal();
        let named = if name == "ASIDE_ENV" { "ASIDE_SECRET must be set in production" } else { name };
        assert!(words.contains(named), "{name}: {words}");
    }
}

#[test]
fn a_socket_that_is_handed_over_is_listened_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Whoever comes before the process is there waits, and is answered.
    let mut early = TcpStream::connect(addr).unwrap();
    early.write_all(b"GET /hello/early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut site = Site::start(&[("HAND_OVER", "1")], Stdio::from(std::os::fd::OwnedFd::from(listener)));
    assert!(site.log_to("aside listens on").contains(&format!("http://{addr} ")));
    let mut reply = String::new();
    early.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("early"), "{reply}");
}

#[test]
fn what_is_handed_over_and_is_no_tcp_socket_is_refused() {
    let words = Site::start(&[("HAND_OVER", "1")], Stdio::null()).refusal();
    assert!(words.contains("LISTEN_FDS"), "{words}");
}
