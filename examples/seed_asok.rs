//! What Asok's page on background tasks shows, sample by sample: `cargo run --example seed_asok`.
//!
//! Payments go to `SERVICES_URL` + `/payments`, news of a signup to `/hook`, prices come from `/stock` and `/price`. Unless
//! it is set nobody listens there, and the log shows how a task fails.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use aside::image::{self, Fit};
use aside::{App, Cache, Config, Mail, Request, Response, Result, Task, background, context, redirect};
use serde::{Deserialize, Serialize};
use serde_json::json;

fn main() -> Result<()> {
    let services = std::env::var("SERVICES_URL").unwrap_or("http://127.0.0.1:9".into());
    app(Config::from_env()?, Site::new(services, "data/uploads")).run()
}

struct Site {
    services: String,
    uploads: PathBuf,
    agent: ureq::Agent,
    /// What would be a table of a database.
    posts: Mutex<Vec<Post>>,
    cache: Cache<Vec<Post>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Post {
    title: String,
    body: String,
}

impl Site {
    fn new(services: impl Into<String>, uploads: impl Into<PathBuf>) -> Site {
        // A service that does not answer is given up after 10 s.
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build();
        Site {
            services: services.into(),
            uploads: uploads.into(),
            agent: agent.into(),
            posts: Mutex::default(),
            cache: Cache::new(100),
        }
    }

    fn tell(&self, path: &str, what: impl Serialize) -> Result<()> {
        self.agent.post(format!("{}{path}", self.services)).send_json(what)?;
        Ok(())
    }

    fn ask(&self, path: &str) -> Result<String> {
        Ok(self.agent.get(format!("{}{path}", self.services)).call()?.body_mut().read_to_string()?)
    }
}

fn app(config: Config, site: Site) -> App {
    App::with_config(config)
        .state(site)
        .template("page.html", PAGE)
        .get("/", page)
        .get("/orders", page)
        .post("/orders", create_order)
        .get("/offer", offer)
        .post("/signup", sign_up)
        .get("/profile", page)
        .post("/profile", upload_avatar)
        .get("/blog", page)
        .post("/blog", create_post)
        .post("/greetings", greet)
}

fn page(req: &mut Request) -> Result<Response> {
    let posts = req.state::<Site>().cache.get("recent_posts").unwrap_or_default();
    req.render("page.html", context! { posts })
}

// Sample 1: "Usage"
// Asok's handler hands the form on unread; here what is wrong with it is said at once (422), and the task gets a type.
#[derive(Deserialize, Serialize)]
struct Order {
    email: String,
    amount: u32,
}

fn heavy_task(site: &Site, user_id: u64, order: &Order) -> Result<()> {
    process_payment(site, user_id, order)?;
    send_receipt(order);
    Ok(())
}

fn create_order(req: &mut Request) -> Result<Response> {
    let (order, site) = (req.form::<Order>()?, req.state::<Site>());
    background(move || heavy_task(&site, 42, &order));
    req.flash("success", "Processing your order!");
    Ok(redirect("/orders"))
}

fn process_payment(site: &Site, user_id: u64, order: &Order) -> Result<()> {
    site.tell("/payments", json!({ "user": user_id, "order": order }))
}

fn send_receipt(order: &Order) {
    let text = format!("You have paid {} euros. Thank you.", order.amount);
    Mail::to(&order.email).subject("Your receipt").text(text).send();
}

// Sample 2: "API"
// Asok's text promises the Thread, its code gives a future of ten threads. This is the standard library's JoinHandle, of a
// thread that is this task's own, and it has the value.
fn offer(req: &mut Request) -> Result<String> {
    let (one, other) = (req.state::<Site>(), req.state::<Site>());
    let stock = background(move || one.ask("/stock"));
    let price = background(move || other.ask("/price"));
    // Both are being asked now. A panic is an outcome of the task, so `join` itself never fails.
    let [stock, price] = [stock, price].map(|asked| asked.join().expect("panics are caught in the task"));
    Ok(format!("{} left, {} euros each", stock?, price?))
}

// Sample 3: "Error handling"
// [2026-04-04 14:32:01] ERROR aside::background: Background task send_webhook failed: io: Connection refused (os error 111) (task 1, POST /signup 3f9a1c, after 20 ms)
//
// Asok says no more than the error. Here: all that led to it, which task, which request, and how long it took; also for a
// panic, with its place.

// Sample 4: "Webhook / External API call"
// A task is named after its function, or the place of its closure, or as here by hand. `aside::Webhook` is this with a
// signature and retries that hold no thread while they wait.
fn send_webhook(site: &Site, payload: &serde_json::Value) -> Result<()> {
    site.tell("/hook", payload)
}

fn sign_up(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    Task::named("send_webhook").run(move |_| send_webhook(&site, &json!({ "text": "New signup!" })));
    page(req)
}

// Sample 5: "Image processing after upload"
// Asok trusts the visitor's file name; this one is ours. A file that is no image is a line in the log, and stays as it was.
fn resize_image(path: &Path) -> Result<()> {
    image::resize(path, path, Fit::Inside(800, 800))?;
    Ok(())
}

fn upload_avatar(req: &mut Request) -> Result<Response> {
    let path = req.multipart()?.file("avatar")?.save_to(&req.state::<Site>().uploads)?;
    background(move || resize_image(&path));
    req.flash("success", "Photo uploaded!");
    Ok(redirect("/profile"))
}

// Sample 6: "Cache warming"
// Where the page may wait, `cache.remember` does both: it computes once, however many ask. Asok's computes for each.
fn warm_cache(site: &Site) {
    let posts = site.posts.lock().expect("no change of the list panics");
    let latest = posts.iter().rev().take(20).cloned().collect();
    site.cache.set("recent_posts", latest, Duration::from_secs(300));
}

fn create_post(req: &mut Request) -> Result<Response> {
    let (post, site) = (req.form::<Post>()?, req.state::<Site>());
    site.posts.lock().expect("no change of the list panics").push(post);
    background(move || warm_cache(&site));
    Ok(redirect("/blog"))
}

// Sample 7: "Mail is already background"
// Asok's mail has no second try and is lost when the process ends; here it is tried for a quarter of an hour, and waited for at shutdown.
fn greet(req: &mut Request) -> Result<Response> {
    #[derive(Deserialize)]
    struct Greeting {
        to: String,
    }
    let greeting: Greeting = req.form()?;
    Mail::to(greeting.to).subject("Hello").text("World").send();
    req.flash("success", "On its way.");
    Ok(redirect("/"))
}

// Caveat 1: "When NOT to use background"
// What the answer needs (reads, validation) is plain code before the `return`, as in `create_order`. A number that is shown
// at once and goes on changing is a `Live`: examples/seed_reflex.rs.

// The page

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Asok's samples</title>
<h1>Asok's samples</h1>
{% for flash in flashes %}<p role="status">{{ flash.message }}</p>{% endfor %}
{% if path == "/signup" %}<p role="status">Welcome.</p>{% endif %}
<h2>Order</h2>
<form method="post" action="/orders">
<p><label>Mail address <input name="email" type="email" required></label></p>
<p><label>Euros <input name="amount" type="number" min="1" value="20" required></label></p>
<button>Pay</button>
</form>
<p><a href="/offer">What is left, and for how much</a></p>
<h2>Sign up</h2>
<form method="post" action="/signup"><button>Sign up</button></form>
<h2>Profile</h2>
<form method="post" action="/profile" enctype="multipart/form-data">
<p><label>Photo <input name="avatar" type="file" accept="image/*" required></label></p>
<button>Upload</button>
</form>
<h2>Blog</h2>
<form method="post" action="/blog">
<p><label>Title <input name="title" required></label></p>
<p><label>Text <textarea name="body" required></textarea></label></p>
<button>Publish</button>
</form>
{% for post in posts %}<article><h3>{{ post.title }}</h3><p>{{ post.body }}</p></article>
{% else %}<p>Nothing in the cache.</p>{% endfor %}
<h2>Greeting</h2>
<form method="post" action="/greetings">
<p><label>To <input name="to" type="email" required></label></p>
<button>Send</button>
</form>
</html>
"#;

#[cfg(test)]
mod tests {
    use std::fs;
    #[cfg(unix)]
    use std::io::{BufRead, BufReader};
    #[cfg(unix)]
    use std::net::TcpListener;
    #[cfg(unix)]
    use std::process::{Child, Command, Stdio};

