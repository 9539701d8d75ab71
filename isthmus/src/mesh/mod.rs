//! The mesh's own programs as `up` starts them: which, where, with what environment and privileges. Three programs,
//! three privileges (design decision 3): the controller has no capability at all.

pub mod agent;
pub mod token;
pub mod ask;
pub mod controller;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::lab::bin::Bin;
use crate::lab::node::{control_addresses, control_netns};
use crate::lab::state::{State, private_folder};
use crate::lab::supervise::ProgramSpec;
use crate::objects::PodName;
use crate::plan::{Machine, NodePlan, PodPlan, mesh_ranges};

/// The name in the controller's certificate, by which node daemons know it.
const CONTROLLER: &str = "istiod.istio-system.svc";
/// spec/dataplane.md 2.9: sets namespaces, marks and transparent sockets.
const DAEMON_CAPABILITIES: &str = "-all,+net_admin,+sys_admin,+net_raw";
/// spec/dataplane.md 2.9, without SYS_PTRACE: it is told where namespaces are and needs not look into processes.
const AGENT_CAPABILITIES: &str = "-all,+net_admin,+sys_admin,+net_raw,+dac_override";
const NO_CAPABILITIES: &str = "-all";

/// The socket on which a node's agent tells its daemon of pods.
pub fn zds_socket(run: &Path, node: &str) -> PathBuf {
    run.join("nodes").join(node).join("zds.sock")
}

/// The controller's folder: the CA lives here.
pub fn ca_folder(run: &Path) -> PathBuf {
    run.join("ca")
}

/// The key that signs every certificate, in the newest version that the controller keeps; `root` is the first one.
pub fn ca_key(run: &Path) -> PathBuf {
    let current = ca_folder(run).join("current");
    let place = if current.exists() { current } else { ca_folder(run).join("root") };
    place.join("ca-key.pem")
}

/// Whom everybody trusts.
pub fn root_certificate(run: &Path) -> PathBuf {
    ca_folder(run).join("root-cert.pem")
}

/// Where the controller says what it thinks of the folder's objects.
pub fn status_file(run: &Path) -> PathBuf {
    run.join("objects.status.json")
}

/// All programs, in the order in which they are started.
pub fn programs(machine: &Machine, state: &State, bin: &Bin) -> anyhow::Result<Vec<ProgramSpec>> {
    let mut programs = vec![controller(machine, state, bin)?];
    for node in &state.nodes {
        private_folder(&agent::folder(&state.run, &node.name))?;
        programs.push(agent_of(node, state, bin)?);
        programs.push(daemon_of(machine, node, state, bin)?);
    }
    Ok(programs)
}

fn controller(machine: &Machine, state: &State, bin: &Bin) -> anyhow::Result<ProgramSpec> {
    private_folder(&ca_folder(&state.run))?;
    let text = |path: PathBuf| path.display().to_string();
    let flags = [
        // The first folder wins where two hold an object: a Pod with its place and address, before its author's.
        ("--folder", text(state.run.join("objects"))),
        ("--folder", text(state.folder.clone())),
        ("--secure-grpc-address", format!("{}:15012", control_addresses(machine).v4)),
        ("--monitoring-address", "127.0.0.1:15014".to_owned()),
        ("--ca-home", text(ca_folder(&state.run))),
        ("--root-cert-out", text(root_certificate(&state.run))),
        ("--token-public-key", text(token::public_key(&state.run))),
        ("--token-issuer", token::ISSUER.to_owned()),
        ("--status-file", text(status_file(&state.run))),
        ("--shutdown-duration", "2s".to_owned()),
    ];
    Ok(ProgramSpec {
        name: "istiod-lite".to_owned(),
        node: None,
        netns: control_netns(&state.mesh),
        program: bin.find("istiod-lite")?,
        args: flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
        // Which machines may join is the operator's word, as revocation is.
        env: std::env::var("MACHINE_ACCOUNTS").ok().map_or_else(|| environment([]), |accounts| environment([("MACHINE_ACCOUNTS", accounts)])),
        capabilities: NO_CAPABILITIES,
        log: log(state, "istiod-lite"),
    })
}

fn agent_of(node: &NodePlan, state: &State, bin: &Bin) -> anyhow::Result<ProgramSpec> {
    let name = format!("mesh-cni.{}", node.name);
    let text = |path: PathBuf| path.display().to_string();
    Ok(ProgramSpec {
        node: Some(node.name.clone()),
        netns: node.netns.clone(),
        program: bin.find("mesh-cni")?,
        args: vec!["agent".into(), "--pods".into(), text(agent::folder(&state.run, &node.name)), "--zds-socket".into(), text(zds_socket(&state.run, &node.name))],
        env: environment([]),
        capabilities: AGENT_CAPABILITIES,
        log: log(state, &name),
        name,
    })
}

