//! The agent of a Kubernetes node and the plugin as the runtime runs it, both as programs, with an API server and a node
//! daemon's end of ZDS: from a sandbox to the end of the mesh.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use mesh_net::netns::Netns;
use mesh_zds::daemon::Daemon;
use mesh_zds::request::Request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::api::ApiServer;
use crate::world::*;

const REDIRECTION: &str = "ambient.istio.io/redirection";
const CART: &str = "/api/v1/namespaces/shop/pods/cart-1";
const SET: &str = "/apis/apps/v1/namespaces/istio-system/daemonsets/mesh-cni";
const OWN: &str = "/api/v1/namespaces/istio-system/pods/mesh-cni-abcde";
const UID: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

/// A node: what the agent sees of it is in a folder.
struct Node {
    world: World,
    folder: TempDir,
    api: ApiServer,
    agent: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}

impl Node {
    fn new(test: &str) -> Option<Node> {
        let world = World::new(test)?;
        let folder = tempfile::tempdir().unwrap();
        for name in ["run", "net.d", "bin", "proc/1/ns", "netns", "pods"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let theirs = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]});
        std::fs::write(folder.path().join("net.d/10-net.conflist"), theirs.to_string()).unwrap();
        symlink("/proc/sys", folder.path().join("proc/sys")).unwrap();
        symlink(path_of(&world.node), folder.path().join("proc/1/ns/net")).unwrap();
        symlink(path_of(&world.pod), folder.path().join("netns/cni-1")).unwrap();
        symlink(path_of(&world.peer), folder.path().join("netns/cni-2")).unwrap();
        let api = ApiServer::start(&world.node, &world.home);
        api.write_kubeconfig(&folder.path().join("kubeconfig"));
        api.namespace("shop", Some("ambient"));
        api.namespace("out", None);
        api.pod("shop", "cart-1", UID);
        api.pod("out", "other", "u2");
        api.pod("istio-system", "mesh-cni-abcde", "u3");
        api.namespace("istio-system", None);
        api.put(SET, json!({"metadata": {"name": "mesh-cni", "namespace": "istio-system"}}));
        let mut node = Node { world, folder, api, agent: None };
        node.start();
        Some(node)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let spawn = || {
            let mut agent = Command::new(env!("CARGO_BIN_EXE_mesh-cni"));
            agent.args(["agent", "--kubernetes", "--node", "node1", "--pod", "mesh-cni-abcde", "--probe-uid", "0"]);
            for (flag, name) in [
                ("--kubeconfig", "kubeconfig"),
                ("--run", "run"),
                ("--cni-configurations", "net.d"),
                ("--cni-binaries", "bin"),
                ("--proc", "proc"),
                ("--netns", "netns"),
                ("--zds-socket", "zds.sock"),
            ] {
                agent.arg(flag).arg(self.at(name));
            }
            agent.env_remove("KUBERNETES_SERVICE_HOST").env("RUST_LOG", "warn").spawn()
        };
        self.agent = Some(self.world.node.run(&self.world.home, spawn).unwrap());
    }

    /// Its exit status is a success, unless it was killed.
    fn end(&mut self, signal: Signal) {
        let Some(mut agent) = self.agent.take() else { return };
        let _ = kill(Pid::from_raw(agent.id().cast_signed()), signal);
        let ended = agent.wait().unwrap();
        assert!(signal == Signal::SIGKILL || ended.success(), "{ended}");
    }

    async fn connected(&self) -> Daemon {
        loop {
            match Daemon::connect(&self.at("zds.sock")).await {
                Ok(daemon) => return daemon,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The runtime's call for a pod, begun.
    fn sandbox(&self, namespace: &str, name: &str, netns: &str, ip: &str) -> Child {
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "isthmus-cni", "cni_agent_run_dir": self.at("run"),
            "pod_namespace": "istio-system", "exclude_namespaces": ["kube-system"],
            "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": format!("{ip}/24")}]},
        });
        let spawn = || {
            Command::new(env!("CARGO_BIN_EXE_mesh-cni"))
                .env_clear()
                .env("CNI_COMMAND", "ADD")
                .env("CNI_NETNS", format!("/var/run/netns/{netns}"))
                .env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        };
        let mut plugin = self.world.node.run(&self.world.home, spawn).unwrap();
        plugin.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        plugin
    }

    fn list(&self) -> String {
        std::fs::read_to_string(self.at("net.d/10-net.conflist")).unwrap()
    }

    fn rules(&self) -> String {
        self.world.sh(&self.world.pod, "nft list ruleset")
    }

    async fn annotated(&self, value: Option<&str>) {
        self.world.until("the annotation", || self.api.annotation(CART, REDIRECTION).as_deref() == value).await;
    }
}

fn path_of(netns: &Netns) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd()).into()
}

/// Whether the pod starts, and what the runtime is told.
async fn ended(plugin: Child) -> (bool, Value) {
    let waiting = tokio::task::spawn_blocking(|| plugin.wait_with_output());
    let Output { status, stdout, .. } = timeout(Duration::from_secs(50), waiting).await.expect("an answer").unwrap().unwrap();
    (status.success(), serde_json::from_slice(&stdout).unwrap())
}

