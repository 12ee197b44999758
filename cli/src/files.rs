//! The templates, embedded in the program.

use crate::feature::Feature;

/// The template of a file of a new site.
pub struct NewFile {
    /// The path in the site, with placeholders.
    pub path: &'static str,
    pub template: &'static str,
    /// The feature that the file belongs to.
    pub feature: Option<Feature>,
}

macro_rules! file {
    ($path:literal from $source:literal, $feature:expr) => {
        NewFile { path: $path, template: include_str!(concat!("../templates/new/", $source)), feature: $feature }
    };
    ($path:literal, $feature:ident) => {
        file!($path from $path, Some(Feature::$feature))
    };
    ($path:literal) => {
        file!($path from $path, None)
    };
}

pub const NEW: &[NewFile] = &[
    file!("Cargo.toml"),
    file!("build.rs"),
    file!("README.md"),
    file!("rustfmt.toml"),
    file!("Containerfile"),
    // Under other names in the repository of aside, where they would be in force.
    file!(".gitignore" from "gitignore", None),
    file!(".dockerignore" from "dockerignore", None),
    file!("deploy/Caddyfile"),
    file!("deploy/__name__.service" from "deploy/site.service", None),
    file!("deploy/__name__.socket" from "deploy/site.socket", None),
    file!("src/main.rs"),
    file!("src/db.rs"),
    file!("src/home.rs"),
    file!("src/messages.rs"),
    file!("src/test_site.rs"),
    file!("src/account.rs", Login),
    file!("src/jobs.rs", Jobs),
    file!("src/reports.rs", Jobs),
    file!("src/contact.rs", Mail),
    file!("src/photos.rs", Uploads),
    file!("src/chat.rs", Live),
    file!("static/app.css"),
    file!("static/favicon.svg"),
    file!("templates/layout.html"),
    file!("templates/fields.html"),
    file!("templates/home.html"),
    file!("templates/messages.html"),
    file!("templates/account.html", Login),
    file!("templates/login.html", Login),
    file!("templates/signup.html", Login),
    file!("templates/reports.html", Jobs),
    file!("templates/contact.html", Mail),
    file!("templates/mail/contact.txt", Mail),
    file!("templates/photos.html", Uploads),
    file!("templates/chat.html", Live),
    file!("templates/chat_lines.html", Live),
];

/// The job store of a site, also for `aside generate job` in a site without one.
pub const JOBS: &str = include_str!("../templates/new/src/jobs.rs");

/// The macros that the template of a form imports.
pub const FIELDS: &str = include_str!("../templates/new/templates/fields.html");
