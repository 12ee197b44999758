//! The pages in actix-web.

use actix_session::storage::CookieSessionStore;
use actix_session::{Session, SessionMiddleware};
use actix_web::cookie::Key;
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::rt::task::spawn_blocking;
use actix_web::web::{Form, get, post};
use actix_web::{App, HttpResponse, HttpServer, Result};
use site::{NewOrder, Visitor};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let address = site::begin();
    let app = || {
        let key = Key::derive_from(site::SECRET.as_bytes());
        App::new()
            .wrap(SessionMiddleware::new(CookieSessionStore::default(), key))
            .route("/plain", get().to(async || site::PLAIN))
            .route("/login", get().to(login))
            .route("/orders", get().to(orders))
            .route("/orders", post().to(create_order))
            .route("/done", get().to(async || site::done()))
            .route("/busy", get().to(async || each_core(site::spin)))
            .route("/resize", get().to(async || each_core(site::resize)))
            .route("/calm", get().to(calm))
    };
    HttpServer::new(app).bind(address)?.run().await
}

async fn login(session: Session) -> Result<&'static str> {
    session.insert("visitor", Visitor::new())?;
    Ok("welcome")
}

async fn orders(session: Session) -> Result<HttpResponse> {
    let visitor = session.get("visitor")?.unwrap_or_else(Visitor::nobody);
    Ok(HttpResponse::Ok().content_type(ContentType::html()).body(site::page(&visitor)))
}

async fn create_order(Form(order): Form<NewOrder>) -> HttpResponse {
    if !order.is_valid() {
        return HttpResponse::UnprocessableEntity().finish();
    }
    spawn_blocking(|| site::charge(order));
    HttpResponse::SeeOther().insert_header((LOCATION, "/orders")).finish()
}

async fn calm() -> &'static str {
    site::calm();
    "calm"
}

fn each_core(work: fn()) -> &'static str {
    for _ in 0..site::cores() {
        spawn_blocking(work);
    }
    "busy"
}
