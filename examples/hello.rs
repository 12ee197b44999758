use aside::{App, Request, Result};

fn main() -> Result<()> {
    App::new().get("/", |_: &mut Request| "Hello, world").get("/hello/{name}", hello).run()
}

fn hello(req: &mut Request) -> Result<String> {
    Ok(format!("Hello, {}", req.param::<String>("name")?))
}
