//! Who may: STRICT and its exceptions, and policies by account, namespace, range and port (rows 11 and 12 of the
//! integration checklist).

use anyhow::Result;
use e2e::{Check, checks};

use super::cluster::Cluster;
use super::mesh::{PORT, until_answered, until_refused};
use super::traffic::{AT, CLIENT, OTHER, OUTSIDE, SHOP, STRANGER};

pub fn checks() -> Vec<Check<Cluster>> {
    checks![
        strict_refuses_who_is_outside,
        strict_leaves_open_the_port_that_is_named,
        an_account_may_and_another_may_not,
        deny_comes_before_allow,
        namespaces_are_told_apart,
        a_port_is_part_of_the_rule,
    ]
}

/// Applies, asks, and takes it back whatever came out.
fn under(cluster: &Cluster, yaml: &str, look: impl FnOnce() -> Result<()>) -> Result<()> {
    cluster.apply(yaml)?;
    let held = look();
    cluster.delete(yaml)?;
    held
}

fn peer_authentication(more: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: e2e, namespace: {SHOP}}}\n\
         spec: {{mtls: {{mode: STRICT}}{more}}}\n"
    )
}

fn policy(name: &str, action: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {SHOP}}}\n\
         spec: {{action: {action}, selector: {{matchLabels: {{app: server}}}}, rules: [{rule}]}}\n---\n"
    )
}

fn from_account(account: &str) -> String {
    format!("{{from: [{{source: {{principals: [cluster.local/ns/{SHOP}/sa/{account}]}}}}]}}")
}

fn strict_refuses_who_is_outside(cluster: &Cluster) -> Result<()> {
    under(cluster, &peer_authentication(""), || {
        until_refused(cluster, STRANGER, AT)?;
        until_answered(cluster, CLIENT, AT)
    })?;
    until_answered(cluster, STRANGER, AT)
}

fn strict_leaves_open_the_port_that_is_named(cluster: &Cluster) -> Result<()> {
    let exception = format!(", selector: {{matchLabels: {{app: server}}}}, portLevelMtls: {{{PORT}: {{mode: PERMISSIVE}}}}");
    let everywhere = peer_authentication("");
    under(cluster, &everywhere, || {
        until_refused(cluster, STRANGER, AT)?;
        under(cluster, &peer_authentication(&exception).replace("name: e2e,", "name: e2e-port,"), || until_answered(cluster, STRANGER, AT))
    })
}

fn an_account_may_and_another_may_not(cluster: &Cluster) -> Result<()> {
    under(cluster, &policy("allow-client", "ALLOW", &from_account("client")), || {
        until_refused(cluster, OTHER, AT)?;
        until_refused(cluster, STRANGER, AT)?;
        until_answered(cluster, CLIENT, AT)
    })?;
    until_answered(cluster, OTHER, AT)
}

fn deny_comes_before_allow(cluster: &Cluster) -> Result<()> {
    let both = policy("allow-both", "ALLOW", &format!("{}, {}", from_account("client"), from_account("other")));
    let denied = policy("deny-other", "DENY", &from_account("other"));
    under(cluster, &(both + &denied), || {
        until_refused(cluster, OTHER, AT)?;
        until_answered(cluster, CLIENT, AT)
    })
}

fn namespaces_are_told_apart(cluster: &Cluster) -> Result<()> {
    let rule = |namespace: &str| format!("{{from: [{{source: {{namespaces: [{namespace}]}}}}]}}");
    under(cluster, &policy("allow-outside", "ALLOW", &rule(OUTSIDE)), || {
        until_refused(cluster, CLIENT, AT)?;
        // It has no certificate: nobody vouches for its namespace.
        until_refused(cluster, STRANGER, AT)
    })?;
    under(cluster, &policy("deny-shop", "DENY", &rule(SHOP)), || until_refused(cluster, CLIENT, AT))
}

fn a_port_is_part_of_the_rule(cluster: &Cluster) -> Result<()> {
    let rule = |port: u16| format!("{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}");
    under(cluster, &policy("deny-port", "DENY", &rule(PORT)), || until_refused(cluster, CLIENT, AT))?;
    under(cluster, &policy("deny-other-port", "DENY", &rule(PORT + 1)), || until_answered(cluster, CLIENT, AT))
}
