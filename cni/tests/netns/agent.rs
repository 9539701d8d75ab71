//! The program `mesh-cni agent` with a folder of pods, in real namespaces, against a node daemon's end of ZDS.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::world::*;
use mesh_cni::redirect::FIXED_MARK;
use mesh_cni::status::{State, Status};
use mesh_net::net::{Net, Source};
use mesh_net::netns::Netns;
use mesh_net::seqpacket::SeqPacket;
use mesh_zds::daemon::Daemon;
use mesh_zds::messages::ZdsHello;
use mesh_zds::request::Request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// The agent's process, its folder and the pod's namespace by a path that can vanish.
struct Node {
    world: World,
    folder: TempDir,
    agent: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

impl Node {
    fn new(test: &str) -> Option<Node> {
        let world = World::new(test)?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pods")).unwrap();
        let agent = start(&world, folder.path());
        let node = Node { world, folder, agent };
        node.link("pod", &node.world.pod);
        Some(node)
    }

    fn link(&self, name: &str, netns: &Netns) {
        let target = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
        std::os::unix::fs::symlink(target, self.netns(name)).unwrap();
    }

    fn netns(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("netns-{name}"))
    }

    fn pod(&self, phase: &str) -> serde_json::Value {
        json!({
            "uid": "u1", "name": "cart-1", "namespace": "shop", "serviceAccount": "cart", "phase": phase,
            "netns": self.netns("pod"), "ips": [POD4, POD6], "hostInterface": "vpod",
        })
    }

    fn write(&self, name: &str, pod: &serde_json::Value) {
        self.write_text(name, &pod.to_string());
    }

