//! Pure but for counters: one endpoint of a group, by the destination's algorithm (spec/waypoint.md 5.6).

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::Rng;

use crate::choose::policy::{Algorithm, Warmup};
use crate::choose::table::{GroupView, Member, Table};

/// How often one is drawn before all are looked at: with most of them usable the first draw nearly always holds.
const DRAWS_MAX: usize = 8;

/// What a draw is made from.
pub struct Draw<'a> {
    pub table: &'a Table,
    pub group: &'a GroupView,
    pub warmup: Option<Warmup>,
    /// The destination's clock, nanoseconds.
    pub now: u64,
}

impl<'a> Draw<'a> {
    /// Not for consistent hashing, which has no draw; what is left there is chance.
    pub fn by(
        &self,
        algorithm: &Algorithm,
        round: &AtomicU64,
        usable: &impl Fn(&Member) -> bool,
        chance: &mut impl Rng,
    ) -> Option<&'a Member> {
        match algorithm {
            Algorithm::Random | Algorithm::ConsistentHash(..) => self.random(usable, chance),
            Algorithm::RoundRobin => self.round_robin(round, usable, chance),
            Algorithm::PeakEwma => self.of_two(usable, chance, |a, b| self.cost(a).total_cmp(&self.cost(b))),
            Algorithm::LeastRequest | Algorithm::Passthrough => self.of_two(usable, chance, |a, b| {
                // Requests under way for each unit of weight; drawing by weight has done the rest.
                let load = |one: &Member, other: &Member| u64::from(one.state.active.load(Relaxed)) * u64::from(other.weight);
                load(a, b).cmp(&load(b, a))
            }),
        }
    }

    /// The better of two that chance chose: nearly as good as the best of all, and no herd runs to one endpoint.
    fn of_two(
        &self,
        usable: &impl Fn(&Member) -> bool,
        chance: &mut impl Rng,
        compare: impl Fn(&Member, &Member) -> Ordering,
    ) -> Option<&'a Member> {
        let first = self.random(usable, chance)?;
        if self.group.members.len() < 2 {
            return Some(first);
        }
        let other = |member: &Member| usable(member) && member.endpoint.id != first.endpoint.id;
        let Some(second) = self.random(&other, chance) else { return Some(first) };
        Some(if compare(first, second).is_gt() { second } else { first })
    }

    fn cost(&self, member: &Member) -> f64 {
        let queue = f64::from(member.state.active.load(Relaxed)) + 1.0;
        member.state.ewma.now(self.now) * queue / f64::from(member.weight.max(1))
    }

    fn random(&self, usable: &impl Fn(&Member) -> bool, chance: &mut impl Rng) -> Option<&'a Member> {
        let total = self.group.total();
        if total == 0 {
            return None;
        }
        for _ in 0..DRAWS_MAX {
            let member = self.at(chance.random_range(0..total));
            if usable(member) && self.is_warm(member, chance) {
                return Some(member);
            }
        }
        self.any(usable, chance)
    }

    /// In turn. With unequal weights each gets its weight in one round of all turns, and the turns of one are spread.
    fn round_robin(&self, round: &AtomicU64, usable: &impl Fn(&Member) -> bool, chance: &mut impl Rng) -> Option<&'a Member> {
        let total = if self.group.equal { self.group.members.len() as u64 } else { self.group.total() };
        if total == 0 {
            return None;
        }
        let stride = if self.group.equal { 1 } else { stride(total) };
        // More turns than there are endpoints in a row of unusable ones are not worth counting.
        for _ in 0..total.min(2 * self.group.members.len() as u64 + DRAWS_MAX as u64) {
            let turn = round.fetch_add(1, Relaxed) % total;
            let point = (u128::from(turn) * u128::from(stride) % u128::from(total)) as u64;
            let member = if self.group.equal { self.member(point as usize) } else { self.at(point) };
            if usable(member) && self.is_warm(member, chance) {
                return Some(member);
            }
        }
        self.any(usable, chance)
    }

    /// All of them, beginning anywhere.
    fn any(&self, usable: &impl Fn(&Member) -> bool, chance: &mut impl Rng) -> Option<&'a Member> {
        let count = self.group.members.len();
        let start = chance.random_range(0..count);
        (0..count).map(|step| self.member((start + step) % count)).find(|member| usable(member))
    }

    /// The endpoint whose share of the weights this point lies in.
    fn at(&self, point: u64) -> &'a Member {
        self.member(self.group.cumulative.partition_point(|sum| *sum <= point))
    }

    fn member(&self, at: usize) -> &'a Member {
        &self.table.endpoints[self.group.members[at] as usize]
    }

    /// A new endpoint lets the rest of its weight pass.
    fn is_warm(&self, member: &Member, chance: &mut impl Rng) -> bool {
        let Some(warmup) = self.warmup.filter(|_| member.state.since > 0) else { return true };
        let share = warmth(warmup, self.now.saturating_sub(member.state.since));
        share >= 1.0 || chance.random::<f64>() < share
    }
}

/// The share of its weight that an endpoint has after so many nanoseconds.
pub fn warmth(warmup: Warmup, age: u64) -> f64 {
    let passed = age as f64 / (warmup.duration.as_nanos().max(1) as f64);
    if passed >= 1.0 { 1.0 } else { passed.powf(warmup.aggression.recip()).max(warmup.minimum) }
}

/// A number without a common divisor with `total`, near its golden section: multiples of it are spread evenly.
pub fn stride(total: u64) -> u64 {
    let near = (total as f64 * 0.618_033_988_749_895) as u64;
    let coprime = |number: &u64| gcd(*number, total) == 1;
    (near.max(1)..total).find(coprime).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
