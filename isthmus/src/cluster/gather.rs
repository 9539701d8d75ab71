//! Gathering the facts of a cluster: lists from the API server, then a question to each node daemon and controller.
//! What the operator may not see is noted and left out.

use std::fmt::Debug;

use anyhow::Context;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::mesh::ask::ADMIN_PORT;
use crate::report::daemon::Daemon;

use super::check::{RIGHTS, Right};
use super::client::{Cluster, get};
use super::facts::{Bound, Controller, Facts, Labels, Node, Part, Pod, Rollout};
use crate::waypoint::{self, gateway};

/// Objects of one page of a list: what kubectl asks for.
const PAGE: u32 = 500;
/// Daemons that are asked at the same time.
const ASKED_AT_ONCE: usize = 16;
/// The page of `istiod-lite` for operators (spec/controlplane.md 10.2).
const CONTROLLER_PORT: u16 = 15014;
/// The config map by which the root certificates are handed out.
const ROOTS: &str = "istio-ca-root-cert";
/// Without it there are no waypoints.
const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
/// Config maps of CNI plugins with settings that do not go with others.
const CNI_SETTINGS: [(&str, &str, &str); 1] = [("kube-system", "cilium-config", "cni-exclusive")];

pub async fn gather(cluster: &Cluster) -> anyhow::Result<Facts> {
    let version = cluster.client.apiserver_version().await.with_context(|| format!("{} does not answer", cluster.about))?;
    let mut facts = Facts { about: cluster.about.clone(), server_version: version.git_version, ..Facts::default() };
    let unseen = &mut facts.unseen;
    facts.nodes = all::<core::Node>(cluster, "nodes", unseen).await?.iter().map(node).collect();
    facts.namespaces = all::<core::Namespace>(cluster, "namespaces", unseen).await?.into_iter().map(|one| (name(&one.metadata), labels(&one.metadata))).collect();
    facts.pods = all::<core::Pod>(cluster, "pods", unseen).await?.iter().map(pod).collect();
    facts.rollouts = all::<Deployment>(cluster, "deployments", unseen).await?.iter().map(deployment).collect();
    facts.rollouts.extend(all::<DaemonSet>(cluster, "daemonsets", unseen).await?.iter().map(daemon_set));
    facts.rollouts.retain(|rollout| Part::of(&rollout.labels).is_some());
    facts.crds = all::<CustomResourceDefinition>(cluster, "customresourcedefinitions", unseen).await?.iter().map(|one| name(&one.metadata)).collect();
    facts.webhooks = all::<ValidatingWebhookConfiguration>(cluster, "validatingwebhookconfigurations", unseen).await?.iter().filter(|one| is_ours(&one.metadata)).map(webhook).collect();
    facts.injectors = all::<MutatingWebhookConfiguration>(cluster, "mutatingwebhookconfigurations", unseen).await?.iter().map(|one| name(&one.metadata)).collect();
    let by_name = ListParams::default().fields(&format!("metadata.name={ROOTS}"));
    facts.with_roots = list::<core::ConfigMap>(cluster, "configmaps", by_name, unseen).await?.into_iter().filter_map(|one| one.metadata.namespace).collect();
    if facts.crds.contains(GATEWAYS) {
        facts.waypoints = dynamic(cluster, &waypoint::resource(), unseen).await?.iter().filter_map(gateway::read).collect();
    }
    let services = ApiResource { group: String::new(), version: "v1".into(), api_version: "v1".into(), kind: "Service".into(), plural: "services".into() };
    let entries = ApiResource { group: "networking.istio.io".into(), version: "v1".into(), api_version: "networking.istio.io/v1".into(), kind: "ServiceEntry".into(), plural: "serviceentries".into() };
    for (resource, is_there) in [(services, true), (entries, facts.crds.contains("serviceentries.networking.istio.io"))] {
        let found = if is_there { dynamic(cluster, &resource, unseen).await? } else { Vec::new() };
        facts.bound.extend(found.iter().filter_map(|object| bound(&resource, object, &facts.namespaces)));
    }
    for (namespace, map, key) in CNI_SETTINGS {
        let found = Api::<core::ConfigMap>::namespaced(cluster.client.clone(), namespace).get_opt(map).await.ok().flatten();
        if let Some(value) = found.and_then(|found| found.data).and_then(|data| data.get(key).cloned()) {
            facts.cni_settings.insert(format!("{namespace}/{map}"), format!("{key}={value}"));
        }
    }
    ask_parts(cluster, &mut facts).await;
    Ok(facts)
}

