//! The names of a form's fields as a tree: `address[city]`, `items[0][name]`, `items[][name]`, `tags[]`.
//!
//! Brackets group, as PHP, Rails and the `qs` of Node read them. A number in them only says what belongs together and in
//! which order: nothing is made for the numbers that are left out. A name whose brackets do not match, or that goes deeper
//! than [`DEEPEST`], is a name like any other.

use std::borrow::Cow;
use std::collections::HashMap;

use super::multipart::Upload;

/// As many brackets as a name may have to be taken apart.
pub(crate) const DEEPEST: usize = 8;

/// The node that stands for the form as a whole.
pub(crate) const ROOT: usize = 0;

/// What was sent under a name.
pub(crate) enum Sent {
    Text(String),
    File(Upload),
}

/// A name or the beginning of one, with what was sent under it and under the names that go on from there.
pub(crate) struct Node<'a> {
    /// Its part of the name: `city` of `address[city]`.
    pub(crate) key: &'a str,
    /// The name as it was typed into the form, up to here.
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
    /// Nodes that stand at the same place of their lists are of one kind: `items[0][name]` and `items[7][name]`.
    kinds: HashMap<(usize, &'a str), usize>,
    of_kind: Vec<Vec<usize>>,
}

impl<'a> Tree<'a> {
    /// The tree of what was sent. Names that `is_literal` holds for are not taken apart.
    pub(crate) fn new(sent: &'a [(String, Sent)], is_literal: impl Fn(&str) -> bool) -> Tree<'a> {
        let mut tree =
            Tree { nodes: Vec::new(), index: HashMap::new(), kinds: HashMap::new(), of_kind: vec![vec![ROOT]] };
        tree.nodes.push(Node::new("", Cow::Borrowed(""), ROOT, 0, 0));
        for (name, content) in sent {
            let at = tree.place(name, is_literal(name));
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

    /// Whether any name was taken apart.
    pub(crate) fn has_groups(&self) -> bool {
        self.nodes[ROOT].children.iter().any(|child| !self.nodes[*child].children.is_empty())
    }

    /// The children in the order of a list: by number, then those without one as they were sent.
    pub(crate) fn elements(&self, at: usize) -> Vec<usize> {
        let mut children = self.nodes[at].children.clone();
        children.sort_by_key(|child| rank(self.nodes[*child].key));
        children
    }

    /// Whether the children are told apart by number, or not at all.
    pub(crate) fn is_list(&self, at: usize) -> bool {
        self.nodes[at].children.iter().all(|child| is_number(self.nodes[*child].key))
    }

    /// Whether nothing but spaces was sent here and below.
    pub(crate) fn is_blank(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_blank = |text: &&str| text.trim().is_empty();
        node.files.is_empty() && node.texts.iter().all(is_blank) && node.children.iter().all(|at| self.is_blank(*at))
    }

    /// Whether files were sent here or below, and no text.
    pub(crate) fn has_only_files(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_something = !node.files.is_empty() || !node.children.is_empty();
        is_something && node.texts.is_empty() && node.children.iter().all(|at| self.has_only_files(*at))
    }

    /// The nodes of the same kind, itself among them.
    pub(crate) fn alike(&self, at: usize) -> &[usize] {
        &self.of_kind[self.nodes[at].kind]
    }

    /// Adds a name that was not sent, here and in all that are alike. Whether there was room for it.
    pub(crate) fn expect(&mut self, at: usize, key: &'a str) -> bool {
        if self.nodes[at].depth > DEEPEST {
            return false;
        }
        for at in self.alike(at).to_vec() {
            if self.child(at, key).is_none() {
                let name = if at == ROOT { key.to_owned() } else { format!("{}[{key}]", self.nodes[at].name) };
                self.add(at, key, name.into());
            }
        }
        true
    }

    fn place(&mut self, name: &'a str, is_literal: bool) -> usize {
        let steps = if is_literal { vec![(name, name)] } else { steps(name) };
        let mut at = ROOT;
        for (place, &(key, name)) in steps.iter().enumerate() {
            let is_element = place > 0 && key.is_empty();
            at = match self.child(at, key) {
                Some(child) if !is_element || self.has_room(child, &steps[place + 1..]) => child,
                _ => self.add(at, key, name.into()),
            };
        }
        at
    }

    /// Whether an element of `items[]` takes that name too. Where it has it already the next element begins, as in Rails.
    fn has_room(&self, element: usize, rest: &[(&'a str, &'a str)]) -> bool {
        let is_repeatable = rest.iter().any(|(key, _)| key.is_empty());
        let there = rest.iter().try_fold(element, |at, (key, _)| self.child(at, key)).map(|at| &self.nodes[at]);
        is_repeatable || there.is_none_or(|node| !rest.is_empty() && node.texts.is_empty() && node.files.is_empty())
    }

    fn add(&mut self, parent: usize, key: &'a str, name: Cow<'a, str>) -> usize {
        let at = self.nodes.len();
        let place = if parent != ROOT && is_number(key) { "" } else { key };
        let kind = *self.kinds.entry((self.nodes[parent].kind, place)).or_insert(self.of_kind.len());
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

/// A number, or the nothing of `tags[]`.
fn is_number(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_digit())
}

/// Numbers by value, however long they are, before all else.
fn rank(key: &str) -> (bool, usize, &str) {
    let digits = key.trim_start_matches('0');
    if is_number(key) && !key.is_empty() { (false, digits.len(), digits) } else { (true, 0, "") }
}

/// The parts of a name, each with the name up to its end: `a`, `b` with `a[b]`, `c` with `a[b][c]`. One that cannot be
/// taken apart is one part.
fn steps(name: &str) -> Vec<(&str, &str)> {
    taken_apart(name).unwrap_or_else(|| vec![(name, name)])
}

fn taken_apart(name: &str) -> Option<Vec<(&str, &str)>> {
    let base = &name[..name.find('[').filter(|at| *at > 0)?];
    let mut steps = vec![(base, base)];
    let mut end = base.len();
    while end < name.len() {
        let key = &name[end..].strip_prefix('[')?.split(']').next()?;
        end += key.len() + 2;
        let is_sound = !key.contains('[') && end <= name.len() && steps.len() <= DEEPEST;
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
    fn brackets_take_a_name_apart() {
        assert_eq!(steps("a[b][]"), [("a", "a"), ("b", "a[b]"), ("", "a[b][]")]);
        assert_eq!(keys("address[street name]"), ["address", "street name"]);
        assert_eq!(keys("я[ю]"), ["я", "ю"]);
        assert_eq!(keys("a.b[c.d]"), ["a.b", "c.d"]);
    }

    #[test]
    fn what_is_malformed_is_one_name() {
        let deep = format!("a{}", "[b]".repeat(DEEPEST));
        assert_eq!(keys(&deep).len(), DEEPEST + 1);
        let deeper = deep + "[b]";
        for name in ["", "a", "[", "]", "[]", "[a]", "a[", "a]", "a[b", "a[b]c", "a[b]]", "a[[b]]", "a][b]", &deeper] {
            assert_eq!(keys(name), [name]);
        }
    }

    #[test]
    fn numbers_are_ranked_by_value_and_allocate_nothing() {
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
        fn any_name_is_taken_apart_without_a_loss(name in "[a0\\[\\]é.]{0,30}", other: String) {
            for name in [&name, &other] {
                let steps = steps(name);
                proptest::prop_assert_eq!(steps.last().unwrap().1, name);
                proptest::prop_assert!(steps.len() <= DEEPEST + 1);
            }
        }
    }
}
