//! The form deserializer: serde over a tree of field names with texts and files.
//!
//! A submitted form carries neither types nor absent fields: a browser does not send an unticked checkbox or an empty
//! multiple choice, and it sends an empty optional number as a blank text. The deserializer learns the type of a field
//! only when serde asks for it, and serde consumes a visitor on each call. So [`read`] deserializes the form again
//! after each failure, with a new [`Mode`] for the failed field, until it succeeds or all invalid fields are known, not
//! only the first.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::field_path::{ROOT, Sent, Tree};
use super::multipart::Upload;

/// The largest number of errors that are collected. A page cannot show more, and each one costs another pass.
const MAX_REFUSALS: usize = 100;

/// The reason why a field could not be read.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The field's name as the client sent it; `None` when the error concerns the whole form.
    pub(crate) field: Option<String>,
    pub(crate) kind: Kind,
    /// The message of serde, of the type or of this module.
    pub(crate) message: String,
    /// The field's node in the tree of names, and the name of a missing child of that node.
    node: Option<usize>,
    child: Option<&'static str>,
}

/// The category of a refusal, from which a message for the user follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Missing,
    Unexpected,
    Blank,
    WholeNumber,
    TooLarge,
    TooSmall,
    Negative,
    Number,
    Choice,
    Repeated,
    Grouped,
    NoFile,
    Other,
}

impl Refusal {
    fn new(kind: Kind, message: impl fmt::Display) -> Refusal {
        Refusal { field: None, kind, message: message.to_string(), node: None, child: None }
    }

    /// Returns this refusal at the given node, unless it has a node already.
    fn within(self, node: usize) -> Refusal {
        Refusal { node: self.node.or(Some(node)), ..self }
    }

    fn about(self, child: &'static str) -> Refusal {
        Refusal { child: Some(child), ..self }
    }

    fn is_about_the_whole(&self) -> bool {
        self.node.is_none_or(|node| node == ROOT) && self.child.is_none()
    }

    /// Returns the message for a developer. `noun` says what the field is: `field` or `parameter`.
    pub(crate) fn technical(&self, noun: &str) -> String {
        match (&self.field, self.kind) {
            (None, _) => self.message.clone(),
            (Some(field), Kind::Missing) => format!("The {noun} `{field}` is missing."),
            (Some(field), Kind::Unexpected) => format!("The {noun} `{field}` is not expected here."),
            (Some(field), _) => format!("The {noun} `{field}`: {}", self.message),
        }
    }

