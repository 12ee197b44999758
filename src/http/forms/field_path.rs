//! The names of a form's fields as a tree: `address[city]`, `items[0][name]`, `items[][name]`, `tags[]`.
//!
//! Brackets group, as in PHP, Rails and the `qs` package of Node. A number in brackets only groups and orders fields:
//! gaps between numbers create no elements. A name is taken literally if its brackets do not match or if it is deeper
//! than [`MAX_DEPTH`].

use std::borrow::Cow;
use std::collections::HashMap;

use super::multipart::Upload;

/// The largest number of brackets of a name that is split.
pub(crate) const MAX_DEPTH: usize = 8;

/// The node of the whole form.
pub(crate) const ROOT: usize = 0;

/// The content that was sent under a name.
pub(crate) enum Sent {
    Text(String),
    File(Upload),
}

/// A name or the start of one, with the contents sent under it and the longer names that continue it.
pub(crate) struct Node<'a> {
    /// The last part of the name: `city` of `address[city]`.
    pub(crate) key: &'a str,
    /// The name as the client sent it, up to and including this part.
    pub(crate) name: Cow<'a, str>,
    pub(crate) parent: usize,
    pub(crate) texts: Vec<&'a str>,
    pub(crate) files: Vec<&'a Upload>,
    pub(crate) children: Vec<usize>,
    depth: usize,
    kind: usize,
}

/// All names of a form.
pub(crate) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    index: HashMap<(usize, &'a str), usize>,
    /// Nodes at the same position within their lists are of the same kind: `items[0][name]` and `items[7][name]`.
    kinds: HashMap<(usize, &'a str), usize>,
    of_kind: Vec<Vec<usize>>,
}

impl<'a> Tree<'a> {
    /// Builds the tree. Names for which `is_literal` returns true are not split.
    pub(crate) fn new(sent: &'a [(String, Sent)], is_literal: impl Fn(&str) -> bool) -> Tree<'a> {
        let mut tree =
            Tree { nodes: Vec::new(), index: HashMap::new(), kinds: HashMap::new(), of_kind: vec![vec![ROOT]] };
        tree.nodes.push(Node::new("", Cow::Borrowed(""), ROOT, 0, 0));
        for (name, content) in sent {
            let at = tree.insert(name, is_literal(name));
            match content {
                Sent::Text(text) => tree.nodes[at].texts.push(text),
                Sent::File(upload) => tree.nodes[at].files.push(upload),
            }
        }
        tree
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, at: usize) -> &Node<'a> {
        &self.nodes[at]
    }

    pub(crate) fn child(&self, at: usize, key: &'a str) -> Option<usize> {
        self.index.get(&(at, key)).copied()
    }

    /// Returns true if any name was split.
    pub(crate) fn has_groups(&self) -> bool {
        self.nodes[ROOT].children.iter().any(|child| !self.nodes[*child].children.is_empty())
    }

    /// Returns the children in list order: first those with a number, by number, then the others as they were sent.
    pub(crate) fn elements(&self, at: usize) -> Vec<usize> {
        let mut children = self.nodes[at].children.clone();
        children.sort_by_key(|child| rank(self.nodes[*child].key));
        children
    }

    /// Returns true if all children have a number or an empty key.
    pub(crate) fn is_list(&self, at: usize) -> bool {
        self.nodes[at].children.iter().all(|child| is_number(self.nodes[*child].key))
    }

    /// Returns true if only white space was sent at this node and below it.
    pub(crate) fn is_blank(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_blank = |text: &&str| text.trim().is_empty();
        node.files.is_empty() && node.texts.iter().all(is_blank) && node.children.iter().all(|at| self.is_blank(*at))
    }

    /// Returns true if files and no texts were sent at this node or below it.
    pub(crate) fn has_only_files(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_something = !node.files.is_empty() || !node.children.is_empty();
        is_something && node.texts.is_empty() && node.children.iter().all(|at| self.has_only_files(*at))
    }

    /// Returns the nodes of the same kind, including this one.
    pub(crate) fn same_kind(&self, at: usize) -> &[usize] {
        &self.of_kind[self.nodes[at].kind]
    }

    /// Adds a name that was not sent, to this node and to all of the same kind. Returns false if the node is too deep.
    pub(crate) fn add_missing(&mut self, at: usize, key: &'a str) -> bool {
        if self.nodes[at].depth > MAX_DEPTH {
            return false;
        }
        for at in self.same_kind(at).to_vec() {
            if self.child(at, key).is_none() {
                let name = if at == ROOT { key.to_owned() } else { format!("{}[{key}]", self.nodes[at].name) };
                self.add(at, key, name.into());
            }
        }
        true
    }

    fn insert(&mut self, name: &'a str, is_literal: bool) -> usize {
        let steps = if is_literal { vec![(name, name)] } else { steps(name) };
        let mut at = ROOT;
        for (index, &(key, name)) in steps.iter().enumerate() {
            let is_element = index > 0 && key.is_empty();
            at = match self.child(at, key) {
                Some(child) if !is_element || self.accepts(child, &steps[index + 1..]) => child,
                _ => self.add(at, key, name.into()),
            };
        }
        at
    }

    /// Returns true if an element of `items[]` can take this name too. If it has the name already, the next element
    /// begins, as in Rails.
    fn accepts(&self, element: usize, rest: &[(&'a str, &'a str)]) -> bool {
        let is_repeatable = rest.iter().any(|(key, _)| key.is_empty());
        let there = rest.iter().try_fold(element, |at, (key, _)| self.child(at, key)).map(|at| &self.nodes[at]);
        is_repeatable || there.is_none_or(|node| !rest.is_empty() && node.texts.is_empty() && node.files.is_empty())
    }

    fn add(&mut self, parent: usize, key: &'a str, name: Cow<'a, str>) -> usize {
        let at = self.nodes.len();
        let position = if parent != ROOT && is_number(key) { "" } else { key };
        let kind = *self.kinds.entry((self.nodes[parent].kind, position)).or_insert(self.of_kind.len());
        if kind == self.of_kind.len() {
            self.of_kind.push(Vec::new());
        }
        self.of_kind[kind].push(at);
        self.nodes.push(Node::new(key, name, parent, self.nodes[parent].depth + 1, kind));
        self.nodes[parent].children.push(at);
        self.index.insert((parent, key), at);
        at
    }
}

impl<'a> Node<'a> {
    fn new(key: &'a str, name: Cow<'a, str>, parent: usize, depth: usize, kind: usize) -> Node<'a> {
        Node { key, name, parent, depth, kind, texts: Vec::new(), files: Vec::new(), children: Vec::new() }
    }
}

