//! The compiler's messages for the mistakes that a web developer makes most. Only key phrases are checked, since the rest of the
//! text changes with the compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program with one mistake, and the program without it.
struct Mistake {
    wrong: &'static str,
    right: &'static str,
    /// Phrases of the compiler's message.
    present: &'static [&'static str],
    /// Phrases that would lead a developer astray.
    absent: &'static [&'static str],
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        wrong: r#"pub fn page(req: &mut Request) { background(move || println!("{}", req.path())); }"#,
        right: r#"pub fn page(req: &mut Request) { let path = req.path().to_owned(); background(move || println!("{path}")); }"#,
        present: &["borrowed data escapes outside of function", "`req`"],
        absent: &["dyn ", "cannot be shared between threads", "cannot be sent between threads"],
    },
    Mistake {
        wrong: r#"pub fn page(req: &mut Request) -> Result<String> { let id = req.param("id")?; Ok(format!("{id}")) }"#,
        right: r#"pub fn page(req: &mut Request) -> Result<String> { let id: u64 = req.param("id")?; Ok(format!("{id}")) }"#,
        present: &["a parameter cannot be read as", r#"`let id: u64 = req.param("id")?`"#],
        absent: &[],
    },
    Mistake {
        wrong: r#"pub struct Sku; pub fn page(req: &mut Request) -> Result<()> { let _: Sku = req.param("sku")?; Ok(()) }"#,
        right: r#"pub fn page(req: &mut Request) -> Result<()> { let _: String = req.param("sku")?; Ok(()) }"#,
        present: &["a parameter cannot be read as `wrong::Sku`", "implements `std::str::FromStr`"],
        absent: &[],
    },
    Mistake {
        wrong: "pub fn page(req: &mut Request) -> Result<()> { let _order = req.form()?; Ok(()) }",
        right: "pub fn page(req: &mut Request) -> Result<()> { let _order: Vec<u64> = req.form()?; Ok(()) }",
        present: &["the input of a request cannot be read as", "`let order: Order = req.form()?`"],
        absent: &["DeserializeOwned"],
    },
    Mistake {
        wrong: "pub struct Order; pub fn page(req: &mut Request) -> Result<()> { let _: Order = req.json()?; Ok(()) }",
        right: "#[derive(serde::Deserialize)] pub struct Order; pub fn page(req: &mut Request) -> Result<()> { let _: Order = req.json()?; Ok(()) }",
        present: &[
            "the input of a request cannot be read as `wrong::Order`",
            "add `#[derive(serde::Deserialize)]` to the type",
        ],
        absent: &["DeserializeOwned"],
    },
    Mistake {
        wrong: r#"#[derive(serde::Serialize)] pub struct Receipt;
            impl Job for Receipt { const NAME: &'static str = "receipt"; fn run(self, _: &TaskContext) -> Result<()> { Ok(()) } }"#,
        right: r#"#[derive(serde::Serialize, serde::Deserialize)] pub struct Receipt;
            impl Job for Receipt { const NAME: &'static str = "receipt"; fn run(self, _: &TaskContext) -> Result<()> { Ok(()) } }"#,
        present: &["consider adding `#[derive(serde::Deserialize)]` to your `wrong::Receipt` type"],
        absent: &[],
    },
    Mistake {
        wrong: r#"pub fn page(req: &mut Request) -> Result<Response> { req.render("a.html", context! { title: "Orders" }) }"#,
        right: r#"pub fn page(req: &mut Request) -> Result<Response> { req.render("a.html", context! { title => "Orders" }) }"#,
        present: &["write `title => value` in `context!`"],
        absent: &["no rules expected"],
    },
    Mistake {
        wrong: r#"pub fn page(req: &mut Request) -> Result<Response> { let orders = 1; req.render("a.html", context! { orders, title = "Orders" }) }"#,
        right: r#"pub fn page(req: &mut Request) -> Result<Response> { let orders = 1; req.render("a.html", context! { orders, title => "Orders" }) }"#,
        present: &["write `title => value` in `context!`"],
        absent: &["no rules expected"],
    },
    Mistake {
        wrong: r#"pub async fn page(_: &mut Request) -> &'static str { "ok" } pub fn app() -> App { App::new().get("/", page) }"#,
        right: r#"pub fn page(_: &mut Request) -> &'static str { "ok" } pub fn app() -> App { App::new().get("/", page) }"#,
        present: &["an `async fn` cannot be a handler: write a plain `fn`"],
        absent: &[],
    },
    Mistake {
        wrong: r#"pub fn app() -> App { App::new().get("/", |_| 17) }"#,
        right: r#"pub fn app() -> App { App::new().get("/", |_| "17") }"#,
        present: &["cannot be a response", "a handler returns (), text, Html, Json"],
        absent: &[],
    },
    Mistake {
        wrong: "pub struct Total; pub fn start() { background(|| Total); }",
        right: "pub struct Total; pub fn start() { background(|| aside::ok(Total)); }",
        present: &["a task cannot return `wrong::Total` as a plain value", "end the closure in `aside::ok(value)`"],
        absent: &[],
    },
    Mistake {
        wrong: r#"pub fn count(text: &str) -> usize { text.len() } pub fn start() { isolated(count, "ok"); }"#,
        right: "pub fn count(text: String) -> usize { text.len() } pub fn start() { isolated(count, String::new()); }",
        present: &["OwnsItsData"],
        absent: &["cannot be sent between threads"],
    },
];

#[test]
fn a_mistake_is_one_error_that_says_what_to_write() {
    let compiler = Compiler::new();
    for mistake in MISTAKES {
        let message = compiler.compile(&module(mistake.wrong)).expect_err(mistake.wrong);
        // The path of a type is shortened if no other type has its name.
        let message = message.replace("wrong::", "");
        let has = |phrase: &&str| message.contains(&phrase.replace("wrong::", ""));
        // A type that borrows fails the bound for each lifetime, with one text.
        let is_error = |line: &&str| line.starts_with("error") && !line.contains("aborting");
        let errors = message.lines().filter(is_error).collect::<BTreeSet<_>>().len();
        let missing: Vec<_> = mistake.present.iter().filter(|phrase| !has(phrase)).collect();
        let misleading: Vec<_> = mistake.absent.iter().filter(|phrase| has(phrase)).collect();
        assert!(missing.is_empty(), "the message lacks {missing:?}:\n{message}");
        assert!(misleading.is_empty(), "the message has {misleading:?}:\n{message}");
        assert_eq!(errors, 1, "one mistake is one error:\n{message}");
    }
}

fn module(code: &str) -> String {
    format!("pub mod wrong {{ #![allow(unused_imports)] use aside::*; {code} }}")
}

/// The compiler, with the libraries that it needs.
struct Compiler {
    folder: tempfile::TempDir,
    aside: PathBuf,
    serde: PathBuf,
}

impl Compiler {
    /// Returns a compiler with the newest libraries beside this program over which the programs without mistakes compile.
    ///
    /// The folder also has the libraries of builds with other features, and of older ones.
    fn new() -> Compiler {
        let right: String = MISTAKES
            .iter()
            .enumerate()
            .map(|(number, mistake)| module(mistake.right).replacen("mod wrong", &format!("mod right_{number}"), 1))
            .collect();
        let mut message = String::new();
        for aside in libraries("libaside-") {
            for serde in libraries("libserde-") {
                let compiler = Compiler { folder: tempfile::tempdir().unwrap(), aside: aside.clone(), serde };
                match compiler.compile(&right) {
                    Ok(()) => return compiler,
                    Err(error) => message = error,
                }
            }
        }
        panic!("the programs without mistakes do not compile:\n{message}");
    }

    /// Checks a library crate.
    ///
    /// # Errors
    /// The compiler's messages.
    fn compile(&self, code: &str) -> Result<(), String> {
        let file = self.folder.path().join("site.rs");
        fs::write(&file, code).unwrap();
        let with = |name: &str, library: &Path| format!("{name}={}", library.display());
        let output = Command::new("rustc")
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "lib",
                "--emit",
                "metadata",
                "--color",
                "never",
                "-A",
                "warnings",
            ])
            .args(["--extern", &with("aside", &self.aside), "--extern", &with("serde", &self.serde)])
            .args(["-L", &with("dependency", &folder())])
            .current_dir(self.folder.path())
            .arg(&file)
            .output()
            .unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}

/// Returns the folder of this program, which has the libraries that it was linked from.
fn folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Returns the libraries of a crate, newest first.
fn libraries(prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap());
    let mut found: Vec<_> = files
        .filter(|file| {
            file.file_name().to_str().is_some_and(|name| name.starts_with(prefix) && name.ends_with(".rlib"))
        })
        .map(|file| (file.metadata().unwrap().modified().unwrap(), file.path()))
        .collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}
