//! How many frames that carry no user data a peer may send. Pure: frame heads and the time in, a verdict out.
//!
//! h2 bounds what it buffers; it answers PING, SETTINGS and the rest for as long as they come. Here each kind has a
//! bucket: a burst, a steady rate, and for the kinds that follow from traffic a credit for each piece of traffic.
//! DATA frames are counted by h2 itself (empty and tiny ones).

use std::time::Instant;

use crate::error::Flood;
use crate::limits::HEADER_BLOCK_MAX;

/// Frame types of RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// ACK of SETTINGS and PING.
const ACK: u8 = 1;
/// END_HEADERS of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 4;

/// What a peer may send, by what its connection carries.
#[derive(Clone, Copy)]
pub(crate) struct Rates {
    resets: Rate,
    pings: Rate,
    settings: Rate,
    windows: Rate,
    others: Rate,
    /// So many bytes of ours on the wire excuse one WINDOW_UPDATE.
    bytes_per_window_update: usize,
    /// So many bytes of ours on the wire excuse one PING. None: no traffic does.
    bytes_per_ping: Option<usize>,
    /// A request excuses one reset and one PRIORITY: who counts requests is not here.
    by_request: bool,
}

/// Tunnels: few requests, long streams.
pub(crate) const TUNNELS: Rates = Rates {
    resets: RESETS,
    pings: PINGS,
    settings: SETTINGS_RATE,
    windows: WINDOWS,
    others: OTHERS,
    // A node daemon returns whole reads.
    bytes_per_window_update: 256,
    bytes_per_ping: None,
    by_request: false,
};

/// Requests of applications. Their clients return windows for each small answer, twice; those that measure the path ping
/// once per piece of an answer. Our answer to a PING has 17 bytes, and must not pay for the next one.
pub(crate) const REQUESTS: Rates = Rates { bytes_per_window_update: 16, bytes_per_ping: Some(64), by_request: true, ..TUNNELS };

/// An application that resets every connection after an exchange earns the resets back by its DATA; what is left is
/// cancelled dials and refused requests.
const RESETS: Rate = Rate { burst: 2000, per_second: 500 };
/// Peers that size their windows ping once per round trip while they are busy.
const PINGS: Rate = Rate { burst: 1000, per_second: 100 };
/// Changed windows: a handful per second at most.
const SETTINGS_RATE: Rate = Rate { burst: 200, per_second: 20 };
/// A peer that returns each chunk on its own sends two per DATA frame of ours, which the credit covers.
const WINDOWS: Rate = Rate { burst: 10_000, per_second: 2000 };
/// PRIORITY once per stream by old clients, greased frame types.
const OTHERS: Rate = Rate { burst: 1000, per_second: 100 };

/// The head of a frame: all that is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub kind: u8,
    pub flags: u8,
    pub length: usize,
}

#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    per_second: u32,
}

/// A bucket that is refilled only when it is found empty, so that a frame in normal times costs one subtraction.
struct Bucket {
    rate: Rate,
    tokens: u32,
    refilled: Instant,
}

/// The account of one connection.
pub(crate) struct Meter {
    resets: Bucket,
    pings: Bucket,
    settings: Bucket,
    windows: Bucket,
    others: Bucket,
    rates: Rates,
    header_block: usize,
    /// Bytes of ours that have not paid for a WINDOW_UPDATE yet, and for a PING.
    written: usize,
    written_for_pings: usize,
}

impl Head {
    /// Whether the verdict on it can depend on the time.
    pub fn is_metered(&self) -> bool {
        !matches!(self.kind, DATA | HEADERS | CONTINUATION)
    }

    pub fn is_data(&self) -> bool {
        self.kind == DATA
    }

    pub fn is_settings(&self) -> bool {
        self.kind == SETTINGS && self.flags & ACK == 0
    }

    pub fn is_go_away(&self) -> bool {
        self.kind == 7
    }
}

impl Meter {
    pub fn new(rates: Rates, now: Instant) -> Self {
        let full = |rate: Rate| Bucket { rate, tokens: rate.burst, refilled: now };
        Meter {
            resets: full(rates.resets),
            pings: full(rates.pings),
            settings: full(rates.settings),
            windows: full(rates.windows),
            others: full(rates.others),
            rates,
            header_block: 0,
            written: 0,
            written_for_pings: 0,
        }
    }

    /// One frame has begun to arrive.
    pub fn frame(&mut self, head: Head, now: Instant) -> Result<(), Flood> {
        match head.kind {
            DATA => {
                if head.length > 0 {
                    self.resets.credit(1);
                }
                Ok(())
            }
            HEADERS | CONTINUATION => self.header_bytes(head),
            RST_STREAM => self.resets.take(now, Flood::Resets),
            PING if head.flags & ACK == 0 => self.pings.take(now, Flood::Pings),
            SETTINGS if head.flags & ACK == 0 => self.settings.take(now, Flood::Settings),
            WINDOW_UPDATE => self.windows.take(now, Flood::WindowUpdates),
            _ => self.others.take(now, Flood::Others),
        }
    }

    /// So many bytes of ours have left.
    pub fn wrote(&mut self, bytes: usize) {
        self.windows.credit(paid(&mut self.written, bytes, self.rates.bytes_per_window_update));
        if let Some(price) = self.rates.bytes_per_ping {
            self.pings.credit(paid(&mut self.written_for_pings, bytes, price));
        }
    }

    fn header_bytes(&mut self, head: Head) -> Result<(), Flood> {
        let block = if head.kind == HEADERS { head.length } else { self.header_block + head.length };
        if block > HEADER_BLOCK_MAX {
            return Err(Flood::HeaderBlock);
        }
        if self.rates.by_request && head.kind == HEADERS {
            self.resets.credit(1);
            self.others.credit(1);
        }
        self.header_block = if head.flags & END_HEADERS != 0 { 0 } else { block };
        Ok(())
    }
}

/// What so many more bytes buy at this price; what is left over stays in `purse`.
fn paid(purse: &mut usize, bytes: usize, price: usize) -> u32 {
    *purse += bytes;
    let bought = *purse / price;
    *purse %= price;
    u32::try_from(bought).unwrap_or(u32::MAX)
}

impl Bucket {
    fn take(&mut self, now: Instant, flood: Flood) -> Result<(), Flood> {
        if self.tokens == 0 {
            self.refill(now);
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(flood)?;
        Ok(())
    }

    /// What the time since the last refill brings; less than one token is left to grow.
    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled).as_millis();
        let earned = since * u128::from(self.rate.per_second) / 1000;
        if earned > 0 {
            self.tokens = u32::try_from(earned).unwrap_or(u32::MAX).min(self.rate.burst);
            self.refilled = now;
        }
    }

    fn credit(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.rate.burst);
    }
}

#[cfg(test)]
mod tests;
