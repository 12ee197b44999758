//! News from other sites: several sources, requested simultaneously in the background, each shown as soon as it responds.
//!
//! All visitors see the same board. Opening the page starts requests to the sources whose news are old. The page does not
//! wait for them, and every open page shows new posts as they arrive. The response of a source is untrusted: it is limited in
//! time and size, read as text, and links lead only to web pages.

use std::env;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use aside::{Error, Failure, Live, Outcome, Pool, Request, Response, Result, Status, Task, context};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use quick_xml::Reader;
use quick_xml::escape::resolve_html5_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use serde::{Serialize, Serializer};
use url::Url;

use crate::site::OUR_FAULT;

/// The default of `DARKROOM_FEEDS`.
const SOURCES: &str = "PetaPixel=https://petapixel.com/feed/, \
    Digital_Photography_School=https://digital-photography-school.com/feed/, \
    Astronomy_Picture_of_the_Day=https://apod.nasa.gov/apod.rss, \
    Space.com=https://www.space.com/feeds/tag/image-of-the-day";

/// The time limit for a source's response, including name resolution and redirects.
const PATIENCE: Duration = Duration::from_secs(10);

/// The age of news after which a source is requested again, and the same after a failure.
const FRESH: SignedDuration = SignedDuration::from_mins(10);
const FAILED: SignedDuration = SignedDuration::from_mins(1);

/// The number of simultaneous requests to sources.
const AT_ONCE: usize = 8;

/// The limits on a response: its uncompressed bytes, the number of posts shown, and the characters of a title.
const MAX_ANSWER: u64 = 1 << 20;
const MAX_POSTS: usize = 5;
const MAX_TITLE: usize = 120;

/// The sources, and the time limit of a request.
#[derive(Clone, Debug)]
pub struct Sources {
    pub list: Vec<Source>,
    pub patience: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    url: Url,
}

impl Sources {
    /// Reads the settings from the environment.
    pub fn from_env() -> Result<Sources> {
        let named = env::var("DARKROOM_FEEDS").ok().filter(|named| !named.trim().is_empty());
        Sources::parse(named.as_deref().unwrap_or(SOURCES))
    }

    /// Parses `name=URL` pairs or URLs, separated by commas or spaces. In a name, `_` stands for a space.
    pub fn parse(named: &str) -> Result<Sources> {
        let words = named.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        Ok(Sources { list: words.map(source).collect::<Result<_>>()?, patience: PATIENCE })
    }
}

