//! Buckets of tokens, as the generic cell rate algorithm keeps them: one number, the time at which the bucket will be full.
//! One for all requests without a lock, or one for each value of a key in shards.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

/// Keys of a limit that are remembered; beyond, those that were not used for longest begin anew with a full bucket.
pub const KEYS_MAX: usize = 10_000;
/// Requests of different keys meet at one lock only now and then.
const SHARDS: usize = 16;

/// How fast and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens of a full bucket.
    pub burst: u32,
    /// Nanoseconds in which one comes.
    pub token_nanos: u64,
}

/// A request that got its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub remaining: u32,
    /// Until the bucket is full.
    pub full_in: Duration,
}

/// There is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Empty {
    /// Until there is one.
    pub next_in: Duration,
    pub full_in: Duration,
}

#[derive(Debug)]
pub enum Buckets {
    One(AtomicU64),
    Keyed(Box<Keyed>),
}

#[derive(Debug)]
pub struct Keyed {
    shards: [Mutex<Generations>; SHARDS],
    hashers: [RandomState; 2],
}

/// Buckets that were used lately, and those that were used before; when the first are too many the second are forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u128, u64>,
    old: HashMap<u128, u64>,
}

/// Which bucket of a limit: what a client writes into its request takes no more memory than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u128);

impl Rate {
    /// `tokens` every `interval`, of which no more than `burst` are kept; a share of them where `of` proxies share the limit.
    pub fn new(burst: u32, tokens: u32, interval: Duration, of: u32) -> Rate {
        let (tokens, of) = (u64::from(tokens.max(1)), of.max(1));
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Rate { burst: burst.div_ceil(of), token_nanos: (interval / tokens).saturating_mul(u64::from(of)).max(1) }
    }

    /// The time in which an empty bucket fills.
    pub fn window(self) -> Duration {
        Duration::from_nanos(self.token_nanos.saturating_mul(u64::from(self.burst)))
    }

    /// The new number of a bucket, if there is a token at `now`.
    fn take(self, full_at: u64, now: u64) -> Result<(u64, Taken), Empty> {
        let window = self.token_nanos.saturating_mul(u64::from(self.burst));
        let next = full_at.max(now).saturating_add(self.token_nanos);
        let used = next - now;
        if used > window {
            let full_in = Duration::from_nanos(full_at.saturating_sub(now));
            return Err(Empty { next_in: Duration::from_nanos(used - window), full_in });
        }
        let remaining = u32::try_from((window - used) / self.token_nanos).unwrap_or(u32::MAX);
        Ok((next, Taken { remaining, full_in: Duration::from_nanos(used) }))
    }
}

impl Buckets {
    pub fn new(keyed: bool) -> Buckets {
        if keyed { Buckets::Keyed(Box::new(Keyed { shards: Default::default(), hashers: Default::default() })) } else { Buckets::One(AtomicU64::new(0)) }
    }

    /// `values`: of a keyed limit; nothing of the other.
    pub fn key(&self, values: &[(&str, String)]) -> Key {
        match self {
            Buckets::One(_) => Key(0),
            Buckets::Keyed(keyed) => {
                let [a, b] = keyed.hashers.each_ref().map(|hasher| hasher.hash_one(values));
                Key(u128::from(a) << 64 | u128::from(b))
            }
        }
    }

    /// # Errors
    /// How long to wait where there is no token.
    pub fn take(&self, key: Key, rate: Rate, now: u64) -> Result<Taken, Empty> {
        match self {
            Buckets::One(full_at) => {
                let mut seen = full_at.load(Relaxed);
                loop {
                    let (next, taken) = rate.take(seen, now)?;
                    match full_at.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                        Ok(_) => return Ok(taken),
                        Err(changed) => seen = changed,
                    }
                }
            }
            Buckets::Keyed(keyed) => keyed.shard(key).lock().with(key, |full_at| {
                let (next, taken) = rate.take(*full_at, now)?;
                *full_at = next;
                Ok(taken)
            }),
        }
    }

    /// Gives a token back: another limit refused the request.
    pub fn give_back(&self, key: Key, rate: Rate) {
        match self {
            Buckets::One(full_at) => {
                full_at.fetch_sub(rate.token_nanos, Relaxed);
            }
            Buckets::Keyed(keyed) => {
                keyed.shard(key).lock().with(key, |full_at| *full_at = full_at.saturating_sub(rate.token_nanos));
            }
        }
    }

    /// Keys that are remembered.
    pub fn remembered(&self) -> usize {
        match self {
            Buckets::One(_) => 1,
            Buckets::Keyed(keyed) => keyed.shards.iter().map(|shard| shard.lock().len()).sum(),
        }
    }
}

