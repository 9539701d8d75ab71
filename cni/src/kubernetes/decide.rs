//! Pure: whether a pod of this node is to be in the mesh (spec/dataplane.md 4.4, spec/controlplane.md 7.3).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use crate::pod::{DATAPLANE_MODE, SIDECAR_STATUS};

/// On the API server's image of a pod that the kubelet has from a file: what the kubelet calls that pod.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Values of the label `app` of the mesh's own pods.
const OWN_APPS: [&str; 3] = ["ztunnel", "mesh-cni", "istiod"];

pub type Labels = BTreeMap<String, String>;

/// What the API server says of a pod, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub uid: String,
    /// What the kubelet and the runtime call it; another than `uid` for a pod from a file of the kubelet's.
    pub runtime_uid: String,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub labels: Labels,
    pub annotations: BTreeMap<String, String>,
    pub host_network: bool,
    /// Sorted; empty until its sandbox is there.
    pub ips: Vec<IpAddr>,
    /// Its processes have ended for good.
    pub terminal: bool,
}

impl Facts {
    /// `None` for an object without name or uid, which no API server sends.
    pub fn of(pod: &v1::Pod) -> Option<Facts> {
        let meta = &pod.metadata;
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let addresses = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let first = status.and_then(|status| status.pod_ip.as_ref());
        let ips: BTreeSet<IpAddr> = addresses.map(|one| &one.ip).chain(first).filter_map(|ip| ip.parse().ok()).collect();
        let phase = status.and_then(|status| status.phase.as_deref());
        let account = spec.and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
        let uid = meta.uid.clone()?;
        let of_file = meta.annotations.as_ref().and_then(|all| all.get(CONFIG_HASH)).cloned();
        Some(Facts {
            runtime_uid: of_file.unwrap_or_else(|| uid.clone()),
            uid,
            name: meta.name.clone()?,
            namespace: meta.namespace.clone()?,
            service_account: account.unwrap_or_else(|| "default".to_owned()),
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            ips: ips.into_iter().collect(),
            terminal: matches!(phase, Some("Succeeded" | "Failed")),
        })
    }
}

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Selection {
    pub selectors: Vec<Selector>,
    /// Namespaces of which no pod is ever enrolled.
    pub excluded: BTreeSet<String>,
    /// The mesh's own namespace, of which its own pods are not.
    pub mesh: String,
}

/// Both must match.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default)]
    pub pod_selector: LabelSelector,
    #[serde(default)]
    pub namespace_selector: LabelSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Enrol,
    LeaveOut(Why),
}

/// Why a pod is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    HostNetwork,
    Sidecar,
    Excluded,
    /// It is of the mesh itself.
    Own,
    Terminal,
    NotSelected,
    /// The mesh is being removed.
    Leaving,
}

/// The field's two selectors: the pod's own label; or its namespace's, unless the pod says `none`.
pub const DEFAULT_SELECTORS: &str = "\
- podSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
- podSelector:
    matchExpressions:
    - {key: istio.io/dataplane-mode, operator: NotIn, values: [none]}
  namespaceSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
";

impl Selection {
    /// `selectors`: YAML, as in `AMBIENT_ENABLEMENT_SELECTOR`; empty for the default. `mesh`: the mesh's own namespace.
    ///
    /// # Errors
    /// What in it cannot be understood: a selector that is dropped in silence would leave pods out of the mesh.
    pub fn parse(selectors: &str, excluded: impl IntoIterator<Item = String>, mesh: &str) -> Result<Selection, String> {
        let text = if selectors.trim().is_empty() { DEFAULT_SELECTORS } else { selectors };
        let selectors: Vec<Selector> = serde_saphyr::from_str(text).map_err(|error| {
            format!("the selectors of pods are no list of podSelector and namespaceSelector: {error}")
        })?;
        let expressions = selectors.iter().flat_map(|one| [&one.pod_selector, &one.namespace_selector]);
        for one in expressions.flat_map(|selector| selector.match_expressions.iter().flatten()) {
            if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&one.operator.as_str()) {
                return Err(format!("the selectors of pods: operator {:?} is none of In, NotIn, Exists, DoesNotExist", one.operator));
            }
        }
        Ok(Selection { selectors, excluded: excluded.into_iter().collect(), mesh: mesh.to_owned() })
    }

    /// `namespace`: its labels.
    pub fn decide(&self, pod: &Facts, namespace: &Labels) -> Decision {
        let selected = |one: &Selector| matches(&one.pod_selector, &pod.labels) && matches(&one.namespace_selector, namespace);
        let why = if pod.host_network {
            Why::HostNetwork
        } else if self.excluded.contains(&pod.namespace) {
            Why::Excluded
        } else if pod.namespace == self.mesh && pod.labels.get("app").is_some_and(|app| OWN_APPS.contains(&app.as_str())) {
            Why::Own
        } else if pod.annotations.contains_key(SIDECAR_STATUS) {
            Why::Sidecar
        } else if pod.terminal {
            Why::Terminal
        } else if !self.selectors.iter().any(selected) {
            Why::NotSelected
        } else {
            return Decision::Enrol;
        };
        Decision::LeaveOut(why)
    }
}

/// What the pod's life is told of its label: the decision, which is about the namespace too, was made here.
pub fn mode(decision: Decision) -> Labels {
    let mode = if decision == Decision::Enrol { "ambient" } else { "none" };
    BTreeMap::from([(DATAPLANE_MODE.to_owned(), mode.to_owned())])
}

