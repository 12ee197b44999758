//! Percent-encoded text is decoded exactly once.

use std::fs;

use aside::routing::get;
use aside::testing::TestClient;
use aside::{App, Config, Request, Response, Result, redirect_or};

fn show(req: &mut Request) -> Result<String> {
    let name: String = req.param("name")?;
    let query: Vec<String> = req.query_pairs()?.into_iter().map(|(_, value)| value).collect();
    let cookie = req.cookie("c").unwrap_or_default();
    Ok(format!("{name} {} {cookie}", query.join(",")))
}

fn link(req: &mut Request) -> Result<String> {
    let name: String = req.param("name")?;
    req.url_for("show", &[("name", &name)])
}

fn post(req: &mut Request) -> Result<String> {
    Ok(req.form_pairs()?.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn onward(req: &mut Request) -> Result<Response> {
    let next = req.query_pairs()?.remove(0).1;
    Ok(redirect_or(&next, "/"))
}

/// Regression: `%%34%31` became `A`: the path was decoded to `%41`, and its parameter again.
#[test]
fn percent_encoding_is_decoded_once() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["A.txt", "%41.txt", "%2541.txt"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let app = App::with_config(Config::default())
        .route("/show/{name}", get(show).name("show"))
        .get("/link/{name}", link)
        .get("/next", onward)
        .post("/post", post)
        .static_files("/files", folder.path());
    let mut client = TestClient::new(app);

    for (encoded, decoded) in [("%%34%31", "%41"), ("%2541", "%41"), ("%252541", "%2541"), ("%41", "A"), ("%", "%")] {
        let target = format!("/show/{encoded}?q={encoded}");
        let page = client.request("GET", &target).header("Cookie", &format!("c={encoded}")).send();
        assert_eq!(page.text(), format!("{decoded} {decoded} {decoded}"), "{encoded}");
        // A link to the decoded text leads back to it.
        let link = client.get(&format!("/link/{encoded}")).text().to_owned();
        assert_eq!(client.get(&link).text(), format!("{decoded}  "), "{encoded} {link}");
        let form = client.post("/post").body("application/x-www-form-urlencoded", format!("{encoded}={encoded}"));
        assert_eq!(form.send().text(), format!("{decoded}={decoded}"));
    }
    for (encoded, name) in [("%%34%31", "%41"), ("%2541", "%41"), ("%41", "A"), ("%252541", "%2541")] {
        assert_eq!(client.get(&format!("/files/{encoded}.txt")).text(), format!("{name}.txt"), "{encoded}");
    }
    // Text that is another site's URL when decoded twice stays within this site.
    assert_eq!(client.get("/next?next=/%252Fevil.example").location(), Some("/%2Fevil.example"));
}
