//! Middleware that wraps handlers, and routes with options. The tests of middleware run over each transport.

use std::sync::{Arc, Mutex, mpsc};

use aside::config::ServerKind;
use aside::routing::{Next, Rate, any, get, post};
use aside::server::Server;
use aside::testing::TestClient;
use aside::{App, Config, Error, Request, Response, Result, redirect};

use crate::logs;
use crate::wire::{PATIENCE, Raw, config, start};

/// Runs a test over each transport that is compiled in.
fn over_each_transport(test: impl Fn(Config)) {
    let epoll = cfg!(all(feature = "epoll", target_os = "linux")).then_some(ServerKind::Epoll);
    for server in epoll.into_iter().chain([ServerKind::TinyHttp]) {
        test(Config { server, ..config() });
    }
}

fn get_once(server: &Server, path: &str) -> crate::wire::Reply {
    Raw::to(server).get(path)
}

/// Adds a letter to the request on the way in, and to the response on the way out.
fn mark(letter: &'static str) -> impl Fn(&mut Request, Next<'_>) -> Result<Response> + Send + Sync + 'static {
    move |req, next| {
        let so_far = req.extension::<String>().cloned().unwrap_or_default();
        req.set_extension(so_far + letter);
        let mut response = next.run(req)?;
        let so_far = response.headers().get("X-Out").unwrap_or_default().to_owned();
        response.headers_mut().set("X-Out", so_far + letter);
        Ok(response)
    }
}

fn marks(req: &mut Request) -> String {
    req.extension::<String>().cloned().unwrap_or_default()
}

#[test]
fn middleware_wraps_the_site_then_the_mount_then_the_route() {
    over_each_transport(|config| {
        let shop = App::new()
            .middleware(mark("c"))
            .route("/cart", get(marks).middleware(mark("d")).middleware(mark("e")))
            .get("/", marks);
        let app = App::with_config(config)
            .middleware(mark("a"))
            .middleware(mark("b"))
            .mount("/shop", shop)
            .get("/shopping", marks)
            .get("/", marks);
        let server = start(app);
        for (path, (way_in, way_out)) in [
            ("/shop/cart", ("abcde", "edcba")),
            ("/shop", ("abc", "cba")),
            ("/shopping", ("ab", "ba")),
            ("/", ("ab", "ba")),
        ] {
            let reply = get_once(&server, path);
            assert_eq!((reply.body.as_str(), reply.header("X-Out")), (way_in, Some(way_out)), "{path}");
        }
        server.stop();
    });
}

#[test]
fn middleware_sees_an_error_before_it_becomes_a_page() {
    over_each_transport(|config| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = seen.clone();
        let app = App::with_config(config)
            .middleware(move |req, next| {
                let path = req.path().to_owned();
                next.run(req).inspect_err(|error| theirs.lock().unwrap().push(format!("{path} {}", error.chain())))
            })
            .middleware(|req, next| match next.run(req) {
                Err(error) if error.status_code().code() == 409 => Ok(redirect("/elsewhere")),
                Err(error) if error.status_code().code() == 403 => Err(error.context("at the gate").status(404)),
                outcome => outcome,
            })
            .error_page(404, |_: &mut Request, error: &Error| format!("page: {error}"))
            .get("/taken", |_| Err::<(), _>(Error::conflict("taken")))
            .get("/closed", |_| Err::<(), _>(Error::forbidden("closed")))
            .get("/broken", |_| Response::text("hi").header("X-Bad", "a\r\nb"));
        let server = start(app);
        let taken = get_once(&server, "/taken");
        assert_eq!((taken.status, taken.header("Location")), (303, Some("/elsewhere")));
        assert_eq!(get_once(&server, "/closed").body, "page: at the gate");
        assert_eq!(get_once(&server, "/broken").status, 500);
        assert_eq!(get_once(&server, "/none").body, "page: 404 Not Found");
        let other_method =
            Raw::to(&server).send("POST /taken HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").reply();
        assert_eq!((other_method.status, other_method.header("Allow")), (405, Some("GET, HEAD, OPTIONS")));
        server.stop();
        let seen = seen.lock().unwrap();
        let starts = ["/closed at the gate: closed", "/broken ", "/none ", "/taken This page cannot be used"];
        assert!(seen.len() == 4 && seen.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{seen:?}");
    });
}

#[test]
fn deferred_tasks_of_a_response_with_an_error_run_behind_middleware() {
    let app = App::with_config(Config::default())
        .middleware(|req, next| next.run(req).or_else(|_| Ok(Response::text("in its place"))))
        .get("/", |_| Response::text("hi").background(|| ()).header("X-Bad", "a\r\nb"));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/").text(), "in its place");
    client.drain();
    assert_eq!(client.counts().ended, 1);
}

