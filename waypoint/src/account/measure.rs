//! What flows: bytes of bodies and of the wire, gRPC messages, the status that trailers tell. Plain additions, made where
//! the frames pass.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use metrics::Counter;
use parking_lot::Mutex;

/// Both ways of one request or stream.
#[derive(Debug, Default)]
pub struct Flows {
    pub request: Flow,
    pub response: Flow,
    /// One more than the gRPC status; 0: none was told.
    grpc_status: AtomicU32,
    /// Where a log wants them.
    pub trailers: Mutex<Option<HeaderMap>>,
    /// Set with the destination.
    pub live: OnceLock<Live>,
}

/// One way.
#[derive(Debug, Default)]
pub struct Flow {
    /// Of the body.
    pub body: AtomicU64,
    /// Heads, trailers and framing, as well as they are known: what HPACK saves is not.
    pub around: AtomicU64,
    /// gRPC messages, or bytes of an opaque stream, that `live` was not told of yet.
    pending: AtomicU64,
}

/// Counters that move while a stream lives.
#[derive(Debug)]
pub struct Live {
    pub request: Counter,
    pub response: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Request,
    Response,
}

/// How a body's frames are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// By its length, or until the end.
    #[default]
    Bare,
    Chunked,
    Http2,
}

impl Framing {
    fn around(self, bytes: usize) -> u64 {
        match self {
            Framing::Bare => 0,
            // The length in hexadecimal, and two line ends.
            Framing::Chunked => 5 + u64::from(bytes.checked_ilog(16).unwrap_or(0)),
            Framing::Http2 => HTTP2_FRAME_HEAD,
        }
    }
}

/// Bytes before each frame (RFC 9113, 4.1).
pub const HTTP2_FRAME_HEAD: u64 = 9;

impl Flows {
    pub fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }

    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc_status.load(Relaxed).checked_sub(1)
    }

    /// Reads `grpc-status` of a head or of trailers.
    pub fn saw_status(&self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()) {
            self.set_grpc_status(code);
        }
    }

    /// A number that is no status of gRPC is UNKNOWN to clients too, and would be a series of its own.
    pub fn set_grpc_status(&self, code: u32) {
        self.grpc_status.store(if code <= GRPC_STATUS_MAX { code } else { GRPC_UNKNOWN } + 1, Relaxed);
    }

    /// Counts what is worth counting while it goes on.
    fn count(&self, direction: Direction, by: u64) {
        match self.live.get() {
            Some(live) => live.of(direction).increment(by),
            None => {
                self.flow(direction).pending.fetch_add(by, Relaxed);
            }
        }
    }

    /// Tells `live` what was counted before it was there. Called when it is set, and at the end.
    pub fn settle(&self) {
        let Some(live) = self.live.get() else { return };
        for direction in [Direction::Request, Direction::Response] {
            match self.flow(direction).pending.swap(0, Relaxed) {
                0 => {}
                some => live.of(direction).increment(some),
            }
        }
    }
}

/// UNAUTHENTICATED is the last of gRPC's statuses, UNKNOWN its third.
const GRPC_STATUS_MAX: u32 = 16;
const GRPC_UNKNOWN: u32 = 2;

impl Live {
    fn of(&self, direction: Direction) -> &Counter {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }
}

/// An opaque stream's bytes, told by the relay.
impl mesh_net::relay::Meter for Flows {
    fn forward(&self, bytes: u64) {
        self.request.body.fetch_add(bytes, Relaxed);
        self.count(Direction::Request, bytes);
    }

    fn backward(&self, bytes: u64) {
        self.response.body.fetch_add(bytes, Relaxed);
        self.count(Direction::Response, bytes);
    }
}

/// What one body passes through. It belongs to that body, so it needs no lock.
pub struct Tap {
    flows: Arc<Flows>,
    direction: Direction,
    framing: Framing,
    messages: Option<Messages>,
    keep_trailers: bool,
}