/// Returns true for a number, and for the empty key of `tags[]`.
fn is_number(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns a sort key: numbers of any length first, by value.
fn rank(key: &str) -> (bool, usize, &str) {
    let digits = key.trim_start_matches('0');
    if is_number(key) && !key.is_empty() { (false, digits.len(), digits) } else { (true, 0, "") }
}

/// Splits a name into its parts, each with the name up to its end: `a`, `b` with `a[b]`, `c` with `a[b][c]`. A name
/// that cannot be split is one part.
fn steps(name: &str) -> Vec<(&str, &str)> {
    split(name).unwrap_or_else(|| vec![(name, name)])
}

fn split(name: &str) -> Option<Vec<(&str, &str)>> {
    let base = &name[..name.find('[').filter(|at| *at > 0)?];
    let mut steps = vec![(base, base)];
    let mut end = base.len();
    while end < name.len() {
        let key = &name[end..].strip_prefix('[')?.split(']').next()?;
        end += key.len() + 2;
        let is_sound = !key.contains('[') && end <= name.len() && steps.len() <= MAX_DEPTH;
        steps.push(is_sound.then(|| (*key, &name[..end]))?);
    }
    (!base.contains(']')).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &str) -> Vec<&str> {
        steps(name).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn names_are_split_at_brackets() {
        assert_eq!(steps("a[b][]"), [("a", "a"), ("b", "a[b]"), ("", "a[b][]")]);
        assert_eq!(keys("address[street name]"), ["address", "street name"]);
        assert_eq!(keys("я[ю]"), ["я", "ю"]);
        assert_eq!(keys("a.b[c.d]"), ["a.b", "c.d"]);
    }

    #[test]
    fn a_malformed_name_is_one_part() {
        let deep = format!("a{}", "[b]".repeat(MAX_DEPTH));
        assert_eq!(keys(&deep).len(), MAX_DEPTH + 1);
        let deeper = deep + "[b]";
        for name in ["", "a", "[", "]", "[]", "[a]", "a[", "a]", "a[b", "a[b]c", "a[b]]", "a[[b]]", "a][b]", &deeper] {
            assert_eq!(keys(name), [name]);
        }
    }

    #[test]
    fn numbers_are_ordered_by_value_and_add_no_elements() {
        let names = ["l[10]", "l[9]", "l[x]", "l[]", "l[999999999999999999999999999]", "l[007]", "l[0]", "l[]"];
        let sent: Vec<_> = names.map(|name| (name.to_owned(), Sent::Text(String::new()))).into();
        let tree = Tree::new(&sent, |_| false);
        let list = tree.child(ROOT, "l").unwrap();
        let order: Vec<&str> = tree.elements(list).iter().map(|at| tree.node(*at).key).collect();
        assert_eq!(order, ["0", "007", "9", "10", "999999999999999999999999999", "x", "", ""]);
        assert_eq!(tree.len(), names.len() + 2);
    }

    proptest::proptest! {
        #[test]
        fn splitting_a_name_loses_no_part_of_it(name in "[a0\\[\\]é.]{0,30}", other: String) {
            for name in [&name, &other] {
                let steps = steps(name);
                proptest::prop_assert_eq!(steps.last().unwrap().1, name);
                proptest::prop_assert!(steps.len() <= MAX_DEPTH + 1);
            }
        }
    }
}
