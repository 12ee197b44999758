//! The samples of Asok's page on background tasks, in its order: `cargo run --example seed_asok`.
//!
//! The site pays at `/payments`, announces sign-ups at `/hook` and asks `/stock` and `/price`, all below `SERVICES_URL`.
//! Unless that is set, this program starts these services itself. Mail goes to files in `data/mail`, unless
//! `ASIDE_MAIL_URL` names a server; posts and photos go to `data/asok`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use aside::image::{self, Fit};
use aside::server::Server;
use aside::{App, Cache, Config, Error, Form, Live, Mail, Request, Response, Result, Task};
use aside::{background, context, redirect};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::json;

fn main() -> Result<()> {
    fs::create_dir_all("data/asok")?;
    let database = Connection::open("data/asok/site.db")?;
    let site = Site::new(std::env::var("SERVICES_URL").ok(), "data/asok/uploads", database)?;
    app(Config::from_env()?, site).run()
}

/// The address of services that take a second for each response. The first call starts them.
fn services() -> String {
    static SERVICES: LazyLock<Server> = LazyLock::new(|| {
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let slowly = |_: &mut Request| {
            std::thread::sleep(Duration::from_secs(1));
            None::<Response>
        };
        App::with_config(config)
            .before(slowly)
            .post("/payments", |_: &mut Request| "paid")
            .post("/hook", |_: &mut Request| "received")
            .get("/stock", |_: &mut Request| "7")
            .get("/price", |_: &mut Request| "12")
            .start()
            .expect("a free port")
    });
    format!("http://{}", SERVICES.addr())
}

struct Site {
    services: Option<String>,
    uploads: PathBuf,
    agent: ureq::Agent,
    database: Mutex<Connection>,
    cache: Cache<Vec<Post>>,
    likes: Live<u64>,
}

/// A mail address. A form with anything else in this field is refused (422).
#[derive(Deserialize, Serialize)]
#[serde(try_from = "String")]
struct Email(String);

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Email, &'static str> {
        let is_valid = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
        if is_valid { Ok(Email(text)) } else { Err("Please enter a mail address.") }
    }
}

#[derive(Deserialize)]
struct Addressee {
    email: Email,
}

#[derive(Clone, Serialize, Deserialize)]
struct Post {
    title: String,
    body: String,
}

impl Site {
    fn new(services: Option<String>, uploads: impl Into<PathBuf>, database: Connection) -> Result<Site> {
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS posts (id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS subscribers (email TEXT PRIMARY KEY)",
        )?;
        Ok(Site {
            services,
            uploads: uploads.into(),
            agent: ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into(),
            database: Mutex::new(database),
            cache: Cache::new(100),
            likes: Live::new(0),
        })
    }

    fn url(&self, path: &str) -> String {
        self.services.clone().unwrap_or_else(services) + path
    }

