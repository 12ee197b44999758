use serde::{Deserialize, Serialize};

use super::*;
use crate::error::Detail;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method};

fn post(content_type: &str, body: &[u8]) -> Request {
    let headers = match content_type {
        "" => Headers::new(),
        name => Headers::from_iter([("Content-Type", name)]),
    };
    Request::new(Method::Post, "/", headers, Body::from(body.to_vec()))
}

fn typed(body: &str) -> Request {
    post(URLENCODED, body.as_bytes())
}

fn get(target: &str) -> Request {
    Request::new(Method::Get, target, Headers::new(), Body::empty())
}

fn refused<T>(result: Result<T>) -> (u16, String) {
    let error = result.err().expect("this must be refused");
    (error.status_code().code(), error.message().unwrap_or_default().to_owned())
}

/// Returns the status, the message for the user and the detail for the developer.
fn refused_with_detail<T>(result: Result<T>) -> (u16, String, String) {
    let error = result.err().expect("this must be refused");
    let detail = error.find_source::<Detail>().expect("a detail").to_string();
    (error.status_code().code(), error.message().unwrap_or_default().to_owned(), detail)
}

#[derive(Debug, Deserialize, Serialize, PartialEq)]
struct Order {
    email: String,
    quantity: u32,
}

#[test]
fn a_form_is_read() {
    let order: Order = typed("email=a%40b.c+%D1%8F&quantity=5&more=1").form().unwrap();
    assert_eq!(order, Order { email: "a@b.c я".into(), quantity: 5 });
    let multipart = b"--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nme\r\n--x\r\n\
        Content-Disposition: form-data; name=\"quantity\"\r\n\r\n7\r\n--x--\r\n";
    let order: Order = post("multipart/form-data; boundary=x", multipart).form().unwrap();
    assert_eq!(order, Order { email: "me".into(), quantity: 7 });
}

#[test]
fn another_content_type_is_named_in_the_error() {
    let message = "The body must be application/x-www-form-urlencoded or multipart/form-data; its Content-Type is";
    assert_eq!(refused(post("text/plain", b"a=1").form::<Order>()), (415, format!("{message} text/plain.")));
    assert_eq!(refused(post("", b"a=1").form::<Order>()), (415, format!("{message} none.")));
    assert!(post("Application/X-WWW-Form-Urlencoded; charset=utf-8", b"a=1").form_pairs().is_ok());
}

#[test]
fn errors_over_a_limit_name_the_setting() {
    let (status, message, detail) = refused_with_detail(typed(&"&a=1".repeat(1_001)).form::<Order>());
    assert!(status == 413 && detail.contains("ASIDE_MAX_FIELDS") && !message.contains("ASIDE"), "{message}");
    assert_eq!(typed(&"&a=1".repeat(1_000)).form_pairs().unwrap().len(), 1_000);
    let (status, message, detail) = refused_with_detail(typed(&"a".repeat((1 << 20) + 1)).form::<Order>());
    assert!(status == 413 && message == "What was sent can have at most 1 MB.", "{message}");
    assert!(detail.contains("ASIDE_MAX_FORM"), "{detail}");
}

