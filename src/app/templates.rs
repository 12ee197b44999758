//! The templates of an application: the folder, and those that are compiled in.

use std::fs;

use super::App;
use crate::background::scope::{Scope, Values};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::files::folder::Folder;
use crate::http::templates::Templates;

/// The templates that an application defines.
#[derive(Default)]
pub(super) struct TemplateDefinitions {
    folder: Option<Folder>,
    compiled_in: Vec<(String, String)>,
}

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
}

impl TemplateDefinitions {
    /// Adds the compiled-in templates of a mounted application.
    pub(super) fn mount(&mut self, other: TemplateDefinitions) {
        self.compiled_in.extend(other.compiled_in);
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
