//! Forms through the test client: entered, refused, shown again with all errors, submitted twice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use aside::config::Mode;
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Error, Form, Request, Response, Result, Status, Upload, context, redirect};
use log::Level;
use serde::Deserialize;

use crate::logs;

const FORM: &str = "application/x-www-form-urlencoded";

fn app_config() -> Config {
    Config::default()
}

fn production() -> Config {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    Config { mode: Mode::Production, secrets, ..Config::default() }
}

fn app() -> App {
    App::with_config(Config::default())
}

#[derive(Deserialize)]
struct Photo {
    title: String,
    photo: Upload,
    #[serde(default)]
    address: Option<Address>,
    letters: Vec<Upload>,
    cover: Option<Upload>,
    items: Vec<Item>,
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Address {
    city: String,
}

#[derive(Deserialize)]
struct Item {
    name: String,
    picture: Upload,
}

const PAGE: &str = r#"
<input name="title" value="{{ form.values.title }}">{{ form.errors.title | default }}
<input name="address[city]" value="{{ form.values["address[city]"] }}">{{ form.errors["address[city]"] | default }}
<input type="file" name="photo">{{ form.errors.photo | default }}
{% for tag in ["red", "sea"] %}<input type="checkbox" name="tags" value="{{ tag }}"{% if tag in form.lists.tags %} checked{% endif %}>{% endfor %}
{% for name, words in form.errors | items %}[{{ name }}: {{ words }}]{% endfor %}"#;

fn photos() -> TestClient {
    TestClient::new(
        app()
            .template("new.html", PAGE)
            .get("/new", |req: &mut Request| page(req, &Form::empty()))
            .post("/photos", create_photo)
            .post("/strict", |req: &mut Request| req.form::<Photo>().map(|new| new.photo.filename().to_owned())),
    )
}

fn page(req: &mut Request, form: &Form<Photo>) -> Result<Response> {
    Ok(req.render("new.html", context! { form })?.status(form.status()))
}

fn create_photo(req: &mut Request) -> Result<Response> {
    let mut form: Form<Photo> = req.submitted()?;
    form.require(&["title"])
        .check("photo", |new| new.photo.size() > 0, "This file is empty.")
        .check("letters", |new| new.letters.iter().all(|letter| letter.size() < 10), "Too long a letter.")
        .try_check("title", |new| Ok::<_, Error>(new.title != "taken"), "Taken.")?;
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return page(req, &form),
    };
    let content = std::fs::read_to_string(new.photo.path())?;
    let city = new.address.map_or(String::new(), |address| address.city);
    let items: Vec<String> =
        new.items.iter().map(|item| format!("{}:{}", item.name, item.picture.filename())).collect();
    let letters: Vec<&str> = new.letters.iter().map(Upload::filename).collect();
    let cover = new.cover.map(|cover| cover.filename().to_owned());
    Ok(Response::text(format!("{} {content} {city} {items:?} {letters:?} {cover:?} {:?}", new.title, new.tags)))
}

#[test]
fn files_and_texts_of_a_form_fill_one_type() {
    let mut client = photos();
    let answer = client
        .post("/photos")
        .field("title", "Harbour")
        .field("address[city]", "Lviv")
        .file("photo", "a.jpg", "image/jpeg", b"light")
        .file("letters", "1.txt", "text/plain", b"one")
        .file("letters", "2.txt", "text/plain", b"two")
        .file("cover", "", "application/octet-stream", b"")
        .field("items[][name]", "x")
        .file("items[][picture]", "x.png", "image/png", b"1")
        .field("items[][name]", "y")
        .file("items[][picture]", "y.png", "image/png", b"2")
        .field("tags", "red")
        .send();
    assert_eq!(
        answer.text(),
        r#"Harbour light Lviv ["x:x.png", "y:y.png"] ["1.txt", "2.txt"] None ["red"]"#,
        "{answer:?}"
    );
}

