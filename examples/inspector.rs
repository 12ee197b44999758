//! Shows exactly what the framework made of a request: for people who debug clients, and for conformance suites.
//!
//! Not to be copied as it stands: it turns protections off, so that it answers whatever comes. The fields of a form, the
//! headers and the cookies of a user must not reach a page to which any other site can send the user's browser.
//!
//! | Path | Response |
//! |---|---|
//! | any method on `/`, and on any path not listed here | `OK`, or the body as it came |
//! | `/echo` | the request's headers, `Name: value` lines, in order |
//! | `/cookie`, `/t/cookies` | cookies as `name=value` lines |
//! | `/t/form`, `/t/query` | JSON `[["name","value"], …]` in order, of the urlencoded body, or the query |
//! | `/t/multipart` | JSON list of `{name, filename, content_type, len, sha256}`, in order |
//! | `/t/thumb` | multipart field `file`: the image to fit in 256x256, as PNG; 422 for a file that is not an image, or too large |
//! | `/t/redirect?next=` | a redirect to `next` when it is local, to `/` otherwise |
//! | `/t/header?v=` | 200 with the header `X-V: v` and a cookie `c=v`; 400 when `v` cannot be a header value |
//! | `/static/` | the files of `ASIDE_STATIC`, when set |
//! | `/big` | 1 MB of text |
//! | `POST /t/enqueue` | body = an id of 1 to 1,000 bytes: 200 and the job's number when the job is durable |
//! | `/t/ready` | 200 when workers run and what keeps the jobs answers; 503 otherwise |
//! | `/t/effects` | the ids of the jobs that have had their effect, a line each, control characters and `%` percent-encoded |
//!
//! The last three need `ASIDE_JOBS` (`sqlite:PATH`, or `redis://…` with `--features redis`), and answer 503 without it. The job
//! sleeps for 20 ms, then POSTs `/done?id=…&attempt=…` to `ASIDE_LEDGER` (a base URL; nothing is sent without it), and has its
//! effect: it records the id. `attempt` counts every run from 1, those too whose process died. A ledger that is down, or answers
//! with an error, is a failed try, which comes again a second later, then after two, and so on.
//!
//! With SQLite the effect is written in the transaction that completes the job, so each has it exactly once. Redis has no
//! such thing: there the id is kept before the job completes, under the job's number, so that a job that runs again is still
//! listed once; what is missing is that a job that ends as dead may be listed too.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aside::image::{DecodeOptions, Fit, Format};
use aside::jobs::rusqlite::Connection;
use aside::multipart::Part;
use aside::tasks::Retry;
use aside::{App, Config, Error, Job, Jobs, Json, Request, Response, Result, Status, TaskContext, redirect_or};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

fn main() -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let app = app(Config::from_env()?, variable("ASIDE_STATIC").as_deref());
    match variable("ASIDE_JOBS") {
        Some(setting) => with_jobs(app, &setting, variable("ASIDE_LEDGER"))?.run(),
        None => app.run(),
    }
}

fn app(config: Config, files: Option<&str>) -> App {
    let app = unprotected(config)
        .any("/echo", echo)
        .any("/cookie", cookies)
        .any("/t/cookies", cookies)
        .any("/t/form", |req: &mut Request| req.form_pairs().map(Json))
        .any("/t/query", |req: &mut Request| req.query_pairs().map(Json))
        .any("/t/multipart", multipart)
        .any("/t/thumb", thumb)
        .any("/t/redirect", |req: &mut Request| redirect_or(&query(req, "next").unwrap_or_default(), "/"))
        .any("/t/header", header)
        .any("/big", |_: &mut Request| LINE.repeat(10_000))
        .post("/t/enqueue", enqueue)
        .get("/t/ready", ready)
        .get("/t/effects", effects)
        .fallback(body);
    match files {
        Some(folder) => app.static_files("/static", folder),
        None => app,
    }
}