    use ::image::RgbImage;
    use aside::Status;
    use aside::testing::TestClient;

    use super::*;
    use crate::seeds::{Call, Service};

    fn client(service: &Service) -> TestClient {
        TestClient::new(app(Config::default(), Site::new(service.url(), "unused")))
    }

    fn json_of(call: &Call) -> serde_json::Value {
        serde_json::from_str(&call.body).unwrap()
    }

    #[test]
    fn sample_1_an_order_is_answered_before_it_is_paid_for() {
        let service = Service::start();
        let mut client = client(&service);
        let answer = client.post("/orders").form(&[("email", "ada@shop.example"), ("amount", "20")]).send();
        assert_eq!((answer.status(), answer.location()), (Status::SEE_OTHER, Some("/orders")));
        assert!(client.get("/orders").text().contains("<p role=\"status\">Processing your order!</p>"));
        let call = service.next_call();
        assert_eq!((call.path.as_str(), client.outbox().len()), ("/payments", 0));
        assert_eq!(json_of(&call), json!({ "user": 42, "order": { "email": "ada@shop.example", "amount": 20 } }));
        call.answer("paid");
        client.settle();
        assert!(client.outbox()[0].text.as_ref().unwrap().contains("You have paid 20 euros."));
    }

    #[test]
    fn caveat_1_a_form_that_is_wrong_is_told_at_once_and_nothing_is_set_aside() {
        let service = Service::start();
        let mut client = client(&service);
        let answer = client.post("/orders").form(&[("email", "ada@shop.example"), ("amount", "many")]).send();
        assert_eq!((answer.status(), client.counts().ended), (Status::UNPROCESSABLE_CONTENT, 0));
    }

