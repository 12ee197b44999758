//! The smallest site: `cargo run --example hello`, then http://127.0.0.1:8000/hello/world
use aside::{App, Request, Result};

fn main() -> Result<()> {
    App::new().get("/", |_: &mut Request| "Hello, world").get("/hello/{name}", hello).run()
}

fn hello(req: &mut Request) -> Result<String> {
    Ok(format!("Hello, {}", req.param::<String>("name")?))
}
