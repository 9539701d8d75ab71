//! `isthmus up` on this machine, without the mesh's programs: nodes and pods as they really are, and nothing left after
//! any end. Needs root; says so and passes where it is not.
#![allow(clippy::unwrap_used)] // the helpers are test code too; the lint's exception sees only functions that are tests

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use isthmus::lab::state::State;

const ISTHMUS: &str = env!("CARGO_BIN_EXE_isthmus");

/// A running `up`. Its remains are removed when the test ends.
struct Up {
    name: String,
    child: Child,
    folder: tempfile::TempDir,
}

impl Up {
    /// None where there is no root.
    fn start(name: &str) -> Option<Up> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("left out: needs root");
            return None;
        }
        let name = format!("{name}{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), PODS).unwrap();
        let folder_text = folder.path().to_str().unwrap();
        let mut child = Command::new(ISTHMUS).args(["up", "--no-mesh", "--name", &name, "-f", folder_text]).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut heard = Vec::new();
        for line in said.lines().map_while(Result::ok) {
            if line.contains(" is up: ") {
                return Some(Up { name, child, folder });
            }
            heard.push(line);
        }
        let _ = child.wait();
        panic!("up ended before it was ready: {}", heard.join("\n"));
    }

    fn isthmus(&self, words: &[&str]) -> Output {
        Command::new(ISTHMUS).args(["--name", &self.name]).args(words).output().unwrap()
    }

    /// What a command in a pod says.
    fn exec(&self, pod: &str, script: &str) -> String {
        let output = self.isthmus(&["exec", pod, "--", "sh", "-c", script]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn run(&self) -> PathBuf {
        Path::new("/run/isthmus").join(&self.name)
    }

    fn namespaces(&self) -> Vec<String> {
        let prefix = format!("isthmus-{}-", self.name);
        let Ok(names) = std::fs::read_dir("/run/netns") else { return Vec::new() };
        names.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
    }

    fn processes(&self) -> Vec<u64> {
        State::load(&self.run()).unwrap().pods.iter().map(|pod| pod.init.unwrap().pid as u64).collect()
    }

    fn nothing_is_left(&self, processes: &[u64]) {
        assert_eq!(self.namespaces(), Vec::<String>::new());
        assert!(!self.run().exists(), "the run directory is gone");
        for pid in processes {
            let state = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            assert!(state.is_empty() || state.contains("State:\tZ"), "process {pid} is gone: {state}");
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.isthmus(&["down"]);
    }
}

const PODS: &str = "kind: Pod
metadata: {name: one, labels: {app: one}}
spec: {nodeName: node-1, containers: [{name: c, command: [isthmus-shop, catalog]}]}
---
kind: Pod
metadata: {name: two}
spec: {nodeName: node-2, securityContext: {runAsUser: 1000}, containers: [{name: c, command: [sleep, infinity]}]}
---
kind: Service
metadata: {name: one}
spec: {selector: {app: one}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn a_pod_is_a_container_and_reaches_others_across_nodes() {
    let Some(up) = Up::start("pod") else { return };
    assert!(up.exec("one", "grep CapBnd /proc/self/status").contains("00000000a80425fb"), "a container's default capabilities");
    assert!(up.exec("one", "id -u; cat /proc/self/uid_map").starts_with("0\n"));
    assert_eq!(up.exec("two", "id -u").trim(), "1000");
    assert_eq!(up.exec("two", "hostname").trim(), "two");
    assert!(up.exec("one", &format!("ls {}; ls /run/netns", up.run().display())).matches("No such file").count() == 2);
    assert!(up.exec("one", "touch /etc/mine").contains("Read-only file system"));
    assert!(up.exec("one", "ip link add x type veth").contains("not permitted"));
    assert!(up.exec("one", "ls -d /proc/[0-9]* | wc -l").trim().parse::<u32>().unwrap() < 10, "only its own processes");
    assert!(up.exec("one", "isthmus-shop raw-socket && echo raw").contains("raw"));
    for host in ["one", "one.default.svc.cluster.local"] {
        assert!(up.exec("two", &format!("isthmus-shop get http://{host}/")).contains("200 OK"), "across nodes, by {host}");
    }
    // T-06: a packet with another pod's address does not leave the node.
    let before = dropped(&up);
    up.exec("one", "isthmus-shop spoof 10.244.2.200 10.244.2.10");
    assert!(dropped(&up) > before, "the node dropped it");
}

/// Packets that node-1's rule against foreign addresses dropped.
fn dropped(up: &Up) -> u64 {
    let netns = format!("--net=/run/netns/isthmus-{}-node-1", up.name);
    let output = Command::new("nsenter").args([&netns, "nft", "-j", "list", "chain", "inet", "isthmus_node", "antispoof"]).output().unwrap();
    let rules: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let counters = rules["nftables"].as_array().unwrap().iter().filter_map(|item| item.pointer("/rule/expr")?.as_array()?.iter().find_map(|expr| expr.pointer("/counter/packets")?.as_u64()));
    counters.sum()
}

#[test]
fn a_report_of_this_machine_is_json_with_the_words_of_the_tables() {
    let Some(mut up) = Up::start("report") else { return };
    let output = up.isthmus(&["status", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    let pods: Vec<(&str, &str, &str)> = report["pods"].as_array().unwrap().iter().map(|pod| (pod["name"].as_str().unwrap(), pod["state"].as_str().unwrap(), pod["mesh"]["state"].as_str().unwrap())).collect();
    assert_eq!(pods, [("default/one", "running", "outside"), ("default/two", "running", "outside")]);
    assert_eq!(report["problems"], serde_json::json!([]));
    // A mesh that crashed says so, and how to remove it.
    up.child.kill().unwrap();
    up.child.wait().unwrap();
    let output = up.isthmus(&["status"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("isthmus --name {} down", up.name)));
}

#[test]
fn an_end_by_signal_leaves_nothing() {
    let Some(mut up) = Up::start("end") else { return };
    let processes = up.processes();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(up.child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(up.child.wait().unwrap().success());
    up.nothing_is_left(&processes);
}

#[test]
fn down_after_a_crash_leaves_nothing() {
    let Some(mut up) = Up::start("crash") else { return };
    let processes = up.processes();
    assert_eq!(processes.len(), 2);
    up.child.kill().unwrap();
    up.child.wait().unwrap();
    assert_eq!(up.namespaces().len(), 6, "the crash left everything: wire, control, two nodes, two pods");
    assert!(up.isthmus(&["down"]).status.success());
    up.nothing_is_left(&processes);
}

#[test]
fn a_second_mesh_of_the_name_is_refused() {
    let Some(up) = Up::start("twice") else { return };
    let again = up.isthmus(&["up", "--no-mesh", "-f", up.folder.path().to_str().unwrap()]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("already runs"));
    assert_eq!(up.namespaces().len(), 6, "the first one is untouched");
}
