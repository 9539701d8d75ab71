//! Peers for tests: one that speaks raw frames (`frames`), an accepting end that hands its requests to the test, and an echo.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use mesh_net::duplex::Duplex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{Malformed, ServeError};
use crate::limits::Limits;
use crate::serve::{Connect, Stop, serve};
use crate::stream::Tunnel;
use crate::{ConnectRequest, dial};

mod frames;
pub use frames::*;

/// An accepting end of ours whose requests come to the test.
pub struct Served {
    pub arrivals: mpsc::UnboundedReceiver<Result<Connect, Malformed>>,
    pub stop: Stop,
    pub done: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    pub async fn connect(&mut self) -> Connect {
        self.arrivals.recv().await.expect("the connection is served").expect("a good CONNECT")
    }
}

pub fn serving(limits: Limits, buffer: usize) -> (DuplexStream, Served) {
    let (near, far) = tokio::io::duplex(buffer);
    let (send, arrivals) = mpsc::unbounded_channel();
    let stop = Stop::default();
    let told = stop.clone();
    let done = tokio::spawn(async move {
        // A test that is done with the arrivals drops them; a request is then dropped unanswered.
        serve(far, &limits, &told, |arrival| drop(send.send(arrival))).await
    });
    (near, Served { arrivals, stop, done })
}

/// An accepting end that sends back what it gets.
pub async fn serve_echo(io: DuplexStream, limits: Limits, stop: Stop) -> Result<(), ServeError> {
    serve(io, &limits, &stop, |arrival| {
        let mut connect = arrival.expect("only CONNECT is asked for");
        tokio::spawn(async move {
            let tunnel = connect.accept(HeaderMap::new()).expect("nobody resets before the answer");
            echo(tunnel).await;
        });
    })
    .await
}

async fn echo(mut tunnel: Tunnel) {
    while let Ok(Some(chunk)) = read(&mut tunnel).await {
        if write(&mut tunnel, chunk).await.is_err() {
            return;
        }
    }
    // The far end may have gone meanwhile, which is its right.
    let _ = finish(&mut tunnel).await;
}

pub fn request() -> ConnectRequest {
    ConnectRequest::new("10.0.0.1:80".parse::<SocketAddr>().unwrap())
}

/// Both ends of one tunnel.
pub async fn tunnel_pair(limits: Limits, buffer: usize) -> (Tunnel, Tunnel, Served) {
    let (io, mut served) = serving(limits.clone(), buffer);
    let request = request();
    let (opened, mut connect) = tokio::join!(dial::open_alone(io, &limits, &request), async {
        let mut connect = served.connect().await;
        (connect.accept(HeaderMap::new()).unwrap(), connect)
    });
    connect.1.refuse(http::StatusCode::OK);
    (opened.unwrap().0, connect.0, served)
}

pub async fn read(tunnel: &mut Tunnel) -> io::Result<Option<Bytes>> {
    poll_fn(|cx| tunnel.poll_read_chunk(cx, usize::MAX)).await
}

pub async fn read_to_end(tunnel: &mut Tunnel) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = read(tunnel).await? {
        all.extend(chunk);
    }
    Ok(all)
}

pub async fn write(tunnel: &mut Tunnel, bytes: impl Into<Bytes>) -> io::Result<()> {
    let mut chunk = bytes.into();
    poll_fn(|cx| tunnel.poll_write_chunk(cx, &mut chunk)).await
}

/// What is taken of `bytes` until there is no room; the time must be paused.
pub async fn write_until_full(tunnel: &mut Tunnel, bytes: impl Into<Bytes>) -> usize {
    let mut chunk = bytes.into();
    let offered = chunk.len();
    let writing = poll_fn(|cx| match tunnel.poll_write_chunk(cx, &mut chunk) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => Poll::Pending,
    });
    // With the time paused this passes only when nobody has anything left to do.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(10), writing).await;
    offered - chunk.len()
}

pub async fn finish(tunnel: &mut Tunnel) -> io::Result<()> {
    poll_fn(|cx| tunnel.poll_finish(cx)).await
}
