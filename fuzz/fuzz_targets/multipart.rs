//! The parser of multipart bodies. The input is the boundary up to the first line end, and then the body.
#![no_main]

use std::cell::RefCell;
use std::io::Read;

use aside::testing::TestClient;
use aside::{App, Config, Request, Result};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CLIENT: RefCell<TestClient> = RefCell::new(TestClient::new(App::with_config(Config::default()).post("/", read)));
}

fn read(req: &mut Request) -> Result<()> {
    for part in req.multipart()?.parts() {
        let mut content = Vec::new();
        part.open()?.read_to_end(&mut content)?;
        assert_eq!(content.len() as u64, part.size());
        assert!(
            part.upload()
                .is_none_or(|file| !file.filename().contains(['/', '\\', '\0', '\n']) && file.filename() != "..")
        );
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let boundary = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let body = parts.next().unwrap_or_default();
    CLIENT.with_borrow_mut(|client| {
        let answer = client.post("/").body(&format!("multipart/form-data; boundary={boundary}"), body).send();
        assert!(answer.status_code().code() < 500, "{answer:?}");
    });
});
