//! The pages in Rouille. Its own sessions are an id and no store: the cookie is that of the `cookie` crate.

use std::thread;

use rouille::{Request, Response, post_input, router, try_or_400};
use site::{NewOrder, Visitor};

fn main() {
    rouille::start_server(site::begin(), answer)
}

fn answer(request: &Request) -> Response {
    router!(request,
        (GET) (/plain) => { Response::text(site::PLAIN) },
        (GET) (/login) => {
            Response::text("welcome").with_additional_header("Set-Cookie", site::seal(&Visitor::new()))
        },
        (GET) (/orders) => { orders(request) },
        (POST) (/orders) => { create_order(request) },
        (GET) (/done) => { Response::text(site::done()) },
        (GET) (/busy) => { each_core(site::spin) },
        (GET) (/resize) => { each_core(site::resize) },
        (GET) (/calm) => {
            site::calm();
            Response::text("calm")
        },
        _ => Response::empty_404()
    )
}

fn orders(request: &Request) -> Response {
    let visitor = request.header("Cookie").and_then(site::unseal).unwrap_or_else(Visitor::nobody);
    Response::html(site::page(&visitor))
}

fn create_order(request: &Request) -> Response {
    let fields = try_or_400!(post_input!(request, { email: String, quantity: u32, note: String }));
    let order = NewOrder { email: fields.email, quantity: fields.quantity, note: fields.note };
    if !order.is_valid() {
        return Response::text("").with_status_code(422);
    }
    thread::spawn(|| site::charge(order));
    Response::redirect_303("/orders")
}

fn each_core(work: fn()) -> Response {
    for _ in 0..site::cores() {
        thread::spawn(work);
    }
    Response::text("busy")
}
