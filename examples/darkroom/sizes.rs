//! The three sizes of a photo: the job that makes them, its progress on the photo's page, and the jobs that follow it.
//!
//! An upload is untrusted, so a separate process decodes it: if it takes too much or crashes, the site continues. This is a
//! job and not a background task because the site has promised it: the redirect has said "uploaded", and after a crash the
//! next start resumes the work.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aside::image::{DecodeOptions, Fit};
use aside::jobs::rusqlite::Transaction;
use aside::jobs::{JobInfo, JobState};
use aside::tasks::Retry;
use aside::{Error, Job, Jobs, Live, Request, Result, Status, TaskContext, background};
use serde::{Deserialize, Serialize};

use crate::photos::{self, Card};
use crate::site::{OUR_FAULT, Site};
use crate::store::{self, Photo, Prepared, Store};

/// The longest side of each size, in pixels, the largest first.
pub const SIZES: [u32; 3] = [1600, 800, 200];

/// The queue of [`MakeSizes`]. It runs two jobs at once, however many photos are uploaded: a decoded photo takes a hundred
/// megabytes.
pub const QUEUE: (&str, usize) = ("photos", 2);

/// The memory limit of [`MakeSizes`] in bytes. The largest accepted photo, of 50 megapixels, took 460 MB. A decoder may take
/// 512 MB (`aside::image::DecodeOptions`), including the 8-bit copy of the pixels.
const MEMORY: u64 = 1 << 30;

const CALLED_OFF: &str = "The work on it was called off.";
const TAKEN_DOWN: &str = "It was taken down.";

/// The content of a photo's page: the progress of its sizes, then the photo, or the reason of the failure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bath {
    pub photo: Card,
    made: u64,
    sizes: usize,
    /// True if an attempt failed and is retried.
    is_again: bool,
    /// True if the job has ended, with any outcome.
    is_over: bool,
}

impl Bath {
    fn over(photo: Card) -> Bath {
        Bath { photo, made: 0, sizes: SIZES.len(), is_again: false, is_over: true }
    }

    fn at_work(photo: Card, job: &JobInfo) -> Bath {
        let is_again = job.state == JobState::Scheduled;
        Bath { made: job.done, is_again, is_over: false, ..Bath::over(photo) }
    }
}

/// The resources for work on photos, in a handler and in a job.
#[derive(Clone)]
pub struct Lab {
    pub site: Arc<Site>,
    pub store: Arc<Store>,
    pub jobs: Jobs,
}

impl Lab {
    pub fn of(req: &Request) -> Result<Lab> {
        Ok(Lab { site: req.state(), store: req.state(), jobs: req.jobs()? })
    }

    fn of_job(task: &TaskContext) -> Result<Lab> {
        Ok(Lab { site: task.state(), store: task.state(), jobs: task.jobs()? })
    }

    /// Enqueues the job for the sizes of a photo, as part of this transaction.
    pub fn prepare(&self, db: &Transaction<'_>, id: i64) -> Result<()> {
        let job = self.jobs.enqueue_in(db, MakeSizes { id })?;
        store::set_job(db, id, job.id)
    }

    /// Returns the state of a photo, and its job while that has not ended.
    ///
    /// The job stores its outcome. If it cannot, because its process crashed or timed out at the last attempt, the first
    /// request for the photo stores it here. A photo without a job, of an earlier version of the site, gets one.
    pub fn look_at(&self, photo: Photo) -> Result<(Photo, Option<JobInfo>)> {
        if matches!(photo.state, Prepared::Ready(..)) {
            return Ok((photo, None));
        }
        let job = photo.job.map(|id| self.jobs.find(id)).transpose()?.flatten();
        match job.as_ref().map(|job| job.state) {
            // Also a failed photo, if the owner has its job retried.
            Some(state) if !state.is_finished() => return Ok((Photo { state: Prepared::NotYet, ..photo }, job)),
            _ if photo.state != Prepared::NotYet => return Ok((photo, None)),
            Some(JobState::Dead) => self.write_off(&photo, OUR_FAULT)?,
            Some(JobState::Cancelled) => self.write_off(&photo, CALLED_OFF)?,
            _ => self.unless_changed(&photo, |db| self.prepare(db, photo.id))?,
        }
        self.find(&photo).and_then(|photo| self.look_at(photo))
    }