/// The one place where protections are turned off: this answers to any host, and to the pages of any site.
fn unprotected(config: Config) -> App {
    App::with_config(Config { allowed_hosts: vec!["*".into()], trusted_origins: vec!["*".into()], ..config })
}

/// A line of a hundred bytes, with its end.
const LINE: &str =
    "All work and no play makes a page of text that is one hundred letters wide.........................\n";

/// `OK`, or the body as it came: as plain text, so that no browser takes it for a page of ours.
fn body(req: &mut Request) -> Result<Response> {
    let limit = req.config().max_upload;
    let mut bytes = Vec::new();
    req.body()
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::bad_request("The body was cut short.").with_source(error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::too_large(format!("The body is larger than {limit} bytes (ASIDE_MAX_UPLOAD).")));
    }
    let bytes = if bytes.is_empty() { b"OK".to_vec() } else { bytes };
    Ok(Response::bytes("text/plain; charset=utf-8", bytes))
}

fn echo(req: &mut Request) -> String {
    req.headers().iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn cookies(req: &mut Request) -> String {
    req.cookies().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// A parameter of the query; empty when it is not there.
fn query(req: &mut Request, name: &str) -> Result<String> {
    let pairs = req.query_pairs()?;
    Ok(pairs.into_iter().find(|(key, _)| key == name).map_or_else(String::new, |(_, value)| value))
}

/// The name, the type, the length and the digest of each part.
#[derive(Serialize)]
struct PartSeen {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    len: usize,
    sha256: String,
}

fn multipart(req: &mut Request) -> Result<Json<Vec<PartSeen>>> {
    req.multipart()?.parts().iter().map(PartSeen::of).collect::<Result<_>>().map(Json)
}

impl PartSeen {
    fn of(part: &Part) -> Result<PartSeen> {
        let mut content = Vec::new();
        part.open()?.read_to_end(&mut content)?;
        Ok(PartSeen {
            name: part.name().to_owned(),
            filename: part.filename().map(str::to_owned),
            content_type: part.content_type().map(str::to_owned),
            len: content.len(),
            sha256: hex(&Sha256::digest(&content)),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image in the field `file`, small.
fn thumb(req: &mut Request) -> Result<Response> {
    let thumbnail = DecodeOptions::new().largest_fit(Fit::Inside(256, 256));
    let image = thumbnail.open(req.multipart()?.file("file")?.path())?;
    Ok(Response::bytes(Format::Png.content_type(), image.encode(Fit::Inside(256, 256), Format::Png)?))
}

fn header(req: &mut Request) -> Result<Response> {
    let value = query(req, "v")?;
    let response = Response::text("OK").cookie(("c", value.as_str()));
    response
        .try_header("X-V", value)
        .map_err(|error| Error::bad_request("That cannot be a header value.").with_source(error))
}

/// The longest id of a job, in bytes.
const MOST_ID: usize = 1_000;

/// The lease of a worker: short, so that a person who tries this does not wait long for the recovery.
const LEASE: Duration = Duration::from_secs(5);

/// How long one POST to the ledger may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The application with jobs that are kept there.
fn with_jobs(app: App, setting: &str, ledger: Option<String>) -> Result<App> {
    let jobs = Jobs::open(setting)?.register::<Effect>().concurrency(16).lease(LEASE);
    let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().new_agent();
    let ledger = ledger.map(|base| base.trim_end_matches('/').to_owned());
    Ok(app.state(Effects { kept: Kept::open(setting)?, ledger, agent }).jobs(jobs))
}

/// A job that is to have one effect.
#[derive(Serialize, Deserialize)]
struct Effect {
    id: String,
}

impl Job for Effect {
    const NAME: &'static str = "effect";

    fn retry() -> Retry {
        Retry::exponential(20, Duration::from_secs(1))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        task.sleep(Duration::from_millis(20))?;
        let effects: Arc<Effects> = task.state();
        effects.tell(&self.id, task)?;
        effects.kept.put(&self.id, task)
    }
}

/// What the effects of jobs are recorded with.
struct Effects {
    kept: Kept,
    ledger: Option<String>,
    agent: ureq::Agent,
}

impl Effects {
    /// Tells the ledger, when there is one, that the job's work is done.
    fn tell(&self, id: &str, task: &TaskContext) -> Result<()> {
        let Some(base) = &self.ledger else { return Ok(()) };
        let url = format!("{base}/done");
        let request = self.agent.post(url).query("id", id).query("attempt", run(task)?.to_string());
        request.send_empty().map_err(|error| Error::from(error).context("the ledger did not take it"))?;
        Ok(())
    }
}

/// Which run of its job this is, from 1: the tries that failed, and those that ended with their process.
fn run(task: &TaskContext) -> Result<u32> {
    let job = task.job().map(|id| task.jobs()?.find(id)).transpose()?.flatten();
    Ok(task.attempt() + job.map_or(0, |job| job.interruptions))
}

/// Where effects are kept: beside the jobs.
enum Kept {
    /// The file of the jobs.
    Sqlite(String),
    /// The database of the jobs.
    #[cfg(feature = "redis")]
    Redis(Box<redis::Client>),
    /// Here, as long as the jobs.
    Memory(Mutex<Vec<String>>),
}

impl Kept {
    fn open(setting: &str) -> Result<Kept> {
        if let Some(path) = setting.strip_prefix("sqlite:") {
            let table = "CREATE TABLE IF NOT EXISTS effects (number INTEGER PRIMARY KEY, id TEXT NOT NULL)";
            connect(path)?.execute_batch(table)?;
            return Ok(Kept::Sqlite(path.to_owned()));
        }
        #[cfg(feature = "redis")]
        if setting.starts_with("redis") {
            return Ok(Kept::Redis(redis::Client::open(setting)?.into()));
        }
        Ok(Kept::Memory(Mutex::default()))
    }

    /// Records the effect of the job that this is a run of.
    fn put(&self, id: &str, task: &TaskContext) -> Result<()> {
        match self {
            Kept::Sqlite(_) => task.transaction(|db| {
                db.execute("INSERT INTO effects (id) VALUES (?1)", [id])?;
                Ok(())
            }),
            #[cfg(feature = "redis")]
            Kept::Redis(client) => Ok(redis::cmd("HSETNX")
                .arg(REDIS_KEY)
                .arg(task.job())
                .arg(id)
                .query::<()>(&mut client.get_connection_with_timeout(PATIENCE)?)?),
            Kept::Memory(ids) => {
                ids.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
                Ok(())
            }
        }
    }

    /// All of them, in the order in which they came, or with Redis that of the jobs.
    fn all(&self) -> Result<Vec<String>> {
        match self {
            Kept::Sqlite(path) => {
                let db = connect(path)?;
                let mut rows = db.prepare("SELECT id FROM effects ORDER BY number")?;
                Ok(rows.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
            }
            #[cfg(feature = "redis")]
            Kept::Redis(client) => {
                let mut connection = client.get_connection_with_timeout(PATIENCE)?;
                let ids: std::collections::BTreeMap<u64, String> =
                    redis::cmd("HGETALL").arg(REDIS_KEY).query(&mut connection)?;
                Ok(ids.into_values().collect())
            }
            Kept::Memory(ids) => Ok(ids.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }
}

/// The hash that effects are kept in: the number of the job, and the id.
#[cfg(feature = "redis")]
const REDIS_KEY: &str = "inspector:effects";

fn connect(path: &str) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(PATIENCE)?;
    Ok(db)
}

fn enqueue(req: &mut Request) -> Result<String> {
    jobs(req)?;
    let mut body = Vec::new();
    req.body().take(MOST_ID as u64 + 1).read_to_end(&mut body)?;
    if body.len() > MOST_ID {
        return Err(Error::too_large(format!("An id has at most {MOST_ID} bytes.")));
    }
    let id = String::from_utf8(body).map_err(|_| Error::bad_request("An id is text in UTF-8."))?;
    if id.is_empty() {
        return Err(Error::bad_request("The body is to be the id of the job, and is empty."));
    }
    Ok(format!("{}\n", req.enqueue(Effect { id })?.id))
}

fn ready(req: &mut Request) -> Result<String> {
    let jobs = jobs(req)?;
    // Workers run before the first request is taken.
    jobs.counts().map_err(|error| error.status(Status::SERVICE_UNAVAILABLE))?;
    Ok("ready\n".into())
}

fn effects(req: &mut Request) -> Result<String> {
    jobs(req)?;
    let ids = req.state::<Effects>().kept.all()?;
    Ok(ids.iter().map(|id| line(id) + "\n").collect())
}

/// An id as one line.
fn line(id: &str) -> String {
    let encode = |c: char| match c {
        c if c == '%' || c.is_ascii_control() => format!("%{:02X}", c as u32),
        c => c.to_string(),
    };
    id.chars().map(encode).collect()
}

fn jobs(req: &Request) -> Result<Jobs> {
    req.jobs().map_err(|error| {
        let words = "There are no jobs here: start the inspector with ASIDE_JOBS=sqlite:PATH (or redis://…).";
        Error::new(Status::SERVICE_UNAVAILABLE, words).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use aside::testing::TestClient;

    use super::*;

    fn client() -> TestClient {
        TestClient::new(app(Config::default(), None))
    }

    #[test]
    fn any_method_and_path_is_answered() {
        let mut client = client();
        for (method, path) in
            [("GET", "/"), ("BREW", "/"), ("PUT", "/a/b/c"), ("DELETE", "/t"), ("GET", "/static/a.css")]
        {
            let answer = client.request(method, path).send();
            assert_eq!((answer.status_code(), answer.text()), (Status::OK, "OK"), "{method} {path}");
        }
        assert_eq!(client.post("/").body("application/octet-stream", b"\0\xff".to_vec()).send().bytes(), b"\0\xff");
    }

    #[test]
    fn headers_and_cookies_come_back_in_order() {
        let mut client = client();
        let answer = client.request("GET", "/echo").header("X-B", "2").header("x-a", "1").header("X-B", "3").send();
        assert!(answer.text().ends_with("X-B: 2\nx-a: 1\nX-B: 3\n"), "{answer:?}");
        for path in ["/cookie", "/t/cookies"] {
            let answer = client.request("GET", path).header("Cookie", "b=2; a=1; b=%C3%A9; q=\"x\"").send();
            assert!(answer.text().starts_with("b=2\na=1\nb=é\nq="), "{answer:?}");
        }
    }

    #[test]
    fn every_host_and_every_site_is_answered() {
        let answer = client().post("/").header("Host", "any.example").header("Sec-Fetch-Site", "cross-site").send();
        assert_eq!((answer.status_code(), answer.text()), (Status::OK, "OK"));
    }

    #[test]
    fn pairs_come_back_in_order() {
        let mut client = client();
        let answer = client.post("/t/form").form(&[("b", "2"), ("a", ""), ("b", "1 é&=")]).send();
        assert_eq!(answer.text(), r#"[["b","2"],["a",""],["b","1 é&="]]"#);
        assert_eq!(client.get("/t/query?b=2&a&b=%C3%A9+x").text(), r#"[["b","2"],["a",""],["b","é x"]]"#);
        assert_eq!(client.post("/t/form").json(&1).send().status_code(), Status::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn parts_come_back_in_order_with_what_is_in_them() {
        let mut client = client();
        let request =
            client.post("/t/multipart").field("b", "hello").file("f", "a.txt", "text/plain", b"abc").field("b", "");
        let parts: serde_json::Value = request.send().json();
        let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        assert_eq!(
            parts,
            serde_json::json!([
                { "name": "b", "filename": null, "content_type": null, "len": 5, "sha256": hash(b"hello") },
                { "name": "f", "filename": "a.txt", "content_type": "text/plain", "len": 3, "sha256": hash(b"abc") },
                { "name": "b", "filename": null, "content_type": null, "len": 0, "sha256": hash(b"") },
            ])
        );
    }

    #[test]
    fn an_image_comes_back_small_and_what_is_none_is_422() {
        let mut client = client();
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(1000, 500).write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        let answer = client.post("/t/thumb").file("file", "a.jpg", "image/jpeg", bytes.get_ref()).send();
        assert_eq!(answer.header("Content-Type"), Some("image/png"));
        let small = image::load_from_memory_with_format(answer.bytes(), image::ImageFormat::Png).unwrap();
        assert_eq!((small.width(), small.height()), (256, 128));
        for bad in [&b"no image"[..], b"", &bytes.get_ref()[..300]] {
            let answer = client.post("/t/thumb").file("file", "a.jpg", "image/jpeg", bad).send();
            assert_eq!(answer.status_code(), Status::UNPROCESSABLE_CONTENT, "{answer:?}");
        }
        assert_eq!(client.post("/t/thumb").field("other", "x").send().status_code(), Status::UNPROCESSABLE_CONTENT);
    }

    /// An image that no detail of can be left out.
    fn sample() -> image::RgbImage {
        image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]))
    }

    fn samples() -> Vec<(image::ImageFormat, Vec<u8>)> {
        use image::ImageFormat::{Gif, Jpeg, Png, WebP};
        let encode = |format| {
            let mut bytes = std::io::Cursor::new(Vec::new());
            image::DynamicImage::from(sample()).write_to(&mut bytes, format).unwrap();
            (format, bytes.into_inner())
        };
        [Jpeg, Png, WebP, Gif].into_iter().map(encode).collect()
    }

    /// A PNG of that width and height, and of one bit for each pixel that is there or not.
    fn png(width: u32, height: u32, rows: usize) -> Vec<u8> {
        use std::io::Write;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        let row = vec![0; width.div_ceil(8) as usize + 1];
        (0..rows).for_each(|_| packed.write_all(&row).unwrap());
        let packed = packed.finish().unwrap();
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[1, 0, 0, 0, 0]].concat();
        let chunks = [(*b"IHDR", header), (*b"IDAT", packed), (*b"IEND", Vec::new())].map(|(kind, data)| {
            let mut crc = flate2::Crc::new();
            [&kind[..], &data].iter().for_each(|bytes| crc.update(bytes));
            [&(data.len() as u32).to_be_bytes()[..], &kind, &data, &crc.sum().to_be_bytes()].concat()
        });
        [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
    }

    fn thumb_of(client: &mut TestClient, name: &str, bytes: &[u8]) -> u16 {
        client.post("/t/thumb").file("file", name, "image/png", bytes).send().status_code().code()
    }

    #[test]
    fn a_broken_image_is_422_or_an_image_all_the_same() {
        let mut client = client();
        let mut count = 0;
        for (format, whole) in samples() {
            let cuts = (0..140).map(|n| whole[..whole.len() * n / 140].to_vec());
            // The same bits at each run, from everywhere in the file and most of all from its beginning.
            let flips = (0..290_usize).map(|n| {
                let mut bytes = whole.clone();
                let at = if n < 120 { n / 2 } else { n * 7919 } % whole.len();
                bytes[at] ^= 1 << (n * 5 % 8);
                bytes
            });
            for (n, bytes) in cuts.chain(flips).enumerate() {
                let status = thumb_of(&mut client, "a.png", &bytes);
                assert!(status == 422 || (status == 200 && n > 0), "{format:?} {n}: {status}");
                count += 1;
            }
            assert_eq!(thumb_of(&mut client, "wrong-extension.bmp", &whole), 200);
        }
        assert!(count >= 1_700, "{count}");
    }

    #[test]
    fn an_image_that_would_be_too_large_is_422() {
        let mut client = client();
        assert_eq!(thumb_of(&mut client, "small.png", &png(64, 64, 64)), 200);
        for (width, height, rows) in [
            (u32::MAX, u32::MAX, 1),
            (0x7fff_ffff, 1, 1),
            (65_535, 65_535, 1),
            (0, 0, 1),
            (0, 64, 1),
            (20_000, 20_000, 20_000),
        ] {
            let rows = if width > 20_000 { 0 } else { rows };
            assert_eq!(thumb_of(&mut client, "a.png", &png(width, height, rows)), 422, "{width}x{height}");
        }
        let patches: [(usize, usize, &[u8]); 3] = [(0, 163, &[0xff; 4]), (2, 21, &[0xff; 4]), (3, 6, &[0xff; 4])];
        for (sample, at, bytes) in patches {
            let (format, mut whole) = samples().swap_remove(sample);
            // A JPEG's size stands behind the mark of its frame.
            let at = if sample == 0 { whole.windows(2).position(|mark| mark == [0xff, 0xc0]).unwrap() + 5 } else { at };
            whole[at..at + bytes.len()].copy_from_slice(bytes);
            let status = thumb_of(&mut client, "a", &whole);
            assert!(status == 422 || (status == 200 && sample == 3), "{format:?}: {status}");
        }
    }

    #[test]
    fn any_host_is_answered_and_headers_come_back_as_they_were_sent() {
        use std::io::Write;
        let server = app(Config { address: "127.0.0.1:0".into(), ..Config::default() }, None).start().unwrap();
        let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
        let fields = "Host: evil.example\r\nX-b: 2\r\nx-A: 1\r\nX-b: 3\r\nOrigin: null\r\nConnection: close\r\n";
        stream.write_all(format!("GET /echo HTTP/1.1\r\n{fields}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&fields.replace('\r', "")), "{answer}");
    }

    #[test]
    fn only_local_redirects_are_followed() {
        let mut client = client();
        for (next, to) in
            [("/a%3Fb=1", "/a?b=1"), ("//evil.example", "/"), ("https://evil.example", "/"), ("%FF", "/"), ("", "/")]
        {
            assert_eq!(client.get(&format!("/t/redirect?next={next}")).location(), Some(to), "{next}");
        }
        assert_eq!(client.get("/t/redirect").location(), Some("/"));
    }

    #[test]
    fn a_header_is_set_or_refused() {
        let mut client = client();
        let answer = client.get("/t/header?v=one%20two");
        assert_eq!((answer.status_code(), answer.header("X-V")), (Status::OK, Some("one two")));
        assert_eq!(client.cookies()["c"], "one%20two");
        for bad in ["a%0D%0ASet-Cookie:%20x=y", "a%0Ab", "a%00b", "%7F"] {
            let answer = client.get(&format!("/t/header?v={bad}"));
            assert_eq!((answer.status_code(), answer.header("X-V")), (Status::BAD_REQUEST, None), "{bad}");
            assert!(!answer.headers().contains("Set-Cookie"));
        }
    }

    #[test]
    fn files_are_served_when_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.css"), "a {}").unwrap();
        let mut client = TestClient::new(app(Config::default(), folder.path().to_str()));
        assert_eq!(client.get("/static/a.css").text(), "a {}");
        assert_eq!(client.get("/static/b.css").status_code(), Status::NOT_FOUND);
        assert_eq!(client.get("/static/../Cargo.toml").status_code(), Status::NOT_FOUND);
    }

    #[test]
    fn a_megabyte_is_a_megabyte() {
        let answer = client().get("/big");
        assert_eq!(
            (answer.bytes().len(), answer.header("Content-Type")),
            (1_000_000, Some("text/plain; charset=utf-8"))
        );
    }

    /// A ledger that records each request, and refuses as many of them as a test says.
    fn ledger(refusals: usize) -> (aside::server::Server, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let theirs = told.clone();
        let done = move |req: &mut Request| {
            let mut told = theirs.lock().unwrap();
            told.push(format!("{} {}", req.method(), req.target()));
            if told.len() <= refusals { Status::SERVICE_UNAVAILABLE } else { Status::OK }
        };
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        (App::with_config(config).post("/done", done).start().unwrap(), told)
    }

    fn with_sqlite(folder: &tempfile::TempDir, ledger: Option<&aside::server::Server>) -> TestClient {
        let setting = format!("sqlite:{}", folder.path().join("jobs.db").display());
        let ledger = ledger.map(|ledger| format!("http://{}/", ledger.addr()));
        TestClient::new(with_jobs(app(Config::default(), None), &setting, ledger).unwrap())
    }

    fn enqueue(client: &mut TestClient, id: impl Into<Vec<u8>>) -> u16 {
        client.post("/t/enqueue").body("text/plain", id).send().status_code().code()
    }

    #[test]
    fn without_jobs_it_says_how_to_have_some() {
        let mut client = client();
        assert_eq!(enqueue(&mut client, "a"), 503);
        for path in ["/t/ready", "/t/effects"] {
            let answer = client.get(path);
            assert_eq!(answer.status_code(), Status::SERVICE_UNAVAILABLE);
            assert!(answer.text().contains("ASIDE_JOBS"), "{answer:?}");
        }
    }

    #[test]
    fn a_job_tells_the_ledger_and_has_its_effect_once() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, told) = ledger(0);
        let mut client = with_sqlite(&folder, Some(&ledger));
        assert_eq!(client.get("/t/ready").text(), "ready\n");
        let longest = "x".repeat(MOST_ID);
        for id in ["17", "Привет & пока", "a\nb%", " a ", &longest] {
            assert_eq!(enqueue(&mut client, id), 200, "{id}");
        }
        assert_eq!(client.get("/t/effects").text(), "");
        client.drain();
        assert_eq!(client.get("/t/effects").text(), format!("17\nПривет & пока\na%0Ab%25\n a \n{longest}\n"));
        let told = told.lock().unwrap();
        assert_eq!(told[0], "POST /done?id=17&attempt=1");
        assert_eq!(told.len(), 5);
        assert!(told[2].starts_with("POST /done?id=a%0Ab%25&attempt=1"), "{told:?}");
    }

    #[test]
    fn what_is_no_id_is_refused_and_nothing_is_enqueued() {
        let folder = tempfile::tempdir().unwrap();
        let mut client = with_sqlite(&folder, None);
        for (body, status) in
            [(vec![], 400), (vec![0xff], 400), (vec![b'x'; MOST_ID + 1], 413), (vec![b'x'; 1 << 20], 413)]
        {
            assert_eq!(enqueue(&mut client, body), status);
        }
        assert_eq!(client.get("/t/enqueue").status_code(), Status::METHOD_NOT_ALLOWED);
        assert_eq!(client.jobs().counts().unwrap(), aside::jobs::JobCounts::default());
    }

    #[test]
    fn a_ledger_that_takes_nothing_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, told) = ledger(1);
        let mut client = with_sqlite(&folder, Some(&ledger));
        assert_eq!(enqueue(&mut client, "a"), 200);
        client.drain();
        assert_eq!(client.get("/t/effects").text(), "", "it has failed");
        client.advance(Duration::from_secs(2));
        client.drain();
        assert_eq!(client.get("/t/effects").text(), "a\n");
        assert_eq!(*told.lock().unwrap(), ["POST /done?id=a&attempt=1", "POST /done?id=a&attempt=2"]);
    }
}
