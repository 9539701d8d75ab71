//! A mesh of several nodes over the fabric: each node is the daemon's own composition, without sockets of the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mesh_hbone::Limits;
use mesh_identity::authority::LocalAuthority;
use mesh_identity::clock::Clock;
use mesh_identity::crl::Revocations;
use mesh_identity::sign::{Ca, Lifetimes};
use mesh_identity::store::Credentials;
use mesh_identity::tls::{KeyExchange, Tls};
use mesh_model::change::Change;
use mesh_model::workload::{TunnelProtocol, Workload};
use mesh_runtime::{Drain, Drained};
use mesh_sim::clock::SimClock;
use mesh_sim::fabric::{Fabric, SimNet};
use mesh_telemetry::access_log::{AccessLog, Direction};
use mesh_telemetry::recorder::{Limits as Series, Recorder};
use mesh_telemetry::traffic::Traffic;
use mesh_xds::world::{Edit, WorldWriter, world};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use ztunnel::account::{Accounts, Ended};
use ztunnel::chance::Chance;
use ztunnel::enroll::{PodInfo, PodUid, Stop};
use ztunnel::fetch::{Fetch, Fetching};
use ztunnel::freshness::Freshness;
use ztunnel::pod::{Mesh, Pod, Settings};
use ztunnel::resolve::{Known, Need};

use crate::sim::app;
use crate::sim::authority::Moody;

pub const NAMESPACE: &str = "shop";
pub const PORT: u16 = 8080;
/// A push reaches a node after at most this; different nodes and types at different times.
pub const PUSH_MAX: Duration = Duration::from_millis(500);
/// How long certificates of a run live: some renewals fall into every run.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(600);

/// What one node is made of.
pub struct Node {
    pub mesh: Arc<Mesh>,
    pub drain: Drain,
    pub pods: BTreeMap<IpAddr, Arc<Pod<SimNet>>>,
    pub recorder: Recorder,
    pushes: mpsc::UnboundedSender<(Duration, Edit)>,
    tasks: Vec<JoinHandle<()>>,
}

/// A pod of the scenario, enrolled or not.
#[derive(Clone, Debug)]
pub struct Place {
    pub node: String,
    pub ip: IpAddr,
    pub account: String,
    pub name: String,
    pub enrolled: bool,
}

/// One closed account, as the laws look at it.
pub type Closed = Arc<Mutex<Vec<Ended>>>;

pub struct Sim {
    pub fabric: Fabric,
    pub clock: SimClock,
    pub ca_away: Arc<AtomicBool>,
    pub nodes: BTreeMap<String, Node>,
    pub places: BTreeMap<IpAddr, Place>,
    pub closed: Closed,
    pub markers: Arc<AtomicU64>,
    /// Everything that the control plane would tell a node that comes new.
    pub truth: Vec<Edit>,
    /// What is wrong with this mesh on purpose, to show that the laws can be broken.
    pub sabotage: Sabotage,
    ca: Arc<Ca>,
    apps: BTreeMap<IpAddr, JoinHandle<()>>,
    rng: SmallRng,
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    Nothing,
    /// Node `a` never hears of a policy.
    DeafNode,
    /// Pods are told to be in the mesh, and their traffic is not captured.
    NoCapture,
    /// Every daemon loses the count of one call.
    LostBytes,
}

/// The simulated nodes know everything that there is; nothing is to be fetched.
struct NothingMore;

impl Fetch for NothingMore {
    fn fetch<'a>(&'a self, need: Need, _: &'a Workload, known: &'a mut Known) -> Fetching<'a> {
        known.asked.insert(need);
        Box::pin(async { Ok(()) })
    }
}

