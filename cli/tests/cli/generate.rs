//! `aside generate`.

use std::fs;
use std::path::Path;

use crate::support::{aside, assert_formatted, files, one_line, refusal, run, site};

fn main_of(site: &Path) -> String {
    fs::read_to_string(site.join("src/main.rs")).unwrap()
}

#[test]
fn each_kind_is_added_with_its_module_and_place() {
    let (_folder, site) = site("jobs");
    let told = run(&site, &["generate", "page", "about-us"]);
    assert_eq!(
        told,
        "made     src/about_us.rs\nmade     templates/about_us.html\n\
         changed  templates/layout.html\nchanged  src/main.rs\n"
    );
    run(&site.join("templates"), &["generate", "form", "Order"]);
    run(&site, &["generate", "job", "resize_photo"]);
    run(&site, &["generate", "mail", "welcome"]);

    let main = main_of(&site);
    assert!(
        main.starts_with("//! All routes of the site, and what its pages share.\n\nmod about_us;\nmod db;\n"),
        "{main}"
    );
    assert!(main.contains(".route(\"/about-us\", get(about_us::show).name(\"about_us\"))\n"), "{main}");
    assert!(main.contains(".route(\"/order\", post(order::send).rate_limit(Rate::per_minute(20)))\n"), "{main}");
    assert!(main.contains("mod resize_photo;\n") && main.contains("mod welcome;\n"), "{main}");
    let jobs = fs::read_to_string(site.join("src/jobs.rs")).unwrap();
    assert!(jobs.contains(".register::<crate::resize_photo::ResizePhoto>()"), "{jobs}");
    let layout = fs::read_to_string(site.join("templates/layout.html")).unwrap();
    assert!(
        layout.contains("        (\"about_us\", \"About us\"),\n        (\"order\", \"Order\"),\n      ] %}"),
        "{layout}"
    );
    assert_formatted(&site);
}

#[test]
fn a_job_brings_its_store_to_a_site_without_one() {
    let (_folder, site) = site("");
    run(&site, &["generate", "job", "clean-up"]);
    let main = main_of(&site);
    assert!(main.contains("App::with_config(config)\n        .jobs(jobs::open(data)?)\n"), "{main}");
    assert!(main.contains("mod clean_up;\n") && main.contains("mod jobs;\n"), "{main}");
    run(&site, &["generate", "job", "back-up"]);
    let jobs = fs::read_to_string(site.join("src/jobs.rs")).unwrap();
    assert!(jobs.contains("CleanUp>()") && jobs.contains("BackUp>()"), "{jobs}");
    assert_formatted(&site);
}

#[test]
fn a_changed_file_keeps_its_line_ends() {
    let (_folder, site) = site("");
    let windows = main_of(&site).replace('\n', "\r\n");
    fs::write(site.join("src/main.rs"), &windows).unwrap();
    run(&site, &["generate", "page", "about"]);
    let main = main_of(&site);
    assert!(main.contains("mod about;\r\n") && !main.replace("\r\n", "").contains('\n'), "{main:?}");
}

/// A line that becomes too long is broken as rustfmt does it.
#[test]
fn long_names_are_formatted() {
    let (_folder, site) = site("jobs,mail");
    for length in [24, 32, 64] {
        for (kind, first) in [("page", "a"), ("form", "b"), ("job", "c"), ("mail", "d")] {
            run(&site, &["generate", kind, &(first.to_owned() + &"x".repeat(length - 1))]);
        }
        assert_formatted(&site);
    }
}

