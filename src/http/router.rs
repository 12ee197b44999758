//! The router: finds the route of a path.

use std::collections::BTreeMap;
use std::panic::Location;

use super::request::{Method, decode_param};
use crate::error::{Error, Result};

/// A route, with the value that the router returns for it.
#[derive(Clone)]
pub(crate) struct Route<T> {
    /// The method; `None` for all methods.
    pub(crate) method: Option<Method>,
    pub(crate) pattern: String,
    /// The location in the source where the route was added.
    pub(crate) location: &'static Location<'static>,
    pub(crate) endpoint: T,
}

impl<T> Route<T> {
    /// Returns the method, or `*`.
    pub(crate) fn verb(&self) -> &str {
        self.method.as_ref().map_or(ANY, Method::as_str)
    }

    /// Returns true if the framework added the route, so that it is not listed among those of the site.
    pub(crate) fn is_builtin(&self) -> bool {
        // Also below the path of a mounted application.
        self.pattern.split('/').any(|segment| segment == &BUILTIN[1..])
    }
}

/// A router, with one tree for each method, and one for routes of any method.
pub(crate) struct Router<T> {
    routes: Vec<Route<T>>,
    /// The indexes into `routes`, by method and path.
    trees: BTreeMap<String, matchit::Router<usize>>,
}

/// The result of a look-up.
pub(crate) enum Found<'r, T> {
    /// A route, with its number and the parameters of the path.
    Route(&'r T, usize, Vec<(String, String)>),
    /// The path exists for these methods only.
    OtherMethods(Vec<String>),
    /// No route matches the path.
    Nothing,
}

/// The prefix of the framework's own routes.
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
    /// 500 if the pattern is malformed, or conflicts with another route; the error names both locations.
    pub(crate) fn add(&mut self, route: Route<T>) -> Result<()> {
        let tree = self.trees.entry(route.verb().to_owned()).or_default();
        tree.insert(&route.pattern, self.routes.len()).map_err(|error| self.refusal(&route, &error))?;
        self.routes.push(route);
        Ok(())
    }

    fn refusal(&self, route: &Route<T>, error: &matchit::InsertError) -> Error {
        let (pattern, location) = (&route.pattern, route.location);
        let matchit::InsertError::Conflict { with } = error else {
            return Error::internal(format!("the route `{pattern}` at {location} is invalid: {error}"));
        };
        let first = self.routes.iter().find(|other| other.verb() == route.verb() && other.pattern == *with);
        let first = first.map_or(String::new(), |first| format!(" at {}", first.location));
        Error::internal(format!("the route {} `{pattern}` at {location} conflicts with `{with}`{first}", route.verb()))
    }

    /// Returns all routes, in the order in which they were added.
    pub(crate) fn routes(&self) -> &[Route<T>] {
        &self.routes
    }

    /// Returns all routes by value, for another router.
    pub(crate) fn into_routes(self) -> Vec<Route<T>> {
        self.routes
    }

    /// Finds the route for a method and a path. A HEAD request uses the GET route if there is no HEAD route.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Found<'_, T> {
        let own = self.at(method.as_str(), path);
        let or_get = || if *method == Method::Head { self.at("GET", path) } else { None };
        if let Some((number, params)) = own.or_else(or_get).or_else(|| self.at(ANY, path)) {
            return Found::Route(&self.routes[number].endpoint, number, params);
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

    /// Returns the methods of a path, for an `Allow` header. `*` stands for the whole site (RFC 9110, section 9.3.7).
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
        router.add(Route { method, pattern: route.to_owned(), location: Location::caller(), endpoint: () })
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
    fn another_method_gets_the_list_of_allowed_methods() {
        let router = router(&[(Some(Method::Get), "/a"), (Some(Method::Post), "/a"), (None, "/b")]);
        let Found::OtherMethods(methods) = router.find(&Method::Delete, "/a") else { panic!("found") };
        assert_eq!(methods, ["GET", "POST", "HEAD", "OPTIONS"]);
        assert!(matches!(router.find(&Method::Other("BREW".into()), "/b"), Found::Route(..)));
    }

    #[test]
    fn the_whole_site_has_the_methods_of_all_routes() {
        let router = router(&[(Some(Method::Get), "/a"), (Some(Method::Put), "/b"), (None, "/c")]);
        let Found::OtherMethods(methods) = router.find(&Method::Options, "*") else { panic!("found") };
        assert_eq!(methods, ["GET", "PUT", "HEAD", "OPTIONS"]);
    }

    #[test]
    fn a_conflicting_route_names_both_locations() {
        let mut router = router(&[(Some(Method::Get), "/a/{id}")]);
        let message = add(&mut router, Some(Method::Get), "/a/{name}").unwrap_err().to_string();
        assert_eq!(message.matches("router.rs:").count(), 2, "{message}");
        assert!(add(&mut router, Some(Method::Post), "/a/{name}").is_ok());
    }
}
