//! `isthmus status`: how the mesh is, as tables or JSON. Exit status 1 if something is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use crate::cli::{Format, Output};
use crate::cluster::gather;
use crate::lab::node::control_netns;
use crate::lab::state::State;
use crate::mesh::ask::{ADMIN_PORT, get};
use crate::mesh::{controller, status_file, token};
use crate::report::daemon::Daemon;
use crate::report::{self, Report, machine::Asked};
use crate::say;
use crate::site::{Choice, Site};

/// The controller's page for operators (spec/controlplane.md 10.2).
const CONTROLLER_PORT: u16 = 15014;

pub async fn status(choice: Choice, mesh: &Option<String>, options: &Output) -> anyhow::Result<ExitCode> {
    let whole = match Site::find(choice, mesh.as_deref(), &options.at).await? {
        Site::Machine(state) => report::machine::report(&state, &asked(&state).await),
        Site::Cluster(cluster) => report::cluster::report(&gather::gather(&cluster).await?),
    };
    let shown: Report = match &options.at.namespace {
        Some(namespace) => whole.only(namespace),
        None => whole,
    };
    match options.output {
        Format::Json => say::out(serde_json::to_string_pretty(&shown)?),
        Format::Table => report::show::show(&shown),
    }
    Ok(if shown.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks the daemons and the controller of a mesh on this machine.
async fn asked(state: &State) -> Asked {
    let processes = state.programs.iter().filter_map(|program| program.process).chain(state.pods.iter().filter_map(|pod| pod.init));
    let mut asked = Asked { up_is_alive: state.up.is_alive(), alive: processes.filter(|process| process.is_alive()).map(|process| process.pid).collect(), ..Asked::default() };
    if !state.meshed || !asked.up_is_alive {
        return asked;
    }
    let mut daemons = BTreeMap::new();
    for node in &state.nodes {
        let dump = page(&node.netns, ADMIN_PORT, "/config_dump").await;
        daemons.insert(node.name.clone(), dump.map(|dump| Daemon::read(&dump)).map_err(|error| format!("{error:#}")));
    }
    asked.daemons = daemons;
    let control = control_netns(&state.mesh);
    asked.controller_version = get(&control, CONTROLLER_PORT, "/version").await.ok().map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    let nodes_of = |streams: Value| -> BTreeSet<String> {
        let daemon = format!("{}/ztunnel-", token::ACCOUNT.0);
        gather::connected(&streams).iter().filter_map(|pod| pod.strip_prefix(&daemon)).map(str::to_owned).collect()
    };
    asked.connected = page(&control, CONTROLLER_PORT, "/debug/syncz").await.ok().map(nodes_of);
    asked.findings = controller::findings(&status_file(&state.run));
    asked
}

async fn page(netns: &str, port: u16, path: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&get(netns, port, path).await?)?)
}

/// A table without lines that fits the terminal.
pub fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    if let Some(width) = terminal_width() {
        table.set_width(width);
    }
    table
}

/// None when standard output is not a terminal: then nothing is wrapped.
pub fn terminal_width() -> Option<u16> {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() {
        return None;
    }
    ratatui::crossterm::terminal::size().ok().map(|(columns, _)| columns)
}
