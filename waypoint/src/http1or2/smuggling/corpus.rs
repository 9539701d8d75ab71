//! More than a hundred requests that two parsers might cut in different places, in families; and three readings of what the
//! endpoint is sent. However it reads, it sees as many requests as the waypoint has judged, and none that is denied.

use std::sync::Arc;

use http::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::Body;
use crate::exchange::Version;
use crate::testing::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, header};
use crate::testing::{Site, text};

/// How an endpoint finds the end of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    /// As it is written (RFC 9112 6.3).
    Strict,
    /// A length counts before a coding.
    LengthFirst,
    /// Lines may end with LF alone, blanks are anywhere, whatever has "chunked" in it is chunked.
    Lenient,
}

/// The first lines of the whole requests in these bytes, and what is left: the beginning of another one, or nothing.
fn requests(mut bytes: &[u8], reading: Reading) -> (Vec<String>, String) {
    let mut lines = Vec::new();
    while let Some((line, rest)) = request(bytes, reading) {
        lines.push(line);
        bytes = rest;
    }
    let left = String::from_utf8_lossy(bytes);
    (lines, left.lines().next().unwrap_or_default().to_owned())
}

fn request(bytes: &[u8], reading: Reading) -> Option<(String, &[u8])> {
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what).map(|at| at + what.len());
    let end = match reading {
        Reading::Lenient => [find(b"\r\n\r\n"), find(b"\n\n"), find(b"\n\r\n")].into_iter().flatten().min()?,
        _ => find(b"\r\n\r\n")?,
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut length = None;
    let mut chunked = false;
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        let is = |wanted: &str| if reading == Reading::Lenient { name.trim() == wanted } else { name == wanted };
        if is("content-length") {
            length = value.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<usize>().ok());
        }
        if is("transfer-encoding") {
            chunked |= if reading == Reading::Lenient { value.to_ascii_lowercase().contains("chunked") } else { value.eq_ignore_ascii_case("chunked") };
        }
    }
    let body = &bytes[end..];
    let rest = match (length, chunked) {
        (Some(length), false) => body.get(length..)?,
        (Some(length), true) if reading == Reading::LengthFirst => body.get(length..)?,
        (_, true) => after_chunks(body)?,
        (None, false) => body,
    };
    Some((head.lines().next().unwrap_or_default().to_owned(), rest))
}

fn after_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let digits: String = bytes[..end].iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_hexdigit).collect();
        let size = usize::from_str_radix(&digits, 16).ok()?;
        bytes = bytes.get(end + 2..)?;
        if size == 0 {
            // Trailers, then an empty line.
            loop {
                let end = bytes.windows(2).position(|two| two == b"\r\n")?;
                bytes = &bytes[end + 2..];
                if end == 0 {
                    return Some(bytes);
                }
            }
        }
        bytes = bytes.get(size + 2..)?;
    }
}