    fn post(&self, path: &str, payload: impl Serialize) -> Result<()> {
        self.agent.post(self.url(path)).send_json(payload)?;
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String> {
        Ok(self.agent.get(self.url(path)).call()?.body_mut().read_to_string()?)
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().expect("no statement panics")
    }
}

fn process_payment(site: &Site, user_id: u64, order: &Order) -> Result<()> {
    site.post("/payments", json!({ "user": user_id, "order": order }))
}

fn send_receipt(order: &Order) {
    let text = format!("You have paid {} euros. Thank you.", order.amount);
    Mail::to(&order.email.0).subject("Your receipt").text(text).send();
}

const FIVE_MINUTES: Duration = Duration::from_secs(300);

fn recent_posts(database: &Connection) -> Result<Vec<Post>> {
    let mut query = database.prepare("SELECT title, body FROM posts ORDER BY id DESC LIMIT 20")?;
    let posts = query.query_map([], |row| Ok(Post { title: row.get(0)?, body: row.get(1)? }))?;
    Ok(posts.collect::<Result<_, _>>()?)
}

fn app(config: Config, site: Site) -> App {
    App::with_config(config)
        .state(site)
        .get("/seeds.css", |_: &mut Request| Response::bytes("text/css", include_bytes!("seeds/seeds.css")))
        .template("base.html", include_str!("seeds/base.html"))
        .template("page.html", include_str!("seeds/asok.html"))
        .live("likes", "likes.html", |req: &mut Request| req.state::<Site>().likes.clone())
        .template("likes.html", LIKES)
        .get("/", page)
        .get("/orders", page)
        .post("/orders", create_order)
        .get("/offer", offer)
        .get("/signup", page)
        .post("/signup", sign_up)
        .get("/profile", page)
        .post("/profile", upload_avatar)
        .get("/blog", page)
        .post("/blog", create_post)
        .post("/greetings", greet)
        .get("/subscribers", page)
        .post("/subscribers", subscribe)
        .post("/likes", like)
}

// Sample 1: "Usage"
// Asok passes the form on as it came. Here an invalid form is refused at once (422), the task gets a type, and a form that
// is sent twice is paid once.
#[derive(Deserialize, Serialize)]
struct Order {
    email: Email,
    amount: u32,
}

fn heavy_task(site: &Site, user_id: u64, order: &Order) -> Result<()> {
    process_payment(site, user_id, order)?;
    send_receipt(order);
    Ok(())
}

fn create_order(req: &mut Request) -> Result<Response> {
    let (order, site) = (req.form::<Order>()?, req.state::<Site>());
    req.once(|req| {
        background(move || heavy_task(&site, 42, &order));
        req.flash("success", "Processing your order!");
        Ok(redirect("/orders"))
    })
}

// Sample 2: "API"
// `background` returns the standard library's `JoinHandle`: the task has a thread of its own, and `join` gives its value.
fn offer(req: &mut Request) -> Result<Response> {
    let (site, other) = (req.state::<Site>(), req.state::<Site>());
    let stock = background(move || site.get("/stock"));
    let price = background(move || other.get("/price"));
    // Both calls run now. A panic is an outcome of the task, so `join` itself never fails.
    let [stock, price] = [stock, price].map(|task| task.join().expect("panics are caught in the task"));
    show(req, &format!("{} left, {} euros each.", stock?, price?), &Form::empty())
}

// Sample 3: "Error handling"
// [2026-04-04 14:32:01] ERROR aside::background: Background task send_webhook failed: io: Connection refused (os error 111) (task 1, POST /signup 3f9a1c, after 20 ms, at examples/seed_asok.rs:102)
//
// Asok logs the error alone. This line also has the causes of the error, the task, the request, the time, and the location
// of the `?` in the source.

// Sample 4: "Webhook / External API call"
// A task is named after its function, or after the line of its closure, or by hand as here. `aside::Webhook` does the same
// with a signature, and with retries that hold no thread while they wait.
fn send_webhook(site: &Site, payload: &serde_json::Value) -> Result<()> {
    site.post("/hook", payload)
}

fn sign_up(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    Task::named("send_webhook").spawn(move |_| send_webhook(&site, &json!({ "text": "New signup!" })));
    show(req, "Welcome.", &Form::empty())
}

// Sample 5: "Image processing after upload"
// Asok uses the client's file name; `save_to` makes one. A file of another type is refused at once, and a damaged image is
// a line in the log.
fn resize_image(path: &Path) -> Result<()> {
    image::resize(path, path, Fit::Inside(800, 800))?;
    Ok(())
}

fn upload_avatar(req: &mut Request) -> Result<Response> {
    let body = req.multipart()?;
    let avatar = body.file("avatar")?;
    if !avatar.content_type().starts_with("image/") {
        return Err(Error::unprocessable("Please choose an image."));
    }
    let path = avatar.save_to(&req.state::<Site>().uploads)?;
    background(move || resize_image(&path));
    req.flash("success", "Photo uploaded!");
    Ok(redirect("/profile"))
}

// Sample 6: "Cache warming"
// The next page reads the cache, so the old entry is removed first: an author sees the new post in any case.
fn warm_cache(site: &Site) -> Result<()> {
    site.cache.set("recent_posts", recent_posts(&site.database())?, FIVE_MINUTES);
    Ok(())
}

fn create_post(req: &mut Request) -> Result<Response> {
    let (Post { title, body }, site) = (req.form()?, req.state::<Site>());
    if title.trim().is_empty() || body.trim().is_empty() {
        return Err(Error::unprocessable("Please enter a title and a text."));
    }
    site.database().execute("INSERT INTO posts (title, body) VALUES (?, ?)", [title, body])?;
    site.cache.remove("recent_posts");
    background(move || warm_cache(&site));
    Ok(redirect("/blog"))
}

// Sample 7: "Mail is already background"
// Asok's mail has one attempt and is lost when the process ends. Here mail is retried for a quarter of an hour, and a
// shutdown waits for it.
fn greet(req: &mut Request) -> Result<Response> {
    let Addressee { email } = req.form()?;
    Mail::to(email.0).subject("Hello").text("World").send();
    req.flash("success", "On its way.");
    Ok(redirect("/"))
}

// Caveat 1: "When NOT to use background"
// The three points are plain code before the response: a read that the page needs, with `Cache::remember`; validation, with
// `Form`; a counter, which the handler changes and which `Live` also shows on the pages that are open.

// "Database reads needed for the response": the handler reads. The first reader fills the cache, and the others wait for it.
fn show(req: &mut Request, message: &str, form: &Form<Addressee>) -> Result<Response> {
    let site = req.state::<Site>();
    let posts = site.cache.remember("recent_posts", FIVE_MINUTES, || recent_posts(&site.database()))?;
    Ok(req.render("page.html", context! { posts, message, form })?.status(form.status()))
}

fn page(req: &mut Request) -> Result<Response> {
    show(req, "", &Form::empty())
}

// "Validation": this response names the invalid fields. Only the mail of a valid form goes to the background.
fn subscribe(req: &mut Request) -> Result<Response> {
    let (mut form, site) = (req.submitted::<Addressee>()?, req.state::<Site>());
    if let Some(new) = form.value()
        && site.database().execute("INSERT OR IGNORE INTO subscribers VALUES (?)", [&new.email.0])? == 0
    {
        form.error("email", "This address is subscribed already.");
    }
    match form.valid() {
        Err(form) => show(req, "", &form),
        Ok(new) => {
            Mail::to(new.email.0).subject("The blog").text("You are subscribed.").send();
            req.flash("success", "You are subscribed.");
            Ok(redirect("/subscribers"))
        }
    }
}

// "Anything the user expects to see immediately": the counter has changed before the redirect.
fn like(req: &mut Request) -> Result<Response> {
    req.state::<Site>().likes.update(|likes| *likes += 1);
    Ok(redirect("/blog"))
}

const LIKES: &str = r#"<p class="count">{{ state }} {{ "like" if state == 1 else "likes" }}</p>"#;

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use std::net::TcpListener;

