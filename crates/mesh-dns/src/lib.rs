//! Names that only name servers know: how they are asked, what an answer means, and for how long it is used.
//!
//! ```text
//!  resolv.conf, hosts ─▶ Names::resolve ─▶ held: what is known, is it still good? ─▶ ask: the servers, in turn ─▶ lookup: what they say
//! ```
//!
//! Not here: names of the mesh, which the directory knows, and answering questions of pods (`ztunnel/src/dns`).

pub mod ask;
pub mod held;
pub mod hosts;
pub mod lookup;
pub mod names;
pub mod resolv;

pub use ask::{Transport, Upstream};
pub use names::{Names, Sources, Unresolved};
pub use resolv::Resolv;
