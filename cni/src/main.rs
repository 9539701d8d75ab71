//! `mesh-cni agent` enrols the pods of a node; `mesh-cni rules` shows what it would do to one.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use mesh_cni::agent::{Settings, run};
use mesh_cni::host::ProbeSender;
use mesh_cni::pod::{Wanted, wanted};
use mesh_cni::podfile;
use mesh_cni::redirect::{Capture, Marks, ruleset};

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
                let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.@:".contains(c);
                let good = !path.trim_matches('/').is_empty() && path.chars().all(plain);
                anyhow::ensure!(good, "--probe-cgroup: {path:?} is not the path of a cgroup below its root");
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