    use ::image::RgbImage;
    use aside::Status;
    use aside::testing::TestClient;

    use super::*;
    #[cfg(unix)]
    use crate::seeds::SiteProcess;
    use crate::seeds::{Call, Service, wait_for};

    fn client(service: &Service) -> TestClient {
        client_with(Some(service.url()), "unused")
    }

    fn client_with(services: Option<String>, uploads: impl Into<PathBuf>) -> TestClient {
        let database = Connection::open_in_memory().unwrap();
        TestClient::new(app(Config::default(), Site::new(services, uploads, database).unwrap()))
    }

    fn json_of(call: &Call) -> serde_json::Value {
        serde_json::from_str(&call.body).unwrap()
    }

    #[test]
    fn sample_1_an_order_is_answered_before_it_is_paid_for() {
        let service = Service::start();
        let mut client = client(&service);
        let answer = client.post("/orders").form(&[("email", "ada@shop.example"), ("amount", "20")]).send();
        assert_eq!((answer.status_code(), answer.location()), (Status::SEE_OTHER, Some("/orders")));
        assert!(client.get("/orders").text().contains("role=\"status\">Processing your order!</p>"));
        let call = service.next_call();
        assert_eq!((call.path.as_str(), client.outbox().len()), ("/payments", 0));
        assert_eq!(json_of(&call), json!({ "user": 42, "order": { "email": "ada@shop.example", "amount": 20 } }));
        call.answer("paid");
        client.drain();
        assert!(client.outbox()[0].text.as_ref().unwrap().contains("You have paid 20 euros."));
    }

