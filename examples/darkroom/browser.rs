//! The site in a real browser: what is served over the wire comes out as a page, style sheet and all. Where Chromium is not
//! installed the test says that it was skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use aside::Config;
use image::RgbImage;
use tempfile::TempDir;

use super::app;
use super::site::Settings;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

/// What the page looks like on a phone.
fn screenshot(chromium: &Path, url: &str) -> RgbImage {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("page.png");
    let ran = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--window-size=500,900"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(url)
        .output()
        .unwrap();
    assert!(picture.exists(), "no picture: {}", String::from_utf8_lossy(&ran.stderr));
    image::open(picture).unwrap().to_rgb8()
}

#[test]
fn the_gallery_is_a_page_in_a_browser() {
    let Some(chromium) = chromium() else {
        return eprintln!("skipped: none of {NAMES:?} is installed");
    };
    let folder = TempDir::new().unwrap();
    let settings = Settings {
        config: Config { address: "127.0.0.1:0".into(), ..Config::default() },
        data: folder.path().to_owned(),
        owner: "owner@darkroom.example".into(),
        webhook_url: None,
        webhook_secret: None,
    };
    let server = app(settings).unwrap().start().unwrap();
    let page = screenshot(&chromium, &format!("http://{}/", server.addr()));
    server.stop();
    let is_dark = |pixel: &&image::Rgb<u8>| pixel.0.iter().all(|&part| part < 60);
    let is_safelight =
        |pixel: &&image::Rgb<u8>| pixel.0[0] > 230 && (90..140).contains(&pixel.0[1]) && pixel.0[2] < 110;
    let (pixels, dark) = (page.pixels().count(), page.pixels().filter(is_dark).count());
    assert!(dark > pixels / 2, "the style sheet makes the page dark: {dark} of {pixels} pixels");
    assert!(page.pixels().filter(is_safelight).count() > 500, "the button to upload has the colour of a safelight");
}
