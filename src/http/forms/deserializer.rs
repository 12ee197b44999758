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
mod tests;
