//! What was seen on the wire, from the first frame on: which streams are TLS, and where words appeared in the clear.
//! Pure; memory is bounded by the number of streams.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::packet::segment;
use super::records::{Direction, Tally};

/// The port on which nodes take tunnels (spec/dataplane.md 1.1).
pub const HBONE_PORT: u16 = 15008;
/// More streams than a tour makes; beyond it the oldest knowledge is worth more than new streams.
const STREAMS_MAX: usize = 20_000;

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    words: Vec<&'static str>,
    streams: BTreeMap<(SocketAddr, SocketAddr), Stream>,
    /// How often each word was seen in the clear, by who spoke to whom.
    sightings: BTreeMap<(&'static str, IpAddr, IpAddr), u64>,
    pub frames: u64,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    direction: Direction,
    segments: u64,
    /// The end of the last segment: a word may be cut in two.
    tail: Vec<u8>,
}

impl Evidence {
    pub fn looking_for(words: &[&'static str]) -> Evidence {
        Evidence { words: words.to_vec(), ..Evidence::default() }
    }

    pub fn take(&mut self, frame: &[u8]) {
        self.frames += 1;
        let Some(segment) = segment(frame) else { return };
        let key = (segment.from, segment.to);
        if self.streams.len() >= STREAMS_MAX && !self.streams.contains_key(&key) {
            return;
        }
        let stream = self.streams.entry(key).or_default();
        stream.direction.take(&segment);
        stream.segments += 1;
        if segment.payload.is_empty() {
            return;
        }
        let longest = self.words.iter().map(|word| word.len()).max().unwrap_or(1);
        let text = [&stream.tail, segment.payload].concat();
        for word in &self.words {
            let seen = count(&text, word.as_bytes(), stream.tail.len());
            if seen > 0 {
                *self.sightings.entry((word, segment.from.ip(), segment.to.ip())).or_default() += seen;
            }
        }
        stream.tail = text[text.len().saturating_sub(longest - 1)..].to_vec();
    }

    /// All tunnels together, and how many there are (each has two directions).
    pub fn tunnels(&self) -> (usize, Tally) {
        let mut sum = Tally::default();
        let mut count = 0;
        for ((from, to), stream) in &self.streams {
            if to.port() == HBONE_PORT || from.port() == HBONE_PORT {
                sum.add(stream.direction.tally);
                count += usize::from(to.port() == HBONE_PORT && stream.direction.next_is_known());
            }
        }
        (count, sum)
    }

    /// Packets outside of tunnels, when both who spoke and who heard satisfy `between`; also those without a payload.
    pub fn in_the_clear(&self, between: impl Fn(IpAddr) -> bool) -> u64 {
        let outside = self.streams.iter().filter(|((from, to), _)| from.port() != HBONE_PORT && to.port() != HBONE_PORT);
        outside.filter(|((from, to), _)| between(from.ip()) && between(to.ip())).map(|(_, stream)| stream.segments).sum()
    }

    /// How often a word was seen when both who spoke and who heard satisfy `between`.
    pub fn sightings(&self, word: &str, between: impl Fn(IpAddr) -> bool) -> u64 {
        self.sightings.iter().filter(|((seen, from, to), _)| *seen == word && between(*from) && between(*to)).map(|(_, count)| count).sum()
    }
}

/// Counts a word where it ends after `from`: what lies wholly before was counted with the last segment.
fn count(text: &[u8], word: &[u8], from: usize) -> u64 {
    text.windows(word.len()).enumerate().filter(|(at, window)| at + word.len() > from && *window == word).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tour::packet::tests::frame;

    const WORD: &str = "secret-word";

    #[test]
    fn a_word_is_found_once_even_when_it_is_cut_in_two() {
        for cut in 0..=WORD.len() {
            let mut evidence = Evidence::looking_for(&[WORD]);
            let text = format!("xx{WORD}yy");
            let (first, second) = text.as_bytes().split_at(2 + cut);
            evidence.take(&frame("10.0.0.1:1", "10.0.0.2:80", 1, 0x18, first));
            evidence.take(&frame("10.0.0.1:1", "10.0.0.2:80", 1 + first.len() as u32, 0x18, second));
            assert_eq!(evidence.sightings(WORD, |_| true), 1, "cut at {cut}");
        }
    }

    #[test]
    fn who_spoke_is_told_apart() {
        let mut evidence = Evidence::looking_for(&[WORD]);
        evidence.take(&frame("10.0.0.1:1", "10.0.0.2:80", 1, 0x18, WORD.as_bytes()));
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(evidence.sightings(WORD, |ip| ip != one), 0);
        assert_eq!(evidence.sightings("other", |_| true), 0);
    }

    #[test]
    fn tunnels_are_told_by_their_port() {
        let mut evidence = Evidence::looking_for(&[WORD]);
        evidence.take(&frame("10.0.0.1:1", "10.0.0.2:15008", 1, 0x18, b"\x17\x03\x03\x00\x01x"));
        evidence.take(&frame("10.0.0.1:2", "10.0.0.2:80", 1, 0x18, b"plain"));
        let (count, tally) = evidence.tunnels();
        assert_eq!((count, tally.records, tally.broken, tally.unknown), (1, 1, 0, 0));
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!((evidence.in_the_clear(|_| true), evidence.in_the_clear(|ip| ip == one), evidence.in_the_clear(|ip| ip == two)), (1, 0, 0));
    }
}
