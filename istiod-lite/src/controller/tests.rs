//! The whole controller in this process: files in a folder, a node daemon's own client and authority over TLS.

use std::fs;
use std::time::Duration;

use clap::Parser;
use mesh_identity::authority::{GrpcAuthority, Mode};
use mesh_identity::channel::{Address, CallHeaders, ChannelTls, RootSource, TokenSource, connect, tcp};
use mesh_identity::token::{AUDIENCE, Minter, ObjectRef, Subject};
use mesh_identity::{Authority, SignFailure, SystemClock};
use mesh_model::identity::SpiffeId;
use mesh_model::workload::PolicyKey;
use mesh_runtime::{Drained, Watched};
use mesh_xds::{Client, ClientConfig, ClientLimits, Contact, World, world};
use rand::SeedableRng;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::translate::tests::pod;

/// Far above what anything here takes; a wait that reaches it has failed.
const SOON: Duration = Duration::from_secs(20);

struct Mesh {
    home: TempDir,
    minter: Minter,
    drain: Drain,
    started: Started,
}

fn policy(port: u16) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: p}}\nspec: {{selector: {{matchLabels: {{app: a}}}}, rules: [{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]}}\n")
}

async fn mesh(files: &[(&str, &str)]) -> Mesh {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    fs::create_dir(path("folder")).unwrap();
    for (name, text) in files {
        fs::write(home.path().join("folder").join(name), text).unwrap();
    }
    let minter = Minter::generate("https://isthmus.local").unwrap();
    fs::write(path("token.pub"), minter.public_pem()).unwrap();
    let (folder, key, ca, root, status) = (path("folder"), path("token.pub"), path("ca"), path("root.pem"), path("status.json"));
    let (plugged_in, any) = (path("cacerts"), "127.0.0.1:0");
    let flags = [
        "istiod-lite", "--folder", &folder, "--token-public-key", &key, "--ca-home", &ca, "--plugged-in-ca", &plugged_in, "--root-cert-out", &root,
        "--status-file", &status, "--secure-grpc-address", any, "--monitoring-address", any, "--http-address", any,
    ];
    let drain = Drain::new();
    let started = start(Config::try_parse_from(flags).unwrap(), Arc::new(SystemClock), &drain).await.unwrap();
    Mesh { home, minter, drain, started }
}

