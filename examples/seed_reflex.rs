//! The samples of Reflex's page on background tasks, in its order: `cargo run --example seed_reflex`.
//!
//! Posts come from `/products/1` and words from `/words/1` below `POSTS_URL`. Unless that is set, this program starts a slow
//! service itself.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aside::server::Server;
use aside::{App, Config, Error, Live, Request, Response, Result, background, redirect};
use serde::Serialize;

fn main() -> Result<()> {
    app(Config::from_env()?, std::env::var("POSTS_URL").ok()).run()
}

/// The address of a service that takes half a second for each response. The first call starts it.
fn slow_service() -> String {
    static SERVICE: LazyLock<Server> = LazyLock::new(|| {
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let slowly = |_: &mut Request| {
            std::thread::sleep(Duration::from_millis(500));
            None::<Response>
        };
        let product = |req: &mut Request| aside::ok(format!("Product {}", req.param::<u32>("id")?));
        let service = App::with_config(config).before(slowly).get("/products/{id}", product);
        service.get("/words/{text}", |_: &mut Request| "lorem ipsum dolor ").start().expect("a free port")
    });
    format!("http://{}", SERVICE.addr())
}

struct Site {
    url: Option<String>,
    agent: ureq::Agent,
}

impl Site {
    fn fetch(&self, path: &str) -> Result<String> {
        let url = self.url.clone().unwrap_or_else(slow_service);
        Ok(self.agent.get(url + path).call()?.body_mut().read_to_string()?)
    }
}

fn app(config: Config, url: Option<String>) -> App {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().into();
    App::with_config(config)
        .state(Site { url, agent })
        .get("/seeds.css", |_: &mut Request| Response::bytes("text/css", include_bytes!("seeds/seeds.css")))
        .template("base.html", include_str!("seeds/base.html"))
        .template("page.html", include_str!("seeds/reflex.html"))
        .get("/", |req: &mut Request| req.render("page.html", ()))
        .live("posts", "posts.html", Request::session_live::<Feed>)
        .template("posts.html", POSTS)
        .post("/posts/chain", get_posts_by_steps)
        .post("/posts", get_posts)
        .post("/posts/parallel", get_posts_in_parallel)
        .live("texts", "texts.html", Request::session_live::<Texts>)
        .template("texts.html", TEXTS)
        .post("/texts", add_text)
        .post("/texts/{id}/toggle", toggle_text)
        .post("/texts/{id}/remove", remove_text)
}

/// The posts of a session.
#[derive(Clone, Default, Serialize)]
struct Feed {
    last_id: u32,
    posts: BTreeMap<u32, String>,
}

const POSTS: &str = r#"<ol>
{%- for id, post in posts | items %}
  <li id="post-{{ id }}" value="{{ id }}">{{ post }}</li>
{%- endfor %}
</ol>
{%- if not posts %}
<p class="hint">No posts yet.</p>
{%- endif %}
"#;

// Sample 1: "Why?"
// Each step starts the next, as in Reflex. Here that is a choice: no step delays other requests, however long it takes.
fn get_post(site: Arc<Site>, feed: Live<Feed>) -> Result<()> {
    let id = feed.update(|feed| {
        feed.last_id += 1;
        feed.last_id - 1
    });
    if id < 10 {
        let post = site.fetch(&format!("/products/{id}"))?;
        feed.update(|feed| feed.posts.insert(id, post));
        background(move || get_post(site, feed));
    }
    Ok(())
}

fn get_posts_by_steps(req: &mut Request) -> Result<Response> {
    let (site, feed) = (req.state::<Site>(), req.session_live::<Feed>()?);
    feed.update(|feed| feed.last_id = 0);
    background(move || get_post(site, feed));
    Ok(redirect("/"))
}

