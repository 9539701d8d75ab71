//! `make bench-control`: how fast, how large and how prompt istiod-lite is beside a real API server full of objects that
//! no kubelet knows of. Printed: time and processor time until it is ready, memory, and how long a changed pod takes from
//! the API server's answer to a node daemon's picture of the mesh.
//!
//! The API server must be there (`--kubeconfig`) and nobody else's: objects are made in namespaces `bench` and
//! `istio-system` and stay.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use mesh_identity::SystemClock;
use mesh_identity::channel::{ChannelTls, RootSource};
use mesh_identity::tls::KeyExchange;
use mesh_runtime::Watched;
use mesh_xds::{ClientConfig, ClientLimits, World, world};
use rand::SeedableRng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const SPACE: &str = "bench";
const ROOT: &str = "istio-system";
/// Requests to the API server at a time while objects are made.
const AT_A_TIME: usize = 64;
/// Pods of one node, as many as a node usually has.
const PODS_OF_NODE: usize = 100;
/// A start that takes longer has failed.
const READY_WITHIN: Duration = Duration::from_secs(120);
const SEEN_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
struct Cli {
    /// Of an administrator of the API server
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The program, built with --release
    #[arg(long, default_value = "target/release/istiod-lite")]
    istiod: PathBuf,
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Pods that are changed, one after the other
    #[arg(long, default_value_t = 300)]
    changes: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let client = istiod_lite::api_server::connect(Some(&cli.kubeconfig)).await?;
    fill(&client, &cli).await.context("objects cannot be made")?;
    let token = token(&client).await.context("no token for a node daemon")?;
    let home = tempfile::tempdir()?;
    for round in 1..=2 {
        let controller = Controller::start(&cli, home.path()).await?;
        println!("start {round}: {}", controller.at_ready);
        let (mut world, stop) = controller.daemon(&token)?;
        let begin = Instant::now();
        wait(&mut world, "the daemon is told of all pods", |world| world.directory.workload_count() >= cli.pods).await?;
        println!("         told to a node daemon {} ms after it connected; then {}", begin.elapsed().as_millis(), controller.used()?);
        if round == 2 {
            println!("changes: {}", changes(&client, &mut world, cli.changes).await?);
            println!("         then {}", controller.used()?);
        }
        stop.cancel();
    }
    Ok(())
}

/// What one start of the program costs.
struct Controller {
    process: Child,
    grpc: SocketAddr,
    root: PathBuf,
    at_ready: String,
}

