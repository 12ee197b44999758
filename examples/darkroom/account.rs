//! The owner: signing up, logging in and out, and the account, where photos are taken down.

use aside::routing::{get, post};
use aside::{App, Error, Form, Request, Response, Result, context, mail, password, redirect, redirect_or};
use serde::Deserialize;

use crate::orders::Line;
use crate::photos::{self, Card};
use crate::site::{NO_ADDRESS, Site};
use crate::store::{Owner, Store};

/// The fewest characters of a password, as NIST and OWASP recommend without a second factor, and the most bytes.
const MIN_PASSWORD: usize = 12;
const MAX_PASSWORD: usize = 1_024;

/// The number of photos and of orders on the owner's page.
const MOST: u32 = 1_000;

/// Returns the pages below `/account`, for the logged-in owner.
pub fn app() -> App {
    App::new()
        .before(ask_to_log_in)
        .route("/", get(account).name("account"))
        .route("/password", post(change_password).name("change_password"))
        .route("/photos/{id}/delete", post(photos::take_down).name("take_down"))
}

/// Redirects users who are not logged in to the login, and back afterward.
fn ask_to_log_in(req: &mut Request) -> Result<Option<Response>> {
    if visitor(req)?.is_some() {
        return Ok(None);
    }
    let next = if req.method().is_safe() { req.target().to_owned() } else { req.url_for("account", &[])? };
    Ok(Some(redirect(&req.url_for("login", &[("next", &next)])?)))
}

/// Returns the owner if the owner is logged in.
fn visitor(req: &mut Request) -> Result<Option<Owner>> {
    let user: Option<i64> = req.user();
    Ok(req.state::<Store>().owner()?.filter(|owner| user == Some(owner.id)))
}

fn owner(req: &mut Request) -> Result<Owner> {
    visitor(req)?.ok_or_else(|| Error::unauthorized("Log in first."))
}

#[derive(Deserialize)]
struct SignUp {
    email: String,
    password: String,
}

/// `GET /signup`
pub fn signup_form(req: &mut Request) -> Result<Response> {
    signup_page(req, &Form::empty())
}

fn signup_page(req: &mut Request, form: &Form<SignUp>) -> Result<Response> {
    only_the_first(req)?;
    let page = req.render("signup.html", context! { form, min_password => MIN_PASSWORD })?;
    Ok(page.status(form.status()))
}

fn only_the_first(req: &Request) -> Result<()> {
    match req.state::<Store>().owner()? {
        Some(_) => Err(taken()),
        None => Ok(()),
    }
}

fn taken() -> Error {
    Error::not_found("This site has its owner.")
}

/// `POST /signup`: the first user to sign up becomes the owner.
pub fn sign_up(req: &mut Request) -> Result<Response> {
    only_the_first(req)?;
    let mut form: Form<SignUp> = req.submitted()?;
    form.require(&["email", "password"]).check("email", |new| mail::is_address(new.email.trim()), NO_ADDRESS);
    check_password(&mut form, |new| &new.password);
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return signup_page(req, &form),
    };
    let hash = password::hash(&new.password)?;
    let owner = req.state::<Store>().add_owner(new.email.trim(), &hash)?.ok_or_else(taken)?;
    req.login(owner.id)?;
    req.flash("success", "Welcome! This site is yours.");
    Ok(redirect(&req.url_for("account", &[])?))
}

fn check_password<T>(form: &mut Form<T>, password: impl Fn(&T) -> &String) {
    let too_short = format!("A password has at least {MIN_PASSWORD} characters.");
    let too_long = format!("A password has at most {MAX_PASSWORD} bytes.");
    form.check("password", |new| password(new).chars().count() >= MIN_PASSWORD, too_short);
    form.check("password", |new| password(new).len() <= MAX_PASSWORD, too_long);
}

#[derive(Deserialize)]
struct LogIn {
    email: String,
    password: String,
}

/// Returns the page to show after the login.
#[derive(Deserialize)]
struct Next {
    next: Option<String>,
}

/// `GET /login`, with the page to show afterward in `?next=`.
pub fn login_form(req: &mut Request) -> Result<Response> {
    let Next { next } = req.query()?;
    login_page(req, &Form::empty().with("next", next.unwrap_or_default()))
}

fn login_page(req: &mut Request, form: &Form<LogIn>) -> Result<Response> {
    let is_open = req.state::<Store>().owner()?.is_none();
    let page = req.render("login.html", context! { here => "login", form, is_open })?;
    Ok(page.status(form.status()))
}

/// `POST /login`
pub fn log_in(req: &mut Request) -> Result<Response> {
    let mut form: Form<LogIn> = req.submitted()?;
    let owner = match form.require(&["email", "password"]).value() {
        Some(typed) => authenticate(req, typed)?,
        None => return login_page(req, &form),
    };
    let Some(owner) = owner else {
        // The message does not reveal which of them is wrong.
        form.error("form", "The address or the password is not right.");
        return login_page(req, &form);
    };
    req.login(owner.id)?;
    Ok(redirect_or(form.typed_in("next"), &req.url_for("account", &[])?))
}

/// Returns the owner with this address and password. An unknown address takes the same time.
fn authenticate(req: &Request, typed: &LogIn) -> Result<Option<Owner>> {
    let email = typed.email.trim().to_lowercase();
    req.state::<Site>().tries.check(&email)?;
    let owner = req.state::<Store>().owner()?.filter(|owner| owner.email.to_lowercase() == email);
    let right = password::verify(&typed.password, owner.as_ref().map(|owner| &*owner.password))?;
    Ok(owner.filter(|_| right))
}

/// `POST /logout`
pub fn log_out(req: &mut Request) -> Result<Response> {
    req.logout()?;
    req.flash("success", "You are logged out.");
    Ok(redirect(&req.url_for("gallery", &[])?))
}

#[derive(Deserialize)]
struct NewPassword {
    current: String,
    password: String,
}

/// `GET /account`
fn account(req: &mut Request) -> Result<Response> {
    account_page(req, &Form::empty())
}

fn account_page(req: &mut Request, form: &Form<NewPassword>) -> Result<Response> {
    let store = req.state::<Store>();
    let email = owner(req)?.email;
    let orders: Vec<Line> = store.latest_orders(MOST)?.into_iter().map(Line::for_the_owner).collect();
    let photos: Vec<Card> = store.all_photos(MOST)?.into_iter().map(Card::from).collect();
    let context = context! { here => "account", form, email, orders, photos, min_password => MIN_PASSWORD };
    Ok(req.render("account.html", context)?.status(form.status()))
}

/// `POST /account/password`: the old password and all other sessions become invalid.
fn change_password(req: &mut Request) -> Result<Response> {
    let owner = owner(req)?;
    req.state::<Site>().tries.check(&owner.email.to_lowercase())?;
    let mut form: Form<NewPassword> = req.submitted()?;
    form.require(&["current", "password"]).try_check(
        "current",
        |new| password::verify(&new.current, Some(&owner.password)),
        "That is not your password.",
    )?;
    check_password(&mut form, |new| &new.password);
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return account_page(req, &form),
    };
    req.state::<Store>().change_password(&password::hash(&new.password)?)?;
    req.logout_everywhere(owner.id)?;
    req.login(owner.id)?; // this browser stays logged in
    req.flash("success", "The password is changed. Everybody else is logged out.");
    Ok(redirect(&req.url_for("account", &[])?))
}
