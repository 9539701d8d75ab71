use mesh_model::fixture;
use mesh_model::workload::PolicyKey;

use super::*;

// Z-002, Z-044: the example of spec/dataplane.md 8.3.
#[test]
fn the_dump_has_the_fields_names() {
    let mesh = fixture::parse(
        "node n1: cart-7c 10.1.0.17 sa=lab/cart waypoint=wp.lab app=cart version=v1 workload=cart
         service cart.lab 10.96.0.7 80->8080 canonical : cart-7c[80->8080]",
    )
    .unwrap();
    let mut policies = PolicySet::default();
    let key = PolicyKey::new("lab/p");
    policies.insert(key, Arc::new(deny_plaintext_to_9090()));
    let parts = Parts {
        version: json!({"version": "0.1.0"}),
        config: json!({"z": 1, "a": 2}),
        certificates: vec![CertificateDump {
            identity: "spiffe://cluster.local/ns/lab/sa/cart".into(),
            state: "Available".into(),
            cert_chain: vec![CertDump {
                pem: "LS0t".into(),
                serial_number: "1234567".into(),
                valid_from: "2026-03-04T05:06:07Z".into(),
                expiration_time: "2026-03-05T05:06:07Z".into(),
            }],
            root_certs: Vec::new(),
        }],
        workload_state: Some(BTreeMap::from([
            ("0f-uid".to_owned(), up()),
            ("1f-uid".to_owned(), PodDump { state: "Pending", info: info(), connections: None, older: None }),
        ])),
    };
    let dump = config_dump(&mesh.directory, &policies, &LocalFile::default(), &parts);
    let expected = json!({
        "certificates": [{
            "certChain": [{"expirationTime": "2026-03-05T05:06:07Z", "pem": "LS0t", "serialNumber": "1234567", "validFrom": "2026-03-04T05:06:07Z"}],
            "identity": "spiffe://cluster.local/ns/lab/sa/cart",
            "rootCerts": [],
            "state": "Available",
        }],
        "config": {"a": 2, "z": 1},
        "policies": [{"action": "Deny", "dryRun": false, "name": "p", "namespace": "lab",
            "rules": [[[{"destinationPorts": [9090], "notPrincipals": [{"Presence": []}]}]]], "scope": "Namespace"}],
        "services": [{"canonical": true,
            "endpoints": {"Kubernetes//Pod/lab/cart-7c": {"port": {"80": 8080}, "status": "Healthy", "workloadUid": "Kubernetes//Pod/lab/cart-7c"}},
            "hostname": "cart.lab.svc.cluster.local", "name": "cart", "namespace": "lab", "ports": {"80": 8080},
            "subjectAltNames": [], "vips": ["/10.96.0.7"], "visibility": "Public"}],
        "stagedServices": {},
        "staticConfig": {"policies": [], "services": [], "workloads": []},
        "version": {"version": "0.1.0"},
        "workloadState": {
            "0f-uid": {"connections": {"inbound": [{"actualDst": "10.1.0.17:8080", "originalDst": "cart.lab.svc.cluster.local", "protocol": "HBONE", "src": "10.1.0.9:40112"}],
                "outbound": [{"actualDst": "8.8.8.8:53", "originalDst": null, "protocol": "TCP", "src": "10.1.0.17:1"}]},
                "info": {"name": "cart-7c", "namespace": "lab", "serviceAccount": "cart"}, "state": "Up"},
            "1f-uid": {"info": {"name": "cart-7c", "namespace": "lab", "serviceAccount": "cart"}, "state": "Pending"},
        },
        "workloads": [{"canonicalName": "cart", "canonicalRevision": "v1", "capacity": 1, "clusterId": "Kubernetes", "name": "cart-7c",
            "namespace": "lab", "networkMode": "Standard", "node": "n1", "protocol": "HBONE", "serviceAccount": "cart",
            "services": ["lab/cart.lab.svc.cluster.local"], "status": "Healthy", "trustDomain": "cluster.local",
            "uid": "Kubernetes//Pod/lab/cart-7c",
            "waypoint": {"destination": "lab/wp.lab.svc.cluster.local", "hboneMtlsPort": 15008},
            "workloadIps": ["10.1.0.17"], "workloadName": "cart", "workloadType": "deployment"}],
    });
    assert_eq!(dump, expected);
    assert_eq!(dump.to_string(), sorted(expected).to_string(), "the keys of every object are sorted");
}

fn info() -> PodInfoDump {
    PodInfoDump { name: "cart-7c".into(), namespace: "lab".into(), service_account: "cart".into() }
}

