//! What Reflex's page on background tasks shows, sample by sample: `cargo run --example seed_reflex`.
//!
//! Posts come from `POSTS_URL` + `/products/1`, words from `/words/1`; unless it is set, from a slow service that this program
//! starts for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use aside::{App, Config, Error, Live, LiveMap, Request, Response, Result, background, context, redirect};
use serde::Serialize;

fn main() -> Result<()> {
    let config = Config::from_env()?;
    if let Ok(posts) = std::env::var("POSTS_URL") {
        return app(config, posts).run();
    }
    let service = slow_service().start()?;
    app(config, format!("http://{}", service.addr())).run()
}

/// Half a second for each answer.
fn slow_service() -> App {
    let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
    App::with_config(config)
        .before(|_: &mut Request| {
            std::thread::sleep(Duration::from_millis(500));
            None::<Response>
        })
        .get("/products/{id}", |req: &mut Request| aside::ok(format!("Product {}", req.param::<u32>("id")?)))
        .get("/words/{text}", |_: &mut Request| "lorem ipsum dolor ")
}

struct Site {
    url: String,
    agent: ureq::Agent,
    /// Each visitor's own.
    feeds: LiveMap<String, Feed>,
    texts: LiveMap<String, Texts>,
}

impl Site {
    fn fetch(&self, path: &str) -> Result<String> {
        Ok(self.agent.get(format!("{}{path}", self.url)).call()?.body_mut().read_to_string()?)
    }
}

fn app(config: Config, url: impl Into<String>) -> App {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().into();
    App::with_config(config)
        .state(Site { url: url.into(), agent, feeds: LiveMap::new(), texts: LiveMap::new() })
        .template("page.html", PAGE)
        .template("posts.html", POSTS)
        .template("texts.html", TEXTS)
        .get("/", page)
        .get("/posts/live", follow_posts)
        .post("/post", get_post)
        .post("/posts", get_posts)
        .post("/posts/at-once", get_posts_at_once)
        .get("/texts/live", follow_texts)
        .post("/texts", add_text)
        .post("/texts/{id}/toggle", toggle_text)
        .post("/texts/{id}/remove", remove_text)
}

fn feed_of(req: &mut Request) -> Result<Live<Feed>> {
    let visitor = req.session().id()?;
    Ok(req.state::<Site>().feeds.entry(visitor, Feed::default))
}

fn follow_posts(req: &mut Request) -> Result<Response> {
    let feed = feed_of(req)?;
    req.live(&feed, "posts.html")
}

fn texts_of(req: &mut Request) -> Result<Live<Texts>> {
    let visitor = req.session().id()?;
    Ok(req.state::<Site>().texts.entry(visitor, Texts::default))
}

fn follow_texts(req: &mut Request) -> Result<Response> {
    let texts = texts_of(req)?;
    req.live(&texts, "texts.html")
}

fn page(req: &mut Request) -> Result<Response> {
    let posts = feed_of(req)?.part(req, "/posts/live", "posts.html")?;
    let texts = texts_of(req)?.part(req, "/texts/live", "texts.html")?;
    req.render("page.html", context! { posts, texts })
}

// Sample 1: "Why?"
// Reflex fetches one post at a time and queues itself for the next, since a slow event blocks the others. Here it is one
// post for each click, and a handler that waits keeps nobody else waiting, not even the same visitor.
#[derive(Clone, Default, Serialize)]
struct Feed {
    last_id: u32,
    posts: BTreeMap<u32, String>,
}

fn get_post(req: &mut Request) -> Result<Response> {
    let (site, feed) = (req.state::<Site>(), feed_of(req)?);
    let id = feed.update(|feed| {
        feed.last_id += 1;
        feed.last_id - 1
    });
    if id < 10 {
        let post = site.fetch(&format!("/products/{id}"))?;
        feed.update(|feed| feed.posts.insert(id, post));
    }
    Ok(redirect("/"))
}

// Sample 2: "Using Background Tasks"
// No second kind of function: a closure. What it does between two updates holds no lock.
fn get_posts(req: &mut Request) -> Result<Response> {
    let (site, feed) = (req.state::<Site>(), feed_of(req)?);
    background(move || {
        for id in 0..10 {
            let post = site.fetch(&format!("/products/{id}"))?;
            feed.update(|feed| feed.posts.insert(id, post));
        }
        aside::ok(())
    });
    Ok(redirect("/"))
}

