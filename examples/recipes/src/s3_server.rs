//! S3-compatible storage for a test: it checks the signature of each upload, and refuses the first one as busy.
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use aside::{App, Config, Error, Live, Request, Result, server};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub struct Server {
    server: server::Server,
    files: Live<Vec<String>>,
}

pub fn start(secret: &'static str) -> Server {
    let config = Config {
        address: "127.0.0.1:0".into(),
        ..Config::default()
    };
    let (files, is_busy) = (Live::<Vec<String>>::default(), AtomicBool::new(true));
    let stored = files.clone();
    let put = move |req: &mut Request| {
        if !is_signed(req, secret)? {
            return Err(Error::forbidden("SignatureDoesNotMatch"));
        }
        if is_busy.swap(false, Ordering::Relaxed) {
            return Err(Error::new(503, "SlowDown"));
        }
        let file = req.text()?;
        stored.update(|files| files.push(file));
        Ok(())
    };
    let app = App::with_config(config).put("/files/{name}", put);
    Server {
        server: app.start().unwrap(),
        files,
    }
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// Stops the server, and returns the stored files.
    pub fn stop(self) -> Vec<String> {
        self.server.stop();
        self.files.get().to_vec()
    }
}

/// Checks a presigned address: AWS Signature Version 4, with the parameters in the query.
fn is_signed(req: &Request, secret: &str) -> Result<bool> {
    let parameters = req.query_pairs()?;
    let value = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    // `KEY/20261127/eu/s3/aws4_request`
    let (_, scope) = value("X-Amz-Credential").split_once('/').unwrap();
    let (path, query) = req.target().split_once('?').unwrap();
    let (signed, signature) = query.split_once("&X-Amz-Signature=").unwrap();
    let host = req.host().unwrap();
    let canonical = format!("PUT\n{path}\n{signed}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let digest = hex(&Sha256::digest(canonical));
    let text = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}",
        value("X-Amz-Date")
    );
    let first = format!("AWS4{secret}").into_bytes();
    let key = scope.split('/').fold(first, |key, part| hmac(&key, part));
    Ok(hex(&hmac(&key, &text)) == signature)
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}