/// An empty selector matches everything, as in Kubernetes.
fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|one| {
            let value = labels.get(&one.key);
            let listed = value.is_some_and(|value| one.values.iter().flatten().any(|listed| listed == value));
            match one.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(), // DoesNotExist; others were refused when they were read
            }
        })
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::HostNetwork => "hostNetwork: it is in the node's own network namespace",
            Why::Sidecar => "it has a sidecar, which captures its traffic already",
            Why::Excluded => "its namespace is excluded",
            Why::Own => "it is one of the mesh itself, which others need to be in the mesh",
            Why::Terminal => "it has ended",
            Why::Leaving => "the mesh is being removed",
            Why::NotSelected => "neither its label nor its namespace's asks for it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn mode(value: &str) -> Labels {
        if value == "-" { Labels::new() } else { labels(&format!("{DATAPLANE_MODE}={value}")) }
    }

    #[test]
    fn who_is_enrolled() {
        let selection = Selection::parse("", ["kube-system".to_owned()], "istio-system").unwrap();
        use Decision::{Enrol, LeaveOut};
        for (namespace, pod, expected) in [
            ("-", "-", LeaveOut(Why::NotSelected)),
            ("ambient", "-", Enrol),
            ("ambient", "none", LeaveOut(Why::NotSelected)),
            ("ambient", "ambient", Enrol),
            ("ambient", "other", Enrol),
            ("-", "ambient", Enrol),
            ("-", "none", LeaveOut(Why::NotSelected)),
            ("none", "-", LeaveOut(Why::NotSelected)),
            ("none", "ambient", Enrol), // on a namespace `none` is the same as nothing
        ] {
            let facts = Facts { namespace: "shop".into(), labels: mode(pod), ..Facts::default() };
            assert_eq!(selection.decide(&facts, &mode(namespace)), expected, "namespace {namespace}, pod {pod}");
        }
        let asks = Facts { namespace: "shop".into(), labels: mode("ambient"), ..Facts::default() };
        let sidecar = BTreeMap::from([(SIDECAR_STATUS.to_owned(), "{}".to_owned())]);
        for (facts, why) in [
            (Facts { host_network: true, ..asks.clone() }, Why::HostNetwork),
            (Facts { annotations: sidecar, ..asks.clone() }, Why::Sidecar),
            (Facts { terminal: true, ..asks.clone() }, Why::Terminal),
            (Facts { namespace: "kube-system".into(), ..asks.clone() }, Why::Excluded),
            (Facts { namespace: "istio-system".into(), labels: labels("app=ztunnel istio.io/dataplane-mode=ambient"), ..asks.clone() }, Why::Own),
        ] {
            assert_eq!(selection.decide(&facts, &mode("ambient")), LeaveOut(why));
        }
        for (namespace, app) in [("istio-system", "gateway"), ("shop", "ztunnel")] {
            let facts = Facts { namespace: namespace.into(), labels: labels(&format!("app={app}")), ..asks.clone() };
            assert_eq!(selection.decide(&facts, &mode("ambient")), Enrol, "{namespace} {app}");
        }
    }

    #[test]
    fn operators_select_in_their_own_way() {
        let text = "
- podSelector: {matchLabels: {mesh: 'on'}}
- namespaceSelector:
    matchExpressions:
    - {key: team, operator: In, values: [a, b]}
    - {key: legacy, operator: DoesNotExist}
  podSelector:
    matchExpressions: [{key: app, operator: Exists}]
";
        let selection = Selection::parse(text, [], "istio-system").unwrap();
        for (namespace, pod, enrolled) in [
            ("", "mesh=on", true),
            ("team=a", "app=x", true),
            ("team=a", "", false),
            ("team=c", "app=x", false),
            ("team=b legacy=1", "app=x", false),
            ("", &format!("{DATAPLANE_MODE}=ambient"), false),
        ] {
            let facts = Facts { labels: labels(pod), ..Facts::default() };
            assert_eq!(selection.decide(&facts, &labels(namespace)) == Decision::Enrol, enrolled, "{namespace:?} {pod:?}");
        }
        for wrong in ["podSelector: {}", "- {podselector: {}}", "- podSelector: {matchExpressions: [{key: a, operator: Near}]}"] {
            assert!(Selection::parse(wrong, [], "istio-system").is_err(), "{wrong}");
        }
    }

    #[test]
    fn facts_come_from_the_object() {
        let object = serde_json::json!({
            "metadata": {"name": "cart-1", "namespace": "shop", "uid": "u1", "labels": {"app": "cart"}},
            "spec": {"serviceAccountName": "cart", "containers": []},
            "status": {"phase": "Failed", "podIP": "10.0.0.5", "podIPs": [{"ip": "fd00::5"}, {"ip": "10.0.0.5"}]},
        });
        let facts = Facts::of(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!((facts.service_account.as_str(), facts.terminal, facts.host_network), ("cart", true, false));
        assert_eq!(facts.runtime_uid, "u1");
        assert_eq!(facts.ips, ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        let of_file = serde_json::json!({"metadata": {"name": "a", "namespace": "b", "uid": "u1", "annotations": {CONFIG_HASH: "9f86"}}});
        assert_eq!(Facts::of(&serde_json::from_value(of_file).unwrap()).unwrap().runtime_uid, "9f86");
        assert_eq!(Facts::of(&v1::Pod::default()), None);
    }
}
