//! The deserializer of the contents of one field: texts, files, and the fields of a group.

use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

use serde::de::{self, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::refusal::{Kind, Refusal};
use super::{Attempt, Elements, Mode, upload};
use crate::http::forms::multipart::Upload;

/// The contents that were sent under one name.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) at: usize,
    pub(super) texts: &'a [&'a str],
    pub(super) files: &'a [&'a Upload],
    pub(super) children: &'a [usize],
    pub(super) mode: Mode,
}

impl<'a> Value<'a> {
    /// Returns the only text.
    fn one(self) -> Result<&'a str, Refusal> {
        match (self.mode, self.texts) {
            (Mode::StandIn, _) => Ok(""),
            (_, [text]) => Ok(text),
            (_, []) if self.children.is_empty() => Err(Refusal::new(Kind::Missing, "missing")),
            (_, []) => Err(Refusal::new(Kind::Grouped, "given with brackets, where one value is expected")),
            (_, _) => Err(Refusal::new(Kind::Repeated, "given more than once, where one value is expected")),
        }
    }

    /// Returns the only file. A stand-in is an empty file.
    fn file(self) -> Result<Upload, Refusal> {
        let missing = match self.texts {
            [] => "no file was chosen",
            _ => "it was sent as text; a form with files needs enctype=\"multipart/form-data\"",
        };
        match (self.mode, self.files) {
            (Mode::StandIn, _) => Upload::empty().map_err(de::Error::custom),
            (_, [file]) => Ok(Upload::clone(file)),
            (_, []) => Err(Refusal::new(Kind::NoFile, missing)),
            (_, _) => Err(Refusal::new(Kind::Repeated, "given more than once, where one file is expected")),
        }
    }

    fn elements(self) -> Vec<Value<'a>> {
        if self.mode == Mode::StandIn {
            return Vec::new();
        }
        // Some forms send a blank text beside the groups, so that an empty list is sent at all.
        let counts = |text: &&&str| self.children.is_empty() || !text.trim().is_empty();
        let texts = self.texts.iter().filter(counts).map(|text| self.attempt.text(self.at, text));
        let files = self.files.iter().map(|file| {
            let files = std::slice::from_ref(file);
            Value { files, texts: &[], children: &[], ..self }
        });
        let groups = if self.children.is_empty() { Vec::new() } else { self.attempt.tree.elements(self.at) };
        let shown = groups.into_iter().filter(|at| self.attempt.modes[*at] != Mode::Hidden);
        texts.chain(files).chain(shown.map(|at| self.attempt.value(at))).collect()
    }

    /// Deserializes the group that names with brackets form.
    fn group<V: Visitor<'a>>(self, known: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        if self.children.is_empty() && !self.texts.is_empty() {
            return Err(Refusal::new(Kind::Other, "a single value, where names with brackets are expected"));
        }
        visitor.visit_map(self.attempt.fields(self.at, known)).map_err(|refusal| refusal.within(self.at))
    }

    /// Returns the only text as a number. A stand-in is 1, which `NonZero` accepts too.
    fn number(self) -> Result<&'a str, Refusal> {
        if self.mode == Mode::StandIn { Ok("1") } else { self.one().map(str::trim) }
    }

    /// Returns the text as a boolean. The last of several texts counts: many forms have a hidden `off` before the
    /// checkbox.
    fn boolean(self) -> Result<bool, Refusal> {
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

fn whole_number<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, Refusal> {
    let is_negative = || text.strip_prefix('-').is_some_and(|rest| rest.parse::<u128>().is_ok());
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => Refusal::new(Kind::TooLarge, error),
        IntErrorKind::NegOverflow => Refusal::new(Kind::TooSmall, error),
        _ if is_negative() => Refusal::new(Kind::Negative, "negative, where a number from 0 is expected"),
        _ => Refusal::new(Kind::WholeNumber, error),
    })
}

/// Parses a number. `NaN` and `inf` parse in Rust, but a form never means them.
fn finite(text: &str) -> Result<f64, Refusal> {
    let number: f64 = text.parse().map_err(|error| Refusal::new(Kind::Number, error))?;
    if number.is_finite() { Ok(number) } else { Err(Refusal::new(Kind::Number, "not a finite number")) }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty,)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
            visitor.$visit(whole_number::<$type>(self.number()?)?)
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
            visitor.visit_borrowed_str(self.one()?)
        })*
    };
}

impl<'a> de::Deserializer<'a> for Value<'a> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match (self.mode, self.children) {
            (Mode::StandIn, _) | (_, []) => visitor.visit_borrowed_str(self.one()?),
            _ if self.attempt.tree.is_list(self.at) => self.deserialize_seq(visitor),
            _ => self.group(&[], visitor),
        }
    }

    texts! {
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
    }

    /// Reads the name of a struct's field. The keys of a map are texts and do not come here.
    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.attempt.named.borrow_mut().insert(self.attempt.tree.node(self.at).parent);
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

    fn deserialize_f32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_f64(finite(self.number()?)?)
    }

    fn deserialize_f64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_f64(finite(self.number()?)?)
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let is_blank = || self.texts.iter().all(|text| text.trim().is_empty()) && self.files.is_empty();
        let is_blank = || is_blank() && self.children.iter().all(|at| self.attempt.tree.is_blank(*at));
        if !self.children.is_empty() {
            self.attempt.optional.borrow_mut().insert(self.at);
        }
        match self.mode {
            Mode::StandIn | Mode::Absent => visitor.visit_none(),
            Mode::BlankIsNone if is_blank() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        if name != upload::NAME {
            return visitor.visit_newtype_struct(self);
        }
        upload::pass_on(self.file()?);
        visitor.visit_unit()
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_seq(Elements(self.elements().into_iter()))
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.group(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.group(fields, visitor)
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let stand_in = variants.first().copied().unwrap_or_default();
        let text = if self.mode == Mode::StandIn { stand_in } else { self.one()? };
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        unit unit_struct tuple_struct
    }
}
