//! The pages in Rocket.

use rocket::config::SecretKey;
use rocket::form::{Form, FromForm};
use rocket::http::{Cookie, CookieJar, Status};
use rocket::response::Redirect;
use rocket::response::content::RawHtml;
use rocket::tokio::task::spawn_blocking;
use rocket::{Build, Config, Rocket, get, launch, post, routes};
use site::Visitor;

/// The fields of the form, by Rocket's own means.
#[derive(FromForm)]
struct NewOrder {
    email: String,
    quantity: u32,
    note: String,
}

#[launch]
fn serve() -> Rocket<Build> {
    let address = site::begin();
    let config = Config {
        address: address.ip(),
        port: address.port(),
        secret_key: SecretKey::derive_from(site::SECRET.as_bytes()),
        ..Config::release_default()
    };
    rocket::custom(config).mount("/", routes![plain, login, orders, create_order, done, busy, resize, calm])
}

#[get("/plain")]
async fn plain() -> &'static str {
    site::PLAIN
}

#[get("/login")]
async fn login(jar: &CookieJar<'_>) -> &'static str {
    let json = serde_json::to_string(&Visitor::new()).expect("a visitor is JSON");
    jar.add_private(Cookie::new("session", json));
    "welcome"
}

#[get("/orders")]
async fn orders(jar: &CookieJar<'_>) -> RawHtml<String> {
    let visitor = jar.get_private("session").and_then(|cookie| serde_json::from_str(cookie.value()).ok());
    RawHtml(site::page(&visitor.unwrap_or_else(Visitor::nobody)))
}

#[post("/orders", data = "<order>")]
async fn create_order(order: Form<NewOrder>) -> Result<Redirect, Status> {
    let NewOrder { email, quantity, note } = order.into_inner();
    let order = site::NewOrder { email, quantity, note };
    if !order.is_valid() {
        return Err(Status::UnprocessableEntity);
    }
    spawn_blocking(|| site::charge(order));
    Ok(Redirect::to("/orders"))
}

#[get("/done")]
async fn done() -> String {
    site::done()
}

#[get("/busy")]
async fn busy() {
    each_core(site::spin);
}

#[get("/resize")]
async fn resize() {
    each_core(site::resize);
}

#[get("/calm")]
async fn calm() {
    site::calm();
}

fn each_core(work: fn()) {
    for _ in 0..site::cores() {
        spawn_blocking(work);
    }
}