impl Controller {
    async fn start(cli: &Cli, home: &std::path::Path) -> anyhow::Result<Controller> {
        let (grpc, monitoring, http) = (free()?, free()?, free()?);
        let root = home.join("root.pem");
        let begin = Instant::now();
        let process = Command::new(&cli.istiod)
            .args(["--kubernetes", "--validation=false", "--pod-name", "bench"])
            .arg("--kubeconfig")
            .arg(&cli.kubeconfig)
            .arg("--root-cert-out")
            .arg(&root)
            .args(["--secure-grpc-address", &grpc.to_string(), "--monitoring-address", &monitoring.to_string(), "--http-address", &http.to_string()])
            .stdout(fs::File::create(home.join("istiod-lite.log"))?)
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("{} cannot be started: cargo build --release -p istiod-lite", cli.istiod.display()))?;
        let mut controller = Controller { process, grpc, root, at_ready: String::new() };
        while !is_ready(http).await {
            if begin.elapsed() > READY_WITHIN {
                bail!("not ready within {READY_WITHIN:?}: see {}", home.join("istiod-lite.log").display());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        controller.at_ready = format!("ready after {:.2} s, {}", begin.elapsed().as_secs_f64(), controller.used()?);
        Ok(controller)
    }

    fn used(&self) -> anyhow::Result<String> {
        let pid = self.process.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after = stat.rsplit_once(')').context("a stat file has a name in parentheses")?.1;
        let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(':')).collect();
        let mib = |field: &str| fields.get(field).and_then(|text| text.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0;
        // A tick is 10 ms on every Linux that this runs on.
        Ok(format!("{:.2} s of processor, {:.0} MiB resident ({:.0} MiB at most)", ticks as f64 / 100.0, mib("VmRSS"), mib("VmHWM")))
    }

    /// What a node daemon does: one stream, everything.
    fn daemon(&self, token: &str) -> anyhow::Result<(Watched<World>, CancellationToken)> {
        let tls = ChannelTls::new(RootSource::File(self.root.clone()), "localhost", None, KeyExchange::default(), Arc::new(SystemClock))?;
        let (tls, address, token) = (Arc::new(tls), self.grpc, token.to_owned());
        let (writer, world) = world();
        let config = ClientConfig {
            server: format!("https://localhost:{}", address.port()).parse()?,
            node: mesh_xds::client::ztunnel_node("zt-bench", ROOT, "node-0", None, []),
            cluster_id: "Kubernetes".into(),
            headers: vec![],
            on_demand: false,
            limits: ClientLimits::default(),
        };
        let dial = move || {
            let tls = tls.clone();
            async move { tls.secure(TcpStream::connect(address).await?).await.map_err(std::io::Error::other) }
        };
        let client = mesh_xds::Client::new(config, dial, move || Ok(Some(token.clone())), writer, rand::rngs::SmallRng::seed_from_u64(1));
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        Ok((world, stop))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It ends with this program either way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn is_ready(http: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(http).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map(|_| text)
    };
    ask.await.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn wait(world: &mut Watched<World>, what: &str, holds: impl Fn(&World) -> bool) -> anyhow::Result<()> {
    let seen = async {
        while !holds(&world.see()) {
            world.changed().await;
        }
    };
    tokio::time::timeout(SEEN_WITHIN, seen).await.with_context(|| format!("never: {what}"))
}

/// Gives pods other addresses, one after the other, and waits until the daemon knows.
async fn changes(client: &Client, world: &mut Watched<World>, count: usize) -> anyhow::Result<String> {
    let pods = api(client, "", "Pod", SPACE);
    let mut times = Vec::new();
    for index in 0..count {
        let address = IpAddr::V4(Ipv4Addr::new(10, 200, (index / 250) as u8, (index % 250) as u8 + 1));
        pods.patch_status(&format!("pod-{index}"), &PatchParams::default(), &Patch::Merge(running(address))).await?;
        let answered = Instant::now();
        let name = format!("Pod/{SPACE}/pod-{index}");
        let knows = |world: &World| world.directory.workloads_at(&mesh_model::address::NetworkAddress::new("", address)).any(|workload| workload.uid.to_string().ends_with(&name));
        wait(world, "the daemon knows the new address", knows).await?;
        times.push(answered.elapsed());
    }
    times.sort();
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or_default().as_secs_f64() * 1000.0;
    Ok(format!("{count} pods, from the API server's answer to the daemon: median {:.1} ms, p99 {:.1} ms, worst {:.1} ms", at(0.5), at(0.99), at(1.0)))
}

/// Makes what is not there yet.
async fn fill(client: &Client, cli: &Cli) -> anyhow::Result<()> {
    eprintln!("making {} pods and {} services", cli.pods, cli.services);
    for namespace in [SPACE, ROOT] {
        create(&api(client, "", "Namespace", ""), json!({ "metadata": { "name": namespace } })).await?;
    }
    for (namespace, account) in [(SPACE, "default"), (SPACE, "shop"), (ROOT, "ztunnel")] {
        create(&api(client, "", "ServiceAccount", namespace), json!({ "metadata": { "name": account } })).await?;
    }
    for node in 0..cli.pods.div_ceil(PODS_OF_NODE) {
        create(&api(client, "", "Node", ""), json!({ "metadata": { "name": format!("node-{node}"), "labels": { "topology.kubernetes.io/zone": "z" } } })).await?;
    }
    let services = stream::iter(0..cli.services).map(|index| {
        let (services, slices) = (api(client, "", "Service", SPACE), api(client, "discovery.k8s.io", "EndpointSlice", SPACE));
        let members: Vec<usize> = (0..cli.pods).filter(|pod| pod % cli.services == index).collect();
        async move {
            create(&services, service(index)).await?;
            create(&slices, slice(index, &members)).await
        }
    });
    services.buffer_unordered(AT_A_TIME).try_collect::<Vec<()>>().await?;
    let services = cli.services;
    let pods = stream::iter(0..cli.pods).map(|index| {
        let pods = api(client, "", "Pod", SPACE);
        async move {
            create(&pods, pod(index, services)).await?;
            let patch = Patch::Merge(running(address_of(index)));
            pods.patch_status(&format!("pod-{index}"), &PatchParams::default(), &patch).await?;
            anyhow::Ok(())
        }
    });
    pods.buffer_unordered(AT_A_TIME).try_collect::<Vec<()>>().await?;
    Ok(())
}

async fn create(objects: &Api<DynamicObject>, object: Value) -> anyhow::Result<()> {
    match objects.create(&PostParams::default(), &serde_json::from_value(object)?).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn api(client: &Client, group: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let plural = format!("{}s", kind.to_lowercase());
    let resource = ApiResource { group: group.into(), version: "v1".into(), api_version, kind: kind.into(), plural };
    match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}

fn address_of(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 100 + (index / 62_500) as u8, (index / 250 % 250) as u8, (index % 250) as u8 + 1))
}

/// As large as pods of real programs are: an API server sends four to five kilobytes for each.
fn pod(index: usize, services: usize) -> Value {
    let env: Vec<Value> = (0..24).map(|number| json!({ "name": format!("SETTING_{number}"), "value": format!("value-of-setting-{number}") })).collect();
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 10, "timeoutSeconds": 1 });
    json!({
        "metadata": {
            "name": format!("pod-{index}"),
            "labels": { "app": format!("svc-{}", index % services), "version": "v1", "pod-template-hash": "5c8f7d9b6d" },
            "annotations": { "ambient.istio.io/redirection": "enabled", "prometheus.io/scrape": "true", "prometheus.io/port": "8080" },
        },
        "spec": {
            "nodeName": format!("node-{}", index / PODS_OF_NODE),
            "serviceAccountName": "shop",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "app", "image": "registry.example/shop/app:1.2.3", "env": env,
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
                "livenessProbe": probe, "readinessProbe": probe,
            }],
        },
    })
}

