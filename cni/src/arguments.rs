//! Flags and variables. Those that the field's charts set have the field's names (spec/dataplane.md 4.8).

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use mesh_cni::conflist::TYPE;
use mesh_cni::host::ProbeSender;
use mesh_cni::install::{Asking, Install};
use mesh_cni::kubernetes::decide::Selection;
use mesh_cni::kubernetes::find::Finder;
use mesh_cni::kubernetes::leave::Own;
use mesh_cni::machine::{self, Daemon};
use mesh_cni::plugin::call::RUN_FOLDER;
use mesh_cni::plugin::event::SOCKET;
use mesh_cni::pod::{Ports, port_ranges};
use mesh_net::netns::Netns;
use serde_json::{Value, json};
use tokio::sync::watch;

pub const MONITORING_PORT: u16 = 15014;

#[derive(Parser)]
#[command(
    name = "mesh-cni",
    version,
    about = "Enrols pods into the mesh: rules in their network namespaces, and the socket that tells the node daemon"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Enrols pods (those that files in a folder announce, or those of a Kubernetes node), and serves ZDS
    Agent(Box<AgentArgs>),
    /// Prints the nftables ruleset of one pod file, without applying it
    Rules {
        /// The pod file
        file: PathBuf,
        #[command(flatten)]
        capture: CaptureArgs,
    },
    /// Takes everything of the mesh out of this node: rules in all network namespaces, and the plugin
    Cleanup(CleanupArgs),
    /// Has all agents of a cluster leave, and waits for them: before a chart is removed
    Leave(LeaveArgs),
    /// Captures the traffic of this machine, whose daemon runs in dedicated mode (PROXY_MODE=dedicated)
    #[command(subcommand)]
    Machine(MachineCommand),
}

#[derive(Subcommand)]
pub enum MachineCommand {
    /// Prints the nftables ruleset, without applying it
    Show(MachineArgs),
    /// Puts the rules into force, in the network namespace that this runs in. Start the daemon first
    Apply(MachineArgs),
    /// Takes them away
    Remove,
}

#[derive(Args)]
pub struct MachineArgs {
    /// User that the daemon runs as, and nothing else does
    #[arg(long, value_name = "UID", required_unless_present = "daemon_cgroup", conflicts_with = "daemon_cgroup", value_parser = daemon_user)]
    daemon_uid: Option<Daemon>,
    /// Cgroup (v2, path below its root) that the daemon runs in, and nothing else does
    #[arg(long, value_name = "PATH", value_parser = Daemon::cgroup)]
    daemon_cgroup: Option<Daemon>,
    /// Capture DNS
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    dns_capture: bool,
    /// Capture plaintext that arrives; without it, it goes straight to the programs, past policy
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    inbound_capture: bool,
    /// Ports of this machine that stay as they are, like 22,9000-9100
    #[arg(long, default_value = machine::EXCLUDE_INBOUND, value_name = "PORTS")]
    exclude_inbound_ports: String,
    /// Connections to these ports of anybody stay as they are
    #[arg(long, default_value = "", value_name = "PORTS")]
    exclude_outbound_ports: String,
}

#[derive(Args)]
pub struct AgentArgs {
    /// Folder of pod files (JSON or YAML); status files are written beside them
    #[arg(long, value_name = "FOLDER", required_unless_present = "kubernetes")]
    pub pods: Option<PathBuf>,
    /// The pods of this Kubernetes node
    #[arg(long, conflicts_with = "pods")]
    pub kubernetes: bool,
    /// Unix socket on which node daemons are told of pods
    #[arg(long, env = "ZTUNNEL_UDS_ADDRESS", default_value = mesh_zds::SOCKET, value_name = "PATH")]
    pub zds_socket: PathBuf,
    /// Port of /metrics, /readyz and /pods; with --kubernetes 15014 unless told otherwise
    #[arg(long, env = "MONITORING_PORT", value_name = "PORT")]
    pub monitoring_port: Option<u16>,
    #[command(flatten)]
    pub capture: CaptureArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Args)]
