//! Who may talk to whom: the whole authorization logic, as data in, data out.
//!
//! Read `policy` (what an operator wrote), `flow` (what is asked), `decide` (the five steps), `verdict` (the answer
//! and its reason). `set` holds the policies in force as an immutable snapshot. Not here: sockets, clocks, protobuf,
//! the watching of live connections. `request` is the same for those who see requests.

pub mod policy;
pub mod flow;
pub mod matchers;
pub mod set;
pub mod verdict;
pub mod decide;
pub mod request;

pub use decide::decide;
pub use flow::Flow;
pub use policy::{Action, Entry, Group, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};
pub use set::{Affected, PolicySet};
pub use verdict::{Because, DryRunNote, Verdict};

#[cfg(test)]
pub(crate) mod tests;
