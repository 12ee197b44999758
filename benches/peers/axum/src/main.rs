//! The pages in axum. The background work of a form is an async task. It is blocking work (`spawn_blocking`) if it sleeps or
//! computes, and with `PEER_VARIANT=blocking`.

use axum::Router;
use axum::extract::{Form, FromRef, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum_extra::extract::PrivateCookieJar;
use axum_extra::extract::cookie::{Cookie, Key};
use site::{NewOrder, Visitor};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

#[derive(Clone)]
struct Site {
    key: Key,
    blocking: bool,
}

impl FromRef<Site> for Key {
    fn from_ref(site: &Site) -> Key {
        site.key.clone()
    }
}

#[tokio::main]
async fn main() {
    let address = site::begin();
    let blocking = site::is_variant("blocking") || site::work() != site::Work::None;
    let site = Site { key: Key::derive_from(site::SECRET.as_bytes()), blocking };
    let app = Router::new()
        .route("/plain", get(async || site::PLAIN))
        .route("/login", get(login))
        .route("/orders", get(orders).post(create_order))
        .route("/done", get(async || site::done()))
        .route("/busy", get(async || each_core(site::spin)))
        .route("/resize", get(async || each_core(site::resize)))
        .route("/calm", get(async || site::calm()))
        .with_state(site);
    let listener = TcpListener::bind(address).await.expect("the address is free");
    axum::serve(listener, app).await.expect("it serves until it is killed");
}

async fn login(jar: PrivateCookieJar) -> impl IntoResponse {
    let json = serde_json::to_string(&Visitor::new()).expect("a visitor is JSON");
    (jar.add(Cookie::build(("session", json)).path("/").http_only(true)), "welcome")
}

async fn orders(jar: PrivateCookieJar) -> Html<String> {
    let visitor = jar.get("session").and_then(|cookie| serde_json::from_str(cookie.value()).ok());
    Html(site::page(&visitor.unwrap_or_else(Visitor::nobody)))
}

async fn create_order(State(site): State<Site>, Form(order): Form<NewOrder>) -> Response {
    if !order.is_valid() {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    if site.blocking {
        spawn_blocking(|| site::charge(order));
    } else {
        tokio::spawn(async { site::charge(order) });
    }
    Redirect::to("/orders").into_response()
}

fn each_core(work: fn()) {
    for _ in 0..site::cores() {
        spawn_blocking(work);
    }
}
