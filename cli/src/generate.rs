//! `aside generate`: adds a page, a form, a job or a mail to the site of the current folder.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::changes::Changes;
use crate::files;
use crate::name::ItemName;
use crate::rust_source::{add_first, add_job, add_link, add_module, add_routes, has_module, routing_function};
use crate::site_folder::{self, depends_on_aside};
use crate::template::render;
use crate::{Failure, current_folder};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Page,
    Form,
    Job,
    Mail,
}

impl Kind {
    pub const NAMES: [(&str, Kind); 4] =
        [("page", Kind::Page), ("form", Kind::Form), ("job", Kind::Job), ("mail", Kind::Mail)];

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::NAMES.into_iter().find(|(own, _)| *own == name).map(|(_, kind)| kind)
    }

    fn is_page(self) -> bool {
        matches!(self, Kind::Page | Kind::Form)
    }

    fn rust(self) -> &'static str {
        match self {
            Kind::Page => include_str!("../templates/generate/page.rs"),
            Kind::Form => include_str!("../templates/generate/form.rs"),
            Kind::Job => include_str!("../templates/generate/job.rs"),
            Kind::Mail => include_str!("../templates/generate/mail.rs"),
        }
    }

    /// Returns the folder and the extension of the template, and the template.
    fn template(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Kind::Page => Some(("templates", "html", include_str!("../templates/generate/page.html"))),
            Kind::Form => Some(("templates", "html", include_str!("../templates/generate/form.html"))),
            Kind::Mail => Some(("templates/mail", "txt", include_str!("../templates/generate/mail.txt"))),
            Kind::Job => None,
        }
    }
}

const MAIN: &str = "src/main.rs";
const LAYOUT: &str = "templates/layout.html";
const FIELDS: &str = "templates/fields.html";

/// The function of a generated site that its tests call.
const APP: &str = "fn app(config: Config, data: &Path) -> Result<App>";

/// Adds to the site of the current folder, and returns what was done and what is left to do.
pub fn add(kind: Kind, name: &ItemName) -> Result<String, Failure> {
    let site = Site::find(&current_folder()?)?;
    let mut plan = Plan { site: &site, name, main: site.main.clone(), changes: Changes::default(), left: Vec::new() };
    plan.refuse_what_exists(kind)?;
    plan.add_files(kind);
    plan.add_module(&name.module());
    match kind {
        Kind::Page => plan.add_routes(kind),
        Kind::Form => {
            plan.add_fields();
            plan.add_routes(kind);
        }
        Kind::Job => plan.register_job(),
        Kind::Mail => {}
    }
    plan.check_test_site();
    plan.finish()
}

/// The site that is added to.
struct Site {
    root: PathBuf,
    /// The text of `src/main.rs`.
    main: String,
}

impl Site {
    fn find(here: &Path) -> Result<Site, Failure> {
        let root = site_folder::find(here, depends_on_aside)?;
        let main = fs::read_to_string(root.join(MAIN)).map_err(|error| Failure::io("read", Path::new(MAIN), &error))?;
        Ok(Site { root, main })
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }

    /// Formats a file as rustfmt would, unless the owner does not use it: then the former text differs from its format.
    fn formatted(&self, before: &str, after: String) -> String {
        match self.rustfmt(before) {
            Some(formatted) if formatted == before => self.rustfmt(&after).unwrap_or(after),
            _ => after,
        }
    }

    /// Returns the text as rustfmt formats it with the settings of the site, or `None` without rustfmt.
    fn rustfmt(&self, text: &str) -> Option<String> {
        let mut rustfmt = Command::new("rustfmt")
            .args(["--edition", "2024", "--quiet", "--emit", "stdout"])
            .current_dir(&self.root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        rustfmt.stdin.take()?.write_all(text.as_bytes()).ok()?;
        let output = rustfmt.wait_with_output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    }
}

/// What is going to be done.
struct Plan<'s> {
    site: &'s Site,
    name: &'s ItemName,
    /// The text of `src/main.rs` with the changes.
    main: String,
    changes: Changes,
    /// What the user has to add, since its place was not found.
    left: Vec<String>,
}

