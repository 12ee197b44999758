#![cfg_attr(not(doctest), doc = include_str!("links.md"))]
#![doc = include_str!("../../docs/guide/README.md")]

// Only rustdoc compiles this module. Its pages are files of `docs`, whose examples are documentation tests.
//
// In a file, the labels of links lead to other files, which rustdoc does not have. `links.md` defines the same labels as
// modules. It precedes the text of each page, since the first definition of a label counts. Documentation tests are named
// after the file of the first text, so they do without it.

/// Defines the module of a page. Its examples are tested if the features that they use are on.
macro_rules! page {
    ($module:ident, $file:literal $(, $feature:literal)*) => {
        #[cfg_attr(not(doctest), doc = include_str!("links.md"))]
        #[cfg_attr(any(not(doctest), all($(feature = $feature),*)), doc = include_str!(concat!("../../docs/", $file)))]
        pub mod $module {}
    };
}

page!(first_site, "guide/01-first-site.md", "mail", "image");
page!(routing, "guide/02-routing.md");
page!(forms, "guide/03-forms.md", "templates", "mail", "image");
page!(sessions, "guide/04-sessions.md", "mail");
page!(templates, "guide/05-templates.md", "templates");
page!(background, "guide/06-background.md", "live");
page!(jobs, "guide/07-jobs.md", "sqlite", "live");
page!(live_pages, "guide/08-live-pages.md", "live");
page!(mail_and_webhooks, "guide/09-mail-and-webhooks.md", "mail", "webhook");
page!(testing, "guide/10-testing.md", "mail", "live");
page!(configuration, "guide/11-configuration.md");
page!(deployment, "guide/12-deployment.md", "panel", "mail");
page!(coming_from, "guide/13-coming-from.md", "panel");
page!(logs, "guide/14-logs.md");
page!(command, "guide/15-command.md");
page!(recipes, "guide/16-recipes.md");
page!(job_guarantees, "job-guarantees.md", "sqlite");
page!(security, "security.md");
