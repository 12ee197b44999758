//! The name that a misspelled one is nearly.

/// Returns `; did you mean …?` with the nearest of the names, or nothing if none is near.
pub fn did_you_mean<'n>(name: &str, all: impl IntoIterator<Item = &'n str>) -> String {
    nearest(name, all).map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

/// Returns the name that a misspelled name is nearly: at most half of its letters differ. The dashes of options do not count.
pub fn nearest<'n>(name: &str, all: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.trim_start_matches('-').to_lowercase();
    let with_distance = all.into_iter().map(|other| {
        let letters = other.trim_start_matches('-');
        (strsim::osa_distance(&name, letters), letters.len(), other)
    });
    let near = with_distance.filter(|(distance, length, _)| distance * 2 <= *length);
    near.min().map(|(.., other)| other)
}