impl Tap {
    pub(super) fn new(flows: Arc<Flows>, direction: Direction, framing: Framing, grpc: bool, keep_trailers: bool) -> Tap {
        Tap { flows, direction, framing, messages: grpc.then(Messages::default), keep_trailers }
    }

    /// One data frame.
    pub fn data(&mut self, bytes: &[u8]) {
        let flow = self.flows.flow(self.direction);
        flow.body.fetch_add(bytes.len() as u64, Relaxed);
        match self.framing.around(bytes.len()) {
            0 => {}
            around => {
                flow.around.fetch_add(around, Relaxed);
            }
        }
        if let Some(messages) = &mut self.messages {
            match messages.feed(bytes) {
                0 => {}
                begun => self.flows.count(self.direction, begun),
            }
        }
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        let flow = self.flows.flow(self.direction);
        flow.around.fetch_add(headers_bytes(trailers) + HTTP2_FRAME_HEAD, Relaxed);
        if self.direction == Direction::Response {
            if self.messages.is_some() {
                self.flows.saw_status(trailers);
            }
            if self.keep_trailers {
                *self.flows.trailers.lock() = Some(trailers.clone());
            }
        }
    }
}

/// Headers as HTTP/1.1 writes them.
pub fn headers_bytes(headers: &HeaderMap) -> u64 {
    // Colon, blank and line end.
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() as u64
}

/// Pure: counts the messages of a gRPC body, of which each has a byte of flags and four of length before it.
#[derive(Debug, Default)]
pub struct Messages {
    prefix: [u8; 5],
    prefix_bytes: usize,
    rest: u64,
}

impl Messages {
    /// How many messages ended in these bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.prefix_bytes < self.prefix.len() {
                let take = bytes.len().min(self.prefix.len() - self.prefix_bytes);
                self.prefix[self.prefix_bytes..self.prefix_bytes + take].copy_from_slice(&bytes[..take]);
                self.prefix_bytes += take;
                bytes = &bytes[take..];
                if self.prefix_bytes < self.prefix.len() {
                    return ended;
                }
                let [_, length @ ..] = self.prefix;
                self.rest = u64::from(u32::from_be_bytes(length));
            }
            let take = self.rest.min(bytes.len() as u64);
            self.rest -= take;
            bytes = &bytes[take as usize..];
            if self.rest == 0 {
                ended += 1;
                self.prefix_bytes = 0;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_the_bytes_are_cut() {
        let mut body = Vec::new();
        for length in [0u32, 1, 300, 0, 70_000] {
            body.push(0);
            body.extend_from_slice(&length.to_be_bytes());
            body.resize(body.len() + length as usize, 7);
        }
        for size in [1, 2, 3, 4, 5, 6, 7, 64, 1000, body.len()] {
            let mut messages = Messages::default();
            let count: u64 = body.chunks(size).map(|chunk| messages.feed(chunk)).sum();
            assert_eq!(count, 5, "cut into {size}");
        }
        let mut messages = Messages::default();
        assert_eq!(messages.feed(&[0, 0, 0, 0, 2, 1]), 0, "it has not ended");
    }

    #[test]
    fn a_status_that_is_none_is_unknown() {
        let flows = Flows::default();
        assert_eq!(flows.grpc_status(), None);
        for (text, want) in [("0", Some(0)), ("16", Some(16)), ("17", Some(2)), ("4294967295", Some(2)), ("x", Some(2))] {
            flows.saw_status(&[(http::HeaderName::from_static("grpc-status"), text.parse().unwrap())].into_iter().collect());
            assert_eq!(flows.grpc_status(), want, "{text}");
        }
    }

    #[test]
    fn a_chunk_has_its_length_around_it() {
        for (bytes, around) in [(1, 5), (15, 5), (16, 6), (4096, 8)] {
            assert_eq!(Framing::Chunked.around(bytes), around, "{bytes}");
        }
    }
}