async fn next(daemon: &mut Daemon) -> Request {
    timeout(Duration::from_secs(15), daemon.next()).await.expect("a request").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_mesh_starts_captured_or_not_at_all() {
    // F-39, F-41
    let Some(mut node) = Node::new("a_pod_of_the_mesh_starts_captured_or_not_at_all") else { return };
    node.world.until("the plugin is installed", || node.list().contains("isthmus-cni") && node.at("bin/isthmus-cni").exists()).await;
    node.world.until("the agent can be asked", || node.at("run/pluginevent.sock").exists()).await;

    // who is not to be in the mesh is not held up, though no node daemon is there
    assert!(ended(node.sandbox("out", "other", "cni-2", PEER4)).await.0);
    // a namespace that has no address of the pod is not its own (V-63)
    let (started, answer) = ended(node.sandbox("shop", "cart-1", "cni-2", POD4)).await;
    assert!(!started && answer["msg"].as_str().unwrap().contains("no network namespace with an address of"), "{answer}");

    let mut daemon = node.connected().await;
    assert!(matches!(next(&mut daemon).await, Request::SnapshotSent));
    daemon.ack(Ok(())).await.unwrap();
    let plugin = node.sandbox("shop", "cart-1", "cni-1", POD4);
    let Request::Add(add) = next(&mut daemon).await else { panic!("an add") };
    assert_eq!((add.uid.as_str(), add.workload.name.as_str(), add.workload.service_account.as_str()), (UID, "cart-1", "cart"));
    assert!(node.rules().contains("guarded until enrolled"), "closed until the daemon serves it");
    daemon.ack(Ok(())).await.unwrap();
    let (started, answer) = ended(plugin).await;
    assert!(started, "{answer}");
    assert_eq!(answer["ips"][0]["address"], format!("{POD4}/24"));
    assert!(!node.rules().contains("guarded") && node.rules().contains("redirect to :15001"));
    node.annotated(Some("enabled")).await;
    node.api.merge(CART, &json!({"status": {"podIP": POD4, "podIPs": [{"ip": POD4}]}}));

    // the agent is away: rules and annotation stay, who is to be in the mesh waits, others start
    node.end(Signal::SIGKILL);
    drop(daemon);
    node.api.write_kubeconfig(&node.at("run/kubeconfig"));
    node.api.pod("shop", "cart-2", "u4");
    let (started, answer) = ended(node.sandbox("shop", "cart-2", "cni-2", PEER4)).await;
    assert!(!started && answer["msg"].as_str().unwrap().starts_with("the pod is to be in the mesh, and the node's agent"), "{answer}");
    assert!(ended(node.sandbox("out", "other", "cni-2", PEER4)).await.0);
    node.api.set_down(true); // nobody can tell
    for (namespace, name, starts) in [("out", "other", false), ("kube-system", "coredns", true), ("istio-system", "ztunnel-x", true)] {
        assert_eq!(ended(node.sandbox(namespace, name, "cni-2", PEER4)).await.0, starts, "{namespace}/{name}");
    }
    node.api.set_down(false);
    assert!(node.rules().contains("redirect to :15001"));
    assert_eq!(node.api.annotation(CART, REDIRECTION).as_deref(), Some("enabled"));

    // the next agent finds the pod where it is, and its mark
    node.start();
    let mut daemon = node.connected().await;
    let Request::Add(again) = next(&mut daemon).await else { panic!("an add") };
    assert_eq!((again.uid.as_str(), again.mark), (UID, add.mark));
    daemon.ack(Ok(())).await.unwrap();
    assert!(matches!(next(&mut daemon).await, Request::SnapshotSent));
    daemon.ack(Ok(())).await.unwrap();

    // the mesh is removed: pods are released in order, the plugin goes, and the agent says so
    let acknowledging = tokio::spawn(async move {
        loop {
            let request = next(&mut daemon).await;
            daemon.ack(Ok(())).await.unwrap();
            if let Request::Del { uid, drain } = request {
                return (uid, drain, daemon);
            }
        }
    });
    node.api.merge(SET, &json!({"metadata": {"annotations": {"isthmus.io/leaving": "true"}}}));
    node.annotated(None).await;
    assert!(node.rules().contains("redirect to :15006"), "peers may still call");
    node.world.until("the plugin is gone", || !node.list().contains("isthmus-cni") && !node.at("bin/isthmus-cni").exists()).await;
    assert!(ended(node.sandbox("shop", "cart-1", "cni-1", POD4)).await.0, "a runtime that has the old list is not held up");
    let (uid, drain, _daemon) = acknowledging.await.unwrap();
    assert_eq!((uid.as_str(), drain), (UID, true));
    node.world.until("the agent has left", || node.api.annotation(OWN, "isthmus.io/left").is_some()).await;
    assert_eq!(node.rules(), "");

    // the mesh stays after all: the agent ends to start anew, and undoes nothing of what is not there
    node.api.merge(SET, &json!({"metadata": {"annotations": {"isthmus.io/leaving": "false"}}}));
    let agent = node.agent.take().unwrap();
    assert!(!tokio::task::spawn_blocking(|| agent.wait_with_output()).await.unwrap().unwrap().status.success());
    node.start();
    node.world.until("the plugin is back", || node.list().contains("isthmus-cni")).await;
    // the DaemonSet goes without a mark
    node.api.remove(SET);
    node.world.until("the plugin is gone", || !node.list().contains("isthmus-cni")).await;
    node.end(Signal::SIGTERM);
    assert_eq!(node.world.sh(&node.world.node, "nft list ruleset"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_made_anew_is_the_pods_new_place() {
    let Some(mut node) = Node::new("a_sandbox_that_is_made_anew_is_the_pods_new_place") else { return };
    node.world.until("the agent can be asked", || node.at("run/pluginevent.sock").exists()).await;
    let mut daemon = node.connected().await;
    assert!(matches!(next(&mut daemon).await, Request::SnapshotSent));
    daemon.ack(Ok(())).await.unwrap();
    let plugin = node.sandbox("shop", "cart-1", "cni-1", POD4);
    let Request::Add(first) = next(&mut daemon).await else { panic!("an add") };
    daemon.ack(Ok(())).await.unwrap();
    assert!(ended(plugin).await.0);
    node.api.merge(CART, &json!({"status": {"podIP": POD4, "podIPs": [{"ip": POD4}]}}));

    // the runtime takes the old one away first; the API server has the old address for some time
    std::fs::remove_file(node.at("netns/cni-1")).unwrap();
    let plugin = node.sandbox("shop", "cart-1", "cni-2", PEER4);
    let Request::Del { uid, drain } = next(&mut daemon).await else { panic!("a del") };
    assert_eq!((uid.as_str(), drain), (UID, false));
    daemon.ack(Ok(())).await.unwrap();
    let Request::Add(second) = next(&mut daemon).await else { panic!("an add") };
    assert_eq!(second.uid, UID);
    let place = |fd| Netns::from_fd(fd).unwrap().identity();
    assert_eq!((place(first.netns), place(second.netns)), (node.world.pod.identity(), node.world.peer.identity()));
    assert!(node.world.sh(&node.world.peer, "nft list ruleset").contains("guarded until enrolled"), "it starts anew");
    daemon.ack(Ok(())).await.unwrap();
    assert!(ended(plugin).await.0);
    let rules = node.world.sh(&node.world.peer, "nft list ruleset");
    assert!(!rules.contains("guarded") && rules.contains("redirect to :15001"));
    assert!(node.world.sh(&node.world.node, "nft list table inet isthmus-probes").contains(PEER4), "probes of its new address");
    node.annotated(Some("enabled")).await;
    node.api.merge(CART, &json!({"status": {"podIP": PEER4, "podIPs": [{"ip": PEER4}]}}));
    node.api.merge(CART, &json!({"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}}));
    node.annotated(None).await;

    // the agent ends while it releases the pod: the next one goes on with that, though nothing at the API server tells of it
    node.end(Signal::SIGKILL);
    assert!(node.world.sh(&node.world.peer, "nft list ruleset").contains("redirect to :15006"));
    node.start();
    let mut daemon = node.connected().await;
    let acknowledging = tokio::spawn(async move {
        while daemon.next().await.is_ok() {
            daemon.ack(Ok(())).await.unwrap();
        }
    });
    node.world.until("nothing is left in the pod", || node.world.sh(&node.world.peer, "nft list ruleset").is_empty()).await;
    acknowledging.abort();
}

/// Open descriptors of a process.
fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_pods_that_came_and_went() {
    // 38 of spec/reliability.md 6
    let Some(node) = Node::new("nothing_is_left_of_pods_that_came_and_went") else { return };
    node.world.until("the agent can be asked", || node.at("run/pluginevent.sock").exists()).await;
    let mut daemon = node.connected().await;
    let acknowledging = tokio::spawn(async move {
        while daemon.next().await.is_ok() {
            daemon.ack(Ok(())).await.unwrap();
        }
    });
    let agent = node.agent.as_ref().unwrap().id();
    let mut before = 0;
    for round in 0..40 {
        let (name, uid) = (format!("cart-{round}"), format!("uid-{round}"));
        node.api.pod("shop", &name, &uid);
        assert!(ended(node.sandbox("shop", &name, "cni-1", POD4)).await.0, "{name}");
        let path = format!("/api/v1/namespaces/shop/pods/{name}");
        node.world.until("the annotation", || node.api.annotation(&path, REDIRECTION).is_some()).await;
        node.api.remove(&path);
        let known = || node.world.sh(&node.world.node, "nft list table inet isthmus-probes").contains(POD4);
        node.world.until("it is forgotten", || !known()).await;
        node.world.sh(&node.world.pod, "nft flush ruleset"); // the next pod's namespace is a new one
        if round == 4 {
            before = descriptors(agent);
        }
    }
    node.world.until("no descriptor is left", || descriptors(agent) <= before).await;
    acknowledging.abort();
}
