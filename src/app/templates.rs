//! The templates of an application: the folder, those that are compiled in, and what all of them share.

use std::fs;

use minijinja::functions::Function;
use minijinja::value::{FunctionArgs, FunctionResult};
use serde::Serialize;

use super::App;
use crate::background::scope::{Scope, Values};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::files::folder::Folder;
use crate::http::request::Request;
use crate::http::templates::Templates;

/// The templates that an application defines.
#[derive(Default)]
pub(super) struct TemplateDefinitions {
    folder: Option<Folder>,
    compiled_in: Vec<(String, String)>,
    /// Add filters, globals and context processors, in the order of the calls.
    additions: Vec<Addition>,
}

type Addition = Box<dyn FnOnce(&mut Templates) + Send + Sync>;

impl App {
    /// Sets the folder of the templates, in place of `ASIDE_TEMPLATES` (the folder `templates`): a path, or a folder that
    /// a release has in its program, `.templates(aside::embed!("templates"))` ([`embed!`](crate::embed!)).
    pub fn templates(mut self, folder: impl Into<Folder>) -> App {
        self.templates.folder = Some(folder.into());
        self
    }

    /// Adds a template that is compiled in: `.template("page.html", include_str!("page.html"))`. In development a file of
    /// this name in the template folder has precedence, so that changes to it show at once.
    pub fn template(mut self, name: &str, source: &str) -> App {
        self.templates.compiled_in.push((name.to_owned(), source.to_owned()));
        self
    }

    /// Adds a filter to all templates, those of mails included: `{{ photo.price | money }}`.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, context};
    ///
    /// fn money(cents: i64) -> String {
    ///     format!("{}.{:02} €", cents / 100, cents % 100)
    /// }
    ///
    /// let app = App::new()
    ///     .template("price.html", "{{ price | money }}")
    ///     .template_filter("money", money)
    ///     .get("/", |req: &mut Request| req.render("price.html", context! { price => 1250 }));
    /// assert_eq!(TestClient::new(app).get("/").text(), "12.50 €");
    /// ```
    ///
    /// The parameters and the result are what minijinja converts: numbers, `bool`, `&str`, `String`, `Vec<T>`, `Option<T>`,
    /// and `Result<T, minijinja::Error>`. The result is escaped like any other value. A filter of the same name, also one of
    /// minijinja, is replaced. The filters of a mounted application are added too.
    pub fn template_filter<F, Rv, Args>(mut self, name: &str, filter: F) -> App
    where
        F: Function<Rv, Args>,
        Rv: FunctionResult,
        Args: for<'a> FunctionArgs<'a>,
    {
        let name = name.to_owned();
        self.templates.additions.push(Box::new(move |templates| templates.add_filter(name, filter)));
        self
    }

    /// Adds a value to all templates, those of mails included: `{{ site }}`.
    ///
    /// ```
    /// # use aside::App;
    /// let app = App::new().template_global("site", "Darkroom").template_global("languages", ["en", "de"]);
    /// ```
    ///
    /// A value of the same name in the context takes precedence. For a value that depends on the request, see
    /// [`context_processor`](App::context_processor).
    pub fn template_global(mut self, name: &str, value: impl Serialize) -> App {
        let (name, value) = (name.to_owned(), crate::http::templates::private::value(&value));
        self.templates.additions.push(Box::new(move |templates| templates.add_global(name, value)));
        self
    }

    /// Adds values to the context of each [`render`](Request::render), such as those that the layout of all pages shows.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, context};
    ///
    /// let app = App::new()
    ///     .template("page.html", "{{ language }}")
    ///     .context_processor(|req| Ok(context! { language => req.preferred_language(&["en", "de"]).unwrap_or("en") }))
    ///     .get("/", |req: &mut Request| req.render("page.html", context! {}));
    /// assert_eq!(TestClient::new(app).get("/").text(), "en");
    /// ```
    ///
    /// It runs once for each page, before the template, also for one that does not read its values: keep it quick. A value of
    /// the same name in the page's own context takes precedence, and a later processor precedes an earlier one. Mails and live
    /// fragments have no request and so not its values. Processors of a mounted application run for all pages. If one fails,
    /// the page does, with its error. One that calls `render` fails.
    pub fn context_processor<C: Serialize>(
        mut self,
        process: impl Fn(&mut Request) -> Result<C> + Send + Sync + 'static,
    ) -> App {
        let addition: Addition = Box::new(move |templates| templates.add_context_processor(process));
        self.templates.additions.push(addition);
        self
    }
}

impl TemplateDefinitions {
    /// Adds the compiled-in templates of a mounted application, and what its templates share.
    pub(super) fn mount(&mut self, other: TemplateDefinitions) {
        self.compiled_in.extend(other.compiled_in);
        self.additions.extend(other.additions);
    }

    /// Adds a template of the framework. One of the application that has the same name replaces it.
    #[cfg(feature = "live")]
    pub(super) fn add_default(&mut self, name: &str, source: &str) {
        self.compiled_in.insert(0, (name.to_owned(), source.to_owned()));
    }

    /// Adds the templates to the values of the application. All files are read in production, and all embedded ones.
    ///
    /// # Errors
    /// If the folder cannot be read or a template is invalid.
    pub(super) fn add_to(self, values: &mut Values, config: &Config) -> Result<()> {
        let folder = self.folder.map_or_else(|| template_folder(config), Ok)?;
        let may_change = config.is_development() && folder.on_disk().is_some();
        let mut templates = Templates::new(folder, config.is_development());
        self.additions.into_iter().for_each(|add| add(&mut templates));
        self.compiled_in.into_iter().try_for_each(|(name, source)| templates.add(&name, source))?;
        if !may_change {
            templates.read_all()?;
        }
        values.insert(templates);
        Ok(())
    }
}

/// Returns the folder of the templates.
pub(super) fn folder(scope: &Scope) -> Option<Folder> {
    scope.get::<Templates>().map(|templates| templates.folder().clone())
}

/// Returns the folder that `ASIDE_TEMPLATES` names. The default may be missing: all templates may be compiled in.
fn template_folder(config: &Config) -> Result<Folder> {
    let folder = &config.templates;
    if *folder != Config::default().templates {
        fs::read_dir(folder).map_err(|error| {
            Error::from(error)
                .context(format!("ASIDE_TEMPLATES names a folder that cannot be read: {}", folder.display()))
        })?;
    }
    Ok(folder.clone().into())
}