// Sample 3: "Parallelizing Work"
// Ten calls at once, each shown as it comes. One that fails is shown as failed, and its reason is in the log.
fn get_posts_at_once(req: &mut Request) -> Result<Response> {
    for id in 0..10 {
        let (site, feed) = (req.state::<Site>(), feed_of(req)?);
        background(move || {
            let post = site.fetch(&format!("/products/{id}"));
            let shown = post.as_ref().map_or("This post did not come.", String::as_str).to_owned();
            feed.update(|feed| feed.posts.insert(id, shown));
            post.map(drop)
        });
    }
    Ok(redirect("/"))
}

// Sample 4: "Full code for this example is available in reflex-examples/lorem-stream"
// As there: several texts at once, each with its progress, to be stopped, resumed and removed. A stop and a resume in quick
// succession make two tasks of one text there; here the run that was stopped writes nothing more.
#[derive(Clone, Default, Serialize)]
struct Texts {
    texts: BTreeMap<u32, Text>,
    runs: u32,
}

#[derive(Clone, Default, Serialize)]
struct Text {
    words: String,
    progress: u32,
    end_at: u32,
    /// The one that writes.
    run: Option<u32>,
}

fn stream_text(site: &Site, texts: &Live<Texts>, id: u32, run: u32) -> Result<()> {
    let mut goes_on = true;
    while goes_on {
        let words = site.fetch(&format!("/words/{id}"));
        goes_on = texts.update(|texts| texts.add(id, run, words.as_deref().ok()));
        words?;
    }
    Ok(())
}

impl Texts {
    /// Adds words to a text, unless it was stopped or removed meanwhile; without words it stops. Says whether it goes on.
    fn add(&mut self, id: u32, run: u32, words: Option<&str>) -> bool {
        let Some(text) = self.texts.get_mut(&id).filter(|text| text.run == Some(run)) else { return false };
        text.words += words.unwrap_or_default();
        text.progress += u32::from(words.is_some());
        text.run = (words.is_some() && text.progress < text.end_at).then_some(run);
        text.run.is_some()
    }

    /// The run of a text that begins, goes on, or begins anew.
    fn begin(&mut self, id: u32) -> u32 {
        self.runs += 1;
        let text = self.texts.entry(id).or_default();
        if text.progress >= text.end_at {
            *text = Text { end_at: 7 + id % 6, ..Text::default() };
        }
        text.run = Some(self.runs);
        self.runs
    }
}

/// Streams that text, or a new one.
fn stream(req: &mut Request, texts: Live<Texts>, id: Option<u32>) -> Response {
    let site = req.state::<Site>();
    let (id, run) = texts.update(|texts| {
        let id = id.unwrap_or_else(|| texts.texts.keys().next_back().map_or(1, |last| last + 1));
        (id, texts.begin(id))
    });
    background(move || stream_text(&site, &texts, id, run));
    redirect("/")
}

fn add_text(req: &mut Request) -> Result<Response> {
    let texts = texts_of(req)?;
    Ok(stream(req, texts, None))
}

fn toggle_text(req: &mut Request) -> Result<Response> {
    let (texts, id) = (texts_of(req)?, req.param("id")?);
    let was_running = texts.update(|texts| match texts.texts.get_mut(&id) {
        Some(text) => Ok(text.run.take().is_some()),
        None => Err(Error::not_found("There is no such text.")),
    })?;
    Ok(if was_running { redirect("/") } else { stream(req, texts, Some(id)) })
}

fn remove_text(req: &mut Request) -> Result<Response> {
    let id: u32 = req.param("id")?;
    texts_of(req)?.update(|texts| texts.texts.remove(&id));
    Ok(redirect("/"))
}

// Caveat 1: "This works okay for some types of problems, but it complicates the code"
// There is no chain of steps: a task is a loop, sample 2.

// Caveat 2: "they must be async and they cannot directly modify the state"
// A task changes the state as a handler does, through `update`. There is no other way for either: that the lock is taken
// is the compiler's business.

// Caveat 3: "So what does async with self actually do?"
// `update` and `lock` do the same: inside are the latest values and nobody else changes them; when it is over every page that
// watches shows the new ones. Who reads or renders holds no lock, and what is half changed at a panic is thrown away.

