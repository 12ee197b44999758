//! The watched files: the code, the templates and the static files of a site.
//!
//! They are polled by modification time and size. That needs no dependency, works on every file system, also on those of
//! containers and network drives, and costs little for the hundreds of files that a site has.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long the files must stay as they are, so that a burst of changes is one.
const SETTLED: Duration = Duration::from_millis(30);

/// The folders of the site whose files are code.
const CODE: [&str; 1] = ["src"];

/// The folders of the site whose files a running site reads again.
const PAGES: [&str; 2] = ["templates", "static"];

/// Files beside them.
const FILES: [&str; 5] = ["Cargo.toml", "build.rs", ".cargo/config.toml", "rust-toolchain.toml", "rust-toolchain"];

/// Which kinds of files have changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// One of the files that need a build.
    pub code: Option<PathBuf>,
    /// A template, or a static file that is not a style sheet.
    pub page: bool,
    pub style: bool,
}

impl Changes {
    fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    fn merge(&mut self, other: Changes) {
        self.code = self.code.take().or(other.code);
        self.page |= other.page;
        self.style |= other.style;
    }
}

/// What is watched.
pub struct Watched {
    root: PathBuf,
    /// Files that the last build has read, such as those of path dependencies.
    read: Mutex<Vec<PathBuf>>,
    /// Hashes of the contents of the code.
    contents: Mutex<HashMap<PathBuf, u64>>,
    /// True while Cargo runs, which may write `Cargo.lock` itself, and whose build scripts may write code.
    pub is_building: AtomicBool,
}

impl Watched {
    pub fn new(root: PathBuf) -> Arc<Watched> {
        Arc::new(Watched {
            root,
            read: Mutex::default(),
            contents: Mutex::default(),
            is_building: AtomicBool::new(false),
        })
    }

    /// Adds the files that a build of this program has read, as Cargo lists them beside it.
    pub fn add_files_of(&self, program: &Path) {
        let listed = fs::read_to_string(list_of(program)).unwrap_or_default();
        // The generated code of build scripts is in the target folder.
        let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
        let is_own = |file: &PathBuf| {
            target.is_none_or(|target| !file.starts_with(target)) && self.is_below(file).is_none() && !is_ignored(file)
        };
        let files = dependencies(&listed).into_iter().filter(is_own).collect();
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    /// Returns the watched folder that holds the file.
    fn is_below(&self, file: &Path) -> Option<&'static str> {
        let inner = file.strip_prefix(&self.root).ok()?;
        CODE.into_iter().chain(PAGES).find(|folder| inner.starts_with(folder))
    }

    fn look(&self) -> Snapshot {
        let mut files = HashMap::new();
        for folder in CODE.iter().chain(&PAGES) {
            collect(&self.root.join(folder), &mut files, &mut Vec::new());
        }
        let single = FILES.iter().map(|file| self.root.join(file));
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let listed = single.chain(read).map(|file| (file.clone(), print(&file))).collect();
        let lock = self.root.ancestors().map(|folder| folder.join("Cargo.lock")).find(|file| file.exists());
        let lock = lock.and_then(|lock| print(&lock).map(|print| (lock, print)));
        Snapshot { files, listed, lock }
    }

    /// Returns the kinds of the files that differ. A file that one snapshot does not list has not changed.
    fn changes(&self, before: &Snapshot, now: &Snapshot) -> Changes {
        let mut changes = Changes::default();
        let differs = |file: &&PathBuf| before.files.get(*file) != now.files.get(*file);
        for file in now.files.keys().chain(before.files.keys()).filter(differs) {
            let change = self.change_of(file);
            // A build script may write the same code at each build, which would never end.
            let is_same = change.code.is_some() && !self.note_content(file);
            if !(is_same && self.is_building.load(Ordering::Acquire)) {
                changes.merge(change);
            }
        }
        let differs =
            |(file, print): &(&PathBuf, &Option<Print>)| before.listed.get(*file).is_some_and(|old| old != *print);
        if let Some((file, _)) = now.listed.iter().find(differs) {
            changes.merge(Changes { code: Some(file.clone()), ..Changes::default() });
        }
        if before.lock != now.lock && !self.is_building.load(Ordering::Acquire) {
            let code = now.lock.as_ref().or(before.lock.as_ref()).map(|(lock, _)| lock.clone());
            changes.merge(Changes { code, ..Changes::default() });
        }
        changes
    }

