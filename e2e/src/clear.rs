//! What passed in the clear between pods of the mesh. Pure: frames, their times and what must be a tunnel go in.
//!
//! A connection is judged by its first segment: it must have been in a tunnel if its two ends were in the mesh *then*. One
//! that was older lives on in the clear, on purpose (design decision 13), and is only counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use isthmus::tour::evidence::{Evidence, HBONE_PORT};
use isthmus::tour::packet::{Segment, segment};

/// One would be enough; more would only fill the screen.
const LEAKS_MAX: usize = 100;
/// Of the first bytes that passed in the clear, enough to recognize them.
const SAMPLE: usize = 48;

/// Whoever connects from there to there has to do it in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnelled {
    pub from: IpNet,
    pub to: IpNet,
}

impl Tunnelled {
    pub fn pair(from: IpAddr, to: IpAddr) -> Tunnelled {
        Tunnelled { from: from.into(), to: to.into() }
    }

    fn covers(&self, from: IpAddr, to: IpAddr) -> bool {
        self.from.contains(&from) && self.to.contains(&to)
    }
}

/// A connection that began in the clear when it had to be in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub at: Duration,
    pub packets: u64,
    pub sample: Vec<u8>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Clear {
    rules: BTreeSet<Tunnelled>,
    /// Packets in the clear between such ends, of connections that began before they had to be in a tunnel.
    pub older: u64,
    /// Connections that began in the clear and might: whoever sees these would see the others too.
    pub allowed: u64,
    leaks: Vec<Leak>,
    /// Leaks that are counted and not described.
    more: u64,
    open: BTreeMap<(SocketAddr, SocketAddr), usize>,
    tunnels: Evidence,
}

impl Clear {
    /// From now on exactly these.
    pub fn require(&mut self, rules: impl IntoIterator<Item = Tunnelled>) {
        self.rules = rules.into_iter().collect();
    }

    /// `now`: a time of which the reader of a leak can make something.
    pub fn take(&mut self, now: Duration, frame: &[u8]) {
        let Some(segment) = segment(frame) else { return };
        if segment.from.port() == HBONE_PORT || segment.to.port() == HBONE_PORT {
            return self.tunnels.take(frame);
        }
        let key = (segment.from, segment.to);
        if segment.opens {
            self.open.remove(&key);
            if self.rules.iter().any(|rule| rule.covers(segment.from.ip(), segment.to.ip())) {
                self.leak(now, &segment);
            } else {
                self.allowed += 1;
            }
        } else if let Some(at) = self.open.get(&key).or_else(|| self.open.get(&(segment.to, segment.from))) {
            let leak = &mut self.leaks[*at];
            leak.packets += 1;
            let room = SAMPLE.saturating_sub(leak.sample.len());
            leak.sample.extend(segment.payload.iter().take(room));
        } else if self.rules.iter().any(|rule| rule.covers(key.0.ip(), key.1.ip()) || rule.covers(key.1.ip(), key.0.ip())) {
            self.older += 1;
        }
    }

    fn leak(&mut self, now: Duration, first: &Segment<'_>) {
        if self.leaks.len() >= LEAKS_MAX {
            self.more += 1;
            return;
        }
        self.open.insert((first.from, first.to), self.leaks.len());
        self.leaks.push(Leak { from: first.from, to: first.to, at: now, packets: 1, sample: first.payload.to_vec() });
    }

    pub fn leaks(&self) -> &[Leak] {
        &self.leaks
    }

    /// TLS records in tunnels.
    pub fn tunnelled(&self) -> u64 {
        self.tunnels.tunnels().1.records
    }

    /// Nothing in the clear that had to be in a tunnel, and all that went to or from the tunnel port was TLS.
    ///
    /// # Errors
    /// What was otherwise.
    pub fn judge(&self) -> Result<Seen, String> {
        if let Some(first) = self.leaks.first() {
            let count = self.leaks.len() as u64 + self.more;
            return Err(format!("{count} connections passed in the clear, the first: {first}"));
        }
        let (tunnels, tally) = self.tunnels.tunnels();
        if tally.broken > 0 {
            return Err(format!("on port {HBONE_PORT} something else than TLS was spoken, {} times", tally.broken));
        }
        Ok(Seen { tunnels, records: tally.records, older: self.older, allowed: self.allowed })
    }
}

