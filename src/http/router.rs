//! Which route answers a path.

use std::collections::BTreeMap;
use std::panic::Location;

use super::request::{Method, decode_param};
use crate::error::{Error, Result};

/// A route, and what is found by it.
#[derive(Clone)]
pub(crate) struct Route<T> {
    /// None: any.
    pub(crate) method: Option<Method>,
    pub(crate) pattern: String,
    /// Where it was added.
    pub(crate) place: &'static Location<'static>,
    pub(crate) goal: T,
}

impl<T> Route<T> {
    /// Its method, or `*`.
    pub(crate) fn verb(&self) -> &str {
        self.method.as_ref().map_or(ANY, Method::as_str)
    }

    /// Whether it is one that the framework adds itself: nothing to list among those of the site.
    pub(crate) fn is_builtin(&self) -> bool {
        // Below the path of a mounted application too.
        self.pattern.split('/').any(|segment| segment == &BUILTIN[1..])
    }
}

/// Routes: one tree for each method, and one for the routes that take any.
pub(crate) struct Router<T> {
    routes: Vec<Route<T>>,
    /// The numbers of the routes above, by method and path.
    trees: BTreeMap<String, matchit::Router<usize>>,
}

/// What a path leads to.
pub(crate) enum Found<'r, T> {
    /// This, with its number and the parameters of the path.
    Route(&'r T, usize, Vec<(String, String)>),
    /// A path that is there, for these methods only.
    OtherMethods(Vec<String>),
    /// Nothing.
    Nothing,
}

/// What lies below is the framework's own.
pub(crate) const BUILTIN: &str = "/_aside";

/// The tree for routes of any method.
const ANY: &str = "*";

impl<T> Default for Router<T> {
    fn default() -> Router<T> {
        Router { routes: Vec::new(), trees: BTreeMap::new() }
    }
}

impl<T> Router<T> {
    /// Adds a route.
    ///
    /// # Errors
    /// When its pattern is malformed, or another one answers the same paths; both places are named.
    pub(crate) fn add(&mut self, route: Route<T>) -> Result<()> {
        let tree = self.trees.entry(route.verb().to_owned()).or_default();
        tree.insert(&route.pattern, self.routes.len()).map_err(|error| self.refusal(&route, &error))?;
        self.routes.push(route);
        Ok(())
    }

    fn refusal(&self, route: &Route<T>, error: &matchit::InsertError) -> Error {
        let (pattern, place) = (&route.pattern, route.place);
        let matchit::InsertError::Conflict { with } = error else {
            return Error::internal(format!("the route `{pattern}` at {place} cannot be used: {error}"));
        };
        let first = self.routes.iter().find(|other| other.verb() == route.verb() && other.pattern == *with);
        let first = first.map_or(String::new(), |first| format!(" at {}", first.place));
        Error::internal(format!("the route {} `{pattern}` at {place} is taken by `{with}`{first}", route.verb()))
    }

    /// All routes, in the order in which they were added.
    pub(crate) fn routes(&self) -> &[Route<T>] {
        &self.routes
    }

    /// The same, to be added to another router.
    pub(crate) fn into_routes(self) -> Vec<Route<T>> {
        self.routes
    }

    /// The route that was added last.
    pub(crate) fn last_mut(&mut self) -> Option<&mut Route<T>> {
        self.routes.last_mut()
    }

    /// The route for a method and a path. HEAD is answered by GET's where it has none of its own.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Found<'_, T> {
        let own = self.at(method.as_str(), path);
        let or_get = || if *method == Method::Head { self.at("GET", path) } else { None };
        if let Some((number, params)) = own.or_else(or_get).or_else(|| self.at(ANY, path)) {
            return Found::Route(&self.routes[number].goal, number, params);
        }
        match self.methods(path) {
            methods if methods.is_empty() => Found::Nothing,
            methods => Found::OtherMethods(methods),
        }
    }

    fn at(&self, method: &str, path: &str) -> Option<(usize, Vec<(String, String)>)> {
        let found = self.trees.get(method)?.at(path).ok()?;
        let params = found.params.iter().map(|(name, value)| (name.to_owned(), decode_param(value)));
        Some((*found.value, params.collect()))
    }

    /// The methods that a path is there for, in the words of an `Allow` header. `*` stands for the site as a whole (RFC
    /// 9110, section 9.3.7).
    fn methods(&self, path: &str) -> Vec<String> {
        let of_the_site = |method: &str| self.routes.iter().any(|route| route.verb() == method && !route.is_builtin());
        let is_here = |method: &str, tree: &matchit::Router<usize>| match path {
            "*" => of_the_site(method),
            path => tree.at(path).is_ok(),
        };
        let here = self.trees.iter().filter(|(method, tree)| *method != ANY && is_here(method, tree));
        let mut methods: Vec<String> = here.map(|(method, _)| method.clone()).collect();
        if methods.iter().any(|method| method == "GET") && !methods.iter().any(|method| method == "HEAD") {
            methods.push("HEAD".into());
        }
        if !methods.is_empty() && !methods.iter().any(|method| method == "OPTIONS") {
            methods.push("OPTIONS".into());
        }
        methods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(Option<Method>, &str)]) -> Router<()> {
        let mut router = Router::default();
        for (method, route) in routes {
            add(&mut router, method.clone(), route).unwrap();
        }
        router
    }

    fn add(router: &mut Router<()>, method: Option<Method>, route: &str) -> Result<()> {
        router.add(Route { method, pattern: route.to_owned(), place: Location::caller(), goal: () })
    }

    fn params(found: Found<'_, ()>) -> Vec<(String, String)> {
        match found {
            Found::Route(_, _, params) => params,
            _ => panic!("no handler"),
        }
    }

    #[test]
    fn parameters_are_decoded_after_the_match() {
        let router = router(&[(Some(Method::Get), "/photos/{id}"), (Some(Method::Get), "/files/{*rest}")]);
        assert_eq!(params(router.find(&Method::Get, "/photos/a%2Fb"))[0], ("id".into(), "a/b".into()));
        assert_eq!(params(router.find(&Method::Head, "/files/a/b"))[0], ("rest".into(), "a/b".into()));
        assert!(matches!(router.find(&Method::Get, "/photos/a/b"), Found::Nothing));
    }

    #[test]
    fn another_method_is_told_which_there_are() {
        let router = router(&[(Some(Method::Get), "/a"), (Some(Method::Post), "/a"), (None, "/b")]);
        let Found::OtherMethods(methods) = router.find(&Method::Delete, "/a") else { panic!("found") };
        assert_eq!(methods, ["GET", "POST", "HEAD", "OPTIONS"]);
        assert!(matches!(router.find(&Method::Other("BREW".into()), "/b"), Found::Route(..)));
    }

    #[test]
    fn the_site_as_a_whole_has_the_methods_of_all_routes() {
        let router = router(&[(Some(Method::Get), "/a"), (Some(Method::Put), "/b"), (None, "/c")]);
        let Found::OtherMethods(methods) = router.find(&Method::Options, "*") else { panic!("found") };
        assert_eq!(methods, ["GET", "PUT", "HEAD", "OPTIONS"]);
    }

    #[test]
    fn a_second_route_for_the_same_paths_names_both_places() {
        let mut router = router(&[(Some(Method::Get), "/a/{id}")]);
        let words = add(&mut router, Some(Method::Get), "/a/{name}").unwrap_err().to_string();
        assert_eq!(words.matches("router.rs:").count(), 2, "{words}");
        assert!(add(&mut router, Some(Method::Post), "/a/{name}").is_ok());
    }
}
