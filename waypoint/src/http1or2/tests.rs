//! Clients that are hyper's, and clients that are bytes.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use http_body::Frame;

use super::*;
use crate::body::Body;
use crate::testing::{Site, text};

#[tokio::test]
async fn each_version_is_carried_to_each() {
    for upstream in [Version::Http1, Version::Http2] {
        let site = Site::new(upstream);
        site.endpoints.echo("web", upstream);
        let post = || Request::post("/a?b=c").header("host", "web").body(Body::full("hello")).unwrap();
        let mut client = site.http1().await;
        for _ in 0..3 {
            let got = text(client.send_request(post()).await.unwrap()).await;
            assert!(got.ends_with("\n\nhello"), "{got}");
        }
        let mut client = site.http2().await;
        let post = || Request::post("http://web/a?b=c").body(Body::full("hello")).unwrap();
        for _ in 0..3 {
            let got = text(client.send_request(post()).await.unwrap()).await;
            assert!(got.ends_with("\n\nhello"), "{got}");
        }
    }
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let site = Site::new(Version::Http2);
    // What comes in goes out at once.
    site.endpoints.http("web", Version::Http2, |request| async move { Response::new(Body::from(request.into_body())) });
    let mut client = site.http2().await;
    let (send, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let receive = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    let body = Body::boxed(StreamBody::new(receive));
    let mut response = client.send_request(Request::post("http://web/").body(body).unwrap()).await.unwrap();
    for turn in 0..10 {
        send.send(Ok(Frame::data(Bytes::from(format!("{turn}"))))).unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("{turn}"));
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    send.send(Ok(Frame::trailers(trailers.clone()))).unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
}

#[tokio::test]
async fn a_draining_stream_finishes_what_is_open() {
    for version in [Version::Http1, Version::Http2] {
        let site = Site::new(Version::Http1);
        site.endpoints.echo("web", Version::Http1);
        let got = match version {
            Version::Http1 => {
                let mut client = site.http1().await;
                let open = client.send_request(Request::get("/").header("host", "web").body(Body::Empty).unwrap());
                site.drain.cancel();
                open.await.map(|response| response.status())
            }
            Version::Http2 => {
                let mut client = site.http2().await;
                let open = client.send_request(Request::get("http://web/").body(Body::Empty).unwrap());
                site.drain.cancel();
                open.await.map(|response| response.status())
            }
        };
        if let Ok(status) = got {
            assert_eq!(status, StatusCode::OK);
        }
    }
}
