use expect_test::{Expect, expect};

use super::*;

fn pod(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Pod {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Pod {
        uid: "u".into(),
        name: "n".into(),
        namespace: "s".into(),
        service_account: "a".into(),
        netns: "/run/netns/n".into(),
        ips: vec![[10, 0, 0, 1].into()],
        host_interface: None,
        labels: map(labels),
        annotations: map(annotations),
        phase: crate::podfile::Phase::Running,
        host_network: false,
    }
}

fn check(labels: &[(&str, &str)], annotations: &[(&str, &str)], expected: Expect) {
    let shown = match wanted(&pod(labels, annotations), true) {
        Ok(Wanted::Enrolled(scope)) => {
            let list = |ports: &[Ports]| ports.iter().map(Ports::to_string).collect::<Vec<_>>().join(" ");
            let (not_in, not_out) = (list(&scope.exclude_inbound), list(&scope.exclude_outbound));
            format!(
                "dns={} inbound={} virtual={:?} not-in=[{not_in}] not-out=[{not_out}]",
                scope.dns, scope.inbound, scope.virtual_interfaces
            )
        }
        Ok(Wanted::NotEnrolled) => "not enrolled".to_owned(),
        Err(reason) => reason,
    };
    expected.assert_eq(&shown);
}

#[test]
fn labels_and_annotations() {
    check(&[], &[], expect![[r#"dns=true inbound=true virtual=[] not-in=[] not-out=[]"#]]);
    check(
        &[(DATAPLANE_MODE, "ambient")],
        &[(DNS_CAPTURE, "false")],
        expect![[r#"dns=false inbound=true virtual=[] not-in=[] not-out=[]"#]],
    );
    check(&[(DATAPLANE_MODE, "none")], &[], expect!["not enrolled"]);
    check(
        &[],
        &[(BYPASS_INBOUND, "true"), (VIRTUAL_INTERFACES, "k6t-eth0, docker0,")],
        expect![[r#"dns=true inbound=false virtual=["k6t-eth0", "docker0"] not-in=[] not-out=[]"#]],
    );
    check(
        &[],
        &[(EXCLUDE_INBOUND, "9001, 22,9000,8999-9000,65535"), (EXCLUDE_OUTBOUND, "25")],
        expect!["dns=true inbound=true virtual=[] not-in=[22 8999-9001 65535] not-out=[25]"],
    );
    check(&[], &[("ambient.istio.io/redirection", "enabled")], expect!["dns=true inbound=true virtual=[] not-in=[] not-out=[]"]);
}

#[test]
fn what_is_wrong_is_said() {
    check(
        &[],
        &[(SIDECAR_STATUS, "{}")],
        expect!["annotation sidecar.istio.io/status: the pod has a sidecar, which captures its traffic already"],
    );
    check(
        &[],
        &[(DNS_CAPTURE, "yes")],
        expect![[r#"annotation ambient.istio.io/dns-capture: "yes" is neither "true" nor "false""#]],
    );
    check(
        &[],
        &[(BYPASS_INBOUND, "True")],
        expect![[r#"annotation ambient.istio.io/bypass-inbound-capture: "True" is neither "true" nor "false""#]],
    );
    check(
        &[],
        &[(VIRTUAL_INTERFACES, "eth0\"; drop")],
        expect![[
            r#"annotation istio.io/reroute-virtual-interfaces: "eth0\"; drop" is not the name of an interface other than lo"#
        ]],
    );
    check(
        &[],
        &[(VIRTUAL_INTERFACES, "lo")],
        expect![[r#"annotation istio.io/reroute-virtual-interfaces: "lo" is not the name of an interface other than lo"#]],
    );
    for wrong in ["0", "65536", "-1", "80-", "90-80", "http", "80 81"] {
        let error = wanted(&pod(&[], &[(EXCLUDE_INBOUND, wrong)]), true).unwrap_err();
        assert_eq!(
            error,
            format!("annotation {EXCLUDE_INBOUND}: {wrong:?} is neither a port (1-65535) nor a range of ports like 9000-9100")
        );
    }
    check(
        &[],
        &[(EXCLUDE_OUTBOUND, "15000-15010")],
        expect![
            "annotation ambient.isthmus.io/exclude-outbound-ports: 15000-15010 covers 15001, a port that the mesh itself uses"
        ],
    );
    let many = vec!["1"; 65].join(",");
    check(
        &[],
        &[(EXCLUDE_OUTBOUND, &many)],
        expect!["annotation ambient.isthmus.io/exclude-outbound-ports: 65 entries, at most 64 are taken"],
    );
    let error = wanted(&Pod { host_network: true, ..pod(&[], &[]) }, true).unwrap_err();
    assert_eq!(error, "hostNetwork: a pod in the node's own network namespace cannot be captured");
}
