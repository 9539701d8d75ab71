//! The one table of this crate's limits, each with its reason. A knob of the daemon may change a field; what is a
//! constant has no reason to be changed.

use std::time::Duration;

/// What one HBONE connection, and one pool, may hold. `Limits::default()` is what the daemons use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// INITIAL_WINDOW_SIZE at the start: what a stalled receiver lets pile up per stream, in bytes. 256 KiB carries
    /// 4 Gbit/s at 0.5 ms; where the path is longer, the window grows (`window.rs`).
    pub stream_window: u32,
    /// How far it grows while a connection is busy: 4 MiB, as the field's daemons start with.
    pub stream_window_max: u32,
    /// The connection's window: as many streams as we open on one do not stop each other when all but one have stalled
    /// (V-09; how many bytes each may hold: `window.rs`).
    pub connection_window: u32,
    /// MAX_FRAME_SIZE: 1 MiB, as the family announces. What arrives at once is still bounded by the window.
    pub frame_size: u32,
    /// MAX_HEADER_LIST_SIZE: our largest request is below 1 KiB; 16 KiB × 200 streams stays near 3 MiB (V-06).
    pub header_list: u32,
    /// Streams a peer may have open on one connection, and requests being answered at one time (V-03).
    pub streams_served: u32,
    /// Bytes that one stream of a served connection may queue in front of a slow socket. Whoever connects chooses the
    /// windows and the number of streams; 200 of them make 12.5 MiB, the 16,384 connections that a pod may have 1 GiB.
    pub send_buffer_served: usize,
    /// The same on a connection that we dialled: one large read of a relay, so that it wakes the connection once for all
    /// of it. Its streams are as many as our own pods opened.
    pub send_buffer_dialled: usize,

    /// Streams of ours on one connection; the peer's MAX_CONCURRENT_STREAMS lowers it.
    pub streams_per_connection: usize,
    /// Connections that one key is spread over. One saves handshakes and memory; more let one busy pair of workloads
    /// use several cores and keep one slow stream from holding up all others.
    pub connections_per_key: usize,
    /// With more than one connection per key: streams on the least loaded one before another is opened.
    pub streams_before_spread: usize,
    /// Unused connections that a pool keeps; the least recently used one goes first.
    pub idle_connections: usize,
    /// How long a pool keeps an unused connection.
    pub idle_release: Duration,
    /// How long it keeps one beside others for the same key: what a burst has left behind is given back within a minute
    /// (one keepalive interval later), and the next stream still finds a connection.
    pub surplus_release: Duration,

    /// From the first byte to preface and SETTINGS; a silent peer is dropped then (T-09).
    pub handshake: Duration,
    /// For the `connect` function of a pool: TCP and TLS together.
    pub connect: Duration,
    /// For the answer to a CONNECT: the peer waits up to 5 s for its workload and 10 s for the application, and a
    /// waypoint between us doubles that.
    pub response: Duration,
    /// A request unanswered for this long on a connection that has been silent since makes us send a PING; twice as
    /// long after that without a byte, and the request moves to a new connection. A slow application delays no PING, and
    /// three quarters of a second are longer than any round trip; moving costs a handshake and breaks nothing.
    pub suspect: Duration,

    /// On a dialled connection with tunnels: from an answer to the next PING. Somebody there may only wait for bytes, and
    /// this PING is what the kernel then misses an acknowledgement of: with the four seconds of
    /// `mesh_net::Net::between_nodes` that makes the five within which a node that is gone is told (F-29).
    pub ping_dialled: Duration,
    /// On a served connection, and on a dialled one without tunnels: first PING, and from each answer to the next. The
    /// field's daemons say 10 s and 20 s (spec/dataplane.md 1.7), and with them a daemon that hangs is noticed after half
    /// a minute (F-05: 5 to 10 s).
    pub ping_after: Duration,
    /// Without a byte for so long after a PING the peer is dead: more than a daemon that is frozen for 3 s (G13).
    pub ping_timeout: Duration,
    /// A served connection without a stream for so long is closed with GOAWAY: three times what a pool keeps one.
    pub idle_served: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            stream_window: 256 << 10,
            stream_window_max: 4 << 20,
            connection_window: 34 << 20,
            frame_size: 1 << 20,
            header_list: 16 << 10,
            streams_served: 200,
            send_buffer_served: 64 << 10,
            send_buffer_dialled: 256 << 10,
            streams_per_connection: 100,
            connections_per_key: 1,
            streams_before_spread: 4,
            idle_connections: 500,
            idle_release: Duration::from_secs(300),
            surplus_release: Duration::from_secs(20),
            handshake: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            response: Duration::from_secs(35),
            suspect: Duration::from_millis(250),
            ping_dialled: Duration::from_millis(750),
            ping_after: Duration::from_secs(4),
            ping_timeout: Duration::from_secs(5),
            idle_served: Duration::from_secs(900),
        }
    }
}

impl Limits {
    /// The nearest that HTTP/2 allows (RFC 9113 6.5.2), and at least one of what nothing works without. A knob is
    /// checked where it is read; this keeps h2, which asserts these ranges, from ever ending a connection with a panic.
    pub(crate) fn allowed(&self) -> Limits {
        let window = |size: u32| size.clamp(1, (1 << 31) - 1);
        Limits {
            stream_window: window(self.stream_window),
            stream_window_max: window(self.stream_window_max),
            connection_window: window(self.connection_window),
            frame_size: self.frame_size.clamp(1 << 14, (1 << 24) - 1),
            streams_served: self.streams_served.max(1),
            send_buffer_served: self.send_buffer_served.clamp(1, 1 << 30),
            send_buffer_dialled: self.send_buffer_dialled.clamp(1, 1 << 30),
            streams_per_connection: self.streams_per_connection.max(1),
            connections_per_key: self.connections_per_key.max(1),
            ..self.clone()
        }
    }
}

/// Streams that a peer opened and reset before we saw them; h2 ends the connection above this (V-01). As many as it
/// may have open at once, since so many can be cancelled in one read without any ill will.
pub(crate) const RESET_BEFORE_ACCEPT_MAX: usize = 200;

/// Streams that we reset because the peer broke the protocol, over the life of a connection (V-02, V-03).
pub(crate) const LOCAL_ERROR_RESETS_MAX: usize = 1024;

/// Streams that we reset and whose late frames are still expected: forgetting one early would count its late frames
/// as errors of the peer. One such stream is about 400 bytes.
pub(crate) const RESETS_REMEMBERED_MAX: usize = 512;

/// How long they are remembered: more than any round trip.
pub(crate) const RESETS_REMEMBERED: Duration = Duration::from_secs(2);

/// One header block over all its frames (V-04): four times the largest list we accept after decoding.
pub(crate) const HEADER_BLOCK_MAX: usize = 64 << 10;

/// How long a last GOAWAY may take to leave; a peer that does not read loses it.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Connections that one request may try. Nothing of the user's was sent on any; a peer that turns down every one is
/// not asked a fourth time.
pub(crate) const ROUNDS_MAX: usize = 3;
