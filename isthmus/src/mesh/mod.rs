//! The mesh's own programs as `up` starts them: which, where, with what environment and privileges.

pub mod agent;
pub mod token;

use crate::lab::keep::Bin;
use crate::lab::state::State;
use crate::lab::supervise::ProgramSpec;
use crate::plan::Machine;

pub fn programs(_machine: &Machine, _state: &State, _bin: &Bin, _tokens: &token::Tokens) -> anyhow::Result<Vec<ProgramSpec>> {
    Ok(Vec::new())
}
