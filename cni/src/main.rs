//! `mesh-cni agent` enrols the pods of a node; `mesh-cni rules` shows what it would do to one; `mesh-cni machine` captures
//! the traffic of a machine whose daemon runs in dedicated mode.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use mesh_cni::agent::{Settings, run};
use mesh_cni::apply::Place;
use mesh_cni::host::ProbeSender;
use mesh_cni::machine::{self, Daemon};
use mesh_cni::netlink::Change;
use mesh_cni::pod::{Ports, Wanted, port_ranges, wanted};
use mesh_cni::podfile;
use mesh_cni::redirect::{Capture, Marks, removal, ruleset};
use mesh_cni::sockets::{OLDER_MAX, bypassing_on_machine};
use mesh_net::netns::Netns;

#[derive(Parser)]
#[command(
    name = "mesh-cni",
    version,
    about = "Enrols pods into the mesh: rules in their network namespaces, and the socket that tells the node daemon"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enrols the pods that files in a folder announce, and serves ZDS
    Agent(AgentArgs),
    /// Prints the nftables ruleset of one pod file, without applying it
    Rules {
        /// The pod file
        file: PathBuf,
        #[command(flatten)]
        capture: CaptureArgs,
    },
    /// Captures the traffic of this machine, whose daemon runs in dedicated mode (PROXY_MODE=dedicated)
    #[command(subcommand)]
    Machine(MachineCommand),
}

#[derive(Subcommand)]
enum MachineCommand {
    /// Prints the nftables ruleset, without applying it
    Show(MachineArgs),
    /// Puts the rules into force, in the network namespace that this runs in. Start the daemon first
    Apply(MachineArgs),
    /// Takes them away
    Remove,
}

#[derive(Args)]
struct MachineArgs {
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

fn daemon_user(text: &str) -> Result<Daemon, String> {
    Daemon::user(text.parse().map_err(|_| "expected the number of a user, as `id -u NAME` prints it".to_owned())?)
}

impl MachineArgs {
    fn capture(self) -> anyhow::Result<machine::Capture> {
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

#[derive(Args)]
struct AgentArgs {
    /// Folder of pod files (JSON or YAML); status files are written beside them
    #[arg(long, value_name = "FOLDER")]
    pods: PathBuf,
    /// Unix socket on which node daemons are told of pods
    #[arg(long, env = "ZTUNNEL_UDS_ADDRESS", default_value = mesh_zds::SOCKET, value_name = "PATH")]
    zds_socket: PathBuf,
    #[command(flatten)]
    capture: CaptureArgs,
}

#[derive(Args)]
struct CaptureArgs {
    /// Capture DNS where a pod's annotation does not say otherwise
    #[arg(long, env = "AMBIENT_DNS_CAPTURE", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    dns_capture: bool,
    /// User whose connections from the node are probes, which reach pods past the mesh
    #[arg(long, value_name = "UID", conflicts_with = "probe_cgroup")]
    probe_uid: Option<u32>,
    /// Cgroup (v2, path below its root) whose connections from the node are probes
    #[arg(long, value_name = "PATH")]
    probe_cgroup: Option<String>,
}

impl CaptureArgs {
    fn probes(&self) -> anyhow::Result<Option<ProbeSender>> {
        match (&self.probe_cgroup, self.probe_uid) {
            (Some(path), _) => {
                machine::Daemon::cgroup(path).map_err(|why| anyhow::anyhow!("--probe-cgroup: {why}"))?;
                Ok(Some(ProbeSender::Cgroup(path.clone())))
            }
            (None, uid) => Ok(uid.map(ProbeSender::User)),
        }
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Agent(args) => agent(args),
        Command::Rules { file, capture } => rules(&file, &capture),
        Command::Machine(MachineCommand::Show(args)) => args.capture().map(|capture| print!("{}", machine::ruleset(&capture))),
        Command::Machine(MachineCommand::Apply(args)) => args.capture().and_then(capture_machine),
        Command::Machine(MachineCommand::Remove) => release_machine(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-cni: {error:#}"); // one line for the operator, whatever RUST_BACKTRACE says
            ExitCode::FAILURE
        }
    }
}

fn agent(args: AgentArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let probes = args.capture.probes()?;
    let settings = Settings { pods: args.pods, zds_socket: args.zds_socket, dns: args.capture.dns_capture, probes };
    mesh_net::rlimit::raise_nofile().context("cannot raise the limit of open files")?;
    // Work that blocks (nft) has threads of its own; what is left is one folder and one socket.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(settings))
}

fn rules(file: &std::path::Path, args: &CaptureArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let pod = podfile::parse(file, &text).map_err(anyhow::Error::msg)?;
    match wanted(&pod, args.dns_capture).map_err(anyhow::Error::msg)? {
        Wanted::NotEnrolled => println!("# {} is not enrolled: its label says so", pod.name),
        Wanted::Enrolled(scope) => {
            // The real mark is the pod's secret and drawn when it is enrolled.
            let marks = Marks { own: u32::MAX, fixed_too: false };
            print!("{}", ruleset(&Capture { marks, scope, probes: args.probes()?.is_some(), older: Some([].into()) }));
        }
    }
    Ok(())
}

/// Redirects come first and the list of older connections after: what is opened in between is captured already, so the
/// list holds no more than what was open before.
fn capture_machine(mut capture: machine::Capture) -> anyhow::Result<()> {
    let place = here()?;
    place.route(Change::Add).context("cannot route answers back to the daemon")?;
    place.nft(&machine::ruleset(&capture))?;
    place.tune();
    let older = bypassing_on_machine(&place.sockets()?)?;
    if older.len() > OLDER_MAX {
        eprintln!("mesh-cni: more than {OLDER_MAX} connections are open: should conntrack forget a connection, its bytes leave in the clear");
        return Ok(());
    }
    capture.older = Some(older);
    Ok(place.nft(&machine::ruleset(&capture))?)
}

fn release_machine() -> anyhow::Result<()> {
    let place = here()?;
    place.nft(&removal())?;
    place.route(Change::Remove)?;
    place.restore(&[]);
    Ok(())
}

/// This process's own network namespace.
fn here() -> anyhow::Result<Place> {
    let own = Netns::current().context("cannot open the network namespace of this process")?;
    Ok(Place { home: own.clone(), within: own })
}