impl Mesh {
    fn write(&self, name: &str, text: &str) {
        let beside = self.home.path().join("folder").join(format!(".{name}"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.home.path().join("folder").join(name)).unwrap();
    }

    fn token(&self, account: &str, node: &str, life: Duration) -> String {
        let object = |name: &str| ObjectRef { name: name.into(), uid: format!("uid-{name}") };
        let subject = Subject { namespace: "istio-system".into(), service_account: object(account), pod: None, node: Some(object(node)) };
        self.minter.mint(&subject, AUDIENCE, life, SystemClock.now()).unwrap()
    }

    fn tls(&self) -> Arc<ChannelTls> {
        let root = RootSource::File(self.home.path().join("root.pem"));
        Arc::new(ChannelTls::new(root, "localhost", None, KeyExchange::default(), Arc::new(SystemClock)).unwrap())
    }

    /// A node daemon's discovery client.
    fn client(&self, token: String) -> (Watched<World>, watch::Receiver<Contact>) {
        let (writer, world) = world();
        let config = ClientConfig {
            server: format!("https://localhost:{}", self.started.grpc.port()).parse().unwrap(),
            node: mesh_xds::client::ztunnel_node("zt-1", "istio-system", "n1", None, []),
            cluster_id: "Kubernetes".into(),
            headers: vec![],
            on_demand: false,
            limits: ClientLimits::default(),
        };
        let (tls, address) = (self.tls(), self.started.grpc);
        let dial = move || {
            let tls = tls.clone();
            async move { tls.secure(TcpStream::connect(address).await?).await.map_err(std::io::Error::other) }
        };
        let client = Client::new(config, dial, move || Ok(Some(token.clone())), writer, rand::rngs::SmallRng::seed_from_u64(1));
        let contact = client.contact();
        tokio::spawn(client.run(self.drain.soft_token()));
        (world, contact)
    }

    fn authority(&self, token: String) -> GrpcAuthority {
        let address = Address { host: "localhost".into(), port: self.started.grpc.port() };
        let channel = connect(&address, self.tls(), tcp).unwrap();
        GrpcAuthority::new(channel, CallHeaders::new(TokenSource::Static(token), "Kubernetes", &[]).unwrap(), Mode::Shared)
    }

    async fn get(&self, address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

async fn until(world: &mut Watched<World>, what: &str, holds: impl Fn(&World) -> bool) {
    let wait = async {
        while !holds(&world.see()) {
            world.changed().await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn has_policy(world: &World, text: &str) -> bool {
    world.policies.get(&PolicyKey::new("shop/p")).is_some_and(|policy| format!("{policy:?}").contains(text))
}

#[tokio::test]
async fn files_reach_a_node_daemon_and_so_does_their_change() {
    let mesh = mesh(&[("a.yaml", &pod("shop", "a", "10.1.0.1", "app: a")), ("p.yaml", &policy(80))]).await;
    let (mut world, _contact) = mesh.client(mesh.token("ztunnel", "n1", Duration::from_secs(3600)));
    until(&mut world, "both are told", |world| world.directory.workload_count() == 1 && has_policy(world, "Value(80)")).await;
    let listed = world.load().directory.workloads().flat_map(|workload| workload.authorization_policies.clone()).collect::<Vec<_>>();
    assert_eq!(listed, [PolicyKey::new("shop/p")]);

    // within a second of the change
    let begin = Instant::now();
    mesh.write("p.yaml", &policy(81));
    until(&mut world, "the change is told", |world| has_policy(world, "Value(81)")).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    // a broken file changes nothing
    mesh.write("p.yaml", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: p}\nspec:\n  rule: []\n");
    mesh.write("b.yaml", &pod("shop", "b", "10.1.0.2", "app: b"));
    until(&mut world, "another file is told", |world| world.directory.workload_count() == 2).await;
    assert!(world.with(|world| has_policy(world, "Value(81)")));

    fs::remove_file(mesh.home.path().join("folder/p.yaml")).unwrap();
    until(&mut world, "the end of a file is told", |world| !has_policy(world, "Value") && world.policies.is_empty()).await;
    assert_eq!(mesh.drain.shutdown(SOON).await, Drained::Clean);
}

#[tokio::test]
async fn certificates_are_for_workloads_of_the_callers_node() {
    let elsewhere = pod("shop", "b", "10.1.0.2", "").replace("nodeName: n1", "nodeName: n2");
    let mesh = mesh(&[("a.yaml", &[pod("shop", "a", "10.1.0.1", ""), elsewhere].concat())]).await;
    mesh.started.ready.until_ready().await;
    let ask = |token: String, account: &str| {
        let (authority, identity) = (mesh.authority(token), SpiffeId::new("cluster.local", "shop", account));
        async move {
            let request = mesh_identity::csr::request(&identity).unwrap();
            authority.sign(request.csr, &identity, Duration::ZERO).await
        }
    };
    let daemon = |node: &str| mesh.token("ztunnel", node, Duration::from_secs(3600));
    let chain = ask(daemon("n1"), "a-sa").await.unwrap();
    let leaf = mesh_identity::pem::certificates(chain[0].as_bytes()).unwrap();
    let name = b"spiffe://cluster.local/ns/shop/sa/a-sa";
    assert!(leaf[0].windows(name.len()).any(|bytes| bytes == name));
    assert_eq!(chain.last().unwrap(), &fs::read_to_string(mesh.home.path().join("root.pem")).unwrap());
    for (token, account) in [
        (daemon("n1"), "b-sa"),
        (daemon("n2"), "a-sa"),
        (mesh.token("other", "n1", Duration::from_secs(3600)), "a-sa"),
        ("junk".into(), "a-sa"),
        (daemon("n1"), "a sa"),
    ] {
        match ask(token, account).await {
            Err(SignFailure::Refused { code, .. }) => assert_eq!(code, tonic::Code::Unauthenticated, "{account}"),
            other => panic!("{account}: {other:?}"),
        }
    }
    let metrics = mesh.get(mesh.started.monitoring, "/metrics").await;
    assert!(metrics.contains("citadel_server_csr_count 6") && metrics.contains("citadel_server_success_cert_issuance_count 1"), "{metrics}");
    assert!(metrics.contains("citadel_server_authentication_failure_count 5"), "{metrics}");
    assert!(metrics.contains("citadel_server_id_extraction_err_count 1"), "{metrics}");
}

#[tokio::test]
async fn a_stream_needs_a_token_and_ends_with_it() {
    let mesh = mesh(&[("a.yaml", &pod("shop", "a", "10.1.0.1", ""))]).await;
    mesh.started.ready.until_ready().await;
    let (_, mut refused) = mesh.client("junk".into());
    let told = refused.wait_for(|contact| contact.last_error.is_some());
    let why = tokio::time::timeout(SOON, told).await.unwrap().unwrap().last_error.clone().unwrap_or_default();
    assert!(why.contains("no valid token"), "{why}");

    let (mut world, mut contact) = mesh.client(mesh.token("ztunnel", "n1", Duration::from_secs(2)));
    until(&mut world, "it is told", |world| world.directory.workload_count() == 1).await;
    let ended = contact.wait_for(|contact| contact.last_error.is_some());
    tokio::time::timeout(SOON, ended).await.expect("the stream ends with its token").unwrap();
    assert_eq!(world.with(|world| world.directory.workload_count()), 1, "what was told stays");
}

// T-08: what nodes are told is not for a pod with its own token, before and after a change.
#[tokio::test]
async fn a_pods_own_token_shows_nothing_of_others() {
    let mesh = mesh(&[("a.yaml", &pod("shop", "a", "10.1.0.1", "app: a")), ("p.yaml", &policy(80))]).await;
    let (mut told, _contact) = mesh.client(mesh.token("ztunnel", "n1", Duration::from_secs(3600)));
    let (shown, mut contact) = mesh.client(mesh.token("a-sa", "n1", Duration::from_secs(3600)));
    until(&mut told, "the daemon is told", |world| world.directory.workload_count() == 1 && has_policy(world, "Value(80)")).await;
    let answered = contact.wait_for(|contact| contact.connected || contact.last_error.is_some());
    tokio::time::timeout(SOON, answered).await.expect("the pod gets an answer").unwrap();
    mesh.write("b.yaml", &pod("shop", "b", "10.1.0.2", "app: b"));
    until(&mut told, "the daemon is told of the change", |world| world.directory.workload_count() == 2).await;
    let seen = shown.with(|world| (world.directory.workload_count(), world.policies.len()));
    assert_eq!(seen, (0, 0), "workloads and policies that a pod was shown");
}

// a policy could be in the file that cannot be read, so nothing is told before it was read once
#[tokio::test]
async fn a_folder_that_was_never_whole_is_not_told() {
    let mesh = mesh(&[("a.yaml", &pod("shop", "a", "10.1.0.1", "")), ("p.yaml", "metadata: [\n")]).await;
    let (mut world, mut contact) = mesh.client(mesh.token("ztunnel", "n1", Duration::from_secs(3600)));
    let told = contact.wait_for(|contact| contact.last_error.is_some());
    let why = tokio::time::timeout(SOON, told).await.unwrap().unwrap().last_error.clone().unwrap_or_default();
    assert!(why.contains("still reading its sources"), "{why}");
    wait_for_page(&mesh, "p.yaml: line 1").await;
    let ready = mesh.get(mesh.started.http, "/ready").await;
    assert!(ready.starts_with("HTTP/1.1 500") && ready.contains("p.yaml: line 1"), "{ready}");

    mesh.write("p.yaml", &policy(80));
    until(&mut world, "the whole folder is told", |world| world.directory.workload_count() == 1 && has_policy(world, "Value(80)")).await;
    assert!(mesh.get(mesh.started.http, "/ready").await.starts_with("HTTP/1.1 200"));
}

/// The status file is written a moment after a change.
async fn wait_for_page(mesh: &Mesh, holds: &str) {
    let path = mesh.home.path().join("status.json");
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    let wait = async {
        while !fs::read_to_string(&path).unwrap_or_default().contains(holds) {
            interval.tick().await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{holds:?} is not in {}", fs::read_to_string(Path::new(&path)).unwrap_or_default()));
}

#[tokio::test]
async fn the_operators_pages() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: e}\nspec: {hosts: [a.example], resolution: DNS, exportTo: [\".\"]}\n";
    let mesh = mesh(&[("a.yaml", &pod("shop", "a", "10.1.0.1", "app: a")), ("p.yaml", &policy(80)), ("e.yaml", entry)]).await;
    let (mut world, _contact) = mesh.client(mesh.token("ztunnel", "n1", Duration::from_secs(3600)));
    until(&mut world, "it is told", |world| world.directory.workload_count() == 2).await;
    wait_for_page(&mesh, "spec.exportTo is not honoured").await;
    wait_for_page(&mesh, "240.240.").await;

    let http = mesh.started.http;
    let status = mesh.get(http, "/debug/statusz").await;
    assert!(status.contains("e.yaml:1") && status.contains("ZtunnelAccepted"), "{status}");
    let dump = mesh.get(http, "/debug/ambientz").await;
    assert!(dump.contains("\"uid\": \"Kubernetes//Pod/shop/a\"") && dump.contains("\"hostname\": \"a.example\"") && dump.contains("\"destinationPorts\""), "{dump}");
    let synced = mesh.get(http, "/debug/syncz").await;
    assert!(synced.contains("\"proxy\": \"zt-1.istio-system\"") && synced.contains("istio.workload.Address"), "{synced}");
    assert!(mesh.get(http, "/debug/connections").await.contains("\"totalClients\": 1"));
    assert!(mesh.get(mesh.started.monitoring, "/version").await.ends_with(env!("CARGO_PKG_VERSION")));
    let metrics = mesh.get(mesh.started.monitoring, "/metrics").await;
    // spec/controlplane.md 10.1, spec/ecosystem.md 3.5 and 3.6
    for line in [
        "pilot_services 1",
        "pilot_workloads 2",
        "pilot_policies 1",
        "pilot_xds{version=",
        "istio_build{component=\"pilot\"",
        "pilot_k8s_reg_events{type=\"Pod\",event=\"add\"} 1",
        "pilot_k8s_reg_events{type=\"Pod\",event=\"delete\"} 0",
        "pilot_k8s_cfg_events{type=\"ServiceEntry\",event=\"add\"} 1",
        "pilot_inbound_updates{type=\"eds\"} 1",
        "pilot_push_triggers{type=\"config\"} 1",
        "pilot_xds_pushes{type=\"wads\"} ",
        "pilot_xds_push_time_bucket{type=\"wds\",le=\"0.001\"} ",
        "pilot_xds_config_size_bytes_bucket{type=\"wds\",le=\"1000000\"} 1",
        "pilot_proxy_convergence_time_count 0",
        "citadel_server_root_cert_expiry_seconds ",
        "citadel_server_cert_chain_expiry_timestamp ",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

// V-31, T-21: what shows the whole mesh is for this machine
#[tokio::test]
async fn debug_pages_are_refused_to_other_machines() {
    let (pages, shown) = watch::channel(Arc::new(Page::default()));
    let (dumps, _dumped) = mpsc::channel(1);
    let mesh = mesh(&[]).await;
    let (_, told) = catalog();
    let key = fs::read_to_string(mesh.home.path().join("token.pub")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rules = mesh_identity::impersonate::Rules::parse("", "cluster.local").unwrap();
    let verifier = Verifier::new(&key, "https://isthmus.local", AUDIENCE).unwrap();
    let authn = Arc::new(Authn { tokens: Tokens::Ours(verifier), cluster_id: "c".into(), rules, machines: vec![], placements: Watched::constant(Placements::default()), clock });
    let ads = Ads::new(told.clone(), DiscoveryAuthn(authn), ServerLimits::default(), 1, mesh.drain.soft_token());
    let ca = mesh_identity::sign::Ca::self_signed("cluster.local", SOON, Default::default(), SystemClock.now()).unwrap();
    let authority = Arc::new(Live::new(ca, SOON, Vec::new()));
    let numbers = watch::channel(Numbers::default()).1;
    let sources = Sources { started: Instant::now(), ads, catalog: told, numbers, certificates: Default::default(), reviews: Default::default(), leadership: Leadership::always(), authority, recorder: metrics::recorder() };
    let routes = Admin { ready: Ready::new(), sources, pages: shown, dumps, cluster_id: "c".into() }.routes();
    for path in routes.paths() {
        let ask = admin::Ask {
            peer: admin::Peer::Tcp("10.0.0.9:1".parse().unwrap()),
            method: http::Method::GET,
            path: path.into(),
            query: admin::Query::default(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
        };
        let expected = if path.starts_with("/debug/") { 403 } else { 200 };
        assert_eq!(routes.answer(ask).await.status, expected, "{path}");
    }
    drop(pages);
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("token.pub").display().to_string();
    let begin = |more: Vec<String>| {
        let flags = ["istiod-lite", "--folder", "x", "--token-public-key", &key, "--ca-home", &key.replace("token.pub", "ca")].map(str::to_owned).into_iter().chain(more);
        let config = Config::try_parse_from(flags).unwrap();
        async move { format!("{:#}", start(config, Arc::new(SystemClock), &Drain::new()).await.unwrap_err()) }
    };
    let said = begin(vec![]).await;
    assert!(said.starts_with(&format!("--token-public-key {key}: ")), "{said}");
    fs::write(&key, "not a key").unwrap();
    let said = begin(vec![]).await;
    assert!(said.contains("cannot read the token key"), "{said}");
    fs::write(&key, Minter::generate("x").unwrap().public_pem()).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let said = begin(vec!["--secure-grpc-address".into(), taken.local_addr().unwrap().to_string()]).await;
    assert!(said.contains("stop what uses the port, or choose another with --secure-grpc-address"), "{said}");
}
