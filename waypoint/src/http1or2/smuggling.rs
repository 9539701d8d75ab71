//! Requests that two parsers might cut in different places (spec/waypoint.md 9). Whatever a client sends, the endpoint
//! sees what is listed here, and the next client gets its own answer.

use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::body::Body;
use crate::exchange::Version;
use crate::testing::{Site, text};

mod corpus;

/// A site whose endpoint notes what it sees: method, target, bytes of the body.
fn site(version: Version) -> (Site, Arc<Mutex<Vec<String>>>) {
    let site = Site::new(version);
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let notes = seen.clone();
    site.endpoints.http("web", version, move |request| {
        let notes = notes.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().len());
            let body = body.map_or_else(|_| "broken".to_owned(), |bytes| bytes.to_string());
            let what = format!("{} {} {body}", parts.method, parts.uri.path());
            notes.lock().push(what.clone());
            http::Response::new(Body::full(what))
        }
    });
    (site, seen)
}

// V-48
#[tokio::test]
async fn nothing_is_smuggled_in_http1() {
    let inner = "GET /admin HTTP/1.1\r\nHost: web\r\n\r\n";
    let chunked = format!("0\r\n\r\n{inner}");
    let whole = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let bytes = inner.len();
    // name, headers and body of a POST, the status that is answered, what the endpoint sees
    let table: Vec<(&str, String, &str, Vec<String>)> = vec![
        ("CL.TE", format!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"), "200", vec!["POST / 0".into()]),
        ("TE.CL", format!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{whole}"), "200", vec![format!("POST / {bytes}")]),
        ("CL.0", format!("Content-Length: {bytes}\r\n\r\n{inner}"), "200", vec![format!("POST / {bytes}")]),
        ("TE twice", format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{chunked}"), "400", vec![]),
        ("TE twice, chunked last", format!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE x", format!("Transfer-Encoding: xchunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE in a list", format!("Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE not last", format!("Transfer-Encoding: chunked, gzip\r\n\r\n{chunked}"), "400", vec![]),
        ("TE in quotes", format!("Transfer-Encoding: \"chunked\"\r\n\r\n{chunked}"), "400", vec![]),
        ("TE with a parameter", format!("Transfer-Encoding: chunked;x=1\r\n\r\n{chunked}"), "400", vec![]),
        ("TE, blank before the colon", format!("Transfer-Encoding : chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE, tab before the colon", format!("Transfer-Encoding\t: chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE, vertical tab", format!("Transfer-Encoding: \u{b}chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE, NUL", format!("Transfer-Encoding: chunked\0\r\n\r\n{chunked}"), "400", vec![]),
        ("TE folded", format!("X: a\r\n Transfer-Encoding: chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE folded value", format!("Transfer-Encoding:\r\n chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE after a bare CR", format!("X: a\rTransfer-Encoding: chunked\r\n\r\n{chunked}"), "400", vec![]),
        ("TE with underscore", "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".to_string(), "200", vec!["POST / 5".into()]),
        ("CL twice", format!("Content-Length: 0\r\nContent-Length: {bytes}\r\n\r\n{inner}"), "400", vec![]),
        ("CL in a list", format!("Content-Length: 0, {bytes}\r\n\r\n{inner}"), "400", vec![]),
        ("CL with a sign", format!("Content-Length: +{bytes}\r\n\r\n{inner}"), "400", vec![]),
        ("CL negative", format!("Content-Length: -1\r\n\r\n{inner}"), "400", vec![]),
        ("CL hexadecimal", format!("Content-Length: 0x{bytes:x}\r\n\r\n{inner}"), "400", vec![]),
        ("CL with a blank", format!("Content-Length: 0 {bytes}\r\n\r\n{inner}"), "400", vec![]),
        ("CL empty", format!("Content-Length: \r\n\r\n{inner}"), "400", vec![]),
        ("CL too large", format!("Content-Length: 99999999999999999999\r\n\r\n{inner}"), "400", vec![]),
        ("CL, blank before the colon", format!("Content-Length : {bytes}\r\n\r\n{inner}"), "400", vec![]),
        ("chunk size with garbage", format!("Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n{inner}"), "", vec!["POST / broken".into()]),
        ("chunk size negative", format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{inner}"), "", vec!["POST / broken".into()]),
        ("chunk size too large", format!("Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{inner}"), "", vec!["POST / broken".into()]),
        ("chunk longer than its size", format!("Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n{inner}"), "", vec!["POST / broken".into()]),
        ("chunk extension", "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n".into(), "200", vec!["POST / 5".into()]),
        ("upgrade to h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 0\r\n\r\n".into(), "200", vec!["POST / 0".into()]),
        ("hop-by-hop content-length", format!("Connection: Content-Length\r\nContent-Length: {bytes}\r\n\r\n{inner}"), "200", vec![format!("POST / {bytes}")]),
        ("Host twice", "Host: admin\r\nContent-Length: 0\r\n\r\n".to_string(), "400", vec![]),
    ];
    for (name, rest, status, expected) in table {
        for version in [Version::Http1, Version::Http2] {
            let (site, seen) = site(version);
            let last = expected.last().filter(|_| status == "200").map_or("until the end", String::as_str);
            let got = site.bytes(format!("POST / HTTP/1.1\r\nHost: web\r\n{rest}").as_bytes(), last).await;
            match status {
                "" => assert!(!got.starts_with("HTTP/1.1 200"), "{name} {version:?}: {got}"),
                status => assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{name} {version:?}: {got}"),
            }
            let mut next = site.http1().await;
            let answer = next.send_request(Request::get("/next").header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
            assert_eq!(text(answer).await, "GET /next 0", "{name} {version:?}");
            let mut seen = seen.lock().clone();
            assert_eq!(seen.pop().as_deref(), Some("GET /next 0"));
            // A body that breaks may do so before its endpoint has a whole head.
            if !(seen.is_empty() && status.is_empty()) {
                assert_eq!(seen, expected, "{name} {version:?}: {got}");
            }
        }
    }
}

#[tokio::test]
async fn lines_that_are_no_request_are_refused() {
    for line in [
        "GET /\r\n", "GET  / HTTP/1.1\r\n", "GET / HTTP/1.1 \r\n", " GET / HTTP/1.1\r\n", "GET\t/\tHTTP/1.1\r\n", "GET / HTTP/2.0\r\n",
        "GET / HTTP/1.2\r\n", "GET / http/1.1\r\n", "GET /\0 HTTP/1.1\r\n", "G\u{0}T / HTTP/1.1\r\n", "GET / HTTP/1.1\rX: a\r\n", "GET(/) / HTTP/1.1\r\n",
        "GET /a b HTTP/1.1\r\n", "GET : HTTP/1.1\r\n", "GET http:// HTTP/1.1\r\n", "GET web HTTP/1.1\r\n",
    ] {
        let (site, seen) = site(Version::Http1);
        let got = site.bytes(format!("{line}Host: web\r\n\r\n").as_bytes(), "no such text").await;
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 400 ") || got.starts_with("HTTP/1.1 426 "), "{line:?}: {got}");
        assert!(seen.lock().is_empty(), "{line:?}: {:?}", seen.lock());
    }
}

// V-48
#[tokio::test]
async fn nothing_is_smuggled_from_http2() {
    let inner = "GET /admin HTTP/1.1\r\nHost: web\r\n\r\n";
    let too_long = inner.len().to_string();
    // name, a header, the body; none of them reaches the endpoint as a whole request
    let table: &[(&str, (&str, &str), &str)] = &[
        ("H2.CL", ("content-length", "0"), inner),
        ("H2.CL, longer", ("content-length", &too_long), "short"),
        ("H2.TE", ("transfer-encoding", "chunked"), inner),
        ("connection", ("connection", "close"), inner),
        ("keep-alive", ("keep-alive", "1"), inner),
        ("upgrade", ("upgrade", "h2c"), inner),
        ("te", ("te", "gzip"), inner),
    ];
    for (name, (header, value), body) in table {
        let (site, seen) = site(Version::Http1);
        let (client, connection) = h2::client::handshake(site.stream(Version::Http2)).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = Request::post("http://web/").header(*header, *value).body(()).unwrap();
        let answered = match client.send_request(request, false) {
            Ok((response, mut stream)) => {
                let _ = stream.send_data(bytes::Bytes::from_static(body.as_bytes()), true);
                response.await.map(|response| response.status().as_u16())
            }
            // The client's own library would not send it.
            Err(error) => Err(error),
        };
        assert!(!matches!(answered, Ok(200..=299)), "{name}: {answered:?}");
        let mut next = site.http1().await;
        let answer = next.send_request(Request::get("/next").header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
        assert_eq!(text(answer).await, "GET /next 0", "{name}");
        assert!(!seen.lock().iter().any(|seen| seen.contains("/admin") || seen.starts_with("POST / 4")), "{name}: {:?}", seen.lock());
    }
}
