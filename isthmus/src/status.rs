//! `isthmus status`: nodes, programs and pods, as tables or JSON.

use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::cli::{Format, Output};
use crate::say;
use crate::lab::state::{PodPhase, PodState, State};

pub async fn status(mesh: &Option<String>, options: &Output) -> anyhow::Result<ExitCode> {
    let state = State::find(mesh.as_deref())?;
    let alive = state.up.is_alive();
    match options.output {
        Format::Json => say::out(serde_json::to_string_pretty(&state)?),
        Format::Table => show(&state, alive),
    }
    Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(state: &State, alive: bool) {
    let life = if alive { "running" } else { "crashed; `isthmus down` removes what is left" };
    say::out(format!("mesh {} ({life}), folder {}", state.mesh, state.folder.display()));
    let mut nodes = table(["NODE", "ADDRESS", "PODS", "NAMESPACE"]);
    for node in &state.nodes {
        let pods = state.pods.iter().filter(|pod| pod.node == node.name).count();
        nodes.add_row([node.name.clone(), node.wire.v4.to_string(), pods.to_string(), node.netns.clone()]);
    }
    say::out(format!("\n{}", nodes.trim_fmt()));
    if state.meshed {
        let mut programs = table(["PROGRAM", "NODE", "PROCESS", "RESTARTS", "LOG"]);
        for program in &state.programs {
            let process = program.process.filter(|process| process.is_alive()).map_or("stopped".to_owned(), |process| process.pid.to_string());
            let node = program.node.clone().unwrap_or_else(|| "-".to_owned());
            programs.add_row([program.name.clone(), node, process, program.restarts.to_string(), program.log.display().to_string()]);
        }
        say::out(format!("\n{}", programs.trim_fmt()));
    }
    let mut pods = table(["POD", "NODE", "ADDRESS", "ACCOUNT", "STATE", "RESTARTS", "MESH"]);
    for pod in &state.pods {
        let restarts = pod.restarts.to_string();
        pods.add_row([pod.name.to_string(), pod.node.clone(), pod.addresses.v4.to_string(), pod.service_account.clone(), phase(pod), restarts, in_mesh(pod)]);
    }
    say::out(format!("\n{}", pods.trim_fmt()));
}

fn phase(pod: &PodState) -> String {
    let is_alive = pod.init.is_some_and(|init| init.is_alive());
    match (pod.phase, &pod.trouble) {
        (PodPhase::Pending, _) => "waits for the mesh".to_owned(),
        (PodPhase::Running, Some(trouble)) if is_alive => trouble.clone(),
        (PodPhase::Running, _) if is_alive => "running".to_owned(),
        (PodPhase::Running, _) => "ended".to_owned(),
        (PodPhase::Failed, _) => format!("failed, see {}", pod.log.display()),
    }
}

fn in_mesh(pod: &PodState) -> String {
    match (pod.wanted, pod.redirection.as_str()) {
        (false, "-" | "released") => "no".to_owned(),
        (true, "enabled") => "yes".to_owned(),
        (true, "-") => "waits for the agent".to_owned(),
        (_, said) => said.to_owned(),
    }
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