    /// Remembers the content of a file, and returns true if it differs from the former one.
    fn note_content(&self, file: &Path) -> bool {
        let mut hasher = DefaultHasher::new();
        fs::read(file).ok().hash(&mut hasher);
        let hash = hasher.finish();
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.insert(file.to_owned(), hash) != Some(hash)
    }

    /// Takes the first look.
    fn begin(&self) -> Snapshot {
        let snapshot = self.look();
        for file in snapshot.files.keys().filter(|file| self.change_of(file).code.is_some()) {
            self.note_content(file);
        }
        snapshot
    }

    fn change_of(&self, file: &Path) -> Changes {
        let is_page = self.is_below(file).is_some_and(|folder| PAGES.contains(&folder));
        let is_style = is_page && file.extension().is_some_and(|extension| extension == "css");
        let code = (!is_page).then(|| file.to_owned());
        Changes { code, page: is_page && !is_style, style: is_style }
    }

    /// Reports changes in the background. `Cargo.lock` counts while no build runs.
    pub fn start(self: &Arc<Watched>, report: impl Fn(Changes) + Send + 'static) {
        let watched = self.clone();
        let mut before = watched.begin();
        thread::spawn(move || {
            loop {
                thread::sleep(INTERVAL);
                let mut now = watched.look();
                let mut changes = watched.changes(&before, &now);
                while !changes.is_empty() {
                    thread::sleep(SETTLED);
                    let next = watched.look();
                    let more = watched.changes(&now, &next);
                    now = next;
                    if more.is_empty() {
                        report(std::mem::take(&mut changes));
                    } else {
                        changes.merge(more);
                    }
                }
                before = now;
            }
        });
    }
}

/// Returns the path of Cargo's list of the files that a build of this program has read.
fn list_of(program: &Path) -> PathBuf {
    let mut path = program.as_os_str().to_owned();
    path.push(".d");
    path.into()
}

/// When a file was changed, and its size.
type Print = (SystemTime, u64);

struct Snapshot {
    files: HashMap<PathBuf, Print>,
    /// Files that may be missing.
    listed: HashMap<PathBuf, Option<Print>>,
    lock: Option<(PathBuf, Print)>,
}

fn print(file: &Path) -> Option<Print> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Adds the files below a folder. `above` has the folders above it, by device and number: a link to one of them is not followed.
fn collect(folder: &Path, files: &mut HashMap<PathBuf, Print>, above: &mut Vec<(u64, u64)>) {
    let Ok(id) = fs::metadata(folder).map(|metadata| (metadata.dev(), metadata.ino())) else { return };
    if above.contains(&id) {
        return;
    }
    above.push(id);
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if is_ignored(&path) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => collect(&path, files, above),
            Ok(metadata) if metadata.is_file() => {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.insert(path, (modified, metadata.len()));
            }
            _ => {}
        }
    }
    above.pop();
}

