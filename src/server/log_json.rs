//! Log lines as JSON: one object on each line, of bounded length, whatever is logged.
//!
//! Fields of the framework are at the top. The key-value pairs of the application are in the object `fields`, so that they replace none
//! of them.

use std::fmt::{self, Display, Write as _};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};

use crate::background::log_context::ThreadContext;
use crate::background::log_fields;
use crate::bounds;
use crate::error::location::is_foreign;
use crate::panics;

/// The longest line, in bytes: Docker and Kubernetes split longer ones.
pub(super) const LONGEST_LINE: usize = 16 << 10;

/// The longest message, in bytes as written. The parts of a line together are shorter than a line.
const LONGEST_MESSAGE: usize = 6 << 10;
/// The longest target, location, and key of the application.
const LONGEST_NAME: usize = 256;
/// The longest values of the application together, and each one.
const LONGEST_FIELDS: usize = 2 << 10;
const LONGEST_FIELD: usize = 1 << 10;
/// The longest chain of errors.
const LONGEST_ERROR: usize = 3 << 10;
/// The longest note on a panic.
const LONGEST_NOTE: usize = 256;
/// What is kept free for the end of a line.
const END: usize = 16;

/// The fields of the framework, with the longest value of each in bytes.
const FIELDS: [(&str, usize); 15] = [
    ("request", 128),
    ("trace", 64),
    ("task", 32),
    ("job", 32),
    ("attempt", 32),
    ("duration_us", 32),
    ("status", 32),
    ("method", 64),
    ("route", 512),
    ("path", 1 << 10),
    ("client", 64),
    ("address", 256),
    ("error", LONGEST_ERROR),
    ("location", LONGEST_NAME),
    // As much as is left.
    ("backtrace", LONGEST_LINE),
];

