//! Which mesh a command is about, one on this machine or one on a cluster, and the doors of its node daemons. Commands
//! that ask daemons are written once, for both.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde_json::Value;

use crate::cli::{At, Cli};
use crate::cluster::client::{self, Cluster, Named};
use crate::lab::machine;
use crate::lab::state::State;
use crate::mesh::ask::{self, ADMIN_PORT};
use crate::published::REDIRECTION;

pub enum Site {
    Machine(Box<State>),
    Cluster(Cluster),
}

/// Where a command looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Machine,
    Cluster,
}

/// A node's daemon, and how it is reached.
#[derive(Clone)]
pub struct Door {
    pub node: String,
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// The daemon listens on the loopback of this network namespace.
    Netns(String),
    Pod { client: Client, namespace: String, name: String },
}

/// A pod that an operator named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// NAMESPACE/NAME.
    pub name: String,
    pub node: String,
    pub address: String,
    pub is_enrolled: bool,
}

/// A name means this machine, a kubeconfig or a context mean a cluster; without any, a mesh that runs here comes first.
pub fn choose(name: bool, cluster: bool, runs_here: bool, has_kubeconfig: bool) -> Result<Choice, &'static str> {
    match (name, cluster, runs_here, has_kubeconfig) {
        (true, true, ..) => Err("--name is for a mesh of this machine, --kubeconfig and --context are for a cluster: leave one out"),
        (true, ..) => Ok(Choice::Machine),
        (_, true, ..) => Ok(Choice::Cluster),
        (_, _, true, _) => Ok(Choice::Machine),
        (_, _, _, true) => Ok(Choice::Cluster),
        _ => Err("no mesh runs on this machine, and there is no kubeconfig: start one with `isthmus up`, or name a cluster with --kubeconfig or --context"),
    }
}

/// The choice for this command line; none for commands that are about this machine by what they do.
pub fn of_command(cli: &Cli) -> Option<anyhow::Result<Choice>> {
    let at = cli.command.at()?;
    let has_kubeconfig = std::env::var_os("KUBECONFIG").is_some()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists());
    Some(choose(cli.name.is_some(), at.names_cluster(), machine::has_mesh(), has_kubeconfig).map_err(anyhow::Error::msg))
}

impl Site {
    pub async fn find(choice: Choice, name: Option<&str>, at: &At) -> anyhow::Result<Site> {
        match choice {
            Choice::Machine => Ok(Site::Machine(Box::new(State::find(name)?))),
            Choice::Cluster => Ok(Site::Cluster(connect(at).await?)),
        }
    }

    /// All node daemons, in the order of their nodes.
    pub async fn doors(&self) -> anyhow::Result<Vec<Door>> {
        match self {
            Site::Machine(state) => Ok(Door::of_machine(state)),
            Site::Cluster(cluster) => {
                let pods: Api<Pod> = Api::all(cluster.client.clone());
                let found = pods.list(&ListParams::default().labels("app=ztunnel")).await.with_context(|| format!("{}: ztunnel's pods cannot be listed", cluster.about))?;
                let mut doors: Vec<Door> = found.items.iter().filter_map(|pod| door(cluster, pod)).collect();
                doors.sort_by(|one, other| one.node.cmp(&other.node));
                if doors.is_empty() {
                    bail!("{}: no pod of ztunnel (label app=ztunnel) is running; see `isthmus check`", cluster.about);
                }
                Ok(doors)
            }
        }
    }

    /// The pod called NAME or NAMESPACE/NAME.
    pub async fn pod(&self, given: &str, namespace: Option<&str>) -> anyhow::Result<Target> {
        match self {
            Site::Machine(state) => {
                let pod = state.pod(given)?;
                Ok(Target { name: pod.name.to_string(), node: pod.node.clone(), address: pod.addresses.v4.to_string(), is_enrolled: pod.wanted })
            }
            Site::Cluster(cluster) => {
                let (namespace, name) = given.split_once('/').unwrap_or((namespace.unwrap_or(&cluster.namespace), given));
                let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
                let found = pods.get_opt(name).await.with_context(|| format!("{}: pod {namespace}/{name} cannot be read", cluster.about))?;
                let pod = found.with_context(|| format!("there is no pod {namespace}/{name}; `kubectl get pods -n {namespace}` lists them (-n, or NAMESPACE/NAME, names another namespace)"))?;
                let is_enrolled = pod.metadata.annotations.as_ref().and_then(|all| all.get(REDIRECTION)).is_some_and(|value| value == "enabled");
                Ok(Target {
                    name: format!("{namespace}/{name}"),
                    node: pod.spec.and_then(|spec| spec.node_name).with_context(|| format!("pod {namespace}/{name} is on no node yet"))?,
                    address: pod.status.and_then(|status| status.pod_ip).with_context(|| format!("pod {namespace}/{name} has no address yet"))?,
                    is_enrolled,
                })
            }
        }
    }
}

pub async fn connect(at: &At) -> anyhow::Result<Cluster> {
    client::connect(&Named { kubeconfig: at.kubeconfig.clone(), context: at.context.clone() }).await
}

/// The door of a daemon that runs.
fn door(cluster: &Cluster, pod: &Pod) -> Option<Door> {
    let is_running = pod.status.as_ref()?.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    let way = Way::Pod { client: cluster.client.clone(), namespace: pod.metadata.namespace.clone()?, name: pod.metadata.name.clone()? };
    is_running.then_some(Door { node: pod.spec.as_ref()?.node_name.clone()?, way })
}

impl Door {
    pub fn of_machine(state: &State) -> Vec<Door> {
        state.nodes.iter().map(|node| Door { node: node.name.clone(), way: Way::Netns(node.netns.clone()) }).collect()
    }

    /// A page of the daemon, which is JSON.
    pub async fn page(&self, path: &str) -> anyhow::Result<Value> {
        let answer = match &self.way {
            Way::Netns(name) => ask::get(name, ADMIN_PORT, path).await,
            Way::Pod { client, namespace, name } => client::get(client, namespace, name, ADMIN_PORT, path).await,
        };
        serde_json::from_slice(&answer?).with_context(|| format!("what the daemon of {} answers is no JSON", self.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_names_comes_first_then_what_runs_here() {
        use Choice::{Cluster, Machine};
        for (name, cluster, runs_here, has_kubeconfig, expected) in [
            (true, false, false, true, Some(Machine)),
            (false, true, true, false, Some(Cluster)),
            (false, false, true, true, Some(Machine)),
            (false, false, false, true, Some(Cluster)),
            (false, false, false, false, None),
            (true, true, true, true, None),
        ] {
            assert_eq!(choose(name, cluster, runs_here, has_kubeconfig).ok(), expected, "{name} {cluster} {runs_here} {has_kubeconfig}");
        }
    }
}
