//! Photos of visitors, which are resized in the background.

use std::path::{Path, PathBuf};

use aside::image::{Fit, resize};
use aside::sqlite::Db;
use aside::{Form, Request, Response, Result, Upload, context, redirect};
use serde::{Deserialize, Serialize};

/// The number of photos on the page.
const SHOWN: u32 = 50;

/// The longest width and height of a photo, in pixels.
const LONGEST: u32 = 1_200;

/// The folder of the photos, which the site serves at `/photos/files`.
pub struct Folder(PathBuf);

impl Folder {
    pub fn create(data: &Path) -> Result<Folder> {
        let folder = data.join("photos");
        std::fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }

    fn file(&self, id: i64) -> PathBuf {
        self.0.join(format!("{id}.jpg"))
    }
}

#[derive(Serialize)]
struct Photo {
    id: i64,
    title: String,
}

#[derive(Deserialize)]
struct NewPhoto {
    title: String,
    photo: Upload,
}

impl NewPhoto {
    /// The type is detected from the content of the file.
    fn is_image(&self) -> bool {
        self.photo.content_type().starts_with("image/")
    }
}

/// `GET /photos`
pub fn show(req: &mut Request) -> Result<Response> {
    page(req, &Form::empty())
}

fn page(req: &mut Request, form: &Form<NewPhoto>) -> Result<Response> {
    let photos = latest(&req.state::<Db>())?;
    Ok(req.render("photos.html", context! { form, photos })?.status(form.status()))
}

/// `POST /photos`. The browser does not wait for the resizing. `kill -9` would lose it; a job
/// survives that.
pub fn add(req: &mut Request) -> Result<Response> {
    let mut form: Form<NewPhoto> = req.submitted()?;
    form.require(&["title"]).check("photo", NewPhoto::is_image, "Please choose an image.");
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return page(req, &form),
    };
    let (db, folder) = (req.state::<Db>(), req.state::<Folder>());
    let id = db.insert("INSERT INTO photos (title) VALUES (?)", [&new.title])?;
    req.flash("success", "Thank you! The photo is here in a moment.");
    let response = redirect(&req.url_for("photos", &[])?);
    Ok(response.background(move || prepare(&db, &folder, id, &new.photo)))
}

/// Makes the photo that the page shows, without the metadata of the upload. A file that is not a
/// photo is forgotten.
fn prepare(db: &Db, folder: &Folder, id: i64, upload: &Upload) -> Result<()> {
    let resized = resize(upload.path(), folder.file(id), Fit::Inside(LONGEST, LONGEST));
    let change = match resized {
        Ok(_) => "UPDATE photos SET is_ready = 1 WHERE id = ?",
        Err(_) => "DELETE FROM photos WHERE id = ?",
    };
    db.execute(change, [id])?;
    resized.map(drop) // an error is logged
}

/// Returns the newest photos first, without those that are not ready.
fn latest(db: &Db) -> Result<Vec<Photo>> {
    let query = "SELECT id, title FROM photos WHERE is_ready ORDER BY id DESC LIMIT ?";
    let photos: Vec<(i64, String)> = db.rows(query, [SHOWN])?;
    Ok(photos.into_iter().map(|(id, title)| Photo { id, title }).collect())
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    /// A GIF of one pixel.
    const GIF: &[u8] =
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

    #[test]
    fn only_an_image_is_accepted() {
        let (_data, mut client) = test_site();
        let upload = client.post("/photos").field("title", "Sea");
        let page = upload.file("photo", "sea.jpg", "image/jpeg", b"not an image").send();
        assert_eq!(page.status_code().code(), 422);
        assert!(page.text().contains("Please choose an image."), "{}", page.text());
        assert!(page.text().contains(r#"value="Sea""#), "{}", page.text());
    }

    #[test]
    fn a_photo_is_resized_in_the_background_and_shown() {
        let (_data, mut client) = test_site();
        let upload = client.post("/photos").field("title", "Sea");
        let response = upload.file("photo", "sea.gif", "image/gif", GIF).send();
        assert_eq!(response.location(), Some("/photos"));
        client.drain(); // waits for the resizing
        assert!(client.failures().is_empty());
        assert!(client.get("/photos").text().contains(r#"src="/photos/files/1.jpg" alt="Sea""#));
        assert_eq!(client.get("/photos/files/1.jpg").header("Content-Type"), Some("image/jpeg"));
    }

    #[test]
    fn a_broken_image_is_forgotten() {
        let (_data, mut client) = test_site();
        let upload = client.post("/photos").field("title", "Sea");
        upload.file("photo", "sea.gif", "image/gif", &GIF[..20]).send();
        client.drain();
        assert_eq!(client.failures().len(), 1);
        assert!(!client.get("/photos").text().contains("Sea"));
    }
}
