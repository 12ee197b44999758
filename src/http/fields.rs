//! What was typed into a form, read into a type: serde over names and lists of texts.
//!
//! A form knows neither types nor absence: an unticked checkbox and an empty multiple choice are not sent at all, an
//! optional number that was left alone is sent blank. What a field was meant to be shows only when serde asks for it, and a
//! visitor can be asked only once. So a reading is tried, and tried again with what the failure taught about its field
//! (see [`Mode`]), until it succeeds or every field that cannot be read is known, not only the first.

use std::collections::HashMap;
use std::fmt;
use std::num::IntErrorKind;

use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// As many wrong fields as a page can sensibly show; looking for more only costs time.
const MOST_REFUSALS: usize = 100;

/// Why a field could not be read.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// Its name; none when it is the whole that is wrong.
    pub(crate) field: Option<String>,
    pub(crate) kind: Kind,
    /// In the words of the one who refused it.
    pub(crate) words: String,
}

/// What sort of refusal it is, for words that a visitor understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Missing,
    Unexpected,
    Blank,
    WholeNumber,
    TooLarge,
    TooSmall,
    Number,
    Choice,
    Repeated,
    Other,
}

impl Refusal {
    fn new(kind: Kind, words: impl fmt::Display) -> Refusal {
        Refusal { field: None, kind, words: words.to_string() }
    }

    fn at(self, field: &str) -> Refusal {
        Refusal { field: self.field.or_else(|| Some(field.to_owned())), ..self }
    }

    /// For a client that reads error messages, with what kind of thing the field is: `field`, `parameter`.
    pub(crate) fn technical(&self, noun: &str) -> String {
        match (&self.field, self.kind) {
            (None, _) => self.words.clone(),
            (Some(field), Kind::Missing) => format!("The {noun} `{field}` is missing."),
            (Some(field), Kind::Unexpected) => format!("The {noun} `{field}` is not expected here."),
            (Some(field), _) => format!("The {noun} `{field}`: {}", self.words),
        }
    }

    /// For a visitor, beside the field.
    pub(crate) fn friendly(&self) -> String {
        match self.kind {
            Kind::Missing | Kind::Blank => "Please fill this in.".to_owned(),
            Kind::WholeNumber => "Please enter a whole number.".to_owned(),
            Kind::TooLarge => "Please enter a smaller number.".to_owned(),
            Kind::TooSmall => "Please enter a larger number.".to_owned(),
            Kind::Number => "Please enter a number.".to_owned(),
            Kind::Choice => "Please choose one of the options.".to_owned(),
            Kind::Repeated => "Please give one value only.".to_owned(),
            Kind::Unexpected | Kind::Other => self.words.clone(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(words: T) -> Refusal {
        Refusal::new(Kind::Other, words)
    }

    fn missing_field(field: &'static str) -> Refusal {
        Refusal::new(Kind::Missing, format_args!("missing field `{field}`")).at(field)
    }

    fn unknown_field(field: &str, _expected: &'static [&'static str]) -> Refusal {
        Refusal::new(Kind::Unexpected, "This field is not expected here.").at(field)
    }

    fn duplicate_field(field: &'static str) -> Refusal {
        Refusal::new(Kind::Repeated, "given more than once").at(field)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Refusal {
        let choices: Vec<String> = expected.iter().map(|choice| format!("`{choice}`")).collect();
        Refusal::new(Kind::Choice, format_args!("`{variant}` is none of {}", choices.join(", ")))
    }
}

/// What came of reading a form.
pub(crate) struct Reading<T> {
    /// The value. Where there are refusals, the fields that they name have a stand-in there: 1, false, nothing.
    pub(crate) value: Option<T>,
    pub(crate) refusals: Vec<Refusal>,
}

/// How a field is read, at first and after a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As it was sent.
    Given,
    /// Blank is none, where the type is optional.
    BlankIsNone,
    /// It was not sent: an unticked checkbox, an empty choice of several.
    Absent,
    /// It is wrong, and takes a stand-in, so that the fields after it are looked at too.
    StandIn,
    /// It is wrong, and its type has no stand-in.
    Hidden,
}

/// Reads what was typed.
pub(crate) fn read<T: DeserializeOwned>(pairs: &[(String, String)]) -> Reading<T> {
    let mut attempt = Attempt::new(pairs);
    let mut refusals = Vec::new();
    loop {
        let refusal = match T::deserialize(&attempt) {
            Ok(value) => return Reading { value: Some(value), refusals },
            Err(refusal) => refusal,
        };
        if !attempt.learn(&refusal, &mut refusals) || refusals.len() >= MOST_REFUSALS {
            return Reading { value: None, refusals };
        }
    }
}

/// The fields, by name in the order of their first appearance, and how each is to be read.
struct Attempt<'de> {
    fields: Vec<Field<'de>>,
    index: HashMap<String, usize>,
}

struct Field<'de> {
    name: std::borrow::Cow<'de, str>,
    values: Vec<&'de str>,
    mode: Mode,
}