impl Keyed {
    fn shard(&self, key: Key) -> &Mutex<Generations> {
        &self.shards[(key.0 % SHARDS as u128) as usize]
    }
}

impl Generations {
    fn with<R>(&mut self, key: Key, change: impl FnOnce(&mut u64) -> R) -> R {
        if !self.young.contains_key(&key.0) {
            if self.young.len() >= KEYS_MAX / SHARDS / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            // A bucket that was never used is full, as one is that was full at time 0.
            let known = self.old.remove(&key.0).unwrap_or(0);
            self.young.insert(key.0, known);
        }
        change(self.young.get_mut(&key.0).expect("it is there or was put there"))
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(burst: u32, tokens: u32, seconds: u64) -> Rate {
        Rate::new(burst, tokens, Duration::from_secs(seconds), 1)
    }

    #[test]
    fn a_bucket_empties_at_once_and_fills_in_time() {
        let (buckets, rate) = (Buckets::new(false), rate(3, 1, 2));
        let key = buckets.key(&[]);
        let take = |seconds: u64| buckets.take(key, rate, seconds * SECOND).map(|taken| taken.remaining).map_err(|empty| empty.next_in.as_secs());
        for (at, expected) in [(9, Ok(2)), (9, Ok(1)), (9, Ok(0)), (9, Err(2)), (10, Err(1)), (11, Ok(0)), (11, Err(2)), (17, Ok(2)), (1_000, Ok(2))] {
            assert_eq!(take(at), expected, "at {at} s");
        }
        buckets.give_back(key, rate);
        assert_eq!(take(1_000), Ok(2), "the token that was given back");
        assert_eq!(rate.window(), Duration::from_secs(6));
    }

    #[test]
    fn replicas_share_a_limit() {
        let of = |replicas| Rate::new(100, 10, Duration::from_secs(1), replicas);
        assert_eq!((of(1).burst, of(1).token_nanos), (100, SECOND / 10));
        assert_eq!((of(4).burst, of(4).token_nanos), (25, SECOND * 4 / 10));
        assert_eq!(of(200).burst, 1, "everybody may have one");
        assert_eq!(of(0), of(1), "unknown");
    }

    #[test]
    fn each_key_has_its_own_and_keys_have_a_bound() {
        let (buckets, rate) = (Buckets::new(true), rate(1, 1, 1_000_000));
        let key = |name: String| buckets.key(&[("user", name)]);
        assert!(buckets.take(key("jo".into()), rate, 1).is_ok());
        assert!(buckets.take(key("jo".into()), rate, 2).is_err());
        assert!(buckets.take(key("al".into()), rate, 2).is_ok());
        assert_ne!(buckets.key(&[("a", "b".into()), ("c", "d".into())]), buckets.key(&[("a", "bc".into()), ("", "d".into())]));
        for n in 0..100_000 {
            let _ = buckets.take(key(n.to_string()), rate, 3);
            // Whoever keeps asking is not forgotten, whatever others ask.
            assert!(n % 50 != 0 || buckets.take(key("jo".into()), rate, 3).is_err(), "{n}");
        }
        assert!(buckets.remembered() <= KEYS_MAX, "{}", buckets.remembered());
    }

    proptest! {
        /// In no stretch of time pass more than the burst and what came in that time.
        #[test]
        fn never_more_than_the_limit(burst in 1_u32..20, tokens in 1_u32..5, steps in prop::collection::vec(0_u64..3_000, 1..300)) {
            let rate = Rate::new(burst, tokens, Duration::from_secs(1), 1);
            let buckets = Buckets::new(false);
            let mut now = 5 * SECOND;
            let mut passed = Vec::new();
            for ms in steps {
                now += ms * 1_000_000 / 10;
                if buckets.take(Key(0), rate, now).is_ok() {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let came = (to - from) / rate.token_nanos;
                    prop_assert!((last - first + 1) as u64 <= u64::from(burst) + came);
                }
            }
        }
    }
}
