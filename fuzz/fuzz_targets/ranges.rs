//! The parser of Range headers, for a file of a thousand bytes.
#![no_main]

use std::cell::RefCell;

use aside::testing::TestClient;
use aside::{App, Config};
use libfuzzer_sys::fuzz_target;

struct Site {
    client: TestClient,
    _folder: tempfile::TempDir,
}

thread_local! {
    static SITE: RefCell<Site> = RefCell::new(Site::new());
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().expect("a folder for a file");
        std::fs::write(folder.path().join("a.txt"), [b'x'; 1000]).expect("a file in it");
        let client = TestClient::new(App::with_config(Config::default()).static_files("/", folder.path()));
        Site { client, _folder: folder }
    }
}

fuzz_target!(|range: &str| {
    SITE.with_borrow_mut(|site| {
        let answer = site.client.request("GET", "/a.txt").header("Range", range).send();
        assert!(matches!(answer.status_code().code(), 200 | 206 | 416 | 400), "{answer:?}");
        assert!(answer.bytes().len() <= 100_000, "more bytes than requested");
    });
});