/// Writes a record as one line.
pub(super) fn write(out: &mut Vec<u8>, time: impl Display, record: &Record<'_>) {
    let start = out.len();
    let _ = write!(Bytes(out), r#"{{"time":"{time}","level":"{}","target":"#, level(record.level()));
    text(out, LONGEST_NAME, |text| text.write_str(record.target()));
    out.extend_from_slice(br#","message":"#);
    caught_text(out, LONGEST_MESSAGE, record.args());
    let mut line = Line { out, start, written: 0 };
    let is_own = is_own(record);
    let values = record.key_values();
    // A line about a request or a task names it, and is perhaps logged by a thread that runs another one.
    if !is_own || values.get("trace".into()).is_none() {
        let context = ThreadContext::current();
        let _ = kv::Source::visit(&context.fields(), &mut line);
    }
    if is_own {
        let _ = values.visit(&mut line);
    } else {
        line.location(record);
        line.fields(values);
    }
    out.extend_from_slice(b"}\n");
}

/// Returns true for a line of this crate: its values are its fields.
pub(super) fn is_own(record: &Record<'_>) -> bool {
    let module = record.module_path_static().unwrap_or_default();
    module == log_fields::CRATE || module.strip_prefix(log_fields::CRATE).is_some_and(|rest| rest.starts_with("::"))
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// A line that is being written, up to its message.
struct Line<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    /// The fields that the line has, as bits: each is written once.
    written: u16,
}

impl Line<'_> {
    /// Writes the location of a line of the application.
    fn location(&mut self, record: &Record<'_>) {
        if let (Some(file), Some(line)) = (record.file(), record.line())
            && !is_foreign(file)
        {
            self.out.extend_from_slice(br#","location":"#);
            text(self.out, LONGEST_NAME, |text| write!(text, "{file}:{line}"));
        }
    }

    /// Writes the key-value pairs of the application, or none if the source panics.
    fn fields(&mut self, values: &dyn kv::Source) {
        let before = self.out.len();
        self.out.extend_from_slice(br#","fields":{"#);
        let mut fields = Fields { start: self.out.len(), out: self.out, keys: Vec::new(), left_out: 0 };
        let visited = panics::catch(|| values.visit(&mut fields));
        let (count, left_out) = (fields.keys.len(), fields.left_out);
        if visited.is_err() || count + left_out == 0 {
            return self.out.truncate(before);
        }
        if left_out > 0 {
            let comma = if count > 0 { "," } else { "" };
            let _ = write!(Bytes(self.out), r#"{comma}"…":"{left_out} more""#);
        }
        self.out.push(b'}');
    }
}

impl<'kvs> VisitSource<'kvs> for Line<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let Some(number) = FIELDS.iter().position(|(name, _)| *name == key.as_str()) else { return Ok(()) };
        if self.written & 1 << number != 0 {
            return Ok(());
        }
        self.written |= 1 << number;
        let (name, most) = FIELDS[number];
        let _ = write!(Bytes(self.out), r#","{name}":"#);
        let left = (self.start + LONGEST_LINE).saturating_sub(self.out.len() + END);
        match name {
            "error" => error_list(self.out, most.min(left), &value),
            _ => write_value(self.out, most.min(left), &value),
        }
        Ok(())
    }
}

/// The key-value pairs of the application, as an object that is being written.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    keys: Vec<String>,
    /// The number of pairs for which no space was left.
    left_out: usize,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let key = bounds::shorten(key.as_str(), LONGEST_NAME);
        // In an object each name is unique; the last one is for what is left out.
        if key == "…" || self.keys.iter().any(|other| *other == key) {
            return Ok(());
        }
        let before = self.out.len();
        if !self.keys.is_empty() {
            self.out.push(b',');
        }
        text(self.out, LONGEST_NAME, |text| text.write_str(&key));
        self.out.push(b':');
        write_value(self.out, LONGEST_FIELD, &value);
        if self.out.len() > self.start + LONGEST_FIELDS {
            self.out.truncate(before);
            self.left_out += 1;
            return Ok(());
        }
        self.keys.push(key.into_owned());
        Ok(())
    }
}

/// Writes the messages of an error as an array.
fn error_list(out: &mut Vec<u8>, most: usize, value: &Value<'_>) {
    let messages: Vec<String> = serde_json::from_str(&format!("{value:#}")).unwrap_or_else(|_| vec![value.to_string()]);
    let start = out.len();
    out.push(b'[');
    for (number, message) in messages.iter().enumerate() {
        let left = most.saturating_sub(out.len() - start);
        if left < 8 {
            break;
        }
        if number > 0 {
            out.push(b',');
        }
        text(out, left, |text| text.write_str(message));
    }
    out.push(b']');
}

/// Writes a value: a number or a truth value as one, and anything else as text.
fn write_value(out: &mut Vec<u8>, most: usize, value: &Value<'_>) {
    let start = out.len();
    let is_written = value.visit(Plain(out)).is_ok() && out.len() > start;
    if !is_written {
        out.truncate(start);
        caught_text(out, most, value);
    }
}

/// Writes values that need no quotes. All others are left out.
struct Plain<'o>(&'o mut Vec<u8>);

impl Plain<'_> {
    fn put(&mut self, value: impl Display) -> Result<(), kv::Error> {
        write!(Bytes(self.0), "{value}").map_err(kv::Error::from)
    }
}

impl<'v> VisitValue<'v> for Plain<'_> {
    fn visit_any(&mut self, _value: Value<'_>) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.put("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.put(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.put(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no infinity, which becomes text. The debug form of a large number is a short one.
        if value.is_finite() { self.put(format_args!("{value:?}")) } else { Ok(()) }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.put(value)
    }

    fn visit_str(&mut self, _value: &str) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u128(&mut self, _value: u128) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_i128(&mut self, _value: i128) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_char(&mut self, _value: char) -> Result<(), kv::Error> {
        Ok(())
    }
}

/// Writes a value as a string. If its `Display` panics, a note of at most [`LONGEST_NOTE`] more bytes says so.
fn caught_text(out: &mut Vec<u8>, most: usize, value: &dyn Display) {
    text(out, most, |text| {
        let written = panics::catch(|| write!(text, "{value}"));
        written.unwrap_or_else(|panic| {
            text.left += LONGEST_NOTE;
            let gap = if text.is_empty { "" } else { " " };
            write!(text, "{gap}(its Display panicked: {panic})")
        })
    });
}

