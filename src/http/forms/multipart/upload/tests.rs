use super::super::tests::one;
use super::*;
use crate::error::Status;

#[test]
fn the_type_is_detected_from_the_content() {
    let kind = |content: &[u8]| {
        let form = one("name=f; filename=\"f.exe\"\r\nContent-Type: application/x-lie", content);
        let file = form.file("f").unwrap();
        (file.content_type().to_owned(), file.kind.extension)
    };
    assert_eq!(kind(b"\x89PNG\r\n\x1a\n"), ("image/png".into(), "png"));
    assert_eq!(kind(b"\xff\xd8\xff\xe0rest"), ("image/jpeg".into(), "jpg"));
    assert_eq!(kind("просто текст\n".as_bytes()), ("text/plain".into(), "txt"));
    assert_eq!(kind(b"<!DOCTYPE html><script>"), ("text/html".into(), "txt"));
    let old_document = [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), &[0; 2_000]].concat();
    assert_eq!(kind(&old_document), ("application/x-ole-storage".into(), "ole"));
    assert_eq!(kind(b"a\0b"), ("application/octet-stream".into(), "bin"));
    assert_eq!(kind(b"\xc3"), ("application/octet-stream".into(), "bin"));
    // The chunk of 8 KiB ends within a character.
    assert_eq!(kind(format!("x{}", "я".repeat(5_000)).as_bytes()), ("text/plain".into(), "txt"));
}

#[test]
fn temporary_files_are_deleted_with_the_form() {
    let form = one("name=f; filename=f", b"content");
    let path = form.file("f").unwrap().path().to_owned();
    assert_eq!(fs::read(&path).unwrap(), b"content");
    drop(form);
    assert!(!path.exists());
}

#[test]
fn an_upload_is_saved_under_a_generated_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/folder");
    let form = one("name=f; filename=\"../../evil.php\"", b"\x89PNG\r\n\x1a\n");
    let file = form.file("f").unwrap();
    // The first file is a hard link to the temporary file, the second is a copy.
    let saved: Vec<PathBuf> = (0..3).map(|_| file.save_to(&dir).unwrap()).collect();
    for path in &saved {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(path.parent() == Some(&dir) && name.len() == 36 && name.ends_with(".png"), "{name}");
        assert_eq!(fs::read(path).unwrap(), b"\x89PNG\r\n\x1a\n");
        let ordinary = File::create(dir.join("ordinary")).unwrap().metadata().unwrap().permissions();
        assert_eq!(fs::metadata(path).unwrap().permissions(), ordinary);
    }
    fs::write(&saved[0], "changed").unwrap();
    assert_eq!(fs::read(&saved[1]).unwrap(), b"\x89PNG\r\n\x1a\n");
    fs::remove_file(dir.join("ordinary")).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3, "no other files remain");
    drop(form);
    assert!(saved.iter().all(|path| path.exists()));
}

#[test]
fn an_upload_is_saved_on_another_file_system() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return eprintln!("skipped: there is no other file system to write to at /dev/shm");
    };
    let form = one("name=f; filename=f", b"content");
    let path = form.file("f").unwrap().save_to(dir.path()).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"content");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_save_leaves_no_partial_file() {
    struct Full(u8);
    impl Read for Full {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(buffer.len()) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let beside = Unfinished::new(dir.path().join(".x.part")).unwrap();
    assert!(copy(&mut Full(0), &beside.file).is_err());
    drop(beside);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let occupied = dir.path().join("file");
    fs::write(&occupied, "").unwrap();
    let error = one("name=f; filename=f", b"x").file("f").unwrap().save_to(&occupied).unwrap_err();
    assert_eq!(error.status_code(), Status::INTERNAL_SERVER_ERROR);
    assert!(error.chain().starts_with("cannot save an upload in "), "{error:?}");
}
