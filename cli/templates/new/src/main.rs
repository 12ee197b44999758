//! All routes of the site, and what its pages share.

%% if login
mod account;
%% end
%% if live
mod chat;
%% end
%% if mail
mod contact;
%% end
mod db;
mod home;
%% if jobs
mod jobs;
%% end
mod messages;
%% if uploads
mod photos;
%% end
%% if jobs
mod reports;
%% end
#[cfg(test)]
mod test_site;

use std::path::Path;

use aside::routing::{Rate, get, post};
use aside::{App, Config, Result, embed};

fn main() -> Result<()> {
    App::main_with(|config| app(config, Path::new("data")))
}

/// Returns the whole site, for `main` and for the tests. It stores everything in the folder `data`.
fn app(config: Config, data: &Path) -> Result<App> {
    std::fs::create_dir_all(data)?;
    Ok(App::with_config(config)
%% if jobs
        .jobs(jobs::open(data)?)
%% end
        .state(db::open(data)?)
%% if login
        .state(account::Attempts::default())
%% end
%% if mail
        .state(contact::Owner::from_env())
%% end
%% if live
        .state(chat::Chat::default())
        .live("chat", "chat_lines.html", chat::lines)
%% end
%% if uploads
        .state(photos::Folder::create(data)?)
        .static_files("/photos/files", data.join("photos"))
%% end
        .templates(embed!("templates"))
        .static_files("/static", embed!("static"))
        .route("/", get(home::show).name("home"))
        .route("/messages", get(messages::show).name("messages"))
        .route("/messages", post(messages::add).rate_limit(Rate::per_minute(20)))
%% if uploads
        .route("/photos", get(photos::show).name("photos"))
        .route("/photos", post(photos::add).rate_limit(Rate::per_minute(20)))
%% end
%% if jobs
        .route("/reports", get(reports::show).name("reports"))
        .route("/reports", post(reports::order).rate_limit(Rate::per_minute(20)))
%% end
%% if live
        .route("/chat", get(chat::show).name("chat"))
        .route("/chat", post(chat::say).rate_limit(Rate::per_minute(60)))
%% end
%% if mail
        .route("/contact", get(contact::show).name("contact"))
        .route("/contact", post(contact::send).rate_limit(Rate::per_hour(20)))
%% end
%% if login
        .route("/signup", get(account::signup_form).name("signup"))
        .route("/signup", post(account::sign_up).rate_limit(Rate::per_hour(20)))
        .route("/login", get(account::login_form).name("login"))
        .route("/login", post(account::log_in).rate_limit(Rate::per_minute(10)))
        .route("/logout", post(account::log_out).name("logout"))
        .route("/account", get(account::show).name("account"))
%% end
        .healthz())
}
