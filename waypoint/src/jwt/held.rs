//! For how long keys that were fetched are good, and when they are fetched anew. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::jwks::Jwks;

/// An issuer that says less is asked at this rate all the same.
const FRESH_MIN: Duration = Duration::from_secs(60);
/// An issuer that says more: a key that it takes back is gone after this.
const FRESH_MAX: Duration = Duration::from_secs(3600);
/// An issuer that says nothing.
const FRESH_DEFAULT: Duration = Duration::from_secs(300);
/// While the issuer cannot be asked, the last keys serve for so long.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// After a failure nobody is asked for so long: requests do not add up at an issuer that is in trouble.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// Anybody can name a key that does not exist: for it the issuer is asked this often at most.
const ANEW_EVERY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Held {
    keys: Option<Fetched>,
    failed: Option<Instant>,
    anew: Option<Instant>,
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<Jwks>,
    at: Instant,
    fresh_for: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    Use(Arc<Jwks>),
    Fetch,
    /// There are no keys, and it is too early to ask again.
    Fail,
}

impl Held {
    pub fn advice(&self, now: Instant) -> Advice {
        let age = |fetched: &Fetched| now.saturating_duration_since(fetched.at);
        let usable = self.keys.as_ref().filter(|fetched| age(fetched) < STALE_MAX);
        let failed = self.failed.is_some_and(|at| now.saturating_duration_since(at) < FAILED_FOR);
        match usable {
            Some(fetched) if age(fetched) < fetched.fresh_for || failed => Advice::Use(fetched.keys.clone()),
            _ if failed => Advice::Fail,
            _ => Advice::Fetch,
        }
    }

    /// A token names a key that is not there. Whether the issuer may be asked for it; if so, this is noted.
    pub fn may_fetch_anew(&mut self, now: Instant) -> bool {
        let last = self.keys.as_ref().map(|fetched| fetched.at).max(self.anew).max(self.failed);
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= ANEW_EVERY);
        if may {
            self.anew = Some(now);
        }
        may
    }

    /// `max_age`: what the issuer says of its answer.
    pub fn fetched(&mut self, keys: Arc<Jwks>, max_age: Option<Duration>, now: Instant) {
        let fresh_for = max_age.unwrap_or(FRESH_DEFAULT).clamp(FRESH_MIN, FRESH_MAX);
        self.keys = Some(Fetched { keys, at: now, fresh_for });
        self.failed = None;
    }

    pub fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
    }
}
