//! The application: middleware, mounts, route names, custom error pages, health checks.

use std::time::Duration;

use aside::config::Mode;
use aside::routing::get;
use aside::testing::TestClient;
use aside::{
    App, Config, Error, Jobs, Json, Live, Request, Response, Result, Status, Task, TaskContext, context, redirect,
};
use log::Level;

use crate::logs;

fn app() -> App {
    App::with_config(Config::default())
}

fn in_production() -> App {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    App::with_config(Config { mode: Mode::Production, secrets, ..Config::default() })
}

fn note(req: &mut Request, name: &str) {
    match req.extension::<Vec<String>>() {
        Some(names) => names.push(name.to_owned()),
        None => req.set_extension(vec![name.to_owned()]),
    }
}

fn notes(req: &mut Request) -> String {
    req.extension::<Vec<String>>().map_or_else(String::new, |names| names.join(" "))
}

#[test]
fn before_and_after_hooks_run_in_order_around_the_handler() {
    let app = app()
        .before(|req: &mut Request| note(req, "first"))
        .before(|req: &mut Request| -> Result<Option<Response>> {
            note(req, "second");
            match req.query_string() {
                "stop" => Ok(Some(redirect("/elsewhere"))),
                "fail" => Err(Error::forbidden("not you")),
                _ => Ok(None),
            }
        })
        .after(|req: &mut Request, response: &mut Response| {
            let names = notes(req);
            response.headers_mut().set("X-Notes", names);
        })
        .get("/", |req: &mut Request| {
            note(req, "handler");
            "page"
        });
    let mut client = TestClient::new(app);
    let page = client.get("/");
    assert_eq!((page.text(), page.header("X-Notes")), ("page", Some("first second handler")));
    let stopped = client.get("/?stop");
    assert_eq!((stopped.location(), stopped.header("X-Notes")), (Some("/elsewhere"), Some("first second")));
    let failed = client.get("/?fail");
    assert_eq!((failed.status_code(), failed.header("X-Notes")), (Status::FORBIDDEN, Some("first second")));
    assert_eq!(client.get("/gone").header("X-Notes"), Some("first second"));
}

#[test]
fn a_hook_that_panics_is_an_error_page_and_keeps_the_background_tasks() {
    logs::record();
    let app = app()
        .before(|req: &mut Request| {
            if req.query_string() == "before" {
                panic!("before the handler")
            }
        })
        .after(|req: &mut Request, _: &mut Response| {
            if req.query_string() == "after" {
                panic!("after the handler")
            }
        })
        .get("/", |_| Response::text("page").background(|| ()));
    let mut client = TestClient::new(app);
    for query in ["before", "after"] {
        let response = client.get(&format!("/?{query}"));
        assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR, "{query}");
        let lines = logs::at(Level::Error, &format!("panicked: {query} the handler"));
        assert!(lines.len() == 1 && lines[0].contains(response.header("X-Request-Id").unwrap()), "{lines:?}");
    }
    client.drain();
    assert_eq!(client.counts().ended, 1);
    assert_eq!(client.get("/").text(), "page");
    client.drain();
}

fn admin() -> App {
    App::new()
        .before(|req: &mut Request| (req.query_string() != "key").then(|| redirect("/login")))
        .error_page(404, |req: &mut Request, _: &Error| format!("no {} in here", req.path()))
        .get("/", |req: &mut Request| req.path().to_owned())
        .route(
            "/users/{id}",
            get(|req: &mut Request| req.param::<u64>("id").map(|id| format!("user {id}"))).name("user"),
        )
        .mount("/deep", App::new().get("/", |_| "deep").fallback(|_: &mut Request| "deep down"))
        .state(17_u64)
        .template("admin.html", "admin")
}

#[test]
fn a_mounted_site_serves_its_path_with_its_own_middleware_and_error_pages() {
    let app = app()
        .mount("/admin", admin())
        .error_page(404, |_: &mut Request, _: &Error| "nothing out here")
        .before(|req: &mut Request| (req.query_string() == "outside").then_some("stopped outside"))
        .get("/", |_| "outside")
        .get("/administration", |_| "elsewhere");
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/admin?outside").text(), "stopped outside");
    assert_eq!((client.get("/").text(), client.get("/administration").text()), ("outside", "elsewhere"));
    for path in ["/admin?key", "/admin/?key"] {
        assert!(client.get(path).text().starts_with("/admin"), "{path}");
    }
    assert_eq!(client.get("/admin/users/7?key").text(), "user 7");
    for path in ["/admin", "/admin/", "/admin/users/7", "/admin/nothing", "/admin/deep/x"] {
        assert_eq!(client.get(path).location(), Some("/login"), "{path}");
    }
    let gone = client.get("/admin/nothing?key");
    assert_eq!((gone.status_code(), gone.text()), (Status::NOT_FOUND, "no /admin/nothing in here"));
    assert_eq!(client.get("/nothing").text(), "nothing out here");
    assert_eq!(client.get("/admin/deep?key").text(), "deep");
    assert_eq!(client.get("/admin/deep/er?key").text(), "deep down");
    assert_eq!(*client.state::<u64>(), 17);
}

