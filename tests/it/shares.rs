//! Fair shares over real sockets: what holds workers for long, and clients that hold much, leave pages to all others.

use std::sync::{Arc, mpsc};
use std::thread;

use aside::{App, Config, Pool, Request, Server};

use crate::wire::{Gate, PATIENCE, Raw, Reply, config, start};

fn is_answered(server: &Server) {
    assert_eq!(Raw::to(server).get("/").body, "home");
}

fn is_refused(reply: &Reply) {
    assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("5")), "{reply:?}");
    assert!(reply.body.contains("try again in a moment"), "{reply:?}");
}

/// A pool that is taken used to hold every worker that asked for a permit.
#[test]
fn one_of_four_workers_waits_for_a_pool_and_the_next_request_gets_503() {
    let (pool, gate, (taken, taking)) = (Pool::new(1), Arc::new(Gate::default()), mpsc::channel());
    let (theirs, their_gate) = (pool.clone(), gate.clone());
    let holder = thread::spawn(move || {
        theirs.run(|| {
            taken.send(()).unwrap();
            their_gate.pass();
        })
    });
    taking.recv_timeout(PATIENCE).unwrap();
    let app = App::with_config(Config { max_workers: 4, ..config() })
        .get("/", |_: &mut Request| "home")
        .get("/pooled", move |_: &mut Request| pool.run(|| "done"));
    let server = start(app);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| tell.send(Raw::to(&server).get("/pooled")).unwrap());
        }
        is_refused(&told.recv_timeout(PATIENCE).expect("one of them is refused"));
        is_answered(&server);
        gate.open();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().body, "done");
    });
    holder.join().unwrap().unwrap();
    server.stop();
}
