//! The operator's command: the mesh on one machine, and looking at one, here or on a cluster.
//!
//! ```text
//! folder of YAML -> objects -> plan -> lab (namespaces, pods)      nothing here decides who may talk to whom,
//!                                  \-> mesh (ztunnel, istiod-lite, mesh-cni as processes beside this one)
//! ```
//!
//! Not here: the data plane and the controller. They are programs of their own, started and asked, never linked.

pub mod cli;
pub mod objects;
pub mod folder;
pub mod plan;
pub mod rules;
pub mod published;
pub mod lab;
pub mod mesh;
pub mod up;
pub mod down;
pub mod exec;
pub mod site;
pub mod cluster;
pub mod report;
pub mod status;
pub mod check;
pub mod policy;
pub mod why;
pub mod waypoint;
pub mod selftest;
pub mod view;
pub mod sample;
pub mod shop;
pub mod tour;
pub mod say;
