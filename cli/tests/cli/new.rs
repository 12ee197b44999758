//! `aside new`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{aside, assert_formatted, combinations, files, one_line, refusal, run, site, text};

#[test]
fn a_site_has_the_files_of_its_features() {
    let (_folder, plain) = site("");
    let expected = [
        ".dockerignore",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "Containerfile",
        "README.md",
        "build.rs",
        "deploy/Caddyfile",
        "deploy/shop.service",
        "deploy/shop.socket",
        "rustfmt.toml",
        "src/db.rs",
        "src/home.rs",
        "src/main.rs",
        "src/messages.rs",
        "src/test_site.rs",
        "static/app.css",
        "static/favicon.svg",
        "templates/fields.html",
        "templates/home.html",
        "templates/layout.html",
        "templates/messages.html",
    ];
    assert_eq!(files(&plain), expected);

    for (feature, file) in [
        ("login", "src/account.rs"),
        ("jobs", "src/reports.rs"),
        ("mail", "templates/mail/contact.txt"),
        ("uploads", "src/photos.rs"),
        ("live", "templates/chat_lines.html"),
    ] {
        let (_folder, site) = site(feature);
        assert!(site.join(file).exists(), "{file}");
        assert!(files(&site).iter().all(|file| !file.starts_with("src/") || is_module(&site, file)));
    }
}

/// Returns true if `src/main.rs` has the file as a module.
fn is_module(site: &Path, file: &str) -> bool {
    let module = file.trim_start_matches("src/").trim_end_matches(".rs");
    let main = fs::read_to_string(site.join("src/main.rs")).unwrap();
    module == "main" || main.contains(&format!("mod {module};\n"))
}

#[test]
fn all_combinations_are_formatted_and_have_no_markers() {
    for features in combinations() {
        let (_folder, site) = site(&features);
        assert_formatted(&site);
        for file in files(&site) {
            let content = fs::read_to_string(site.join(&file)).unwrap();
            assert!(!content.contains("%%") && !content.contains("__"), "{features}: {file}: {content}");
            assert!(content.ends_with('\n') && !content.ends_with("\n\n"), "{features}: {file}");
        }
    }
}

#[test]
fn the_profile_of_a_site_is_that_of_the_framework() {
    let manifest = include_str!("../../../Cargo.toml");
    let optimized = manifest.split("[profile.dev.package.").skip(1).filter(|part| part.contains("\nopt-level = 3"));
    let expected: Vec<&str> = optimized.filter_map(|part| part.split(']').next()).collect();
    let site = include_str!("../../templates/new/Cargo.toml");
    let lines = site.lines().filter(|line| line.contains("opt-level = 3"));
    assert_eq!(lines.filter_map(|line| line.split(' ').next()).collect::<Vec<&str>>(), expected);
}

#[test]
fn the_units_and_the_proxy_are_those_of_the_guide() {
    let (_folder, site) = site("mail");
    let guide = include_str!("../../../docs/guide/12-deployment.md");
    for file in ["deploy/Caddyfile", "deploy/shop.service", "deploy/shop.socket"] {
        let content = fs::read_to_string(site.join(file)).unwrap();
        let block =
            guide.split("```").find(|block| block.contains(&format!("/{}", file.trim_start_matches("deploy/"))));
        let block = block.or_else(|| guide.split("```").find(|block| block.contains("# Caddyfile"))).unwrap();
        let words = block.lines().skip(1).filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        for word in words.map(|word| word.trim_start_matches("Environment=")) {
            assert!(content.contains(word), "{file} has not {word}:\n{content}");
        }
    }
}

#[test]
fn a_name_that_cargo_refuses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a".repeat(1_000);
    for name in ["", "-", "fn", "test", "core", "1shop", "schön", "a/b", "../shop", "/tmp/shop", "Shop", &long] {
        let line = refusal(folder.path(), &["new", name]);
        assert!(line.len() < 200, "{line}");
    }
    assert!(files(folder.path()).is_empty());
}

#[test]
fn an_unknown_feature_is_refused_with_the_nearest_and_all() {
    let folder = tempfile::tempdir().unwrap();
    let line = refusal(folder.path(), &["new", "shop", "--with", "jobs,logn"]);
    assert_eq!(line, "there is no feature `logn`; did you mean `login`? There are login, jobs, mail, uploads, live.");
    assert!(!folder.path().join("shop").exists());
}

