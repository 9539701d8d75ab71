//! `GET /why?from=&to=`: a decision made again and told, from the books that the daemon decides by. Data in, data out.
//!
//! The same `resolve` and the same policy as for a real connection, so what is said here is what the node does. Chance is
//! an argument: another seed may pick another endpoint, and all that may be picked are listed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::balance::{self, Purpose, Unfit};
use mesh_model::directory::{Addressed, Directory};
use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::{TunnelProtocol, Workload};
use mesh_policy::{Flow, PolicySet, Verdict, decide};
use serde::Serialize;

use crate::admit::{Admission, Arrival, Host, admit, admit_plaintext};
use crate::error::{Refusal, Words};
use crate::resolve::{Ask, Hop, Known, Need, Passage, Path, Resolution, Via, resolve};

/// What the caller of `/why` asked, and what the daemon is.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// A workload: its uid, `namespace/name`, its name alone if there is one of it, or an address (of nobody, too: a
    /// caller outside the mesh).
    pub from: &'a str,
    /// `HOST:PORT`; the host is an address, a hostname as the caller would write it, `namespace/hostname` or the
    /// `namespace/name` of a workload.
    pub to: &'a str,
    pub network: &'a Arc<str>,
    pub own_ports: &'a [u16],
    /// `cluster.local` unless set otherwise.
    pub cluster_domain: &'a str,
    pub complete: bool,
}

/// The question could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}={value}: {why}")]
pub struct Unclear {
    pub field: &'static str,
    pub value: String,
    pub why: String,
}

