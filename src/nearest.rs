//! The existing name that a misspelled name is nearly, for messages to the developer.

/// Returns a question that follows a message about an unknown name, with the nearest of the existing names: `; did you mean
/// `orders.html`?`. Returns an empty text if none is near.
pub(crate) fn did_you_mean<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(name, names).map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

/// Returns the nearest of the existing names, if at most a third of its letters differ.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let with_distance = names.map(|other| (strsim::osa_distance(&name.to_lowercase(), &other.to_lowercase()), other));
    let near = with_distance.filter(|(distance, other)| *distance * 3 <= other.chars().count().max(3));
    near.min().map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let names = ["orders.html", "order.html", "photos/show.html", "id"];
        for (name, suggestion) in [
            ("oders.html", "; did you mean `orders.html`?"),
            ("Order.html", "; did you mean `order.html`?"),
            ("photo/show.html", "; did you mean `photos/show.html`?"),
            ("ids", "; did you mean `id`?"),
            ("contact.html", ""),
            ("", ""),
        ] {
            assert_eq!(did_you_mean(name, names.into_iter()), suggestion, "{name}");
        }
        assert_eq!(did_you_mean("a", [].into_iter()), "");
    }
}