impl<'de> Attempt<'de> {
    fn new(pairs: &'de [(String, String)]) -> Attempt<'de> {
        let mut attempt = Attempt { fields: Vec::new(), index: HashMap::new() };
        for (name, value) in pairs {
            let at = *attempt.index.entry(name.clone()).or_insert(attempt.fields.len());
            match attempt.fields.get_mut(at) {
                Some(field) => field.values.push(value),
                None => {
                    attempt.fields.push(Field { name: name.into(), values: vec![value], mode: Mode::Given });
                }
            }
        }
        attempt
    }

    /// Takes note of a failure. Whether another attempt can tell more; each one moves a field on to its next mode, so
    /// there is an end to it.
    fn learn(&mut self, refusal: &Refusal, refusals: &mut Vec<Refusal>) -> bool {
        let Some(name) = &refusal.field else {
            refusals.push(refusal.clone());
            return false;
        };
        let Some(&at) = self.index.get(name) else {
            self.index.insert(name.clone(), self.fields.len());
            self.fields.push(Field { name: name.clone().into(), values: Vec::new(), mode: Mode::Absent });
            return true;
        };
        let field = &mut self.fields[at];
        let blank = field.values.iter().any(|value| value.trim().is_empty());
        field.mode = match field.mode {
            Mode::Given if blank => Mode::BlankIsNone,
            Mode::Given | Mode::BlankIsNone | Mode::Absent => {
                let kind = if blank && refusal.kind != Kind::Other { Kind::Blank } else { refusal.kind };
                refusals.push(Refusal { kind, ..refusal.clone() });
                if refusal.kind == Kind::Unexpected { Mode::Hidden } else { Mode::StandIn }
            }
            Mode::StandIn => Mode::Hidden,
            Mode::Hidden => return false,
        };
        true
    }
}

impl<'de, 'a: 'de> de::Deserializer<'de> for &'a Attempt<'de> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_map(Fields { left: self.fields.iter(), current: None })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Fields<'a, 'de> {
    left: std::slice::Iter<'a, Field<'de>>,
    current: Option<&'a Field<'de>>,
}

impl<'de, 'a: 'de> MapAccess<'de> for Fields<'a, 'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        self.current = self.left.find(|field| field.mode != Mode::Hidden);
        let Some(field) = self.current else { return Ok(None) };
        let key = BorrowedStrDeserializer::new(&field.name);
        seed.deserialize(key).map(Some).map_err(|refusal: Refusal| refusal.at(&field.name))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let Some(field) = self.current else { return Err(de::Error::custom("a value was asked for before its name")) };
        let value = Value { texts: &field.values, mode: field.mode };
        seed.deserialize(value).map_err(|refusal| refusal.at(&field.name))
    }
}

/// What was sent under one name.
#[derive(Clone, Copy)]
struct Value<'a, 'de> {
    texts: &'a [&'de str],
    mode: Mode,
}