/// Returns true for temporary files of editors, files of Git, and those of SQLite.
fn is_ignored(path: &Path) -> bool {
    const ENDINGS: [&str; 13] = [
        ".swp", ".swx", ".swo", ".tmp", ".bak", ".orig", ".rej", ".db", ".sqlite", ".sqlite3", "-journal", "-wal",
        "-shm",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_temporary = name.starts_with(['.', '#']) || name.ends_with('~') || name.ends_with("___");
    // Vim creates this file to learn if it may write to the folder.
    is_temporary || name == "4913" || name == "target" || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Returns the files after `:` in a list of dependencies, which has the form of a makefile.
fn dependencies(list: &str) -> Vec<PathBuf> {
    let first = list.lines().next().unwrap_or_default();
    let Some((_, files)) = first.split_once(": ") else { return Vec::new() };
    let files = files.replace("\\ ", "\0");
    files.split(' ').filter(|file| !file.is_empty()).map(|file| file.replace('\0', " ").into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> (tempfile::TempDir, Arc<Watched>) {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("Cargo.toml", "a"),
            ("Cargo.lock", "a"),
            ("src/main.rs", "a"),
            ("templates/a/b.html", "a"),
            ("static/a.css", "a"),
        ] {
            write(folder.path(), file, text);
        }
        let watched = Watched::new(folder.path().to_owned());
        (folder, watched)
    }

    fn write(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Returns what the change of these files is.
    fn changed(files: &[&str]) -> Changes {
        let (folder, watched) = site();
        let before = watched.look();
        files.iter().for_each(|file| write(folder.path(), file, "changed"));
        let mut changes = watched.changes(&before, &watched.look());
        changes.code = changes.code.map(|file| file.strip_prefix(folder.path()).unwrap().to_owned());
        changes
    }

    #[test]
    fn code_needs_a_build_and_pages_do_not() {
        let code = |file: &str| Changes { code: Some(file.into()), ..Changes::default() };
        for file in ["src/main.rs", "src/new/mod.rs", "Cargo.toml", "Cargo.lock", "build.rs", ".cargo/config.toml"] {
            assert_eq!(changed(&[file]), code(file));
        }
        let page = Changes { page: true, ..Changes::default() };
        assert_eq!([changed(&["templates/a/b.html"]), changed(&["static/new.js"])], [page.clone(), page]);
        assert_eq!(changed(&["static/a.css"]), Changes { style: true, ..Changes::default() });
        assert_eq!(
            changed(&["static/a.css", "templates/c.html", "src/main.rs"]),
            Changes { code: Some("src/main.rs".into()), page: true, style: true }
        );
    }

    #[test]
    fn other_files_do_not_count() {
        let files = [
            "target/debug/shop",
            "data/site.db",
            "data/site.db-wal",
            "src/test.db-shm",
            "src/.main.rs.swp",
            "src/main.rs~",
            "src/4913",
            "src/#main.rs#",
            "static/.app.css.tmp",
            "templates/page.html.orig",
            ".git/index",
            "src/.git/HEAD",
            "README.md",
        ];
        assert_eq!(changed(&files), Changes::default());
    }

    #[test]
    fn links_to_folders_above_are_not_followed() {
        let (folder, watched) = site();
        let templates = folder.path().join("templates");
        let before = watched.look().files.len();
        for (target, name) in [(".", "loop"), (".", "second"), ("../src", "code")] {
            std::os::unix::fs::symlink(target, templates.join(name)).unwrap();
        }
        let files = watched.look().files;
        assert_eq!(files.len(), before + 1, "{files:?}");
        assert!(files.contains_key(&templates.join("code/main.rs")));
    }

    #[test]
    fn a_deleted_file_counts() {
        let (folder, watched) = site();
        let before = watched.look();
        fs::remove_file(folder.path().join("templates/a/b.html")).unwrap();
        assert!(watched.changes(&before, &watched.look()).page);
    }

    #[test]
    fn the_lock_file_does_not_count_while_cargo_runs() {
        let (folder, watched) = site();
        let before = watched.look();
        watched.is_building.store(true, Ordering::Release);
        write(folder.path(), "Cargo.lock", "changed");
        assert_eq!(watched.changes(&before, &watched.look()), Changes::default());
    }

    #[test]
    fn code_that_a_build_script_writes_again_as_it_was_does_not_count() {
        let (folder, watched) = site();
        let before = watched.begin();
        let touch = |text: &str, seconds: u64| {
            write(folder.path(), "src/main.rs", text);
            let file = fs::File::options().write(true).open(folder.path().join("src/main.rs")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        watched.is_building.store(true, Ordering::Release);
        touch("a", 1);
        assert_eq!(watched.changes(&before, &watched.look()), Changes::default());
        touch("b", 2);
        assert!(watched.changes(&before, &watched.look()).code.is_some());
        watched.is_building.store(false, Ordering::Release);
        let before = watched.look();
        touch("b", 3);
        assert!(watched.changes(&before, &watched.look()).code.is_some(), "it was touched by hand");
    }

    #[test]
    fn files_that_the_build_has_read_count() {
        let (folder, watched) = site();
        let root = folder.path();
        for file in ["a b/lib.rs", "target/CACHEDIR.TAG", "target/debug/build/out.rs"] {
            write(root, file, "a");
        }
        let at = |file: &str| root.join(file).to_str().unwrap().replace(' ', "\\ ");
        let list = format!(
            "{}: {} {} {}\n",
            at("target/debug/shop"),
            at("a b/lib.rs"),
            at("src/main.rs"),
            at("target/debug/build/out.rs")
        );
        write(root, "target/debug/shop.d", &list);
        let before = watched.look();
        watched.add_files_of(&root.join("target/debug/shop"));
        let listed = watched.look();
        assert_eq!(watched.changes(&before, &listed), Changes::default(), "they are only listed now");
        write(root, "target/debug/build/out.rs", "changed");
        assert_eq!(watched.changes(&listed, &watched.look()), Changes::default());
        write(root, "a b/lib.rs", "changed");
        assert_eq!(watched.changes(&listed, &watched.look()).code, Some(root.join("a b/lib.rs")));
    }
}
