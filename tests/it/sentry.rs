//! The example that sends failure reports to Sentry, with a server that parses its envelopes.

#[path = "../../examples/sentry.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod example;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};

use aside::server::Server;
use aside::testing::TestClient;
use aside::{App, Config, Error, Request, Result};
use serde_json::Value;

use self::example::{Sentry, app};

/// An event that a server has received.
struct Received {
    path: String,
    auth: String,
    event: Value,
}

/// Parses an envelope, as the specification reads it: the header, and then items of the length that their header says.
fn parse(body: &str) -> Result<Value> {
    let missing = || Error::bad_request("the envelope is not complete");
    let (head, rest) = body.split_once('\n').ok_or_else(missing)?;
    let (item, rest) = rest.split_once('\n').ok_or_else(missing)?;
    let (head, item): (Value, Value) = (serde_json::from_str(head)?, serde_json::from_str(item)?);
    let length = item["length"].as_u64().ok_or_else(missing)? as usize;
    let (payload, end) = (rest.get(..length).ok_or_else(missing)?, &rest[length..]);
    let event: Value = serde_json::from_str(payload)?;
    let id = event["event_id"].as_str().ok_or_else(missing)?;
    let is_valid = end == "\n" && item["type"] == "event" && head["event_id"] == id;
    let is_id = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_valid && is_id { Ok(event) } else { Err(Error::bad_request("the envelope is invalid")) }
}

/// Starts a server with Sentry's interface.
fn sentry_server() -> (Server, Receiver<Received>) {
    let (sender, received) = channel();
    let sender = Mutex::new(sender);
    let receive = move |req: &mut Request| {
        let path = req.path().to_owned();
        let auth = req.header("X-Sentry-Auth").unwrap_or_default().to_owned();
        let event = parse(&req.text()?)?;
        let id = event["event_id"].clone();
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send(Received { path, auth, event }).expect("the test receives");
        aside::ok(format!(r#"{{"id":{id}}}"#))
    };
    let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
    let server = App::with_config(config).post("/api/{project}/envelope/", receive).start().unwrap();
    (server, received)
}

#[test]
fn the_example_sends_a_failed_request_and_a_panicking_task_to_sentry() {
    let (server, received) = sentry_server();
    let sentry = Sentry::new(&format!("http://public-key:old-secret@{}/42", server.addr())).unwrap();
    let mut client = TestClient::new(app(App::with_config(Config::default()), sentry));
    let response = client.get("/orders/x");
    assert_eq!(response.status_code().code(), 500);
    let id = response.header("X-Request-Id").unwrap().to_owned();
    client.drain();
    let request = received.try_recv().unwrap();
    assert_eq!(request.path, "/api/42/envelope/");
    assert!(
        request.auth.contains("sentry_version=7") && request.auth.ends_with("sentry_key=public-key"),
        "{}",
        request.auth
    );
    let event = request.event;
    assert_eq!((&event["transaction"], &event["level"]), (&"GET /orders/{id}".into(), &"error".into()));
    assert_eq!((&event["tags"]["request_id"], &event["tags"]["status"]), (&id.into(), &"500".into()));
    assert_eq!((&event["request"]["method"], &event["request"]["url"]), (&"GET".into(), &"/orders/x".into()));
    let exceptions = event["exception"]["values"].as_array().unwrap();
    assert_eq!(exceptions.len(), 1);
    assert_eq!(exceptions[0]["type"], "request failed");
    assert_eq!(exceptions[0]["value"], "invalid digit found in string");
    let frames = exceptions[0]["stacktrace"]["frames"].as_array().unwrap();
    let own: Vec<_> = frames.iter().filter(|frame| frame["in_app"] == true).collect();
    let innermost = own.last().unwrap();
    assert!(innermost["filename"].as_str().unwrap().ends_with("sentry.rs") && innermost["lineno"].is_u64(), "{own:?}");

    client.get("/orders/0");
    client.drain();
    let task = received.try_recv().unwrap().event;
    let panic = &task["exception"]["values"][0];
    assert_eq!((&panic["type"], &panic["value"]), (&"panic".into(), &"there is no order 0".into()));
    assert_eq!((&task["tags"]["kind"], &task["tags"]["attempt"]), (&"task".into(), &"1".into()));
    assert_eq!(task["contexts"]["trace"]["trace_id"].as_str().unwrap().len(), 32);
    assert!(received.try_recv().is_err(), "each failure is sent once");
    server.stop();
}

#[test]
fn a_dsn_without_a_key_or_a_project_is_refused() {
    for dsn in ["", "https://errors.example/1", "key@errors.example/1", "https://key@errors.example"] {
        assert!(Sentry::new(dsn).is_err(), "{dsn}");
    }
}