impl Sim {
    pub fn new(seed: u64, sabotage: Sabotage) -> Sim {
        let clock = SimClock::start();
        let lifetimes = Lifetimes { default: CERTIFICATE_LIFE, max: CERTIFICATE_LIFE };
        let ca = Ca::self_signed("cluster.local", Duration::from_secs(3_600 * 24 * 3_650), lifetimes, clock.now()).expect("a root can be made");
        let fabric = Fabric::new(seed);
        let markers = Arc::new(AtomicU64::new(0));
        let seen = markers.clone();
        fabric.tap(Arc::new(move |chunk| {
            if chunk.windows(app::MARKER.len()).any(|window| window == app::MARKER) {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }));
        Sim {
            fabric,
            clock,
            ca_away: Arc::default(),
            nodes: BTreeMap::new(),
            places: BTreeMap::new(),
            closed: Arc::default(),
            markers,
            truth: vec![Edit::AddressesSynced, Edit::PoliciesSynced],
            sabotage,
            ca: Arc::new(ca),
            apps: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            generation: 0,
        }
    }

    /// A node's daemon comes up; it is told everything there is.
    pub fn add_node(&mut self, name: &str) {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let inner = LocalAuthority::new(self.ca.clone(), clock.clone());
        let authority = Arc::new(Moody { inner, away: self.ca_away.clone() });
        let credentials = Credentials::new(authority, clock.clone(), CERTIFICATE_LIFE, self.rng.random());
        let certificates = tokio::spawn(credentials.clone().run());
        let recorder = Recorder::new(Series::DEFAULT);
        let closed = self.closed.clone();
        let sabotage = self.sabotage;
        let audit: ztunnel::account::Audit = Box::new(move |ended| {
            let lost = sabotage == Sabotage::LostBytes && ended.direction == Direction::Outbound;
            let forward = if lost { ended.forward / 2 } else { ended.forward };
            closed.lock().push(Ended { forward, ..ended.clone() });
        });
        let (writer, watched) = world();
        let mesh = Arc::new(Mesh {
            world: watched,
            tls: Tls::new(KeyExchange::Standard, clock.clone(), Revocations::disabled()),
            credentials,
            accounts: Accounts::audited(Traffic::new(recorder.clone()), AccessLog::off(), clock, Some(audit)),
            fetch: Arc::new(NothingMore),
            freshness: Freshness::new(Duration::from_secs(24 * 3600)),
            chance: Chance::seeded(self.rng.random()),
            settings: settings(name),
        });
        let (pushes, incoming) = mpsc::unbounded_channel();
        let applying = tokio::spawn(apply(writer, incoming));
        for edit in self.truth.clone() {
            let _ = pushes.send((Duration::ZERO, edit));
        }
        let node = Node { mesh, drain: Drain::new(), pods: BTreeMap::new(), recorder, pushes, tasks: vec![certificates, applying] };
        self.nodes.insert(name.to_owned(), node);
    }

    /// Tells every node, each after a delay of its own; the order of one node's edits is kept, as a stream keeps it.
    pub fn push(&mut self, edit: Edit) {
        self.truth.push(edit.clone());
        for (name, node) in &self.nodes {
            if self.sabotage == Sabotage::DeafNode && name == "a" && matches!(edit, Edit::Policy(..)) {
                continue;
            }
            let delay = PUSH_MAX.mul_f64(self.rng.random_range(0.0..1.0) / 4.0);
            let _ = node.pushes.send((delay, edit.clone()));
        }
    }

    /// A pod starts: its application first, then, if it is enrolled, rules and daemon before anybody knows of it.
    pub async fn add_pod(&mut self, node: &str, ip: IpAddr, account: &str, enrolled: bool) {
        self.generation += 1;
        let name = format!("{account}-{}", self.generation);
        self.fabric.add_pod(node, ip);
        let serving = app::serve(self.fabric.application(ip), name.clone(), PORT);
        self.apps.insert(ip, tokio::spawn(serving));
        let place = Place { node: node.to_owned(), ip, account: account.to_owned(), name: name.clone(), enrolled };
        self.places.insert(ip, place.clone());
        if enrolled {
            self.enrol(&place).await;
        }
        self.push(Edit::Address(Change::Workload(Arc::new(workload(&place)))));
    }

    async fn enrol(&mut self, place: &Place) {
        self.fabric.enrol(place.ip, self.sabotage != Sabotage::NoCapture);
        let node = self.nodes.get_mut(&place.node).expect("pods are on nodes");
        let info = PodInfo { name: place.name.as_str().into(), namespace: NAMESPACE.into(), service_account: place.account.as_str().into() };
        let net = self.fabric.daemon(place.ip);
        let pod = Pod::start(PodUid(place.name.as_str().into()), info, net, node.mesh.clone(), node.drain.child()).await;
        node.pods.insert(place.ip, pod.expect("ports of a simulated pod are free"));
    }

    /// A pod is deleted; its address may come back as another's.
    pub async fn remove_pod(&mut self, ip: IpAddr) {
        let Some(place) = self.places.remove(&ip) else { return };
        self.push(Edit::Address(Change::Remove(uid(&place).into())));
        let pod = self.nodes.get_mut(&place.node).and_then(|node| node.pods.remove(&ip));
        self.fabric.remove_pod(ip);
        if let Some(app) = self.apps.remove(&ip) {
            app.abort();
        }
        if let Some(pod) = pod {
            let _ = pod.stop(Stop::Immediate).await;
        }
    }

    /// `kill -9` of a daemon: everything of it is gone at once, then it starts anew.
    pub async fn crash(&mut self, name: &str) {
        let Some(node) = self.nodes.remove(name) else { return };
        for pod in node.pods.values() {
            let _ = pod.stop(Stop::Immediate).await;
        }
        for task in node.tasks {
            task.abort();
        }
        self.add_node(name);
        let pods: Vec<Place> = self.places.values().filter(|place| place.node == name && place.enrolled).cloned().collect();
        for place in pods {
            self.enrol(&place).await;
        }
    }

    /// Ends everything in order; what is left then is told.
    pub async fn drain(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for (name, node) in &self.nodes {
            for pod in node.pods.values() {
                if let Drained::Forced { left: tasks } = pod.stop(Stop::Immediate).await
                    && tasks > 0
                {
                    left.push(format!("{tasks} tasks of {}", pod.info.name));
                }
                for (what, count) in [("permits", pod.permits.len()), ("live", pod.live.len()), ("handshakes", pod.handshakes.len())] {
                    if count > 0 {
                        left.push(format!("{count} {what} of {}", pod.info.name));
                    }
                }
                let rows = pod.tunnels.rows();
                if !rows.is_empty() {
                    left.push(format!("{} pooled connections of {}", rows.len(), pod.info.name));
                }
            }
            let text = String::from_utf8(node.recorder.render(std::time::Instant::now())).expect("metrics are text");
            for line in text.lines().filter(|line| line.starts_with("istio_tcp_sockets_open{")) {
                if !line.ends_with(" 0") {
                    left.push(format!("{name}: {line}"));
                }
            }
        }
        for node in self.nodes.values_mut() {
            for task in node.tasks.drain(..) {
                task.abort();
            }
        }
        for app in self.apps.values() {
            app.abort();
        }
        left
    }
}

/// Applies what is pushed, in order.
async fn apply(mut writer: WorldWriter, mut incoming: mpsc::UnboundedReceiver<(Duration, Edit)>) {
    while let Some((delay, edit)) = incoming.recv().await {
        tokio::time::sleep(delay).await;
        writer.apply([edit]);
    }
}

fn settings(node: &str) -> Settings {
    Settings {
        node: Some(node.into()),
        network: "".into(),
        ipv6: true,
        own_ports: [15001, 15006, 15008].into(),
        policy_in_log: false,
        older_grace: std::time::Duration::from_secs(30),
        socks5: false,
        mesh_ranges: ["10.0.0.0/8".parse().expect("a range")].into(),
        unknown_wait: Duration::from_secs(1),
        tunnel_over_loopback: true,
        baggage: true,
        on_demand: false,
        hbone: Limits::default(),
        connections_per_pod: 1_000,
        own_workload_wait: Duration::from_secs(5),
        drain: Duration::from_secs(5),
    }
}

fn uid(place: &Place) -> String {
    format!("Kubernetes//Pod/{NAMESPACE}/{}", place.name)
}

pub fn workload(place: &Place) -> Workload {
    let mut workload = Workload::named(&uid(place), NAMESPACE, &place.name);
    workload.service_account = place.account.as_str().into();
    workload.node = place.node.as_str().into();
    workload.addresses = vec![place.ip];
    workload.tunnel_protocol = if place.enrolled { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    workload
}

pub fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, PORT)
}

pub fn is_inbound(ended: &Ended) -> bool {
    ended.direction == Direction::Inbound
}
