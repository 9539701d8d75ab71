//! What node daemons say to a waypoint, and whom they believe to be one: a small HBONE server of this suite plays it, in a
//! pod's network, with a certificate of the mesh's authority, and writes down what it is asked. The real program is in
//! `layer7.rs`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use http::{HeaderMap, StatusCode};
use isthmus::lab::netns;
use isthmus::lab::state::PodState;
use mesh_hbone::{Connect, ConnectRequest, Limits, Stop};
use mesh_identity::Credential;
use mesh_model::identity::SpiffeId;

use super::app::{PATIENCE, Server, ask, dial, echo, greet, greeted};
use super::mesh::{Applied, MARKER, Mesh, SOON, until, until_ok, v4, v6};
use super::peer::{HBONE, account, credential, tls};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        a_workload_behind_a_waypoint,
        a_service_behind_a_waypoint,
        a_false_waypoint_is_refused,
        without_a_waypoint_that_is_ready_nothing_passes,
    ]
}

/// What a waypoint was asked for, and by whom.
#[derive(Clone, Debug)]
pub struct Asked {
    pub authority: String,
    pub peer: SpiffeId,
    pub from: SocketAddr,
    /// The service that the caller's node says was addressed.
    pub service: Option<String>,
}

/// A program that plays a waypoint: takes tunnels in a pod's network, writes down what it is asked for, and carries all of
/// it to one endpoint, in tunnels of its own.
pub struct Waypoint {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Stop,
    accepting: tokio::task::JoinHandle<()>,
}

/// What each of its connections needs.
struct Part {
    netns: String,
    own: Credential,
    endpoint: SocketAddr,
    endpoint_identity: SpiffeId,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Waypoint {
    /// In pod `place`, as account `whom`, in front of `endpoint` of account `served`.
    pub fn start(mesh: &Mesh, place: &PodState, whom: &str, endpoint: SocketAddr) -> Result<Waypoint> {
        let own = credential(&mesh.ca()?, &account(whom), SystemTime::now())?;
        let at = SocketAddr::new("::".parse()?, HBONE);
        // The one before may be about to leave.
        let bind = || mesh.within(&place.netns, move || std::net::TcpListener::bind(at)).ok()?.ok();
        let listener = until(SOON, "the waypoint's port is free", bind)?;
        listener.set_nonblocking(true)?;
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let part = Arc::new(Part {
            netns: place.netns.clone(),
            own,
            endpoint,
            endpoint_identity: account("served"),
            asked: asked.clone(),
        });
        let stop = Stop::default();
        let (stopping, _in_runtime) = (stop.clone(), mesh.rt.enter());
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepting = mesh.rt.spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                tokio::spawn(part.clone().connection(stream, from, stopping.clone()));
            }
        });
        Ok(Waypoint { asked, stop, accepting })
    }

    /// All that it was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        self.accepting.abort();
        self.stop.forced.cancel();
    }
}

impl Part {
    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, from: SocketAddr, stop: Stop) {
        // Whoever does not prove who they are ends here; the caller's side judges what that means.
        let Ok(secured) = tls(SystemTime::now()).accept(stream, &self.own).await else { return };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let handler = |request: Result<Connect, _>| {
            let Ok(request) = request else { return };
            tokio::spawn(self.clone().tunnel(request, secured.peer.clone(), from));
        };
        let _ = mesh_hbone::serve(secured.stream, &Limits::default(), &stop, handler).await;
    }

    async fn tunnel(self: Arc<Self>, mut request: Connect, peer: SpiffeId, from: SocketAddr) {
        let service = mesh_hbone::forwarded::host(request.headers()).map(str::to_owned);
        let asked = Asked { authority: request.head().to_string(), peer, from, service };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        match self.onward().await {
            Ok(mut onward) => {
                let Ok(mut tunnel) = request.accept(HeaderMap::new()) else { return };
                // The end of a conversation is judged by its client.
                let _ = tokio::io::copy_bidirectional(&mut tunnel, &mut onward).await;
            }
            Err(_) => request.refuse(StatusCode::BAD_GATEWAY),
        }
    }

    /// A tunnel to the endpoint, as the waypoint itself.
    async fn onward(&self) -> Result<mesh_hbone::Tunnel> {
        let (netns, door) = (netns::path(&self.netns), SocketAddr::new(self.endpoint.ip(), HBONE));
        let dialled = tokio::task::spawn_blocking(move || {
            netns::within(&netns, move || std::net::TcpStream::connect_timeout(&door, PATIENCE))
        });
        let stream = dialled.await???;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let expected = std::slice::from_ref(&self.endpoint_identity);
        let secured = tls(SystemTime::now()).connect(stream, &self.own, expected).await?;
        let request = ConnectRequest::new(self.endpoint);
        Ok(mesh_hbone::dial::open_alone(secured.stream, &Limits::default(), &request).await?.0)
    }
}

