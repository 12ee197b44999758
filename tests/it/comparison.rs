//! `docs/comparison.md`: the samples of the five documents and ours, in lines. Every number there is counted again here.

use std::io::Write;
use std::process::{Command, Stdio};

use aside::testing::TestClient;
use aside::{App, Config, Request};

use crate::seeds::{Counterpart, DOCUMENTS};

const COMPARISON: &str = include_str!("../../docs/comparison.md");

/// Returns the number of lines that are code in Python, Rust or HTML.
fn code_lines(code: &str) -> usize {
    let lines = code.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#')).count()
        + code.lines().filter(|line| line.trim().starts_with("#[")).count()
}

/// Returns the part of the page below a heading, up to the next one.
fn section(heading: &str) -> Option<&'static str> {
    let (_, after) = COMPARISON.split_once(&format!("\n{heading}\n"))?;
    // A line of code may begin with a single `#`.
    let end = after.find("\n##").map_or(after.len(), |end| end + 1);
    Some(&after[..end])
}

/// A code block, and the name of its file in the line before.
struct Block {
    language: &'static str,
    file: Option<&'static str>,
    code: &'static str,
}

fn blocks(text: &'static str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\n```") {
        let (language, after) = after.split_once('\n').unwrap();
        let (code, after) = after.split_once("```\n").unwrap();
        let last = before.trim_end().lines().last().unwrap_or_default();
        let file = last.strip_prefix('`').and_then(|last| last.strip_suffix("`:"));
        blocks.push(Block { language, file, code });
        rest = after;
    }
    blocks
}

fn program(name: &str) -> Vec<Block> {
    blocks(section(&format!("### {name}")).unwrap_or_else(|| panic!("there is no program {name}")))
}

/// Returns the number of lines of a sample in its document, if it shows code.
fn theirs(document: &str, number: &str) -> Option<usize> {
    let blocks = blocks(section(&format!("### {document}, sample {number}"))?);
    Some(code_lines(blocks[0].code))
}

fn table() -> String {
    let mut table = String::from("| Document | Sample | There | Here | Program |\n|---|---|---|---|---|\n");
    for (document, file, source, _) in DOCUMENTS {
        for sample in Counterpart::of(source).iter().filter(|sample| sample.mark.starts_with("Sample")) {
            let number = &sample.mark["Sample ".len()..];
            let shown = |lines: usize| if lines == 0 { "–".to_owned() } else { lines.to_string() };
            let there = shown(theirs(document, number).unwrap_or(0));
            let lines: Vec<&str> = source.lines().collect();
            let here = shown(code_lines(&lines[sample.first - 1..sample.last].join("\n")));
            let title = sample.title.replace('*', r"\*");
            table += &format!("| {document} | {number}: {title} | {there} | {here} | [{file}](../{file}) |\n");
        }
    }
    table
}

/// Returns the sentence with the counts of a program.
fn counts(name: &str) -> String {
    let blocks = program(name);
    let there: usize =
        blocks.iter().filter(|block| block.language == "python").map(|block| code_lines(block.code)).sum();
    let ours = blocks.iter().filter(|block| block.language != "python");
    let files: Vec<(&str, usize)> =
        ours.map(|block| (block.file.unwrap_or("main.rs"), code_lines(block.code))).collect();
    let here: usize = files.iter().map(|(_, lines)| lines).sum();
    let files: Vec<String> = files.iter().map(|(file, lines)| format!("`{file}` {lines}")).collect();
    let there = if there == 0 { "–".to_owned() } else { there.to_string() };
    format!("**Lines: {there} there, {here} here** ({}).", files.join(", "))
}

#[test]
fn the_comparison_counts_the_lines_of_each_sample() {
    let table = table();
    assert!(COMPARISON.contains(&table), "docs/comparison.md should have this table, as it is:\n{table}");
}

#[test]
fn the_comparison_counts_the_lines_of_its_programs() {
    for name in ["Reflex", "NiceGUI", "Wave"] {
        let counts = counts(name);
        assert!(section(&format!("### {name}")).unwrap().contains(&counts), "{name} should say: {counts}");
    }
}

/// With rustfmt's default settings, as in a user's project.
#[test]
fn the_programs_of_the_comparison_are_formatted() {
    let settings = tempfile::tempdir().unwrap();
    std::fs::write(settings.path().join("rustfmt.toml"), "").unwrap();
    for name in ["Reflex", "NiceGUI", "Wave"] {
        let program = program(name);
        let code = program.iter().find(|block| block.language.starts_with("rust")).unwrap().code;
        let rustfmt = Command::new("rustfmt")
            .args(["--edition", "2024", "--check"])
            .current_dir(settings.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut rustfmt) = rustfmt else {
            eprintln!("skipped: rustfmt is not installed");
            return;
        };
        rustfmt.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
        let output = rustfmt.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Returns an application with the templates of a program.
fn with_templates(name: &str) -> App {
    let files = program(name).into_iter().filter_map(|block| Some((block.file?, block.code)));
    let app = App::with_config(Config::default()).get("/", |req: &mut Request| req.render("page.html", ()));
    files.fold(app, |app, (file, code)| app.template(file, code))
}

#[test]
fn the_templates_of_the_comparison_show_what_its_programs_define() {
    let app = with_templates("Reflex").live("posts", "posts.html", Request::session_live::<Vec<String>>).post(
        "/",
        |req: &mut Request| {
            req.session_live::<Vec<String>>()?.update(|posts| posts.push("<a post>".into()));
            aside::ok(())
        },
    );
    let mut client = TestClient::new(app);
    client.post("/").send();
    let page = client.get("/").text().to_owned();
    assert!(page.contains("Get posts") && page.contains("<p>&lt;a post&gt;</p>"), "{page}");
    assert_eq!(client.events("/_aside/live/posts").next().data, "<p>&lt;a post&gt;</p>");

    for (name, tasks) in [("NiceGUI", &["slow", "content", "result"][..]), ("Wave", &["job"])] {
        let app = with_templates(name).post("/{task}", |req: &mut Request| {
            let task: String = req.param("task")?;
            req.session_task(&task)?.spawn(move |context| context.message(format!("{task} is done")));
            aside::ok(())
        });
        let app = tasks.iter().fold(app, |app, task| app.live_task(task, "aside/progress.html"));
        let mut client = TestClient::new(app);
        for task in tasks {
            assert!(!client.get("/").text().contains(&format!("{task} is done")));
            client.post(&format!("/{task}")).send();
            client.drain();
            assert!(client.get("/").text().contains(&format!("<p>{task} is done</p>")));
        }
    }
}
