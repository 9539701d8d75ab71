//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Isthmus: a service mesh without sidecars, on this machine or on a cluster.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version)]
pub struct Cli {
    /// Which mesh of this machine, needed only when several run; or which waypoint.
    #[arg(long, global = true, value_parser = name)]
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
    /// How the mesh is: its parts, nodes and pods, and what is wrong with the command that repairs it.
    Status(Output),
    /// One line for each thing that has to hold on a cluster, why it does not, and the command that repairs it.
    Check(Check),
    /// Open connections: who, to whom, through which service, encrypted or not.
    Connections(Output),
    /// Ask the mesh what it would do with a connection, and why.
    Why(Why),
    /// The policies that apply to a pod, as its node's daemon holds them.
    Policy(Policy),
    /// Waypoints of a cluster: routes and policy at layer 7 for a namespace or a service.
    #[command(subcommand)]
    Waypoint(WaypointCommand),
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
    /// Print a script that completes these commands in a shell.
    Completion {
        /// Whose script.
        shell: clap_complete::Shell,
    },
}

/// Which cluster; without these a mesh of this machine, if one runs, else the cluster of the kubeconfig.
#[derive(Clone, Debug, Default, Args)]
pub struct At {
    /// The kubeconfig file [default: KUBECONFIG or ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,
    /// Only this namespace; names without a namespace are looked for here.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// All namespaces: what is shown unless -n is given.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

impl At {
    pub fn names_cluster(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }
}

impl Command {
    /// For commands that are about a mesh wherever it is.
    pub fn at(&self) -> Option<&At> {
        match self {
            Command::Status(options) | Command::Connections(options) => Some(&options.at),
            Command::Why(options) => Some(&options.at),
            Command::Policy(options) => Some(&options.at),
            Command::Up(_) | Command::Down | Command::Exec(_) | Command::Check(_) | Command::Waypoint(_) | Command::Selftest(_) | Command::Token { .. } | Command::Tour { .. } | Command::Completion { .. } => None,
        }
    }
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
    /// Tables for people, or JSON.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub at: At,
}

#[derive(Debug, Args)]
pub struct Check {
    /// What has to hold before the mesh is installed.
    #[arg(long)]
    pub pre: bool,
    /// Where the mesh is to be installed.
    #[arg(long, default_value = crate::cluster::check::USUAL_NAMESPACE, requires = "pre")]
    pub into: String,
    /// Look again until everything holds, for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u64>,
    /// Lines for people, or JSON.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub at: At,
}

#[derive(Debug, Args)]
pub struct Policy {
    /// NAME or NAMESPACE/NAME of the pod.
    pub pod: String,
    /// A table for people, or JSON.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub at: At,
}

#[derive(Debug, Args)]
pub struct Why {
    /// Who calls: NAME or NAMESPACE/NAME of a pod, or an address.
    pub pod: String,
    /// HOST:PORT as the caller would write it.
    pub destination: String,
    /// Sentences for people, or JSON.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub at: At,
}

#[derive(Debug, Subcommand)]
pub enum WaypointCommand {
    /// Print the Gateway that makes a waypoint.
    Generate(WaypointShape),
    /// Make a waypoint, or change it.
    Apply(WaypointApply),
    /// Remove waypoints.
    Delete(WaypointDelete),
    /// The waypoints of a namespace.
    List(WaypointList),
    /// How they are, and why; exit status 1 if one does not work.
    Status(WaypointStatus),
}

#[derive(Debug, Args)]
pub struct WaypointShape {
    /// What is to pass through it [default: service].
    #[arg(long = "for", value_name = "TRAFFIC")]
    pub traffic: Option<Traffic>,
    /// The revision of the mesh that deploys it.
    #[arg(long, short)]
    pub revision: Option<String>,
    #[command(flatten)]
    pub at: At,
}

/// What passes through a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Traffic {
    Service,
    Workload,
    All,
    None,
}

impl Traffic {
    pub fn label(self) -> &'static str {
        match self {
            Traffic::Service => "service",
            Traffic::Workload => "workload",
            Traffic::All => "all",
            Traffic::None => "none",
        }
    }
}

