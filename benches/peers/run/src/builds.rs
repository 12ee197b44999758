//! What a hello site costs to build: time, crates, size.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::peers::Places;

/// A site of one page, in release with Cargo's own settings.
struct Hello {
    name: &'static str,
    dependencies: &'static str,
    source: &'static str,
}

const HELLOS: [Hello; 7] = [
    Hello { name: "aside", dependencies: "aside = { path = \"{root}\" }", source: ASIDE },
    Hello {
        name: "aside, no default features",
        dependencies: "aside = { path = \"{root}\", default-features = false }",
        source: ASIDE,
    },
    Hello {
        name: "axum",
        dependencies: "axum = \"0.8.9\"\ntokio = { version = \"1.54\", features = [\"macros\", \"net\", \"rt-multi-thread\"] }",
        source: "use axum::{Router, routing::get};\n\
                 #[tokio::main]\n\
                 async fn main() {\n    \
                     let listener = tokio::net::TcpListener::bind(\"127.0.0.1:8000\").await.unwrap();\n    \
                     axum::serve(listener, Router::new().route(\"/\", get(async || \"Hello, world!\"))).await.unwrap();\n\
                 }\n",
    },
    Hello {
        name: "actix-web",
        dependencies: "actix-web = \"4.18\"",
        source: "use actix_web::{App, HttpServer, web};\n\
                 #[actix_web::main]\n\
                 async fn main() -> std::io::Result<()> {\n    \
                     let app = || App::new().route(\"/\", web::get().to(async || \"Hello, world!\"));\n    \
                     HttpServer::new(app).bind(\"127.0.0.1:8000\")?.run().await\n\
                 }\n",
    },
    Hello {
        name: "Rocket",
        dependencies: "rocket = \"0.5.2\"",
        source: "#[rocket::get(\"/\")]\n\
                 fn hello() -> &'static str {\n    \"Hello, world!\"\n}\n\
                 #[rocket::launch]\n\
                 fn serve() -> _ {\n    rocket::build().mount(\"/\", rocket::routes![hello])\n}\n",
    },
    Hello {
        name: "Rouille",
        dependencies: "rouille = \"3.6.2\"",
        source: "fn main() {\n    \
                     rouille::start_server(\"127.0.0.1:8000\", |_| rouille::Response::text(\"Hello, world!\"));\n\
                 }\n",
    },
    Hello {
        name: "tiny_http",
        dependencies: "tiny_http = \"0.12\"",
        source: "fn main() {\n    \
                     let server = tiny_http::Server::http(\"127.0.0.1:8000\").unwrap();\n    \
                     for request in server.incoming_requests() {\n        \
                         let _ = request.respond(tiny_http::Response::from_string(\"Hello, world!\"));\n    \
                     }\n\
                 }\n",
    },
];

const ASIDE: &str = "fn main() -> aside::Result<()> {\n    \
                         aside::App::new().get(\"/\", |_: &mut aside::Request| \"Hello, world!\").run()\n\
                     }\n";

/// Builds each from nothing, and prints a table.
///
/// # Errors
/// If the projects cannot be written.
pub fn run(places: &Places, only: &[String]) -> Result<(), String> {
    let mut table = String::from(
        "### A hello site, built from nothing in release\n\n\
         | | Build, s | Crates | Binary, MB | Stripped, MB |\n|---|---|---|---|---|\n",
    );
    let wants = |hello: &&Hello| only.is_empty() || only.iter().any(|name| hello.name.to_lowercase().starts_with(name));
    for hello in HELLOS.iter().filter(wants) {
        eprintln!("building {}", hello.name);
        let row = build(hello, places).unwrap_or_else(|words| format!("| {} | not there: {words} | | | |", hello.name));
        table.push_str(&row);
        table.push('\n');
    }
    println!("{table}");
    let to = places.made.join("builds.md");
    fs::write(&to, table).map_err(|error| format!("{}: {error}", to.display()))
}

fn build(hello: &Hello, places: &Places) -> Result<String, String> {
    let folder = places.made.join("hello");
    write(hello, places, &folder).map_err(|error| format!("no project: {error}"))?;
    cargo(&folder, &["fetch"])?;
    let crates = crates(&cargo(&folder, &["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])?);
    let began = Instant::now();
    cargo(&folder, &["build", "--release"])?;
    let time = began.elapsed().as_secs_f64();
    let program = folder.join("target").join("release").join("hello");
    let whole = megabytes(&program)?;
    let stripped = program.with_extension("stripped");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&program).status();
    let small = match strip {
        Ok(status) if status.success() => format!("{:.1}", megabytes(&stripped)?),
        _ => "no strip here".into(),
    };
    Ok(format!("| {} | {time:.1} | {crates} | {whole:.1} | {small} |", hello.name))
}

/// A project with nothing built, and the versions of this workspace.
fn write(hello: &Hello, places: &Places, folder: &Path) -> std::io::Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("src"))?;
    let root = places.root.join("../..").canonicalize()?;
    let dependencies = hello.dependencies.replace("{root}", &root.display().to_string());
    let package = "[package]\nname = \"hello\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), format!("{package}\n[dependencies]\n{dependencies}\n"))?;
    fs::write(folder.join("src").join("main.rs"), hello.source)?;
    fs::copy(places.root.join("Cargo.lock"), folder.join("Cargo.lock")).map(drop)
}

fn cargo(folder: &Path, args: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().find(|line| line.starts_with("error")).unwrap_or("cargo fails").to_owned())
}

/// Different crates, the site itself left out.
fn crates(tree: &str) -> usize {
    let mut names: Vec<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().filter(|name| !name.is_empty() && !name.starts_with("hello ")).count()
}

fn megabytes(file: &Path) -> Result<f64, String> {
    fs::metadata(file).map(|data| data.len() as f64 / 1e6).map_err(|error| format!("no program: {error}"))
}
