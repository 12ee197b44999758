//! The tests of all recipes in one program, which is linked once: `cargo test --lib`
#![cfg(test)]
#![allow(dead_code)] // No test calls `main`.

mod index;

#[path = "bin/admin_area.rs"]
mod admin_area;
#[cfg(feature = "reqwest")]
#[path = "bin/async_client.rs"]
mod async_client;
#[path = "bin/contact_form.rs"]
mod contact_form;
#[path = "bin/csv_import.rs"]
mod csv_import;
#[cfg(feature = "diesel")]
#[path = "bin/diesel_postgres.rs"]
mod diesel_postgres;
#[path = "bin/digest_mail.rs"]
mod digest_mail;
#[path = "bin/htmx_list.rs"]
mod htmx_list;
#[path = "bin/image_gallery.rs"]
mod image_gallery;
#[path = "bin/json_api.rs"]
mod json_api;
#[path = "bin/languages.rs"]
mod languages;
#[path = "bin/live_chat.rs"]
mod live_chat;
#[path = "bin/live_dashboard.rs"]
mod live_dashboard;
#[path = "bin/login_link.rs"]
mod login_link;
#[path = "bin/maud_pages.rs"]
mod maud_pages;
#[path = "bin/newsletter.rs"]
mod newsletter;
#[path = "bin/password_reset.rs"]
mod password_reset;
#[path = "bin/payment_webhook.rs"]
mod payment_webhook;
#[path = "bin/report_download.rs"]
mod report_download;
#[path = "bin/run_script.rs"]
mod run_script;
#[path = "bin/s3_upload.rs"]
mod s3_upload;
#[path = "bin/search_pages.rs"]
mod search_pages;