/// What a wire showed on which nothing was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub tunnels: usize,
    pub records: u64,
    pub older: u64,
    pub allowed: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tunnels, {} TLS records, 0 clear that had to be in one; {} that might, {} packets of older ones", self.tunnels, self.records, self.allowed, self.older)
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = String::from_utf8_lossy(&self.sample);
        write!(f, "{} to {} at {:.3}, {} packets, {words:?}", self.from, self.to, self.at.as_secs_f64(), self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    const DATA: u8 = 0x18;
    const A: &str = "10.0.0.1:40000";
    const B: &str = "10.0.0.2:80";
    const TUNNEL: &str = "10.0.0.2:15008";

    /// An Ethernet frame of IPv4 with a TCP segment.
    fn frame(from: &str, to: &str, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let address = |text: &str| text.parse::<std::net::SocketAddrV4>().unwrap();
        let (from, to) = (address(from), address(to));
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(from.ip().octets());
        frame.extend(to.ip().octets());
        frame.extend(from.port().to_be_bytes());
        frame.extend(to.port().to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn enrolled() -> Clear {
        let mut clear = Clear::default();
        clear.require([Tunnelled::pair("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())]);
        clear
    }

    fn take(clear: &mut Clear, frames: &[Vec<u8>]) {
        frames.iter().for_each(|frame| clear.take(Duration::from_secs(1), frame));
    }

    #[test]
    fn a_connection_in_the_clear_is_one_leak_with_all_its_packets() {
        let mut clear = enrolled();
        take(&mut clear, &[frame(A, B, 1, SYN, b""), frame(B, A, 1, SYN_ACK, b""), frame(A, B, 2, DATA, b"GET /"), frame(B, A, 2, DATA, b"200")]);
        let [leak] = clear.leaks() else { panic!("{:?}", clear.leaks()) };
        assert_eq!((leak.packets, leak.sample.as_slice()), (4, b"GET /200".as_slice()));
        let said = clear.judge().unwrap_err();
        assert!(said.starts_with("1 connections passed in the clear, the first: 10.0.0.1:40000 to 10.0.0.2:80 at 1.000, 4 packets"), "{said}");
    }

    #[test]
    fn only_a_first_segment_between_the_named_ends_is_a_leak() {
        for (what, frames) in [
            ("a tunnel", vec![frame(A, TUNNEL, 1, SYN, b"")]),
            ("the other way, which nobody named", vec![frame("10.0.0.2:40000", "10.0.0.1:80", 1, SYN, b"")]),
            ("somebody else", vec![frame("10.0.0.3:40000", B, 1, SYN, b"")]),
            ("an answer to a connection that is older", vec![frame(B, A, 1, SYN_ACK, b"")]),
            ("the middle of one that is older", vec![frame(A, B, 9, DATA, b"x")]),
            ("no TCP", vec![vec![0; 60], Vec::new()]),
        ] {
            let mut clear = enrolled();
            take(&mut clear, &frames);
            assert!(clear.judge().is_ok(), "{what}");
        }
    }

    #[test]
    fn who_was_there_before_is_counted_and_not_blamed() {
        let mut clear = Clear::default();
        take(&mut clear, &[frame(A, B, 1, SYN, b"")]);
        clear.require([Tunnelled::pair("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())]);
        take(&mut clear, &[frame(A, B, 2, DATA, b"x"), frame(B, A, 2, DATA, b"y")]);
        assert_eq!(clear.judge().unwrap().older, 2);
        // The same numbers used again are a new connection.
        take(&mut clear, &[frame(A, B, 1, SYN, b"")]);
        assert_eq!(clear.leaks().len(), 1);
        clear.require([]);
        take(&mut clear, &[frame(A, B, 1, SYN, b""), frame(A, B, 2, DATA, b"x")]);
        assert_eq!((clear.leaks().len(), clear.leaks()[0].packets), (1, 1), "outside of the mesh again");
    }

    #[test]
    fn ranges_mean_whoever_is_in_there() {
        let mut clear = Clear::default();
        clear.require([Tunnelled { from: "10.0.0.0/24".parse().unwrap(), to: "10.0.0.2/32".parse().unwrap() }]);
        take(&mut clear, &[frame("10.0.0.77:1", B, 1, SYN, b""), frame("10.0.1.77:1", B, 1, SYN, b"")]);
        assert_eq!((clear.leaks().len(), clear.allowed), (1, 1));
    }

    #[test]
    fn other_words_on_the_tunnel_port_are_told() {
        let mut clear = enrolled();
        take(&mut clear, &[frame(A, TUNNEL, 1, SYN, b""), frame(A, TUNNEL, 2, DATA, b"\x17\x03\x03\x00\x01x")]);
        assert_eq!(clear.judge().unwrap(), Seen { tunnels: 1, records: 1, older: 0, allowed: 0 });
        take(&mut clear, &[frame(A, TUNNEL, 8, DATA, b"hello in the clear")]);
        assert!(clear.judge().unwrap_err().contains("something else than TLS"));
    }

    #[test]
    fn a_flood_of_leaks_takes_no_memory_without_end() {
        let mut clear = enrolled();
        for port in 0..LEAKS_MAX as u16 + 7 {
            take(&mut clear, &[frame(&format!("10.0.0.1:{}", 1000 + port), B, 1, SYN, b"")]);
        }
        assert_eq!(clear.leaks().len(), LEAKS_MAX);
        assert!(clear.judge().unwrap_err().starts_with(&format!("{} connections", LEAKS_MAX + 7)));
    }
}
