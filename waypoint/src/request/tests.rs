//! Requests through the whole page, from client to endpoint and back.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, StatusCode, Version as HttpVersion};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::{Site, text};

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
    site.class = mesh_xds::messages::waypoint::PortProtocol::HttpProxy;
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
    // HTTP/1.1 has no way for trailers that nobody announced.
    let site = Site::new(Version::Http1);
    let mut client = site.http2().await;
    let response = client.send_request(grpc_request(vec![])).await.unwrap();
    assert_eq!(&response.headers()["grpc-status"], "14");
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
