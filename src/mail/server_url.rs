//! The mail server that `ASIDE_MAIL_URL` names, and its encryption and login.

use std::net::Ipv6Addr;
use std::num::NonZero;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;

use super::session::{Limits, ServerSettings};
use crate::error::{Error, Result};
use crate::trust;

/// The parts of `smtp://user:password@host:port/hello-name?tls=required`. lettre's parser is not used: it leaves `smtp://`
/// unencrypted by default, drops a user without a password, and does not support IPv6.
#[derive(Debug, PartialEq)]
pub(super) struct ServerUrl {
    login: Option<(String, String)>,
    host: String,
    port: u16,
    hello: Option<String>,
    tls: Encryption,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encryption {
    /// TLS from the first byte: `smtps://`.
    Whole,
    /// STARTTLS; without it, no mail is sent.
    Required,
    /// STARTTLS if the server offers it.
    Opportunistic,
    None,
}

impl ServerUrl {
    pub(super) fn parse(smtps: bool, rest: &str) -> Result<ServerUrl> {
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains(['@', '#']) {
            return Err(Error::internal(
                "write `/` as %2F, `?` as %3F, `#` as %23 and `@` as %40 in its user and password",
            ));
        }
        let (login, authority) =
            authority.rsplit_once('@').map_or((None, authority), |(login, authority)| (Some(login), authority));
        let (host, port) = host_and_port(authority)?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let hello = Some(path.trim_matches('/').to_owned()).filter(|name| !name.is_empty());
        if hello.as_ref().is_some_and(|name| !name.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::internal("the name after its host, which EHLO announces, has invalid characters"));
        }
        let tls = Encryption::parse(smtps, query, &host)?;
        let port = port.unwrap_or(if smtps { 465 } else { 587 });
        Ok(ServerUrl { login: login.map(credentials).transpose()?, host, port, hello, tls })
    }

    /// Parses the URL. It does not connect before the first mail.
    pub(super) fn settings(self, limits: Limits) -> Result<ServerSettings> {
        let name = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let tls = self.tls.parameters(&self.host)?;
        let hello = self.hello.map_or_else(ClientId::default, ClientId::Domain);
        let credentials = self.login.map(|(user, password)| Credentials::new(user, password));
        Ok(ServerSettings { host: self.host, port: self.port, name, hello, tls, credentials, limits })
    }
}

impl Encryption {
    fn parse(smtps: bool, query: &str, host: &str) -> Result<Encryption> {
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match query {
            "" if smtps => Ok(Encryption::Whole),
            // No network is involved, and a local server seldom has a trusted certificate.
            "" if is_loopback => Ok(Encryption::Opportunistic),
            "" | "tls=required" if !smtps => Ok(Encryption::Required),
            "tls=opportunistic" if !smtps => Ok(Encryption::Opportunistic),
            "tls=none" if !smtps => Ok(Encryption::None),
            _ if smtps => Err(Error::internal("`smtps://` is always encrypted and accepts no `?` parameters")),
            _ => Err(Error::internal("after the `?`, it accepts `tls=required`, `tls=opportunistic` or `tls=none`")),
        }
    }

    fn parameters(self, host: &str) -> Result<Tls> {
        // If encryption is optional, an invalid certificate is still better than plain text.
        let takes_any = self == Encryption::Opportunistic;
        let parameters = || {
            let store = trust::certificates().map_or(CertificateStore::WebpkiRoots, |_| CertificateStore::Default);
            TlsParameters::builder(host.to_owned())
                .certificate_store(store)
                .dangerous_accept_invalid_certs(takes_any)
                .dangerous_accept_invalid_hostnames(takes_any)
                .build()
        };
        Ok(match self {
            Encryption::Whole => Tls::Wrapper(parameters()?),
            Encryption::Required => Tls::Required(parameters()?),
            Encryption::Opportunistic => Tls::Opportunistic(parameters()?),
            Encryption::None => Tls::None,
        })
    }
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|authority| authority.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or_default())),
        None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_host = if authority.starts_with('[') { host.parse::<Ipv6Addr>().is_ok() } else { is_name(host) };
    if host.is_empty() {
        return Err(Error::internal("it has no host"));
    }
    if !is_host {
        return Err(Error::internal("its host is not a name or an IP address (an IPv6 address in brackets)"));
    }
    let port = port.map(str::parse::<NonZero<u16>>).transpose();
    let port = port.map_err(|_| Error::internal("its port is not a number from 1 to 65535"))?;
    Ok((host.to_owned(), port.map(NonZero::get)))
}

/// Returns true for a name that can be looked up, and for an IPv4 address.
fn is_name(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

fn credentials(login: &str) -> Result<(String, String)> {
    let missing = || Error::internal("it has a user but no password: `smtp://user:password@host`");
    let (user, password) = login.split_once(':').ok_or_else(missing)?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    match (decode(user), decode(password)) {
        (Ok(user), Ok(password)) => Ok((user, password)),
        _ => Err(Error::internal("its user or password is not UTF-8 after percent-decoding")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::mail::Mailer;

    #[test]
    fn all_parts_of_a_url_are_parsed() {
        let url = ServerUrl::parse(false, "a%40b:p%2Fw@mail.example:2525/me.example?tls=opportunistic").unwrap();
        let login = Some(("a@b".to_owned(), "p/w".to_owned()));
        let tls = Encryption::Opportunistic;
        assert_eq!(
            url,
            ServerUrl { login, host: "mail.example".into(), port: 2525, hello: Some("me.example".into()), tls }
        );
        let read = |smtps, rest| ServerUrl::parse(smtps, rest).map(|url| (url.port, url.tls)).unwrap();
        assert_eq!(read(false, "mail.example"), (587, Encryption::Required));
        assert_eq!(read(true, "mail.example"), (465, Encryption::Whole));
        assert_eq!(read(false, "localhost:25"), (25, Encryption::Opportunistic));
        assert_eq!(read(false, "[::1]:25"), (25, Encryption::Opportunistic));
        assert_eq!(read(true, "[2001:db8::1]"), (465, Encryption::Whole));
        assert_eq!(read(false, "127.0.0.1:1"), (1, Encryption::Opportunistic));
        assert_eq!(read(false, "mail.example?tls=none"), (587, Encryption::None));
    }

    #[test]
    fn an_invalid_url_is_refused_without_its_password() {
        for url in [
            "smtp://me:geheim/2@mail.example",
            "smtp://me:geheim@mail.example:port",
            "smtp://me:geheim@",
            "smtp://me:geheim@mail.example?tls=maybe",
            "smtps://me:geheim@mail.example?tls=none",
            "smtp:me:geheim@mail.example",
            "smtp://geheim@mail.example",
            "smtp://[geheim",
            "smtp://me:geheim@[mail.example]",
            "smtp://me:geheim@[::1]25",
            "smtp://me:geheim@[::1]:",
            "smtp://me:geheim@::1:25",
            "smtp://me:geheim@mail example",
            "smtp://me:geheim@mail.example:0",
            "smtp://me:geheim@mail.example:65536",
            "smtp://me:geheim@mail.example/two names",
            "smtp://me:geheim%ff@mail.example",
            "http://me:geheim@mail.example",
            "file:",
            "geheim",
        ] {
            let words =
                Mailer::new(&Config { mail_url: Some(url.into()), ..Config::default() }).err().expect(url).chain();
            assert!(words.starts_with("ASIDE_MAIL_URL") && !words.contains("geheim"), "{url}: {words}");
        }
    }
}
