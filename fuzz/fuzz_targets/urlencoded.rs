//! The parser of urlencoded bodies, with the same bytes also as a query.
#![no_main]

use std::cell::RefCell;

use aside::testing::TestClient;
use aside::{App, Config, Request, Result};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CLIENT: RefCell<TestClient> = RefCell::new(TestClient::new(App::with_config(Config::default()).any("/", read)));
}

fn read(req: &mut Request) -> Result<()> {
    req.query_pairs()?;
    req.form_pairs().map(drop)
}

fuzz_target!(|bytes: &[u8]| {
    CLIENT.with_borrow_mut(|client| {
        let target = format!("/?{}", String::from_utf8_lossy(bytes));
        let answer = client.request("POST", &target).body("application/x-www-form-urlencoded", bytes).send();
        assert!(answer.status_code().code() < 500, "{answer:?}");
    });
});
