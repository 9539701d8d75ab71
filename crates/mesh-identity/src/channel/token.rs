//! The token that a program of ours shows to the controller.

use std::fmt;
use std::path::PathBuf;

/// Where the bearer token comes from: `AUTH_TOKEN` (spec/dataplane.md 9.1).
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// No authorization header.
    None,
    /// Read for every call: the kubelet renews it. White space around it is cut off.
    File(PathBuf),
    Static(String),
}

impl TokenSource {
    /// Read for every stream: whoever mints tokens renews the file.
    ///
    /// # Errors
    /// There should be one and is not, as a sentence.
    pub fn read(&self) -> Result<Option<String>, String> {
        match self {
            TokenSource::None => Ok(None),
            TokenSource::Static(text) => Ok(Some(text.clone())),
            TokenSource::File(path) => match std::fs::read_to_string(path) {
                Ok(text) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
                Ok(_) => Err(format!("the token in {} is empty", path.display())),
                Err(why) => Err(format!("cannot read the token from {}: {why}", path.display())),
            },
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::None => f.write_str("None"),
            TokenSource::File(path) => write!(f, "File({})", path.display()),
            TokenSource::Static(_) => f.write_str("Static(hidden)"),
        }
    }
}
