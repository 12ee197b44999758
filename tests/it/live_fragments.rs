//! Live fragments that an application defines by name. The same hooks and the same function protect the fragment in a page
//! and its stream.

use std::time::Duration;

use aside::server::Server;
use aside::testing::TestClient;
use aside::{App, Config, Error, Live, Request, Response, Result, Status, ok, redirect};
use log::Level;

use crate::logs;
use crate::wire::{Raw, start};

const LIST: &str = "<ul>{% for title in state %}<li>{{ title }}</li>{% endfor %}</ul>";

const POSTS: &str = "/_aside/live/posts";

type Posts = Vec<String>;

fn page(req: &mut Request) -> Result<Response> {
    req.render("page.html", ())
}

fn add(req: &mut Request) -> Result<Response> {
    let title = req.param("title")?;
    req.session_live::<Posts>()?.update(|posts| posts.push(title));
    Ok(redirect("/"))
}

/// Returns a site with one fragment, whose state is separate for each session.
fn site(config: Config) -> App {
    App::with_config(config)
        .live("posts", "posts.html", Request::session_live::<Posts>)
        .template("posts.html", LIST)
        .template("page.html", "<h1>Posts</h1> {{ live('posts') }}")
        .get("/", page)
        .post("/add/{title}", add)
}

fn client(app: App) -> TestClient {
    TestClient::new(app)
}

/// Returns the URL that the element in the page listens to.
fn source(page: &str) -> String {
    let (_, rest) = page.split_once("<aside-live src=\"").unwrap_or_else(|| panic!("no stream in {page}"));
    rest.split_once('"').unwrap().0.replace("&amp;", "&")
}

fn error_of(app: App) -> String {
    app.start().map(Server::stop).unwrap_err().chain()
}

/// Returns the status of a page that fails, and checks that a log line contains this text.
fn refused_page(client: &mut TestClient, path: &str, words: &str) -> Status {
    logs::record();
    let status = client.get(path).status_code();
    assert!(!logs::at(Level::Error, words).is_empty(), "`{words}` is not in the log");
    status
}

/// Returns a site with a fragment for all users, in a page at `/`.
fn shown<F, L>(f: F) -> App
where
    F: Fn(&mut Request) -> L + Send + Sync + 'static,
    L: aside::live::IntoLive,
{
    App::with_config(Config::default())
        .live("posts", "posts.html", f)
        .template("posts.html", LIST)
        .template("page.html", "<h1>Posts</h1> {{ live('posts') }}")
        .get("/", page)
}

fn posts(titles: &[&str]) -> Live<Posts> {
    Live::new(titles.iter().map(|title| title.to_string()).collect())
}

#[test]
fn a_page_shows_the_fragment_and_its_stream_follows_it() {
    let mut client = client(site(Config::default()));
    client.post("/add/<one>").send();
    let page = client.get("/").text().to_owned();
    assert!(page.contains("<ul><li>&lt;one&gt;</li></ul>") && page.contains("aria-live=\"polite\""), "{page}");
    assert!(page.contains("<script src=\"/_aside/live.js?v="), "{page}");
    assert_eq!(source(&page), POSTS);
    let mut events = client.events(&source(&page));
    assert_eq!(events.next().data, "<ul><li>&lt;one&gt;</li></ul>");
    client.post("/add/two").send();
    assert_eq!(events.next().data, "<ul><li>&lt;one&gt;</li><li>two</li></ul>");
}

/// Sends a request with a cookie, and returns the first cookie that the response sets.
fn cookie_of(server: &Server, request: &str, cookie: &str) -> Option<String> {
    let mut raw = Raw::to(server);
    raw.send(format!("{request} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"));
    let reply = raw.reply();
    assert!(reply.status < 400, "{request}: {}", reply.body);
    reply.header("Set-Cookie").map(|line| line.split(';').next().unwrap().to_owned())
}

/// Opens a stream with a cookie.
fn follow(server: &Server, path: &str, cookie: &str) -> Raw {
    let mut raw = Raw::to(server);
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
    raw
}

