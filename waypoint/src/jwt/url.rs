//! Where keys are fetched. Pure.

use std::fmt;

use http::Uri;

use crate::upstream::guard::is_of_this_machine;

/// With a scheme of HTTP, a host, and nothing that would make this proxy ask itself or its machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    uri: Uri,
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl Url {
    /// # Errors
    /// The end of a sentence that begins with the text.
    pub fn read(text: &str) -> Result<Url, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("does not begin with https:// or http://"),
        };
        let authority = uri.authority().ok_or("names no host")?;
        if authority.as_str().contains('@') {
            return Err("names a user");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        if host.is_empty() {
            return Err("names no host");
        }
        if host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(is_of_this_machine) {
            return Err("names this machine, or what only this machine may ask");
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Url { tls, host, port, uri })
    }

    /// Where an answer sends its reader: never to another host, and never out of TLS.
    ///
    /// # Errors
    /// The end of a sentence that begins with "the redirect".
    pub fn redirected(&self, location: &str) -> Result<Url, &'static str> {
        let next = if location.starts_with('/') && !location.starts_with("//") {
            Url::read(&format!("{}://{}{location}", if self.tls { "https" } else { "http" }, self.authority()))?
        } else {
            Url::read(location)?
        };
        match next.host == self.host && next.port == self.port && next.tls == self.tls {
            true => Ok(next),
            false => Err("leads to another host"),
        }
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uri, f)
    }
}
