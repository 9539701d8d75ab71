//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Isthmus: a service mesh without sidecars, on this machine or on a cluster.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version)]
pub struct Cli {
    /// Which mesh of this machine; needed only when several run.
    #[arg(long, global = true, value_parser = mesh_name)]
    pub name: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the mesh on this machine: two nodes, your pods (or a sample shop), and everything in between.
    Up(Up),
    /// Stop the mesh and remove every process, namespace, interface and rule of it, also after a crash.
    Down,
    /// Run a command inside a pod.
    Exec(Exec),
    /// Nodes, programs and pods.
    Status(Output),
    /// Open connections: who, to whom, through which service, encrypted or not.
    Connections(Output),
    /// Ask the mesh what it would do with a connection, and why.
    Why(Why),
    /// Print a token, good for an hour, for a machine that joins the mesh with a daemon of its own (dedicated mode).
    Token {
        /// NAMESPACE/ACCOUNT that the machine's workload runs as.
        #[arg(value_parser = account)]
        account: (String, String),
    },
    /// On a cluster, inside a pod: is the mesh there, and is this pod in it?
    Selftest(Selftest),
    /// What the mesh claims, shown step by step on the traffic of the sample shop.
    Tour {
        /// Do not wait between the steps.
        #[arg(long)]
        once: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub struct Up {
    /// A folder of Kubernetes YAML: its Pods are started, its policies hold; changes take effect as you save them.
    /// Without it a sample shop is set up.
    #[arg(short, long)]
    pub folder: Option<PathBuf>,
    /// Take the tour without questions, stop, and say by the exit status whether every step held.
    #[arg(long)]
    pub once: bool,
    /// Only nodes and pods, no mesh.
    #[arg(long, hide = true)]
    pub no_mesh: bool,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// NAME or NAMESPACE/NAME.
    pub pod: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Output {
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Why {
    /// Who calls: NAME or NAMESPACE/NAME of a pod, or an address.
    pub pod: String,
    /// HOST:PORT as the caller would write it.
    pub destination: String,
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Selftest {
    /// HOST:PORT of the controller's page of metrics.
    #[arg(long, default_value = "istiod.istio-system.svc:15014")]
    pub controller: String,
    /// The controller must be of this version.
    #[arg(long)]
    pub version: Option<String>,
    /// File of this pod's annotations (a downwardAPI volume): the pod must be in the mesh.
    #[arg(long)]
    pub annotations: Option<PathBuf>,
    /// Seconds until all of it must hold.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub wait: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "use whole seconds".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

fn account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, account)) if !namespace.is_empty() && !account.is_empty() && !account.contains('/') => {
            Ok((namespace.to_owned(), account.to_owned()))
        }
        _ => Err("expected NAMESPACE/ACCOUNT".to_owned()),
    }
}

/// The name is part of namespace names and of unix socket paths (108 bytes at most).
fn mesh_name(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if plain && (1..=16).contains(&text.len()) { Ok(text.to_owned()) } else { Err("use 1 to 16 of a-z and 0-9".to_owned()) }
}
