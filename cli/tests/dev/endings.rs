//! Wrong use, and the end of `aside dev`.

use std::net::TcpListener;
use std::process::Output;

use crate::requests::BUILD_THAT_NEVER_ENDS;
use crate::site::{Dev, Site, command, is_running, wait};

/// Checks that there is one line on standard error.
fn assert_refused(output: &Output, code: i32, part: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(part) && errors.starts_with("aside: ") && errors.lines().count() == 1, "{errors}");
}

pub fn a_folder_without_a_site_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(&command(folder.path()).output().unwrap(), 2, "there is no site here");
    std::fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"other\"\n").unwrap();
    assert_refused(&command(folder.path()).output().unwrap(), 2, "there is no site here");
}

pub fn a_port_in_use_is_refused() {
    let site = Site::new("in-use");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let with = |address: &str| command(&site.0).env("ASIDE_ADDR", address).output().unwrap();
    assert_refused(&with(&address), 1, &format!("{address} is in use by another process"));
    assert_refused(&with("unix:/tmp/site.sock"), 2, "set ASIDE_ADDR to an address and a port");
    assert_refused(&with("8000"), 2, "ASIDE_ADDR takes an address and a port");
}

pub fn options_that_cargo_refuses_end_it() {
    let site = Site::new("options");
    let run = |arguments: &[&str]| {
        let mut command = command(&site.0);
        command.args(arguments).env("ASIDE_ADDR", "127.0.0.1:0").output().unwrap()
    };
    assert_refused(&run(&["--relase"]), 2, "did you mean `--release`?");
    let output = run(&["--bin", "nope"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("no bin target named `nope`"), "{errors}");
    assert!(errors.ends_with("aside: could not start to serve: Cargo builds nothing with `--bin nope`\n"), "{errors}");
}

pub fn a_missing_cargo_is_one_line() {
    let site = Site::new("no-cargo");
    let output =
        command(&site.0).env("ASIDE_ADDR", "127.0.0.1:0").env("PATH", "").env_remove("CARGO").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.ends_with("Cargo was not found; install Rust from https://rustup.rs\n"), "{errors}");
}

pub fn ctrl_c_during_a_build_that_never_ends_leaves_no_process() {
    let site = Site::new("never-ends");
    site.write("build.rs", BUILD_THAT_NEVER_ENDS);
    let mut dev = Dev::start(&site);
    let script = site.wait_for_file("build-began");
    let cargo = dev.site_processes();
    assert!(is_running(&script) && cargo.iter().all(|pid| is_running(pid)));
    dev.signal("-INT");
    assert_eq!(dev.end().code(), Some(0));
    assert!(!is_running(&script), "the build script runs on");
    assert!(!cargo.iter().any(|pid| is_running(pid)), "Cargo runs on");
}

pub fn a_closed_terminal_and_kill_end_the_site() {
    let site = Site::new("signals");
    for signal in ["-HUP", "-TERM", "-INT"] {
        let mut dev = Dev::start(&site);
        dev.serves(1);
        let pid = dev.site_processes().remove(0);
        assert!(is_running(&pid));
        dev.signal(signal);
        assert_eq!(dev.end().code(), Some(0), "{signal}");
        assert!(!is_running(&pid), "{signal}");
    }
}

pub fn no_process_of_the_site_stays_when_aside_dev_is_killed() {
    let site = Site::new("killed");
    let mut dev = Dev::start(&site);
    dev.serves(1);
    let pid = dev.site_processes().remove(0);
    dev.signal("-KILL");
    dev.end();
    wait("the end of the site", || (!is_running(&pid)).then_some(()));
}
