//! Callers, node daemons, the real waypoint, node daemons, servers: who is sent through it, what servers see of that, and
//! that nobody gets past it. What node daemons say to a waypoint, word by word, is in `waypoint.rs`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use super::app::{End, Server, ask, dial, echo, greet, greeted, to_end};
use super::gate::{BOTH, GATE, NOTHING, ONE, at, is_gate, metric};
use super::mesh::{MARKER, Mesh, SOON, until, until_ok, until_refused, v4, v6};
use super::peer::{HBONE, account, credential, status_with};
use super::web::{Client, Exchange, get, serve};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        requests_to_a_service_pass_the_waypoint,
        what_is_dialled_at_a_pod_passes_its_waypoint,
        a_waypoint_that_a_file_names_by_its_hostname,
        bytes_of_any_protocol_pass_the_waypoint,
        a_service_of_nobody_is_answered,
        nobody_gets_past_the_waypoint,
    ]
}

/// Says what it sees of the request.
pub fn tell(name: &'static str) -> impl Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync {
    move |exchange| {
        let field = |name: &str| exchange.head.field(name).unwrap_or("-").to_owned();
        let said = format!("{name} {} {} {}", exchange.from.ip(), field("x-forwarded-for"), field("x-request-id"));
        exchange.say(200, &said)
    }
}

/// The words of such an answer: who answered, the caller's address, `x-forwarded-for`, `x-request-id`.
fn words(text: &str) -> Result<(String, IpAddr, String, String)> {
    let words: Vec<&str> = text.split(' ').collect();
    let [name, from, forwarded, id] = words.as_slice() else { anyhow::bail!("another answer: {text}") };
    Ok(((*name).to_owned(), from.parse()?, (*forwarded).to_owned(), (*id).to_owned()))
}

// Z-252, Z-253
fn requests_to_a_service_pass_the_waypoint(mesh: &Mesh) -> Result<()> {
    let (left, right, client) = (mesh.pod("left"), mesh.pod("right"), mesh.pod("client"));
    let _servers = [serve(mesh, &left, 7080, tell("left"))?, serve(mesh, &right, 7080, tell("right"))?];
    let counted = || metric(mesh, GATE, "istio_requests_total", &["source_workload=\"client\"", "destination_service_name=\"both\"", "response_code=\"200\""]);
    let before = counted()?;
    let mut client_of = Client::dial(mesh, "client", at(BOTH, 80))?;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let answer = client_of.get("/")?;
        let (name, from, forwarded, id) = words(&answer.text())?;
        is_gate(mesh, from)?;
        ensure!(forwarded == client.addresses.v4.to_string() && id.len() == 36, "the server is told {forwarded:?}, request {id:?}");
        *seen.entry(name).or_insert(0) += 1;
    }
    ensure!(seen.len() == 2, "requests of one connection are spread over endpoints: {seen:?}");
    until(SOON, "the waypoint has counted 40 requests of the client", || (counted().ok()? - before == 40.0).then_some(()))?;
    // By its name, and by a caller that is in the mesh as somebody else.
    let page = mesh.says("other", &["curl", "-sS", "-m", "5", "http://both/"])?;
    is_gate(mesh, words(&page)?.1)
}

// Z-249
fn what_is_dialled_at_a_pod_passes_its_waypoint(mesh: &Mesh) -> Result<()> {
    let (left, right, client) = (mesh.pod("left"), mesh.pod("right"), mesh.pod("client"));
    let _servers = [serve(mesh, &left, 7080, tell("left"))?, serve(mesh, &right, 7080, tell("right"))?];
    for to in [v4(&right, 7080), v6(&right, 7080)] {
        let (name, from, ..) = words(&get(mesh, "client", to, "/")?.text())?;
        is_gate(mesh, from).with_context(|| to.to_string())?;
        ensure!(name == "right");
    }
    // It is the pod that says so, and `left` does not.
    let (name, from, _, id) = words(&get(mesh, "client", v4(&left, 7080), "/")?.text())?;
    ensure!(name == "left" && from == client.addresses.v4 && id == "-", "{name} was called by {from}, request {id}");
    Ok(())
}