#[test]
fn the_static_files_of_a_mounted_site_are_below_its_path() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.css"), "a {}").unwrap();
    let shop = App::new()
        .static_files("/assets", folder.path())
        .template("shop.html", "{{ static('a.css') }}")
        .get("/", |req: &mut Request| req.render("shop.html", context! {}));
    let mut client = TestClient::new(app().mount("/shop", shop));
    let address = client.get("/shop").text().replace("&#x2f;", "/");
    assert!(address.starts_with("/shop/assets/a.css?v="), "{address}");
    assert_eq!(client.get(&address).text(), "a {}");
}

#[test]
fn a_broken_template_prevents_a_start_in_production() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page.html"), "{% if %}").unwrap();
    let error = in_production().templates(folder.path()).start().err().unwrap().chain();
    assert!(error.contains("page.html:1"), "{error}");
    drop(TestClient::new(app().templates(folder.path())));
}

#[test]
fn an_invalid_mount_is_refused_at_start() {
    let refused = |app: App| app.start().err().unwrap().chain();
    assert!(refused(app().mount("/{x}", App::new())).contains("not a plain path"));
    assert!(refused(app().mount("/", App::new())).contains("not a plain path"));
    assert!(refused(app().state(1_u8).mount("/a", App::new().state(2_u8))).contains("a state of the same type"));
    assert!(refused(app().get("/a/b", |_| "").mount("/a", App::new().get("/b", |_| ""))).contains("conflicts with"));
    assert!(refused(app().error_page(200, |_: &mut Request, _: &Error| "")).contains("not an error status"));
    let twice = app().route("/a", get(|_| "").name("x")).route("/b", get(|_| "").name("x"));
    assert!(refused(twice).contains("the route name `x`"));
}

#[test]
fn links_are_built_from_route_names() {
    logs::record();
    let app = app()
        .route("/photos/{id}/{size}.jpg", get(|_| "").name("picture"))
        .get("/to", |req: &mut Request| req.url_for("picture", &[("id", &17), ("size", &"a b"), ("v", &"1&2")]))
        .get("/broken", |req: &mut Request| req.url_for("picture", &[]))
        .template("links.html", "<a href=\"{{ url_for('picture', id=17, size=200, next='/x?a&b') }}\">")
        .get("/links", |req: &mut Request| req.render("links.html", context! {}))
        .mount("/admin", admin())
        .get("/user", |req: &mut Request| req.url_for("user", &[("id", &7)]));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/to").text(), "/photos/17/a%20b.jpg?v=1%262");
    assert_eq!(client.get("/user").text(), "/admin/users/7");
    let link = client.get("/links").text().replace("&#x2f;", "/");
    assert_eq!(link, "<a href=\"/photos/17/200.jpg?next=%2Fx%3Fa%26b\">");
    assert_eq!(client.get("/broken").status_code(), Status::INTERNAL_SERVER_ERROR);
    assert_eq!(logs::at(Level::Error, "the parameter `id` is missing").len(), 1);
}

