//! A response in a buffer: whether it is whole, and whether it is the right one.

/// How far from its end a page's mark is looked for.
const TAIL: usize = 256;

/// A whole response.
pub struct Answer<'b> {
    pub status: u16,
    /// All of the head.
    pub head: &'b [u8],
    /// The body as it came, with the framing of its chunks if it came in chunks.
    pub body: &'b [u8],
    /// Its length without that.
    pub length: usize,
    /// True if the server closes the connection after it.
    pub closes: bool,
}

impl Answer<'_> {
    /// The values of a header field.
    pub fn values(&self, name: &str) -> Vec<String> {
        let head = String::from_utf8_lossy(self.head);
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
    }
}

/// What the answer must be.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    pub statuses: Vec<u16>,
    /// Must come near the end of the body.
    pub mark: Vec<u8>,
    /// Must be the length of the body, when known.
    pub length: Option<usize>,
}

impl Expect {
    /// # Errors
    /// In words, when it is another.
    pub fn check(&self, answer: &Answer<'_>) -> Result<(), String> {
        if !self.statuses.contains(&answer.status) {
            return Err(format!("status {} in the place of {:?}", answer.status, self.statuses));
        }
        if self.length.is_some_and(|length| length != answer.length) {
            return Err(format!("{} bytes in the place of {:?}", answer.length, self.length));
        }
        let tail = &answer.body[answer.body.len().saturating_sub(TAIL)..];
        match memchr::memmem::find(tail, &self.mark) {
            Some(_) => Ok(()),
            None => Err(format!("no {:?} at the end of the page", String::from_utf8_lossy(&self.mark))),
        }
    }
}

pub(crate) enum Parsed<'b> {
    Whole(Answer<'b>),
    Part,
    Broken,
}

/// The response in the buffer, which may be all there will be.
pub(crate) fn parse(buffer: &[u8], is_end: bool) -> Parsed<'_> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let start = match response.parse(buffer) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) => return Parsed::Part,
        Err(_) => return Parsed::Broken,
    };
    let status = response.code.unwrap_or(0);
    let mut framing = Framing::UntilEnd;
    let mut closes = response.version == Some(0);
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(field.value).ok().and_then(|value| value.trim().parse().ok());
            let Some(length) = length else { return Parsed::Broken };
            framing = Framing::Length(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunks;
        } else if field.name.eq_ignore_ascii_case("connection") {
            closes |= field.value.eq_ignore_ascii_case(b"close");
        }
    }
    if status == 204 || status == 304 {
        framing = Framing::Length(0);
    }
    let (head, body) = buffer.split_at(start);
    let (body, length) = match framing {
        Framing::Length(length) if body.len() < length => return Parsed::Part,
        Framing::Length(length) => (&body[..length], length),
        Framing::Chunks => match chunks(body) {
            Some(length) => (body, length),
            None => return Parsed::Part,
        },
        Framing::UntilEnd if !is_end => return Parsed::Part,
        Framing::UntilEnd => (body, body.len()),
    };
    Parsed::Whole(Answer { status, head, body, length, closes })
}

enum Framing {
    Length(usize),
    Chunks,
    UntilEnd,
}

/// The length of a chunked body, once its last chunk is there.
fn chunks(mut body: &[u8]) -> Option<usize> {
    let mut sum = 0;
    loop {
        let Ok(httparse::Status::Complete((start, length))) = httparse::parse_chunk_size(body) else { return None };
        let length = usize::try_from(length).ok()?;
        body = body.get(start + length + 2..)?;
        sum += length;
        if length == 0 {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str, is_end: bool) -> Option<(u16, usize, bool)> {
        match parse(text.as_bytes(), is_end) {
            Parsed::Whole(answer) => Some((answer.status, answer.length, answer.closes)),
            _ => None,
        }
    }

    #[test]
    fn a_response_is_whole_when_all_of_it_is_there() {
        assert_eq!(whole("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", false), None);
        assert_eq!(whole("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", false), Some((200, 3, false)));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", false), None);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(whole(chunked, false), Some((200, 3, true)));
        assert_eq!(whole("HTTP/1.0 200 OK\r\n\r\nabc", false), None);
        assert_eq!(whole("HTTP/1.0 200 OK\r\n\r\nabc", true), Some((200, 3, true)));
    }

    #[test]
    fn a_wrong_answer_is_told_in_words() {
        let expect = Expect { statuses: vec![200], mark: b"bc".into(), length: Some(3) };
        let check = |text: &str| match parse(text.as_bytes(), true) {
            Parsed::Whole(answer) => expect.check(&answer),
            _ => panic!("it is whole"),
        };
        assert_eq!(check("HTTP/1.1 200 OK\r\n\r\nabc"), Ok(()));
        assert!(check("HTTP/1.1 500 No\r\n\r\nabc").unwrap_err().starts_with("status 500"));
        assert!(check("HTTP/1.1 200 OK\r\n\r\nab").unwrap_err().starts_with("2 bytes"));
        assert!(check("HTTP/1.1 200 OK\r\n\r\nabd").unwrap_err().starts_with("no \"bc\""));
    }
}
