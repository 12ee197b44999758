//! Orders: what must be right before the thanks (the form, the record), and what comes after (charge, receipt, webhook).

use aside::{Error, Form, Mail, Request, Response, Result, Status, Webhook, context, redirect};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::photos::{self, Card};
use crate::site::{Site, day, euros, is_mail_address, machine_time};
use crate::store::{Order, Photo, Store};

const PRICE: i64 = 1_200;
const MAX_QUANTITY: i64 = 50;
const LATEST: u32 = 20;

/// An order as the page shows it: to everybody, so without the address.
#[derive(Serialize)]
struct Line {
    id: i64,
    photo: i64,
    title: String,
    quantity: i64,
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

/// An order as the form has it.
#[derive(Deserialize)]
pub struct OrderForm {
    photo: i64,
    email: String,
    /// Wider than it needs to be, so that `-1` and `1000000` get the words of our own rule.
    quantity: i64,
    /// The mark of the form that it came from, by which a second submit of the same form is known.
    mark: Option<String>,
}

/// `GET /orders`, with the photo chosen that `?photo=` names.
pub fn list(req: &mut Request) -> Result<Response> {
    let chosen = req.query_pairs()?.into_iter().find(|(name, _)| name == "photo");
    let form = Form::empty().with("quantity", 1);
    page(req, &chosen.into_iter().fold(form, |form, (_, photo)| form.with("photo", photo)))
}

fn page(req: &mut Request, form: &Form<OrderForm>) -> Result<Response> {
    let store = req.state::<Store>();
    let mut photos = photos::latest(&req.state::<Site>(), &store)?.to_vec();
    // The one that was chosen may be older than the latest.
    let chosen = store.photo(chosen(form))?.filter(Photo::can_be_printed);
    photos.extend(chosen.filter(|chosen| photos.iter().all(|photo| photo.id != chosen.id)).map(Card::from));
    let orders: Vec<Line> = store.latest_orders(LATEST)?.into_iter().map(Line::from).collect();
    req.render(
        "orders.html",
        context! {
            here => "/orders",
            photos,
            orders,
            form,
            mark => format!("{:016x}", getrandom::u64()?),
            max_quantity => MAX_QUANTITY,
            price => euros(PRICE),
        },
    )
}

fn chosen(form: &Form<OrderForm>) -> i64 {
    form.typed_in("photo").trim().parse().unwrap_or(0)
}

/// `POST /orders`
pub fn create(req: &mut Request) -> Result<Response> {
    let store = req.state::<Store>();
    let mut form: Form<OrderForm> = req.submitted()?;
    let photo = store.photo(chosen(&form))?;
    check(&mut form, photo.as_ref());
    let order = match form.valid() {
        Ok(order) => order,
        Err(form) => return Ok(page(req, &form)?.status(Status::UNPROCESSABLE_CONTENT)),
    };
    let mark = order.mark.filter(|mark| (1..=64).contains(&mark.len()));
    let Some(id) = store.add_order(order.photo, order.email.trim(), order.quantity, mark.as_deref())? else {
        req.flash("success", "We have this order already. Nothing is charged twice.");
        return Ok(redirect("/orders"));
    };
    req.flash("success", "Processing your order!");
    let site = req.state::<Site>();
    Ok(redirect("/orders").background(move || process(&site, &store, id)))
}

fn check(form: &mut Form<OrderForm>, photo: Option<&Photo>) {
    let can_be_printed = photo.is_some_and(Photo::can_be_printed);
    form.require(&["photo", "email", "quantity"])
        .check("photo", |_| can_be_printed, "Choose one of the photos in the gallery.")
        .check("email", |order| is_mail_address(order.email.trim()), "Give a mail address such as ada@example.org.")
        .check(
            "quantity",
            |order| (1..=MAX_QUANTITY).contains(&order.quantity),
            format!("Give a whole number from 1 to {MAX_QUANTITY}."),
        );
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
    store.charge(id, order.quantity * PRICE)
}

fn send_receipt(site: &Site, order: &Order) {
    let total = euros(order.cents.unwrap_or(0));
    let ordered_on = day(order.ordered_at);
    let receipt = || {
        let (id, photo, title, quantity, ordered_on) =
            (order.id, order.photo, &order.title, order.quantity, &ordered_on);
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
        "timestamp": Timestamp::now().to_string(),
        "data": { "order": order.id, "photo": order.photo, "quantity": order.quantity, "cents": order.cents },
    });
    let mut webhook = Webhook::post(url).id(format!("order-{}-charged", order.id)).json(&payload);
    if let Some(secret) = &site.settings.webhook_secret {
        webhook = webhook.secret(secret);
    }
    webhook.send();
}
