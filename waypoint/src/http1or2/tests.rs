//! Clients that are hyper's, and clients that are bytes.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::ReadBuf;

use super::conduct::ABANDONED_MAX;
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

/// A stream that counts what is written to it at once.
struct Counted {
    io: tokio::io::DuplexStream,
    writes: Arc<AtomicU32>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_head_and_the_body_that_came_with_it_leave_together() {
    let site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let (ours, theirs) = tokio::io::duplex(crate::testing::PIPE);
    let writes = Arc::<AtomicU32>::default();
    let counted = Counted { io: theirs, writes: writes.clone() };
    let connection = Connection {
        arrival: crate::testing::arrival(),
        class: site.class,
        drain: site.drain.clone(),
        unbound: CancellationToken::new(),
        place: None,
    };
    tokio::spawn(serve(counted, Version::Http1, connection, site.cx.clone()));
    let (mut client, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(connection);
    for turn in 1..=3 {
        let get = Request::get("/").header("host", "web").body(Body::Empty).unwrap();
        assert!(text(client.send_request(get).await.unwrap()).await.starts_with("GET /"));
        assert_eq!(writes.load(Ordering::Relaxed), turn);
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
async fn a_draining_stream_finishes_what_is_open_and_ends() {
    for version in [Version::Http1, Version::Http2] {
        let site = Site::new(Version::Http1);
        site.endpoints.echo("web", Version::Http1);
        let (send, mut frames) = tokio::sync::mpsc::unbounded_channel();
        let body = Body::boxed(StreamBody::new(futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx))));
        let post = Request::post("http://web/").header("host", "web").body(body).unwrap();
        let io = TokioIo::new(site.stream(version));
        let (open, connection) = match version {
            Version::Http1 => {
                let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                (client.send_request(post).boxed(), tokio::spawn(connection))
            }
            Version::Http2 => {
                let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                (client.send_request(post).boxed(), tokio::spawn(connection))
            }
        };
        let open = tokio::spawn(open);
        send.send(Ok(Frame::data(Bytes::from_static(b"first ")))).unwrap();
        while site.endpoints.connections.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let drain = site.drain.clone();
        tokio::spawn(async move { drain.shutdown(Duration::from_secs(60)).await });
        site.drain.soft().await;
        send.send(Ok(Frame::data(Bytes::from_static(b"last")))).unwrap();
        drop(send);
        let response = open.await.unwrap().unwrap();
        assert!(text(response).await.ends_with("first last"), "{version:?}");
        connection.await.unwrap().unwrap();
    }
}

// V-01
#[tokio::test]
async fn a_client_that_resets_nearly_all_of_its_requests_loses_its_connection() {
    let site = Site::new(Version::Http2);
    site.endpoints.http("web", Version::Http2, |_| std::future::pending());
    let (client, connection) = h2::client::handshake(site.stream(Version::Http2)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for _ in 0..4 * ABANDONED_MAX {
        let Ok((response, mut stream)) = client.send_request(Request::get("http://web/").body(()).unwrap(), false) else { break };
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        match client.ready().await {
            Ok(ready) => client = ready,
            Err(_) => return,
        }
    }
    // Closed, or told to be calm.
    drop(connection.await.unwrap());
}