/// Writes a string of at most `most` bytes.
fn text(out: &mut Vec<u8>, most: usize, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
    out.push(b'"');
    let mut text = Text { out, left: most.saturating_sub(2 + "…".len()), is_cut: false, is_empty: true };
    // An error means that the text is cut, or that a `Display` gave up.
    let _ = write(&mut text);
    let is_cut = text.is_cut;
    out.extend_from_slice(if is_cut { "…\"".as_bytes() } else { b"\"" });
}

/// The inside of a string: escapes what is written, up to a limit.
struct Text<'o> {
    out: &'o mut Vec<u8>,
    left: usize,
    is_cut: bool,
    is_empty: bool,
}

impl Text<'_> {
    /// Appends bytes, all or none.
    fn put(&mut self, bytes: &[u8]) -> fmt::Result {
        if self.is_cut || bytes.len() > self.left {
            (self.is_cut, self.left) = (true, 0);
            return Err(fmt::Error);
        }
        self.left -= bytes.len();
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Appends text without characters to escape, as much as fits.
    fn put_plain(&mut self, text: &str) -> fmt::Result {
        let most = self.left.min(text.len());
        let fitting = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        self.put(&text.as_bytes()[..fitting])?;
        if fitting < text.len() { self.put(&text.as_bytes()[fitting..]) } else { Ok(()) }
    }

    fn put_escaped(&mut self, c: char) -> fmt::Result {
        match c {
            '"' => self.put(br#"\""#),
            '\\' => self.put(br"\\"),
            '\n' => self.put(br"\n"),
            '\r' => self.put(br"\r"),
            '\t' => self.put(br"\t"),
            // All of them are in the basic plane.
            _ => self.put(format!("\\u{:04x}", u32::from(c)).as_bytes()),
        }
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.is_empty &= text.is_empty();
        let mut rest = text;
        while let Some(at) = first_escaped(rest) {
            let (plain, tail) = rest.split_at(at);
            self.put_plain(plain)?;
            let mut tail = tail.chars();
            tail.next().map_or(Ok(()), |c| self.put_escaped(c))?;
            rest = tail.as_str();
            if self.left == 0 && !rest.is_empty() {
                return self.put(rest.as_bytes());
            }
        }
        self.put_plain(rest)
    }
}

/// Returns the position of the first character to escape: what JSON requires, control characters, and marks that change the
/// direction of writing, which deceive a reader.
fn first_escaped(text: &str) -> Option<usize> {
    let at = text.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\' || byte >= 0x7f)?;
    if text.as_bytes()[at].is_ascii() {
        return Some(at);
    }
    text[at..].find(is_escaped).map(|further| at + further)
}

fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '"' | '\\' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes that are formatted to.
struct Bytes<'o>(&'o mut Vec<u8>);

