//! Tests of `flood`.

use std::time::Duration;

use super::*;
use crate::testing::PRIORITY;

fn head(kind: u8, flags: u8, length: usize) -> Head {
    Head { kind, flags, length }
}

/// How many such frames pass at one moment, and how many more after a second.
fn passed(frame: Head) -> (u32, u32, Flood) {
    let start = Instant::now();
    let mut meter = Meter::new(TUNNELS, start);
    let count = |meter: &mut Meter, now| {
        let mut passed = 0;
        loop {
            match meter.frame(frame, now) {
                Ok(()) => passed += 1,
                Err(flood) => return (passed, flood),
            }
            assert!(passed < 1_000_000, "{frame:?} is never too much");
        }
    };
    let (burst, _) = count(&mut meter, start);
    let (more, flood) = count(&mut meter, start + Duration::from_secs(1));
    (burst, more, flood)
}

// V-01, V-07: each kind has a burst and a rate
#[test]
fn each_kind_of_frame_has_a_burst_and_a_rate() {
    assert_eq!(passed(head(RST_STREAM, 0, 4)), (2000, 500, Flood::Resets));
    assert_eq!(passed(head(PING, 0, 8)), (1000, 100, Flood::Pings));
    assert_eq!(passed(head(SETTINGS, 0, 0)), (200, 20, Flood::Settings));
    assert_eq!(passed(head(WINDOW_UPDATE, 0, 4)), (10_000, 2000, Flood::WindowUpdates));
    assert_eq!(passed(head(2, 0, 5)), (1000, 100, Flood::Others));
    assert_eq!(passed(head(PING, ACK, 8)), (1000, 100, Flood::Others));
    assert_eq!(passed(head(0xfa, 0, 5)), (1000, 100, Flood::Others));
}

#[test]
fn a_steady_rate_within_the_limit_is_never_too_much() {
    let start = Instant::now();
    let mut meter = Meter::new(TUNNELS, start);
    for i in 0..100_000u64 {
        // 400 resets per second; 40,000 in 100 s are twenty bursts.
        assert_eq!(meter.frame(head(RST_STREAM, 0, 4), start + Duration::from_micros(2500 * i)), Ok(()));
    }
}

#[test]
fn traffic_earns_back_what_follows_from_it() {
    let now = Instant::now();
    let mut meter = Meter::new(TUNNELS, now);
    for _ in 0..100_000 {
        assert_eq!(meter.frame(head(DATA, 0, 10), now), Ok(()));
        assert_eq!(meter.frame(head(RST_STREAM, 0, 4), now), Ok(()));
        meter.wrote(512);
        assert_eq!(meter.frame(head(WINDOW_UPDATE, 0, 4), now), Ok(()));
        assert_eq!(meter.frame(head(WINDOW_UPDATE, 0, 4), now), Ok(()));
    }
}

#[test]
fn empty_data_earns_nothing() {
    let now = Instant::now();
    let mut meter = Meter::new(TUNNELS, now);
    let flooded =
        (0..2001).any(|_| meter.frame(head(DATA, 0, 0), now).is_err() || meter.frame(head(RST_STREAM, 0, 4), now).is_err());
    assert!(flooded);
}

// V-07
#[test]
fn requests_excuse_what_their_clients_do() {
    let now = Instant::now();
    let mut meter = Meter::new(REQUESTS, now);
    for _ in 0..100_000 {
        // Taken back, its windows returned one by one, the path measured: for an answer of 64 bytes.
        for frame in [head(HEADERS, END_HEADERS, 20), head(PRIORITY, 0, 5), head(PING, 0, 8), head(WINDOW_UPDATE, 0, 4), head(WINDOW_UPDATE, 0, 4)] {
            assert_eq!(meter.frame(frame, now), Ok(()), "{frame:?}");
        }
        meter.wrote(64);
        assert_eq!(meter.frame(head(RST_STREAM, 0, 4), now), Ok(()));
    }
    // Answers to PINGs are no traffic.
    let pinged = (0..2000).position(|_| {
        meter.wrote(17);
        meter.frame(head(PING, 0, 8), now).is_err()
    });
    assert!(pinged.is_some_and(|at| at < 1500), "{pinged:?}");
}

// V-04
#[test]
fn a_header_block_is_bounded_over_all_its_frames() {
    let now = Instant::now();
    let mut meter = Meter::new(TUNNELS, now);
    assert_eq!(meter.frame(head(HEADERS, 0, HEADER_BLOCK_MAX - 1), now), Ok(()));
    assert_eq!(meter.frame(head(CONTINUATION, END_HEADERS, 1), now), Ok(()));
    assert_eq!(meter.frame(head(HEADERS, 0, HEADER_BLOCK_MAX), now), Ok(()));
    assert_eq!(meter.frame(head(CONTINUATION, 0, 1), now), Err(Flood::HeaderBlock));
    assert_eq!(meter.frame(head(HEADERS, END_HEADERS, HEADER_BLOCK_MAX + 1), now), Err(Flood::HeaderBlock));
}
