//! The cost of a request, in instructions and allocations. Run `cargo bench --bench hot`; the results are in
//! `benches/README.md`.
//!
//! It counts instead of measuring time, so that a busy machine has no influence: valgrind runs this program for `n` requests
//! of a page and for `2n`, and the difference is the cost of `n` requests. Callgrind counts the instructions of all threads,
//! without those of the operating system; dhat counts the allocations.
//!
//! `cargo bench --bench hot -- gallery form` counts only these pages. `cargo bench --bench hot -- --ask gallery 1000` requests
//! one page a thousand times without counting, for any profiler. With `--features epoll` the pages over the wire are counted
//! over both transports.
//!
//! The site runs in production mode, and discards its log. Pages are requested through the test client, whose own work
//! counts too; the pages over the wire are requested by a client of a few lines, on one connection.

#![allow(dead_code, unused_imports)] // The benchmark includes all of darkroom, but uses only these pages.

#[path = "../examples/darkroom/orders.rs"]
mod orders;
#[path = "../examples/darkroom/photos.rs"]
mod photos;
#[path = "../examples/darkroom/site.rs"]
mod site;
#[path = "../examples/darkroom/sizes.rs"]
mod sizes;
#[path = "../examples/darkroom/store.rs"]
mod store;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use aside::config::{Mode, ServerKind};
use aside::routing::{get, post};
use aside::testing::TestClient;
use aside::{App, Config, Jobs, Request, Response, Result, context, redirect};
use serde::{Deserialize, Serialize};

use orders::Charge;
use site::{Settings, Site};
use sizes::{Hang, MakeSizes, RemoveFiles};
use store::{Prepared, Store};

const PAGES: [&str; 8] = ["hello", "rows", "form", "file", "unchanged", "gallery", "gallery-gzip", "order"];

/// The pages that are requested over the wire too.
const OVER_THE_WIRE: [&str; 3] = ["hello", "form", "gallery"];

/// The number of counted requests, and of requests before them.
const COUNTED: usize = 200;
const BEFORE: usize = 20;

const PHOTOS: usize = 12;

const ROWS: &str = r#"<h1>{{ title }}</h1>
<p>Your {{ visits }}. visit</p>
{% for flash in flashes %}<p class="{{ flash.kind }}">{{ flash.message }}</p>{% endfor %}
<table>{% for row in rows %}
  <tr><td>{{ row.id }}</td><td>{{ row.name }}</td><td>{{ row.price }}</td></tr>{% endfor %}
</table>
"#;

const ORDER: &str = "photo=1&email=ada%40example.org&quantity=2";

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--ask", page, count] => ask(page, BEFORE + count.parse::<usize>().expect("a number of requests")),
        ref named => {
            let is_named = |page: &String| named.is_empty() || named.contains(&page.as_str());
            pages().into_iter().filter(is_named).for_each(|page| count(&page));
        }
    }
}

fn pages() -> Vec<String> {
    let transports = if cfg!(feature = "epoll") { &["tiny_http", "epoll"][..] } else { &["tiny_http"] };
    let over = |transport: &&'static str| OVER_THE_WIRE.map(|page| format!("{transport}-{page}"));
    PAGES.map(str::to_owned).into_iter().chain(transports.iter().flat_map(over)).collect()
}

fn count(page: &str) {
    let instructions = difference(page, "callgrind", "--callgrind-out-file=/dev/null", instructions);
    let allocations = difference(page, "dhat", "--dhat-out-file=/dev/null", allocations);
    println!("{page}: {instructions:.0} instructions, {allocations:.1} allocations");
}

/// The result of a tool for one request.
fn difference(page: &str, tool: &str, out: &str, total: fn(&str) -> Option<f64>) -> f64 {
    let [once, twice] = [COUNTED, 2 * COUNTED].map(|requests| {
        let program = env::current_exe().expect("a path to this program");
        let mut valgrind = Command::new("valgrind");
        valgrind.args([&format!("--tool={tool}"), out]).arg(program).args(["--ask", page, &requests.to_string()]);
        let ran = valgrind.output().expect("valgrind must be installed");
        let said = String::from_utf8_lossy(&ran.stderr);
        total(&said).filter(|_| ran.status.success()).unwrap_or_else(|| panic!("{tool} did not count {page}: {said}"))
    });
    (twice - once) / COUNTED as f64
}

