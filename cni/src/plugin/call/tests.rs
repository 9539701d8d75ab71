use super::*;

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1;K8S_POD_INFRA_CONTAINER_ID=9;K8S_POD_UID=u1";

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn add(args: &str, config: Value) -> Result<Call, Failure> {
    let environment = environment(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/var/run/netns/cni-1"), ("CNI_ARGS", args)]);
    read(&environment, &config.to_string())
}

fn config() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "isthmus-cni", "pod_namespace": "istio-system",
        "exclude_namespaces": ["kube-system"], "runtimeConfig": {},
        "prevResult": {
            "cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "dns": {},
            "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 0}, {"address": "fd00::5/64"}],
        },
    })
}

#[test]
fn a_pod_is_told_to_the_agent() {
    for version in VERSIONS {
        let mut config = config();
        config["cniVersion"] = version.into();
        let Ok(Call::Add(add)) = add(ARGS, config.clone()) else { panic!("{version}") };
        let event = &add.event;
        assert_eq!((event.pod_name.as_str(), event.pod_namespace.as_str(), event.pod_uid.as_str()), ("cart-1", "shop", "u1"));
        assert_eq!(event.netns, "/var/run/netns/cni-1");
        let ips = event.ips.as_ref().unwrap();
        assert_eq!((ips[0].address.mask.as_str(), ips[0].interface, ips[0].gateway.as_str()), ("////AA==", Some(0), "10.0.0.1"));
        assert_eq!((ips[1].address.mask.as_str(), ips[1].interface), ("//////////8AAAAAAAAAAA==", None));
        // the result of the plugins before is passed on, but for the version that was asked for
        let mut expected = config["prevResult"].clone();
        expected["cniVersion"] = version.into();
        assert_eq!(result(&add.config), expected);
    }
}

#[test]
fn who_is_never_held_up() {
    for args in [
        "",
        "IgnoreUnknown=1",
        "K8S_POD_NAMESPACE=shop",
        "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-1",
        "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=ztunnel-x7",
        "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istio-cni-node-x7",
        "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istiod-1",
    ] {
        let Ok(Call::Answer(answer)) = add(args, config()) else { panic!("{args}") };
        assert_eq!(answer, config()["prevResult"], "{args}");
    }
    // a pod that only has such a name is not ours
    assert!(matches!(add("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=ztunnel-x7", config()), Ok(Call::Add(_))));
}

#[test]
fn other_commands_do_nothing() {
    for command in ["DEL", "CHECK", "GC", "STATUS"] {
        let answer = read(&environment(&[("CNI_COMMAND", command)]), &config().to_string());
        assert!(matches!(answer, Ok(Call::Answer(Value::Null))), "{command}"); // DEL also without a namespace, and twice (F-39)
    }
    let Ok(Call::Answer(versions)) = read(&environment(&[("CNI_COMMAND", "VERSION")]), r#"{"cniVersion":"0.4.0"}"#) else { panic!() };
    assert_eq!(versions, json!({"cniVersion": "0.4.0", "supportedVersions": VERSIONS}));
}

#[test]
fn calls_that_are_wrong_are_answered() {
    let mut without_previous = config();
    without_previous.as_object_mut().unwrap().remove("prevResult");
    let Ok(Call::Add(add_alone)) = add(ARGS, without_previous) else { panic!() };
    assert_eq!((add_alone.event.ips, result(&add_alone.config)), (None, json!({"cniVersion": "1.0.0"})));

    let mut old = config();
    old["cniVersion"] = "0.2.0".into();
    for (call, code, text) in [
        (add(ARGS, old), 1, "cniVersion \"0.2.0\" is not supported"),
        (add(ARGS, json!([])), BAD_CONFIG, "the configuration on standard input cannot be read"),
        (read(&environment(&[("CNI_COMMAND", "ADD")]), &config().to_string()), BAD_ENVIRONMENT, "CNI_NETNS is missing"),
        (read(&environment(&[("CNI_COMMAND", "LIST")]), &config().to_string()), BAD_ENVIRONMENT, "CNI_COMMAND: \"LIST\" is unknown"),
    ] {
        let failure = call.unwrap_err();
        assert_eq!(failure.code, code);
        assert!(failure.message.starts_with(text), "{}", failure.message);
        assert_eq!(failure.shown()["msg"], failure.message.as_str());
        assert_eq!(failure.shown()["cniVersion"], "1.0.0");
    }
}
