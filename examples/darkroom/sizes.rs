//! The three sizes of a photo: the job that makes them, what is to be seen of it meanwhile, and what comes after it.
//!
//! What is decoded is a stranger's file, so it is done in a process of its own: whatever it takes, or breaks, the site goes
//! on. And it is a job rather than a task in the background because it is promised: the redirect has said "uploaded", and a
//! process that is killed in the middle takes up at its next start what it had begun.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aside::image::{DecodeOptions, Fit};
use aside::rusqlite::Transaction;
use aside::{Error, Job, JobInfo, JobState, Jobs, Live, Request, Result, Retry, Status, TaskContext, background};
use serde::{Deserialize, Serialize};

use crate::photos::{self, Card};
use crate::site::{OUR_FAULT, Site};
use crate::store::{self, Photo, Prepared, Store};

/// The longest side of each size, in pixels, the largest first.
pub const SIZES: [u32; 3] = [1600, 800, 200];

/// Where [`MakeSizes`] waits. Two at a time, however many are uploaded at once: a decoded photo takes a hundred megabytes.
pub const QUEUE: (&str, usize) = ("photos", 2);

/// Bytes that [`MakeSizes`] may take. The largest photo that is let in, 50 megapixels, was seen to take 460 MB; and a decoder
/// may take 512 MB (`aside::image::DecodeOptions`), with the pixels at 8 bits beside what it made.
const MEMORY: u64 = 1 << 30;

const CALLED_OFF: &str = "The work on it was called off.";
const TAKEN_DOWN: &str = "It was taken down.";

/// What a photo's own page shows of it: how far its sizes are, and then the photo, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bath {
    pub photo: Card,
    made: u64,
    sizes: usize,
    /// It did not work out, and is tried again.
    is_again: bool,
    /// Nobody is at it any more, whatever came of it.
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

/// What the work on photos takes: in a handler, and in a job.
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

    /// Has the sizes of a photo made, if and when that transaction commits.
    pub fn prepare(&self, db: &Transaction<'_>, id: i64) -> Result<()> {
        let job = self.jobs.enqueue_in(db, MakeSizes { id })?;
        store::set_job(db, id, job.id)
    }

    /// How a photo stands, and its job while that is not over.
    ///
    /// The store knows what the job has written down. What that could not is written down here, by the first who looks: that
    /// its process crashed, or took too long, at the last try; and a photo that has no job is given one, as those have none
    /// that an earlier version of the site had not come to.
    pub fn look_at(&self, photo: Photo) -> Result<(Photo, Option<JobInfo>)> {
        if matches!(photo.state, Prepared::Ready(..)) {
            return Ok((photo, None));
        }
        let job = photo.job.map(|id| self.jobs.find(id)).transpose()?.flatten();
        match job.as_ref().map(|job| job.state) {
            // One that has failed, too, when somebody has it tried again.
            Some(state) if !state.is_finished() => return Ok((Photo { state: Prepared::NotYet, ..photo }, job)),
            _ if photo.state != Prepared::NotYet => return Ok((photo, None)),
            Some(JobState::Dead) => self.write_off(&photo, OUR_FAULT)?,
            Some(JobState::Cancelled) => self.write_off(&photo, CALLED_OFF)?,
            _ => self.unless_changed(&photo, |db| self.prepare(db, photo.id))?,
        }
        self.find(&photo).and_then(|photo| self.look_at(photo))
    }

    /// What is known of a photo by now.
    fn find(&self, photo: &Photo) -> Result<Photo> {
        let is_gone = || Photo { state: Prepared::Failed(TAKEN_DOWN.into()), job: None, ..photo.clone() };
        Ok(self.store.photo(photo.id)?.unwrap_or_else(is_gone))
    }

    fn write_off(&self, photo: &Photo, words: &str) -> Result<()> {
        let state = Prepared::Failed(words.to_owned());
        self.unless_changed(photo, |db| self.conclude(db, photo.id, &state))
    }

    /// Does that for a photo which is still as it was seen, in one transaction.
    fn unless_changed(&self, seen: &Photo, f: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
        self.store.write(|db| match store::photo(db, seen.id)? {
            Some(now) if now == *seen => f(db),
            _ => Ok(()),
        })
    }

    /// Writes down what has become of a photo, and has the gallery show it.
    fn conclude(&self, db: &Transaction<'_>, id: i64, state: &Prepared) -> Result<()> {
        store::set_state(db, id, state)?;
        self.jobs.enqueue_in(db, Hang { id })?;
        Ok(())
    }

    /// What those see who watch a photo while that job is at it, whichever process runs it.
    pub fn follow(&self, photo: &Photo, job: &JobInfo) -> Result<Live<Bath>> {
        let (lab, known) = (self.clone(), photo.clone());
        let show = move |job: &JobInfo| match job.state.is_finished() {
            false => Bath::at_work(known.clone().into(), job),
            // What cannot be read now is read when the page is opened again.
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

/// A photo that nobody is at: what is to be seen of it is the last.
pub fn ended(photo: Card) -> Live<Bath> {
    let bath = Live::new(Bath::over(photo));
    bath.finish();
    bath
}

/// Makes the sizes of a photo, and writes down what came of it.
#[derive(Serialize, Deserialize)]
pub struct MakeSizes {
    pub id: i64,
}

impl Job for MakeSizes {
    const NAME: &'static str = "make-sizes";
    const QUEUE: &'static str = QUEUE.0;
    const ISOLATED: bool = true;

    /// The largest photo that is let in takes a second of a processor, which may be a slow one and have other things to do.
    const DEADLINE: Option<Duration> = Some(Duration::from_secs(120));

    const MEMORY: u64 = MEMORY;

    /// Soon over: somebody looks at the page. A machine that is out of order for longer is for its owner to mend, who then
    /// has the job tried again in the panel.
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
            // What is wrong with the picture is for the visitor to read, and no other try mends it.
            Err(error) if is_the_pictures(&error) => Prepared::Failed(error.to_string()),
            // What is wrong with the machine is for the log, and for another try.
            Err(error) => return Err(error),
        };
        task.transaction(|db| lab.conclude(db, self.id, &state))
    }
}

fn is_the_pictures(error: &Error) -> bool {
    error.status_code() == Status::UNPROCESSABLE_CONTENT
}

/// All sizes from one decoding, and the width and height of the largest. What a try before has made is made again.
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

/// Where the sizes of a photo lie until all are there: a process that is killed in the middle leaves nothing that is not
/// found again.
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

/// Where a size of a photo lies.
pub fn path(site: &Site, id: i64, size: u32) -> PathBuf {
    site.photos().join(format!("{id}-{size}.jpg"))
}

/// Has the gallery show what has become of a photo.
///
/// A job, as its sizes are made in another process, which cannot reach what this one has cached: enqueued where the photo's
/// state is written, it runs in the process that serves the pages.
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
        // In the background, and not as a job: a process that ends takes its cache with it, and what warms it is worth
        // nothing after that.
        background(move || photos::latest(&lab).map(drop));
        Ok(())
    }
}

/// Removes the files of a photo that was taken down, when nobody makes more of them.
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
            // Told to stop, and not there yet.
            lab.jobs.enqueue(self.delay(Duration::from_secs(1)))?;
            return Ok(());
        }
        empty(&tray(&lab.site, self.id))?;
        let original = lab.site.originals().join(&self.original);
        let mut files = SIZES.map(|size| path(&lab.site, self.id, size)).into_iter().chain([original]);
        files.try_for_each(|file| unless_missing(fs::remove_file(file)))
    }
}
