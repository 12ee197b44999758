//! A headless Chromium for tests that look at pages as visitors do: it is driven through its DevTools protocol, and keys and
//! clicks are real ones. Where it is not installed, [`Browser::start`] says that the test was skipped and gives none.
//!
//! The protocol is JSON, each message ended by a NUL, on descriptors 3 and 4. A process is started with 0 and 1 of our
//! choosing; a shell in between moves them there.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Pages do not grow slow when another is in front, and the browser does nothing of its own. A phone's window.
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--hide-scrollbars",
    "--window-size=500,900",
];

/// How long a page may take to become what a test waits for. Long: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the browser may take to answer at all. It waits for [`PATIENCE`] in some answers.
const ANSWER: Duration = Duration::from_secs(120);

/// A browser with a profile of its own, which ends with the value.
pub(crate) struct Browser {
    child: Child,
    wire: Arc<Wire>,
    profile: TempDir,
}

impl Browser {
    /// Starts one, which takes a second or two; a test has its own. None where none is installed.
    pub(crate) fn start() -> Option<Browser> {
        let Some(program) = installed() else {
            eprintln!("skipped: none of {NAMES:?} is installed");
            return None;
        };
        let profile = TempDir::new().expect("a folder for the browser");
        let mut child = command(&program, profile.path()).spawn().expect("a shell that starts the browser");
        let wire = Wire::new(&mut child);
        Some(Browser { child, wire, profile })
    }

