//! Who calls: a bearer token, checked with the public key of this mesh or by the cluster's API server. The same answer
//! opens discovery and the authority (design decision 15: scope comes from the token, not from what a client says of itself).
//!
//! Client certificates are not taken as proof here: a stolen one could renew itself for ever, a token ends in an hour.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_identity::Clock;
use mesh_identity::impersonate::{Caller, Proof, Rules};
use mesh_identity::token::{Subject, Verifier};
use mesh_runtime::Watched;
use mesh_xds::messages::waypoint::{EVERY_WAYPOINT, audience, audience_of_class};
use mesh_xds::{Account, Authenticate, Scope};
use tokio::time::Instant;
use tonic::Status;

use super::placements::Placements;
use super::review::Reviews;

/// Who says whether a token is good.
#[derive(Debug)]
pub enum Tokens {
    /// A machine without Kubernetes: tokens of our own, bound to a pod or a node.
    Ours(Verifier),
    /// The API server. Its tokens are bound to a pod, and the pod says the node.
    Cluster(Reviews),
}

/// Everything that telling callers apart needs.
pub struct Authn {
    pub tokens: Tokens,
    /// Callers that say they are of another one are refused.
    pub cluster_id: String,
    pub rules: Rules,
    /// Accounts of machines: each may see the whole mesh, and speaks for nobody but itself.
    pub machines: Vec<(String, String)>,
    pub placements: Watched<Placements>,
    pub clock: Arc<dyn Clock>,
}

/// A caller, and until when its token holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub caller: Caller,
    pub node: Option<Arc<str>>,
    pub expires: SystemTime,
}

/// Why a caller is not believed; for our log, the caller learns only that it was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(pub String);

impl fmt::Debug for Authn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authn").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Authn {
    /// `cluster`: the cluster that the caller says it is of.
    pub async fn token(&self, token: &str, cluster: Option<&str>) -> Result<Known, Unknown> {
        if let Some(other) = cluster.filter(|cluster| *cluster != self.cluster_id) {
            return Err(Unknown(format!("the caller is of cluster {other:?}, this is {:?}", self.cluster_id)));
        }
        let now = self.clock.now();
        let (subject, expires) = match &self.tokens {
            Tokens::Ours(verifier) => verifier.verify_until(token, now).map_err(|error| Unknown(error.to_string()))?,
            Tokens::Cluster(reviews) => reviews.subject(token, now).await?,
        };
        self.placements.with(|placements| known(subject, expires, placements, &self.tokens))
    }

    /// Whether a caller is a node's daemon or a machine's: they may see the whole mesh.
    fn sees_everything(&self, caller: &Caller) -> bool {
        let mut accounts = self.rules.trusted.iter().chain(&self.machines);
        accounts.any(|(namespace, account)| *namespace == caller.namespace && *account == caller.service_account)
    }

    fn scope(&self, known: Known) -> Scope {
        let left = known.expires.duration_since(self.clock.now()).unwrap_or_default();
        let policies = self.sees_everything(&known.caller);
        let waypoints = self.placements.with(|placements| placements.waypoints(&known.caller.namespace, &known.caller.service_account).cloned());
        let own = waypoints.iter().flat_map(|waypoints| waypoints.gateways.iter()).flat_map(|(gateway, class)| [audience(&gateway.namespace, &gateway.name).into(), audience_of_class(class).into()]);
        let audiences: Vec<Arc<str>> = waypoints.iter().map(|_| EVERY_WAYPOINT.into()).chain(own).collect();
        Scope {
            all_addresses: policies || waypoints.is_some(),
            policies,
            account: Some(Account { namespace: known.caller.namespace.into(), service_account: known.caller.service_account.into() }),
            node: known.node,
            audiences,
            expires: Some(Instant::now() + left),
            // A node daemon that runs as a waypoint's account stays what it is without the waypoint.
            revoked: waypoints.filter(|_| !policies).map(|waypoints| waypoints.changed).unwrap_or_default(),
        }
    }
}

/// What a verified token means. A pod that it names and that we know must be the same one. A pod that we do not know may
/// be a node daemon of a machine without Kubernetes, then the token's node counts. In a cluster it was deleted, or was made
/// a moment ago and its client tries again.
fn known(subject: Subject, expires: SystemTime, placements: &Placements, tokens: &Tokens) -> Result<Known, Unknown> {
    let account = subject.service_account.name;
    let pod = subject.pod.as_ref().and_then(|pod| placements.find(&subject.namespace, &pod.name));
    if let (Some(told), Some(pod)) = (&subject.pod, pod) {
        let shown = pod.meta.ns_name();
        // A pod of a folder has no uid unless somebody wrote one.
        if !pod.meta.uid.is_empty() && *told.uid != *pod.meta.uid {
            return Err(Unknown(format!("the token is of an earlier pod {shown}")));
        }
        if *account != *pod.service_account {
            return Err(Unknown(format!("pod {shown} runs as another service account than its token says")));
        }
        if subject.node.as_ref().is_some_and(|node| *node.name != *pod.node && !pod.node.is_empty()) {
            return Err(Unknown(format!("pod {shown} is on another node than its token says")));
        }
    }
    if let (Some(told), None, Tokens::Cluster(_)) = (&subject.pod, pod, tokens) {
        return Err(Unknown(format!("the caller's pod {}/{} is not known (yet)", subject.namespace, told.name)));
    }
    let proof = match (&subject.node, &subject.pod, tokens) {
        (Some(node), _, Tokens::Ours(_)) => Proof::Node { name: node.name.clone() },
        (_, Some(pod), _) => Proof::Pod { name: pod.name.clone(), uid: pod.uid.clone() },
        (_, None, _) => Proof::Unbound,
    };
    let node = subject.node.map(|node| node.name.into()).or_else(|| pod.map(|pod| pod.node.clone()).filter(|node| !node.is_empty()));
    Ok(Known { caller: Caller { namespace: subject.namespace, service_account: account, proof }, node, expires })
}

/// Discovery asks with the headers of a call.
#[derive(Debug)]
pub struct DiscoveryAuthn(pub Arc<Authn>);

impl Authenticate for DiscoveryAuthn {
    fn authenticate<'a>(
        &'a self,
        headers: &'a http::HeaderMap,
        _connection: &'a http::Extensions,
    ) -> Pin<Box<dyn Future<Output = Result<Scope, Status>> + Send + 'a>> {
        Box::pin(async move {
            let refuse = || Status::unauthenticated("no valid token");
            let token = only(headers, &http::header::AUTHORIZATION).and_then(bearer).ok_or_else(refuse)?;
            let known = self.0.token(token, only(headers, &CLUSTER)).await.map_err(|Unknown(why)| {
                tracing::info!(target: "xds", %why, "a discovery client is not authenticated");
                refuse()
            })?;
            Ok(self.0.scope(known))
        })
    }
}

/// The cluster that a caller says it is of.
const CLUSTER: http::HeaderName = http::HeaderName::from_static("clusterid");

/// The value of a header that stands there once; of several none counts.
fn only<'a>(headers: &'a http::HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn bearer(value: &str) -> Option<&str> {
    value.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty())
}
