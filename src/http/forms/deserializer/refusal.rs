//! The reason why a field could not be read, in words for a user and for a developer.

use std::fmt;

use serde::de;

use crate::http::forms::field_path::ROOT;

/// The reason why a field could not be read.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The field's name as the client sent it; `None` when the error concerns the whole form.
    pub(crate) field: Option<String>,
    pub(crate) kind: Kind,
    /// The message of serde, of the type or of this module.
    pub(crate) message: String,
    /// The field's node in the tree of names, and the name of a missing child of that node.
    pub(super) node: Option<usize>,
    pub(super) child: Option<&'static str>,
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
    pub(super) fn new(kind: Kind, message: impl fmt::Display) -> Refusal {
        Refusal { field: None, kind, message: message.to_string(), node: None, child: None }
    }

    /// Returns this refusal at the given node, unless it has a node already.
    pub(super) fn within(self, node: usize) -> Refusal {
        Refusal { node: self.node.or(Some(node)), ..self }
    }

    fn about(self, child: &'static str) -> Refusal {
        Refusal { child: Some(child), ..self }
    }

    pub(super) fn is_about_the_whole(&self) -> bool {
        self.node.is_none_or(|node| node == ROOT) && self.child.is_none()
    }

    /// Returns the message for the user on a page that does not show the form.
    pub(crate) fn sentence(&self) -> String {
        match &self.field {
            Some(field) => format!("{field}: {}", self.friendly()),
            None => "Some of what was entered is not valid.".to_owned(),
        }
    }

    /// Returns the message for a developer. `noun` says what the field is: `field` or `parameter`.
    pub(crate) fn technical(&self, noun: &str) -> String {
        match (&self.field, self.kind) {
            (None, _) => self.message.clone(),
            (Some(field), Kind::Missing) => format!("the {noun} `{field}` is missing"),
            (Some(field), Kind::Unexpected) => format!("the {noun} `{field}` is not expected here"),
            (Some(field), _) => format!("the {noun} `{field}`: {}", self.message),
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