/// Reads Callgrind's `Collected : 12345`.
fn instructions(said: &str) -> Option<f64> {
    said.split("Collected : ").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// Reads Dhat's `Total:     1,234 bytes in 56 blocks`.
fn allocations(said: &str) -> Option<f64> {
    let blocks = said.split("Total:").nth(1)?.split(" bytes in ").nth(1)?.split_whitespace().next()?;
    blocks.replace(',', "").parse().ok()
}

/// Requests a page `n` times.
fn ask(page: &str, count: usize) {
    log_to_nowhere();
    let folder = tempfile::tempdir().expect("a folder for what is written");
    let over = |transport: &str| page.strip_prefix(transport)?.strip_prefix('-');
    let (page, server) = match (over("tiny_http"), over("epoll")) {
        (Some(page), _) => (page, Some(ServerKind::TinyHttp)),
        (_, Some(page)) => (page, Some(ServerKind::Epoll)),
        _ => (page, None),
    };
    let config = Config { server: server.unwrap_or_default(), ..config() };
    let app = match page {
        "gallery" | "gallery-gzip" | "order" => darkroom(folder.path(), config).expect("the example can be opened"),
        _ => shop(folder.path(), config),
    };
    match server {
        Some(_) => ask_over_the_wire(page, count, app),
        None => ask_client(page, count, app),
    }
}

/// Sends requests of a user with a session, each as if it were the first.
fn ask_client(page: &str, count: usize, app: App) {
    let mut client = TestClient::new(app);
    client.get("/begin");
    let cookie: Vec<String> = client.cookies().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let cookie = cookie.join("; ");
    let tag = client.get("/static/app.css").header("ETag").unwrap_or("").to_owned();
    for _ in 0..count {
        let ask = |client: &mut TestClient, method, path, headers: &[(&str, &str)], body: &str| {
            let request = client.request(method, path).header("Cookie", &cookie);
            let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
            let request =
                if body.is_empty() { request } else { request.body("application/x-www-form-urlencoded", body) };
            request.send().status_code().code()
        };
        let status = match page {
            "rows" => ask(&mut client, "GET", "/rows", &[], ""),
            "form" | "order" => ask(&mut client, "POST", "/orders", &[], ORDER),
            "file" => ask(&mut client, "GET", "/static/app.css", &[], ""),
            "unchanged" => ask(&mut client, "GET", "/static/app.css", &[("If-None-Match", &tag)], ""),
            "gallery-gzip" => ask(&mut client, "GET", "/", &[("Accept-Encoding", "gzip, deflate, br")], ""),
            _ => ask(&mut client, "GET", "/", &[], ""),
        };
        assert!(matches!((page, status), ("form" | "order", 303) | ("unchanged", 304) | (_, 200)), "{page}: {status}");
        if page == "form" {
            client.drain();
        }
    }
}

/// Sends the same requests over one persistent connection.
fn ask_over_the_wire(page: &str, count: usize, app: App) {
    let server = app.start().expect("a free port");
    let mut stream = BufReader::new(TcpStream::connect(server.addr()).expect("the server listens"));
    let begin = exchange(&mut stream, "GET /begin HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let cookie = begin.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")?.split(';').next());
    let cookie = cookie.expect("a session begins there");
    let request = match page {
        "form" => format!(
            "POST /orders HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{ORDER}",
            ORDER.len()
        ),
        _ => format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"),
    };
    for _ in 0..count {
        let head = exchange(&mut stream, &request);
        let is_right = head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 303 ");
        assert!(is_right, "{page}: {head}");
    }
    server.stop();
}

