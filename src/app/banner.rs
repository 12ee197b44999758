//! The first log lines: the address, and in development the routes and the destination of mail.

use std::path::Path;

use super::service::{Endpoint, Service};
use super::templates;
use crate::config::ServerKind;
use crate::http::files::folder::Folder;
use crate::http::files::folders::StaticFolders;
use crate::http::router::{BUILTIN, Route};
use crate::http::session::Keys;
use crate::jobs::Jobs;
use crate::log_text::absolute;
#[cfg(feature = "mail")]
use crate::mail::Mailer;

impl Service {
    /// Returns the first lines of the log: the address and the transport, and in development a summary of the site.
    pub(crate) fn banner(&self, address: &str, server: ServerKind) -> String {
        if !self.config().is_development() {
            return format!("aside listens on {address} over {server} (production)");
        }
        let (routes, surroundings) = (self.route_lines(), self.surroundings());
        format!("aside listens on {address} over {server} (development)\n{routes}{surroundings}")
    }

    /// Returns a line for each route of the site, in the order in which they were added.
    pub(crate) fn route_lines(&self) -> String {
        let routes = self.router.routes().iter().filter(|route| !route.is_builtin());
        let width = routes.clone().map(|route| route.pattern.len()).max().unwrap_or(0).min(40);
        routes.map(|route| line(route, width) + "\n").collect()
    }

    fn surroundings(&self) -> String {
        let config = self.config();
        let lines = [
            ("templates", templates::folder(self.scope()).map(|folder| format!("in {}", place(&folder)))),
            ("static", self.static_folders()),
            ("sessions", self.scope().get::<Keys>().map(|keys| format!("with a key {}", keys.source()))),
            ("remembers", Some(format!("in {}", store(config.store.as_deref())))),
            ("panel", cfg!(feature = "panel").then(|| format!("at {BUILTIN}"))),
            ("mail", self.mail()),
            ("jobs", self.scope().get::<Jobs>().map(|jobs| format!("in {}", jobs.describe()))),
        ];
        let line = |(what, place): (&str, Option<String>)| Some(format!("    {what:<9}  {}", place?));
        lines.into_iter().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    fn static_folders(&self) -> Option<String> {
        let folders = self.scope().get::<StaticFolders>()?;
        let lines: Vec<_> = folders.folders().map(|(path, folder)| format!("{path}/ from {}", place(folder))).collect();
        Some(lines.join(", ")).filter(|lines| !lines.is_empty())
    }

    #[cfg(feature = "mail")]
    fn mail(&self) -> Option<String> {
        Some(format!("goes to {}", self.scope().get::<Mailer>()?.destination()))
    }

    #[cfg(not(feature = "mail"))]
    fn mail(&self) -> Option<String> {
        None
    }
}

/// Returns where a folder is, with a note if it does not exist.
fn place(folder: &Folder) -> String {
    format!("{folder}{}", if folder.is_missing() { " (not there)" } else { "" })
}

/// Returns the store of ended sessions, with the absolute path of its file.
fn store(setting: Option<&str>) -> String {
    let setting = setting.unwrap_or("memory:");
    setting.strip_prefix("sqlite:").map_or(setting.to_owned(), |path| format!("sqlite {}", absolute(Path::new(path))))
}

/// Returns the line of a route: its method, path and name, and the location at which it was added.
fn line(route: &Route<Endpoint>, width: usize) -> String {
    let name = route.endpoint.name.as_deref().map_or(String::new(), |name| format!("  {name}"));
    let (verb, pattern, location) = (route.verb(), &route.pattern, route.location);
    format!("    {verb:<7} {pattern:<width$}  {}:{}{name}", location.file(), location.line())
}
