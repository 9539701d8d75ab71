//! Daemons that start, stop, hand over and hear of revoked certificates, while connections are open.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use isthmus::lab::netns;
use isthmus::lab::node::wire_netns;
use nix::sys::signal::Signal;
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};

use super::app::{End, Server, ask, dial, echo, watch};
use super::mesh::{MARKER, Mesh, SOON, until, until_ok, until_refused, v4};
use crate::{Check, checks};

pub fn checks() -> Vec<Check> {
    checks![
        a_taken_admin_port_stops_the_start,
        a_daemon_ends_when_it_is_told_to,
        a_daemon_hands_over_to_another,
        revoked_certificates_are_refused_and_cut,
        a_pod_that_goes_closes_its_connections,
        an_address_that_moves_is_never_answered_by_another,
        identities_are_fetched_and_forgotten,
    ]
}

/// A place for one more daemon: a namespace on the wire, which goes with the mesh.
struct Annex<'a> {
    name: String,
    wire: String,
    mesh: &'a Mesh,
}

impl Annex<'_> {
    fn build<'a>(mesh: &'a Mesh, address: &str) -> Result<Annex<'a>> {
        let annex = Annex { name: format!("isthmus-{}-annex", mesh.name), wire: wire_netns(&mesh.name), mesh };
        netns::add(&annex.name)?;
        netns::ip_batch(None, &format!("link add annex netns {} type veth peer name eth0 netns {}\n", annex.wire, annex.name))?;
        netns::ip_batch(Some(&annex.wire), "link set annex master wire\nlink set annex up\n")?;
        netns::ip_batch(Some(&annex.name), &format!("link set lo up\nlink set eth0 up\naddr add {address}/24 dev eth0\n"))?;
        Ok(annex)
    }

    fn metric(&self, family: &str) -> Option<f64> {
        let text = self.mesh.rt.block_on(isthmus::mesh::ask::get(&self.name, 15020, "/metrics")).ok()?;
        String::from_utf8_lossy(&text).lines().find(|line| line.starts_with(family))?.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Annex<'_> {
    fn drop(&mut self) {
        let _ = netns::delete(&self.name);
        let _ = netns::ip_batch(Some(&self.wire), "link del annex\n");
    }
}

// Z-226
fn a_taken_admin_port_stops_the_start(mesh: &Mesh) -> Result<()> {
    let annex = Annex::build(mesh, "10.244.0.97")?;
    let nowhere = mesh.scratch("nowhere.sock").display().to_string();
    for (taken, name) in [("127.0.0.1:15000", "admin"), ("[::]:15020", "metrics"), ("[::]:15021", "readiness")] {
        let _taken = Server::bind(mesh, &annex.name, taken.parse()?, echo)?;
        let mut daemon = mesh.another_daemon("node-1", &annex.name, &[("INPOD_UDS", &nowhere)], &mesh.scratch(name))?;
        let (status, said) = daemon.ends(SOON)?;
        ensure!(!status.success() && said.contains(taken) && said.contains(name), "{taken}: {status}, {said}");
    }
    Ok(())
}

// Z-222, Z-229
fn a_daemon_ends_when_it_is_told_to(mesh: &Mesh) -> Result<()> {
    let annex = Annex::build(mesh, "10.244.0.98")?;
    let nowhere = mesh.scratch("nowhere.sock").display().to_string();
    for way in ["SIGTERM", "SIGINT", "/quitquitquit"] {
        let mut daemon = mesh.another_daemon("node-1", &annex.name, &[("INPOD_UDS", &nowhere)], &mesh.scratch("ends"))?;
        until(SOON, "the daemon's pages are there", || annex.metric("istio_build"))?;
        match way {
            "SIGTERM" => daemon.signal(Signal::SIGTERM),
            "SIGINT" => daemon.signal(Signal::SIGINT),
            _ => {
                let output = std::process::Command::new("nsenter")
                    .arg(format!("--net={}", netns::path(&annex.name).display()))
                    .args(["curl", "-sS", "-m", "5", "-X", "POST", "http://localhost:15000/quitquitquit"])
                    .output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let (status, said) = daemon.ends(SOON).with_context(|| way.to_owned())?;
        ensure!(status.success(), "{way}: {status}, {said}");
    }
    Ok(())
}

/// New connections from client to web, one after the other, for as long as it lives.
struct Callers {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Callers {
    fn start(mesh: &Mesh) -> Result<Callers> {
        let to = v4(&mesh.pod("web"), 8080);
        let (stop, calls, failed) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let netns = netns::path(&mesh.pod("client").netns);
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (stop, calls, failed, netns) = (stop.clone(), calls.clone(), failed.clone(), netns.clone());
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let page = netns::within(&netns, move || page(to));
                    calls.fetch_add(1, Ordering::SeqCst);
                    if !page.is_ok_and(|page| page.is_ok_and(|page| page.contains("web saw"))) {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }));
        }
        Ok(Callers { stop, calls, failed, threads })
    }

    /// Calls and failures so far.
    fn tally(&self) -> (usize, usize) {
        (self.calls.load(Ordering::SeqCst), self.failed.load(Ordering::SeqCst))
    }

    fn finish(mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        self.tally()
    }
}

