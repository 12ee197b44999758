//! Accounts of users: sign up, log in, log out, and a page for users only.

use aside::mail::is_address;
use aside::routing::{Rate, RateLimit};
use aside::sqlite::Db;
use aside::{Error, Form, Request, Response, Result, context, password, redirect, redirect_or};
use serde::Deserialize;

/// The fewest characters of a password, as NIST and OWASP recommend without a second factor.
const MIN_PASSWORD: usize = 12;

/// The logins for one account, from any number of addresses.
pub struct Attempts(RateLimit);

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts(RateLimit::new(Rate::per_hour(30)))
    }
}

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

struct User {
    id: i64,
    password: String,
}

/// `GET /signup`
pub fn signup_form(req: &mut Request) -> Result<Response> {
    signup_page(req, &Form::empty())
}

fn signup_page(req: &mut Request, form: &Form<Credentials>) -> Result<Response> {
    let context = context! { form, min_password => MIN_PASSWORD };
    Ok(req.render("signup.html", context)?.status(form.status()))
}

/// `POST /signup`
pub fn sign_up(req: &mut Request) -> Result<Response> {
    let mut form: Form<Credentials> = req.submitted()?;
    let too_short = format!("At least {MIN_PASSWORD} characters.");
    form.require(&["email", "password"])
        .check("email", |new| is_address(&new.email), "This is not an email address.")
        .check("password", |new| new.password.chars().count() >= MIN_PASSWORD, too_short)
        .check("password", |new| new.password.len() <= 1_024, "At most 1,024 bytes.");
    let id = match form.value() {
        Some(new) => insert(&req.state::<Db>(), new)?,
        None => return signup_page(req, &form),
    };
    let Some(id) = id else {
        form.error("email", "This address has an account.");
        return signup_page(req, &form);
    };
    req.login(id)?;
    req.flash("success", "Welcome!");
    Ok(redirect(&req.url_for("account", &[])?))
}

/// The page to show after the login.
#[derive(Deserialize)]
struct Next {
    next: Option<String>,
}

/// `GET /login`, with the page to show afterward in `?next=`.
pub fn login_form(req: &mut Request) -> Result<Response> {
    let Next { next } = req.query()?;
    login_page(req, &Form::empty().with("next", next.unwrap_or_default()))
}

fn login_page(req: &mut Request, form: &Form<Credentials>) -> Result<Response> {
    Ok(req.render("login.html", context! { form })?.status(form.status()))
}

/// `POST /login`
pub fn log_in(req: &mut Request) -> Result<Response> {
    let mut form: Form<Credentials> = req.submitted()?;
    let user = match form.require(&["email", "password"]).value() {
        Some(entered) => authenticate(req, entered)?,
        None => return login_page(req, &form),
    };
    let Some(user) = user else {
        // The message does not reveal which of them is wrong.
        form.error("password", "The address or the password is wrong.");
        return login_page(req, &form);
    };
    req.login(user.id)?;
    Ok(redirect_or(form.typed_in("next"), &req.url_for("account", &[])?))
}

/// Returns the user with this address and password. An unknown address takes the same time.
fn authenticate(req: &Request, entered: &Credentials) -> Result<Option<User>> {
    let email = entered.email.trim().to_lowercase();
    req.state::<Attempts>().0.check(&email)?;
    let user = user_with(&req.state::<Db>(), &email)?;
    let is_right = password::verify(&entered.password, user.as_ref().map(|user| &*user.password))?;
    Ok(user.filter(|_| is_right))
}

/// `POST /logout`
pub fn log_out(req: &mut Request) -> Result<Response> {
    req.logout()?;
    req.flash("success", "You are logged out.");
    Ok(redirect(&req.url_for("home", &[])?))
}

/// `GET /account`, for users only.
pub fn show(req: &mut Request) -> Result<Response> {
    let Some(id) = req.user::<i64>() else {
        let next = req.target().to_owned();
        return Ok(redirect(&req.url_for("login", &[("next", &next)])?));
    };
    let email = email_of(&req.state::<Db>(), id)?;
    req.render("account.html", context! { email })
}

/// Adds a user, and returns the id, or `None` if the address has an account.
fn insert(db: &Db, new: &Credentials) -> Result<Option<i64>> {
    let values = (new.email.trim(), password::hash(&new.password)?);
    let insert = "INSERT INTO users (email, password) VALUES (?, ?)
        ON CONFLICT DO NOTHING RETURNING id";
    let id: Option<(i64,)> = db.row(insert, values)?;
    Ok(id.map(|(id,)| id))
}

fn user_with(db: &Db, email: &str) -> Result<Option<User>> {
    let query = "SELECT id, password FROM users WHERE email = ?";
    let user: Option<(i64, String)> = db.row(query, [email])?;
    Ok(user.map(|(id, password)| User { id, password }))
}

fn email_of(db: &Db, id: i64) -> Result<String> {
    let query = "SELECT email FROM users WHERE id = ?";
    let email: Option<(String,)> = db.row(query, [id])?;
    email.map(|(email,)| email).ok_or_else(|| Error::forbidden("This account does not exist."))
}

#[cfg(test)]
mod tests {
    use aside::testing::{TestClient, TestResponse};

    use crate::test_site::test_site;

    const PASSWORD: &str = "correct horse";

    fn post(client: &mut TestClient, path: &str, email: &str, password: &str) -> TestResponse {
        client.post(path).form(&[("email", email), ("password", password)]).send()
    }

    #[test]
    fn the_account_is_for_users_only() {
        let (_data, mut client) = test_site();
        assert_eq!(client.get("/account").location(), Some("/login?next=%2Faccount"));
        post(&mut client, "/signup", "ada@example.org", PASSWORD);
        assert!(client.get("/account").text().contains("ada@example.org"));
        client.post("/logout").send();
        assert_eq!(client.get("/account").location(), Some("/login?next=%2Faccount"));
    }

    #[test]
    fn a_user_logs_in_with_the_right_password_only() {
        let (_data, mut client) = test_site();
        post(&mut client, "/signup", "ada@example.org", PASSWORD);
        client.post("/logout").send();
        let refused = post(&mut client, "/login", "ada@example.org", "wrong horse battery");
        assert_eq!(refused.status_code().code(), 422);
        assert!(refused.text().contains("The address or the password is wrong."));
        let response = post(&mut client, "/login", "Ada@Example.org", PASSWORD);
        assert_eq!(response.location(), Some("/account"));
    }

    #[test]
    fn an_address_has_one_account_and_a_password_has_a_length() {
        let (_data, mut client) = test_site();
        let short = post(&mut client, "/signup", "ada@example.org", "horse");
        assert!(short.text().contains("At least 12 characters."), "{}", short.text());
        post(&mut client, "/signup", "ada@example.org", PASSWORD);
        let taken = post(&mut client, "/signup", "ADA@example.org", PASSWORD);
        assert!(taken.text().contains("This address has an account."), "{}", taken.text());
    }
}
