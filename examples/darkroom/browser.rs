//! The site in a real browser, with its style sheet. Without Chromium, the test prints that it was skipped.

use aside::Config;
use image::RgbImage;
use tempfile::TempDir;

use super::app;
use super::driver::Browser;
use super::site::Settings;

fn screenshot(browser: &Browser, url: &str) -> RgbImage {
    let page = browser.page();
    page.goto(url);
    let picture = page.screenshot();
    assert_eq!(page.messages(), [""; 0]);
    image::load_from_memory(&picture).unwrap().to_rgb8()
}

#[test]
fn a_browser_shows_the_gallery_with_its_style() {
    let Some(browser) = Browser::start() else { return };
    let folder = TempDir::new().unwrap();
    let settings = Settings {
        config: Config { address: "127.0.0.1:0".into(), ..Config::default() },
        data: folder.path().to_owned(),
        owner: "owner@darkroom.example".into(),
        webhook_url: None,
        webhook_secret: None,
    };
    let server = app(settings).unwrap().start().unwrap();
    let page = screenshot(&browser, &format!("http://{}/", server.addr()));
    server.stop();
    let is_dark = |pixel: &&image::Rgb<u8>| pixel.0.iter().all(|&part| part < 60);
    let is_safelight =
        |pixel: &&image::Rgb<u8>| pixel.0[0] > 230 && (90..140).contains(&pixel.0[1]) && pixel.0[2] < 110;
    let (pixels, dark) = (page.pixels().count(), page.pixels().filter(is_dark).count());
    assert!(dark > pixels / 2, "the style sheet makes the page dark: {dark} of {pixels} pixels");
    assert!(page.pixels().filter(is_safelight).count() > 500, "the button to upload has the colour of a safelight");
}
