//! spec/controlplane.md 5.2.

use std::fmt::Write;

use expect_test::expect;

use super::{check, events, pod, printed, translated};
use crate::translate::Translation;

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n---\n")
}

const APP: &str = "selector: {matchLabels: {app: cart}}, ";

fn cart() -> String {
    pod("shop", "cart", "10.1.0.1", "app: cart")
}

#[test]
fn converted_policies() {
    check(&[peer("shop", "pa", &format!("{APP}mtls: {{mode: STRICT}}, portLevelMtls: {{8080: {{mode: PERMISSIVE}}, 9001: {{mode: DISABLE}}, 7000: {{mode: STRICT}}}}")), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        policy shop/converted_peer_authentication_pa WorkloadSelector Deny {(!principal[any]) & (!port[8080]) & (!port[9001])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(shop/converted_peer_authentication_pa)
    "#]]);
    check(&[peer("shop", "pa", &format!("{APP}mtls: {{mode: PERMISSIVE}}, portLevelMtls: {{8080: {{mode: STRICT}}, 7000: {{mode: STRICT}}}}")), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        policy shop/converted_peer_authentication_pa WorkloadSelector Deny {(!principal[any] port[7000])} or {(!principal[any] port[8080])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(shop/converted_peer_authentication_pa)
    "#]]);
}

#[test]
fn levels() {
    check(&[peer("istio-system", "mesh", "mtls: {mode: STRICT}"), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(istio-system/istio_converted_static_strict)
    "#]]);
    check(&[peer("istio-system", "mesh", "mtls: {mode: STRICT}"), peer("shop", "ns", "mtls: {mode: PERMISSIVE}"), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
    "#]]);
    check(&[peer("istio-system", "mesh", "mtls: {mode: STRICT}"), peer("shop", "ns", "mtls: {mode: UNSET}"), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(istio-system/istio_converted_static_strict)
    "#]]);
    check(&[peer("shop", "ns", "mtls: {mode: STRICT}"), peer("shop", "pa", &format!("{APP}mtls: {{mode: DISABLE}}")), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
    "#]]);
    check(&[peer("shop", "ns", "mtls: {mode: STRICT}"), pod("other", "x", "10.1.0.2", "")].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/other/x 10.1.0.2 sa=x-sa node=n1 name=x
    "#]]);
}

#[test]
fn what_has_no_effect_is_said() {
    check(&[peer("istio-system", "sel", &format!("{APP}mtls: {{mode: STRICT}}")), pod("istio-system", "cart", "10.1.0.1", "app: cart")].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/istio-system/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
        PeerAuthentication istio-system/sel: note: has no effect: a PeerAuthentication with a selector is not read in the root namespace
    "#]]);
    check(&[peer("shop", "b", "mtls: {mode: STRICT}"), peer("shop", "a", "mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}"), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
        PeerAuthentication shop/a: note: spec.portLevelMtls has no effect without a selector
        PeerAuthentication shop/b: note: has no effect: a is older and for the same namespace
    "#]]);
    check(&[peer("shop", "odd", &format!("{APP}mtls: {{mode: STRCT}}, portLevelMtls: {{70000: {{mode: STRICT}}, 80: {{mode: X}}}}")), cart()].concat(), expect![[r#"
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
        workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(istio-system/istio_converted_static_strict)
        PeerAuthentication shop/odd: note: spec.mtls.mode is not UNSET, DISABLE, PERMISSIVE or STRICT; it is read as STRICT
        PeerAuthentication shop/odd: note: spec.portLevelMtls: 70000 is not a port
        PeerAuthentication shop/odd: note: spec.portLevelMtls[80].mode is not UNSET, DISABLE, PERMISSIVE or STRICT; it is read as STRICT
    "#]]);
}

#[test]
fn the_oldest_of_several_counts() {
    let at = |yaml: String, time: &str| yaml.replace("metadata: {", &format!("metadata: {{creationTimestamp: \"2026-01-01T00:00:0{time}Z\", "));
    check(
        &[at(peer("shop", "a", &format!("{APP}mtls: {{mode: PERMISSIVE}}")), "2"), at(peer("shop", "b", &format!("{APP}mtls: {{mode: STRICT}}")), "1"), cart()].concat(),
        expect![[r#"
            policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
            workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart policies(istio-system/istio_converted_static_strict)
        "#]],
    );
}

/// The policy a workload lists because of PeerAuthentication, and whether it is published.
fn listed(translation: &Translation) -> String {
    let workloads = || translation.derived().flat_map(|derived| &derived.workloads);
    let policies = || translation.derived().flat_map(|derived| &derived.policies);
    let keys: Vec<_> = workloads().flat_map(|workload| workload.authorization_policies.iter().cloned()).collect();
    let is_published = |key| policies().any(|policy| policy.key() == key);
    match keys.as_slice() {
        [] => "-".into(),
        [one] => {
            assert!(is_published(one.clone()), "{one} is listed and not published");
            let groups = policies().find(|policy| policy.key() == *one).map_or(0, |policy| policy.groups.len());
            let name = one.to_string();
            if name.ends_with("static_strict") { "static".into() } else { format!("conv/{groups}") }
        }
        more => panic!("{more:?}"),
    }
}

// pitfall 6: the whole truth table; no combination lists a policy that is not published (the three traps of 5.2)
#[test]
fn every_combination_of_modes() {
    let modes = ["-", "UNSET", "PERMISSIVE", "DISABLE", "STRICT"];
    let ports = ["", "80: STRICT", "80: PERMISSIVE", "80: DISABLE", "80: UNSET", "80: STRICT,81: PERMISSIVE", "80: DISABLE,81: DISABLE"];
    let mut table = String::new();
    for mesh in modes {
        for namespace in modes {
            let mut yaml = cart();
            if mesh != "-" {
                yaml += &peer("istio-system", "mesh", &format!("mtls: {{mode: {mesh}}}"));
            }
            if namespace != "-" {
                yaml += &peer("shop", "ns", &format!("mtls: {{mode: {namespace}}}"));
            }
            let _ = write!(table, "mesh {mesh:<10} namespace {namespace:<10} alone {:<6}", listed(&translated(&yaml)));
            for workload in &modes[1..] {
                let _ = write!(table, " | {workload}:");
                for port in ports {
                    let levels = port.split(',').filter(|port| !port.is_empty()).map(|port| port.replace(": ", ": {mode: ") + "}").collect::<Vec<_>>().join(", ");
                    let pa = peer("shop", "pa", &format!("{APP}mtls: {{mode: {workload}}}, portLevelMtls: {{{levels}}}"));
                    let _ = write!(table, " {}", listed(&translated(&(yaml.clone() + &pa))));
                }
            }
            table.push('\n');
        }
    }
    expect![[r#"
        mesh -          namespace -          alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh -          namespace UNSET      alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh -          namespace PERMISSIVE alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh -          namespace DISABLE    alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh -          namespace STRICT     alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh UNSET      namespace -          alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh UNSET      namespace UNSET      alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh UNSET      namespace PERMISSIVE alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh UNSET      namespace DISABLE    alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh UNSET      namespace STRICT     alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh PERMISSIVE namespace -          alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh PERMISSIVE namespace UNSET      alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh PERMISSIVE namespace PERMISSIVE alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh PERMISSIVE namespace DISABLE    alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh PERMISSIVE namespace STRICT     alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh DISABLE    namespace -          alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh DISABLE    namespace UNSET      alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh DISABLE    namespace PERMISSIVE alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh DISABLE    namespace DISABLE    alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh DISABLE    namespace STRICT     alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh STRICT     namespace -          alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh STRICT     namespace UNSET      alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh STRICT     namespace PERMISSIVE alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh STRICT     namespace DISABLE    alone -      | UNSET: - conv/1 - - - conv/1 - | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
        mesh STRICT     namespace STRICT     alone static | UNSET: static static conv/1 conv/1 static conv/1 conv/1 | PERMISSIVE: - conv/1 - - - conv/1 - | DISABLE: - conv/1 - - - conv/1 - | STRICT: static static conv/1 conv/1 static conv/1 conv/1
    "#]].assert_eq(&table);
}

/// The same, reached by changes: what a workload lists is published after every step.
#[test]
fn references_never_dangle_while_modes_change() {
    let mut translation = translated(&cart());
    let specs = ["mtls: {mode: STRICT}", "mtls: {mode: PERMISSIVE}", "mtls: {mode: UNSET}"];
    for mesh in specs {
        translation.apply(events(&peer("istio-system", "mesh", mesh)));
        for namespace in specs {
            translation.apply(events(&peer("shop", "ns", namespace)));
            for own in specs {
                translation.apply(events(&peer("shop", "pa", &format!("{APP}{own}, portLevelMtls: {{80: {{mode: PERMISSIVE}}, 81: {{mode: STRICT}}}}"))));
                listed(&translation);
                let anew = [peer("istio-system", "mesh", mesh), peer("shop", "ns", namespace)].concat() + &cart();
                let anew = anew + &peer("shop", "pa", &format!("{APP}{own}, portLevelMtls: {{80: {{mode: PERMISSIVE}}, 81: {{mode: STRICT}}}}"));
                assert_eq!(printed(&translation), printed(&translated(&anew)), "{mesh} / {namespace} / {own}");
            }
        }
    }
}