// Sample 2: "Using Background Tasks"
// A task is a closure, and there is no second kind of function. Between two updates it holds no lock.
fn get_posts(req: &mut Request) -> Result<Response> {
    let (site, feed) = (req.state::<Site>(), req.session_live::<Feed>()?);
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
// Ten tasks at the same time, and the page shows each post when it arrives. A failure is on the page, and its cause in the log.
// The texts of sample 4 are another part of the same page, with tasks of their own.
fn get_posts_in_parallel(req: &mut Request) -> Result<Response> {
    for id in 0..10 {
        let (site, feed) = (req.state::<Site>(), req.session_live::<Feed>()?);
        background(move || {
            let post = site.fetch(&format!("/products/{id}"));
            let shown = post.as_deref().unwrap_or("This post could not be fetched.").to_owned();
            feed.update(|feed| feed.posts.insert(id, shown));
            post.map(drop)
        });
    }
    Ok(redirect("/"))
}

// Sample 4: "Full code for this example is available in reflex-examples/lorem-stream"
// Several texts at the same time, each with its progress, to be paused, resumed and removed. In Reflex a pause and a resume
// in quick succession leave two tasks that write one text. Here only the task of the latest run writes.
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
    /// The run that writes; none while the text is paused or complete.
    run: Option<u32>,
}

fn stream_text(site: &Site, texts: &Live<Texts>, id: u32, run: u32) -> Result<()> {
    loop {
        let words = site.fetch(&format!("/words/{id}"));
        if !texts.update(|texts| texts.add(id, run, words.as_deref().ok())) {
            return words.map(drop);
        }
    }
}

impl Texts {
    /// Adds words to a text that this run still writes. Without words the text is paused. Returns true if the run goes on.
    fn add(&mut self, id: u32, run: u32, words: Option<&str>) -> bool {
        let Some(text) = self.texts.get_mut(&id).filter(|text| text.run == Some(run)) else { return false };
        text.words += words.unwrap_or_default();
        text.progress += u32::from(words.is_some());
        text.run = (words.is_some() && text.progress < text.end_at).then_some(run);
        text.run.is_some()
    }

    /// Starts or resumes a text, or writes a complete one again. Returns the number of the run.
    fn start(&mut self, id: u32) -> u32 {
        self.runs += 1;
        let text = self.texts.entry(id).or_default();
        if text.progress >= text.end_at {
            *text = Text { end_at: 7 + id % 6, ..Text::default() };
        }
        text.run = Some(self.runs);
        self.runs
    }
}

/// Streams a text in the background.
fn stream(req: &mut Request, texts: Live<Texts>, id: u32) -> Result<Response> {
    let (site, run) = (req.state::<Site>(), texts.update(|texts| texts.start(id)));
    background(move || stream_text(&site, &texts, id, run));
    Ok(redirect("/"))
}

fn add_text(req: &mut Request) -> Result<Response> {
    let texts = req.session_live::<Texts>()?;
    let id = texts.update(|state| {
        let id = state.texts.keys().next_back().map_or(1, |last| last + 1);
        (state.texts.len() < 20).then(|| state.texts.insert(id, Text::default())).map(|_| id)
    });
    stream(req, texts, id.ok_or_else(|| Error::unprocessable("Please remove a text: 20 are the limit."))?)
}

fn toggle_text(req: &mut Request) -> Result<Response> {
    let (texts, id) = (req.session_live::<Texts>()?, req.param("id")?);
    let was_running = texts.update(|texts| texts.texts.get_mut(&id).map(|text| text.run.take().is_some()));
    match was_running {
        Some(true) => Ok(redirect("/")),
        Some(false) => stream(req, texts, id),
        None => Err(Error::not_found("There is no such text.")),
    }
}

fn remove_text(req: &mut Request) -> Result<Response> {
    let id: u32 = req.param("id")?;
    req.session_live::<Texts>()?.update(|texts| texts.texts.remove(&id));
    Ok(redirect("/"))
}