/// The decision, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// In one sentence.
    pub answer: String,
    pub from: FromSaid,
    pub to: ToSaid,
    /// What the caller's node decides; absent for a caller outside the mesh, whose node is not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<ResolveSaid>,
    /// The members of the service with what speaks for or against each; empty when no endpoint is chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointSaid>,
    /// Why the destination's node does not even ask policy; absent when it takes the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admit: Option<ReasonSaid>,
    /// What policy says at the destination's node, as far as this node knows; absent where there is nobody who judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicySaid>,
    /// What the other parts leave open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FromSaid {
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToSaid {
    pub address: String,
    /// `service NAMESPACE/HOSTNAME`, `workload UID` or `unknown`.
    pub stands_for: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolveSaid {
    /// `hop`, `need` or `refused`.
    pub outcome: &'static str,
    pub because: String,
    /// Where TCP goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `tunnel` or `plain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<&'static str>,
    /// What the far end of the tunnel is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Whom the far end must prove to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonSaid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSaid {
    pub workload: String,
    /// `fit`, or what is against it.
    pub judgement: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Only endpoints of the highest rank are taken, by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySaid {
    /// The workload whose node judges, and the destination that it judges.
    pub judge: String,
    pub destination: String,
    pub allowed: bool,
    pub because: String,
    /// The reason code of the refusal, or why it is allowed.
    pub code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonSaid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonSaid {
    pub code: &'static str,
    pub stage: &'static str,
    pub sentence: &'static str,
    pub advice: &'static str,
}

/// Decides again, and tells.
pub fn why(directory: &Directory, policies: &PolicySet, question: &Question<'_>, seed: u64) -> Result<Explanation, Unclear> {
    let (source, peer) = caller(directory, question)?;
    let client_namespace = source.map(|source| &*source.namespace);
    let to = destination(directory, question, client_namespace, peer)?;
    let mut told = Explanation {
        answer: String::new(),
        from: from_said(source, peer),
        to: to_said(directory, question.network, to, client_namespace),
        resolve: None,
        endpoints: Vec::new(),
        admit: None,
        policy: None,
        notes: Vec::new(),
    };
    match source.filter(|source| is_enrolled(source)) {
        Some(source) => tell_inside(directory, policies, question, source, to, seed, &mut told),
        None => tell_outside(directory, policies, question, peer, to, &mut told),
    }
    Ok(told)
}

/// Only what a pod of the mesh sends is captured; another may be known to the control plane all the same.
fn is_enrolled(workload: &Workload) -> bool {
    workload.tunnel_protocol == TunnelProtocol::Hbone
}

/// A caller in the mesh: its own node resolves, the destination's node judges.
fn tell_inside(
    directory: &Directory,
    policies: &PolicySet,
    question: &Question<'_>,
    source: &Arc<Workload>,
    to: SocketAddr,
    seed: u64,
    told: &mut Explanation,
) {
    let ask = Ask { source, to, network: question.network, own_ports: question.own_ports, complete: question.complete };
    let resolution = resolve(directory, &ask, &Known::default(), seed);
    told.endpoints = endpoints(directory, question.network, source, to, &resolution);
    told.answer = match &resolution {
        Err(refusal) => format!("refused by the caller's node: {refusal}"),
        Ok(Resolution::Need(need)) => format!("open until something was fetched: {}", need_said(need)),
        Ok(Resolution::Hop(hop)) => judge(directory, policies, question, source, to, hop, told),
    };
    told.resolve = Some(resolve_said(&resolution));
}

/// A caller outside the mesh: nothing is captured there, and what arrives in the clear is judged without an identity.
fn tell_outside(
    directory: &Directory,
    policies: &PolicySet,
    question: &Question<'_>,
    peer: IpAddr,
    to: SocketAddr,
    told: &mut Explanation,
) {
    let address = NetworkAddress { network: question.network.clone(), ip: to.ip() };
    let service = directory.service_at(&address, None);
    let Some((target, port)) = judge_for_outsiders(directory, &address, service, to.port()) else {
        told.answer = "the mesh has no part in it: neither the caller nor the destination is a pod of it".into();
        return;
    };
    told.notes.push("The caller is not in the mesh: it arrives in the clear and without an identity.".into());
    if let Some(service) = service {
        told.notes.push(format!("The cluster itself picks an endpoint of {}; {} is one of them.", service.key(), target.uid));
    }
    let ip = target.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).or(target.addresses.first()).copied();
    let at = SocketAddr::new(ip.unwrap_or(to.ip()), port);
    let verdict = decide(policies, target, &Flow::new(peer, None, at));
    told.answer = verdict_said(&verdict, "in the clear");
    told.policy = Some(policy_said(target, at, &verdict));
}

/// The pod of the mesh that judges what arrives in the clear: the one at the address, or an endpoint of the service there.
fn judge_for_outsiders<'d>(
    directory: &'d Directory,
    address: &NetworkAddress,
    service: Option<&'d Arc<Service>>,
    port: u16,
) -> Option<(&'d Arc<Workload>, u16)> {
    if let Some(workload) = directory.workload_at(address).filter(|workload| is_enrolled(workload)) {
        return Some((workload, port));
    }
    let service = service?;
    let endpoints = directory.endpoints(service).filter(|endpoint| is_enrolled(endpoint));
    endpoints.filter_map(|one| Some((one, balance::target_port(service, one, port, Purpose::Traffic)?))).next()
}

/// Asks the far end of the hop, where that is a node of the mesh: does it take the connection, and does policy allow it?
/// Gives the answer in one sentence.
fn judge(
    directory: &Directory,
    policies: &PolicySet,
    question: &Question<'_>,
    source: &Arc<Workload>,
    to: SocketAddr,
    hop: &Hop,
    told: &mut Explanation,
) -> String {
    let (how, identity) = match &hop.via {
        Via::Tunnel(_) => ("in a tunnel", Some(source.identity())),
        Via::Plain(_) => ("in the clear", None),
    };
    let target = match (hop.path, &hop.destination) {
        (Path::ServiceWaypoint | Path::WorkloadWaypoint, _) => {
            told.notes
                .push("The waypoint decides about requests; behind it the destination sees the waypoint's identity.".into());
            return format!("goes to the waypoint at {} {how}", hop.address());
        }
        (Path::Passthrough | Path::Unknown, _) | (Path::Direct, None) => {
            return format!("goes to {to} {how}, as if there were no mesh");
        }
        (Path::Direct, Some(target)) => target,
    };
    let like = |ip: &&IpAddr| ip.is_ipv4() == hop.address().is_ipv4();
    let peer = source.addresses.iter().find(like).or(source.addresses.first()).copied().unwrap_or(to.ip());
    let admission = match admission(directory, question, target, peer, identity.as_ref(), hop) {
        Ok(admission) => admission,
        Err(refusal) => {
            told.admit = Some(reason_said(&refusal));
            return format!("refused by the destination's node, {how}: {refusal}");
        }
    };
    if matches!(hop.via, Via::Plain(_)) {
        told.notes.push("The destination takes no tunnels; where its pod is not enrolled, nobody judges.".into());
    }
    let verdict = decide(policies, target, &Flow::new(peer, identity, admission.judged));
    told.policy = Some(policy_said(target, admission.judged, &verdict));
    verdict_said(&verdict, how)
}

/// What the destination's node makes of the connection, before it asks policy.
fn admission(
    directory: &Directory,
    question: &Question<'_>,
    target: &Arc<Workload>,
    peer: IpAddr,
    identity: Option<&SpiffeId>,
    hop: &Hop,
) -> Result<Admission, Refusal> {
    let host = Host { me: target, network: &target.network, own_ports: question.own_ports, tunnel_over_loopback: true, only_port: None };
    // The port that the caller's kernel will choose plays no part in any decision.
    let peer = SocketAddr::new(peer, 0);
    match &hop.via {
        Via::Plain(address) => admit_plaintext(directory, &host, peer, *address),
        Via::Tunnel(Passage { address, authority, .. }) => {
            let forwarded_host = hop.service.as_ref().map(|service| &*service.hostname);
            let arrival = Arrival { local: address.ip(), peer, identity, authority, forwarded_host, from_network: None };
            admit(directory, &host, &arrival)
        }
    }
}

// --- who is asked about

/// The caller as a workload, and its address.
fn caller<'d>(directory: &'d Directory, question: &Question<'_>) -> Result<(Option<&'d Arc<Workload>>, IpAddr), Unclear> {
    let unclear = |why: &str| Unclear { field: "from", value: question.from.to_owned(), why: why.to_owned() };
    if let Ok(ip) = question.from.parse::<IpAddr>() {
        let address = NetworkAddress { network: question.network.clone(), ip: ip.to_canonical() };
        return Ok((directory.workload_at(&address), ip.to_canonical()));
    }
    let workload = workload_called(directory, question.from).map_err(|why| unclear(&why))?;
    let ip = workload.addresses.first().ok_or_else(|| unclear("this workload has no address, so it calls nobody"))?;
    Ok((Some(workload), *ip))
}

