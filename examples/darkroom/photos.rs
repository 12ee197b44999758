//! Photos: the gallery, the upload, the three sizes that are made once its visitor has been sent on, and the end of one.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aside::image::{Fit, Image};
use aside::{Error, Form, Live, Request, Response, Result, Status, Upload, background, context, redirect};
use serde::{Deserialize, Serialize};

use crate::site::{Site, day, machine_time, size};
use crate::store::{Photo, Prepared, Store};

/// The longest side of each size, in pixels.
const SIZES: [u32; 3] = [1600, 800, 200];

/// What the sizes can be made of.
const TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/webp", "image/gif"];

/// Bytes of a file, as far as `ASIDE_MAX_UPLOAD` lets that many in: what is over that cannot be shown again with its title.
const MAX_FILE: u64 = 20 << 20;

const MAX_TITLE: usize = 100;
const LATEST: u32 = 60;
pub const OUR_FAULT: &str = "Something went wrong on our side, and is in our log.";

/// A photo as the pages show it.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    pub id: i64,
    title: String,
    is_ready: bool,
    failure: Option<String>,
    width: u32,
    height: u32,
    /// The width of the 800 size, which is less than that for a tall photo and a small one.
    medium_width: u32,
    uploaded_at: String,
    uploaded_on: String,
}

impl From<Photo> for Card {
    fn from(photo: Photo) -> Card {
        let (width, height, failure) = match photo.state {
            Prepared::Ready(width, height) => (width, height, None),
            Prepared::Failed(why) => (0, 0, Some(why)),
            Prepared::NotYet => (0, 0, None),
        };
        Card {
            id: photo.id,
            title: photo.title,
            is_ready: width > 0,
            failure,
            width,
            height,
            medium_width: width * 800 / width.max(height).max(800),
            uploaded_at: machine_time(photo.uploaded_at),
            uploaded_on: day(photo.uploaded_at),
        }
    }
}

/// What a photo's own page shows of it: how far its sizes are, and then the photo, or why there is none.
#[derive(Clone, Debug, Serialize)]
pub struct Bath {
    photo: Card,
    pub made: usize,
    sizes: usize,
    /// Nobody is at it any more, whatever came of it.
    pub is_over: bool,
}

impl Bath {
    fn new(photo: Photo, is_over: bool) -> Bath {
        Bath { photo: photo.into(), made: 0, sizes: SIZES.len(), is_over }
    }
}

/// The upload's form.
#[derive(Deserialize)]
struct NewPhoto {
    title: String,
    photo: Upload,
}

/// `GET /`
pub fn gallery(req: &mut Request) -> Result<Response> {
    gallery_page(req, &Form::empty())
}

fn gallery_page(req: &mut Request, form: &Form<NewPhoto>) -> Result<Response> {
    let photos = latest(&req.state::<Site>(), &req.state::<Store>())?;
    let max_file = size(MAX_FILE.min(req.config().max_upload));
    let context = context! { here => "gallery", photos => photos.as_slice(), form, max_title => MAX_TITLE, max_file };
    Ok(req.render("gallery.html", context)?.status(form.status()))
}

/// The newest photos, from the cache. However many ask at once, the database is asked once.
pub fn latest(site: &Site, store: &Store) -> Result<Arc<Vec<Card>>> {
    site.gallery.remember("latest", Duration::from_secs(60), || {
        Ok(Arc::new(store.latest_photos(LATEST)?.into_iter().map(Card::from).collect()))
    })
}

/// Forgets the newest photos and finds them again, before the next visitor asks.
fn warm_cache(site: &Site, store: &Store) -> Result<()> {
    site.gallery.remove("latest");
    latest(site, store).map(drop)
}

/// `POST /photos`
pub fn upload(req: &mut Request) -> Result<Response> {
    let mut form: Form<NewPhoto> = req.submitted()?;
    check(&mut form);
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return gallery_page(req, &form),
    };
    // A second click is no second photo.
    req.once(|req| hang(req, &new))
}

/// By its content, not its name: what is no image at all is refused before the redirect. One that is broken further in is
/// found out when it is decoded, and its own page says so.
fn check(form: &mut Form<NewPhoto>) {
    let title_fits = |new: &NewPhoto| new.title.trim().chars().count() <= MAX_TITLE;
    let is_image = |new: &NewPhoto| TYPES.contains(&new.photo.content_type());
    form.require(&["title"])
        .check("title", title_fits, format!("A title has at most {MAX_TITLE} characters."))
        .check("photo", |new| new.photo.size() > 0, "This file is empty.")
        .check("photo", |new| new.photo.size() <= MAX_FILE, format!("A photo has at most {}.", size(MAX_FILE)))
        .check("photo", is_image, "This is not an image that we can read. Choose a JPEG, PNG, WebP or GIF.");
}

