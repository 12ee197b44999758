//! Orders: what must be right before the thanks (the form, the record), and what comes after (charge, receipt, webhook).

use std::sync::Arc;

use aside::{Error, Form, Mail, Request, Response, Result, Webhook, context, redirect};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::photos::{self, Card};
use crate::site::{NO_ADDRESS, Site, day, euros, is_mail_address, machine_time};
use crate::store::{Order, Photo, Store};

const PRICE: i64 = 1_200;
const MAX_QUANTITY: i64 = 50;
const LATEST: u32 = 20;

/// An order as a page shows it.
#[derive(Serialize)]
pub struct Line {
    id: i64,
    photo: Option<i64>,
    title: String,
    quantity: i64,
    is_charged: bool,
    has_picture: bool,
    ordered_at: String,
    ordered_on: String,
    /// For the owner alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

impl Line {
    /// The order with the address of who gave it.
    pub fn for_the_owner(order: Order) -> Line {
        let email = Some(order.email.clone());
        Line { email, ..Line::from(order) }
    }
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
            email: None,
        }
    }
}

/// An order as the form has it.
#[derive(Deserialize)]
pub struct OrderForm {
    photo: i64,
    email: String,
    /// Wider than it needs to be, so that `-1` and `1000000` get the words of our own rule.
    quantity: i64,
}

/// What stands behind the address of the page: `?photo=17`.
#[derive(Deserialize)]
struct Chosen {
    photo: Option<String>,
}

/// `GET /orders`, with the photo chosen that `?photo=` names.
pub fn list(req: &mut Request) -> Result<Response> {
    let Chosen { photo } = req.query()?;
    page(req, &Form::empty().with("quantity", 1).with("photo", photo.unwrap_or_default()))
}

fn page(req: &mut Request, form: &Form<OrderForm>) -> Result<Response> {
    let store = req.state::<Store>();
    let mut photos = photos::latest(&req.state::<Site>(), &store)?.to_vec();
    // The one that was chosen may be older than the latest.
    let chosen = store.photo(form.typed_in("photo").trim().parse().unwrap_or(0))?.filter(Photo::can_be_printed);
    photos.extend(chosen.filter(|chosen| photos.iter().all(|photo| photo.id != chosen.id)).map(Card::from));
    let orders: Vec<Line> = store.latest_orders(LATEST)?.into_iter().map(Line::from).collect();
    let (max_quantity, price) = (MAX_QUANTITY, euros(PRICE));
    let page = req.render("orders.html", context! { here => "orders", photos, orders, form, max_quantity, price })?;
    Ok(page.status(form.status()))
}

/// `POST /orders`
pub fn create(req: &mut Request) -> Result<Response> {
    let store = req.state::<Store>();
    let mut form: Form<OrderForm> = req.submitted()?;
    check(&mut form, &store)?;
    let order = match form.valid() {
        Ok(order) => order,
        Err(form) => return page(req, &form),
    };
    // However often an impatient visitor sends it: one order, one charge, one receipt.
    req.once(|req| place(req, &store, &order))
}

fn check(form: &mut Form<OrderForm>, store: &Store) -> Result<()> {
    let can_be_printed =
        |order: &OrderForm| aside::ok(store.photo(order.photo)?.is_some_and(|photo| photo.can_be_printed()));
    form.require(&["photo", "email", "quantity"])
        .try_check("photo", can_be_printed, "Choose one of the photos in the gallery.")?
        .check("email", |order| is_mail_address(order.email.trim()), NO_ADDRESS)
        .check(
            "quantity",
            |order| (1..=MAX_QUANTITY).contains(&order.quantity),
            format!("Give a whole number from 1 to {MAX_QUANTITY}."),
        );
    Ok(())
}

fn place(req: &mut Request, store: &Arc<Store>, order: &OrderForm) -> Result<Response> {
    let photo = store.photo(order.photo)?.ok_or_else(|| Error::conflict("This photo was taken down a moment ago."))?;
    let id = store.add_order(&photo, order.email.trim(), order.quantity)?;
    req.flash("success", "Processing your order!");
    let (site, store) = (req.state::<Site>(), store.clone());
    let link = site.url() + &req.url_for("photo", &[("id", &photo.id)])?;
    Ok(redirect(&req.url_for("orders", &[])?).background(move || process(&site, &store, id, &link)))
}

/// What the visitor need not wait for. The receipt and the webhook are tasks of their own, tried again when they fail.
fn process(site: &Site, store: &Store, id: i64, link: &str) -> Result<()> {
    charge(store, id)?;
    let order = store.order(id)?.ok_or_else(|| Error::internal(format!("order {id} is gone")))?;
    send_receipt(&order, link);
    send_webhook(site, &order);
    Ok(())
}

/// Writes the charge down. A real site would call its payment service here, with the order's number as the key by which
/// that knows a second call.
fn charge(store: &Store, id: i64) -> Result<()> {
    let order = store.order(id)?.ok_or_else(|| Error::internal(format!("order {id} is gone")))?;
    store.charge(id, order.quantity * PRICE)
}

fn send_receipt(order: &Order, link: &str) {
    let total = euros(order.cents.unwrap_or(0));
    let ordered_on = day(order.ordered_at);
    let receipt = || {
        let (id, title, quantity, ordered_on) = (order.id, &order.title, order.quantity, &ordered_on);
        let order = context! { id, title, quantity, ordered_on };
        context! { order, total => &total, price => euros(PRICE), link }
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
        "timestamp": Timestamp::now().to_string(),
        "data": { "order": order.id, "photo": order.photo, "quantity": order.quantity, "cents": order.cents },
    });
    let mut webhook = Webhook::post(url).id(format!("order-{}-charged", order.id)).json(&payload);
    if let Some(secret) = &site.settings.webhook_secret {
        webhook = webhook.secret(secret);
    }
    webhook.send();
}
