//! The shell of `keepalive` and `window`: one PING at a time on a connection, one timer, for both ends alike.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use crate::guard::Wire;
use crate::keepalive::{Keepalive, Step};
use crate::limits::Limits;
use crate::window::Window;

/// Polled by a connection's driver after the connection itself.
pub(crate) struct Pulse {
    ping: PingPong,
    keepalive: Keepalive,
    window: Window,
    wire: Arc<Wire>,
    sleep: Pin<Box<Sleep>>,
    /// When the next slow checks are due.
    tick: Instant,
    /// Without anybody to tell, a PING goes out only so long after the last.
    at_ease: Duration,
    last: Instant,
    /// Bytes that had been heard when a new window could not be told: the last one was not confirmed yet.
    untold: Option<u64>,
}

/// Slow checks need no shorter time: what they look for lasts minutes.
const TICK_EVERY: Duration = Duration::from_secs(10);

pub(crate) enum Beat {
    /// Time for slow checks, with the first PING after they are due.
    Tick,
    /// Announce this stream window.
    Window(u32),
    /// The peer's SETTINGS did not come.
    Unsettled,
    /// The peer does not answer.
    Dead,
}

impl Pulse {
    /// `after`: from an answer to the next PING.
    pub fn new(ping: PingPong, limits: &Limits, after: Duration, wire: Arc<Wire>) -> Self {
        let settle_by = Instant::now() + limits.handshake;
        Pulse {
            ping,
            keepalive: Keepalive::new(after, limits.ping_timeout, settle_by.into_std()),
            window: Window::new(limits.stream_window, limits.stream_window_max, limits.connection_window),
            wire,
            sleep: Box::pin(tokio::time::sleep_until(settle_by)),
            tick: Instant::now() + TICK_EVERY,
            at_ease: limits.ping_after,
            last: Instant::now(),
            untold: None,
        }
    }

    /// `streams`: how many are open. `is_used`: whether somebody would want to know at once that the peer is gone.
    pub fn poll(&mut self, cx: &mut Context<'_>, streams: usize, is_used: impl Fn() -> bool) -> Poll<Beat> {
        if self.wire.settled() && self.keepalive.settled(now()) {
            self.rearm();
        }
        if let Poll::Ready(Ok(_)) = self.ping.poll_pong(cx) {
            self.keepalive.answered(now());
            self.rearm();
            self.window.end(self.wire.data());
        }
        self.measure();
        if let Some(size) = self.window.fit(streams).filter(|_| self.untold != Some(self.wire.heard())) {
            return Poll::Ready(Beat::Window(size));
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let step = self.keepalive.at(now(), self.wire.heard());
            if step == Step::Ping && self.last.elapsed() < self.at_ease && !is_used() {
                self.keepalive.skipped(now());
                self.rearm();
                continue;
            }
            if step == Step::Ping {
                self.ping_now();
            }
            self.rearm();
            match step {
                Step::Wait => {}
                Step::Ping if Instant::now() < self.tick => {}
                Step::Ping => {
                    self.tick = Instant::now() + TICK_EVERY;
                    self.window.quiet(self.wire.data());
                    return Poll::Ready(Beat::Tick);
                }
                Step::Unsettled => return Poll::Ready(Beat::Unsettled),
                Step::Dead => return Poll::Ready(Beat::Dead),
            }
        }
        Poll::Pending
    }

    /// Whether the window of a `Beat` could be announced; otherwise it is tried again when the peer has said something.
    pub fn announced(&mut self, size: u32, done: bool) {
        self.untold = (!done).then(|| self.wire.heard());
        if done {
            self.window.told(size);
        }
    }

    /// A PING out of turn: someone waits on a connection that says nothing.
    pub fn probe(&mut self) {
        if self.keepalive.may_ping() {
            self.ping_now();
            self.rearm();
        }
    }

    fn measure(&mut self) {
        let data = self.wire.data();
        if self.window.has_news(data) && self.keepalive.may_ping() && self.window.begin(data, now()) {
            self.ping_now();
            self.rearm();
        }
    }

    fn ping_now(&mut self) {
        // An error means that the connection is over, which its own poll reports.
        let _ = self.ping.send_ping(Ping::opaque());
        self.last = Instant::now();
        self.keepalive.pinged(now(), self.wire.heard());
    }

    fn rearm(&mut self) {
        self.sleep.as_mut().reset(Instant::from_std(self.keepalive.due()));
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
