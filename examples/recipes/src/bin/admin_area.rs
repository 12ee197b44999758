//! An area for users with a role: `cargo run --bin admin_area`, with the password of
//! admin@example.org in the variable ADMIN_PASSWORD
use aside::routing::{Rate, get};
use aside::sqlite::Db;
use aside::{App, Config, Error, Request, Response, Result, context, password, redirect};

const TABLE: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT UNIQUE COLLATE NOCASE, password TEXT NOT NULL, role TEXT NOT NULL) STRICT";

const LOGIN: &str = r#"<!doctype html><title>Login</title><form method="post"> Your address:
<input name="email"> Password: <input name="password" type="password"> <button>Log in</button>"#;
const ADMIN: &str = r#"<!doctype html><title>Users</title>
{% for email, role in users %}<p>{{ email }}: {{ role }}</p>{% endfor %}"#;

#[derive(serde::Deserialize)]
struct Login {
    email: String,
    password: String,
}

fn main() -> Result<()> {
    let password = || std::env::var("ADMIN_PASSWORD");
    App::main_with(|config| app(config, "data/admin_area.db", &password()?))
}

fn app(config: Config, db: &str, password: &str) -> Result<App> {
    let db = Db::open(db, &[TABLE])?;
    let sql = "INSERT INTO users VALUES (1, 'admin@example.org', ?, 'admin')
        ON CONFLICT DO UPDATE SET password = excluded.password";
    db.execute(sql, [password::hash(password)?])?;
    let app = App::with_config(config).state(db);
    let app = app.template("login.html", LOGIN);
    let app = app.template("admin.html", ADMIN);
    let login = get(|req| req.render("login.html", ())).post(log_in);
    let app = app.route("/login", login.rate_limit(Rate::per_minute(10)));
    Ok(app.mount("/admin", App::new().before(only_admins).get("/", admin)))
}

fn only_admins(req: &mut Request) -> Result<Option<Response>> {
    let sql = "SELECT role = 'admin' FROM users WHERE id = ?"; // the role as it is now
    match req.state::<Db>().row::<(bool,)>(sql, [req.user::<i64>()])? {
        Some((true,)) => Ok(None),
        Some(_) => Err(Error::forbidden("This area is for administrators.")),
        None => Ok(Some(redirect("/login"))),
    }
}

fn admin(req: &mut Request) -> Result<Response> {
    let sql = "SELECT email, role FROM users ORDER BY email";
    let users: Vec<(String, String)> = req.state::<Db>().rows(sql, ())?;
    req.render("admin.html", context! { users })
}

fn log_in(req: &mut Request) -> Result<Response> {
    let Login { email, password } = req.form()?;
    let sql = "SELECT id, password FROM users WHERE email = ?";
    let (id, hash): (i64, Option<String>) =
        req.state::<Db>().row(sql, [email])?.unwrap_or_default();
    if !password::verify(&password, hash.as_deref())? {
        return Err(Error::unprocessable("Wrong address or password."));
    }
    req.login(id)?;
    Ok(redirect("/admin"))
}

#[cfg(test)]
#[test]
fn only_admins_see_the_area() {
    let app = app(Config::default(), ":memory:", "right").unwrap();
    let mut client = aside::testing::TestClient::new(app);
    let member = "INSERT INTO users VALUES (2, 'eve@b.org', '', 'member')";
    client.state::<Db>().execute(member, ()).unwrap();
    client.login(2);
    assert_eq!(client.get("/admin").status_code(), 403);
    for (password, code) in [("wrong", 422), ("right", 303)] {
        let form = [("email", "Admin@example.org"), ("password", password)];
        assert_eq!(client.post("/login").form(&form).send().status_code(), code);
    }
    assert!(client.get("/admin").text().contains("eve@b.org: member"));
}
