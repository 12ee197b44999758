//! The samples of Bocadillo's page on background tasks, in its order: `cargo run --example seed_bocadillo`.
//!
//! Mail goes to files in `data/mail`, unless `ASIDE_MAIL_URL` names a server.

use aside::{App, Config, Error, Mail, Request, Response, Result, Status, context};
use serde::Deserialize;

fn main() -> Result<()> {
    app(Config::from_env()?).run()
}

fn app(config: Config) -> App {
    App::with_config(config)
        .get("/seeds.css", |_: &mut Request| Response::bytes("text/css", include_bytes!("seeds/seeds.css")))
        .template("base.html", include_str!("seeds/base.html"))
        .template("page.html", include_str!("seeds/bocadillo.html"))
        .get("/", |req: &mut Request| req.render("page.html", ()))
        .post("/orders", create_order)
        .post("/gifts", create_gift)
        .post("/invitations", invite)
}

/// The page with a message, as 201.
fn created(req: &mut Request, message: &str) -> Result<Response> {
    Ok(req.render("page.html", context! { message })?.status(Status::CREATED))
}

// Sample 1: "Creating a background task"
// The task starts when the last byte of the response has been sent, as in Bocadillo. `background(f)` starts at once.
fn create_order(req: &mut Request) -> Result<Response> {
    let response = created(req, "Ordered. The warehouse gets a mail now.")?;
    Ok(response.background(|| Mail::to("orders@example.net").subject("A new order").text("Pack it.").send_now()))
}

// Sample 2: "Parametrized tasks"
// The closure takes the arguments along. If `who` is not a valid address, the task fails, and the order stays as it is.
#[derive(Deserialize)]
struct Gift {
    who: String,
}

fn send_confirmation(who: &str) -> Result<()> {
    Mail::to(who).subject("Thank you").text("Your order is on its way.").send_now()
}

fn create_gift(req: &mut Request) -> Result<Response> {
    let gift: Gift = req.form()?;
    let response = created(req, "Ordered. The confirmation is sent now.")?;
    Ok(response.background(move || send_confirmation(&gift.who)))
}

// Caveat 1: "Background tasks must be non-blocking."
// Here they may block, or compute: `send_now` above waits for the mail server, on a thread of its own.

// Caveat 2: "Multiple background tasks aren't supported."
// Bocadillo runs only the last one. Here all of them run, at the same time, and each fails for itself.
#[derive(Deserialize)]
struct Invitation {
    /// One address per line.
    guests: String,
}

fn invite(req: &mut Request) -> Result<Response> {
    let invitation: Invitation = req.form()?;
    let guests = invitation.guests.lines().map(str::trim).filter(|guest| !guest.is_empty());
    let guests: Vec<String> = guests.map(str::to_owned).collect();
    if !(1..=100).contains(&guests.len()) {
        return Err(Error::unprocessable("Please enter 1 to 100 mail addresses."));
    }
    let response = created(req, "The invitations are sent now.")?;
    let send = |response: Response, guest: String| response.background(move || send_confirmation(&guest));
    Ok(guests.into_iter().fold(response, send))
}

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
    fn sample_1_the_task_starts_after_the_response() {
        let before_it_is_sent = |_: &mut Request, _: &mut Response| {
            let first = Task::named("started before the response was sent").spawn(|_| ());
            assert_eq!(first.id(), 1, "no task has started before it");
        };
        let mut client = TestClient::new(app(Config::default()).after(before_it_is_sent));
        assert_eq!(client.post("/orders").send().status_code(), Status::CREATED);
        client.drain();
        assert_eq!(recipients(&client), ["orders@example.net"]);
        assert_eq!(client.counts().ended, 2);
    }

    #[test]
    fn sample_2_a_task_takes_its_arguments_along() {
        let mut client = client();
        let answer = client.post("/gifts").form(&[("who", "user@example.net")]).send();
        assert_eq!(answer.status_code(), Status::CREATED);
        client.drain();
        assert_eq!(recipients(&client), ["user@example.net"]);
    }

    #[test]
    fn caveat_1_a_task_that_blocks_delays_no_request() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let mail_url = Some(format!("smtp://{}?tls=none", silent.local_addr().unwrap()));
        let mut client = TestClient::new(app(Config { mail_url, ..Config::default() }));
        assert_eq!(client.post("/orders").send().status_code(), Status::CREATED);
        let (mut task, _) = silent.accept().unwrap();
        // The task waits for the greeting of a mail server that sends nothing.
        for _ in 0..10 {
            assert_eq!(client.get("/").status_code(), Status::OK);
        }
        assert_eq!(client.running().len(), 1);
        task.write_all(b"554 not today\r\n").unwrap();
        drop(task);
        client.drain();
        assert!(client.failures()[0].failure().unwrap().contains("554"), "{:?}", client.failures());
    }

    #[test]
    fn caveat_2_each_of_several_tasks_runs_and_fails_for_itself() {
        let mut client = client();
        let guests = "ada@example.net\r\nnobody\r\n\r\ngrace@example.net\r\nalan@example.net";
        assert_eq!(client.post("/invitations").form(&[("guests", guests)]).send().status_code(), Status::CREATED);
        client.drain();
        assert_eq!(recipients(&client), ["ada@example.net", "alan@example.net", "grace@example.net"]);
        assert_eq!((client.counts().ended, client.counts().failed), (4, 1));
    }
    #[test]
    fn caveat_2_a_client_starts_at_most_100_tasks_with_one_form() {
        let mut client = client();
        let mut invite = |number| {
            let guests = "guest@example.net\r\n".repeat(number);
            client.post("/invitations").form(&[("guests", &guests)]).send().status_code()
        };
        assert_eq!([invite(0), invite(101)], [Status::UNPROCESSABLE_CONTENT; 2]);
        assert_eq!(invite(100), Status::CREATED);
        client.drain();
        assert_eq!((client.counts().ended, client.outbox().len()), (100, 100));
    }
}
