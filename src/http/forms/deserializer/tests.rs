use std::collections::HashMap;
use std::num::NonZeroU8;

use serde::{Deserialize, Deserializer};

use super::*;

fn sent(text: &str) -> Vec<(String, Sent)> {
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), Sent::Text(value.to_owned())));
    text.split('&').filter_map(pair).collect()
}

fn right<T: DeserializeOwned>(text: &str) -> T {
    let reading = read(&sent(text));
    assert!(reading.refusals.is_empty(), "{:?}", reading.refusals);
    reading.value.unwrap()
}

fn wrong<T: DeserializeOwned>(text: &str) -> Vec<String> {
    read::<T>(&sent(text)).refusals.iter().map(|refusal| refusal.technical("field")).collect()
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Size {
    Small,
    Large,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Order {
    email: String,
    quantity: u32,
    price: f64,
    size: Size,
    news: bool,
    tags: Vec<String>,
    age: Option<u8>,
    note: Option<String>,
}

#[test]
fn a_struct_is_read() {
    let order: Order = right("email=a&quantity= 5 &price=1.5&size=large&news=on&tags=x&tags=&tags=y&age=&note=");
    assert_eq!((order.quantity, order.price, order.size, order.news), (5, 1.5, Size::Large, true));
    assert_eq!(order.tags, ["x", "", "y"]);
    assert_eq!((order.age, order.note.as_deref()), (None, Some("")));
}

#[test]
fn unticked_checkboxes_and_empty_choices_are_read() {
    let order: Order = right("email=a&quantity=5&price=1&size=small");
    assert!(!order.news && order.tags.is_empty());
    assert_eq!((order.age, order.note), (None, None));
}

#[test]
fn all_invalid_fields_are_reported() {
    assert_eq!(
        wrong::<Order>("quantity=many&price=NaN&size=huge&news=perhaps&age=300"),
        [
            "the field `quantity`: invalid digit found in string",
            "the field `price`: not a finite number",
            "the field `size`: `huge` is not one of `small`, `large`",
            "the field `news`: `perhaps` is neither `on` nor `off`",
            "the field `age`: number too large to fit in target type",
            "the field `email` is missing",
        ]
    );
}

#[test]
fn a_type_without_a_stand_in_does_not_hide_other_errors() {
    #[derive(Deserialize)]
    #[serde(try_from = "String")]
    struct Mail;
    impl TryFrom<String> for Mail {
        type Error = String;
        fn try_from(text: String) -> Result<Mail, String> {
            if text.contains('@') { Ok(Mail) } else { Err("This is not a mail address.".to_owned()) }
        }
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Both {
        mail: Mail,
        other: Option<Mail>,
        number: NonZeroU8,
        list: Vec<u8>,
    }
    let message = wrong::<Both>("mail=x&number=0&list=1&list=b&other=");
    assert_eq!(message.len(), 3, "{message:?}");
    assert_eq!(message[0], "the field `mail`: This is not a mail address.");
    assert!(message[1].starts_with("the field `number`") && message[2].starts_with("the field `list`"), "{message:?}");
    right::<Both>("mail=@&number=1&other=");
}

#[test]
fn a_repeated_field_is_not_a_single_value() {
    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct One {
        id: u32,
        news: bool,
    }
    assert!(wrong::<One>("id=1&id=2")[0].starts_with("the field `id`: given more than once"));
    assert!(right::<One>("id=1&news=off&news=on").news);
}

#[test]
fn unknown_fields_are_ignored_unless_they_are_denied() {
    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Strict {
        id: u32,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Lenient {
        id: u32,
    }
    right::<Lenient>("id=1&x=1&x=2");
    assert_eq!(wrong::<Strict>("x=1&id=y").len(), 2);
    assert_eq!(wrong::<Strict>("x=1&id=1"), ["the field `x` is not expected here"]);
    assert_eq!(wrong::<Strict>("x=&id=1"), ["the field `x` is not expected here"]);
}

#[test]
fn a_map_takes_every_name() {
    let map: HashMap<String, u32> = right("a=1&b=2");
    assert_eq!((map["a"], map["b"]), (1, 2));
    assert!(wrong::<Vec<u32>>("a=1")[0].contains("expected a sequence"));
}

#[test]
fn at_most_one_hundred_errors_are_collected() {
    let text: Vec<String> = (0..2_000).map(|number| format!("n{number}=x")).collect();
    assert_eq!(wrong::<HashMap<String, u32>>(&text.join("&")).len(), MAX_REFUSALS);
}

#[derive(Deserialize, Debug, PartialEq)]
struct Address {
    city: String,
    zip: u32,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Item {
    sku: String,
    quantity: u32,
    gift: bool,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Cart {
    address: Address,
    items: Vec<Item>,
    billing: Option<Address>,
    tags: Vec<String>,
}

fn skus(text: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Sku {
        sku: String,
    }
    #[derive(Deserialize)]
    struct Skus {
        items: Vec<Sku>,
    }
    right::<Skus>(text).items.into_iter().map(|item| item.sku).collect()
}

#[test]
fn names_with_brackets_fill_nested_types() {
    let cart: Cart = right(
        "address[city]=Lviv&address[zip]=79000&items[0][sku]=a&items[0][quantity]=1&items[1][sku]=b&\
         items[1][quantity]= 2 &items[1][gift]=on&items[1][notes][]=x&items[1][notes][]=y&tags[]=red&tags[]=&tags=z",
    );
    assert_eq!(cart.address, Address { city: "Lviv".into(), zip: 79000 });
    assert_eq!(cart.tags, ["z", "red", ""]);
    assert_eq!(cart.billing, None);
    let [first, second] = &cart.items[..] else { panic!("{:?}", cart.items) };
    assert!(!first.gift && first.notes.is_empty() && second.gift);
    assert_eq!((second.quantity, &second.notes[..]), (2, &["x".to_owned(), "y".to_owned()][..]));
}

#[test]
fn numbers_in_names_only_group_and_order_items() {
    assert_eq!(skus("items[999999999999999999999][sku]=c&items[10][sku]=b&items[9][sku]=a"), ["a", "b", "c"]);
    assert_eq!(skus("items[new][sku]=c&items[][sku]=d&items[0][sku]=a&items[01][sku]=b"), ["a", "b", "c", "d"]);
    assert_eq!(skus("items[][sku]=b&items[][sku]=a"), ["b", "a"]);
    assert_eq!(skus("items=&items[0][sku]=a"), ["a"]);
    assert!(skus("").is_empty());
}

#[test]
fn a_repeated_name_starts_the_next_item() {
    #[derive(Deserialize)]
    struct Items {
        items: Vec<Item>,
    }
    let items = right::<Items>(
        "items[][sku]=a&items[][quantity]=1&items[][notes][]=x&items[][notes][]=y&items[][sku]=b&items[][quantity]=2",
    );
    let read: Vec<_> = items.items.iter().map(|item| (&item.sku[..], item.quantity, item.notes.len())).collect();
    assert_eq!(read, [("a", 1, 2), ("b", 2, 0)]);
}

#[test]
fn errors_in_nested_fields_carry_the_submitted_names() {
    assert_eq!(
        wrong::<Cart>("address[city]=a&items[2][quantity]=x&items[2][gift]=?&items[][sku]=b&items[][quantity]=-1"),
        [
            "the field `address[zip]` is missing",
            "the field `items[2][quantity]`: invalid digit found in string",
            "the field `items[2][gift]`: `?` is neither `on` nor `off`",
            "the field `items[2][sku]` is missing",
            "the field `items[][quantity]`: negative, where a number from 0 is expected",
        ]
    );
    assert_eq!(
        wrong::<Cart>("tags=a"),
        ["the field `address[city]` is missing", "the field `address[zip]` is missing"]
    );
}

#[test]
fn a_blank_optional_group_is_none() {
    let good = "address[city]=a&address[zip]=1";
    let cart: Cart = right(&format!("{good}&billing[city]=&billing[zip]= "));
    assert_eq!(cart.billing, None);
    let cart: Cart = right(&format!("{good}&billing="));
    assert_eq!(cart.billing, None);
    assert_eq!(wrong::<Cart>(&format!("{good}&billing[city]=a&billing[zip]=")).len(), 1);
    assert_eq!(wrong::<Cart>(&format!("{good}&billing[city]=a")), ["the field `billing[zip]` is missing"]);
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Option<Address>>,
    }
    let rows = right::<Rows>("rows[0][city]=a&rows[0][zip]=1&rows[1][city]=&rows[1][zip]=").rows;
    assert!(rows[0].is_some() && rows[1].is_none());
}

#[test]
fn a_field_renamed_with_brackets_is_read_literally() {
    #[derive(Deserialize)]
    struct Flat {
        #[serde(rename = "tags[]")]
        tags: Vec<String>,
        #[serde(rename = "address[city]")]
        city: String,
        address: HashMap<String, String>,
    }
    let flat: Flat = right("tags[]=a&tags[]=b&address[city]=Lviv&address[zip]=1");
    assert_eq!(
        (flat.tags, flat.city, flat.address["zip"].as_str()),
        (vec!["a".into(), "b".into()], "Lviv".into(), "1")
    );
    assert_eq!(wrong::<Flat>("address[zip]=1"), ["the field `address[city]` is missing"]);
}

#[test]
fn maps_take_groups_and_texts() {
    let map: HashMap<String, String> = right("a[b]=1&a[c]=2&tags[]=3&d.e=4");
    assert_eq!((map["a[b]"].as_str(), map["tags[]"].as_str(), map["d.e"].as_str()), ("1", "3", "4"));
    let map: HashMap<String, HashMap<u64, f64>> = right("prices[17]=1.5&prices[4]=2");
    assert_eq!((map["prices"][&17], map["prices"][&4]), (1.5, 2.0));
    assert_eq!(wrong::<HashMap<String, HashMap<u64, f64>>>("p[x]=1&p[2]=y").len(), 2);
    let json: HashMap<String, serde_json::Value> = right("a[b][0]=1&a[b][1]=2&c=3&f[]=x");
    assert_eq!(
        serde_json::to_value(json).unwrap(),
        serde_json::json!({ "a": { "b": ["1", "2"] }, "c": "3", "f": ["x"] })
    );
    #[derive(Deserialize)]
    struct Rest {
        id: u32,
        #[serde(flatten)]
        rest: HashMap<String, String>,
    }
    let rest: Rest = right("id=1&a[b]=2");
    assert_eq!((rest.id, rest.rest["a[b]"].as_str()), (1, "2"));
}

#[test]
fn the_type_decides_between_a_value_and_a_group() {
    #[derive(Deserialize, Debug)]
    struct Text {
        a: String,
    }
    #[derive(Deserialize, Debug)]
    struct Group {
        a: HashMap<String, String>,
    }
    assert_eq!(right::<Text>("a=1&a[b]=2").a, "1");
    assert_eq!(right::<Text>("a[b]=2&a=1").a, "1");
    assert_eq!(right::<Group>("a=1&a[b]=2").a["b"], "2");
    assert_eq!(wrong::<Text>("a[b]=2"), ["the field `a` is missing"]);
    assert!(wrong::<Group>("a=1")[0].starts_with("the field `a`: a single value"));
    assert_eq!(right::<Text>("a=1&a[=2&a[b=3&a]=4&[a]=5").a, "1");
}

#[test]
fn deny_unknown_fields_applies_to_nested_types() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Strict {
        id: u32,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        strict: Vec<Strict>,
    }
    assert_eq!(
        wrong::<Outer>("strict[0][x]=1&strict[0][id]=y&strict[1][id]=1"),
        ["the field `strict[0][x]` is not expected here", "the field `strict[0][id]`: invalid digit found in string"]
    );
}

#[test]
fn a_group_that_cannot_be_read_does_not_hide_later_errors() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "String")]
    struct Mail;
    impl TryFrom<String> for Mail {
        type Error = String;
        fn try_from(_: String) -> Result<Mail, String> {
            Err("This is not a mail address.".to_owned())
        }
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Person {
        mail: Mail,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Team {
        head: Person,
        others: Vec<Person>,
        size: u32,
    }
    assert_eq!(
        wrong::<Team>("head[mail]=x&others[0][mail]=y&size=z"),
        [
            "the field `head[mail]`: This is not a mail address.",
            "the field `others[0][mail]`: This is not a mail address.",
            "the field `size`: invalid digit found in string",
        ]
    );
}

#[test]
fn a_long_list_with_blank_fields_is_read_only_a_few_times() {
    thread_local!(static READ: Cell<usize> = const { Cell::new(0) });
    #[derive(Deserialize)]
    #[serde(from = "String")]
    struct Counted;
    impl From<String> for Counted {
        fn from(_: String) -> Counted {
            READ.set(READ.get() + 1);
            Counted
        }
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Row {
        name: Counted,
        ticked: bool,
        many: Vec<u32>,
        age: Option<u32>,
    }
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Row>,
    }
    let row = |number| format!("rows[{number}][age]=&rows[{number}][name]=x");
    let text: Vec<String> = (0..500).map(row).collect();
    assert_eq!(right::<Rows>(&text.join("&")).rows.len(), 500);
    assert!(READ.get() <= 4 * 500, "{}", READ.get());

    #[derive(Deserialize)]
    struct Number(#[serde(deserialize_with = "counted")] Option<u32>);
    fn counted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        READ.set(READ.get() + 1);
        Option::deserialize(deserializer)
    }
    READ.set(0);
    let text: Vec<String> = (0..500).map(|number| format!("name {number}=")).collect();
    let map: HashMap<String, Number> = right(&text.join("&"));
    assert!(map.len() == 500 && map.values().all(|number| number.0.is_none()));
    assert!(READ.get() <= 3 * 500, "{}", READ.get());

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Spare {
        name: Counted,
        age: u32,
    }
    #[derive(Deserialize)]
    struct Spares {
        rows: Vec<Option<Spare>>,
    }
    READ.set(0);
    let text: Vec<String> = (0..300).map(|number| format!("rows[{number}][name]=&rows[{number}][age]=")).collect();
    assert!(right::<Spares>(&text.join("&")).rows.iter().all(Option::is_none));
    assert!(READ.get() <= 3 * 300, "{}", READ.get());
}

#[test]
fn a_blank_text_beside_a_blank_number_stays_a_text() {
    #[derive(Deserialize)]
    struct Search {
        text: Option<String>,
        page: Option<u32>,
        #[serde(flatten)]
        rest: HashMap<String, String>,
    }
    let search: Search = right("text=&page=&x=");
    assert_eq!((search.text.as_deref(), search.page, search.rest["x"].as_str()), (Some(""), None, ""));
}

#[test]
fn an_endlessly_recursive_type_is_an_error() {
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Endless {
        next: Box<Endless>,
    }
    let reading = read::<Endless>(&sent("next[next]=1"));
    assert!(reading.value.is_none() && !reading.refusals.is_empty());
    #[derive(Deserialize)]
    struct Comment {
        text: String,
        replies: Vec<Comment>,
    }
    let deep = right::<Comment>("text=a&replies[0][text]=b&replies[0][replies][0][text]=c");
    assert_eq!((&deep.text[..], &deep.replies[0].replies[0].text[..]), ("a", "c"));
}

proptest::proptest! {
    #[test]
    fn any_names_are_read_without_a_panic(
        names in proptest::collection::vec("(address|items|tags|billing|x)?(\\[(city|zip|sku|0|9{20}|x)?\\]){0,10}[a\\[\\]]?", 0..40),
        text in "(1|on|x| |)",
    ) {
        let sent: Vec<_> = names.into_iter().map(|name| (name, Sent::Text(text.clone()))).collect();
        let reading = read::<Cart>(&sent);
        proptest::prop_assert!(reading.value.is_some() || !reading.refusals.is_empty());
        read::<HashMap<String, serde_json::Value>>(&sent);
        let texts = read::<HashMap<String, Vec<String>>>(&sent);
        proptest::prop_assert!(texts.refusals.is_empty(), "{:?}", texts.refusals);
    }
}

#[test]
fn friendly_messages_say_what_to_do() {
    let friendly =
        |text: &str| -> Vec<String> { read::<Order>(&sent(text)).refusals.iter().map(Refusal::friendly).collect() };
    assert_eq!(
        friendly("email=a&quantity=&price=x&size=&tags=a"),
        ["Please fill this in.", "Please enter a number.", "Please fill this in."]
    );
    assert_eq!(friendly("email=a&quantity=99999999999&price=1&size=small"), ["Please enter a smaller number."]);
    assert_eq!(friendly("email=a&quantity=-1&price=1&size=small"), ["Please enter a number that is not negative."]);
    assert_eq!(friendly("email=a&quantity=--1&price=1&size=small"), ["Please enter a whole number."]);
}

#[test]
fn takes_file_is_true_for_the_upload_fields_of_a_type() {
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Photo {
        title: String,
        photo: Upload,
        cover: Option<Upload>,
        letters: Vec<Upload>,
        #[serde(default, rename = "pictures[]")]
        pictures: Vec<Upload>,
        items: Vec<Item>,
        by_name: HashMap<String, Upload>,
        #[serde(deserialize_with = "size")]
        size: u64,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Item {
        name: String,
        picture: Option<Upload>,
    }
    fn size<'de, D: Deserializer<'de>>(field: D) -> Result<u64, D::Error> {
        Ok(Upload::deserialize(field)?.size())
    }
    let yes = ["photo", "cover", "letters", "pictures[]", "items[0][picture]", "items[][picture]", "size"];
    // A map has no named fields, and receives texts only.
    let no = ["title", "items[0][name]", "items[0][other]", "items[0]", "other", "", "photo[0]", "_once", "by_name[x]"];
    for (names, takes) in [(&yes[..], true), (&no[..], false)] {
        for name in names {
            assert_eq!(takes_file::<Photo>(name), takes, "{name}");
        }
    }
    assert!(!takes_file::<HashMap<String, String>>("photo"));
    assert!(!takes_file::<HashMap<String, Upload>>("photo"));
    assert!(!takes_file::<Order>("note"));
}