    /// Returns the stored state of a photo.
    fn find(&self, photo: &Photo) -> Result<Photo> {
        let is_gone = || Photo { state: Prepared::Failed(TAKEN_DOWN.into()), job: None, ..photo.clone() };
        Ok(self.store.photo(photo.id)?.unwrap_or_else(is_gone))
    }

    fn write_off(&self, photo: &Photo, words: &str) -> Result<()> {
        let state = Prepared::Failed(words.to_owned());
        self.unless_changed(photo, |db| self.conclude(db, photo.id, &state))
    }

    /// Changes a photo in one transaction, if it is still in the state that the caller has seen.
    fn unless_changed(&self, seen: &Photo, f: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
        self.store.write(|db| match store::photo(db, seen.id)? {
            Some(now) if now == *seen => f(db),
            _ => Ok(()),
        })
    }

    /// Stores the outcome of a photo, and updates the gallery.
    fn conclude(&self, db: &Transaction<'_>, id: i64, state: &Prepared) -> Result<()> {
        store::set_state(db, id, state)?;
        self.jobs.enqueue_in(db, Hang { id })?;
        Ok(())
    }

    /// Returns the live state of a photo while its job runs, in any process.
    pub fn follow(&self, photo: &Photo, job: &JobInfo) -> Result<Live<Bath>> {
        let (lab, known) = (self.clone(), photo.clone());
        let show = move |job: &JobInfo| match job.state.is_finished() {
            false => Bath::at_work(known.clone().into(), job),
            // If it cannot be read now, it is read when the page is opened again.
            true => Bath::over(lab.last_look(&known).unwrap_or_else(|_| known.clone().into())),
        };
        match self.jobs.follow_as(job.id, show)? {
            Some(live) => Ok(live),
            None => Ok(ended(self.last_look(photo)?)),
        }
    }

    fn last_look(&self, photo: &Photo) -> Result<Card> {
        let (photo, _) = self.find(photo).and_then(|photo| self.look_at(photo))?;
        Ok(photo.into())
    }
}

/// Returns the live state of a photo without a running job: a finished one.
pub fn ended(photo: Card) -> Live<Bath> {
    let bath = Live::new(Bath::over(photo));
    bath.finish();
    bath
}

/// A job that makes the sizes of a photo, and stores the outcome.
#[derive(Serialize, Deserialize)]
pub struct MakeSizes {
    pub id: i64,
}

impl Job for MakeSizes {
    const NAME: &'static str = "make-sizes";
    const QUEUE: &'static str = QUEUE.0;
    const ISOLATED: bool = true;

    /// The time limit. The largest accepted photo takes a second of processor time; the processor may be slow or busy.
    const DEADLINE: Option<Duration> = Some(Duration::from_secs(120));

    const MEMORY: u64 = MEMORY;

    /// Few attempts, since a visitor waits at the page. After a longer fault of the machine, the owner has the job retried in
    /// the panel.
    fn retry() -> Retry {
        Retry::exponential(3, Duration::from_secs(5))
    }

    fn label(&self) -> String {
        format!("make sizes of photo {}", self.id)
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        let lab = Lab::of_job(task)?;
        let is_to_do = |photo: &Photo| !matches!(photo.state, Prepared::Ready(..));
        let Some(photo) = lab.store.photo(self.id)?.filter(is_to_do) else { return Ok(()) };
        let made = make_sizes(&lab.site, &photo, task);
        empty(&tray(&lab.site, self.id))?;
        let state = match made {
            Ok((width, height)) => Prepared::Ready(width, height),
            // A fault of the image is shown to the visitor; a retry does not help.
            Err(error) if is_the_pictures(&error) => Prepared::Failed(error.to_string()),
            // A fault of the machine is logged and retried.
            Err(error) => return Err(error),
        };
        task.transaction(|db| lab.conclude(db, self.id, &state))
    }
}

