//! What Bocadillo's page on background tasks shows, sample by sample: `cargo run --example seed_bocadillo`.
//!
//! Mail goes to files under `data/mail`, unless `ASIDE_MAIL_URL` names a server.

use aside::{App, Config, Mail, Request, Response, Result, Status};
use serde::Deserialize;

fn main() -> Result<()> {
    app(Config::from_env()?).run()
}

fn app(config: Config) -> App {
    App::with_config(config)
        .template("page.html", PAGE)
        .get("/", page)
        .post("/orders", create_order)
        .post("/gifts", create_gift)
        .post("/invitations", invite)
}

fn page(req: &mut Request) -> Result<Response> {
    req.render("page.html", ())
}

// Sample 1: "Creating a background task"
// It begins when the last byte of the response has gone out, as there. `background(f)` would begin at once.
fn create_order(req: &mut Request) -> Result<Response> {
    let order = page(req)?.status(Status::CREATED);
    Ok(order.background(|| Mail::to("orders@example.net").subject("A new order").text("Pack it.").send_now()))
}

// Sample 2: "Parametrized tasks"
// Arguments are what the closure takes along. What comes of `who` is the task's failure: the order stays as it is.
#[derive(Deserialize)]
struct Gift {
    who: String,
}

fn send_confirmation(who: &str) -> Result<()> {
    Mail::to(who).subject("Thank you").text("Your order is on its way.").send_now()
}

fn create_gift(req: &mut Request) -> Result<Response> {
    let gift: Gift = req.form()?;
    Ok(page(req)?.status(Status::CREATED).background(move || send_confirmation(&gift.who)))
}

// Caveat 1: "Background tasks must be non-blocking."
// Here they may block. `send_now` above waits for the mail server, on a thread that is the task's alone.

// Caveat 2: "Multiple background tasks aren't supported."
// Bocadillo runs the last one alone and ignores the others. Here each runs, all at once, and fails for itself.
#[derive(Deserialize)]
struct Invitation {
    /// One address a line.
    guests: String,
}

fn invite(req: &mut Request) -> Result<Response> {
    let invitation: Invitation = req.form()?;
    let guests = invitation.guests.lines().map(str::trim).filter(|guest| !guest.is_empty()).map(str::to_owned);
    let answer = page(req)?.status(Status::CREATED);
    Ok(guests.fold(answer, |answer, guest| answer.background(move || send_confirmation(&guest))))
}

// The page

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bocadillo's samples</title>
<h1>Bocadillo's samples</h1>
{% if path != "/" %}<p role="status">Done. The rest goes on without you.</p>{% endif %}
<h2>Order</h2>
<form method="post" action="/orders"><button>Order</button></form>
<h2>Gift</h2>
<form method="post" action="/gifts">
<p><label>For whom <input name="who" type="email" required></label></p>
<button>Order</button>
</form>
<h2>Invitations</h2>
<form method="post" action="/invitations">
<p><label>Mail addresses, one a line <textarea name="guests" rows="4" required></textarea></label></p>
<button>Invite</button>
</form>
</html>
"#;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use aside::Task;
    use aside::testing::TestClient;

    use super::*;

    fn client() -> TestClient {
        TestClient::new(app(Config::default()))
    }

    fn recipients(client: &TestClient) -> Vec<String> {
        let mut all: Vec<String> = client.outbox().into_iter().flat_map(|mail| mail.to).collect();
        all.sort();
        all
    }

    #[test]
    fn sample_1_the_task_begins_after_the_response() {
        let when_it_is_made = |_: &mut Request, _: &mut Response| {
            let first = Task::named("asked when the response was made").run(|_| ());
            assert_eq!(first.id(), 1, "no task has begun before it");
        };
        let mut client = TestClient::new(app(Config::default()).after(when_it_is_made));
        assert_eq!(client.post("/orders").send().status(), Status::CREATED);
        client.settle();
        assert_eq!(recipients(&client), ["orders@example.net"]);
        assert_eq!(client.counts().ended, 2);
    }

    #[test]
    fn sample_2_a_task_takes_its_arguments_along() {
        let mut client = client();
        let answer = client.post("/gifts").form(&[("who", "user@example.net")]).send();
        assert_eq!(answer.status(), Status::CREATED);
        client.settle();
        assert_eq!(recipients(&client), ["user@example.net"]);
    }

    #[test]
    fn caveat_1_a_task_that_blocks_keeps_nobody_waiting() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let mail_url = Some(format!("smtp://{}?tls=none", silent.local_addr().unwrap()));
        let mut client = TestClient::new(app(Config { mail_url, ..Config::default() }));
        assert_eq!(client.post("/orders").send().status(), Status::CREATED);
        let (mut task, _) = silent.accept().unwrap();
        // The task waits for the greeting of a mail server that says nothing.
        for _ in 0..10 {
            assert_eq!(client.get("/").status(), Status::OK);
        }
        assert_eq!(client.running().len(), 1);
        task.write_all(b"554 not today\r\n").unwrap();
        drop(task);
        client.settle();
        assert!(client.failures()[0].failure().unwrap().contains("554"), "{:?}", client.failures());
    }

    #[test]
    fn caveat_2_each_of_several_tasks_runs_and_fails_for_itself() {
        let mut client = client();
        let guests = "ada@example.net\r\nnobody\r\n\r\ngrace@example.net\r\nalan@example.net";
        assert_eq!(client.post("/invitations").form(&[("guests", guests)]).send().status(), Status::CREATED);
        client.settle();
        assert_eq!(recipients(&client), ["ada@example.net", "alan@example.net", "grace@example.net"]);
        assert_eq!((client.counts().ended, client.counts().failed), (4, 1));
    }
}