fn up() -> PodDump {
    let connection = |src: &str, meant: Option<&str>, to: &str, protocol| ConnectionDump {
        src: src.into(),
        original_dst: meant.map(Into::into),
        actual_dst: to.into(),
        protocol,
    };
    let connections = ConnectionsDump {
        inbound: vec![connection("10.1.0.9:40112", Some("cart.lab.svc.cluster.local"), "10.1.0.17:8080", "HBONE")],
        outbound: vec![connection("10.1.0.17:1", None, "8.8.8.8:53", "TCP")],
    };
    PodDump { state: "Up", info: info(), connections: Some(connections), older: None }
}

fn deny_plaintext_to_9090() -> Policy {
    let asked = Match {
        not_principals: vec![Entry::Value(StringMatch::Presence)],
        destination_ports: vec![Entry::Value(9090)],
        ..Match::default()
    };
    let mut policy = Policy::new("lab", "p", mesh_policy::Scope::Namespace, Action::Deny);
    policy.groups = vec![mesh_policy::Group::new([mesh_policy::Rule::new([asked])])];
    policy
}

#[test]
fn what_is_not_the_default_is_shown() {
    let mesh = fixture::parse(
        "node n1: w 10.0.0.1,fd00::1 ns=lab tcp host-network unhealthy native-tunnel network=net host=w.test type=job capacity=5 \
             tunnel=PROXY policies=lab/a,lab/b locality=r/z/s gateway=10.9.9.9:15010
         service s.lab 10.0.0.0/8 80 waypoint=10.0.0.9 waypoints=wp.lab*3 lb=failover:network,node health=all families=dual \
             visibility=namespace sans=spiffe://td/ns/x/sa/y",
    )
    .unwrap();
    let expected = json!({
        "applicationTunnel": {"port": null, "protocol": "PROXY"},
        "authorizationPolicies": ["lab/a", "lab/b"],
        "canonicalName": "w", "canonicalRevision": "latest", "capacity": 5, "clusterId": "Kubernetes", "hostname": "w.test",
        "locality": {"region": "r", "subzone": "s", "zone": "z"},
        "name": "w", "namespace": "lab", "nativeTunnel": true, "network": "net",
        "networkGateway": {"destination": "net/10.9.9.9", "hboneMtlsPort": 15010},
        "networkMode": "HostNetwork", "node": "n1", "protocol": "TCP", "serviceAccount": "default", "status": "Unhealthy",
        "trustDomain": "cluster.local", "uid": "Kubernetes//Pod/lab/w", "workloadIps": ["10.0.0.1", "fd00::1"],
        "workloadName": "w", "workloadType": "job",
    });
    assert_eq!(workload(&mesh.workload("w")), expected);
    let expected = json!({
        "canonical": false, "cidrVips": [{"cidr": "10.0.0.0/8", "network": ""}], "endpoints": {},
        "hostname": "s.lab.svc.cluster.local", "ipFamilies": "Dual",
        "loadBalancer": {"healthPolicy": "AllowAll", "mode": "Failover", "routingPreferences": ["Network", "Node"]},
        "name": "s", "namespace": "lab", "ports": {"80": 80}, "subjectAltNames": ["spiffe://td/ns/x/sa/y"], "vips": [],
        "visibility": "Namespace", "waypoint": {"destination": "/10.0.0.9", "hboneMtlsPort": 15008},
        "weightedWaypoints": [{"destination": {"destination": "lab/wp.lab.svc.cluster.local", "hboneMtlsPort": 15008}, "weight": 3}],
    });
    assert_eq!(service(&mesh.directory, &mesh.service("s.lab")), expected);
}

#[test]
fn endpoints_without_a_service_are_staged() {
    let mut mesh = fixture::parse("node n1: w 10.0.0.1\nservice s.default - 80 : w[80->8080]").unwrap();
    mesh.directory.apply(mesh_model::change::Change::Remove("default/s.default.svc.cluster.local".into()));
    let dump = config_dump(&mesh.directory, &PolicySet::default(), &LocalFile::default(), &Parts::default());
    let uid = "Kubernetes//Pod/default/w";
    assert_eq!(
        dump["stagedServices"],
        json!({"default/s.default.svc.cluster.local": {uid: {"workloadUid": uid, "port": {"80": 8080}, "status": "Healthy"}}})
    );
    assert_eq!(dump.get("workloadState"), None, "dedicated mode has no pods");
}

// What the dump says of a policy is what a local file would say.
#[test]
fn a_policy_goes_through_the_dump_and_the_file_unharmed() {
    let one = deny_plaintext_to_9090();
    let text = json!({"policies": [policy(&one)]}).to_string();
    assert_eq!(*LocalFile::parse("dump", &text).unwrap().policies[0], one);
}

#[test]
fn an_entry_that_cannot_be_read_is_shown_as_such() {
    let asked = Match { source_ips: vec![Entry::Malformed, Entry::Value("10.0.0.0/8".parse().unwrap())], ..Match::default() };
    assert_eq!(match_(&asked), json!({"sourceIps": ["malformed", "10.0.0.0/8"]}));
}
