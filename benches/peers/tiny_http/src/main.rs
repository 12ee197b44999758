//! The pages on tiny_http with nothing on top: four threads that take requests, as its documents show, and a thread for
//! each task. With `PEER_VARIANT=raw` each response is written past its `Response`, head and body in one piece, which is
//! the most that can be had of it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;

use site::{NewOrder, Visitor};
use tiny_http::{Header, Method, Request, Response, Server};

const WORKERS: usize = 4;

struct Answer {
    status: u16,
    header: Option<(&'static str, String)>,
    content_type: &'static str,
    body: String,
}

fn main() {
    let server = Arc::new(Server::http(site::begin()).expect("the address is free"));
    let raw = site::is_variant("raw");
    let workers: Vec<_> = (0..WORKERS).map(|_| thread::spawn(work(server.clone(), raw))).collect();
    workers.into_iter().for_each(|worker| worker.join().expect("no page panics"));
}

fn work(server: Arc<Server>, raw: bool) -> impl FnOnce() {
    move || {
        while let Ok(mut request) = server.recv() {
            let answer = answer(&mut request);
            // A client that is gone is the client's affair.
            let _ = if raw { write(request, answer) } else { respond(request, answer) };
        }
    }
}

fn respond(request: Request, answer: Answer) -> io::Result<()> {
    let header = |name: &str, value: &str| Header::from_bytes(name, value).expect("these are fine as headers");
    let mut response = Response::from_data(answer.body)
        .with_status_code(answer.status)
        .with_header(header("Content-Type", answer.content_type));
    if let Some((name, value)) = &answer.header {
        response.add_header(header(name, value));
    }
    request.respond(response)
}

fn write(request: Request, answer: Answer) -> io::Result<()> {
    let header = answer.header.map_or(String::new(), |(name, value)| format!("{name}: {value}\r\n"));
    let Answer { status, content_type, body, .. } = answer;
    let length = body.len();
    let whole = format!(
        "HTTP/1.1 {status} Fine\r\nContent-Type: {content_type}\r\n{header}Content-Length: {length}\r\n\r\n{body}"
    );
    let mut writer = request.into_writer();
    writer.write_all(whole.as_bytes())?;
    writer.flush()
}

fn answer(request: &mut Request) -> Answer {
    match (request.method(), request.url()) {
        (Method::Get, "/plain") => text(site::PLAIN.into()),
        (Method::Get, "/login") => {
            Answer { header: Some(("Set-Cookie", site::seal(&Visitor::new()))), ..text("welcome".into()) }
        }
        (Method::Get, "/orders") => orders(request),
        (Method::Post, "/orders") => create_order(request),
        (Method::Get, "/done") => text(site::done()),
        (Method::Get, "/busy") => each_core(site::spin),
        (Method::Get, "/resize") => each_core(site::resize),
        (Method::Get, "/calm") => {
            site::calm();
            text("calm".into())
        }
        _ => Answer { status: 404, ..text(String::new()) },
    }
}

fn text(body: String) -> Answer {
    Answer { status: 200, header: None, content_type: "text/plain; charset=utf-8", body }
}

fn orders(request: &Request) -> Answer {
    let cookie = request.headers().iter().find(|header| header.field.equiv("Cookie"));
    let visitor = cookie.and_then(|header| site::unseal(header.value.as_str())).unwrap_or_else(Visitor::nobody);
    Answer { content_type: "text/html; charset=utf-8", ..text(site::page(&visitor)) }
}

fn create_order(request: &mut Request) -> Answer {
    let mut body = Vec::new();
    let read = request.as_reader().take(1 << 20).read_to_end(&mut body);
    let order = read.ok().and_then(|_| serde_urlencoded::from_bytes::<NewOrder>(&body).ok());
    match order.filter(NewOrder::is_valid) {
        Some(order) => {
            thread::spawn(|| site::charge(order));
            Answer { status: 303, header: Some(("Location", "/orders".into())), ..text(String::new()) }
        }
        None => Answer { status: 422, ..text(String::new()) },
    }
}

fn each_core(work: fn()) -> Answer {
    for _ in 0..site::cores() {
        thread::spawn(work);
    }
    text("busy".into())
}
