//! Who is measured, and how each is started and ended.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use load::{Expect, Target};
use serde::Serialize;

/// One of the pages, all of which are at the same address everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Page {
    Plain,
    Template,
    Form,
}

pub const PAGES: [Page; 3] = [Page::Plain, Page::Template, Page::Form];

impl Page {
    pub fn title(self) -> &'static str {
        match self {
            Page::Plain => "Plain text",
            Page::Template => "Template, 50 rows, a session",
            Page::Form => "Form post, background work",
        }
    }
}

/// How it is started.
pub enum Start {
    /// The package of this workspace.
    Package(&'static str),
    /// gunicorn with that application.
    Gunicorn { config: &'static str, application: &'static str },
    /// A program that was built elsewhere.
    Program(&'static Path),
}

pub struct Peer {
    pub name: &'static str,
    pub start: Start,
    pub env: &'static [(&'static str, &'static str)],
    /// What differs from another variant of the same.
    pub pages: &'static [Page],
    /// True if the form starts blocking work, and not an async task.
    pub is_blocking: bool,
}

impl Peer {
    pub fn is_aside(&self) -> bool {
        self.name.starts_with("aside")
    }

    /// True if it takes part in the measurements beyond the three pages.
    pub fn is_whole(&self) -> bool {
        self.pages.len() == PAGES.len()
    }
}

const FORM: &[Page] = &[Page::Form];
const TINY_HTTP: (&str, &str) = ("ASIDE_SERVER", "tiny_http");
const EPOLL: (&str, &str) = ("ASIDE_SERVER", "epoll");

/// An older release build of `peer-aside`, as a side of its own.
pub fn older(program: PathBuf) -> &'static Peer {
    let start = Start::Program(Box::leak(program.into_boxed_path()));
    Box::leak(Box::new(Peer { name: "aside epoll, before", start, env: &[EPOLL], pages: &PAGES, is_blocking: true }))
}

const fn package(
    name: &'static str,
    package: &'static str,
    env: &'static [(&'static str, &'static str)],
    pages: &'static [Page],
) -> Peer {
    Peer { name, start: Start::Package(package), env, pages, is_blocking: true }
}

pub const PEERS: [Peer; 14] = [
    package("aside epoll", "peer-aside", &[EPOLL], &PAGES),
    package("aside epoll, no access log", "peer-aside", &[EPOLL, ("RUST_LOG", "warn")], &PAGES),
    package("aside epoll, background()", "peer-aside", &[EPOLL, ("PEER_VARIANT", "now")], FORM),
    package("aside tiny_http", "peer-aside", &[TINY_HTTP], &PAGES),
    package("aside tiny_http, background()", "peer-aside", &[TINY_HTTP, ("PEER_VARIANT", "now")], FORM),
    Peer { is_blocking: false, ..package("axum", "peer-axum", &[], &PAGES) },
    package("axum, spawn_blocking", "peer-axum", &[("PEER_VARIANT", "blocking")], FORM),
    package("actix-web", "peer-actix", &[], &PAGES),
    package("Rocket", "peer-rocket", &[], &PAGES),
    package("Rouille", "peer-rouille", &[], &PAGES),
    package("tiny_http", "peer-tiny-http", &[], &PAGES),
    package("tiny_http, raw", "peer-tiny-http", &[("PEER_VARIANT", "raw")], &PAGES),
    Peer {
        name: "Flask",
        start: Start::Gunicorn { config: "gunicorn_flask.py", application: "flask_peer:app" },
        env: &[],
        pages: &PAGES,
        is_blocking: true,
    },
    Peer {
        name: "Asok",
        start: Start::Gunicorn { config: "gunicorn_asok.py", application: "wsgi:app" },
        env: &[],
        pages: &PAGES,
        is_blocking: true,
    },
];

/// Where things are.
pub struct Places {
    /// `benches/peers`.
    pub root: PathBuf,
    /// Where the runner was built, and the peers are.
    pub programs: PathBuf,
    /// The folder of the files that the runner makes, below the target folder.
    pub made: PathBuf,
}

impl Places {
    /// # Errors
    /// If the folder cannot be made.
    pub fn find() -> io::Result<Places> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is a folder of the workspace").to_owned();
        let programs = std::env::current_exe()?.parent().expect("a program is in a folder").to_owned();
        let made = root.join("target").join("peers");
        fs::create_dir_all(made.join("logs"))?;
        Ok(Places { root, programs, made })
    }