    /// Returns the message for the user, to be shown beside the field.
    pub(crate) fn friendly(&self) -> String {
        match self.kind {
            Kind::Missing | Kind::Blank | Kind::Grouped => "Please fill this in.".to_owned(),
            Kind::NoFile => "Please choose a file.".to_owned(),
            Kind::WholeNumber => "Please enter a whole number.".to_owned(),
            Kind::TooLarge => "Please enter a smaller number.".to_owned(),
            Kind::TooSmall => "Please enter a larger number.".to_owned(),
            Kind::Negative => "Please enter a number that is not negative.".to_owned(),
            Kind::Number => "Please enter a number.".to_owned(),
            Kind::Choice => "Please choose one of the options.".to_owned(),
            Kind::Repeated => "Please give one value only.".to_owned(),
            Kind::Unexpected | Kind::Other => self.message.clone(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Refusal {
        Refusal::new(Kind::Other, message)
    }

    fn missing_field(field: &'static str) -> Refusal {
        Refusal::new(Kind::Missing, format_args!("missing field `{field}`")).about(field)
    }

    fn unknown_field(_field: &str, _expected: &'static [&'static str]) -> Refusal {
        Refusal::new(Kind::Unexpected, "This field is not expected here.")
    }

    fn duplicate_field(field: &'static str) -> Refusal {
        Refusal::new(Kind::Repeated, "given more than once").about(field)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Refusal {
        let choices: Vec<String> = expected.iter().map(|choice| format!("`{choice}`")).collect();
        Refusal::new(Kind::Choice, format_args!("`{variant}` is not one of {}", choices.join(", ")))
    }
}

/// The result of reading a form.
pub(crate) struct Reading<T> {
    /// The value. A field with a refusal holds a stand-in: 1, `false` or an empty value.
    pub(crate) value: Option<T>,
    pub(crate) refusals: Vec<Refusal>,
}

/// The way in which a field is read: at first, and after a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The field is read as it was sent.
    Given,
    /// A blank field is `None`, if the type is optional.
    BlankIsNone,
    /// The field was not sent: an unticked checkbox, an empty multiple choice.
    Absent,
    /// The field is invalid and reads as a stand-in, so that the fields after it are read too.
    StandIn,
    /// The field is invalid, and its type accepts no stand-in: it is left out.
    Hidden,
}

/// The names whose brackets are ordinary characters.
#[derive(Clone, PartialEq, Eq)]
enum Literal {
    Nothing,
    /// The names that the type itself declares: `#[serde(rename = "tags[]")]`.
    Names(Vec<&'static str>),
    /// All names: the type is a map of texts.
    Everything,
}

/// Deserializes the fields that were sent.
pub(crate) fn read<T: DeserializeOwned>(sent: &[(String, Sent)]) -> Reading<T> {
    let mut literal = Literal::Nothing;
    loop {
        match Attempt::new(sent, literal).read() {
            Ok(reading) => return reading,
            Err(other) => literal = other,
        }
    }
}

/// One pass over the fields, with the mode of each.
struct Attempt<'a> {
    tree: Tree<'a>,
    /// The modes of the nodes of the tree, by index.
    modes: Vec<Mode>,
    literal: Literal,
    /// What the type asked for so far: optional groups, groups with named fields, names with brackets, and a map that
    /// takes every name.
    optional: RefCell<HashSet<usize>>,
    named: RefCell<HashSet<usize>>,
    with_brackets: RefCell<Vec<&'static str>>,
    is_map: Cell<bool>,
}

impl<'a> Attempt<'a> {
    fn new(sent: &'a [(String, Sent)], literal: Literal) -> Attempt<'a> {
        let tree = Tree::new(sent, |name| match &literal {
            Literal::Nothing => false,
            Literal::Names(names) => names.contains(&name),
            Literal::Everything => true,
        });
        let modes = vec![Mode::Given; tree.len()];
        Attempt {
            tree,
            modes,
            literal,
            optional: RefCell::default(),
            named: RefCell::default(),
            with_brackets: RefCell::default(),
            is_map: Cell::new(false),
        }
    }

    /// Deserializes until it succeeds or every refusal is known. The error is the set of names to read literally in a
    /// new pass.
    fn read<T: DeserializeOwned>(mut self) -> Result<Reading<T>, Literal> {
        let mut refusals = Vec::new();
        loop {
            let refusal = match T::deserialize(Root(&self)) {
                Ok(value) => return Ok(Reading { value: Some(value), refusals }),
                Err(refusal) => refusal,
            };
            if let Some(literal) = self.other_names(&refusal) {
                return Err(literal);
            }
            if !self.record(refusal, &mut refusals) || refusals.len() >= MAX_REFUSALS {
                return Ok(Reading { value: None, refusals });
            }
        }
    }

    fn other_names(&self, refusal: &Refusal) -> Option<Literal> {
        let names = self.with_brackets.take();
        if !names.is_empty() {
            return Some(Literal::Names(names));
        }
        let for_groups = refusal.kind == Kind::Grouped || refusal.is_about_the_whole();
        let can_be_map = for_groups && self.is_map.get() && self.tree.has_groups();
        (can_be_map && self.literal != Literal::Everything).then_some(Literal::Everything)
    }

    /// Records a failure. Returns true if another pass can find more. Each failure moves a field on to its next mode,
    /// so the passes end.
    fn record(&mut self, refusal: Refusal, refusals: &mut Vec<Refusal>) -> bool {
        let group = refusal.node.unwrap_or(ROOT);
        let child = refusal.child.map(|key| (key, self.tree.child(group, key)));
        let at = match child {
            Some((key, None)) if self.add_missing(group, key) => return true,
            Some((_, Some(child))) => child,
            _ => group,
        };
        if at == ROOT {
            refusals.push(refusal);
            return false;
        }
        let is_blank = self.tree.node(at).texts.iter().any(|text| text.trim().is_empty());
        match self.modes[at] {
            Mode::Given if is_blank => self.blank_is_none(at),
            Mode::Given | Mode::BlankIsNone | Mode::Absent => self.refuse(at, is_blank, refusal, refusals),
            Mode::StandIn => self.modes[at] = Mode::Hidden,
            Mode::Hidden => return self.hide_group_of(at),
        }
        true
    }

    /// Adds a missing field in all elements of a list at once. Returns false if the tree is too deep for it.
    fn add_missing(&mut self, at: usize, key: &'static str) -> bool {
        let has_capacity = self.tree.add_missing(at, key);
        self.modes.resize(self.tree.len(), Mode::Absent);
        has_capacity
    }

    /// Applies to all fields of the same type: the nodes of the same kind, and in a map all its values.
    fn blank_is_none(&mut self, at: usize) {
        let group = self.tree.node(at).parent;
        let values = || self.tree.same_kind(group).iter().flat_map(|group| &self.tree.node(*group).children);
        let of_its_type: Vec<usize> = match self.named.borrow().contains(&group) {
            true => self.tree.same_kind(at).to_vec(),
            false => values().copied().collect(),
        };
        for at in of_its_type {
            if self.modes[at] == Mode::Given {
                self.modes[at] = Mode::BlankIsNone;
            }
        }
    }

    /// Records an error for a field, unless the field belongs to an optional group that was left blank.
    fn refuse(&mut self, at: usize, is_blank: bool, refusal: Refusal, refusals: &mut Vec<Refusal>) {
        if let Some(group) = self.untouched_group(at) {
            return self.blank_is_none(group);
        }
        let kind = match refusal.kind {
            Kind::Grouped => Kind::Missing,
            kind @ (Kind::Other | Kind::Unexpected | Kind::NoFile) => kind,
            _ if is_blank => Kind::Blank,
            kind => kind,
        };
        self.modes[at] = if kind == Kind::Unexpected { Mode::Hidden } else { Mode::StandIn };
        refusals.push(Refusal { field: Some(self.tree.node(at).name.to_string()), kind, ..refusal });
    }

    fn untouched_group(&self, at: usize) -> Option<usize> {
        let above = |at: &usize| Some(self.tree.node(*at).parent).filter(|parent| *parent != ROOT);
        let mut groups = std::iter::successors(Some(at), above);
        let is_optional = |at: usize| self.modes[at] == Mode::Given && self.optional.borrow().contains(&at);
        groups.find(|at| is_optional(*at) && self.tree.is_blank(*at))
    }

    /// Hides a group together with a field that it cannot do without, so that the fields after the group are read too.
    fn hide_group_of(&mut self, at: usize) -> bool {
        let group = self.tree.node(at).parent;
        self.modes[group] = Mode::Hidden;
        group != ROOT
    }

    fn value(&self, at: usize) -> Value<'_> {
        let node = self.tree.node(at);
        let (texts, files, children) = (&node.texts, &node.files, &node.children);
        Value { attempt: self, at, texts, files, children, mode: self.modes[at] }
    }

    /// Returns a value of one text: a part of a name, or one of several texts under a name.
    fn text<'t>(&'t self, at: usize, text: &'t &'t str) -> Value<'t> {
        let texts = std::slice::from_ref(text);
        Value { attempt: self, at, texts, files: &[], children: &[], mode: self.modes[at] }
    }

