//! `isthmus waypoint`: the waypoints of a cluster, made, looked at and removed (spec/controlplane.md 6.5). A waypoint is a
//! Gateway of the class istio-waypoint; the controller deploys it, these commands only write and read that object.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cli::{At, Format, WaypointApply, WaypointCommand, WaypointDelete, WaypointList, WaypointShape, WaypointStatus};
use crate::cluster::client::Cluster;
use crate::site::connect;
use crate::status::table;
use crate::{say, waypoint};

pub mod gateway;
pub mod lab;

use gateway::{Condition, USE, Waypoint};

/// Who writes Gateways, in the API server's books.
const FIELD_MANAGER: &str = "isthmus";
/// Between two looks at a Gateway that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// `name`: of the waypoint.
pub async fn run(name: Option<String>, command: &WaypointCommand) -> anyhow::Result<ExitCode> {
    let name = name.as_deref().unwrap_or(gateway::NAME);
    match command {
        WaypointCommand::Generate(shape) => {
            let object = gateway::object(name, shape.at.namespace.as_deref(), shape.traffic.map(|traffic| traffic.label()), shape.revision.as_deref())?;
            say::out(gateway::yaml(&object));
            Ok(ExitCode::SUCCESS)
        }
        WaypointCommand::Apply(options) => apply(name, options).await,
        WaypointCommand::Delete(options) => delete(options).await,
        WaypointCommand::List(options) => list(options).await,
        WaypointCommand::Status(options) => status(options).await,
    }
}

pub fn resource() -> ApiResource {
    ApiResource { group: "gateway.networking.k8s.io".into(), version: "v1".into(), api_version: gateway::API_VERSION.into(), kind: "Gateway".into(), plural: "gateways".into() }
}

/// The namespace that is meant, where one is.
async fn place(at: &At) -> anyhow::Result<(Cluster, String)> {
    let cluster = connect(at).await?;
    let namespace = at.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
    Ok((cluster, namespace))
}

