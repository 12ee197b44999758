//! Requests while the site is built, started and changed.

use std::io::Read;

use crate::site::{Dev, Site, is_running, wait};

pub fn a_request_during_the_first_build_is_held_and_forwarded() {
    let site = Site::new("held");
    let dev = Dev::start(&site);
    let body = "a=1&b=%00".repeat(20_000);
    let mut held = dev.connect(&format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        dev.address,
        body.len()
    ));
    let page = dev.get("/", "Accept: text/html\r\n");
    assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("Building the site"), "{page}");
    let mut response = String::new();
    held.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with(&body), "{}", &response[..200]);
    assert!(dev.get("/", "Accept: text/html\r\n").contains("version 0"));
}

/// Returns the cookies that a response sets, as the header of a request.
fn cookies(response: &str) -> String {
    let set = response.lines().filter_map(|line| line.strip_prefix("Set-Cookie: ")?.split(';').next());
    set.map(|cookie| format!("Cookie: {cookie}\r\n")).collect()
}

pub fn sessions_and_flash_messages_survive_a_new_build() {
    let site = Site::new("sessions");
    let dev = Dev::start(&site);
    dev.serves(1);
    let session = cookies(&dev.get("/", ""));
    let flash = cookies(&dev.post("/flash", &session, ""));
    site.edit("src/main.rs", "version 0", "version 1");
    dev.serves(2);
    let page = dev.get("/", &(session + &flash));
    assert!(page.contains("version 1") && page.contains("It is kept"), "{page}");
    assert!(page.contains(r#"<p id="visits">2</p>"#), "{page}");
}

pub fn a_running_task_is_drained_while_the_new_build_serves() {
    let site = Site::new("drained");
    let dev = Dev::start(&site);
    dev.serves(1);
    let former = dev.site_processes().remove(0);
    dev.post("/task", "", "");
    site.wait_for_file("task-began");
    site.edit("src/main.rs", "version 0", "version 1");
    dev.serves(2);
    assert!(dev.get("/version", "").ends_with("version 1"));
    assert!(is_running(&former), "it was not drained");
    site.write("task-may-end", "");
    assert_eq!(site.wait_for_file("task-ended"), "version 0");
    wait("the end of the former process", || (!is_running(&former)).then_some(()));
}

pub fn a_site_that_only_one_process_can_open_is_stopped_first() {
    let site = Site::new("one-process");
    // As a database does that is locked by the process which has opened it.
    let lock = r#"    let lock = std::fs::File::create("lock")?;
    lock.try_lock().expect("the lock");
    App::with_config"#;
    site.edit("src/main.rs", "    App::with_config", lock);
    let dev = Dev::start_with(&site, &[], &["--stop-first"]);
    dev.serves(1);
    dev.post("/task", "", "");
    site.wait_for_file("task-began");
    site.edit("src/main.rs", "version 0", "version 1");
    let held = || dev.get("/", "Accept: text/html\r\n").starts_with("HTTP/1.1 503 ").then_some(());
    wait("the page of the gate while the former process is drained", held);
    site.write("task-may-end", "");
    dev.serves(2);
    assert_eq!(site.wait_for_file("task-ended"), "version 0");
    assert!(dev.get("/version", "").ends_with("version 1"));
}

pub fn a_page_of_a_site_in_production_has_no_script() {
    let site = Site::new("production");
    let secret = "for this test only ".repeat(3);
    let dev = Dev::start_with(&site, &[("ASIDE_ENV", "production"), ("ASIDE_SECRET", &secret)], &[]);
    dev.serves(1);
    let page = dev.get("/", "");
    assert!(page.contains("version 0") && !page.contains("<script"), "{page}");
    drop(dev);
    let dev = Dev::start(&site);
    dev.serves(1);
    assert!(dev.get("/", "").contains("<script"));
}

pub fn a_burst_of_changes_is_one_build() {
    let site = Site::new("burst");
    let dev = Dev::start(&site);
    dev.serves(1);
    for number in 1..=30 {
        site.write(&format!("src/part_{number}.rs"), "");
        site.edit("src/main.rs", &format!("version {}", number - 1), &format!("version {number}"));
        site.write("data/site.db-wal", &"x".repeat(number));
        site.write("src/.main.rs.swp", &"x".repeat(number));
    }
    wait("the last version", || dev.get("/version", "").ends_with("version 30").then_some(()));
    // One, unless this test stood still for a moment.
    assert!(dev.count(" changed") < 5, "{} builds", dev.count(" changed"));
}

pub fn a_change_during_a_build_starts_it_again() {
    let site = Site::new("again");
    // The first build does not end by itself.
    site.write("build.rs", BUILD_THAT_NEVER_ENDS);
    let dev = Dev::start(&site);
    let pid = site.wait_for_file("build-began");
    site.write("build.rs", "fn main() {}");
    dev.serves(1);
    assert!(!is_running(&pid), "the former build runs on");
    assert!(dev.get("/version", "").ends_with("version 0"));
}

pub const BUILD_THAT_NEVER_ENDS: &str = r#"
fn main() {
    std::fs::write("build-began.new", std::process::id().to_string()).unwrap();
    std::fs::rename("build-began.new", "build-began").unwrap();
    loop {
        std::thread::park();
    }
}
"#;

pub fn a_site_that_ends_is_held_at_the_gate_until_it_serves_again() {
    let site = Site::new("ends");
    let dev = Dev::start(&site);
    dev.serves(1);
    let mut exits = dev.connect(&format!("GET /exit HTTP/1.1\r\nHost: {}\r\n\r\n", dev.address));
    assert_eq!(exits.read(&mut [0]).unwrap_or(0), 0);
    dev.wait_for_line("the site has ended (exit status: 7)", 1);
    let page = dev.get("/", "Accept: text/html\r\n");
    assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("The site has ended (exit status: 7)"), "{page}");
    let mut held = dev.connect(&format!("GET /version HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", dev.address));
    site.edit("src/main.rs", "version 0", "version 1");
    let mut response = String::new();
    held.read_to_string(&mut response).unwrap();
    assert!(response.ends_with("version 1"), "{response}");
}
