//! The parts that `aside new --with` adds.

use std::collections::BTreeSet;

use crate::nearest::nearest;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Login,
    Jobs,
    Mail,
    Uploads,
    Live,
}

impl Feature {
    pub const ALL: [Feature; 5] = [Feature::Login, Feature::Jobs, Feature::Mail, Feature::Uploads, Feature::Live];

    /// Returns the name in `--with` and in the templates.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Login => "login",
            Feature::Jobs => "jobs",
            Feature::Mail => "mail",
            Feature::Uploads => "uploads",
            Feature::Live => "live",
        }
    }

    /// Parses `login,jobs`; `all` is every feature.
    pub fn parse_list(list: &str) -> Result<BTreeSet<Feature>, String> {
        let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Err(format!("--with takes features: {}", names_of_all()));
        }
        if names == ["all"] {
            return Ok(BTreeSet::from(Feature::ALL));
        }
        names.into_iter().map(Feature::parse).collect()
    }

    fn parse(name: &str) -> Result<Feature, String> {
        let found = Feature::ALL.into_iter().find(|feature| feature.name() == name);
        found.ok_or_else(|| {
            let nearest = nearest(name, Feature::ALL.map(Feature::name));
            let nearest = nearest.map_or(".".to_owned(), |nearest| format!("; did you mean `{nearest}`?"));
            format!("there is no feature `{}`{nearest} There are {}.", name.escape_debug(), names_of_all())
        })
    }
}

fn names_of_all() -> String {
    Feature::ALL.map(Feature::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_feature_names_the_nearest_and_lists_all() {
        let misspelled = Feature::parse_list("jobs,logn").unwrap_err();
        assert_eq!(
            misspelled,
            "there is no feature `logn`; did you mean `login`? There are login, jobs, mail, uploads, live."
        );
        let unknown = Feature::parse_list("graphql").unwrap_err();
        assert_eq!(unknown, "there is no feature `graphql`. There are login, jobs, mail, uploads, live.");
        assert!(Feature::parse_list("Upload").unwrap_err().contains("`uploads`?"));
    }

    #[test]
    fn a_list_may_repeat_a_name_and_have_spaces() {
        assert_eq!(Feature::parse_list("jobs, login,jobs,").unwrap(), BTreeSet::from([Feature::Login, Feature::Jobs]));
        assert_eq!(Feature::parse_list("all").unwrap().len(), 5);
        assert!(Feature::parse_list(" , ").is_err());
    }
}
