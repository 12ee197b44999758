//! Which handler answers a path.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use super::request::{Method, Request, decode_param};
use super::response::Response;
use crate::error::{Error, Result};

/// A handler, whatever it was before.
pub(crate) type Handler = Arc<dyn Fn(&mut Request) -> Response + Send + Sync>;

/// Routes: one tree for each method, and one for the routes that take any.
#[derive(Default)]
pub(crate) struct Router {
    trees: BTreeMap<String, matchit::Router<Handler>>,
    places: Vec<(String, String, &'static Location<'static>)>,
}

/// What a path leads to.
pub(crate) enum Found {
    /// This handler, with the parameters of the path.
    Handler(Handler, Vec<(String, String)>),
    /// A path that is there, for these methods only.
    OtherMethods(Vec<String>),
    /// Nothing.
    Nothing,
}

/// The tree for routes of any method.
const ANY: &str = "*";

impl Router {
    /// Adds a route, for one method or for any.
    ///
    /// # Errors
    /// When the route is malformed, or another one answers the same paths; both places are named.
    pub(crate) fn add(
        &mut self,
        method: Option<Method>,
        route: &str,
        handler: Handler,
        place: &'static Location<'static>,
    ) -> Result<()> {
        let method = method.as_ref().map_or(ANY, Method::as_str);
        let tree = self.trees.entry(method.to_owned()).or_default();
        tree.insert(route, handler).map_err(|error| self.refusal(method, route, place, &error))?;
        self.places.push((method.to_owned(), route.to_owned(), place));
        Ok(())
    }

    fn refusal(&self, method: &str, route: &str, place: &Location<'_>, error: &matchit::InsertError) -> Error {
        let matchit::InsertError::Conflict { with } = error else {
            return Error::internal(format!("the route `{route}` at {place} cannot be used: {error}"));
        };
        let first = self.places.iter().find(|(theirs, route, _)| theirs == method && route == with);
        let first = first.map_or(String::new(), |(_, _, first)| format!(" at {first}"));
        Error::internal(format!("the route {method} `{route}` at {place} is taken by `{with}`{first}"))
    }

    /// The handler for a method and a path. HEAD is answered by GET's where it has none of its own.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Found {
        let own = self.at(method.as_str(), path);
        let or_get = || if *method == Method::Head { self.at("GET", path) } else { None };
        if let Some((handler, params)) = own.or_else(or_get).or_else(|| self.at(ANY, path)) {
            return Found::Handler(handler, params);
        }
        match self.methods(path) {
            methods if methods.is_empty() => Found::Nothing,
            methods => Found::OtherMethods(methods),
        }
    }

    fn at(&self, method: &str, path: &str) -> Option<(Handler, Vec<(String, String)>)> {
        let found = self.trees.get(method)?.at(path).ok()?;
        let params = found.params.iter().map(|(name, value)| (name.to_owned(), decode_param(value)));
        Some((found.value.clone(), params.collect()))
    }

    /// The methods that a path is there for, in the words of an `Allow` header.
    fn methods(&self, path: &str) -> Vec<String> {
        let here = self.trees.iter().filter(|(_, tree)| tree.at(path).is_ok());
        let mut methods: Vec<String> = here.map(|(method, _)| method.clone()).collect();
        if methods.iter().any(|method| method == "GET") && !methods.iter().any(|method| method == "HEAD") {
            methods.push("HEAD".into());
        }
        if !methods.is_empty() {
            methods.push("OPTIONS".into());
        }
        methods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(Option<Method>, &str)]) -> Router {
        let mut router = Router::default();
        for (method, route) in routes {
            add(&mut router, method.clone(), route).unwrap();
        }
        router
    }

    fn add(router: &mut Router, method: Option<Method>, route: &str) -> Result<()> {
        let name = route.to_owned();
        router.add(method, route, Arc::new(move |_| Response::text(name.clone())), Location::caller())
    }

    fn params(found: Found) -> Vec<(String, String)> {
        match found {
            Found::Handler(_, params) => params,
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
        assert!(matches!(router.find(&Method::Other("BREW".into()), "/b"), Found::Handler(..)));
    }

    #[test]
    fn a_second_route_for_the_same_paths_names_both_places() {
        let mut router = router(&[(Some(Method::Get), "/a/{id}")]);
        let words = add(&mut router, Some(Method::Get), "/a/{name}").unwrap_err().to_string();
        assert_eq!(words.matches("router.rs:").count(), 2, "{words}");
        assert!(add(&mut router, Some(Method::Post), "/a/{name}").is_ok());
    }
}
