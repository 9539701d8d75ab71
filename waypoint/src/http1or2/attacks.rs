//! Clients that speak HTTP/2 to harm: frames over real bytes, against the limits that serve everybody. Others are served
//! meanwhile, and when the attacker is gone nothing of it is left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::conduct::HEADS_BYTES_MAX;
use super::*;
use crate::body::Body;
use crate::testing::frames::*;
use crate::testing::{Site, text};

/// What ends an attack at last: none of these loops can go on for ever.
const MANY: u32 = 200_000;

fn get() -> Vec<u8> {
    [header(":method", "GET"), header(":scheme", "http"), header(":authority", "web"), header(":path", "/")].concat()
}

fn post() -> Vec<u8> {
    [header(":method", "POST"), header(":scheme", "http"), header(":authority", "web"), header(":path", "/")].concat()
}

fn request(i: u32, head: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream_id(i), head)
}

/// A site whose endpoint answers `/next` and nothing else, and how many requests it has been asked, in all and at most at
/// a time.
struct Target {
    site: Site,
    asked: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Target {
    fn new() -> Target {
        Target::of(Version::Http2)
    }

    fn of(version: Version) -> Target {
        let site = Site::new(version);
        let (asked, now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, peak) = (asked.clone(), most.clone());
        site.endpoints.http("web", version, move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let leaves = Leaves(now.clone());
            async move {
                let _leaves = leaves;
                if request.uri().path() == "/next" {
                    return http::Response::new(Body::full("next"));
                }
                std::future::pending().await
            }
        });
        Target { site, asked, most }
    }

    /// Another client is served, and of the attacker nothing is left.
    async fn is_well(&self, name: &str) {
        let mut other = self.site.http1().await;
        let next = http::Request::get("/next").header("host", "web").body(Body::Empty).unwrap();
        assert_eq!(text(other.send_request(next).await.unwrap()).await, "next", "{name}");
        let empty = async {
            while self.site.cx.guests.requests() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), empty).await.unwrap_or_else(|_| panic!("{name}: {} requests are left", self.site.cx.guests.requests()));
    }
}

