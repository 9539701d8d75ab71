//! When an endpoint is taken out, for how long, and how it comes back (spec/waypoint.md 5.5).
//!
//! ```text
//!            enough failures in a row              its time is over            one request, which succeeds
//!  In ──────────────────────────────▶ Out ──────────────────────────▶ Probe ──────────────────────────────▶ In
//!                                      ▲                                │  which fails
//!                                      └────────────────────────────────┘
//! ```

use std::time::Duration;

use crate::choose::outcome::{Failure, Outcome};
use crate::choose::policy::Outlier;

/// Longest ejection, unless the first is to be longer (the field's).
const EJECTION_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    In = 0,
    Out = 1,
    /// Its time is over: the next request tries it.
    Probe = 2,
    /// That request is under way; others go elsewhere.
    Probed = 3,
}

/// What an outcome says to each detector: `Some(true)` is a failure, `Some(false)` ends a row of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    pub server: Option<bool>,
    pub gateway: Option<bool>,
    pub local: Option<bool>,
}

/// Failures in a row, for each detector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub server: u32,
    pub gateway: u32,
    pub local: u32,
}

pub fn marks(outlier: &Outlier, outcome: &Outcome) -> Marks {
    if outlier.of_connections {
        return Marks { server: None, gateway: None, local: Some(*outcome == Outcome::Failed(Failure::Connect)) };
    }
    if matches!(outcome, Outcome::Failed(_)) && outlier.consecutive_local_failures.is_some() {
        return Marks { server: None, gateway: None, local: Some(true) };
    }
    let status = match outcome {
        Outcome::Failed(Failure::AttemptTimeout) => 504,
        Outcome::Failed(_) => 503,
        Outcome::Answered { .. } => outcome.status().expect("an answer has a status"),
    };
    let counts = outlier.codes.is_empty() || outlier.codes.contains(&status);
    let server = counts && (!outlier.codes.is_empty() || (500..=599).contains(&status));
    let gateway = counts && matches!(status, 502..=504);
    Marks { server: Some(server), gateway: Some(gateway), local: Some(false) }
}

impl Marks {
    pub fn all_good(self) -> bool {
        ![self.server, self.gateway, self.local].contains(&Some(true))
    }
}

impl Rows {
    #[must_use]
    pub fn after(self, marks: Marks) -> Rows {
        let next = |row: u32, mark: Option<bool>| match mark {
            Some(true) => row.saturating_add(1),
            Some(false) => 0,
            None => row,
        };
        Rows { server: next(self.server, marks.server), gateway: next(self.gateway, marks.gateway), local: next(self.local, marks.local) }
    }

    /// Whether one of the rows is long enough.
    pub fn suffice(self, outlier: &Outlier) -> bool {
        let long = |row: u32, bound: u32| bound > 0 && row >= bound;
        long(self.server, outlier.consecutive_5xx)
            || long(self.gateway, outlier.consecutive_gateway_errors)
            || long(self.local, outlier.consecutive_local_failures.unwrap_or(0))
    }
}

/// Whether one more may go: one always may.
pub fn may_eject(outlier: &Outlier, ejected: usize, endpoints: usize) -> bool {
    // Some room for the error of a percentage of hundredths.
    let bound = (endpoints as f64 * outlier.ejected_share_max + 1e-9) as usize;
    ejected < bound.max(1)
}

/// The `nth` ejection of an endpoint, counted from 1.
pub fn duration(outlier: &Outlier, nth: u32) -> Duration {
    let nth = if outlier.of_connections { 1 } else { nth };
    outlier.ejection.saturating_mul(nth.max(1)).min(EJECTION_MAX.max(outlier.ejection))
}

impl Standing {
    pub fn of(number: u8) -> Standing {
        match number {
            1 => Standing::Out,
            2 => Standing::Probe,
            3 => Standing::Probed,
            _ => Standing::In,
        }
    }
}

#[cfg(test)]
mod tests;