async fn apply(name: &str, options: &WaypointApply) -> anyhow::Result<ExitCode> {
    let WaypointShape { at, traffic, revision } = &options.shape;
    let (cluster, namespace) = place(at).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let found = namespaces.get_opt(&namespace).await.with_context(|| format!("{}: namespace {namespace} cannot be read", cluster.about))?;
    let found = found.with_context(|| format!("there is no namespace {namespace}; `kubectl create namespace {namespace}` makes it, -n names another"))?;
    if options.enroll {
        let used = found.labels().get(USE).filter(|used| !used.is_empty());
        if let Some(used) = used.filter(|_| !options.overwrite) {
            say::warning(&format!("namespace {namespace} uses waypoint {used:?} already; nothing is changed (--overwrite has it use {name:?})"));
            return Ok(ExitCode::SUCCESS);
        }
        if found.labels().get("istio.io/dataplane-mode").map(String::as_str) != Some("ambient") {
            say::warning(&format!("namespace {namespace} is not in the mesh, so nothing goes through its waypoint yet: kubectl label namespace {namespace} istio.io/dataplane-mode=ambient"));
        }
    }
    let object = gateway::object(name, Some(&namespace), traffic.map(|traffic| traffic.label()), revision.as_deref())?;
    let gateways: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &namespace, &resource());
    match gateways.patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&object)).await {
        Ok(_) => say::line(&format!("waypoint {namespace}/{name} applied")),
        Err(error) => return Err(missing(&cluster, error)).with_context(|| format!("waypoint {namespace}/{name} cannot be applied")),
    }
    if options.wait {
        let is_this = |waypoint: &Waypoint| waypoint.name == name;
        let waited = wait(&gateways, is_this, options.timeout).await?;
        if let Some(late) = waited.iter().find(|waypoint| !waypoint.is_programmed()) {
            bail!("waypoint {namespace}/{name} is not ready after {} s: {}; `isthmus status -n {namespace}` says more", options.timeout, late.why());
        }
        say::line(&format!("waypoint {namespace}/{name} is ready"));
    }
    if options.enroll {
        let labels = json!({ "metadata": { "labels": { USE: name } } });
        namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(labels)).await.with_context(|| format!("namespace {namespace} cannot be labelled {USE}={name}"))?;
        say::line(&format!("namespace {namespace} labelled {USE}={name}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A cluster that does not know Gateways says only that something is not found.
fn missing(cluster: &Cluster, error: kube::Error) -> anyhow::Error {
    match &error {
        kube::Error::Api(status) if status.code == 404 => anyhow::anyhow!("{} has no CRDs of the Gateway API (gateway.networking.k8s.io/v1): install its standard channel, see `isthmus check`", cluster.about),
        _ => anyhow::Error::new(error),
    }
}

async fn all(cluster: &Cluster, namespace: Option<&str>) -> anyhow::Result<Vec<Waypoint>> {
    let resource = resource();
    let gateways: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    };
    found(&gateways).await.map_err(|error| missing(cluster, error))
}

async fn found(gateways: &Api<DynamicObject>) -> kube::Result<Vec<Waypoint>> {
    let mut found: Vec<Waypoint> = gateways.list(&ListParams::default()).await?.items.iter().filter_map(waypoint::gateway::read).collect();
    found.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok(found)
}

/// Looks until all of these are programmed, or the time is over.
async fn wait(gateways: &Api<DynamicObject>, of: impl Fn(&Waypoint) -> bool, seconds: u64) -> anyhow::Result<Vec<Waypoint>> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let mut waypoints = found(gateways).await?;
        waypoints.retain(&of);
        let is_done = !waypoints.is_empty() && waypoints.iter().all(Waypoint::is_programmed);
        if is_done || Instant::now() >= end {
            return Ok(waypoints);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn delete(options: &WaypointDelete) -> anyhow::Result<ExitCode> {
    if options.names.is_empty() && !options.all && options.revision.is_none() {
        bail!("which waypoints? name them, or --all, or --revision");
    }
    let (cluster, namespace) = place(&options.at).await?;
    let there = all(&cluster, Some(&namespace)).await?;
    let gateways: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &namespace, &resource());
    let is_meant = |waypoint: &&Waypoint| match options.names.is_empty() {
        true => options.revision.as_ref().is_none_or(|revision| *revision == waypoint.revision),
        false => options.names.contains(&waypoint.name),
    };
    for name in options.names.iter().filter(|name| !there.iter().any(|waypoint| waypoint.name == **name)) {
        say::warning(&format!("there is no waypoint {namespace}/{name}"));
    }
    for waypoint in there.iter().filter(is_meant) {
        gateways.delete(&waypoint.name, &DeleteParams::default()).await.with_context(|| format!("waypoint {namespace}/{} cannot be deleted", waypoint.name))?;
        say::line(&format!("waypoint {namespace}/{} deleted", waypoint.name));
    }
    if there.iter().filter(is_meant).count() == 0 && options.names.is_empty() {
        say::line("No waypoints found.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(options: &WaypointList) -> anyhow::Result<ExitCode> {
    let (cluster, namespace) = place(&options.at).await?;
    let waypoints = all(&cluster, (!options.at.all_namespaces).then_some(&namespace)).await?;
    show(&waypoints, options.output, options.at.all_namespaces, ["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"], |waypoint| {
        let programmed = if waypoint.is_programmed() { "True" } else { "False" };
        vec![[waypoint.name.clone(), waypoint.revision.clone(), waypoint.traffic.clone(), programmed.to_owned()]]
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn status(options: &WaypointStatus) -> anyhow::Result<ExitCode> {
    let (cluster, namespace) = place(&options.at).await?;
    let of = (!options.at.all_namespaces).then_some(namespace.as_str());
    let mut waypoints = all(&cluster, of).await?;
    if options.wait && !waypoints.is_empty() {
        let gateways: Api<DynamicObject> = match of {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource()),
            None => Api::all_with(cluster.client.clone(), &resource()),
        };
        waypoints = wait(&gateways, |_| true, options.timeout).await?;
    }
    show(&waypoints, options.output, options.at.all_namespaces, ["NAME", "STATUS", "TYPE", "REASON", "MESSAGE"], |waypoint| {
        let row = |condition: &Condition| [waypoint.name.clone(), condition.status.clone(), condition.kind.clone(), condition.reason.clone(), condition.message.clone()];
        waypoint.telling().iter().map(row).collect()
    })?;
    Ok(if waypoints.iter().all(Waypoint::is_programmed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show<const N: usize>(waypoints: &[Waypoint], output: Format, with_namespace: bool, head: [&str; N], rows: impl Fn(&Waypoint) -> Vec<[String; N]>) -> anyhow::Result<()> {
    if output == Format::Json {
        say::out(serde_json::to_string_pretty(waypoints)?);
        return Ok(());
    }
    if waypoints.is_empty() {
        say::line("No waypoints found.");
        return Ok(());
    }
    let head: Vec<&str> = with_namespace.then_some("NAMESPACE").into_iter().chain(head).collect();
    let mut shown = table::<0>([]);
    shown.set_header(head);
    for waypoint in waypoints {
        for row in rows(waypoint) {
            shown.add_row(with_namespace.then(|| waypoint.namespace.clone()).into_iter().chain(row));
        }
    }
    say::out(shown.trim_fmt());
    Ok(())
}