    #[test]
    fn sample_1_an_order_that_is_sent_twice_is_paid_once() {
        let service = Service::start();
        let mut client = client(&service);
        let page = client.get("/orders").text().to_owned();
        let (_, key) = page.split_once("name=\"_once\" value=\"").unwrap();
        let key = &key[..key.find('"').unwrap()];
        for _ in 0..2 {
            let order = [("_once", key), ("email", "ada@shop.example"), ("amount", "20")];
            assert_eq!(client.post("/orders").form(&order).send().location(), Some("/orders"));
        }
        service.next_call().answer("paid");
        client.drain();
        assert!(service.has_no_call() && client.outbox().len() == 1);
    }

    #[test]
    fn sample_1_an_invalid_order_is_refused_and_starts_no_task() {
        let mut client = client(&Service::start());
        for (email, amount) in [("ada@shop.example", "many"), ("ada@shop.example", "-1"), ("ada", "20"), ("", "")] {
            let answer = client.post("/orders").form(&[("email", email), ("amount", amount)]).send();
            assert_eq!((answer.status_code(), client.counts().ended), (Status::UNPROCESSABLE_CONTENT, 0));
        }
    }

    #[test]
    fn sample_2_a_handle_belongs_to_a_thread_of_its_own_and_gives_its_value() {
        let service = Service::start();
        let mut client = client(&service);
        std::thread::scope(|scope| {
            let offer = scope.spawn(|| client.get("/offer").text().to_owned());
            let mut both = [service.next_call(), service.next_call()];
            both.sort_by(|one, other| one.path.cmp(&other.path));
            let [price, stock] = both;
            assert_eq!((price.path.as_str(), stock.path.as_str()), ("/price", "/stock"));
            price.answer("12");
            stock.answer("7");
            assert!(offer.join().unwrap().contains("7 left, 12 euros each."));
        });
        client.drain();
    }

