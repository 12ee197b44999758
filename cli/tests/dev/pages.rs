//! Pages in a browser while the site is changed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::browser::{Browser, Page};
use crate::site::{Dev, Site};

/// Waits until an element has this text.
fn shows(page: &Page, css: &str, text: &str) {
    page.wait_for(&format!("document.querySelector('{css}').textContent == '{text}'"));
}

/// Waits until the page has the style sheet with this number.
fn has_style(page: &Page, number: usize) {
    page.wait_for(&format!(
        "getComputedStyle(document.documentElement).getPropertyValue('--style').trim() == 'style-{number}'"
    ));
}

/// Returns the text that the script shows over the page.
const OVERLAY: &str = "document.querySelector('aside-dev')?.shadowRoot.querySelector('div:not([hidden])')?.textContent";

/// Sends a request on a new connection, and returns the response.
fn request(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /version HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Changes, of which one in ten is of Rust, four are of a template and five of CSS. Concurrently, another client connects all the time.
pub fn fifty_edits_reach_the_browser_without_a_refused_connection(browser: Browser) {
    let site = Site::new("fifty");
    let (dev, page) = (Dev::start(&site), browser.page());
    let (address, (stop, stopped)) = (dev.address, mpsc::channel::<()>());
    let client = thread::spawn(move || {
        let mut count = 0;
        while stopped.recv_timeout(Duration::from_millis(2)) == Err(RecvTimeoutError::Timeout) {
            let response = request(address).unwrap_or_else(|error| panic!("request {count}: {error}"));
            assert!(
                response.starts_with("HTTP/1.1 200 ") && response.contains("\r\n\r\nversion "),
                "{count}: {response}"
            );
            count += 1;
        }
        count
    });
    page.goto(&dev.url("/"));
    shows(&page, "#version", "version 0");
    let (mut version, mut template, mut style) = (0, 0, 0);
    for edit in 0..50 {
        page.evaluate("window.same = true");
        let numbers = match edit % 10 {
            0 => {
                site.edit("src/main.rs", &format!("version {version}"), &format!("version {}", version + 1));
                version += 1;
                shows(&page, "#version", &format!("version {version}"));
                "reloaded"
            }
            number if number % 2 == 0 => {
                site.edit(
                    "templates/page.html",
                    &format!("template {template}"),
                    &format!("template {}", template + 1),
                );
                template += 1;
                shows(&page, "#template", &format!("template {template}"));
                "reloaded"
            }
            _ => {
                site.edit("static/app.css", &format!("style-{style}"), &format!("style-{}", style + 1));
                style += 1;
                has_style(&page, style);
                "same"
            }
        };
        let is_same = page.evaluate("window.same === true");
        assert_eq!(is_same, numbers == "same", "edit {edit}");
    }
    stop.send(()).unwrap();
    let count = client.join().unwrap();
    assert!(count > 100, "only {count} requests");
    assert_eq!((version, template, style), (5, 20, 25));
    assert_eq!(dev.count("aside: the site serves"), 6, "a template or CSS needs no new build");
    assert_eq!(page.messages().iter().filter(|message| !message.contains("503")).collect::<Vec<_>>(), [""; 0]);
}

pub fn the_first_build_shows_its_progress_and_its_errors(browser: Browser) {
    let site = Site::new("first");
    site.edit("src/main.rs", ".run()", ".rum()");
    let (dev, page) = (Dev::start(&site), browser.page());
    page.goto(&dev.url("/"));
    page.wait_for("document.querySelector('h1').textContent == 'The build failed'");
    let text = page.text();
    assert!(text.contains("no method named `rum`") && text.contains("src/main.rs:"), "{text}");
    assert!(text.contains("37 |") || text.contains(".rum()"), "{text}");
    site.edit("src/main.rs", ".rum()", ".run()");
    shows(&page, "#version", "version 0");
}

pub fn a_compile_error_is_shown_while_the_former_build_serves(browser: Browser) {
    let site = Site::new("error");
    let (dev, page) = (Dev::start(&site), browser.page());
    dev.serves(1);
    page.goto(&dev.url("/"));
    page.evaluate("window.same = true");
    site.edit("src/main.rs", "\"version 0\"", "\"version 1\" <b>");
    page.wait_for(&format!("{OVERLAY}?.includes('src/main.rs:5:')"));
    let text = page.evaluate(OVERLAY);
    assert!(text.as_str().unwrap().contains("the former build continues to serve"), "{text}");
    assert_eq!(page.evaluate("window.same && document.querySelector('#version').textContent"), "version 0");
    assert!(dev.get("/version", "").ends_with("version 0"));
    site.edit("src/main.rs", " <b>", "");
    shows(&page, "#version", "version 1");
    assert_eq!(page.evaluate(OVERLAY), serde_json::Value::Null);
    // A program that does not start leaves the former one serving too.
    site.edit("src/main.rs", ".run()", ".get(\"/version\", |_req: &mut Request| VERSION).run()");
    page.wait_for(&format!("{OVERLAY}?.includes('The site does not start')"));
    assert!(page.evaluate(OVERLAY).as_str().unwrap().contains("/version"), "the log says why");
    assert!(dev.get("/version", "").ends_with("version 1"));
}

pub fn a_page_that_a_form_returned_is_not_sent_again(browser: Browser) {
    let site = Site::new("form");
    let (dev, page) = (Dev::start(&site), browser.page());
    dev.serves(1);
    page.goto(&dev.url("/"));
    page.click("#send");
    page.wait_for("location.pathname == '/form'");
    page.evaluate("window.same = true");
    site.edit("templates/page.html", "template 0", "template 1");
    page.wait_for(&format!("{OVERLAY}?.includes('The site has changed')"));
    assert_eq!(page.evaluate("window.same"), true);
}

/// As `aside generate page` does it: a template links to a route that the new code adds.
pub fn a_template_that_changes_with_the_code_is_shown_when_the_new_build_serves(browser: Browser) {
    let site = Site::new("together");
    let (dev, page) = (Dev::start(&site), browser.page());
    dev.serves(1);
    page.goto(&dev.url("/"));
    shows(&page, "#version", "version 0");
    site.edit("templates/page.html", "template 0", "{{ url_for('about') }}");
    let route = ".route(\"/about\", aside::routing::get(|_: &mut Request| VERSION).name(\"about\")).run()";
    site.edit("src/main.rs", ".run()", route);
    shows(&page, "#template", "/about");
    assert_eq!(page.messages(), [""; 0]);
    // If the build fails, the template is shown with the former code.
    site.edit("src/main.rs", ".run()", ".rum()");
    site.edit("templates/page.html", "{{ url_for('about') }}", "template 2");
    shows(&page, "#template", "template 2");
    page.wait_for(&format!("{OVERLAY}?.includes('no method named `rum`')"));
}
