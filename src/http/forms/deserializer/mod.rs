//! The form deserializer: serde over a tree of field names with texts and files.
//!
//! A submitted form carries neither types nor absent fields: a browser does not send an unticked checkbox or an empty
//! multiple choice, and it sends an empty optional number as a blank text. The deserializer learns the type of a field
//! only when serde asks for it, and serde consumes a visitor on each call. So [`read`] deserializes the form again
//! after each failure, with a new [`Mode`] for the failed field, until it succeeds or all invalid fields are known, not
//! only the first.

mod refusal;
mod upload;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use self::refusal::{Kind, Refusal};
use self::value::Value;
use super::field_path::{ROOT, Sent, Tree};
use super::multipart::Upload;

/// The largest number of errors that are collected. A page cannot show more, and each one costs another pass.
const MAX_REFUSALS: usize = 100;

/// The result of reading a form.
pub(crate) struct Reading<T> {
    /// The value. A field with a refusal holds a stand-in: 1, `false` or an empty value.
    pub(crate) value: Option<T>,
    pub(crate) refusals: Vec<Refusal>,
    /// The names of the type's fields; empty if it is a map or has `#[serde(flatten)]`.
    pub(crate) names: &'static [&'static str],
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
    names: Cell<&'static [&'static str]>,
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
            names: Cell::new(&[]),
        }
    }

    /// Deserializes until it succeeds or every refusal is known. The error is the set of names to read literally in a
    /// new pass.
    fn read<T: DeserializeOwned>(mut self) -> Result<Reading<T>, Literal> {
        let mut refusals = Vec::new();
        loop {
            let refusal = match T::deserialize(Root(&self)) {
                Ok(value) => return Ok(Reading { value: Some(value), refusals, names: self.names.get() }),
                Err(refusal) => refusal,
            };
            if let Some(literal) = self.other_names(&refusal) {
                return Err(literal);
            }
            if !self.record(refusal, &mut refusals) || refusals.len() >= MAX_REFUSALS {
                return Ok(Reading { value: None, refusals, names: self.names.get() });
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
        self.0.names.set(fields);
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

/// Returns true if a form of this type takes a file in the named field, or if the type cannot tell. Other files need
/// not be stored.
pub(crate) fn takes_file<T: DeserializeOwned>(name: &str) -> bool {
    let sent = [(name.to_owned(), Sent::File(Upload::stand_in()))];
    let (reading, is_taken) = upload::observe_stand_in(|| read::<T>(&sent));
    reading.value.is_none() || is_taken
}

#[cfg(test)]
mod tests;
