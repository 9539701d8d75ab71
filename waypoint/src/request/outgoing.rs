//! Pure: a request as an endpoint gets it.

use std::time::Duration;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};

use crate::body::Body;
use crate::exchange::Version;
use crate::hygiene::{self, GRPC_TIMEOUT, Kind};

/// `left`: of a deadline that the client gave, for whoever reads it next.
pub fn request(parts: &http::request::Parts, kind: Kind, version: Version, left: Option<Duration>, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    if let Some(left) = left {
        headers.insert(GRPC_TIMEOUT, hygiene::write_grpc_timeout(left));
    }
    *request.uri_mut() = match version {
        _ if kind == Kind::Connect => parts.uri.clone(),
        Version::Http1 => origin_form(&parts.uri),
        Version::Http2 => {
            let host = headers.remove(header::HOST);
            absolute_form(&parts.uri, &parts.method, host.as_ref())
        }
    };
    if kind == Kind::Connect {
        *request.method_mut() = Method::CONNECT;
    }
    request
}

fn origin_form(uri: &Uri) -> Uri {
    match (uri.authority(), uri.path_and_query()) {
        (Some(_), Some(path)) => path.clone().into(),
        _ => uri.clone(),
    }
}

/// HTTP/2 has the host in `:authority`, and no `Host`.
fn absolute_form(uri: &Uri, method: &Method, host: Option<&HeaderValue>) -> Uri {
    let path = match uri.path_and_query() {
        // RFC 9113 8.3.1: `*` stays `*` in an OPTIONS.
        Some(path) if path == "*" && method == Method::OPTIONS => PathAndQuery::from_static("*"),
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    let mut parts = http::uri::Parts::default();
    if let Some(authority) = host.and_then(|host| Authority::try_from(host.as_bytes()).ok()) {
        parts.authority = Some(authority);
        parts.scheme = Some(Scheme::HTTP);
    }
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_form() {
        let table: &[(&str, &str, Version, &str, Option<&str>)] = &[
            ("GET", "/a?b", Version::Http1, "/a?b", Some("web:80")),
            ("GET", "/a?b", Version::Http2, "http://web:80/a?b", None),
            ("GET", "http://other/a?b", Version::Http1, "/a?b", Some("web:80")),
            ("GET", "http://other/a?b", Version::Http2, "http://web:80/a?b", None),
            ("OPTIONS", "*", Version::Http1, "*", Some("web:80")),
        ];
        for (method, uri, version, expected, host) in table {
            let parts = Request::builder().method(*method).uri(*uri).header("host", "web:80").body(()).unwrap().into_parts().0;
            let request = request(&parts, Kind::Plain, *version, Some(Duration::from_millis(5)), Body::Empty);
            assert_eq!(request.uri().to_string(), *expected, "{uri} {version:?}");
            assert_eq!(request.headers().get("host").map(|host| host.to_str().unwrap()), *host);
            assert_eq!(request.headers()["grpc-timeout"], "5000u");
        }
    }
}
