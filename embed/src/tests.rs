use std::fs;
use std::io::Read;
use std::time::{Duration, SystemTime};

use flate2::read::GzDecoder;
use tempfile::TempDir;

use super::*;

/// Returns a package with an empty folder `static`.
fn package() -> TempDir {
    let package = tempfile::tempdir().unwrap();
    fs::create_dir(package.path().join("static")).unwrap();
    package
}

fn write(package: &TempDir, name: &str, content: impl AsRef<[u8]>) {
    let path = package.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn names(package: &TempDir) -> Vec<String> {
    let files = Files::find("static", package.path()).unwrap().files;
    files.into_iter().map(|file| file.name).collect()
}

/// Returns the message of the compile error, for which the folder is checked at each build, in development too.
fn refused(package: &TempDir) -> String {
    let [disk, program] =
        ["disk", "program"].map(|place| expansion(&[place, "\"static\""], Some(package.path())).unwrap_err());
    assert_eq!(disk, program);
    assert!(disk.starts_with("embed!(\"static\"): "), "{disk}");
    disk
}

#[test]
fn a_missing_folder_is_named_with_the_place_where_it_was_looked_for() {
    let package = tempfile::tempdir().unwrap();
    let here = package.path().display();
    let expected = format!(
        "embed!(\"static\"): there is no folder {here}/static: a path is looked for from the folder of Cargo.toml, {here}"
    );
    assert_eq!(refused(&package), expected);
    write(&package, "static", "a file");
    assert!(refused(&package).ends_with("/static is not a folder"));
}

#[test]
fn the_macro_takes_one_plain_string() {
    let package = package();
    for words in [
        &["program"][..],
        &["program", "static"],
        &["program", "\"\""],
        &["program", r#""a\"b""#],
        &["program", "r\"a\""],
        &["program", "b\"a\""],
    ] {
        assert_eq!(expansion(words, Some(package.path())), Err(usage()), "{words:?}");
    }
    assert!(expansion(&["disk", "\"static\""], None).unwrap_err().contains("build with Cargo"));
}

#[test]
fn an_empty_folder_and_an_empty_file_are_embedded() {
    let package = package();
    let code = expansion(&["program", "\"static\""], Some(package.path())).unwrap();
    assert!(code.contains("EmbeddedFile; 0] = []; "), "{code}");
    write(&package, "static/empty.css", "");
    let code = expansion(&["program", "\"static\""], Some(package.path())).unwrap();
    assert!(code.contains("EmbeddedFile::new(\"empty.css\", ") && code.contains("[None, None, None, ]"), "{code}");
}

#[test]
fn on_the_disk_only_the_path_is_compiled_in() {
    let package = package();
    write(&package, "static/a.css", "a {}");
    let code = expansion(&["disk", "\"static\""], Some(package.path())).unwrap();
    let folder = package.path().join("static").canonicalize().unwrap();
    assert_eq!(code, format!("__aside_embedded::on_disk({folder:?})"));
}

#[test]
fn hidden_files_and_backups_are_left_out() {
    let package = package();
    for name in ["a.css", "css/b.css", "фото/ж ?.css", "a.swp.css"] {
        write(&package, &format!("static/{name}"), "a {}");
    }
    for name in [".env", ".git/config", "css/.a.css.swp", "a.css~", "#a.css#", "a.css.bak", "a.css.orig", "a.css.swp"] {
        write(&package, &format!("static/{name}"), "a {}");
    }
    assert_eq!(names(&package), ["a.css", "a.swp.css", "css/b.css", "фото/ж ?.css"]);
}

#[cfg(unix)]
#[test]
fn a_link_must_stay_in_the_folder() {
    use std::os::unix::fs::symlink;
    let package = package();
    write(&package, "secret.txt", "s");
    write(&package, "static/.env", "s");
    write(&package, "static/css/a.css", "a {}");
    let link = |target: &str| {
        let _ = fs::remove_file(package.path().join("static/link"));
        symlink(target, package.path().join("static/link")).unwrap();
    };
    for (target, message) in [
        ("../secret.txt", "is a symbolic link that leads out of the folder, to /"),
        ("..", "is a symbolic link that leads out of the folder, to /"),
        ("/etc/passwd", "is a symbolic link that leads out of the folder, to /etc/passwd"),
        (".env", "is a symbolic link to a hidden file, /"),
        (".", "is a symbolic link to a folder around it"),
        ("nothing", "could not read "),
        ("link", "could not read "),
        ("/dev/null", "leads out of the folder"),
    ] {
        link(target);
        let refusal = refused(&package);
        assert!(refusal.contains(message) && refusal.contains("/static/link"), "{target}: {refusal}");
    }
    link("css");
    assert_eq!(names(&package), ["css/a.css", "link/a.css"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_no_url_can_name_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"caf\xe9.css"[..], b"a\\b.css"] {
        let package = package();
        fs::write(package.path().join("static").join(OsStr::from_bytes(name)), "a {}").unwrap();
        let refusal = refused(&package);
        assert!(refusal.contains("no URL can name ") && refusal.contains(".css"), "{refusal}");
    }
}

#[test]
fn a_folder_that_is_too_large_for_a_program_is_refused() {
    let package = package();
    write(&package, "static/a.css", "a {}");
    // A hole, which takes no place on the disk.
    let film = fs::File::create(package.path().join("static/film.mp4")).unwrap();
    film.set_len(256 << 20).unwrap();
    let refusal = refused(&package);
    assert!(refusal.contains("static/film.mp4, of 268435456 bytes. Serve large files from the disk"), "{refusal}");
    film.set_len((256 << 20) - 4).unwrap();
    assert_eq!(names(&package).len(), 2);
}

/// Returns the compressed forms of `a.css`.
fn forms(package: &TempDir) -> [Option<Form>; 3] {
    let files = Files::find("static", package.path()).unwrap();
    CODINGS.map(|coding| form(&files.files[0], coding, &files).unwrap())
}

#[test]
fn compressed_text_decompresses_to_the_same() {
    // Of both qualities.
    for lines in [100, 12_000] {
        let package = package();
        let text: String = (0..lines).map(|line| format!(".card-{line} {{ margin: {line}px }}\n")).collect();
        write(&package, "static/a.css", &text);
        let [Some(Form::Made(brotli)), None, Some(Form::Made(gzip))] = forms(&package) else { panic!("{lines}") };
        let mut decoded = (Vec::new(), String::new());
        brotli::BrotliDecompress(&mut &brotli[..], &mut decoded.0).unwrap();
        GzDecoder::new(&gzip[..]).read_to_string(&mut decoded.1).unwrap();
        assert!(decoded.0 == text.as_bytes() && decoded.1 == text, "{lines}");
        assert!(brotli.len() < gzip.len() && gzip.len() < text.len() / 3, "{} {}", brotli.len(), gzip.len());
    }
}

#[test]
fn what_does_not_become_smaller_is_not_compressed() {
    for (name, content) in [
        ("short.css", b"a {}".to_vec()),
        ("a.jpg", b"word ".repeat(1_000)),
        ("noise.css", noise(3_000)),
        ("huge.css", vec![b' '; (8 << 20) + 1]),
    ] {
        let package = package();
        write(&package, &format!("static/{name}"), content);
        assert!(forms(&package).iter().all(Option::is_none), "{name}");
    }
}

/// Bytes without a pattern, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_form_beside_the_file_is_used_unless_it_is_older() {
    let package = package();
    let set = |name: &str, age: u64| {
        let file = fs::File::options().write(true).open(package.path().join("static").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    for name in ["a.css", "a.css.br", "a.css.zst", "a.css.gz"] {
        write(&package, &format!("static/{name}"), "a {} ".repeat(1_000));
    }
    set("a.css", 60);
    let [Some(Form::Sibling(brotli)), Some(Form::Sibling(_)), Some(Form::Sibling(_))] = forms(&package) else {
        panic!()
    };
    assert!(brotli.ends_with("static/a.css.br"), "{brotli:?}");
    ["a.css.br", "a.css.zst", "a.css.gz"].iter().for_each(|name| set(name, 120));
    let [Some(Form::Made(_)), None, Some(Form::Made(_))] = forms(&package) else { panic!() };
}
