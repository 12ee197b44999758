//! The preparation: programs, Python packages, a photo, the limit of descriptors.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::peers::{Peer, Places, Start};

/// Builds or installs what a peer consists of.
///
/// # Errors
/// In words, when it cannot be had.
pub fn peer(peer: &Peer, places: &Places) -> Result<(), String> {
    match peer.start {
        Start::Package(package) => {
            // One by one: built together, each would have the features of all.
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["build", "--release", "--quiet", "--package", package]);
            succeed(cargo.current_dir(&places.root), "it does not build")
        }
        Start::Program(path) if path.is_file() => Ok(()),
        Start::Program(path) => Err(format!("no program at {}", path.display())),
        Start::Gunicorn { .. } => {
            venv(places)?;
            site(places).map_err(|error| format!("Asok's folder: {error}"))
        }
    }
}

fn venv(places: &Places) -> Result<(), String> {
    let (venv, wanted) = (places.venv(), places.root.join("python").join("requirements.txt"));
    let installed = venv.join("installed.txt");
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    if installed.exists() && read(&installed) == read(&wanted) {
        return Ok(());
    }
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv), "no virtual environment")?;
    let mut pip = Command::new(venv.join("bin").join("pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&wanted);
    succeed(&mut pip, "pip installs it not")?;
    fs::copy(&wanted, &installed).map(drop).map_err(|error| error.to_string())
}

/// Asok reads its pages from the folder that it runs in, and writes there.
fn site(places: &Places) -> io::Result<()> {
    let to = places.made.join("asok");
    let _ = fs::remove_dir_all(&to);
    copy(&places.root.join("python").join("asok"), &to)?;
    let page = to.join("src").join("pages").join("orders").join("page.html");
    fs::copy(places.root.join("templates").join("orders.html"), page)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &there)?;
        } else {
            fs::copy(entry.path(), there)?;
        }
    }
    Ok(())
}

/// Runs a command. The reason of a failure is the last line of its standard error.
fn succeed(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason =
        said.lines().find(|line| line.starts_with("error")).or(said.lines().last()).unwrap_or("no reason given");
    Err(format!("{what}: {}", reason.trim()))
}

/// A picture of 12 megapixels with something to compress.
///
/// # Errors
/// When it cannot be written.
pub fn photo(to: &Path) -> Result<(), String> {
    if to.exists() {
        return Ok(());
    }
    let pixel = |x: u32, y: u32| image::Rgb([(x / 16) as u8, (y / 12) as u8, ((x * y) >> 12) as u8]);
    image::RgbImage::from_fn(4000, 3000, pixel).save(to).map_err(|error| format!("no photo: {error}"))
}

/// As many descriptors as may be had, for this process and the servers, which inherit it.
pub fn descriptors() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = 65_536.max(now.maximum.unwrap_or(0));
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