fn is_the_pictures(error: &Error) -> bool {
    error.status_code() == Status::UNPROCESSABLE_CONTENT
}

/// Makes all sizes from one decoding, and returns the size of the largest. It overwrites the files of an earlier attempt.
fn make_sizes(site: &Site, photo: &Photo, task: &TaskContext) -> Result<(u32, u32)> {
    task.progress(0, SIZES.len() as u64);
    let tray = tray(site, photo.id);
    empty(&tray)?;
    fs::create_dir_all(&tray)?;
    let largest = DecodeOptions::new().largest_fit(Fit::Inside(SIZES[0], SIZES[0]));
    let image = largest.open(site.originals().join(&photo.original))?;
    let mut largest = None;
    for (made, size) in (1..).zip(SIZES) {
        task.check_cancelled()?;
        let made_so = image.save(tray.join(format!("{size}.jpg")), Fit::Inside(size, size))?;
        largest.get_or_insert((made_so.width, made_so.height));
        task.progress(made, SIZES.len() as u64);
    }
    for size in SIZES {
        fs::rename(tray.join(format!("{size}.jpg")), path(site, photo.id, size))?;
    }
    largest.ok_or_else(|| Error::internal("no size is made of photos"))
}

/// Returns the temporary folder of a photo's sizes, until all are complete. After a crash, the next attempt finds it.
fn tray(site: &Site, id: i64) -> PathBuf {
    site.photos().join("making").join(id.to_string())
}

fn empty(tray: &Path) -> Result<()> {
    unless_missing(fs::remove_dir_all(tray))
}

fn unless_missing(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Returns the path of a size of a photo.
pub fn path(site: &Site, id: i64, size: u32) -> PathBuf {
    site.photos().join(format!("{id}-{size}.jpg"))
}

/// A job that updates the gallery after a change of a photo.
///
/// It is a job because another process makes the sizes, which cannot reach the cache of this one. It is enqueued with the
/// change of the photo's state, and runs in the process that serves the pages.
#[derive(Serialize, Deserialize)]
pub struct Hang {
    id: i64,
}

impl Job for Hang {
    const NAME: &'static str = "hang";

    fn label(&self) -> String {
        format!("hang photo {}", self.id)
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        let lab = Lab::of_job(task)?;
        lab.site.gallery.clear();
        // In the background, and not as a job: the cache is lost with the process, and warming it has no value afterward.
        background(move || photos::latest(&lab).map(drop));
        Ok(())
    }
}

/// A job that removes the files of a photo that was taken down, when no other job makes more of them.
#[derive(Serialize, Deserialize)]
pub struct RemoveFiles {
    id: i64,
    original: String,
    job: Option<u64>,
}

impl RemoveFiles {
    pub fn of(photo: &Photo) -> RemoveFiles {
        RemoveFiles { id: photo.id, original: photo.original.clone(), job: photo.job }
    }
}

impl Job for RemoveFiles {
    const NAME: &'static str = "remove-files";

    fn label(&self) -> String {
        format!("remove files of photo {}", self.id)
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        let lab = Lab::of_job(task)?;
        let state = self.job.map(|job| lab.jobs.cancel(job)).transpose()?.flatten();
        if state == Some(JobState::Running) {
            // The other job was told to stop, and has not ended yet.
            lab.jobs.enqueue(self.delay(Duration::from_secs(1)))?;
            return Ok(());
        }
        empty(&tray(&lab.site, self.id))?;
        let original = lab.site.originals().join(&self.original);
        let mut files = SIZES.map(|size| path(&lab.site, self.id, size)).into_iter().chain([original]);
        files.try_for_each(|file| unless_missing(fs::remove_file(file)))
    }
}
