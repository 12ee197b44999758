//! Live fragments in a browser: they change while the user works in them, keep the user's input, reconnect after a lost
//! connection, end with a finished state, and work without JavaScript.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aside::server::Server;
use aside::tasks::{TaskHandle, TaskInfo, task};
use aside::{App, Config, Error, Failure, Live, Outcome, Request, Response, Result, Task, context, redirect};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::browser::{Browser, Page};

/// The requests to the server, in order.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn count(&self, path: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    fn by(&self, app: App) -> App {
        let asked = self.clone();
        app.before(move |req: &mut Request| -> Option<Response> {
            asked.0.lock().unwrap().push(req.path().to_owned());
            None
        })
    }
}

fn config() -> Config {
    Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() }
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.addr())
}

fn no_messages(page: &Page) {
    assert_eq!(page.messages(), [""; 0]);
}

/// Waits until the page shows this text.
fn shows(page: &Page, words: &str) {
    page.wait_for(&format!("document.body.innerText.includes({})", json!(words)));
}

const IMPORT: &str = r#"<!doctype html><html lang="en"><title>Import</title><h1>Import</h1>{{ bar }}
    <form method="post" action="/import"><button id="start">Start</button></form>"#;

const BAR: &str = r#"{% include "aside/progress.html" %}{% if not is_finished %}
    <form method="post" action="/import/cancel"><button id="cancel">Cancel</button></form>{% endif %}"#;

const OTHER: &str = r#"<!doctype html><html lang="en"><title>Notes</title><p id="count">{{ notes | length }} notes</p>
    <form method="post" action="/notes"><input id="note" name="note"><button id="send">Send</button></form>"#;

#[derive(Deserialize)]
struct Note {
    note: String,
}

/// The state that the handlers share with the test.
struct Import {
    steps: Mutex<Option<Receiver<u64>>>,
    begun: Mutex<Sender<TaskHandle<()>>>,
    template: &'static str,
}

/// A site with one task, which makes a step for each message from the test.
struct Imports {
    server: Server,
    step: Sender<u64>,
    begun: Receiver<TaskHandle<()>>,
}

fn imports(template: &'static str) -> Imports {
    let ((step, steps), (begin, begun)) = (mpsc::channel(), mpsc::channel());
    let app = App::with_config(config())
        .state(Import { steps: Mutex::new(Some(steps)), begun: Mutex::new(begin), template })
        .state(Mutex::new(Vec::<String>::new()))
        .template("import.html", IMPORT)
        .template("bar.html", BAR)
        .template("notes.html", OTHER)
        .get("/", show)
        .post("/import", import)
        .post("/import/cancel", |_: &mut Request| {
            task("import").inspect(|task| task.cancel());
            redirect("/")
        })
        .get("/import/live", |req: &mut Request| -> Result<Response> {
            req.live(&task("import").unwrap().live(), req.state::<Import>().template)
        })
        .get("/notes", notes)
        .post("/notes", write);
    Imports { server: app.start().unwrap(), step, begun }
}

fn show(req: &mut Request) -> Result<Response> {
    let part = |task: TaskInfo| task.live().fragment(req, "/import/live", req.state::<Import>().template);
    let bar = task("import").map(part).transpose()?;
    req.render("import.html", context! { bar })
}

fn import(req: &mut Request) -> Response {
    let import = req.state::<Import>();
    let steps = import.steps.lock().unwrap().take().unwrap();
    let task = Task::named("import").key("import").spawn(move |task| {
        for done in steps {
            task.check_cancelled()?;
            task.progress(done, 100);
            task.message(format!("{done} rows"));
        }
        aside::ok(())
    });
    import.begun.lock().unwrap().send(task).unwrap();
    redirect("/")
}

fn notes(req: &mut Request) -> Result<Response> {
    let notes = req.state::<Mutex<Vec<String>>>().lock().unwrap().clone();
    req.render("notes.html", context! { notes })
}

