//! The settings, the shared state, and helpers for all pages.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use aside::routing::{Rate, RateLimit};
use aside::{Cache, Config, Result};
use jiff::{Timestamp, tz::TimeZone};

use crate::photos::Card;

/// The site's own settings, beside the framework's.
pub struct Settings {
    pub config: Config,
    pub data: PathBuf,
    pub owner: String,
    pub webhook_url: Option<String>,
    pub webhook_secret: Option<String>,
}

impl Settings {
    /// Adds the site's own settings, from the environment, to the framework's.
    pub fn from_env(mut config: Config) -> Settings {
        let set = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        let data = set("DARKROOM_DATA").map_or_else(|| PathBuf::from("data"), PathBuf::from);
        if config.is_development() && config.mail_url.is_none() {
            config.mail_url = Some(format!("file:{}", data.join("mail").display()));
        }
        // In the data folder, so that a logout is still valid after a restart.
        config.store.get_or_insert_with(|| format!("sqlite:{}", data.join("aside.db").display()));
        Settings {
            config,
            data,
            owner: set("DARKROOM_OWNER").unwrap_or_else(|| "owner@localhost".into()),
            webhook_url: set("DARKROOM_WEBHOOK_URL"),
            webhook_secret: set("DARKROOM_WEBHOOK_SECRET"),
        }
    }
}

/// The state that handlers and tasks share.
pub struct Site {
    pub settings: Settings,
    /// The gallery, ready for its template.
    pub gallery: Cache<Arc<Vec<Card>>>,
    /// The rate limit of login attempts per account, for all clients together.
    pub tries: RateLimit,
}

impl Site {
    /// Creates the folders.
    pub fn new(settings: Settings) -> Result<Site> {
        let site = Site { settings, gallery: Cache::new(10), tries: RateLimit::new(Rate::per_hour(20)) };
        std::fs::create_dir_all(site.originals())?;
        Ok(site)
    }

    pub fn database(&self) -> PathBuf {
        self.settings.data.join("darkroom.db")
    }

    pub fn photos(&self) -> PathBuf {
        self.settings.data.join("photos")
    }

    pub fn originals(&self) -> PathBuf {
        self.photos().join("originals")
    }

    /// Returns the URL of the site, for links in mail.
    pub fn url(&self) -> String {
        let config = &self.settings.config;
        let url = config.url.clone().unwrap_or_else(|| format!("http://{}", config.address));
        url.trim_end_matches('/').to_owned()
    }
}

/// The message for visitors about a fault that is logged.
pub const OUR_FAULT: &str = "Something went wrong on our side, and is in our log.";

/// The message for an invalid mail address.
pub const NO_ADDRESS: &str = "Give a mail address such as ada@example.org.";

/// Formats a time for a machine: `2026-11-20T09:41:00Z`.
pub fn machine_time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Formats a time for a person: `20 November 2026`.
pub fn day(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_zoned(TimeZone::system()).strftime("%-d %B %Y").to_string()
}

/// Formats a number of bytes for a person: `32 MB` or `500 kB`.
pub fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{} kB", bytes >> 10) } else { format!("{} MB", bytes >> 20) }
}

/// Formats an amount of money for a person: `€24.00`.
pub fn euros(cents: i64) -> String {
    format!("€{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_amounts_are_for_people() {
        assert_eq!(machine_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(euros(1_205), "€12.05");
        assert_eq!((size(32 << 20), size(5_000)), ("32 MB".into(), "4 kB".into()));
    }
}
