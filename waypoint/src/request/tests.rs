//! Requests through the whole page, from client to endpoint and back.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, StatusCode, Version as HttpVersion};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use std::time::Duration;

use mesh_xds::messages::waypoint::{self as wire, PortProtocol};

use super::*;
use crate::exchange::Version;
use crate::testing::{Site, text};

mod mesh;

/// An endpoint that agrees to WebSockets and answers each byte with the same.
fn sockets(site: &Site) {
    site.endpoints.http("web", Version::Http1, |mut request| async move {
        if request.uri().path() == "/no" || !request.headers().contains_key("sec-websocket-key") {
            return reply::plain(StatusCode::FORBIDDEN, "no sockets here".into());
        }
        let to = request.headers().get("upgrade").cloned();
        tokio::spawn(async move {
            let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut byte = [0];
            while io.read_exact(&mut byte).await.is_ok() {
                io.write_all(&byte).await.unwrap();
            }
        });
        let mut response = reply::plain(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", to.unwrap());
        response.headers_mut().insert("sec-websocket-accept", "x".parse().unwrap());
        response
    });
}

async fn ping(upgraded: hyper::upgrade::Upgraded) {
    let mut io = TokioIo::new(upgraded);
    for _ in 0..3 {
        io.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ping");
    }
    io.shutdown().await.unwrap();
    assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0, "the end goes through too");
}

