//! spec/controlplane.md 5.1.

use expect_test::expect;

use super::{check, events, pod, printed, translation};
use crate::translate::{Settings, Translation};

fn policy(spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: pol}}\nspec: {{{spec}}}\n---\n")
}

/// The worked example of 5.1.
#[test]
fn the_worked_example_of_the_contract() {
    let yaml = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: pol}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/web/sa/*"], notNamespaces: ["ops"]}}, {source: {ipBlocks: ["10.2.0.0/16"]}}]
    to:   [{operation: {ports: ["8080"]}}]
    when: [{key: source.namespace, notValues: ["*"]}]
  - to:   [{operation: {methods: ["DELETE"], ports: ["9001"]}}]
  - from: [{source: {principals: ["*"]}}]
    to:   [{operation: {methods: ["PUT"]}}]
---
"#;
    check(&[yaml.into(), pod("shop", "cart", "10.1.0.1", "app: cart"), pod("shop", "other", "10.1.0.2", "app: other")].concat(), expect![[r#"
        policy shop/pol WorkloadSelector Deny {(port[8080]) & (!ns[=ops] principal[cluster.local/ns/web/sa/*] | from[10.2.0.0/16]) & (!ns[any])} or {(port[9001])} or {(nothing) & (principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(shop/pol)
        workload Kubernetes//Pod/shop/other 10.1.0.2 sa=other-sa node=n1 name=other
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at methods; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
}

#[test]
fn scopes() {
    let of = |namespace: &str, selector: &str| {
        policy(&format!("{selector}rules: [{{}}]")).replace("namespace: shop", &format!("namespace: {namespace}")) + &pod("shop", "cart", "10.1.0.1", "app: cart")
    };
    check(&of("shop", ""), expect![[r#"
        policy shop/pol Namespace Allow {}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&of("istio-system", ""), expect![[r#"
        policy istio-system/pol Global Allow {}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
        AuthorizationPolicy istio-system/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&of("shop", "selector: {matchLabels: {app: cart}}, "), expect![[r#"
        policy shop/pol WorkloadSelector Allow {}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(shop/pol)
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&of("istio-system", "selector: {matchLabels: {app: cart}}, "), expect![[r#"
        policy istio-system/pol WorkloadSelector Allow {}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(istio-system/pol)
        AuthorizationPolicy istio-system/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&of("other", "selector: {matchLabels: {app: cart}}, "), expect![[r#"
        policy other/pol WorkloadSelector Allow {}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
        AuthorizationPolicy other/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&of("shop", "selector: {}, "), expect![[r#"
        policy shop/pol Namespace Allow {}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
        AuthorizationPolicy shop/pol: note: spec.selector is empty, so the policy is for the whole namespace
    "#]]);
}

// pitfall 5
#[test]
fn empty_is_everything_or_nothing() {
    check(&policy(""), expect![[r#"
        policy shop/pol Namespace Allow 
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&policy("action: DENY"), expect![[r#"
        policy shop/pol Namespace Deny 
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
        AuthorizationPolicy shop/pol: note: spec.rules is empty: action DENY denies nothing then
    "#]]);
    check(&policy("rules: [{}]"), expect![[r#"
        policy shop/pol Namespace Allow {}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    check(&policy("action: DENY, rules: [{}]"), expect![[r#"
        policy shop/pol Namespace Deny {}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
}

// row 12 of the integration checklist: identity, namespace, address and port
#[test]
fn every_l4_field() {
    check(
        &policy(
            "rules: [{from: [{source: {principals: [a, \"b*\", \"*c\", \"*\"], notPrincipals: [d], namespaces: [e], notNamespaces: [\"f*\"], serviceAccounts: [g, h/i], \
             notServiceAccounts: [j], ipBlocks: [10.0.0.1, 10.0.0.0/8, \"fd00::/8\"], notIpBlocks: [10.1.0.0/16]}}], to: [{operation: {ports: [\"80\"], notPorts: [\"81\"]}}]}]",
        ),
        expect![[r#"
            policy shop/pol Namespace Allow {(port[80] !port[81]) & (ns[=e] !ns[f*] sa[shop/g h/i] !sa[shop/j] principal[=a b* *c any] !principal[=d] from[10.0.0.1/32 10.0.0.0/8 fd00::/8] !from[10.1.0.0/16])}
            AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
        "#]],
    );
    check(
        &policy(
            "rules: [{when: [{key: source.ip, values: [10.0.0.1], notValues: [10.0.0.2]}, {key: source.namespace, values: [a]}, {key: source.principal, notValues: [\"*\"]}, \
             {key: destination.ip, values: [10.0.0.0/8]}, {key: destination.port, values: [\"80\"], notValues: [\"81\"]}]}]",
        ),
        expect![[r#"
            policy shop/pol Namespace Allow {(from[10.0.0.1/32] !from[10.0.0.2/32]) & (ns[=a]) & (!principal[any]) & (to[10.0.0.0/8]) & (port[80] !port[81])}
            AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
        "#]],
    );
}

#[test]
fn l7_in_an_allow_leaves_the_rule_out() {
    check(&policy("rules: [{to: [{operation: {methods: [GET], ports: [\"80\"]}}]}, {to: [{operation: {ports: [\"81\"]}}]}]"), expect![[r#"
        policy shop/pol Namespace Allow {(port[81])}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at methods; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
    check(&policy("rules: [{to: [{operation: {paths: [/x]}}]}]"), expect![[r#"
        policy shop/pol Namespace Allow 
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at paths; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
    check(&policy("rules: [{when: [{key: \"request.headers[x]\", values: [y]}]}]"), expect![[r#"
        policy shop/pol Namespace Allow 
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at when request.headers[x]; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
    check(&policy("rules: [{from: [{source: {requestPrincipals: [\"*\"], notRequestPrincipals: [a], remoteIpBlocks: [10.0.0.0/8], notRemoteIpBlocks: [10.0.0.1]}}]}]"), expect![[r#"
        policy shop/pol Namespace Allow 
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at notRemoteIpBlocks, notRequestPrincipals, remoteIpBlocks, requestPrincipals; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
}

#[test]
fn l7_in_a_deny_is_dropped_or_makes_the_rule_ineffective() {
    check(&policy("action: DENY, rules: [{to: [{operation: {methods: [GET], ports: [\"80\"]}}]}]"), expect![[r#"
        policy shop/pol Namespace Deny {(port[80])}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at methods; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
    check(&policy("action: DENY, rules: [{to: [{operation: {methods: [GET]}}], from: [{source: {namespaces: [a]}}]}]"), expect![[r#"
        policy shop/pol Namespace Deny {(nothing) & (ns[=a])}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at methods; no rule of the policy has any effect
    "#]]);
    check(&policy("action: DENY, rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: [\"80\"]}}]}]"), expect![[r#"
        policy shop/pol Namespace Deny {(nothing | port[80])}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at methods; rules with them are left out or narrowed, so the policy is more restrictive than written
    "#]]);
    check(&policy("action: DENY, rules: [{from: [{source: {namespaces: [a]}}], when: [{key: connection.sni, values: [x]}]}]"), expect![[r#"
        policy shop/pol Namespace Deny {(ns[=a]) & (nothing)}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True UnsupportedValue: only a waypoint can look at when connection.sni; no rule of the policy has any effect
    "#]]);
}

#[test]
fn actions_that_l4_cannot_do_are_not_sent() {
    check(&policy("action: AUDIT, rules: [{}]"), expect![[r#"
        AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: action AUDIT cannot be enforced at L4; the policy is not in force
    "#]]);
    check(&policy("action: CUSTOM, provider: {name: x}, rules: [{}]"), expect![[r#"
        AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: action CUSTOM cannot be enforced at L4; the policy is not in force
    "#]]);
    check(&policy("action: DENY, provider: {name: x}, rules: [{}]"), expect![[r#"
        policy shop/pol Namespace Deny {}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
        AuthorizationPolicy shop/pol: note: spec.provider has a meaning with action CUSTOM only
    "#]]);
}

// A policy that cannot be understood denies, whatever is wrong with it (pitfall 22: trust domains)
#[test]
fn what_cannot_be_understood_denies_everybody() {
    for (spec, expected) in [
        ("action: ALOW", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.action "ALOW" is not ALLOW, DENY, AUDIT or CUSTOM; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{to: [{operation: {ports: [\"http\"]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].to[0].operation.ports: "http" is not a port: 1 to 65535; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{to: [{operation: {ports: [\"0\"]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].to[0].operation.ports: "0" is not a port: 1 to 65535; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{to: [{operation: {}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].to[0].operation is empty: name what it is about, or leave the entry out; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source is empty: name who it is about, or leave the entry out; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {notIpBlocks: [10.0.0.300]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source.notIpBlocks: "10.0.0.300" is neither an IP address nor a range of them; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {principals: [\"\"]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source.principals: "" is empty; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {principals: [\"a*b\"]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source.principals: "a*b" has a * that is neither its first nor its last letter; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {serviceAccounts: [\"*\"]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source.serviceAccounts: "*" is not namespace/account or account; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source.serviceAccounts: "a/b/c" is not namespace/account or account; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{from: [{source: {principals: [a], trustDomains: [td]}}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].from[0].source.trustDomains is not supported; write principals with their trust domain; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{when: [{key: source.namespace}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].when[0] (source.namespace) has neither values nor notValues; until it is corrected everybody is denied by it
        "#]]),
        ("rules: [{when: [{key: source.nmespace, values: [a]}]}]", expect![[r#"
            policy shop/pol Namespace Allow 
            AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].when[0].key "source.nmespace" is not an attribute of Istio; until it is corrected everybody is denied by it
        "#]]),
        ("selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]", expect![[r#"
            AuthorizationPolicy shop/pol: WaypointAccepted=False TargetNotFound: Service shop/x: does not exist
            AuthorizationPolicy shop/pol: note: spec.selector has no effect beside spec.targetRefs
        "#]]),
    ] {
        check(&policy(spec), expected);
    }
}

#[test]
fn a_version_that_cannot_be_understood_does_not_replace_a_good_one() {
    let mut translation = translation();
    let good = policy("selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {ports: [\"80\"]}}]}]") + &pod("shop", "cart", "10.1.0.1", "app: cart");
    translation.apply(events(&good));
    let changes = translation.apply(events(&policy("rules: [{to: [{operation: {ports: [\"http\"]}}]}]")));
    assert!(changes.policies.is_empty() && changes.workloads.is_empty() && !changes.reports.is_empty());
    expect![[r#"
        policy shop/pol WorkloadSelector Allow {(port[80])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(shop/pol)
        AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: refused: spec.rules[0].to[0].operation.ports: "http" is not a port: 1 to 65535; the last good version stays in force
    "#]].assert_eq(&printed(&translation));
    translation.apply(events(&good));
    expect![[r#"
        policy shop/pol WorkloadSelector Allow {(port[80])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(shop/pol)
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]].assert_eq(&printed(&translation));
}

// pitfall 16: only daemons that know the field may get a dry-run policy
#[test]
fn dry_run_is_sent_when_allowed() {
    let yaml = policy("rules: [{}]").replace("name: pol", "name: pol, annotations: {istio.io/dry-run: \"true\"}");
    check(&yaml, expect![[r#"
        policy shop/pol Namespace Allow dry-run {}
        AuthorizationPolicy shop/pol: ZtunnelAccepted=True Accepted: attached to node daemons
    "#]]);
    let mut old = Translation::new(Settings::default(), "default");
    old.apply(events(&yaml));
    expect![[r#"
        AuthorizationPolicy shop/pol: ZtunnelAccepted=False UnsupportedValue: istio.io/dry-run is not sent, because node daemons before Istio 1.29 would enforce it; set AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY=true when there are none
    "#]].assert_eq(&printed(&old));
}

#[test]
fn policies_for_waypoints_are_not_for_node_daemons() {
    let waypoint = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {namespace: shop, name: wp}\nspec: {gatewayClassName: istio-waypoint}\nstatus: {addresses: [{value: 10.2.0.1}]}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: bound, labels: {istio.io/use-waypoint: wp}}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: free}\n---\n";
    let with = |refs: &str| [policy(&format!("targetRefs: [{refs}], rules: [{{}}]")), waypoint.into()].concat();
    let last = |yaml: String| printed(&super::translated(&yaml)).lines().filter(|line| line.contains("/pol:")).map(|line| line.to_owned() + "\n").collect::<String>();
    expect![[r#"
        AuthorizationPolicy shop/pol: WaypointAccepted=True Accepted: bound to its waypoints
    "#]].assert_eq(&last(with("{kind: Service, name: bound}")));
    expect![[r#"
        AuthorizationPolicy shop/pol: WaypointAccepted=False AncestorNotBound: Service shop/free: has no waypoint
    "#]].assert_eq(&last(with("{kind: Service, name: free}")));
    expect![[r#"
        AuthorizationPolicy shop/pol: WaypointAccepted=True PartiallyInvalid: Service shop/free: has no waypoint
    "#]].assert_eq(&last(with("{kind: Service, name: free}, {kind: Service, name: bound}")));
    expect![[r#"
        AuthorizationPolicy shop/pol: WaypointAccepted=False Invalid: Service shop/free: has no waypoint; Pod shop/bound: is not a kind that a policy can be attached to
    "#]].assert_eq(&last(with("{kind: Service, name: free}, {kind: Pod, name: bound}")));
    expect![[r#"
        AuthorizationPolicy shop/pol: WaypointAccepted=True Accepted: bound to its waypoints
    "#]].assert_eq(&last(with("{group: gateway.networking.k8s.io, kind: Gateway, name: wp}")));
    expect![[r#"
        AuthorizationPolicy shop/pol: WaypointAccepted=False TargetNotFound: Gateway shop/no: does not exist
    "#]].assert_eq(&last(with("{group: gateway.networking.k8s.io, kind: Gateway, name: no}")));
}

/// 4.6: sorted, policies of the root namespace among them.
#[test]
fn several_policies_on_one_workload() {
    let named = |namespace: &str, name: &str| {
        policy("selector: {matchLabels: {app: cart}}, rules: [{}]").replace("namespace: shop, name: pol", &format!("namespace: {namespace}, name: {name}"))
    };
    check(
        &[named("shop", "b"), named("istio-system", "z"), named("shop", "a"), named("elsewhere", "c"), pod("shop", "cart", "10.1.0.1", "app: cart, x: y")].concat(),
        expect![[r#"
            policy elsewhere/c WorkloadSelector Allow {}
            policy istio-system/z WorkloadSelector Allow {}
            policy shop/a WorkloadSelector Allow {}
            policy shop/b WorkloadSelector Allow {}
            workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(istio-system/z, shop/a, shop/b)
            AuthorizationPolicy elsewhere/c: ZtunnelAccepted=True Accepted: attached to node daemons
            AuthorizationPolicy istio-system/z: ZtunnelAccepted=True Accepted: attached to node daemons
            AuthorizationPolicy shop/a: ZtunnelAccepted=True Accepted: attached to node daemons
            AuthorizationPolicy shop/b: ZtunnelAccepted=True Accepted: attached to node daemons
        "#]],
    );
}
