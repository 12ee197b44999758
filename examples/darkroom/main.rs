//! A photo site: upload a picture, look at it large, have it printed.
//!
//! ```text
//! cargo run --example darkroom        # http://127.0.0.1:8000
//! ```
//!
//! Pages do not wait for slow work. After the redirect of an upload, the site makes the sizes of the photo and warms the
//! cache, and the photo's page shows the progress. After the thanks for an order, it charges the order, mails the receipt and
//! sends the webhook. The page of the feed is sent at once, and shows the posts of each source as they arrive.
//!
//! Work that the site has promised is a **job**, stored in the site's own database in one transaction with its record: the
//! sizes of a photo, the charge of an order with its receipt and its webhook, the mail to the owner, the removal of a
//! photo's files. Kill the process with `kill -9` in the middle and start it again: the job continues. Work without value
//! after a restart runs in the `background`: warming the cache, and requests to the sources of the feed.
//!
//! The templates and static files are in the program of a release: copy that one file to another machine and start it.
//!
//! All data is under `data/`: the database with the jobs, the photos, the ended sessions, and the mail as files unless
//! `ASIDE_MAIL_URL` names a server.
//!
//! The site has one owner: **the first user to sign up**, at `/signup`, which is closed afterward. Sign up before you
//! publish the address. The owner sees the orders with their addresses, and can take photos down.
//!
//! | Setting | |
//! |---|---|
//! | `DARKROOM_DATA` | the folder for all data; `data` in the working directory |
//! | `DARKROOM_FEEDS` | the sources of the feed, RSS or Atom: URLs or `name=URL` pairs (`_` for a space in a name), with commas or spaces between them; four public ones |
//! | `DARKROOM_OWNER` | the address that receives messages of visitors; `owner@localhost` |
//! | `DARKROOM_WEBHOOK_URL` | the receiver of a webhook for each charged order; none by default |
//! | `DARKROOM_WEBHOOK_SECRET` | the key that the webhook is signed with (`whsec_…`) |

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

use aside::routing::Rate;
use aside::routing::{get, post};
use aside::{App, Config, Jobs, Result, embed};

use feed::{Feed, Sources};
use orders::Charge;
use site::{Settings, Site};
use sizes::{Hang, MakeSizes, RemoveFiles};
use store::Store;

fn main() -> Result<()> {
    App::main_with(app_from_env)
}

fn app_from_env(config: Config) -> Result<App> {
    app_with(Settings::from_env(config), Sources::from_env()?)
}

/// Returns the site without sources for its feed, for tests of other parts.
#[cfg(test)]
fn app(settings: Settings) -> Result<App> {
    app_with(settings, Sources::parse("")?)
}

/// Returns the whole site, for `main` and for the tests. The process of an isolated job runs this too.
fn app_with(settings: Settings, sources: Sources) -> Result<App> {
    let config = settings.config.clone();
    let site = Site::new(settings)?;
    // First, because this creates the file so that only the user of the process can read it: it contains addresses and the
    // owner's password hash.
    let jobs = jobs(&site)?;
    let store = Store::open(&site.database())?;
    let app = App::with_config(config)
        .jobs(jobs)
        .templates(embed!("templates/darkroom"))
        .static_files("/static", embed!("examples/darkroom/static"))
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

/// Returns the jobs in the site's own database: a job is stored if and only if its record is.
fn jobs(site: &Site) -> Result<Jobs> {
    let jobs = Jobs::sqlite(site.database())?;
    let jobs = jobs.register::<MakeSizes>().register::<Hang>().register::<RemoveFiles>().register::<Charge>();
    Ok(jobs.queue(sizes::QUEUE.0, sizes::QUEUE.1))
}
