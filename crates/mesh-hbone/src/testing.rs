//! Peers for tests: one that speaks raw frames, an accepting end that hands its requests to the test, and an echo.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use mesh_net::duplex::Duplex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{Malformed, ServeError};
use crate::limits::Limits;
use crate::serve::{Connect, Stop, serve};
use crate::stream::Tunnel;
use crate::{ConnectRequest, dial};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// One end of an HTTP/2 connection that does nothing by itself.
pub struct Raw<T = DuplexStream> {
    pub io: T,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header without indexing and without Huffman (RFC 7541 6.2.2).
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "longer texts need another form");
        bytes.push(text.len() as u8);
        bytes.extend(text.bytes());
    }
    bytes
}

pub fn connect_headers() -> Vec<u8> {
    [header(":method", "CONNECT"), header(":authority", "10.0.0.1:80")].concat()
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Raw<T> {
    /// Preface and SETTINGS of a client.
    pub async fn client(mut io: T) -> Self {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        io.write_all(&settings(&[])).await.unwrap();
        Raw { io }
    }

    /// A server that has read the preface and sent its SETTINGS.
    pub async fn server(mut io: T, values: &[(u16, u32)]) -> Self {
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await.unwrap();
        io.write_all(&settings(values)).await.unwrap();
        Raw { io }
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.io.write_all(&frame(kind, flags, stream, payload)).await
    }

    pub async fn io_write(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// A CONNECT on this stream.
    pub async fn connect(&mut self, stream: u32) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS, stream, &connect_headers()).await
    }

    /// 200 on this stream.
    pub async fn accept(&mut self, stream: u32) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS, stream, &[0x88]).await
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind; SETTINGS and PING on the way are acknowledged, others are skipped.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the connection ended before a frame {kind}"));
            if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                // A peer that is closing need not read it.
                let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                let _ = self.send(frame.kind, ACK, 0, payload).await;
            }
            if frame.kind == kind && (kind != SETTINGS || frame.flags & ACK == 0) {
                return frame;
            }
        }
    }
}

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
