//! A thin layer between the byte stream and h2 that reads frame heads as they pass: it notices what h2 keeps to itself
//! (first SETTINGS, GOAWAY, how much arrives) and asks `flood` whether the peer still behaves. It copies nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::Flood;
use crate::flood::{Head, Meter, REQUESTS, TUNNELS};

/// The client's connection preface (RFC 9113 3.4), which stands before the first frame.
const PREFACE: usize = 24;
/// Length, type, flags, stream.
const HEAD: usize = 9;

/// What is known of a connection by looking at its bytes; shared by the guard, the driver and those who open tunnels.
#[derive(Default)]
pub struct Wire {
    heard: AtomicU64,
    data: AtomicU64,
    tunnels: AtomicUsize,
    settled: AtomicBool,
    going_away: AtomicBool,
    flooded: AtomicBool,
    flood: Mutex<Option<Flood>>,
    /// Someone wants a PING now.
    pub(crate) probe: Notify,
}

/// One of a connection's tunnels, as long as it lives.
pub(crate) struct Count(Arc<Wire>);

impl Count {
    pub fn of(wire: Arc<Wire>) -> Count {
        wire.tunnels.fetch_add(1, Relaxed);
        Count(wire)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Relaxed);
    }
}

/// The stream that HTTP/2 is given.
pub struct Guard<T> {
    io: T,
    scan: Scan,
    meter: Meter,
    wire: Arc<Wire>,
}

/// Where in the sequence of frames the next byte stands.
struct Scan {
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    in_settings: bool,
}

impl Wire {
    /// Bytes received since the beginning.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Bytes of DATA frames received since the beginning.
    pub(crate) fn data(&self) -> u64 {
        self.data.load(Relaxed)
    }

    /// Tunnels that we opened and that live.
    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.load(Relaxed)
    }

    /// The peer's first SETTINGS has arrived whole.
    pub(crate) fn settled(&self) -> bool {
        self.settled.load(Relaxed)
    }

    /// The peer has sent GOAWAY.
    pub(crate) fn going_away(&self) -> bool {
        self.going_away.load(Relaxed)
    }

    /// Set once; nothing is read any more after it.
    pub fn flood(&self) -> Option<Flood> {
        if self.flooded.load(Relaxed) { *self.flood.lock() } else { None }
    }

    fn trip(&self, flood: Flood) {
        *self.flood.lock() = Some(flood);
        self.flooded.store(true, Relaxed);
    }
}

impl<T> Guard<T> {
    /// Around the accepting end: the peer begins with the preface.
    pub(crate) fn serving(io: T, wire: Arc<Wire>) -> Self {
        Guard { io, scan: Scan::after(PREFACE), meter: Meter::new(TUNNELS, Instant::now().into_std()), wire }
    }

    /// The same for requests of applications, which somebody else answers: who drives the connection asks `Wire::flood`
    /// after each poll, and drops it then.
    pub fn of_requests(io: T, wire: Arc<Wire>) -> Self {
        Guard { io, scan: Scan::after(PREFACE), meter: Meter::new(REQUESTS, Instant::now().into_std()), wire }
    }

    /// Around the dialling end: the peer begins with a frame.
    pub(crate) fn dialling(io: T, wire: Arc<Wire>) -> Self {
        Guard { io, scan: Scan::after(0), meter: Meter::new(TUNNELS, Instant::now().into_std()), wire }
    }

    fn look(&mut self, bytes: &[u8]) {
        self.wire.heard.fetch_add(bytes.len() as u64, Relaxed);
        let (wire, meter) = (&self.wire, &mut self.meter);
        let mut now = None;
        self.scan.feed(bytes, |passed| match passed {
            Passed::Settings => wire.settled.store(true, Relaxed),
            Passed::Head(head) => {
                if head.is_data() {
                    wire.data.fetch_add(head.length as u64, Relaxed);
                } else if head.is_go_away() {
                    wire.going_away.store(true, Relaxed);
                }
                // A clock is read only where the verdict can depend on it, and once per read.
                let now = match now {
                    Some(now) => now,
                    None if !head.is_metered() => std::time::Instant::now(),
                    None => *now.insert(Instant::now().into_std()),
                };
                if let Err(flood) = meter.frame(head, now) {
                    wire.trip(flood);
                }
            }
        });
    }
}

enum Passed {
    Head(Head),
    /// The last byte of a SETTINGS frame.
    Settings,
}

impl Scan {
    fn after(skip: usize) -> Self {
        Scan { skip, head: [0; HEAD], have: 0, in_settings: false }
    }

    /// Hops from head to head.
    fn feed(&mut self, mut bytes: &[u8], mut passed: impl FnMut(Passed)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            bytes = &bytes[skipped..];
            self.skip -= skipped;
            if self.skip == 0 && std::mem::take(&mut self.in_settings) {
                passed(Passed::Settings);
            }
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                let [l0, l1, l2, kind, flags, ..] = self.head;
                let head = Head { kind, flags, length: u32::from_be_bytes([0, l0, l1, l2]) as usize };
                self.skip = head.length;
                self.in_settings = head.is_settings();
                passed(Passed::Head(head));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.wire.flooded.load(Relaxed) {
            // The driver that polls us looks at `Wire::flood` right after, and closes.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.look(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.meter.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.meter.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
