//! Controllers of different generations: what an earlier one says must not undo what a later one said (F-22).
//!
//! The generation travels in `system_version_info` as `isthmus/EPOCH/VERSION`. What reads otherwise comes from another
//! kind of controller, which has no generations.

use std::time::Duration;

use tokio::time::Instant;

/// How long a generation is remembered after we last heard from it. Longer than any lease, so that a leader that was
/// cut off is found out; short enough that a mesh whose counter was set back by hand recovers by itself.
const MEMORY: Duration = Duration::from_secs(300);

/// The latest generation that we heard from.
#[derive(Debug, Default)]
pub struct Epochs {
    latest: Option<(u64, Instant)>,
}

/// The controller is of an earlier generation than one that we heard from lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller is of generation {theirs}, but generation {latest} was heard from; what it says is not taken")]
pub struct Outdated {
    pub theirs: u64,
    pub latest: u64,
}

pub fn system_version(epoch: u64, version: u64) -> String {
    format!("isthmus/{epoch}/{version}")
}

impl Epochs {
    pub fn admit(&mut self, system_version_info: &str, now: Instant) -> Result<(), Outdated> {
        let Some(theirs) = epoch_of(system_version_info) else { return Ok(()) };
        match self.latest {
            Some((latest, heard)) if theirs < latest && now.saturating_duration_since(heard) < MEMORY => {
                Err(Outdated { theirs, latest })
            }
            _ => {
                self.latest = Some((theirs, now));
                Ok(())
            }
        }
    }
}

fn epoch_of(system_version_info: &str) -> Option<u64> {
    let (epoch, _version) = system_version_info.strip_prefix("isthmus/")?.split_once('/')?;
    epoch.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-22
    #[tokio::test(start_paused = true)]
    async fn an_earlier_generation_is_refused_while_the_later_one_is_remembered() {
        let mut epochs = Epochs::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let table = [
            (system_version(3, 7), 0, true),
            (system_version(3, 1), 1, true), // another replica of the same generation may lag
            (system_version(2, 99), 2, false),
            ("2026-01-01T00:00:00Z/5".to_owned(), 3, true), // another kind of controller
            (system_version(5, 0), 4, true),
            (system_version(3, 8), 5, false),
            (system_version(3, 8), 303, false),
            (system_version(3, 8), 304, true), // forgotten
            (system_version(3, 9), 305, true),
        ];
        for (info, second, expected) in table {
            assert_eq!(epochs.admit(&info, at(second)).is_ok(), expected, "{info} at {second}");
        }
    }
}
