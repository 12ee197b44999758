//! Checks of the settings before a site goes public.

use super::service::Service;
use super::templates;
use crate::config::{Advice, Config};
use crate::http::files::folder::Folder;
use crate::http::files::folders::StaticFolders;
use crate::http::security::proxies::is_https;
use crate::jobs::Jobs;

impl Config {
    /// Returns advice on each setting to change before the site goes public, like Django's `check --deploy`.
    ///
    /// ```
    /// use aside::config::Mode;
    /// use aside::Config;
    ///
    /// let config = Config {
    ///     mode: Mode::Production,
    ///     url: Some("http://shop.example".into()),
    ///     secrets: vec!["k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf".into()],
    ///     ..Config::default()
    /// };
    /// let advice = config.deploy_check();
    /// assert!(advice.iter().any(|advice| advice.setting == "ASIDE_URL"));
    /// ```
    ///
    /// In production an application logs this advice at its start, as warnings (target `aside::check`). Settings that cannot
    /// work are errors at the start: see [`Config::check`].
    pub fn deploy_check(&self) -> Vec<Advice> {
        let mut all = Vec::new();
        let mut advise = |broken: bool, setting, message: &str| {
            all.extend(broken.then(|| Advice { setting, message: message.to_owned() }));
        };
        advise(
            self.is_development(),
            "ASIDE_ENV",
            "is `development`: error pages show source lines and causes; set it to `production`",
        );
        check_address(self, &mut advise);
        check_sessions(self, &mut advise);
        #[cfg(feature = "mail")]
        check_mail(self, &mut advise);
        check_process(self, &mut advise);
        all
    }
}

impl Service {
    /// Logs advice on the settings, and each missing folder, in production.
    pub(crate) fn warn_of_settings(&self) {
        if self.config().is_development() {
            return;
        }
        self.advice().iter().for_each(|message| log::warn!(target: "aside::check", "{message}"));
    }

    /// Returns advice on the settings and on the application, and a message for each missing folder.
    pub(crate) fn advice(&self) -> Vec<String> {
        let of_settings = self.config().deploy_check().into_iter().map(|advice| advice.to_string());
        let are_lost = self.scope().get::<Jobs>().is_some_and(|jobs| !jobs.is_durable());
        let of_jobs = are_lost.then(|| {
            "App::jobs stores jobs in memory, so that they are lost when the process ends: use `Jobs::sqlite`"
                .to_owned()
        });
        of_settings.chain(self.missing_folders()).chain(of_jobs).collect()
    }

    /// Returns a message for each folder that does not exist. The default folder of the templates may be missing.
    fn missing_folders(&self) -> Vec<String> {
        let (templates, files) = (templates::folder(self.scope()), self.scope().get::<StaticFolders>());
        let default = Folder::from(Config::default().templates);
        let of_templates =
            templates.iter().filter(|folder| **folder != default).map(|folder| ("App::templates", folder));
        let of_files = files.iter().flat_map(|files| files.folders()).map(|(_, folder)| ("App::static_files", folder));
        let missing = of_templates.chain(of_files).filter(|(_, folder)| folder.is_missing());
        missing.map(|(method, folder)| format!("{method} names a folder that does not exist: {folder}")).collect()
    }
}

/// Adds a piece of advice if the condition is true.
type Advise<'a> = dyn FnMut(bool, &'static str, &str) + 'a;

fn check_address(config: &Config, advise: &mut Advise<'_>) {
    let url = config.url.as_deref().unwrap_or("");
    let local = ["127.", "localhost", "[::1]", "unix:"].iter().any(|start| config.address.starts_with(start));
    let proxies = &config.trusted_proxies;
    let hosts = &config.allowed_hosts;
    advise(url.is_empty(), "ASIDE_URL", "is not set: links in mail have no host, and the site accepts any host name");
    advise(
        !url.is_empty() && !is_https(url),
        "ASIDE_URL",
        "is not an https URL: responses have no Strict-Transport-Security, and browsers reject the session's `__Host-` \
         cookie; use an https URL",
    );
    advise(
        hosts.iter().any(|host| host == "*") || (hosts.is_empty() && url.is_empty()),
        "ASIDE_ALLOWED_HOSTS",
        "allows any host: the client then chooses the host in the site's links; list the site's host names",
    );
    advise(
        config.trusted_origins.iter().any(|origin| origin == "*"),
        "ASIDE_TRUSTED_ORIGINS",
        "is `*`, which turns CSRF protection off: list the sites that may send forms here",
    );
    advise(
        proxies.is_empty() && local,
        "ASIDE_TRUSTED_PROXIES",
        "is not set: behind a proxy, the log and rate limits see the proxy as the only client; set it to the proxy's \
         address (`127.0.0.1`)",
    );
    advise(
        proxies.is_empty() && !local,
        "ASIDE_ADDR",
        "is open to the network, without a trusted proxy, and this server has no TLS: put a proxy in front, and set \
         ASIDE_TRUSTED_PROXIES to its address",
    );
    advise(
        proxies.iter().any(|network| network.ends_with("/0")),
        "ASIDE_TRUSTED_PROXIES",
        "contains every address: any client can then claim another client's address; list only the proxies",
    );
}

