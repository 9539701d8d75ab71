//! Pure: one packet from the agent, with however many descriptors it brought, to the request that it is or the reason
//! why it is none.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use prost::Message;

use crate::messages::{AddWorkload, Payload, WorkloadInfo, WorkloadRequest};

/// What the agent asks of the daemon.
#[derive(Debug)]
pub enum Request {
    /// Serve this pod.
    Add(Add),
    /// Go on serving it, although no descriptor could be sent.
    Keep { uid: String },
    /// Stop serving it: at once (it is gone), or when its connections have ended (`drain`).
    Del { uid: String, drain: bool },
    /// All pods of this node have been named; what was not named is gone.
    SnapshotSent,
}

#[derive(Debug)]
pub struct Add {
    pub uid: String,
    pub workload: WorkloadInfo,
    /// What to mark sockets with in this pod; `None` from an agent that does not know the extension.
    pub mark: Option<u32>,
    /// The pod's rules are in force and capture what arrives in the clear, but for these ports; `None` while they are
    /// not, where they do not, or from an agent that does not say.
    pub captured: Option<Vec<RangeInclusive<u16>>>,
    pub netns: OwnedFd,
}

/// Why a packet is no request. The texts are what the agent gets to see after `failure to read message : `.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("the packet is longer than {} bytes", crate::RECEIVED_BYTES_MAX)]
    Truncated,
    #[error("not a WorkloadRequest: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("a request without payload")]
    NoPayload,
    #[error("add of {uid:?} without a network namespace descriptor")]
    NoDescriptor { uid: String },
    #[error("{count} descriptors came with one packet, at most one may")]
    ManyDescriptors { count: usize },
    #[error("a descriptor came with a request that carries none")]
    UnexpectedDescriptor,
    #[error("{request} without uid")]
    NoUid { request: &'static str },
    /// Unlike the others this ends the daemon's start (spec/dataplane.md 3.4).
    #[error("add of {uid:?} without workload_info")]
    NoWorkloadInfo { uid: String },
}

/// Descriptors that are not part of the answer are closed.
///
/// # Errors
/// [`Unreadable`].
pub fn parse(packet: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<Request, Unreadable> {
    if descriptors.len() > 1 {
        return Err(Unreadable::ManyDescriptors { count: descriptors.len() });
    }
    let descriptor = descriptors.pop();
    let payload = WorkloadRequest::decode(packet)?.payload.ok_or(Unreadable::NoPayload)?;
    let request = match payload {
        Payload::Add(add) => return self::add(add, descriptor),
        Payload::Keep(keep) => Request::Keep { uid: named("keep", keep.uid)? },
        Payload::Del(del) => Request::Del { uid: named("del", del.uid)?, drain: del.drain },
        Payload::SnapshotSent(_) => Request::SnapshotSent,
    };
    match descriptor {
        Some(_) => Err(Unreadable::UnexpectedDescriptor),
        None => Ok(request),
    }
}

fn add(add: AddWorkload, descriptor: Option<OwnedFd>) -> Result<Request, Unreadable> {
    let uid = named("add", add.uid)?;
    let Some(netns) = descriptor else { return Err(Unreadable::NoDescriptor { uid }) };
    let Some(workload) = add.workload_info else { return Err(Unreadable::NoWorkloadInfo { uid }) };
    let mark = (add.mark != 0).then_some(add.mark);
    let captured = add.captured.map(|captured| captured.ranges());
    Ok(Request::Add(Add { uid, workload, mark, captured, netns }))
}

fn named(request: &'static str, uid: String) -> Result<String, Unreadable> {
    if uid.is_empty() { Err(Unreadable::NoUid { request }) } else { Ok(uid) }
}

#[cfg(test)]
mod tests;