/// A Gateway that is a waypoint for `traffic`, at an address of this kind. Of a class that nobody here makes waypoints for.
pub fn gateway(name: &str, traffic: &str, kind: &str, address: &str, annotations: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: app\n  labels: {{istio.io/waypoint-for: {traffic}}}\n  annotations: {{{annotations}}}\n\
         spec:\n  gatewayClassName: played\n  listeners:\n  - {{name: mesh, port: 15008, protocol: HBONE}}\n  addresses:\n  - {{type: {kind}, value: {address}}}\n"
    )
}

/// Puts a waypoint in front of what has the name `served`, and waits until node-1 steers there.
fn steer(mesh: &Mesh, traffic: &str, kind: &str, address: &str) -> Result<Applied> {
    let file = mesh.apply("50-gateway.yaml", &gateway("wp", traffic, kind, address, ""))?;
    steered(mesh, "served", &[("workloads", traffic != "service"), ("services", traffic != "workload")])?;
    Ok(file)
}

/// Takes it away, and waits until all is direct again.
fn release(mesh: &Mesh, file: Applied) -> Result<()> {
    drop(file);
    steered(mesh, "served", &[("workloads", false), ("services", false)])
}

/// Waits until node-1 knows which of what is called `name` has a waypoint.
pub fn steered(mesh: &Mesh, name: &str, which: &[(&str, bool)]) -> Result<()> {
    until(SOON, &format!("node-1 knows which {name} has a waypoint: {which:?}"), || {
        let dump = mesh.admin("node-1", "/config_dump").ok()?;
        let has = |list: &str| Some(dump[list].as_array()?.iter().find(|one| one["name"] == name)?["waypoint"].is_object());
        which.iter().all(|(list, expected)| has(list) == Some(*expected)).then_some(())
    })
}

/// One connection from a pod, and a word over it.
fn call(mesh: &Mesh, from: &str, to: SocketAddr) -> Result<()> {
    ask(&mut dial(mesh, &mesh.pod(from), to)?, MARKER)
}

const VIP: &str = "10.96.7.42:80";

/// The client's connection to `to` went through the waypoint, which was asked for `authority` by the client itself, and
/// reached the program as the waypoint's own.
fn through(mesh: &Mesh, waypoint: &Waypoint, to: SocketAddr, service: Option<&str>) -> Result<()> {
    let (before, client) = (waypoint.asked().len(), mesh.pod("client"));
    call(mesh, "client", to).with_context(|| format!("to {to} through the waypoint"))?;
    let asked = waypoint.asked().split_off(before);
    let [one] = asked.as_slice() else { anyhow::bail!("the waypoint was asked {asked:?}, not once") };
    let own: Vec<_> = client.addresses.all();
    ensure!(
        one.authority == to.to_string()
            && one.peer == account("client")
            && own.contains(&one.from.ip())
            && one.service.as_deref() == service,
        "the waypoint was asked {one:?}"
    );
    Ok(())
}

/// What the far node counted of connections that came from the waypoint.
fn from_waypoint(mesh: &Mesh) -> Result<f64> {
    mesh.metric(
        "node-2",
        "istio_tcp_connections_opened_total",
        &[
            "reporter=\"destination\"",
            "source_principal=\"spiffe://cluster.local/ns/app/sa/wp\"",
            "destination_workload=\"served\"",
        ],
    )
}

