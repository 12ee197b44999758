//! The templates of generated files: text with placeholders and conditional lines.
//!
//! `__name__` is a placeholder. The lines from `%% if login` to `%% end` belong to the feature, those after `%% else` to a site
//! without it. Such a line stands alone, so that the rest is the file as its owner reads it.

/// Returns the text with its placeholders filled, and without the lines of features that are off.
///
/// # Panics
/// If the template is wrong. It is a part of this program, and tests render all of them.
pub fn render(template: &str, is_on: impl Fn(&str) -> bool, values: &[(&str, &str)]) -> String {
    let mut shown = vec![true];
    let mut text = String::new();
    for line in template.lines() {
        match line.strip_prefix("%% ").map(|rest| rest.split_once(' ').unwrap_or((rest, ""))) {
            Some(("if", feature)) => shown.push(is_on(feature)),
            Some(("else", "")) => shown.last_mut().map(|last| *last = !*last).unwrap(),
            Some(("end", "")) => drop(shown.pop().unwrap()),
            Some(other) => panic!("{other:?} is not a directive"),
            None if shown.iter().all(|&shown| shown) => text.extend([line, "\n"]),
            None => {}
        }
    }
    assert_eq!(shown.len(), 1, "a conditional part has no end");
    values.iter().fold(text, |text, (name, value)| text.replace(&format!("__{name}__"), value))
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn lines_belong_to_features() {
        let template = "a __name__\n%% if jobs\nb\n%% if mail\nc\n%% else\nd\n%% end\n%% end\ne\n";
        let with = |on: &'static [&str]| render(template, |feature| on.contains(&feature), &[("name", "shop")]);
        assert_eq!(with(&[]), "a shop\ne\n");
        assert_eq!(with(&["mail"]), "a shop\ne\n");
        assert_eq!(with(&["jobs"]), "a shop\nb\nd\ne\n");
        assert_eq!(with(&["jobs", "mail"]), "a shop\nb\nc\ne\n");
    }
}
