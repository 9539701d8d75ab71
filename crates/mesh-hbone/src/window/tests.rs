//! Tests of `window`.

use super::*;

const K: u64 = 1 << 10;
const MS: Duration = Duration::from_millis(1);

fn fresh() -> (Window, Instant) {
    (Window::new(256 << 10, 4 << 20, 34 << 20), Instant::now())
}

/// What the peer is told, with so many streams.
fn tell(window: &mut Window, streams: usize) -> Option<u32> {
    let size = window.fit(streams)?;
    window.told(size);
    Some(size)
}

/// One measured round trip in which so much arrives.
fn round_trip(window: &mut Window, data: &mut u64, bytes: u64, now: Instant) -> Option<u32> {
    *data += 2 << 20;
    assert!(window.has_news(*data) && window.begin(*data, now));
    *data += bytes;
    window.end(*data);
    tell(window, 1)
}

#[test]
fn it_doubles_while_a_round_trip_brings_most_of_a_window_and_stops_at_the_limit() {
    let (mut window, start) = fresh();
    let (mut data, mut size, mut now) = (0, 256 * K, start);
    while size < 4 << 20 {
        size *= 2;
        assert_eq!(round_trip(&mut window, &mut data, size / 2, now), Some(size as u32));
        now += MEASURE_EVERY;
    }
    assert!(!window.has_news(data + (100 << 20)), "it can grow no further");
}

#[test]
fn it_stays_when_a_round_trip_brings_little() {
    let (mut window, start) = fresh();
    let mut data = 0;
    assert_eq!(round_trip(&mut window, &mut data, 100 * K, start), None);
}

#[test]
fn it_is_measured_ten_times_a_second_at_most() {
    let (mut window, start) = fresh();
    let mut data = 0;
    round_trip(&mut window, &mut data, 0, start);
    data += 4 << 20;
    assert!(window.has_news(data));
    assert!(!window.begin(data, start + 99 * MS));
    assert!(window.begin(data, start + 100 * MS));
    assert!(!window.has_news(data + (4 << 20)), "one measurement at a time");
}

#[test]
fn it_falls_back_after_a_quiet_interval() {
    let (mut window, start) = fresh();
    let mut data = 0;
    assert_eq!(round_trip(&mut window, &mut data, 300 * K, start), Some(512 << 10));
    data += 300 * K;
    window.quiet(data);
    assert_eq!(tell(&mut window, 1), None, "still busy");
    data += 10 * K;
    window.quiet(data);
    assert_eq!(tell(&mut window, 1), Some(256 << 10));
    window.quiet(data);
    assert_eq!(tell(&mut window, 1), None);
}

#[test]
fn an_answer_to_a_keepalive_measures_nothing() {
    let (mut window, _) = fresh();
    window.end(100 << 20);
    assert_eq!(window.fit(1), None);
}

// V-09
#[test]
fn streams_that_stall_one_after_the_other_leave_room_for_one_more() {
    let (mut window, start) = fresh();
    let mut data = 0;
    for round in 0..4 {
        round_trip(&mut window, &mut data, 4 << 20, start + round * MEASURE_EVERY);
    }
    let mut stalled = 0;
    for streams in 1..=100 {
        tell(&mut window, streams);
        stalled += u64::from(window.told);
        assert!(stalled < 34 << 20, "{streams} streams hold {stalled} bytes");
    }
    assert_eq!(tell(&mut window, 1), Some(4 << 20), "whoever is alone again has all of it");
}
