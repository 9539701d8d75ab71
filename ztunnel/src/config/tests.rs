use super::control_plane::{SYSTEM_ROOTS, TOKEN_FILE};
use super::operators::after_grace;
use super::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Parses with these variables and files, on a machine of eight cores.
fn parse(environment: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Config, String> {
    let (environment, files) = (map(environment), map(files));
    let read = |path: &Path| files.get(path.to_str().unwrap()).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
    Config::parse(&Told { environment: &environment, read: &read, cores: 8 }).map_err(|wrong| wrong.to_string())
}

fn good(environment: &[(&str, &str)]) -> Config {
    parse(environment, &[]).unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn an_empty_environment_is_a_node_daemon_with_the_fields_defaults() {
    let config = good(&[]);
    assert_eq!(config.mode, Mode::Shared { agent: "/var/run/ztunnel/ztunnel.sock".into() });
    assert_eq!(config.xds.as_ref().unwrap().url, "https://localhost:15012");
    assert_eq!(config.ca.root, Root::File("./var/run/secrets/istio/root-cert.pem".into()));
    assert_eq!(
        (config.certificate_life, config.token, config.key_exchange),
        (seconds(86_400), Token::None, KeyExchange::Standard)
    );
    let place = &config.place;
    assert_eq!(
        (&*place.cluster_id, &*place.cluster_domain, &*place.trust_domain, &place.node),
        ("Kubernetes", "cluster.local", "cluster.local", &None)
    );
    assert_eq!(config.sockets.mark, Some(1337));
    assert_eq!(config.sockets.keepalive, Some(Keepalive { idle: seconds(180), interval: seconds(180), retries: 9 }));
    assert_eq!((config.sockets.user_timeout, config.sockets.spoofing), (None, Spoofing::Auto));
    assert_eq!(config.dns.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:15053", "[::1]:15053"]);
    assert_eq!(
        (config.ports.admin, config.ports.metrics, config.ports.readiness, config.ports.admin_socket),
        (15000, 15020, 15021, None)
    );
    assert_eq!((config.workers, config.drain), (2, seconds(5)));
    assert_eq!(config.dns.limits, crate::dns::Limits::DEFAULT);
    assert_eq!(config.metrics, mesh_telemetry::recorder::Limits::DEFAULT);
}

#[test]
fn the_variables_of_a_cluster_are_understood() {
    let config = good(&[
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("NODE_NAME", "n1"),
        ("CLUSTER_ID", "east"),
        ("INSTANCE_IP", "10.1.0.4"),
        ("XDS_ADDRESS", "https://istiod.istio-system.svc:15012"),
        ("XDS_HEADER_X-Tenant", "a"),
        ("XDS_ROOT_CA", "SYSTEM"),
        ("CA_ROOT_CA", "-----BEGIN CERTIFICATE-----\nabc"),
        ("ISTIO_META_ENABLE_HBONE", "true"),
        ("ISTIO_METAJSON_LABELS", "{\"a\":1}"),
        ("ENABLE_ORIG_SRC", "true"),
        ("USER_TIMEOUT_ENABLED", "true"),
        ("KEEPALIVE_TIME", "100s"),
        ("KEEPALIVE_INTERVAL", "10s"),
        ("IPV6_ENABLED", "false"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
        ("COMPLIANCE_POLICY", "pqc"),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "access=debug,info"),
        ("PATH", "/usr/bin"),
    ]);
    assert_eq!((config.place.node.as_deref(), &*config.place.cluster_id), (Some("n1"), "east"));
    assert_eq!(config.place.metadata, map(&[("ENABLE_HBONE", "true")]));
    assert_eq!(config.place.metadata_json["LABELS"], serde_json::json!({"a": 1}));
    let xds = config.xds.unwrap();
    assert_eq!((xds.root, xds.headers), (Root::File(SYSTEM_ROOTS.into()), vec![("X-Tenant".to_owned(), "a".to_owned())]));
    assert_eq!(config.ca.url, "https://istiod.istio-system.svc:15012");
    assert!(matches!(config.ca.root, Root::Pem(_)));
    assert_eq!((config.sockets.spoofing, config.sockets.user_timeout), (Spoofing::Required, Some(seconds(190))));
    assert_eq!(config.dns.addresses.len(), 1);
    assert_eq!((config.drain, config.key_exchange, config.log.format), (seconds(25), KeyExchange::PostQuantumOnly, Format::Json));
}

#[test]
fn dedicated_mode_is_one_workload() {
    let config = good(&[("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "shop/vm-1/cart")]);
    assert_eq!(config.mode, Mode::Dedicated { namespace: "shop".into(), name: "vm-1".into(), service_account: "cart".into() });
    assert_eq!(config.sockets.mark, None);
    assert_eq!(config.ports.admin_socket.as_deref(), Some(Path::new("/var/run/ztunnel/admin.sock")));
    for wrong in ["", "shop/vm-1", "shop/vm-1/cart/x", "shop//cart"] {
        let told = parse(&[("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", wrong)], &[]).unwrap_err();
        assert!(told.contains("expected namespace/name/service-account"), "{told}");
    }
    assert!(parse(&[("PROXY_MODE", "dedicated")], &[]).unwrap_err().starts_with("PROXY_WORKLOAD_INFO="));
}

/// The controller compares the client's words with its token, which is the workload's.
#[test]
fn a_dedicated_daemon_speaks_as_its_workload() {
    let dedicated = [("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "shop/vm-1/cart")];
    let of = |more: &[(&str, &str)]| {
        let place = good(&[&dedicated[..], more].concat()).place;
        [place.pod_namespace, place.pod_name, place.service_account].join("/")
    };
    assert_eq!(of(&[]), "shop/vm-1/cart");
    assert_eq!(of(&[("POD_NAME", "daemon"), ("POD_NAMESPACE", "other")]), "other/daemon/cart");
    let asks = [&dedicated[..], &[("XDS_ON_DEMAND", "true"), ("ISTIO_META_DNS_CAPTURE", "false")]].concat();
    assert!(parse(&asks, &[]).unwrap_err().contains("in dedicated mode nobody tells the daemon of its own workload"));
}

// Z-267
#[test]
fn the_daemon_has_an_identity_of_its_own_where_it_was_told_all_of_it() {
    let told = [("POD_NAMESPACE", "mesh"), ("POD_NAME", "zt-1"), ("SERVICE_ACCOUNT", "zt"), ("TRUST_DOMAIN", "td")];
    let identity = |set: &[(&str, &str)]| crate::own::identity(&good(set)).map(|identity| identity.to_string());
    assert_eq!(identity(&told).as_deref(), Some("spiffe://td/ns/mesh/sa/zt"));
    assert_eq!(identity(&told[..3]).as_deref(), Some("spiffe://cluster.local/ns/mesh/sa/zt"));
    for left_out in 0..3 {
        let some: Vec<_> = told.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, one)| *one).collect();
        assert_eq!(identity(&some), None, "without {}", told[left_out].0);
    }
    let dedicated = [&told[..], &[("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "shop/vm-1/cart")]].concat();
    assert_eq!(identity(&dedicated), None, "the port is the workload's");
}

const FILE: &str = "
defaultConfig:
  discoveryAddress: istiod.file:15012
  proxyAdminPort: 15100
  concurrency: 3
  tracing: {sampling: 1}
  proxyMetadata:
    ISTIO_META_A: file
    B: file
    C: file
    DNS_CAPTURE: false
extensionProviders: []
";

// Z-009
#[test]
fn the_environment_wins_over_proxy_config_and_that_over_the_file() {
    let files = [("./etc/istio/config/mesh", FILE)];
    let config = parse(&[], &files).unwrap();
    assert_eq!(config.xds.unwrap().url, "https://istiod.file:15012");
    assert_eq!(config.ca.url, "https://localhost:15012", "the CA's address is its own setting");
    assert_eq!((config.ports.admin, config.workers, config.dns.enabled), (15100, 3, false));

    let inline = "{discoveryAddress: 'istiod.inline:15012', statsPort: 15200, proxyMetadata: {B: inline, ISTIO_META_C: 7, DNS_CAPTURE: 'TRUE'}}";
    let config =
        parse(&[("PROXY_CONFIG", inline), ("ISTIO_META_C", "environment"), ("ISTIO_META_CLUSTER_ID", "west")], &files).unwrap();
    assert_eq!(config.xds.unwrap().url, "https://istiod.inline:15012");
    assert_eq!((config.ports.admin, config.ports.metrics, config.dns.enabled), (15100, 15200, true));
    let metadata = [("A", "file"), ("B", "inline"), ("C", "environment"), ("CLUSTER_ID", "west"), ("DNS_CAPTURE", "TRUE")];
    assert_eq!(config.place.metadata, map(&metadata));
    assert_eq!(&*config.place.cluster_id, "west");

    let over = [
        ("PROXY_CONFIG", inline),
        ("XDS_ADDRESS", "https://istiod.env:15012"),
        ("ZTUNNEL_WORKER_THREADS", "50%"),
        ("CONNECTION_TERMINATION_DEADLINE", "1s"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "60"),
    ];
    let config = parse(&over, &files).unwrap();
    assert_eq!((config.xds.unwrap().url.as_str(), config.workers, config.drain), ("https://istiod.env:15012", 4, seconds(1)));
    let none = parse(&[("XDS_ADDRESS", ""), ("LOCAL_XDS", "workloads: []")], &files).unwrap();
    assert_eq!((none.xds, none.local_xds), (None, Some(Local::Text("workloads: []".to_owned()))));
    assert_eq!(parse(&[("PROXY_CONFIG", "concurrency: 0")], &files).unwrap().workers, 8, "0 is all cores");
    assert_eq!(parse(&[("PROXY_CONFIG", "")], &[]).unwrap(), good(&[]));
}

#[test]
fn the_token_is_a_file_if_there_is_one() {
    let files = [("/run/token", "abc"), ("./var/run/secrets/tokens/istio-token", "def")];
    for (said, files, want) in [
        (None, &files[..1], Token::None),
        (None, &files[..], Token::File(TOKEN_FILE.into())),
        (Some("/run/token"), &files[..], Token::File("/run/token".into())),
        (Some("eyJhbGci.x.y\n"), &files[..], Token::Text("eyJhbGci.x.y".to_owned())),
    ] {
        let environment: Vec<_> = said.into_iter().map(|said| ("AUTH_TOKEN", said)).collect();
        assert_eq!(parse(&environment, files).unwrap().token, want, "{said:?}");
    }
}

#[test]
fn the_dump_shows_the_settings_and_no_secret() {
    let config = good(&[
        ("AUTH_TOKEN", "s3cret-token"),
        ("XDS_HEADER_Authorization", "s3cret-header"),
        ("CA_ROOT_CA", "-----BEGIN CERTIFICATE-----s3cret-pem"),
        ("LOCAL_XDS", "s3cret-file"),
        ("NODE_NAME", "n1"),
    ]);
    let shown = config.shown();
    assert_eq!((&shown["place"]["localNode"], &shown["secretTtl"]), (&"n1".into(), &"1d".into()));
    assert_eq!(shown["proxyMode"]["shared"]["inpodUds"], "/var/run/ztunnel/ztunnel.sock");
    assert_eq!(shown["xds"]["headers"], serde_json::json!(["Authorization"]));
    assert!(!shown.to_string().contains("s3cret"), "{shown}");
    assert_eq!(format!("{:?}", config.token), "Text(…)");
}

#[test]
fn grace_leaves_time_for_our_own_end() {
    for (grace, want) in [(0, 1), (1, 1), (2, 1), (10, 9), (11, 6), (30, 25)] {
        assert_eq!(after_grace(grace), seconds(want), "{grace}");
    }
}

#[test]
fn what_cannot_be_used_stops_the_start_and_says_why() {
    for (environment, told) in [
        (&[("KEEPALIVE_ENABLED", "yes")][..], "KEEPALIVE_ENABLED=\"yes\" cannot be used: expected true or false"),
        (&[("PROXY_MODE", "both")], "PROXY_MODE=\"both\" cannot be used: expected one of shared, dedicated"),
        (
            &[("SECRET_TTL", "24")],
            "SECRET_TTL=\"24\" cannot be used: expected a duration with its unit, like 100ms, 180s, 5m or 24h",
        ),
        (&[("SECRET_TTL", "0s")], "SECRET_TTL=\"0s\" cannot be used: expected a life longer than nothing"),
        (&[("HTTP2_FRAME_SIZE", "1024")], "HTTP2_FRAME_SIZE=\"1024\" cannot be used: expected number from 16384 to 16777215"),
        (
            &[("ZTUNNEL_WORKER_THREADS", "many")],
            "ZTUNNEL_WORKER_THREADS=\"many\" cannot be used: expected a number of threads, a part of the cores like 25%, or 0 for all cores",
        ),
        (
            &[("XDS_ADDRESS", "http://istiod:15010")],
            "XDS_ADDRESS=\"http://istiod:15010\" cannot be used: expected https://host:port, not \"http://istiod:15010\"",
        ),
        (&[("CA_ADDRESS", "https://")], "CA_ADDRESS=\"https://\" cannot be used: expected https://host:port, not \"https://\""),
        (
            &[("LOCAL_XDS", "a"), ("LOCAL_XDS_PATH", "b")],
            "LOCAL_XDS=\"a\" cannot be used: expected nothing, because LOCAL_XDS_PATH is set too; leave one of them out",
        ),
        (
            &[("XDS_ON_DEMAND", "true")],
            "XDS_ON_DEMAND=\"true\" cannot be used: expected false, because DNS needs to know every name; or set ISTIO_META_DNS_CAPTURE=false",
        ),
        (&[("TLS12_ENABLED", "true")], "TLS12_ENABLED=\"true\" cannot be used: expected false: only TLS 1.3 is supported"),
        (
            &[("FAKE_CA", "true")],
            "FAKE_CA=\"true\" cannot be used: expected false: certificates that nobody vouches for are not supported; run istiod-lite as the CA",
        ),
        (
            &[("COMPLIANCE_POLICY", "fips")],
            "COMPLIANCE_POLICY=\"fips\" cannot be used: expected pqc, or nothing: other policies are not supported",
        ),
        (
            &[("RUST_LOG", "loud")],
            "RUST_LOG=\"loud\" cannot be used: expected levels (\"loud\" is no log level: expected off, error, warn, info, debug, trace, or target=level, separated by commas)",
        ),
        (&[("INSTANCE_IP", "10.0.0")], "INSTANCE_IP=\"10.0.0\" cannot be used: expected an IP address, like 10.0.0.1 or fd00::1"),
    ] {
        assert_eq!(parse(environment, &[]).unwrap_err(), told);
    }
    assert!(parse(&[("XDS_ON_DEMAND", "true"), ("ISTIO_META_DNS_CAPTURE", "false")], &[]).unwrap().xds_on_demand);
    for (key, broken) in
        [("PROXY_CONFIG", "{concurrency: many}"), ("PROXY_CONFIG", "proxyAdminPort: 70000"), ("ISTIO_METAJSON_X", "{")]
    {
        let told = parse(&[(key, broken)], &[]).unwrap_err();
        assert!(told.starts_with(&format!("{key}={broken:?} cannot be used: expected ")), "{told}");
    }
    let told = parse(&[], &[(MESH_FILE, "defaultConfig: [")]).unwrap_err();
    assert!(told.contains("expected a usable file ./etc/istio/config/mesh"), "{told}");
}

// Z-011
#[test]
fn a_wrong_dns_address_is_an_error_and_no_panic() {
    for wrong in ["localhost", "localhost:", "localhost:0", "localhost:99999", "127.0.0.1", "::1:15053", "nonsense"] {
        let told = parse(&[("ISTIO_META_DNS_PROXY_ADDR", wrong)], &[]).unwrap_err();
        assert!(told.starts_with("ISTIO_META_DNS_PROXY_ADDR=") && told.contains("like localhost:15053"), "{told}");
    }
    assert!(parse(&[("DNS_PROXY_ADDR", "x")], &[]).unwrap_err().starts_with("DNS_PROXY_ADDR="));
    let addresses =
        |text| good(&[("DNS_PROXY_ADDR", text)]).dns.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(addresses("localhost:53"), "127.0.0.1:53 [::1]:53");
    assert_eq!(addresses("[::1]:5353"), "[::1]:5353");
}

/// `UPDATE=1 cargo test -p ztunnel config` writes the page anew.
#[test]
fn the_page_about_settings_is_up_to_date() {
    let page = format!("{}{}", include_str!("page.md"), mesh_runtime::knobs::markdown(&Config::knobs()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/config.md is not what the settings are: run `UPDATE=1 cargo test -p ztunnel config`");
}
