//! The chart by itself: what it renders, what it refuses, and that the API server takes all of it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, checks};

use super::cluster::{Cluster, chart, root};
use super::mesh::SYSTEM;

/// Sets of values, each with what it renders beside it (`UPDATE=1` writes those anew).
const SETS: [&str; 4] = ["least", "most", "nodes-only", "controller-only"];

/// Where what is rendered is tried.
const RENDERED: &str = "e2e-rendered";

/// What charts are rendered for where no cluster is asked.
const KUBERNETES: &str = "1.34.0";

pub fn checks() -> Vec<Check<Cluster>> {
    checks![the_chart_is_well_formed, it_renders_what_it_rendered, wrong_values_are_refused_with_their_names, the_api_server_takes_what_it_renders]
}

fn folder(name: &str) -> PathBuf {
    root().join("e2e/tests/kube").join(name)
}

fn render(cluster: &Cluster, set: &str, namespace: &str, more: &[&str]) -> Result<String> {
    let (chart, values) = (chart().display().to_string(), folder("values").join(format!("{set}.yaml")).display().to_string());
    cluster.helm(&[&["template", "isthmus", &chart, "-n", namespace, "--kube-version", KUBERNETES, "-f", &values], more].concat())
}

fn the_chart_is_well_formed(cluster: &Cluster) -> Result<()> {
    let chart = chart().display().to_string();
    SETS.iter().try_for_each(|set| {
        let values = folder("values").join(format!("{set}.yaml")).display().to_string();
        cluster.helm(&["lint", "--strict", &chart, "-f", &values]).map(drop)
    })
}

/// CRDs are left out of the pictures: they are made from our types and compared where those are.
fn it_renders_what_it_rendered(cluster: &Cluster) -> Result<()> {
    for set in SETS {
        let rendered = render(cluster, set, SYSTEM, &["--set", "crds.install=false"])?;
        let file = folder("rendered").join(format!("{set}.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &rendered)?;
        }
        let before = std::fs::read_to_string(&file).with_context(|| format!("{} is not there: UPDATE=1 writes it", file.display()))?;
        let differs = before.lines().zip(rendered.lines()).enumerate().find(|(_, (before, now))| before != now);
        if let Some((at, (before, now))) = differs {
            anyhow::bail!("{}:{}: was {before:?}, is {now:?} (UPDATE=1 takes it)", file.display(), at + 1);
        }
        ensure!(before.len() == rendered.len(), "{}: another length (UPDATE=1 takes it)", file.display());
    }
    Ok(())
}

fn wrong_values_are_refused_with_their_names(cluster: &Cluster) -> Result<()> {
    let chart = chart().display().to_string();
    let said_of = |values: &str| -> Result<String> {
        refused(cluster.helm(&["template", "x", &chart, "--kube-version", KUBERNETES, "--set", values])).with_context(|| values.to_owned())
    };
    // Without a hub nothing can be pulled.
    let said = said_of("logAsJson=true")?;
    ensure!(said.contains("hub"), "without a hub: {said}");
    for (value, named) in [
        ("image.hub=registry.example/", "hub"),
        ("image.hub=https://registry.example", "hub"),
        ("image.tag=a b", "tag"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("logLevel=loud", "logLevel"),
        ("logLevel=ztunnel=debug\\,loud", "logLevel"),
        ("ztunel.enabled=false", "ztunel"),
        ("ztunnel.enable=false", "enable"),
        ("ztunnel.enabled=maybe", "enabled"),
        ("ztunnel.xdsAddress=istiod", "xdsAddress"),
        ("ztunnel.terminationGracePeriodSeconds=0", "terminationGracePeriodSeconds"),
        ("ztunnel.updateStrategy.type=Slowly", "type"),
        ("ztunnel.updateStrategy.rollingUpdate.maxSurge=0", "updateStrategy"),
        ("istiod.replicas=0", "replicas"),
        ("istiod.trustedNodeAccounts={ztunnel}", "trustedNodeAccounts"),
        ("cluster.ranges={10.244.0.0}", "ranges"),
        ("cluster.ranges={10.0.0.0/8,nonsense}", "ranges"),
        ("cluster.name=a/b", "name"),
        ("cluster.trustDomain=Corp.Example", "trustDomain"),
        ("cni.binDir=opt/cni", "binDir"),
        ("cni.excludeNamespaces=kube-system", "excludeNamespaces"),
        ("cni.env.A-B=1", "env"),
        ("cni.resources.request.cpu=1", "request"),
        ("monitoring.podMonitor.interval=often", "interval"),
    ] {
        let said = said_of(&format!("image.hub=a/b,{value}"))?;
        ensure!(said.contains(named), "{value}: {said}");
    }
    let said = said_of("image.hub=a/b,istiod.enabled=false")?;
    ensure!(said.contains("xdsAddress"), "node components without a controller: {said}");
    Ok(())
}

fn refused(answer: Result<String>) -> Result<String> {
    match answer {
        Ok(_) => anyhow::bail!("it was taken"),
        Err(error) => Ok(error.to_string()),
    }
}

/// Server side: the API server's own validation, without making anything.
fn the_api_server_takes_what_it_renders(cluster: &Cluster) -> Result<()> {
    // In a namespace of its own it meets no release that is there: some fields can never be changed.
    cluster.namespace(RENDERED, &[])?;
    for set in SETS {
        // The Prometheus operator's kinds are not there.
        let rendered = render(cluster, set, RENDERED, &["--set", "monitoring.podMonitor.enabled=false"])?;
        cluster.feed(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], &rendered).context(set)?;
    }
    cluster.kubectl(&["delete", "namespace", RENDERED, "--wait=false"])?;
    Ok(())
}
