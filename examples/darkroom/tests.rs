//! The pages of the site, through the test client, without a socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use aside::config::Mode;
use aside::jobs::{JobInfo, JobState};
use aside::mail::SentMail;
use aside::testing::{EventReader, TestClient, TestResponse};
use aside::{Config, Error, Mail, Request, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, write::GzEncoder};
use hmac::{Hmac, KeyInit, Mac};
use image::{ImageFormat, Rgb, RgbImage};
use jiff::SignedDuration;
use sha2::Sha256;
use tempfile::TempDir;

use super::feed::{Feed, Sources};
use super::orders::Charge;
use super::site::{Settings, Site};
use super::sizes::MakeSizes;
use super::store::Store;
use super::{app, app_with, errors};

const PASSWORD: &str = "a lamp that is red";

/// A site in a temporary folder, and a client. The client is dropped first, and the folder last.
struct Visit {
    client: TestClient,
    folder: TempDir,
}

impl std::ops::Deref for Visit {
    type Target = TestClient;
    fn deref(&self) -> &TestClient {
        &self.client
    }
}

impl std::ops::DerefMut for Visit {
    fn deref_mut(&mut self) -> &mut TestClient {
        &mut self.client
    }
}

fn settings(data: &Path) -> Settings {
    Settings {
        config: Config::default(),
        data: data.to_owned(),
        owner: "owner@darkroom.example".into(),
        webhook_url: None,
        webhook_secret: None,
    }
}

fn visit_with(change: impl FnOnce(&mut Settings)) -> Visit {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(folder.path());
    change(&mut settings);
    Visit { client: TestClient::new(app(settings).unwrap()), folder }
}

fn visit() -> Visit {
    visit_with(|_| ())
}

impl Visit {
    fn upload(&mut self, title: &str, filename: &str, content: &[u8]) -> TestResponse {
        self.post("/photos").field("title", title).file("photo", filename, "image/jpeg", content).send()
    }

    /// Returns a site with a complete photo.
    fn with_photo() -> Visit {
        let mut visit = visit();
        assert_eq!(visit.upload("Harbour", "harbour.jpg", &jpeg(300, 200)).status_code(), Status::SEE_OTHER);
        visit.drain();
        visit
    }

    /// Returns a site with its owner, who is logged in.
    fn as_owner() -> Visit {
        let mut visit = Visit::with_photo();
        assert_eq!(visit.sign_up("ada@example.org", PASSWORD).location(), Some("/account"));
        assert!(visit.get("/").text().contains("This site is yours"));
        visit
    }

    fn sign_up(&mut self, email: &str, password: &str) -> TestResponse {
        self.post("/signup").form(&[("email", email), ("password", password)]).send()
    }

    fn log_in(&mut self, password: &str) -> TestResponse {
        self.post("/login").form(&[("email", "ada@example.org"), ("password", password), ("next", "")]).send()
    }

    /// Runs `f` as a browser with these cookies.
    fn as_another<T>(&mut self, cookies: BTreeMap<String, String>, f: impl FnOnce(&mut Visit) -> T) -> T {
        let own = self.cookies().clone();
        self.swap_cookies(cookies);
        let result = f(self);
        self.swap_cookies(own);
        result
    }

    fn swap_cookies(&mut self, cookies: BTreeMap<String, String>) {
        for name in ["session", "__Host-session"] {
            let value = cookies.get(name).map_or("", String::as_str);
            self.set_cookie(name, value);
        }
    }

    fn order(&mut self, fields: &[(&str, &str)]) -> TestResponse {
        self.post("/orders").form(fields).send()
    }

    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("darkroom.db")).unwrap()
    }

    /// Returns the job that makes or made a photo's sizes.
    fn job_of(&self, photo: i64) -> JobInfo {
        let job = self.state::<Store>().photo(photo).unwrap().unwrap().job.unwrap();
        self.jobs().find(job).unwrap().unwrap()
    }

    /// Runs all attempts.
    fn try_to_the_end(&mut self) {
        for _ in 0..3 {
            self.advance(Duration::from_secs(60));
            self.drain();
        }
    }

    /// Replaces a photo's original by a pipe, which blocks its reader until the test writes.
    #[cfg(unix)]
    fn original_becomes_a_pipe(&self, photo: i64) -> PathBuf {
        let name = self.state::<Store>().photo(photo).unwrap().unwrap().original;
        let original = self.folder.path().join("photos/originals").join(name);
        fs::remove_file(&original).unwrap();
        make_a_pipe(&original);
        original
    }

    fn files(&self) -> Vec<String> {
        let photos = self.folder.path().join("photos");
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
            entries
                .filter(|entry| entry.path().is_file())
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect()
        };
        [names(&photos), names(&photos.join("originals"))].concat()
    }
}

#[cfg(unix)]
pub fn make_a_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// A local source of news. Each request waits until the test sends the response.
struct LocalSource {
    url: String,
    answers: Sender<Vec<u8>>,
    asked: Arc<AtomicUsize>,
}

fn source() -> LocalSource {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/feed.xml", listener.local_addr().unwrap());
    let ((answers, let_go), asked) = (mpsc::channel::<Vec<u8>>(), Arc::<AtomicUsize>::default());
    let count = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let lines = stream.by_ref().lines().map_while(Result::ok);
            assert!(lines.take_while(|line| !line.is_empty()).count() > 1, "a request has a head");
            count.fetch_add(1, Ordering::SeqCst);
            let Ok(answer) = let_go.recv() else { return };
            // The client may disconnect in the middle.
            let _ = stream.get_mut().write_all(&answer);
        }
    });
    LocalSource { url, answers, asked }
}

impl LocalSource {
    fn answer(&self, status: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        self.answers.send([head.as_bytes(), body].concat()).unwrap();
    }

    fn posts(&self, posts: &str) {
        self.answer("200 OK", format!("<rss><channel>{posts}</channel></rss>").as_bytes());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Returns a site whose feed has these sources.
fn visit_to(sources: &[(&str, &str)], patience: Duration) -> Visit {
    let folder = TempDir::new().unwrap();
    let named: String = sources.iter().flat_map(|(name, url)| [*name, "=", *url, ","]).collect();
    let sources = Sources { patience, ..Sources::parse(&named).unwrap() };
    Visit { client: TestClient::new(app_with(settings(folder.path()), sources).unwrap()), folder }
}

const LONG: Duration = Duration::from_secs(60);

/// Returns the part of a page or an event for one source.
fn of_source<'p>(page: &'p str, name: &str) -> &'p str {
    let named = |part: &&str| part.contains(&format!(">{name}</h2>"));
    page.split("</section>").find(named).unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// Returns an image whose left half is red and right half is blue.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([220, 20, 20]) } else { Rgb([20, 20, 220]) })
}