fn daemon_of(machine: &Machine, node: &NodePlan, state: &State, bin: &Bin) -> anyhow::Result<ProgramSpec> {
    let name = format!("ztunnel.{}", node.name);
    let controller = format!("https://{}:15012", control_addresses(machine).v4);
    let root = root_certificate(&state.run).display().to_string();
    let mut spec = ProgramSpec {
        node: Some(node.name.clone()),
        netns: node.netns.clone(),
        program: bin.find("ztunnel")?,
        args: vec!["proxy".into(), "ztunnel".into()],
        env: environment([
            ("NODE_NAME", node.name.clone()),
            ("POD_NAME", format!("ztunnel-{}", node.name)),
            ("POD_NAMESPACE", token::ACCOUNT.0.to_owned()),
            ("SERVICE_ACCOUNT", token::ACCOUNT.1.to_owned()),
            ("INSTANCE_IP", node.wire.v4.to_string()),
            ("XDS_ADDRESS", controller.clone()),
            ("CA_ADDRESS", controller),
            ("ALT_XDS_HOSTNAME", CONTROLLER.to_owned()),
            ("ALT_CA_HOSTNAME", CONTROLLER.to_owned()),
            ("XDS_ROOT_CA", root.clone()),
            ("CA_ROOT_CA", root),
            ("AUTH_TOKEN", token::file(&state.run, &node.name).display().to_string()),
            ("INPOD_UDS", zds_socket(&state.run, &node.name).display().to_string()),
            ("LOG_FORMAT", "json".to_owned()),
            ("IPV6_ENABLED", machine.ipv6.to_string()),
            // A pod that nobody has heard of yet may be one that is being enrolled: it is not called in the clear.
            ("MESH_RANGES", mesh_ranges(&state.nodes).join(",")),
            // One machine's mesh is stopped by a person who waits.
            ("CONNECTION_TERMINATION_DEADLINE", "2s".to_owned()),
        ]),
        capabilities: DAEMON_CAPABILITIES,
        log: log(state, &name),
        name,
    };
    // The operator's own: there is no other place on one machine that these could come from.
    let own = ["CRL_PATH", "OLDER_CONNECTION_GRACE"];
    spec.env.extend(own.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))));
    Ok(spec)
}

/// The program of a waypoint's pod: without a capability, in the pod's network, with the pod's own token.
pub fn waypoint(machine: &Machine, pod: &PodPlan, gateway: &PodName, token: &token::OfPod, state: &State, bin: &Bin) -> anyhow::Result<ProgramSpec> {
    let name = format!("waypoint.{}.{}", pod.name.namespace, pod.name.name);
    let controller = format!("https://{}:15012", control_addresses(machine).v4);
    let root = root_certificate(&state.run).display().to_string();
    Ok(ProgramSpec {
        node: Some(pod.node.clone()),
        netns: pod.netns.clone(),
        program: bin.find("waypoint")?,
        args: vec!["proxy".into(), "waypoint".into()],
        env: environment([
            ("NODE_NAME", pod.node.clone()),
            ("POD_NAME", pod.name.name.clone()),
            ("POD_NAMESPACE", pod.name.namespace.clone()),
            ("SERVICE_ACCOUNT", pod.service_account.clone()),
            ("INSTANCE_IP", pod.addresses.v4.to_string()),
            ("GATEWAY_NAME", gateway.name.clone()),
            ("XDS_ADDRESS", controller.clone()),
            ("CA_ADDRESS", controller),
            ("ALT_XDS_HOSTNAME", CONTROLLER.to_owned()),
            ("ALT_CA_HOSTNAME", CONTROLLER.to_owned()),
            ("XDS_ROOT_CA", root.clone()),
            ("CA_ROOT_CA", root),
            ("AUTH_TOKEN", token::file_of_pod(&state.run, token).display().to_string()),
            ("LOG_FORMAT", "json".to_owned()),
            ("IPV6_ENABLED", machine.ipv6.to_string()),
            // A pod that goes has 3 s (`STOP_WITHIN`): one for nodes to hear of it, and until the second for what is open; the
            // program keeps 5 s of what it is told.
            ("DRAIN_NOTICE", "1s".to_owned()),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "7".to_owned()),
        ]),
        capabilities: NO_CAPABILITIES,
        log: log(state, &name),
        name,
    })
}

fn log(state: &State, name: &str) -> PathBuf {
    state.run.join("logs").join(format!("{name}.log"))
}

fn environment<const N: usize>(of: [(&str, String); N]) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    // An operator who looks for something may ask for more words: RUST_LOG goes to every program.
    if let Ok(levels) = std::env::var("RUST_LOG") {
        all.insert("RUST_LOG".to_owned(), levels);
    }
    all
}
