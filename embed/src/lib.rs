//! The procedural macro behind `aside::embed!`. Use that one: what this crate expands to are hidden items of aside.
//!
//! [`folder`](mod@folder) finds the files, [`compressed`](mod@compressed) makes their compressed forms. The tokens are made
//! from text, since they are little more than a list of names and bytes.

mod compressed;
mod folder;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use proc_macro::{Delimiter, Span, TokenStream, TokenTree};

use crate::compressed::{CODINGS, Form, form};
use crate::folder::Files;

/// The name under which `aside::embed!` imports its hidden module.
const HERE: &str = "__aside_embedded";

/// Expands to the folder on the disk: `__folder!(disk "static")`; or to its files: `__folder!(program "static")`.
///
/// # Errors
/// A compile error if the folder is missing, or has a file that no client could ask for.
#[proc_macro]
pub fn folder(input: TokenStream) -> TokenStream {
    let tokens = flat(input);
    let span = tokens.last().map_or_else(Span::call_site, TokenTree::span);
    let words: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let expanded =
        expansion(&words, package.as_deref()).and_then(|code| code.parse().map_err(|error| format!("{error}")));
    expanded.unwrap_or_else(|message| compile_error(&message, span))
}

/// Returns the tokens without the invisible groups around what another macro has matched.
fn flat(input: TokenStream) -> Vec<TokenTree> {
    let tokens = input.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => flat(group.stream()),
        token => vec![token],
    });
    tokens.collect()
}

/// Returns a compile error that points at the folder's name.
fn compile_error(message: &str, span: Span) -> TokenStream {
    let tokens: TokenStream = format!("::core::compile_error!({message:?})").parse().expect("one call of a macro");
    let mut tokens: Vec<TokenTree> = tokens.into_iter().collect();
    tokens.iter_mut().for_each(|token| token.set_span(span));
    tokens.into_iter().collect()
}

/// Returns the code for `disk "static"` or `program "static"` in a package with this folder.
///
/// # Errors
/// The message of the compile error.
fn expansion(words: &[&str], package: Option<&Path>) -> Result<String, String> {
    let [place, literal] = words else { return Err(usage()) };
    let name = literal.strip_prefix('"').and_then(|literal| literal.strip_suffix('"'));
    let name = name.filter(|name| !name.is_empty() && !name.contains('\\')).ok_or_else(usage)?;
    let package = package.ok_or("embed! needs CARGO_MANIFEST_DIR, which Cargo sets: build with Cargo")?;
    let files = Files::find(name, package).map_err(|message| format!("embed!({name:?}): {message}"))?;
    match *place {
        "disk" => Ok(format!("{HERE}::on_disk({:?})", text(&files.folder)?)),
        _ => embedded(name, &files).map_err(|message| format!("embed!({name:?}): {message}")),
    }
}

fn usage() -> String {
    "write `embed!(\"static\")`: the path of a folder, from the folder of Cargo.toml, as a string without escapes"
        .to_owned()
}

/// Returns the code of the folder's files. `include_bytes!` makes Cargo build again when one of them changes.
fn embedded(name: &str, files: &Files) -> Result<String, String> {
    let mut code = format!("{{ static FILES: [{HERE}::EmbeddedFile; {}] = [", files.files.len());
    for file in &files.files {
        let path = text(&file.path)?;
        write!(code, "{HERE}::EmbeddedFile::new({:?}, ::core::include_bytes!({path:?}), [", file.name).expect(MEMORY);
        for coding in CODINGS {
            match form(file, coding, files)? {
                None => code.push_str("None, "),
                Some(Form::Made(bytes)) => write!(code, "Some(b\"{}\"), ", bytes.escape_ascii()).expect(MEMORY),
                Some(Form::Sibling(path)) => {
                    write!(code, "Some(::core::include_bytes!({:?})), ", text(&path)?).expect(MEMORY);
                }
            }
        }
        code.push_str("]), ");
    }
    write!(code, "]; {HERE}::in_program({name:?}, &FILES) }}").expect(MEMORY);
    Ok(code)
}

const MEMORY: &str = "writing to a string cannot fail";

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("the path {} is not UTF-8, which the compiler needs", path.display()))
}

#[cfg(test)]
mod tests;
