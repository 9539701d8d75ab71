//! Open connections, from the daemons' dumps (`/config_dump`, spec/dataplane.md 8.3). `open` is pure.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use crate::cli::{Format, Output};
use crate::say;
use crate::site::{Choice, Site};
use crate::status::table;

/// A connection of a pod, as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    pub node: String,
    pub pod: String,
    pub direction: &'static str,
    pub source: String,
    pub source_identity: Option<String>,
    pub destination: String,
    pub destination_identity: Option<String>,
    pub service: Option<String>,
    pub encrypted: bool,
}

/// `isthmus connections`.
pub async fn connections(choice: Choice, mesh: &Option<String>, options: &Output) -> anyhow::Result<ExitCode> {
    let site = Site::find(choice, mesh.as_deref(), &options.at).await?;
    let mut all = Vec::new();
    let mut unasked = 0;
    for door in site.doors().await? {
        match door.page("/config_dump").await {
            Ok(dump) => all.extend(open(&door.node, &dump)),
            // The others are worth seeing.
            Err(error) => {
                say::warning(&format!("node {}: {error:#}", door.node));
                unasked += 1;
            }
        }
    }
    let of_namespace = |one: &Open| options.at.namespace.as_ref().is_none_or(|namespace| one.pod.split_once('/').is_some_and(|(of, _)| of == namespace));
    all.retain(of_namespace);
    // The daemons list pods in no order that means something.
    all.sort_by(|one, other| (&one.pod, one.direction, &one.source).cmp(&(&other.pod, other.direction, &other.source)));
    match options.output {
        Format::Json => say::out(serde_json::to_string_pretty(&all)?),
        Format::Table => {
            let mut shown = table(["POD", "DIRECTION", "SOURCE", "DESTINATION", "SERVICE", "ENCRYPTED"]);
            for one in &all {
                let party = |address: &str, identity: &Option<String>| identity.as_deref().and_then(super::traffic::identity).map_or(address.to_owned(), |identity| format!("{identity} {address}"));
                shown.add_row([
                    one.pod.clone(),
                    one.direction.to_owned(),
                    party(&one.source, &one.source_identity),
                    party(&one.destination, &one.destination_identity),
                    one.service.clone().unwrap_or_else(|| "-".to_owned()),
                    if one.encrypted { "mTLS" } else { "no" }.to_owned(),
                ]);
            }
            say::out(shown.trim_fmt());
        }
    }
    if all.is_empty() && unasked == 0 {
        say::line("no connection is open");
    }
    Ok(if unasked == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The connections in a node's dump.
pub fn open(node: &str, dump: &Value) -> Vec<Open> {
    let known = Known { identities: identities(dump), services: services(dump) };
    let mut found = Vec::new();
    for pod in dump["workloadState"].as_object().into_iter().flat_map(|pods| pods.values()) {
        let name = format!("{}/{}", text(&pod["info"]["namespace"]), text(&pod["info"]["name"]));
        for direction in ["inbound", "outbound"] {
            for one in pod["connections"][direction].as_array().into_iter().flatten() {
                found.push(connection(node, &name, direction, one, &known));
            }
        }
    }
    found
}

fn connection(node: &str, pod: &str, direction: &'static str, one: &Value, known: &Known) -> Open {
    let (source, destination) = (text(&one["src"]), text(&one["actualDst"]));
    let encrypted = text(&one["protocol"]).ends_with("HBONE");
    // Without a certificate an address is no identity.
    let of = |address: &str| known.identities.get(ip(address)).filter(|_| encrypted).cloned();
    Open {
        node: node.to_owned(),
        pod: pod.to_owned(),
        direction,
        source_identity: of(&source),
        destination_identity: of(&destination),
        service: one["originalDst"].as_str().filter(|original| *original != destination).map(|original| known.service(original)),
        source,
        destination,
        encrypted,
    }
}

/// What the node knows, by address.
struct Known {
    identities: BTreeMap<String, String>,
    services: BTreeMap<String, String>,
}

impl Known {
    /// The hostname of a service address; anything else as it is.
    fn service(&self, original: &str) -> String {
        self.services.get(ip(original)).cloned().unwrap_or_else(|| original.to_owned())
    }
}

/// Hostname by service address, which a dump writes as NETWORK/IP.
fn services(dump: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for service in dump["services"].as_array().into_iter().flatten() {
        for vip in service["vips"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            found.insert(vip.rsplit('/').next().unwrap_or(vip).to_owned(), text(&service["hostname"]));
        }
    }
    found
}

/// Identity by address, of every workload that the node knows.
fn identities(dump: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for workload in dump["workloads"].as_array().into_iter().flatten() {
        let domain = workload["trustDomain"].as_str().unwrap_or("cluster.local");
        let account = workload["serviceAccount"].as_str().unwrap_or("default");
        let identity = format!("spiffe://{domain}/ns/{}/sa/{account}", text(&workload["namespace"]));
        for ip in workload["workloadIps"].as_array().into_iter().flatten() {
            found.insert(text(ip), identity.clone());
        }
    }
    found
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `10.0.0.1` of `10.0.0.1:80`, `fd10::1` of `[fd10::1]:80`.
fn ip(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(ip, _)| ip).trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn connections_bear_identities_only_where_they_are_proven() {
        let dump = json!({
            "workloads": [
                {"workloadIps": ["10.1.0.9", "fd10::9"], "namespace": "lab", "serviceAccount": "shop", "trustDomain": "cluster.local"},
                {"workloadIps": ["10.1.0.17"], "namespace": "lab", "serviceAccount": "cart"},
            ],
            "services": [{"hostname": "shop.lab.svc.cluster.local", "vips": ["/fd10:96::1"]}],
            "workloadState": {"uid": {"state": "Up", "info": {"name": "cart-7c", "namespace": "lab", "serviceAccount": "cart"}, "connections": {
                "inbound": [
                    {"src": "[fd10::9]:40112", "originalDst": "cart.lab.svc.cluster.local", "actualDst": "10.1.0.17:8080", "protocol": "HBONE"},
                    {"src": "10.1.0.9:1", "originalDst": null, "actualDst": "10.1.0.17:8080", "protocol": "TCP"},
                ],
                "outbound": [{"src": "10.1.0.17:2", "originalDst": "[fd10:96::1]:80", "actualDst": "10.1.0.9:15008", "protocol": "HBONE"}]}}, "pending": {"state": "Pending", "info": {}}},
        });
        let found = open("n1", &dump);
        assert_eq!(found.len(), 3);
        assert_eq!(found[2].service.as_deref(), Some("shop.lab.svc.cluster.local"));
        assert_eq!(found[0].source_identity.as_deref(), Some("spiffe://cluster.local/ns/lab/sa/shop"));
        assert_eq!(found[0].service.as_deref(), Some("cart.lab.svc.cluster.local"));
        assert_eq!((found[1].source_identity.as_deref(), found[1].encrypted), (None, false));
    }
}
