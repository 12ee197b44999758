//! The parser of Cookie headers.
#![no_main]

use std::cell::RefCell;

use aside::testing::TestClient;
use aside::{App, Config, Request};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CLIENT: RefCell<TestClient> = RefCell::new(TestClient::new(App::with_config(Config::default()).get("/", read)));
}

fn read(req: &mut Request) {
    let cookies: Vec<_> = req.cookies().collect();
    assert!(cookies.iter().all(|(name, _)| !name.is_empty() && req.cookie(name).is_some()));
}

fuzz_target!(|line: &str| {
    CLIENT.with_borrow_mut(|client| {
        let answer = client.request("GET", "/").header("Cookie", line).send();
        assert!(answer.status_code().code() < 500, "{answer:?}");
    });
});
