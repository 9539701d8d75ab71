//! Tests of `serve`: what a client gets, how a connection ends, and what a hostile peer can't do.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::testing::*;

const BUFFER: usize = 64 << 10;
const S: Duration = Duration::from_secs(1);

/// A real h2 client whose connection runs in a task.
async fn h2_client(io: DuplexStream) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    send
}

fn http_connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

async fn status(client: &mut h2::client::SendRequest<Bytes>, request: Request<()>) -> u16 {
    let (response, _send) = client.send_request(request, false).unwrap();
    response.await.unwrap().status().as_u16()
}

// Interop 13.1: only `:authority` is needed
#[tokio::test(start_paused = true)]
async fn a_foreign_client_with_only_an_authority_gets_a_tunnel() {
    let (io, mut served) = serving(Limits::default(), BUFFER);
    let mut client = h2_client(io).await;
    let (response, mut send) = client.send_request(http_connect("[fd00::1]:80"), false).unwrap();
    let mut connect = served.connect().await;
    assert_eq!(connect.head().to_string(), "[fd00::1]:80");
    assert!(connect.headers().is_empty());
    let mut headers = HeaderMap::new();
    headers.insert("baggage", http::HeaderValue::from_static("service.name=web"));
    let mut tunnel = connect.accept(headers).unwrap();
    let response = response.await.unwrap();
    assert_eq!((response.status(), &response.headers()["baggage"]), (StatusCode::OK, &"service.name=web".parse().unwrap()));
    send.send_data("ping".into(), true).unwrap();
    assert_eq!(read_to_end(&mut tunnel).await.unwrap(), b"ping");
    write(&mut tunnel, "pong").await.unwrap();
    finish(&mut tunnel).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "pong");
    // The end may come with an empty frame of its own.
    assert!(body.data().await.is_none_or(|rest| rest.unwrap().is_empty()));
}

// Interop 13.3, and what is no target
#[tokio::test(start_paused = true)]
async fn what_is_no_tunnel_gets_400() {
    let (io, mut served) = serving(Limits::default(), BUFFER);
    let mut client = h2_client(io).await;
    let get = Request::get("http://10.0.0.1:80/").body(()).unwrap();
    assert_eq!(status(&mut client, get).await, 400);
    let malformed = served.arrivals.recv().await.unwrap().map(|_| ()).unwrap_err();
    assert_eq!(malformed.to_string(), "expected method CONNECT, got GET");
    for authority in ["10.0.0.1", "web", "web:0", "a@web:80", "web:99999"] {
        assert_eq!(status(&mut client, http_connect(authority)).await, 400, "{authority}");
        let malformed = served.arrivals.recv().await.unwrap().map(|_| ()).unwrap_err();
        assert!(malformed.to_string().starts_with("invalid CONNECT address"), "{malformed}");
    }
}

