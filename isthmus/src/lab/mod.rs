//! The I/O of `up`: namespaces, cables, pods and programs on this machine. What is to be built is decided in `plan`.

pub mod netns;
pub mod node;
pub mod pod;
pub mod inside;
pub mod state;
pub mod process;
pub mod clean;
pub mod machine;
pub mod supervise;
pub mod waypoints;
pub mod bin;
pub mod etc;
pub mod fate;
pub mod member;
pub mod desk;
pub mod keep;
