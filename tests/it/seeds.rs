//! The five systems that this project answers to: their documents' samples, one example for each document, with the tests
//! in its file; and the README's tables, which say where each answer is.

#[cfg(all(feature = "mail", feature = "image"))]
#[path = "../../examples/seed_asok.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_asok;
#[cfg(feature = "mail")]
#[path = "../../examples/seed_bocadillo.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_bocadillo;
#[path = "../../examples/seed_wave.rs"]
#[allow(dead_code, reason = "its `main` is the example's")]
mod seed_wave;

use std::sync::mpsc::{Receiver, Sender, channel};

use aside::{App, Config, Error, Request, Result, Server, Status};

/// A service on the loopback that the examples call: it says who calls, and answers when the test says so.
pub(crate) struct Service {
    calls: Receiver<Call>,
    server: Server,
}

/// A call that waits for its answer. One that is dropped is answered with 503.
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) body: String,
    answer: Sender<String>,
}

impl Service {
    pub(crate) fn start() -> Service {
        let (tell, calls) = channel();
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let wait = move |req: &mut Request| -> Result<String> {
            let (answer, answered) = channel();
            let call = Call { path: req.path().to_owned(), body: req.text()?, answer };
            let _ = tell.send(call);
            answered.recv().map_err(|_| Error::new(Status::SERVICE_UNAVAILABLE, "The test wants it so."))
        };
        let server = App::with_config(config).fallback(wait).start().unwrap();
        Service { calls, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// Waits for the next call.
    pub(crate) fn next_call(&self) -> Call {
        self.calls.recv().unwrap()
    }

    /// Whether nobody is calling.
    pub(crate) fn has_no_call(&self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// Waits for that many calls, which are all there at once, and gives them in the order of their paths.
    pub(crate) fn calls<const N: usize>(&self) -> [Call; N] {
        let mut calls = std::array::from_fn(|_| self.next_call());
        calls.sort_by(|one: &Call, other| one.path.cmp(&other.path));
        calls
    }
}

impl Call {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn answer(self, text: &str) {
        self.answer.send(text.to_owned()).unwrap();
    }

    pub(crate) fn fail(self) {}
}