    /// An empty page, in a window of its own. All pages of a browser share their cookies.
    pub(crate) fn page(&self) -> Page {
        let target = self.wire.call("", "Target.createTarget", json!({ "url": "about:blank", "newWindow": true }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = text_of(&self.wire.call("", "Target.attachToTarget", attach)["sessionId"]);
        let page = Page { wire: self.wire.clone(), session, scripts: true };
        page.call("Page.enable", json!({}));
        page.call("Page.setLifecycleEventsEnabled", json!({ "enabled": true }));
        page.call("Runtime.enable", json!({}));
        page.call("Log.enable", json!({}));
        page.call("Network.enable", json!({}));
        page.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
        page
    }

    /// The folder that all of it is in.
    pub(crate) fn profile(&self) -> &Path {
        self.profile.path()
    }
}

impl Drop for Browser {
    /// The processes that it has started go with it. They write to the profile until they have gone.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.wire.wait(Instant::now() + PATIENCE, |heard| heard.gone.then_some(()));
    }
}

fn installed() -> Option<PathBuf> {
    // The pipes are those of Unix.
    let path = std::env::var_os("PATH").filter(|_| cfg!(unix))?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

fn command(program: &Path, profile: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#])
        .arg(program)
        .args(FLAGS)
        .arg("--remote-debugging-pipe")
        .arg(format!("--user-data-dir={}", profile.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a visitor has before him: a window with a page. Methods panic, and tell what the page shows, when it does not do
/// what it is asked for.
pub(crate) struct Page {
    wire: Arc<Wire>,
    session: String,
    scripts: bool,
}

impl Page {
    /// The same for a visitor who has JavaScript off. What a test evaluates runs all the same.
    pub(crate) fn without_javascript(self) -> Page {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
        Page { scripts: false, ..self }
    }

    /// Loads a page, with all that belongs to it.
    pub(crate) fn goto(&self, url: &str) {
        let before = self.wire.heard().events.len();
        let begun = self.call("Page.navigate", json!({ "url": url }));
        assert!(begun["errorText"].is_null(), "{url} cannot be loaded: {}", begun["errorText"]);
        let loaded = |event: &Value| {
            let params = &event["params"];
            params["name"] == "load" && params["loaderId"] == begun["loaderId"] && event["sessionId"] == self.session
        };
        let until = Instant::now() + PATIENCE;
        let seen = self.wire.wait(until, |heard| heard.events[before..].iter().any(loaded).then_some(()));
        assert!(seen.is_some() || begun["loaderId"].is_null(), "{url} is not loaded after {PATIENCE:?}");
    }

    /// What an expression comes to, or what its promise does.
    pub(crate) fn evaluate(&self, js: &str) -> Value {
        match self.try_evaluate(js) {
            Ok(value) => value,
            Err(Trouble::Exception(text) | Trouble::Gone(text)) => panic!("{js}: {text}"),
        }
    }

    fn try_evaluate(&self, js: &str) -> Result<Value, Trouble> {
        let params = json!({ "expression": js, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut answer = self.try_call("Runtime.evaluate", params).map_err(Trouble::Gone)?;
        match answer.get("exceptionDetails") {
            Some(details) => Err(Trouble::Exception(exception(details))),
            None => Ok(answer["result"]["value"].take()),
        }
    }

    /// Waits until the expression is true of the page, or of one that comes after it, and gives what it then is. One that
    /// throws is not true yet.
    pub(crate) fn wait_for(&self, condition: &str) -> Value {
        self.wait_until(condition, condition)
    }

    fn wait_until(&self, js: &str, what: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let before = self.wire.heard().events.len();
            match self.try_evaluate(&self.look(js, until)) {
                Ok(found) if is_true(&found) => return found,
                Ok(_) if self.scripts => self.give_up(what),
                Err(Trouble::Exception(text)) => panic!("{what}: {text}"),
                // On the way to another page, or a page that only another one changes.
                Ok(_) | Err(Trouble::Gone(_)) => {
                    let more = self.wire.wait(until, |heard| (heard.events.len() > before).then_some(()));
                    more.unwrap_or_else(|| self.give_up(what));
                }
            }
        }
    }

    /// Asks in the page itself, again and again, for as long as there is patience. Without scripts it has no timers.
    fn look(&self, js: &str, until: Instant) -> String {
        let patience = until.saturating_duration_since(Instant::now()).as_millis();
        let look = format!("const look = () => {{ try {{ return ({js}) }} catch {{}} }}");
        match self.scripts {
            false => format!("(() => {{ {look}; return look() }})()"),
            true => format!(
                "new Promise(done => {{ {look}; const end = performance.now() + {patience}; const again = () => {{ \
                 const found = look(); found || performance.now() > end ? done(found) : setTimeout(again, 10) }}; again() }})"
            ),
        }
    }

    fn give_up(&self, what: &str) -> ! {
        let shown = self.try_evaluate("`${location.href}:\n${document.body.innerText}`");
        let shown = shown.map_or_else(|_| "no page".to_owned(), |shown| text_of(&shown));
        panic!("still not after {PATIENCE:?}: {what}\non {shown}\nmessages: {:#?}", self.wire.messages(&self.session));
    }

    /// Clicks on the middle of the first such element, once it is there and nothing covers it.
    pub(crate) fn click(&self, css: &str) {
        let point = self.wait_until(&middle(css), &format!("{css} can be clicked on"));
        for (kind, button, count) in
            [("mouseMoved", "none", 0), ("mousePressed", "left", 1), ("mouseReleased", "left", 1)]
        {
            let event =
                json!({ "type": kind, "button": button, "clickCount": count, "x": point["x"], "y": point["y"] });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Clicks there, and types.
    pub(crate) fn type_text(&self, css: &str, text: &str) {
        self.click(css);
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key and lets it go: a letter, or one of those with names (`Enter`, `Tab`, `ArrowLeft`, …).
    pub(crate) fn press(&self, key: &str) {
        let (code, text) = key_code(key);
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// The words that are shown.
    pub(crate) fn text(&self) -> String {
        text_of(&self.evaluate("document.body.innerText"))
    }

    /// What it looks like, as PNG.
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        STANDARD.decode(text_of(&picture["data"])).expect("a picture in base64")
    }

    /// What developers would see in the console so far: what scripts said and threw, what was refused by the
    /// Content-Security-Policy, what could not be loaded.
    pub(crate) fn messages(&self) -> Vec<String> {
        // Messages come in the order of the answers.
        self.evaluate("0");
        self.wire.messages(&self.session)
    }

    /// Takes the page off the network, or gives it back. An event stream that is open goes on: stop the server to cut it.
    pub(crate) fn offline(&self, offline: bool) {
        let unlimited = json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.call("Network.emulateNetworkConditions", unlimited);
    }

    fn call(&self, method: &str, params: Value) -> Value {
        self.wire.call(&self.session, method, params)
    }

    fn try_call(&self, method: &str, params: Value) -> Result<Value, String> {
        self.wire.try_call(&self.session, method, params)
    }
}

/// Why an expression came to nothing.
enum Trouble {
    /// It threw.
    Exception(String),
    /// Its page went while it ran, or the next is not there yet.
    Gone(String),
}

/// As JavaScript has it.
fn is_true(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && *value != json!("") && value.as_f64() != Some(0.0)
}

fn middle(css: &str) -> String {
    let css = json!(css);
    format!(
        "(() => {{ const element = document.querySelector({css}); \
         element.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
         const {{ left, top, width, height }} = element.getBoundingClientRect(); \
         const x = left + width / 2, y = top + height / 2; \
         return element.contains(document.elementFromPoint(x, y)) && {{ x, y }} }})()"
    )
}

/// The number of a key (UI Events, `keyCode`), and what it types.
fn key_code(key: &str) -> (u32, &str) {
    match key {
        "Backspace" => (8, ""),
        "Tab" => (9, ""),
        "Enter" => (13, "\r"),
        "Escape" => (27, ""),
        " " => (32, " "),
        "End" => (35, ""),
        "Home" => (36, ""),
        "ArrowLeft" => (37, ""),
        "ArrowUp" => (38, ""),
        "ArrowRight" => (39, ""),
        "ArrowDown" => (40, ""),
        letter if letter.chars().count() == 1 => (0, letter),
        _ => panic!("no key {key:?}"),
    }
}

/// The two pipes, and what came through them.
struct Wire {
    to: Mutex<(u64, ChildStdin)>,
    heard: Mutex<Heard>,
    more: Condvar,
}

#[derive(Default)]
struct Heard {
    answers: HashMap<u64, Value>,
    events: Vec<Value>,
    /// What it wrote to its standard error.
    complaints: String,
    /// It answers no more.
    over: bool,
    /// No process of it is left that could write.
    gone: bool,
}

impl Wire {
    fn new(child: &mut Child) -> Arc<Wire> {
        let (stdin, stdout) = (child.stdin.take().expect("a pipe to it"), child.stdout.take().expect("a pipe from it"));
        let stderr = child.stderr.take().expect("a pipe for its complaints");
        let wire = Arc::new(Wire { to: Mutex::new((0, stdin)), heard: Mutex::default(), more: Condvar::new() });
        let (answers, complaints) = (wire.clone(), wire.clone());
        thread::spawn(move || answers.listen(stdout));
        thread::spawn(move || complaints.listen_to_complaints(stderr));
        wire
    }

    fn listen(&self, from: impl Read) {
        for message in BufReader::new(from).split(0).map_while(Result::ok) {
            let message: Value = serde_json::from_slice(&message).expect("the protocol is JSON");
            self.hear(|heard| match message["id"].as_u64() {
                Some(id) => drop(heard.answers.insert(id, message)),
                None => heard.events.push(message),
            });
        }
        self.hear(|heard| heard.over = true);
    }

    fn listen_to_complaints(&self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            self.hear(|heard| heard.complaints += &(String::from_utf8_lossy(&line) + "\n"));
        }
        self.hear(|heard| heard.gone = true);
    }

    fn hear(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard());
        self.more.notify_all();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is looked for in all that was heard, as soon as it is there. None when it is not by then.
    fn wait<T>(&self, until: Instant, mut look: impl FnMut(&mut Heard) -> Option<T>) -> Option<T> {
        let mut heard = self.heard();
        loop {
            if let Some(found) = look(&mut heard) {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now())?;
            heard = self.more.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn call(&self, session: &str, method: &str, params: Value) -> Value {
        self.try_call(session, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&self, session: &str, method: &str, params: Value) -> Result<Value, String> {
        let id = self.send(session, method, params);
        let answer = self.wait(Instant::now() + ANSWER, |heard| {
            heard.answers.remove(&id).or_else(|| heard.over.then_some(Value::Null))
        });
        match answer {
            Some(Value::Null) | None => panic!("no answer to {method} from Chromium:\n{}", self.heard().complaints),
            Some(mut answer) => match answer.get("error") {
                Some(error) => Err(text_of(&error["message"])),
                None => Ok(answer["result"].take()),
            },
        }
    }

    fn send(&self, session: &str, method: &str, params: Value) -> u64 {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        to.0 += 1;
        let mut message = json!({ "id": to.0, "method": method, "params": params });
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        // One that has ended is noticed by its silence.
        let _ = to.1.write_all(format!("{message}\0").as_bytes());
        to.0
    }

    fn messages(&self, session: &str) -> Vec<String> {
        let heard = self.heard();
        heard.events.iter().filter(|event| event["sessionId"] == session).filter_map(message).collect()
    }
}

/// An event as a line of the console.
fn message(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.consoleAPICalled" => {
            let words: Vec<String> = params["args"].as_array()?.iter().map(object).collect();
            Some(format!("{}: {}", text_of(&params["type"]), words.join(" ")))
        }
        "Runtime.exceptionThrown" => Some(format!("uncaught: {}", exception(&params["exceptionDetails"]))),
        "Log.entryAdded" => {
            let entry = &params["entry"];
            // Browsers ask for it by themselves, whatever the page says.
            if text_of(&entry["url"]).ends_with("/favicon.ico") {
                return None;
            }
            Some(format!("{}: {} ({})", text_of(&entry["level"]), text_of(&entry["text"]), text_of(&entry["url"])))
        }
        _ => None,
    }
}

fn exception(details: &Value) -> String {
    format!("{} {}", text_of(&details["text"]), object(&details["exception"]))
}

/// A value of JavaScript in words.
fn object(object: &Value) -> String {
    text_of(object.get("value").or_else(|| object.get("description")).unwrap_or(&Value::Null))
}

/// A string without its quotes, anything else as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