const TEXTS: &str = r#"<div class="texts" aria-live="off">
{%- for id, text in texts | items | reverse %}
  <section id="text-{{ id }}" aria-label="Text {{ id }}">
    <progress value="{{ text.progress }}" max="{{ text.end_at }}" aria-label="Progress of text {{ id }}"></progress>
    <form method="post" action="/texts/{{ id }}/toggle"><button>
      {%- if text.run is not none %}Pause{% elif text.progress < text.end_at %}Resume{% else %}Again{% endif -%}
    </button></form>
    <form method="post" action="/texts/{{ id }}/remove"><button class="quiet">Remove</button></form>
    <p>{{ text.words }}</p>
  </section>
{%- endfor %}
</div>
{%- if not texts %}
<p class="hint">No texts yet.</p>
{%- endif %}
"#;

// Caveat 1: "This works okay for some types of problems, but it complicates the code"
// No chain of steps is needed: a task is a loop, as in sample 2.

// Caveat 2: "they must be async and they cannot directly modify the state"
// A task changes the state as a handler does, with `update`. The compiler refuses a change without the lock.

// Caveat 3: "So what does async with self actually do?"
// `update` and `lock` do the same: inside are the latest values, and no other thread changes them; afterwards every page that
// follows the state shows the new values. Reading and rendering need no lock, and a change that panics is discarded.

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use aside::Status;
    use aside::testing::TestClient;

    use super::*;
    use crate::seeds::{Call, Service, wait_for};

    fn client(service: &Service) -> TestClient {
        TestClient::new(app(Config::default(), Some(service.url())))
    }

    #[test]
    fn sample_1_steps_start_each_other_and_the_page_is_there_in_between() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/posts/chain").send().location(), Some("/"));
        for id in 0..10 {
            let call = service.next_call();
            assert_eq!(call.path, format!("/products/{id}"));
            assert!(client.get("/").text().matches("<li ").count() == id, "while the step waits");
            call.answer("a post");
        }
        client.drain();
        assert!(service.has_no_call() && client.counts().ended == 11, "ten steps, and one that finds nothing to do");
        assert_eq!(client.get("/").text().matches(">a post</li>").count(), 10);
    }

    #[test]
    fn sample_2_caveat_1_each_post_is_on_the_page_when_it_arrives() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/posts").send().location(), Some("/"));
        let mut events = client.events("/_aside/live/posts");
        for id in 0..10 {
            let call = service.next_call();
            assert_eq!(call.path, format!("/products/{id}"));
            call.answer(&format!("Post number {id}"));
            wait_for(&mut events, &format!("Post number {id}"));
        }
        client.drain();
        assert_eq!(client.get("/").text().matches("Post number ").count(), 10);
        let other = client.request("GET", "/").header("Cookie", "none=at-all").send().text().to_owned();
        assert!(other.contains("No posts yet."), "another session has its own page: {other}");
    }

    #[test]
    fn sample_3_ten_posts_are_fetched_in_parallel_and_a_failed_one_is_shown() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/posts/parallel").send().location(), Some("/"));
        let mut events = client.events("/_aside/live/posts");
        let mut calls = service.calls::<10>().into_iter();
        calls.next().unwrap().fail();
        wait_for(&mut events, ">This post could not be fetched.</li>");
        for call in calls.rev() {
            let path = call.path.clone();
            call.answer(&path);
            wait_for(&mut events, &path);
        }
        client.drain();
        assert_eq!(client.failures().len(), 1);
        let page = client.get("/").text().to_owned();
        let places: Vec<_> = (1..10).map(|id| page.find(&format!("/products/{id}<")).unwrap()).collect();
        assert!(places.is_sorted(), "in the order of their numbers, whichever arrived first");
    }

    #[test]
    fn sample_4_texts_are_streamed_in_parallel_and_each_is_paused_resumed_and_removed() {
        let service = Service::start();
        let mut client = client(&service);
        client.post("/texts").send();
        client.post("/texts").send();
        let mut events = client.events("/_aside/live/texts");
        let [one, two] = service.calls();
        one.answer("alpha ");
        two.answer("beta ");
        assert!(wait_for(&mut events, "<p>beta </p>").contains(">Pause</button>"));
        let [one, two] = service.calls();
        assert_eq!(client.post("/texts/1/toggle").send().location(), Some("/"));
        wait_for(&mut events, ">Resume</button>");
        // Words that arrive after the pause are not written; the other text goes on.
        one.answer("lost ");
        two.answer("gamma ");
        let shown = wait_for(&mut events, "<p>beta gamma </p>");
        assert!(shown.contains("<progress value=\"1\" max=\"8\"") && shown.contains("<progress value=\"2\" max=\"9\""));
        client.post("/texts/1/toggle").send();
        let [one, two] = service.calls();
        one.answer("delta ");
        wait_for(&mut events, "<p>alpha delta </p>");
        // A text that is removed while its task waits for words gets no more.
        assert_eq!(client.post("/texts/2/remove").send().location(), Some("/"));
        two.answer("too late ");
        for _ in 2..8 {
            let call = service.next_call();
            assert_eq!(call.path, "/words/1");
            call.answer("more ");
        }
        let shown = wait_for(&mut events, ">Again</button>");
        assert!(shown.contains("<progress value=\"8\" max=\"8\"") && !shown.contains("beta"), "{shown}");
        client.drain();
        assert_eq!(client.post("/texts/2/toggle").send().status_code(), Status::NOT_FOUND);
        assert!(client.failures().is_empty());
    }

    #[test]
    fn sample_4_a_pause_and_a_resume_in_quick_succession_leave_one_task_that_writes() {
        let service = Service::start();
        let mut client = client(&service);
        client.post("/texts").send();
        client.post("/texts/1/toggle").send();
        client.post("/texts/1/toggle").send();
        let mut events = client.events("/_aside/live/texts");
        let [one, other]: [_; 2] = service.calls();
        // The calls may arrive in either order. One of them is written, and one task goes on.
        one.answer("once ");
        other.answer("once ");
        assert!(wait_for(&mut events, "once ").contains("<p>once </p>"));
        service.next_call().fail();
        client.drain();
        let page = client.get("/").text().to_owned();
        assert!(service.has_no_call() && page.contains("<p>once </p>"));
        assert!(page.contains(">Resume</button>"), "the failure has paused it: {page}");
    }

    #[test]
    fn sample_4_a_session_has_at_most_20_texts() {
        let service = Service::start();
        let mut client = client(&service);
        for _ in 0..20 {
            assert_eq!(client.post("/texts").send().status_code(), Status::SEE_OTHER);
        }
        assert_eq!(client.post("/texts").send().status_code(), Status::UNPROCESSABLE_CONTENT);
        service.calls::<20>().into_iter().for_each(Call::fail);
        client.drain();
    }

    #[test]
    fn caveat_2_tasks_and_handlers_change_the_state_in_the_same_way_and_no_change_is_lost() {
        let client = client(&Service::start());
        let feed = Live::new(Feed::default());
        thread::scope(|scope| {
            for _ in 0..4 {
                let (feed, theirs) = (&feed, feed.clone());
                let count = |feed: &Live<Feed>| (0..250).for_each(|_| feed.update(|feed| feed.last_id += 1));
                client.within(|| background(move || count(&theirs)));
                scope.spawn(move || count(feed));
            }
        });
        client.drain();
        assert_eq!(feed.get().last_id, 2_000);
    }

    #[test]
    fn caveat_3_a_lock_gives_the_latest_values_and_pages_show_the_change_afterwards() {
        let feed = Live::new(Feed::default());
        let shown = feed.clone();
        let site = app(Config::default(), None)
            .live("feed", "posts.html", move |_: &mut Request| shown.clone())
            .template("feed.html", "{{ live('feed') }}")
            .get("/feed", |req: &mut Request| req.render("feed.html", ()));
        let mut client = TestClient::new(site);
        let mut events = client.events("/_aside/live/feed");
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
            assert!(client.get("/feed").text().contains("No posts yet."), "rendering does not wait for the lock");
            assert!(!other.is_finished(), "the other change waits");
            drop(inside);
            assert_eq!(other.join().unwrap(), 1, "the next change gets the latest values");
        });
        wait_for(&mut events, "a post");
    }
}
