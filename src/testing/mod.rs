//! Tests without a server: a client that calls the application, and a view of its tasks, jobs and mail.
//!
//! ```
//! use aside::testing::TestClient;
//! use aside::{App, Job, Jobs, Request, Response, Result, TaskContext, redirect};
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Charge { quantity: u64 }
//!
//! impl Job for Charge {
//!     const NAME: &'static str = "charge";
//!     fn run(self, task: &TaskContext) -> Result<()> {
//!         task.state::<AtomicU64>().fetch_add(self.quantity, Ordering::Relaxed);
//!         Ok(())
//!     }
//! }
//!
//! fn create_order(req: &mut Request) -> Result<Response> {
//!     let charge: Charge = req.form()?;
//!     req.enqueue(charge)?;
//!     Ok(redirect("/thanks"))
//! }
//!
//! let jobs = Jobs::memory().register::<Charge>();
//! let app = App::new().jobs(jobs).state(AtomicU64::new(0)).post("/orders", create_order);
//!
//! let mut client = TestClient::new(app);
//! let response = client.post("/orders").form(&[("quantity", "2")]).send();
//! assert_eq!(response.location(), Some("/thanks"));
//! client.jobs().assert_enqueued(|charge: &Charge| charge.quantity == 2);
//! client.drain(); // runs the job, and waits for background tasks
//! assert_eq!(client.state::<AtomicU64>().load(Ordering::Relaxed), 2);
//! assert!(client.failures().is_empty());
//! ```
//!
//! | To test | Use |
//! |---|---|
//! | a page, a redirect, JSON | [`TestClient::get`], [`TestClient::post`], [`TestClient::request`]; [`TestResponse`] |
//! | a form, an upload, a header, a client address | [`TestRequest`] |
//! | a page behind a login | [`TestClient::login`], or the site's own login form |
//! | sent mail | [`TestClient::outbox`](TestClient#method.outbox) |
//! | background tasks and their failures | [`TestClient::drain`], [`TestClient::failures`], [`TestClient::running`] |
//! | jobs: which are enqueued, one attempt, all that are due | [`TestClient::jobs`]; [`TestJobs`] |
//! | sessions that expire, retries, schedules | [`TestClient::advance`], [`TestJobs::advance`] |
//! | a live page, an event stream | [`TestClient::events`]; [`EventReader`] |
//! | the application's state, code outside a request | [`TestClient::state`], [`TestClient::within`] |
//!
//! Mistakes in a test panic, so that no call needs `unwrap`: each method lists its panics.

use std::time::Duration;

mod client;
mod events;
#[cfg(feature = "jobs")]
mod jobs;
#[cfg(not(feature = "jobs"))]
#[path = "jobs_absent.rs"]
mod jobs;
mod request;
mod response;

pub use self::client::TestClient;
pub use self::events::EventReader;
#[cfg(feature = "jobs")]
pub use self::jobs::TestJobs;
pub use self::request::TestRequest;
pub use self::response::TestResponse;

/// The longest wait for something that a test expects.
const TIMEOUT: Duration = Duration::from_secs(60);
