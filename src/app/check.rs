//! What should be looked at before a site goes public.

use crate::config::{Advice, Config};
use crate::http::security::proxies::is_https;

impl Config {
    /// Looks whether a site is ready for the public, as Django's `check --deploy` does, and names each setting to change.
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
    /// An application in production does this at its start and puts the advice into the log, as warnings (`aside::check`).
    /// What cannot work at all is refused there: see [`Config::check`].
    pub fn deploy_check(&self) -> Vec<Advice> {
        let mut all = Vec::new();
        let mut advise = |broken: bool, setting, message: &str| {
            all.extend(broken.then(|| Advice { setting, message: message.to_owned() }));
        };
        advise(
            self.is_development(),
            "ASIDE_ENV",
            "is `development`: errors show their inside; set it to `production`",
        );
        check_address(self, &mut advise);
        check_sessions(self, &mut advise);
        #[cfg(feature = "mail")]
        check_mail(self, &mut advise);
        check_process(self, &mut advise);
        all
    }
}

/// Takes note of an advice when it applies.
type Advise<'a> = dyn FnMut(bool, &'static str, &str) + 'a;

fn check_address(config: &Config, advise: &mut Advise<'_>) {
    let url = config.url.as_deref().unwrap_or("");
    let local = ["127.", "localhost", "[::1]", "unix:"].iter().any(|start| config.address.starts_with(start));
    let proxies = &config.trusted_proxies;
    let hosts = &config.allowed_hosts;
    advise(url.is_empty(), "ASIDE_URL", "is not set: links in mail have no host, and the site answers to any name");
    advise(
        !url.is_empty() && !is_https(url),
        "ASIDE_URL",
        "is no https address: browsers are not told to stay with https, and drop the session's `__Host-` cookie",
    );
    advise(
        hosts.iter().any(|host| host == "*") || (hosts.is_empty() && url.is_empty()),
        "ASIDE_ALLOWED_HOSTS",
        "lets any host in: what is made of the Host header is what a stranger wrote; name the site's own",
    );
    advise(
        config.trusted_origins.iter().any(|origin| origin == "*"),
        "ASIDE_TRUSTED_ORIGINS",
        "turns the check against forms of other sites off: name the sites that may send forms here",
    );
    advise(
        proxies.is_empty() && local,
        "ASIDE_TRUSTED_PROXIES",
        "is not set: all visitors look like the proxy in front, to the log and to rate limits; name it (`127.0.0.1`)",
    );
    advise(
        proxies.is_empty() && !local,
        "ASIDE_ADDR",
        "is open to the network, without a trusted proxy: this server has no TLS and no limits against slow clients; \
         put a proxy in front, and name it in ASIDE_TRUSTED_PROXIES",
    );
    advise(
        proxies.iter().any(|network| network.ends_with("/0")),
        "ASIDE_TRUSTED_PROXIES",
        "is everybody: whoever asks can say who asks; name the proxies alone",
    );
}

fn check_sessions(config: &Config, advise: &mut Advise<'_>) {
    advise(
        config.secrets.iter().any(|secret| is_weak(secret)),
        "ASIDE_SECRET",
        "can be guessed: it has few different characters; `openssl rand -base64 48` makes a good one",
    );
    advise(
        config.store.as_deref().is_none_or(|store| store == "memory:"),
        "ASIDE_STORE",
        "is memory: after a restart a stolen copy of a session that was logged out is good again, and a form may be \
         answered twice; set it to `sqlite:data/site.db`",
    );
    advise(
        config.session_lifetime.as_secs() > 90 * 24 * 3600,
        "ASIDE_SESSION_LIFETIME",
        "is more than 90 days: who finds an old computer is logged in",
    );
}

#[cfg(feature = "mail")]
fn check_mail(config: &Config, advise: &mut Advise<'_>) {
    let url = config.mail_url.as_deref();
    let reaches_nobody = url.is_some_and(|url| url.starts_with("file:") || url.starts_with("memory:"));
    advise(url.is_none(), "ASIDE_MAIL_URL", "is not set: a mail is a failed task; `smtp://user:password@host:587`");
    advise(reaches_nobody, "ASIDE_MAIL_URL", "names no server: mail reaches nobody; `smtp://user:password@host:587`");
    let nobody = url.is_some() && config.mail_from.is_none();
    advise(nobody, "ASIDE_MAIL_FROM", "is not set: a mail that names no sender is a failed task");
}

fn check_process(config: &Config, advise: &mut Advise<'_>) {
    advise(
        config.grace.as_secs() > 28,
        "ASIDE_GRACE",
        "is more than 28 s: Kubernetes kills after 30 and Docker after 10, unless they are told to wait longer",
    );
    advise(cfg!(debug_assertions), "cargo", "built this without `--release`: it is many times slower");
    advise(is_root(), "the user", "is root: what breaks into the site has the machine; run it as a user of its own");
}

/// Fewer different characters than any 32 random ones of hexadecimal digits have.
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

    /// What no setting can change in a test: its build and its user.
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
    fn mail_that_reaches_nobody_is_named() {
        assert_eq!(advised(|config| config.mail_url = None), ["ASIDE_MAIL_URL"]);
        assert_eq!(advised(|config| config.mail_url = Some("file:data/mail".into())), ["ASIDE_MAIL_URL"]);
        assert_eq!(advised(|config| config.mail_from = None), ["ASIDE_MAIL_FROM"]);
    }
}
