//! May this caller have a certificate for that identity? The decision on which the damage of a stolen node rests
//! (spec/controlplane.md 3.4): a node gets identities of workloads that run on it, and no others.
//!
//! Stricter than the field in two points: the trust domain must be ours, and a pod that has ended runs nowhere.

use mesh_model::identity::SpiffeId;

/// A caller whose token was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub namespace: String,
    pub service_account: String,
    pub proof: Proof,
}

/// What the verified token is bound to, and therefore which node the caller is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A pod; its node is looked up.
    Pod { name: String, uid: String },
    /// A node, by an issuer of our own: machines without Kubernetes.
    Node { name: String },
    /// Neither: a client certificate, an unbound token.
    Unbound,
}

/// A pod as the controller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFact {
    pub uid: String,
    pub service_account: String,
    /// `None` until it is scheduled.
    pub node: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Unknown,
    Succeeded,
    Failed,
}

/// What the decision looks up, in the caller's cluster.
pub trait Facts {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodFact>;
    /// Phases of the workloads of this service account that are assigned to the node.
    fn phases_on(&self, node: &str, namespace: &str, service_account: &str) -> Vec<Phase>;
}

/// What the decision is configured with.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `CA_TRUSTED_NODE_ACCOUNTS`: namespace and service account of node daemons. Empty: nobody may.
    pub trusted: Vec<(String, String)>,
    pub trust_domain: String,
}

impl Rules {
    /// Reads the comma list `ns/sa,ns/sa`.
    ///
    /// # Errors
    /// The entry that is not of this form: dropping it in silence would leave nodes without certificates.
    pub fn parse(trusted: &str, trust_domain: &str) -> Result<Rules, String> {
        let entry = |text: &str| match text.split_once('/') {
            Some((namespace, account)) if !namespace.is_empty() && !account.is_empty() && !account.contains('/') => {
                Ok((namespace.to_owned(), account.to_owned()))
            }
            _ => Err(format!("{text:?} is no trusted node account: expected NAMESPACE/SERVICE-ACCOUNT")),
        };
        let entries = trusted.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Rules { trusted: entries.map(entry).collect::<Result<_, _>>()?, trust_domain: trust_domain.to_owned() })
    }
}

/// Why not. For the log of the controller; the caller learns only that it was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{namespace}/{service_account} is not among the trusted node accounts (CA_TRUSTED_NODE_ACCOUNTS)")]
    NotTrusted { namespace: String, service_account: String },
    #[error("the caller's credential is bound to no pod and no node")]
    Unbound,
    #[error("the requested identity is none of this mesh: {0}")]
    NotAnIdentity(String),
    #[error("the requested identity is of trust domain {requested:?}, ours is {ours:?}")]
    TrustDomain { requested: String, ours: String },
    #[error("the caller's pod {0} is not known (yet)")]
    UnknownPod(String),
    #[error("the caller's pod {0} was replaced by another one of the same name")]
    OtherPod(String),
    #[error("the caller's pod {0} runs as another service account than its token says")]
    OtherAccount(String),
    #[error("the caller's pod {0} is on no node yet")]
    NotScheduled(String),
    #[error("no workload of {identity} runs on node {node}")]
    NotOnNode { identity: SpiffeId, node: String },
}

impl Refused {
    /// May the same question be answered otherwise in a moment, when the controller has caught up?
    pub fn is_transient(&self) -> bool {
        matches!(self, Refused::UnknownPod(_) | Refused::NotScheduled(_) | Refused::NotOnNode { .. })
    }
}

/// The identity that the certificate is to be issued for.
pub fn impersonate(caller: &Caller, wanted: &str, rules: &Rules, facts: &impl Facts) -> Result<SpiffeId, Refused> {
    let trusted = rules.trusted.iter().any(|(namespace, account)| {
        *namespace == caller.namespace && *account == caller.service_account
    });
    if !trusted {
        let Caller { namespace, service_account, .. } = caller.clone();
        return Err(Refused::NotTrusted { namespace, service_account });
    }
    let identity: SpiffeId = wanted.parse().map_err(|err| Refused::NotAnIdentity(format!("{err}")))?;
    if *identity.trust_domain != *rules.trust_domain {
        let requested = identity.trust_domain.to_string();
        return Err(Refused::TrustDomain { requested, ours: rules.trust_domain.clone() });
    }
    let node = node_of(caller, facts)?;
    let phases = facts.phases_on(&node, &identity.namespace, &identity.service_account);
    if phases.into_iter().any(is_alive) { Ok(identity) } else { Err(Refused::NotOnNode { identity, node }) }
}

fn node_of(caller: &Caller, facts: &impl Facts) -> Result<String, Refused> {
    let (name, uid) = match &caller.proof {
        Proof::Unbound => return Err(Refused::Unbound),
        Proof::Node { name } => return Ok(name.clone()),
        Proof::Pod { name, uid } => (name, uid),
    };
    let shown = format!("{}/{name}", caller.namespace);
    let Some(pod) = facts.pod(&caller.namespace, name) else { return Err(Refused::UnknownPod(shown)) };
    if pod.uid != *uid {
        return Err(Refused::OtherPod(shown));
    }
    if pod.service_account != caller.service_account {
        return Err(Refused::OtherAccount(shown));
    }
    pod.node.ok_or(Refused::NotScheduled(shown))
}

/// A pod that is being started needs its certificate before it runs.
fn is_alive(phase: Phase) -> bool {
    match phase {
        Phase::Pending | Phase::Running | Phase::Unknown => true,
        Phase::Succeeded | Phase::Failed => false,
    }
}

#[cfg(test)]
mod tests;