    /// Not a test of its own: the site as a process, whose log the next test reads.
    #[cfg(unix)]
    #[test]
    fn runs_the_site_in_a_child_process() {
        if std::env::var_os(SiteProcess::VARIABLE).is_some() {
            main().unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn sample_3_the_log_line_is_the_one_in_the_comment() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut site = SiteProcess::start(module_path!(), &[("SERVICES_URL", &format!("http://{nobody}"))]);
        let answer = ureq::post(format!("{}/signup", site.url)).send_empty().unwrap();
        let id = answer.headers()["X-Request-Id"].to_str().unwrap().to_owned();
        let line = site.log.find(|line| line.as_ref().unwrap().contains("Background task")).unwrap().unwrap();
        let written = include_str!("seed_asok.rs").lines().find_map(|line| line.strip_prefix("// [")).unwrap();
        assert_eq!(without_numbers(&line.replace(&id, "3f9a1c")), without_numbers(&format!("[{written}")));
    }

    /// Replaces each number with a 0 and each unit of time with milliseconds, since it depends on the number.
    #[cfg(unix)]
    fn without_numbers(line: &str) -> String {
        let mut numbers = line.replace("µs", "ms").replace(" s, at", " ms, at").replace("tests/it/../../", "");
        numbers.retain(|c| c != '.');
        let zeros: Vec<&str> = numbers.split(|c: char| c.is_ascii_digit()).collect();
        let mut shape = zeros.join("0");
        while shape.contains("00") {
            shape = shape.replace("00", "0");
        }
        shape
    }

    #[test]
    fn sample_4_a_webhook_that_fails_does_not_change_the_response() {
        let service = Service::start();
        let mut client = client(&service);
        let answer = client.post("/signup").send();
        assert!(
            answer.status_code() == Status::OK
                && answer.text().contains("<p class=\"message\" role=\"status\">Welcome.</p>")
        );
        let call = service.next_call();
        assert_eq!((call.path.as_str(), json_of(&call)), ("/hook", json!({ "text": "New signup!" })));
        call.fail();
        client.drain();
        let failed = &client.failures()[0];
        assert_eq!((failed.name(), failed.failure()), ("send_webhook", Some("http status: 503")));
    }

    #[test]
    fn sample_5_a_photo_is_resized_after_the_upload() {
        let uploads = tempfile::tempdir().unwrap();
        let mut client = client_with(None, uploads.path());
        let mut photo = Vec::new();
        RgbImage::new(1600, 1200).write_to(&mut std::io::Cursor::new(&mut photo), ::image::ImageFormat::Jpeg).unwrap();
        let answer = client.post("/profile").file("avatar", "../../me.jpg", "image/jpeg", &photo).send();
        assert_eq!(answer.location(), Some("/profile"));
        client.drain();
        let saved: Vec<_> = fs::read_dir(&uploads).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(saved.len(), 1, "{saved:?}");
        assert_eq!(::image::image_dimensions(&saved[0]).unwrap(), (800, 600));
        assert!(client.get("/profile").text().contains("Photo uploaded!"));
    }

    #[test]
    fn sample_5_a_file_that_is_not_an_image_is_refused_at_once() {
        let uploads = tempfile::tempdir().unwrap();
        let mut client = client_with(None, uploads.path());
        let answer = client.post("/profile").file("avatar", "photo.jpg", "image/jpeg", b"not an image").send();
        assert_eq!(answer.status_code(), Status::UNPROCESSABLE_CONTENT);
        assert_eq!((fs::read_dir(&uploads).unwrap().count(), client.counts().ended), (0, 0));
    }

    #[test]
    fn sample_6_the_cache_is_warm_after_a_new_post() {
        let mut client = client(&Service::start());
        for number in 0..25 {
            let title = format!("Post {number}");
            let answer = client.post("/blog").form(&[("title", &title), ("body", "<b>")]).send();
            assert_eq!(answer.location(), Some("/blog"));
        }
        assert_eq!(
            client.post("/blog").form(&[("title", " "), ("body", "")]).send().status_code(),
            Status::UNPROCESSABLE_CONTENT
        );
        client.drain();
        let cached = client.state::<Site>().cache.get("recent_posts").unwrap();
        assert_eq!((cached.len(), cached[0].title.as_str()), (20, "Post 24"));
        let page = client.get("/blog").text().to_owned();
        assert_eq!(page.matches("<article>").count(), 20);
        assert!(page.contains("<p>&lt;b&gt;</p>") && !page.contains("Post 4<"), "{page}");
    }

    #[test]
    fn sample_7_mail_is_sent_in_the_background_by_itself() {
        let mut client = client(&Service::start());
        let answer = client.post("/greetings").form(&[("email", "user@shop.example")]).send();
        assert_eq!(answer.location(), Some("/"));
        client.drain();
        let outbox = client.outbox();
        assert_eq!((outbox[0].subject.as_str(), outbox[0].text.as_deref()), ("Hello", Some("World")));
    }

    #[test]
    fn caveat_1_posts_that_the_page_needs_are_read_before_the_response() {
        let mut client = client(&Service::start());
        let insert = "INSERT INTO posts (title, body) VALUES ('The first', 'text')";
        client.state::<Site>().database().execute(insert, []).unwrap();
        assert!(client.get("/blog").text().contains("<h3>The first</h3>"));
        assert_eq!(client.counts().ended, 0, "no task has read them");
    }

    #[test]
    fn caveat_1_an_invalid_form_is_refused_in_the_response_and_starts_no_task() {
        let mut client = client(&Service::start());
        let mut subscribe = |email| {
            let answer = client.post("/subscribers").form(&[("email", email)]).send();
            (answer.status_code(), answer.text().to_owned(), client.counts().ended)
        };
        for wrong in ["", "nobody"] {
            let (status, page, tasks) = subscribe(wrong);
            assert_eq!((status, tasks), (Status::UNPROCESSABLE_CONTENT, 0));
            assert!(page.contains("Please enter a mail address.") && page.contains(&format!("value=\"{wrong}\"")));
        }
        assert_eq!(subscribe("ada@shop.example").0, Status::SEE_OTHER);
        let (status, page, _) = subscribe("ada@shop.example");
        assert!(status == Status::UNPROCESSABLE_CONTENT && page.contains("This address is subscribed already."));
        client.drain();
        assert_eq!(client.outbox().len(), 1);
    }

    #[test]
    fn caveat_1_a_counter_has_changed_when_the_page_comes_back() {
        let mut client = client(&Service::start());
        let mut events = client.events("/_aside/live/likes");
        for count in ["1 like", "2 likes"] {
            assert_eq!(client.post("/likes").send().location(), Some("/blog"));
            assert!(client.get("/blog").text().contains(&format!("<p class=\"count\">{count}</p>")));
            wait_for(&mut events, count);
        }
        assert_eq!(client.counts().ended, 0, "no task has counted");
    }
}
