//! What the targets under `fuzz/` reach that nobody else does: there only where cargo fuzz builds the crate. All else that
//! reads bytes from strangers they reach as everybody does, through a test client.

use crate::config::Config;
use crate::http::headers::Headers;
use crate::server::http1;

/// The checks of a head, as a parser splits it up: method, target and minor version, and a field on each further line.
pub fn head(text: &str) -> bool {
    let mut lines = text.split('\n');
    let mut line = lines.next().unwrap_or_default().splitn(3, ' ');
    let mut word = || line.next().unwrap_or_default();
    let (method, target, minor) = (word(), word(), word().len() as u8);
    let headers: Headers = lines.map(|line| line.split_once(':').unwrap_or((line, ""))).collect();
    http1::check(method, target, (1, minor), &headers, &Config::default()).is_ok()
}

/// What the epoll transport reads in what a client sends is the same in whatever pieces it comes.
#[cfg(all(feature = "epoll", target_os = "linux"))]
pub fn connection(bytes: &[u8], at_once: usize) {
    use crate::server::epoll::fuzzing::requests;

    assert_eq!(requests(bytes, bytes.len()), requests(bytes, at_once));
}
