//! Delta xDS: the messages, both conversions, both ends.
//!
//! Read `world` first: what readers see. Then `wire` (message <-> noun), `delta` and `client` (how a node learns),
//! `catalog`, `push` and `server` (how a controller tells). `delta` and `push` are pure; `client` and `server` are the
//! pages that do I/O. Protobuf types do not leave this crate but through `messages`.

pub mod world;
pub mod messages;
pub mod wire;
pub mod delta;
pub mod client;
pub mod catalog;
pub mod claim;
pub mod push;
pub mod server;
mod epoch;
mod recent;
#[cfg(test)]
mod testing;

pub use catalog::{Catalog, CatalogWriter, Offer, Update, catalog};
pub use claim::{Account, Scope};
pub use client::{Client, ClientConfig, ClientLimits, Contact, Demand, Observe, Termination};
pub use push::Rejection;
pub use server::{Ads, Authenticate, ClientStatus, Measure, Sent, ServerCounters, ServerLimits};
pub use world::{Edit, Follower, News, Synced, World, WorldWriter, world};