struct Leaves(Arc<AtomicUsize>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

// V-01
#[tokio::test(start_paused = true)]
async fn rapid_reset_ends_the_connection() {
    let target = Target::new();
    let (sent, code) = flood(target.site.stream(Version::Http2), MANY, |i| {
        [request(i, &get()), frame(RST_STREAM, 0, stream_id(i), &CANCEL.to_be_bytes())].concat()
    })
    .await;
    assert!(sent < 10_000, "{sent} resets went through");
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert!(target.asked.load(Ordering::SeqCst) <= sent as usize);
    target.is_well("rapid reset").await;
}

// V-02, V-03: streams that the client makes us reset
#[tokio::test(start_paused = true)]
async fn streams_that_we_are_made_to_reset_end_the_connection() {
    let reset = |i: u32, name: &str| match name {
        "zero window update" => frame(WINDOW_UPDATE, 0, stream_id(i), &[0; 4]),
        "window overflow" => frame(WINDOW_UPDATE, 0, stream_id(i), &0x7fff_ffffu32.to_be_bytes()),
        "data after the end" => frame(DATA, 0, stream_id(i), b"x"),
        "headers after the end" => request(i, &get()),
        _ => frame(PRIORITY, 0, stream_id(i), &[stream_id(i).to_be_bytes().as_slice(), &[0]].concat()),
    };
    for name in ["zero window update", "window overflow", "data after the end", "headers after the end", "depends on itself"] {
        let target = Target::new();
        let (sent, code) = flood(target.site.stream(Version::Http2), MANY, |i| [request(i, &get()), reset(i, name)].concat()).await;
        assert!(sent < 10_000, "{name}: {sent} went through");
        assert!(code.is_none_or(|code| code != NO_ERROR), "{name}: {code:?}");
        assert!(target.most.load(Ordering::SeqCst) <= STREAMS_MAX as usize, "{name}");
        target.is_well(name).await;
    }
}

// V-02: what is no request, again and again
#[tokio::test(start_paused = true)]
async fn malformed_requests_end_the_connection() {
    let odd = [header(":method", "GET"), header(":path", "/"), header("connection", "close")].concat();
    let target = Target::new();
    let (sent, code) = flood(target.site.stream(Version::Http2), MANY, |i| request(i, &odd)).await;
    assert!(sent < 10_000, "{sent} went through");
    assert!(code.is_none_or(|code| code != NO_ERROR), "{code:?}");
    assert_eq!(target.asked.load(Ordering::SeqCst), 0);
    target.is_well("malformed").await;
}

// V-04
#[tokio::test(start_paused = true)]
async fn a_header_block_without_end_is_cut() {
    let target = Target::new();
    let piece = header("x", "y").repeat(100);
    let (sent, _) = flood(target.site.stream(Version::Http2), MANY, |i| match i {
        0 => frame(HEADERS, 0, 1, &get()),
        _ => frame(CONTINUATION, 0, 1, &piece),
    })
    .await;
    // What is in the pipe is not read any more.
    let most = ((64 << 10) + crate::testing::PIPE) / piece.len();
    assert!(sent as usize <= most + 20, "{sent} frames of {} bytes went through", piece.len());
    target.is_well("CONTINUATION").await;
}

// V-05
#[tokio::test(start_paused = true)]
async fn empty_data_frames_end_the_connection() {
    for padded in [false, true] {
        let target = Target::new();
        let (sent, _) = flood(target.site.stream(Version::Http2), MANY, |i| match i {
            0 => frame(HEADERS, END_HEADERS, 1, &post()),
            _ if padded => frame(DATA, 8, 1, &[3, 0, 0, 0]),
            _ => frame(DATA, 0, 1, &[]),
        })
        .await;
        assert!(sent < 50_000, "{sent} went through");
        target.is_well("empty DATA").await;
    }
}

// V-07
#[tokio::test(start_paused = true)]
async fn floods_of_frames_that_ask_for_nothing_end_the_connection() {
    let floods: [(&str, Vec<u8>); 8] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING ACK", frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS that change", settings(&[(INITIAL_WINDOW_SIZE, 1)])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, &[1, 2, 3])),
        ("window dribble", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("resets of nothing", frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())),
    ];
    for (name, piece) in floods {
        let target = Target::new();
        let (sent, _) = flood(target.site.stream(Version::Http2), MANY, |i| if i == 0 { request(0, &get()) } else { piece.clone() }).await;
        assert!(sent < 30_000, "{name}: {sent} went through");
        target.is_well(name).await;
    }
}