fn source(word: &str) -> Result<Source> {
    let named = word.split_once('=').filter(|(name, _)| !name.contains(':'));
    let (name, address) = named.unwrap_or(("", word));
    let url = Url::parse(address).ok().filter(is_web).ok_or_else(|| {
        Error::internal(format!(
            "DARKROOM_FEEDS names {word:?}, which is no web address: write https://example.org/feed.xml, or \
             Name=https://example.org/feed.xml"
        ))
    })?;
    let name = if name.is_empty() { url.host_str().unwrap_or_default() } else { name };
    Ok(Source { name: name.replace('_', " "), url })
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// The sources, and the board that shows their news.
pub struct Feed {
    sources: Vec<Source>,
    pub board: Live<Board>,
    agent: ureq::Agent,
    pool: Pool,
}

/// The content of the page.
#[derive(Clone, Debug, Serialize)]
pub struct Board {
    pub news: Vec<News>,
}

/// The news and the state of a source.
#[derive(Clone, Debug, Serialize)]
pub struct News {
    name: String,
    posts: Vec<Post>,
    /// The reason of the last failure. Older posts are still shown.
    failure: Option<String>,
    /// True while a request is running.
    is_being_asked: bool,
    /// The time of the last response or failure.
    #[serde(serialize_with = "for_people")]
    pub asked_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Post {
    title: String,
    /// `None` if the link does not lead to a web page.
    link: Option<String>,
}

/// `GET /feed`
pub fn show(req: &mut Request) -> Result<Response> {
    let feed = req.state::<Feed>();
    feed.refresh();
    let live = feed.board.fragment(req, &req.url_for("feed_live", &[])?, "news.html")?;
    req.render("feed.html", context! { here => "feed", live })
}

/// `GET /feed/live`. After a restart an open page reconnects here first, so this requests the sources too.
pub fn follow(req: &mut Request) -> Result<Response> {
    let feed = req.state::<Feed>();
    feed.refresh();
    req.live(&feed.board, "news.html")
}

impl Feed {
    pub fn new(sources: Sources) -> Feed {
        let news = sources.list.iter().map(|source| News::none_yet(&source.name)).collect();
        Feed {
            board: Live::new(Board { news }),
            agent: agent(sources.patience),
            sources: sources.list,
            pool: Pool::new(AT_ONCE),
        }
    }

    /// Requests the sources whose news are old, each in a separate task.
    fn refresh(self: &Arc<Feed>) {
        for place in self.take_due() {
            let feed = self.clone();
            self.pool.spawn(move || feed.ask(place));
        }
    }

    /// Returns the indexes of the sources to be requested, and marks them: if two pages are opened at the same time, only one
    /// requests them.
    fn take_due(&self) -> Vec<usize> {
        let now = Timestamp::now();
        // A change is sent to every open page, so the state is changed only if a source is due.
        if !self.board.get().news.iter().any(|news| news.is_due(now)) {
            return Vec::new();
        }
        self.board.update(|board| {
            let due = board.news.iter_mut().enumerate().filter(|(_, news)| news.is_due(now));
            due.map(|(place, news)| (news.is_being_asked = true, place).1).collect()
        })
    }

    /// Requests a source, and shows its posts. A nested task does the work, so that the log names the source and the reason
    /// of a failure, and a panic is a failure too.
    fn ask(&self, place: usize) {
        let (agent, source) = (self.agent.clone(), self.sources[place].clone());
        let name = format!("ask {}", source.name);
        let outcome = Task::named(name).spawn(move |_| posts(&fetch(&agent, &source.url)?, &source.url)).join();
        self.board.update(|board| board.news[place].answered(outcome));
    }
}

impl News {
    fn none_yet(name: &str) -> News {
        News { name: name.to_owned(), posts: Vec::new(), failure: None, is_being_asked: false, asked_at: None }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let keeps = if self.failure.is_some() { FAILED } else { FRESH };
        !self.is_being_asked && self.asked_at.is_none_or(|asked| now.duration_since(asked) > keeps)
    }

    fn answered(&mut self, outcome: Outcome<Vec<Post>>) {
        self.is_being_asked = false;
        self.asked_at = Some(Timestamp::now());
        self.failure = match outcome {
            Ok(posts) => {
                self.posts = posts;
                None
            }
            Err(Failure::Error(error)) => Some(error.message().unwrap_or(OUR_FAULT).to_owned()),
            Err(_) => Some(OUR_FAULT.to_owned()),
        };
    }
}

/// A time as a page shows it, with its age at that moment.
#[derive(Serialize)]
struct When {
    machine: String,
    clock: String,
    age: String,
}

fn for_people<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let when = time.map(|time| When {
        machine: time.to_string(),
        clock: time.to_zoned(TimeZone::system()).strftime("%H:%M %Z").to_string(),
        age: age(Timestamp::now().duration_since(time)),
    });
    when.serialize(serializer)
}

fn age(age: SignedDuration) -> String {
    match age.as_mins() {
        ..1 => "less than a minute".into(),
        1 => "a minute".into(),
        minutes @ 2..120 => format!("{minutes} minutes"),
        minutes => format!("{} hours", minutes / 60),
    }
}

fn agent(patience: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(patience))
        .max_redirects(3)
        .user_agent("darkroom (an example of aside)")
        .accept("application/rss+xml, application/atom+xml, application/xml;q=0.9, text/xml;q=0.8");
    config.build().new_agent()
}

/// Returns the response of a source.
fn fetch(agent: &ureq::Agent, url: &Url) -> Result<String> {
    let answer = agent.get(url.as_str()).call().map_err(no_answer)?;
    let mut bytes = Vec::new();
    // Limited here, because the client's own limit counts compressed bytes, which may expand a lot.
    let mut reader = answer.into_body().into_reader().take(MAX_ANSWER + 1);
    reader.read_to_end(&mut bytes).map_err(|error: io::Error| no_answer(error.into()))?;
    if bytes.len() as u64 > MAX_ANSWER {
        return Err(failed("It sent more than we read"));
    }
    String::from_utf8(bytes).map_err(|error| no_feed().with_source(error))
}

