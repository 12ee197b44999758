//! A photo site: upload a picture, look at it large, have it printed.
//!
//! ```text
//! cargo run --example darkroom        # http://127.0.0.1:8000
//! ```
//!
//! No page waits for what its visitor need not wait for. Sizes are made and the cache is warmed after the redirect; an
//! order is charged, receipted by mail and announced by webhook after the thanks. What it keeps lies under `data/`: the
//! database, the photos, and the mail as files unless `ASIDE_MAIL_URL` names a server.
//!
//! | Setting | |
//! |---|---|
//! | `DARKROOM_DATA` | the folder for all of that; `data` beside `Cargo.toml` |
//! | `DARKROOM_OWNER` | who gets what visitors write; `owner@localhost` |
//! | `DARKROOM_WEBHOOK_URL` | who is told of a charged order; nobody unless set |
//! | `DARKROOM_WEBHOOK_SECRET` | the key that this is signed with (`whsec_…`) |

#[cfg(test)]
mod browser;
mod contact;
mod orders;
mod photos;
mod site;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;

use aside::{App, Result};

use site::{Settings, Site};
use store::Store;

fn main() -> Result<()> {
    app(Settings::from_env()?)?.run()
}

/// The whole site, for `main` and for the tests.
fn app(settings: Settings) -> Result<App> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = settings.config.clone();
    let site = Site::new(settings)?;
    let store = Store::open(&site.database())?;
    Ok(App::with_config(config)
        .templates(here.join("templates/darkroom"))
        .static_files("/static", here.join("examples/darkroom/static"))
        .state(site)
        .state(store)
        .get("/", photos::gallery)
        .post("/photos", photos::upload)
        .get("/photos/{id}", photos::show)
        .get("/photos/{id}/{size}.jpg", photos::picture)
        .get("/orders", orders::list)
        .post("/orders", orders::create)
        .get("/contact", contact::form)
        .post("/contact", contact::send)
        .get("/healthz", |_: &mut aside::Request| "OK"))
}
