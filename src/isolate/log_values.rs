//! The key-value pairs of a child's log lines, on their way to the parent.
#![cfg_attr(not(unix), allow(dead_code))]

use log::kv::{self, Key, Source, Value, VisitSource, VisitValue};
use serde_json::Value as Json;

use crate::bounds;
use crate::panics;

/// The largest number of pairs, and the longest key and text; further pairs are dropped.
const MOST_PAIRS: usize = 16;
const LONGEST_KEY: usize = 256;
const LONGEST_TEXT: usize = 1 << 10;

/// Key-value pairs: numbers, truth values and texts.
pub(super) type Pairs = Vec<(String, Json)>;

/// Returns the pairs of a line, up to one that panics.
pub(super) fn pairs(source: &dyn Source) -> Pairs {
    let mut pairs = Collected(Pairs::new());
    let _ = panics::catch(|| source.visit(&mut pairs).is_ok());
    pairs.0
}

struct Collected(Pairs);

impl<'kvs> VisitSource<'kvs> for Collected {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if self.0.len() < MOST_PAIRS {
            let mut plain = Plain(None);
            value.visit(&mut plain)?;
            let text = || Json::from(bounds::shorten(&value.to_string(), LONGEST_TEXT).into_owned());
            let key = bounds::shorten(key.as_str(), LONGEST_KEY).into_owned();
            self.0.push((key, plain.0.unwrap_or_else(text)));
        }
        Ok(())
    }
}

/// A value that is not sent as text.
struct Plain(Option<Json>);

impl<'v> VisitValue<'v> for &mut Plain {
    fn visit_any(&mut self, _value: Value<'_>) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no infinity, which is sent as text.
        self.0 = Some(value).filter(|value| value.is_finite()).map(Json::from);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }
}

/// Pairs that were received, as a source for the logger of the parent.
pub(super) struct Received(pub(super) Pairs);

impl Source for Received {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        self.0.iter().try_for_each(|(key, value)| visitor.visit_pair(key.as_str().into(), value_of(value)))
    }
}

fn value_of(json: &Json) -> Value<'_> {
    let number = || {
        let whole = json.as_u64().map(Value::from).or_else(|| json.as_i64().map(Value::from));
        whole.or_else(|| json.as_f64().map(Value::from))
    };
    let other = || json.as_bool().map(Value::from).or_else(number);
    json.as_str().map(Value::from).or_else(other).unwrap_or_else(|| Value::from_display(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_their_types_and_are_bounded() {
        let long = "x".repeat(1 << 20);
        let sent: [(&str, Value<'_>); 6] = [
            ("user", 17_u64.into()),
            ("left", (-1).into()),
            ("ratio", 0.5.into()),
            ("is_new", true.into()),
            ("odd", f64::INFINITY.into()),
            ("long", long.as_str().into()),
        ];
        let json = serde_json::to_string(&pairs(&sent)).unwrap();
        let received = Received(serde_json::from_str(&json).unwrap());
        let texts = pairs(&received);
        assert_eq!(texts, pairs(&sent));
        assert_eq!(
            texts[..4].iter().map(|(_, value)| value.to_string()).collect::<Vec<_>>(),
            ["17", "-1", "0.5", "true"]
        );
        assert_eq!(texts[4].1, "inf");
        assert!(texts[5].1.as_str().is_some_and(|text| text.len() < 1_100));
        assert_eq!(pairs(&vec![("a", 1); 100].as_slice()).len(), MOST_PAIRS);
    }
}