fn hang(req: &mut Request, new: &NewPhoto) -> Result<Response> {
    let (site, store) = (req.state::<Site>(), req.state::<Store>());
    let photo = keep(&site, &store, new.title.trim(), &new.photo)?;
    req.flash("success", "Photo uploaded!");
    let page = redirect(&req.url_for("photo", &[("id", &photo.id)])?);
    let (_, claim) = watch(&site, &store, photo);
    Ok(prepare_after(page, claim).background(move || warm_cache(&site, &store)))
}

/// Keeps the file and its record, both or neither.
fn keep(site: &Site, store: &Store, title: &str, file: &Upload) -> Result<Photo> {
    let path = file.save_to(site.originals())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let id = store.add_photo(title, &name).inspect_err(|_| drop(fs::remove_file(&path)))?;
    // Here and not in the background: whoever goes back to the gallery at once is to see it.
    site.gallery.remove("latest");
    store.photo(id)?.ok_or_else(gone)
}

/// `GET /photos/{id}`
pub fn show(req: &mut Request) -> Result<Response> {
    let (site, store) = (req.state::<Site>(), req.state::<Store>());
    let photo = find(req, &store)?;
    if photo.state != Prepared::NotYet {
        return req.render("photo.html", context! { photo => Card::from(photo) });
    }
    let url = req.url_for("photo_live", &[("id", &photo.id)])?;
    let (bath, claim) = watch(&site, &store, photo);
    let live = bath.part(req, &url, "print.html")?;
    let page = req.render("photo.html", context! { photo => &bath.get().photo, live })?;
    Ok(prepare_after(page.header("Cache-Control", "no-store"), claim))
}

/// `GET /photos/{id}/live`
pub fn follow(req: &mut Request) -> Result<Response> {
    let (site, store) = (req.state::<Site>(), req.state::<Store>());
    let photo = find(req, &store)?;
    let (bath, claim) = watch(&site, &store, photo);
    // Now and not after the answer, which is over when the photo is there.
    if let Some(claim) = claim {
        background(move || prepare(&claim));
    }
    req.live(&bath, "print.html")
}

/// `GET /photos/{id}/{size}.jpg`
pub fn picture(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    let (photo, size) = (find(req, &req.state::<Store>())?, req.param("size")?);
    if !SIZES.contains(&size) || !matches!(photo.state, Prepared::Ready(..)) {
        return Err(Error::not_found("There is no picture of that size, or not yet."));
    }
    let page = req.send_file(path(&site, photo.id, size))?;
    Ok(page.header("Cache-Control", "public, max-age=31536000, immutable"))
}

/// `POST /account/photos/{id}/delete`: the record first, so that no page shows a picture that is not there.
pub fn take_down(req: &mut Request) -> Result<Response> {
    let (site, store) = (req.state::<Site>(), req.state::<Store>());
    let photo = find(req, &store)?;
    let page = redirect(&req.url_for("account", &[])?);
    // Who makes its sizes right now would leave them behind.
    let (_, Some(_claim)) = Claim::take(&site, &store, photo.clone()) else {
        req.flash("warning", format!("“{}” is being prepared. Take it down in a moment.", photo.title));
        return Ok(page);
    };
    store.remove_photo(photo.id)?;
    site.gallery.clear();
    remove_files(&site, &photo)?;
    req.flash("success", format!("“{}” is taken down.", photo.title));
    Ok(page)
}