    /// Returns the fields of a group. Files are among them if the type's field names are known; a map of texts skips
    /// files.
    fn fields<'t>(&'t self, at: usize, known: &'static [&'static str]) -> Fields<'t> {
        Fields { attempt: self, left: self.tree.node(at).children.iter(), known, current: ROOT }
    }
}

/// The deserializer of the whole form.
struct Root<'a>(&'a Attempt<'a>);

impl<'a> de::Deserializer<'a> for Root<'a> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.0.is_map.set(true);
        visitor.visit_map(self.0.fields(ROOT, &[])).map_err(|refusal| refusal.within(ROOT))
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let with_brackets = fields.iter().copied().filter(|name| name.contains('['));
        if self.0.literal == Literal::Nothing && with_brackets.clone().next().is_some() {
            self.0.with_brackets.borrow_mut().extend(with_brackets);
            return Err(de::Error::custom("some names have brackets"));
        }
        visitor.visit_map(self.0.fields(ROOT, fields)).map_err(|refusal| refusal.within(ROOT))
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

struct Fields<'a> {
    attempt: &'a Attempt<'a>,
    left: std::slice::Iter<'a, usize>,
    known: &'static [&'static str],
    current: usize,
}

impl Fields<'_> {
    fn next_shown(&mut self) -> Option<usize> {
        loop {
            let at = *self.left.next()?;
            if self.is_shown(at) {
                return Some(at);
            }
        }
    }

    fn is_shown(&self, at: usize) -> bool {
        let tree = &self.attempt.tree;
        let is_taken = || !tree.has_only_files(at) || self.known.contains(&tree.node(at).key);
        self.attempt.modes[at] != Mode::Hidden && is_taken()
    }
}