fn running(address: IpAddr) -> Value {
    let since = "2026-01-01T00:00:00Z";
    let conditions: Vec<Value> = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].iter().map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": since })).collect();
    json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "hostIP": "192.0.2.1", "startTime": since, "conditions": conditions } })
}

fn service(index: usize) -> Value {
    json!({ "metadata": { "name": format!("svc-{index}") }, "spec": { "selector": { "app": format!("svc-{index}") }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } })
}

fn slice(index: usize, pods: &[usize]) -> Value {
    let endpoint = |pod: &usize| {
        json!({
            "addresses": [address_of(*pod)], "conditions": { "ready": true }, "nodeName": format!("node-{}", pod / PODS_OF_NODE),
            "targetRef": { "kind": "Pod", "namespace": SPACE, "name": format!("pod-{pod}") },
        })
    };
    json!({
        "metadata": { "name": format!("svc-{index}-x"), "labels": { "kubernetes.io/service-name": format!("svc-{index}") } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

async fn token(client: &Client) -> anyhow::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ROOT);
    let spec = TokenRequestSpec { audiences: vec!["istio-ca".into()], expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
    let answer = accounts.create_token_request("ztunnel", &PostParams::default(), &TokenRequest { spec, ..TokenRequest::default() }).await?;
    Ok(answer.status.context("the API server made no token")?.token)
}
