//! A form as templates read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::Form;
use crate::http::forms::refused_form::ShownErrors;

/// Serializes `values`, `lists`, `errors` and `valid` for templates.
impl<T> Serialize for Form<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.lists.keys().map(|name| (name.clone(), self.typed_in(name).into())).collect();
        let lists = self.lists.iter().map(|(name, texts)| (name.clone(), texts.clone().into())).collect();
        let errors = self.errors.iter().map(|(name, message)| (name.clone(), message.into())).collect();
        let mut form = serializer.serialize_struct("Form", 4)?;
        form.serialize_field("values", &Typed::value(values, "".into(), None))?;
        form.serialize_field("lists", &Typed::value(lists, Vec::<String>::new().into(), None))?;
        form.serialize_field("errors", &Typed::value(errors, "".into(), ShownErrors::of(&self.errors)))?;
        form.serialize_field("valid", &self.is_valid())?;
        form.end()
    }
}

/// The entered values or the errors, by name. A missing name renders as blank and is not an error: on the first visit
/// all are missing.
#[derive(Debug)]
struct Typed {
    fields: BTreeMap<String, Value>,
    blank: Value,
    /// Records the names that are read.
    shown: Option<Arc<ShownErrors>>,
}

impl Typed {
    fn value(fields: BTreeMap<String, Value>, blank: Value, shown: Option<Arc<ShownErrors>>) -> Value {
        Value::from_object(Typed { fields, blank, shown })
    }
}

impl Object for Typed {
    fn get_value(self: &Arc<Self>, name: &Value) -> Option<Value> {
        let name = name.as_str()?;
        self.shown.iter().for_each(|shown| shown.record(name));
        Some(self.fields.get(name).unwrap_or(&self.blank).clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.fields.keys().map(Value::from).collect())
    }
}