/// A workload by its uid, `namespace/name`, or its name alone where that is enough.
fn workload_called<'d>(directory: &'d Directory, name: &str) -> Result<&'d Arc<Workload>, String> {
    if let Some(workload) = directory.workload(&mesh_model::workload::Uid::new(name)) {
        return Ok(workload);
    }
    let called = |workload: &&Arc<Workload>| match name.split_once('/') {
        Some((namespace, name)) => *workload.namespace == *namespace && *workload.name == *name,
        None => *workload.name == *name,
    };
    let mut found = directory.workloads().filter(called);
    match (found.next(), found.next()) {
        (Some(workload), None) => Ok(workload),
        (Some(_), Some(_)) => Err("several workloads are called so; say NAMESPACE/NAME or an address".into()),
        (None, _) => Err("no workload is called so; say NAMESPACE/NAME, a uid or an address".into()),
    }
}

/// The address that the caller would connect to, as its DNS would answer.
fn destination(
    directory: &Directory,
    question: &Question<'_>,
    client_namespace: Option<&str>,
    peer: IpAddr,
) -> Result<SocketAddr, Unclear> {
    let unclear = |why: String| Unclear { field: "to", value: question.to.to_owned(), why };
    if let Ok(address) = question.to.parse::<SocketAddr>() {
        return Ok(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    let (host, port) = question.to.rsplit_once(':').ok_or_else(|| unclear("say HOST:PORT".into()))?;
    let port = port.parse::<u16>().map_err(|_| unclear("the port is not a number from 0 to 65535".into()))?;
    let like = |ip: IpAddr| ip.is_ipv4() == peer.is_ipv4();
    if let Some(service) = service_called(directory, host, client_namespace, question.cluster_domain) {
        let own = || service.vips.iter().filter(|vip| vip.network == *question.network).map(|vip| vip.ip);
        let headless = || directory.endpoints(service).flat_map(|endpoint| endpoint.addresses.clone());
        let ip = own().find(|ip| like(*ip)).or_else(|| own().next());
        let ip = ip.or_else(|| headless().find(|ip| like(*ip))).or_else(|| headless().next());
        let ip = ip.ok_or_else(|| unclear("the service has no address in this network and no endpoint".into()))?;
        return Ok(SocketAddr::new(ip, port));
    }
    let workload = workload_called(directory, host).map_err(|_| unclear("no service or workload is called so".into()))?;
    let ips = || workload.addresses.iter().copied();
    let ip = ips().find(|ip| like(*ip)).or_else(|| ips().next());
    Ok(SocketAddr::new(ip.ok_or_else(|| unclear("this workload has no address".into()))?, port))
}

/// A service by `namespace/hostname`, by hostname, or by the short forms that DNS completes.
fn service_called<'d>(
    directory: &'d Directory,
    host: &str,
    client_namespace: Option<&str>,
    domain: &str,
) -> Option<&'d Arc<Service>> {
    if let Some(service) = NamespacedHostname::parse(host).and_then(|key| directory.service(&key)) {
        return Some(service);
    }
    let mut names = vec![host.to_owned(), format!("{host}.svc.{domain}"), format!("{host}.{domain}")];
    names.extend(client_namespace.map(|namespace| format!("{host}.{namespace}.svc.{domain}")));
    names.iter().find_map(|name| directory.service_named(name, client_namespace, None))
}