#[tokio::test]
async fn a_web_socket_over_http1() {
    let site = Site::new(Version::Http2);
    sockets(&site);
    let ask = |path: &str| {
        let socket = Request::get(path).header("host", "web").header("connection", "Upgrade").header("upgrade", "websocket");
        socket.header("sec-websocket-key", "k").header("sec-websocket-version", "13").body(Body::Empty).unwrap()
    };
    let mut client = site.http1().await;
    let mut response = client.send_request(ask("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["sec-websocket-accept"], "x");
    ping(hyper::upgrade::on(&mut response).await.unwrap()).await;
    let mut client = site.http1().await;
    let response = client.send_request(ask("/no")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(text(response).await, "no sockets here");
}

#[tokio::test]
async fn a_web_socket_over_http2() {
    let site = Site::new(Version::Http2);
    sockets(&site);
    let ask = |path: &str| {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = format!("http://web{path}").parse().unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        request
    };
    let mut client = site.http2().await;
    // The settings that allow it come before the first response.
    client.send_request(Request::get("http://web/no").body(Body::Empty).unwrap()).await.unwrap();
    let mut response = client.send_request(ask("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept") && !response.headers().contains_key("upgrade"));
    ping(hyper::upgrade::on(&mut response).await.unwrap()).await;
    let response = client.send_request(ask("/no")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(text(response).await, "no sockets here");
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let site = Site::new(Version::Http1);
    site.endpoints.raw("web", |mut io| async move {
        let mut head = [0; 4096];
        let _ = io.read(&mut head).await;
        let _ = io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nGET /").await;
        let _ = io.read(&mut head).await;
    });
    let mut client = site.http1().await;
    let response = client.send_request(Request::get("/").header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn connect_is_for_proxies_only() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.http("web", Version::Http1, |mut request| async move {
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::CONNECT, "example.com:443"));
        tokio::spawn(async move {
            let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut bytes = [0; 4];
            while io.read_exact(&mut bytes).await.is_ok() {
                io.write_all(&bytes).await.unwrap();
            }
        });
        reply::plain(StatusCode::OK, Bytes::new())
    });
    let ask = || Request::connect("example.com:443").header("host", "example.com:443").body(Body::Empty).unwrap();
    let refused = site.http1().await.send_request(ask()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    site.serve(PortProtocol::HttpProxy);
    let mut client = site.http1().await;
    let mut response = client.send_request(ask()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    ping(hyper::upgrade::on(&mut response).await.unwrap()).await;
}

// Row 18: 100-continue, both outcomes.
#[tokio::test]
async fn the_client_is_asked_for_its_body_only_when_the_endpoint_wants_it() {
    let site = Site::new(Version::Http1);
    // hyper's server asks for the body when it reads it.
    site.endpoints.http("web", Version::Http1, |request| async move {
        match request.uri().path() {
            "/no" => reply::plain(StatusCode::EXPECTATION_FAILED, "too much".into()),
            _ => Response::new(Body::full(request.into_body().collect().await.unwrap().to_bytes())),
        }
    });
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut stream = site.stream(Version::Http1);
    stream.write_all(head("/yes").as_bytes()).await.unwrap();
    let mut got = [0; 25];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut got = String::new();
    while !got.contains("hello") {
        got.push(char::from(stream.read_u8().await.unwrap()));
    }
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    let mut stream = site.stream(Version::Http1);
    stream.write_all(head("/no").as_bytes()).await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 417 ") && got.ends_with("too much") && !got.contains("100 Continue"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_does_not_know_the_expectation_gets_the_body_after_a_while() {
    let site = Site::new(Version::Http1);
    site.endpoints.raw("web", |mut io| async move {
        let mut got = Vec::new();
        while !got.ends_with(b"hello") {
            if io.read_buf(&mut got).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    let got = site.bytes(b"POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "\r\n\r\nok").await;
    assert!(got.contains("HTTP/1.1 200 OK"), "{got}");
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let site = Site::new(Version::Http1);
    site.endpoints.http("web", Version::Http1, |request| async move {
        let mut response = match request.uri().path() {
            "/204" => reply::plain(StatusCode::NO_CONTENT, Bytes::new()),
            "/304" => reply::plain(StatusCode::NOT_MODIFIED, Bytes::new()),
            _ => Response::new(Body::full("hello")),
        };
        response.headers_mut().insert("x-mine", "1".parse().unwrap());
        response
    });
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("5")),
        ("HEAD", "/204", 204, None),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, None),
        ("GET", "/", 200, Some("5")),
    ] {
        let mut one = site.http1().await;
        let mut two = site.http2().await;
        let request = |uri: String| Request::builder().method(method).uri(uri).header("host", "web").body(Body::Empty).unwrap();
        let answers =
            [one.send_request(request(path.into())).await.unwrap(), two.send_request(request(format!("http://web{path}"))).await.unwrap()];
        for response in answers {
            assert_eq!(response.status(), status, "{method} {path}");
            assert_eq!(response.headers().get("content-length").map(|length| length.to_str().unwrap()), length, "{method} {path}");
            assert_eq!(response.headers()["x-mine"], "1");
            let body = text(response).await;
            assert_eq!(body, if method == "GET" && path == "/" { "hello" } else { "" });
        }
    }
}

#[tokio::test]
async fn http10_is_off() {
    let site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let got = site.bytes(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n", "no such text").await;
    assert!(got.starts_with("HTTP/1.0 426 ") || got.starts_with("HTTP/1.1 426 "), "{got}");
}

fn grpc_request(frames: Vec<Result<Frame<Bytes>, crate::body::BodyError>>) -> Request<Body> {
    let body = Body::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    Request::post("http://web/pkg.Service/Method").header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap()
}

// Row 18: gRPC.
#[tokio::test]
async fn grpc_keeps_its_trailers_and_a_refusal_is_in_its_own_words() {
    let site = Site::new(Version::Http2);
    site.endpoints.http("web", Version::Http2, |request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.version(), HttpVersion::HTTP_2);
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        Response::new(Body::boxed(StreamBody::new(futures_util::stream::iter([Ok(Frame::data(body)), Ok(Frame::trailers(trailers))]))))
    });
    let mut client = site.http2().await;
    let response = client.send_request(grpc_request(vec![Ok(Frame::data("msg".into()))])).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "5");
    assert_eq!(collected.to_bytes(), "msg");
    // Nobody there.
    let site = Site::new(Version::Http2);
    let mut client = site.http2().await;
    let response = client.send_request(grpc_request(vec![])).await.unwrap();
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_back() {
    for version in [Version::Http1, Version::Http2] {
        let site = Site::new(Version::Http2);
        let (left, mut leaves) = tokio::sync::mpsc::unbounded_channel();
        struct Leaves(tokio::sync::mpsc::UnboundedSender<&'static str>);
        impl Drop for Leaves {
            fn drop(&mut self) {
                let _ = self.0.send("left");
            }
        }
        let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
        site.endpoints.http("web", Version::Http2, move |_| {
            let here = Leaves(left.clone());
            let _ = arrived.send(());
            async move {
                std::future::pending::<()>().await;
                drop(here);
                unreachable!()
            }
        });
        let request = Request::get("http://web/").header("host", "web").body(Body::Empty).unwrap();
        let io = TokioIo::new(site.stream(version));
        let leave = match version {
            Version::Http1 => {
                let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                let connection = tokio::spawn(connection);
                tokio::spawn(async move { client.send_request(request).await });
                connection
            }
            Version::Http2 => {
                let (mut client, connection) =
                    hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                tokio::spawn(async move {
                    let _ = client.send_request(request).await;
                    Ok(())
                })
            }
        };
        arrivals.recv().await.unwrap();
        leave.abort();
        assert_eq!(leaves.recv().await, Some("left"), "{version:?}");
    }
}

// Row 18: an upload of any size passes in bounded memory. What is on its way is counted at the endpoint's end.
#[tokio::test]
async fn a_large_body_is_never_held() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    const CHUNK: usize = 64 << 10;
    const CHUNKS: u64 = 4096;
    let taken = Arc::<AtomicU64>::default();
    let sent = Arc::<AtomicU64>::default();
    let most = Arc::<AtomicU64>::default();
    for (client, upstream) in [(Version::Http1, Version::Http1), (Version::Http2, Version::Http2)] {
        let site = Site::new(upstream);
        let (seen, sending, worst) = (taken.clone(), sent.clone(), most.clone());
        site.endpoints.http("web", upstream, move |request| {
            let (seen, sending, worst) = (seen.clone(), sending.clone(), worst.clone());
            async move {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    let bytes = frame.unwrap().into_data().unwrap().len() as u64;
                    let now = seen.fetch_add(bytes, Ordering::Relaxed) + bytes;
                    worst.fetch_max(sending.load(Ordering::Relaxed) - now, Ordering::Relaxed);
                }
                Response::new(Body::Empty)
            }
        });
        let sending = sent.clone();
        let chunk = Bytes::from(vec![7; CHUNK]);
        let frames = futures_util::stream::iter(0..CHUNKS).map(move |_| {
            sending.fetch_add(CHUNK as u64, Ordering::Relaxed);
            Ok(Frame::data(chunk.clone()))
        });
        let body = Body::boxed(StreamBody::new(frames));
        let put = Request::put("http://web/").header("host", "web").body(body).unwrap();
        let status = match client {
            Version::Http1 => site.http1().await.send_request(put).await.unwrap().status(),
            Version::Http2 => site.http2().await.send_request(put).await.unwrap().status(),
        };
        assert_eq!(status, StatusCode::OK);
    }
    assert_eq!(taken.load(Ordering::Relaxed), 2 * CHUNKS * CHUNK as u64);
    // Two windows of a connection, and what the pipes and hyper's buffers hold.
    assert!(most.load(Ordering::Relaxed) < 8 << 20, "{} bytes were on their way", most.load(Ordering::Relaxed));
}

async fn get(site: &Site, path: &str) -> (u16, String) {
    let mut client = site.http1().await;
    let response = client.send_request(Request::get(path).header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
    (response.status().as_u16(), text(response).await)
}

#[tokio::test]
async fn routes_decide_where_a_request_goes_and_what_becomes_of_it() {
    let mut site = Site::new(Version::Http1);
    for name in ["web", "other"] {
        site.endpoints.http(name, Version::Http1, move |request| async move {
            Response::new(Body::full(format!("{name} {} {:?}", request.uri(), request.headers().get("x-added"))))
        });
    }
    assert_eq!(get(&site, "/a").await, (200, "web /a None".into()), "without a route the service itself");
    site.route(
        "one",
        r#"
matches: [{path: {kind: PREFIX_SEGMENT, value: /v2}}]
filters:
- kind: {requestHeaders: {set: [{name: x-added, value: b}]}}
- kind: {rewrite: {path: {kind: {prefix: /v3}}}}
backends: [{weight: 1, backend: {host: {namespace: shop, hostname: other.shop.svc.cluster.local}, port: 80}}]
"#,
    );
    site.route("two", "{matches: [{path: {kind: EXACT, value: /moved}}], filters: [{kind: {redirect: {hostname: example.com, status: 301}}}]}");
    site.route("three", "{matches: [{path: {kind: EXACT, value: /none}}], backends: []}");
    site.route(
        "four",
        "{matches: [{path: {kind: EXACT, value: /gone}}], backends: [{weight: 1, backend: {host: {namespace: shop, hostname: none.shop.svc.cluster.local}, port: 80}}]}",
    );
    site.route(
        "five",
        "{matches: [{path: {kind: EXACT, value: /broken}}], filters: [{kind: {fault: {abortStatus: 418}}}], backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}]}",
    );
    for (path, status, body) in [
        ("/v2/x", 200, r#"other /v3/x Some("b")"#),
        ("/v2/./x", 200, r#"other /v3/x Some("b")"#),
        ("/moved", 301, ""),
        ("/none", 500, "the route has no valid backend"),
        ("/gone", 503, "no healthy upstream"),
        ("/broken", 418, "fault filter abort"),
        ("/else", 404, "no route"),
    ] {
        assert_eq!(get(&site, path).await, (status, body.into()), "{path}");
    }
}

// Row 6
#[tokio::test]
async fn what_is_addressed_to_a_workload_goes_there_whatever_routes_say() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("other", Version::Http1);
    site.route("all", "{filters: [{kind: {direct: {status: 410}}}]}");
    assert_eq!(get(&site, "/a").await.0, 410);
    let workload = site.cx.world.with(|world| world.directory.workload(&mesh_model::workload::Uid::new("Kubernetes//Pod/shop/other")).cloned());
    site.dialled = Target::Workload { workload: workload.unwrap(), port: 8080 };
    let (status, body) = get(&site, "/a").await;
    assert_eq!(status, 200);
    assert!(body.starts_with("GET /a\n"), "{body}");
}

// Row 11
#[tokio::test(start_paused = true)]
async fn a_request_is_tried_again_with_its_body_and_in_its_time() {
    let mut site = Site::new(Version::Http1);
    let tries = Arc::<std::sync::atomic::AtomicU32>::default();
    let seen = tries.clone();
    site.endpoints.http("web", Version::Http1, move |request| {
        let turn = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            match path.as_str() {
                "/slow" => sleep(Duration::from_secs(5)).await,
                _ if turn < 2 => return reply::plain(StatusCode::SERVICE_UNAVAILABLE, "not yet".into()),
                _ => {}
            }
            Response::new(Body::full(body))
        }
    });
    let backend = "backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}]";
    site.route("retry", &format!("{{{backend}, requestTimeoutMs: 3000, retry: {{attempts: 3, on: [retriable-status-codes], codes: [503]}}}}"));
    let post = |path: &str, body: Body| Request::post(path).header("host", "web").body(body).unwrap();
    let ask = async |body| {
        tries.store(0, std::sync::atomic::Ordering::SeqCst);
        let response = site.http1().await.send_request(post("/a", body)).await.unwrap();
        (response.status().as_u16(), text(response).await.len(), tries.load(std::sync::atomic::Ordering::SeqCst))
    };
    assert_eq!(ask(Body::full("hello")).await, (200, 5, 3));
    assert_eq!(ask(Body::full("x".repeat(70_000))).await, (503, 7, 1), "more than is kept");
    let late = site.http1().await.send_request(post("/slow", Body::Empty)).await.unwrap();
    assert_eq!((late.status().as_u16(), text(late).await.as_str()), (504, "upstream request timeout"));
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_its_answer_is_nobodys() {
    let mut site = Site::new(Version::Http1);
    let (copied, mut copies) = tokio::sync::mpsc::unbounded_channel();
    site.endpoints.http("other", Version::Http1, move |request| {
        let copied = copied.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            copied.send(body).unwrap();
            reply::plain(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
        }
    });
    site.endpoints.echo("web", Version::Http1);
    let to = |name: &str| format!("backend: {{host: {{namespace: shop, hostname: {name}.shop.svc.cluster.local}}, port: 80}}");
    site.route("mirror", &format!("{{filters: [{{kind: {{mirror: {{{}}}}}}}], backends: [{{weight: 1, {}}}]}}", to("other"), to("web")));
    let post = Request::post("/a").header("host", "web").body(Body::full("hello")).unwrap();
    let response = site.http1().await.send_request(post).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(text(response).await.ends_with("hello"));
    assert_eq!(copies.recv().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_deadline_of_grpc_is_handed_on_and_kept() {
    let site = Site::new(Version::Http2);
    site.endpoints.http("web", Version::Http2, |request| async move {
        let left = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
        assert!(left.ends_with('u') && left.len() <= 9, "{left}");
        std::future::pending().await
    });
    let mut call = grpc_request(vec![]);
    call.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let response = site.http2().await.send_request(call).await.unwrap();
    assert_eq!(&response.headers()["grpc-status"], "4");
}

#[tokio::test]
async fn a_browser_speaks_grpc_at_a_port_that_says_so() {
    let mut site = Site::new(Version::Http2);
    site.endpoints.http("web", Version::Http2, |request| async move {
        assert_eq!((&request.headers()["content-type"], &request.headers()["te"]), (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap()));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        Response::new(Body::boxed(StreamBody::new(futures_util::stream::iter([Ok(Frame::data(body)), Ok(Frame::trailers(trailers))]))))
    });
    let call = || Request::post("/pkg.Service/Method").header("host", "web").header("content-type", "application/grpc-web+proto");
    site.serve(PortProtocol::GrpcWeb);
    let response = site.http1().await.send_request(call().body(Body::full("message")).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
    assert_eq!(text(response).await, "message\u{80}\0\0\0\u{10}grpc-status: 0\r\n".replace('\u{80}', "\u{fffd}"));
    // Nobody there: the status stands in the headers.
    let mut site = Site::new(Version::Http2);
    site.serve(PortProtocol::GrpcWeb);
    let response = site.http1().await.send_request(call().body(Body::full("message")).unwrap()).await.unwrap();
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
}

#[tokio::test]
async fn what_is_served_no_longer_is_refused() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    site.dialled = Target::Service { key: mesh_model::address::NamespacedHostname::new("shop", "unbound.shop.svc.cluster.local"), port: 80 };
    assert_eq!(get(&site, "/").await, (404, "no route".into()));
}

/// Whoever asks `web` for it.
fn no_admin() -> wire::AuthzPolicy {
    let host = wire::Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
    let target = wire::TargetKind::Service(wire::ServiceTarget { host: Some(host), ..Default::default() });
    wire::AuthzPolicy {
        targets: vec![wire::Target { kind: Some(target) }],
        action: wire::AuthzAction::Deny as i32,
        rules: vec![wire::AuthzRule { to: vec![wire::AuthzOperation { paths: vec!["/admin".into()], ..Default::default() }], ..Default::default() }],
        ..Default::default()
    }
}

// spec/dataplane.md 6.6: what goes on after its answer is judged again.
#[tokio::test(start_paused = true)]
async fn a_web_socket_is_cut_when_policy_refuses_it_and_no_other_is() {
    let mut site = Site::new(Version::Http1);
    sockets(&site);
    let mut open = Vec::new();
    for path in ["/chat", "/admin"] {
        let ask = Request::get(path).header("host", "web").header("connection", "upgrade").header("upgrade", "websocket");
        let ask = ask.header("sec-websocket-key", "k").header("sec-websocket-version", "13").body(Body::Empty).unwrap();
        let mut response = site.http1().await.send_request(ask).await.unwrap();
        open.push(TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap()));
    }
    site.put(wire::AUTHZ_POLICY, "no-admin", &no_admin());
    let [chat, admin] = &mut open[..] else { panic!() };
    let cut = admin.read(&mut [0; 1]).await;
    assert!(!matches!(cut, Ok(1..)), "{cut:?}");
    chat.write_all(b"x").await.unwrap();
    chat.read_exact(&mut [0; 1]).await.unwrap();
}

// spec/dataplane.md 6.6
#[tokio::test(start_paused = true)]
async fn an_answer_that_goes_on_is_cut_when_policy_refuses_it_and_no_other_is() {
    let mut site = Site::new(Version::Http2);
    let sources = Arc::<parking_lot::Mutex<Vec<tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, crate::body::BodyError>>>>>::default();
    let of_endpoint = sources.clone();
    site.endpoints.http("web", Version::Http2, move |_| {
        let (send, mut frames) = tokio::sync::mpsc::unbounded_channel();
        of_endpoint.lock().push(send);
        let frames = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
        async move { Response::new(Body::boxed(StreamBody::new(frames))) }
    });
    let say = |text: &'static str| sources.lock().iter().for_each(|source| drop(source.send(Ok(Frame::data(text.into())))));
    let client = site.http2().await;
    let mut open = Vec::new();
    for path in ["/events", "/admin"] {
        let ask = Request::get(format!("http://web{path}")).body(Body::Empty).unwrap();
        open.push(client.clone().send_request(ask).await.unwrap().into_body());
    }
    let next = async |body: &mut Incoming| body.frame().await.unwrap().map(|frame| frame.into_data().unwrap());
    say("1");
    for body in &mut open {
        assert_eq!(next(body).await.unwrap(), "1");
    }
    site.put(wire::AUTHZ_POLICY, "no-admin", &no_admin());
    let [events, admin] = &mut open[..] else { panic!() };
    assert!(next(admin).await.is_err(), "a reset, and no end");
    say("2");
    assert_eq!(next(events).await.unwrap(), "2");
}

// spec/waypoint.md 11 row 24
#[tokio::test(start_paused = true)]
async fn a_connection_of_http2_outlives_the_end_of_a_binding_by_what_is_open() {
    let mut site = Site::new(Version::Http1);
    let (come, go) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let (told, waits) = (come.clone(), go.clone());
    site.endpoints.http("web", Version::Http1, move |_| {
        let (told, waits) = (told.clone(), waits.clone());
        async move {
            told.add_permits(1);
            waits.acquire().await.unwrap().forget();
            Response::new(Body::full("served"))
        }
    });
    let client = site.http2().await;
    let ask = |client: &hyper::client::conn::http2::SendRequest<Body>| {
        tokio::spawn(client.clone().send_request(Request::get("http://web/").body(Body::Empty).unwrap()))
    };
    let open = ask(&client);
    come.acquire().await.unwrap().forget();
    site.remove(wire::SERVICE_PORT, "web");
    let other = site.http2().await;
    let late = ask(&other);
    come.acquire().await.unwrap().forget();
    go.add_permits(2);
    for answer in [open.await.unwrap().unwrap(), late.await.unwrap().unwrap()] {
        assert_eq!(text(answer).await, "served", "whoever asks may not have heard of it");
    }
    while !client.is_closed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!other.is_closed());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(other.is_closed());
    assert_eq!(ask(&site.http2().await).await.unwrap().unwrap().status(), StatusCode::NOT_FOUND);
}

// T-13
#[tokio::test]
async fn a_client_with_too_many_requests_in_flight_is_told_so() {
    let mut site = Site::new(Version::Http2);
    let cx = Arc::get_mut(&mut site.cx).unwrap();
    cx.guests = Guests::new(10, 3);
    site.endpoints.http("web", Version::Http2, |_| std::future::pending());
    let client = site.http2().await;
    let ask = || client.clone().send_request(Request::get("http://web/").body(Body::Empty).unwrap());
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(ask())).collect();
    while site.cx.guests.requests() < 3 {
        tokio::task::yield_now().await;
    }
    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    for one in &waiting {
        one.abort();
    }
    while site.cx.guests.requests() > 0 {
        tokio::task::yield_now().await;
    }
}

mod traffic;
