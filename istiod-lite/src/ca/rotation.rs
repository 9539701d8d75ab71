//! When the authority changes its root, in three steps of which none breaks a connection:
//!
//! ```text
//!            Announce                 Promote                      Drop
//!   old signs │ old signs, old+new     │ new signs, old+new          │ new signs
//!             │ are in the bundle      │ are in the bundle           │
//!             ├──────── wait ──────────┤──────────── wait ───────────┤
//! ```
//!
//! A node learns of roots with each certificate that it is given, and asks for the next one before half of its life. Who
//! got one before `Announce` does not know the new root for as long as that certificate lives, even if it cannot reach us
//! for the second half; so nothing is signed by the new root before the last of them has ended. Who holds a certificate
//! of the old root may show it until it ends; so the old root stays until then. Both take `Times::wait`: the longest life
//! that was handed out, the time that a bundle takes to those who read it from a file, and the difference of clocks.
//!
//! The same for a plugged-in authority whose files change: the operator may replace all of them at once, `want` says what
//! is wanted, and the steps follow. Pure: time is an argument, roots and signers are named by their PEM text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::sign::CLOCK_SKEW;
use serde::{Deserialize, Serialize};

/// The PEM text of a certificate.
pub type Pem = Arc<str>;

/// What signs: its certificate, and the root that it hangs on (the same, if it is a root).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    pub certificate: Pem,
    pub root: Pem,
    #[serde(with = "seconds")]
    pub begins: SystemTime,
    /// No certificate that it signed lives longer.
    #[serde(with = "seconds")]
    pub ends: SystemTime,
}

/// A root of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// In the bundle since; nodes may not know it before `Times::wait` has passed. 1970 for a root that always was.
    #[serde(with = "seconds")]
    pub since: SystemTime,
    /// It is to stay. Another one stays while somebody may need it.
    pub wanted: bool,
    /// Since when it is not wanted and nothing is signed below it.
    #[serde(with = "maybe_seconds")]
    pub unused: Option<SystemTime>,
}

/// Who signs, who will, and whom nodes are told to trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    pub signer: Signer,
    pub next: Option<Signer>,
    pub roots: BTreeMap<Pem, Trust>,
    /// The longest life that a certificate was given.
    pub longest_life: Duration,
}

/// What the waiting times follow from, beside the lives of certificates.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until everybody who reads the bundle from a file or a ConfigMap has it.
    pub distribution: Duration,
    /// A self-signed root of which less than this part of its life is left is replaced, in percent.
    pub renew_below_percent: u32,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    Wait { until: SystemTime },
    /// Make a new root and give it to `want`: the one that signs comes to its end.
    Announce,
    /// `next` signs from now on.
    Promote,
    /// Leave this root out of the bundle.
    Drop(Pem),
}

impl Times {
    pub fn wait(&self, longest_life: Duration) -> Duration {
        longest_life + self.distribution + CLOCK_SKEW
    }
}

impl Signer {
    /// When a self-signed one is to be replaced: early enough for two waits.
    fn is_due(&self, times: &Times, wait: Duration) -> SystemTime {
        let life = self.ends.duration_since(self.begins).unwrap_or_default();
        let early = (life * times.renew_below_percent / 100).max(2 * wait).min(life);
        self.ends.checked_sub(early).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Book {
    /// The first page: everything that is there is known to everybody, because nobody has a certificate yet.
    pub fn begin(signer: Signer, roots: impl IntoIterator<Item = Pem>, longest_life: Duration) -> Book {
        let known = Trust { since: SystemTime::UNIX_EPOCH, wanted: true, unused: None };
        let roots = roots.into_iter().chain([signer.root.clone()]).map(|root| (root, known.clone())).collect();
        Book { signer, next: None, roots, longest_life }
    }

    /// Takes what is to sign and which roots are to be trusted in the end. What is new is trusted at once; what is not
    /// wanted any more goes when nobody needs it.
    pub fn want(&mut self, signer: Signer, roots: &BTreeSet<Pem>, now: SystemTime) {
        for root in roots.iter().chain([&signer.root]) {
            self.roots.entry(root.clone()).or_insert(Trust { since: now, wanted: true, unused: None });
        }
        for (root, trust) in &mut self.roots {
            trust.wanted = roots.contains(root) || *root == signer.root;
            let is_used = trust.wanted || *root == self.signer.root;
            trust.unused = if is_used { None } else { trust.unused.or(Some(now)) };
        }
        self.next = (signer != self.signer).then_some(signer);
    }

    /// Notes a certificate. `true`: it lives longer than any before, which the storage must know.
    pub fn issued(&mut self, life: Duration) -> bool {
        let is_longest = life > self.longest_life;
        self.longest_life = self.longest_life.max(life);
        is_longest
    }

    /// `renews`: the signer is our own self-signed root, so its successor is ours to make.
    pub fn step(&self, times: &Times, renews: bool, now: SystemTime) -> Step {
        let wait = times.wait(self.longest_life);
        let mut until = now + wait;
        let mut is_reached = |at: SystemTime| {
            if at > now {
                until = until.min(at);
            }
            at <= now
        };
        match &self.next {
            Some(next) if is_reached(self.promotion(next, wait)) => return Step::Promote,
            None if renews && is_reached(self.signer.is_due(times, wait)) => return Step::Announce,
            _ => {}
        }
        for (root, trust) in &self.roots {
            if trust.unused.is_some_and(|unused| is_reached(unused + wait)) {
                return Step::Drop(root.clone());
            }
        }
        Step::Wait { until }
    }

    /// When `next` may sign: when everybody knows its root. The certificates of a signer end with it, so there is nothing
    /// to wait for after its end; and when it is about to end, those that are asked for get so short that waiting on
    /// would break more than it saves.
    fn promotion(&self, next: &Signer, wait: Duration) -> SystemTime {
        let known = self.roots.get(&next.root).map_or(SystemTime::UNIX_EPOCH, |trust| trust.since) + wait;
        let last = self.signer.ends.checked_sub(self.longest_life / 4).unwrap_or(SystemTime::UNIX_EPOCH);
        known.min(last)
    }

    pub fn promote(&mut self, now: SystemTime) {
        let Some(next) = self.next.take() else { return };
        let before = std::mem::replace(&mut self.signer, next);
        if before.root != self.signer.root
            && let Some(trust) = self.roots.get_mut(&before.root).filter(|trust| !trust.wanted)
        {
            trust.unused = Some(now);
        }
    }

    pub fn drop_root(&mut self, root: &Pem) {
        if *root != self.signer.root && self.next.as_ref().is_none_or(|next| next.root != *root) {
            self.roots.remove(root);
        }
    }

    /// The trust bundle: the root of the signer first.
    pub fn bundle(&self) -> String {
        let others = self.roots.keys().filter(|root| **root != self.signer.root);
        std::iter::once(&self.signer.root).chain(others).map(|root| &**root).collect()
    }
}

mod seconds {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let seconds = u64::deserialize(from)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(|| serde::de::Error::custom("a time that cannot be"))
    }
}

mod maybe_seconds {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "super::seconds")] SystemTime);

    pub fn serialize<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
        time.map(Time).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Time>::deserialize(from)?.map(|Time(time)| time))
    }
}

#[cfg(test)]
mod tests;