#[test]
fn another_session_has_its_own_state_over_a_socket() {
    let server = start(site(crate::wire::config()));
    let mine = cookie_of(&server, "GET /", "").unwrap();
    let theirs = cookie_of(&server, "GET /", "").unwrap();
    let mut pages = [&mine, &theirs].map(|cookie| follow(&server, POSTS, cookie));
    pages.iter_mut().for_each(|raw| assert_eq!(raw.head().status, 200));
    cookie_of(&server, "POST /add/secret", &mine);
    while !pages[0].chunk().contains("<li>secret</li>") {}
    cookie_of(&server, "POST /add/other", &theirs);
    loop {
        let chunk = pages[1].chunk();
        assert!(!chunk.contains("secret"), "{chunk}");
        if chunk.contains("<li>other</li>") {
            break;
        }
    }
    let mut stranger = follow(&server, POSTS, "");
    assert_eq!(stranger.head().status, 200);
    assert!(stranger.chunk().contains("data: <ul></ul>"), "a client without the cookie has an empty state");
    server.stop();
}

#[test]
fn a_logout_ends_the_stream_of_the_session() {
    let app = site(crate::wire::config())
        .post("/login", |req: &mut Request| req.login(17))
        .post("/logout", |req: &mut Request| req.logout());
    let server = start(app);
    let user = cookie_of(&server, "POST /login", "").unwrap();
    // The id of a session is in its cookie from its first use.
    let user = cookie_of(&server, "POST /add/secret", &user).unwrap_or(user);
    let mut stream = follow(&server, POSTS, &user);
    assert_eq!(stream.head().status, 200);
    while !stream.chunk().contains("<li>secret</li>") {}
    cookie_of(&server, "POST /logout", &user);
    while !stream.chunk().is_empty() {}
    let mut again = follow(&server, POSTS, &user);
    assert_eq!(again.head().status, 200);
    assert!(again.chunk().contains("data: <ul></ul>"), "a copy of the cookie finds nothing");
    server.stop();
}

#[test]
fn the_error_of_the_function_refuses_the_page_and_the_stream() {
    let refusals = [
        (Status::NOT_FOUND, "There is no such board."),
        (Status::FORBIDDEN, "This board is for members."),
        (Status::INTERNAL_SERVER_ERROR, "The board is broken-a7."),
    ];
    for (status, message) in refusals {
        let mut client =
            client(shown(move |_: &mut Request| -> Result<Live<Posts>> { Err(Error::new(status, message)) }));
        for path in ["/", POSTS] {
            let response = client.get(path);
            assert_eq!(response.status_code(), status, "{path}");
            assert!(response.text().contains(message), "{path}: {}", response.text());
        }
    }
}

