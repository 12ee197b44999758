//! A headless Chromium for tests of pages as users see them. It is controlled through its DevTools protocol, with real key
//! presses and clicks. If it is not installed, [`Browser::start`] prints that the test was skipped, and returns `None`.
//!
//! The protocol consists of JSON messages, each ended by a NUL, on the descriptors 3 and 4. Rust can set only 0 and 1 of a
//! process; a shell in between moves them.

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

/// The arguments: pages in the background are not throttled, the browser does no background work, and the window has the
/// size of a phone.
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

/// The time limit for a condition on a page. It is long, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time limit for a response of the browser. Some responses take up to [`PATIENCE`].
const ANSWER: Duration = Duration::from_secs(120);

/// A browser with a separate profile. It ends when the value is dropped.
pub(crate) struct Browser {
    child: Child,
    wire: Arc<Wire>,
    profile: TempDir,
}

impl Browser {
    /// Starts a browser, in a second or two; each test has its own. Returns `None` if no browser is installed.
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

    /// Opens an empty page in a new window. All pages of a browser share their cookies.
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

    /// Returns the folder of the profile.
    pub(crate) fn profile(&self) -> &Path {
        self.profile.path()
    }
}

impl Drop for Browser {
    /// Ends the browser with its child processes, which write to the profile until they end.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.wire.wait(Instant::now() + PATIENCE, |heard| heard.gone.then_some(()));
    }
}

fn installed() -> Option<PathBuf> {
    // The pipes need Unix.
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

/// A window with a page. Its methods panic, with the content of the page, if the page does not do what they request.
pub(crate) struct Page {
    wire: Arc<Wire>,
    session: String,
    scripts: bool,
}

impl Page {
    /// Turns JavaScript off in the page. Expressions of a test still run.
    pub(crate) fn without_javascript(self) -> Page {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
        Page { scripts: false, ..self }
    }

    /// Loads a page with all of its resources.
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

    /// Returns the value of an expression, or of its promise.
    pub(crate) fn evaluate(&self, js: &str) -> Value {
        match self.try_evaluate(js) {
            Ok(value) => value,
            Err(Trouble::Exception(text) | Trouble::Gone(text)) => panic!("{js}: {text}"),
        }
    }

    /// Evaluates an expression that leaves the page. The page may be gone before the value arrives.
    pub(crate) fn leave(&self, js: &str) {
        if let Err(Trouble::Exception(text)) = self.try_evaluate(js) {
            panic!("{js}: {text}");
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

    /// Waits until the expression is true in this page or a following one, and returns its value. An expression that throws
    /// is not true yet.
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
                // Another page is loading, or only another page changes this one.
                Ok(_) | Err(Trouble::Gone(_)) => {
                    let more = self.wire.wait(until, |heard| (heard.events.len() > before).then_some(()));
                    more.unwrap_or_else(|| self.give_up(what));
                }
            }
        }
    }

    /// Returns the script that evaluates an expression in the page until it is true, up to the time limit. Without
    /// JavaScript, a page has no timers.
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

    /// Waits until the first matching element is visible and not covered, and clicks on its middle.
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

    /// Clicks on an element, and types a text.
    pub(crate) fn type_text(&self, css: &str, text: &str) {
        self.click(css);
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses and releases a key: a letter, or a named key (`Enter`, `Tab`, `ArrowLeft`, …).
    pub(crate) fn press(&self, key: &str) {
        let (code, text) = key_code(key);
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Returns the visible text.
    pub(crate) fn text(&self) -> String {
        text_of(&self.evaluate("document.body.innerText"))
    }

    /// Returns a screenshot as PNG.
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        STANDARD.decode(text_of(&picture["data"])).expect("a picture in base64")
    }

    /// Returns the console messages so far: output and exceptions of scripts, violations of the Content-Security-Policy, and
    /// resources that could not be loaded.
    pub(crate) fn messages(&self) -> Vec<String> {
        // Messages arrive in order with the responses.
        self.evaluate("0");
        self.wire.messages(&self.session)
    }

    /// Disconnects the page from the network, or reconnects it. An open event stream stays open: stop the server to end it.
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

/// The failure of an expression.
enum Trouble {
    /// The expression threw an exception.
    Exception(String),
    /// The page was left while the expression ran, or the next page is not loaded yet.
    Gone(String),
}

/// Returns true if JavaScript treats the value as true.
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

/// Returns the number of a key (UI Events, `keyCode`), and the text that it types.
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

/// The two pipes, and the messages received so far.
struct Wire {
    to: Mutex<(u64, ChildStdin)>,
    heard: Mutex<Heard>,
    more: Condvar,
}

#[derive(Default)]
struct Heard {
    answers: HashMap<u64, Value>,
    events: Vec<Value>,
    /// The standard error of the browser.
    complaints: String,
    /// True if the browser has closed its output.
    over: bool,
    /// True if all processes of the browser have ended.
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

    /// Waits until `look` finds a value in the received messages, and returns it; `None` after the time limit.
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
        // A write error is ignored: the missing response is reported.
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
            // Browsers request it without a link in the page.
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

/// Formats a JavaScript value as text.
fn object(object: &Value) -> String {
    text_of(object.get("value").or_else(|| object.get("description")).unwrap_or(&Value::Null))
}

/// Returns a string without its quotes, and any other value as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