#[test]
fn a_site_can_define_error_pages() {
    logs::record();
    let app = || {
        in_production()
            .template("404.html", "<h1>{{ words }}</h1>{% for flash in flashes %}{{ flash.message }}{% endfor %}")
            .error_page(404, |req: &mut Request, error: &Error| {
                req.render("404.html", context! { words => error.message().unwrap_or("nothing here") })
            })
            .error_page(500, |_: &mut Request, _: &Error| -> Result<&str> {
                Err(Error::internal("the page broke too"))
            })
            .error_page(503, |_: &mut Request, _: &Error| panic!("the page panicked"))
            .get("/photo", |_| -> Result<()> { Err(Error::not_found("no such photo")) })
            .get("/flash", |req: &mut Request| req.flash("note", "a note for the next page"))
            .get("/broken", |_| -> Result<()> { Err(Error::internal("a secret of the site")) })
            .get("/busy", |_| Status::SERVICE_UNAVAILABLE)
    };
    let mut client = TestClient::new(app());
    let gone = client.get("/gone");
    assert_eq!((gone.status_code(), gone.text()), (Status::NOT_FOUND, "<h1>nothing here</h1>"));
    assert_eq!(gone.header("Cache-Control"), Some("no-store"));
    client.get("/flash");
    assert_eq!(client.get("/photo").text(), "<h1>no such photo</h1>a note for the next page");
    assert_eq!(client.get("/photo").text(), "<h1>no such photo</h1>");
    let broken = client.get("/broken");
    assert_eq!(broken.status_code(), Status::INTERNAL_SERVER_ERROR);
    assert!(!broken.text().contains("secret") && broken.text().contains(broken.header("X-Request-Id").unwrap()));
    assert_eq!(logs::at(Level::Error, "the page broke too").len(), 1);
    assert_eq!(client.get("/busy").status_code(), Status::SERVICE_UNAVAILABLE);
    assert_eq!(logs::at(Level::Error, "panicked: the page panicked").len(), 1);
}

#[test]
fn the_health_check_counts_the_background_tasks() {
    let app = app()
        .healthz()
        .get("/work", |_| Response::new().background(|| "done".parse::<u8>().map(drop)).background(|| ()))
        .get("/cancelled", |_| Response::new().background(|| Err::<(), _>(aside::tasks::Cancelled)))
        .get("/panics", |_| Response::new().background(|| -> () { panic!("boom") }))
        .get("/hangs", |_| {
            let task = Task::named("hangs").deadline(Duration::from_millis(1));
            Response::new().task(task, |task: &TaskContext| task.sleep(Duration::from_secs(600)))
        });
    let mut client = TestClient::new(app.panel(|_| true));
    for path in ["/work", "/cancelled", "/panics", "/hangs"] {
        client.get(path);
    }
    client.drain();
    let panel = client.get("/_aside/tasks").text().to_owned();
    assert!(panel.contains("2<small>1 timed out</small>") && panel.contains("2<small>1 panicked</small>"), "{panel}");
    let health: serde_json::Value = client.get("/healthz").json();
    let expected = serde_json::json!({
        "status": "ok", "running": 0, "waiting": 0, "succeeded": 1,
        "failed": 2, "panicked": 1, "abandoned": 0, "cancelled": 2, "timed_out": 1
    });
    assert_eq!(health, expected);
}

