//! State that pages watch: what they are shown, when, and what becomes of what goes wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use aside::testing::TestClient;
use aside::{App, Config, Event, Live, Request, Response, Status};
use log::Level;
use serde::Serialize;

use crate::logs;

#[derive(Clone, Default, Serialize)]
struct Posts {
    titles: Vec<String>,
    /// As a value that a template cannot do without.
    author: Option<String>,
}

const LIST: &str = "{% for title in titles %}<li>{{ title }}</li>\n{% endfor %}{{ path }}";

fn site(template: &str) -> (TestClient, Live<Posts>) {
    let live = Live::new(Posts::default());
    let shown = live.clone();
    let app = App::with_config(Config::default())
        .template("posts.html", template)
        .get("/live", move |req: &mut Request| req.live(&shown, "posts.html"));
    (TestClient::new(app), live)
}

fn add(live: &Live<Posts>, title: &str) {
    live.update(|posts| posts.titles.push(title.to_owned()));
}

/// The first event with these words.
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
    assert_eq!((first.name.as_str(), first.data.as_str()), ("", "<li>before &lt;b&gt;</li>\n/live"));
    add(&live, "one\r\ntwo\rthree");
    assert_eq!(events.next().data, "<li>before &lt;b&gt;</li>\n<li>one\ntwo\nthree</li>\n/live");
}

#[test]
fn a_stream_is_for_this_visitor_and_no_proxy_keeps_it_back() {
    let (mut client, _live) = site(LIST);
    let headers = client.request("HEAD", "/live").header("Accept-Encoding", "gzip").send();
    assert_eq!(headers.header("Content-Type"), Some("text/event-stream"));
    assert_eq!((headers.header("Cache-Control"), headers.header("X-Accel-Buffering")), (Some("no-store"), Some("no")));
    assert_eq!(headers.header("Content-Encoding"), None);
}

#[test]
fn who_comes_back_is_told_only_what_is_new() {
    let (mut client, live) = site(LIST);
    add(&live, "known");
    let known = client.events("/live").next();
    let mut back = client.request("GET", "/live").header("Last-Event-ID", &known.id).events();
    add(&live, "new");
    assert!(back.next().data.contains("new"), "the state that was known does not come again");
    // Of another process, or of none: the page may show anything.
    let version = live_version(&mut client);
    for id in ["", "x", "-", &version, &format!("another-{version}"), "99999999999999999999"] {
        let mut events = client.request("GET", "/live").header("Last-Event-ID", id).events();
        assert!(events.next().data.contains("new"), "{id}");
    }
}

/// The part of an id that another process may have given too.
fn live_version(client: &mut TestClient) -> String {
    let id = client.events("/live").next().id;
    id.rsplit('-').next().unwrap_or_default().to_owned()
}

#[test]
fn a_thousand_changes_come_to_the_last_of_them() {
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
fn changes_from_many_threads_are_all_there() {
    let live = Live::new(0);
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| (0..500).for_each(|_| live.update(|count| *count += 1)))));
    });
    assert_eq!(*live.get(), 4_000);
}

#[test]
fn a_change_that_panics_leaves_the_last_good_state() {
    logs::keep();
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
    assert!(!logs::at(Level::Error, "the state is as it was before").is_empty());
    add(&live, "better");
    assert!(events.next().data.contains("<li>good</li>\n<li>better</li>"));
}

#[test]
fn a_guard_is_a_change_too() {
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
fn a_page_that_cannot_begin_says_so() {
    let (mut client, _live) = site("{{ titles | length }} by {{ author.name }}");
    assert_eq!(client.get("/live").status(), Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn what_cannot_be_shown_is_logged_once_and_the_page_goes_on() {
    logs::keep();
    let (mut client, live) =
        site("{% if titles | length == 1 %}{{ titles.broken_here.name }}{% endif %}{{ titles | length }}.");
    let mut watching = [client.events("/live"), client.events("/live")];
    watching.iter_mut().for_each(|events| assert_eq!(events.next().data, "0."));
    for count in 1..=5 {
        live.update(|posts| posts.titles = vec!["broken".into()]);
        logs::wait_for(count, "A state cannot be shown");
    }
    add(&live, "whole");
    watching.iter_mut().for_each(|events| assert_eq!(events.next().data, "2."));
    let told = logs::at(Level::Error, "A state cannot be shown").len();
    assert_eq!(told, 5, "once for each state, not for each watcher");
}

#[test]
fn watchers_are_counted_until_they_leave() {
    let (mut client, live) = site(LIST);
    assert_eq!(live.watchers(), 0);
    let (mut one, two) = (client.events("/live"), client.events("/live"));
    one.next();
    assert_eq!(live.watchers(), 2);
    drop((one, two));
    // It is noticed when something is written to them.
    while live.watchers() > 0 {
        live.update(|posts| posts.titles = vec!["anybody there?".to_owned()]);
        thread::yield_now();
    }
}

#[test]
fn a_visitor_who_leaves_in_the_middle_is_let_go() {
    let live = Live::new(Posts::default());
    let shown = live.clone();
    let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
    let app = App::with_config(config)
        .template("posts.html", LIST)
        .get("/live", move |req: &mut Request| req.live(&shown, "posts.html"));
    let server = app.start().unwrap();
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    add(&live, "seen");
    assert!(lines.any(|line| line == "data: <li>seen</li>"));
    assert_eq!(live.watchers(), 1);
    drop(lines);
    while live.watchers() > 0 {
        live.update(|posts| posts.titles = vec!["anybody there?".to_owned()]);
        thread::yield_now();
    }
    server.stop();
}

#[test]
fn events_of_ones_own_come_in_order_and_end() {
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
