//! The parts that all Rust peers share: the template, the rows, the background work. So that only the framework
//! differs.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cookie::{Cookie, CookieJar, Key};
use image::ImageFormat;
use image::imageops::FilterType;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

/// The page, as all engines here take it.
pub const TEMPLATE: &str = include_str!("../../templates/orders.html");

/// The plain page.
pub const PLAIN: &str = "Hello, world!";

/// What sessions are sealed with: 64 bytes, which is the most that one of the peers asks for.
pub const SECRET: &str = "sixty-four bytes that are no secret at all since this is but a bench";

const _: () = assert!(SECRET.len() >= 64);

/// Ends this process with the one that started it, and says where to listen.
pub fn begin() -> SocketAddr {
    // A refusal does no harm: the runner ends its servers itself too.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let address = std::env::var("PEER_ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    address.parse().expect("PEER_ADDR is an address with a port")
}

/// Which of its variants a peer is to be.
pub fn is_variant(name: &str) -> bool {
    std::env::var("PEER_VARIANT").is_ok_and(|variant| variant == name)
}

/// What the session holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Visitor {
    pub name: String,
    pub visits: u64,
}

impl Visitor {
    /// Who logs in.
    pub fn new() -> Visitor {
        Visitor { name: "Ada".into(), visits: 3 }
    }

    /// The name on a page without a session, which the load generator counts as wrong.
    pub fn nobody() -> Visitor {
        Visitor { name: "nobody".into(), visits: 0 }
    }
}

impl Default for Visitor {
    fn default() -> Visitor {
        Visitor::new()
    }
}

/// A row of the page.
#[derive(Debug, Serialize)]
pub struct Order {
    id: u32,
    customer: String,
    email: String,
    cents: u32,
    note: String,
    paid: bool,
}

/// The 50 rows.
pub fn orders() -> &'static [Order] {
    static ORDERS: LazyLock<Vec<Order>> = LazyLock::new(|| (1..=50).map(order).collect());
    &ORDERS
}

fn order(id: u32) -> Order {
    let customer = format!("Customer {id}");
    let email = format!("customer{id}@example.org");
    let note = format!("Leave it at door {id}, please");
    Order { id, customer, email, cents: id * 1_250, note, paid: id.is_multiple_of(3) }
}

/// The page: the rows are serialised each time.
pub fn page(visitor: &Visitor) -> String {
    static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
        let mut pages = Environment::new();
        pages.add_template("orders.html", TEMPLATE).expect("the template is well-formed");
        pages
    });
    let template = PAGES.get_template("orders.html").expect("it was added");
    let (visitor, orders) = (Value::from(Serde(visitor)), Value::from(Serde(orders())));
    template.render(context! { visitor, orders }).expect("the template asks for what is there")
}

/// What the form is to have.
#[derive(Debug, Deserialize)]
pub struct NewOrder {
    pub email: String,
    pub quantity: u32,
    pub note: String,
}

impl NewOrder {
    /// What each peer answers with 422 otherwise.
    pub fn is_valid(&self) -> bool {
        self.email.contains('@') && (1..=100).contains(&self.quantity) && self.note.len() <= 1_000
    }
}

/// What the background work of a form consists of, besides counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Almost nothing: the bench measures the start of the work.
    None,
    /// A millisecond of waiting, as for another server.
    Sleep,
    /// A millisecond of a core: a fixed number of steps.
    Compute,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Work::None => "none",
            Work::Sleep => "sleep",
            Work::Compute => "compute",
        }
    }
}

/// The work that `PEER_WORK` names: `none`, which is the default, `sleep` or `compute`.
pub fn work() -> Work {
    static WORK: LazyLock<Work> = LazyLock::new(|| match std::env::var("PEER_WORK").as_deref() {
        Ok("sleep") => Work::Sleep,
        Ok("compute") => Work::Compute,
        Ok("none") | Err(_) => Work::None,
        Ok(other) => panic!("PEER_WORK is none, sleep or compute, not {other:?}"),
    });
    *WORK
}

/// How long one piece of work takes.
const PIECE: Duration = Duration::from_millis(1);

/// The number of steps that take a millisecond on a core that does nothing else: of many measurements, the shortest counts.
pub fn calibrate() -> u64 {
    const STEPS: u64 = 100_000;
    let once = |_| {
        let began = Instant::now();
        compute(STEPS);
        began.elapsed()
    };
    let shortest = (0..300).map(once).min().unwrap_or(PIECE).as_nanos().max(1);
    (u128::from(STEPS) * PIECE.as_nanos() / shortest) as u64
}