// The page

const POSTS: &str = r#"<ol>
{% for id, post in posts | items %}<li id="post-{{ id }}">{{ post }}</li>
{% else %}<li>No posts yet.</li>
{% endfor %}</ol>
"#;

const TEXTS: &str = r#"{% for id, text in texts | items %}<section id="text-{{ id }}" aria-label="Text {{ id }}">
<progress value="{{ text.progress }}" max="{{ text.end_at }}" aria-label="Progress"></progress>
<form method="post" action="/texts/{{ id }}/toggle"><button>
{%- if text.run is not none %}Stop{% elif text.progress < text.end_at %}Resume{% else %}Again{% endif -%}
</button></form>
<form method="post" action="/texts/{{ id }}/remove"><button>Remove</button></form>
<p>{{ text.words }}</p>
</section>
{% endfor %}"#;

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reflex's samples</title>
<h1>Reflex's samples</h1>
<h2>Posts</h2>
<form method="post">
<button formaction="/post">Fetch one</button>
<button formaction="/posts">Fetch ten, one after the other</button>
<button formaction="/posts/at-once">Fetch ten at once</button>
</form>
{{ posts }}
<h2>Texts</h2>
<form method="post" action="/texts"><button>New text</button></form>
{{ texts }}
</html>
"#;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use aside::Status;
    use aside::testing::TestClient;

    use super::*;
    use crate::seeds::{Service, wait_for};

    fn client(service: &Service) -> TestClient {
        TestClient::new(app(Config::default(), service.url()))
    }

    #[test]
    fn sample_1_a_handler_that_fetches_keeps_nobody_waiting_not_even_its_visitor() {
        let service = Service::start();
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let site = app(config, service.url()).start().unwrap();
        let url = format!("http://{}", site.addr());
        let first = ureq::get(&url).call().unwrap();
        let cookie = first.headers()["Set-Cookie"].to_str().unwrap().split(';').next().unwrap();
        let page = || ureq::get(&url).header("Cookie", cookie).call().unwrap().body_mut().read_to_string().unwrap();
        thread::scope(|scope| {
            let fetching =
                scope.spawn(|| ureq::post(format!("{url}/post")).header("Cookie", cookie).send_empty().unwrap());
            let call = service.next_call();
            assert!(page().contains("No posts yet."), "while the handler waits for {}", call.path);
            call.answer("The first post");
            fetching.join().unwrap();
            assert!(page().contains("<li id=\"post-0\">The first post</li>"));
        });
        site.stop();
    }

    #[test]
    fn sample_2_caveat_1_each_post_is_on_the_page_as_it_comes() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/posts").send().location(), Some("/"));
        let mut events = client.events("/posts/live");
        for id in 0..10 {
            let call = service.next_call();
            assert_eq!(call.path, format!("/products/{id}"));
            call.answer(&format!("Post number {id}"));
            wait_for(&mut events, &format!("Post number {id}"));
        }
        client.settle();
        assert_eq!(client.get("/").text().matches("Post number ").count(), 10);
        let mut other = client.request("GET", "/").header("Cookie", "none=at-all").send().text().to_owned();
        other.truncate(other.find("<h2>Texts").unwrap());
        assert!(other.contains("No posts yet."), "another visitor has a page of his own: {other}");
    }

    #[test]
    fn sample_3_ten_at_once_and_one_that_fails_is_shown_as_failed() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/posts/at-once").send().location(), Some("/"));
        let mut events = client.events("/posts/live");
        let mut calls = service.calls::<10>().into_iter();
        calls.next().unwrap().fail();
        wait_for(&mut events, "<li id=\"post-0\">This post did not come.</li>");
        for call in calls.rev() {
            let path = call.path.clone();
            call.answer(&path);
            wait_for(&mut events, &path);
        }
        client.settle();
        assert_eq!(client.failures().len(), 1);
        let page = client.get("/").text().to_owned();
        let places: Vec<_> = (1..10).map(|id| page.find(&format!("/products/{id}<")).unwrap()).collect();
        assert!(places.is_sorted(), "in the order of their numbers, whichever came first");
    }

    #[test]
    fn sample_4_texts_go_on_side_by_side_and_each_is_stopped_and_resumed_for_itself() {
        let service = Service::start();
        let mut client = client(&service);
        client.post("/texts").send();
        client.post("/texts").send();
        let mut events = client.events("/texts/live");
        let [one, two] = service.calls();
        one.answer("alpha ");
        two.answer("beta ");
        assert!(wait_for(&mut events, "<p>beta </p>").contains(">Stop</button>"));
        let [one, two] = service.calls();
        assert_eq!(client.post("/texts/1/toggle").send().location(), Some("/"));
        wait_for(&mut events, ">Resume</button>");
        // What was on its way when it was stopped is not written any more; the other text goes on.
        one.answer("lost ");
        two.answer("gamma ");
        let shown = wait_for(&mut events, "<p>beta gamma </p>");
        assert!(shown.contains("<progress value=\"1\" max=\"8\"") && shown.contains("<progress value=\"2\" max=\"9\""));
        client.post("/texts/1/toggle").send();
        let [one, two] = service.calls();
        one.answer("delta ");
        wait_for(&mut events, "<p>alpha delta </p>");
        // Removed while it waits for words, and stopped by that.
        assert_eq!(client.post("/texts/2/remove").send().location(), Some("/"));
        two.answer("too late ");
        for _ in 2..8 {
            let call = service.next_call();
            assert_eq!(call.path, "/words/1");
            call.answer("more ");
        }
        let shown = wait_for(&mut events, ">Again</button>");
        assert!(shown.contains("<progress value=\"8\" max=\"8\"") && !shown.contains("beta"), "{shown}");
        client.settle();
        assert_eq!(client.post("/texts/2/toggle").send().status(), Status::NOT_FOUND);
        assert!(client.failures().is_empty());
    }

    #[test]
    fn sample_4_a_stop_and_a_resume_at_once_leave_one_task_that_writes() {
        let service = Service::start();
        let mut client = client(&service);
        client.post("/texts").send();
        client.post("/texts/1/toggle").send();
        client.post("/texts/1/toggle").send();
        let mut events = client.events("/texts/live");
        let [former, present]: [_; 2] = service.calls();
        // Which of the two calls is which nobody can say; one of them is written, and one task goes on.
        former.answer("once ");
        present.answer("once ");
        assert!(wait_for(&mut events, "once ").contains("<p>once </p>"));
        service.next_call().fail();
        client.settle();
        let page = client.get("/").text().to_owned();
        assert!(service.has_no_call() && page.contains("<p>once </p>"));
        assert!(page.contains(">Resume</button>"), "words that did not come have stopped it: {page}");
    }

    #[test]
    fn caveat_2_tasks_and_handlers_change_the_state_alike_and_nothing_is_lost() {
        let client = client(&Service::start());
        let feed = client.state::<Site>().feeds.entry("7".into(), Feed::default);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (feed, theirs) = (&feed, feed.clone());
                let count = |feed: &Live<Feed>| (0..250).for_each(|_| feed.update(|feed| feed.last_id += 1));
                client.within(|| background(move || count(&theirs)));
                scope.spawn(move || count(feed));
            }
        });
        client.settle();
        assert_eq!(feed.get().last_id, 2_000);
    }

    #[test]
    fn caveat_3_inside_the_lock_are_the_latest_values_and_afterwards_pages_show_them() {
        let feed = Live::new(Feed::default());
        let (shown, followed) = (feed.clone(), feed.clone());
        let site = app(Config::default(), "http://unused.example")
            .get("/feed", move |req: &mut Request| {
                let posts = shown.part(req, "/feed/live", "posts.html")?;
                req.render("page.html", context! { posts, texts => "" })
            })
            .get("/feed/live", move |req: &mut Request| req.live(&followed, "posts.html"));
        let mut client = TestClient::new(site);
        let mut events = client.events("/feed/live");
        thread::scope(|scope| {
            let mut inside = feed.lock();
            let (tell, told) = channel();
            let feed = &feed;
            let other = scope.spawn(move || {
                tell.send(()).unwrap();
                feed.update(|feed| feed.posts.len())
            });
            told.recv().unwrap();
            inside.posts.insert(0, "a post".into());
            assert!(client.get("/feed").text().contains("No posts yet."), "rendering waits for no lock");
            assert!(!other.is_finished(), "nobody else changes it");
            drop(inside);
            assert_eq!(other.join().unwrap(), 1, "who comes next has the latest values");
        });
        wait_for(&mut events, "a post");
    }
}
