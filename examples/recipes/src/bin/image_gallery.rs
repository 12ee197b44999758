//! A gallery whose photos are resized in the background: `cargo run --bin image_gallery`
use std::path::{Path, PathBuf};

use aside::image::{Fit, resize};
use aside::routing::{Rate, get};
use aside::{App, Config, Request, Response, Result, Upload, background, context};
use aside::{redirect, sqlite::Db};

const PHOTOS: &str = "CREATE TABLE photos (id INTEGER PRIMARY KEY, title TEXT, is_ready INTEGER)";

const PAGE: &str = r#"<!doctype html><title>Gallery</title>
<form method="post" enctype="multipart/form-data">
  Title: <input name="title"> <input name="photo" type="file" accept="image/*"> <button>Add</button>
</form>
{% for id, title, is_ready in photos %}<p>{{ title }}{% if is_ready %}:
  <a href="/photos/{{ id }}.jpg"><img src="/photos/{{ id }}-small.jpg" alt=""></a>
{% else %}{{ " is being resized." if is_ready is none else " could not be read." }}{% endif %}</p>
{% endfor %}"#;

#[derive(serde::Deserialize)]
struct New {
    title: String,
    photo: Upload,
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, Path::new("data/image_gallery")))
}

fn app(config: Config, data: &Path) -> Result<App> {
    let (db, folder) = (data.join("gallery.db"), data.join("photos"));
    std::fs::create_dir_all(&folder)?;
    let app = App::with_config(config).state(Db::open(db, &[PHOTOS])?);
    let app = app.template("gallery.html", PAGE);
    let app = app.static_files("/photos", &folder).state(folder);
    let limit = Rate::per_minute(30);
    Ok(app.route("/", get(show).post(add).rate_limit(limit)))
}

fn show(req: &mut Request) -> Result<Response> {
    let sql = "SELECT id, title, is_ready FROM photos ORDER BY id DESC LIMIT 100";
    let photos: Vec<(i64, String, Option<bool>)> = req.state::<Db>().rows(sql, ())?;
    req.render("gallery.html", context! { photos })
}

fn add(req: &mut Request) -> Result<Response> {
    let New { title, photo } = req.form()?;
    let (db, folder) = (req.state::<Db>(), req.state::<PathBuf>());
    let sql = "INSERT INTO photos (title) VALUES (?)";
    let id = db.insert(sql, [title])?;
    background(move || {
        let sizes = [("", 1600), ("-small", 200)];
        let made = sizes.iter().try_for_each(|(suffix, side)| {
            let path = folder.join(format!("{id}{suffix}.jpg"));
            resize(photo.path(), path, Fit::Inside(*side, *side)).map(drop)
        });
        let sql = "UPDATE photos SET is_ready = ? WHERE id = ?";
        db.execute(sql, (made.is_ok(), id))?;
        made
    });
    Ok(redirect("/"))
}

#[cfg(test)]
#[test]
fn a_photo_is_shown_and_what_is_not_an_image_is_not() {
    let data = tempfile::tempdir().unwrap();
    let app = app(Config::default(), data.path()).unwrap();
    let mut client = aside::testing::TestClient::new(app);
    let gif =
        b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\x80\0\0\0\xff\xff\xff\x02\x02D\x01\0;";
    for (title, file) in [("<Море>", &gif[..]), ("Sky", b"text")] {
        let new = client.post("/").field("title", title);
        new.file("photo", "a.gif", "", file).send();
    }
    client.drain();
    let page = client.get("/").text().to_owned();
    assert!(page.contains("&lt;Море&gt;") && page.contains("could not be read"));
    assert_eq!(client.get("/photos/1-small.jpg").status_code(), 200);
}