fn page(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    std::io::Write::write_all(&mut stream, format!("GET / HTTP/1.0\r\nx-marker: {MARKER}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

// Z-227, Z-228, Z-258, and the hand-over by SO_REUSEPORT
fn a_daemon_hands_over_to_another(mesh: &Mesh) -> Result<()> {
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    let mut short = dial(mesh, &client, v4(&blank, 7000))?;
    let mut long = dial(mesh, &client, v4(&blank, 7000))?;
    ask(&mut short, MARKER)?;
    ask(&mut long, MARKER)?;
    let callers = Callers::start(mesh)?;
    let annex = Annex::build(mesh, "10.244.0.99")?;
    let first = mesh.daemon("node-1").context("the first daemon runs")?;
    let mut second = mesh.another_daemon("node-1", &annex.name, &[("INSTANCE_IP", "10.244.0.99")], &mesh.scratch("second"))?;
    let pods = mesh.state().pods.iter().filter(|pod| pod.wanted && pod.node == "node-1").count() as f64;
    until(Duration::from_secs(20), "the second daemon has all pods", || {
        annex.metric("workload_manager_active_proxy_count").filter(|count| *count >= pods)
    })?;
    first.signal(Signal::SIGTERM);
    let told = Instant::now();
    // Inside the drain time the open connection still works, and may end as it likes.
    ask(&mut short, MARKER).context("an open connection works while its daemon drains")?;
    drop(short);
    let cut = watch(long);
    let (at, end) = cut.recv_timeout(SOON).context("the drain has an end")?;
    let drained = at - told;
    ensure!(
        (Duration::from_secs(1)..Duration::from_secs(4)).contains(&drained) && end == End::Reset,
        "the long connection ended {drained:?} after the drain of 2 s began: {end:?}"
    );
    until(SOON, "the first daemon is gone", || (!first.is_alive()).then_some(()))?;
    let (before, _) = callers.tally();
    until(SOON, "the second daemon alone carries calls, or the third does already", || {
        (callers.tally().0 > before + 20).then_some(())
    })?;
    until(SOON, "the first daemon's place is taken again", || {
        let count = mesh.metric("node-1", "workload_manager_active_proxy_count", &[]).ok()?;
        (count >= pods).then_some(())
    })?;
    second.signal(Signal::SIGTERM);
    let (status, said) = second.ends(SOON)?;
    ensure!(status.success(), "{status} {said}");
    let (before, _) = callers.tally();
    until(SOON, "the third daemon carries calls", || (callers.tally().0 > before + 20).then_some(()))?;
    let (calls, failed) = callers.finish();
    println!("  {failed} of {calls} new connections failed during two hand-overs");
    ensure!(failed == 0, "{failed} of {calls} new connections failed during two hand-overs");
    Ok(())
}

/// A list of revoked serial numbers of the mesh's authority, where the daemons look for it.
fn publish_list(mesh: &Mesh, number: u64, serials: &[SerialNumber]) -> Result<()> {
    let ca = mesh.ca()?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate_pem(), KeyPair::from_pem(&ca.private_pem())?)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let at = |offset: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs().saturating_add_signed(offset));
    let params = CertificateRevocationListParams {
        this_update: at(-60),
        next_update: at(3600),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: serials
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: serial.clone(),
                revocation_time: at(-30),
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&issuer)?.pem()?;
    isthmus::lab::state::write_whole(&mesh.scratch("crl"), list.as_bytes())
}

/// The serial number of the certificate that a node holds for an account.
fn serial(mesh: &Mesh, node: &str, account: &str) -> Result<SerialNumber> {
    let dump = mesh.admin(node, "/config_dump")?;
    let identity = format!("spiffe://cluster.local/ns/app/sa/{account}");
    let held = dump["certificates"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["identity"] == identity)
        .context("the node holds the certificate")?;
    let number: u128 = held["certChain"][0]["serialNumber"].as_str().context("a serial number")?.parse()?;
    let bytes = number.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(15);
    // DER integers have a sign bit.
    let mut text = if bytes[first] >= 0x80 { vec![0] } else { Vec::new() };
    text.extend_from_slice(&bytes[first..]);
    Ok(SerialNumber::from(text))
}

// Z-268, Z-269, Z-270, Z-271
fn revoked_certificates_are_refused_and_cut(mesh: &Mesh) -> Result<()> {
    const CUT_WITHIN: Duration = Duration::from_secs(8);
    let (other, client, blank) = (mesh.pod("other"), mesh.pod("client"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    publish_list(mesh, 1, &[])?;
    let call =
        |pod: &isthmus::lab::state::PodState| dial(mesh, pod, v4(&blank, 7000)).and_then(|mut stream| ask(&mut stream, MARKER));
    call(&other)?;
    // The caller's certificate: the destination's node cuts and refuses. Then the destination's: the caller's node does.
    for (round, (node, account)) in [("node-1", "other"), ("node-2", "blank")].into_iter().enumerate() {
        let mut open = dial(mesh, &other, v4(&blank, 7000))?;
        ask(&mut open, MARKER)?;
        open.set_read_timeout(None)?;
        let cut = watch(open);
        publish_list(mesh, 2 + 2 * round as u64, &[serial(mesh, node, account)?])?;
        let (_, end) = cut.recv_timeout(CUT_WITHIN).with_context(|| format!("the connection of {account} is cut"))?;
        ensure!(end == End::Reset, "{account}: {end:?}");
        ensure!(call(&other).is_err(), "the revoked certificate of {account} is refused");
        if account == "other" {
            call(&client).context("another identity is served")?;
        }
        publish_list(mesh, 3 + 2 * round as u64, &[])?;
        until_ok(CUT_WITHIN, || call(&other)).with_context(|| format!("the list without {account}"))?;
    }
    fs::remove_file(mesh.scratch("crl"))?;
    Ok(())
}

fn pod_yaml(name: &str, account: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: app, labels: {{app: {name}}}}}\nspec:\n  nodeName: node-2\n  serviceAccountName: {account}\n  \
         containers:\n  - name: {name}\n    command: [{command}]\n"
    )
}

