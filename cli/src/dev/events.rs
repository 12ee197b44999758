//! The event stream of the pages, on a port of its own: it survives a restart of the site, takes none of the connections that a
//! browser has for the site, and none of the site's live streams.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::board::Board;
use super::request_head::{RequestHead, host, is_fixed};

/// How often something is written, to notice that a page was left. A page that reads nothing for as long is left, too.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The most streams, each with a thread. Further connections are closed; a browser tries again.
const MOST_STREAMS: usize = 100;

/// Listens beside the site: on the next port, which is then known for a firewall or a tunnel, or on another one if that is in use.
pub fn listen(site: SocketAddr) -> io::Result<TcpListener> {
    let next = site.port().checked_add(1).unwrap_or(0);
    TcpListener::bind(SocketAddr::new(site.ip(), next)).or_else(|_| TcpListener::bind(SocketAddr::new(site.ip(), 0)))
}

/// Serves the streams in the background.
pub fn serve(listener: TcpListener, board: Arc<Board>) {
    thread::spawn(move || {
        let streams = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming().filter_map(Result::ok) {
            if streams.load(Ordering::Relaxed) >= MOST_STREAMS {
                continue;
            }
            streams.fetch_add(1, Ordering::Relaxed);
            let (board, streams) = (board.clone(), streams.clone());
            thread::spawn(move || {
                // An error means that the browser has closed the connection.
                let _ = follow(&stream, &board);
                streams.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}

fn follow(mut stream: &TcpStream, board: &Board) -> io::Result<()> {
    stream.set_write_timeout(Some(HEARTBEAT))?;
    let head = RequestHead::of(stream)?;
    let Some(origin) = allowed_origin(&head) else {
        let message = "This is the event stream of `aside dev`, for the pages of the site.\n";
        return write!(
            stream,
            "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{message}",
            message.len()
        );
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\
         Access-Control-Allow-Origin: {origin}\r\n\r\nretry: 300\n\n"
    )?;
    let mut version = u64::MAX;
    loop {
        match board.next(version, HEARTBEAT) {
            Some((next, state)) => {
                version = next;
                write!(stream, "data: {}\n\n", state.json())?;
            }
            None => write!(stream, ":\n\n")?,
        }
    }
}

/// Returns the origin of the page if it has the host of this server, which is an address or `localhost`: the page of another site
/// must not read the errors, also not through a name that it has made to point here (DNS rebinding).
fn allowed_origin(head: &RequestHead) -> Option<String> {
    let origin = head.header("origin")?;
    let of_page = host(origin.split_once("://")?.1);
    let is_same = head.header("host").is_some_and(|own| host(&own) == of_page);
    (is_same && is_fixed(of_page)).then(|| origin.clone())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stream_beyond_the_limit_is_closed_until_another_page_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, board) = (listener.local_addr().unwrap(), Arc::new(Board::default()));
        serve(listener, board.clone());
        let begin = || {
            let mut stream = TcpStream::connect(address).unwrap();
            let head = format!("GET / HTTP/1.1\r\nHost: {address}\r\nOrigin: http://127.0.0.1:8000\r\n\r\n");
            let (mut status, sent) = ([0; 12], stream.write_all(head.as_bytes()));
            let begins = sent.and_then(|()| stream.read_exact(&mut status)).is_ok() && status == *b"HTTP/1.1 200";
            begins.then_some(stream)
        };
        let streams: Vec<_> = (0..MOST_STREAMS).map(|_| begin().expect("a stream")).collect();
        assert!(begin().is_none());
        drop(streams);
        let until = Instant::now() + Duration::from_secs(60);
        while begin().is_none() {
            assert!(Instant::now() < until, "no place becomes free");
            board.update(|_| ());
        }
    }

    #[test]
    fn only_pages_of_the_same_fixed_host_may_read_the_stream() {
        let allowed = |host: &str, origin: &str| {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n\r\n");
            allowed_origin(&RequestHead::read(request.as_bytes()).unwrap()).is_some()
        };
        assert!(allowed("127.0.0.1:8001", "http://127.0.0.1:8000"));
        assert!(allowed("localhost:8001", "http://localhost:8000"));
        assert!(allowed("[::1]:8001", "http://[::1]:8000"));
        assert!(allowed("192.168.1.7:8001", "http://192.168.1.7"));
        assert!(!allowed("127.0.0.1:8001", "https://evil.example"));
        assert!(!allowed("evil.example:8001", "http://evil.example:8000"));
        assert!(!allowed("127.0.0.1:8001", "null"));
        assert!(
            allowed_origin(&RequestHead::read(&b"GET / HTTP/1.1\r\nHost: localhost:8001\r\n\r\n"[..]).unwrap())
                .is_none()
        );
    }
}
