//! What goes where, from what the nodes' daemons tell: counters (`metrics`, `traffic`), open connections
//! (`connections`), and the two ways of showing them.

pub mod metrics;
pub mod traffic;
pub mod connections;
pub mod refusals;
pub mod verdicts;
pub mod fit;
pub mod live;
