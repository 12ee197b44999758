//! The pages in aside. Which transport serves them is the runner's to say, with `ASIDE_SERVER`.

use aside::image::Fit;
use aside::{App, Request, Response, Result, Status, Task, background, context, redirect};
use site::{NewOrder, Visitor};

fn main() -> Result<()> {
    site::begin();
    App::new()
        .template("orders.html", site::TEMPLATE)
        .get("/plain", |_: &mut Request| site::PLAIN)
        .get("/login", login)
        .get("/orders", orders)
        .post("/orders", if site::is_variant("now") { create_order_now } else { create_order })
        .get("/done", |_: &mut Request| site::done())
        .get("/busy", |_: &mut Request| each_core(site::spin))
        .get("/resize", |_: &mut Request| each_core(resize))
        .get("/calm", |_: &mut Request| site::calm())
        .run()
}

fn login(req: &mut Request) -> &'static str {
    req.session().insert("visitor", Visitor::new());
    "welcome"
}

fn orders(req: &mut Request) -> Result<Response> {
    let visitor = req.session().get("visitor").unwrap_or_else(Visitor::nobody);
    req.render("orders.html", context! { visitor, orders => site::orders() })
}

/// Deferred until the response is sent: it begins after the last byte.
fn create_order(req: &mut Request) -> Result<Response> {
    let order: NewOrder = req.form()?;
    if !order.is_valid() {
        return Ok(Response::new().status(Status::UNPROCESSABLE_CONTENT));
    }
    Ok(redirect("/orders").background(|| site::charge(order)))
}

/// Begun now, on an OS thread of its own with the standard library's handle.
fn create_order_now(req: &mut Request) -> Result<Response> {
    let order: NewOrder = req.form()?;
    if !order.is_valid() {
        return Ok(Response::new().status(Status::UNPROCESSABLE_CONTENT));
    }
    background(|| site::charge(order));
    Ok(redirect("/orders"))
}

fn each_core(work: fn()) {
    for _ in 0..site::cores() {
        Task::named("busy").spawn(move |_| work());
    }
}

fn resize() {
    site::resize_with(|from, to| {
        aside::image::resize(from, to, Fit::Inside(800, 800)).expect("the photo is one");
    });
}
