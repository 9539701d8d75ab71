//! Whether one direction of a TCP stream is TLS: every byte has to lie in a record with a valid header (RFC 8446 5.1),
//! one right after the other. Pure.

use super::packet::Segment;

/// A record's header: type, version, length.
const HEADER: usize = 5;
/// The longest ciphertext of a record: 2^14 + 256 (RFC 8446 5.2).
const RECORD_MAX: u16 = 16_640;

/// What was found out about a stream, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub records: u64,
    /// Bytes inside of records.
    pub framed: u64,
    /// Bytes of which it is not known: before the first header was found in a stream whose beginning was not seen.
    pub unknown: u64,
    /// Times that a header had to be there and was not.
    pub broken: u64,
}

/// One direction of a stream.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    next: Option<u32>,
    framing: Framing,
    pub tally: Tally,
}

#[derive(Clone, Debug, Default)]
enum Framing {
    /// In the middle of a stream: looking for a segment that begins with a header.
    #[default]
    Unknown,
    Header { bytes: [u8; HEADER], have: usize },
    Body { left: usize },
}

const AT_HEADER: Framing = Framing::Header { bytes: [0; HEADER], have: 0 };

impl Tally {
    /// Whether this proves TLS: some records, none broken, and all but a little seen inside of records.
    pub fn is_tls(&self) -> bool {
        self.records > 0 && self.broken == 0 && self.unknown * 10 <= self.framed
    }

    pub fn add(&mut self, other: Tally) {
        self.records += other.records;
        self.framed += other.framed;
        self.unknown += other.unknown;
        self.broken += other.broken;
    }
}

impl Direction {
    /// Takes the next segment of this direction, in the order of the wire.
    pub fn take(&mut self, segment: &Segment<'_>) {
        let mut sequence = segment.sequence;
        if segment.begins {
            sequence = sequence.wrapping_add(1);
            self.next = Some(sequence);
            self.framing = AT_HEADER;
        }
        let mut payload = segment.payload;
        if let Some(next) = self.next {
            let ahead = sequence.wrapping_sub(next) as i32;
            if ahead < 0 {
                // Sent again: what we have had is skipped.
                let had = (ahead.unsigned_abs() as usize).min(payload.len());
                payload = &payload[had..];
                sequence = sequence.wrapping_add(had as u32);
                if payload.is_empty() {
                    return;
                }
            } else if ahead > 0 {
                // We missed something; where records begin is unknown again.
                self.framing = Framing::Unknown;
            }
        }
        self.next = Some(sequence.wrapping_add(payload.len() as u32));
        self.read(payload);
    }

    /// Whether anything of this direction was seen.
    pub fn next_is_known(&self) -> bool {
        self.next.is_some()
    }

    fn read(&mut self, mut payload: &[u8]) {
        while !payload.is_empty() {
            match &mut self.framing {
                Framing::Unknown if header(payload).is_some() => self.framing = AT_HEADER,
                Framing::Unknown => {
                    self.tally.unknown += payload.len() as u64;
                    return;
                }
                Framing::Header { bytes, have } => {
                    let count = (HEADER - *have).min(payload.len());
                    bytes[*have..*have + count].copy_from_slice(&payload[..count]);
                    *have += count;
                    payload = &payload[count..];
                    if *have < HEADER {
                        return;
                    }
                    match header(bytes) {
                        Some(length) => {
                            self.tally.records += 1;
                            self.tally.framed += HEADER as u64;
                            self.framing = Framing::Body { left: usize::from(length) };
                        }
                        None => {
                            self.tally.broken += 1;
                            self.framing = Framing::Unknown;
                        }
                    }
                }
                Framing::Body { left } => {
                    let count = (*left).min(payload.len());
                    self.tally.framed += count as u64;
                    *left -= count;
                    payload = &payload[count..];
                    if *left == 0 {
                        self.framing = AT_HEADER;
                    }
                }
            }
        }
    }
}

/// The length that a valid header announces: change_cipher_spec, alert, handshake or application_data, version 3.1 to
/// 3.3 (TLS 1.3 writes 3.3, and 3.1 in its first ClientHello).
fn header(bytes: &[u8]) -> Option<u16> {
    let length = u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?]);
    let valid = (20..=23).contains(&bytes[0]) && bytes[1] == 3 && (1..=3).contains(&bytes[2]) && (1..=RECORD_MAX).contains(&length);
    valid.then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: u16) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![0x55; usize::from(length)]);
        bytes
    }

    fn feed(direction: &mut Direction, sequence: u32, begins: bool, payload: &[u8]) {
        let (from, to) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        direction.take(&Segment { from, to, sequence, begins, opens: begins, payload });
    }

    #[test]
    fn records_are_followed_across_segments_of_any_size() {
        let stream = [record(300), record(1), record(16_640)].concat();
        for size in [1, 4, 5, 6, 299, 1448, 20_000] {
            let mut direction = Direction::default();
            feed(&mut direction, u32::MAX - 3, true, b"");
            let mut sequence = u32::MAX - 2;
            for part in stream.chunks(size) {
                feed(&mut direction, sequence, false, part);
                sequence = sequence.wrapping_add(part.len() as u32);
            }
            assert_eq!(direction.tally, Tally { records: 3, framed: stream.len() as u64, unknown: 0, broken: 0 }, "segments of {size}");
            assert!(direction.tally.is_tls());
        }
    }

    #[test]
    fn plain_text_is_never_taken_for_tls() {
        for begins in [true, false] {
            let mut direction = Direction::default();
            feed(&mut direction, 1, begins, b"");
            feed(&mut direction, 2, false, b"GET / HTTP/1.1\r\n\r\n");
            assert!(!direction.tally.is_tls(), "{:?}", direction.tally);
        }
    }

    #[test]
    fn plain_text_after_a_record_breaks_the_proof() {
        let mut direction = Direction::default();
        let bytes = record(100);
        feed(&mut direction, 0, false, &bytes);
        feed(&mut direction, bytes.len() as u32, false, b"hello in the clear");
        assert_eq!(direction.tally.broken, 1);
        assert!(!direction.tally.is_tls());
    }

    #[test]
    fn a_gap_and_a_repeat_are_no_break() {
        let bytes = record(100);
        let length = bytes.len() as u32;
        let mut direction = Direction::default();
        feed(&mut direction, 0, false, &bytes);
        feed(&mut direction, 0, false, &bytes);
        assert_eq!(direction.tally.records, 1, "a repeat counts once");
        feed(&mut direction, 2 * length, false, &bytes);
        assert_eq!((direction.tally.records, direction.tally.broken), (2, 0));
        feed(&mut direction, 10 * length + 7, false, &[0x55; 30]);
        assert_eq!(direction.tally.unknown, 30);
        assert!(direction.tally.is_tls() == (30 * 10 <= direction.tally.framed));
    }
}