fn check_sessions(config: &Config, advise: &mut Advise<'_>) {
    advise(
        config.secrets.iter().any(|secret| is_weak(secret)),
        "ASIDE_SECRET",
        "can be guessed: it has few different characters; make one with `openssl rand -base64 48`",
    );
    advise(
        config.store.as_deref().is_none_or(|store| store == "memory:"),
        "ASIDE_STORE",
        "is `memory:` (the default): after a restart a stolen cookie of a logged-out session is valid again, and a form may be \
         handled twice; set it to `sqlite:data/site.db`",
    );
    advise(
        config.session_lifetime.as_secs() > 90 * 24 * 3600,
        "ASIDE_SESSION_LIFETIME",
        "is more than 90 days: a lost or sold computer stays logged in; set it lower",
    );
}

#[cfg(feature = "mail")]
fn check_mail(config: &Config, advise: &mut Advise<'_>) {
    let url = config.mail_url.as_deref();
    let is_not_sent = url.is_some_and(|url| url.starts_with("file:") || url.starts_with("memory:"));
    advise(
        url.is_none(),
        "ASIDE_MAIL_URL",
        "is not set: sending a mail fails; set it to `smtp://user:password@host:587`",
    );
    advise(
        is_not_sent,
        "ASIDE_MAIL_URL",
        "is not a mail server: mail is stored here and not sent; set it to `smtp://user:password@host:587`",
    );
    let has_no_sender = url.is_some() && config.mail_from.is_none();
    advise(has_no_sender, "ASIDE_MAIL_FROM", "is not set: sending a mail without a sender of its own fails");
}

fn check_process(config: &Config, advise: &mut Advise<'_>) {
    advise(
        config.grace.as_secs() > 28,
        "ASIDE_GRACE",
        "is more than 28 s: Kubernetes kills the process after 30 s and Docker after 10 s, unless configured otherwise",
    );
    advise(cfg!(debug_assertions), "cargo", "built this program without `--release`: it is many times slower");
    advise(
        is_root(),
        "the user",
        "is root: an intruder into the site controls the machine; run it as a user of its own",
    );
}

/// Returns true if a secret has fewer than 8 different characters: 32 random hexadecimal digits have more.
fn is_weak(secret: &str) -> bool {
    let mut characters: Vec<char> = secret.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    characters.len() < 8
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    /// Advice that no setting changes in a test: on the build and the user.
    const OF_THE_TEST: [&str; 2] = ["cargo", "the user"];

    fn ready() -> Config {
        Config {
            mode: Mode::Production,
            url: Some("https://shop.example".into()),
            trusted_proxies: vec!["127.0.0.1".into()],
            secrets: vec!["k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf".into()],
            store: Some("sqlite:data/site.db".into()),
            mail_url: Some("smtps://user:password@mail.example:465".into()),
            mail_from: Some("shop@shop.example".into()),
            ..Config::default()
        }
    }

    fn advised(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = ready();
        change(&mut config);
        let settings = config.deploy_check().into_iter().map(|advice| advice.setting);
        settings.filter(|setting| !OF_THE_TEST.contains(setting)).collect()
    }

    #[test]
    fn a_site_that_is_ready_gets_no_advice() {
        assert_eq!(advised(|_| {}), [""; 0]);
    }

    #[test]
    fn each_setting_to_change_is_named() {
        assert_eq!(advised(|config| config.mode = Mode::Development), ["ASIDE_ENV"]);
        assert_eq!(advised(|config| config.url = None), ["ASIDE_URL", "ASIDE_ALLOWED_HOSTS"]);
        assert_eq!(advised(|config| config.url = Some("http://a".into())), ["ASIDE_URL"]);
        assert_eq!(advised(|config| config.allowed_hosts = vec!["*".into()]), ["ASIDE_ALLOWED_HOSTS"]);
        assert_eq!(advised(|config| config.trusted_origins = vec!["*".into()]), ["ASIDE_TRUSTED_ORIGINS"]);
        assert_eq!(advised(|config| config.trusted_proxies.clear()), ["ASIDE_TRUSTED_PROXIES"]);
        assert_eq!(advised(|config| config.trusted_proxies.push("0.0.0.0/0".into())), ["ASIDE_TRUSTED_PROXIES"]);
        let open = |config: &mut Config| {
            config.trusted_proxies.clear();
            config.address = "0.0.0.0:80".into();
        };
        assert_eq!(advised(open), ["ASIDE_ADDR"]);
        assert_eq!(advised(|config| config.secrets.push("abcabc".repeat(8))), ["ASIDE_SECRET"]);
        assert_eq!(advised(|config| config.store = None), ["ASIDE_STORE"]);
        assert_eq!(advised(|config| config.grace = std::time::Duration::from_secs(60)), ["ASIDE_GRACE"]);
        let year = std::time::Duration::from_secs(365 * 24 * 3600);
        assert_eq!(advised(|config| config.session_lifetime = year), ["ASIDE_SESSION_LIFETIME"]);
    }

    #[cfg(feature = "mail")]
    #[test]
    fn mail_settings_that_send_no_mail_are_named() {
        assert_eq!(advised(|config| config.mail_url = None), ["ASIDE_MAIL_URL"]);
        assert_eq!(advised(|config| config.mail_url = Some("file:data/mail".into())), ["ASIDE_MAIL_URL"]);
        assert_eq!(advised(|config| config.mail_from = None), ["ASIDE_MAIL_FROM"]);
    }
}
