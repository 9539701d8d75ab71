//! Who is asking: what the verified token says, against what the client says of itself. The token wins; a client that
//! claims to be somebody else is refused (design decision 15, spec/controlplane.md 2.5).

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::messages::discovery::Node;

/// What a caller may see and for how long. Made by the authentication, never from what the client sends.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `None` on a port without authentication: then the client's own words count.
    pub account: Option<Account>,
    /// The node the token is bound to.
    pub node: Option<Arc<str>>,
    /// A node daemon or a waypoint: others may not subscribe to all addresses.
    pub all_addresses: bool,
    /// A node daemon: nobody else is told of the policies that those enforce.
    pub policies: bool,
    /// Resources with an audience are shown to these only.
    pub audiences: Vec<Arc<str>>,
    /// When the token expires, and the stream with it.
    pub expires: Option<Instant>,
    /// Cancelled when what the scope was founded on is gone; the stream ends then, too.
    pub revoked: CancellationToken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// A client that was checked.
#[derive(Clone, Debug)]
pub struct Caller {
    pub scope: Scope,
    /// The id it gave itself, for people.
    pub id: String,
    /// The node whose workloads it is always told of.
    pub node: Option<Arc<str>>,
}

/// Why a client is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    #[error("node id {0:?}: expected TYPE~IP~NAME.NAMESPACE~DOMAIN with a known type and an IP")]
    BadId(String),
    #[error("{what} is {claimed:?} by the client's own words and {verified:?} by its token")]
    Mismatch { what: &'static str, claimed: String, verified: String },
}

/// Kinds of proxy that may speak to us.
const KINDS: [&str; 5] = ["sidecar", "router", "waypoint", "ztunnel", "agentgateway"];
/// Names in Kubernetes end at 253; this holds four parts of that and bounds what an error message repeats.
const ID_BYTES_MAX: usize = 1_024;

pub fn check_claim(node: Option<&Node>, scope: Scope) -> Result<Caller, ClaimRefused> {
    let unnamed = Node::default();
    let node = node.unwrap_or(&unnamed);
    let namespace_of_id = check_id(node)?;
    let claimed_node = node.text("NODE_NAME").filter(|name| !name.is_empty());
    let id = node.id.clone();
    let Some(account) = &scope.account else {
        return Ok(Caller { node: claimed_node.map(Arc::from), id, scope });
    };
    let namespace = node.text("NAMESPACE").filter(|text| !text.is_empty()).unwrap_or(namespace_of_id);
    same("the namespace", Some(namespace), &account.namespace)?;
    let claimed_account = node.text("SERVICE_ACCOUNT").filter(|text| !text.is_empty());
    same("the service account", claimed_account, &account.service_account)?;
    if let Some(verified) = &scope.node {
        same("the node", claimed_node, verified)?;
    }
    Ok(Caller { node: scope.node.clone(), id, scope })
}

fn same(what: &'static str, claimed: Option<&str>, verified: &str) -> Result<(), ClaimRefused> {
    match claimed {
        Some(claimed) if claimed != verified => {
            let claimed = claimed.chars().take(ID_BYTES_MAX).collect();
            Err(ClaimRefused::Mismatch { what, claimed, verified: verified.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Four parts, a known kind, an IP in the id or in the metadata. Returns the namespace that the id gives.
fn check_id(node: &Node) -> Result<&str, ClaimRefused> {
    let bad = || ClaimRefused::BadId(node.id.chars().take(ID_BYTES_MAX).collect());
    if node.id.len() > ID_BYTES_MAX {
        return Err(bad());
    }
    let parts: Vec<&str> = node.id.split('~').collect();
    let &[kind, ip, name, _domain] = parts.as_slice() else { return Err(bad()) };
    let ips = node.text("INSTANCE_IPS").unwrap_or_default();
    let is_ip = |text: &str| text.trim().parse::<IpAddr>().is_ok();
    if !KINDS.contains(&kind) || !(ips.split(',').any(is_ip) || is_ip(ip)) {
        return Err(bad());
    }
    Ok(name.rsplit_once('.').map_or("", |(_, namespace)| namespace))
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value, value::Kind};

    use super::*;

    fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = metadata.iter().map(|(key, text)| (key.to_string(), value(text))).collect();
        Node { id: id.into(), metadata: Some(Struct { fields }), ..Node::default() }
    }

    fn scope(node: Option<&str>) -> Scope {
        let account = Account { namespace: "istio-system".into(), service_account: "ztunnel".into() };
        Scope { account: Some(account), node: node.map(Arc::from), all_addresses: true, policies: true, audiences: vec![], expires: None, revoked: CancellationToken::new() }
    }

    const ID: &str = "ztunnel~10.0.0.1~z.istio-system~istio-system.svc.cluster.local";

    #[test]
    fn a_claim_that_differs_from_the_token_is_refused() {
        let table: Vec<(Node, Option<&str>, Option<&str>)> = vec![
            (node(ID, &[("NODE_NAME", "a")]), Some("a"), None),
            (node(ID, &[]), Some("a"), None),
            (node(ID, &[("NODE_NAME", "b")]), Some("a"), Some("the node")),
            (node(ID, &[("NODE_NAME", "b")]), None, None),
            (node(ID, &[("NAMESPACE", "shop")]), Some("a"), Some("the namespace")),
            (node("ztunnel~10.0.0.1~z.shop~x", &[]), Some("a"), Some("the namespace")),
            (node("ztunnel~10.0.0.1~z.shop~x", &[("NAMESPACE", "istio-system")]), Some("a"), None),
            (node(ID, &[("SERVICE_ACCOUNT", "ztunnel")]), Some("a"), None),
            (node(ID, &[("SERVICE_ACCOUNT", "admin")]), Some("a"), Some("the service account")),
        ];
        for (node, token_node, refused) in table {
            match (check_claim(Some(&node), scope(token_node)), refused) {
                (Ok(caller), None) => assert_eq!(caller.node.as_deref(), token_node, "the token's node, never the claimed one"),
                (Err(ClaimRefused::Mismatch { what, .. }), Some(expected)) => assert_eq!(what, expected),
                (answer, _) => panic!("{node:?}: {answer:?}"),
            }
        }
        let unauthenticated = Scope { account: None, ..scope(None) };
        assert_eq!(check_claim(Some(&node(ID, &[("NODE_NAME", "b")])), unauthenticated).unwrap().node.as_deref(), Some("b"));
    }

    #[test]
    fn a_node_id_has_four_parts_a_known_kind_and_an_address() {
        let long = format!("ztunnel~10.0.0.1~{}.x~y", "z".repeat(2_000));
        for bad in ["", "ztunnel", "ztunnel~10.0.0.1~z.istio-system", "pilot~10.0.0.1~z.istio-system~x", "ztunnel~here~z.istio-system~x", "a~b~c~d~e", &long] {
            assert!(matches!(check_claim(Some(&node(bad, &[])), scope(None)), Err(ClaimRefused::BadId(_))), "{bad}");
        }
        assert!(matches!(check_claim(None, scope(None)), Err(ClaimRefused::BadId(_))));
        assert!(check_claim(Some(&node("waypoint~here~z.istio-system~x", &[("INSTANCE_IPS", "10.0.0.1,fd00::1")])), scope(None)).is_ok());
    }
}
