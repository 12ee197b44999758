//! A payment's webhook, verified and processed once: `cargo run --bin payment_webhook`, with the
//! secret of the payment service in the variable PAYMENT_SECRET
use std::path::Path;

use aside::jobs::rusqlite::OptionalExtension;
use aside::sqlite::Db;
use aside::{App, Config, Error, Jobs, Mail, Request, Result, webhook};
use serde::{Deserialize, Serialize};

const TABLES: &str = "CREATE TABLE webhooks (id TEXT PRIMARY KEY) STRICT;
    CREATE TABLE orders (id INTEGER PRIMARY KEY, email TEXT, cents INTEGER, paid_at INTEGER) STRICT;
    INSERT INTO orders (email, cents) VALUES ('ada@example.org', 500);";

struct Secret(String);

#[derive(Serialize, Deserialize)]
struct Paid {
    order: i64,
    cents: i64,
}

fn main() -> Result<()> {
    let missing = |_| Error::internal("set PAYMENT_SECRET to the secret of the payment service");
    let secret = std::env::var("PAYMENT_SECRET").map_err(missing)?;
    app(
        Config::from_env()?,
        Path::new("data/payment_webhook.db"),
        secret,
    )?
    .main()
}

fn app(config: Config, db: &Path, secret: String) -> Result<App> {
    let app = App::with_config(config).state(Db::open(db, &[TABLES])?);
    let app = app.jobs(Jobs::sqlite(db)?).state(Secret(secret));
    Ok(app.post("/payments", receive))
}

fn receive(req: &mut Request) -> Result<&'static str> {
    let secret = req.state::<Secret>();
    let body = webhook::verify(req, &[&secret.0])?; // 401 if another one signed it
    let invalid = |error: serde_json::Error| Error::bad_request(error.to_string());
    let Paid { order, cents } = serde_json::from_slice(&body).map_err(invalid)?;
    let id = req.header("webhook-id");
    req.state::<Db>().transaction(|db| {
        if db.execute("INSERT OR IGNORE INTO webhooks VALUES (?)", [id])? == 0 {
            return Ok("received before");
        }
        let sql = "UPDATE orders SET paid_at = unixepoch()
            WHERE id = ? AND cents = ? AND paid_at IS NULL RETURNING email";
        let paid = db.query_row(sql, [order, cents], |row| row.get::<_, String>(0));
        let unknown = || Error::unprocessable("No open order has this number and amount.");
        let email = paid.optional()?.ok_or_else(unknown)?;
        // The order, the receipt and the webhook's id are stored together, or none of them.
        req.enqueue_in(db, Mail::to(email).subject("Your receipt").text("Paid."))?;
        Ok("thank you")
    })
}

#[cfg(test)]
#[test]
fn a_payment_counts_once() {
    let data = tempfile::tempdir().unwrap();
    let db = data.path().join("shop.db");
    let app = app(Config::default(), &db, "secret".into()).unwrap();
    let mut client = aside::testing::TestClient::new(app);
    let paid = |cents| Paid { order: 1, cents };
    for (id, secret, cents, code) in [
        ("a", "wrong", 500, 401),
        ("a", "secret", 5, 422),
        ("a", "secret", 500, 200),
        ("a", "secret", 500, 200),
        ("b", "secret", 500, 422),
    ] {
        let webhook = client.post("/payments").webhook(secret, id, &paid(cents));
        assert_eq!(webhook.send().status_code(), code);
    }
    client.drain();
    assert_eq!(client.outbox().len(), 1);
}