#[test]
fn a_site_is_ready_without_jobs_and_with_jobs_that_can_be_enqueued() {
    for app in [app(), app().jobs(Jobs::memory())] {
        let mut client = TestClient::new(app.readyz());
        let ready = client.request("GET", "/readyz").header("Host", "10.0.0.7:8000").send();
        assert_eq!((ready.status_code(), ready.text()), (Status::OK, r#"{"status":"ok"}"#));
        assert_eq!(ready.header("Cache-Control"), Some("no-store"));
    }
}

/// The readiness check names the reason for a load balancer, and reveals no internals. The process is still healthy.
#[cfg(feature = "sqlite")]
#[test]
fn a_site_that_cannot_enqueue_jobs_is_alive_but_not_ready() {
    logs::record();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let mut client = TestClient::new(app().jobs(Jobs::sqlite(&path).unwrap()).readyz().healthz());
    assert_eq!(client.get("/readyz").status_code(), Status::OK);
    std::fs::rename(&path, folder.path().join("away.db")).unwrap();
    let began = std::time::Instant::now();
    let refused = loop {
        let response = client.get("/readyz");
        if response.status_code() == Status::SERVICE_UNAVAILABLE {
            break response;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the result is cached for a second");
        std::thread::yield_now();
    };
    assert_eq!(refused.text(), r#"{"reasons":["jobs: the database is missing"],"status":"unavailable"}"#);
    assert_eq!(client.get("/healthz").status_code(), Status::OK);
    let path = path.display().to_string();
    assert!(logs::at(Level::Warn, &path).iter().any(|line| line.contains("cannot be enqueued")));
}

#[test]
fn an_options_request_for_the_whole_site_lists_its_methods() {
    let mut client = TestClient::new(app().get("/a", |_| "").put("/b", |_| ""));
    let response = client.request("OPTIONS", "*").send();
    assert_eq!((response.status_code().code(), response.header("Allow")), (204, Some("GET, PUT, HEAD, OPTIONS")));
    assert_eq!(client.get("*").status_code(), Status::METHOD_NOT_ALLOWED);
    let mut own = TestClient::new(self::app().any("/a", |req: &mut Request| Json(req.method().as_str().to_owned())));
    assert_eq!(own.request("OPTIONS", "/a").send().text(), "\"OPTIONS\"");
}

#[test]
fn a_response_varies_by_the_language_that_its_handler_or_its_live_fragment_reads() {
    fn language(req: &mut Request) -> &'static str {
        req.preferred_language(&["en", "de"]).unwrap_or("none")
    }
    let app = app()
        .get("/", language)
        .get("/plain", |_| "same for all")
        .live("hello", "hello.html", |req: &mut Request| Live::new(language(req)))
        .template("hello.html", "{{ state }}")
        .template("page.html", "{{ live('hello') }}")
        .get("/live", |req: &mut Request| req.render("page.html", ()));
    let mut client = TestClient::new(app);
    let mut get = |path: &str| client.request("GET", path).header("Accept-Language", "de-AT, *;q=0.1").send();
    let [page, live, plain] = ["/", "/live", "/plain"].map(&mut get);
    assert_eq!((page.text(), page.header("Vary")), ("de", Some("Accept-Language")));
    assert!(live.text().contains(">de</aside-live>") && live.header("Vary") == Some("Accept-Language"));
    assert_eq!((plain.text(), plain.header("Vary")), ("same for all", None));
}

#[test]
fn all_templates_have_the_filters_globals_and_contexts_of_the_application() {
    let shop = App::new()
        .template_filter("money", |cents: i64| format!("{}.{:02} <€>", cents / 100, cents % 100))
        .context_processor(|req| Ok(context! { at => req.path(), who => "processor" }));
    let app = App::with_config(Config::default())
        .template("page.html", "{{ price | money }} {{ site }} {{ at }} {{ who }} {{ path }}")
        .template_global("site", "Darkroom & co")
        .template_global("who", "global")
        .context_processor(|_| Ok(context! { who => "earlier" }))
        .mount("/shop", shop)
        .get("/a", |req: &mut Request| req.render("page.html", context! { price => 1250 }))
        .get("/b", |req: &mut Request| req.render("page.html", context! { price => 5, who => "page" }));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/a").text(), "12.50 &lt;€&gt; Darkroom &amp; co /a processor /a");
    assert_eq!(client.get("/b").text(), "0.05 &lt;€&gt; Darkroom &amp; co /b page /b");
}

#[cfg(feature = "mail")]
#[test]
fn the_templates_of_mails_have_the_filters_and_globals_of_the_application() {
    let app = App::with_config(Config::default())
        .template("mail.txt", "{{ 1250 | money }} for {{ site }}")
        .template_filter("money", |cents: i64| format!("{}.{:02} <€>", cents / 100, cents % 100))
        .template_global("site", "Darkroom & co")
        .post("/mail", |_req| {
            aside::Mail::to("ada@example.org").subject("Paid").template("mail.txt", context! {}).send();
        });
    let mut client = TestClient::new(app);
    client.post("/mail").send();
    client.drain();
    assert_eq!(client.outbox()[0].text.as_deref(), Some("12.50 <€> for Darkroom & co"));
}

/// The page of the error is rendered without what has failed.
#[test]
fn a_context_processor_that_fails_fails_the_page_with_its_error() {
    let app = App::with_config(Config::default())
        .template("page.html", "{{ user_name }}")
        .template("404.html", "never")
        .context_processor(|_| Err::<(), _>(Error::not_found("no such user")))
        .get("/", |req: &mut Request| req.render("page.html", context! {}));
    let response = TestClient::new(app).get("/");
    assert_eq!(response.status_code().code(), 404);
    assert!(response.text().contains("no such user") && response.text() != "never", "{response:?}");
}

#[test]
fn a_context_processor_that_renders_fails_the_page() {
    let app = App::with_config(Config::default())
        .template("page.html", "a page")
        .template("menu.html", "a menu")
        .template("500.html", "never")
        .context_processor(|req| Ok(context! { menu => req.render("menu.html", context! {})?.status_code().code() }))
        .get("/", |req: &mut Request| req.render("page.html", context! {}));
    let response = TestClient::new(app).get("/");
    assert_eq!(response.status_code(), 500);
    assert!(response.text().contains("a context processor has called `render`"), "{response:?}");
}
