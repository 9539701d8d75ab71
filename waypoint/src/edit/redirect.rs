//! "Go there instead" (spec/waypoint.md 2.4).

use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use mesh_xds::messages::waypoint as wire;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::rewrite::{PathEdit, authority, with_query};
use super::{Answer, Reason, Site, host_of};
use crate::facts::Rejection;

/// What a client wrote into its target and may not stand in a header as it is.
const UNSAFE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

#[derive(Clone, Debug)]
pub struct Redirect {
    /// None: the request's.
    scheme: Option<&'static str>,
    host: Option<Box<str>>,
    path: Option<PathEdit>,
    port: Option<u16>,
    port_of_scheme: bool,
    status: StatusCode,
}

impl Redirect {
    pub fn compile(wire: &wire::Redirect) -> Result<Redirect, Rejection> {
        let unsupported = |what: String| Rejection::new("UnsupportedValue", what);
        let scheme = match wire.scheme.as_str() {
            "" => None,
            "http" => Some("http"),
            "https" => Some("https"),
            other => return Err(unsupported(format!("{other:?} is no scheme of a redirect: http, https"))),
        };
        let status = match wire.status {
            0 => StatusCode::FOUND,
            301 => StatusCode::MOVED_PERMANENTLY,
            302 => StatusCode::FOUND,
            303 => StatusCode::SEE_OTHER,
            307 => StatusCode::TEMPORARY_REDIRECT,
            308 => StatusCode::PERMANENT_REDIRECT,
            other => return Err(unsupported(format!("{other} is no status of a redirect: 301, 302, 303, 307, 308"))),
        };
        let port = u16::try_from(wire.port).map_err(|_| unsupported(format!("port {} of a redirect", wire.port)))?;
        // VirtualServices may write the port with the host; it is an explicit one then.
        let written = (!wire.hostname.is_empty()).then(|| authority(&wire.hostname)).transpose()?;
        let host: Option<Box<str>> = written.as_ref().map(|written| host_of(written).into());
        let of_host =
            written.as_ref().zip(host.as_ref()).and_then(|(written, host)| written[host.len()..].strip_prefix(':')?.parse().ok());
        Ok(Redirect {
            scheme,
            host,
            path: wire.path.as_ref().map(PathEdit::compile).transpose()?,
            port: (port != 0).then_some(port).or(of_host),
            port_of_scheme: wire.port_of_scheme,
            status,
        })
    }

    pub fn answer(&self, parts: &Parts, site: &Site<'_>) -> Answer {
        let scheme = self.scheme.unwrap_or(if site.scheme == "https" { "https" } else { "http" });
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = match self.port {
            Some(port) => port,
            None if self.scheme.is_some() || self.port_of_scheme => usual,
            None => site.port,
        };
        let host = self.host.as_deref().unwrap_or_else(|| host_of(site.authority));
        let path = match &self.path {
            Some(edit) => edit.apply(parts.uri.path(), site),
            // `OPTIONS *` asks about no path.
            None => if parts.uri.path().starts_with('/') { parts.uri.path() } else { "/" }.to_owned(),
        };
        let target = with_query(&path, parts.uri.query());
        let port = if port == usual { String::new() } else { format!(":{port}") };
        let location = format!("{scheme}://{host}{port}{}", utf8_percent_encode(&target, UNSAFE));
        let Ok(location) = HeaderValue::try_from(location) else {
            return Answer::invalid("the address of the redirect cannot stand in a header");
        };
        let mut answer = Answer::empty(self.status, Reason::Redirect);
        answer.headers.insert(header::LOCATION, location);
        answer
    }
}
