//! The shell of `keepalive` and `window`: one PING at a time on a connection, one timer, for both ends alike.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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
}

pub(crate) enum Beat {
    /// A keepalive interval is over: time for slow checks.
    Tick,
    /// Announce this stream window.
    Window(u32),
    /// The peer's SETTINGS did not come.
    Unsettled,
    /// The peer does not answer.
    Dead,
}

impl Pulse {
    pub fn new(ping: PingPong, limits: &Limits, wire: Arc<Wire>) -> Self {
        let settle_by = Instant::now() + limits.handshake;
        Pulse {
            ping,
            keepalive: Keepalive::new(limits.ping_after, limits.ping_timeout, settle_by.into_std()),
            window: Window::new(limits.stream_window, limits.stream_window_max),
            wire,
            sleep: Box::pin(tokio::time::sleep_until(settle_by)),
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Beat> {
        if self.wire.settled() && self.keepalive.settled(now()) {
            self.rearm();
        }
        if let Poll::Ready(Ok(_)) = self.ping.poll_pong(cx) {
            self.keepalive.answered(now());
            self.rearm();
            if let Some(size) = self.window.end(self.wire.data()) {
                return Poll::Ready(Beat::Window(size));
            }
        }
        self.measure();
        while self.sleep.as_mut().poll(cx).is_ready() {
            let step = self.keepalive.at(now(), self.wire.heard());
            if step == Step::Ping {
                self.ping_now();
            }
            self.rearm();
            match step {
                Step::Wait => {}
                Step::Ping => {
                    return Poll::Ready(match self.window.quiet(self.wire.data()) {
                        Some(size) => Beat::Window(size),
                        None => Beat::Tick,
                    });
                }
                Step::Unsettled => return Poll::Ready(Beat::Unsettled),
                Step::Dead => return Poll::Ready(Beat::Dead),
            }
        }
        Poll::Pending
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
        self.keepalive.pinged(now(), self.wire.heard());
    }

    fn rearm(&mut self) {
        self.sleep.as_mut().reset(Instant::from_std(self.keepalive.due()));
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