/// A site where `/admin` is denied, and everything that its endpoint was sent, by connection.
fn site() -> (Site, Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut site = Site::new(Version::Http1);
    let policy = "targets: [{kind: {service: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}}}}]\naction: DENY\nrules: [{to: [{paths: ['/admin']}]}]";
    let policy: mesh_xds::messages::waypoint::AuthzPolicy = serde_saphyr::from_str(policy).unwrap();
    site.put(mesh_xds::messages::waypoint::AUTHZ_POLICY, "shop/deny", &policy);
    let sent = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let all = sent.clone();
    site.endpoints.raw("web", move |mut io| {
        let all = all.clone();
        let at = {
            let mut all = all.lock();
            all.push(Vec::new());
            all.len() - 1
        };
        async move {
            let (mut buffer, mut answered) = (vec![0; 64 << 10], 0);
            while let Ok(read @ 1..) = io.read(&mut buffer).await {
                let whole = {
                    let mut all = all.lock();
                    all[at].extend_from_slice(&buffer[..read]);
                    requests(&all[at], Reading::Strict).0.len()
                };
                while answered < whole {
                    answered += 1;
                    let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        }
    });
    (site, sent)
}

/// What is judged for each case. `got`: what its client received.
async fn judge(name: &str, site: &Site, sent: &Mutex<Vec<Vec<u8>>>, answered: std::ops::RangeInclusive<usize>) {
    let mut next = site.http1().await;
    let answer = next.send_request(Request::get("/next").header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
    assert_eq!(text(answer).await, "ok", "{name}: the next client");
    let sent = sent.lock().clone();
    let mut whole = 0;
    for bytes in &sent {
        let shown = String::from_utf8_lossy(bytes);
        let (strict, left) = requests(bytes, Reading::Strict);
        assert!(strict.iter().all(|line| ["POST / HTTP/1.1", "GET / HTTP/1.1", "GET /next HTTP/1.1"].contains(&&**line)), "{name}: {shown}");
        assert!(left.is_empty() || left == "POST / HTTP/1.1", "{name}: {shown}");
        for reading in [Reading::LengthFirst, Reading::Lenient] {
            assert_eq!(requests(bytes, reading).0, strict, "{name}, {reading:?}: {shown}");
        }
        whole += strict.len();
    }
    assert!(answered.contains(&(whole - 1)), "{name}: as many as were answered ({answered:?}), and the next one: {sent:?}");
}

const INNER: &str = "GET /admin HTTP/1.1\r\nHost: web\r\n\r\n";

/// Codings that are meant to be seen by one of two parsers.
const CODINGS: [&str; 36] = [
    "Transfer-Encoding: chunked", "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked ", "TRANSFER-ENCODING: CHUNKED",
    "Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked", "X: y\r\n Transfer-Encoding: chunked", "X: y\r\n\tTransfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked", "Transfer-Encoding: chunked\r\n x", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "Transfer-Encoding: x, chunked", "Transfer-Encoding: chunked, x",
    "Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: 'chunked'", "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: \u{b}chunked", "Transfer-Encoding: chunked\u{c}", "Transfer-Encoding: \u{a0}chunked", "Transfer-Encoding: identity", "Transfer-Encoding: deflate", "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked-x", "Transfer-Encoding:", "X: y\rTransfer-Encoding: chunked", "X: y\nTransfer-Encoding: chunked", "Content-Encoding: chunked", "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
];

/// Lengths of the whole of `INNER`, `N`, that are meant to be seen by one of two parsers.
const LENGTHS: [&str; 26] = [
    "Content-Length: N\r\nContent-Length: 0", "Content-Length: 0\r\nContent-Length: N", "Content-Length: N\r\nContent-Length: N", "Content-Length: N, N", "Content-Length: N, 0", "Content-Length: 0, N",
    "Content-Length: +N", "Content-Length: -1", "Content-Length: 0xN", "Content-Length: N\u{b}", "Content-Length: N.0", "Content-Length: Ne0", "Content-Length: 0N", "Content-Length: N;x",
    "Content-Length: N 0", "Content-Length: N\0", "Content-Length:", "Content-Length: 18446744073709551617", "Content-Length : N", "Content-Length\t: N", "Content-Length: 0\r\n N", "Content-Length: N\r\n 0",
    " Content-Length: N", "X: y\rContent-Length: N", "Connection: Content-Length\r\nContent-Length: N", "Content-Length: N\r\nConnection: close, Content-Length",
];

/// Bodies in chunks that do not end where they seem to; `I` is `INNER` with its length before it.
const CHUNKS: [&str; 26] = [
    "0x5\r\nhello\r\n0\r\n\r\nI", "5;x=\"\r\nhello\r\n0\r\n\r\nI", "5 \r\nhello\r\n0\r\n\r\nI", " 5\r\nhello\r\n0\r\n\r\nI", "5\nhello\n0\n\nI", "5\rhello\r\n0\r\n\r\nI", "-5\r\nhello\r\n0\r\n\r\nI",
    "+5\r\nhello\r\n0\r\n\r\nI", "fffffffffffffffff\r\nhello\r\n0\r\n\r\nI", "10000000000000005\r\nhello\r\n0\r\n\r\nI", "005\r\nhello\r\n0\r\n\r\nI", "5\r\nhelloworld\r\n0\r\n\r\nI", "5\r\nhello0\r\n\r\nI",
    "5\r\nhello\n0\r\n\r\nI", "5\r\nhello\r\n0\r\nContent-Length: 100\r\n\r\nI", "5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\nI", "5\r\nhello\r\n0\r\nHost: admin\r\n\r\nI", "5\r\nhello\r\n0;x\r\n\r\nI", "5\r\nhello\r\n00\r\n\r\nI",
    "5\r\nhello\r\n0\n\nI", "5_\r\nhello\r\n0\r\n\r\nI", "5;\nhello\r\n0\r\n\r\nI", "5;a\nb\r\nhello\r\n0\r\n\r\nI", "\r\n0\r\n\r\nI", "5\r\nhello\r\n\r\n0\r\n\r\nI", "5\r\nhello\r\n0\r\n\rI",
];

fn http1() -> Vec<(String, String)> {
    let bytes = INNER.len();
    let mut cases = Vec::new();
    for coding in CODINGS {
        // A length that ends within the chunks, one that ends before the last of them, and none.
        for (kind, length, body) in [
            ("CL.TE", "Content-Length: 6\r\n", format!("0\r\n\r\n{INNER}")),
            ("TE.CL", "Content-Length: 4\r\n", format!("{bytes:x}\r\n{INNER}\r\n0\r\n\r\n")),
            ("TE", "", format!("{bytes:x}\r\n{INNER}\r\n0\r\n\r\n")),
        ] {
            cases.push((format!("{kind} {coding:?}"), format!("POST / HTTP/1.1\r\nHost: web\r\n{length}{coding}\r\n\r\n{body}")));
        }
    }
    for length in LENGTHS {
        let length = length.replace('N', &bytes.to_string());
        cases.push((format!("{length:?}"), format!("POST / HTTP/1.1\r\nHost: web\r\n{length}\r\n\r\n{INNER}")));
    }
    for body in CHUNKS {
        let body = body.replace('I', INNER);
        cases.push((format!("chunks {body:?}"), format!("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{body}")));
    }
    for body in ["", "Content-Length: 5\r\n"] {
        cases.push((format!("GET with a body, {body}"), format!("GET / HTTP/1.1\r\nHost: web\r\n{body}\r\n{INNER}")));
    }
    cases
}

// V-48
#[tokio::test(start_paused = true)]
async fn each_request_is_one_request_however_it_is_read() {
    let cases = http1();
    assert!(cases.len() >= 100);
    let (mut good, mut bad) = (0, 0);
    for (name, request) in cases {
        let (site, sent) = site();
        // On the paused clock a stream is read until nobody has anything left to do.
        let mut stream = site.stream(Version::Http1);
        let _ = stream.write_all(request.as_bytes()).await;
        let mut got = Vec::new();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_to_end(&mut got)).await;
        let got = String::from_utf8_lossy(&got);
        drop(stream);
        let answered = got.matches("HTTP/1.1 200 ").count();
        good += usize::from(answered > 0);
        bad += usize::from(got.starts_with("HTTP/1.1 400 "));
        judge(&name, &site, &sent, answered..=answered).await;
    }
    assert!(good > 20 && bad > 50, "{good} were served, {bad} refused");
}

// V-48: what HTTP/2 can say and HTTP/1.1 must not be told
#[tokio::test(start_paused = true)]
async fn nothing_of_http2_becomes_a_second_request() {
    let inner = INNER.as_bytes();
    let line = |method: &str, path: &str, host: &str| [header(":method", method), header(":scheme", "http"), header(":authority", host), header(":path", path)].concat();
    let plain = line("POST", "/", "web");
    let with = |name: &str, value: &str| [plain.clone(), header(name, value)].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("plain", plain.clone()),
        ("CL 0", with("content-length", "0")),
        ("CL short", with("content-length", "5")),
        ("CL long", with("content-length", "500")),
        ("CL twice", [with("content-length", "0"), header("content-length", "34")].concat()),
        ("CL in a list", with("content-length", "34, 0")),
        ("CL with a sign", with("content-length", "+34")),
        ("TE", with("transfer-encoding", "chunked")),
        ("TE behind a line", with("x", "y\r\ntransfer-encoding: chunked")),
        ("TE behind LF", with("x", "y\ntransfer-encoding: chunked")),
        ("TE in a name", with("x: y\r\ntransfer-encoding", "chunked")),
        ("request in a value", with("x", "y\r\n\r\nGET /admin HTTP/1.1\r\nHost: web\r\n\r\n")),
        ("request in a name", with("x: y\r\n\r\nGET /admin HTTP/1.1\r\nHost", "web")),
        ("request in the path", line("POST", "/ HTTP/1.1\r\nHost: web\r\n\r\nGET /admin HTTP/1.1\r\nX:", "web")),
        ("blank in the path", line("POST", "/ HTTP/1.1", "web")),
        ("request in the method", line("GET /admin HTTP/1.1\r\nHost: web\r\n\r\nPOST", "/", "web")),
        ("blank in the method", line("GET /admin HTTP/1.1", "/", "web")),
        ("request in the host", line("POST", "/", "web\r\n\r\nGET /admin HTTP/1.1\r\nHost: web")),
        ("upgrade", with("upgrade", "h2c")),
        ("connection", with("connection", "transfer-encoding")),
        ("expect", with("expect", "100-continue")),
        ("trailer", with("trailer", "transfer-encoding")),
    ];
    for (name, head) in cases {
        let (site, sent) = site();
        let mut raw = Raw::client(site.stream(Version::Http2)).await;
        let _ = raw.send(HEADERS, END_HEADERS, 1, &head).await;
        let _ = raw.send(DATA, END_STREAM, 1, inner).await;
        let mut answered = 0;
        while let Ok(Some(frame)) = tokio::time::timeout(std::time::Duration::from_secs(5), raw.next()).await {
            // 0x88 is `:status: 200`.
            answered += usize::from(frame.kind == HEADERS && frame.payload.first() == Some(&0x88));
        }
        drop(raw);
        // One whose body is not what its head said is reset, and may have been on its way without it.
        judge(name, &site, &sent, answered..=1).await;
    }
}
