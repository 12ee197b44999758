//! Live pages: the events that pages receive, their timing, and failures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use std::sync::mpsc;
use std::time::Duration;

use aside::config::Mode;
use aside::live::Event;
use aside::server::Server;
use aside::testing::TestClient;
use aside::{
    App, Config, Error, Failure, Live, Request, Response, Result, Status, Task, background, context, redirect,
};
use log::Level;
use serde::Serialize;

use crate::logs;

#[derive(Clone, Default, Serialize)]
struct Posts {
    titles: Vec<String>,
    /// Makes rendering fail if it is undefined.
    author: Option<String>,
}

const LIST: &str = "{% for title in titles %}<li>{{ title }}</li>\n{% endfor %}.";

fn site(template: &str) -> (TestClient, Live<Posts>) {
    let live = Live::new(Posts::default());
    let shown = live.clone();
    let app = App::with_config(Config::default())
        .template("posts.html", template)
        .get("/live", move |req: &mut Request| req.live(&shown, "posts.html"));
    (TestClient::new(app), live)
}

/// The configuration for production, where one rendering is sent to all clients.
fn production() -> Config {
    Config {
        mode: Mode::Production,
        secrets: vec!["a secret of more than thirty-two bytes".into()],
        allowed_hosts: vec!["localhost".into()],
        ..Config::default()
    }
}

#[test]
fn each_template_shows_each_state_in_production_too() {
    let live = Live::new(Posts::default());
    let shown = live.clone();
    let app = App::with_config(production())
        .template("list.html", LIST)
        .template("count.html", "{{ titles | length }}.")
        .get("/{template}/live", move |req: &mut Request| -> Result<Response> {
            req.live(&shown, &format!("{}.html", req.param::<String>("template")?))
        });
    let mut client = TestClient::new(app);
    let mut watching = ["/list/live", "/count/live", "/list/live"].map(|path| client.events(path));
    watching.iter_mut().for_each(|events| drop(events.next()));
    for (count, title) in [(1, "one"), (2, "two")] {
        add(&live, title);
        let [list, counted, same] = watching.each_mut().map(|events| events.next().data);
        assert!(list.contains(title) && list == same, "{list} {same}");
        assert_eq!(counted, format!("{count}."));
    }
}

fn add(live: &Live<Posts>, title: &str) {
    live.update(|posts| posts.titles.push(title.to_owned()));
}

/// Returns the first event that contains this text.
fn event_with(words: &str, mut next: impl FnMut() -> Event) -> Event {
    loop {
        let event = next();
        if event.data.contains(words) {
            return event;
        }
    }
}

#[test]
fn a_page_shows_the_state_at_once_and_then_each_change() {
    let (mut client, live) = site(LIST);
    add(&live, "before <b>");
    let mut events = client.events("/live");
    let first = events.next();
    assert_eq!((first.name.as_str(), first.data.as_str()), ("", "<li>before &lt;b&gt;</li>\n."));
    add(&live, "one\r\ntwo\rthree");
    assert_eq!(events.next().data, "<li>before &lt;b&gt;</li>\n<li>one\ntwo\nthree</li>\n.");
}

#[test]
fn a_stream_is_neither_cached_nor_buffered_by_proxies() {
    let (mut client, _live) = site(LIST);
    let headers = client.request("HEAD", "/live").header("Accept-Encoding", "gzip").send();
    assert_eq!(headers.header("Content-Type"), Some("text/event-stream"));
    assert_eq!(
        (headers.header("Cache-Control"), headers.header("X-Accel-Buffering")),
        (Some("no-store, no-transform"), Some("no"))
    );
    assert_eq!(headers.header("Content-Encoding"), None);
}

#[test]
fn a_page_that_reconnects_receives_only_newer_states() {
    let (mut client, live) = site(LIST);
    add(&live, "known");
    let known = client.events("/live").next();
    let mut back = client.request("GET", "/live").header("Last-Event-ID", &known.id).events();
    add(&live, "new");
    assert!(back.next().data.contains("new"), "the state that was known does not come again");
    // With an id of another process, or an invalid one, the page may show anything.
    let version = live_version(&mut client);
    let of_another_process = format!("x{}", client.events("/live").next().id);
    for id in ["", "x", "-", &version, &format!("another-{version}"), &of_another_process, "99999999999999999999"] {
        let mut events = client.request("GET", "/live").header("Last-Event-ID", id).events();
        assert!(events.next().data.contains("new"), "{id}");
    }
}

/// Returns the version in an event id, which another process may use too.
fn live_version(client: &mut TestClient) -> String {
    let id = client.events("/live").next().id;
    id.rsplit('-').next().unwrap_or_default().to_owned()
}

