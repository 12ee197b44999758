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

const BENCHES: &str = include_str!("../../benches/README.md");

/// The rows of a table, by the words of its head.
fn table(text: &'static str, head: &str) -> Vec<Vec<&'static str>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = rows.map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
}

/// The numbers of a cell such as ``1.90 (`background()`: 0.28)``.
fn numbers(cell: &str) -> Vec<f64> {
    let is_of_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    cell.split(|letter| !is_of_number(letter)).filter_map(|number| number.parse().ok()).collect()
}

/// The README compares forms with axum's `spawn_blocking`, benches/README.md with its async task. Each ratio is a median of
/// rounds, so that their quotients differ a little.
#[test]
fn the_figures_beside_other_frameworks_are_those_of_the_benchmark() {
    let ours = table(README, "| 32 connections, 2 cores, axum = 1");
    let theirs = table(BENCHES, "| 32 connections | plain text | template, 50 rows");
    let measured = |name: &str| theirs.iter().find(|row| row[0].replace("**", "").starts_with(name)).unwrap();
    let blocking = numbers(measured("axum")[3].split("spawn_blocking` ").nth(1).unwrap())[0];
    assert!(ours[0][3].contains("`background()`"), "its own figure is beside the other: {:?}", ours[0]);
    for row in &ours {
        let name = row[0].split(" (").next().unwrap().replace("aside, ", "aside ").replace("Flask under", "Flask,");
        if name == "axum" {
            continue;
        }
        let measured = measured(&name);
        assert_eq!(row[1..3], measured[1..3], "{name}");
        let (forms, measured) = (numbers(row[3]), numbers(measured[3]));
        assert_eq!(forms.len(), measured.len(), "{name}");
        for (form, measured) in forms.into_iter().zip(measured) {
            let expected = measured / blocking;
            assert!((form - expected).abs() <= 0.1 * expected + 0.01, "{name}: {form}, not {expected:.2}");
        }
    }
}