/// The steps of a piece of work: of the runner, so that all peers do the same work, or calibrated here.
fn steps() -> u64 {
    static COUNT: LazyLock<u64> = LazyLock::new(|| {
        let given = std::env::var("PEER_STEPS").ok().and_then(|steps| steps.parse().ok());
        given.unwrap_or_else(calibrate)
    });
    *COUNT
}

/// Computes, and neither sleeps nor calls the system.
fn compute(steps: u64) {
    let mut number = 1_u64;
    for _ in 0..steps {
        number = black_box(number).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    black_box(number);
}

static CHARGED: AtomicU64 = AtomicU64::new(0);
static SPUN: AtomicU64 = AtomicU64::new(0);
/// The longest time between two units of one busy task, in microseconds, since it was last read.
static PAUSED: AtomicU64 = AtomicU64::new(0);
static RESIZED: AtomicU64 = AtomicU64::new(0);
static CALMED: AtomicUsize = AtomicUsize::new(0);

/// The background work of a form.
pub fn charge(order: NewOrder) {
    black_box(order);
    match work() {
        Work::None => {}
        Work::Sleep => thread::sleep(PIECE),
        Work::Compute => compute(steps()),
    }
    CHARGED.fetch_add(1, Ordering::Relaxed);
}

/// Tasks of forms that ran, milliseconds' worth of busy work, photos that were resized, the longest pause of a busy task in
/// microseconds since this was last asked for, and the kind of work of a form.
pub fn done() -> String {
    let [charged, spun, resized] = [&CHARGED, &SPUN, &RESIZED].map(|count| count.load(Ordering::Relaxed));
    format!("{charged} {spun} {resized} {} {}", PAUSED.swap(0, Ordering::Relaxed), work().name())
}

/// How many tasks keep every core busy.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets busy tasks end.
pub fn calm() {
    CALMED.fetch_add(1, Ordering::Relaxed);
}

/// Does that again and again until [`calm`].
fn until_calm(mut work: impl FnMut()) {
    let began = CALMED.load(Ordering::Relaxed);
    while CALMED.load(Ordering::Relaxed) == began {
        work();
    }
}

/// A busy task: computes, and neither sleeps nor calls the system, until [`calm`].
pub fn spin() {
    let mut last = Instant::now();
    until_calm(|| {
        compute(steps());
        let now = Instant::now();
        PAUSED.fetch_max((now - last).as_micros() as u64, Ordering::Relaxed);
        last = now;
        SPUN.fetch_add(1, Ordering::Relaxed);
    });
}

/// Resizes the photo again and again, file to file, with the means given, until [`calm`].
pub fn resize_with(resize: impl Fn(&PathBuf, &PathBuf)) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let from = PathBuf::from(std::env::var_os("PEER_PHOTO").expect("PEER_PHOTO names the photo"));
    let small = format!("small-{}-{}.jpg", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let to = from.with_file_name(small);
    until_calm(|| {
        resize(&from, &to);
        RESIZED.fetch_add(1, Ordering::Relaxed);
    });
    let _ = std::fs::remove_file(&to);
}

/// Resizes the photo with the `image` crate.
pub fn resize() {
    resize_with(|from, to| {
        let photo = image::open(from).expect("the photo is one");
        let small = photo.resize(800, 800, FilterType::Triangle);
        small.save_with_format(to, ImageFormat::Jpeg).expect("there is room for a small photo");
    });
}

fn key() -> &'static Key {
    static KEY: LazyLock<Key> = LazyLock::new(|| Key::derive_from(SECRET.as_bytes()));
    &KEY
}

/// A session for peers that have none: the value of a `Set-Cookie` header, encrypted as axum's and Rocket's are.
pub fn seal(visitor: &Visitor) -> String {
    let json = serde_json::to_string(visitor).expect("a visitor is JSON");
    let mut jar = CookieJar::new();
    jar.private_mut(key()).add(Cookie::build(("session", json)).path("/").http_only(true));
    jar.get("session").expect("it was just added").encoded().to_string()
}

/// And its way back, from the `Cookie` header.
pub fn unseal(header: &str) -> Option<Visitor> {
    let mut jar = CookieJar::new();
    Cookie::split_parse_encoded(header.to_owned()).flatten().for_each(|cookie| jar.add_original(cookie));
    serde_json::from_str(jar.private(key()).get("session")?.value()).ok()
}
