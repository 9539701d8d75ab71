//! The randomness of a node: one seeded source, so that a simulated run can be played again.

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

#[derive(Debug)]
pub struct Chance(Mutex<SmallRng>);

impl Chance {
    /// From the machine's own randomness.
    pub fn from_machine() -> Chance {
        Chance(Mutex::new(SmallRng::from_os_rng()))
    }

    /// The same every time.
    pub fn seeded(seed: u64) -> Chance {
        Chance(Mutex::new(SmallRng::seed_from_u64(seed)))
    }

    /// The next number. Not for secrets.
    pub fn next(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// The next two numbers as one.
    pub fn next_u128(&self) -> u128 {
        let mut rng = self.0.lock();
        (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64())
    }
}