impl fmt::Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use log::kv::Source;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::background::lineage::Lineage;
    use crate::background::log_fields::{ErrorList, LogFields};
    use crate::background::record::Identity;
    use crate::background::registry::Registry;
    use crate::background::request_info::RequestInfo;
    use crate::background::scope::{Context, Scope, Values};
    use crate::background::trace_id::TraceId;
    use crate::config::Config;

    /// Returns the line of a record as it is written.
    fn line(module: &'static str, values: &dyn Source, message: fmt::Arguments<'_>) -> String {
        let mut record = Record::builder();
        record.target("shop").level(Level::Info).module_path_static(Some(module)).key_values(&values).args(message);
        record.file_static(Some("site/orders.rs")).line(Some(41));
        let mut out = Vec::new();
        write(&mut out, "2026-04-04T14:32:01.000042Z", &record.build());
        String::from_utf8(out).expect("a line is valid UTF-8")
    }

    /// Checks that the line of a record is one object of bounded length, and returns it.
    fn parsed(module: &'static str, values: &dyn Source, message: fmt::Arguments<'_>) -> Json {
        let line = line(module, values, message);
        assert!(line.len() <= LONGEST_LINE, "{}", line.len());
        let object = line.strip_suffix('\n').expect("a line ends");
        assert!(!object.contains(|c: char| c.is_control()), "{object}");
        serde_json::from_str(object).unwrap_or_else(|error| panic!("{error}: {object}"))
    }

    fn of_the_application(values: &dyn Source, message: fmt::Arguments<'_>) -> Json {
        parsed("shop::orders", values, message)
    }

    struct Panicking(&'static str);

    impl Display for Panicking {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)?;
            panic!("no \"text\"\n")
        }
    }

    /// A `Display` that fails as the writer does, and one that ignores the failure of the writer.
    struct Failing(bool);

    impl Display for Failing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for _ in 0..10_000 {
                let written = f.write_str("0123456789");
                if self.0 {
                    written.expect("the writer takes it");
                }
            }
            Err(fmt::Error)
        }
    }

    #[test]
    fn a_line_of_the_application_has_its_values_in_an_object_of_their_own() {
        let values: [(&str, Value<'_>); 6] = [
            ("user", 17_u64.into()),
            ("status", "forged".into()),
            ("is_new", true.into()),
            ("ratio", 0.5.into()),
            ("time", "now".into()),
            ("user", 18_u64.into()),
        ];
        let line = of_the_application(&values, format_args!("an order of {} photos", 3));
        let expected = json!({
            "time": "2026-04-04T14:32:01.000042Z",
            "level": "info",
            "target": "shop",
            "message": "an order of 3 photos",
            "location": "site/orders.rs:41",
            "fields": { "user": 17, "status": "forged", "is_new": true, "ratio": 0.5, "time": "now" },
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_of_the_framework_has_its_fields_at_the_top() {
        let trace = TraceId::new();
        let fields = LogFields {
            request: Some("3f9a1c"),
            trace: Some(trace),
            status: Some(500),
            duration: Some(std::time::Duration::from_micros(1_234_567)),
            error: Some(ErrorList(vec!["cannot pay".into(), "the \"bank\"\nis closed".into()])),
            backtrace: Some("0: main"),
            ..LogFields::default()
        };
        let line = parsed("aside::app", &fields, format_args!("failed"));
        let expected = json!({
            "time": "2026-04-04T14:32:01.000042Z",
            "level": "info",
            "target": "shop",
            "message": "failed",
            "request": "3f9a1c",
            "trace": trace.to_string(),
            "duration_us": 1_234_567,
            "status": 500,
            "error": ["cannot pay", "the \"bank\"\nis closed"],
            "backtrace": "0: main",
        });
        assert_eq!(line, expected);
        assert!(parsed("aside_shop", &fields, format_args!("failed")).get("status").is_none(), "another crate");
    }

    #[test]
    fn a_line_has_the_request_and_the_task_of_its_thread() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let (trace, nothing) = (TraceId::new(), [(); 0].map(|()| ("", 0)));
        let request = Arc::new(RequestInfo::new("POST", "/orders", "3f9a1c", trace));
        let identity = Identity { job: Some(4), job_attempt: Some(2), ..Identity::test("send") };
        let record = scope.registry().enter(identity, Lineage::of(&request));
        let context = Context { lineage: record.lineage_within(), task: Some(record), ..Context::of(scope) };
        let _entered = context.enter();
        let line = of_the_application(&nothing, format_args!("sent"));
        let fields = ["request", "trace", "task", "job", "attempt"].map(|name| line[name].clone());
        assert_eq!(fields, [json!("3f9a1c"), json!(trace.to_string()), json!(1), json!(4), json!(2)]);
        let other = LogFields { trace: Some(TraceId::new()), task: Some(9), ..LogFields::default() };
        let line = parsed("aside::background", &other, format_args!("a line about another task"));
        assert_eq!((&line["task"], line.get("request"), line.get("job")), (&json!(9), None, None));
        let without_trace = LogFields { task: Some(9), status: Some(500), ..LogFields::default() };
        let line = parsed("aside::http", &without_trace, format_args!("a line of this thread"));
        assert_eq!((&line["task"], &line["status"]), (&json!(1), &json!(500)), "each field is written once");
    }

    #[test]
    fn any_text_is_a_line_of_bounded_length() {
        let long = "\u{202e}é\0\"\\".repeat(2 << 20);
        let nothing: [(&str, u8); 0] = [];
        for (message, start) in [
            ("a\nb\r\t\u{1b}[31m\u{7f}\u{9b}", "a\nb\r\t\u{1b}[31m"),
            (r"a lone surrogate \ud800 and half a name \ud8", r"a lone surrogate \ud800"),
            (&String::from_utf8_lossy(b"\xff\xfe caf\xe9"), "\u{fffd}\u{fffd} caf\u{fffd}"),
            (&long, "\u{202e}é\0"),
            ("", ""),
        ] {
            let line = of_the_application(&nothing, format_args!("{message}"));
            let written = line["message"].as_str().unwrap();
            assert!(written.starts_with(start), "{written:?}");
            assert!(message.len() > 1 << 20 || written == message, "{written:?}");
            assert!(message.len() < 1 << 20 || written.ends_with('…'), "{}", written.len());
        }
        assert!(line("shop", &nothing, format_args!("\u{202e}")).contains(r"\u202e"));
    }

    #[test]
    fn a_display_that_panics_or_fails_is_a_line_that_says_so() {
        let nothing: [(&str, u8); 0] = [];
        let message = |line: &Json| line["message"].as_str().unwrap().to_owned();
        for (value, start) in [
            (Panicking("half of "), "order half of  (its Display panicked: no \"text\"\n"),
            (Panicking(""), "order  (its"),
        ] {
            let line = of_the_application(&nothing, format_args!("order {value}"));
            assert!(message(&line).starts_with(start), "{line}");
        }
        for is_strict in [true, false] {
            let line = of_the_application(&nothing, format_args!("{}", Failing(is_strict)));
            assert!(message(&line).starts_with("0123456789") && message(&line).ends_with('…'), "{line}");
        }
        let values = [("value", Value::from_display(&Panicking("part")))];
        let line = of_the_application(&values, format_args!("x"));
        assert!(line["fields"]["value"].as_str().unwrap().starts_with("part (its Display panicked: no "), "{line}");
    }

    #[test]
    fn too_many_and_too_long_values_are_counted_or_cut() {
        let long = "x".repeat(1 << 12);
        let names: Vec<String> = (0..1000).map(|number| format!("{number}{long}")).collect();
        let values: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
        let line = of_the_application(&values.as_slice(), format_args!("{long}"));
        let fields = line["fields"].as_object().unwrap();
        assert_eq!(fields["…"], format!("{} more", 1001 - fields.len()));
        let odd: [(&str, Value<'_>); 5] = [
            ("nan", f64::NAN.into()),
            ("large", 1e300.into()),
            ("id", u128::MAX.into()),
            ("\"\n", 'é'.into()),
            ("nothing", Value::null()),
        ];
        let line = of_the_application(&odd, format_args!("x"));
        let expected =
            json!({ "nan": "NaN", "large": 1e300, "id": u128::MAX.to_string(), "\"\n": "é", "nothing": null });
        assert_eq!(line["fields"], expected);
    }

    #[test]
    fn the_longest_line_of_the_framework_is_bounded() {
        let long = "\u{9b}".repeat(1 << 20);
        let fields = LogFields {
            request: Some(&long),
            trace: Some(TraceId::new()),
            task: Some(u64::MAX),
            job: Some(u64::MAX),
            attempt: Some(u32::MAX),
            duration: Some(std::time::Duration::MAX),
            status: Some(u16::MAX),
            method: Some(&long),
            route: Some(&long),
            path: Some(&long),
            client: Some([0xffff; 8].into()),
            error: Some(ErrorList(vec![long.clone(), long.clone()])),
            location: Some(long.clone()),
            backtrace: Some(&long),
        };
        let line = parsed("aside::app", &fields, format_args!("{long}"));
        assert!(line["error"].as_array().is_some_and(|errors| errors.len() == 1), "{line}");
        assert!(line["backtrace"].as_str().unwrap().chars().count() > 100, "{line}");
    }

    #[test]
    fn a_source_of_values_that_panics_loses_only_them() {
        struct Broken;
        impl Source for Broken {
            fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
                visitor.visit_pair("first".into(), 1.into())?;
                panic!("broken")
            }
        }
        let line = of_the_application(&Broken, format_args!("still here"));
        assert_eq!((line["message"].as_str(), line.get("fields")), (Some("still here"), None));
    }
}
