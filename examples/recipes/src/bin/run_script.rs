//! A page that runs a script and shows its output as it comes (Unix): `cargo run --bin run_script`
use std::{process::Command, time::Duration};

use aside::{App, Config, Error, Request, Response, Result, TaskContext, redirect};

/// The user's input is `$1`: never a part of the script's text, so that it cannot be a command.
const SCRIPT: &str = r#"for n in 1 2 3 4 5; do echo "$n: hello $1"; sleep 1; done"#;

const PAGE: &str = r#"<!doctype html><title>Script</title>{{ live("script") }}
<form method="post"><input name="name" required> <button>Run</button></form>"#;

const OUTPUT: &str = r#"<pre>{{ message }}</pre><p>{{ state }}</p>
{% if not is_finished %}<form method="post" action="/cancel"><button>Stop</button></form>{% endif %}"#;

#[derive(serde::Deserialize)]
struct Input {
    name: String,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    App::with_config(config)
        .template("page.html", PAGE)
        .template("output.html", OUTPUT)
        .live_task("script", "output.html")
        .get("/", |req| req.render("page.html", ()))
        .post("/", start)
        .post("/cancel", cancel)
}

/// Starts the script. It ends after ten minutes, or ten seconds after its page was closed.
fn start(req: &mut Request) -> Result<Response> {
    let Input { name } = req.form()?;
    if name.len() > 50 || name.contains(char::is_control) {
        return Err(Error::unprocessable("At most 50 plain letters, please."));
    }
    let task = req.session_task("script")?;
    if task.find().is_some_and(|task| !task.is_finished()) {
        return Err(Error::conflict("The script runs already."));
    }
    let task = task.deadline(Duration::from_secs(600));
    let task = task.cancel_unwatched(Duration::from_secs(10));
    task.spawn(move |task| run(task, &name));
    Ok(redirect("/"))
}

fn cancel(req: &mut Request) -> Result<Response> {
    let script = req.session_task("script")?.find();
    script.inspect(|script| script.cancel());
    Ok(redirect("/"))
}

fn run(task: &TaskContext, name: &str) -> Result<()> {
    let mut script = Command::new("sh");
    script.args(["-c", SCRIPT, "script", name]);
    script.env_clear().env("PATH", "/usr/bin:/bin"); // without the secrets of the site
    let mut shown = Vec::new();
    task.run_command(&mut script, |line| {
        shown.push(line.chars().take(150).collect::<String>());
        shown.drain(..shown.len().saturating_sub(50));
        task.message(shown.join("\n"));
    })
}

#[test]
fn the_output_is_shown_while_the_script_runs_and_the_input_is_no_command() {
    let mut client = aside::testing::TestClient::new(app(Config::default()));
    client.post("/").form(&[("name", "$(id) `id`; id")]).send();
    let mut events = client.events("/_aside/live/script");
    while !events.next().data.contains("1: hello $(id) `id`; id") {}
    client.post("/cancel").send();
    while !events.next().data.contains("cancelled") {}
    client.drain();
    let long = client.post("/").form(&[("name", &"x".repeat(51))]).send();
    assert_eq!(long.status_code(), 422);
}