#[test]
fn an_existing_folder_is_used_only_if_it_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let shop = folder.path().join("shop");
    fs::create_dir(&shop).unwrap();
    run(folder.path(), &["new", "shop"]);
    let before = files(folder.path());
    assert_eq!(refusal(folder.path(), &["new", "shop"]), "the folder shop exists and is not empty");
    fs::write(folder.path().join("store"), "").unwrap();
    assert_eq!(refusal(folder.path(), &["new", "store"]), "store exists and is not a folder");
    #[cfg(unix)]
    {
        fs::create_dir(folder.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("empty", folder.path().join("link")).unwrap();
        assert_eq!(refusal(folder.path(), &["new", "link"]), "link exists and is not a folder");
        fs::remove_file(folder.path().join("link")).unwrap();
    }
    assert_eq!(files(folder.path()).len(), before.len() + 1);
}

#[test]
fn a_fresh_clone_of_an_empty_repository_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    let shop = folder.path().join("shop");
    fs::create_dir_all(shop.join(".git/refs")).unwrap();
    fs::write(shop.join(".git/refs/mine"), "mine").unwrap();
    run(folder.path(), &["new", "shop"]);
    assert_eq!(fs::read_to_string(shop.join(".git/refs/mine")).unwrap(), "mine");
    let (_plain, plain) = site("");
    assert_eq!(files(&shop), files(&plain));
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "the draft is gone");
    let line = refusal(&shop, &["new", "."]);
    assert!(line.contains("run `aside new NAME` in the folder above"), "{line}");
    assert!(refusal(&shop, &["new", "test"]).contains("a crate of Rust's standard library"));
}

/// A limit of the size of a file stands for a full disk: `Cargo.lock` exceeds it after other files are written.
#[cfg(unix)]
#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" new shop";
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script, env!("CARGO_BIN_EXE_aside")]).current_dir(&folder).output().unwrap();
    let line = one_line(&output, 1);
    assert!(line.starts_with("could not write Cargo.lock: "), "{line}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

/// Root may write everywhere but here.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_without_permission_to_write_is_one_line() {
    let output = aside(Path::new("/proc"), &["new", "shop"]).output().unwrap();
    let line = one_line(&output, 1);
    assert!(line.starts_with("could not create a folder in /proc: "), "{line}");
}

#[test]
fn a_site_is_made_without_git_and_gets_a_repository_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = aside(folder.path(), &["new", "shop"]).env("PATH", "").output().unwrap();
    assert!(made.status.success() && made.stderr.is_empty(), "{}", text(&made.stderr));
    assert!(!folder.path().join("shop/.git").exists());

    run(folder.path(), &["new", "store"]);
    assert!(folder.path().join("store/.git").exists());
    run(&folder.path().join("store"), &["new", "inner"]);
    assert!(!folder.path().join("store/inner/.git").exists(), "it is in the repository of the outer one");
}

#[test]
fn a_site_below_another_package_is_a_workspace_of_its_own() {
    let (_folder, outer) = site("");
    assert!(!fs::read_to_string(outer.join("Cargo.toml")).unwrap().contains("[workspace]"));
    run(&outer, &["new", "inner"]);
    assert!(fs::read_to_string(outer.join("inner/Cargo.toml")).unwrap().contains("\n[workspace]\n"));
}

#[test]
fn the_checkout_of_the_framework_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(refusal(folder.path(), &["new", "shop", "--aside", "."]), ". is not a checkout of aside");
    let checkout = folder.path().join("a \"checkout\"");
    fs::create_dir(&checkout).unwrap();
    fs::write(checkout.join("Cargo.toml"), "[package]\nname = \"aside\"\n").unwrap();
    run(folder.path(), &["new", "shop", "--aside", checkout.to_str().unwrap()]);
    let manifest = fs::read_to_string(folder.path().join("shop/Cargo.toml")).unwrap();
    assert!(manifest.contains("/a \\\"checkout\\\"\" }"), "{manifest}");
}

#[test]
fn help_and_version_are_printed() {
    let here = Path::new(".");
    assert!(run(here, &[]).contains("aside new NAME"));
    assert_eq!(run(here, &["--help"]), run(here, &[]));
    assert_eq!(run(here, &["--version"]), format!("aside {}\n", env!("CARGO_PKG_VERSION")));
    assert!(refusal(here, &["deploy"]).contains("no command `deploy`"));
}