#[test]
fn a_panic_unwinds_through_middleware() {
    struct Unwound(mpsc::Sender<bool>);
    impl Drop for Unwound {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::panicking());
        }
    }
    logs::record();
    over_each_transport(|config| {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let app = App::with_config(config)
            .middleware(move |req, next| {
                let _unwound = Unwound(tell.lock().unwrap().clone());
                next.run(req)
            })
            .get("/panic-in-middleware", |_| -> () { panic!("boom within") });
        let server = start(app);
        assert_eq!(get_once(&server, "/panic-in-middleware").status, 500);
        assert!(told.recv_timeout(PATIENCE).unwrap());
        server.stop();
    });
}

#[test]
fn middleware_may_respond_in_the_handlers_place() {
    over_each_transport(|config| {
        let app = App::with_config(config)
            .middleware(|req, next| match req.query_string() {
                "stop" => Ok(Response::text("stopped")),
                "fail" => Err(Error::forbidden("not you")),
                _ => next.run(req),
            })
            .get("/", |req: &mut Request| match req.query_string() {
                "" => "page",
                _ => unreachable!("the middleware has answered"),
            });
        let server = start(app);
        assert_eq!(get_once(&server, "/").body, "page");
        assert_eq!(get_once(&server, "/?stop").body, "stopped");
        assert_eq!(get_once(&server, "/?fail").status, 403);
        server.stop();
    });
}

#[test]
fn middleware_ends_before_a_streamed_body_is_written() {
    over_each_transport(|config| {
        let (tell, told) = mpsc::channel();
        let (tell, told) = (Mutex::new(tell), Arc::new(Mutex::new(told)));
        let app = App::with_config(config)
            .middleware(move |req, next| {
                let response = next.run(req)?;
                let cannot = response.body().unwrap_err().chain();
                tell.lock().unwrap().send(cannot).unwrap();
                Ok(response)
            })
            .get("/", move |_| {
                let told = told.clone();
                Response::stream("text/plain", move |out| {
                    let said = told.lock().unwrap().recv_timeout(PATIENCE).expect("the middleware has ended");
                    out.write_all(said.as_bytes())
                })
            });
        let server = start(app);
        let mut raw = Raw::to(&server);
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").head();
        assert_eq!(raw.chunk(), "the body is streamed, and cannot be read before it is sent");
        server.stop();
    });
}

#[test]
fn a_body_in_memory_is_replaced_with_its_length_and_etag() {
    over_each_transport(|config| {
        let app = App::with_config(config)
            .middleware(|req, next| {
                let mut response = next.run(req)?;
                let longer = [response.body()?, b", and more"].concat();
                response.set_body(longer)?;
                Ok(response)
            })
            .get("/", |req: &mut Request| {
                let text = format!("hello {}", req.query_string());
                Response::text(text).header("ETag", "\"1\"").header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
            })
            .get("/plain", |_| "hello")
            .get("/stream", |_| Response::stream("text/plain", |out| out.write_all(b"streamed")));
        let server = start(app);
        let [one, same, other] = ["/?1", "/?1", "/?2"].map(|path| get_once(&server, path));
        assert_eq!((one.body.as_str(), one.header("Content-Length")), ("hello 1, and more", Some("17")));
        assert_eq!(one.header("ETag"), same.header("ETag"));
        assert!(one.header("ETag") != other.header("ETag") && one.header("ETag") != Some("\"1\""), "{one:?}");
        assert_eq!(one.header("Last-Modified"), None);
        let plain = get_once(&server, "/plain");
        assert_eq!((plain.body.as_str(), plain.header("ETag")), ("hello, and more", None));
        let head = Raw::to(&server).send("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").head();
        assert_eq!(head.header("Content-Length"), Some("16"));
        assert_eq!(get_once(&server, "/stream").status, 500);
        server.stop();
    });
}

#[test]
fn two_calls_for_one_path_add_up_and_each_has_its_own_options() {
    let app = App::with_config(Config::default())
        .route("/login", get(|_| "form").name("login"))
        .route("/login", post(|_| "in").put(|_| "put").rate_limit(Rate::per_hour(2)))
        .route("/login", any(|req: &mut Request| req.method().to_string()))
        .get("/", |req: &mut Request| req.url_for("login", &[]));
    let mut client = TestClient::new(app);
    assert_eq!((client.get("/").text(), client.post("/login").send().text()), ("/login", "in"));
    // One limit for both methods.
    assert_eq!(client.request("PUT", "/login").send().text(), "put");
    assert_eq!(client.post("/login").send().status_code().code(), 429);
    assert_eq!(client.get("/login").text(), "form");
    assert_eq!(client.request("DELETE", "/login").send().text(), "DELETE");
}

#[test]
fn two_handlers_for_one_method_of_a_path_are_refused_with_both_locations() {
    let app = App::with_config(Config::default()).route("/a", get(|_| "").post(|_| "")).route("/a", get(|_| ""));
    let message = app.start().map(drop).unwrap_err().chain();
    assert!(message.contains("GET `/a`") && message.matches("tests/it/middleware.rs:").count() == 2, "{message}");
}