    pub fn photo(&self) -> PathBuf {
        self.made.join("photo.jpg")
    }

    pub fn venv(&self) -> PathBuf {
        self.made.join("venv")
    }

    pub fn log(&self, peer: &Peer) -> PathBuf {
        let name: String = peer.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        self.made.join("logs").join(format!("{name}.log"))
    }
}

/// A peer that runs. Dropped, it is ended.
pub struct Running {
    pub peer: &'static Peer,
    pub addr: SocketAddr,
    child: Child,
    /// What a visitor's browser sends along after `/login`.
    cookies: String,
    /// What a form has to have besides.
    token: String,
    /// The length of each page, when it is known.
    lengths: [Option<usize>; 3],
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gunicorn's workers end with it, by themselves.
        let below = crate::process::tree(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        let until = Instant::now() + Duration::from_secs(2);
        while below.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Running {
    /// Starts the server, waits for its first response, logs in, and checks each page. Its log goes to a file or to `/dev/null`.
    ///
    /// # Errors
    /// In words, when it cannot be had or answers wrongly.
    pub fn start(peer: &'static Peer, places: &Places, logs: bool) -> Result<Running, String> {
        Running::start_with(peer, places, logs, &[])
    }

    /// Returns the peer with more settings in its environment.
    ///
    /// # Errors
    /// In words, when it cannot be had or answers wrongly.
    pub fn start_with(
        peer: &'static Peer,
        places: &Places,
        logs: bool,
        settings: &[(&str, &str)],
    ) -> Result<Running, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = command(peer, places, addr)?;
        command.envs(settings.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if logs {
            let log = File::create(places.log(peer)).map_err(|error| format!("no log: {error}"))?;
            command.stderr(log);
        }
        let child = command.spawn().map_err(|error| format!("it does not start: {error}"))?;
        let (cookies, token) = (String::new(), String::new());
        let mut running = Running { peer, addr, child, cookies, token, lengths: [None; 3] };
        running.wait()?;
        running.log_in()?;
        peer.pages.iter().try_for_each(|page| running.look_at(*page))?;
        Ok(running)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended at once: {status}"));
            }
            // A connection that is taken says nothing yet: gunicorn listens before it has workers.
            if TcpStream::connect(self.addr).is_ok() && self.get("/plain").is_ok() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err("it does not answer within 20 s".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn log_in(&mut self) -> Result<(), String> {
        let request = request("GET", "/login", self.addr, "", "");
        let taken = load::ask(self.addr, &request, SHORT, |answer| {
            (answer.values("set-cookie"), String::from_utf8_lossy(answer.body).into_owned())
        });
        let (cookies, body) = taken.map_err(|error| format!("/login: {error}"))?;
        let pairs: Vec<&str> = cookies.iter().filter_map(|cookie| cookie.split(';').next()).collect();
        self.cookies = pairs.join("; ");
        self.token = if body.starts_with("csrf_token=") { format!("&{body}") } else { String::new() };
        if pairs.is_empty() { Err("/login sets no cookie".into()) } else { Ok(()) }
    }

    /// Looks at a page closely, once, and keeps its length.
    fn look_at(&mut self, page: Page) -> Result<(), String> {
        let target = self.target(page);
        let looked = load::ask(self.addr, &target.request, SHORT, |answer| {
            let body = String::from_utf8_lossy(answer.body);
            let wanted: Vec<String> = match page {
                Page::Plain => vec!["Hello, world!".into()],
                Page::Template => (1..=50)
                    .map(|id| format!("Leave it at door {id}, please"))
                    .chain(["Hello Ada, this is visit 3.".into(), "customer50@example.org".into()])
                    .collect(),
                Page::Form => Vec::new(),
            };
            let missing = wanted.into_iter().find(|words| !body.contains(words.as_str()));
            let goes_to = answer.values("location");
            let is_lost = page == Page::Form && !goes_to.iter().any(|to| to.ends_with("/orders"));
            match missing {
                Some(words) => Err(format!("the page lacks {words:?}: {:.200}", body)),
                None if is_lost => Err(format!("it redirects to {goes_to:?}: {} {:.200}", answer.status, body)),
                None => target.expect.check(answer).map(|()| answer.length),
            }
        });
        let length =
            looked.map_err(|error| format!("{page:?}: {error}"))?.map_err(|words| format!("{page:?}: {words}"))?;
        self.lengths[page as usize] = Some(length);
        Ok(())
    }

    pub fn target(&self, page: Page) -> Target {
        let form = format!("email=ada%40example.org&quantity=3&note=Leave+it+at+the+door{}", self.token);
        let (method, path, body, statuses, mark) = match page {
            Page::Plain => ("GET", "/plain", "", vec![200], "Hello, world!"),
            Page::Template => ("GET", "/orders", "", vec![200], "50 orders in all"),
            Page::Form => ("POST", "/orders", form.as_str(), vec![302, 303], ""),
        };
        let cookies = if page == Page::Plain { "" } else { &self.cookies };
        let request = request(method, path, self.addr, cookies, body);
        let expect = Expect { statuses, mark: mark.into(), length: self.lengths[page as usize] };
        Target { addr: self.addr, request, expect }
    }

    /// A page for the runner's own use.
    ///
    /// # Errors
    /// When it is not answered with 200 within a moment.
    pub fn get(&self, path: &str) -> Result<String, String> {
        let request = request("GET", path, self.addr, "", "");
        let taken = load::ask(self.addr, &request, SHORT, |answer| {
            (answer.status, String::from_utf8_lossy(answer.body).into_owned())
        });
        match taken {
            Ok((200, body)) => Ok(body),
            Ok((status, _)) => Err(format!("{path}: status {status}")),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    /// Tasks of forms that ran, units of busy work, photos, and the longest pause of a busy task since the last call, in
    /// microseconds (0 for peers that don't measure it).
    pub fn done(&self) -> [u64; 4] {
        // A busy server may need more than one try.
        let body = (0..20).find_map(|_| self.get("/done").ok()).unwrap_or_default();
        let mut numbers = body.split_whitespace().map(|number| number.parse().unwrap_or(0));
        [(); 4].map(|()| numbers.next().unwrap_or(0))
    }

    /// # Errors
    /// If the background work of its form is of another kind: it was built without `PEER_WORK`.
    pub fn check_work(&self, work: &str) -> Result<(), String> {
        match self.get("/done")?.split_whitespace().last() {
            Some(last) if last == work => Ok(()),
            _ => Err(format!("its form does not start the work {work:?}: build it with this folder's `site`")),
        }
    }
}

/// For the runner's own questions; bare tiny_http leaves some connections without a thread until another comes.
const SHORT: Duration = Duration::from_secs(2);

fn request(method: &str, path: &str, addr: SocketAddr, cookies: &str, body: &str) -> Vec<u8> {
    let cookies = if cookies.is_empty() { String::new() } else { format!("Cookie: {cookies}\r\n") };
    let form = match method {
        "POST" => format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len()),
        _ => String::new(),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\n{cookies}{form}\r\n{body}").into_bytes()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn command(peer: &Peer, places: &Places, addr: SocketAddr) -> Result<Command, String> {
    let mut command = match peer.start {
        Start::Package(package) => Command::new(places.programs.join(package)),
        Start::Program(path) => Command::new(path),
        Start::Gunicorn { config, application } => {
            let python = places.root.join("python");
            let mut command = Command::new(places.venv().join("bin").join("gunicorn"));
            command.arg("--config").arg(python.join(config)).arg("--bind").arg(addr.to_string()).arg(application);
            let counts = places.made.join(format!("counts-{}", peer.name));
            fs::write(&counts, vec![0; 24 * 4096]).map_err(|error| format!("no file for its counts: {error}"))?;
            command
                .env("PYTHONPATH", &python)
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("PEER_COUNTS", counts)
                .env("PEER_TEMPLATES", places.root.join("templates"))
                .env("SECRET_KEY", SECRET)
                // Several processes share their sessions only where these are in files.
                .env("ASOK_SESSION_BACKEND", "file");
            command
        }
    };
    let folder = match peer.name {
        "Asok" => places.made.join("asok"),
        _ => places.made.clone(),
    };
    command
        .current_dir(folder)
        .env("PEER_ADDR", addr.to_string())
        .env("PEER_PHOTO", places.photo())
        .env("ASIDE_ADDR", addr.to_string())
        .env("ASIDE_ENV", "production")
        .env("ASIDE_SECRET", SECRET)
        .env_remove("RUST_LOG")
        .envs(peer.env.iter().copied());
    Ok(command)
}

const SECRET: &str = "sixty-four bytes that are no secret at all since this is but a bench";
