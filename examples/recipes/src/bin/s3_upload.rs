//! Uploads to S3-compatible storage by a job with retries: `cargo run --bin s3_upload`, with S3_ENDPOINT
//! (`https://…`), S3_BUCKET, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
use std::{env::var, fs, path::PathBuf, time::Duration};

use aside::{App, Config, Job, Jobs, Request, Response, Result, TaskContext, Upload, redirect};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use serde::{Deserialize, Serialize};

const PAGE: &str = r#"<!doctype html><title>Upload</title><form method="post"
enctype="multipart/form-data"><input name="file" type="file" required> <button>Upload</button></form>"#;

const LIMIT: Duration = Duration::from_secs(300); // for one attempt and its signature

struct Storage(Bucket, Credentials);

#[derive(Deserialize)]
struct NewFile {
    file: Upload,
}

/// Moves a file of this machine into the storage.
#[derive(Deserialize, Serialize)]
struct Store(PathBuf);

impl Job for Store {
    const NAME: &'static str = "store";

    fn run(self, task: &TaskContext) -> Result<()> {
        if !self.0.exists() {
            return Ok(()); // it was moved, and the process ended before the job did
        }
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let Storage(bucket, credentials) = &*task.state();
        let url = bucket.put_object(Some(credentials), &name).sign(LIMIT);
        let put = ureq::put(url.as_str()).config().timeout_global(Some(LIMIT));
        put.build().send(fs::File::open(&self.0)?)?; // an error if the storage refuses it
        Ok(fs::remove_file(&self.0)?)
    }
}

fn main() -> Result<()> {
    let (name, region) = (var("S3_BUCKET")?, var("AWS_REGION")?);
    let bucket = Bucket::new(var("S3_ENDPOINT")?.parse()?, UrlStyle::Path, name, region)?;
    let credentials = Credentials::from_env().expect("AWS_ACCESS_KEY_ID is not set");
    let jobs = Jobs::sqlite("data/jobs.db")?;
    app(Config::from_env()?, jobs, Storage(bucket, credentials)).main()
}

fn app(config: Config, jobs: Jobs, storage: Storage) -> App {
    App::with_config(config)
        .jobs(jobs.register::<Store>())
        .state(storage)
        .get("/", |_| Response::html(PAGE))
        .post("/", upload)
}

fn upload(req: &mut Request) -> Result<Response> {
    let path = req.form::<NewFile>()?.file.save_to("data/outbox")?; // a random name
    req.enqueue(Store(path))?;
    Ok(redirect("/"))
}

#[cfg(test)]
#[path = "../s3_server.rs"]
mod s3_server;

#[test]
fn a_file_is_stored_at_the_second_attempt() {
    let server = s3_server::start("secret"); // it checks the signature, and is busy at first
    let bucket = Bucket::new(server.url().parse().unwrap(), UrlStyle::Path, "files", "eu").unwrap();
    let storage = Storage(bucket, Credentials::new("key", "secret"));
    let app = app(Config::default(), Jobs::memory(), storage);
    let mut client = aside::testing::TestClient::new(app);
    client.post("/").file("file", "a.txt", "", b"waves").send();
    assert!(client.jobs().drain()[0].failures[0].message.contains("503"));
    client.advance(LIMIT);
    client.drain();
    assert_eq!(server.stop(), ["waves"]);
    assert_eq!(client.post("/").field("x", "y").send().status_code(), 422);
}
