use std::time::{Duration, SystemTime};

use super::*;
use crate::background::registry::Registry;
use crate::background::scope::{Scope, Values};
use crate::config::Config;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method};
use crate::http::response::ResponseBody;
use crate::http::session::Keys;
use crate::http::session::store::Store;

fn templates(sources: &[(&str, &str)]) -> Templates {
    let mut templates = Templates::new("no/such/folder", false);
    for (name, source) in sources {
        templates.add(name, source.to_string()).unwrap();
    }
    templates
}

#[test]
fn html_escapes_all_special_characters_but_no_slash() {
    let templates = templates(&[("page.html", "{{ text }}|{{ text | safe }}"), ("mail.txt", "{{ text }}")]);
    let text = "/a?b='1'&c=\"2\"</script>/";
    let page = templates.render("page.html", private::context([("text", Value::from(text))])).unwrap();
    assert_eq!(page, format!("/a?b=&#x27;1&#x27;&amp;c=&quot;2&quot;&lt;/script&gt;/|{text}"));
    let mail = templates.render("mail.txt", private::context([("text", Value::from(text))])).unwrap();
    assert_eq!(mail, text);
}

#[test]
fn invalid_templates_of_a_folder_are_found_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("shop")).unwrap();
    std::fs::write(folder.path().join("fine.html"), "{{ title }}").unwrap();
    std::fs::write(folder.path().join("app.js"), "{{{{").unwrap();
    let templates = || Templates::new(folder.path(), false);
    templates().read_all().unwrap();
    Templates::new(folder.path().join("gone"), false).read_all().unwrap();
    std::fs::write(folder.path().join("shop/cart.html"), "one\n{% if %}").unwrap();
    std::fs::write(folder.path().join("mail.txt"), "{{ open").unwrap();
    let message = templates().read_all().unwrap_err().to_string();
    assert!(message.contains("shop/cart.html:2") && message.contains("mail.txt:1"), "{message}");
}

fn request(method: Method, cookie: &str, templates: Option<Templates>) -> Request {
    let config = Arc::new(Config { secrets: vec!["a".repeat(32)], ..Config::default() });
    let mut values = Values::default();
    values.insert(Keys::new(&config, None).unwrap());
    values.insert(Store::open(&config).unwrap());
    if let Some(templates) = templates {
        values.insert(templates);
    }
    let scope = Scope::new(Registry::new(&config), values);
    let mut req = Request::new(method, "/orders?x=1", Headers::from_iter([("Cookie", cookie)]), Body::empty());
    req.admit(scope, config, "3f9a1c".into());
    req
}

fn text(response: Response) -> String {
    match response.body {
        ResponseBody::Bytes(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
        _ => panic!("no bytes"),
    }
}

fn finished(req: &mut Request, mut response: Response) -> Option<String> {
    session::save(req, &mut response);
    response.headers().get("Set-Cookie").map(|line| line.split(';').next().unwrap().to_owned())
}

#[test]
fn the_name_determines_escaping_and_media_type() {
    let names = ["a.html", "a.HTM", "a.xml", "a", "a.svg", "a.html.j2", "a.txt", "a.json"];
    let sources = names.map(|name| (name, "{{ v }}"));
    let mut req = request(Method::Get, "", Some(templates(&sources)));
    let mut made = names.iter().map(|name| {
        let response = req.render(name, context! { v => "<'" }).unwrap();
        (response.headers().get("Content-Type").unwrap().to_owned(), text(response))
    });
    for _ in 0..6 {
        assert_eq!(made.next().unwrap().1, "&lt;&#x27;");
    }
    assert_eq!(made.next().unwrap(), ("text/plain; charset=utf-8".into(), "<'".into()));
    let (media_type, body) = made.next().unwrap();
    assert_eq!((media_type.as_str(), body.as_str()), ("application/json", "\"<'\""));
}

#[test]
fn a_context_takes_any_value_that_serde_serializes() {
    #[derive(Serialize)]
    struct Photo {
        title: String,
    }
    let photo = Photo { title: "Harbour & sea".into() };
    let templates = templates(&[("p.txt", "{{ photo.title }} {{ n }} {{ owner.name }} {{ none is none }}")]);
    let context = context! { photo, n => 40 + 2, owner => context! { name => "Asok" }, none => None::<u8>, };
    assert_eq!(templates.render("p.txt", context).unwrap(), "Harbour & sea 42 Asok True");
    assert_eq!(photo.title, "Harbour & sea", "it was borrowed");
}

#[test]
fn safe_text_stays_safe() {
    let templates = templates(&[("p.html", "{{ part }}{{ rest }}")]);
    let part = Value::from_safe_string("<b>1</b>".into());
    assert_eq!(templates.render("p.html", context! { part, rest => "<" }).unwrap(), "<b>1</b>&lt;");
}

#[test]
fn an_error_has_the_template_the_line_and_the_name() {
    let templates = templates(&[("page.html", "{% include 'part.html' %}"), ("part.html", "one\n{{ custmer }}")]);
    let chain = templates.render("page.html", context! {}).unwrap_err().chain();
    for message in ["page.html", "part.html:2", "custmer"] {
        assert!(chain.contains(message), "{message} is not in {chain}");
    }
}

#[test]
fn an_undefined_name_may_be_tested_but_not_printed() {
    let templates = templates(&[
        ("a.txt", "{% if user %}in{% else %}out{% endif %} {{ title | default('Shop') }}"),
        ("b.txt", "{% for x in rows %}{% endfor %}"),
    ]);
    assert_eq!(templates.render("a.txt", context! {}).unwrap(), "out Shop");
    assert!(templates.render("b.txt", context! {}).is_err());
}

#[test]
fn the_error_for_a_missing_template_names_file_and_folder() {
    let chain = templates(&[]).render("nothing.html", context! {}).unwrap_err().chain();
    assert!(chain.contains("nothing.html") && chain.contains("no/such/folder"), "{chain}");
}

#[test]
fn template_names_do_not_leave_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("templates")).unwrap();
    std::fs::write(dir.path().join("secret.html"), "s").unwrap();
    let absolute = dir.path().join("secret.html");
    for reload in [true, false] {
        let templates = Templates::new(dir.path().join("templates"), reload);
        for name in ["../secret.html", "x/../../secret.html", "..\\secret.html", absolute.to_str().unwrap(), ""] {
            assert!(templates.render(name, context! {}).is_err(), "{name}");
        }
    }
}

