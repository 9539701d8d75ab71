//! Tests of `guard`.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::{DATA, GOAWAY, HEADERS, PING, SETTINGS, frame};

/// Feeds the bytes in pieces of these sizes and tells the heads and SETTINGS that were seen.
fn scan(bytes: &[u8], pieces: &[usize]) -> Vec<Option<(u8, usize)>> {
    let (mut scan, mut seen, mut rest) = (Scan::after(0), Vec::new(), bytes);
    for size in pieces.iter().cycle() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        scan.feed(piece, |passed| {
            seen.push(match passed {
                Passed::Head(head) => Some((head.kind, head.length)),
                Passed::Settings => None,
            })
        });
        rest = after;
        if rest.is_empty() {
            return seen;
        }
    }
    seen
}

proptest! {
    #[test]
    fn heads_are_found_however_the_bytes_are_cut(
        frames in prop::collection::vec((0u8..12, 0u8..6, 0usize..300), 1..20),
        pieces in prop::collection::vec(1usize..50, 1..10),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (kind, flags, length) in frames {
            bytes.extend(frame(kind, flags, 1, &vec![0xaa; length]));
            expected.push(Some((kind, length)));
            if kind == SETTINGS && flags & 1 == 0 {
                expected.push(None);
            }
        }
        prop_assert_eq!(scan(&bytes, &pieces), expected);
    }

    #[test]
    fn any_bytes_are_scanned(bytes in prop::collection::vec(any::<u8>(), 1..2000), pieces in prop::collection::vec(1usize..50, 1..10)) {
        scan(&bytes, &pieces);
    }
}

#[tokio::test(start_paused = true)]
async fn it_notices_what_passes_and_changes_nothing() {
    let (mut far, near) = tokio::io::duplex(1 << 16);
    let wire = Arc::new(Wire::default());
    let mut guard = Guard::dialling(near, wire.clone());
    let frames = [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, 4, 1, &[0x88]), frame(DATA, 0, 1, b"hello")].concat();
    far.write_all(&frames).await.unwrap();
    let mut read = vec![0; frames.len()];
    guard.read_exact(&mut read).await.unwrap();
    assert_eq!(read, frames);
    assert_eq!((wire.heard(), wire.data()), (frames.len() as u64, 5));
    assert!(wire.settled() && !wire.going_away() && wire.flood().is_none());
    far.write_all(&frame(GOAWAY, 0, 0, &[0; 8])).await.unwrap();
    guard.read_exact(&mut [0; 17]).await.unwrap();
    assert!(wire.going_away());
}

// V-07
#[tokio::test(start_paused = true)]
async fn after_a_flood_nothing_more_is_read() {
    let (mut far, near) = tokio::io::duplex(1 << 16);
    let wire = Arc::new(Wire::default());
    let mut guard = Guard::dialling(near, wire.clone());
    far.write_all(&frame(PING, 0, 0, &[0; 8]).repeat(1001)).await.unwrap();
    let reading = async {
        let mut all = vec![0; 1 << 16];
        loop {
            let read = guard.read(&mut all).await.unwrap();
            assert!(read > 0, "the far end is open");
        }
    };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), reading).await.is_err());
    assert_eq!(wire.flood(), Some(Flood::Pings));
}