// Z-254
/// No object of Kubernetes gives a workload both a hostname and an address, so the world comes from a file here, at a
/// machine whose daemon has no controller.
fn a_waypoint_that_a_file_names_by_its_hostname(mesh: &Mesh) -> Result<()> {
    let (gate, right) = (mesh.pod(GATE), mesh.pod("right"));
    let _server = serve(mesh, &right, 7080, tell("right"))?;
    let mut machine = super::machine::Machine::build(mesh, 91)?;
    let own = machine.annex.addresses.v4;
    let world = format!(
        "workloads:\n\
         - {{uid: m, name: machine, namespace: app, serviceAccount: machine, trustDomain: cluster.local, workloadIps: [{own}], protocol: HBONE, services: {{}}}}\n\
         - {{uid: w, name: gate, namespace: app, serviceAccount: gate, trustDomain: cluster.local, hostname: gate.example, workloadIps: [{}], protocol: HBONE, services: {{}}}}\n\
         services:\n\
         - {{name: one, namespace: app, hostname: one.example, vips: [/{}], ports: {{80: 7080}}, waypoint: {{destination: app/gate.example, hboneMtlsPort: 15008}}}}\n",
        gate.addresses.v4,
        IpAddr::from(ONE)
    );
    machine.start(&[("XDS_ADDRESS", ""), ("LOCAL_XDS", &world)])?;
    machine.rules(&["apply", "--daemon-uid", &super::machine::DAEMON.to_string()])?;
    let mut stream = machine.dial(at(ONE, 80))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n")?;
    let (page, _) = to_end(&mut stream);
    let page = String::from_utf8_lossy(&page).into_owned();
    let said = page.rsplit("\r\n").next().unwrap_or_default();
    let (_, from, forwarded, _) = words(said).with_context(|| page.clone())?;
    ensure!(forwarded == own.to_string(), "the server is told {forwarded}");
    is_gate(mesh, from)
}

/// Declared and undeclared ports, client first, server first, an end on one side, a reset.
fn bytes_of_any_protocol_pass_the_waypoint(mesh: &Mesh) -> Result<()> {
    let (right, client) = (mesh.pod("right"), mesh.pod("client"));
    for (service_port, port) in [(84, 7084), (83, 7083)] {
        let to = at(ONE, service_port);
        let server = Server::start(mesh, &right, port, echo)?;
        let mut stream = dial(mesh, &client, to)?;
        // No method of HTTP is so written; a connection of an undeclared port must not wait for more.
        ask(&mut stream, "*1\r\n").with_context(|| format!("client first, at {to}"))?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let (rest, end) = to_end(&mut stream);
        ensure!(rest.is_empty() && end == End::Finished, "the client's end is passed on: {} bytes, {end:?}", rest.len());
        drop(server);
    }
    let greeting = Server::start(mesh, &right, 7084, greet)?;
    let seen = greeted(dial(mesh, &client, at(ONE, 84))?).context("a server that speaks first, at a declared port")?;
    is_gate(mesh, seen.parse()?)?;
    drop(greeting);
    let _resetting = Server::start(mesh, &right, 7084, |conversation| {
        conversation.stream.read_exact(&mut [0; 1])?;
        super::app::reset_at_close(&conversation.stream).map_err(std::io::Error::other)
    })?;
    let mut stream = dial(mesh, &client, at(ONE, 84))?;
    stream.write_all(b"x")?;
    let (_, end) = to_end(&mut stream);
    ensure!(end == End::Reset, "a reset is told as {end:?}");
    Ok(())
}

