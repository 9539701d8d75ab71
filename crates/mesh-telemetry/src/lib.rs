//! What the mesh tells about itself: metric families and their labels, the recorder that keeps them, the access log and
//! the daemon's own log.
//!
//! Not here: who is allowed and where a connection goes. This crate is told, it never asks.

pub mod recorder;
pub mod families;
pub mod labels;
pub mod traffic;
pub mod process;
pub mod time;
pub mod lines;
pub mod access_log;
pub mod levels;
pub mod log;

pub use access_log::AccessLog;
pub use families::Family;
pub use lines::Lines;
pub use recorder::Recorder;
pub use traffic::{Handles, Subject, Traffic};
