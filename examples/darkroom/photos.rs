//! Photos: the gallery, the upload, the page of a photo, and its removal. `sizes.rs` makes the three sizes.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use aside::{Error, Form, Request, Response, Result, Upload, context, redirect};
use serde::{Deserialize, Serialize};

use crate::site::{Site, day, machine_time, size};
use crate::sizes::{self, Lab, RemoveFiles, SIZES};
use crate::store::{self, Photo, Prepared, Store};

/// The media types of accepted uploads.
const TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/webp", "image/gif"];

/// The largest file in bytes, below `ASIDE_MAX_UPLOAD`: an upload over that limit is refused without its title.
const MAX_FILE: u64 = 20 << 20;

const MAX_TITLE: usize = 100;
const LATEST: u32 = 60;

/// A photo as pages show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    pub id: i64,
    title: String,
    is_ready: bool,
    failure: Option<String>,
    width: u32,
    height: u32,
    /// The width of the 800 size, which is smaller for a tall or a small photo.
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

/// The form of an upload.
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
    let photos = latest(&Lab::of(req)?)?;
    let max_file = size(MAX_FILE.min(req.config().max_upload));
    let context = context! { here => "gallery", photos => photos.as_slice(), form, max_title => MAX_TITLE, max_file };
    Ok(req.render("gallery.html", context)?.status(form.status()))
}

/// Returns the newest photos from the cache. Simultaneous requests query the database once.
pub fn latest(lab: &Lab) -> Result<Arc<Vec<Card>>> {
    lab.site.gallery.remember("latest", Duration::from_secs(60), || {
        let photos = lab.store.latest_photos(LATEST)?.into_iter().map(|photo| lab.look_at(photo));
        let mut photos = photos.map(|looked_at| looked_at.map(|(photo, _)| photo)).collect::<Result<Vec<_>>>()?;
        photos.retain(Photo::can_be_printed);
        aside::ok(Arc::new(photos.into_iter().map(Card::from).collect()))
    })
}

/// `POST /photos`
pub fn upload(req: &mut Request) -> Result<Response> {
    let mut form: Form<NewPhoto> = req.submitted()?;
    check(&mut form);
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return gallery_page(req, &form),
    };
    // A second click does not add a second photo.
    req.once(|req| hang(req, &new))
}

/// Checks the content of the file, not its name: a file that is not an image is refused before the redirect. A broken image
/// is detected when it is decoded, and the photo's page reports it.
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
    let lab = Lab::of(req)?;
    let id = keep(&lab, new.title.trim(), &new.photo)?;
    req.flash("success", "Photo uploaded!");
    let page = redirect(&req.url_for("photo", &[("id", &id)])?);
    // Warms the cache before the next request, in the background and not as a job: see `Hang`.
    Ok(page.background(move || latest(&lab).map(drop)))
}

/// Stores the file, and its record with the job that makes its sizes: all or nothing. Returns the number of the new photo.
fn keep(lab: &Lab, title: &str, file: &Upload) -> Result<i64> {
    let path = file.save_to(lab.site.originals())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let id = lab.store.write(|db| {
        let id = store::add_photo(db, title, &name)?;
        lab.prepare(db, id)?;
        Ok(id)
    });
    let id = id.inspect_err(|_| drop(fs::remove_file(&path)))?;
    // Not in the background: a visitor who returns to the gallery at once must see the photo.
    lab.site.gallery.remove("latest");
    Ok(id)
}

/// `GET /photos/{id}`
pub fn show(req: &mut Request) -> Result<Response> {
    let lab = Lab::of(req)?;
    let (photo, job) = lab.look_at(find(req, &lab.store)?)?;
    let Some(job) = job else {
        // The photo is final; without this value, the name would stand for the template function.
        return req.render("photo.html", context! { photo => Card::from(photo), live => () });
    };
    let url = req.url_for("photo_live", &[("id", &photo.id)])?;
    let bath = lab.follow(&photo, &job)?;
    let live = bath.fragment(req, &url, "print.html")?;
    let page = req.render("photo.html", context! { photo => &bath.get().photo, live })?;
    Ok(page.header("Cache-Control", "no-store"))
}

/// `GET /photos/{id}/live`
pub fn follow(req: &mut Request) -> Result<Response> {
    let lab = Lab::of(req)?;
    let bath = match lab.look_at(find(req, &lab.store)?)? {
        (photo, Some(job)) => lab.follow(&photo, &job)?,
        (photo, None) => sizes::ended(Card::from(photo)),
    };
    req.live(&bath, "print.html")
}

/// `GET /photos/{id}/{size}.jpg`
pub fn picture(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    let (photo, size) = (find(req, &req.state::<Store>())?, req.param("size")?);
    if !SIZES.contains(&size) || !matches!(photo.state, Prepared::Ready(..)) {
        return Err(Error::not_found("There is no picture of that size, or not yet."));
    }
    let page = req.send_file(sizes::path(&site, photo.id, size))?;
    // Cached only for an hour, although the image never changes: it may be taken down.
    Ok(page.header("Cache-Control", "public, max-age=3600"))
}

/// `POST /account/photos/{id}/delete`: removes the record at once, so that no page shows a missing image. A job removes the
/// files, after the job that makes its sizes has been cancelled.
pub fn take_down(req: &mut Request) -> Result<Response> {
    let lab = Lab::of(req)?;
    let photo = find(req, &lab.store)?;
    lab.store.write(|db| {
        store::remove_photo(db, photo.id)?;
        lab.jobs.enqueue_in(db, RemoveFiles::of(&photo))
    })?;
    lab.site.gallery.clear();
    req.flash("success", format!("“{}” is taken down.", photo.title));
    Ok(redirect(&req.url_for("account", &[])?))
}

fn find(req: &Request, store: &Store) -> Result<Photo> {
    store.photo(req.param("id")?)?.ok_or_else(gone)
}

fn gone() -> Error {
    Error::not_found("There is no such photo.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_of_the_middle_size_follows_the_proportions() {
        for (width, height, expected) in [(1600, 1200, 800), (1200, 1600, 600), (300, 200, 300), (0, 0, 0)] {
            let state = if width == 0 { Prepared::NotYet } else { Prepared::Ready(width, height) };
            let (title, original) = (String::new(), String::new());
            let photo = Photo { id: 1, title, original, state, uploaded_at: 0, job: None };
            assert_eq!(Card::from(photo).medium_width, expected);
        }
    }
}
