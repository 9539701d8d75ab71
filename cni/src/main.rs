//! `mesh-cni agent` enrols the pods of a node; `mesh-cni rules` shows what it would do to one; `mesh-cni cleanup` undoes
//! everything; `mesh-cni machine` captures the traffic of a machine whose daemon runs in dedicated mode. Run by a container
//! runtime (CNI_COMMAND is set) it is the CNI plugin.

mod arguments;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use mesh_cni::agent::{Node, Settings, run};
use mesh_cni::apply::{Place, SYSCTLS};
use mesh_cni::cleanup;
use mesh_cni::folder::Files;
use mesh_cni::host::ProbeSender;
use mesh_cni::kubernetes::leave::{Stay, everywhere};
use mesh_cni::kubernetes::{Cluster, api, doors, token};
use mesh_cni::machine;
use mesh_cni::netlink::Change;
use mesh_cni::plugin;
use mesh_cni::pod::{Wanted, wanted};
use mesh_cni::podfile;
use mesh_cni::redirect::{Capture, Marks, removal, ruleset};
use mesh_cni::sockets::{OLDER_MAX, bypassing_on_machine};
use mesh_net::netns::Netns;
use mesh_runtime::signal::Signals;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::arguments::{AgentArgs, CaptureArgs, CleanupArgs, Cli, Command, LeaveArgs, MachineCommand};

/// The kubelet gives a pod 30 s to end. The rules take less than a second.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return plugin::run(&std::env::vars().collect());
    }
    let done = match Cli::parse().command {
        Command::Agent(args) => agent(*args),
        Command::Rules { file, capture } => rules(&file, &capture),
        Command::Cleanup(args) => clean(&args),
        Command::Leave(args) => leave(&args),
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

fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}

fn agent(args: AgentArgs) -> anyhow::Result<()> {
    logging();
    mesh_net::rlimit::raise_nofile().context("cannot raise the limit of open files")?;
    // Work that blocks (nft) has threads of its own; what is left is one folder or two watches, and some sockets.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        match &args.pods {
            Some(folder) => of_folder(folder, &args).await,
            None => of_kubernetes(&args).await,
        }
    })
}

async fn of_folder(folder: &Path, args: &AgentArgs) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("cannot listen for signals")?;
    let node = Arc::new(Node::new(settings(args, args.capture.probes()?, SYSCTLS.into()), None)?);
    if let Some(port) = args.monitoring_port {
        doors::operators(port, node.clone()).await?;
    }
    run(node, Files::of(folder)?, &mut signals).await
}

async fn of_kubernetes(args: &AgentArgs) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("cannot listen for signals")?;
    let cluster = &args.cluster;
    let (finder, own, named) = (cluster.places.finder()?, cluster.own(), cluster.node()?);
    let probes = match args.capture.probes()? {
        Some(told) => told,
        None => ProbeSender::User(finder.kubelet_user().unwrap_or_default()),
    };
    tracing::info!(?probes, "connections from the node that are probes");
    let node = Arc::new(Node::new(settings(args, Some(probes), finder.sysctls()), Some(finder.host.clone()))?);
    let ports = [args.monitoring_port.unwrap_or(arguments::MONITORING_PORT), cluster.health_port];
    for port in ports {
        doors::operators(port, node.clone()).await?;
    }
    let client = api::connect(cluster.kubeconfig.as_deref()).await?;
    let (ask, asked) = mpsc::channel(1); // the source takes them one by one; who waits, waits at the socket
    doors::plugin(&cluster.socket(), ask)?;
    let stay = watch::Sender::new(if cluster.no_install { Stay::WithoutPlugin } else { Stay::WithPlugin });
    let (tell, token) = watch::channel(None);
    let install = cluster.install(token);
    if install.as_ref().is_some_and(|install| install.asking.is_some()) {
        tokio::spawn(token::keep(client.clone(), cluster.namespace.clone(), cluster.plugin_account.clone(), tell));
    }
    let keeping = install.clone().map(|install| tokio::spawn(install.keep(node.metrics.clone(), stay.clone())));
    let pods = Cluster::new(client.clone(), named.clone(), cluster.selection()?, finder.clone(), asked, own.clone(), stay.clone());
    let ran = run(node, pods, &mut signals).await;
    if let Some(keeping) = keeping {
        keeping.abort();
    }
    let leaving = stay.borrow().is_over();
    if ran.is_ok() && (leaving || own.is_removed(&client).await) {
        tracing::info!("the mesh is being removed from this node");
        if let Some(install) = install
            && let Err(error) = install.remove()
        {
            tracing::error!(error = format!("{error:#}"), "the plugin stays installed; remove it by hand");
        }
        for socket in [&cluster.socket(), &args.zds_socket] {
            let _ = std::fs::remove_file(socket); // somebody else did
        }
        match timeout(FAREWELL_MAX, Cluster::take_annotations(client, &named)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "pods keep their annotation ambient.istio.io/redirection"),
            Err(_late) => tracing::warn!("the API server does not answer: pods keep their annotation ambient.istio.io/redirection"),
        }
        let cleaned = tokio::task::spawn_blocking(move || cleanup::everything(&finder)).await?;
        tracing::info!(pods = cleaned, "nothing of the mesh is left on this node");
    }
    ran
}

fn leave(args: &LeaveArgs) -> anyhow::Result<()> {
    logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let client = api::connect(args.kubeconfig.as_deref()).await?;
        everywhere(client, &args.namespace, &args.daemon_set, Duration::from_secs(args.wait)).await
    })
}

fn settings(args: &AgentArgs, probes: Option<ProbeSender>, sysctls: PathBuf) -> Settings {
    Settings { zds_socket: args.zds_socket.clone(), dns: args.capture.dns_capture, probes, sysctls }
}

fn clean(args: &CleanupArgs) -> anyhow::Result<()> {
    logging();
    let removed = args.plugin.install(serde_json::Value::Null).remove();
    let cleaned = cleanup::everything(&args.places.finder()?);
    println!("rules removed from {cleaned} pods");
    removed
}

fn rules(file: &Path, args: &CaptureArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let pod = podfile::parse(file, &text).map_err(anyhow::Error::msg)?;
    match wanted(&pod, args.dns_capture).map_err(anyhow::Error::msg)? {
        Wanted::NotEnrolled => println!("# {} is not enrolled: its label says so", pod.name),
        Wanted::Enrolled(scope) => {
            // The real mark is the pod's secret and drawn when it is enrolled.
            let marks = Marks { own: u32::MAX, fixed_too: false };
            print!("{}", ruleset(&Capture { marks, scope, probes: args.probes()?.is_some(), older: Some([].into()), apart: true }));
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
    Ok(Place { home: own.clone(), within: own, sysctls: SYSCTLS.into() })
}