/// A field that is kept in the table of HPACK, then named by one byte.
fn kept(name: &str, bytes: usize) -> Vec<u8> {
    let mut field = vec![0x40, name.len() as u8];
    field.extend(name.bytes());
    // The length in pieces of seven bits (RFC 7541 5.1).
    field.push(0x7f);
    let mut rest = bytes - 127;
    while rest >= 128 {
        field.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    field.push(rest as u8);
    field.extend(vec![b'a'; bytes]);
    field
}

// V-06: a large cookie in the table, named over and over; joined it is as large as it looks
#[tokio::test(start_paused = true)]
async fn what_headers_decode_to_is_bounded_for_a_connection() {
    // hyper's server of HTTP/1.1 takes such heads.
    let target = Target::of(Version::Http1);
    let mut raw = Raw::client(target.site.stream(Version::Http2)).await;
    let (first, named) = ([get(), kept("cookie", 3900), vec![0xbe; 14]].concat(), [get(), vec![0xbe; 15]].concat());
    let most = HEADS_BYTES_MAX / (15 * 3900);
    let mut refused = 0;
    for i in 0..2 * most as u32 {
        raw.io_write(&request(i, if i == 0 { &first } else { &named })).await;
    }
    // What is refused is told; the others wait.
    while let Ok(Some(answer)) = timeout(Duration::from_secs(1), raw.next()).await {
        refused += u64::from(answer.kind == HEADERS);
    }
    let held = u64::from(target.site.cx.guests.requests());
    assert!(held <= most && held * 2 > most, "{held} requests of {most} are held");
    assert!(refused >= most, "{refused} are refused");
    drop(raw);
    target.is_well("cookies").await;
}

// V-06
#[tokio::test(start_paused = true)]
async fn a_header_list_beyond_the_limit_is_refused() {
    let target = Target::new();
    let (first, named) = ([get(), kept("x", 3900), vec![0xbe; 8000]].concat(), [get(), vec![0xbe; 8000]].concat());
    let mut raw = Raw::client(target.site.stream(Version::Http2)).await;
    for i in 0..100 {
        if raw.io.write_all(&request(i, if i == 0 { &first } else { &named })).await.is_err() {
            break;
        }
    }
    while timeout(Duration::from_secs(1), raw.next()).await.is_ok_and(|frame| frame.is_some()) {}
    assert_eq!(target.asked.load(Ordering::SeqCst), 0, "none of them became a request");
    drop(raw);
    target.is_well("HPACK").await;
}

// V-10: all sets of pseudo headers, then duplicates and bad order
#[tokio::test(start_paused = true)]
async fn odd_pseudo_headers_are_refused_and_nothing_else_happens() {
    let table = [
        [(":method", "CONNECT"), (":scheme", "http"), (":authority", "web"), (":path", "/"), (":protocol", "websocket")],
        [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", "/"), (":protocol", "websocket")],
    ];
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for all in table {
        for set in 0u32..32 {
            blocks.push(all.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).flat_map(|(_, (n, v))| header(n, v)).collect());
        }
        blocks.extend(all.map(|(name, value)| [get(), header(name, value)].concat()));
        blocks.push(all.iter().rev().flat_map(|(name, value)| header(name, value)).collect());
    }
    let odd: [(&str, &str); 12] = [
        (":status", "200"), (":unknown", "1"), ("X-Upper", "1"), ("connection", "close"), ("x", "a\r\nb: c"), ("x", "a\0"), ("x y", "1"), ("x:", "1"),
        ("", "1"), ("transfer-encoding", "chunked"), ("te", "gzip"), ("host", "admin"),
    ];
    blocks.extend(odd.map(|(name, value)| [get(), header(name, value)].concat()));
    for target in ["", "admin", "//", "/a b", "/\r\nHost: admin", "http://admin/", "*", "\0", "/\u{7f}"] {
        blocks.push([header(":method", "GET"), header(":scheme", "http"), header(":authority", "web"), header(":path", target)].concat());
        blocks.push([header(":method", "GET"), header(":scheme", "http"), header(":authority", target), header(":path", "/")].concat());
        blocks.push([header(":method", target), header(":scheme", "http"), header(":authority", "web"), header(":path", "/")].concat());
        blocks.push([header(":method", "GET"), header(":scheme", target), header(":authority", "web"), header(":path", "/")].concat());
    }
    let target = Target::new();
    for block in blocks {
        let mut raw = Raw::client(target.site.stream(Version::Http2)).await;
        raw.io_write(&request(0, &block)).await;
        let said = String::from_utf8_lossy(&block).into_owned();
        // A status of 2xx would be an answer of the endpoint, which gives none: what is left is a refusal, or waiting.
        let mut statuses = Vec::new();
        while let Ok(Some(answer)) = timeout(Duration::from_secs(1), raw.next()).await {
            if answer.kind == HEADERS {
                statuses.push(answer.payload[0]);
            }
        }
        // 0x88 is `:status: 200`.
        assert!(!statuses.contains(&0x88), "{said:?}: {statuses:?}");
        drop(raw);
        target.is_well(&said).await;
    }
}

// V-12
#[tokio::test]
async fn a_thousand_hosts_are_one_refusal() {
    let target = Target::new();
    let head = [get(), header("host", "web"), vec![0x0f, 0x17, 1, b'x'].repeat(1000)].concat();
    let mut raw = Raw::client(target.site.stream(Version::Http2)).await;
    raw.io_write(&request(0, &head)).await;
    let answer = raw.until(HEADERS).await;
    // 0x8c is `:status: 400`.
    assert_eq!(answer.payload[0], 0x8c, "{answer:?}");
    let lines = "Host: web\r\n".repeat(1000);
    let got = target.site.bytes(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes(), "\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 4"), "{got}");
    assert_eq!(target.asked.load(Ordering::SeqCst), 0);
    target.is_well("hosts").await;
}

