//! The yardstick: one plain HAProxy in the client's pod, one in the server's, mode tcp, no TLS, else as it comes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::bail;
use isthmus::lab::netns;
use isthmus::lab::state::PodState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{BULK, HTTP};

pub struct Chain {
    /// The client's, the server's.
    pub pids: [i32; 2],
}

/// Ports between the two; excluded from capture in `world.yaml`.
const WIRE_HTTP: u16 = 18000;
const WIRE_BULK: u16 = 18001;
/// A connection takes two descriptors, and a process has 20,000.
const CONNECTIONS_MAX: usize = 9_900;

impl Chain {
    /// Where the client's HAProxy listens.
    pub const HTTP: u16 = 17000;
    pub const BULK: u16 = 17001;

    pub fn start(client: &PodState, server: &PodState) -> anyhow::Result<Chain> {
        let to = server.addresses.v4;
        let far = start(
            server,
            &config(&to.to_string(), [(WIRE_HTTP, format!("127.0.0.1:{HTTP}")), (WIRE_BULK, format!("127.0.0.1:{BULK}"))]),
        )?;
        let near = start(
            client,
            &config("127.0.0.1", [(Self::HTTP, format!("{to}:{WIRE_HTTP}")), (Self::BULK, format!("{to}:{WIRE_BULK}"))]),
        )?;
        Ok(Chain { pids: [near, far] })
    }

    pub fn stop(&self) {
        for pid in self.pids {
            // It ends with its pod at the latest.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

fn config(listen: &str, ways: [(u16, String); 2]) -> String {
    let [http, bulk] = ways.map(|(port, to)| format!("listen on{port}\n  bind {listen}:{port}\n  server there {to}\n"));
    format!(
        "global\n  maxconn {CONNECTIONS_MAX}\ndefaults\n  mode tcp\n  maxconn {CONNECTIONS_MAX}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n{http}{bulk}"
    )
}

fn start(pod: &PodState, config: &str) -> anyhow::Result<i32> {
    let script = r#"printf %s "$1" > /tmp/haproxy.cfg && exec haproxy -db -f /tmp/haproxy.cfg"#;
    let mut command = isthmus::exec::inside(pod, &["sh", "-c", script, "sh", config])?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let began = Instant::now();
    loop {
        // The child is nsenter; the process that serves is the one of that name in the pod's network.
        let found = netns::processes(&pod.netns).into_iter().find(|pid| is_haproxy(*pid));
        if let Some(pid) = found {
            return Ok(pid);
        }
        if child.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(10) {
            bail!("haproxy does not start in {}", pod.name);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn is_haproxy(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "haproxy")
}
