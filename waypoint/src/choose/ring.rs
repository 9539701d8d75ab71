//! Consistent hashing: a key keeps its endpoint while others come and go (spec/waypoint.md 5.6).
//!
//! What a table is made of is a hash of each endpoint's id alone, in the order of these hashes: every replica makes the
//! same table, whatever the order in which it heard of the endpoints.

use std::hash::Hasher;

/// Entries of a ring: 16 MiB.
pub const RING_MAX: usize = 1 << 20;
/// The field's greatest table: 20 MiB.
pub const MAGLEV_TABLE_MAX: usize = 5_000_011;
/// Entries of an endpoint of weight 1 are the ring's least size divided by this. Not by the number of endpoints: then
/// a change of one would change the entries of all.
const ENDPOINTS_OF_A_FULL_RING: usize = 8;
/// Weights beyond are scaled down to it.
const WEIGHT_MAX: u64 = 8;

/// Endpoints are positions in the list that the table was made of.
#[derive(Clone, Debug)]
pub enum Ring {
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

/// A hash that is the same at every replica, in every version and on every machine (FNV-1a, then mixed so that all bits count).
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325 ^ mix(seed));
    hasher.write(bytes);
    mix(hasher.finish())
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The finalizer of SplitMix64: each bit of the input flips half of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Ring {
    /// `endpoints`: the hash of each one's id, and its weight.
    pub fn of_entries(endpoints: &[(u64, u32)], least_entries: usize) -> Ring {
        let heaviest = u64::from(endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1)).max(1);
        let of_one = (least_entries / ENDPOINTS_OF_A_FULL_RING).max(1);
        let scaled = |weight: u32| match u64::from(weight) {
            weight if heaviest <= WEIGHT_MAX => weight,
            weight => (weight * WEIGHT_MAX).div_ceil(heaviest),
        };
        let total: u64 = endpoints.iter().map(|(_, weight)| scaled(*weight)).sum();
        // A service so large that the ring would be: fewer entries each, by halves, so that most services never see it.
        let mut of_one = of_one as u64;
        while of_one > 1 && of_one * total > RING_MAX as u64 {
            of_one /= 2;
        }
        let mut entries = Vec::new();
        for (at, (id, weight)) in endpoints.iter().enumerate() {
            for entry in 0..of_one * scaled(*weight) {
                entries.push((mix(id ^ mix(entry + 1)), at as u32));
            }
        }
        // Two entries at one place: the endpoint of the smaller hash, at every replica.
        entries.sort_unstable_by_key(|(place, at)| (*place, endpoints[*at as usize].0));
        Ring::Ring(entries)
    }

    /// Eisenbud et al., Maglev, NSDI 2016, 3.4. `size` is a prime.
    pub fn maglev(endpoints: &[(u64, u32)], size: usize) -> Ring {
        const FREE: u32 = u32::MAX;
        let mut order: Vec<usize> = (0..endpoints.len()).filter(|at| endpoints[*at].1 > 0).collect();
        order.sort_unstable_by_key(|at| endpoints[*at].0);
        if order.is_empty() || size < 2 {
            return Ring::Maglev(Vec::new());
        }
        let heaviest = f64::from(endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1));
        let walk = |at: &usize| {
            let id = endpoints[*at].0;
            (mix(id ^ 1) as usize % size, mix(id ^ 2) as usize % (size - 1) + 1)
        };
        let mut walks: Vec<(usize, usize)> = order.iter().map(walk).collect();
        let mut turns = vec![0.0; order.len()];
        let mut table = vec![FREE; size];
        let mut filled = 0;
        'fill: loop {
            for (nth, at) in order.iter().enumerate() {
                // The heaviest has a turn in every round, others in proportion.
                turns[nth] += f64::from(endpoints[*at].1) / heaviest;
                if turns[nth] < 1.0 {
                    continue;
                }
                turns[nth] -= 1.0;
                let (place, step) = &mut walks[nth];
                while table[*place] != FREE {
                    *place = (*place + *step) % size;
                }
                table[*place] = *at as u32;
                filled += 1;
                if filled == size {
                    break 'fill;
                }
            }
        }
        Ring::Maglev(table)
    }

    /// The endpoints for a key, the first choice first; the same one may come again.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let (entries, length) = match self {
            Ring::Ring(entries) => (entries.partition_point(|(place, _)| *place < key), entries.len()),
            Ring::Maglev(table) => ((key % table.len().max(1) as u64) as usize, table.len()),
        };
        (0..length).map(move |step| match self {
            Ring::Ring(ring) => ring[(entries + step) % length].1 as usize,
            // Neighbours of a table are strangers: the next choice is another hash of the key.
            Ring::Maglev(table) if step == 0 => table[entries] as usize,
            Ring::Maglev(table) => table[(mix(key ^ step as u64) % length as u64) as usize] as usize,
        })
    }
}

pub fn is_prime(number: usize) -> bool {
    number > 1 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

#[cfg(test)]
mod tests;
