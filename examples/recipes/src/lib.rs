//! The tests of all recipes in one program, which is linked once: `cargo test --lib`
#![cfg(test)]
#![allow(dead_code)] // No test calls `main`.

mod index;

#[path = "bin/admin_area.rs"]
mod admin_area;
#[path = "bin/contact_form.rs"]
mod contact_form;
#[path = "bin/csv_import.rs"]
mod csv_import;
#[path = "bin/digest_mail.rs"]
mod digest_mail;
#[path = "bin/image_gallery.rs"]
mod image_gallery;
#[path = "bin/login_link.rs"]
mod login_link;
#[path = "bin/newsletter.rs"]
mod newsletter;
#[path = "bin/password_reset.rs"]
mod password_reset;
#[path = "bin/payment_webhook.rs"]
mod payment_webhook;
#[path = "bin/report_download.rs"]
mod report_download;
#[path = "bin/search_pages.rs"]
mod search_pages;
