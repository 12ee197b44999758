//! The site as the tests of all modules use it.

use aside::Config;
use aside::testing::TestClient;
use tempfile::TempDir;

/// Returns a client of the whole site, and the folder of its data, which is deleted at the end of
/// the test.
pub fn test_site() -> (TempDir, TestClient) {
    let data = tempfile::tempdir().unwrap();
    let client = TestClient::new(crate::app(Config::default(), data.path()).unwrap());
    (data, client)
}
