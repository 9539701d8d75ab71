use expect_test::{Expect, expect};

use super::*;

const GOOD: &str = "
uid: 0f3a-1
name: cart-1
namespace: shop
serviceAccount: cart
netns: /run/isthmus/netns/cart-1
ips: [10.0.1.5, 'fd00:1::5']
hostInterface: veth-cart-1
labels: {app: cart}
annotations: {ambient.istio.io/dns-capture: 'false'}
phase: starting
";

#[test]
fn yaml_and_json_say_the_same() {
    let yaml = parse(Path::new("/p/cart-1.yaml"), GOOD).unwrap();
    assert_eq!((yaml.phase, yaml.ips.len(), yaml.host_interface.as_deref()), (Phase::Starting, 2, Some("veth-cart-1")));
    let json = serde_json::to_string(&yaml).unwrap();
    assert_eq!(parse(Path::new("/p/cart-1.json"), &json).unwrap(), yaml);
    let short =
        parse(Path::new("a.json"), r#"{"uid": "u", "name": "n", "namespace": "s", "netns": "/x", "ips": ["::2"]}"#).unwrap();
    assert_eq!((short.service_account.as_str(), short.phase, short.host_network), ("default", Phase::Running, false));
}

fn check(from: &str, to: &str, expected: Expect) {
    assert!(GOOD.contains(from), "{from}");
    let error = parse(Path::new("/p/cart-1.yaml"), &GOOD.replace(from, to)).unwrap_err();
    expected.assert_eq(&error);
}

#[test]
fn errors_name_file_and_field() {
    check(
        "uid: 0f3a-1",
        "uid: ''",
        expect![[r#"/p/cart-1.yaml: uid: "" must have 1 to 128 characters of a-z, A-Z, 0-9, '-', '.', '_'"#]],
    );
    check(
        "uid: 0f3a-1",
        "uid: 'a b'",
        expect![[r#"/p/cart-1.yaml: uid: "a b" must have 1 to 128 characters of a-z, A-Z, 0-9, '-', '.', '_'"#]],
    );
    check("namespace: shop\n", "", expect!["/p/cart-1.yaml: line 10 column 1: missing field `namespace`"]);
    check(
        "phase: starting",
        "phase: sleeping",
        expect!["/p/cart-1.yaml: line 11 column 8: unknown variant `sleeping`, expected one of starting, running"],
    );
    check(
        "phase: starting",
        "phases: starting",
        expect![
            "/p/cart-1.yaml: line 11 column 1: unknown field `phases`, expected one of uid, name, namespace, serviceAccount, netns, ips, hostInterface, labels, annotations, phase, hostNetwork"
        ],
    );
    check("10.0.1.5", "10.0.1.555", expect!["/p/cart-1.yaml: line 7 column 7: invalid IP address syntax"]);
    check("10.0.1.5", "127.0.0.1", expect!["/p/cart-1.yaml: ips: 127.0.0.1 cannot be a pod's address"]);
    check("[10.0.1.5, 'fd00:1::5']", "[]", expect!["/p/cart-1.yaml: ips: a pod needs at least one address"]);
    check("/run/isthmus/netns/cart-1", "netns/cart-1", expect!["/p/cart-1.yaml: netns: netns/cart-1 must be an absolute path"]);
    check(
        "veth-cart-1",
        "veth-cart-1-much-too-long",
        expect![[r#"/p/cart-1.yaml: hostInterface: "veth-cart-1-much-too-long" is not an interface name"#]],
    );
    check(
        "labels: {app: cart}",
        "labels: {app: cart",
        expect!["/p/cart-1.yaml: line 10 column 12: while parsing a flow mapping, did not find expected ',' or '}'"],
    );
}

#[test]
fn which_files_are_pods() {
    for (name, is) in [
        ("a.json", true),
        ("a.yaml", true),
        ("a.yml", true),
        ("a.status.json", false),
        (".a.json", false),
        ("a.txt", false),
        ("json", false),
    ] {
        assert_eq!(is_pod_file(&Path::new("/p").join(name)), is, "{name}");
    }
    assert_eq!(status_path(Path::new("/p/cart-1.yaml")), Path::new("/p/cart-1.status.json"));
}
