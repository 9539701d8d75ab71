//! The mesh's own programs as `up` starts them: which, where, with what environment and privileges.

pub mod agent;
pub mod token;
pub mod ask;

use std::path::{Path, PathBuf};

use crate::lab::keep::Bin;
use crate::lab::state::State;
use crate::lab::supervise::ProgramSpec;
use crate::plan::Machine;

/// The socket on which a node's agent tells its daemon of pods.
pub fn zds_socket(run: &Path, node: &str) -> PathBuf {
    run.join("nodes").join(node).join("zds.sock")
}

/// The key that signs every certificate.
pub fn ca_key(run: &Path) -> PathBuf {
    run.join("ca").join("ca-key.pem")
}

pub fn programs(_machine: &Machine, _state: &State, _bin: &Bin, _tokens: &token::Tokens) -> anyhow::Result<Vec<ProgramSpec>> {
    Ok(Vec::new())
}
