//! The README's first program, as a reader copies it. A documentation test of the crate checks that it compiles.

use aside::testing::TestClient;
use aside::{App, Config, Request, Response, Result, context, redirect};

const README: &str = include_str!("../../README.md");

/// Returns the code blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}");
    let starts = README.match_indices(&fence).map(|(at, _)| at);
    let block = |at: usize| README[at..].split_once('\n').unwrap().1.split_once("```").unwrap().0;
    starts.map(block).collect()
}

/// GitHub and crates.io show the lines that rustdoc hides, and without them a reader has an incomplete program.
#[test]
fn no_example_has_hidden_lines() {
    let is_hidden = |line: &&str| *line == "#" || line.starts_with("# ");
    let hidden: Vec<&str> = blocks("rust").iter().flat_map(|block| block.lines()).filter(is_hidden).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn the_log_names_the_line_that_started_the_task() {
    let program = blocks("rust")[0];
    let line = program.lines().position(|line| line.contains("background(move")).unwrap() + 1;
    let log = blocks("text")[0];
    assert!(log.contains(&format!("create_order (src/main.rs:{line}) failed: ")), "{line}: {log}");
}

#[test]
fn the_template_of_the_first_program_shows_what_it_is_given() {
    let app = App::with_config(Config::default())
        .template("orders.html", blocks("html")[0])
        .get("/orders", |req: &mut Request| {
            let orders = [context! { email => "anna@example.org", quantity => 3 }];
            req.render("orders.html", context! { orders })
        })
        .post("/orders", |req: &mut Request| -> Result<Response> {
            req.flash("success", "Processing your order!");
            Ok(redirect("/orders"))
        });
    let mut client = TestClient::new(app);
    client.post("/orders").send();
    let page = client.get("/orders").text().to_owned();
    assert!(page.contains("<p>3 for anna@example.org</p>") && page.contains("<p>Processing your order!</p>"), "{page}");
}
