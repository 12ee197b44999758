//! The folder of a site.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Failure;

/// Returns the nearest folder, this one or one above it, whose manifest is that of a site.
pub fn find(here: &Path, is_site: fn(&str) -> bool) -> Result<PathBuf, Failure> {
    let holds_site =
        |folder: &&Path| fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|manifest| is_site(&manifest));
    here.ancestors().find(holds_site).map(Path::to_owned).ok_or_else(|| {
        let message = "there is no site here: no Cargo.toml with a dependency on aside in this folder or above it";
        Failure::Misuse(message.to_owned())
    })
}

/// Returns true if `aside` is among the dependencies of the manifest.
pub fn depends_on_aside(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split(['=', '.']).next().unwrap_or_default().trim();
        section == "[dependencies.aside]" || section == "[dependencies]" && key == "aside"
    })
}

/// Returns true if the manifest is that of aside itself, whose examples are sites.
pub fn is_aside(manifest: &str) -> bool {
    manifest.lines().any(|line| line == "name = \"aside\"")
}