pub struct CaptureArgs {
    /// Capture DNS where a pod's annotation does not say otherwise
    #[arg(long, env = "AMBIENT_DNS_CAPTURE", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub dns_capture: bool,
    /// User whose connections from the node are probes, which reach pods past the mesh; with --kubernetes the kubelet's
    #[arg(long, env = "PROBE_UID", value_name = "UID", conflicts_with = "probe_cgroup")]
    pub probe_uid: Option<u32>,
    /// Cgroup (v2, path below its root) whose connections from the node are probes
    #[arg(long, env = "PROBE_CGROUP", value_name = "PATH")]
    pub probe_cgroup: Option<String>,
}

/// With --kubernetes.
#[derive(Args)]
#[command(next_help_heading = "With --kubernetes")]
pub struct ClusterArgs {
    /// The node whose pods are enrolled
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: Option<String>,
    /// The agent's own pod, of a DaemonSet: when that is gone, everything is undone
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod: Option<String>,
    /// The mesh's own namespace, whose own pods (ztunnel, istiod, mesh-cni) are not enrolled
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system", value_name = "NAME")]
    pub namespace: String,
    /// Namespaces of which no pod is enrolled, separated by commas
    #[arg(long, env = "EXCLUDE_NAMESPACES", default_value = "kube-system", value_delimiter = ',', value_name = "NAMES")]
    pub exclude_namespaces: Vec<String>,
    /// Which pods are enrolled: a YAML list of podSelector and namespaceSelector; by default those with the label
    /// istio.io/dataplane-mode=ambient, and those of namespaces with it
    #[arg(long, env = "AMBIENT_ENABLEMENT_SELECTOR", default_value = "", hide_default_value = true, value_name = "YAML")]
    pub selectors: String,
    /// Connects to the API server with this file instead of the pod's ServiceAccount
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Port of /healthz and /readyz
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    pub health_port: u16,
    /// The API server as the plugin reaches it from the node; by default the cluster's own address for it
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// ServiceAccount by which the plugin asks the API server while the agent is away; it may look at pods and namespaces
    #[arg(long, default_value = "mesh-cni-plugin", value_name = "NAME")]
    pub plugin_account: String,
    /// Do not install the plugin
    #[arg(long)]
    pub no_install: bool,
    #[command(flatten)]
    pub plugin: PluginArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// Where the plugin lives.
#[derive(Args)]
pub struct PluginArgs {
    /// The agent's own folder; at the same path for the plugin
    #[arg(long, env = "CNI_AGENT_RUN_DIR", default_value = RUN_FOLDER, value_name = "FOLDER")]
    pub run: PathBuf,
    /// The node's lists of CNI plugins, as this process sees them
    #[arg(long, env = "MOUNTED_CNI_NET_DIR", default_value = "/host/etc/cni/net.d", value_name = "FOLDER")]
    pub cni_configurations: PathBuf,
    /// The node's CNI plugins, as this process sees them
    #[arg(long, env = "MOUNTED_CNI_BIN_DIR", default_value = "/host/opt/cni/bin", value_name = "FOLDER")]
    pub cni_binaries: PathBuf,
    /// The list that the plugin is put into; by default the first by name
    #[arg(long, env = "CNI_CONF_NAME", value_name = "FILE")]
    pub cni_list: Option<String>,
}

/// Where pods are found.
#[derive(Args)]
pub struct PlaceArgs {
    /// The node's /proc, as this process sees it
    #[arg(long, default_value = "/host/proc", value_name = "FOLDER")]
    pub proc: PathBuf,
    /// The container runtime's mounts of network namespaces, as this process sees them
    #[arg(long, default_value = "/host/var/run/netns", value_name = "FOLDER")]
    pub netns: PathBuf,
    /// The node's network namespace; by default that of process 1 in the node's /proc
    #[arg(long, value_name = "PATH")]
    pub host_netns: Option<PathBuf>,
}

#[derive(Args)]
pub struct LeaveArgs {
    /// The agents' namespace
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system", value_name = "NAME")]
    pub namespace: String,
    /// The agents' DaemonSet
    #[arg(long, default_value = "mesh-cni", value_name = "NAME")]
    pub daemon_set: String,
    /// How long agents are waited for
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub wait: u64,
    /// Connects to the API server with this file instead of the pod's ServiceAccount
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    pub plugin: PluginArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

impl CaptureArgs {
    pub fn probes(&self) -> anyhow::Result<Option<ProbeSender>> {
        match (&self.probe_cgroup, self.probe_uid) {
            (Some(path), _) => {
                Daemon::cgroup(path).map_err(|why| anyhow::anyhow!("--probe-cgroup: {why}"))?;
                Ok(Some(ProbeSender::Cgroup(path.clone())))
            }
            (None, uid) => Ok(uid.map(ProbeSender::User)),
        }
    }
}

fn daemon_user(text: &str) -> Result<Daemon, String> {
    Daemon::user(text.parse().map_err(|_| "expected the number of a user, as `id -u NAME` prints it".to_owned())?)
}

impl MachineArgs {
    pub fn capture(self) -> anyhow::Result<machine::Capture> {
        let ports = |flag: &str, text: &str| -> anyhow::Result<Vec<Ports>> {
            port_ranges(text).map_err(|why| anyhow::anyhow!("{flag}: {why}"))
        };
        let daemon = self.daemon_uid.or(self.daemon_cgroup).context("--daemon-uid or --daemon-cgroup is needed")?;
        // A machine without the file delegates nothing.
        let subuid = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
        daemon.check_delegated(&subuid).map_err(|why| anyhow::anyhow!("--daemon-uid: {why}"))?;
        Ok(machine::Capture {
            daemon,
            dns: self.dns_capture,
            inbound: self.inbound_capture,
            exclude_inbound: ports("--exclude-inbound-ports", &self.exclude_inbound_ports)?,
            exclude_outbound: ports("--exclude-outbound-ports", &self.exclude_outbound_ports)?,
            older: None,
        })
    }
}

impl ClusterArgs {
    pub fn node(&self) -> anyhow::Result<String> {
        let node = self.node.clone().filter(|name| !name.is_empty());
        node.context("--kubernetes: the node is not named; set NODE_NAME (from spec.nodeName) or --node")
    }