// --- how it is said

fn from_said(source: Option<&Arc<Workload>>, peer: IpAddr) -> FromSaid {
    FromSaid {
        address: peer.to_string(),
        workload: source.map(|source| source.uid.to_string()),
        identity: source.filter(|source| is_enrolled(source)).map(|source| source.identity().to_string()),
    }
}

fn to_said(directory: &Directory, network: &Arc<str>, to: SocketAddr, client_namespace: Option<&str>) -> ToSaid {
    let address = NetworkAddress { network: network.clone(), ip: to.ip() };
    let stands_for = match directory.at(&address, client_namespace) {
        Some(Addressed::Workload(workload)) => format!("workload {}", workload.uid),
        Some(Addressed::Service(service)) => format!("service {}", service.key()),
        None => "unknown".into(),
    };
    ToSaid { address: to.to_string(), stands_for }
}

fn resolve_said(resolution: &Result<Resolution, Refusal>) -> ResolveSaid {
    let nothing = ResolveSaid {
        outcome: "refused",
        because: String::new(),
        address: None,
        via: None,
        authority: None,
        expect: Vec::new(),
        service: None,
        workload: None,
        reason: None,
    };
    match resolution {
        Err(refusal) => {
            let reason = Some(reason_said(refusal));
            ResolveSaid { because: refusal.to_string(), reason, ..nothing }
        }
        Ok(Resolution::Need(need)) => ResolveSaid { outcome: "need", because: need_said(need), ..nothing },
        Ok(Resolution::Hop(hop)) => {
            let (via, authority, expect) = match &hop.via {
                Via::Plain(_) => ("plain", None, Vec::new()),
                Via::Tunnel(passage) => {
                    let expect = passage.expect.iter().map(ToString::to_string).collect();
                    ("tunnel", Some(passage.authority.to_string()), expect)
                }
            };
            ResolveSaid {
                outcome: "hop",
                because: path_said(hop.path).into(),
                address: Some(hop.address().to_string()),
                via: Some(via),
                authority,
                expect,
                service: hop.service.as_ref().map(|service| service.key().to_string()),
                workload: hop.destination.as_ref().map(|workload| workload.uid.to_string()),
                reason: None,
            }
        }
    }
}

