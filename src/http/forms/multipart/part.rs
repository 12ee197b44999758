//! One part of a multipart body.

use std::io::{self, Read};

use super::parameters::{extended_value, is_form_data, only, parameters, unescape};
use super::parser::PartHeaders;
use super::upload::Upload;
use crate::error::{Error, Result};

/// One part of a multipart body, as the client sent it.
#[derive(Debug)]
pub struct Part {
    pub(super) name: String,
    pub(super) filename: Option<String>,
    content_type: Option<String>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The bytes, and their text with U+FFFD if they are not valid UTF-8.
    Text(Vec<u8>, Option<String>),
    File(Upload),
    NoFile,
}

impl Part {
    pub(super) fn from_headers(headers: &PartHeaders) -> Result<Part> {
        let disposition = headers.get("content-disposition").unwrap_or_default();
        if !is_form_data(disposition) {
            return Err(Error::bad_request("A part of the multipart body has no Content-Disposition of form-data."));
        }
        let parameters = parameters(disposition);
        let name = only(&parameters, "name")?;
        let name = name.ok_or_else(|| Error::bad_request("A part of the multipart body has no name."))?;
        let name = str::from_utf8(name).map_err(|_| Error::bad_request("The name of a part is not UTF-8."))?;
        // `filename*` is not allowed in a form (RFC 7578, section 4.2), but some clients send nothing else. If both are
        // present, two servers could read different names, so the plain `filename` counts.
        let plain = only(&parameters, "filename")?.map(|name| unescape(&String::from_utf8_lossy(name)));
        let extended = only(&parameters, "filename*")?.map(extended_value);
        Ok(Part {
            name: unescape(name),
            filename: plain.or(extended),
            content_type: headers.get("content-type").map(|value| String::from_utf8_lossy(value).into_owned()),
            content: Content::NoFile,
        })
    }

    /// Returns the field's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file name that the client sent, which may be a path or empty; `None` for a text field. Do not save a
    /// file under this name: see [`Upload::save_to`].
    pub fn filename(&self) -> Option<&str> {
        self.filename.as_deref()
    }

    /// Returns the media type that the client sent, with its parameters. For a file see [`Upload::content_type`].
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Returns the length of the content in bytes.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Text(bytes, _) => bytes.len() as u64,
            Content::File(upload) => upload.size(),
            Content::NoFile => 0,
        }
    }

    /// Opens the content, text or file, for reading from its start.
    ///
    /// # Errors
    /// 500 if the temporary file cannot be read.
    #[track_caller]
    pub fn open(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match &self.content {
            Content::Text(bytes, _) => Box::new(bytes.as_slice()),
            Content::File(upload) => Box::new(upload.open()?),
            Content::NoFile => Box::new(io::empty()),
        })
    }

    /// Returns the text of a text field, which is a part without a file name. Invalid UTF-8 becomes U+FFFD, as in a
    /// urlencoded form; [`open`](Part::open) returns the bytes.
    pub fn text(&self) -> Option<&str> {
        let Content::Text(bytes, decoded) = &self.content else { return None };
        decoded.as_deref().or_else(|| std::str::from_utf8(bytes).ok())
    }

    /// Returns the file, if the user chose one.
    pub fn upload(&self) -> Option<&Upload> {
        if let Content::File(upload) = &self.content { Some(upload) } else { None }
    }
}
