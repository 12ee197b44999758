//! Orders: the work before the response (the form, the record), and after it (charge, receipt, webhook).

use aside::jobs::rusqlite::Transaction;
use aside::{Error, Form, Job, Jobs, Mail, Request, Response, Result, TaskContext, Webhook, context, mail, redirect};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::photos::{self, Card};
use crate::site::{NO_ADDRESS, Site, day, euros, machine_time};
use crate::sizes::Lab;
use crate::store::{self, Order, Photo, Store};

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
    /// The customer's address, for the owner only.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

impl Line {
    /// Returns the order with the customer's address.
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

/// An order as the form sends it.
#[derive(Deserialize)]
pub struct OrderForm {
    photo: i64,
    email: String,
    /// A wide type, so that `-1` and `1000000` get the message of the rule below.
    quantity: i64,
}

/// The query of the page: `?photo=17`.
#[derive(Deserialize)]
struct Chosen {
    photo: Option<String>,
}

/// `GET /orders`, with the photo of `?photo=` selected.
pub fn list(req: &mut Request) -> Result<Response> {
    let Chosen { photo } = req.query()?;
    page(req, &Form::empty().with("quantity", 1).with("photo", photo.unwrap_or_default()))
}

fn page(req: &mut Request, form: &Form<OrderForm>) -> Result<Response> {
    let store = req.state::<Store>();
    let mut photos = photos::latest(&Lab::of(req)?)?.to_vec();
    // The selected photo may be older than the latest ones.
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
    // However often an impatient visitor submits it: one order, one charge, one receipt.
    req.once(|req| place(req, &store, &order))
}

fn check(form: &mut Form<OrderForm>, store: &Store) -> Result<()> {
    let can_be_printed =
        |order: &OrderForm| aside::ok(store.photo(order.photo)?.is_some_and(|photo| photo.can_be_printed()));
    form.require(&["photo", "email", "quantity"])
        .try_check("photo", can_be_printed, "Choose one of the photos in the gallery.")?
        .check("email", |order| mail::is_address(order.email.trim()), NO_ADDRESS)
        .check(
            "quantity",
            |order| (1..=MAX_QUANTITY).contains(&order.quantity),
            format!("Give a whole number from 1 to {MAX_QUANTITY}."),
        );
    Ok(())
}

/// Stores the order and the job that charges it in one transaction. Once the visitor is thanked, both exist, even if this
/// process dies; and an order that could not be stored is not charged.
fn place(req: &mut Request, store: &Store, order: &OrderForm) -> Result<Response> {
    let (jobs, site) = (req.jobs()?, req.state::<Site>());
    let link = site.url() + &req.url_for("photo", &[("id", &order.photo)])?;
    store.write(|db| {
        let photo = store::photo(db, order.photo)?;
        let photo = photo.ok_or_else(|| Error::conflict("This photo was taken down a moment ago."))?;
        let order = store::add_order(db, &photo, order.email.trim(), order.quantity)?;
        jobs.enqueue_in(db, Charge { order, link })
    })?;
    req.flash("success", "Processing your order!");
    Ok(redirect(&req.url_for("orders", &[])?))
}

/// A job that charges an order, and enqueues the receipt and the webhook: separate jobs, which are retried on failure.
#[derive(Serialize, Deserialize)]
pub struct Charge {
    pub order: i64,
    /// The URL of the photo's page, for the receipt.
    pub link: String,
}

impl Job for Charge {
    const NAME: &'static str = "charge";

    fn label(&self) -> String {
        format!("charge order {}", self.order)
    }

    /// Runs one transaction: the charge, the jobs for receipt and webhook, and the completion of this job. Each happens
    /// exactly once, whenever the process is killed.
    ///
    /// A real site would call its payment service first, with the order's number as the idempotency key, and store its
    /// response here.
    fn run(self, task: &TaskContext) -> Result<()> {
        let (site, jobs) = (task.state::<Site>(), task.jobs()?);
        task.transaction(|db| self.charge(db, &site, &jobs))
    }
}

impl Charge {
    fn charge(&self, db: &Transaction<'_>, site: &Site, jobs: &Jobs) -> Result<()> {
        let find = || store::order(db, self.order)?.ok_or_else(|| self.is_gone());
        if !store::charge(db, self.order, find()?.quantity * PRICE)? {
            return Ok(()); // charged by another job for the same order, which has sent receipt and webhook too
        }
        let order = find()?;
        jobs.enqueue_in(db, receipt(&order, &self.link))?;
        if let Some(webhook) = webhook(site, &order) {
            jobs.enqueue_in(db, webhook)?;
        }
        Ok(())
    }

    fn is_gone(&self) -> Error {
        Error::internal(format!("order {} is gone", self.order))
    }
}

fn receipt(order: &Order, link: &str) -> Mail {
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
}

/// Returns the webhook to the shop's own systems, if its URL is set. They may receive it twice, and detect the duplicate by
/// its id.
fn webhook(site: &Site, order: &Order) -> Option<Webhook> {
    let url = site.settings.webhook_url.as_ref()?;
    let payload = json!({
        "type": "order.charged",
        "timestamp": Timestamp::now().to_string(),
        "data": { "order": order.id, "photo": order.photo, "quantity": order.quantity, "cents": order.cents },
    });
    let webhook = Webhook::post(url).id(format!("order-{}-charged", order.id)).json(&payload);
    Some(match &site.settings.webhook_secret {
        Some(secret) => webhook.secret(secret),
        None => webhook,
    })
}