impl Plan<'_> {
    fn refuse_what_exists(&self, kind: Kind) -> Result<(), Failure> {
        let (module, path) = (self.name.module(), self.name.path());
        let template = kind.template().map(|(folder, extension, _)| format!("{folder}/{module}.{extension}"));
        let paths = [format!("src/{module}.rs"), format!("src/{module}")].into_iter().chain(template);
        let mut existing = paths.filter(|path| self.site.has(path));
        if let Some(path) = existing.next() {
            return Err(Failure::Misuse(format!("{path} exists already; nothing was changed")));
        }
        if has_module(&self.main, &module) {
            return Err(Failure::Misuse(format!("{MAIN} has a module `{module}` already; nothing was changed")));
        }
        if kind.is_page() && self.main.contains(&format!("\"/{path}\"")) {
            return Err(Failure::Misuse(format!("{MAIN} has a route for /{path} already; nothing was changed")));
        }
        Ok(())
    }

    fn fill(&self, template: &str) -> String {
        let (module, path, type_name, title) =
            (self.name.module(), self.name.path(), self.name.type_name(), self.name.title());
        let values = [("module", &*module), ("path", &*path), ("Type", &*type_name), ("title", &*title)];
        render(template, |_| false, &values)
    }

    fn add_files(&mut self, kind: Kind) {
        let module = self.name.module();
        let rust = self.fill(kind.rust());
        // A long name makes long lines.
        let rust = self.site.rustfmt(&rust).unwrap_or(rust);
        self.changes.new_files.push((format!("src/{module}.rs"), rust));
        if let Some((folder, extension, template)) = kind.template() {
            self.changes.new_files.push((format!("{folder}/{module}.{extension}"), self.fill(template)));
        }
    }

    /// Adds the macros that the template of a form imports, to a site that was made by hand.
    fn add_fields(&mut self) {
        match self.site.read(FIELDS) {
            None if !self.site.has(FIELDS) => {
                self.changes.new_files.push((FIELDS.to_owned(), files::FIELDS.to_owned()))
            }
            Some(text) if text.contains("macro field(") && text.contains("macro area(") => {}
            _ => self.left.push(format!("{FIELDS}: the macros `field` and `area`, which the new form imports")),
        }
    }

    /// Changes `src/main.rs`, or tells the user the line if its place was not found.
    fn edit_main(&mut self, edited: Option<String>, lines: &[String]) {
        match edited {
            Some(edited) => self.main = edited,
            None => self.left.extend(lines.iter().map(|line| format!("{MAIN}: {line}"))),
        }
    }

    fn add_module(&mut self, module: &str) {
        self.edit_main(add_module(&self.main, module), &[format!("mod {module};")]);
    }

    fn add_routes(&mut self, kind: Kind) {
        let (module, path) = (self.name.module(), self.name.path());
        let [get, post, rate] = ["get", "post", "Rate"].map(|name| routing_function(&self.main, name));
        let mut calls = vec![format!(".route(\"/{path}\", {get}({module}::show).name(\"{module}\"))")];
        if kind == Kind::Form {
            calls.push(format!(".route(\"/{path}\", {post}({module}::send).rate_limit({rate}::per_minute(20)))"));
        }
        self.edit_main(add_routes(&self.main, &calls), &calls);
        self.add_link(&module);
    }

    fn add_link(&mut self, module: &str) {
        let layout = self.site.read(LAYOUT);
        if layout.is_none() {
            self.left.push(format!("{LAYOUT}, which the new page extends, with a block `content`"));
        }
        match layout.and_then(|before| Some((add_link(&before, module, &self.name.title())?, before))) {
            Some((after, before)) => self.changes.edit(LAYOUT, before, after),
            None => self.left.push(format!("a link to the page: <a href=\"{{{{ url_for(\"{module}\") }}}}\">")),
        }
    }

    fn register_job(&mut self) {
        let job = format!("crate::{}::{}", self.name.module(), self.name.type_name());
        let files = ["src/jobs.rs", MAIN];
        let registered = files.iter().find_map(|path| {
            let before = self.site.read(path)?;
            Some((*path, add_job(if *path == MAIN { &self.main } else { &before }, &job)?, before))
        });
        match registered {
            Some((MAIN, after, _)) => self.main = after,
            Some((path, after, before)) => {
                let after = self.site.formatted(&before, after);
                self.changes.edit(path, before, after);
            }
            None => self.add_job_store(&job),
        }
    }

    /// Adds a store of jobs to a site without one.
    fn add_job_store(&mut self, job: &str) {
        let edited = add_first(&self.main, ".jobs(jobs::open(data)?)");
        let is_as_generated = self.main.contains(APP) && self.site.has("src/db.rs") && !self.site.has("src/jobs.rs");
        match edited.filter(|_| is_as_generated && !self.main.contains(".jobs(")) {
            Some(edited) => {
                self.main = edited;
                self.add_module("jobs");
                self.changes
                    .new_files
                    .push(("src/jobs.rs".to_owned(), render(files::JOBS, |_| false, &[("job", job)])));
            }
            None => self.left.push(format!(
                "the registration of the job: .register::<{job}>(), of the `Jobs` of your `App`; if it has none: \
                 .jobs(aside::Jobs::sqlite(\"jobs.db\")?.register::<{job}>())"
            )),
        }
    }

    /// The generated tests call `test_site::test_site`, which only a site of `aside new` has.
    fn check_test_site(&mut self) {
        if !has_module(&self.main, "test_site") {
            let function = "fn test_site() -> (tempfile::TempDir, TestClient)";
            self.left.push(format!("src/test_site.rs, which the new test uses: `pub {function}`"));
        }
    }

    fn finish(mut self) -> Result<String, Failure> {
        let site = self.site;
        if self.main != site.main {
            let after = site.formatted(&site.main, self.main);
            self.changes.edit(MAIN, site.main.clone(), after);
        }
        self.changes.make(&site.root)?;
        let made = self.changes.new_files.iter().map(|(path, _)| format!("made     {path}\n"));
        let changed = self.changes.edits.iter().map(|(path, ..)| format!("changed  {path}\n"));
        let left = self.left.iter().map(|line| format!("to add   {line}\n"));
        Ok(made.chain(changed).chain(left).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::depends_on_aside;

    #[test]
    fn a_dependency_on_aside_is_recognized() {
        for manifest in [
            "[dependencies]\naside = { path = \"../aside\" }",
            "[dependencies]\nserde = \"1\"\naside=\"0.1\"",
            "[dependencies]\naside.workspace = true",
            "[dependencies.aside]\npath = \"../aside\"",
        ] {
            assert!(depends_on_aside(manifest), "{manifest}");
        }
        for manifest in
            ["[package]\nname = \"aside\"", "[dependencies]\naside-cli = \"1\"", "[features]\naside = []", ""]
        {
            assert!(!depends_on_aside(manifest), "{manifest}");
        }
    }
}