/// Rights of an installation that the operator lacks.
pub async fn denied(cluster: &Cluster, namespace: &str) -> anyhow::Result<Vec<Right>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let mut denied = Vec::new();
    for right in RIGHTS {
        let attributes = ResourceAttributes {
            verb: Some(right.verb.to_owned()),
            group: Some(right.group.to_owned()),
            resource: Some(right.resource.to_owned()),
            namespace: right.in_namespace.then(|| namespace.to_owned()),
            ..ResourceAttributes::default()
        };
        let question = SelfSubjectAccessReview { spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() }, ..Default::default() };
        let answer = reviews.create(&PostParams::default(), &question).await.context("the API server does not say what you may do")?;
        if !answer.status.is_some_and(|status| status.allowed) {
            denied.push(right);
        }
    }
    Ok(denied)
}

async fn all<K>(cluster: &Cluster, what: &str, unseen: &mut Vec<String>) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    list(cluster, what, ListParams::default(), unseen).await
}

async fn dynamic(cluster: &Cluster, resource: &ApiResource, unseen: &mut Vec<String>) -> anyhow::Result<Vec<DynamicObject>> {
    pages(cluster, Api::all_with(cluster.client.clone(), resource), &resource.plural, ListParams::default(), unseen).await
}

/// What became of the waypoint that a service asks for.
fn bound(resource: &ApiResource, object: &DynamicObject, namespaces: &std::collections::BTreeMap<String, Labels>) -> Option<Bound> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|one| one["type"] == "istio.io/WaypointBound")?;
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    Some(Bound {
        object: format!("{} {namespace}/{}", resource.kind.to_lowercase(), name(&object.metadata)),
        waypoint: gateway::asked(&namespace, &labels(&object.metadata), namespaces.get(&namespace)).unwrap_or_default(),
        is_bound: condition["status"] == "True",
        message: condition["message"].as_str().unwrap_or_default().to_owned(),
        namespace,
    })
}

async fn list<K>(cluster: &Cluster, what: &str, params: ListParams, unseen: &mut Vec<String>) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    pages(cluster, Api::all(cluster.client.clone()), what, params, unseen).await
}

/// All pages of a list; empty, and noted, where the operator may not see it.
async fn pages<K: Clone + Debug + DeserializeOwned>(cluster: &Cluster, api: Api<K>, what: &str, params: ListParams, unseen: &mut Vec<String>) -> anyhow::Result<Vec<K>> {
    let mut params = params.limit(PAGE);
    let mut found = Vec::new();
    loop {
        match api.list(&params).await {
            Ok(page) => {
                found.extend(page.items);
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => return Ok(found),
                }
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                unseen.push(format!("you may not list {what}"));
                return Ok(found);
            }
            Err(error) => return Err(error).with_context(|| format!("{}: {what} cannot be listed", cluster.about)),
        }
    }
}

/// Asks each node's daemon for its dump, and each controller for its streams.
async fn ask_parts(cluster: &Cluster, facts: &mut Facts) {
    let pods: Vec<(Part, Pod)> = [Part::Daemon, Part::Controller].into_iter().flat_map(|part| facts.pods_of(part).filter(|pod| pod.phase == "Running").map(move |pod| (part, pod.clone()))).collect();
    let mut asking = JoinSet::new();
    let mut waiting = pods.into_iter();
    loop {
        while asking.len() < ASKED_AT_ONCE
            && let Some((part, pod)) = waiting.next()
        {
            let client = cluster.client.clone();
            asking.spawn(async move {
                match part {
                    Part::Daemon => Said::Daemon(pod.node.clone(), pod.is_ready, page(&client, &pod, ADMIN_PORT, "/config_dump").await.map(|dump| Daemon::read(&dump))),
                    _ => Said::Controller(pod.full_name(), controller(&client, &pod).await),
                }
            });
        }
        let Some(said) = asking.join_next().await else { return };
        match said {
            // While a daemon is replaced a node has two; the one that is ready speaks for it.
            Ok(Said::Daemon(node, is_ready, daemon)) => {
                if is_ready || !facts.daemons.contains_key(&node) {
                    facts.daemons.insert(node, daemon.map_err(|error| format!("{error:#}")));
                }
            }
            Ok(Said::Controller(pod, controller)) => {
                facts.controllers.insert(pod, controller.map_err(|error| format!("{error:#}")));
            }
            Err(_) => {} // it panicked: the node shows as not asked
        }
    }
}

enum Said {
    Daemon(String, bool, anyhow::Result<Daemon>),
    Controller(String, anyhow::Result<Controller>),
}

async fn page(client: &kube::Client, pod: &Pod, port: u16, path: &str) -> anyhow::Result<Value> {
    let answer = get(client, &pod.namespace, &pod.name, port, path).await?;
    serde_json::from_slice(&answer).with_context(|| format!("what pod {} answers to {path} is no JSON", pod.full_name()))
}

