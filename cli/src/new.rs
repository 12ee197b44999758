//! `aside new`: makes a site.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::arguments::NewSite;
use crate::feature::Feature;
use crate::files;
use crate::site_folder::is_aside;
use crate::template::render;
use crate::{Failure, current_folder};

/// The checkout that this command was built from.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Makes the site below the current folder, and returns what to do next.
pub fn make(site: &NewSite) -> Result<String, Failure> {
    let here = current_folder()?;
    let folder = here.join(site.name.as_str());
    check_is_free(&folder)?;
    let checkout = checkout(site.aside.as_deref())?;
    let draft = Draft::create(&here, site.name.as_str())?;
    for (path, text) in texts(site, &checkout, is_nested(&here))? {
        draft.write(&path, &text)?;
    }
    // The versions that aside is tested with, also without network.
    if let Ok(lock) = fs::read_to_string(checkout.join("Cargo.lock")) {
        draft.write("Cargo.lock", &lock)?;
    }
    draft.finish(&folder)?;
    init_git(&folder);
    Ok(next_steps(site))
}

fn check_is_free(folder: &Path) -> Result<(), Failure> {
    let name = folder.file_name().unwrap_or_default().display();
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // The draft takes the place of an empty folder, and cannot take that of a link.
        Ok(existing) if !existing.is_dir() => {
            return Err(Failure::Misuse(format!("{name} exists and is not a folder")));
        }
        _ => {}
    }
    let mut entries = fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))?;
    // A fresh clone of an empty repository has a folder `.git` only.
    match entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == ".git")) {
        true => Ok(()),
        false => Err(Failure::Misuse(format!("the folder {name} exists and is not empty"))),
    }
}

/// Returns the absolute path of the checkout of aside.
fn checkout(chosen: Option<&str>) -> Result<PathBuf, Failure> {
    let path = fs::canonicalize(chosen.unwrap_or(CHECKOUT)).ok();
    let is_aside =
        |path: &PathBuf| fs::read_to_string(path.join("Cargo.toml")).is_ok_and(|manifest| is_aside(&manifest));
    path.filter(is_aside).ok_or_else(|| {
        Failure::Misuse(match chosen {
            Some(path) => format!("{path} is not a checkout of aside"),
            None => "the checkout that this command was built from is gone; name one with `--aside PATH`".to_owned(),
        })
    })
}

/// Returns true if Cargo finds a manifest above the site, which may be that of a workspace.
fn is_nested(here: &Path) -> bool {
    here.ancestors().any(|folder| folder.join("Cargo.toml").exists())
}

/// Returns the files of the site, each with its path.
fn texts(site: &NewSite, checkout: &Path, is_nested: bool) -> Result<Vec<(String, String)>, Failure> {
    let aside = checkout
        .to_str()
        .filter(|path| !path.contains(char::is_control))
        .ok_or_else(|| Failure::Misuse(format!("the path {} cannot be written into Cargo.toml", checkout.display())))?;
    let aside = aside.replace('\\', "\\\\").replace('"', "\\\""); // as TOML and JSON have it between quotes
    let (title, host, user) = (site.name.title(), site.name.host(), site.name.user());
    let values = [
        ("name", site.name.as_str()),
        ("title", &title),
        ("host", &host),
        ("user", &user),
        ("job", "crate::reports::MakeReport"),
        ("aside", &aside), // last, since it is text of the user
    ];
    let is_on = |name: &str| match name {
        "nested" => is_nested,
        _ => site.features.iter().any(|feature: &Feature| feature.name() == name),
    };
    let is_part = |file: &&files::NewFile| file.feature.is_none_or(|feature| site.features.contains(&feature));
    let text = |file: &files::NewFile| (render(file.path, is_on, &values), render(file.template, is_on, &values));
    let trimmed = |(path, text): (String, String)| (path.trim_end().to_owned(), text);
    Ok(files::NEW.iter().filter(is_part).map(text).map(trimmed).collect())
}

/// A folder beside the site's, which becomes the site when it is complete. On a failure nothing is left behind.
struct Draft(PathBuf);

impl Draft {
    fn create(here: &Path, name: &str) -> Result<Draft, Failure> {
        let folder = here.join(format!(".{name}.{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| Failure::io("create a folder in", here, &error))?;
        Ok(Draft(folder))
    }

    fn write(&self, path: &str, text: &str) -> Result<(), Failure> {
        let file = self.0.join(path);
        let parent = file.parent().unwrap_or(&self.0);
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&file, text));
        written.map_err(|error| Failure::io("write", Path::new(path), &error))
    }

    /// Renames the draft. An empty folder of this name is replaced, and one with a repository is filled.
    fn finish(self, folder: &Path) -> Result<(), Failure> {
        let _ = fs::remove_dir(folder); // it is empty, there is none, or it has a repository
        let moved = if folder.exists() { self.move_into(folder) } else { fs::rename(&self.0, folder) };
        moved.map_err(|error| Failure::io("create", folder, &error))
    }

    /// Moves what the draft holds. On a failure it is moved back.
    fn move_into(&self, folder: &Path) -> io::Result<()> {
        let mut moved = Vec::new();
        for entry in fs::read_dir(&self.0)?.collect::<io::Result<Vec<_>>>()? {
            let target = folder.join(entry.file_name());
            if let Err(error) = fs::rename(entry.path(), &target) {
                moved.iter().for_each(|(from, to): &(PathBuf, PathBuf)| drop(fs::rename(to, from)));
                return Err(error);
            }
            moved.push((entry.path(), target));
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // it does not exist after `finish`
    }
}

/// Makes a repository if Git is installed and the folder is not in one.
fn init_git(folder: &Path) {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !git(&["rev-parse", "--git-dir"]) {
        git(&["init", "--quiet"]);
    }
}

fn next_steps(site: &NewSite) -> String {
    let name = site.name.as_str();
    let features: Vec<&str> = site.features.iter().map(|feature| feature.name()).collect();
    let with = if features.is_empty() { String::new() } else { format!(" with {}", features.join(", ")) };
    format!(
        "Made {name}{with}. Next:\n\n    cd {name}\n    aside dev     # http://127.0.0.1:8000\n    cargo test\n\n\
         `aside generate page|form|job|mail NAME` adds to it.\n"
    )
}
