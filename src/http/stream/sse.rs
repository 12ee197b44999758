//! Server-sent events (WHATWG HTML, section 9.2) for open pages.

use std::io::{self, Write};
use std::time::Duration;

use super::source::StreamSource;
use super::writer::StreamWriter;
use crate::http::response::Response;

/// One event of a stream.
///
/// ```
/// use aside::live::Event;
///
/// let event = Event::new("17 of 20").named("progress").id("17");
/// assert_eq!((event.name.as_str(), event.id.as_str(), event.data.as_str()), ("progress", "17", "17 of 20"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The event name that a page listens for; empty for a message, which `onmessage` gets.
    pub name: String,
    /// The id that the browser sends as `Last-Event-ID` when it reconnects; empty for none.
    pub id: String,
    /// The text, with any number of lines.
    pub data: String,
}

impl Event {
    /// Returns a message.
    pub fn new(data: impl Into<String>) -> Event {
        Event { data: data.into(), ..Event::default() }
    }

    /// Sets the event's name.
    pub fn named(self, name: impl Into<String>) -> Event {
        Event { name: name.into(), ..self }
    }

    /// Sets the event's id.
    pub fn id(self, id: impl Into<String>) -> Event {
        Event { id: id.into(), ..self }
    }

    /// Returns the wire format. A line end of any kind in the text starts a new `data` line; in a name or an id it
    /// would start another field, so it is removed.
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

/// The writer of an event stream: [`Response::events`].
pub struct Events<'o> {
    out: StreamWriter<'o>,
}

impl Events<'_> {
    /// Sends a message.
    ///
    /// # Errors
    /// An error if the client has disconnected: the stream should end.
    pub fn send(&mut self, data: impl Into<String>) -> io::Result<()> {
        self.send_event(&Event::new(data))
    }

    /// Sends an event, in one write.
    ///
    /// # Errors
    /// The errors of [`send`](Events::send).
    pub fn send_event(&mut self, event: &Event) -> io::Result<()> {
        self.out.write_all(event.to_wire().as_bytes())
    }

    /// Waits for `time` before the next event. Returns early if the client disconnects or the server stops.
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
    /// On Linux a disconnect is noticed at once; elsewhere at the next event that is sent, so send a
    /// [`keep_alive`](Events::keep_alive) now and then. A stop of the server is noticed at once everywhere.
    ///
    /// # Errors
    /// An error if the client has disconnected or the server stops: the stream should end.
    pub fn wait(&mut self, time: Duration) -> io::Result<()> {
        self.out.disconnect().wait(time);
        self.out.check()
    }

    /// Sends a comment, which pages ignore, to keep the connection open: proxies close a connection that is silent for
    /// a minute.
    ///
    /// # Errors
    /// The errors of [`send`](Events::send).
    pub fn keep_alive(&mut self) -> io::Result<()> {
        self.out.write_all(KEEP_ALIVE)
    }

    /// Sets how long a page waits before it reconnects after a lost connection. Browsers wait about 3 s by default.
    ///
    /// # Errors
    /// The errors of [`send`](Events::send).
    pub fn retry_after(&mut self, time: Duration) -> io::Result<()> {
        self.out.write_all(retry_after(time).as_bytes())
    }
}

/// The comment of a keep-alive.
pub(crate) const KEEP_ALIVE: &[u8] = b": still here\n\n";

/// Returns the field that sets how long a page waits before it reconnects.
pub(crate) fn retry_after(time: Duration) -> String {
    format!("retry: {}\n\n", time.as_millis())
}

/// Adds the headers of an event stream.
fn as_events(stream: Response) -> Response {
    // The second header is for nginx, which otherwise buffers the stream before it passes any of it on.
    stream.header("Cache-Control", "no-store, no-transform").header("X-Accel-Buffering", "no")
}

impl Response {
    /// Returns a stream of events for a page with an `EventSource`. The closure runs on its own thread and sends events
    /// until it returns.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::live::Event;
    /// use aside::{App, Request, Response};
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
    /// The stream ends when the closure returns, and the browser reconnects after a while: end with an event on which
    /// the page closes its `EventSource`. Each stream holds a thread, at most `ASIDE_MAX_STREAMS` (1,000), and a
    /// quarter of them for one client (`ASIDE_MAX_STREAMS_PER_CLIENT`); above that a request gets 503. An error ends
    /// the stream without a log line, since it mostly means that the client has disconnected. For state that pages
    /// follow use [`Request::live`](crate::Request::live).
    pub fn events<F>(write: F) -> Response
    where
        F: FnOnce(&mut Events<'_>) -> io::Result<()> + Send + 'static,
    {
        as_events(Response::stream_to("text/event-stream", true, move |out| write(&mut Events { out })))
    }

    /// Returns a stream of events that a source writes.
    pub(crate) fn event_source(source: impl StreamSource + 'static) -> Response {
        as_events(Response::from_source("text/event-stream", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::stream::disconnect::Disconnect;

    #[test]
    fn an_event_has_a_line_for_each_field() {
        let event = Event::new("one\r\ntwo\rthree\n").named("na\nme").id("1\r\ndata: forged\0");
        assert_eq!(event.to_wire(), "event: name\nid: 1data: forged\ndata: one\ndata: two\ndata: three\n\n");
        assert_eq!(Event::new("").to_wire(), "data: \n\n");
    }

    #[test]
    fn a_stream_has_the_events_that_the_closure_sends() {
        let mut out = Vec::new();
        let mut events = Events { out: StreamWriter::new(&mut out, Disconnect::default()) };
        events.retry_after(Duration::from_millis(1_500)).unwrap();
        events.send("<b>").unwrap();
        events.keep_alive().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "retry: 1500\n\ndata: <b>\n\n: still here\n\n");
    }
}