pub fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture(width, height).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// Returns that image as a phone held upright writes it: rotated, with an orientation of 90 degrees clockwise.
fn turned_jpeg(width: u32, height: u32) -> Vec<u8> {
    let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let exif = [b"Exif\0\0", &tiff[..]].concat();
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let jpeg = jpeg(width, height);
    [&jpeg[..2], b"\xff\xe1", &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn an_empty_gallery_invites_to_upload() {
    let page = visit().get("/");
    assert_eq!(page.status_code(), Status::OK);
    assert!(page.text().contains("The walls are still bare"));
    assert!(page.text().contains(r#"enctype="multipart/form-data""#));
    assert!(!page.text().contains(" style=") && !page.text().contains("<script"));
}

#[test]
fn an_uploaded_photo_is_shown_upright_in_three_sizes() {
    let mut visit = visit();
    let answer = visit.upload("Harbour", "harbour.jpg", &turned_jpeg(2400, 1200));
    assert_eq!((answer.status_code(), answer.location()), (Status::SEE_OTHER, Some("/photos/1")));
    visit.drain();
    assert!(visit.failures().is_empty(), "{:?}", visit.failures());

    let page = visit.get("/photos/1");
    assert!(page.text().contains("Photo uploaded!") && page.text().contains("/photos/1/1600.jpg"), "{page:?}");
    assert!(!page.text().contains("http-equiv"));
    assert!(!visit.get("/photos/1").text().contains("Photo uploaded!"));
    for (size, expected) in [(1600, (800, 1600)), (800, (400, 800)), (200, (100, 200))] {
        let answer = visit.get(&format!("/photos/1/{size}.jpg"));
        assert_eq!(answer.header("Content-Type"), Some("image/jpeg"));
        // Not cached for a year, since the photo may be taken down.
        assert_eq!(answer.header("Cache-Control"), Some("public, max-age=3600"));
        let picture = image::load_from_memory(answer.bytes()).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), expected);
        let (top, bottom) = (picture.get_pixel(20, 10), picture.get_pixel(20, expected.1 - 10));
        assert!(top[0] > 150 && top[2] < 100 && bottom[2] > 150 && bottom[0] < 100, "{size}: {top:?} {bottom:?}");
    }
    assert!(visit.get("/").text().contains("/photos/1/800.jpg"));
}

/// An earlier version of the site, killed in the middle, left a photo without a job.
const UNFINISHED: &str = "UPDATE photos SET width = NULL, height = NULL, job = NULL";

#[test]
fn a_photo_without_a_job_is_shown_as_such_and_gets_a_job() {
    let mut visit = Visit::with_photo();
    visit.database().execute(UNFINISHED, []).unwrap();
    assert_eq!(visit.get("/photos/1/800.jpg").status_code(), Status::NOT_FOUND);

    let page = visit.get("/photos/1");
    assert!(page.text().contains("being prepared"));
    assert!(page.text().contains(r#"<noscript><meta http-equiv="refresh" content="2"></noscript>"#), "{page:?}");
    assert!(visit.get("/photos/1").text().contains("being prepared"));
    assert_eq!(visit.jobs().enqueued::<MakeSizes>().len(), 1, "one job, however many look");
    visit.drain();
    assert!(visit.get("/photos/1").text().contains("/photos/1/1600.jpg"));

    // An open page reconnects to its stream.
    visit.database().execute(UNFINISHED, []).unwrap();
    let mut events = visit.events("/photos/1/live");
    visit.drain();
    wait_for(&mut events, "/photos/1/1600.jpg");

    // Or the gallery is opened.
    visit.database().execute(UNFINISHED, []).unwrap();
    visit.state::<Site>().gallery.clear();
    assert!(visit.get("/").text().contains("Being prepared"));
    visit.drain();
    assert!(visit.get("/").text().contains("/photos/1/800.jpg"));
}

/// Returns the first event with this text.
fn wait_for(events: &mut EventReader, words: &str) -> String {
    loop {
        let event = events.next();
        assert_eq!(event.name, "", "it is not over before it shows {words:?}");
        if event.data.contains(words) {
            return event.data;
        }
    }
}

#[test]
fn two_open_pages_follow_a_photo_until_it_is_ready() {
    let mut visit = visit();
    visit.upload("Harbour", "harbour.jpg", &jpeg(300, 200));
    let page = visit.get("/photos/1").text().to_owned();
    assert!(page.contains(r#"<aside-live src="/photos/1/live""#) && page.contains("0 of 3 sizes"), "{page}");
    assert!(page.contains(r#"<noscript><meta http-equiv="refresh""#) && page.contains("Look again now"), "{page}");
    assert!(visit.get("/").text().contains("Being prepared"));
    let mut watchers = [visit.events("/photos/1/live"), visit.events("/photos/1/live")];
    watchers.iter_mut().for_each(|events| drop(wait_for(events, r#"<progress value="0" max="3""#)));
    // The progress that the process with the job reports.
    visit.database().execute("UPDATE aside_jobs SET done = 1", []).unwrap();
    watchers.iter_mut().for_each(|events| drop(wait_for(events, "1 of 3 sizes")));
    visit.drain();
    let seen = watchers.each_mut().map(|events| {
        let data = wait_for(events, "/photos/1/1600.jpg");
        assert_eq!(events.next().name, "end");
        data
    });
    assert!(seen[0] == seen[1] && seen[0].contains(r#"width="300" height="200""#), "{seen:?}");
    assert_eq!((visit.job_of(1).state, visit.failures().len()), (JobState::Done, 0));
    let page = visit.get("/photos/1").text().to_owned();
    assert!(page.contains(seen[0].trim()), "the page shows the same without the stream: {page}");
    assert!(!page.contains("<aside-live") && !page.contains("<noscript") && !page.contains("<script"), "{page}");
    assert!(!visit.folder.path().join("photos/making/1").exists(), "the tray is put away");
}

#[test]
fn open_pages_show_the_failure_of_a_photo() {
    let mut visit = visit();
    visit.upload("Fog", "fog.jpg", &jpeg(600, 400)[..400]);
    let mut broken = visit.events("/photos/1/live");
    visit.drain();
    wait_for(&mut broken, "could not be prepared");
    assert_eq!(broken.next().name, "end");
    assert_eq!(
        (visit.job_of(1).state, visit.failures().len()),
        (JobState::Done, 0),
        "it is nobody's but the picture's"
    );

    assert!(!visit.folder.path().join("photos/making/1").exists());

    visit.upload("Rain", "rain.jpg", &jpeg(30, 20));
    let (originals, away) = (visit.folder.path().join("photos/originals"), visit.folder.path().join("away"));
    fs::rename(&originals, &away).unwrap();
    let mut ours = visit.events("/photos/2/live");
    visit.drain();
    wait_for(&mut ours, "is tried again in a moment");
    visit.try_to_the_end();
    wait_for(&mut ours, "went wrong on our side");
    assert_eq!(ours.next().name, "end");
    // The first request stored the outcome and updated the gallery.
    visit.drain();
    assert!(!visit.get("/").text().contains("Rain"), "it is not in the gallery");
    assert_eq!((visit.job_of(2).state, visit.job_of(2).failures.len()), (JobState::Dead, 3));

    // The owner fixed the cause, and has the job retried.
    fs::rename(&away, &originals).unwrap();
    assert!(visit.jobs().retry(visit.job_of(2).id).unwrap());
    assert!(visit.get("/photos/2").text().contains("0 of 3 sizes"));
    let mut again = visit.events("/photos/2/live");
    visit.drain();
    wait_for(&mut again, "/photos/2/1600.jpg");
    assert!(visit.get("/").text().contains("/photos/2/800.jpg"));
}

#[test]
fn a_cancelled_job_is_shown_as_interrupted() {
    let mut visit = visit();
    for (title, words) in [("Harbour", "was interrupted"), ("Fog", "was called off")] {
        let page = visit.upload(title, "photo.jpg", &jpeg(30, 20)).location().unwrap().to_owned();
        let job = visit.jobs().list(JobState::Waiting, None).unwrap()[0].id;
        let mut events = visit.events(&format!("{page}/live"));
        match title {
            "Harbour" => assert!(visit.jobs().discard(job).unwrap()),
            _ => drop(visit.jobs().cancel(job).unwrap()),
        }
        wait_for(&mut events, words);
        assert_eq!(events.next().name, "end");
        visit.drain();
    }
    assert!(visit.get("/photos/1").text().contains("/photos/1/1600.jpg"), "whoever looks has it begun again");
    assert!(visit.get("/photos/2").text().contains("was called off"));
}

#[test]
fn a_photo_and_its_job_are_stored_together_or_not_at_all() {
    let mut visit = visit();
    visit.database().execute_batch("ALTER TABLE aside_jobs RENAME TO elsewhere").unwrap();
    assert_eq!(visit.upload("Harbour", "harbour.jpg", &jpeg(30, 20)).status_code(), Status::INTERNAL_SERVER_ERROR);
    visit.database().execute_batch("ALTER TABLE elsewhere RENAME TO aside_jobs").unwrap();
    assert!(visit.files().is_empty(), "{:?}", visit.files());
    assert!(visit.get("/").text().contains("The walls are still bare"));
    assert_eq!(visit.upload("Harbour", "harbour.jpg", &jpeg(30, 20)).location(), Some("/photos/1"));
    assert_eq!(visit.jobs().enqueued::<MakeSizes>().iter().map(|job| job.id).collect::<Vec<_>>(), [1]);

    visit.drain();
    visit.database().execute_batch("ALTER TABLE aside_jobs RENAME TO elsewhere").unwrap();
    let fields = [("photo", "1"), ("email", "ada@example.org"), ("quantity", "1")];
    assert_eq!(visit.order(&fields).status_code(), Status::INTERNAL_SERVER_ERROR);
    visit.database().execute_batch("ALTER TABLE elsewhere RENAME TO aside_jobs").unwrap();
    assert!(visit.get("/orders").text().contains("No prints have been ordered"));
}

#[test]
fn the_stream_of_a_finished_photo_shows_it_and_ends() {
    let mut visit = Visit::with_photo();
    visit.upload("Fog", "fog.jpg", &jpeg(600, 400)[..400]);
    visit.drain();
    for (path, words) in [("/photos/1/live", "/photos/1/1600.jpg"), ("/photos/2/live", "could not be prepared")] {
        let mut events = visit.events(path);
        wait_for(&mut events, words);
        assert_eq!(events.next().name, "end", "{path}");
    }
    assert_eq!(visit.jobs().counts().unwrap().waiting, 0, "nothing is begun");
    for path in ["/photos/99/live", "/photos/x/live"] {
        assert_eq!(visit.get(path).status_code(), Status::NOT_FOUND, "{path}");
    }
}

#[test]
fn a_fault_of_the_server_is_logged_shown_and_not_retried_without_limit() {
    let mut visit = Visit::with_photo();
    visit.database().execute(UNFINISHED, []).unwrap();
    fs::remove_dir_all(visit.folder.path().join("photos/originals")).unwrap();
    visit.get("/photos/1");
    visit.drain();
    visit.try_to_the_end();
    assert_eq!(visit.job_of(1).state, JobState::Dead);
    for _ in 0..2 {
        let page = visit.get("/photos/1");
        assert!(page.text().contains("went wrong on our side") && !page.text().contains("http-equiv"), "{page:?}");
        visit.drain();
    }
    let tries = visit.failures().iter().filter(|task| task.name().contains("make sizes of photo 1")).count();
    assert_eq!((tries, visit.jobs().enqueued::<MakeSizes>().len()), (3, 0), "{:?}", visit.failures());
}

#[test]
fn a_broken_image_is_accepted_and_its_page_reports_the_failure() {
    let mut visit = visit();
    let cut_short = &jpeg(600, 400)[..400];
    assert_eq!(visit.upload("Fog", "fog.jpg", cut_short).status_code(), Status::SEE_OTHER);
    visit.drain();
    let page = visit.get("/photos/1");
    assert!(page.text().contains("could not be prepared") && page.text().contains("Try another file"), "{page:?}");
    assert!(!page.text().contains("http-equiv"));
    assert!(!visit.get("/").text().contains("Fog"), "it is not in the gallery");
    let answer = visit.order(&[("photo", "1"), ("email", "ada@example.org"), ("quantity", "1")]);
    assert_eq!(answer.status_code(), Status::UNPROCESSABLE_CONTENT);
}

#[test]
fn an_invalid_upload_is_a_422_with_a_field_error_and_leaves_no_files() {
    let (good, long) = (jpeg(30, 20), "x".repeat(101));
    let huge = [&good[..], &vec![0; 20 << 20]].concat();
    let cases: [(&str, &str, &[u8], &str); 7] = [
        ("Too large", "huge.jpg", &huge, "at most 20 MB"),
        ("Notes", "notes.jpg", b"Dear diary, this is no picture.", "not an image"),
        ("Nothing", "empty.jpg", b"", "is empty"),
        ("No file", "", b"", "Please choose a file"),
        ("", "a.jpg", &good, "Please fill this in"),
        ("   ", "a.jpg", &good, "Please fill this in"),
        (&long, "a.jpg", &good, "at most 100 characters"),
    ];
    for (title, filename, content, words) in cases {
        let mut visit = visit();
        let page = visit.upload(title, filename, content);
        assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT, "{title}");
        assert!(page.text().contains(words) && page.text().contains(r#"aria-invalid="true""#), "{title}: {page:?}");
        assert!(page.text().contains(&format!("value=\"{title}\"")), "the title is kept");
        visit.drain();
        assert!(visit.files().is_empty(), "{title}: {:?}", visit.files());
        assert!(visit.get("/").text().contains("The walls are still bare"));
    }
}

#[test]
fn an_upload_that_is_not_a_form_or_too_large_is_refused() {
    let mut visit = visit_with(|settings| settings.config.max_upload = 5_000);
    assert_eq!(
        visit.post("/photos").body("text/plain", "a photo").send().status_code(),
        Status::UNSUPPORTED_MEDIA_TYPE
    );
    let page = visit.upload("Big", "big.jpg", &[0xff; 6_000]);
    assert_eq!(page.status_code(), Status::CONTENT_TOO_LARGE);
    assert!(page.text().contains("takes up to 4 kB") && !page.text().contains("ASIDE_MAX_UPLOAD"), "{page:?}");
    assert!(visit.files().is_empty());
}

#[test]
fn a_form_without_its_fields_is_a_422() {
    let mut visit = visit();
    let page = visit.post("/photos").field("other", "x").send();
    assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT);
    assert!(page.text().contains("title-wrong") && page.text().contains("photo-wrong"));
    for path in ["/orders", "/contact"] {
        assert_eq!(visit.post(path).form(&[]).send().status_code(), Status::UNPROCESSABLE_CONTENT, "{path}");
    }
}

#[test]
fn a_title_is_shown_as_typed_and_never_executed() {
    let mut visit = visit();
    for title in ["<script>alert(1)</script>", "Туман над рекой \"у моста\""] {
        assert_eq!(visit.upload(title, "фото.jpg", &jpeg(40, 30)).status_code(), Status::SEE_OTHER);
        visit.drain();
    }
    let pages = [visit.get("/"), visit.get("/photos/1"), visit.get("/photos/2"), visit.get("/orders")];
    for page in &pages {
        assert!(!page.text().contains("<script"), "{page:?}");
    }
    assert!(pages[1].text().contains("&lt;script&gt;alert(1)"));
    assert!(pages[2].text().contains("Туман над рекой &quot;у моста&quot;"), "{:?}", pages[2]);
}

#[test]
fn a_second_upload_of_a_file_is_a_second_photo() {
    let mut visit = Visit::with_photo();
    assert_eq!(visit.upload("Harbour", "harbour.jpg", &jpeg(300, 200)).location(), Some("/photos/2"));
    visit.drain();
    assert_eq!(visit.get("/").text().matches("Harbour</span>").count(), 2);
}

#[test]
fn an_order_is_charged_and_sends_one_mail_and_one_signed_webhook() {
    let (url, received) = listener();
    let key = [7; 32];
    let mut visit = visit_with(|settings| {
        settings.webhook_url = Some(url);
        settings.webhook_secret = Some(format!("whsec_{}", STANDARD.encode(key)));
    });
    visit.upload("Harbour & sea", "harbour.jpg", &jpeg(300, 200));
    visit.drain();
    let answer = visit.order(&[("photo", "1"), ("email", "ada@example.org"), ("quantity", "2")]);
    assert_eq!((answer.status_code(), answer.location()), (Status::SEE_OTHER, Some("/orders")));
    visit.drain();
    assert!(visit.failures().is_empty(), "{:?}", visit.failures());

    let page = visit.get("/orders");
    assert!(page.text().contains("Processing your order!") && page.text().contains("Charged"), "{page:?}");
    assert!(!page.text().contains("ada@example.org"), "an address is nobody else's business");

    let mails = visit.outbox();
    assert_eq!(mails.len(), 1);
    let receipt = &mails[0];
    assert_eq!(
        (&receipt.to[..], receipt.subject.as_str()),
        (&["ada@example.org".to_owned()][..], "Receipt for order 1")
    );
    let text = receipt.text.as_deref().unwrap();
    assert!(text.contains("2 x \"Harbour & sea\"") && text.contains("Charged: €24.00"), "{text}");
    assert!(receipt.html.as_deref().unwrap().contains("Harbour &amp; sea"));

    let webhooks: Vec<Received> = received.try_iter().collect();
    assert_eq!(webhooks.len(), 1);
    let Received { headers, body } = &webhooks[0];
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value);
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    let payload: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&payload["type"], &payload["data"]["cents"]), (&"order.charged".into(), &2_400.into()));
}

#[test]
fn an_order_is_charged_once_however_often_its_job_runs() {
    let mut visit = Visit::with_photo();
    visit.order(&[("photo", "1"), ("email", "ada@example.org"), ("quantity", "2")]);
    visit.jobs().assert_enqueued(|charge: &Charge| charge.order == 1);
    assert!(visit.get("/orders").text().contains("In hand") && visit.outbox().is_empty());
    let again = Charge { order: 1, link: "http://darkroom.example/photos/1".into() };
    visit.jobs().enqueue(again).unwrap();
    visit.drain();
    let charged: (i64, i64) =
        visit.database().query_row("SELECT count(*), sum(cents) FROM charges", [], |row| row.try_into()).unwrap();
    assert_eq!((charged, visit.outbox().len(), visit.failures().len()), ((1, 2_400), 1, 0));
    assert_eq!(visit.jobs().counts().unwrap().done, 5, "the sizes, the gallery, two charges and a mail");

    // A charge without an order leaves no partial changes.
    visit.jobs().enqueue(Charge { order: 99, link: String::new() }).unwrap();
    visit.drain();
    assert_eq!((visit.outbox().len(), visit.jobs().counts().unwrap().scheduled), (1, 1));
}

#[test]
fn an_invalid_order_keeps_the_typed_values() {
    let mut visit = Visit::with_photo();
    let cases = [
        ([("photo", "1"), ("email", "ada"), ("quantity", "2")], "Give a mail address", r#"value="ada""#),
        ([("photo", "1"), ("email", "ada@example.org"), ("quantity", "0")], "from 1 to 50", r#"value="0""#),
        ([("photo", "1"), ("email", "ada@example.org"), ("quantity", "two")], "whole number", r#"value="two""#),
        (
            [("photo", "1"), ("email", "ada@example.org"), ("quantity", "-1")],
            "from 1 to 50",
            r#"<option value="1" selected>"#,
        ),
        (
            [("photo", "99"), ("email", "ada@example.org"), ("quantity", "3")],
            "Choose one of the photos",
            r#"value="3""#,
        ),
        ([("photo", ""), ("email", "a@b.c\r\nBcc: x@y.z"), ("quantity", "")], "Please fill this in", "Bcc: x@y.z"),
    ];
    for (fields, words, kept) in cases {
        let page = visit.order(&fields);
        assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT, "{fields:?}");
        assert!(page.text().contains(words) && page.text().contains(kept), "{fields:?}: {page:?}");
    }
    visit.drain();
    assert!(visit.outbox().is_empty());
    assert!(visit.get("/orders").text().contains("No prints have been ordered"));
}

#[test]
fn a_second_submit_of_the_same_form_is_one_order() {
    let mut visit = Visit::with_photo();
    let page = visit.get("/orders?photo=1");
    assert!(page.text().contains(r#"<option value="1" selected>"#));
    let key = once_of(page.text());
    let fields = [("photo", "1"), ("email", "ada@example.org"), ("quantity", "1"), ("_once", &key)];
    for _ in 0..2 {
        assert_eq!(visit.order(&fields).location(), Some("/orders"));
        visit.drain();
    }
    assert_eq!(visit.outbox().len(), 1);
    assert_eq!(visit.get("/orders").text().matches("Charged").count(), 1);
}

#[test]
fn a_double_click_on_upload_is_one_photo() {
    let mut visit = visit();
    let key = once_of(visit.get("/").text());
    for _ in 0..2 {
        let form = visit.post("/photos").field("_once", &key).field("title", "Harbour");
        assert_eq!(form.file("photo", "a.jpg", "image/jpeg", &jpeg(30, 20)).send().location(), Some("/photos/1"));
        visit.drain();
    }
    assert_eq!(visit.files().len(), 4, "the original and three sizes: {:?}", visit.files());
}

fn once_of(page: &str) -> String {
    page.split(r#"name="_once" value=""#).nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn a_message_reaches_the_owner() {
    let mut visit = visit();
    let answer = visit.post("/contact").form(&[("email", "ada@example.org"), ("message", "Привет!\nA print?")]).send();
    assert_eq!((answer.status_code(), answer.location()), (Status::SEE_OTHER, Some("/contact")));
    assert_eq!(visit.jobs().enqueued::<Mail>().len(), 1, "there is no other copy of it");
    visit.drain();
    assert!(visit.get("/contact").text().contains("on its way"));
    let mails = visit.outbox();
    assert_eq!(mails.len(), 1);
    let SentMail { to, reply_to, text, .. } = &mails[0];
    assert_eq!((to[0].as_str(), reply_to[0].as_str()), ("owner@darkroom.example", "ada@example.org"));
    assert_eq!(text.as_deref(), Some("Привет!\nA print?"));

    let page = visit.post("/contact").form(&[("email", "ada@"), ("message", "Keep <me>")]).send();
    assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT);
    assert!(page.text().contains("Give a mail address") && page.text().contains("Keep &lt;me&gt;"), "{page:?}");
    assert_eq!(visit.outbox().len(), 1);
}

#[test]
fn a_missing_page_is_a_404_and_a_wrong_method_a_405() {
    let mut visit = Visit::with_photo();
    for path in [
        "/photos/999",
        "/photos/x",
        "/photos/1/801.jpg",
        "/photos/1/800.png",
        "/photos/x/800.jpg",
        "/nothing",
        "/static/none.css",
    ] {
        assert_eq!(visit.get(path).status_code(), Status::NOT_FOUND, "{path}");
    }
    for (method, path) in [("GET", "/photos"), ("POST", "/"), ("DELETE", "/photos/1"), ("PUT", "/orders")] {
        let answer = visit.request(method, path).send();
        assert_eq!(answer.status_code(), Status::METHOD_NOT_ALLOWED, "{method} {path}");
        assert!(answer.header("Allow").is_some());
    }
    let health = visit.request("GET", "/healthz").header("Host", "10.0.0.7:8000").send();
    assert_eq!(health.json::<serde_json::Value>()["status"], "ok");
    assert_eq!(visit.get("/readyz").status_code(), Status::OK);
    let sheet = visit.get("/static/darkroom.css");
    assert_eq!((sheet.status_code(), sheet.header("Content-Type")), (Status::OK, Some("text/css; charset=utf-8")));
}

#[test]
fn the_first_user_to_sign_up_is_the_only_owner() {
    let mut visit = visit();
    assert!(visit.get("/login").text().contains(r#"href="/signup""#));
    assert!(visit.get("/signup").text().contains(r#"autocomplete="new-password""#));
    for (email, password, words) in [
        ("ada", PASSWORD, "Give a mail address"),
        ("ada@example.org", "too short", "at least 12 characters"),
        ("ada@example.org", "", "Please fill this in"),
        ("ada@example.org", &"x".repeat(1_025), "at most 1024 bytes"),
    ] {
        let page = visit.sign_up(email, password);
        assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT, "{words}");
        assert!(page.text().contains(words) && page.text().contains(&format!("value=\"{email}\"")), "{page:?}");
        assert!(password.is_empty() || !page.text().contains(password), "a password is not shown again");
    }
    assert_eq!(visit.sign_up(" Ada@example.org ", PASSWORD).location(), Some("/account"));
    let page = visit.get("/account");
    assert!(page.text().contains("This site is yours") && page.text().contains("Logged in as Ada@example.org"));
    assert!(visit.get("/").text().contains(r#"<a href="/account">Account</a>"#));

    assert_eq!(visit.get("/signup").status_code(), Status::NOT_FOUND);
    assert_eq!(visit.sign_up("eve@example.org", PASSWORD).status_code(), Status::NOT_FOUND);
    assert!(!visit.get("/login").text().contains("/signup"));
    let stored = rusqlite::Connection::open(visit.folder.path().join("darkroom.db")).unwrap();
    let hash: String = stored.query_row("SELECT password FROM owner", [], |row| row.get(0)).unwrap();
    assert!(hash.starts_with("$argon2id$"), "{hash}");
}

#[test]
fn users_are_redirected_to_the_login_and_back() {
    let mut visit = Visit::as_owner();
    let stranger = BTreeMap::new();
    visit.as_another(stranger.clone(), |visit| {
        assert_eq!(visit.get("/account?page=2").location(), Some("/login?next=%2Faccount%3Fpage%3D2"));
        for (method, path) in
            [("POST", "/account/password"), ("POST", "/account/photos/1/delete"), ("GET", "/account/")]
        {
            assert_eq!(visit.request(method, path).send().status_code(), Status::SEE_OTHER, "{method} {path}");
        }
        assert_eq!(visit.get("/photos/1").status_code(), Status::OK, "it still hangs");
        assert!(visit.get("/login?next=/account").text().contains(r#"name="next" value="/account""#));
    });
    for (next, to) in [("/orders", "/orders"), ("//evil.example", "/account"), ("https://evil.example", "/account")] {
        visit.as_another(stranger.clone(), |visit| {
            let fields = [("email", "ADA@example.org"), ("password", PASSWORD), ("next", next)];
            assert_eq!(visit.post("/login").form(&fields).send().location(), Some(to));
        });
    }
}

#[test]
fn a_wrong_password_and_an_unknown_address_get_the_same_message() {
    let mut visit = Visit::as_owner();
    let mut pages = Vec::new();
    for email in ["ada@example.org", "eve@example.org"] {
        let fields = [("email", email), ("password", "not the password"), ("next", "/orders")];
        let page = visit.post("/login").form(&fields).send();
        assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT);
        assert!(page.text().contains(r#"aria-describedby="form-wrong""#) && page.text().contains(r#"value="/orders""#));
        assert!(page.text().contains("The address or the password is not right."));
        assert!(!page.text().contains("not the password"), "a password is not shown again");
        pages.push(page.text().replace(email, ""));
    }
    assert_eq!(pages[0], pages[1]);
}

#[test]
fn login_attempts_are_limited() {
    let mut visit = Visit::as_owner();
    let try_from = |visit: &mut Visit, peer: &str, email: &str| {
        let fields = [("email", email), ("password", "not the password")];
        visit.post("/login").peer(peer).form(&fields).send()
    };
    // One client: ten a minute, for all accounts. If attempts are slow, the limit recovers, and an eleventh may succeed.
    let mut is_refused = |n: usize| {
        let answer = try_from(&mut visit, "192.0.2.1:5000", &format!("{n}@example.org"));
        answer.status_code() == Status::TOO_MANY_REQUESTS
    };
    let before = (0..60).position(&mut is_refused);
    assert!(before.is_some_and(|before| before >= 10), "{before:?}");
    // One account: twenty an hour, for all clients.
    let statuses: Vec<u16> = (0..21)
        .map(|n| try_from(&mut visit, &format!("198.51.100.{n}:5000"), "Ada@example.org").status_code().code())
        .collect();
    assert_eq!(statuses, [vec![422; 20], vec![429]].concat());
}

#[test]
fn a_logout_ends_a_copied_cookie_too() {
    let mut visit = Visit::as_owner();
    let copy = visit.cookies().clone();
    assert!(visit.get("/account").text().contains(r#"action="/logout""#));
    assert_eq!(visit.post("/logout").send().location(), Some("/"));
    let page = visit.get("/");
    assert!(page.text().contains("You are logged out") && page.text().contains(r#"href="/login""#), "{page:?}");
    visit.as_another(copy, |visit| assert_eq!(visit.get("/account").status_code(), Status::SEE_OTHER));
}

/// The files contain addresses, orders and the owner's password.
#[cfg(unix)]
#[test]
fn only_the_user_of_the_process_can_read_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let visit = visit();
    for name in ["darkroom.db", "darkroom.db-wal"] {
        let mode = fs::metadata(visit.folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_photo_that_is_taken_down_is_removed_and_its_orders_stay() {
    let mut visit = Visit::as_owner();
    visit.order(&[("photo", "1"), ("email", "bob@example.org"), ("quantity", "2")]);
    visit.drain();
    let page = visit.get("/account");
    assert!(page.text().contains("bob@example.org") && page.text().contains("Charged"), "{page:?}");
    assert!(page.text().contains(r#"action="/account/photos/1/delete""#), "{page:?}");

    assert_eq!(visit.post("/account/photos/1/delete").send().location(), Some("/account"));
    let page = visit.get("/account");
    assert!(page.text().contains("“Harbour” is taken down") && page.text().contains("bob@example.org"), "{page:?}");
    visit.drain();
    assert!(visit.files().is_empty(), "{:?}", visit.files());
    for path in ["/photos/1", "/photos/1/800.jpg"] {
        assert_eq!(visit.get(path).status_code(), Status::NOT_FOUND, "{path}");
    }
    assert!(visit.get("/").text().contains("The walls are still bare"));
    let page = visit.get("/orders");
    assert!(page.text().contains(r#"<span class="what">Harbour</span>"#) && !page.text().contains("/photos/1"));
    assert_eq!(visit.post("/account/photos/1/delete").send().status_code(), Status::NOT_FOUND);
}

#[test]
fn a_photo_whose_job_waits_can_be_taken_down() {
    let mut visit = Visit::as_owner();
    visit.upload("Fog", "fog.jpg", &jpeg(30, 20));
    let job = visit.job_of(2).id;
    let mut events = visit.events("/photos/2/live");
    assert_eq!(visit.post("/account/photos/2/delete").send().location(), Some("/account"));
    // With a worker for each job, the files may be removed first.
    visit.jobs().pause("photos").unwrap();
    visit.drain();
    visit.jobs().resume("photos").unwrap();
    visit.drain();
    wait_for(&mut events, "was taken down");
    assert_eq!(visit.jobs().find(job).unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!((visit.get("/photos/2").status_code(), visit.files().len()), (Status::NOT_FOUND, 4));
    assert!(visit.failures().is_empty(), "{:?}", visit.failures());
}

/// Otherwise the sizes of a removed photo would be left behind.
#[test]
#[cfg(unix)]
fn a_photo_whose_job_runs_is_removed_after_the_job_has_ended() {
    let mut visit = Visit::as_owner();
    visit.upload("Fog", "fog.jpg", &jpeg(30, 20));
    let original = visit.original_becomes_a_pipe(2);
    let (jobs, job) = (visit.jobs(), visit.job_of(2).id);
    let at_work = thread::spawn(move || jobs.run_next().unwrap());
    // Returns when the job reads it.
    let mut pipe = fs::OpenOptions::new().write(true).open(&original).unwrap();

    visit.post("/account/photos/2/delete").send();
    while visit.jobs().find(job).unwrap().is_some_and(|job| !job.is_cancelling) {
        assert!(visit.jobs().run_next().is_some(), "one of them tells it to stop");
    }
    pipe.write_all(&jpeg(30, 20)).unwrap();
    drop(pipe);
    assert_eq!(at_work.join().unwrap().state, JobState::Cancelled);
    visit.drain();
    assert!(original.exists(), "not yet");
    visit.advance(Duration::from_secs(1));
    visit.drain();
    assert_eq!((visit.get("/photos/2").status_code(), visit.files().len()), (Status::NOT_FOUND, 4));
    assert!(!original.exists() && !visit.folder.path().join("photos/making/2").exists());
}

#[test]
fn a_new_password_ends_all_other_sessions() {
    let mut visit = Visit::as_owner();
    let other = visit.as_another(BTreeMap::new(), |visit| {
        visit.log_in(PASSWORD);
        visit.cookies().clone()
    });
    let before = visit.cookies().clone();
    let mut change = |current: &str, password: &str| {
        visit.post("/account/password").form(&[("current", current), ("password", password)]).send()
    };
    for (current, password, words) in [
        ("not the password", "an enlarger with a lens", "current-wrong"),
        (PASSWORD, "short", "at least 12 characters"),
        ("", "", "Please fill this in"),
    ] {
        let page = change(current, password);
        assert_eq!(page.status_code(), Status::UNPROCESSABLE_CONTENT, "{words}");
        assert!(page.text().contains(words) && !page.text().contains("enlarger"), "{page:?}");
    }
    assert_eq!(change(PASSWORD, "an enlarger with a lens").location(), Some("/account"));
    assert!(visit.get("/account").text().contains("The password is changed"));
    for cookies in [other, before] {
        visit.as_another(cookies, |visit| assert_eq!(visit.get("/account").status_code(), Status::SEE_OTHER));
    }
    assert_eq!(visit.log_in(PASSWORD).status_code(), Status::UNPROCESSABLE_CONTENT);
    assert_eq!(visit.log_in("an enlarger with a lens").status_code(), Status::SEE_OTHER);
}

#[test]
fn messages_are_limited_to_ten_an_hour_and_the_page_says_when_to_retry() {
    let mut visit = visit();
    let mut send = |peer| {
        let fields = [("email", "ada@example.org"), ("message", "Hello")];
        visit.post("/contact").peer(peer).form(&fields).send()
    };
    (0..10).for_each(|_| assert_eq!(send("192.0.2.1:5000").status_code(), Status::SEE_OTHER));
    let page = send("192.0.2.1:5000");
    assert_eq!((page.status_code(), page.header("Retry-After").is_some()), (Status::TOO_MANY_REQUESTS, true));
    assert!(page.text().contains("Please wait 6 minutes"), "{page:?}");
    assert_eq!(send("192.0.2.2:5000").status_code(), Status::SEE_OTHER, "another visitor may write");
    visit.drain();
}

/// Sets production mode, with a host name, behind a proxy with https.
fn in_production(settings: &mut Settings) {
    settings.config.mode = Mode::Production;
    settings.config.url = Some("https://darkroom.example".into());
    settings.config.secrets = vec!["k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf".into()];
}

#[test]
fn every_error_page_has_the_design_of_the_site() {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(folder.path());
    in_production(&mut settings);
    let fails = |req: &mut Request| Err::<(), _>(Error::new(Status::new(req.param("status")?), "Said <b>by</b> us."));
    let mut client = TestClient::new(app(settings).unwrap().get("/fails/{status}", fails));
    for status in errors::STATUSES {
        let page = client.get(&format!("/fails/{status}"));
        let (text, is_ours) = (page.text(), status >= 500);
        assert_eq!(page.status_code().code(), status);
        assert!(text.contains("darkroom") && text.contains("<h1>") && text.contains(">To the gallery</a>"), "{status}");
        assert_eq!(text.contains("Said &lt;b&gt;by&lt;/b&gt; us."), !is_ours, "{status}: what is ours is for the log");
        let id = format!("<code>{}</code>", page.header("X-Request-Id").unwrap());
        assert_eq!(text.contains(&id), is_ours, "{status}");
    }
    let refused = client.post("/contact").header("Sec-Fetch-Site", "cross-site").send();
    assert!(
        refused.status_code() == Status::FORBIDDEN && refused.text().contains("came from somewhere else"),
        "{refused:?}"
    );
    let elsewhere = client.request("GET", "/").header("Host", "evil.example").send();
    assert!(elsewhere.status_code().code() == 421 && !elsewhere.text().contains("/static/"), "{elsewhere:?}");
    assert_eq!(client.get("/account/nothing").location(), Some("/login?next=%2Faccount%2Fnothing"));
    assert!(client.get("/nothing").text().contains("Nothing has been hung here"));
}

#[test]
fn a_broken_session_store_is_an_error_page() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("aside.db");
    let mut settings = settings(folder.path());
    in_production(&mut settings);
    settings.config.store = Some(format!("sqlite:{}", store.display()));
    let mut visit = Visit { client: TestClient::new(app(settings).unwrap()), folder };
    visit.sign_up("ada@example.org", PASSWORD);
    let file = rusqlite::Connection::open(store).unwrap();
    let tables: Vec<String> = file
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for table in tables {
        file.execute(&format!("DROP TABLE {table}"), []).unwrap();
    }
    let page = visit.post("/logout").send();
    assert!(page.status_code().code() == 503 && page.text().contains("The darkroom is busy"), "{page:?}");
}

#[test]
fn every_page_in_production_has_strict_security_headers() {
    let mut visit = visit_with(in_production);
    visit.upload("Harbour", "harbour.jpg", &jpeg(300, 200));
    visit.drain();
    let signed_up = visit.sign_up("ada@example.org", PASSWORD);
    let cookie = signed_up.header("Set-Cookie").unwrap();
    for flag in ["__Host-session=", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/"] {
        assert!(cookie.contains(flag), "{flag}: {cookie}");
    }
    let mut answers = vec![signed_up, visit.order(&[("photo", "1")]), visit.post("/contact").form(&[]).send()];
    answers.push(visit.post("/account/password").form(&[]).send());
    answers.extend(
        ["/", "/photos/1", "/feed", "/orders", "/contact", "/login", "/account", "/signup", "/healthz"]
            .map(|path| visit.get(path)),
    );
    answers.extend(["/photos/1/800.jpg", "/static/darkroom.css", "/static/none.css"].map(|path| visit.get(path)));
    visit.upload("Fog", "fog.jpg", &jpeg(30, 20));
    answers.push(visit.get("/photos/2"));
    visit.drain();
    visit.post("/logout").send();
    answers.extend(["/", "/account", "/login"].map(|path| visit.get(path)));
    for answer in &answers {
        assert_strict(answer);
    }
}

/// Asserts the security headers that scanners require, and that the page complies with them.
fn assert_strict(answer: &TestResponse) {
    let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    let policy = header("Content-Security-Policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http:"), "{policy}");
    assert!(header("Strict-Transport-Security").starts_with("max-age=31536000"));
    assert_eq!(header("X-Content-Type-Options"), "nosniff");
    assert_eq!(header("X-Frame-Options"), "DENY");
    assert_eq!(header("Referrer-Policy"), "strict-origin-when-cross-origin");
    if answer.header("Content-Type").is_some_and(|kind| kind.starts_with("text/html")) {
        let page = answer.text();
        assert!(!page.contains(" style=") && !page.contains(" onclick=") && !page.contains("javascript:"), "{page}");
        // The only script is that of live pages, from this site.
        let scripts = page.matches("<script").count();
        assert_eq!(scripts, page.matches(r#"<script src="/_aside/live.js?v="#).count(), "{page}");
        assert!(!page.contains("http://"), "{page}");
        for (at, _) in page.match_indices("<style") {
            let nonce = page[at..].strip_prefix("<style nonce=\"").and_then(|rest| rest.split('"').next()).unwrap();
            assert!(nonce.len() >= 22 && policy.contains(&format!("'nonce-{nonce}'")), "{policy}: {page}");
        }
    }
}

#[test]
fn each_source_is_shown_as_it_responds_or_fails() {
    let (slow, quick, broken) = (source(), source(), source());
    let mut visit = visit_to(&[("Slow", &slow.url), ("Quick", &quick.url), ("Broken", &broken.url)], LONG);
    let page = visit.get("/feed");
    assert_eq!((page.status_code(), page.text().matches("Being asked…").count()), (Status::OK, 3), "{page:?}");
    assert!(page.text().contains(r#"<aside-live src="/feed/live""#) && page.text().contains(">Look again</a>"));

    let mut events = visit.events("/feed/live");
    quick.posts("<item><title>Fog &amp;amp; light</title><link>https://quick.example/1</link></item>");
    let seen = wait_for(&mut events, "Fog");
    let post = r#"<a href="https://quick.example/1" rel="noopener nofollow"><bdi>Fog &amp; light</bdi></a>"#;
    assert!(of_source(&seen, "Quick").contains(post), "{seen}");
    assert!(of_source(&seen, "Quick").contains("less than a minute before this was shown"), "{seen}");
    assert!(of_source(&seen, "Slow").contains("Being asked…") && of_source(&seen, "Broken").contains("Being asked…"));

    broken.answer("404 Not Found", b"");
    let seen = wait_for(&mut events, "did not work out");
    assert!(of_source(&seen, "Broken").contains("There is nothing at its address any more."), "{seen}");
    assert!(of_source(&seen, "Slow").contains("Being asked…"), "{seen}");

    slow.posts("<item><title>Rain</title></item>");
    let seen = wait_for(&mut events, "<li><bdi>Rain</bdi></li>");
    assert!(!seen.contains("Being asked…") && seen.contains("Fog"), "{seen}");
    visit.drain();
    let failures: Vec<_> = visit.failures().iter().map(|task| task.name().to_owned()).collect();
    assert_eq!(failures, ["ask Broken"], "the log names it");
}

#[test]
fn a_source_is_requested_once_for_all_pages_and_again_when_its_news_are_old() {
    let (good, bad) = (source(), source());
    let mut visit = visit_to(&[("Good", &good.url), ("Bad", &bad.url)], LONG);
    // A page that was open before a restart requests its stream first.
    let mut events = visit.events("/feed/live");
    wait_for(&mut events, "Being asked…");
    (0..2).for_each(|_| assert_eq!(visit.get("/feed").text().matches("Being asked…").count(), 2));
    good.posts("<item><title>Fog</title></item>");
    bad.answer("500 Oops", b"");
    visit.drain();
    assert!(visit.get("/feed").text().contains("Fog"));
    visit.drain();
    assert_eq!((good.asked(), bad.asked()), (1, 1));

    let feed = visit.state::<Feed>();
    let mut after = |minutes: i64| {
        feed.board.update(|board| {
            for time in board.news.iter_mut().filter_map(|news| news.asked_at.as_mut()) {
                *time -= SignedDuration::from_mins(minutes);
            }
        });
        visit.get("/feed").text().to_owned()
    };
    let page = after(2);
    assert!(of_source(&page, "Bad").contains("Being asked…") && !of_source(&page, "Good").contains("Being asked…"));
    assert!(of_source(&page, "Good").contains("2 minutes before this was shown"), "{page}");
    bad.posts("<item><title>Rain</title></item>");
    wait_for(&mut events, "Rain");

    // Older posts stay until newer ones arrive.
    let page = after(11);
    assert!(of_source(&page, "Good").contains("Being asked…") && of_source(&page, "Good").contains("Fog"), "{page}");
    good.posts("<item><title>Snow</title></item>");
    bad.answer("503 Busy", b"");
    let seen = wait_for(&mut events, "This is what it sent before:");
    assert!(
        of_source(&seen, "Bad").contains("It answered with an error of its own.") && seen.contains("Rain"),
        "{seen}"
    );
    visit.drain();
    let page = visit.get("/feed");
    assert!(page.text().contains("Snow") && !page.text().contains("Fog"), "{page:?}");
    assert_eq!((good.asked(), bad.asked()), (2, 3));
}

#[test]
fn a_hostile_response_of_a_source_is_harmless() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&vec![b' '; 20 << 20]).unwrap();
    let packed = packed.finish().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", packed.len());
    let laughs = (1..10).fold("<!ENTITY l0 'ha'>".to_owned(), |text, n| {
        format!("{text}<!ENTITY l{n} '{}'>", format!("&l{};", n - 1).repeat(10))
    });
    let laughs = format!("<!DOCTYPE rss [{laughs}]><rss><item><title>&l9;</title></item></rss>");
    let deep = "<a>".repeat(300_000);
    let script =
        b"<rss><item><title>&lt;script&gt;alert(1)&lt;/script&gt;Click</title><link>javascript:alert(1)</link></item>\
        <item><title><![CDATA[&lt;img src=x onerror=alert(1)&gt;]]></title></item></rss>";
    let (no_feed, too_large) = ("What it sent is no feed that we can read.", "It sent more than we read.");
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("Laughs", laughs.into(), no_feed),
        ("Deep", deep.into(), no_feed),
        ("Bytes", b"<rss><item><title>\xff\xfe</title></item></rss>".to_vec(), no_feed),
        ("Page", b"<!doctype html><p>Hello".to_vec(), no_feed),
        ("Large", vec![b' '; 2 << 20], too_large),
        ("Script", script.to_vec(), "Click"),
    ];
    let sources = cases.each_ref().map(|_| source());
    let (bomb, round, endless) = (source(), source(), source());
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{gone}/feed.xml");
    let mut named: Vec<(&str, &str)> =
        vec![("Bomb", &bomb.url), ("Round", &round.url), ("Endless", &endless.url), ("Gone", &gone)];
    named.extend(cases.iter().zip(&sources).map(|((name, ..), source)| (*name, &*source.url)));

    let mut visit = visit_to(&named, LONG);
    visit.get("/feed");
    bomb.answers.send([head.as_bytes(), &packed].concat()).unwrap();
    (0..5).for_each(|_| round.answer(&format!("302 Found\r\nLocation: {}", round.url), b""));
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    endless.answers.send([&head[..], &vec![b' '; 2 << 20]].concat()).unwrap();
    cases.iter().zip(&sources).for_each(|((_, body, _), source)| source.answer("200 OK", body));
    visit.drain();

    let page = visit.get("/feed");
    for (name, words) in cases.iter().map(|(name, _, words)| (*name, *words)).chain([
        ("Bomb", too_large),
        ("Endless", too_large),
        ("Round", "It sends us from one address to the next."),
        ("Gone", "It could not be reached."),
    ]) {
        assert!(of_source(page.text(), name).contains(words), "{name}: {page:?}");
    }
    let script = of_source(page.text(), "Script");
    assert!(!script.contains("<script") && !script.contains("<img") && !script.contains("javascript:"), "{script}");
    assert!(script.contains("<bdi>&lt;img src=x onerror=alert(1)&gt;</bdi>"), "{script}");
    for internal in ["127.0.0.1", "refused", "os error", "Io"] {
        assert!(!page.text().contains(internal), "{internal}: {page:?}");
    }
}

#[test]
fn a_silent_source_fails_at_the_time_limit() {
    let silent = source();
    let mut visit = visit_to(&[("Silent", &silent.url)], Duration::from_millis(200));
    visit.get("/feed");
    let mut events = visit.events("/feed/live");
    wait_for(&mut events, "It did not answer in time.");
    visit.drain();
}

#[test]
fn static_files_have_urls_with_a_hash() {
    let mut visit = visit();
    let page = visit.get("/").text().to_owned();
    let sheet = page.split("rel=\"stylesheet\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(sheet.starts_with("/static/darkroom.css?v="), "{sheet}");
    assert!(visit.get(sheet).header("Cache-Control").is_some(), "{sheet}");
}

struct Received {
    headers: Vec<(String, String)>,
    body: String,
}

/// Starts a server that answers each POST with 204, and returns its URL and the received requests.
fn listener() -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let lines = stream.by_ref().lines().map(|line| line.unwrap()).take_while(|line| !line.is_empty());
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| {
                    line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                })
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            tell.send(Received { headers, body: String::from_utf8(body).unwrap() }).unwrap();
            stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    (url, told)
}