fn remove_files(site: &Site, photo: &Photo) -> Result<()> {
    let original = site.originals().join(&photo.original);
    for file in SIZES.map(|size| path(site, photo.id, size)).into_iter().chain([original]) {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn find(req: &Request, store: &Store) -> Result<Photo> {
    store.photo(req.param("id")?)?.ok_or_else(gone)
}

fn gone() -> Error {
    Error::not_found("There is no such photo.")
}

fn path(site: &Site, id: i64, size: u32) -> PathBuf {
    site.photos().join(format!("{id}-{size}.jpg"))
}

/// What is to be seen of a photo, and the right to make its sizes when that is to be done and nobody is at it: after an
/// upload, and after a restart in the middle of the work, when the next look at the page begins it again.
fn watch(site: &Arc<Site>, store: &Arc<Store>, photo: Photo) -> (Live<Bath>, Option<Claim>) {
    if photo.state == Prepared::NotYet {
        return Claim::take(site, store, photo);
    }
    let bath = Live::new(Bath::new(photo, true));
    bath.finish();
    (bath, None)
}

/// Sets the work aside on that page, unless somebody is at it already.
fn prepare_after(page: Response, claim: Option<Claim>) -> Response {
    match claim {
        Some(claim) => page.background(move || prepare(&claim)),
        None => page,
    }
}

/// Makes the sizes of a photo, and writes down what came of it.
fn prepare(claim: &Claim) -> Result<()> {
    let Claim { site, store, id, .. } = claim;
    let made = site.decoders.run(|| make_sizes(claim));
    if let Err(error) = &made {
        // What is wrong with the picture is for the visitor to read, what is wrong with the machine for the log.
        let words = if is_the_pictures(error) { error.to_string() } else { OUR_FAULT.into() };
        store.photo_failed(*id, &words)?;
    }
    warm_cache(site, store)?;
    made.or_else(|error| if is_the_pictures(&error) { Ok(()) } else { Err(error) })
}

fn is_the_pictures(error: &Error) -> bool {
    error.status() == Status::UNPROCESSABLE_CONTENT
}

/// All sizes from one decoding.
fn make_sizes(claim: &Claim) -> Result<()> {
    let Claim { site, store, id, bath } = claim;
    // Made, or taken down, since the page that asked for it read that it was not.
    let Some(photo) = store.photo(*id)?.filter(|photo| photo.state == Prepared::NotYet) else { return Ok(()) };
    let image = Image::open(site.originals().join(&photo.original))?;
    let mut made = Vec::new();
    for size in SIZES {
        made.push(image.save(path(site, *id, size), Fit::Inside(size, size))?);
        bath.update(|bath| bath.made = made.len());
    }
    store.photo_is_ready(*id, made[0].width, made[0].height)
}

/// The photos that somebody is at, as their pages show them. Not a `LiveMap`: an entry is the right to do the work as well,
/// and goes with it.
#[derive(Default)]
pub struct Preparing(Mutex<HashMap<i64, Live<Bath>>>);

impl Preparing {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<i64, Live<Bath>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to prepare a photo, which one has at a time. It is given back when the work is done, or never begins; and then
/// the pages that watch are told what became of the photo.
struct Claim {
    site: Arc<Site>,
    store: Arc<Store>,
    id: i64,
    bath: Live<Bath>,
}

impl Claim {
    /// What those see who watch it; and the right, unless somebody has it.
    fn take(site: &Arc<Site>, store: &Arc<Store>, photo: Photo) -> (Live<Bath>, Option<Claim>) {
        let mut preparing = site.preparing.lock();
        let id = photo.id;
        if let Some(bath) = preparing.get(&id) {
            return (bath.clone(), None);
        }
        let bath = Live::new(Bath::new(photo, false));
        preparing.insert(id, bath.clone());
        (bath.clone(), Some(Claim { site: site.clone(), store: store.clone(), id, bath }))
    }

    /// Shows what the store knows of the photo now, for the last time.
    fn show_the_end(&self) {
        let photo = self.store.photo(self.id).ok().flatten();
        self.bath.update(|bath| {
            bath.is_over = true;
            if let Some(photo) = photo {
                bath.photo = photo.into();
            }
        });
        self.bath.finish();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if thread::panicking() {
            // Written down, so that the page does not begin it anew each time. The log has the panic.
            let _ = self.store.photo_failed(self.id, OUR_FAULT);
        }
        // First, so that whoever looks from here on sees, or does, what is still to be done.
        self.site.preparing.lock().remove(&self.id);
        self.show_the_end();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use aside::Config;

    use super::*;
    use crate::site::Settings;

    fn rooms(data: &std::path::Path) -> (Arc<Site>, Arc<Store>) {
        let (config, owner) = (Config::default(), String::new());
        let settings = Settings { config, data: data.to_owned(), owner, webhook_url: None, webhook_secret: None };
        let site = Site::new(settings).unwrap();
        let store = Store::open(&site.database()).unwrap();
        (Arc::new(site), Arc::new(store))
    }

    #[test]
    fn a_photo_is_claimed_once_at_a_time_and_a_panic_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let (site, store) = rooms(folder.path());
        let id = store.add_photo("Harbour", "a.jpg").unwrap();
        let photo = store.photo(id).unwrap().unwrap();
        let take = || Claim::take(&site, &store, photo.clone());
        let (given_up, claim) = take();
        assert!(claim.is_some() && take().1.is_none());
        drop(claim);
        assert_eq!(store.photo(id).unwrap().unwrap().state, Prepared::NotYet);
        assert!(given_up.is_finished() && given_up.get().is_over);

        let (bath, claim) = take();
        let (theirs, none) = take();
        assert!(none.is_none() && !theirs.is_finished());
        let work = AssertUnwindSafe(move || {
            let _claim = claim;
            resume_unwind(Box::new("a decoder's mistake"))
        });
        assert!(catch_unwind(work).is_err());
        assert_eq!(store.photo(id).unwrap().unwrap().state, Prepared::Failed(OUR_FAULT.into()));
        for bath in [bath, theirs] {
            assert_eq!((bath.is_finished(), bath.get().photo.failure.as_deref()), (true, Some(OUR_FAULT)));
        }
    }

    #[test]
    fn the_width_of_the_middle_size_follows_the_proportions() {
        for (width, height, expected) in [(1600, 1200, 800), (1200, 1600, 600), (300, 200, 300), (0, 0, 0)] {
            let state = if width == 0 { Prepared::NotYet } else { Prepared::Ready(width, height) };
            let photo = Photo { id: 1, title: String::new(), original: String::new(), state, uploaded_at: 0 };
            assert_eq!(Card::from(photo).medium_width, expected);
        }
    }
}
