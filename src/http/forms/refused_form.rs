//! The refused form of the request that this thread handles, for the log.
//!
//! A handler responds to a refused form with a page, and the framework sees no error. If a field's name is misspelled in the code or
//! in a template, the page does not show its message, and only the log has the reason.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::Location;
#[cfg(feature = "templates")]
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use log::Level;

use crate::background::log_fields::{self, LogFields};
#[cfg(feature = "templates")]
use crate::background::request_info::RequestInfo;
use crate::error::location;
use crate::log_text::{escape, prefix};
use crate::nearest::did_you_mean;
#[cfg(feature = "templates")]
use crate::nearest::nearest;
#[cfg(feature = "templates")]
use crate::sync::lock;

/// The largest number of fields in the log line of a refused form, and the largest number of bytes of each name and message.
const MAX_LOGGED: usize = 20;
const MAX_TEXT: usize = 200;

thread_local! {
    static CURRENT: RefCell<RequestForms> = const { RefCell::new(RequestForms::new(false)) };
}

/// The forms of a request.
pub(crate) struct RequestForms {
    is_development: bool,
    /// The fields with their messages, as text, of the last form that was refused.
    refused: Option<String>,
    /// In development, the errors that were passed to templates.
    #[cfg(feature = "templates")]
    shown: Vec<Arc<ShownErrors>>,
}

impl RequestForms {
    const fn new(is_development: bool) -> RequestForms {
        RequestForms {
            is_development,
            refused: None,
            #[cfg(feature = "templates")]
            shown: Vec::new(),
        }
    }
}

/// Begins a request on this thread. Returns the forms of the outer request, if a handler makes a request of its own.
pub(crate) fn begin(is_development: bool) -> RequestForms {
    CURRENT.replace(RequestForms::new(is_development))
}

/// Ends the request, and returns the refused fields with their messages, if a form was refused.
pub(crate) fn end(outer: RequestForms) -> Option<String> {
    CURRENT.replace(outer).refused
}

/// Notes that the handler has found the errors of a form. The last form of a request counts.
pub(super) fn note(errors: &BTreeMap<String, String>) {
    let field =
        |(name, message): (&String, &String)| format!("{}: {}", prefix(name, MAX_TEXT), prefix(message, MAX_TEXT));
    let mut fields: Vec<String> = errors.iter().take(MAX_LOGGED).map(field).collect();
    if errors.len() > MAX_LOGGED {
        fields.push(format!("and {} more", errors.len() - MAX_LOGGED));
    }
    CURRENT.with_borrow_mut(|forms| forms.refused = Some(fields.join("; ")));
}

/// Warns in development if the code names a field that the form does not have, and the name of a field is near. Other
/// names are left alone: an error may have a key of its own.
pub(super) fn warn_if_misspelled<'n>(field: &str, names: impl Iterator<Item = &'n str>, caller: &Location<'_>) {
    if !CURRENT.with_borrow(|forms| forms.is_development) {
        return;
    }
    let question = did_you_mean(field, names);
    if !question.is_empty() {
        let at = location::text(caller);
        let line = format!("The form has no field `{field}`{question} (at {at})");
        let fields = LogFields { location: Some(at), ..LogFields::default() };
        log_fields::log("aside::http", Level::Warn, &fields, format_args!("{}", escape(&line)));
    }
}

/// The errors of a form that a template may show, in development.
#[cfg(feature = "templates")]
#[derive(Debug)]
pub(super) struct ShownErrors {
    fields: Vec<String>,
    /// The names whose errors a template has read.
    read: Mutex<BTreeSet<String>>,
}

#[cfg(feature = "templates")]
impl ShownErrors {
    /// Returns the record of the errors of a form that is passed to a template; in development only.
    pub(super) fn of(errors: &BTreeMap<String, String>) -> Option<Arc<ShownErrors>> {
        CURRENT.with_borrow_mut(|forms| {
            if !forms.is_development || errors.is_empty() {
                return None;
            }
            let shown = ShownErrors { fields: errors.keys().cloned().collect(), read: Mutex::default() };
            let shown = Arc::new(shown);
            forms.shown.push(Arc::clone(&shown));
            Some(shown)
        })
    }

    pub(super) fn record(&self, name: &str) {
        lock(&self.read).insert(name.to_owned());
    }

    /// Returns a warning for each error that no template has read.
    fn warnings(&self, template: &str) -> Vec<String> {
        let read = lock(&self.read);
        let is_other = |name: &&str| !self.fields.iter().any(|field| field == name);
        let warning = |field: &String| {
            let near = nearest(field, read.iter().map(String::as_str).filter(is_other));
            let near = near.map_or(String::new(), |near| format!("; it reads the error of `{near}`"));
            format!("the form has an error for the field `{field}`, which {template} does not show{near}")
        };
        self.fields.iter().filter(|field| !read.contains(*field)).map(warning).collect()
    }
}

/// Warns of the errors that a rendered page does not show; in development only.
#[cfg(feature = "templates")]
pub(crate) fn warn_of_hidden_errors(template: &str, origin: &RequestInfo) {
    let shown = CURRENT.with_borrow_mut(|forms| std::mem::take(&mut forms.shown));
    for warning in shown.iter().flat_map(|shown| shown.warnings(template)) {
        log::warn!(target: "aside::http", "{}", escape(&format!("{origin}: {warning}")));
    }
}
