//! Enrols pods: rules in their network namespaces, and the socket that tells the daemon.
//!
//! Not here: what a certificate or a policy is. This program holds no key and moves no byte of a user.

pub mod podfile;
pub mod status;
