//! Private functions for the fuzz targets under `fuzz/`, compiled only by cargo fuzz. The targets reach all other parsers of
//! untrusted bytes through a test client.

use crate::config::Config;
use crate::http::headers::Headers;
use crate::server::http1;

/// Checks a request head as a parser splits it: method, target and minor version, then a header field on each line. Returns
/// true if it is accepted.
pub fn head(text: &str) -> bool {
    let mut lines = text.split('\n');
    let mut line = lines.next().unwrap_or_default().splitn(3, ' ');
    let mut word = || line.next().unwrap_or_default();
    let (method, target, minor) = (word(), word(), word().len() as u8);
    let headers: Headers = lines.map(|line| line.split_once(':').unwrap_or((line, ""))).collect();
    http1::check(method, target, (1, minor), &headers, &Config::default()).is_ok()
}

/// Asserts that the epoll transport reads the same requests, however the bytes of the client are split into pieces.
#[cfg(all(feature = "epoll", target_os = "linux"))]
pub fn connection(bytes: &[u8], at_once: usize) {
    use crate::server::epoll::fuzzing::requests;

    assert_eq!(requests(bytes, bytes.len()), requests(bytes, at_once));
}