#[test]
fn a_thousand_changes_end_with_the_last_state() {
    let (mut client, live) = site("{{ titles | length }}.");
    let mut events = client.events("/live");
    (0..1_000).for_each(|number| add(&live, &number.to_string()));
    let mut count = 0;
    event_with("1000.", || {
        count += 1;
        events.next()
    });
    assert!(count < 1_000, "{count} events for 1,000 changes");
}

#[test]
fn changes_from_many_threads_are_all_kept() {
    let live = Live::new(0);
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| (0..500).for_each(|_| live.update(|count| *count += 1)))));
    });
    assert_eq!(*live.get(), 4_000);
}

#[test]
fn a_change_that_panics_keeps_the_previous_state() {
    logs::record();
    let (mut client, live) = site(LIST);
    add(&live, "good");
    let mut events = client.events("/live");
    assert!(events.next().data.contains("good"));
    let change = || {
        live.update(|posts| {
            posts.titles.clear();
            panic!("in the middle of a change");
        })
    };
    catch_unwind(AssertUnwindSafe(change)).unwrap_err();
    assert_eq!(live.get().titles, ["good"]);
    assert!(!logs::at(Level::Error, "the state is unchanged").is_empty());
    add(&live, "better");
    assert!(events.next().data.contains("<li>good</li>\n<li>better</li>"));
}

#[test]
fn a_change_through_a_guard_is_shown_too() {
    let live = Live::new(vec![1]);
    let before = live.get();
    {
        let mut list = live.lock();
        list.push(2);
        assert_eq!(*live.get(), [1], "nobody sees half of a change");
    }
    assert_eq!((&**before, &**live.get()), (&[1][..], &[1, 2][..]));
}

