//! Enrols pods: rules in their network namespaces, and the socket that tells the daemon.
//!
//! Not here: what a certificate or a policy is. This program holds no key and moves no byte of a user.
//!
//! Pure: [`pod`] (annotations to scope), [`redirect`] (scope to ruleset), [`machine`] (the same for a machine), [`host`],
//! [`sockets`], [`netlink`]'s messages, [`kubernetes::decide`] (who is to be in the mesh), [`plugin::call`] (what the
//! container runtime asks), [`conflist`].
//! The rest does what they say: [`apply`] in a namespace, [`life`] for one pod, [`agent`] for all pods of a node, which
//! come from a [`folder`] or from [`kubernetes`].

pub mod podfile;
pub mod status;
pub mod pod;
pub mod redirect;
pub mod sockets;
pub mod host;
pub mod machine;
pub mod netlink;
pub mod apply;
pub mod rules;
pub mod metrics;
pub mod watch;
pub mod report;
pub mod life;
pub mod lives;
pub mod folder;
pub mod kubernetes;
pub mod agent;
pub mod plugin;
pub mod conflist;
pub mod install;
pub mod cleanup;
