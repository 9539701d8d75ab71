//! Calls over real HTTP, of both versions.

use std::convert::Infallible;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::testing::Tcp;
use super::*;
use crate::call::{Caller, To};

/// Echoes target, host and body; by its path it does something else.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let host = head.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned()).unwrap_or_default();
    let said = format!("{} {host} {:?}", head.uri, body.collect().await.unwrap().to_bytes());
    if head.uri.path() == "/never" {
        std::future::pending::<()>().await;
    }
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), HeaderValue::from_static("1"))]);
    let frames = [Ok::<_, crate::body::BodyError>(Frame::data(Bytes::from(said))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::boxed(StreamBody::new(futures_util::stream::iter(frames))));
    if head.uri.path() == "/moved" {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert("location", HeaderValue::from_static("/elsewhere"));
    }
    Ok(response)
}

async fn server(version: Version) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                let _ = match version {
                    Version::Http1 => hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(answer)).await,
                    Version::Http2 => hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service_fn(answer)).await,
                };
            });
        }
    });
    at
}

async fn call(caller: &Tcp, version: Version, uri: &str, max_body: usize, timeout: u64) -> Result<Reply, CallError> {
    let mut request = Request::new(Bytes::from_static(b"hi"));
    *request.uri_mut() = uri.parse().unwrap();
    *request.method_mut() = http::Method::POST;
    let to = To::Url { tls: false, host: "x", port: 1 };
    caller.call(to, version, request, Limits { timeout: Duration::from_millis(timeout), max_body }).await
}

#[tokio::test]
async fn each_version_in_its_form_and_within_its_limits() {
    for (version, expected) in [(Version::Http1, "/a?b authz.shop:80 b\"hi\""), (Version::Http2, "http://authz.shop:80/a?b  b\"hi\"")] {
        let caller = Tcp::new(server(version).await);
        let reply = call(&caller, version, "http://authz.shop:80/a?b", 1000, 10_000).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, expected.as_bytes()));
        // HTTP/1.1 sends trailers only to those who say that they read them.
        assert_eq!(reply.trailers.is_some(), version == Version::Http2);
        assert_eq!(call(&caller, version, "http://authz.shop/moved", 1000, 10_000).await.unwrap().status, StatusCode::FOUND);
        assert_eq!(call(&caller, version, "http://authz.shop/a", 7, 10_000).await.unwrap_err(), CallError::TooLarge(7));
        assert_eq!(call(&caller, version, "http://authz.shop/never", 1000, 50).await.unwrap_err(), CallError::Timeout);
    }
    let nobody = Tcp::new("127.0.0.1:1".parse().unwrap());
    assert!(matches!(call(&nobody, Version::Http1, "http://a/", 10, 10_000).await, Err(CallError::Connect(_))));
}
