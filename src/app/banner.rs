//! The first log lines: the address, and in development the routes and the destination of mail.

use super::service::{Endpoint, Service};
use super::templates;
use crate::config::ServerKind;
use crate::http::router::{BUILTIN, Route};
use crate::jobs::Jobs;
#[cfg(feature = "mail")]
use crate::mail::Mailer;

impl Service {
    /// Returns the first lines of the log: the address and the transport, and in development a summary of the site.
    pub(crate) fn banner(&self, address: &str, server: ServerKind) -> String {
        if !self.config().is_development() {
            return format!("aside listens on {address} over {server} (production)");
        }
        let routes = self.router.routes().iter().filter(|route| !route.is_builtin());
        let width = routes.clone().map(|route| route.pattern.len()).max().unwrap_or(0).min(40);
        let routes: Vec<String> = routes.map(|route| line(route, width)).collect();
        format!(
            "aside listens on {address} over {server} (development)\n{}\n{}",
            routes.join("\n"),
            self.surroundings()
        )
    }

    fn surroundings(&self) -> String {
        let config = self.config();
        let secret = if config.secrets.is_empty() {
            "generated at start, and end with this process"
        } else {
            "from ASIDE_SECRET"
        };
        let lines = [
            ("templates", templates::summary(self.scope())),
            ("sessions", Some(format!("with a key {secret}"))),
            ("remembers", Some(format!("in {}", config.store.as_deref().unwrap_or("memory:")))),
            ("panel", cfg!(feature = "panel").then(|| format!("at {BUILTIN}"))),
            ("mail", self.mail()),
            ("jobs", self.scope().get::<Jobs>().map(|jobs| format!("in {}", jobs.describe()))),
        ];
        let line = |(what, place): (&str, Option<String>)| Some(format!("    {what:<9}  {}", place?));
        lines.into_iter().filter_map(line).collect::<Vec<_>>().join("\n")
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

/// Returns the line of a route: its method, path and name, and the location at which it was added.
fn line(route: &Route<Endpoint>, width: usize) -> String {
    let name = route.endpoint.name.as_deref().map_or(String::new(), |name| format!("  {name}"));
    let (verb, pattern, location) = (route.verb(), &route.pattern, route.location);
    format!("    {verb:<7} {pattern:<width$}  {}:{}{name}", location.file(), location.line())
}