/// The vectors follow the steps of the WHATWG URL standard, section 5.1, and of UTF-8 decode in its Encoding
/// standard.
#[test]
fn urlencoded_bodies_are_parsed_as_the_standard_says() {
    for (body, expected) in [
        (&b""[..], &[][..]),
        (b"&", &[]),
        (b"&&", &[]),
        (b"a", &[("a", "")]),
        (b"a=", &[("a", "")]),
        (b"=a", &[("", "a")]),
        (b"=", &[("", "")]),
        (b"==", &[("", "=")]),
        (b"a=b=c", &[("a", "b=c")]),
        (b"a&&b&", &[("a", ""), ("b", "")]),
        (b"a=1;b=2", &[("a", "1;b=2")]),
        (b"a=1&amp;b=2", &[("a", "1"), ("amp;b", "2")]),
        (b"b=1&a=2&b=3", &[("b", "1"), ("a", "2"), ("b", "3")]),
        (b"+", &[(" ", "")]),
        (b"a+b=+c++", &[("a b", " c  ")]),
        (b"%2B=%2b", &[("+", "+")]),
        (b"%20=%26%3D", &[(" ", "&=")]),
        (b"%", &[("%", "")]),
        (b"%%=%2", &[("%%", "%2")]),
        (b"%zz=%4g", &[("%zz", "%4g")]),
        (b"%+1=%%41", &[("% 1", "%A")]),
        (b"%2541", &[("%41", "")]),
        (b"a=%00b", &[("a", "\0b")]),
        (b"a=\0\r\n\t", &[("a", "\0\r\n\t")]),
        (b"a=%0D%0A", &[("a", "\r\n")]),
        (b"a b=c d", &[("a b", "c d")]),
        (b"\xC3\xA9=%C3%A9\xC3%A9", &[("é", "éé")]),
        (b"%F0%9F%92%A9", &[("\u{1F4A9}", "")]),
        (b"%EF%BB%BFa=\xEF\xBB\xBFb", &[("\u{FEFF}a", "\u{FEFF}b")]),
        (b"%FE%FF", &[("\u{FFFD}\u{FFFD}", "")]),
        (b"%FF%FE", &[("\u{FFFD}\u{FFFD}", "")]),
        (b"a=%C3", &[("a", "\u{FFFD}")]),
        (b"a=\xC3&b=\xA9", &[("a", "\u{FFFD}"), ("b", "\u{FFFD}")]),
        (b"a=%C3=%A9", &[("a", "\u{FFFD}=\u{FFFD}")]),
        (b"%C2x", &[("\u{FFFD}x", "")]),
        (b"%ED%A0%80", &[("\u{FFFD}\u{FFFD}\u{FFFD}", "")]),
        (b"%ED%A0%BD%ED%B2%A9", &[("\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}", "")]),
        (b"%C0%80", &[("\u{FFFD}\u{FFFD}", "")]),
        (b"%F4%90%80%80", &[("\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}", "")]),
        (b"%E2%82=%F0%9F%92", &[("\u{FFFD}", "\u{FFFD}")]),
        (b"%EF%BF%BE%EF%BF%BF", &[("\u{FFFE}\u{FFFF}", "")]),
        (b"_charset_=windows-1252&x=%E9", &[("_charset_", "windows-1252"), ("x", "\u{FFFD}")]),
    ] {
        let read = post(URLENCODED, body).form_pairs().unwrap();
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(body));
    }
}