/// Returns the message for visitors. The log has the details.
fn no_answer(error: ureq::Error) -> Error {
    let words = match &error {
        ureq::Error::Timeout(_) => "It did not answer in time",
        ureq::Error::StatusCode(404 | 410) => "There is nothing at its address any more",
        ureq::Error::StatusCode(_) => "It answered with an error of its own",
        ureq::Error::TooManyRedirects => "It sends us from one address to the next",
        _ => "It could not be reached",
    };
    failed(words).with_source(error)
}

fn no_feed() -> Error {
    failed("What it sent is no feed that we can read")
}

fn failed(words: &str) -> Error {
    Error::new(Status::new(502), words)
}

/// Returns the first posts of a feed, RSS or Atom. It reads tag by tag, in time proportional to the input, and stores nothing
/// else. A document type is refused, and with it entities that expand.
fn posts(feed: &str, base: &Url) -> Result<Vec<Post>> {
    let mut reader = Reader::from_str(feed.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let (mut posts, mut is_feed) = (Vec::new(), false);
    while posts.len() < MAX_POSTS {
        match reader.read_event().map_err(malformed)? {
            Event::Start(tag) if !is_feed && matches!(name(&tag), "rss" | "feed" | "rdf:RDF") => is_feed = true,
            Event::Start(_) if !is_feed => return Err(no_feed()),
            Event::Start(tag) if matches!(name(&tag), "item" | "entry") => posts.push(post(&mut reader, base)?),
            Event::End(tag) if matches!(tag.name().into_inner(), "rss" | "feed" | "rdf:RDF") => break,
            Event::DocType(_) | Event::Eof => return Err(no_feed()),
            _ => {}
        }
    }
    Ok(posts)
}

fn malformed(error: quick_xml::Error) -> Error {
    no_feed().with_source(error)
}

/// Returns the name with its prefix: elements of other vocabularies have one, and their own titles and links.
fn name<'t>(tag: &'t BytesStart<'_>) -> &'t str {
    tag.name().into_inner()
}

/// Reads a post to its end.
fn post(reader: &mut Reader<&[u8]>, base: &Url) -> Result<Post> {
    let (mut title, mut link) = (String::new(), None);
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(tag) if name(&tag) == "title" => title = words(&text(reader)?, attribute(&tag, "type")),
            Event::Start(tag) if name(&tag) == "link" && link.is_none() && leads_to_it(&tag) => {
                // An attribute in Atom, text in RSS.
                let within = text(reader)?;
                link = base.join(attribute(&tag, "href").unwrap_or(within).trim()).ok();
            }
            Event::Start(tag) => {
                reader.read_to_end(tag.name()).map_err(malformed)?;
            }
            Event::End(_) => break,
            Event::Eof => return Err(no_feed()),
            _ => {}
        }
    }
    Ok(Post { title, link: link.filter(is_web).map(String::from) })
}

fn leads_to_it(link: &BytesStart<'_>) -> bool {
    attribute(link, "rel").is_none_or(|rel| rel == "alternate")
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    // Without the check for duplicates, which is slow for a hundred thousand attributes.
    let found = tag.attributes().with_checks(false).flatten().find(|attribute| attribute.key.into_inner() == name);
    found.map(|attribute| decoded(&attribute.value))
}

/// Reads the text of an element to its end, including that of nested elements.
fn text(reader: &mut Reader<&[u8]>) -> Result<String> {
    let (mut text, mut depth) = (String::new(), 1);
    while depth > 0 {
        match reader.read_event().map_err(malformed)? {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Text(part) => text += &part,
            Event::CData(part) => text += &part,
            Event::GeneralRef(entity) => text += &meaning(&entity).ok_or_else(no_feed)?,
            Event::Eof => return Err(no_feed()),
            _ => {}
        }
    }
    Ok(text)
}

/// Converts a title to one line of plain text. It is HTML unless its type says otherwise, as in Atom.
fn words(title: &str, kind: Option<String>) -> String {
    let is_html = kind.is_none_or(|kind| kind == "html");
    let text = if is_html { decoded(&without_tags(title)) } else { title.to_owned() };
    let visible = text.replace(|c: char| c.is_control(), " ");
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_TITLE) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