#[test]
fn the_log_of_a_page_that_fails_names_the_fragment() {
    let failing = |_: &mut Request| "x1".parse::<u32>().map(|_| posts(&[]));
    let status = refused_page(&mut client(shown(failing)), "/", "live(`posts`): invalid digit");
    assert_eq!(status, Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn hooks_refuse_the_stream_and_the_page() {
    let is_member = |req: &mut Request| match req.header("X-Member") {
        Some(_) => Ok(None::<Response>),
        None => Err(Error::new(Status::FORBIDDEN, "This is for members.")),
    };
    let mut client = client(shown(|_: &mut Request| posts(&["secret"])).before(is_member));
    for path in ["/", POSTS] {
        let refused = client.get(path);
        assert_eq!(refused.status_code(), Status::FORBIDDEN);
        assert!(!refused.text().contains("secret"));
    }
    assert!(client.request("GET", "/").header("X-Member", "1").send().text().contains("secret"));
    assert!(client.request("GET", POSTS).header("X-Member", "1").events().next().data.contains("secret"));
}

/// A mounted application whose hooks let only members in.
fn members(before: bool) -> App {
    let members = shown(|_: &mut Request| posts(&["secret"])).get("/deep/page", page);
    let members = match before {
        true => members.before(|req: &mut Request| req.header("X-Member").is_none().then(|| redirect("/"))),
        false => members,
    };
    App::with_config(Config::default()).mount("/members", members).get("/", page)
}

#[test]
fn the_stream_of_a_mounted_application_is_below_its_hooks() {
    let mut client = client(members(true));
    let page = client.request("GET", "/members/deep/page").header("X-Member", "1").send().text().to_owned();
    assert_eq!(source(&page), "/members/_aside/live/posts");
    assert_eq!(client.get(&source(&page)).location(), Some("/"), "the hook of the mounted application");
    let mut events = client.request("GET", &source(&page)).header("X-Member", "1").events();
    assert!(events.next().data.contains("secret"));
    assert_eq!(client.get(POSTS).status_code(), Status::NOT_FOUND);
}

#[test]
fn a_page_outside_the_hooks_of_a_mounted_application_cannot_show_its_fragment() {
    let mut guarded = client(members(true));
    let status = refused_page(&mut guarded, "/", "the application at `/members`, whose hooks do not run for this page");
    assert_eq!(status, Status::INTERNAL_SERVER_ERROR);
    assert!(client(members(false)).get("/").text().contains("<aside-live src=\"/members/_aside/live/posts\""));
}

/// A site whose fragment shows its argument.
fn echo(template: &'static str) -> App {
    App::with_config(Config::default())
        .live("echo", "echo.html", |req: &mut Request| ok(Live::new(req.param::<String>("text")?)))
        .template("echo.html", "[{{ state }}]")
        .template("page.html", template)
        .get("/{text}", |req: &mut Request| -> Result<Response> {
            let text: String = req.param("text")?;
            let page = req.render("page.html", aside::context! { text })?;
            assert_eq!(req.param::<String>("text")?, text, "the parameters of the path are back");
            Ok(page)
        })
        .get("/{text}/upper", |req: &mut Request| -> Result<Response> {
            let page = req.render("page.html", aside::context! { text => "ARGUMENT" })?;
            assert_eq!(req.param::<String>("text")?, "path", "the parameters of the path are back");
            Ok(page)
        })
}

#[test]
fn arguments_are_the_same_in_the_page_and_in_the_stream() {
    let odd =
        ["17", "фото", "a&b=c", "\"quoted\"", "a/b", "a+b", "100%", "%2F", "a b", "<i>'", "#x?y", "\u{1f600}", ";,"];
    let mut client = client(echo("{{ live('echo', text=text) }}"));
    assert!(client.get("/path/upper").text().contains("[ARGUMENT]"));
    for text in odd {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let page = client.get(&format!("/{encoded}")).text().to_owned();
        let event = client.events(&source(&page)).next().data;
        let shown = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let shown = shown.replace('"', "&quot;").replace('\'', "&#x27;");
        assert_eq!(event, format!("[{shown}]"), "{}", source(&page));
        assert!(page.contains(&event), "{page}");
        assert!(source(&page).is_ascii() && !source(&page).contains(['"', '<', ' ']), "{}", source(&page));
    }
}

#[test]
fn a_stream_whose_argument_was_removed_or_is_not_of_its_type_is_not_found() {
    logs::record();
    let app = App::with_config(Config::default())
        .live("photo", "photo.html", |req: &mut Request| req.param::<u64>("id").map(Live::new))
        .template("photo.html", "{{ state }}");
    let mut client = client(app);
    for query in ["", "?id=", "?id=x", "?other=1", "?id=-1", "?id=99999999999999999999999"] {
        assert_eq!(client.get(&format!("/_aside/live/photo{query}")).status_code(), Status::NOT_FOUND, "{query}");
    }
    assert_eq!(client.events("/_aside/live/photo?id=17&id=18").next().data, "17");
    assert!(logs::at(Level::Error, "/_aside/live/photo").is_empty(), "a client does not fill the log");
}

#[test]
fn wrong_arguments_in_a_template_are_errors_that_name_them() {
    let internal = Status::INTERNAL_SERVER_ERROR;
    let missing = "does not pass the argument `text` to live(`echo`)";
    assert_eq!(refused_page(&mut client(echo("{{ live('echo') }}")), "/x", missing), internal);
    assert_eq!(refused_page(&mut client(echo("{{ live('echo', text=none) }}")), "/x", missing), internal);
    let undefined = "the value of the argument `text` is undefined";
    assert_eq!(refused_page(&mut client(echo("{{ live('echo', text=txet) }}")), "/x", undefined), internal);
    let long = client(echo("{{ live('echo', text='x' * 4091) }}")).get("/x").text().to_owned();
    assert_eq!(source(&long).len(), "/_aside/live/echo?".len() + 4_096);
    let over = "the arguments take 4097 bytes in the stream's address, more than 4096";
    assert_eq!(refused_page(&mut client(echo("{{ live('echo', text='x' * 4092) }}")), "/x", over), internal);
}

#[test]
fn an_unknown_name_is_an_error_with_the_known_names() {
    let known = "live(`psots`): no live fragment has this name, there are `photos`, `posts`";
    let app = site(Config::default())
        .live("photos", "posts.html", |_: &mut Request| posts(&[]))
        .template("typo.html", "{{ live('psots') }}")
        .get("/typo", |req: &mut Request| req.render("typo.html", ()));
    assert_eq!(refused_page(&mut client(app), "/typo", known), Status::INTERNAL_SERVER_ERROR);
    let none = App::with_config(Config::default()).template("page.html", "{{ live('nothing-7') }}").get("/", page);
    let words = "live(`nothing-7`): no live fragment has this name, none is defined";
    assert_eq!(refused_page(&mut client(none), "/", words), Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn the_template_of_a_fragment_has_no_fragments() {
    let app = shown(|_: &mut Request| posts(&[])).template("posts.html", "{{ live('posts') }}");
    assert_eq!(refused_page(&mut client(app), "/", "`live` needs a request"), Status::INTERNAL_SERVER_ERROR);
}

#[cfg(feature = "mail")]
#[test]
fn a_mail_has_no_fragments() {
    use aside::Mail;
    let app = site(Config { mail_from: Some("shop@example.org".into()), ..Config::default() })
        .template("mail.html", "{{ live('posts') }}")
        .post("/mail", |_: &mut Request| {
            Mail::to("ada@example.org").subject("Posts").template("mail.html", ()).send();
        });
    let mut client = client(app);
    client.post("/mail").send();
    client.drain();
    let failures = client.failures();
    assert!(failures[0].failure().unwrap().contains("`live` needs a request"), "{:?}", failures[0].failure());
}

#[test]
fn two_definitions_of_a_name_are_refused_at_start_with_both_places() {
    let twice = site(Config::default()).live("posts", "other.html", |_: &mut Request| posts(&[]));
    let message = error_of(twice);
    assert!(message.contains("the name of the live fragment `posts`"), "{message}");
    assert_eq!(message.matches("live_fragments.rs:").count(), 2, "{message}");
    let message = error_of(site(Config::default()).mount("/members", members(true)));
    assert!(message.contains("`posts`") && message.matches("live_fragments.rs:").count() == 2, "{message}");
    for name in ["", "a/b", "a b", "фото", "..", &"x".repeat(65)] {
        let app = App::with_config(Config::default()).live(name, "posts.html", |_: &mut Request| posts(&[]));
        let message = error_of(app);
        assert!(message.contains("a name has 1 to 64 letters, digits, `-` or `_`"), "{message}");
    }
}

#[test]
fn a_fragment_without_a_state_is_empty_and_empties_an_open_page() {
    let mut client = client(shown(|_: &mut Request| None::<Live<Posts>>));
    assert_eq!(client.get("/").text(), "<h1>Posts</h1> ");
    let mut events = client.events(POSTS);
    assert_eq!(events.next().data, " ", "not empty, since an event without data is not delivered");
    assert_eq!(events.next().name, "end");
}

#[test]
fn a_finished_state_opens_no_stream() {
    let mut client = client(shown(|_: &mut Request| {
        let live = posts(&["last"]);
        live.finish();
        live
    }));
    assert_eq!(client.get("/").text(), "<h1>Posts</h1> <aside-live><ul><li>last</li></ul></aside-live>");
}

#[test]
fn the_progress_of_a_task_is_visible_to_its_session_only() {
    let app = App::with_config(Config::default())
        .live("import", "aside/progress.html", |req: &mut Request| req.session_task("import"))
        .template("page.html", "{{ live('import') }}")
        .get("/", page)
        .post("/", |req: &mut Request| -> Result<Response> {
            req.session_task("import")?.spawn(|task| {
                task.progress(1, 4);
                ok(task.sleep(Duration::from_secs(3_600))?)
            });
            Ok(redirect("/"))
        })
        .post("/cancel", |req: &mut Request| -> Result<Response> {
            req.session_task("import")?.find().inspect(|import| import.cancel());
            Ok(redirect("/"))
        });
    let mut client = client(app);
    assert_eq!(client.get("/").text(), "", "no task yet");
    client.post("/").send();
    let mine = client.cookies().clone();
    let stranger = client.request("GET", "/").header("Cookie", "a=b").send().text().to_owned();
    assert_eq!(stranger, "", "another session does not see it");
    mine.iter().for_each(|(name, value)| client.set_cookie(name, value));
    let page = client.get("/").text().to_owned();
    let mut events = client.events(&source(&page));
    while !events.next().data.contains("value=\"25\"") {}
    client.post("/cancel").send();
    while !events.next().data.contains("Cancelled.") {}
    assert_eq!(events.next().name, "end");
    client.drain();
}

#[test]
fn a_task_without_a_key_is_an_error_with_a_remedy() {
    let app = shown(|_: &mut Request| aside::Task::named("import"));
    let status = refused_page(&mut client(app), "/", "a task without a key cannot be found");
    assert_eq!(status, Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn a_panic_of_the_function_is_a_500_and_the_request_is_kept() {
    let app = shown(|_: &mut Request| -> Live<Posts> { panic!("no board today") })
        .error_page(500, |req: &mut Request, _: &Error| format!("{} {}", req.path(), req.header("X-Mark").unwrap()));
    let mut client = client(app);
    for path in ["/", POSTS] {
        // A request from another machine: the response is an error page of the framework.
        let request = client.request("GET", path).header("X-Mark", "mine").peer("192.0.2.7:1");
        let response = request.send();
        assert_eq!(
            (response.status_code(), response.text()),
            (Status::INTERNAL_SERVER_ERROR, &*format!("{path} mine"))
        );
    }
}

#[test]
fn a_function_that_renders_a_page_with_fragments_is_refused() {
    let app = shown(|req: &mut Request| {
        req.render("page.html", ())?;
        ok(posts(&[]))
    });
    let words = "the function of live(`posts`) renders a page that has live fragments";
    assert_eq!(refused_page(&mut client(app), "/", words), Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn a_keyed_state_is_shared_by_all_permitted_users() {
    let app = App::with_config(Config::default())
        .live("room", "posts.html", |req: &mut Request| req.keyed_live::<Posts>(req.param::<u32>("id")?))
        .template("posts.html", LIST)
        .template("page.html", "{% for id in [1, 2] %}{{ live('room', id=id) }}{% endfor %}")
        .get("/", page)
        .post("/rooms/{id}/{line}", |req: &mut Request| -> Result<Response> {
            let line = req.param("line")?;
            req.keyed_live::<Posts>(req.param::<u32>("id")?)?.update(|room| room.push(line));
            Ok(redirect("/"))
        });
    let mut client = client(app);
    client.post("/rooms/1/hello").send();
    let page = client.request("GET", "/").header("Cookie", "a=b").send().text().to_owned();
    assert_eq!((page.matches("<li>hello</li>").count(), page.matches("<ul></ul>").count()), (1, 1), "{page}");
    assert_eq!(client.events("/_aside/live/room?id=1").next().data, "<ul><li>hello</li></ul>");
}

#[test]
fn a_state_of_the_application_is_shown_to_all_users() {
    let app = shown(|req: &mut Request| req.state::<Live<Posts>>()).state(posts(&["for all"]));
    let mut client = client(app);
    assert!(client.get("/").text().contains("<li>for all</li>"));
    let mut events = client.events(POSTS);
    events.next();
    client.state::<Live<Posts>>().update(|posts| posts.push("and more".into()));
    assert!(events.next().data.contains("<li>and more</li>"));
}

#[test]
fn streams_of_fragments_count_towards_the_limit() {
    let server = start(site(Config { max_streams: 1, ..crate::wire::config() }));
    let mut first = follow(&server, POSTS, "");
    assert_eq!(first.head().status, 200);
    let mut second = follow(&server, POSTS, "");
    let refused = second.head();
    assert_eq!((refused.status, refused.header("Retry-After").is_some()), (503, true), "{}", refused.head);
    assert!(cookie_of(&server, "GET /", "").is_some(), "pages are served");
    server.stop();
}

#[test]
fn a_value_of_the_handler_with_the_name_live_comes_first() {
    let app = App::with_config(Config::default())
        .template("page.html", "{{ live }}")
        .get("/", |req: &mut Request| req.render("page.html", aside::context! { live => "mine" }));
    assert_eq!(client(app).get("/").text(), "mine");
}
