//! Names of sites, and of what is added to them.

/// The most characters of a name. Cargo has no limit, and file systems have one of 255 bytes.
const LONGEST: usize = 64;

/// Rust's keywords, in all editions, and reserved words.
const KEYWORDS: [&str; 53] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "union", "_",
];

/// The crates of Rust's standard library, whose names Cargo and the compiler reserve.
const STANDARD: [&str; 6] = ["alloc", "core", "proc-macro", "proc_macro", "std", "test"];

/// The dependencies of a generated site.
const DEPENDENCIES: [&str; 3] = ["aside", "serde", "tempfile"];

/// Folders of `target`, which Cargo refuses as the name of a program.
const FOLDERS_OF_CARGO: [&str; 4] = ["build", "deps", "examples", "incremental"];

/// Devices of Windows, which cannot be files there.
const DEVICES: [&str; 6] = ["aux", "con", "nul", "prn", "com1", "lpt1"];

/// The name of a site: of its folder, its package and its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteName(String);

impl SiteName {
    pub fn parse(name: &str) -> Result<SiteName, String> {
        if name == "." {
            let message = "run `aside new NAME` in the folder above, with the name of this folder";
            return Err(format!("`.` is not a name; to make the site in this folder, {message}"));
        }
        if name.contains(['/', '\\']) || name == ".." {
            return Err(format!("{} is a path; give a name, and the site is made in the current folder", quoted(name)));
        }
        check_characters(name)?;
        if name.contains(char::is_uppercase) {
            return Err(format!("{} has capital letters; `{}` works", quoted(name), name.to_lowercase()));
        }
        check_meaning(name)?;
        if FOLDERS_OF_CARGO.contains(&name) {
            return Err(format!("Cargo has a folder `{name}` of its own; choose another name"));
        }
        Ok(SiteName(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `Photo shop` for `photo-shop`.
    pub fn title(&self) -> String {
        title(&words(&self.0))
    }

    /// Returns the name as a label of a host: without `_`, and without a dash at the end.
    pub fn host(&self) -> String {
        self.0.replace('_', "-").trim_matches('-').to_owned()
    }

    /// Returns the name of a user of the operating system, which has at most 32 characters.
    pub fn user(&self) -> String {
        self.0.chars().take(31).collect()
    }
}

/// The name of a page, form, job or mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemName {
    words: Vec<String>,
}

/// Names that the generated files import or that Rust's prelude has.
const TYPES: [&str; 18] = [
    "Box",
    "Deserialize",
    "Err",
    "Form",
    "Job",
    "JobState",
    "Mail",
    "None",
    "Ok",
    "Option",
    "Request",
    "Response",
    "Result",
    "Serialize",
    "Some",
    "String",
    "TaskContext",
    "Vec",
];

/// Modules and routes that each site has.
const MODULES: [&str; 7] = ["healthz", "lib", "main", "mod", "readyz", "test_site", "tests"];

impl ItemName {
    /// Parses `order-receipt`, `order_receipt` or `OrderReceipt`.
    pub fn parse(name: &str) -> Result<ItemName, String> {
        if name.contains(['/', '\\', '.']) {
            return Err(format!("{} is a path; give a name such as `order-receipt`", quoted(name)));
        }
        check_characters(name)?;
        let item = ItemName { words: words(name) };
        check_meaning(&item.module())?;
        if TYPES.contains(&item.type_name().as_str()) || MODULES.contains(&item.module().as_str()) {
            return Err(format!("`{name}` has a meaning of its own in a site; choose another name"));
        }
        Ok(item)
    }

    /// Returns `order_receipt`.
    pub fn module(&self) -> String {
        self.words.join("_")
    }

    /// Returns `order-receipt`.
    pub fn path(&self) -> String {
        self.words.join("-")
    }

    /// Returns `OrderReceipt`.
    pub fn type_name(&self) -> String {
        self.words.iter().map(|word| capitalized(word)).collect()
    }

    /// Returns `Order receipt`.
    pub fn title(&self) -> String {
        title(&self.words)
    }
}

fn check_characters(name: &str) -> Result<(), String> {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if name.chars().count() > LONGEST {
        return Err(format!("the name {} is too long; at most {LONGEST} characters", quoted(name)));
    }
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !name.chars().all(is_allowed) {
        return Err(format!("{} is not a name: letters a to z, digits, - and _, with a letter first", quoted(name)));
    }
    Ok(())
}

fn check_meaning(name: &str) -> Result<(), String> {
    if KEYWORDS.contains(&name) {
        return Err(format!("`{name}` is a keyword of Rust; choose another name"));
    }
    let owner = match name {
        _ if STANDARD.contains(&name) => "a crate of Rust's standard library",
        _ if DEPENDENCIES.contains(&name) => "a crate that the site depends on",
        _ if DEVICES.contains(&name) => "a device of Windows",
        _ => return Ok(()),
    };
    Err(format!("`{name}` is the name of {owner}; choose another name"))
}

/// Returns a name as a message shows it: on one line, and not longer than a line.
fn quoted(name: &str) -> String {
    let mut shown: String = name.chars().take(40).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    format!("`{}`", shown.escape_debug())
}

/// Splits a name at `-` and `_`, and before each capital letter that follows a small one.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut former = '-';
    for letter in name.chars() {
        let is_separator = letter == '-' || letter == '_';
        if is_separator || letter.is_ascii_uppercase() && !former.is_ascii_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| !is_separator) {
            word.push(letter.to_ascii_lowercase());
        }
        former = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

fn title(words: &[String]) -> String {
    capitalized(&words.join(" "))
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cargo_refuses_is_refused_with_one_line() {
        for name in [
            "",
            "-",
            "--",
            "-shop",
            "_",
            "1shop",
            "fn",
            "gen",
            "test",
            "core",
            "std",
            "aside",
            "serde",
            "con",
            "deps",
            "schön",
            "店",
            "my shop",
            "shop!",
            "shop\n",
            "a/b",
            "/tmp/shop",
            "..",
            ".",
            "Shop",
            &"a".repeat(1_000),
            &"é".repeat(1_000),
        ] {
            let message = SiteName::parse(name).unwrap_err();
            assert!(message.len() < 200 && !message.contains('\n'), "{name:?}: {message}");
        }
        for name in ["shop", "photo-shop", "shop2", "a", "s_", "shop-", &"a".repeat(64)] {
            SiteName::parse(name).unwrap();
        }
    }

    #[test]
    fn an_item_has_each_form_of_its_name() {
        for name in ["order-receipt", "order_receipt", "OrderReceipt", "orderReceipt"] {
            let item = ItemName::parse(name).unwrap();
            let forms = [item.module(), item.path(), item.type_name(), item.title()];
            assert_eq!(forms, ["order_receipt", "order-receipt", "OrderReceipt", "Order receipt"], "{name}");
        }
        assert_eq!(ItemName::parse("FAQ").unwrap().module(), "faq");
    }

    #[test]
    fn an_item_is_not_called_like_something_of_rust_or_of_the_site() {
        for name in [
            "form",
            "Result",
            "match",
            "Self",
            "test",
            "core",
            "main",
            "test_site",
            "healthz",
            "mail",
            "2nd",
            "",
            "-",
            "a.b",
            "../x",
        ] {
            ItemName::parse(name).unwrap_err();
        }
    }
}