#[test]
fn a_changed_file_is_read_again_in_development_also_when_it_is_included() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, age: u64| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    write("page.html", "{% extends 'base.html' %}{% block b %}1{% endblock %}", 100);
    write("base.html", "<a>{% block b %}{% endblock %}", 100);
    let (development, production) = (Templates::new(dir.path(), true), Templates::new(dir.path(), false));
    for templates in [&development, &production] {
        assert_eq!(templates.render("page.html", context! {}).unwrap(), "<a>1");
    }
    write("base.html", "<b>{% block b %}{% endblock %}", 50);
    assert_eq!(development.render("page.html", context! {}).unwrap(), "<b>1");
    assert_eq!(production.render("page.html", context! {}).unwrap(), "<a>1");
}

#[test]
fn the_folder_takes_precedence_in_development_only() {
    let dir = tempfile::tempdir().unwrap();
    for (reload, second) in [(true, "file"), (false, "compiled in")] {
        let path = dir.path().join("page.html");
        let _ = std::fs::remove_file(&path);
        let mut templates = Templates::new(dir.path(), reload);
        templates.add("page.html", "compiled in").unwrap();
        assert_eq!(templates.render("page.html", context! {}).unwrap(), "compiled in");
        std::fs::write(&path, "file").unwrap();
        assert_eq!(templates.render("page.html", context! {}).unwrap(), second);
    }
    let message = Templates::new(dir.path(), true).add("x.html", "{% if %}").unwrap_err().chain();
    assert!(message.contains("x.html:1"), "{message}");
}

#[test]
fn a_page_has_its_path_and_request_id() {
    let sources = [("p.txt", "{{ path }} {{ request_id }} {{ flashes | length }}")];
    let mut req = request(Method::Get, "", Some(templates(&sources)));
    assert_eq!(text(req.render("p.txt", ()).unwrap()), "/orders 3f9a1c 0");
    assert_eq!(text(req.render("p.txt", context! { path => "mine" }).unwrap()), "mine 3f9a1c 0");
    assert!(req.render("p.txt", 7).is_err());
    let chain = request(Method::Get, "", None).render("p.txt", ()).unwrap_err().chain();
    assert!(chain.contains("App::templates"), "{chain}");
}

#[test]
fn flash_messages_are_removed_once_a_page_has_shown_them() {
    let all = || {
        Some(templates(&[
            ("none.html", "{{ path }}"),
            ("ask.html", "{% if flashes %}{{ flashes | length }}{% endif %}"),
            ("show.html", "{% for flash in flashes %}[{{ flash.kind }}: {{ flash.message }}]{% endfor %}"),
            ("fail.html", "{% for flash in flashes %}{{ flash.kind }}{% endfor %}{{ undefined_name }}"),
        ]))
    };
    let mut req = request(Method::Post, "", all());
    req.flash("success", "<Done>");
    let cookie = finished(&mut req, Response::new()).unwrap();

    for (method, name) in [(Method::Get, "none.html"), (Method::Get, "ask.html"), (Method::Head, "show.html")] {
        let mut req = request(method, &cookie, all());
        let response = req.render(name, ()).unwrap();
        assert_eq!(finished(&mut req, response), None, "{name}");
    }
    let mut req = request(Method::Get, &cookie, all());
    assert!(req.render("fail.html", ()).is_err());
    assert_eq!(finished(&mut req, Response::new()), None, "the page failed");

    let mut req = request(Method::Get, &cookie, all());
    let response = req.render("show.html", ()).unwrap();
    let removed = cookie.split('=').next().unwrap().to_owned() + "=";
    assert_eq!(finished(&mut req, Response::new()), Some(removed), "shown, and nothing is left");
    assert_eq!(text(response), "[success: &lt;Done&gt;]");
}

#[test]
fn a_message_added_by_the_request_is_shown_on_its_page() {
    let sources = [("show.txt", "{% for flash in flashes %}{{ flash.message }}{% endfor %}")];
    let mut req = request(Method::Post, "", Some(templates(&sources)));
    req.flash("error", "Not quite.");
    assert_eq!(text(req.render("show.txt", ()).unwrap()), "Not quite.");
    assert_eq!(finished(&mut req, Response::new()), None);
}
