//! The tests of all recipes in one program, which is linked once: `cargo test --lib`
#![cfg(test)]
#![allow(dead_code)] // No test calls `main`.

mod index;

#[path = "bin/contact_form.rs"]
mod contact_form;
#[path = "bin/login_link.rs"]
mod login_link;
#[path = "bin/newsletter.rs"]
mod newsletter;
#[path = "bin/password_reset.rs"]
mod password_reset;
#[path = "bin/search_pages.rs"]
mod search_pages;