impl<'de> Value<'_, 'de> {
    /// The one text.
    fn one(self) -> Result<&'de str, Refusal> {
        match (self.mode, self.texts) {
            (Mode::StandIn, _) => Ok(""),
            (_, [text]) => Ok(text),
            (_, []) => Err(Refusal::new(Kind::Missing, "missing")),
            (_, _) => Err(Refusal::new(Kind::Repeated, "given more than once, where one value is expected")),
        }
    }

    /// The one text as a number. A stand-in is 1, which `NonZero` takes too.
    fn number(self) -> Result<&'de str, Refusal> {
        if self.mode == Mode::StandIn { Ok("1") } else { self.one().map(str::trim) }
    }

    /// The one text as yes or no. Of several the last counts: a hidden `off` before the checkbox is an old habit.
    fn truth(self) -> Result<bool, Refusal> {
        let text = match (self.mode, self.texts) {
            (Mode::StandIn, _) | (_, []) => return Ok(false),
            (_, [.., last]) => last.trim(),
        };
        match text {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            _ => Err(Refusal::new(Kind::Choice, format_args!("`{text}` is neither `on` nor `off`"))),
        }
    }
}

fn whole(error: std::num::ParseIntError) -> Refusal {
    let kind = match error.kind() {
        IntErrorKind::PosOverflow => Kind::TooLarge,
        IntErrorKind::NegOverflow => Kind::TooSmall,
        _ => Kind::WholeNumber,
    };
    Refusal::new(kind, error)
}