#[test]
fn a_stream_whose_first_state_cannot_be_rendered_is_a_500() {
    let (mut client, _live) = site("{{ titles | length }} by {{ author.name }}");
    assert_eq!(client.get("/live").status_code(), Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn a_state_that_cannot_be_rendered_is_logged_once_and_the_stream_continues() {
    logs::record();
    let (mut client, live) =
        site("{% if titles | length == 1 %}{{ titles.broken_here.name }}{% endif %}{{ titles | length }}.");
    let mut watching = [client.events("/live"), client.events("/live")];
    watching.iter_mut().for_each(|events| assert_eq!(events.next().data, "0."));
    for count in 1..=5 {
        live.update(|posts| posts.titles = vec!["broken".into()]);
        logs::wait_for(count, "broken_here");
    }
    add(&live, "whole");
    watching.iter_mut().for_each(|events| assert_eq!(events.next().data, "2."));
    let told = logs::at(Level::Error, "broken_here").len();
    assert_eq!(told, 5, "once for each state, not for each watcher");
}

#[test]
fn watchers_are_counted_until_they_disconnect() {
    let (mut client, live) = site(LIST);
    assert_eq!(live.watchers(), 0);
    let (mut one, two) = (client.events("/live"), client.events("/live"));
    one.next();
    assert_eq!(live.watchers(), 2);
    drop((one, two));
    // The server notices it without writing to them.
    while live.watchers() > 0 {
        thread::yield_now();
    }
}

/// Starts a site on this address.
fn serve(live: &Live<Posts>, address: &str) -> Server {
    let shown = live.clone();
    let config = Config { address: address.to_owned(), server: crate::server(), ..Config::default() };
    App::with_config(config)
        .template("posts.html", LIST)
        .get("/live", move |req: &mut Request| req.live(&shown, "posts.html"))
        .get("/", |_req: &mut Request| "a page")
        .start()
        .unwrap()
}

/// Opens an event stream over a socket, with the id of the last event that the client has seen.
fn connect(server: &Server, known: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = format!("GET /live HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {known}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Reads up to the first line with this start, and returns it.
fn line_with(reader: &mut impl BufRead, start: &str) -> String {
    let mut lines = reader.lines().map(Result::unwrap);
    lines.find(|line| line.starts_with(start)).expect("the stream goes on")
}

#[test]
fn a_client_that_disconnects_in_the_middle_is_no_longer_counted() {
    let live = Live::new(Posts::default());
    let server = serve(&live, "127.0.0.1:0");
    let mut reader = BufReader::new(connect(&server, ""));
    add(&live, "seen");
    line_with(&mut reader, "data: <li>seen</li>");
    assert_eq!(live.watchers(), 1);
    drop(reader);
    while live.watchers() > 0 {
        thread::yield_now();
    }
    server.stop();
}

#[test]
fn an_idle_stream_ends_completely_when_the_server_stops() {
    let live = Live::new(Posts::default());
    let server = serve(&live, "127.0.0.1:0");
    let known = line_with(&mut BufReader::new(connect(&server, "")), "id: ")[4..].to_owned();
    let mut reader = BufReader::new(connect(&server, &known));
    line_with(&mut reader, "retry: ");
    while live.watchers() > 1 {
        thread::yield_now();
    }
    server.stop();
    // The page was notified: at its next heartbeat, the connection would have been closed.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn all_pages_receive_the_state_after_a_restart() {
    const PAGES: usize = 200;
    let (before, after) = (Live::new(Posts::default()), Live::new(Posts::default()));
    let server = serve(&before, "127.0.0.1:0");
    let address = server.addr().to_string();
    let mut pages: Vec<_> = (0..PAGES).map(|_| BufReader::new(connect(&server, ""))).collect();
    let ids: Vec<String> = pages.iter_mut().map(|page| line_with(page, "id: ")[4..].to_owned()).collect();
    assert_eq!(before.watchers(), PAGES);
    server.stop();
    while before.watchers() > 0 {
        thread::yield_now();
    }

    let server = serve(&after, &address);
    // With the version that the pages know, of another process.
    let mut pages: Vec<_> = ids.iter().map(|id| BufReader::new(connect(&server, id))).collect();
    assert_eq!(ureq::get(format!("http://{address}/")).call().unwrap().status(), 200, "and pages are answered");
    pages.iter_mut().for_each(|page| drop(line_with(page, "data: .")));
    assert_eq!(after.watchers(), PAGES);
    drop(pages);
    server.stop();
}

#[test]
fn a_watcher_that_reads_nothing_blocks_no_other() {
    let live = Live::new(Posts::default());
    let server = serve(&live, "127.0.0.1:0");
    let asleep = connect(&server, "");
    let mut awake = BufReader::new(connect(&server, ""));
    line_with(&mut awake, "id: ");
    // Far more than the operating system buffers for a client that does not read.
    let page = "x".repeat(1 << 20);
    for number in 0..40 {
        live.update(|posts| posts.titles = vec![format!("{number} {page}")]);
        line_with(&mut awake, &format!("data: <li>{number} "));
    }
    assert_eq!(live.watchers(), 2);
    server.stop();
    while live.watchers() > 0 {
        thread::yield_now();
    }
    drop(asleep);
}

#[test]
fn custom_events_are_sent_in_order_and_end() {
    let app = App::with_config(Config::default()).get("/events", |_| {
        Response::events(|events| {
            events.send("one\ntwo")?;
            events.keep_alive()?;
            events.send_event(&Event::new("done").named("end").id("7"))
        })
    });
    let mut client = TestClient::new(app);
    let mut events = client.events("/events");
    assert_eq!(events.next(), Event::new("one\ntwo"));
    assert_eq!(events.next(), Event::new("done").named("end").id("7"));
    assert_eq!(client.get("/events").text().matches("data: ").count(), 3);
}

fn is_end(event: &Event) -> bool {
    (event.name.as_str(), event.data.as_str()) == ("end", "")
}

#[test]
fn a_finished_state_ends_the_stream() {
    let (mut client, live) = site(LIST);
    let mut watching = client.events("/live");
    let known = watching.next();
    add(&live, "last");
    live.finish();
    assert!(event_with("last", || watching.next()).name.is_empty());
    assert!(is_end(&watching.next()) && live.is_finished());

    // A later page receives the state, and no page receives a known state again.
    let mut late = client.request("GET", "/live").header("Last-Event-ID", &known.id).events();
    let last = late.next();
    assert!(last.data.contains("last") && is_end(&late.next()));
    let mut back = client.request("GET", "/live").header("Last-Event-ID", &last.id).events();
    assert!(is_end(&back.next()));
    assert!(client.get("/live").text().ends_with("event: end\ndata: \n\n"), "and the stream has an end");
}

#[test]
fn event_ids_of_another_state_are_ignored() {
    let (mut client, live) = site(LIST);
    let (mut other_client, other) = site(LIST);
    for live in [&live, &other] {
        add(live, "one");
    }
    let id = client.events("/live").next().id;
    let mut events = other_client.request("GET", "/live").header("Last-Event-ID", &id).events();
    assert!(events.next().data.contains("one"), "both are at the same version, and the visitor has not seen this one");
}

#[test]
fn a_fragment_shows_the_state_and_the_url_of_its_stream() {
    let live = Live::new(Posts { titles: vec!["<b>".into()], author: None });
    let shown = live.clone();
    let app = App::with_config(Config::default())
        .template("posts.html", LIST)
        .template("page.html", "<main>{{ feed }}</main>{{ other }}")
        .get("/", move |req: &mut Request| -> Result<Response> {
            let feed = shown.fragment(req, "/live?a=1&b=\"2\"", "posts.html")?;
            req.render("page.html", context! { feed, other => "<i>" })
        });
    let mut client = TestClient::new(app);
    let page = client.get("/");
    let part = r#"<main><aside-live src="/live?a=1&amp;b=&quot;2&quot;" aria-live="polite"><li>&lt;b&gt;</li>"#;
    assert!(page.text().starts_with(part), "{page:?}");
    assert!(page.text().ends_with("</script></main>&lt;i&gt;"), "{page:?}");

    let script = page.text().split("<script src=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let answer = client.get(script);
    assert_eq!(answer.header("Content-Type"), Some("text/javascript; charset=utf-8"));
    assert!(answer.header("Cache-Control").unwrap().contains("immutable") && answer.text().contains("EventSource"));
    for other in ["/_aside/live.js", "/_aside/live.js?v=0123456789abcdef"] {
        assert_eq!(client.get(other).header("Cache-Control"), Some("no-cache"), "{other}");
    }

    live.finish();
    let page = client.get("/");
    assert!(page.text().starts_with("<main><aside-live><li>") && !page.text().contains("script"), "{page:?}");
}

#[test]
fn a_fragment_that_cannot_be_rendered_is_a_500_and_the_process_continues() {
    let live = Live::new(Posts::default());
    let app = App::with_config(Config::default()).template("posts.html", "{{ nothing.there }}").get(
        "/",
        move |req: &mut Request| -> Result<Response> {
            let feed = live.fragment(req, "/live", "posts.html")?;
            req.render("posts.html", context! { feed })
        },
    );
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/").status_code(), Status::INTERNAL_SERVER_ERROR);
    assert_eq!(client.get("/_aside/live.js").status_code(), Status::OK);
}

#[test]
fn a_task_that_panics_with_the_guard_keeps_the_state() {
    let (mut client, live) = site(LIST);
    add(&live, "good");
    let mut events = client.events("/live");
    events.next();
    let held = live.clone();
    let task = client.within(|| {
        background(move || {
            let mut posts = held.lock();
            posts.titles.clear();
            panic!("with the lock in hand");
        })
    });
    assert!(matches!(task.join().unwrap(), Err(Failure::Panic(_))));
    add(&live, "better");
    assert!(events.next().data.contains("<li>good</li>\n<li>better</li>"));
    client.drain();
}

/// Returns a site with one task, which makes a step for each message.
fn steps() -> (TestClient, mpsc::Sender<u64>) {
    let (step, steps) = mpsc::channel();
    let app = App::with_config(Config::default())
        .template("mine.html", "{{ state }} {{ done }}/{{ total }} {{ percent }} {{ message }} {{ is_cancelling }}")
        .get("/{template}/live", |req: &mut Request| -> Result<Response> {
            let task = aside::tasks::task("import").ok_or_else(|| Error::not_found("There is no import."))?;
            req.live(&task.live(), &format!("{}.html", req.param::<String>("template")?.replace('-', "/")))
        })
        .post("/cancel", |_req: &mut Request| {
            aside::tasks::task("import").inspect(|task| task.cancel());
            redirect("/")
        });
    let client = TestClient::new(app);
    client.within(|| {
        Task::named("import").key("import").spawn(move |task| {
            for done in steps {
                task.check_cancelled()?;
                match done {
                    0..=4 => task.progress(done, 4),
                    _ => return Err(Error::internal("the password of the database is wrong")),
                }
                task.message(format!("row <{done}>"));
            }
            Ok(())
        })
    });
    (client, step)
}

#[test]
fn a_page_follows_a_task_until_it_ends() {
    let (mut client, step) = steps();
    let mut events = client.events("/mine/live");
    event_with("running 0/0 None  False", || events.next());
    for (done, shown) in [(1, "1/4 25 row &lt;1&gt;"), (4, "4/4 100 row &lt;4&gt;")] {
        step.send(done).unwrap();
        event_with(shown, || events.next());
    }
    drop(step);
    event_with("done 4/4 100", || events.next());
    assert!(is_end(&events.next()));
    client.drain();
    assert_eq!(client.get("/mine/live").text().matches("data: done 4/4").count(), 1, "also for who comes later");
}

#[test]
fn the_built_in_progress_shows_a_bar_and_no_internal_details() {
    let (mut client, step) = steps();
    let mut events = client.events("/aside-progress/live");
    let begun = event_with("Under way", || events.next());
    assert!(begun.data.contains("<progress max=\"100\" aria-label=\"Progress\">"), "{}", begun.data);
    step.send(2).unwrap();
    let half = event_with("<p>row &lt;2&gt;</p>", || events.next());
    assert!(half.data.contains("<progress value=\"50\" max=\"100\""), "{}", half.data);
    step.send(99).unwrap();
    let failed = event_with("did not work out", || events.next());
    assert!(!failed.data.contains("password") && !failed.data.contains("<progress"), "{}", failed.data);
    assert!(is_end(&events.next()));
    client.drain();
    assert_eq!(client.failures().len(), 1);
}

#[test]
fn a_task_is_cancelled_from_a_page() {
    let (mut client, step) = steps();
    let mut events = client.events("/mine/live");
    event_with("running", || events.next());
    assert_eq!(client.post("/cancel").send().location(), Some("/"));
    event_with("True", || events.next());
    step.send(1).unwrap();
    event_with("cancelled 0/0", || events.next());
    assert!(is_end(&events.next()));
    client.drain();
    assert!(client.failures().is_empty());
}

#[test]
fn a_task_is_cancelled_when_its_last_watcher_leaves() {
    let app = App::with_config(Config::default()).get("/live", |req: &mut Request| -> Result<Response> {
        req.live(&aside::tasks::task("search").unwrap().live(), "aside/progress.html")
    });
    let mut client = TestClient::new(app);
    let search = client.within(|| {
        let task = Task::named("search").key("search").cancel_unwatched(Duration::from_millis(1));
        task.spawn(|task| Ok::<_, Error>(task.sleep(Duration::from_secs(3_600))?))
    });
    let mut events = client.events("/live");
    event_with("Under way", || events.next());
    assert!(!search.is_finished(), "it is watched");
    drop(events);
    assert!(matches!(search.join(), Err(Failure::Cancelled)));
}

/// A number whose rendering panics if it is 2.
#[derive(Clone)]
struct Touchy(u32);

impl Serialize for Touchy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        assert_ne!(self.0, 2, "touchy-two is not shown");
        std::collections::BTreeMap::from([("number", self.0)]).serialize(serializer)
    }
}

#[test]
fn pages_keep_the_previous_state_if_rendering_panics() {
    logs::record();
    let live = Live::new(Touchy(1));
    let shown = live.clone();
    let app = App::with_config(crate::wire::config())
        .template("touchy.html", "number {{ number }}.")
        .get("/live", move |req: &mut Request| req.live(&shown, "touchy.html"));
    let server = crate::wire::start(app);
    let mut pages = [(); 2].map(|()| crate::wire::Raw::to(&server));
    for page in &mut pages {
        page.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(page.head().status, 200);
        while !page.chunk().contains("number 1.") {}
    }
    live.update(|touchy| touchy.0 = 2);
    logs::wait_for(1, "touchy-two is not shown");
    live.update(|touchy| touchy.0 = 3);
    for page in &mut pages {
        while !page.chunk().contains("number 3.") {}
    }
    assert_eq!(logs::at(Level::Error, "pages keep the previous one: panicked: ").len(), 1, "once for all who watch");
    server.stop();
}

/// Regression: the page showed the message of the failed attempt as if the task still ran.
#[test]
fn the_page_of_a_task_shows_that_it_waits_for_its_next_attempt() {
    let app = App::with_config(Config::default()).get("/live", |req: &mut Request| -> Result<Response> {
        req.live(&aside::tasks::task("import").unwrap().live(), "aside/progress.html")
    });
    let mut client = TestClient::new(app);
    let import = client.within(|| {
        let retry = aside::tasks::Retry::exponential(3, Duration::from_secs(3_600));
        Task::named("import").key("import").retry(retry).spawn(|task| {
            task.message("row 5");
            Err::<(), _>(Error::internal("the password of the database is wrong"))
        })
    });
    let mut events = client.events("/live");
    let waits = event_with("<p>Attempt 1 of 3 failed. The next attempt starts at <time datetime=", || events.next());
    assert!(!waits.data.contains("password") && !waits.data.contains("row 5"), "{}", waits.data);
    let failed = import.info().progress().failed.unwrap();
    assert_eq!((failed.attempt, failed.attempts), (1, 3));
    assert!(import.info().progress().due_at.is_some());
    let page = client.get("/_aside/tasks/1");
    assert!(page.text().contains("attempt 1 of 3 failed, the next at "), "{}", page.text());
    import.cancel();
    event_with("Cancelled.", || events.next());
    assert!(matches!(import.join(), Err(Failure::Cancelled)));
}
