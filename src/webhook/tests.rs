//! Webhooks through real connections on the loopback interface.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::json;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::signature::{TOLERANCE, verify_at};
use super::*;
use crate::app::App;
use crate::background::failure::Failure;
use crate::background::registry::Registry;
use crate::background::scope::{Context, Scope, Values};
use crate::background::trace_context;
use crate::config::Config;
use crate::http::request::{Body, Method, Request};
use crate::jobs::Job;
use crate::jobs::{JobInfo, JobState, Jobs};
use crate::testing::TestClient;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

type Got = (Headers, Vec<u8>);

/// A receiver that sends these responses in turn, each on a separate connection, and then closes its port. For an empty
/// one it sends nothing, and waits until the sender disconnects.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    fn start(answers: &[&'static str]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hooks/geheim", listener.local_addr().unwrap());
        Receiver::on(listener, url, answers)
    }

    fn on(listener: TcpListener, url: String, answers: &[&'static str]) -> Receiver {
        let got = Arc::new(Mutex::new(Vec::new()));
        let (mut answers, theirs) = (VecDeque::from(answers.to_vec()), got.clone());
        thread::spawn(move || {
            while let Some(answer) = answers.pop_front() {
                let (mut stream, _) = listener.accept().unwrap();
                theirs.lock().unwrap().push(read(&stream));
                if answer.is_empty() {
                    let _ = io::copy(&mut stream, &mut io::sink());
                } else {
                    let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            }
        });
        Receiver { url, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Got {
    let mut reader = BufReader::new(stream);
    let lines = (&mut reader).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let field = |line: String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Headers = lines.skip(1).filter_map(field).collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    (headers, body)
}

/// Sends a webhook, and waits for its outcome without the backoff. Returns the number of logged failures too.
fn send(webhook: Webhook) -> (Result<(), String>, usize) {
    let scope = Scope::new(Registry::new(&Config::default()), Values::default());
    let entered = Context::of(scope.clone()).enter();
    let handle = webhook.send();
    drop(entered);
    assert!(scope.registry().wait_until_idle(Instant::now() + Duration::from_secs(30)));
    let outcome = handle.join().map_err(|failure| match failure {
        Failure::Error(error) => error.chain(),
        other => panic!("{other}"),
    });
    (outcome, scope.registry().failed().len())
}

fn request(headers: &[(&str, &str)], body: &[u8]) -> Request {
    let headers = headers.iter().copied().collect();
    Request::new(Method::Post, "/hooks", headers, Body::from(body.to_vec()))
}

/// Returns the example of the specification.
fn published() -> ([(&'static str, &'static str); 3], &'static [u8], i64) {
    let headers = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ];
    (headers, br#"{"test": 2432232314}"#, 1_614_265_330)
}

/// The certificate is renewed sooner or later, and an accepted webhook must not be lost before that.
#[cfg(feature = "mail")]
#[test]
fn an_untrusted_certificate_of_a_receiver_is_retried() {
    use crate::mail::smtp_server::{EXPIRED, Options, SmtpServer};

    // Only the TLS handshake is needed.
    let server =
        SmtpServer::with(vec![], Options { certificate: Some(EXPIRED), is_wrapped: true, ..Options::default() });
    let error = Webhook::post(format!("https://localhost:{}/", server.port())).send_now().unwrap_err();
    assert!(error.chain().contains("certificate") && is_temporary(&error), "{}", error.chain());
}

#[test]
fn the_example_of_the_specification_is_signed_and_verified() {
    let (headers, body, time) = published();
    assert_eq!(sign(SECRET, headers[0].1, time, body).unwrap(), headers[2].1);
    assert_eq!(verify_at(&mut request(&headers, body), &[SECRET], time).unwrap(), body);
    let raw = STANDARD.decode(&SECRET[6..]).unwrap();
    assert_eq!(verify_at(&mut request(&headers, body), &[raw], time + TOLERANCE).unwrap(), body);
}

#[test]
fn one_matching_signature_with_one_of_the_secrets_is_enough() {
    let (mut headers, body, time) = published();
    let many = format!("v1a,AAAA v1,AAAA {}", headers[2].1);
    headers[2].1 = &many;
    let secrets = ["another secret that is long enough", SECRET];
    assert_eq!(verify_at(&mut request(&headers, body), &secrets, time).unwrap(), body);
}

#[test]
fn a_changed_or_old_webhook_is_refused() {
    let (good, body, time) = published();
    let status = |headers: &[(&str, &str)], body: &[u8], now: i64| {
        verify_at(&mut request(headers, body), &[SECRET], now).unwrap_err().status_code().code()
    };
    assert_eq!(status(&good, br#"{"test": 2432232315}"#, time), 401);
    assert_eq!(status(&good, body, time + TOLERANCE + 1), 401);
    assert_eq!(status(&good, body, time - TOLERANCE - 1), 401);
    assert_eq!(status(&good[..2], body, time), 400);
    let with = |index: usize, value: &'static str| {
        let mut headers = good;
        headers[index].1 = value;
        status(&headers, body, time)
    };
    assert_eq!((with(0, "msg_other"), with(0, "")), (401, 400));
    assert_eq!((with(1, "1614265331"), with(1, "+1614265330"), with(1, "soon")), (401, 400, 400));
    assert_eq!(with(2, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), 401);
    assert_eq!((with(2, "v1,"), with(2, "nonsense")), (401, 401));
}

#[test]
fn an_invalid_secret_is_a_500() {
    let (headers, body, time) = published();
    for secrets in [&[][..], &[""], &["whsec_"], &["whsec_?"], &["", SECRET]] {
        let error = verify_at(&mut request(&headers, body), secrets, time).unwrap_err();
        assert!(error.status_code().is_server_error() && error.chain().contains("secret"), "{error:?}");
    }
}

#[test]
fn each_attempt_has_its_own_signature_and_the_same_id() {
    let receiver = Receiver::start(&["500 Oh", "429 Later", "204 Fine"]);
    let webhook = Webhook::post(&receiver.url).json(&json!({ "order": 17 })).secret(SECRET).header("X-Shop", "a");
    assert_eq!(send(webhook), (Ok(()), 0));
    let got = receiver.got();
    assert_eq!(got.len(), 3);
    for (headers, body) in got.clone() {
        assert_eq!(headers.get("webhook-id"), got[0].0.get("webhook-id"));
        assert_eq!((headers.get("content-type"), headers.get("x-shop")), (Some("application/json"), Some("a")));
        assert_eq!(body, br#"{"order":17}"#);
        let mut request = Request::new(Method::Post, "/", headers, Body::from(body));
        verify(&mut request, &[SECRET]).unwrap();
    }
}

/// Returns the `traceparent` headers of the attempts.
fn traces(receiver: &Receiver) -> Vec<String> {
    let got = receiver.got();
    got.iter().map(|(headers, _)| headers.get("traceparent").unwrap_or("none").to_owned()).collect()
}

#[test]
fn a_webhook_names_the_trace_of_its_request() {
    for is_enqueued in [false, true] {
        let receiver = Receiver::start(&["500 Oh", "200 OK"]);
        let url = receiver.url.clone();
        let handler = move |req: &mut Request| {
            let webhook = Webhook::post(&url).json("x");
            if is_enqueued {
                req.enqueue(webhook).map(|_| ())?;
            } else {
                drop(webhook.send());
            }
            crate::error::ok(req.trace().to_string())
        };
        let app = App::with_config(Config::default()).jobs(Jobs::memory()).post("/orders", handler);
        let mut client = TestClient::new(app);
        let trace = client.post("/orders").send().text().to_owned();
        client.drain();
        client.advance(LATER);
        client.drain();
        let sent = traces(&receiver);
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|header| header.starts_with(&format!("00-{trace}-")) && header.ends_with("-01")));
        assert!(sent.iter().all(|header| trace_context::parse(header).is_some()), "{sent:?}");
        assert_ne!(sent[0], sent[1], "each attempt has a parent id of its own");
    }
}

#[test]
fn a_webhook_keeps_the_trace_that_the_application_set() {
    let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let receiver = Receiver::start(&["200 OK"]);
    let client = site();
    client.jobs().enqueue(Webhook::post(&receiver.url).json("x").header("Traceparent", own)).unwrap();
    client.drain();
    assert_eq!(traces(&receiver), [own]);
}

#[test]
fn a_failing_receiver_is_one_failure_after_all_attempts() {
    let receiver = Receiver::start(&["500 Oh"; 6]);
    let (outcome, failures) = send(Webhook::post(&receiver.url).json("x"));
    assert_eq!(outcome.unwrap_err(), "webhook to 127.0.0.1 answered 500 Internal Server Error");
    assert_eq!((receiver.got().len(), failures), (5, 1));
    assert!(!receiver.got()[0].0.contains("webhook-signature"));
}

#[test]
fn a_refusal_and_a_redirect_are_final() {
    for answer in ["410 Gone", "302 Found\r\nLocation: /else", "307 Go\r\nLocation: /else"] {
        let receiver = Receiver::start(&[answer, "200 OK"]);
        let (outcome, failures) = send(Webhook::post(&receiver.url).json("x"));
        let words = outcome.unwrap_err();
        assert!(words.starts_with("webhook to 127.0.0.1 ") && !words.contains("geheim"), "{words}");
        assert!(words.contains(&answer[..3]), "{words}");
        assert_eq!((receiver.got().len(), failures), (1, 1));
    }
}

#[test]
fn an_unreachable_receiver_is_retried() {
    let url = Receiver::start(&[]).url;
    let (outcome, failures) = send(Webhook::post(url).json("x"));
    let words = outcome.unwrap_err();
    assert!(words.starts_with("cannot deliver the webhook to 127.0.0.1: ") && !words.contains("geheim"), "{words}");
    assert_eq!(failures, 1);
}

#[test]
fn an_attempt_to_a_silent_receiver_ends_at_the_time_limit() {
    let receiver = Receiver::start(&["", "200 OK"]);
    let limit = Duration::from_secs(2);
    assert_eq!(send(Webhook::post(&receiver.url).json("x").limits(limit, limit)), (Ok(()), 0));
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    // The receiver has both, and detects the duplicate by its id.
    assert_eq!(got[0].0.get("webhook-id"), got[1].0.get("webhook-id"));
}

#[test]
fn an_invalid_webhook_fails_the_task() {
    let map = std::collections::HashMap::from([(vec![1], 2)]);
    let to = || Webhook::post("http://127.0.0.1:9/geheim");
    for (webhook, word) in [
        (Webhook::post("geheim"), "URL"),
        (Webhook::post("file:///geheim"), "URL"),
        (Webhook::post(""), "URL"),
        (to().json(&map), "cannot be written as JSON"),
        (to().header("X\r\nY", "z"), "header name"),
        (to().id("a\r\nb"), "webhook-id"),
        (to().id(""), "id"),
        (to().secret("whsec_geheim!"), "secret"),
    ] {
        let (outcome, failures) = send(webhook);
        let words = outcome.unwrap_err();
        assert!(words.contains(word) && !words.contains("geheim"), "{words}");
        assert_eq!(failures, 1);
    }
}

#[test]
fn a_webhook_sent_now_reports_its_outcome() {
    let receiver = Receiver::start(&["200 OK", "503 Oh"]);
    Webhook::post(&receiver.url).json("x").send_now().unwrap();
    assert!(Webhook::post(&receiver.url).json("x").send_now().is_err());
    assert_eq!(receiver.got().len(), 2);
}

/// The single response is still unread at the end: nothing else has connected.
#[test]
fn a_webhook_for_public_addresses_does_not_reach_this_machine() {
    let receiver = Receiver::start(&["200 OK"]);
    for host in ["127.0.0.1", "localhost", "2130706433", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]"] {
        let url = receiver.url.replace("127.0.0.1", host);
        let (outcome, failures) = send(Webhook::post(url).json("x").public_only());
        let words = outcome.unwrap_err();
        assert!(words.starts_with("webhook to ") && words.contains("is not a public address"), "{words}");
        assert!(!words.contains("geheim") && failures == 1, "{words}");
    }
    assert!(receiver.got().is_empty());
    Webhook::post(&receiver.url).json("x").send_now().unwrap();
}

#[test]
fn a_job_for_public_addresses_is_dead_at_once() {
    let receiver = Receiver::start(&["200 OK"]);
    let client = site();
    let id = client.jobs().enqueue(Webhook::post(&receiver.url).json("x").public_only()).unwrap().id;
    client.drain();
    let job = job(&client, id);
    assert_eq!((job.state, job.failures.len(), receiver.got().len()), (JobState::Dead, 1, 0));
    let words = &job.failures[0].message;
    assert!(words.contains("has the address 127.0.0.1, which is not a public address"), "{words}");
}

/// A resolver that returns these addresses one after the other, as an attacker's name server does.
#[derive(Debug)]
struct Names(Mutex<VecDeque<Vec<&'static str>>>);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut all = self.empty();
        let addresses = self.0.lock().unwrap().pop_front().unwrap();
        addresses.iter().for_each(|ip| all.push((ip.parse::<IpAddr>().unwrap(), uri.port_u16().unwrap()).into()));
        Ok(all)
    }
}

/// Treats 127.0.0.2 as a public address, and 127.0.0.1 as a private one.
#[cfg(target_os = "linux")]
#[test]
fn addresses_are_checked_at_each_connection_and_redirects_are_not_followed() {
    let inside = Receiver::start(&["200 OK"]);
    let port = inside.url.split([':', '/']).nth(4).unwrap().to_owned();
    let outside = TcpListener::bind(format!("127.0.0.2:{port}")).unwrap();
    let redirect = "307 Go\r\nLocation: http://127.0.0.1/";
    let outside = Receiver::on(outside, format!("http://a.example:{port}/"), &["200 OK", "200 OK", redirect]);
    let (public, private) = ("127.0.0.2", "127.0.0.1");
    let names = [vec![public], vec![private], vec![private, public], vec![public], vec![private]];
    let names = Names(Mutex::new(names.into_iter().collect()));
    let rule = |address: IpAddr| address == IpAddr::from([127, 0, 0, 2]);
    let agent = public::agent_with(settings().proxy(None).build(), names, rule);
    let webhook = Webhook::post(&outside.url).json("x");
    webhook.deliver_by(&agent).unwrap();
    assert!(webhook.deliver_by(&agent).unwrap_err().chain().contains("the address 127.0.0.1"));
    webhook.deliver_by(&agent).unwrap();
    assert!(webhook.deliver_by(&agent).unwrap_err().chain().contains("answered 307"));
    assert!(webhook.deliver_by(&agent).unwrap_err().chain().contains("the address 127.0.0.1"));
    assert_eq!((outside.got().len(), inside.got().len()), (3, 0));
}

/// A proxy would connect without the check. The test runs itself again in a process with a proxy.
#[test]
fn a_proxy_does_not_send_a_webhook_for_public_addresses() {
    const NAME: &str = "webhook::tests::a_proxy_does_not_send_a_webhook_for_public_addresses";
    const BEHIND: &str = "ASIDE_TEST_BEHIND_A_PROXY";
    // A documentation address, which leads nowhere.
    let webhook = Webhook::post("http://192.0.2.1/").json("x");
    if std::env::var_os(BEHIND).is_some() {
        let words = webhook.clone().public_only().send_now().unwrap_err().chain();
        assert!(words.contains("the address 192.0.2.1, which is not a public address"), "{words}");
        webhook.send_now().unwrap_err();
        return;
    }
    let proxy = Receiver::start(&["502 No", "502 No"]);
    let url = proxy.url.trim_end_matches("/hooks/geheim");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", NAME]).env(BEHIND, "1").env("ALL_PROXY", url).env("HTTP_PROXY", url).env_remove("NO_PROXY");
    let output = child.env_remove("no_proxy").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(proxy.got().len(), 1, "the other webhook uses the proxy");
}

/// A duration longer than any backoff.
const LATER: Duration = Duration::from_secs(3600);

fn site() -> TestClient {
    TestClient::new(App::with_config(Config::default()).jobs(Jobs::memory()))
}

fn job(client: &TestClient, id: u64) -> JobInfo {
    client.jobs().find(id).unwrap().unwrap()
}

/// Returns the time of the signature.
fn signed_at(headers: &Headers) -> i64 {
    headers.get("webhook-timestamp").unwrap().parse().unwrap()
}

#[test]
fn each_attempt_of_an_enqueued_webhook_has_its_own_signature() {
    let receiver = Receiver::start(&["500 Oh", "429 Later", "204 Fine"]);
    let mut client = site();
    let payload = json!({ "order": 17, "name": "Анна \"\\" });
    let webhook =
        Webhook::post(&receiver.url).json(&payload).secret(SECRET).header("X-Shop", "a").header("X-Shop", "b");
    let id = client.jobs().enqueue(webhook.clone()).unwrap().id;
    for (state, seen) in [(JobState::Scheduled, 1), (JobState::Scheduled, 2), (JobState::Done, 3)] {
        client.drain();
        assert_eq!((job(&client, id).state, receiver.got().len()), (state, seen));
        client.advance(LATER);
    }
    for (headers, body) in receiver.got() {
        assert_eq!(headers.get("webhook-id"), Some(&*webhook.id));
        assert_eq!(headers.get_all("x-shop").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(body, serde_json::to_vec(&payload).unwrap());
        let mut request = Request::new(Method::Post, "/", headers, Body::from(body));
        verify(&mut request, &[SECRET]).unwrap();
    }
}

/// The stored form has no time, so that an attempt of next week is not signed with today's.
#[test]
fn a_webhook_that_waited_is_signed_at_its_attempt() {
    let receiver = Receiver::start(&["200 OK"]);
    let webhook = Webhook::post(&receiver.url).id("msg_1").json("x").secret([0, 255, 10]);
    let stored = serde_json::to_string(&webhook).unwrap();
    assert!(!stored.contains("time") && !stored.contains("v1,"), "{stored}");
    let read: Webhook = serde_json::from_str(&stored).unwrap();
    let (one, other) = (webhook.signed_headers(b"x", 1_000).unwrap(), read.signed_headers(b"x", 2_000).unwrap());
    assert_ne!(one.get("webhook-signature"), other.get("webhook-signature"));
    assert_eq!(other.get("webhook-signature").unwrap(), sign([0, 255, 10], "msg_1", 2_000, b"x").unwrap());
    let before = Timestamp::now().as_second();
    let client = site();
    client.jobs().enqueue(read).unwrap();
    client.drain();
    let time = signed_at(&receiver.got()[0].0);
    assert!((before..=Timestamp::now().as_second()).contains(&time), "{time}");
}

#[test]
fn a_refused_webhook_is_a_dead_job_and_shows_no_secret() {
    let receiver = Receiver::start(&["410 Gone", "200 OK"]);
    let mut client = site();
    let webhook = Webhook::post(&receiver.url).json("x").secret("geheim, and long enough").header("X", "geheim");
    assert!(!format!("{webhook:?} {:?}", webhook.clone().delay(LATER)).contains("geheim"));
    let id = client.jobs().enqueue(webhook).unwrap().id;
    client.drain();
    client.advance(LATER);
    client.drain();
    let job = job(&client, id);
    assert_eq!((job.state, receiver.got().len(), job.failures.len()), (JobState::Dead, 1, 1));
    assert_eq!((&*job.label, client.jobs().is_private(&job.name)), ("webhook to 127.0.0.1", true));
    assert_eq!(job.failures[0].message, "webhook to 127.0.0.1 answered 410 Gone");
    let tasks = format!("{:?}", client.failures());
    assert!(tasks.contains("410 Gone") && !tasks.contains("geheim"), "{tasks}");
    assert!(client.jobs().retry(id).unwrap());
    client.drain();
    assert_eq!(receiver.got().len(), 2);
}

#[test]
fn a_payload_that_json_cannot_hold_is_refused_by_enqueue() {
    let client = site();
    let map = std::collections::HashMap::from([(vec![1], 2)]);
    let error = client.jobs().enqueue(Webhook::post("http://127.0.0.1:9/geheim").json(&map)).unwrap_err();
    let words = error.chain();
    let expected = "the payload of the webhook to 127.0.0.1 cannot be written as JSON: key must be a string";
    assert!(words.ends_with(expected) && !words.contains("geheim"), "{words}");
    assert_eq!(client.jobs().counts().unwrap().waiting, 0);
}

#[test]
fn a_request_enqueues_a_webhook() {
    let receiver = Receiver::start(&["200 OK"]);
    let url = receiver.url.clone();
    let handler = move |req: &mut Request| req.enqueue(Webhook::post(&url).json("x").unique("x")).map(|_| "thank you");
    let app = App::with_config(Config::default()).jobs(Jobs::memory()).post("/orders", handler);
    let mut client = TestClient::new(app);
    client.post("/orders").send();
    client.post("/orders").send();
    client.jobs().assert_enqueued(|webhook: &Webhook| webhook.url == receiver.url);
    client.drain();
    assert_eq!(receiver.got().len(), 1);
}

/// The exact form that this version writes, and the minimal one: later versions must read both.
#[test]
fn a_stored_webhook_is_read_by_later_versions() {
    let all = r#"{"url":"https://a.example/x","id":"msg_1","body":"{\"a\":1}","secret":"AP8K","headers":[["X","y"]]}"#;
    let webhook: Webhook = serde_json::from_str(all).unwrap();
    assert_eq!(serde_json::to_string(&webhook).unwrap(), all);
    assert_eq!((webhook.body.as_deref(), webhook.secret.as_deref()), (Ok(&b"{\"a\":1}"[..]), Some(&[0, 255, 10][..])));
    let public = r#"{"url":"https://a.example","id":"msg_1","body":"","public_only":true}"#;
    let webhook: Webhook = serde_json::from_str(public).unwrap();
    assert!(webhook.public_only && serde_json::to_string(&webhook).unwrap() == public);
    let least = r#"{"url":"https://a.example","id":"msg_1","body":""}"#;
    assert_eq!(serde_json::to_string(&serde_json::from_str::<Webhook>(least).unwrap()).unwrap(), least);
}

#[test]
fn a_webhook_of_a_later_version_waits_for_it() {
    let newer = r#"{"url":"https://a.example","id":"msg_1","body":"","proxy":"b.example"}"#;
    let error = Error::internal("…").with_source(serde_json::from_str::<Webhook>(newer).unwrap_err());
    assert!(Webhook::retry().wait_after(1, &Failure::from_error(error.into())).is_some());
    assert!(Webhook::retry().wait_after(1, &Failure::from_error(Error::internal("…").into())).is_none());
}