fn path_said(path: Path) -> &'static str {
    match path {
        Path::Direct => "straight to the workload",
        Path::ServiceWaypoint => "the service has a waypoint",
        Path::WorkloadWaypoint => "the workload has a waypoint",
        Path::Passthrough => "the service asks to be passed through untouched",
        Path::Unknown => "nobody in the mesh has this address",
    }
}

fn need_said(need: &Need) -> String {
    match need {
        Need::Address(address) => format!("the control plane is asked who has {address}"),
        Need::Hostname(name) => format!("the control plane is asked for {name}"),
        Need::Dns(hostname) => format!("the name servers are asked for {hostname}"),
    }
}

fn reason_said(refusal: &Refusal) -> ReasonSaid {
    let Words { code, sentence, advice, .. } = refusal.reason().words();
    ReasonSaid { code, stage: refusal.stage().as_str(), sentence, advice }
}

/// The members of the addressed service, where one of them is chosen or none could be.
fn endpoints(
    directory: &Directory,
    network: &Arc<str>,
    source: &Workload,
    to: SocketAddr,
    resolution: &Result<Resolution, Refusal>,
) -> Vec<EndpointSaid> {
    let chosen = match resolution {
        Ok(Resolution::Hop(hop)) => hop.path == Path::Direct,
        Err(Refusal::NoHealthyUpstream { .. } | Refusal::NoRoute { .. } | Refusal::CrossNetwork { .. }) => true,
        Err(_) | Ok(Resolution::Need(_)) => false,
    };
    let address = NetworkAddress { network: network.clone(), ip: to.ip() };
    match directory.at(&address, Some(&source.namespace)) {
        Some(Addressed::Service(service)) if chosen => {
            let members = balance::survey(directory, source, service, to.port(), Purpose::Traffic);
            members.into_iter().map(|(workload, judgement)| endpoint_said(workload, judgement)).collect()
        }
        _ => Vec::new(),
    }
}

fn endpoint_said(workload: &Workload, judgement: Result<balance::Fit, Unfit>) -> EndpointSaid {
    let said = match judgement {
        Ok(_) => "fit",
        Err(Unfit::Unhealthy) => "not ready",
        Err(Unfit::Unreachable) => "no address, and no gateway in front of its network",
        Err(Unfit::NoPort) => "does not serve this port",
        Err(Unfit::NoCapacity) => "capacity 0",
        Err(Unfit::OutOfScope) => "too far away for this service",
    };
    let fit = judgement.ok();
    EndpointSaid {
        workload: workload.uid.to_string(),
        judgement: said,
        port: fit.map(|fit| fit.port),
        rank: fit.map(|fit| fit.rank),
        weight: fit.map(|fit| fit.weight),
    }
}

fn policy_said(judge: &Workload, destination: SocketAddr, verdict: &Verdict) -> PolicySaid {
    let refused = (!verdict.is_allowed()).then(|| reason_said(&Refusal::Denied(verdict.because.clone())));
    PolicySaid {
        judge: judge.uid.to_string(),
        destination: destination.to_string(),
        allowed: verdict.is_allowed(),
        because: verdict.because.to_string(),
        code: verdict.because.code(),
        policy: verdict.policy().map(ToString::to_string),
        dry_run: verdict.dry_run.iter().map(ToString::to_string).collect(),
        reason: refused,
    }
}

fn verdict_said(verdict: &Verdict, how: &str) -> String {
    let word = if verdict.is_allowed() { "allowed" } else { "refused by the destination's node" };
    format!("{word}, {how}: {}", verdict.because)
}

#[cfg(test)]
mod tests;