fn running(mesh: &Mesh, name: &str) -> Option<isthmus::lab::state::PodState> {
    let state = mesh.state();
    state.pod(name).ok().filter(|pod| pod.phase == isthmus::lab::state::PodPhase::Running).cloned()
}

// Z-259
fn a_pod_that_goes_closes_its_connections(mesh: &Mesh) -> Result<()> {
    let file =
        mesh.apply("90-passing.yaml", &pod_yaml("passing", "passing", "socat, 'TCP6-LISTEN:7000,fork,reuseaddr', PIPE"))?;
    let passing = until(SOON, "the pod runs", || running(mesh, "passing"))?;
    let client = mesh.pod("client");
    let mut stream = None;
    until_ok(SOON, || {
        let mut open = dial(mesh, &client, v4(&passing, 7000))?;
        ask(&mut open, MARKER)?;
        stream = Some(open);
        Ok(())
    })?;
    let stream = stream.context("it was opened")?;
    stream.set_read_timeout(None)?;
    let end = watch(stream);
    drop(file);
    let (_, end) = end.recv_timeout(Duration::from_secs(15)).context("the client learns that the pod is gone")?;
    ensure!(end != End::Open);
    until_refused(SOON, "nobody answers in its place", || {
        dial(mesh, &client, v4(&passing, 7000)).and_then(|mut stream| ask(&mut stream, MARKER))
    })?;
    until(SOON, "the pod is forgotten", || running(mesh, "passing").is_none().then_some(()))
}