impl<'a> MapAccess<'a> for Fields<'a> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some(at) = self.next_shown() else { return Ok(None) };
        self.current = at;
        let key = Value { mode: Mode::Given, ..self.attempt.text(at, &self.attempt.tree.node(at).key) };
        seed.deserialize(key).map(Some).map_err(|refusal| refusal.within(at))
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        seed.deserialize(self.attempt.value(self.current)).map_err(|refusal| refusal.within(self.current))
    }
}

/// The values of a list, in order.
struct Elements<'a>(std::vec::IntoIter<Value<'a>>);

impl<'a> SeqAccess<'a> for Elements<'a> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(value) = self.0.next() else { return Ok(None) };
        seed.deserialize(value).map(Some).map_err(|refusal| refusal.within(value.at))
    }
}

/// The contents that were sent under one name.
#[derive(Clone, Copy)]
struct Value<'a> {
    attempt: &'a Attempt<'a>,
    at: usize,
    texts: &'a [&'a str],
    files: &'a [&'a Upload],
    children: &'a [usize],
    mode: Mode,
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
        if name != UPLOAD {
            return visitor.visit_newtype_struct(self);
        }
        let file = self.file()?;
        if file.is_stand_in() {
            STAND_IN_TAKEN.set(true);
        }
        PENDING_UPLOAD.set(Some(file));
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

/// The name with which [`Upload`] asks serde for a file.
const UPLOAD: &str = "aside::Upload";

