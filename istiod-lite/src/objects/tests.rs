use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::read::{document, documents};

fn read(yaml: &str) -> String {
    let mut said = String::new();
    for one in documents(yaml) {
        match document(one) {
            Ok(contents) => {
                for object in contents.objects {
                    said += &format!("line {}: {}", one.begin(), object.object.key());
                    if !object.unknown_fields.is_empty() {
                        said += &format!(", unknown: {}", object.unknown_fields.join(" "));
                    }
                    said += "\n";
                }
                said.extend(contents.foreign.iter().map(|what| format!("line {}: foreign: {what}\n", one.begin())));
            }
            Err(fault) => said += &format!("{fault}\n"),
        }
    }
    said
}

fn check(yaml: &str, expected: Expect) {
    expected.assert_eq(&read(yaml));
}

#[test]
fn documents_are_cut_at_their_marks() {
    check(
        "# a comment alone\n---\n# another\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n--- # said here\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: b\n...\n---\n\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"c\"}}\n",
        expect![[r#"
            line 4: Namespace a
            line 8: Namespace b
            line 16: Namespace c
        "#]],
    );
    check("", expect![[""]]);
    check("apiVersion: v1\r\nkind: Namespace\r\nmetadata: {name: a}\r\n---\r\napiVersion: v1\r\nkind: Namespace\r\nmetadata: {name: b}\r\n", expect![[r#"
        line 1: Namespace a
        line 5: Namespace b
    "#]]);
    check("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  text: |\n    ---\n    not a mark, it is indented\n", expect![[r#"
        line 1: foreign: v1 ConfigMap c
    "#]]);
}

#[test]
fn lists_are_opened() {
    check(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n",
        expect![[r#"
            line 1: Namespace a
            line 1: foreign: apps/v1 Deployment d
        "#]],
    );
    check("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: A}}\n", expect![[r#"
        line 3, field items[0].metadata.name: "A" is not a Kubernetes name: up to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit
    "#]]);
    check("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {rule: []}}\n", expect![[r#"
        line 3, field items[0]: unknown field `rule`, expected one of selector, targetRef, targetRefs, action, provider, rules
    "#]]);
}

#[test]
fn a_fault_names_line_and_field() {
    check("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\nspec:\n  rules:\n  - from:\n    - source:\n        principal: [a]\n", expect![[r#"
        line 1: Namespace a
        line 13, field spec.rules.from.source.principal: unknown field `principal`, expected one of principals, notPrincipals, requestPrincipals, notRequestPrincipals, namespaces, notNamespaces, serviceAccounts, notServiceAccounts, ipBlocks, notIpBlocks, remoteIpBlocks, notRemoteIpBlocks, trustDomains, notTrustDomains
    "#]]);
    check("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\nspec:\n  action: DENY\n  rules: 7\n", expect![[r#"
        line 7, field spec.rules: expected a list
    "#]]);
    check("apiVersion: v1\nkind: Service\nmetadata:\n  name: p\nspec:\n  ports:\n  - port: eighty\n", expect![[r#"
        line 7, field spec.ports.port: expected a number
    "#]]);
    check("apiVersion: v1\nkind: Service\nmetadata:\n  name: p\nspec:\n  ports:\n  - port: 70000\n", expect![[r#"
        line 7, field spec.ports.port: 70000 is not a port: 1 to 65535
    "#]]);
    check("apiVersion: v1\nkind: Service\nmetadata:\n  name: p\n   spec: {}\n", expect![[r#"
        line 5, field metadata.name.spec: mapping values are not allowed in this context
    "#]]);
    check("apiVersion: v1\nkind: Service\nkind: Pod\nmetadata:\n  name: p\n", expect![[r#"
        line 3, field kind: duplicate mapping key: kind
    "#]]);
    check("kind: Service\nmetadata:\n  name: p\n", expect![[r#"
        line 1, field kind: an object needs apiVersion and kind
    "#]]);
    check("just a text\n", expect![[r#"
        line 1: expected a mapping, key: value
    "#]]);
    check("- a\n- list\n", expect![[r#"
        line 1: expected a mapping, key: value
    "#]]);
    check("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: UPPER}\n", expect![[r#"
        line 1, field metadata.namespace: "UPPER" is not a Kubernetes name: up to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit
    "#]]);
    check("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  serviceAccountName: a/b\n", expect![[r#"
        line 5, field spec.serviceAccountName: "a/b" is not a Kubernetes name: up to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit
    "#]]);
    check("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: converted_peer_authentication_x}\n", expect![[r#"
        line 1, field metadata.name: "converted_peer_authentication_x" is not a Kubernetes name: up to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit
    "#]]);
    check("apiVersion: security.istio.io/v2\nkind: PeerAuthentication\nmetadata: {name: x}\n", expect![[r#"
        line 1, field apiVersion: PeerAuthentication of version security.istio.io/v2 is not known here; known versions: v1, v1beta1
    "#]]);
    check("apiVersion: v1\nkind: Pod\nmetadata: &m {name: p, labels: *n}\n", expect![[r#"
        line 3, field metadata: alias references unknown anchor
    "#]]);
}

#[test]
fn unquoted_numbers_and_words_are_texts_where_texts_are_asked() {
    check("apiVersion: v1\nkind: Service\nmetadata: {name: s, labels: {version: 2, on: yes}}\nspec: {selector: {version: 2}, ports: [{port: 80, targetPort: \"8080\"}]}\n", expect![[r#"
        line 1: Service default/s
    "#]]);
    check("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{to: [{operation: {ports: [80]}}]}]}\n", expect![[r#"
        line 1: AuthorizationPolicy default/p
    "#]]);
    check("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {portLevelMtls: {80: {mode: STRICT}, \"81\": {mode: STRICT}}}\n", expect![[r#"
        line 1: PeerAuthentication default/p
    "#]]);
}

#[test]
fn a_list_is_no_object_wherever_it_stands() {
    check("apiVersion: v1\nkind: List\nitems:\n- [v1, List, []]\n", expect![[r#"
        line 3, field items[0]: expected a mapping, key: value
    "#]]);
    check("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: [{}]}\n", expect![[r#"
        line 3, field items[0]: expected a mapping, key: value
    "#]]);
    check("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: [{}]\n", expect![[r#"
        line 4, field spec: expected a mapping, key: value
    "#]]);
    check("apiVersion: v1\nkind: Pod\nmetadata: [p]\n", expect![[r#"
        line 3, field metadata: expected a mapping, key: value
    "#]]);
}

#[test]
fn what_is_not_ours_is_named() {
    check("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: istios-own}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n---\napiVersion: example.com/v1\nkind: Odd\n", expect![[r#"
        line 1: foreign: networking.istio.io/v1 Gateway istios-own
        line 5: VirtualService default/v
        line 9: foreign: example.com/v1 Odd (no name)
    "#]]);
}

#[test]
fn unknown_fields_of_kubernetes_kinds_are_told() {
    check("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  selectors: {a: b}\n  ports:\n  - {port: 80, targetport: web, name: null}\n", expect![[r#"
        line 1: Service default/s, unknown: spec.ports[0].targetport spec.selectors
    "#]]);
}

/// A text of aliases that would unfold to gigabytes is refused while it is small.
#[test]
fn an_alias_bomb_is_refused() {
    let mut yaml = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        yaml += &format!("a{level}: &a{level} [{inner}]\n");
    }
    let said = read(&yaml);
    assert!(said.starts_with("line ") && !said.contains("Namespace a"), "{said}");
}

/// One object of each kind with most of its fields, for texts that are damaged.
const WHOLE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: p, labels: {app: a}, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: n, containers: [{name: c, ports: [{name: web, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: s}
spec: {selector: {app: a}, clusterIP: 10.96.0.1, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: p}
spec:
  selector: {matchLabels: {app: a}}
  action: DENY
  rules: [{from: [{source: {principals: ["a*"], ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: ["80"]}}], when: [{key: source.ip, values: ["::1"]}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: e}
spec: {hosts: [a.example], resolution: DNS, ports: [{number: 80, name: http}], endpoints: [{address: 1.2.3.4, weight: 2}]}
---
apiVersion: v1
kind: List
items: [{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: pa}, spec: {portLevelMtls: {80: {mode: STRICT}}}}]
"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is cut out of, doubled in or written over a file, reading and translating it ends without a panic.
    #[test]
    fn damaged_texts_are_refused_or_read(damages in prop::collection::vec((any::<prop::sample::Index>(), 0..40usize, prop::option::of("[ -~\n]{0,6}")), 1..6)) {
        let mut text = WHOLE.to_owned();
        for (at, length, over) in damages {
            let begin = at.index(text.len() + 1);
            let end = (begin + length).min(text.len());
            let (Some(before), Some(cut), Some(after)) = (text.get(..begin), text.get(begin..end), text.get(end..)) else { continue };
            text = format!("{before}{}{after}", over.unwrap_or_else(|| cut.repeat(2)));
        }
        let mut translation = crate::translate::tests::translation();
        for one in documents(&text) {
            if let Ok(contents) = document(one) {
                translation.apply(contents.objects.into_iter().map(|read| crate::cluster::Event::Applied(read.object)));
            }
        }
        translation.reported().for_each(|key| drop(translation.report(key)));
    }
}

#[test]
fn the_mesh_configuration_is_a_config_map_with_a_key() {
    let map = |mesh: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{}", mesh.lines().map(|line| format!("    {line}\n")).collect::<String>());
    check(&map("rootNamespace: istio-system\nextensionProviders: [{name: x}]"), expect![[r#"
        line 1: ConfigMap istio-system/istio
    "#]]);
    check(&map("discoverySelectors:\n- matchLabel: {a: b}"), expect![[r#"
        line 5, field data.mesh: line 2 column 3: unknown field `matchLabel`, expected one of matchLabels, matchExpressions
    "#]]);
    check(&map("discoverySelectors:\n- matchExpressions: [{key: a, operator: Is, values: [b]}]"), expect![[r#"
        line 5, field data.mesh: discoverySelectors[0]: matchExpressions: operator "Is" is not In, NotIn, Exists or DoesNotExist
    "#]]);
    check(&map("serviceEntryVisibility: {defaultVisibility: SOME}"), expect![[r#"
        line 5, field data.mesh: line 1 column 45: unknown variant `SOME`, expected one of PUBLIC, VISIBILITY_UNSPECIFIED, NAMESPACE, NONE
    "#]]);
    check(&map("serviceEntryVisibility: {policies: [{visibility: NONE, matchingRules: [{namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}]}]}"), expect![[r#"
        line 5, field data.mesh: serviceEntryVisibility.policies.matchingRules.namespaceSelector: matchExpressions: In of "a" needs values
    "#]]);
    check(&map("a: [b"), expect![[r#"
        line 5, field data.mesh: line 1 column 4: unclosed bracket '['
    "#]]);
    check("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {text: x}\n", expect![[r#"
        line 1: foreign: v1 ConfigMap other
    "#]]);
}