    pub fn own(&self) -> Own {
        Own { namespace: self.namespace.clone(), pod: self.pod.clone() }
    }

    pub fn selection(&self) -> anyhow::Result<Selection> {
        Selection::parse(&self.selectors, self.excluded(), &self.namespace).map_err(|error| anyhow::anyhow!("AMBIENT_ENABLEMENT_SELECTOR: {error}"))
    }

    fn excluded(&self) -> impl Iterator<Item = String> {
        self.exclude_namespaces.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
    }

    pub fn socket(&self) -> PathBuf {
        self.plugin.run.join(SOCKET)
    }

    /// `token`: the plugin's.
    pub fn install(&self, token: watch::Receiver<Option<String>>) -> Option<Install> {
        let mut entry = json!({
            "type": TYPE,
            "name": TYPE,
            "cni_agent_run_dir": self.plugin.run,
            "exclude_namespaces": self.excluded().collect::<Vec<_>>(),
            "pod_namespace": self.namespace,
        });
        if let Ok(selectors) = serde_saphyr::from_str::<Value>(&self.selectors)
            && !selectors.is_null()
        {
            entry["enablement_selectors"] = selectors;
        }
        let asking = self.api_server().map(|server| Asking { server, token });
        (!self.no_install).then(|| Install { asking, ..self.plugin.install(entry) })
    }

    fn api_server(&self) -> Option<String> {
        self.api_server.clone().or_else(|| {
            let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
            let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
            Some(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
        })
    }
}

impl PluginArgs {
    pub fn install(&self, entry: Value) -> Install {
        Install {
            configurations: self.cni_configurations.clone(),
            binaries: self.cni_binaries.clone(),
            run: self.run.clone(),
            list: self.cni_list.clone().filter(|name| !name.is_empty()),
            entry,
            asking: None,
            put: Arc::default(),
        }
    }
}

impl PlaceArgs {
    pub fn finder(&self) -> anyhow::Result<Finder> {
        let home = Netns::current().context("cannot open this process's own network namespace")?;
        let path = self.host_netns.clone().unwrap_or_else(|| self.proc.join("1/ns/net"));
        let host = Netns::open(&path).context("cannot open the node's network namespace; is the node's /proc where --proc says, and does this process have CAP_SYS_PTRACE?")?;
        Ok(Finder { proc: self.proc.clone(), netns: self.netns.clone(), home, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