thread_local! {
    /// Serde carries texts and numbers only. A file passes here, from the deserializer to the type on the same thread.
    static PENDING_UPLOAD: Cell<Option<Upload>> = const { Cell::new(None) };
    static STAND_IN_TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Returns true if a form of this type takes a file in the named field, or if the type cannot tell. Other files need
/// not be stored.
pub(crate) fn takes_file<T: DeserializeOwned>(name: &str) -> bool {
    STAND_IN_TAKEN.set(false);
    let reading: Reading<T> = read(&[(name.to_owned(), Sent::File(Upload::stand_in()))]);
    reading.value.is_none() || STAND_IN_TAKEN.get()
}

/// Reads a file field of a form's type: see [`Request::submitted`](crate::Request::submitted).
impl<'de> Deserialize<'de> for Upload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Upload, D::Error> {
        struct Taken;
        impl Visitor<'_> for Taken {
            type Value = Upload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file of a multipart form")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Upload, E> {
                PENDING_UPLOAD.take().ok_or_else(|| E::invalid_type(de::Unexpected::Unit, &self))
            }
        }
        deserializer.deserialize_newtype_struct(UPLOAD, Taken)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::num::NonZeroU8;

    use serde::Deserialize;

    use super::*;

    fn sent(text: &str) -> Vec<(String, Sent)> {
        let pair =
            |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), Sent::Text(value.to_owned())));
        text.split('&').filter_map(pair).collect()
    }

    fn right<T: DeserializeOwned>(text: &str) -> T {
        let reading = read(&sent(text));
        assert!(reading.refusals.is_empty(), "{:?}", reading.refusals);
        reading.value.unwrap()
    }

    fn wrong<T: DeserializeOwned>(text: &str) -> Vec<String> {
        read::<T>(&sent(text)).refusals.iter().map(|refusal| refusal.technical("field")).collect()
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
    fn a_struct_is_read() {
        let order: Order = right("email=a&quantity= 5 &price=1.5&size=large&news=on&tags=x&tags=&tags=y&age=&note=");
        assert_eq!((order.quantity, order.price, order.size, order.news), (5, 1.5, Size::Large, true));
        assert_eq!(order.tags, ["x", "", "y"]);
        assert_eq!((order.age, order.note.as_deref()), (None, Some("")));
    }

    #[test]
    fn unticked_checkboxes_and_empty_choices_are_read() {
        let order: Order = right("email=a&quantity=5&price=1&size=small");
        assert!(!order.news && order.tags.is_empty());
        assert_eq!((order.age, order.note), (None, None));
    }

    #[test]
    fn all_invalid_fields_are_reported() {
        assert_eq!(
            wrong::<Order>("quantity=many&price=NaN&size=huge&news=perhaps&age=300"),
            [
                "The field `quantity`: invalid digit found in string",
                "The field `price`: not a finite number",
                "The field `size`: `huge` is not one of `small`, `large`",
                "The field `news`: `perhaps` is neither `on` nor `off`",
                "The field `age`: number too large to fit in target type",
                "The field `email` is missing.",
            ]
        );
    }

    #[test]
    fn a_type_without_a_stand_in_does_not_hide_other_errors() {
        #[derive(Deserialize)]
        #[serde(try_from = "String")]
        struct Mail;
        impl TryFrom<String> for Mail {
            type Error = String;
            fn try_from(text: String) -> Result<Mail, String> {
                if text.contains('@') { Ok(Mail) } else { Err("This is not a mail address.".to_owned()) }
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
        let message = wrong::<Both>("mail=x&number=0&list=1&list=b&other=");
        assert_eq!(message.len(), 3, "{message:?}");
        assert_eq!(message[0], "The field `mail`: This is not a mail address.");
        assert!(
            message[1].starts_with("The field `number`") && message[2].starts_with("The field `list`"),
            "{message:?}"
        );
        right::<Both>("mail=@&number=1&other=");
    }

    #[test]
    fn a_repeated_field_is_not_a_single_value() {
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
        assert_eq!(wrong::<Strict>("x=&id=1"), ["The field `x` is not expected here."]);
    }

    #[test]
    fn a_map_takes_every_name() {
        let map: HashMap<String, u32> = right("a=1&b=2");
        assert_eq!((map["a"], map["b"]), (1, 2));
        assert!(wrong::<Vec<u32>>("a=1")[0].contains("expected a sequence"));
    }

    #[test]
    fn at_most_one_hundred_errors_are_collected() {
        let text: Vec<String> = (0..2_000).map(|number| format!("n{number}=x")).collect();
        assert_eq!(wrong::<HashMap<String, u32>>(&text.join("&")).len(), MAX_REFUSALS);
    }

    #[derive(Deserialize, Debug, PartialEq)]
    struct Address {
        city: String,
        zip: u32,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    struct Item {
        sku: String,
        quantity: u32,
        gift: bool,
        #[serde(default)]
        notes: Vec<String>,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    struct Cart {
        address: Address,
        items: Vec<Item>,
        billing: Option<Address>,
        tags: Vec<String>,
    }

    fn skus(text: &str) -> Vec<String> {
        #[derive(Deserialize)]
        struct Sku {
            sku: String,
        }
        #[derive(Deserialize)]
        struct Skus {
            items: Vec<Sku>,
        }
        right::<Skus>(text).items.into_iter().map(|item| item.sku).collect()
    }

    #[test]
    fn names_with_brackets_fill_nested_types() {
        let cart: Cart = right(
            "address[city]=Lviv&address[zip]=79000&items[0][sku]=a&items[0][quantity]=1&items[1][sku]=b&\
             items[1][quantity]= 2 &items[1][gift]=on&items[1][notes][]=x&items[1][notes][]=y&tags[]=red&tags[]=&tags=z",
        );
        assert_eq!(cart.address, Address { city: "Lviv".into(), zip: 79000 });
        assert_eq!(cart.tags, ["z", "red", ""]);
        assert_eq!(cart.billing, None);
        let [first, second] = &cart.items[..] else { panic!("{:?}", cart.items) };
        assert!(!first.gift && first.notes.is_empty() && second.gift);
        assert_eq!((second.quantity, &second.notes[..]), (2, &["x".to_owned(), "y".to_owned()][..]));
    }

    #[test]
    fn numbers_in_names_only_group_and_order_items() {
        assert_eq!(skus("items[999999999999999999999][sku]=c&items[10][sku]=b&items[9][sku]=a"), ["a", "b", "c"]);
        assert_eq!(skus("items[new][sku]=c&items[][sku]=d&items[0][sku]=a&items[01][sku]=b"), ["a", "b", "c", "d"]);
        assert_eq!(skus("items[][sku]=b&items[][sku]=a"), ["b", "a"]);
        assert_eq!(skus("items=&items[0][sku]=a"), ["a"]);
        assert!(skus("").is_empty());
    }

    #[test]
    fn a_repeated_name_starts_the_next_item() {
        #[derive(Deserialize)]
        struct Items {
            items: Vec<Item>,
        }
        let items = right::<Items>(
            "items[][sku]=a&items[][quantity]=1&items[][notes][]=x&items[][notes][]=y&items[][sku]=b&items[][quantity]=2",
        );
        let read: Vec<_> = items.items.iter().map(|item| (&item.sku[..], item.quantity, item.notes.len())).collect();
        assert_eq!(read, [("a", 1, 2), ("b", 2, 0)]);
    }

    #[test]
    fn errors_in_nested_fields_carry_the_submitted_names() {
        assert_eq!(
            wrong::<Cart>("address[city]=a&items[2][quantity]=x&items[2][gift]=?&items[][sku]=b&items[][quantity]=-1"),
            [
                "The field `address[zip]` is missing.",
                "The field `items[2][quantity]`: invalid digit found in string",
                "The field `items[2][gift]`: `?` is neither `on` nor `off`",
                "The field `items[2][sku]` is missing.",
                "The field `items[][quantity]`: negative, where a number from 0 is expected",
            ]
        );
        assert_eq!(
            wrong::<Cart>("tags=a"),
            ["The field `address[city]` is missing.", "The field `address[zip]` is missing."]
        );
    }

    #[test]
    fn a_blank_optional_group_is_none() {
        let good = "address[city]=a&address[zip]=1";
        let cart: Cart = right(&format!("{good}&billing[city]=&billing[zip]= "));
        assert_eq!(cart.billing, None);
        let cart: Cart = right(&format!("{good}&billing="));
        assert_eq!(cart.billing, None);
        assert_eq!(wrong::<Cart>(&format!("{good}&billing[city]=a&billing[zip]=")).len(), 1);
        assert_eq!(wrong::<Cart>(&format!("{good}&billing[city]=a")), ["The field `billing[zip]` is missing."]);
        #[derive(Deserialize)]
        struct Rows {
            rows: Vec<Option<Address>>,
        }
        let rows = right::<Rows>("rows[0][city]=a&rows[0][zip]=1&rows[1][city]=&rows[1][zip]=").rows;
        assert!(rows[0].is_some() && rows[1].is_none());
    }

    #[test]
    fn a_field_renamed_with_brackets_is_read_literally() {
        #[derive(Deserialize)]
        struct Flat {
            #[serde(rename = "tags[]")]
            tags: Vec<String>,
            #[serde(rename = "address[city]")]
            city: String,
            address: HashMap<String, String>,
        }
        let flat: Flat = right("tags[]=a&tags[]=b&address[city]=Lviv&address[zip]=1");
        assert_eq!(
            (flat.tags, flat.city, flat.address["zip"].as_str()),
            (vec!["a".into(), "b".into()], "Lviv".into(), "1")
        );
        assert_eq!(wrong::<Flat>("address[zip]=1"), ["The field `address[city]` is missing."]);
    }

    #[test]
    fn maps_take_groups_and_texts() {
        let map: HashMap<String, String> = right("a[b]=1&a[c]=2&tags[]=3&d.e=4");
        assert_eq!((map["a[b]"].as_str(), map["tags[]"].as_str(), map["d.e"].as_str()), ("1", "3", "4"));
        let map: HashMap<String, HashMap<u64, f64>> = right("prices[17]=1.5&prices[4]=2");
        assert_eq!((map["prices"][&17], map["prices"][&4]), (1.5, 2.0));
        assert_eq!(wrong::<HashMap<String, HashMap<u64, f64>>>("p[x]=1&p[2]=y").len(), 2);
        let json: HashMap<String, serde_json::Value> = right("a[b][0]=1&a[b][1]=2&c=3&f[]=x");
        assert_eq!(
            serde_json::to_value(json).unwrap(),
            serde_json::json!({ "a": { "b": ["1", "2"] }, "c": "3", "f": ["x"] })
        );
        #[derive(Deserialize)]
        struct Rest {
            id: u32,
            #[serde(flatten)]
            rest: HashMap<String, String>,
        }
        let rest: Rest = right("id=1&a[b]=2");
        assert_eq!((rest.id, rest.rest["a[b]"].as_str()), (1, "2"));
    }

    #[test]
    fn the_type_decides_between_a_value_and_a_group() {
        #[derive(Deserialize, Debug)]
        struct Text {
            a: String,
        }
        #[derive(Deserialize, Debug)]
        struct Group {
            a: HashMap<String, String>,
        }
        assert_eq!(right::<Text>("a=1&a[b]=2").a, "1");
        assert_eq!(right::<Text>("a[b]=2&a=1").a, "1");
        assert_eq!(right::<Group>("a=1&a[b]=2").a["b"], "2");
        assert_eq!(wrong::<Text>("a[b]=2"), ["The field `a` is missing."]);
        assert!(wrong::<Group>("a=1")[0].starts_with("The field `a`: a single value"));
        assert_eq!(right::<Text>("a=1&a[=2&a[b=3&a]=4&[a]=5").a, "1");
    }

    #[test]
    fn deny_unknown_fields_applies_to_nested_types() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Strict {
            id: u32,
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Outer {
            strict: Vec<Strict>,
        }
        assert_eq!(
            wrong::<Outer>("strict[0][x]=1&strict[0][id]=y&strict[1][id]=1"),
            [
                "The field `strict[0][x]` is not expected here.",
                "The field `strict[0][id]`: invalid digit found in string"
            ]
        );
    }

    #[test]
    fn a_group_that_cannot_be_read_does_not_hide_later_errors() {
        #[derive(Deserialize, Debug)]
        #[serde(try_from = "String")]
        struct Mail;
        impl TryFrom<String> for Mail {
            type Error = String;
            fn try_from(_: String) -> Result<Mail, String> {
                Err("This is not a mail address.".to_owned())
            }
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Person {
            mail: Mail,
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Team {
            head: Person,
            others: Vec<Person>,
            size: u32,
        }
        assert_eq!(
            wrong::<Team>("head[mail]=x&others[0][mail]=y&size=z"),
            [
                "The field `head[mail]`: This is not a mail address.",
                "The field `others[0][mail]`: This is not a mail address.",
                "The field `size`: invalid digit found in string",
            ]
        );
    }

    #[test]
    fn a_long_list_with_blank_fields_is_read_only_a_few_times() {
        thread_local!(static READ: Cell<usize> = const { Cell::new(0) });
        #[derive(Deserialize)]
        #[serde(from = "String")]
        struct Counted;
        impl From<String> for Counted {
            fn from(_: String) -> Counted {
                READ.set(READ.get() + 1);
                Counted
            }
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Row {
            name: Counted,
            ticked: bool,
            many: Vec<u32>,
            age: Option<u32>,
        }
        #[derive(Deserialize)]
        struct Rows {
            rows: Vec<Row>,
        }
        let row = |number| format!("rows[{number}][age]=&rows[{number}][name]=x");
        let text: Vec<String> = (0..500).map(row).collect();
        assert_eq!(right::<Rows>(&text.join("&")).rows.len(), 500);
        assert!(READ.get() <= 4 * 500, "{}", READ.get());

        #[derive(Deserialize)]
        struct Number(#[serde(deserialize_with = "counted")] Option<u32>);
        fn counted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
            READ.set(READ.get() + 1);
            Option::deserialize(deserializer)
        }
        READ.set(0);
        let text: Vec<String> = (0..500).map(|number| format!("name {number}=")).collect();
        let map: HashMap<String, Number> = right(&text.join("&"));
        assert!(map.len() == 500 && map.values().all(|number| number.0.is_none()));
        assert!(READ.get() <= 3 * 500, "{}", READ.get());

        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Spare {
            name: Counted,
            age: u32,
        }
        #[derive(Deserialize)]
        struct Spares {
            rows: Vec<Option<Spare>>,
        }
        READ.set(0);
        let text: Vec<String> = (0..300).map(|number| format!("rows[{number}][name]=&rows[{number}][age]=")).collect();
        assert!(right::<Spares>(&text.join("&")).rows.iter().all(Option::is_none));
        assert!(READ.get() <= 3 * 300, "{}", READ.get());
    }

    #[test]
    fn a_blank_text_beside_a_blank_number_stays_a_text() {
        #[derive(Deserialize)]
        struct Search {
            text: Option<String>,
            page: Option<u32>,
            #[serde(flatten)]
            rest: HashMap<String, String>,
        }
        let search: Search = right("text=&page=&x=");
        assert_eq!((search.text.as_deref(), search.page, search.rest["x"].as_str()), (Some(""), None, ""));
    }

    #[test]
    fn an_endlessly_recursive_type_is_an_error() {
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Endless {
            next: Box<Endless>,
        }
        let reading = read::<Endless>(&sent("next[next]=1"));
        assert!(reading.value.is_none() && !reading.refusals.is_empty());
        #[derive(Deserialize)]
        struct Comment {
            text: String,
            replies: Vec<Comment>,
        }
        let deep = right::<Comment>("text=a&replies[0][text]=b&replies[0][replies][0][text]=c");
        assert_eq!((&deep.text[..], &deep.replies[0].replies[0].text[..]), ("a", "c"));
    }

    proptest::proptest! {
        #[test]
        fn any_names_are_read_without_a_panic(
            names in proptest::collection::vec("(address|items|tags|billing|x)?(\\[(city|zip|sku|0|9{20}|x)?\\]){0,10}[a\\[\\]]?", 0..40),
            text in "(1|on|x| |)",
        ) {
            let sent: Vec<_> = names.into_iter().map(|name| (name, Sent::Text(text.clone()))).collect();
            let reading = read::<Cart>(&sent);
            proptest::prop_assert!(reading.value.is_some() || !reading.refusals.is_empty());
            read::<HashMap<String, serde_json::Value>>(&sent);
            let texts = read::<HashMap<String, Vec<String>>>(&sent);
            proptest::prop_assert!(texts.refusals.is_empty(), "{:?}", texts.refusals);
        }
    }

    #[test]
    fn friendly_messages_say_what_to_do() {
        let friendly =
            |text: &str| -> Vec<String> { read::<Order>(&sent(text)).refusals.iter().map(Refusal::friendly).collect() };
        assert_eq!(
            friendly("email=a&quantity=&price=x&size=&tags=a"),
            ["Please fill this in.", "Please enter a number.", "Please fill this in."]
        );
        assert_eq!(friendly("email=a&quantity=99999999999&price=1&size=small"), ["Please enter a smaller number."]);
        assert_eq!(friendly("email=a&quantity=-1&price=1&size=small"), ["Please enter a number that is not negative."]);
        assert_eq!(friendly("email=a&quantity=--1&price=1&size=small"), ["Please enter a whole number."]);
    }

    #[test]
    fn takes_file_is_true_for_the_upload_fields_of_a_type() {
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Photo {
            title: String,
            photo: Upload,
            cover: Option<Upload>,
            letters: Vec<Upload>,
            #[serde(default, rename = "pictures[]")]
            pictures: Vec<Upload>,
            items: Vec<Item>,
            by_name: HashMap<String, Upload>,
            #[serde(deserialize_with = "size")]
            size: u64,
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct Item {
            name: String,
            picture: Option<Upload>,
        }
        fn size<'de, D: Deserializer<'de>>(field: D) -> Result<u64, D::Error> {
            Ok(Upload::deserialize(field)?.size())
        }
        let yes = ["photo", "cover", "letters", "pictures[]", "items[0][picture]", "items[][picture]", "size"];
        // A map has no named fields, and receives texts only.
        let no =
            ["title", "items[0][name]", "items[0][other]", "items[0]", "other", "", "photo[0]", "_once", "by_name[x]"];
        for (names, takes) in [(&yes[..], true), (&no[..], false)] {
            for name in names {
                assert_eq!(takes_file::<Photo>(name), takes, "{name}");
            }
        }
        assert!(!takes_file::<HashMap<String, String>>("photo"));
        assert!(!takes_file::<HashMap<String, Upload>>("photo"));
        assert!(!takes_file::<Order>("note"));
    }
}