fn write(req: &mut Request) -> Result<Response> {
    let note = req.form::<Note>()?.note;
    req.state::<Mutex<Vec<String>>>().lock().unwrap().push(note);
    Ok(redirect("/notes"))
}

pub(crate) fn a_progress_bar_moves_while_another_page_is_used(browser: Browser) {
    let (site, bar, other) = (imports("aside/progress.html"), browser.page(), browser.page());
    bar.goto(&url(&site.server, "/"));
    bar.click("#start");
    bar.wait_for("document.querySelector('progress').position == -1");
    bar.evaluate("window.same = true");
    other.goto(&url(&site.server, "/notes"));
    for step in (0..=100).step_by(20) {
        site.step.send(step).unwrap();
        other.type_text("#note", "a note");
        other.click("#send");
        shows(&other, &format!("{} notes", step / 20 + 1));
        bar.wait_for(&format!("document.querySelector('progress').value == {step}"));
        shows(&bar, &format!("{step} rows"));
    }
    drop(site.step);
    bar.wait_for("!document.querySelector('progress')");
    assert_eq!(bar.evaluate("window.same"), true, "it was never loaded anew");
    assert!(site.begun.recv().unwrap().join().is_ok());
    assert_eq!(bar.evaluate("document.querySelector('aside-live').ariaLive"), "polite");
    no_messages(&bar);
    site.server.stop();
}

/// Clicks the button during the task's first step, and lets the step end.
fn cancel(imports: &Imports, page: &Page) {
    page.goto(&url(&imports.server, "/"));
    page.click("#start");
    page.click("#cancel");
    shows(page, "Stopping");
    imports.step.send(1).unwrap();
    assert!(matches!(imports.begun.recv().unwrap().join(), Err(Failure::Cancelled)));
}

pub(crate) fn a_button_cancels_the_task_and_the_page_shows_it(browser: Browser) {
    let (imports, page) = (imports("bar.html"), browser.page());
    cancel(&imports, &page);
    page.wait_for("document.body.innerText.includes('Cancelled.') && !document.querySelector('#cancel')");
    no_messages(&page);
    imports.server.stop();
}

pub(crate) fn a_button_cancels_the_task_without_javascript_too(browser: Browser) {
    let (imports, page) = (imports("bar.html"), browser.page().without_javascript());
    cancel(&imports, &page);
    assert!(page.text().contains("Stopping"), "nothing follows it: {}", page.text());
    page.goto(&url(&imports.server, "/"));
    assert!(page.text().contains("Cancelled.") && !page.text().contains("Stopping"), "{}", page.text());
    no_messages(&page);
    imports.server.stop();
}

#[derive(Clone, Serialize)]
struct Items {
    items: Vec<&'static str>,
    note: String,
}

/// A form beside the fragment, and one in it whose fields are named like properties of an element.
const BOARD: &str = r##"<!doctype html><html lang="en"><title>Board</title>
    <script nonce="{{ csp_nonce }}">
    const streams = [], waits = [], later = setTimeout;
    window.EventSource = class extends EventSource { constructor(url) { super(url); streams.push(this) } };
    window.setTimeout = (call, time) => { time > 100 && waits.push(time); return later(call, time) };
    </script>
    <form><label>Beside <input id="beside"></label></form>{{ board }}{{ count }}"##;

const ITEMS: &str = r#"<p id="note">{{ note }}</p>
    <form id="form" method="post"><input type="hidden" name="id" value="{{ note }}"><input type="hidden" name="children">
    <label>Within <input id="within" value="{{ note }}"></label><textarea id="text">{{ note }}</textarea>
    <label><input type="checkbox" id="check"> Check</label>
    <button{% if note == "first" %} disabled{% endif %}>Send</button></form>
    <details id="more"><summary id="summary">More</summary>{{ note }}</details>
    <details id="less" open><summary id="shut">Less</summary>{{ note }}</details>
    <ul>{% for item in items %}<li id="{{ item }}"><input id="input-{{ item }}" aria-label="{{ item }}"> {{ note }}</li>{% endfor %}</ul>
    {% if note == "first" %}<form><button name="remove">Remove</button></form>{% endif %}"#;

