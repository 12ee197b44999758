//! A photo site: upload a picture, look at it large, have it printed.
//!
//! ```text
//! cargo run --example darkroom        # http://127.0.0.1:8000
//! ```
//!
//! No page waits for what its visitor need not wait for. Sizes are made and the cache is warmed after the redirect, and the
//! photo's page shows how far they are; an order is charged, receipted by mail and announced by webhook after the thanks; the
//! feed asks its sources while its page is already there, and shows each answer as it comes.
//!
//! What somebody was promised is a **job**, kept in the site's own database in one transaction with what it belongs to: the
//! sizes of a photo, the charge of an order with its receipt and its webhook, the mail to the owner, the files of a photo
//! that was taken down. Kill the process with `kill -9` in the middle, start it again, and it goes on. What is worth nothing
//! after a restart is set aside with `background`: the warm-up of the cache, the questions to the feed's sources.
//!
//! What it keeps lies under `data/`: the database with the jobs, the photos, the sessions that were ended, and the mail as
//! files unless `ASIDE_MAIL_URL` names a server.
//!
//! The site has one owner: **whoever signs up first**, at `/signup`, which is closed from then on. So sign up before you
//! tell anybody the address. The owner sees the orders with their addresses, and takes photos down.
//!
//! | Setting | |
//! |---|---|
//! | `DARKROOM_DATA` | the folder for all of that; `data` beside `Cargo.toml` |
//! | `DARKROOM_FEEDS` | the sources of the feed, RSS or Atom: URLs or `name=URL` pairs (`_` for a space in a name), with commas or spaces between them; four public ones |
//! | `DARKROOM_OWNER` | who gets what visitors write; `owner@localhost` |
//! | `DARKROOM_WEBHOOK_URL` | who is told of a charged order; nobody unless set |
//! | `DARKROOM_WEBHOOK_SECRET` | the key that this is signed with (`whsec_…`) |

mod account;
#[cfg(test)]
mod browser;
mod contact;
#[cfg(test)]
#[allow(dead_code)] // There is more to it than these tests use.
#[path = "../../tests/support/browser.rs"]
mod driver;
mod errors;
mod feed;
mod orders;
mod photos;
#[cfg(all(test, unix))]
mod processes;
mod site;
mod sizes;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;

use aside::routing::{get, post};
use aside::{App, Jobs, Rate, Result};

use feed::{Feed, Sources};
use orders::Charge;
use site::{Settings, Site};
use sizes::{Hang, MakeSizes, RemoveFiles};
use store::Store;

fn main() -> Result<()> {
    app_with(Settings::from_env()?, Sources::from_env()?)?.run()
}

/// The site without sources for its feed, for tests that are about something else.
#[cfg(test)]
fn app(settings: Settings) -> Result<App> {
    app_with(settings, Sources::parse("")?)
}

/// The whole site, for `main` and for the tests. The process of an isolated job comes through here too.
fn app_with(settings: Settings, sources: Sources) -> Result<App> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = settings.config.clone();
    let site = Site::new(settings)?;
    // First: these create the file, which contains addresses and the owner's password, so that only the site's user can
    // read it.
    let jobs = jobs(&site)?;
    let store = Store::open(&site.database())?;
    let app = App::with_config(config)
        .jobs(jobs)
        .templates(here.join("templates/darkroom"))
        .static_files("/static", here.join("examples/darkroom/static"))
        .state(site)
        .state(store)
        .state(Feed::new(sources))
        .route("/", get(photos::gallery).name("gallery"))
        .route("/photos", post(photos::upload).name("upload"))
        .route("/photos/{id}", get(photos::show).name("photo"))
        .route("/photos/{id}/live", get(photos::follow).name("photo_live"))
        .route("/photos/{id}/{size}.jpg", get(photos::picture).name("picture"))
        .route("/orders", get(orders::list).name("orders"))
        .post("/orders", orders::create)
        .route("/feed", get(feed::show).name("feed"))
        .route("/feed/live", get(feed::follow).name("feed_live"))
        .route("/contact", get(contact::form).name("contact"))
        .route("/contact", post(contact::send).rate_limit(Rate::per_hour(10)))
        .route("/signup", get(account::signup_form).name("signup"))
        .route("/signup", post(account::sign_up).rate_limit(Rate::per_minute(10)))
        .route("/login", get(account::login_form).name("login"))
        .route("/login", post(account::log_in).rate_limit(Rate::per_minute(10)))
        .route("/logout", post(account::log_out).name("logout"))
        .mount("/account", account::app())
        .healthz()
        .readyz();
    Ok(errors::STATUSES.iter().fold(app, |app, &status| app.error_page(status, errors::page)))
}

/// In the site's own file: a job is there if and only if what it belongs to is.
fn jobs(site: &Site) -> Result<Jobs> {
    let jobs = Jobs::sqlite(site.database())?;
    let jobs = jobs.register::<MakeSizes>().register::<Hang>().register::<RemoveFiles>().register::<Charge>();
    Ok(jobs.queue(sizes::QUEUE.0, sizes::QUEUE.1))
}