    #[test]
    fn sample_2_a_handle_is_a_thread_of_its_own_with_a_value() {
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
            assert_eq!(offer.join().unwrap(), "7 left, 12 euros each");
        });
        client.settle();
    }

    /// Not a test of its own: the site as a process, whose log the next one reads.
    #[test]
    fn site_in_a_child() {
        if std::env::var_os("ASIDE_TEST_ASOK").is_some() {
            main().unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn sample_3_the_line_in_the_log_is_the_one_that_is_written_here() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let site = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "seeds::seed_asok::tests::site_in_a_child", "--nocapture"])
            .envs([("ASIDE_TEST_ASOK", "1"), ("ASIDE_ADDR", "127.0.0.1:0"), ("ASIDE_BACKGROUND_NICE", "0")])
            .env("SERVICES_URL", format!("http://{nobody}"))
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut site = Ended(site);
        let mut log = BufReader::new(site.0.stderr.take().unwrap()).lines().map(std::io::Result::unwrap);
        let begun = log.find(|line| line.contains("aside listens on http://")).unwrap();
        let address = begun.split("http://").nth(1).unwrap().split(' ').next().unwrap();
        let answer = ureq::post(format!("http://{address}/signup")).send_empty().unwrap();
        let id = answer.headers()["X-Request-Id"].to_str().unwrap().to_owned();
        let line = log.find(|line| line.contains("Background task")).unwrap();
        let written = include_str!("seed_asok.rs").lines().find_map(|line| line.strip_prefix("// [")).unwrap();
        assert_eq!(without_numbers(&line.replace(&id, "3f9a1c")), without_numbers(&format!("[{written}")));
    }

    /// A process that ends with the test, whatever comes of it.
    #[cfg(unix)]
    struct Ended(Child);

    #[cfg(unix)]
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Each number as a 0, and its unit, which goes by its size, as milliseconds.
    #[cfg(unix)]
    fn without_numbers(line: &str) -> String {
        let mut numbers = line.replace(" s)", " ms)");
        numbers.retain(|c| c != '.');
        let zeros: Vec<&str> = numbers.split(|c: char| c.is_ascii_digit()).collect();
        let mut shape = zeros.join("0");
        while shape.contains("00") {
            shape = shape.replace("00", "0");
        }
        shape
    }

    #[test]
    fn sample_4_a_webhook_that_fails_is_nothing_to_the_visitor() {
        let service = Service::start();
        let mut client = client(&service);
        let answer = client.post("/signup").send();
        assert_eq!(answer.status(), Status::OK);
        let call = service.next_call();
        assert_eq!((call.path.as_str(), json_of(&call)), ("/hook", json!({ "text": "New signup!" })));
        call.fail();
        client.settle();
        let failed = &client.failures()[0];
        assert_eq!((failed.name(), failed.failure()), ("send_webhook", Some("http status: 503")));
    }

    #[test]
    fn sample_5_a_photo_is_made_smaller_after_the_upload() {
        let uploads = tempfile::tempdir().unwrap();
        let mut client = TestClient::new(app(Config::default(), Site::new("http://unused.example", uploads.path())));
        let mut photo = Vec::new();
        RgbImage::new(1600, 1200).write_to(&mut std::io::Cursor::new(&mut photo), ::image::ImageFormat::Jpeg).unwrap();
        let answer = client.post("/profile").file("avatar", "../../me.jpg", "image/jpeg", &photo).send();
        assert_eq!(answer.location(), Some("/profile"));
        client.settle();
        let saved: Vec<_> = fs::read_dir(&uploads).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(saved.len(), 1, "{saved:?}");
        assert_eq!(::image::image_dimensions(&saved[0]).unwrap(), (800, 600));
        assert!(client.get("/profile").text().contains("Photo uploaded!"));
    }

    #[test]
    fn sample_6_the_cache_is_warm_after_a_new_post() {
        let service = Service::start();
        let mut client = client(&service);
        assert!(client.get("/blog").text().contains("Nothing in the cache."));
        for number in 0..25 {
            let title = format!("Post {number}");
            let answer = client.post("/blog").form(&[("title", &title), ("body", "<b>")]).send();
            assert_eq!(answer.location(), Some("/blog"));
        }
        client.settle();
        let page = client.get("/blog").text().to_owned();
        assert_eq!(page.matches("<article>").count(), 20);
        assert!(page.contains("<h3>Post 24</h3><p>&lt;b&gt;</p>") && !page.contains("Post 4<"), "{page}");
    }

    #[test]
    fn sample_7_mail_is_set_aside_by_itself() {
        let service = Service::start();
        let mut client = client(&service);
        let answer = client.post("/greetings").form(&[("to", "user@shop.example")]).send();
        assert_eq!(answer.location(), Some("/"));
        client.settle();
        let outbox = client.outbox();
        assert_eq!((outbox[0].subject.as_str(), outbox[0].text.as_deref()), ("Hello", Some("World")));
    }
}
