//! The certificate authorities that outgoing connections trust: one rule for mail, webhooks and Redis.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR`, if set, replace everything else. Otherwise the operating system's store is used. If
//! that is empty (a container image built from scratch), Mozilla's list as of the build of the program is used.

use std::sync::LazyLock;

use rustls_native_certs::load_native_certs;

/// The trusted certificates in DER, read once. `None` if the compiled-in list of Mozilla is used.
pub(crate) fn certificates() -> Option<&'static [Vec<u8>]> {
    static CERTIFICATES: LazyLock<Option<Vec<Vec<u8>>>> = LazyLock::new(read);
    CERTIFICATES.as_deref()
}

fn read() -> Option<Vec<Vec<u8>>> {
    let found = load_native_certs();
    let is_chosen = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    if is_chosen && found.certs.is_empty() {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        log::warn!(
            target: "aside",
            "SSL_CERT_FILE and SSL_CERT_DIR contain no certificate ({}): all TLS connections will fail",
            causes.join("; ")
        );
    }
    let certificates: Vec<Vec<u8>> = found.certs.iter().map(|certificate| certificate.to_vec()).collect();
    (is_chosen || !certificates.is_empty()).then_some(certificates)
}