// T-65
fn an_address_that_moves_is_never_answered_by_another(mesh: &Mesh) -> Result<()> {
    const MOVES: usize = 4;
    let client = mesh.pod("client");
    let (mut address, mut unverified) = (None, 0);
    for turn in 0..MOVES {
        let name = if turn % 2 == 0 { "mover-a" } else { "mover-b" };
        let file = mesh.apply("91-mover.yaml", &pod_yaml(name, name, "sleep, infinity"))?;
        let pod = until(Duration::from_secs(20), "the pod runs", || running(mesh, name))?;
        ensure!(*address.get_or_insert(pod.addresses.v4) == pod.addresses.v4, "the next pod has the address of the last");
        let says = format!("{name}\n");
        let _server = Server::start(mesh, &pod, 7000, move |conversation| {
            std::io::Write::write_all(&mut conversation.stream, says.as_bytes())
        })?;
        let began = Instant::now();
        let mut served = 0;
        // From the first moment on: while the caller's node still believes that the address is the last pod's.
        while served < 20 {
            ensure!(began.elapsed() < SOON, "{name} is not served");
            let logged = fs::metadata(mesh.log("ztunnel.node-1"))?.len() as usize;
            let Ok(mut stream) = dial(mesh, &client, v4(&pod, 7000)) else { continue };
            let (line, _) = super::app::to_end(&mut stream);
            drop(stream);
            if line.is_empty() {
                continue;
            }
            ensure!(line == format!("{name}\n").into_bytes(), "another answers: {:?}", String::from_utf8_lossy(&line));
            // Before the caller's node has heard of the new pod, the address is nobody's and passes as it is.
            let verified = verified_as(mesh, logged)?;
            ensure!(
                verified.as_deref().is_none_or(|identity| identity.ends_with(&format!("/sa/{name}"))),
                "{name} answers what was meant for {verified:?}"
            );
            served += usize::from(verified.is_some());
            unverified += usize::from(verified.is_none());
        }
        drop(file);
        until(SOON, "the pod is gone", || mesh.state().pod(name).is_err().then_some(()))?;
    }
    println!("  {unverified} answers came before the caller's node had heard of the new pod");
    Ok(())
}

/// Whom the caller's node found at the far end of the first connection in its log after `logged` bytes. The port of the
/// caller tells nothing: a redirect may give it another one.
fn verified_as(mesh: &Mesh, logged: usize) -> Result<Option<String>> {
    let line = until(SOON, "the connection is in the log", || {
        let log = fs::read(mesh.log("ztunnel.node-1")).ok()?;
        let log = String::from_utf8_lossy(log.get(logged..)?);
        // An earlier connection to a pod that had gone may give up only now; it was never served a byte.
        let served = |line: &&str| line.contains("connection complete") && !line.contains("\"bytes_recv\":0");
        let mut served = log.lines().filter(|line| line.contains(":7000\"") && line.contains("\"outbound\"")).filter(served);
        served.next().filter(|line| line.ends_with('}')).map(str::to_owned)
    })?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    Ok(line["dst.identity"].as_str().map(str::to_owned))
}

// Z-266
fn identities_are_fetched_and_forgotten(mesh: &Mesh) -> Result<()> {
    let holds = |account: &str| {
        let identity = format!("spiffe://cluster.local/ns/app/sa/{account}");
        mesh.admin("node-2", "/config_dump").is_ok_and(|dump| {
            dump["certificates"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["identity"] == identity && one["certChain"][0].is_object())
        })
    };
    ensure!(!holds("guest"), "nobody of this name is here yet");
    let file = mesh.apply("92-guest.yaml", &pod_yaml("guest", "guest", "sleep, infinity"))?;
    until(SOON, "the pod runs", || running(mesh, "guest"))?;
    until(SOON, "its certificate is there before its first connection", || holds("guest").then_some(()))?;
    drop(file);
    until(SOON, "its certificate is forgotten", || (!holds("guest")).then_some(()))
}