async fn controller(client: &kube::Client, pod: &Pod) -> anyhow::Result<Controller> {
    let version = get(client, &pod.namespace, &pod.name, CONTROLLER_PORT, "/version").await?;
    let streams = page(client, pod, CONTROLLER_PORT, "/debug/syncz").await?;
    Ok(Controller { version: String::from_utf8_lossy(&version).trim().to_owned(), connected: connected(&streams) })
}

/// Pods of node daemons, as NAMESPACE/NAME, of `proxy` NAME.NAMESPACE.
pub fn connected(streams: &Value) -> std::collections::BTreeSet<String> {
    let proxies = streams.as_array().into_iter().flatten().filter_map(|one| one["proxy"].as_str());
    proxies.filter_map(|proxy| proxy.rsplit_once('.')).map(|(pod, namespace)| format!("{namespace}/{pod}")).collect()
}

fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

fn labels(meta: &ObjectMeta) -> Labels {
    meta.labels.clone().unwrap_or_default()
}

fn is_ours(meta: &ObjectMeta) -> bool {
    labels(meta).get("app.kubernetes.io/part-of").is_some_and(|value| value == "isthmus")
}

fn node(node: &core::Node) -> Node {
    let status = node.status.clone().unwrap_or_default();
    let is_ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    let address = status.addresses.iter().flatten().find(|one| one.type_ == "InternalIP").map(|one| one.address.clone());
    let info = status.node_info.unwrap_or_default();
    Node { name: name(&node.metadata), address: address.unwrap_or_default(), is_ready, kernel: info.kernel_version, architecture: info.architecture, os: info.operating_system }
}

fn pod(pod: &core::Pod) -> Pod {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let containers: Vec<&core::ContainerStatus> = status.container_statuses.iter().chain(&status.init_container_statuses).flatten().collect();
    Pod {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: name(&pod.metadata),
        node: spec.node_name.unwrap_or_default(),
        address: status.pod_ip.unwrap_or_default(),
        account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
        labels: labels(&pod.metadata),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        phase: status.phase.unwrap_or_default(),
        is_ready: status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True"),
        is_host_network: spec.host_network.unwrap_or_default(),
        is_leaving: pod.metadata.deletion_timestamp.is_some(),
        restarts: containers.iter().map(|one| u32::try_from(one.restart_count).unwrap_or(0)).sum(),
        trouble: containers.iter().find_map(|one| trouble(one)),
        image: spec.containers.first().and_then(|one| one.image.clone()).unwrap_or_default(),
    }
}

/// Why a container waits; that it is being made is no trouble.
fn trouble(container: &core::ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"))?;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = last.map(|ended| format!(", ended with {}", ended.exit_code)).unwrap_or_default();
    Some(format!("{reason} (container {}{ended})", container.name))
}

fn deployment(one: &Deployment) -> Rollout {
    let status = one.status.clone().unwrap_or_default();
    rollout("deployment", &one.metadata, [one.spec.as_ref().and_then(|spec| spec.replicas), status.ready_replicas, status.updated_replicas])
}

fn daemon_set(one: &DaemonSet) -> Rollout {
    let status = one.status.clone().unwrap_or_default();
    rollout("daemonset", &one.metadata, [Some(status.desired_number_scheduled), Some(status.number_ready), status.updated_number_scheduled])
}

/// `counts`: desired, ready, updated.
fn rollout(kind: &str, meta: &ObjectMeta, counts: [Option<i32>; 3]) -> Rollout {
    let [desired, ready, updated] = counts.map(|count| usize::try_from(count.unwrap_or(0)).unwrap_or(0));
    Rollout { kind: kind.to_owned(), namespace: meta.namespace.clone().unwrap_or_default(), name: name(meta), labels: labels(meta), desired, ready, updated }
}

/// Its name, and whether each of its hooks has an authority to trust.
fn webhook(one: &ValidatingWebhookConfiguration) -> (String, bool) {
    let hooks = one.webhooks.iter().flatten();
    (name(&one.metadata), hooks.clone().count() > 0 && hooks.clone().all(|hook| hook.client_config.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn streams_name_the_daemons_that_have_them() {
        let streams = json!([{"proxy": "ztunnel-abc.istio-system"}, {"proxy": "odd"}, {"cluster_id": "x"}]);
        assert_eq!(connected(&streams), ["istio-system/ztunnel-abc".to_owned()].into());
    }

    #[test]
    fn a_pod_is_read_with_the_reason_why_it_does_not_run() {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "cart", "annotations": {"ambient.istio.io/redirection": "enabled"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "r:5000/cart:1.2"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}]},
        });
        let read = pod(&serde_json::from_value(object).unwrap());
        assert_eq!((read.full_name().as_str(), read.restarts, read.is_ready, read.tag().as_str()), ("shop/cart", 3, false, "1.2"));
        assert_eq!(read.trouble.as_deref(), Some("CrashLoopBackOff (container c, ended with 1)"));
    }
}
