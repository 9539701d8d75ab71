//! The messages of package `istio.workload.zds` (spec/dataplane.md 3.2). Fields from 100 on are ours: a peer that does
//! not know them ignores them.

use std::ops::RangeInclusive;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Version {
    NotUsed = 0,
    V1 = 1,
}

/// The daemon's first packet, sent bare.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ZdsHello {
    #[prost(enumeration = "Version", tag = "1")]
    pub version: i32,
    /// The daemon marks its sockets with the mark that comes with each pod, not with 0x539.
    #[prost(bool, tag = "100")]
    pub random_mark: bool,
}

/// Who the pod is. Field 4 was the trust domain and is reserved.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WorkloadInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub service_account: String,
}

/// This pod is yours; its network namespace comes along as the packet's one descriptor.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AddWorkload {
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(message, optional, tag = "2")]
    pub workload_info: Option<WorkloadInfo>,
    /// What exempts the daemon's packets from capture in this pod; 0 when the daemon did not ask for it.
    #[prost(uint32, tag = "100")]
    pub mark: u32,
    /// The pod's rules are in force, and what arrives in the clear is captured: connections that are older than the rules
    /// are the daemon's to judge.
    #[prost(message, optional, tag = "101")]
    pub captured: Option<CapturedInbound>,
}

/// What arrives at a pod in the clear is captured, but for these ports.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CapturedInbound {
    /// Ranges, both ends included: the first port in the upper half, the last in the lower.
    #[prost(fixed32, repeated, tag = "1")]
    pub spared: Vec<u32>,
}

impl CapturedInbound {
    pub fn except(spared: &[RangeInclusive<u16>]) -> CapturedInbound {
        let packed = |range: &RangeInclusive<u16>| u32::from(*range.start()) << 16 | u32::from(*range.end());
        CapturedInbound { spared: spared.iter().map(packed).collect() }
    }

    /// A range whose ends are the wrong way round spares nothing.
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        self.spared.iter().map(|packed| (packed >> 16) as u16..=*packed as u16).collect()
    }
}

/// This pod still is yours, though its namespace could not be opened again.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct KeepWorkload {
    #[prost(string, tag = "1")]
    pub uid: String,
}

/// This pod is no longer yours. (Its uid has number 2.)
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DelWorkload {
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The pod lives on without the mesh: let its connections end by themselves.
    #[prost(bool, tag = "100")]
    pub drain: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotSent {}

/// The answer to every request. An empty error is a yes.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Ack {
    #[prost(string, tag = "1")]
    pub error: String,
}

/// From the agent.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WorkloadRequest {
    #[prost(oneof = "Payload", tags = "1, 2, 3, 5")]
    pub payload: Option<Payload>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum Payload {
    #[prost(message, tag = "1")]
    Add(AddWorkload),
    #[prost(message, tag = "2")]
    Del(DelWorkload),
    #[prost(message, tag = "3")]
    SnapshotSent(SnapshotSent),
    #[prost(message, tag = "5")]
    Keep(KeepWorkload),
}

/// From the daemon.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WorkloadResponse {
    #[prost(oneof = "Answer", tags = "1")]
    pub payload: Option<Answer>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum Answer {
    #[prost(message, tag = "1")]
    Ack(Ack),
}
