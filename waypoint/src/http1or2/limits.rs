//! The bounds of time, size and number that one client, or one endpoint, can reach (spec/waypoint.md 9), on a paused clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_xds::messages::waypoint as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::patience::HEAD_MAX;
use super::*;
use crate::body::Body;
use crate::testing::frames::{END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, Raw, header, settings};
use crate::testing::{Site, text};

const SECOND: Duration = Duration::from_secs(1);

fn next() -> http::Request<Body> {
    http::Request::get("/next").header("host", "web").body(Body::Empty).unwrap()
}

// A head that comes in drops is waited for no longer than one that does not come.
#[tokio::test(start_paused = true)]
async fn a_slow_head_ends_the_connection() {
    for drops in [false, true] {
        let site = Site::new(Version::Http1);
        site.endpoints.echo("web", Version::Http1);
        let stream = site.stream(Version::Http1);
        let (mut read, mut write) = tokio::io::split(stream);
        write.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nX: ").await.unwrap();
        let began = Instant::now();
        let writing = tokio::spawn(async move {
            while drops && write.write_all(b"a").await.is_ok() {
                sleep(SECOND).await;
            }
            write
        });
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        let after = began.elapsed();
        assert!(after >= HEAD_MAX && after <= HEAD_MAX + 2 * SECOND, "{drops}: {after:?} {}", String::from_utf8_lossy(&answer));
        writing.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_may_be_idle_for_long_and_not_for_ever() {
    let site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let mut client = site.http1().await;
    for idle in [0, 31, 600, 3500] {
        sleep(idle * SECOND).await;
        assert!(text(client.send_request(next()).await.unwrap()).await.starts_with("GET /next"), "after {idle} s");
    }
    let began = Instant::now();
    while !client.is_closed() {
        sleep(SECOND).await;
    }
    assert!(began.elapsed() <= IDLE_MAX + 2 * SECOND, "{:?}", began.elapsed());
}

// A request that takes long, and a socket that is silent, are not idle.
#[tokio::test(start_paused = true)]
async fn waiting_for_an_endpoint_is_not_idle() {
    let site = Site::new(Version::Http1);
    site.endpoints.http("web", Version::Http1, |_| async {
        sleep(2 * IDLE_MAX).await;
        Response::new(Body::full("at last"))
    });
    let mut client = site.http1().await;
    assert_eq!(text(client.send_request(next()).await.unwrap()).await, "at last");
    assert_eq!(text(client.send_request(next()).await.unwrap()).await, "at last");
}

/// A site with a rule that says so, and an endpoint whose answer begins and goes on for ever; told when it is given up.
fn endless(rule: &str, policy: &str) -> (Site, Arc<AtomicUsize>) {
    let mut site = Site::new(Version::Http1);
    let given_up = Arc::<AtomicUsize>::default();
    let counted = given_up.clone();
    site.endpoints.raw("web", move |mut io| {
        let counted = counted.clone();
        async move {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while io.write_all(format!("1000\r\n{}\r\n", "x".repeat(4096)).as_bytes()).await.is_ok() {}
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let backend = "backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}]";
    site.route("r", &format!("{{{backend}{rule}}}"));
    let target = "targets: [{kind: {service: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}}}}]";
    let policy: wire::HttpPolicy = serde_saphyr::from_str(&format!("{target}\n{policy}")).unwrap();
    site.put(wire::HTTP_POLICY, "shop/http", &policy);
    (site, given_up)
}

// A client that takes nothing of what it asked for holds it no longer than the request may take, or may be silent.
#[test]
fn an_answer_that_is_not_taken_is_given_up_in_time() {
    let table = [(", requestTimeoutMs: 5000", "normalization: BASE", 5), ("", "streamIdleTimeoutMs: 7000", 7)];
    for (rule, policy, seconds) in table {
        for version in [Version::Http1, Version::Http2] {
            // A clock of its own for each: a request is stamped by the real one.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(not_taken(rule, policy, seconds, version));
        }
    }
}

async fn not_taken(rule: &str, policy: &str, seconds: u32, version: Version) {
    let (site, given_up) = endless(rule, policy);
    let began = Instant::now();
    let mut stream = site.stream(version);
    let mut raw = match version {
        Version::Http1 => {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
            Raw { io: stream }
        }
        Version::Http2 => {
            let mut raw = Raw::client(stream).await;
            let get = [header(":method", "GET"), header(":scheme", "http"), header(":authority", "web"), header(":path", "/")].concat();
            raw.io_write(&settings(&[(INITIAL_WINDOW_SIZE, 0)])).await;
            raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &get).await.unwrap();
            raw
        }
    };
    while given_up.load(Ordering::SeqCst) == 0 {
        sleep(SECOND / 10).await;
        assert!(began.elapsed() < 60 * SECOND, "{rule}{policy} {version:?}: it is held for ever");
    }
    let after = began.elapsed();
    assert!(after >= seconds * SECOND && after < (seconds + 2) * SECOND, "{rule}{policy} {version:?}: {after:?}");
    assert_eq!(site.cx.guests.requests(), 0, "its place is free");
    if version == Version::Http1 {
        // What was written before may still be read; then it is over.
        timeout(60 * SECOND, raw.io.read_to_end(&mut Vec::new())).await.expect("the connection ends").ok();
    }
}

// One that takes what comes, however slowly, keeps it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_taken_slowly_is_not_idle() {
    let (site, given_up) = endless("", "streamIdleTimeoutMs: 7000");
    for version in [Version::Http1, Version::Http2] {
        let mut body = match version {
            Version::Http1 => site.http1().await.send_request(next()).await.unwrap().into_body(),
            Version::Http2 => {
                let next = http::Request::get("http://web/").body(Body::Empty).unwrap();
                site.http2().await.send_request(next).await.unwrap().into_body()
            }
        };
        for _ in 0..20 {
            sleep(3 * SECOND).await;
            let mut taken = 0;
            while taken < 200_000 {
                taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            }
        }
        assert_eq!(given_up.load(Ordering::SeqCst), 0, "{version:?}");
        drop(body);
        while given_up.swap(0, Ordering::SeqCst) == 0 {
            sleep(SECOND).await;
        }
    }
}

// spec/waypoint.md 9, panics: of one request, and of nothing else
#[tokio::test]
async fn a_panic_is_the_end_of_one_request() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for (upstream, version) in [(Version::Http1, Version::Http1), (Version::Http1, Version::Http2), (Version::Http2, Version::Http2)] {
        let site = Site::new(upstream);
        site.endpoints.echo("web", upstream);
        site.endpoints.panics.store(1, Ordering::SeqCst);
        let next = || http::Request::get("http://web/next").header("host", "web").body(Body::Empty).unwrap();
        let statuses = match version {
            Version::Http1 => {
                let mut client = site.http1().await;
                [client.send_request(next()).await.unwrap().status(), client.send_request(next()).await.unwrap().status()]
            }
            Version::Http2 => {
                let mut client = site.http2().await;
                [client.send_request(next()).await.unwrap().status(), client.send_request(next()).await.unwrap().status()]
            }
        };
        assert_eq!(statuses, [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::OK], "{version:?} to {upstream:?}");
        let told = String::from_utf8(site.cx.books.expose(None, None).body).unwrap();
        assert!(told.lines().any(|line| line == "waypoint_requests_panicked_total 1"), "{told}");
        assert!(told.lines().any(|line| line == "waypoint_requests_open 0"), "{told}");
        assert_eq!(site.cx.guests.requests(), 0);
    }
    std::panic::set_hook(hook);
}

#[tokio::test]
async fn heads_have_a_size_and_a_number_of_fields() {
    let site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let many = |number: usize, bytes: usize| (0..number).map(|n| format!("X-{n}: {}\r\n", "a".repeat(bytes))).collect::<String>();
    // fields, bytes of each; the status
    for (number, bytes, status) in [(50, 1000, "200"), (90, 10, "200"), (200, 10, "431"), (1, 70_000, "431"), (90, 2000, "431")] {
        let head = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{}\r\n", many(number, bytes));
        let got = site.bytes(head.as_bytes(), "no such text").await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{number} x {bytes}: {}", &got[..got.len().min(200)]);
    }
    // HTTP/2 decodes more fields than are taken.
    for (number, status) in [(150, 200), (250, 431)] {
        let mut request = http::Request::get("http://web/").body(Body::Empty).unwrap();
        request.headers_mut().extend((0..number).map(|n| (http::HeaderName::try_from(format!("x-{n}")).ok(), http::HeaderValue::from_static("a"))));
        let site = Site::new(Version::Http2);
        site.endpoints.echo("web", Version::Http2);
        assert_eq!(site.http2().await.send_request(request).await.unwrap().status(), status, "{number}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(20_000));
    assert!(site.bytes(long.as_bytes(), "\r\n\r\n").await.starts_with("HTTP/1.1 414 "));
}

// An endpoint's head has the same bounds.
#[tokio::test]
async fn an_endpoint_with_an_endless_head_is_no_answer() {
    for head in [format!("X: {}\r\n", "a".repeat(200_000)), "X: a\r\n".repeat(1500)] {
        let site = Site::new(Version::Http1);
        site.endpoints.raw("web", move |mut io| {
            let head = head.clone();
            async move {
                let _ = io.read(&mut [0; 4096]).await;
                let _ = io.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes()).await;
                let _ = io.read(&mut [0; 1]).await;
            }
        });
        let mut client = site.http1().await;
        assert_eq!(client.send_request(next()).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    }
}

// V-13: whatever a client makes up, it makes no series.
#[tokio::test]
async fn what_a_client_makes_up_makes_no_series() {
    let site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let mut client = site.http1().await;
    let mut series = Vec::new();
    for round in 0..300 {
        let made_up = format!("{round}.example");
        let request = http::Request::builder()
            .method(format!("M{round}").as_str())
            .uri(format!("/{made_up}?{made_up}"))
            .header("host", &made_up)
            .header("user-agent", &made_up)
            .header("x-forwarded-for", format!("10.1.{}.{}", round / 250, round % 250))
            .header("baggage", format!("k8s.deployment.name={made_up},service.name={made_up}"))
            .header("x-envoy-peer-metadata-id", &made_up)
            .header("x-request-id", &made_up)
            .header("traceparent", format!("00-{:032x}-{:016x}-01", round + 1, round + 1))
            .body(Body::Empty)
            .unwrap();
        text(client.send_request(request).await.unwrap()).await;
        if round == 10 || round == 299 {
            let told = String::from_utf8(site.cx.books.expose(None, None).body).unwrap();
            series.push(told.lines().filter(|line| !line.starts_with('#')).count());
        }
    }
    assert_eq!(series[0], series[1]);
}

// Tiny frames of a body cost what they cost, and are neither gathered nor refused, as long as the endpoint keeps up: h2 closes
// a connection with some 4,000 that nobody has read, and the server here, whose windows are smaller, with 2,000.
#[tokio::test]
async fn a_body_of_tiny_frames_goes_through() {
    let site = Site::new(Version::Http2);
    site.endpoints.echo("web", Version::Http2);
    let frames = futures_util::stream::iter((0..1500).map(|_| Ok(Frame::data(bytes::Bytes::from_static(b"x")))));
    let post = http::Request::post("http://web/").body(Body::boxed(StreamBody::new(frames))).unwrap();
    let answer = timeout(60 * SECOND, site.http2().await.send_request(post)).await.unwrap().unwrap();
    assert!(text(answer).await.ends_with(&"x".repeat(1500)));
}