// Z-249
fn a_workload_behind_a_waypoint(mesh: &Mesh) -> Result<()> {
    let (wp, served) = (mesh.pod("wp"), mesh.pod("served"));
    let _server = Server::start(mesh, &served, 7000, echo)?;
    let waypoint = Waypoint::start(mesh, &wp, "wp", v4(&served, 7000))?;
    call(mesh, "client", v4(&served, 7000)).context("before there is a waypoint all is direct")?;
    ensure!(waypoint.asked().is_empty());
    let before = from_waypoint(mesh)?;
    let file = steer(mesh, "workload", "IPAddress", "10.96.7.41")?;
    through(mesh, &waypoint, v4(&served, 7000), None)?;
    through(mesh, &waypoint, v6(&served, 7000), None)?;
    until(SOON, "the far node counts two connections of the waypoint", || {
        (from_waypoint(mesh).ok()? - before == 2.0).then_some(())
    })?;
    // A service goes by the waypoint of services, which is none here.
    call(mesh, "client", VIP.parse()?)?;
    ensure!(waypoint.asked().len() == 2, "{:?}", waypoint.asked());
    release(mesh, file)
}

// Z-252
fn a_service_behind_a_waypoint(mesh: &Mesh) -> Result<()> {
    let (wp, served) = (mesh.pod("wp"), mesh.pod("served"));
    let _server = Server::start(mesh, &served, 7000, greet)?;
    let waypoint = Waypoint::start(mesh, &wp, "wp", v4(&served, 7000))?;
    let file = steer(mesh, "service", "IPAddress", "10.96.7.41")?;
    let before = waypoint.asked().len();
    let seen = greeted(dial(mesh, &mesh.pod("client"), VIP.parse()?)?)?;
    ensure!(seen == wp.addresses.v4.to_string(), "the program sees {seen}, not the waypoint");
    let asked = waypoint.asked().split_off(before);
    ensure!(
        asked.len() == 1 && asked[0].authority == VIP && asked[0].service.as_deref() == Some("served.app.svc.cluster.local"),
        "{asked:?}"
    );
    // The workload's own address has no waypoint here.
    greeted(dial(mesh, &mesh.pod("client"), v4(&served, 7000))?).context("direct")?;
    ensure!(waypoint.asked().len() == before + 1);
    release(mesh, file)
}

fn a_false_waypoint_is_refused(mesh: &Mesh) -> Result<()> {
    let (wp, served) = (mesh.pod("wp"), mesh.pod("served"));
    let server = Server::start(mesh, &served, 7000, echo)?;
    let file = steer(mesh, "all", "IPAddress", "10.96.7.41")?;
    // A certificate of this mesh, of somebody else, at the waypoint's address.
    let waypoint = Waypoint::start(mesh, &wp, "other", v4(&served, 7000))?;
    for to in [v4(&served, 7000), VIP.parse()?] {
        ensure!(call(mesh, "client", to).is_err(), "{to}");
    }
    ensure!(waypoint.asked().is_empty() && server.accepted() == 0, "it was asked for {:?}", waypoint.asked());
    let troubles = mesh.admin("node-1", "/troubles")?.to_string();
    ensure!(troubles.contains("ns/app/sa/wp") && troubles.contains("ns/app/sa/other"), "the log says whom it met: {troubles}");
    drop(waypoint);
    let waypoint = Waypoint::start(mesh, &wp, "wp", v4(&served, 7000))?;
    through(mesh, &waypoint, v4(&served, 7000), None).context("the right one is believed at the same address")?;
    release(mesh, file)
}

fn without_a_waypoint_that_is_ready_nothing_passes(mesh: &Mesh) -> Result<()> {
    let served = mesh.pod("served");
    let server = Server::start(mesh, &served, 7000, echo)?;
    let refusals = || mesh.metric("node-1", "isthmus_refusals_total", &["reason=\"unknown_waypoint\""]);
    // A service that has no endpoint, a name that nobody has, and an address that nobody has.
    for (kind, address) in
        [("IPAddress", "10.96.7.32"), ("Hostname", "nobody-knows.app.svc.cluster.local"), ("IPAddress", "10.96.7.99")]
    {
        let file = steer(mesh, "all", kind, address)?;
        let before = refusals()?;
        for to in [v4(&served, 7000), VIP.parse()?] {
            ensure!(call(mesh, "client", to).is_err(), "{to} with a waypoint at {address}");
        }
        ensure!(refusals()? - before == 2.0, "unknown_waypoint, at {address}: {} refusals", refusals()? - before);
        release(mesh, file)?;
    }
    ensure!(server.accepted() == 0, "nothing went around the waypoint");
    until_ok(SOON, || call(mesh, "client", VIP.parse()?)).map(drop)
}