// Interop 13.4: a status, no body, no headers, the end
#[tokio::test(start_paused = true)]
async fn a_refusal_is_a_status_and_the_end() {
    for (code, refuse) in [(401, true), (503, true), (503, false)] {
        let (io, mut served) = serving(Limits::default(), BUFFER);
        let mut client = h2_client(io).await;
        let (response, _send) = client.send_request(http_connect("10.0.0.1:80"), false).unwrap();
        let mut connect = served.connect().await;
        if refuse {
            connect.refuse(StatusCode::from_u16(code).unwrap());
        }
        // Else dropped without an answer.
        drop(connect);
        let response = response.await.unwrap();
        assert_eq!(response.status().as_u16(), code);
        assert!(response.headers().is_empty() && response.body().is_end_stream());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_is_answered_once() {
    let (io, mut served) = serving(Limits::default(), BUFFER);
    let mut client = h2_client(io).await;
    let (response, _send) = client.send_request(http_connect("10.0.0.1:80"), false).unwrap();
    let mut connect = served.connect().await;
    connect.refuse(StatusCode::UNAUTHORIZED);
    assert_eq!(connect.accept(HeaderMap::new()).map(|_| ()).unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    connect.refuse(StatusCode::OK);
    assert_eq!(response.await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

// V-11: what the client sends before the answer reaches nobody unless the answer is 200
#[tokio::test(start_paused = true)]
async fn early_data_is_delivered_after_the_answer_and_only_after_a_good_one() {
    for allowed in [true, false] {
        let (io, mut served) = serving(Limits::default(), BUFFER);
        let mut raw = Raw::client(io).await;
        raw.connect(1).await.unwrap();
        raw.send(DATA, END_STREAM, 1, b"early").await.unwrap();
        let mut connect = served.connect().await;
        tokio::time::sleep(S).await;
        if allowed {
            let mut tunnel = connect.accept(HeaderMap::new()).unwrap();
            assert_eq!(read_to_end(&mut tunnel).await.unwrap(), b"early");
        } else {
            connect.refuse(StatusCode::UNAUTHORIZED);
            assert_eq!(raw.until(HEADERS).await.flags, END_STREAM | END_HEADERS);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_handler_hears_that_the_client_gave_up() {
    let (io, mut served) = serving(Limits::default(), BUFFER);
    let mut raw = Raw::client(io).await;
    raw.connect(1).await.unwrap();
    let mut connect = served.connect().await;
    assert!(tokio::time::timeout(S, connect.cancelled()).await.is_err());
    raw.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await.unwrap();
    connect.cancelled().await;
    assert!(connect.accept(HeaderMap::new()).is_err());
}

// T-09, F-37, weakness 31: nothing silent stays
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_speak_http2_is_dropped_at_the_handshake_limit() {
    for first in [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (mut io, served) = serving(Limits::default(), BUFFER);
        let start = Instant::now();
        io.write_all(first).await.unwrap();
        let error = served.done.await.unwrap().unwrap_err();
        assert!(matches!(error, ServeError::HandshakeTimeout { .. }), "{error}");
        assert_eq!(start.elapsed().as_secs(), 5, "after {first:?}");
    }
    let (mut io, served) = serving(Limits::default(), BUFFER);
    io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(matches!(served.done.await.unwrap(), Err(ServeError::Handshake(_))));
}

// Interop 13.11, spec/dataplane.md 1.7, F-05: a daemon that hangs is found out within ten seconds
#[tokio::test(start_paused = true)]
async fn a_peer_is_pinged_after_four_seconds_and_dropped_after_five_more() {
    let (io, served) = serving(Limits::default(), BUFFER);
    let mut raw = Raw::client(io).await;
    let start = Instant::now();
    raw.until(PING).await;
    assert_eq!(start.elapsed().as_secs(), 4);
    raw.until(PING).await;
    assert_eq!(start.elapsed().as_secs(), 8, "the first was answered");
    // From here on nothing is read or written.
    let error = served.done.await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Silent { .. }), "{error}");
    assert!((16..=18).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_is_closed_in_the_end() {
    let (io, served) = serving(Limits::default(), BUFFER);
    let client = h2_client(io).await;
    let start = Instant::now();
    served.done.await.unwrap().unwrap();
    assert!((900..930).contains(&start.elapsed().as_secs()));
    drop(client);
}

// Spec 1.8, weakness 7: GOAWAY, then what is open may finish
#[tokio::test(start_paused = true)]
async fn a_drained_connection_finishes_its_tunnels_and_takes_no_new_ones() {
    let (client, server, served) = tunnel_pair(Limits::default(), BUFFER).await;
    let (mut client, mut server) = (client, server);
    served.stop.soft.cancel();
    tokio::time::sleep(60 * S).await;
    write(&mut client, "still here").await.unwrap();
    assert_eq!(read(&mut server).await.unwrap().unwrap(), "still here");
    assert!(!served.done.is_finished());
    for tunnel in [&mut client, &mut server] {
        finish(tunnel).await.unwrap();
    }
    for tunnel in [&mut client, &mut server] {
        assert_eq!(read(tunnel).await.unwrap(), None);
    }
    served.done.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_forced_end_cuts_tunnels_and_is_no_clean_end() {
    let (mut client, mut server, served) = tunnel_pair(Limits::default(), BUFFER).await;
    served.stop.forced.cancel();
    assert!(matches!(served.done.await.unwrap(), Err(ServeError::Forced)));
    assert!(read(&mut client).await.is_err());
    assert!(read(&mut server).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_cannot_hold_up_a_forced_end() {
    let (io, mut served) = serving(Limits::default(), 1024);
    let mut raw = Raw::client(io).await;
    raw.connect(1).await.unwrap();
    let mut tunnel = served.connect().await.accept(HeaderMap::new()).unwrap();
    write_until_full(&mut tunnel, vec![0; 100_000]).await;
    let start = Instant::now();
    served.stop.forced.cancel();
    served.done.await.unwrap().unwrap_err();
    assert_eq!(start.elapsed(), LAST_WORDS);
}

/// How many handlers are at work, now and at most.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

/// A served connection whose handlers work (a dial, say) until their stream is reset, or for ever.
fn working(forever: bool) -> (DuplexStream, Arc<Gauge>, tokio::task::JoinHandle<Result<(), ServeError>>) {
    let (near, far) = tokio::io::duplex(BUFFER);
    let gauge = Arc::new(Gauge::default());
    let counted = gauge.clone();
    let done = tokio::spawn(async move {
        serve(far, &Limits::default(), &Stop::default(), |arrival| {
            let Ok(mut connect) = arrival else { return };
            counted.all.fetch_add(1, SeqCst);
            let now = counted.now.fetch_add(1, SeqCst) + 1;
            counted.most.fetch_max(now, SeqCst);
            let counted = counted.clone();
            tokio::spawn(async move {
                if forever {
                    tokio::time::sleep(3600 * S).await;
                }
                connect.cancelled().await;
                counted.now.fetch_sub(1, SeqCst);
            });
        })
        .await
    });
    (near, gauge, done)
}

// T-11 in its parts, V-01 to V-10; this is V-01
#[tokio::test(start_paused = true)]
async fn rapid_reset_ends_the_connection_and_never_makes_many_work() {
    for forever in [false, true] {
        let (io, gauge, done) = working(forever);
        let reset = CANCEL.to_be_bytes();
        let (sent, code) = flood(io, 1_000_000, |i| {
            [frame(HEADERS, END_HEADERS, stream_id(i), &connect_headers()), frame(RST_STREAM, 0, stream_id(i), &reset)].concat()
        })
        .await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM));
        assert!(sent < 10_000, "{sent} resets went through");
        assert!(gauge.most.load(SeqCst) <= 200);
        done.await.unwrap().unwrap_err();
    }
}

// V-02, V-03: streams that the peer makes us reset
#[tokio::test(start_paused = true)]
async fn streams_that_we_are_made_to_reset_are_counted_too() {
    for name in ["zero window update", "window overflow", "headers in the middle", "stream depends on itself"] {
        let bad = |id: u32| match name {
            "zero window update" => frame(WINDOW_UPDATE, 0, id, &[0; 4]),
            "window overflow" => frame(WINDOW_UPDATE, 0, id, &0x7fff_ffffu32.to_be_bytes()),
            "headers in the middle" => frame(HEADERS, END_HEADERS, id, &connect_headers()),
            _ => frame(PRIORITY, 0, id, &[id.to_be_bytes().as_slice(), &[0]].concat()),
        };
        let (io, gauge, done) = working(true);
        let (sent, code) =
            flood(io, 100_000, |i| [frame(HEADERS, END_HEADERS, stream_id(i), &connect_headers()), bad(stream_id(i))].concat())
                .await;
        assert!(code.is_some_and(|code| code != NO_ERROR), "{name}: {code:?}");
        assert!(sent < 10_000, "{name}: {sent} went through");
        assert!(gauge.most.load(SeqCst) <= 200, "{name}");
        done.await.unwrap().unwrap_err();
    }
}

// V-02
#[tokio::test(start_paused = true)]
async fn requests_that_h2_finds_malformed_are_counted_too() {
    let (io, gauge, done) = working(true);
    let odd = [header(":method", "CONNECT"), header(":path", "/"), header(":authority", "a:1")].concat();
    let (sent, code) = flood(io, 100_000, |i| frame(HEADERS, END_HEADERS, stream_id(i), &odd)).await;
    assert!(code.is_some_and(|code| code != NO_ERROR), "{code:?}");
    assert!(sent < 10_000, "{sent} went through");
    assert_eq!(gauge.all.load(SeqCst), 0);
    done.await.unwrap().unwrap_err();
}

// V-04
#[tokio::test(start_paused = true)]
async fn a_header_block_without_end_is_cut_before_64_kib() {
    let (io, _, done) = working(true);
    let (sent, code) = flood(io, 1_000_000, |i| match i {
        0 => frame(HEADERS, 0, 1, &connect_headers()),
        _ => frame(CONTINUATION, 0, 1, &header("x", "y").repeat(10)),
    })
    .await;
    assert!(sent < 70_000 / 50 + 2000, "{sent} frames went into the pipe");
    assert!(code.is_some_and(|code| code != NO_ERROR), "{code:?}");
    done.await.unwrap().unwrap_err();
}

// V-05
#[tokio::test(start_paused = true)]
async fn empty_data_frames_are_counted() {
    let (io, _, done) = working(true);
    let (sent, code) = flood(io, 10_000_000, |i| match i {
        0 => frame(HEADERS, END_HEADERS, 1, &connect_headers()),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert!(sent < 20_000, "{sent} went through");
    done.await.unwrap().unwrap_err();
}

// V-06: a large entry of the dynamic table, referenced over and over
#[tokio::test(start_paused = true)]
async fn an_hpack_bomb_is_bounded() {
    let (io, gauge, done) = working(true);
    // Literal with incremental indexing, then one byte per copy of it.
    let value = vec![b'a'; 3000];
    let mut large = vec![0x40, 1, b'x', 0x7f];
    let mut rest = value.len() - 127;
    while rest >= 128 {
        large.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    large.push(rest as u8);
    large.extend(value);
    let bomb = [connect_headers(), large, vec![0xbe; 10_000]].concat();
    let again = [connect_headers(), vec![0xbe; 10_000]].concat();
    let (sent, code) = flood(io, 100, |i| frame(HEADERS, END_HEADERS, stream_id(i), if i == 0 { &bomb } else { &again })).await;
    assert!(sent == 100 || code == Some(ENHANCE_YOUR_CALM), "{sent} {code:?}");
    assert_eq!(gauge.all.load(SeqCst), 0, "none of them became a request");
    done.await.unwrap().ok();
}

// T-12
#[tokio::test(start_paused = true)]
async fn a_request_with_too_many_headers_gets_431() {
    let (io, served) = serving(Limits::default(), BUFFER);
    let mut client = h2_client(io).await;
    let mut request = http_connect("10.0.0.1:80");
    for i in 0..300 {
        let name = http::HeaderName::try_from(format!("x-{i}")).unwrap();
        request.headers_mut().insert(name, http::HeaderValue::from_static("a value of thirty characters.."));
    }
    assert_eq!(status(&mut client, request).await, 431);
    drop(served);
}

// V-07
#[tokio::test(start_paused = true)]
async fn floods_of_every_other_kind_end_the_connection() {
    let floods: [(&str, Vec<u8>); 6] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING ACK", frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, &[1, 2, 3])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
    ];
    for (name, piece) in floods {
        let (io, _, done) = working(true);
        let (sent, code) = flood(io, 1_000_000, |_| piece.clone()).await;
        assert!(sent < 30_000, "{name}: {sent} went through");
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
        assert!(matches!(done.await.unwrap(), Err(ServeError::Flood(_))), "{name}");
    }
}

// V-08
#[tokio::test(start_paused = true)]
async fn two_hundred_streams_without_window_buffer_next_to_nothing() {
    let (io, mut served) = serving(Limits::default(), 4 << 20);
    let mut raw = Raw::client(io).await;
    raw.until(SETTINGS).await;
    let mut tunnels = Vec::new();
    let mut taken = 0;
    for i in 0..200 {
        raw.connect(stream_id(i)).await.unwrap();
        tunnels.push(served.connect().await.accept(HeaderMap::new()).unwrap());
        let offered = Bytes::from(vec![0; 16 << 20]);
        taken += write_until_full(tunnels.last_mut().unwrap(), offered).await;
    }
    assert!(taken <= 65_535, "{taken} bytes are buffered");
}

// V-08, the other way: window without end, and a socket that is not read
#[tokio::test(start_paused = true)]
async fn a_peer_that_gives_window_and_does_not_read_is_bounded_per_stream() {
    let limits = Limits::default();
    let (io, mut served) = serving(limits.clone(), BUFFER);
    let mut raw = Raw::client(io).await;
    raw.io.write_all(&settings(&[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)])).await.unwrap();
    raw.send(WINDOW_UPDATE, 0, 0, &0x7ff0_0000u32.to_be_bytes()).await.unwrap();
    let mut tunnels = Vec::new();
    let mut taken = 0;
    for i in 0..200 {
        raw.connect(stream_id(i)).await.unwrap();
        tunnels.push(served.connect().await.accept(HeaderMap::new()).unwrap());
        taken += write_until_full(tunnels.last_mut().unwrap(), vec![0; 1 << 20]).await;
    }
    assert!(taken <= 200 * limits.send_buffer_served + 2 * BUFFER, "{taken} bytes are buffered");
}

// V-09
#[tokio::test(start_paused = true)]
async fn stalled_streams_do_not_stop_the_others() {
    let limits = Limits { streams_per_connection: 100, ..Limits::default() };
    let (near, far) = tokio::io::duplex(BUFFER);
    tokio::spawn(serve_echo(far, limits.clone(), Stop::default()));
    let near = parking_lot::Mutex::new(Some(near));
    let pool = crate::Pool::new(limits.clone(), move |()| {
        let io = near.lock().take().expect("one connection is enough");
        async { Ok(io) }
    });
    let mut stalled = Vec::new();
    for _ in 0..60 {
        let (mut tunnel, _) = pool.open(&(), &request()).await.unwrap();
        // Twice the window: it fills the way there and the way back.
        write_until_full(&mut tunnel, vec![1; 1 << 20]).await;
        stalled.push(tunnel);
    }
    for _ in 0..39 {
        let (mut tunnel, _) = pool.open(&(), &request()).await.unwrap();
        for _ in 0..20 {
            write(&mut tunnel, vec![2; 50_000]).await.unwrap();
            let mut received = 0;
            while received < 50_000 {
                received += read(&mut tunnel).await.unwrap().unwrap().len();
            }
        }
        finish(&mut tunnel).await.unwrap();
        assert_eq!(read(&mut tunnel).await.unwrap(), None);
    }
}

// V-10: all sets of pseudo headers, then duplicates and bad order
#[tokio::test(start_paused = true)]
async fn odd_pseudo_headers_are_refused_and_nothing_else_happens() {
    let all = [(":method", "CONNECT"), (":scheme", "http"), (":authority", "a:1"), (":path", "/"), (":protocol", "websocket")];
    let mut blocks: Vec<(Vec<u8>, bool)> = (0u32..32)
        .map(|set| {
            let chosen: Vec<u8> =
                all.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).flat_map(|(_, (n, v))| header(n, v)).collect();
            (chosen, set == 0b00101)
        })
        .collect();
    for duplicate in all {
        blocks.push(([connect_headers(), header(duplicate.0, duplicate.1)].concat(), false));
    }
    blocks.push(([header("x", "y"), connect_headers()].concat(), false));
    blocks.push(([connect_headers(), header(":status", "200")].concat(), false));
    blocks.push(([connect_headers(), header(":unknown", "1")].concat(), false));
    blocks.push(([connect_headers(), header("X-Upper", "1")].concat(), false));
    blocks.push(([connect_headers(), header("connection", "close")].concat(), false));
    blocks.push((Vec::new(), false));
    for (block, good) in blocks {
        let (io, mut served) = serving(Limits::default(), BUFFER);
        let mut raw = Raw::client(io).await;
        raw.send(HEADERS, END_HEADERS, 1, &block).await.unwrap();
        raw.connect(3).await.unwrap();
        let mut tunnels = 0;
        while let Ok(Some(arrival)) = tokio::time::timeout(S, served.arrivals.recv()).await {
            tunnels += usize::from(arrival.is_ok_and(|mut connect| connect.accept(HeaderMap::new()).is_ok()));
        }
        // The second request is good; it is served, or the peer had broken the whole connection.
        let broken = served.done.is_finished();
        assert!(broken || tunnels == 1 + usize::from(good), "{:?}: {tunnels}", String::from_utf8_lossy(&block));
    }
}

// V-03: handlers that outlive their streams hold their places
#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_place_and_get_it() {
    let (io, mut served) = serving(Limits { streams_served: 2, ..Limits::default() }, BUFFER);
    let mut raw = Raw::client(io).await;
    let mut held = Vec::new();
    for i in 0..2 {
        raw.connect(stream_id(i)).await.unwrap();
        held.push(served.connect().await);
        raw.send(RST_STREAM, 0, stream_id(i), &CANCEL.to_be_bytes()).await.unwrap();
    }
    raw.connect(5).await.unwrap();
    raw.connect(7).await.unwrap();
    raw.send(RST_STREAM, 0, 5, &CANCEL.to_be_bytes()).await.unwrap();
    assert!(tokio::time::timeout(S, served.arrivals.recv()).await.is_err(), "two are being worked on");
    held.pop();
    let mut third = served.connect().await;
    assert!(third.accept(HeaderMap::new()).is_ok(), "the one that was reset while it waited is passed over");
    assert!(tokio::time::timeout(S, served.arrivals.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn streams_above_the_announced_limit_are_refused() {
    let (io, served) = serving(Limits { streams_served: 2, ..Limits::default() }, BUFFER);
    let mut raw = Raw::client(io).await;
    let announced = raw.until(SETTINGS).await;
    assert!(announced.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]));
    for i in 0..3 {
        raw.connect(stream_id(i)).await.unwrap();
    }
    let reset = raw.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (5, REFUSED_STREAM));
    drop(served);
}

proptest::proptest! {
    // 7.5 fuzz target 3: whatever a client sends, the server ends or goes on, and never panics
    #[test]
    fn any_bytes_after_the_preface_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600), shaped: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let ended = runtime.block_on(async {
            let (io, served) = serving(Limits::default(), BUFFER);
            let mut raw = Raw::client(io).await;
            if shaped {
                // Cut into frames of small streams and kinds, so that more of it is looked at.
                for piece in bytes.chunks(17) {
                    let (kind, flags, id) = (piece[0] % 11, *piece.get(1).unwrap_or(&0), u32::from(*piece.get(2).unwrap_or(&0)) % 8);
                    let _ = raw.send(kind, flags, id, piece.get(3..).unwrap_or_default()).await;
                }
            } else {
                let _ = raw.io.write_all(&bytes).await;
            }
            drop(raw);
            served.done.await
        });
        proptest::prop_assert!(ended.is_ok(), "a panic");
    }
}
