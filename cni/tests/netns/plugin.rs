//! The program as the container runtime runs it, against an agent that answers as told; the search for running pods, and
//! the clean-up of a node.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mesh_cni::cleanup;
use mesh_cni::host::{ProbeSender, interface_ruleset, ruleset};
use mesh_cni::kubernetes::find::Finder;
use mesh_cni::plugin::event::{Event, SOCKET};
use mesh_net::netns::Netns;
use serde_json::{Value, json};

use crate::world::*;

/// Exit status and answer of one call.
fn call(run: &Path, command: &str, args: &str) -> (bool, Value) {
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "isthmus-cni", "cni_agent_run_dir": run, "pod_namespace": "istio-system",
        "exclude_namespaces": ["kube-system"],
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24"}]},
    });
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_mesh-cni"))
        .env_clear()
        .envs([("CNI_COMMAND", command), ("CNI_NETNS", "/var/run/netns/cni-1"), ("CNI_ARGS", args), ("CNI_IFNAME", "eth0")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    plugin.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = plugin.wait_with_output().unwrap();
    let answer = if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() };
    (output.status.success(), answer)
}

const POD: &str = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1;K8S_POD_UID=u1";

/// An agent that answers one call; what it was told.
fn agent(run: &Path, status: &'static str, text: &'static str) -> std::thread::JoinHandle<Event> {
    let path = run.join(SOCKET);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        let mut buffer = [0; 4096];
        let event = loop {
            let read = stream.read(&mut buffer).unwrap();
            asked += std::str::from_utf8(&buffer[..read]).unwrap();
            let body = asked.split_once("\r\n\r\n").map(|(_, body)| body);
            if let Some(Ok(event)) = body.map(serde_json::from_str::<Event>) {
                break event;
            }
        };
        assert!(asked.starts_with("POST /cmdadd HTTP/1.1\r\nHost: unix\r\n"), "{asked}");
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len()).unwrap();
        event
    })
}

#[test]
fn a_pod_starts_when_the_agent_says_so_and_not_before() {
    let run = tempfile::tempdir().unwrap();
    let answering = agent(run.path(), "200 OK", "");
    let (started, answer) = call(run.path(), "ADD", POD);
    assert!(started);
    assert_eq!(answer, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24"}]}), "the result of the plugins before");
    let event = answering.join().unwrap();
    assert_eq!((event.pod_name.as_str(), event.pod_uid.as_str(), event.netns.as_str()), ("cart-1", "u1", "/var/run/netns/cni-1"));

    let answering = agent(run.path(), "500 Internal Server Error", "no node daemon is connected\n");
    let (started, answer) = call(run.path(), "ADD", POD);
    answering.join().unwrap();
    assert!(!started);
    assert_eq!(answer["msg"], "the pod cannot join the mesh yet: no node daemon is connected");
    assert_eq!((&answer["code"], &answer["details"]), (&json!(11), &json!("pod shop/cart-1; the runtime tries again")));

    // the agent is away, and the API server cannot be asked: nobody knows, so it does not start
    std::fs::remove_file(run.path().join(SOCKET)).unwrap();
    let (started, answer) = call(run.path(), "ADD", POD);
    assert!(!started);
    let text = answer["msg"].as_str().unwrap();
    assert!(text.contains("mesh-cni does not answer on") && text.contains("kubeconfig"), "{text}");
    // whoever is not to be in the mesh anyway is not held up by that, nor is the mesh itself, nor any end
    for args in ["K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-1", "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=ztunnel-x", ""] {
        assert!(call(run.path(), "ADD", args).0, "{args}");
    }
    for command in ["DEL", "DEL", "CHECK", "VERSION"] {
        assert!(call(run.path(), command, POD).0, "{command}");
    }
}

/// A node's `/proc` with one process in each of these namespaces, in the cgroup of pods with these uids.
fn proc_of(pods: &[(u32, &str, &Netns)]) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc/sys", proc.path().join("sys")).unwrap();
    for (pid, uid, netns) in pods {
        let folder = proc.path().join(pid.to_string());
        std::fs::create_dir_all(folder.join("ns")).unwrap();
        std::fs::write(folder.join("cgroup"), format!("0::/kubepods/burstable/pod{uid}/c1\n")).unwrap();
        std::fs::write(folder.join("stat"), format!("{pid} (x) S 1 1 1 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 {pid} 1\n")).unwrap();
        std::os::unix::fs::symlink(path_of(netns), folder.join("ns/net")).unwrap();
    }
    proc
}

