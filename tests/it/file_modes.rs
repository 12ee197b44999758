//! The modes of files that the framework creates: private to its user if they contain private data.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aside::testing::TestClient;
use aside::{App, Config, Jobs, Mail};

/// Returns the modes of all files and folders below a folder, in octal digits, by name.
fn modes(folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        all.insert(entry.file_name().into_string().unwrap(), format!("{mode:o}"));
        if entry.path().is_dir() {
            all.extend(modes(&entry.path()));
        }
    }
    all
}

fn site(folder: &Path) -> TestClient {
    let config = Config {
        store: Some(format!("sqlite:{}", folder.join("site.db").display())),
        mail_url: Some(format!("file:{}", folder.join("mail").display())),
        ..Config::default()
    };
    let app = App::with_config(config).jobs(Jobs::sqlite(folder.join("jobs.db")).unwrap()).post(
        "/",
        |req: &mut aside::Request| {
            req.enqueue(Mail::to("ada@example.org").subject("Hello").text("Hello")).map(|_| "thank you")
        },
    );
    let mut client = TestClient::new(app);
    client.post("/").send();
    client.drain();
    client
}

#[test]
fn files_of_jobs_sessions_and_mail_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let client = site(folder.path());
    let mut modes = modes(folder.path());
    assert_eq!(modes.remove("mail").as_deref(), Some("700"));
    for name in ["jobs.db", "jobs.db-wal", "jobs.db-shm", "site.db", "site.db-wal", "site.db-shm"] {
        assert!(modes.contains_key(name), "{name} of {modes:?}");
    }
    assert!(modes.keys().any(|name| name.ends_with(".eml")), "{modes:?}");
    // The file with a worker's heartbeat is among the others or in its own folder.
    let open: Vec<_> = modes.iter().filter(|(_, mode)| *mode != "600").collect();
    assert!(open.is_empty(), "{open:?} of {modes:?}");
    drop(client);
}

/// A file that an operator has opened to a group keeps its mode after a restart.
#[test]
fn existing_files_keep_their_mode() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["jobs.db", "site.db"] {
        fs::write(folder.path().join(name), "").unwrap();
        fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o640)).unwrap();
    }
    fs::create_dir(folder.path().join("mail")).unwrap();
    fs::set_permissions(folder.path().join("mail"), PermissionsExt::from_mode(0o750)).unwrap();
    let client = site(folder.path());
    let modes = modes(folder.path());
    for name in ["jobs.db", "jobs.db-wal", "site.db", "site.db-wal"] {
        assert_eq!(modes[name], "640", "{name}");
    }
    assert_eq!(modes["mail"], "750");
    drop(client);
}