/// `NaN` and `inf` parse, and are never what a form means.
fn finite(text: &str) -> Result<f64, Refusal> {
    let number: f64 = text.parse().map_err(|error| Refusal::new(Kind::Number, error))?;
    if number.is_finite() { Ok(number) } else { Err(Refusal::new(Kind::Number, "not a finite number")) }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            visitor.$visit(self.number()?.parse::<$type>().map_err(whole)?)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Value<'_, 'de> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_borrowed_str(self.one()?)
    }

    whole_numbers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_f64(finite(self.number()?)?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_f64(finite(self.number()?)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_bool(self.truth()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let blank = self.texts.iter().all(|text| text.trim().is_empty());
        match self.mode {
            Mode::StandIn | Mode::Absent => visitor.visit_none(),
            Mode::BlankIsNone if blank => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let texts = if self.mode == Mode::StandIn { &[] } else { self.texts };
        let each = texts.iter().map(|text| Value { texts: std::slice::from_ref(text), mode: self.mode });
        visitor.visit_seq(SeqDeserializer::new(each))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let stand_in = variants.first().copied().unwrap_or_default();
        let text = if self.mode == Mode::StandIn { stand_in } else { self.one()? };
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple_struct map struct identifier
    }
}

impl<'de> IntoDeserializer<'de, Refusal> for Value<'_, 'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::num::NonZeroU8;

    use serde::Deserialize;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        text.split('&').filter_map(pair).collect()
    }

    fn right<T: DeserializeOwned>(text: &str) -> T {
        let reading = read(&pairs(text));
        assert!(reading.refusals.is_empty(), "{:?}", reading.refusals);
        reading.value.unwrap()
    }

    fn wrong<T: DeserializeOwned>(text: &str) -> Vec<String> {
        read::<T>(&pairs(text)).refusals.iter().map(|refusal| refusal.technical("field")).collect()
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Size {
        Small,
        Large,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    struct Order {
        email: String,
        quantity: u32,
        price: f64,
        size: Size,
        news: bool,
        tags: Vec<String>,
        age: Option<u8>,
        note: Option<String>,
    }

    #[test]
    fn an_order_is_read() {
        let order: Order = right("email=a&quantity= 5 &price=1.5&size=large&news=on&tags=x&tags=&tags=y&age=&note=");
        assert_eq!((order.quantity, order.price, order.size, order.news), (5, 1.5, Size::Large, true));
        assert_eq!(order.tags, ["x", "", "y"]);
        assert_eq!((order.age, order.note.as_deref()), (None, Some("")));
    }

    #[test]
    fn what_a_browser_does_not_send_is_unticked_and_unchosen() {
        let order: Order = right("email=a&quantity=5&price=1&size=small");
        assert!(!order.news && order.tags.is_empty());
        assert_eq!((order.age, order.note), (None, None));
    }

    #[test]
    fn every_field_that_is_wrong_is_found() {
        assert_eq!(
            wrong::<Order>("quantity=many&price=NaN&size=huge&news=perhaps&age=300"),
            [
                "The field `quantity`: invalid digit found in string",
                "The field `price`: not a finite number",
                "The field `size`: `huge` is none of `small`, `large`",
                "The field `news`: `perhaps` is neither `on` nor `off`",
                "The field `age`: number too large to fit in target type",
                "The field `email` is missing.",
            ]
        );
    }

    #[test]
    fn a_type_without_a_stand_in_hides_no_field_that_was_sent() {
        #[derive(Deserialize)]
        #[serde(try_from = "String")]
        struct Mail;
        impl TryFrom<String> for Mail {
            type Error = String;
            fn try_from(text: String) -> Result<Mail, String> {
                if text.contains('@') { Ok(Mail) } else { Err("That is no mail address.".to_owned()) }
            }
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Both {
            mail: Mail,
            other: Option<Mail>,
            number: NonZeroU8,
            list: Vec<u8>,
        }
        let words = wrong::<Both>("mail=x&number=0&list=1&list=b&other=");
        assert_eq!(words.len(), 3, "{words:?}");
        assert_eq!(words[0], "The field `mail`: That is no mail address.");
        assert!(words[1].starts_with("The field `number`") && words[2].starts_with("The field `list`"), "{words:?}");
        right::<Both>("mail=@&number=1&other=");
    }

    #[test]
    fn a_field_that_is_given_twice_has_no_single_value() {
        #[derive(Deserialize, Debug)]
        #[allow(dead_code)]
        struct One {
            id: u32,
            news: bool,
        }
        assert!(wrong::<One>("id=1&id=2")[0].starts_with("The field `id`: given more than once"));
        assert!(right::<One>("id=1&news=off&news=on").news);
    }

    #[test]
    fn unknown_fields_are_ignored_unless_they_are_denied() {
        #[derive(Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Strict {
            id: u32,
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Lenient {
            id: u32,
        }
        right::<Lenient>("id=1&x=1&x=2");
        assert_eq!(wrong::<Strict>("x=1&id=y").len(), 2);
        assert_eq!(wrong::<Strict>("x=1&id=1"), ["The field `x` is not expected here."]);
    }

    #[test]
    fn a_map_takes_every_name() {
        let map: HashMap<String, u32> = right("a=1&b=2");
        assert_eq!((map["a"], map["b"]), (1, 2));
        assert!(wrong::<Vec<u32>>("a=1")[0].contains("expected a sequence"));
    }

    #[test]
    fn a_form_that_is_wrong_in_thousands_of_ways_is_given_up_on() {
        let text: Vec<String> = (0..2_000).map(|number| format!("n{number}=x")).collect();
        assert_eq!(wrong::<HashMap<String, u32>>(&text.join("&")).len(), MOST_REFUSALS);
    }

    #[test]
    fn friendly_words_say_what_to_do() {
        let friendly = |text: &str| -> Vec<String> {
            read::<Order>(&pairs(text)).refusals.iter().map(Refusal::friendly).collect()
        };
        assert_eq!(
            friendly("email=a&quantity=&price=x&size=&tags=a"),
            ["Please fill this in.", "Please enter a number.", "Please fill this in."]
        );
        assert_eq!(friendly("email=a&quantity=99999999999&price=1&size=small"), ["Please enter a smaller number."]);
    }
}