fn path_of(netns: &Netns) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd()).into()
}

const UID: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
const OTHER: &str = "2b4e28ba-2fa1-11d2-883f-0016d3cca427";

#[test]
fn a_running_pod_is_found_and_only_in_its_own_namespace() {
    // V-63
    let Some(world) = World::new("a_running_pod_is_found_and_only_in_its_own_namespace") else { return };
    let (ours, theirs) = ([ip(POD4), ip(POD6)], [ip(PEER4)]);
    // an older process of the pod is in the node's namespace, as a hostNetwork container's would be; one has another pod's
    let proc = proc_of(&[(7, UID, &world.node), (8, UID, &world.peer), (9, UID, &world.pod), (10, OTHER, &world.pod)]);
    let mounts = tempfile::tempdir().unwrap();
    let finder = |host: &Netns| Finder {
        proc: proc.path().to_owned(),
        netns: mounts.path().to_owned(),
        home: world.home.clone(),
        host: host.clone(),
    };
    let finder = finder(&world.node);
    let processes = finder.processes().unwrap();
    let found = finder.find(&processes, UID, &ours).unwrap();
    assert_eq!(found.path, proc.path().join("9/ns/net"));
    assert_eq!(found.interface.as_deref(), Some("vpod"), "the node's end of its link");
    assert_eq!(finder.find(&processes, OTHER, &theirs), None, "the namespace has no address of that pod");
    assert_eq!(finder.find(&processes, "3b4e28ba-2fa1-11d2-883f-0016d3cca427", &theirs), None);
    // without a process that can be told: among the runtime's mounts
    std::os::unix::fs::symlink(path_of(&world.peer), mounts.path().join("cni-2")).unwrap();
    assert_eq!(finder.find(&processes, OTHER, &theirs).unwrap().path, mounts.path().join("cni-2"));
    // where the runtime has a name for it, that is taken: the number of a process may become another's
    std::os::unix::fs::symlink(path_of(&world.pod), mounts.path().join("cni-1")).unwrap();
    assert_eq!(finder.find(&processes, UID, &ours).unwrap().path, mounts.path().join("cni-1"));
    assert_eq!(finder.seen("/var/run/netns/cni-2".as_ref()), mounts.path().join("cni-2"));
    assert_eq!(finder.seen("/proc/9/ns/net".as_ref()), proc.path().join("9/ns/net"));
}

#[test]
fn a_node_is_cleaned() {
    let Some(world) = World::new("a_node_is_cleaned") else { return };
    let state = |netns: &Netns| world.sh(netns, "nft list ruleset; ip rule; ip route show table 100 2>/dev/null || true; cat /proc/sys/net/ipv4/tcp_migrate_req");
    world.sh(&world.peer, "nft add table inet theirs");
    let before = [state(&world.pod), state(&world.peer), state(&world.node)];
    let rules = world.enrolled(scope());
    rules.guard().unwrap();
    let at_node = world.place_in(&world.node);
    at_node.nft(&ruleset(&ProbeSender::User(0), &[ip(POD4)])).unwrap();
    at_node.nft(&interface_ruleset("u1", "vpod")).unwrap();
    let proc = proc_of(&[(9, UID, &world.pod), (10, UID, &world.pod), (11, OTHER, &world.peer), (12, OTHER, &world.node)]);
    let finder = Finder {
        proc: proc.path().to_owned(),
        netns: "/nowhere".into(),
        home: world.home.clone(),
        host: world.node.clone(),
    };
    assert_eq!(cleanup::everything(&finder), 1);
    assert_eq!([state(&world.pod), state(&world.peer), state(&world.node)], before);
    assert_eq!(cleanup::everything(&finder), 0, "twice is as good as once");
}
