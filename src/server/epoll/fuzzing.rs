//! The entry point of the fuzz target `connection`: parses bytes as this transport parses the input of a connection.

use super::framing::Remaining;
use super::head::{self, Search};
use crate::config::Config;

/// Returns the method, target and body of each request in the input, up to the first malformed one. The input arrives in
/// pieces of `at_once` bytes.
pub(crate) fn requests(bytes: &[u8], at_once: usize) -> Vec<(String, String, Vec<u8>)> {
    let config = Config::default();
    let (mut input, mut found) = (Vec::new(), Vec::new());
    let (mut search, mut checked) = (Search::default(), None);
    for piece in bytes.chunks(at_once.max(1)) {
        input.extend_from_slice(piece);
        loop {
            let (method, target, mut rest, mut body) = match checked.take() {
                Some(checked) => checked,
                None => match search.end(&input, &config) {
                    Ok(Some(end)) => {
                        let Ok(head) = head::parse(&input[..end], &config) else { return found };
                        input.drain(..end);
                        search = Search::default();
                        let checked = head.checked;
                        (checked.method.to_string(), checked.target, Remaining::from(checked.framing), Vec::new())
                    }
                    Ok(None) => break,
                    Err(_) => return found,
                },
            };
            if rest.take(&mut input, &mut body, usize::MAX).is_err() {
                return found;
            }
            if !rest.is_complete() {
                checked = Some((method, target, rest, body));
                break;
            }
            found.push((method, target, body));
        }
    }
    found
}
