//! What a tunnel that was admitted carries: what its port declares, else what its first bytes say (spec/waypoint.md 1.3).
//! Reads ahead and gives back every byte; never answers, never closes. Who says nothing is opaque after a while.

pub mod hello;
pub mod sniff;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use mesh_hbone::Tunnel;
use mesh_net::duplex::Duplex;
use mesh_xds::messages::waypoint::PortProtocol;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use sniff::{Protocol, Sniffed};

/// Who has not said what it speaks after so long waits for its server to speak first.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where servers speak first: 25 SMTP, 53 DNS, 3306 MySQL, 27017 MongoDB. Never asked for bytes (spec/waypoint.md 1.3).
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// What one read asks for.
const READ: usize = 4 * 1024;

/// What is found out from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Nothing: opaque whatever it says.
    Nothing,
    /// It is HTTP; which version?
    Version,
    /// Is it TLS, and to whom?
    ServerName,
    Anything,
}

/// What is to be found out at a port that declares this.
pub fn question(declared: PortProtocol, port: u16) -> Question {
    match declared {
        PortProtocol::Tcp => Question::Nothing,
        PortProtocol::Tls => Question::ServerName,
        PortProtocol::Http1 | PortProtocol::Http2 | PortProtocol::Grpc | PortProtocol::GrpcWeb | PortProtocol::HttpProxy => {
            Question::Version
        }
        PortProtocol::Auto if SERVER_FIRST.contains(&port) => Question::Nothing,
        PortProtocol::Auto => Question::Anything,
    }
}

/// What the stream speaks, and the stream with all of its bytes. Who keeps silent is taken for what the port declares, and
/// where it declares nothing for a client that waits for its server.
pub async fn detect<T: Duplex>(stream: T, question: Question, patience: Duration) -> (Protocol, Arrived<T>) {
    let mut arrived = Arrived { stream, ahead: Bytes::new(), ended: None };
    let silent = match question {
        Question::Nothing => return (Protocol::Opaque, arrived),
        Question::Version => Protocol::Http1,
        Question::ServerName | Question::Anything => Protocol::Opaque,
    };
    let found = timeout(patience, listen(&mut arrived, question)).await.ok().flatten();
    (found.unwrap_or(silent), arrived)
}

/// `None` when the client ends before it can be known.
async fn listen<T: Duplex>(arrived: &mut Arrived<T>, question: Question) -> Option<Protocol> {
    loop {
        let sniffed = match question {
            Question::Nothing => Sniffed::Is(Protocol::Opaque),
            Question::Version => sniff::http(&arrived.ahead),
            Question::ServerName if arrived.ahead.is_empty() => Sniffed::More,
            Question::ServerName => sniff::tls(&arrived.ahead),
            Question::Anything => sniff::sniff(&arrived.ahead),
        };
        if let Sniffed::Is(protocol) = sniffed {
            return Some(protocol);
        }
        match poll_fn(|cx| arrived.stream.poll_read_chunk(cx, READ)).await {
            Ok(Some(chunk)) => arrived.keep(chunk),
            ended => {
                arrived.ended = Some(ended.map(drop));
                return None;
            }
        }
    }
}

/// An arrived stream with what was read of it ahead.
pub struct Arrived<T = Tunnel> {
    stream: T,
    ahead: Bytes,
    /// How it ended while it was read ahead; to be told after the bytes.
    ended: Option<io::Result<()>>,
}

impl<T> Arrived<T> {
    /// What was read ahead and not asked for again.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    fn keep(&mut self, chunk: Bytes) {
        if self.ahead.is_empty() {
            self.ahead = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.ahead.len() + chunk.len());
            joined.extend_from_slice(&self.ahead);
            joined.extend_from_slice(&chunk);
            self.ahead = joined.freeze();
        }
    }
}

impl<T: Duplex> Duplex for Arrived<T> {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(max);
            return Poll::Ready(Ok(Some(self.ahead.split_to(length))));
        }
        match &self.ended {
            None => self.stream.poll_read_chunk(cx, max),
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(Err(why)) => Poll::Ready(Err(io::Error::new(why.kind(), why.to_string()))),
        }
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        self.stream.poll_write_chunk(cx, chunk)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_finish(cx)
    }

    fn reset(&mut self) {
        self.stream.reset();
    }

    fn broken(&self) -> Option<io::Error> {
        self.stream.broken()
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_broken(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Arrived<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        match &this.ended {
            None => Pin::new(&mut this.stream).poll_read(cx, buffer),
            Some(Ok(())) => Poll::Ready(Ok(())),
            Some(Err(why)) => Poll::Ready(Err(io::Error::new(why.kind(), why.to_string()))),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Arrived<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