#[test]
fn nothing_is_overwritten() {
    let (_folder, site) = site("");
    run(&site, &["generate", "page", "about"]);
    fs::write(site.join("templates/terms.html"), "mine").unwrap();
    fs::create_dir(site.join("src/faq")).unwrap();
    let before = (files(&site), main_of(&site));
    for (arguments, line) in [
        (["generate", "page", "about"], "src/about.rs exists already; nothing was changed"),
        (["generate", "mail", "about"], "src/about.rs exists already; nothing was changed"),
        (["generate", "form", "terms"], "templates/terms.html exists already; nothing was changed"),
        (["generate", "job", "faq"], "src/faq exists already; nothing was changed"),
        (["generate", "job", "db"], "src/db.rs exists already; nothing was changed"),
        (["generate", "page", "layout"], "templates/layout.html exists already; nothing was changed"),
    ] {
        assert_eq!(refusal(&site, &arguments), line);
    }
    let routed = before.1.replace("\"/messages\"", "\"/news\"");
    fs::write(site.join("src/main.rs"), &routed).unwrap();
    assert_eq!(
        refusal(&site, &["generate", "page", "news"]),
        "src/main.rs has a route for /news already; nothing was changed"
    );
    assert_eq!((files(&site), main_of(&site)), (before.0, routed));
}

#[test]
fn a_name_that_rust_refuses_is_refused() {
    let (_folder, site) = site("");
    let before = files(&site);
    for name in ["match", "Self", "core", "form", "main", "2nd", "über", "a.b", "../a", "-", "", &"a".repeat(1_000)] {
        refusal(&site, &["generate", "form", name]);
    }
    refusal(&site, &["generate", "model", "order"]);
    assert_eq!(files(&site), before);
}

#[test]
fn outside_a_site_nothing_is_generated() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"other\"\n[dependencies]\naside-cli = \"1\"\n")
        .unwrap();
    let line = refusal(folder.path(), &["generate", "page", "about"]);
    assert!(line.starts_with("there is no site here"), "{line}");
}

/// A site of the guide has no function `app(config, data)`, no layout of ours, and its routes in one line.
#[test]
fn what_has_no_place_is_left_to_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("src")).unwrap();
    fs::create_dir_all(root.join("templates")).unwrap();
    fs::write(root.join("Cargo.toml"), "[dependencies]\naside = \"0.1\"\n").unwrap();
    fs::write(root.join("src/main.rs"), "fn main() {\n    shop::app().run()\n}\n").unwrap();
    let told = run(root, &["generate", "page", "about"]);
    for line in [
        "made     src/about.rs\n",
        "to add   src/main.rs: mod about;\n",
        "to add   src/main.rs: .route(\"/about\", aside::routing::get(about::show).name(\"about\"))\n",
        "to add   templates/layout.html, ",
        "to add   a link to the page: <a href=\"{{ url_for(\"about\") }}\">\n",
        "to add   src/test_site.rs, ",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(main_of(root), "fn main() {\n    shop::app().run()\n}\n");
    let job = run(root, &["generate", "job", "clean"]);
    assert!(job.contains("to add   the registration of the job: .register::<crate::clean::Clean>()"), "{job}");
    assert!(job.contains(".jobs(aside::Jobs::sqlite("), "{job}");
    let form = run(root, &["generate", "form", "order"]);
    assert!(form.contains("made     templates/fields.html\n"), "{form}");
    assert!(form.contains(".rate_limit(aside::routing::Rate::per_minute(20))"), "{form}");
    fs::write(root.join("templates/fields.html"), "mine").unwrap();
    let form = run(root, &["generate", "form", "offer"]);
    assert!(form.contains("to add   templates/fields.html: the macros `field` and `area`"), "{form}");
}

/// A folder in the place of a file makes the last change fail, after others were made.
#[test]
fn a_failure_half_way_takes_everything_back() {
    let (_folder, site) = site("");
    fs::remove_dir_all(site.join("templates")).unwrap();
    fs::write(site.join("templates"), "not a folder").unwrap();
    let before = files(&site);
    let output = aside(&site, &["generate", "page", "about"]).output().unwrap();
    let line = one_line(&output, 1);
    assert!(line.starts_with("could not write templates/about.html: "), "{line}");
    assert_eq!(files(&site), before);
}
