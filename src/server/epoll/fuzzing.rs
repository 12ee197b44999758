//! What the fuzz target `connection` reaches: a connection's bytes, read as they are on a connection and by nobody else.

use super::framing::Rest;
use super::head::{self, Search};
use crate::config::Config;

/// The requests in what a client sends in pieces of that size, as far as it is well formed: method, target and body.
pub(crate) fn requests(bytes: &[u8], at_once: usize) -> Vec<(String, String, Vec<u8>)> {
    let config = Config::default();
    let (mut inbox, mut found) = (Vec::new(), Vec::new());
    let (mut search, mut asked) = (Search::default(), None);
    for piece in bytes.chunks(at_once.max(1)) {
        inbox.extend_from_slice(piece);
        loop {
            let (method, target, mut rest, mut body) = match asked.take() {
                Some(asked) => asked,
                None => match search.end(&inbox, &config) {
                    Ok(Some(end)) => {
                        let Ok(head) = head::parse(&inbox[..end], &config) else { return found };
                        inbox.drain(..end);
                        search = Search::default();
                        let asked = head.asked;
                        (asked.method.to_string(), asked.target, Rest::from(asked.framing), Vec::new())
                    }
                    Ok(None) => break,
                    Err(_) => return found,
                },
            };
            if rest.take(&mut inbox, &mut body, usize::MAX).is_err() {
                return found;
            }
            if !rest.is_whole() {
                asked = Some((method, target, rest, body));
                break;
            }
            found.push((method, target, body));
        }
    }
    found
}
