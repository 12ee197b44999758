//! Server-sent events (WHATWG HTML, section 9.2): what a page hears of while it is open.

use std::io::{self, Write};
use std::time::Duration;

use super::feed::Feed;
use super::outlet::Outlet;
use super::response::Response;

/// One event of a stream.
///
/// ```
/// use aside::Event;
///
/// let event = Event::new("17 of 20").named("progress").id("17");
/// assert_eq!((event.name.as_str(), event.id.as_str(), event.data.as_str()), ("progress", "17", "17 of 20"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The name that a page listens for; empty for a message, which `onmessage` hears.
    pub name: String,
    /// What the page says it has seen, when it comes back: `Last-Event-ID`. Empty for none.
    pub id: String,
    /// The text, of any number of lines.
    pub data: String,
}

impl Event {
    /// A message.
    pub fn new(data: impl Into<String>) -> Event {
        Event { data: data.into(), ..Event::default() }
    }

    /// The same event under a name.
    pub fn named(self, name: impl Into<String>) -> Event {
        Event { name: name.into(), ..self }
    }

    /// The same event with an id.
    pub fn id(self, id: impl Into<String>) -> Event {
        Event { id: id.into(), ..self }
    }

    /// As it goes over the wire. A line end of any kind in the text begins a new `data` line; in a name or an id it would
    /// begin another field, and is left out.
    pub(crate) fn to_wire(&self) -> String {
        let in_one_line = |text: &str| text.replace(['\r', '\n', '\0'], "");
        let mut wire = String::with_capacity(self.data.len() + 64);
        for (field, value) in [("event", &self.name), ("id", &self.id)] {
            if !value.is_empty() {
                wire.extend([field, ": ", &in_one_line(value), "\n"]);
            }
        }
        let lines = self.data.replace("\r\n", "\n").replace('\r', "\n");
        for line in lines.strip_suffix('\n').unwrap_or(&lines).split('\n') {
            wire.extend(["data: ", line, "\n"]);
        }
        wire.push('\n');
        wire
    }
}

/// A stream of events on its way out: [`Response::events`].
pub struct Events<'o> {
    out: Outlet<'o>,
}

impl Events<'_> {
    /// Sends a message.
    ///
    /// # Errors
    /// When the visitor has left: the stream should end.
    pub fn send(&mut self, data: impl Into<String>) -> io::Result<()> {
        self.send_event(&Event::new(data))
    }

    /// Sends an event, in one write.
    ///
    /// # Errors
    /// As [`send`](Events::send).
    pub fn send_event(&mut self, event: &Event) -> io::Result<()> {
        self.out.write_all(event.to_wire().as_bytes())
    }

    /// Waits that long before the next event, or until nobody would hear it: the visitor has left, or the server stops.
    ///
    /// ```
    /// use aside::{Request, Response};
    /// use std::time::Duration;
    ///
    /// fn clock(_req: &mut Request) -> Response {
    ///     Response::events(|events| {
    ///         for seconds in 0.. {
    ///             events.send(format!("{seconds} s"))?;
    ///             events.wait(Duration::from_secs(1))?;
    ///         }
    ///         Ok(())
    ///     })
    /// }
    /// ```
    ///
    /// On Linux a visitor who leaves is noticed at once; elsewhere at the next event that is sent, so send a
    /// [`keep_alive`](Events::keep_alive) now and then. A stop is noticed at once everywhere.
    ///
    /// # Errors
    /// As soon as nobody hears any more: the stream should end.
    pub fn wait(&mut self, time: Duration) -> io::Result<()> {
        self.out.disconnect().wait(time);
        self.out.check()
    }

    /// Sends a comment, which no page hears: proxies close what is silent for a minute.
    ///
    /// # Errors
    /// As [`send`](Events::send).
    pub fn keep_alive(&mut self) -> io::Result<()> {
        self.out.write_all(STILL_HERE)
    }

    /// Says how long a page waits before it comes back, when the connection is lost. Browsers wait 3 s or so by themselves.
    ///
    /// # Errors
    /// As [`send`](Events::send).
    pub fn retry_after(&mut self, time: Duration) -> io::Result<()> {
        self.out.write_all(retry_after(time).as_bytes())
    }
}

/// A comment.
pub(crate) const STILL_HERE: &[u8] = b": still here\n\n";

/// How long a page waits before it comes back.
pub(crate) fn retry_after(time: Duration) -> String {
    format!("retry: {}\n\n", time.as_millis())
}

/// A stream of events, to whom it goes and how.
fn as_events(stream: Response) -> Response {
    // The second for nginx, which would otherwise gather the stream before it passes any of it on.
    stream.header("Cache-Control", "no-store, no-transform").header("X-Accel-Buffering", "no")
}

impl Response {
    /// Events for a page that listens with `EventSource`, for as long as the closure sends some, on a thread of its own.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Event, Request, Response};
    ///
    /// fn countdown(_req: &mut Request) -> Response {
    ///     Response::events(|events| {
    ///         (1..=3).rev().try_for_each(|number| events.send(number.to_string()))?;
    ///         events.send_event(&Event::new("lift off").named("end"))
    ///     })
    /// }
    ///
    /// let mut events = TestClient::new(App::new().get("/countdown", countdown)).events("/countdown");
    /// assert_eq!(events.next().data, "3");
    /// ```
    ///
    /// When the closure returns the stream ends, and a browser comes back after a while: end with an event at which the page
    /// closes its `EventSource`. Each such stream holds a thread, at most `ASIDE_MAX_STREAMS` (1,000), and a quarter of
    /// that for one client (`ASIDE_MAX_STREAMS_PER_CLIENT`); one too many gets 503. An
    /// error ends it quietly, since mostly it means that the visitor has left. For state that pages watch there is
    /// [`Request::live`](crate::Request::live).
    pub fn events<F>(write: F) -> Response
    where
        F: FnOnce(&mut Events<'_>) -> io::Result<()> + Send + 'static,
    {
        as_events(Response::stream_to("text/event-stream", move |out| write(&mut Events { out })))
    }

    /// Events that a feed writes.
    pub(crate) fn event_feed(feed: impl Feed + 'static) -> Response {
        as_events(Response::feed("text/event-stream", feed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::disconnect::Disconnect;

    #[test]
    fn an_event_has_its_fields_each_on_a_line() {
        let event = Event::new("one\r\ntwo\rthree\n").named("na\nme").id("1\r\ndata: forged\0");
        assert_eq!(event.to_wire(), "event: name\nid: 1data: forged\ndata: one\ndata: two\ndata: three\n\n");
        assert_eq!(Event::new("").to_wire(), "data: \n\n");
    }

    #[test]
    fn a_stream_is_what_the_closure_sends() {
        let mut out = Vec::new();
        let mut events = Events { out: Outlet::new(&mut out, Disconnect::default()) };
        events.retry_after(Duration::from_millis(1_500)).unwrap();
        events.send("<b>").unwrap();
        events.keep_alive().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "retry: 1500\n\ndata: <b>\n\n: still here\n\n");
    }
}