/// It is answered by the waypoint, with a reason, and not by nobody.
fn a_service_of_nobody_is_answered(mesh: &Mesh) -> Result<()> {
    let mut client = Client::dial(mesh, "client", at(NOTHING, 80))?;
    for _ in 0..2 {
        let answer = client.get("/")?;
        ensure!(answer.status == 503 && !answer.body.is_empty(), "{} {}", answer.status, answer.text());
    }
    let counted = || metric(mesh, GATE, "istio_requests_total", &["destination_service_name=\"nothing\"", "response_flags=\"UH\""]);
    until(SOON, "the waypoint has counted why", || (counted().ok()? >= 2.0).then_some(()))
}

const GETS_ALONE: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gets-alone, namespace: app}
spec:
  targetRefs: [{group: '', kind: Service, name: both}]
  action: ALLOW
  rules:
  - to:
    - operation: {methods: [GET]}
";

// T-40, T-42
fn nobody_gets_past_the_waypoint(mesh: &Mesh) -> Result<()> {
    let (left, right, stranger) = (mesh.pod("left"), mesh.pod("right"), mesh.pod("stranger"));
    let past: Arc<AtomicUsize> = Arc::default();
    let gates = super::gate::addresses(mesh);
    let tells = |name| {
        let (tell, past, gates) = (tell(name), past.clone(), gates.clone());
        move |exchange: &mut Exchange| {
            past.fetch_add(usize::from(!gates.contains(&exchange.from.ip())), Ordering::SeqCst);
            tell(exchange)
        }
    };
    let _servers = [serve(mesh, &left, 7080, tells("left"))?, serve(mesh, &right, 7080, tells("right"))?];
    let file = super::gate::apply(mesh, "gets-alone", GETS_ALONE, "gets-alone")?;
    let pods: [SocketAddr; 3] = [v4(&left, 7080), v6(&left, 7080), v6(&right, 7080)];
    let call = |from: &str, to: SocketAddr| get(mesh, from, to, "/");
    // By another pod of the mesh, and in the clear, at the pods' own addresses; `right` is steered for who is in the mesh.
    until_refused(SOON, "the client is refused at left's own address", || call("client", pods[0]))?;
    until_refused(SOON, "the stranger is refused at right's own address", || call("stranger", pods[2]))?;
    past.store(0, Ordering::SeqCst);
    for to in pods {
        ensure!(call("stranger", to).is_err(), "in the clear, to {to}");
    }
    for to in &pods[..2] {
        ensure!(call("client", *to).is_err(), "directly, to {to}");
    }
    // By whoever speaks HBONE itself: with another account, with another waypoint's, and with words about where it comes from.
    let forged = [
        ("baggage", "k8s.namespace.name=app,k8s.deployment.name=gate,service.name=gate"),
        ("forwarded", "for=\"10.244.1.1:1\";host=both.app.svc.cluster.local"),
        ("x-istio-source", "waypoint"),
    ];
    for whom in ["other", "wp"] {
        let own = credential(&mesh.ca()?, &account(whom), SystemTime::now())?;
        for (pod, name) in [(&left, "left"), (&right, "right")] {
            let authority = v4(pod, 7080).to_string();
            for fields in [&[][..], &forged] {
                let status = status_with(mesh, &stranger, v4(pod, HBONE), &own, &account(name), &authority, fields)?;
                ensure!(status == 401, "{whom} at {name} with {fields:?}: {status}");
            }
        }
    }
    ensure!(past.load(Ordering::SeqCst) == 0, "{} requests came past the waypoint", past.load(Ordering::SeqCst));
    // Through it: what the policy allows, and no more.
    let mut client = Client::dial(mesh, "client", at(BOTH, 80))?;
    let (allowed, refused) = (client.get("/")?, client.post("/", "x")?);
    ensure!(allowed.status == 200 && refused.status == 403, "{} {}", allowed.status, refused.status);
    ensure!(words(&allowed.text())?.1 != mesh.pod("client").addresses.v4);
    ensure!(past.load(Ordering::SeqCst) == 0);
    drop(file);
    until_ok(SOON, || call("client", pods[0])).map(drop)?;
    until(SOON, "POST is allowed again", || (client.post("/", MARKER).ok()?.status == 200).then_some(()))
}
