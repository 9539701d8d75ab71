//! How the client of one connection behaves, and when that is enough (spec/waypoint.md 9).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mesh_hbone::Flood;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::account::Books;
use crate::request::Carrier;

/// Requests that a client takes back within `ABANDON_WINDOW` while less than a tenth is waited for: nobody who wants
/// answers behaves so.
pub(super) const ABANDONED_MAX: u32 = 1000;
const ABANDON_WINDOW: Duration = Duration::from_secs(10);
/// Headers of all requests of a connection that wait for their answers. HTTP/2 lets a client send them in a byte each, by
/// naming what it sent before (CVE-2026-47774); this is 2 KiB for each of the streams that it may open.
pub(super) const HEADS_BYTES_MAX: u64 = 8 << 20;

pub(super) struct Conduct {
    books: Arc<Books>,
    began: Instant,
    /// Seconds since `began` at which the window began.
    window: AtomicU32,
    abandoned: AtomicU32,
    waited_for: AtomicU32,
    /// Bytes of headers that are held.
    heads: AtomicU64,
    /// Requests since the beginning.
    requests: AtomicU32,
    /// In HTTP/1.1: there is a request whose answer is not over, or there are no requests any more but bytes.
    busy: AtomicBool,
    /// When the last answer was over, in milliseconds since `began`.
    idle_since: AtomicU64,
    told: AtomicBool,
    bad: CancellationToken,
}

/// One request; dropped before it has an answer when its client resets it.
pub(super) struct Begun {
    pub conduct: Arc<Conduct>,
    waited_for: bool,
}

/// The headers of one request.
pub(super) struct Held {
    conduct: Arc<Conduct>,
    bytes: u64,
}

impl Conduct {
    pub fn new(books: Arc<Books>) -> Conduct {
        Conduct {
            books,
            began: Instant::now(),
            window: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            waited_for: AtomicU32::new(0),
            heads: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            told: AtomicBool::new(false),
            bad: CancellationToken::new(),
        }
    }

    pub fn begin(self: &Arc<Conduct>) -> Begun {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        Begun { conduct: self.clone(), waited_for: false }
    }

    /// How many requests there have been; none: one is being answered.
    pub fn waiting(&self) -> Option<u32> {
        (!self.busy.load(Ordering::Relaxed)).then(|| self.requests.load(Ordering::Relaxed))
    }

    /// None: this connection holds too many headers already.
    pub fn hold(self: &Arc<Conduct>, bytes: u64) -> Option<Held> {
        let before = self.heads.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { conduct: self.clone(), bytes };
        (before + bytes <= HEADS_BYTES_MAX).then_some(held)
    }

    /// Until there has been no request for so long.
    pub async fn idle(&self, most: Duration) {
        loop {
            let since = match self.waiting() {
                Some(_) => self.began + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)),
                None => Instant::now(),
            };
            if since.elapsed() >= most {
                return;
            }
            sleep_until(since + most).await;
        }
    }

    /// Until the connection is to be closed.
    pub async fn bad(&self) {
        self.bad.cancelled().await;
    }

    /// What closes it.
    pub fn cut(&self) -> CancellationToken {
        self.bad.clone()
    }

    /// The client has sent too much of what is no request.
    pub fn flooded(&self, flood: Flood) {
        tracing::warn!(frames = %flood, "a client floods its connection with frames that ask for nothing; it is closed");
        self.books.cut("flood");
    }

    fn abandon(&self) {
        let now = u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX);
        let window = self.window.load(Ordering::Relaxed);
        if now.saturating_sub(window) >= ABANDON_WINDOW.as_secs() as u32
            && self.window.compare_exchange(window, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.abandoned.store(0, Ordering::Relaxed);
            self.waited_for.store(0, Ordering::Relaxed);
        }
        let abandoned = self.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        if abandoned >= ABANDONED_MAX && self.waited_for.load(Ordering::Relaxed) < abandoned / 9 {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(abandoned, "a client resets nearly all of its requests; its connection is closed");
                self.books.cut("abandoned");
            }
            self.bad.cancel();
        }
    }
}

impl Carrier for Conduct {
    fn done(&self) {
        self.idle_since.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.busy.store(false, Ordering::Relaxed);
    }
}

impl Begun {
    pub fn waited_for(&mut self) {
        self.waited_for = true;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        match self.waited_for {
            true => drop(self.conduct.waited_for.fetch_add(1, Ordering::Relaxed)),
            false => self.conduct.abandon(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.conduct.heads.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
