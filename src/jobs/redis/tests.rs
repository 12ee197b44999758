//! What only Redis has: a server that can be away, killed or set wrongly, and connections that break.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::server_of_tests::RedisServer;
use super::{PATIENCE, Redis};
use crate::jobs::conformance::{self, Bench};
use crate::jobs::engine::Engine;
use crate::sync::lock;

/// One server for all cases at once, each with keys of its own.
struct RedisBench {
    server: Arc<RedisServer>,
    prefix: String,
}

impl RedisBench {
    fn new() -> Result<RedisBench, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let server = shared().ok_or("no redis-server is installed")?;
        Ok(RedisBench { server, prefix: format!("case-{}:", NUMBER.fetch_add(1, Ordering::Relaxed)) })
    }
}

/// A server for those that do it no harm. It ends with the last test that holds it, and comes again for the next.
fn shared() -> Option<Arc<RedisServer>> {
    static SERVER: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
    let mut server = lock(&SERVER);
    if let Some(running) = server.upgrade() {
        return Some(running);
    }
    let started = Arc::new(RedisServer::start(&["appendonly yes"])?);
    *server = Arc::downgrade(&started);
    Some(started)
}

impl Bench for RedisBench {
    fn engine(&self) -> Arc<dyn Engine> {
        self.another()
    }

    fn another(&self) -> Arc<dyn Engine> {
        Arc::new(Redis::open_with(&self.server.url(), &self.prefix, PATIENCE).expect("the server takes it"))
    }
}

conformance::conformance!(redis, RedisBench::new);
