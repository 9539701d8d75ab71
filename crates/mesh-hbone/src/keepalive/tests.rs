//! Tests of `keepalive`.

use super::*;

const S: Duration = Duration::from_secs(1);

fn fresh() -> (Keepalive, Instant) {
    let start = Instant::now();
    (Keepalive::new(10 * S, 20 * S, start + 5 * S), start)
}

#[test]
fn silence_instead_of_settings_is_found_at_the_handshake_limit() {
    let (mut keepalive, start) = fresh();
    assert!(!keepalive.may_ping());
    assert_eq!(keepalive.at(start + 4 * S, 24), Step::Wait);
    assert_eq!(keepalive.due(), start + 5 * S);
    assert_eq!(keepalive.at(start + 5 * S, 24), Step::Unsettled);
}

#[test]
fn a_ping_goes_every_ten_seconds_of_quiet() {
    let (mut keepalive, start) = fresh();
    assert!(keepalive.settled(start));
    assert!(!keepalive.settled(start + S), "only the first SETTINGS open");
    for round in 0..3 {
        let begun = start + 11 * S * round;
        assert_eq!(keepalive.at(begun + 9 * S, 0), Step::Wait);
        assert_eq!(keepalive.at(begun + 10 * S, 0), Step::Ping);
        keepalive.pinged(begun + 10 * S, 0);
        assert!(!keepalive.may_ping());
        keepalive.answered(begun + 11 * S);
    }
}

// Interop 13.11: a peer silent on PING for 20 s is dropped
#[test]
fn a_peer_without_a_byte_for_twenty_seconds_is_dead() {
    let (mut keepalive, start) = fresh();
    keepalive.settled(start);
    keepalive.pinged(start, 7);
    assert_eq!(keepalive.at(start + 19 * S, 7), Step::Wait);
    assert_eq!(keepalive.at(start + 20 * S, 7), Step::Dead);
}

#[test]
fn bytes_that_arrive_excuse_a_late_answer() {
    let (mut keepalive, start) = fresh();
    keepalive.settled(start);
    keepalive.pinged(start, 7);
    assert_eq!(keepalive.at(start + 20 * S, 8), Step::Wait);
    assert_eq!(keepalive.due(), start + 40 * S);
    assert_eq!(keepalive.at(start + 40 * S, 8), Step::Dead);
}