/// Sends a request, and reads the response to its end.
fn exchange(stream: &mut BufReader<TcpStream>, request: &str) -> String {
    stream.get_mut().write_all(request.as_bytes()).expect("the connection is kept");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        stream.read_line(&mut head).expect("a head");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).expect("a body");
    head
}

/// The configuration for production, with a secret.
fn config() -> Config {
    Config {
        mode: Mode::Production,
        address: "127.0.0.1:0".into(),
        secrets: vec!["a secret of more than thirty-two bytes".into()],
        mail_url: Some("memory:".into()),
        ..Config::default()
    }
}

fn shop(folder: &Path, config: Config) -> App {
    let files = folder.join("static");
    std::fs::create_dir(&files).expect("the folder is new");
    std::fs::write(files.join("app.css"), "p { margin: 0 }\n".repeat(500)).expect("the folder is new");
    App::with_config(config)
        .template("rows.html", ROWS)
        .static_files("/static", files)
        .get("/", |_: &mut Request| "Hello, world!")
        .get("/begin", |req: &mut Request| req.session().insert("visits", 17))
        .get("/rows", rows)
        .route("/orders", get(|_: &mut Request| "thank you").name("orders"))
        .post("/orders", order)
}

#[derive(Serialize)]
struct Row {
    id: u32,
    name: &'static str,
    price: u32,
}

fn rows(req: &mut Request) -> Result<Response> {
    let visits: u32 = req.session().get("visits").unwrap_or(0);
    let rows: Vec<Row> = (0..50).map(|id| Row { id, name: "A print of the harbour", price: 1_200 + id }).collect();
    req.render("rows.html", context! { title => "Prints", visits, rows })
}

#[derive(Deserialize)]
struct Order {
    photo: u64,
    email: String,
    quantity: u32,
}

fn order(req: &mut Request) -> Result<Response> {
    let order: Order = req.form()?;
    req.flash("success", "Processing your order!");
    Ok(redirect(&req.url_for("orders", &[])?).background(move || drop(order)))
}

/// The gallery and the orders of the example. Other links of its pages lead nowhere.
fn darkroom(folder: &Path, config: Config) -> Result<App> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = format!("sqlite:{}", folder.join("aside.db").display());
    let config = Config { store: Some(store), ..config };
    let (data, owner) = (folder.to_owned(), "owner@localhost".to_owned());
    let site = Site::new(Settings { config: config.clone(), data, owner, webhook_url: None, webhook_secret: None })?;
    let store = Store::open(&site.database())?;
    store.write(|db| {
        (1..=PHOTOS).try_for_each(|number| {
            let id = store::add_photo(db, &format!("The harbour, no. {number}"), "harbour.jpg")?;
            store::set_state(db, id, &Prepared::Ready(1600, 1200))
        })
    })?;
    let jobs = Jobs::sqlite(site.database())?;
    let jobs = jobs.register::<MakeSizes>().register::<Hang>().register::<RemoveFiles>().register::<Charge>();
    let app = App::with_config(config)
        .jobs(jobs)
        .templates(here.join("templates/darkroom"))
        .static_files("/static", here.join("examples/darkroom/static"))
        .state(site)
        .state(store)
        .route("/", get(photos::gallery).name("gallery"))
        .get("/begin", |req: &mut Request| req.session().insert("visits", 17))
        .route("/orders", post(orders::create).name("orders"));
    let elsewhere = [
        ("/photos/{id}", "photo"),
        ("/photos/{id}/{size}.jpg", "picture"),
        ("/photos", "upload"),
        ("/feed", "feed"),
        ("/contact", "contact"),
        ("/login", "login"),
        ("/account", "account"),
    ];
    Ok(elsewhere.into_iter().fold(app, |app, (path, name)| app.route(path, get(|_: &mut Request| ()).name(name))))
}

/// The access log in the format of `App::run`, which is discarded.
fn log_to_nowhere() {
    let format = |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        writeln!(out, "[2026-04-04 14:32:01] {} {}: {}", record.level(), record.target(), record.args())
    };
    let nowhere = env_logger::Target::Pipe(Box::new(std::io::sink()));
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).format(format).target(nowhere).init();
}
