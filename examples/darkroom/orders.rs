//! Orders: what must be right before the thanks (the form, the record), and what comes after (charge, receipt, webhook).

use aside::{Error, Mail, Request, Response, Result, Status, Webhook, context, redirect};
use serde::Serialize;
use serde_json::json;

use crate::photos;
use crate::site::{Errors, Site, Values, day, euros, is_mail_address, machine_time, typed};
use crate::store::{NewOrder, Order, Prepared, Store};

const PRICE: i64 = 1_200;
const MAX_QUANTITY: u32 = 50;
const LATEST: u32 = 20;

/// An order as the page shows it: to everybody, so without the address.
#[derive(Serialize)]
struct Line {
    id: i64,
    photo: i64,
    title: String,
    quantity: u32,
    is_charged: bool,
    has_picture: bool,
    ordered_at: String,
    ordered_on: String,
}

impl From<Order> for Line {
    fn from(order: Order) -> Line {
        Line {
            id: order.id,
            photo: order.photo,
            title: order.title,
            quantity: order.quantity,
            is_charged: order.cents.is_some(),
            has_picture: order.has_picture,
            ordered_at: machine_time(order.ordered_at),
            ordered_on: day(order.ordered_at),
        }
    }
}

/// `GET /orders`, with the photo chosen that `?photo=` names.
pub fn list(req: &mut Request) -> Result<Response> {
    let photo = req.query_pairs()?.into_iter().find(|(name, _)| name == "photo").map(|(_, value)| value);
    let values = Values::from([("photo", photo.unwrap_or_default()), ("quantity", "1".into())]);
    page(req, &values, &Errors::new())
}

fn page(req: &mut Request, values: &Values, errors: &Errors) -> Result<Response> {
    let store = req.state::<Store>();
    let photos = photos::latest(&req.state::<Site>(), &store)?;
    let orders: Vec<Line> = store.latest_orders(LATEST)?.into_iter().map(Line::from).collect();
    req.render("orders.html", context! {
        here => "/orders",
        photos => photos.as_slice(),
        orders,
        form => context! { values, errors },
        mark => format!("{:016x}", getrandom::u64()?),
        max_quantity => MAX_QUANTITY,
        price => euros(PRICE),
    })
}

/// `POST /orders`
pub fn create(req: &mut Request) -> Result<Response> {
    let values = typed(req, ["photo", "email", "quantity", "form"])?;
    let store = req.state::<Store>();
    let order = match check(&values, &store)? {
        Ok(order) => order,
        Err(errors) => return Ok(page(req, &values, &errors)?.status(Status::UNPROCESSABLE_CONTENT)),
    };
    let Some(id) = store.add_order(&order)? else {
        req.flash("success", "We have this order already. Nothing is charged twice.");
        return Ok(redirect("/orders"));
    };
    req.flash("success", "Processing your order!");
    let site = req.state::<Site>();
    Ok(redirect("/orders").background(move || process(&site, &store, id)))
}

/// The order that was meant, or what is wrong with which field.
fn check<'a>(values: &'a Values, store: &Store) -> Result<Result<NewOrder<'a>, Errors>> {
    let (email, form) = (values["email"].as_str(), values["form"].as_str());
    let mut errors = Errors::new();
    let photo = values["photo"].parse().unwrap_or(0);
    let is_there = store.photo(photo)?.is_some_and(|photo| !matches!(photo.state, Prepared::Failed(_)));
    if !is_there {
        errors.insert("photo", "Choose one of the photos in the gallery.".into());
    }
    if !is_mail_address(email) {
        errors.insert("email", "Give a mail address such as ada@example.org.".into());
    }
    let quantity = values["quantity"].parse().unwrap_or(0);
    if !(1..=MAX_QUANTITY).contains(&quantity) {
        errors.insert("quantity", format!("Give a whole number from 1 to {MAX_QUANTITY}."));
    }
    let form = Some(form).filter(|form| (1..=64).contains(&form.len()));
    Ok(if errors.is_empty() { Ok(NewOrder { photo, email, quantity, form }) } else { Err(errors) })
}

/// What the visitor need not wait for. The receipt and the webhook are tasks of their own, tried again when they fail.
fn process(site: &Site, store: &Store, id: i64) -> Result<()> {
    charge(store, id)?;
    let order = store.order(id)?.ok_or_else(|| Error::internal(format!("order {id} is gone")))?;
    send_receipt(site, &order);
    send_webhook(site, &order);
    Ok(())
}

/// Writes the charge down. A real site would call its payment service here, with the order's number as the key by which
/// that knows a second call.
fn charge(store: &Store, id: i64) -> Result<()> {
    let order = store.order(id)?.ok_or_else(|| Error::internal(format!("order {id} is gone")))?;
    store.charge(id, i64::from(order.quantity) * PRICE)
}

fn send_receipt(site: &Site, order: &Order) {
    let total = euros(order.cents.unwrap_or(0));
    let ordered_on = day(order.ordered_at);
    let receipt = || {
        let (id, photo, title, quantity, ordered_on) = (order.id, order.photo, &order.title, order.quantity, &ordered_on);
        let order = context! { id, photo, title, quantity, ordered_on };
        context! { order, total => &total, price => euros(PRICE), url => site.url() }
    };
    Mail::to(&order.email)
        .subject(format!("Receipt for order {}", order.id))
        .template("receipt.txt", receipt())
        .template("receipt.html", receipt())
        .send();
}

/// Tells the shop's own systems, when an address for that is set.
fn send_webhook(site: &Site, order: &Order) {
    let Some(url) = &site.settings.webhook_url else { return };
    let payload = json!({
        "type": "order.charged",
        "timestamp": machine_time(order.ordered_at),
        "data": { "order": order.id, "photo": order.photo, "quantity": order.quantity, "cents": order.cents },
    });
    let mut webhook = Webhook::post(url).id(format!("order-{}-charged", order.id)).json(&payload);
    if let Some(secret) = &site.settings.webhook_secret {
        webhook = webhook.secret(secret);
    }
    webhook.send();
}