fn without_tags(html: &str) -> String {
    let mut pieces = html.split('<');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once('>') {
            Some((tag, rest)) if tag.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!') => {
                text += rest;
            }
            // "f < 8" is not a tag.
            _ => text.extend(["<", piece]),
        }
    }
    text
}

/// Replaces entities by their characters; unknown ones stay.
fn decoded(html: &str) -> String {
    let mut pieces = html.split('&');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(';').and_then(|(entity, rest)| Some((meaning(entity)?, rest))) {
            Some((meaning, rest)) => text.extend([&meaning, rest]),
            None => text.extend(["&", piece]),
        }
    }
    text
}

fn meaning(entity: &str) -> Option<String> {
    match BytesRef::new(entity).resolve_char_ref() {
        Ok(Some(character)) => Some(character.into()),
        Ok(None) => resolve_html5_entity(entity).map(str::to_owned),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(feed: &str) -> Vec<(String, Option<String>)> {
        let base = Url::parse("https://news.example/photos/feed.xml").unwrap();
        posts(feed, &base).unwrap().into_iter().map(|post| (post.title, post.link)).collect()
    }

    fn one(title: &str, link: Option<&str>) -> Vec<(String, Option<String>)> {
        vec![(title.to_owned(), link.map(str::to_owned))]
    }

    #[test]
    fn rss_atom_and_rdf_are_read() {
        let rss = "<rss version='2.0' xmlns:m='http://search.yahoo.com/mrss/'><channel><title>News</title><item>\
            <m:title>Not this</m:title><title>Fog &amp;amp; light</title><link> https://a.example/1 </link></item>\
            </channel></rss>";
        assert_eq!(read(rss), one("Fog & light", Some("https://a.example/1")));
        let atom = "\u{feff}<?xml version='1.0'?><feed xmlns='http://www.w3.org/2005/Atom'><entry>\
            <link rel='enclosure' href='/a.jpg'/><link href='../2?a&amp;b'/><source><title>Not this</title></source>\
            <title type='text'>f &lt;b&gt; 8</title></entry></feed>";
        assert_eq!(read(atom), one("f <b> 8", Some("https://news.example/2?a&b")));
        let html = "<feed><entry><title type='html'>&lt;b>Fog&lt;/b></title></entry></feed>";
        assert_eq!(read(html), one("Fog", None));
        let xhtml = "<feed><entry><title type='xhtml'><div>One <b>two</b></div></title></entry></feed>";
        assert_eq!(read(xhtml), one("One two", None));
        let rdf = "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns='http://purl.org/rss/1.0/'>\
            <item><title>Old</title><link>http://a.example/</link></item></rdf:RDF>";
        assert_eq!(read(rdf), one("Old", Some("http://a.example/")));
    }

    #[test]
    fn a_title_is_one_line_of_plain_text() {
        let titled = |title: &str| read(&format!("<rss><item><title>{title}</title></item></rss>")).remove(0).0;
        for (title, expected) in [
            ("<![CDATA[<b>Fog</b> &#8217;n&rsquo; <script>light</script>]]>", "Fog ’n’ light"),
            ("f &amp;lt; 8 <![CDATA[& a < b > c &nope; &#xZ; &]]>", "f < 8 & a < b > c &nope; &#xZ; &"),
            ("One\n\t two\u{85}three &amp;#7;", "One two three"),
            ("", ""),
        ] {
            assert_eq!(titled(title), expected, "{title}");
        }
        assert_eq!(titled(&"й".repeat(500)), format!("{}…", "й".repeat(MAX_TITLE)));
    }

    #[test]
    fn only_web_pages_are_linked() {
        for link in
            ["javascript:alert(1)", " JavaScript:alert(1)", "data:text/html,x", "file:///etc/passwd", "mailto:a@b.c"]
        {
            let feed = format!("<rss><item><title>Click</title><link>{link}</link></item></rss>");
            assert_eq!(read(&feed), one("Click", None), "{link}");
        }
        let feed = "<rss><item><title>Fine</title><link>//b.example/\"&gt;&lt;x</link></item></rss>";
        assert_eq!(read(feed), one("Fine", Some("https://b.example/%22%3E%3Cx")));
    }

    #[test]
    fn a_response_that_is_not_a_feed_is_refused_and_a_long_feed_is_cut() {
        let base = Url::parse("https://news.example/").unwrap();
        let laughs =
            "<!DOCTYPE rss [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><rss><item><title>&b;</title></item></rss>";
        for no_feed in ["", "Hello", "<html/>", "<rss>", "<rss><item>", "<rss><item><title>x</rss>", laughs] {
            let error = posts(no_feed, &base).unwrap_err();
            assert_eq!(error.message(), Some("What it sent is no feed that we can read"), "{no_feed}");
        }
        assert!(posts("<rss version='2.0'><channel/></rss>", &base).unwrap().is_empty());
        let long = format!("<rss>{}</rss>", "<item><title>x</title></item>".repeat(100));
        assert_eq!(posts(&long, &base).unwrap().len(), MAX_POSTS);
    }

    /// Each input would take minutes or gigabytes in a parser that builds a tree or compares all attributes.
    #[test]
    fn hostile_megabytes_are_parsed_in_linear_time() {
        let base = Url::parse("https://news.example/").unwrap();
        let attributes: String = (0..90_000).map(|n| format!("a{n}='' ")).collect();
        let spaces: String = (0..40_000).map(|n| format!("<a xmlns:a{n}='x'>")).collect();
        for inside in [format!("<link {attributes}/>"), spaces, "<".repeat(1 << 20), "&amp;lt;".repeat(1 << 17)] {
            let _ = posts(&format!("<rss><item><title>{inside}</title></item></rss>"), &base);
            let _ = posts(&format!("<rss><item>{inside}</item></rss>"), &base);
        }
    }

    #[test]
    fn sources_may_have_names() {
        let sources =
            Sources::parse("Peta_Pixel=https://a.example/feed?x=1, http://b.example:8080/?name=1\n https://c.example")
                .unwrap();
        let names: Vec<(&str, &str)> = sources.list.iter().map(|source| (&*source.name, source.url.as_str())).collect();
        assert_eq!(
            names,
            [
                ("Peta Pixel", "https://a.example/feed?x=1"),
                ("b.example", "http://b.example:8080/?name=1"),
                ("c.example", "https://c.example/")
            ]
        );
        assert_eq!(Sources::parse(SOURCES).unwrap().list.len(), 4);
        for wrong in ["a.example/feed", "Peta=", "file:///etc/passwd", "Peta=ftp://a.example"] {
            assert!(Sources::parse(wrong).unwrap_err().chain().contains(&format!("{wrong:?}")), "{wrong}");
        }
    }

    #[test]
    fn a_source_is_requested_again_after_ten_minutes_or_one_after_a_failure() {
        let now = Timestamp::now();
        let ago = |minutes| News { asked_at: Some(now - SignedDuration::from_mins(minutes)), ..News::none_yet("a") };
        let failed = |minutes| News { failure: Some("It could not be reached".into()), ..ago(minutes) };
        assert!(News::none_yet("a").is_due(now) && !ago(9).is_due(now) && ago(11).is_due(now));
        assert!(!failed(0).is_due(now) && failed(2).is_due(now));
        assert!(!News { is_being_asked: true, ..ago(11) }.is_due(now));
    }

    #[test]
    fn an_internal_fault_is_shown_without_details() {
        let mut news = News { posts: vec![Post { title: "Fog".into(), link: None }], ..News::none_yet("a") };
        let foreign = Failure::Error(Error::from_box("a secret"));
        for failure in [foreign, Failure::Abandoned] {
            news.is_being_asked = true;
            news.answered(Err(failure));
            assert_eq!((news.failure.as_deref(), news.posts.len()), (Some(OUR_FAULT), 1));
            assert!(!news.is_being_asked && news.asked_at.is_some());
        }
        news.answered(Ok(Vec::new()));
        assert_eq!((news.failure, news.posts.len()), (None, 0));
    }

    #[test]
    fn an_age_is_shown_as_text() {
        let words = [0, 1, 2, 119, 120].map(|minutes| age(SignedDuration::from_mins(minutes)));
        assert_eq!(words, ["less than a minute", "a minute", "2 minutes", "119 minutes", "2 hours"]);
    }
}