#[test]
fn a_query_is_parsed_like_a_form() {
    let read = get("/?%FF=%C3&%ED%A0%80&&a;b").query_pairs().unwrap();
    let pairs = [("\u{FFFD}", "\u{FFFD}"), ("\u{FFFD}\u{FFFD}\u{FFFD}", ""), ("a;b", "")];
    assert_eq!(read, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_parsed_as_serde_urlencoded_does(body in "[a&=+%0-9A-Fé;\\[\\]]{0,40}", noise: Vec<u8>) {
        for bytes in [body.as_bytes(), &noise, &[&noise, body.as_bytes()].concat()] {
            let theirs: Vec<(String, String)> = serde_urlencoded::from_bytes(bytes).unwrap();
            proptest::prop_assert_eq!(pairs(bytes, usize::MAX, "form").unwrap(), theirs);
        }
    }
}

#[test]
fn an_invalid_field_is_named() {
    let expect = |result: Result<Order>, (status, message, detail): (u16, &str, &str)| {
        assert_eq!(refused_with_detail(result), (status, message.to_owned(), detail.to_owned()));
    };
    expect(typed("quantity=1").form(), (422, "email: Please fill this in.", "the field `email` is missing"));
    let number = "quantity: Please enter a whole number.";
    let detail = "the field `quantity`: invalid digit found in string";
    expect(typed("email=a&quantity=x").form(), (422, number, detail));
    let detail = "the parameter `quantity`: invalid digit found in string";
    expect(get("/?email=a&quantity=x").query(), (400, number, detail));
}

#[test]
fn pairs_come_in_order_and_as_browsers_write_them() {
    let pairs = get("/?b=1&a=&&c&b=2=3&%zz=%4&=x&a+b=%2B").query_pairs().unwrap();
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    assert_eq!(pairs, ["b:1", "a:", "c:", "b:2=3", "%zz:%4", ":x", "a b:+"]);
    assert!(get("/").query_pairs().unwrap().is_empty());
    assert!(typed("").form_pairs().unwrap().is_empty());
}

#[test]
fn json_is_read_or_the_error_names_the_location() {
    let json = |content_type: &str, body: &str| post(content_type, body.as_bytes()).json::<Vec<Order>>();
    let good = r#"[{"email":"a","quantity":1}]"#;
    assert_eq!(json("application/json; charset=utf-8", good).unwrap()[0].quantity, 1);
    assert!(json("application/vnd.orders+json", good).is_ok());
    assert_eq!(refused(json("text/plain", good)).0, 415);
    let (status, message) = refused(json("application/json", "[\n{\"email\" 1}]"));
    assert!(status == 400 && message.contains("line 2 column"), "{message}");
    for malformed in ["", "[", "[] x", "nope"] {
        assert_eq!(refused(json("application/json", malformed)).0, 400, "{malformed}");
    }
    let (status, message) = refused(json("application/json", r#"[{"email":"a","quantity":"x"}]"#));
    let whole =
        r#"The field `[0].quantity`: invalid type: string "x", expected a whole number from 0 to 4294967295 at line 1"#;
    assert!(status == 422 && message.starts_with(whole), "{message}");
    let (_, message, detail) = refused_with_detail(json("application/json", r#"[{"email":"a","quantity":-1}]"#));
    assert!(message.contains("`-1`, expected a whole number from 0") && detail.contains("expected u32"), "{message}");
    let (_, message) = refused(json("application/json", "[7]"));
    assert_eq!(message, "The field `[0]`: invalid type: integer `7`, expected an object at line 1 column 2.");
    let (status, message) = refused(json("application/json", r#"[{"quantity":1}]"#));
    assert!(status == 422 && message.contains("missing field `email`"), "{message}");
    assert_eq!(refused(json("application/json", "7")).0, 422);
    assert_eq!(refused(json("application/json", &"[".repeat(2 << 20))).0, 413);
}

#[test]
fn a_valid_form_returns_its_value() {
    let mut form: Form<Order> = typed("email=a%40b&quantity=5").submitted().unwrap();
    form.require(&["email"]).check("email", |order| order.email.contains('@'), "Not a mail address.");
    assert!(form.is_valid() && form.value().is_some());
    assert_eq!(form.valid().unwrap().quantity, 5);
}

#[cfg(feature = "templates")]
#[test]
fn an_invalid_form_keeps_all_errors_and_entered_values() {
    let mut form: Form<Order> = typed("email=nobody&quantity=many").submitted().unwrap();
    form.check("quantity", |_| panic!("a field that could not be read is not checked"), "")
        .check("email", |order| order.email.contains('@'), "Not a mail address.")
        .check_together(&["email", "quantity"], |_| panic!("a rule over an invalid field is not called"), "");
    let form = form.valid().unwrap_err();
    let shown = serde_json::to_value(&form).unwrap();
    assert_eq!(
        shown,
        serde_json::json!({
            "values": { "email": "nobody", "quantity": "many" },
            "lists": { "email": ["nobody"], "quantity": ["many"] },
            "errors": { "email": "Not a mail address.", "quantity": "Please enter a whole number." },
            "valid": false,
        })
    );
}

#[test]
fn required_blank_fields_get_an_error() {
    let mut form: Form<Order> = typed("email=+&quantity=").submitted().unwrap();
    form.require(&["email", "quantity"]).check("email", |_| false, "not this one");
    assert_eq!(form.errors()["email"], "Please fill this in.");
    assert_eq!(form.errors()["quantity"], "Please fill this in.");
}

#[test]
fn a_handler_can_add_errors() {
    let mut form: Form<Order> = typed("email=a&quantity=1").submitted().unwrap();
    if form.value().is_some_and(|order| order.email == "a") {
        form.error("email", "Already taken.").error("form", "Try another.");
    }
    let form = form.valid().unwrap_err();
    assert!(form.value().is_none());
    assert_eq!(form.errors().len(), 2);
}

#[test]
fn empty_and_filled_forms_have_the_expected_values() {
    let form = Form::<Order>::empty().with("quantity", 1);
    assert!(form.errors().is_empty() && !form.is_valid());
    assert_eq!((form.typed_in("quantity"), form.typed_in("email")), ("1", ""));
    let form = Form::filled(&Order { email: "a&b=c d".into(), quantity: 2 }).unwrap();
    assert_eq!((form.typed_in("email"), form.typed_in("quantity")), ("a&b=c d", "2"));
    assert_eq!(Form::filled(&vec![vec![1]]).unwrap_err().status_code(), Status::INTERNAL_SERVER_ERROR);
    let nested = serde_json::json!({ "a": { "b": 0.1, "no": null }, "l": [1, true], "i": [{ "x": "y" }, {}, [2]] });
    let form = Form::filled(&nested).unwrap();
    let names = ["a[b]", "i[0][x]", "i[2]", "l"];
    assert!(form.lists.keys().eq(names), "{form:?}");
    assert_eq!((form.typed_in("a[b]"), &form.lists["l"]), ("0.1", &vec!["1".to_owned(), "true".to_owned()]));
}

#[test]
fn submitted_refuses_another_content_type() {
    assert_eq!(refused(post("text/plain", b"").submitted::<Order>()).0, 415);
}