struct Board {
    server: Server,
    live: Live<Items>,
    count: Live<u64>,
    asked: Asked,
}

fn board_with(config: Config, note: &str) -> Board {
    let live = Live::new(Items { items: vec!["b", "c", "d"], note: note.to_owned() });
    let (count, asked) = (Live::new(0), Asked::default());
    let app = App::with_config(config)
        .state(live.clone())
        .state(count.clone())
        .template("board.html", BOARD)
        .template("items.html", ITEMS)
        .template("count.html", r#"<p id="count">{{ state }}</p>"#)
        .get("/", |req: &mut Request| -> Result<Response> {
            let board = req.state::<Live<Items>>().fragment(req, "/live", "items.html")?;
            req.render("board.html", context! { board, count => "" })
        })
        .get("/two", |req: &mut Request| -> Result<Response> {
            let board = req.state::<Live<Items>>().fragment(req, "/live", "items.html")?;
            let count = req.state::<Live<u64>>().fragment(req, "/count?of=all&as=text", "count.html")?;
            req.render("board.html", context! { board, count })
        })
        .get("/live", |req: &mut Request| req.live(&req.state::<Live<Items>>(), "items.html"))
        .get("/count", |req: &mut Request| req.live(&req.state::<Live<u64>>(), "count.html"))
        .get("/away", |_: &mut Request| "Away");
    Board { server: asked.by(app).start().unwrap(), live, count, asked }
}

fn board() -> Board {
    board_with(config(), "first")
}

impl Board {
    /// Changes the note, and waits until the page shows it.
    fn note(&self, note: &str, page: &Page) {
        self.live.update(|items| items.note = note.to_owned());
        page.wait_for(&format!("document.querySelector('#note').textContent == {}", json!(note)));
    }

    /// Changes the list, and waits until the page shows it.
    fn items(&self, items: &[&'static str], page: &Page) {
        self.live.update(|state| state.items = items.to_vec());
        let shown = "[...document.querySelectorAll('li')].map(item => item.id).join()";
        page.wait_for(&format!("{shown} == '{}'", items.join(",")));
    }

    /// Changes the other fragment, and waits until the page shows it.
    fn count(&self, count: u64, page: &Page) {
        self.count.update(|shown| *shown = count);
        page.wait_for(&format!("document.querySelector('#count').textContent == '{count}'"));
    }
}

const CHAT: &str = r#"<!doctype html><html lang="en"><title>Chat</title><h1>Chat</h1>
    <form><label>Draft <input id="draft"></label></form>
    {{ live("room", name=name) }}{{ live("visits") }}
    <form method="post"><button id="say">Say hello</button></form>"#;

const ROOM: &str = r#"<ul id="lines">{% for line in state %}<li>{{ line }}</li>{% endfor %}</ul>"#;

/// Returns the room that the argument names.
fn room_of(req: &mut Request) -> Result<Live<Vec<String>>> {
    let name: String = req.param("name")?;
    req.keyed_live(name)
}

/// Starts a site with a fragment for each room and one for each session.
fn chat() -> (Server, Asked) {
    let asked = Asked::default();
    let app = App::with_config(config())
        .live("room", "room.html", room_of)
        .live("visits", "visits.html", Request::session_live::<u32>)
        .template("chat.html", CHAT)
        .template("room.html", ROOM)
        .template("visits.html", r#"<p id="visits">{{ state }}</p>"#)
        .get("/{name}", |req: &mut Request| -> Result<Response> {
            let name: String = req.param("name")?;
            req.render("chat.html", context! { name })
        })
        .post("/{name}", |req: &mut Request| -> Result<Response> {
            let here = req.target().to_owned();
            req.session_live::<u32>()?.update(|visits| *visits += 1);
            room_of(req)?.update(|lines| lines.push("hello".into()));
            Ok(redirect(&here))
        });
    (asked.by(app).start().unwrap(), asked)
}

pub(crate) fn a_fragment_of_a_template_follows_its_argument_and_its_session(browser: Browser) {
    let ((server, asked), mine, other) = (chat(), browser.page(), browser.page());
    // Names that URLs and HTML must encode. Four streams: a browser opens six connections.
    for page in [&mine, &other] {
        page.goto(&url(&server, "/%D1%81%D0%B0%D0%B4%26%22%2F%3Cb%3E"));
        page.wait_for("document.querySelector('#lines')");
    }
    other.type_text("#draft", "typed");
    mine.click("#say");
    for page in [&mine, &other] {
        page.wait_for("document.querySelectorAll('#lines li').length == 1");
        page.wait_for("document.querySelector('#visits').textContent == '1'");
    }
    assert_eq!(other.evaluate("document.querySelector('#draft').value"), "typed", "it was not loaded again");
    assert_eq!(other.evaluate("document.querySelector('aside-live').ariaLive"), "polite");
    mine.goto(&url(&server, "/other"));
    other.click("#say");
    mine.wait_for("document.querySelector('#visits').textContent == '2'");
    assert_eq!(mine.evaluate("document.querySelectorAll('#lines li').length"), 0, "another room");
    assert!(asked.count("/_aside/live/room") >= 2 && asked.count("/_aside/live/visits") >= 2);
    [&mine, &other].into_iter().for_each(no_messages);
    server.stop();
}

pub(crate) fn a_fragment_without_javascript_shows_the_state_at_the_request(browser: Browser) {
    let ((server, asked), page) = (chat(), browser.page().without_javascript());
    page.goto(&url(&server, "/room"));
    page.click("#say");
    page.wait_for("document.querySelector('#lines').textContent == 'hello'");
    assert_eq!(asked.count("/_aside/live/room"), 0);
    no_messages(&page);
    server.stop();
}

/// Returns the typed text with the position of the caret.
fn typed(page: &Page, css: &str) -> String {
    let js = "`${e.value.slice(0, e.selectionStart)}|${e.value.slice(e.selectionEnd)} ${document.activeElement == e}`";
    page.evaluate(&format!("(e => {js})(document.querySelector('{css}'))")).as_str().unwrap().to_owned()
}

pub(crate) fn typed_text_focus_and_caret_are_kept(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/"));
    for (number, css) in ["#beside", "#within", "#text"].into_iter().enumerate() {
        page.type_text(css, "tpe");
        page.press("ArrowLeft");
        page.press("ArrowLeft");
        board.note(&format!("{number}a"), &page);
        assert!(typed(&page, css).ends_with("t|pe true"), "{css}: {}", typed(&page, css));
        page.press("y");
        board.note(&format!("{number}b"), &page);
        assert!(typed(&page, css).ends_with("ty|pe true"), "{css}: {}", typed(&page, css));
    }
    page.click("#check");
    board.note("last", &page);
    let rest = "[form.check.checked, form.within.getAttribute('value'), form.querySelector('button').disabled]";
    let rest = format!("(form => {rest})(document.querySelector('#form'))");
    assert_eq!(page.evaluate(&rest), json!([true, "last", false]), "and the rest follows");
    no_messages(&page);
    board.server.stop();
}

pub(crate) fn opened_and_closed_details_are_kept(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/"));
    page.click("#summary");
    page.click("#shut");
    board.note("second", &page);
    assert_eq!(
        page.evaluate(
            "(([more, less]) => [more.open, less.open, more.lastChild.data])(document.querySelectorAll('details'))"
        ),
        json!([true, false, "second"])
    );
    board.server.stop();
}

pub(crate) fn a_list_grows_and_shrinks_around_a_focused_item(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/"));
    page.type_text("#input-c", "in the middle");
    page.press("ArrowLeft");
    // Not every browser can move an element without removing its focus. Siblings can be added or removed without a move.
    page.evaluate("moves = Element.prototype.moveBefore; delete Element.prototype.moveBefore");
    for items in [&["a0", "a", "b", "c", "d"][..], &["x", "c", "y", "z"], &["c"], &["b", "c"]] {
        board.items(items, &page);
        assert_eq!(typed(&page, "#input-c"), "in the middl|e true", "{items:?}");
    }
    page.evaluate("Element.prototype.moveBefore = moves; document.querySelector('#input-b').value = 'typed'");
    board.items(&["c", "b"], &page);
    assert_eq!(typed(&page, "#input-c"), "in the middl|e true", "it was moved");
    assert_eq!(typed(&page, "#input-b"), "typed| false", "and so was this");
    no_messages(&page);
    board.server.stop();
}

pub(crate) fn a_page_shows_the_new_state_after_a_restart(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/"));
    page.type_text("#within", "typed, ");
    board.note("second", &page);
    let address = board.server.addr().to_string();
    board.server.stop();
    page.wait_for("document.querySelector('aside-live > p.aside-lost[role=status]')");
    shows(&page, "Connection lost. Trying again");

    let board = board_with(Config { address, ..config() }, "of the next process");
    page.wait_for("document.querySelector('#note').textContent == 'of the next process'");
    assert_eq!(page.evaluate("document.querySelectorAll('.aside-lost').length"), 0);
    board.note("and on", &page);
    assert_eq!(typed(&page, "#within"), "firsttyped, | true");
    assert_eq!(board.asked.count("/"), 0, "the page was not loaded anew");
    board.server.stop();
    page.wait_for("document.querySelector('.aside-lost')");
}

pub(crate) fn a_page_beyond_the_stream_limit_retries_until_one_is_free(browser: Browser) {
    let (board, page) = (board_with(Config { max_streams: 1, ..config() }, "first"), browser.page());
    let mut taken = TcpStream::connect(board.server.addr()).unwrap();
    write!(taken, "GET /live HTTP/1.1\r\nHost: {}\r\n\r\n", board.server.addr()).unwrap();
    taken.read_exact(&mut [0; 100]).unwrap();
    page.goto(&url(&board.server, "/"));
    page.wait_for("waits.length == 3 && document.querySelector('.aside-lost')");
    assert_eq!(page.evaluate("waits[0] < 1000 && waits[1] >= 1000 && waits[2] >= 2000"), true, "each wait is longer");
    assert!(page.messages().iter().all(|message| message.contains("503")), "{:?}", page.messages());
    drop(taken);
    page.wait_for("!document.querySelector('.aside-lost')");
    board.note("second", &page);
    board.server.stop();
}

pub(crate) fn a_finished_state_is_not_requested_again(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/"));
    board.note("last but one", &page);
    board.live.update(|items| items.note = "last".to_owned());
    board.live.finish();
    page.wait_for(
        "document.querySelector('#note').textContent == 'last' && streams[0].readyState == EventSource.CLOSED",
    );
    assert_eq!(page.evaluate("[streams.length, waits.length]"), json!([1, 0]));
    assert_eq!(page.evaluate("document.querySelectorAll('.aside-lost').length"), 0);
    page.goto(&url(&board.server, "/two"));
    board.count(7, &page);
    assert_eq!(page.evaluate("[document.querySelector('#note').textContent, streams.length]"), json!(["last", 1]));
    assert_eq!((board.asked.count("/live"), board.asked.count("/count")), (1, 1));
    no_messages(&page);
    board.server.stop();
}

pub(crate) fn a_page_without_javascript_shows_the_state_at_the_request(browser: Browser) {
    let (board, page) = (board(), browser.page().without_javascript());
    page.goto(&url(&board.server, "/"));
    assert_eq!(page.evaluate("document.querySelector('#note').textContent"), "first");
    board.live.update(|items| items.note = "second".to_owned());
    page.goto(&url(&board.server, "/"));
    assert_eq!(page.evaluate("document.querySelector('#note').textContent"), "second");
    assert_eq!(board.asked.count("/live"), 0);
    no_messages(&page);
    board.server.stop();
}

pub(crate) fn two_fragments_of_a_page_share_a_script(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/two"));
    board.note("second", &page);
    board.count(7, &page);
    assert_eq!((board.live.watchers(), board.count.watchers()), (1, 1));
    assert_eq!((board.asked.count("/live"), board.asked.count("/count")), (1, 1));
    assert_eq!(board.asked.count("/_aside/live.js"), 1);
    assert_eq!(
        page.evaluate("[...document.querySelectorAll('aside-live')].map(part => part.ariaLive).join()"),
        "polite,polite"
    );
    no_messages(&page);
    board.server.stop();
}

pub(crate) fn a_page_continues_when_the_user_returns(browser: Browser) {
    let (board, page) = (board(), browser.page());
    page.goto(&url(&board.server, "/"));
    page.type_text("#within", ", typed");
    board.note("second", &page);
    // A browser may keep the page for a minute with its connections.
    let closed = "streams.every(stream => stream.readyState == EventSource.CLOSED)";
    page.evaluate(&format!("addEventListener('pagehide', () => sessionStorage.closed = {closed})"));
    page.goto(&url(&board.server, "/away"));
    assert_eq!(page.evaluate("sessionStorage.closed"), "true");
    board.live.update(|items| items.note = "third".to_owned());
    page.leave("history.back()");
    page.wait_for("document.querySelector('#note').textContent == 'third'");
    board.note("fourth", &page);
    assert_eq!(page.evaluate("document.querySelector('#within').value"), "first, typed");
    no_messages(&page);
    board.server.stop();
}

/// Returns the outcome of a task, within less time than a browser keeps a page.
fn outcome(task: TaskHandle<()>) -> Outcome<()> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(task.join()));
    told.recv_timeout(Duration::from_secs(60)).expect("nobody watches it, and it goes on")
}

pub(crate) fn a_page_that_the_user_leaves_is_not_counted(browser: Browser) {
    let ((begin, begun), (watch, watched)) = (mpsc::channel(), mpsc::channel());
    let (begin, watch) = (Mutex::new(begin), Mutex::new(watch));
    let app = App::with_config(config())
        .template("page.html", r#"<!doctype html>{{ bar }}<a id="away" href="/away">Away</a>"#)
        .get("/", move |req: &mut Request| -> Result<Response> {
            let search = Task::named("search").key("search").cancel_unwatched(Duration::from_millis(1));
            let search = search.spawn(|task| Ok::<_, Error>(task.sleep(Duration::from_secs(3_600))?));
            let bar = search.live().fragment(req, "/live", "aside/progress.html")?;
            begin.lock().unwrap().send(search).unwrap();
            req.render("page.html", context! { bar })
        })
        .get("/live", move |req: &mut Request| -> Result<Response> {
            let stream = req.live(&task("search").unwrap().live(), "aside/progress.html");
            watch.lock().unwrap().send(()).unwrap();
            stream
        })
        .get("/away", |_: &mut Request| "Away");
    let (server, page) = (app.start().unwrap(), browser.page());
    for leave in [
        "document.querySelector('#away').click()",
        "location = 'about:blank'",
        "document.querySelector('aside-live').remove()",
    ] {
        page.goto(&url(&server, "/"));
        let search = begun.recv().unwrap();
        watched.recv().unwrap();
        page.evaluate(leave);
        assert!(matches!(outcome(search), Err(Failure::Cancelled)), "{leave}");
    }
    server.stop();
}
