//! Rules and agent in real network namespaces. As root; without the right to make namespaces each test says SKIPPED.
#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

mod agent;
mod api;
mod capture;
mod cluster;
mod plugin;
mod world;
