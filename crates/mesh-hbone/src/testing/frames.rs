//! HTTP/2 as frames: what a peer sends that does not keep to the protocol. Of this file's own crate and, included by its
//! path, of the waypoint's tests; it uses nothing of either.
#![allow(dead_code, reason = "each of the two uses what it needs")]

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

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

impl<T: AsyncRead + AsyncWrite + Unpin> Raw<T> {
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
        self.io.write_all(&frame(kind, flags, stream, payload)).await?;
        self.io.flush().await
    }

    pub async fn io_write(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
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

/// Sends until the connection takes no more or `count` pieces have gone; tells how many went and the code of GOAWAY.
pub async fn flood<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: T,
    count: u32,
    mut piece: impl FnMut(u32) -> Vec<u8>,
) -> (u32, Option<u32>) {
    let raw = Raw::client(io).await;
    let (read, mut write) = tokio::io::split(raw.io);
    let reader = tokio::spawn(async move {
        let mut raw = Raw { io: tokio::io::join(read, tokio::io::sink()) };
        let mut code = None;
        while let Some(frame) = raw.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    });
    let mut sent = 0;
    while sent < count && write.write_all(&piece(sent)).await.is_ok() {
        sent += 1;
    }
    drop(write);
    (sent, reader.await.unwrap())
}

pub fn stream_id(i: u32) -> u32 {
    2 * i + 1
}
