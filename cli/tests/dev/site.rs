//! A site in a folder, and `aside dev` that serves it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The time limit for a condition. It is long, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

const MAIN: &str = r##"//! A site that tests change.

use aside::{App, Config, Request, Result, background, context, redirect};

const VERSION: &str = "version 0";

fn main() -> Result<()> {
    App::with_config(Config::from_env()?)
        .static_files("/static", "static")
        .get("/", |req: &mut Request| {
            let visits = req.session().get::<u32>("visits").unwrap_or(0) + 1;
            req.session().insert("visits", visits);
            req.render("page.html", context! { version => VERSION, visits })
        })
        .get("/version", |_req: &mut Request| VERSION)
        .get("/exit", |_req: &mut Request| -> &str { std::process::exit(7) })
        .post("/echo", |req: &mut Request| req.text())
        .post("/flash", |req: &mut Request| {
            req.flash("success", "It is kept");
            redirect("/")
        })
        .post("/form", |req: &mut Request| req.render("page.html", context! { version => VERSION, visits => 0 }))
        .post("/task", |_req: &mut Request| {
            background(|| -> Result<()> {
                std::fs::write("task-began", "")?;
                while !std::path::Path::new("task-may-end").exists() {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Ok(std::fs::write("task-ended", VERSION)?)
            });
            "begun"
        })
        .run()
}
"##;

const PAGE: &str = r#"<!doctype html><html lang="en"><title>A site</title><link rel="stylesheet" href="{{ static('app.css') }}">
<p id="template">template 0</p><p id="version">{{ version }}</p><p id="visits">{{ visits }}</p>
{% for flash in flashes %}<p id="flash">{{ flash.message }}</p>{% endfor %}
<form method="post" action="/form"><button id="send">Send</button></form>
"#;

const STYLE: &str = ":root { --style: style-0 }\n";

/// The target folder of this build.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// A site that tests change.
pub struct Site(pub PathBuf);

impl Site {
    /// Makes the site of `aside new` in a folder that is the same each time, so that a second run builds little.
    pub fn generated(name: &str) -> Site {
        let folder = target().join("tmp/dev");
        fs::create_dir_all(&folder).unwrap();
        let root = folder.join(name);
        let _ = fs::remove_dir_all(&root); // from a former run
        let made = Command::new(env!("CARGO_BIN_EXE_aside")).args(["new", name]).current_dir(&folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Site(root)
    }

    /// Makes a small site with routes for the tests.
    pub fn new(name: &str) -> Site {
        let site = Site::generated(name);
        for folder in ["src", "templates", "static"] {
            fs::remove_dir_all(site.0.join(folder)).unwrap();
        }
        site.write("src/main.rs", MAIN);
        site.write("templates/page.html", PAGE);
        site.write("static/app.css", STYLE);
        site
    }

    /// Replaces a file in one step, as editors do: on a busy machine an empty file may be seen long enough to be a change of its own.
    pub fn write(&self, file: &str, text: &str) {
        let (path, temporary) = (self.0.join(file), self.0.join(".written"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    /// Replaces a text in a file.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.join(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        self.write(file, &text.replace(from, to));
    }

    pub fn wait_for_file(&self, file: &str) -> String {
        wait(file, || fs::read_to_string(self.0.join(file)).ok())
    }
}

/// Looks every few milliseconds until there is a value.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "still not after {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns true if the process exists and has not ended.
pub fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// A running `aside dev`, which is stopped when the value is dropped.
pub struct Dev {
    pub child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
    pub address: SocketAddr,
}

impl Dev {
    pub fn start(site: &Site) -> Dev {
        Dev::start_with(site, &[], &[])
    }

    /// Starts it with these variables and arguments.
    pub fn start_with(site: &Site, variables: &[(&str, &str)], arguments: &[&str]) -> Dev {
        let variables = variables.iter().copied();
        let mut child =
            command(&site.0).args(arguments).env("ASIDE_ADDR", "127.0.0.1:0").envs(variables).spawn().unwrap();
        let (errors, lines) = (child.stderr.take().unwrap(), Arc::<(Mutex<Vec<String>>, Condvar)>::default());
        let read = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                read.0.lock().unwrap().push(line);
                read.1.notify_all();
            }
        });
        let mut dev = Dev { child, lines, address: "127.0.0.1:1".parse().unwrap() };
        let line = dev.wait_for_line("the site will be on http://", 1);
        dev.address = line.split("http://").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        dev
    }

    /// Waits for the nth line with a text, and returns it.
    pub fn wait_for_line(&self, text: &str, nth: usize) -> String {
        let (lines, more) = &*self.lines;
        let found = |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).nth(nth - 1).cloned();
        let (lines, _) =
            more.wait_timeout_while(lines.lock().unwrap(), PATIENCE, |lines| found(lines).is_none()).unwrap();
        let line = found(&lines);
        drop(lines);
        line.unwrap_or_else(|| panic!("no line {nth} with `{text}`"))
    }

    /// Returns the number of lines with a text.
    pub fn count(&self, text: &str) -> usize {
        self.lines.0.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until the nth build serves.
    pub fn serves(&self, nth: usize) {
        self.wait_for_line("aside: the site serves", nth);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request, and returns the response.
    pub fn send(&self, request: &str) -> String {
        let mut stream = self.connect(request);
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    pub fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    pub fn get(&self, path: &str, headers: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.address))
    }

    pub fn post(&self, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}",
            self.address
        ))
    }

    /// Returns the ids of the processes of the site: the children of `aside dev` that run its program.
    pub fn site_processes(&self) -> Vec<String> {
        let children = Command::new("pgrep").args(["-P", &self.child.id().to_string()]).output().unwrap();
        let ids = String::from_utf8(children.stdout).unwrap();
        ids.lines().map(str::to_owned).collect()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of `aside dev`.
    pub fn end(&mut self) -> ExitStatus {
        wait("the end of aside dev", || self.child.try_wait().unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.signal_if_running();
        let _ = self.child.wait();
    }
}

impl Dev {
    fn signal_if_running(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal("-TERM");
        }
        if thread::panicking() {
            eprintln!("aside dev printed:\n{}", self.lines.0.lock().unwrap().join("\n"));
        }
    }
}

/// `aside dev` in a folder.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aside"));
    command
        .arg("dev")
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_NET_OFFLINE", "true")
        .env("ASIDE_GRACE", "60")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}