/// Answers `/large` with 16 MiB as fast as they are taken, and tells how many bytes have left the endpoint; the rest with
/// 50,000 bytes.
fn large(site: &Site, version: Version) -> Arc<AtomicUsize> {
    let sent = Arc::<AtomicUsize>::default();
    let counted = sent.clone();
    site.endpoints.raw("web", move |io| {
        let counted = counted.clone();
        async move {
            match version {
                Version::Http1 => large_http1(io, counted).await,
                Version::Http2 => large_http2(io, counted).await,
            }
        }
    });
    sent
}

const LARGE: usize = 16 << 20;
const PIECE: usize = 4 << 10;

async fn large_http1(mut io: tokio::io::DuplexStream, counted: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while io.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let bytes = if head.starts_with(b"GET /large") { LARGE } else { 50_000 };
        head.drain(..end + 4);
        let _ = io.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await;
        let mut left = bytes;
        while left > 0 {
            let Ok(wrote) = io.write(&[b'x'; PIECE][..left.min(PIECE)]).await else { return };
            counted.fetch_add(wrote, Ordering::SeqCst);
            left -= wrote;
        }
    }
}

async fn large_http2(io: tokio::io::DuplexStream, counted: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let counted = counted.clone();
        tokio::spawn(async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            let mut left = if request.uri().path() == "/large" { LARGE } else { 50_000 };
            while left > 0 {
                stream.reserve_capacity(left.min(PIECE));
                let room = match stream.capacity() {
                    0 => match poll_fn(|cx| stream.poll_capacity(cx)).await {
                        Some(Ok(room)) => room,
                        _ => return,
                    },
                    room => room,
                };
                let piece = room.min(left).min(PIECE);
                left -= piece;
                counted.fetch_add(piece, Ordering::SeqCst);
                if stream.send_data(bytes::Bytes::from_static(&[b'x'; PIECE]).slice(..piece), left == 0).is_err() {
                    return;
                }
            }
        });
    }
}

fn get_large() -> Vec<u8> {
    [header(":method", "GET"), header(":scheme", "http"), header(":authority", "web"), header(":path", "/large")].concat()
}

// V-08
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_are_held_within_bounds() {
    for version in [Version::Http1, Version::Http2] {
        let site = Site::new(version);
        let taken = large(&site, version);
        let mut raw = Raw::client(site.stream(Version::Http2)).await;
        raw.io_write(&settings(&[(INITIAL_WINDOW_SIZE, 0)])).await;
        for i in 0..200 {
            raw.io_write(&request(i, &get_large())).await;
        }
        while timeout(Duration::from_secs(1), raw.next()).await.is_ok_and(|frame| frame.is_some()) {}
        // What waits in the pipes of the test is not held by us.
        let pipes = site.endpoints.connections.load(Ordering::SeqCst) * crate::testing::PIPE;
        let held = taken.load(Ordering::SeqCst).saturating_sub(pipes);
        let most = match version {
            // A read or two of each connection.
            Version::Http1 => 200 * (32 << 10),
            // The windows of the two connections that 200 streams need, and a frame of each stream.
            Version::Http2 => 2 * (2 << 20) + 200 * PIECE,
        };
        assert!(held <= most, "{version:?}: {held} bytes are held");
    }
}

// V-09
#[tokio::test(start_paused = true)]
async fn stalled_streams_do_not_stop_the_others() {
    for version in [Version::Http1, Version::Http2] {
        let site = Site::new(version);
        large(&site, version);
        let mut client = site.http2().await;
        // Its body is not read.
        let ask = |path: &str| http::Request::get(format!("http://web{path}")).body(Body::Empty).unwrap();
        let stalled = client.send_request(ask("/large")).await.unwrap();
        for _ in 0..10 {
            let active = (0..99).map(|_| client.send_request(ask("/"))).map(async |answer| {
                answer.await.unwrap().into_body().collect().await.unwrap().to_bytes().len()
            });
            let whole = timeout(Duration::from_secs(10), futures_util::future::join_all(active)).await.expect("in time");
            assert_eq!(whole, vec![50_000; 99], "{version:?}");
        }
        drop(stalled);
    }
}
