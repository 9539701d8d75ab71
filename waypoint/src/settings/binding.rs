//! Pure: whether a port of a service is served here. Nodes and this proxy hear of a binding at nearly the same time, so
//! either may be the first (spec/waypoint.md 11 row 24): what may be bound in a moment is waited for, what was bound until
//! a moment ago is served as it was then.
//!
//! | bound | unbound since `PARTING` | the directory has the port | |
//! |---|---|---|---|
//! | yes | | | `Bound` |
//! | no | yes | yes | `Parting`: with the settings of then, policies and all |
//! | no | no | yes | `Expected` |
//! | no | | no | `No`: a service that is gone is nobody's |

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::address::NamespacedHostname;
use mesh_model::directory::Directory;

use super::{ServiceView, Settings};

/// How long a tunnel waits for the settings of its service: ten times what a controller takes to tell all its clients of a
/// change, and less than it takes a person to wonder.
pub const EXPECTED_MAX: Duration = Duration::from_millis(500);
/// How long a service is served after it was unbound: nodes that lost the controller for a moment have heard of it then.
pub const PARTING: Duration = Duration::from_secs(5);

/// A port that is bound no longer.
#[derive(Clone, Debug)]
pub struct Parting {
    /// The last settings in which it was, without partings of their own.
    pub before: Arc<Settings>,
    pub until: Instant,
}

/// How a port of a service stands.
#[derive(Clone, Copy, Debug)]
pub enum Binding<'s> {
    Bound(&'s Arc<ServiceView>),
    /// It is to be judged by these settings, and by nothing newer.
    Parting(&'s Arc<Settings>, &'s Arc<ServiceView>),
    /// Not bound, and may be in a moment.
    Expected,
    No,
}

impl Binding<'_> {
    pub fn is_served(&self) -> bool {
        matches!(self, Binding::Bound(_) | Binding::Parting(..))
    }
}

impl Settings {
    pub fn binding(&self, directory: &Directory, host: &NamespacedHostname, port: u16, now: Instant) -> Binding<'_> {
        if let Some(view) = self.service(host, port) {
            return Binding::Bound(view);
        }
        if !directory.service(host).is_some_and(|service| service.ports.contains_key(&port)) {
            return Binding::No;
        }
        match self.parting.get(&(host.clone(), port)).filter(|parting| now < parting.until) {
            Some(parting) => match parting.before.service(host, port) {
                Some(view) => Binding::Parting(&parting.before, view),
                None => Binding::Expected,
            },
            None => Binding::Expected,
        }
    }
}

#[cfg(test)]
mod tests;
