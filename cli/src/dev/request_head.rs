//! The head of an HTTP request: as much of it as `aside dev` needs.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

/// The most bytes of a head. A longer one is left to the site.
const MOST: usize = 64 << 10;

/// How long a client may take until the end of a head.
const LONGEST: Duration = Duration::from_secs(10);

/// The bytes that a client has sent, at least to the end of the head.
pub struct RequestHead(pub Vec<u8>);

impl RequestHead {
    /// Reads the head from a connection.
    ///
    /// # Errors
    /// An error of the connection, or if the head takes more than ten seconds.
    pub fn of(stream: &TcpStream) -> io::Result<RequestHead> {
        let head = RequestHead::read(Timed { stream, until: Instant::now() + LONGEST })?;
        stream.set_read_timeout(None)?;
        Ok(head)
    }

    /// Reads to the end of the head. Bytes of the body may follow it.
    pub fn read(mut from: impl Read) -> io::Result<RequestHead> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 8 << 10]);
        while bytes.len() < MOST && !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            match from.read(&mut buffer)? {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(RequestHead(bytes))
    }

    /// Returns true if a browser navigates to a page, which may show another page first.
    pub fn is_navigation(&self) -> bool {
        let accepts_html = || self.header("accept").is_some_and(|types| types.contains("text/html"));
        let is_navigation = self.header("sec-fetch-mode").map_or_else(accepts_html, |mode| mode == "navigate");
        self.0.starts_with(b"GET ") && is_navigation
    }

    /// Returns true if the client names this server by an address or by `localhost`.
    pub fn has_fixed_host(&self) -> bool {
        self.header("host").is_some_and(|name| is_fixed(host(&name)))
    }

    /// Returns the value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let head = text.split("\r\n\r\n").next()?;
        let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim().to_owned())
    }
}

/// A connection that is read up to a moment.
struct Timed<'s> {
    stream: &'s TcpStream,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// Returns true for an address and for `localhost`. Any other name may have been made to point here by another site, whose pages
/// then count as pages of this server (DNS rebinding).
pub fn is_fixed(host: &str) -> bool {
    let is_local = host == "localhost" || host.ends_with(".localhost");
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    is_local || host.parse::<Ipv4Addr>().is_ok() || v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// Returns the host without its port.
pub fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    fn head(text: &str) -> RequestHead {
        RequestHead::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_navigation_is_told_from_other_requests() {
        let is_navigation = |start: &str, headers: &str| {
            head(&format!("{start} / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n")).is_navigation()
        };
        assert!(is_navigation("GET", "Sec-Fetch-Mode: navigate"));
        assert!(is_navigation("GET", "accept: text/html,*/*"));
        assert!(!is_navigation("POST", "Sec-Fetch-Mode: navigate"));
        assert!(!is_navigation("GET", "Sec-Fetch-Mode: cors\r\nAccept: text/html"));
        assert!(!is_navigation("GET", "Accept: */*"));
        assert!(!is_navigation("HEAD", "Accept: text/html"));
        assert!(!head("GET / HTTP/1.1\r\n\r\nAccept: text/html\r\n").is_navigation(), "it stands in the body");
    }

    #[test]
    fn a_head_that_never_ends_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let soon = Timed { stream: &stream, until: Instant::now() + Duration::from_millis(20) };
        let kind = RequestHead::read(soon).err().unwrap().kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind}");
    }

    #[test]
    fn the_bytes_of_the_client_are_kept_as_they_are() {
        let request = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(head(request).0, request.as_bytes());
        assert_eq!(head("GET / HT").0, b"GET / HT");
        assert!(RequestHead::read(io::repeat(b'a')).unwrap().0.len() >= MOST);
    }
}