    fn write_text(&self, name: &str, text: &str) {
        let path = self.folder.path().join("pods").join(name);
        let draft = path.with_file_name(format!(".{name}"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("pods").join(name)).unwrap();
    }

    fn status(&self, name: &str) -> Option<Status> {
        let bytes = std::fs::read(self.folder.path().join("pods").join(format!("{name}.status.json"))).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits until the pod's status is this; the reason begins with this text.
    async fn until(&self, name: &str, state: State, reason: &str) {
        let reached = async {
            while !self.status(name).is_some_and(|s| s.state == state && s.reason.starts_with(reason)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let reached = timeout(Duration::from_secs(10), reached).await;
        assert!(reached.is_ok(), "{name} should be {state:?} {reason:?}, is {:?}", self.status(name));
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("zds.sock")
    }

    async fn connected(&self) -> Daemon {
        loop {
            match Daemon::connect(&self.socket()).await {
                Ok(daemon) => return daemon,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    fn rules(&self) -> String {
        self.world.sh(&self.world.pod, "nft list ruleset")
    }
}

fn start(world: &World, folder: &Path) -> Child {
    let spawn = || {
        Command::new(env!("CARGO_BIN_EXE_mesh-cni"))
            .args(["agent", "--probe-uid", "0", "--pods"])
            .arg(folder.join("pods"))
            .arg("--zds-socket")
            .arg(folder.join("zds.sock"))
            .env("RUST_LOG", "warn")
            .spawn()
    };
    world.node.run(&world.home, spawn).unwrap()
}

/// The next request, answered.
async fn next(daemon: &mut Daemon, answer: Result<(), &str>) -> Request {
    let request = timeout(Duration::from_secs(15), daemon.next()).await.expect("a request").unwrap();
    daemon.ack(answer).await.unwrap();
    request
}

fn added(request: Request) -> u32 {
    match request {
        Request::Add(add) => {
            assert_eq!(
                (add.uid.as_str(), add.workload.name.as_str(), add.workload.service_account.as_str()),
                ("u1", "cart-1", "cart")
            );
            add.mark.expect("a mark")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starting_pod_is_guarded_until_a_daemon_serves_it() {
    let Some(mut node) = Node::new("a_starting_pod_is_guarded_until_a_daemon_serves_it") else { return };
    node.write("cart-1.json", &node.pod("starting"));
    node.until("cart-1", State::Pending, "no node daemon is connected to the ZDS socket").await;
    assert!(node.rules().contains("isthmus-guard") && node.rules().contains("redirect to :15001"));

    let mut daemon = node.connected().await;
    let mark = added(next(&mut daemon, Err("failure to start proxy : no certificate")).await);
    assert!(matches!(next(&mut daemon, Ok(())).await, Request::SnapshotSent));
    node.until("cart-1", State::Pending, "").await;
    assert!(node.rules().contains("isthmus-guard"));
    // the refused pod is offered again
    assert_eq!(added(next(&mut daemon, Ok(())).await), mark);
    node.until("cart-1", State::Enabled, "").await;
    assert!(!node.rules().contains("isthmus-guard"));
    assert!(node.rules().contains(&format!("{mark:#010x}")) && !node.rules().contains("0x00000539"));
    assert!(node.world.sh(&node.world.node, "nft list ruleset").contains(&format!("elements = {{ {POD4} }}")));

    // a restarted agent: the same mark, no guard, rules in force all the time
    kill(Pid::from_raw(node.agent.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(node.agent.wait().unwrap().success());
    assert!(node.rules().contains("redirect to :15001"), "rules stay without an agent");
    while daemon.next().await.is_ok() {} // a last request may have been under way
    node.agent = start(&node.world, node.folder.path());
    let mut daemon = node.connected().await;
    assert_eq!(added(next(&mut daemon, Ok(())).await), mark);
    loop {
        // the pod's own life announces it too: the order of the two does not matter
        match next(&mut daemon, Ok(())).await {
            Request::SnapshotSent => break,
            again => assert_eq!(added(again), mark),
        }
    }
    assert!(!node.rules().contains("isthmus-guard"));

    // the pod is gone, then its file
    std::fs::remove_file(node.netns("pod")).unwrap();
    node.remove("cart-1.json");
    loop {
        match next(&mut daemon, Ok(())).await {
            Request::Del { uid, drain } => break assert_eq!((uid.as_str(), drain), ("u1", false)),
            again => assert_eq!(added(again), mark),
        }
    }
    timeout(Duration::from_secs(5), async {
        while node.status("cart-1").is_some() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the status file goes with the pod");
    assert!(!node.world.sh(&node.world.node, "nft list ruleset").contains("elements"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_is_captured_after_the_daemon_serves_it_and_released_in_order() {
    let Some(node) = Node::new("a_running_pod_is_captured_after_the_daemon_serves_it_and_released_in_order") else { return };
    let (application, peer) = (node.world.application(), node.world.outside());
    serve(&peer, "peer", "[::]:80").await;
    node.write("cart-1.yaml", &node.pod("running")); // JSON is YAML
    node.until("cart-1", State::Pending, "no node daemon").await;
    assert_eq!(node.rules(), "", "nothing is captured, nothing is closed");

    let mut daemon = node.connected().await;
    let mark = added(next(&mut daemon, Ok(())).await);
    crate::world::daemon(&node.world, mark).await; // its listeners
    while let Ok(request) = timeout(Duration::from_millis(500), daemon.next()).await {
        request.unwrap();
        daemon.ack(Ok(())).await.unwrap();
    }
    node.until("cart-1", State::Enabled, "").await;
    assert_eq!(ask(&application, "10.77.2.2:80").await, "outbound from 10.77.1.2 to 10.77.2.2:80");

    // the file changes: the rules follow; a broken file changes nothing and is reported
    let mut pod = node.pod("running");
    pod["annotations"] = json!({"ambient.isthmus.io/exclude-outbound-ports": "80"});
    node.write("cart-1.yaml", &pod);
    timeout(Duration::from_secs(5), async {
        while !node.rules().contains("tcp dport 80 accept") {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("new rules");
    assert_eq!(ask(&application, "10.77.2.2:80").await, "peer from 10.77.1.2 to 10.77.2.2:80");
    for (broken, reason) in [("uid: [", ""), ("{\"uid\": \"u1\"}", "")] {
        node.write_text("cart-1.yaml", broken);
        let path = node.folder.path().join("pods/cart-1.yaml");
        node.until("cart-1", State::Enabled, &format!("{}: {reason}", path.display())).await;
    }
    pod["annotations"] = json!({"ambient.istio.io/dns-capture": "maybe"});
    node.write("cart-1.yaml", &pod);
    node.until("cart-1", State::Enabled, "annotation ambient.istio.io/dns-capture: \"maybe\" is neither").await;
    assert_eq!(ask(&application, "10.77.2.2:80").await, "peer from 10.77.1.2 to 10.77.2.2:80");

    // an older daemon comes: its mark is exempt for as long as it stays
    let old = SeqPacket::connect(&node.socket()).unwrap();
    old.send(&ZdsHello { version: 1, random_mark: false }.encode_to_vec(), None).await.unwrap();
    let mut buffer = [0; 1024];
    assert!(old.recv(&mut buffer).await.unwrap().length > 0, "its first pod");
    let fixed = format!("{FIXED_MARK:#010x}");
    assert!(node.rules().contains(&fixed), "exempt before it hears of the pod");
    drop(old);
    timeout(Duration::from_secs(5), async {
        while node.rules().contains(&fixed) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("no longer exempt");

    // out of the mesh while it runs
    pod["annotations"] = json!({});
    pod["labels"] = json!({"istio.io/dataplane-mode": "none"});
    node.write("cart-1.yaml", &pod);
    node.until("cart-1", State::Releasing, "leaving the mesh").await;
    assert!(node.rules().contains("redirect to :15006"), "peers may still call");
    loop {
        if let Request::Del { uid, drain } = next(&mut daemon, Ok(())).await {
            break assert_eq!((uid.as_str(), drain), ("u1", true));
        }
    }
    node.until("cart-1", State::Released, "").await;
    assert_eq!(node.rules(), "");
    assert_eq!(ask(&application, "10.77.2.2:80").await, "peer from 10.77.1.2 to 10.77.2.2:80");
    node.remove("cart-1.yaml");
}

/// Conntrack looks only while some rule has it look: what it knew at a release stays, and a caller that gets the port of a
/// connection that ended since was taken for that one, past the redirect, and dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_used_when_the_pod_left_is_of_use_when_it_comes_back() {
    let Some(node) = Node::new("a_port_that_was_used_when_the_pod_left_is_of_use_when_it_comes_back") else { return };
    let world = &node.world;
    serve(&world.outside(), "peer", "[::]:80").await;
    serve(&world.application(), "application", "[::]:80").await;
    let mut daemon = node.connected().await;
    tokio::spawn(async move {
        while daemon.next().await.is_ok() {
            daemon.ack(Ok(())).await.unwrap();
        }
    });
    crate::world::daemon(world, MARK).await; // its listeners
    let calls = [(&world.peer, "10.77.1.2:80", "inbound from 10.77.2.2"), (&world.pod, "10.77.2.2:80", "outbound from 10.77.1.2")];
    let mut older = Vec::new();
    for (netns, to, _) in calls {
        let mut stream = call(world, netns, 41_000, to).await;
        line(&mut stream).await;
        older.push(stream);
    }
    let (running, mut leaving) = (node.pod("running"), node.pod("running"));
    leaving["labels"] = json!({"istio.io/dataplane-mode": "none"});
    node.write("cart-1.json", &running);
    node.until("cart-1", State::Enabled, "").await;
    for stream in &mut older {
        stream.write_all(b"seen\n").await.unwrap();
        assert_eq!(line(stream).await, "seen");
    }
    node.write("cart-1.json", &leaving);
    node.until("cart-1", State::Released, "").await;
    drop(older);
    world.until("the connections have ended", || world.sh(&world.pod, "ss -Htn state established '( sport = :41000 or dport = :41000 )'").is_empty()).await;
    let known = world.place().tracked().unwrap();
    assert_eq!(known.iter().filter(|one| one.there.from.port() == 41_000 && one.state.takes_no_syn()).count(), 2, "{known:?}");

    node.write("cart-1.json", &running);
    node.until("cart-1", State::Enabled, "").await;
    for (netns, to, answer) in calls {
        let said = line(&mut call(world, netns, 41_000, to).await).await;
        assert!(said.starts_with(answer), "{to} answered {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_wrong_are_answered() {
    let Some(node) = Node::new("files_that_are_wrong_are_answered") else { return };
    let path = |name: &str| node.folder.path().join("pods").join(name).display().to_string();
    node.write_text("broken.json", "{");
    node.until("broken", State::Refused, &format!("{}: EOF while parsing", path("broken.json"))).await;
    node.remove("broken.json");

    let mut pod = node.pod("starting");
    pod["netns"] = json!("/no/such/netns");
    node.write("lost.json", &pod);
    node.until("lost", State::Pending, "netns: /no/such/netns: No such file or directory").await;
    pod["uid"] = json!("u2");
    pod["netns"] = json!("/etc/hostname");
    node.write("file.json", &pod);
    node.until("file", State::Pending, "cannot run nft: cannot enter the network namespace").await;
    pod["uid"] = json!("u3");
    pod["netns"] = json!(format!("/proc/{}/ns/net", node.agent.id()));
    node.write("own.json", &pod);
    node.until("own", State::Pending, "netns: it is the node's own network namespace").await;
    pod["uid"] = json!("u4");
    pod["annotations"] = json!({"ambient.istio.io/dns-capture": "maybe"});
    node.write("note.json", &pod);
    node.until("note", State::Refused, "annotation ambient.istio.io/dns-capture: \"maybe\" is neither \"true\" nor \"false\"")
        .await;

    node.write("cart-1.json", &json!({"uid": "u5", "name": "n", "namespace": "s", "netns": node.netns("pod"), "ips": [POD4]}));
    node.until("cart-1", State::Pending, "no node daemon").await;
    node.write("twin.json", &json!({"uid": "u5", "name": "n", "namespace": "s", "netns": node.netns("pod"), "ips": [POD4]}));
    node.until("twin", State::Refused, &format!("uid: u5 is announced by {} already", path("cart-1.json"))).await;
    node.write("thief.json", &json!({"uid": "u6", "name": "n", "namespace": "s", "netns": node.netns("pod"), "ips": [POD4]}));
    node.until("thief", State::Pending, "netns: it is the network namespace of pod u5 already").await;

    // corrected, it is enrolled
    let mut daemon = node.connected().await;
    node.remove("lost.json");
    node.remove("thief.json");
    node.until("cart-1", State::Pending, "").await;
    tokio::spawn(async move {
        while daemon.next().await.is_ok() {
            daemon.ack(Ok(())).await.unwrap();
        }
    });
    node.until("cart-1", State::Enabled, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_somebody_else_changes_are_put_back() {
    // F-40
    let Some(node) = Node::new("rules_that_somebody_else_changes_are_put_back") else { return };
    let (application, peer) = (node.world.application(), node.world.outside());
    serve(&peer, "peer", "[::]:80").await;
    serve(&application, "application", "[::]:80").await;
    let mut daemon = node.connected().await;
    assert!(matches!(next(&mut daemon, Ok(())).await, Request::SnapshotSent));
    node.write("cart-1.json", &node.pod("starting"));
    let mark = added(next(&mut daemon, Ok(())).await);
    crate::world::daemon(&node.world, mark).await;
    node.until("cart-1", State::Enabled, "").await;
    let rules = || node.world.sh(&node.world.pod, "nft -s list ruleset; ip rule; ip route show table 100; ip -6 route show table 100");
    let before = rules();
    let ways = [
        "nft flush ruleset",
        "nft delete table inet isthmus",
        "nft flush chain inet isthmus nat-output",
        "nft insert rule inet isthmus nat-output tcp dport 80 accept",
        "nft add element inet isthmus exempt '{ 0x539 }'",
        "ip rule del pref 32764",
        "ip -6 route flush table 100",
        "ip link set lo down; ip link set lo up",
    ];
    for (spoilt, spoil) in (1..).zip(ways) {
        let began = std::time::Instant::now();
        node.world.sh(&node.world.pod, spoil);
        node.world.until(spoil, || rules() == before).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{spoil}: put back after {:?}", began.elapsed());
        node.world.until("the status tells", || node.status("cart-1").unwrap().repairs >= spoilt).await;
    }
    // rules of others are theirs
    node.world.sh(&node.world.pod, "nft add table inet theirs");
    assert_eq!(ask(&application, "10.77.2.2:80").await, "outbound from 10.77.1.2 to 10.77.2.2:80");
    assert!(node.rules().contains("table inet theirs"));

    // connections that come about meanwhile pass by, and are cut as soon as the rules are back
    let agent = Pid::from_raw(node.agent.id().cast_signed());
    kill(agent, Signal::SIGSTOP).unwrap();
    node.world.sh(&node.world.pod, "nft flush ruleset");
    let mut strays = Vec::new();
    for (net, to) in [(&application, "10.77.2.2:80"), (&peer, "10.77.1.2:80"), (&peer, "[fd77:1::2]:80")] {
        let mut stray = net.dial(to.parse().unwrap(), Source::Any).await.unwrap();
        let mut hello = [0; 4];
        stray.read_exact(&mut hello).await.unwrap();
        assert!([b"peer", b"appl"].contains(&&hello), "{to} was reached past the mesh");
        strays.push(stray);
    }
    kill(agent, Signal::SIGCONT).unwrap();
    for stray in &mut strays {
        let ended = timeout(Duration::from_secs(5), stray.read_to_end(&mut Vec::new())).await.expect("it is cut");
        ended.unwrap_err();
    }
    node.world.until("the rules are back", || node.rules().contains("redirect to :15006")).await;
    assert_eq!(ask(&peer, "10.77.1.2:80").await, "inbound from 10.77.2.2 to 10.77.1.2:80");

    // the node's own
    let probes = || node.world.sh(&node.world.node, "nft -s list ruleset");
    let before = probes();
    assert!(before.contains("table netdev isthmus-probes") && before.contains("table inet isthmus-probes"));
    node.world.sh(&node.world.node, "nft flush ruleset");
    node.world.until("the node's rules are back", || probes() == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_back_while_it_leaves_is_not_made_to_wait() {
    let Some(node) = Node::new("a_pod_that_comes_back_while_it_leaves_is_not_made_to_wait") else { return };
    let (application, peer) = (node.world.application(), node.world.outside());
    serve(&peer, "peer", "[::]:80").await;
    let pod = node.pod("running");
    let mut leaving = pod.clone();
    leaving["labels"] = json!({"istio.io/dataplane-mode": "none"});
    node.write("cart-1.json", &pod);
    let mut daemon = node.connected().await;
    let mark = added(next(&mut daemon, Ok(())).await);
    crate::world::daemon(&node.world, mark).await;
    while let Ok(request) = timeout(Duration::from_millis(500), daemon.next()).await {
        request.unwrap();
        daemon.ack(Ok(())).await.unwrap();
    }
    node.until("cart-1", State::Enabled, "").await;
    let mut open = application.dial("10.77.2.2:80".parse().unwrap(), Source::Any).await.unwrap();
    assert!(open.read_u8().await.unwrap() > 0, "the daemon carries it");

    // before anything was undone: as if nothing had been
    node.write("cart-1.json", &leaving);
    node.until("cart-1", State::Releasing, "leaving the mesh").await;
    node.write("cart-1.json", &pod);
    node.until("cart-1", State::Enabled, "").await;
    assert!(timeout(Duration::from_millis(200), daemon.next()).await.is_err(), "the daemon is told nothing");

    // while its last connection goes on: first the daemon, then the rules
    node.write("cart-1.json", &leaving);
    assert!(matches!(next(&mut daemon, Ok(())).await, Request::Del { .. }));
    node.until("cart-1", State::Releasing, "waiting for its connections").await;
    assert!(!node.rules().contains("redirect to :15001"));
    node.write("cart-1.json", &pod);
    let again = timeout(Duration::from_secs(5), daemon.next()).await.expect("a request").unwrap();
    assert_eq!(added(again), mark, "its mark stays, for what is open is known by it");
    assert!(!node.rules().contains("redirect to :15001"), "no daemon serves it yet");
    daemon.ack(Ok(())).await.unwrap();
    while let Ok(request) = timeout(Duration::from_millis(500), daemon.next()).await {
        request.unwrap();
        daemon.ack(Ok(())).await.unwrap();
    }
    node.until("cart-1", State::Enabled, "").await;
    assert_eq!(ask(&application, "10.77.2.2:80").await, "outbound from 10.77.1.2 to 10.77.2.2:80");
    open.write_all(b"!").await.unwrap();
    let mut heard = Vec::new();
    while heard.last() != Some(&b'!') {
        heard.push(open.read_u8().await.unwrap());
    }
    assert_eq!(node.status("cart-1").unwrap().older_connections, 0, "what the daemon carries does not pass the mesh by");
}
