//! The settings of the daemon: the environment's variables by the field's names (spec/dataplane.md 9.1), some of our own,
//! and what the mesh's file says. Pure: the environment, the files and the number of cores are arguments.
//!
//! Here: what there is to know. The files beside it read it, one section each; a setting is declared once, in the line
//! that reads it, and `docs/config.md` is made from these lines.
//! A value that cannot be used, or a setting that we do not support, stops the start and says what to write instead.

mod mesh_file;
mod mode;
mod place;
mod control_plane;
mod traffic;
mod dns;
mod operators;
mod threads;
mod shown;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_identity::tls::KeyExchange;
use mesh_net::sockopt::{Keepalive, Spoofing};
use mesh_runtime::knobs::{Knob, Knobs, WrongSettings};
use mesh_telemetry::access_log::Format;

pub use self::place::Place;

/// Everything that the daemon is told at its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub mode: Mode,
    pub place: Place,
    pub xds: Option<Remote>,
    pub xds_on_demand: bool,
    /// Objects that do not come from a control plane.
    pub local_xds: Option<Local>,
    pub ca: Remote,
    /// Asked for, for each certificate.
    pub certificate_life: Duration,
    pub token: Token,
    pub crl: Option<PathBuf>,
    pub key_exchange: KeyExchange,
    pub sockets: Sockets,
    pub tunnels: Tunnels,
    pub pods: Pods,
    pub dns: Dns,
    pub ports: OperatorPorts,
    pub workers: usize,
    /// How long open connections may go on after the daemon was asked to end.
    pub drain: Duration,
    pub log: Log,
    pub metrics: mesh_telemetry::recorder::Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All pods of a node, which the node agent hands over on this socket.
    Shared { agent: PathBuf },
    /// One workload, in this process's own network namespace.
    Dedicated { namespace: Arc<str>, name: Arc<str>, service_account: Arc<str> },
}

/// A server of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `https://host:port`.
    pub url: String,
    pub root: Root,
    /// The name in the server's certificate, when it is not the host's.
    pub alternative_name: Option<String>,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    File(PathBuf),
    Pem(String),
}

/// Objects on this machine (spec/dataplane.md 9.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    File(PathBuf),
    Text(String),
}

/// What proves us to the control plane.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    None,
    File(PathBuf),
    Text(String),
}

/// Options of every socket that we open for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// The mark of our packets where the agent gives none of its own; `None` in dedicated mode unless it is set.
    pub mark: Option<u32>,
    pub port_reuse: bool,
    pub spoofing: Spoofing,
    pub keepalive: Option<Keepalive>,
    pub user_timeout: Option<Duration>,
    pub ipv6: bool,
}

/// Windows and pools of tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnels {
    pub stream_window: Option<u32>,
    pub connection_window: u32,
    pub frame_size: u32,
    pub streams_per_connection: usize,
    pub unused_release: Duration,
    /// A node that answers nothing for so long is gone.
    pub dead_after: Duration,
    pub baggage: bool,
}

/// What pods may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    pub app_tunnel_over_loopback: bool,
    pub socks5: bool,
    pub connections: usize,
    pub policy_in_log: bool,
    /// Where an unknown destination is refused instead of passed through.
    pub mesh_ranges: Arc<[IpNet]>,
    /// After so long without the control plane connections are refused.
    pub snapshot_age: Duration,
    /// How long a connection that is older than its pod's enrolment goes on when policy refuses it.
    pub older_grace: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    pub enabled: bool,
    pub addresses: Vec<SocketAddr>,
    pub preferred_namespace: Option<Arc<str>>,
    pub limits: crate::dns::Limits,
}

/// Where operators and scrapers find us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorPorts {
    /// On the loopback. In dedicated mode the application shares it, so what changes something is on `admin_socket` alone.
    pub admin: u16,
    pub admin_socket: Option<PathBuf>,
    pub metrics: u16,
    pub readiness: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub levels: Option<String>,
    pub format: Format,
}

/// What the daemon is told from outside.
pub struct Told<'a> {
    pub environment: &'a BTreeMap<String, String>,
    /// Reads a file; `NotFound` is no error.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    pub cores: usize,
}

/// Read at the start if it is there (spec/dataplane.md 9.1).
const MESH_FILE: &str = "./etc/istio/config/mesh";

impl Config {
    /// # Errors
    /// All settings that cannot be used, with their values and what is expected.
    pub fn parse(told: &Told<'_>) -> Result<Config, WrongSettings> {
        let mut knobs = Knobs::new(told.environment);
        let config = Config::read(&mut knobs, told);
        knobs.finish().map(|_| config)
    }

    /// The settings there are, for `--help` and `docs/config.md`.
    pub fn knobs() -> Vec<Knob> {
        let nothing = BTreeMap::new();
        let mut knobs = Knobs::new(&nothing);
        let read = |_: &Path| Err(io::ErrorKind::NotFound.into());
        Config::read(&mut knobs, &Told { environment: &nothing, read: &read, cores: 1 });
        knobs.finish().expect("an empty environment has nothing wrong in it")
    }

    fn read(knobs: &mut Knobs<'_>, told: &Told<'_>) -> Config {
        let file = mesh_file::read(knobs, told);
        let mode = mode::read(knobs);
        let place = place::read(knobs, &file).of_workload(&mode);
        let (xds, xds_on_demand, local_xds) = control_plane::xds(knobs, told, &file);
        let (ca, certificate_life, token, crl) = control_plane::certificates(knobs, told);
        let key_exchange = control_plane::compliance(knobs);
        let sockets = traffic::sockets(knobs, &mode);
        let tunnels = traffic::tunnels(knobs);
        let pods = traffic::pods(knobs);
        let dns = dns::dns(knobs, &place, sockets.ipv6, xds_on_demand);
        if xds_on_demand && matches!(mode, Mode::Dedicated { .. }) {
            knobs.refuse("XDS_ON_DEMAND", "false, because in dedicated mode nobody tells the daemon of its own workload unasked");
        }
        let ports = operators::operator_ports(knobs, &mode, &file);
        let workers = threads::workers(knobs, file.concurrency, told.cores);
        let drain = operators::drain(knobs);
        let (log, metrics) = operators::log(knobs);
        Config {
            mode,
            place,
            xds,
            xds_on_demand,
            local_xds,
            ca,
            certificate_life,
            token,
            crl,
            key_exchange,
            sockets,
            tunnels,
            pods,
            dns,
            ports,
            workers,
            drain,
            log,
            metrics,
        }
    }
}

#[cfg(test)]
mod tests;
