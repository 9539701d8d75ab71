//! A key stays where it is, whoever made the table (spec/waypoint.md 11, row 17).

use proptest::prelude::*;

use super::*;

fn endpoints(ids: &[u32], weight: impl Fn(u32) -> u32) -> Vec<(u64, u32)> {
    ids.iter().map(|id| (hash(format!("10.0.0.{id}:8080").as_bytes(), 0), weight(*id))).collect()
}

fn tables(endpoints: &[(u64, u32)]) -> [Ring; 2] {
    [Ring::of_entries(endpoints, 1024), Ring::maglev(endpoints, 65_537)]
}

const KEYS: u64 = 20_000;

/// The endpoint of each key, by its hash.
fn chosen(ring: &Ring, endpoints: &[(u64, u32)]) -> Vec<u64> {
    (0..KEYS).map(|key| endpoints[ring.walk(hash(&key.to_le_bytes(), 9)).next().unwrap()].0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_more_keys_move_than_the_share_of_the_one_that_goes(count in 2_u32..40, gone in any::<prop::sample::Index>()) {
        let ids: Vec<u32> = (0..count).collect();
        let gone = gone.index(ids.len());
        let left: Vec<u32> = ids.iter().copied().filter(|id| *id != gone as u32).collect();
        let (before, after) = (endpoints(&ids, |_| 1), endpoints(&left, |_| 1));
        for (ring_before, ring_after) in tables(&before).iter().zip(tables(&after)) {
            let pairs = chosen(ring_before, &before).into_iter().zip(chosen(&ring_after, &after));
            let moved = pairs.filter(|(a, b)| a != b).count() as f64 / KEYS as f64;
            let bound = 1.0 / f64::from(count) + 0.05;
            prop_assert!(moved <= bound, "{moved} of the keys moved, {bound} at most, {count} endpoints");
        }
    }

    #[test]
    fn the_order_in_which_endpoints_are_known_does_not_matter(ids in Just((0..20).collect::<Vec<u32>>()).prop_shuffle()) {
        let sorted = endpoints(&(0..20).collect::<Vec<u32>>(), |id| id % 3 + 1);
        let shuffled = endpoints(&ids, |id| id % 3 + 1);
        for (a, b) in tables(&sorted).iter().zip(tables(&shuffled)) {
            prop_assert_eq!(chosen(a, &sorted), chosen(&b, &shuffled));
        }
    }
}

#[test]
fn weights_are_shares() {
    let of = endpoints(&[1, 2, 3, 4], |id| id);
    for table in tables(&of) {
        let chosen = chosen(&table, &of);
        for (id, weight) in &of {
            let share = chosen.iter().filter(|chosen| *chosen == id).count() as f64 / KEYS as f64;
            let expected = f64::from(*weight) / 10.0;
            assert!((share - expected).abs() < 0.05, "{share}, not {expected}");
        }
    }
}

#[test]
fn the_walk_comes_to_everybody_and_the_hash_is_for_all_time() {
    let of = endpoints(&[1, 2, 3], |_| 1);
    for table in tables(&of) {
        let mut seen: Vec<usize> = table.walk(12_345).take(1000).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2]);
        assert!(tables(&[]).iter().all(|table| table.walk(1).next().is_none()));
    }
    // Replicas of two versions must agree: this number may never change.
    assert_eq!(hash(b"jo", 0), HASH_OF_JO);
}

const HASH_OF_JO: u64 = 12_755_558_863_118_879_349;

#[test]
fn primes() {
    assert_eq!((0..30).filter(|number| is_prime(*number)).collect::<Vec<_>>(), [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    assert!(is_prime(65_537) && is_prime(MAGLEV_TABLE_MAX) && !is_prime(65_535));
}

#[test]
fn a_ring_of_many_endpoints_has_a_bound() {
    let many: Vec<(u64, u32)> = (0..20_000_u64).map(|id| (hash(&id.to_le_bytes(), 0), 1)).collect();
    let Ring::Ring(entries) = Ring::of_entries(&many, 1024) else { panic!("a ring") };
    assert!(entries.len() <= RING_MAX && entries.len() >= many.len());
}