#[test]
fn a_page_shows_the_entered_values_and_all_errors() {
    let mut client = photos();
    let first = client.get("/new");
    assert!(first.status_code() == Status::OK && first.text().contains(r#"name="title" value="">"#), "{first:?}");
    let refused = client
        .post("/photos")
        .field("title", " ")
        .field("address[city]", "Lviv <3")
        .file("photo", "", "application/octet-stream", b"")
        .file("letters", "1.txt", "text/plain", b"much too long a letter")
        .file("items[3][picture]", "x.png", "image/png", b"1")
        .field("tags", "sea")
        .send();
    assert_eq!(refused.status_code(), Status::UNPROCESSABLE_CONTENT);
    for shown in [
        r#"name="title" value=" ">Please fill this in."#,
        r#"name="address[city]" value="Lviv &lt;3">"#,
        r#"name="photo">Please choose a file."#,
        r#"value="red">"#,
        r#"value="sea" checked>"#,
        "[letters: Too long a letter.]",
        "[items[3][name]: Please fill this in.]",
    ] {
        assert!(refused.text().contains(shown), "{shown} in {refused:?}");
    }
    let taken = client.post("/photos").field("title", "taken").file("photo", "a", "image/png", b"").send();
    assert!(taken.text().contains("[photo: This file is empty.][title: Taken.]"), "{taken:?}");
}

#[test]
fn a_missing_repeated_or_textual_file_is_refused_by_name() {
    let mut client = photos();
    let twice =
        client.post("/photos").field("title", "a").file("photo", "a", "", b"1").file("photo", "b", "", b"2").send();
    assert!(twice.text().contains("[photo: Please give one value only.]"), "{twice:?}");
    let text = client.post("/strict").form(&[("title", "a"), ("photo", "a.jpg")]).send();
    assert_eq!(text.status_code(), Status::UNPROCESSABLE_CONTENT);
    assert!(
        text.text().contains("the field `photo`: it was sent as text; a form with files needs enctype="),
        "{text:?}"
    );
    let missing = client.post("/strict").field("title", "a").send();
    assert!(missing.text().contains("photo: Please choose a file."), "{missing:?}");
    let json =
        serde_json::from_str::<Address>(r#"{"city":1}"#).is_err() && serde_json::from_str::<Upload>("1").is_err();
    assert!(json, "a file cannot be read from JSON");
}

#[test]
fn files_without_a_field_in_the_type_are_ignored() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Title {
        title: String,
    }
    let app = app().post("/", |req: &mut Request| {
        let parts = req.multipart()?;
        let title: Title = parts.form()?;
        let map: std::collections::BTreeMap<String, Vec<String>> = parts.form()?;
        aside::ok(format!("{} {map:?} {}", title.title, parts.file("photo")?.filename()))
    });
    let mut client = TestClient::new(app);
    let answer = client
        .post("/")
        .field("title", "a")
        .field("_once", "x")
        .file("photo", "p.jpg", "", b"1")
        .file("more[]", "q", "", b"1");
    let answer = answer.send();
    assert_eq!(answer.text(), r#"a {"title": ["a"]} p.jpg"#, "{answer:?}");
}

#[test]
fn an_upload_lives_as_long_as_its_value() {
    let kept: Arc<Mutex<Option<Upload>>> = Arc::default();
    let slot = kept.clone();
    let app = app().post("/", move |req: &mut Request| {
        let form: Form<Item> = req.submitted()?;
        *slot.lock().unwrap() = form.valid().ok().map(|item| item.picture);
        aside::ok(())
    });
    let mut client = TestClient::new(app);
    client.post("/").field("name", "a").file("picture", "p.jpg", "", b"light").send();
    let upload = kept.lock().unwrap().take().unwrap();
    assert_eq!(std::fs::read(upload.path()).unwrap(), b"light");
    let path = upload.path().to_owned();
    drop(upload);
    assert!(!path.exists());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    email: String,
}

/// The effect of an order, by its path.
type Work = dyn Fn(&str) -> Result<Response> + Send + Sync;

/// Returns an application that takes orders, and the number of orders that it has taken.
fn shop(config: Config, work: impl Fn(&str) -> Result<Response> + Send + Sync + 'static) -> (App, Arc<Mutex<u32>>) {
    let taken = Arc::new(Mutex::new(0));
    let (count, work): (_, Arc<Work>) = (taken.clone(), Arc::new(work));
    let order = move |req: &mut Request| {
        let order: Order = req.form()?;
        req.once(|req| {
            *count.lock().unwrap() += 1;
            req.flash("success", "Thank you!");
            work(&order.email)
        })
    };
    let app = App::with_config(config)
        .template("form.html", "{{ once() }}")
        .template("flashes.html", "{% for flash in flashes %}{{ flash.message }}{% endfor %}")
        .get("/form", |req: &mut Request| req.render("form.html", ()))
        .get("/flashes", |req: &mut Request| req.render("flashes.html", ()))
        .post("/orders", order.clone())
        .post("/others", order);
    (app, taken)
}

/// Returns the key of a form, from the page.
fn key(client: &mut TestClient) -> String {
    let field = client.get("/form").text().to_owned();
    let key =
        field.strip_prefix(r#"<input type="hidden" name="_once" value=""#).and_then(|rest| rest.strip_suffix("\">"));
    key.unwrap_or_else(|| panic!("{field}")).to_owned()
}

fn order(client: &mut TestClient, path: &str, key: &str, email: &str) -> TestResponse {
    client.post(path).form(&[("email", email), ("_once", key)]).send()
}

#[test]
fn a_repeated_form_gets_the_same_response_and_does_nothing() {
    let (app, taken) = shop(Config::default(), |_| Ok(redirect("/orders/17").background(|| ())));
    let mut client = TestClient::new(app);
    let (one, other) = (key(&mut client), key(&mut client));
    assert!(one != other && one.len() == 32);
    for _ in 0..3 {
        let answer = order(&mut client, "/orders", &one, "a");
        assert_eq!((answer.status_code().code(), answer.location()), (303, Some("/orders/17")));
        assert_eq!(client.get("/flashes").text(), "Thank you!");
    }
    client.drain();
    assert_eq!((*taken.lock().unwrap(), client.counts().ended), (1, 1), "the background task ran once");
    order(&mut client, "/others", &one, "a");
    order(&mut client, "/orders", &one, "changed");
    order(&mut client, "/orders", &other, "a");
    assert_eq!(*taken.lock().unwrap(), 4, "another path, other fields, another key");
    for none in ["", "short", &"x".repeat(32)] {
        order(&mut client, "/orders", none, "a");
        order(&mut client, "/orders", none, "a");
    }
    assert_eq!(*taken.lock().unwrap(), 10);
    client.drain();
}

#[test]
fn a_failed_form_may_be_sent_again() {
    let tries = Mutex::new(0);
    let (app, taken) = shop(Config::default(), move |_| {
        let mut tries = tries.lock().unwrap_or_else(|panicked| panicked.into_inner());
        *tries += 1;
        match *tries {
            1 => Err(Error::conflict("sold out")),
            2 => panic!("a mistake"),
            3 => Ok(Response::text("no").status(Status::new(402))),
            4 => Ok(Response::new().header("Location", "a\r\nb")),
            _ => Ok(redirect("/done")),
        }
    });
    let mut client = TestClient::new(app);
    let key = key(&mut client);
    let statuses: Vec<u16> = (0..6).map(|_| order(&mut client, "/orders", &key, "a").status_code().code()).collect();
    assert_eq!(statuses, [409, 500, 402, 500, 303, 303]);
    assert_eq!(*taken.lock().unwrap(), 5);
}

#[test]
fn only_a_redirect_is_repeated() {
    let (app, taken) = shop(Config::default(), |_| Ok(Response::text("made")));
    let mut client = TestClient::new(app);
    let key = key(&mut client);
    assert_eq!(order(&mut client, "/orders", &key, "a").text(), "made");
    let again = order(&mut client, "/orders", &key, "a");
    assert!(again.status_code() == Status::CONFLICT && again.text().contains("received before"), "{again:?}");
    assert_eq!(*taken.lock().unwrap(), 1);
}

#[test]
fn a_form_with_files_has_a_key_too() {
    let app = app().template("form.html", "{{ once() }}").get("/form", |req: &mut Request| req.render("form.html", ()));
    let app = app.post("/", |req: &mut Request| {
        let form: Form<Item> = req.submitted()?;
        let name = form.value().map_or(String::new(), |item| item.picture.filename().to_owned());
        req.once(|_| Ok(redirect(&format!("/{name}/{}", *COUNT.lock().unwrap()))))
            .inspect(|_| *COUNT.lock().unwrap() += 1)
    });
    static COUNT: Mutex<u32> = Mutex::new(0);
    let mut client = TestClient::new(app);
    let key = key(&mut client);
    let mut send = |file: &str| {
        let request = client.post("/").field("_once", &key).field("name", "a").file("picture", file, "", b"1");
        request.send().location().unwrap().to_owned()
    };
    assert_eq!([send("a"), send("a"), send("b")], ["/a/0", "/a/0", "/b/2"]);
}

/// Regression: a client got the response of another one with the same form, and the second order was not placed.
#[test]
fn another_client_with_the_same_form_places_its_own_order() {
    let count = Mutex::new(0);
    let (app, taken) = shop(Config::default(), move |_| {
        *count.lock().unwrap() += 1;
        Ok(redirect(&format!("/orders/secret-of-{}", count.lock().unwrap())))
    });
    let mut client = TestClient::new(app);
    let key = key(&mut client);
    let own = client.cookies()["once"].clone();
    let mut send = |cookie: &str, peer: &str| {
        let request = client.post("/orders").form(&[("email", "a"), ("_once", &key)]).peer(peer);
        request.header("Cookie", cookie).send().location().unwrap().to_owned()
    };
    let (own, other) = (format!("once={own}"), format!("once={}", "x".repeat(22)));
    let (here, there) = ("192.0.2.1:5000", "192.0.2.2:5000");
    // Identified by the cookie from any address, and without one by the address.
    for (cookie, peer, order) in [
        (own.as_str(), here, 1),
        (&own, there, 1),
        (&other, here, 2),
        ("once=planted", here, 3),
        ("", here, 3),
        ("", there, 4),
        (&other, there, 2),
        ("", there, 4),
    ] {
        assert_eq!(send(cookie, peer), format!("/orders/secret-of-{order}"), "{cookie} {peer}");
    }
    assert_eq!(*taken.lock().unwrap(), 4);
}

/// A site with accounts. A form may log its sender in.
fn accounts() -> TestClient {
    let count = Mutex::new(0);
    let answer = move |req: &mut Request| {
        let user: Option<u64> =
            req.form_pairs()?.iter().find(|(name, _)| name == "user").and_then(|(_, id)| id.parse().ok());
        req.once(|req| {
            user.map_or(Ok(()), |user| req.login(user))?;
            let mut count = count.lock().unwrap();
            *count += 1;
            Ok(redirect(&format!("/{count}")))
        })
    };
    let app = App::with_config(Config::default())
        .template("form.html", "{{ once() }}")
        .get("/form", |req: &mut Request| req.render("form.html", ()))
        .post("/send", answer)
        .post("/login/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.login(id)
        })
        .post("/logout", |req: &mut Request| req.logout());
    TestClient::new(app)
}

#[test]
fn a_form_survives_a_login_but_not_a_change_of_user() {
    let mut client = accounts();
    let rendered_before = key(&mut client);
    let send = |client: &mut TestClient, fields: &[(&str, &str)]| {
        client.post("/send").form(fields).send().location().unwrap().to_owned()
    };
    let fields = [("_once", rendered_before.as_str())];
    assert_eq!((send(&mut client, &fields), send(&mut client, &fields)), ("/1".into(), "/1".into()));
    client.post("/login/17").send();
    assert_eq!(send(&mut client, &fields), "/1", "it was sent before the login and again after it");

    let other = [("_once", rendered_before.as_str()), ("a", "sent after the login alone")];
    assert_eq!((send(&mut client, &other), send(&mut client, &other)), ("/2".into(), "/2".into()));
    client.post("/logout").send();
    assert_eq!(send(&mut client, &other), "/3", "the user who sent it has logged out");
    client.post("/login/17").send();
    client.post("/login/18").send();
    assert_eq!(send(&mut client, &[("_once", &rendered_before), ("b", "")]), "/4");
    client.post("/login/17").send();
    assert_eq!(send(&mut client, &[("_once", &rendered_before), ("b", "")]), "/5", "18 sent it, and this is 17");
}

/// A form that creates an account and logs in: the second click has the cookies from before or after the login.
#[test]
fn a_second_click_on_a_form_that_logs_in_is_the_same_form() {
    let mut client = accounts();
    let key = key(&mut client);
    let fields = [("_once", key.as_str()), ("user", "17")];
    let before = format!("once={}", client.cookies()["once"]);
    for cookies in [None, None, Some(before)] {
        let mut request = client.post("/send").form(&fields);
        if let Some(cookies) = cookies {
            request = request.header("Cookie", &cookies);
        }
        assert_eq!(request.send().location(), Some("/1"));
    }
}

/// Regression: `once` had no effect for a form that the handler had not read before.
#[test]
fn an_unread_form_is_read_for_its_key() {
    let (urlencoded, multipart) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (ours, theirs) = (urlencoded.clone(), multipart.clone());
    let app = App::with_config(Config::default())
        .template("form.html", "{{ once() }}")
        .get("/form", |req: &mut Request| req.render("form.html", ()))
        .post("/urlencoded", move |req: &mut Request| {
            req.once(|req| {
                *ours.lock().unwrap() += 1;
                let order: Order = req.form()?;
                Ok(redirect(&format!("/{}", order.email)))
            })
        })
        .post("/multipart", move |req: &mut Request| {
            req.once(|req| {
                *theirs.lock().unwrap() += 1;
                let form: Form<Item> = req.submitted()?;
                Ok(redirect(&format!("/{}", form.value().unwrap().picture.filename())))
            })
        })
        .post("/read", |req: &mut Request| {
            req.bytes()?;
            req.once(|_| Ok(redirect("/")))
        });
    let mut client = TestClient::new(app);
    let key = key(&mut client);
    for _ in 0..2 {
        assert_eq!(order(&mut client, "/urlencoded", &key, "a").location(), Some("/a"));
        let request = client.post("/multipart").field("_once", &key).field("name", "a").file("picture", "b", "", b"1");
        assert_eq!(request.send().location(), Some("/b"));
    }
    assert_eq!((*urlencoded.lock().unwrap(), *multipart.lock().unwrap()), (1, 1));
    assert_eq!(
        order(&mut client, "/read", &key, "a").status_code(),
        Status::INTERNAL_SERVER_ERROR,
        "the handler must read the form in another way"
    );
}

/// Regression: a cache gave two clients the same page, and so the same key.
#[test]
fn a_page_with_a_key_is_not_stored_and_one_with_a_nonce_is_private() {
    let page = |name: &'static str, control: &'static str| {
        move |req: &mut Request| -> Result<Response> {
            let response = req.render(name, ())?;
            Ok(if control.is_empty() { response } else { response.header("Cache-Control", control) })
        }
    };
    let app = App::with_config(Config::default())
        .template("key.html", "{{ once() }}")
        .template("nonce.html", "{{ csp_nonce }}")
        .template("plain.html", "{% if false %}{{ once() }}{{ csp_nonce }}{% endif %}")
        .get("/key", page("key.html", ""))
        .get("/key/public", page("key.html", "public, max-age=60"))
        .get("/nonce", page("nonce.html", ""))
        .get("/nonce/public", page("nonce.html", "public, max-age=60"))
        .get("/plain/public", page("plain.html", "public, max-age=60"));
    let mut client = TestClient::new(app);
    for (path, control, cookie) in [
        ("/plain/public", "public, max-age=60", false),
        ("/nonce", "private", false),
        ("/nonce/public", "private, max-age=60", false),
        ("/key", "private, no-store", true),
        ("/key/public", "private, no-store", false),
    ] {
        let response = client.get(path);
        assert_eq!(response.header("Cache-Control"), Some(control), "{path}");
        assert_eq!(response.headers().contains("Set-Cookie"), cookie, "{path}: only the first key needs one");
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn a_repeated_form_is_detected_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Some(format!("sqlite:{}", folder.path().join("site.db").display()));
    let config = Config { store, ..Config::default() };
    let same_key = "0123456789abcdef0123456789abcdef";
    let takes = [1, 0].map(|_| {
        let (app, taken) = shop(config.clone(), |_| Ok(redirect("/orders")));
        let mut client = TestClient::new(app);
        assert_eq!(order(&mut client, "/orders", same_key, "a").location(), Some("/orders"));
        assert_eq!(client.get("/flashes").text(), "Thank you!");
        drop(client);
        *taken.lock().unwrap()
    });
    assert_eq!(takes, [1, 0]);
}

/// Sends the same order twice at the same time, and lets `work` proceed when both have arrived. Returns the statuses
/// and targets, in order, and how often the work was done.
fn at_once(work: impl Fn(u32) -> Response + Send + Sync + 'static) -> (Vec<String>, u32) {
    let (arrived, arrivals) = channel();
    let (go, gate) = channel::<()>();
    let (arrived, gate, done) = (Mutex::new(arrived), Mutex::new(gate), Arc::new(Mutex::new(0)));
    let count = done.clone();
    let app = App::with_config(Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() });
    let app = app.post("/orders", move |req: &mut Request| {
        let _order: Order = req.form()?;
        arrived.lock().unwrap().send(()).unwrap();
        req.once(|_| {
            let turn = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            gate.lock().unwrap_or_else(|panicked| panicked.into_inner()).recv().unwrap();
            Ok(work(turn))
        })
    });
    let server = app.start().unwrap();
    let address = server.addr();
    let clients = [(); 2].map(|_| thread::spawn(move || order_response(address)));
    (0..2).for_each(|_| arrivals.recv().unwrap());
    (0..2).for_each(|_| go.send(()).unwrap());
    let mut answers: Vec<String> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    answers.sort();
    server.stop();
    let done = *done.lock().unwrap();
    (answers, done)
}

fn order_response(address: SocketAddr) -> String {
    let body = "email=a&_once=0123456789abcdef0123456789abcdef";
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /orders HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {FORM}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or("nowhere");
    format!("{} {location}", &answer[9..12])
}

#[test]
fn two_concurrent_clicks_place_one_order() {
    let (answers, done) = at_once(|turn| redirect(&format!("/orders/{turn}")));
    assert_eq!((answers, done), (vec!["303 /orders/1".to_owned(); 2], 1));
}

#[test]
fn the_second_click_runs_after_the_first_one_panicked() {
    let (answers, done) = at_once(|turn| if turn == 1 { panic!("a mistake") } else { redirect("/orders/2") });
    assert_eq!((answers, done), (vec!["303 /orders/2".to_owned(), "500 nowhere".to_owned()], 2));
}

#[derive(Debug, Deserialize)]
struct Strict {
    #[allow(dead_code)]
    quantity: u32,
}

/// Errors of reading a request, with the line that read it.
type Asked = (Option<Error>, u32);

/// A handler that reads something from the request.
type Ask = fn(&mut Request) -> Asked;

const QUESTIONS: [(&str, Ask); 11] = [
    ("form", |req| (req.form::<Strict>().err(), line!())),
    ("submitted", |req| (req.submitted::<Strict>().err(), line!())),
    ("pairs", |req| (req.form_pairs().err(), line!())),
    ("multipart", |req| (req.multipart().err(), line!())),
    ("json", |req| (req.json::<Strict>().err(), line!())),
    ("query", |req| (req.query::<Strict>().err(), line!())),
    ("text", |req| (req.text().err(), line!())),
    ("param", |req| (req.param::<u32>("question").err(), line!())),
    ("part", |req| (req.multipart().and_then(|form| form.text("none").map(drop)).err(), line!())),
    ("file", |req| (req.multipart().and_then(|form| form.file("none").map(drop)).err(), line!())),
    ("typed", |req| (req.multipart().and_then(|form| form.form::<Strict>()).err(), line!())),
];

/// Regression: the location of each of these errors was a line of Rust's library, or missing.
#[test]
fn a_client_error_has_the_location_of_the_handler() {
    let app = app().post("/{question}", |req: &mut Request| {
        let name: String = req.param("question").unwrap();
        let (_, ask) = QUESTIONS.iter().find(|(question, _)| *question == name).unwrap();
        let (error, line) = ask(req);
        let error = error.unwrap();
        let place = error.location().map(|place| (place.file(), place.line()));
        assert_eq!(place, Some((file!(), line)), "{name}: {error:?}");
        Response::text("").status(error.status_code())
    });
    let mut client = TestClient::new(app);
    let multipart = "multipart/form-data; boundary=x";
    let whole = "--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--";
    for (question, content_type, body, status) in [
        ("form", FORM, "quantity=x", 422),
        ("form", FORM, "", 422),
        ("form", "text/plain", "", 415),
        ("form", multipart, "", 400),
        ("form", multipart, whole, 422),
        ("submitted", "text/plain", "", 415),
        ("submitted", multipart, "--x", 400),
        ("pairs", multipart, "", 400),
        ("multipart", FORM, "", 415),
        ("multipart", multipart, "--y--", 400),
        ("json", "application/json", "{", 400),
        ("json", "application/json", "{\"quantity\": -1}", 422),
        ("json", FORM, "", 415),
        ("query", FORM, "", 400),
        ("param", FORM, "", 404),
        ("part", multipart, whole, 422),
        ("file", multipart, whole, 422),
        ("typed", multipart, whole, 422),
    ] {
        let answer = client.post(&format!("/{question}")).body(content_type, body).send();
        assert_eq!(answer.status_code().code(), status, "{question} {body} {}", answer.text());
    }
    assert_eq!(client.post("/text").body(FORM, b"\xff".to_vec()).send().status_code(), Status::BAD_REQUEST);
    let long = "x".repeat((1 << 20) + 1);
    assert_eq!(client.post("/form").body(FORM, long).send().status_code(), Status::CONTENT_TOO_LARGE);
}

/// The first visit, before there can be an error.
#[test]
fn a_field_without_an_error_renders_as_blank() {
    let page = "[{{ form.values.name }}|{{ form.errors.name }}|{{ form.errors['a[b]'] }}]{% if form.errors.name %}wrong{% endif %}\
                {% if form.errors %}{{ form.errors | length }} wrong{% endif %}";
    let app = app()
        .template("page.html", page)
        .get("/", |req: &mut Request| req.render("page.html", context! { form => Form::<Order>::empty() }))
        .post("/", |req: &mut Request| {
            let mut form: Form<Order> = req.submitted()?;
            form.error("name", "No.");
            req.render("page.html", context! { form })
        });
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/").text(), "[||]");
    assert_eq!(client.post("/").form(&[("email", "a"), ("name", "b")]).send().text(), "[b|No.|]wrong1 wrong");
}

#[derive(Deserialize)]
struct Booking {
    email: String,
    seats: u32,
    /// A checkbox, which a browser does not send if it is not ticked.
    terms: bool,
    note: Option<String>,
}

fn booking_page(req: &mut Request, form: &Form<Booking>) -> Result<Response> {
    Ok(req.render("booking.html", context! { form })?.status(form.status()))
}

/// Returns a client for a form with a page that shows the errors of the named fields.
fn bookings(
    config: Config,
    shown: &[&str],
    path: &str,
    check: impl Fn(&mut Form<Booking>) + Send + Sync + 'static,
) -> TestClient {
    let shown: String = shown.iter().map(|name| format!("{{{{ form.errors.{name} }}}}")).collect();
    TestClient::new(App::with_config(config).template("booking.html", &shown).post(path, move |req: &mut Request| {
        let mut form: Form<Booking> = req.submitted()?;
        check(&mut form);
        match form.valid() {
            Ok(new) => Ok(Response::text(format!("{} {} {} {:?}", new.email, new.seats, new.terms, new.note))),
            Err(form) => booking_page(req, &form),
        }
    }))
}

#[test]
fn the_log_has_the_messages_of_a_refused_form_once_and_not_the_values() {
    logs::record();
    let check = |form: &mut Form<Booking>| {
        form.require(&["email", "note"]).check("seats", |new| new.seats <= 12, "At most 12.");
    };
    let mut client = bookings(app_config(), &["email", "seats", "note"], "/refused-logged", check);
    let response = client.post("/refused-logged").form(&[("email", "zebra"), ("seats", "17"), ("note", " ")]).send();
    assert_eq!(response.status_code(), 422);
    let lines = logs::at(Level::Info, "/refused-logged");
    let refused: Vec<_> = lines.iter().filter(|line| line.contains("form refused")).collect();
    assert_eq!(refused.len(), 1, "{lines:?}");
    let id = response.header("X-Request-Id").unwrap();
    let expected = "form refused: note: Please fill this in.; seats: At most 12.";
    assert_eq!(*refused[0], format!("aside::http: POST /refused-logged {id}: {expected}"));
    assert!(logs::with("/refused-logged").iter().all(|(_, line)| !line.contains("zebra")), "{lines:?}");
    client.post("/refused-logged").form(&[("email", "ada"), ("seats", "2"), ("note", "x")]).send();
    assert_eq!(logs::with("/refused-logged").iter().filter(|(_, line)| line.contains("form refused")).count(), 1);
    assert!(logs::at(Level::Warn, "/refused-logged").is_empty());
}

#[test]
fn an_error_that_a_page_does_not_show_has_a_warning_in_development() {
    logs::record();
    let check = |form: &mut Form<Booking>| {
        form.require(&["email", "note"]).check("seats", |new| new.seats <= 12, "At most 12.").error("form", "Full.");
    };
    let send = |config, path: &str| {
        bookings(config, &["email", "saets", "note"], path, check).post(path).form(&[("saets", "2")]).send();
    };
    send(app_config(), "/refused-hidden");
    let warnings = logs::at(Level::Warn, "POST /refused-hidden ");
    let hidden = "which booking.html does not show";
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].ends_with(&format!(": the form has an error for the field `form`, {hidden}")), "{warnings:?}");
    let near = "it reads the error of `saets`";
    let seats = format!(": the form has an error for the field `seats`, {hidden}; {near}");
    assert!(warnings[1].starts_with("aside::http: ") && warnings[1].ends_with(&seats), "{warnings:?}");
    send(production(), "/refused-production");
    assert!(logs::at(Level::Warn, "POST /refused-production ").is_empty());
    assert_eq!(logs::with("/refused-production").iter().filter(|(_, line)| line.contains("form refused")).count(), 1);
}

#[test]
fn an_error_that_a_loop_shows_has_no_warning() {
    logs::record();
    let page = "{% for name, message in form.errors | items %}{{ name }}: {{ message }}{% endfor %}";
    let app = app().template("loop.html", page).post("/refused-loop", |req: &mut Request| {
        let form: Form<Booking> = req.submitted()?;
        Ok::<_, Error>(req.render("loop.html", context! { form })?.status(form.status()))
    });
    let response = TestClient::new(app).post("/refused-loop").form(&[("email", "ada")]).send();
    assert_eq!(response.text(), "seats: Please fill this in.");
    assert!(logs::at(Level::Warn, "/refused-loop").is_empty());
    assert_eq!(logs::at(Level::Info, "/refused-loop").len(), 2);
}

#[test]
fn a_misspelled_field_in_the_code_has_a_warning_with_its_location_in_development() {
    logs::record();
    let line = line!() + 2;
    let check = |form: &mut Form<Booking>| {
        form.require(&["emial"]).check("saets", |_| true, "").try_check("seat", |_| Ok::<_, Error>(true), "").unwrap();
    };
    bookings(app_config(), &[], "/refused-misspelled", check)
        .post("/refused-misspelled")
        .form(&[("email", "a")])
        .send();
    for (name, field) in [("emial", "email"), ("saets", "seats"), ("seat", "seats")] {
        let warnings = logs::at(Level::Warn, &format!("The form has no field `{name}`"));
        let at = format!("(at tests/it/forms.rs:{line})");
        let expected = format!("aside::http: The form has no field `{name}`; did you mean `{field}`? {at}");
        assert_eq!(warnings, [expected]);
    }
}

#[test]
fn fields_that_are_not_sent_and_keys_of_errors_have_no_warning() {
    logs::record();
    let check = |form: &mut Form<Booking>| {
        form.require(&["email"]).check("terms", |_| true, "").check("note", |_| true, "").check(
            "seats[0]",
            |_| true,
            "",
        );
        form.check("emails", |_| true, "").error("payment", "Declined.").error("form", "Try another card.");
    };
    let mut client = bookings(app_config(), &["payment", "form"], "/refused-keys", check);
    client.post("/refused-keys").form(&[("email", "ada"), ("emails", "sent"), ("seats", "2")]).send();
    for name in ["terms", "note", "seats[0]", "emails", "payment", "form"] {
        assert!(logs::at(Level::Warn, &format!("The form has no field `{name}`")).is_empty(), "{name}");
    }
}
