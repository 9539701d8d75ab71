//! Connections are reused, shared, closed and never confused; what fails is told apart.

use std::sync::atomic::Ordering;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::{Endpoints, hop, text};

fn request(body: &str) -> Request<Body> {
    Request::post("http://web/x").header("host", "web").body(Body::full(body.to_owned())).unwrap()
}

fn exchange() -> (Arc<Endpoints>, Exchange) {
    let endpoints = Arc::<Endpoints>::default();
    (endpoints.clone(), Exchange::new(endpoints))
}

#[tokio::test]
async fn one_connection_of_http1_serves_requests_one_after_the_other() {
    let (endpoints, exchange) = exchange();
    endpoints.echo("web", Version::Http1);
    for turn in 0..5 {
        let sent = exchange.send(&hop("web"), Version::Http1, &Rules::default(), request(&format!("turn {turn}"))).await.unwrap();
        assert!(text(sent).await.ends_with(&format!("turn {turn}")));
    }
    assert_eq!(endpoints.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_at_once_have_connections_of_their_own_in_http1_and_share_one_in_http2() {
    for (version, connections) in [(Version::Http1, 8), (Version::Http2, 1)] {
        let (endpoints, exchange) = exchange();
        endpoints.echo("web", version);
        let rules = Rules::default();
        let hop = hop("web");
        let open = (0..8).map(|_| exchange.send(&hop, version, &rules, request("x")));
        for response in futures_util::future::join_all(open).await {
            text(response.unwrap()).await;
        }
        assert_eq!(endpoints.connections.load(Ordering::SeqCst), connections, "{version:?}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_more_often_than_it_may() {
    for version in [Version::Http1, Version::Http2] {
        let (endpoints, exchange) = exchange();
        endpoints.echo("web", version);
        let rules = Rules { requests_per_connection: Some(2), ..Rules::default() };
        for _ in 0..6 {
            text(exchange.send(&hop("web"), version, &rules, request("x")).await.unwrap()).await;
        }
        assert_eq!(endpoints.connections.load(Ordering::SeqCst), 3, "{version:?}");
    }
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closed_meanwhile_costs_no_request() {
    let (endpoints, exchange) = exchange();
    endpoints.raw("web", |mut io| async move {
        // One answer per connection, which claims to stay open.
        let mut head = [0; 4096];
        let _ = io.read(&mut head).await;
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    for _ in 0..20 {
        let get = Request::get("http://web/").body(Body::Empty).unwrap();
        assert_eq!(text(exchange.send(&hop("web"), Version::Http1, &Rules::default(), get).await.unwrap()).await, "ok");
        tokio::task::yield_now().await;
    }
}

// An endpoint may answer before it has the whole request, to a client that reads nothing before it has sent everything.
#[tokio::test]
async fn a_request_goes_on_while_nobody_reads_its_response() {
    let (endpoints, exchange) = exchange();
    let (seen, mut ends) = tokio::sync::mpsc::unbounded_channel();
    endpoints.raw("web", move |io| {
        let seen = seen.clone();
        async move {
            let (mut read, mut write) = tokio::io::split(io);
            tokio::spawn(async move {
                let answer = [&b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n"[..], &vec![b'x'; 1_000_000]].concat();
                let _ = write.write_all(&answer).await;
            });
            let mut all = Vec::new();
            let mut piece = [0; 4096];
            // In chunks.
            while !all.ends_with(b"the end\r\n") {
                match read.read(&mut piece).await {
                    Ok(more @ 1..) => all.extend_from_slice(&piece[..more]),
                    _ => return,
                }
            }
            let _ = seen.send(all.len());
            std::future::pending::<()>().await;
        }
    });
    let (send, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let body = http_body_util::StreamBody::new(futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx)));
    let post = Request::post("http://web/").body(Body::boxed(body)).unwrap();
    let response = exchange.send(&hop("web"), Version::Http1, &Rules::default(), post).await.unwrap();
    for piece in ["x".repeat(500_000), "the end".to_owned()] {
        send.send(Ok(http_body::Frame::data(piece.into()))).unwrap();
    }
    assert!(ends.recv().await.unwrap() > 500_000);
    drop(response);
}

#[tokio::test]
async fn failures_are_told_apart() {
    let (endpoints, exchange) = exchange();
    endpoints.raw("closes", |mut io| async move {
        let mut head = [0; 4096];
        let _ = io.read(&mut head).await;
    });
    endpoints.raw("garbage", |mut io| async move {
        let mut head = [0; 4096];
        let _ = io.read(&mut head).await;
        let _ = io.write_all(b"220 mail.example.com ESMTP\r\n").await;
    });
    for (version, id, expected) in [
        (Version::Http1, "nobody", "Connect"),
        (Version::Http2, "nobody", "Connect"),
        (Version::Http1, "closes", "Closed"),
        (Version::Http2, "closes", "Closed"),
        (Version::Http1, "garbage", "Protocol"),
        // The connection is over before its first request is on it.
        (Version::Http2, "garbage", "Closed"),
    ] {
        let get = Request::get("http://web/").body(Body::Empty).unwrap();
        let fault = exchange.send(&hop(id), version, &Rules::default(), get).await.err().unwrap();
        assert!(format!("{fault:?}").starts_with(expected), "{version:?} {id}: {fault:?}");
    }
}

#[tokio::test]
async fn a_refused_and_a_reset_stream_are_two_things() {
    for (reason, expected) in [(h2::Reason::REFUSED_STREAM, "Refused"), (h2::Reason::INTERNAL_ERROR, "Reset")] {
        let (endpoints, exchange) = exchange();
        endpoints.raw("web", move |io| async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reason);
            }
        });
        let fault = exchange.send(&hop("web"), Version::Http2, &Rules::default(), request("x")).await.err().unwrap();
        assert!(format!("{fault:?}").starts_with(expected), "{fault:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_is_the_clients_fault() {
    for version in [Version::Http1, Version::Http2] {
        let (endpoints, exchange) = exchange();
        endpoints.echo("web", version);
        let frames = futures_util::stream::iter([Ok(http_body::Frame::data("a".into())), Err("gone".into())]);
        let body = Body::boxed(http_body_util::StreamBody::new(frames));
        let post = Request::post("http://web/").body(body).unwrap();
        let fault = exchange.send(&hop("web"), version, &Rules::default(), post).await.err().unwrap();
        assert!(matches!(fault, Fault::Body(_)), "{version:?}: {fault:?}");
    }
}

#[tokio::test]
async fn hops_that_are_gone_lose_their_idle_connections() {
    let (endpoints, exchange) = exchange();
    endpoints.echo("web", Version::Http1);
    for _ in 0..2 {
        text(exchange.send(&hop("web"), Version::Http1, &Rules::default(), request("x")).await.unwrap()).await;
        exchange.retain(|_| false);
    }
    assert_eq!(endpoints.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_in_time() {
    for version in [Version::Http1, Version::Http2] {
        let (endpoints, exchange) = exchange();
        let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
        endpoints.echo("inner", version);
        let inner = endpoints.clone();
        endpoints.raw("web", move |mut io| {
            let (inner, ended) = (inner.clone(), ended.clone());
            async move {
                let mut stream = inner.connect(&hop("inner")).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut io, &mut stream).await;
                let _ = ended.send(());
            }
        });
        let rules = Rules { idle: Duration::from_secs(60), ..Rules::default() };
        text(exchange.send(&hop("web"), version, &rules, request("x")).await.unwrap()).await;
        let began = Instant::now();
        tokio::select! {
            () = exchange.tend() => unreachable!(),
            end = ends.recv() => end.unwrap(),
        }
        assert!(began.elapsed() >= Duration::from_secs(60) && began.elapsed() < Duration::from_secs(75), "{version:?}");
    }
}

#[tokio::test]
async fn a_response_that_is_dropped_resets_its_stream_and_not_the_connection() {
    let (endpoints, exchange) = exchange();
    let (seen, mut resets) = tokio::sync::mpsc::unbounded_channel();
    endpoints.raw("web", move |io| {
        let seen = seen.clone();
        async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    send.send_data(bytes::Bytes::from_static(b"begin"), false).unwrap();
                    let reason = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
                    let _ = seen.send(reason.unwrap());
                });
            }
        }
    });
    for _ in 0..3 {
        let get = Request::get("http://web/").body(Body::Empty).unwrap();
        let mut response = exchange.send(&hop("web"), Version::Http2, &Rules::default(), get).await.unwrap();
        response.frame().await.unwrap().unwrap();
        drop(response);
        assert_eq!(resets.recv().await, Some(h2::Reason::CANCEL));
    }
    assert_eq!(endpoints.connections.load(Ordering::SeqCst), 1);
}