#[derive(Debug, Args)]
pub struct WaypointApply {
    #[command(flatten)]
    pub shape: WaypointShape,
    /// Have the namespace's services use it.
    #[arg(long, visible_alias = "enroll-namespace")]
    pub enroll: bool,
    /// Also where the namespace uses another one.
    #[arg(long, requires = "enroll")]
    pub overwrite: bool,
    /// Wait until it is ready, before anything uses it.
    #[arg(short, long)]
    pub wait: bool,
    /// Seconds that are waited.
    #[arg(long = "waypoint-timeout", value_name = "SECONDS", default_value = "90", value_parser = bare_seconds)]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct WaypointDelete {
    /// Which of the namespace.
    #[arg(conflicts_with_all = ["all", "revision"])]
    pub names: Vec<String>,
    /// All of the namespace.
    #[arg(long)]
    pub all: bool,
    /// Those of this revision.
    #[arg(long, short)]
    pub revision: Option<String>,
    #[command(flatten)]
    pub at: At,
}

#[derive(Debug, Args)]
pub struct WaypointList {
    /// A table for people, or JSON.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub at: At,
}

#[derive(Debug, Args)]
pub struct WaypointStatus {
    /// Wait until they work.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub wait: bool,
    /// Seconds that are waited.
    #[arg(long = "waypoint-timeout", value_name = "SECONDS", default_value = "90", value_parser = bare_seconds)]
    pub timeout: u64,
    /// A table for people, or JSON.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub at: At,
}

/// `90`, `90s` or `2m`.
fn bare_seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(|| "use whole seconds, as 90 or 90s, or minutes, as 2m".to_owned())
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

/// Of a waypoint: a name as Services have it.
fn name(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let ends = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if plain && ends && text.len() <= 63 { Ok(text.to_owned()) } else { Err("use up to 63 of a-z, 0-9 and -".to_owned()) }
}

impl Cli {
    /// A mesh's name is part of namespace names and of unix socket paths (108 bytes at most).
    ///
    /// # Errors
    /// A name that is only a waypoint's.
    pub fn check_name(&self) -> Result<(), String> {
        let is_mesh = |text: &String| text.len() <= 16 && !text.contains('-');
        match (&self.command, &self.name) {
            (Command::Waypoint(_), _) => Ok(()),
            (_, Some(name)) if !is_mesh(name) => Err(format!("--name {name}: a mesh is called by 1 to 16 of a-z and 0-9")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_and_every_option_says_what_it_is_for() {
        let mut all = Cli::command();
        all.build();
        all.clone().debug_assert();
        for command in all.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let help = argument.get_help().unwrap_or_else(|| panic!("{} {}: no help", command.get_name(), argument.get_id())).to_string();
                assert!(help.chars().next().is_some_and(char::is_uppercase), "{} {}: {help}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn options_of_a_cluster_are_understood_where_they_mean_something() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for (line, understood) in [
            ("isthmus status --context c -n shop -o json", true),
            ("isthmus status -A", true),
            ("isthmus status -A -n shop", false),
            ("isthmus why cart db:6400 -n shop --kubeconfig /k", true),
            ("isthmus policy shop/cart", true),
            ("isthmus check --pre --into mesh", true),
            ("isthmus check --into mesh", false),
            ("isthmus up --context c", false),
            ("isthmus completion bash", true),
            ("isthmus completion cmd", false),
            ("isthmus waypoint apply -n shop --enroll --for all --name w-1 --wait", true),
            ("isthmus waypoint apply --enroll-namespace --waypoint-timeout 2m", true),
            ("isthmus waypoint apply --overwrite", false),
            ("isthmus waypoint delete a b", true),
            ("isthmus waypoint delete a --all", false),
            ("isthmus waypoint list -A -o json", true),
            ("isthmus waypoint status --wait=false", true),
            ("isthmus waypoint generate --for nothing", false),
        ] {
            assert_eq!(parse(line).is_ok(), understood, "{line}");
        }
        let named = |line: &str| parse(line).unwrap().check_name().is_ok();
        assert!(named("isthmus --name two status") && named("isthmus waypoint generate --name a-long-name-of-a-waypoint"));
        assert!(!named("isthmus --name a-b status") && !named("isthmus up --name seventeenletters1"));
    }
}
