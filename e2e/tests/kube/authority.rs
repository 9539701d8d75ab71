//! Who gets a certificate: a node's daemon for what runs on its node, a pod for itself, nobody else (spec/reliability.md
//! 4.3); and certificates of a short life under load.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, checks};
use mesh_identity::authority::{GrpcAuthority, Mode};
use mesh_identity::channel::{Address, CallHeaders, ChannelTls, RootSource, TokenSource, connect, tcp};
use mesh_identity::{Authority as _, KeyExchange, SystemClock, csr};
use mesh_model::identity::SpiffeId;

use super::cluster::{Cluster, PODS, SOON, text, until};
use super::load::{Demand, Report, ask_at, under_load};
use super::mesh::{SYSTEM, install, parts, ztunnel};
use super::stand::{CALLERS, MESH, OUTSIDE, SERVERS, Stand, image, in_mesh};

const AUDIENCE: &str = "istio-ca";

pub fn checks() -> Vec<Check<Cluster>> {
    checks![a_node_gets_certificates_of_its_own_pods_only, the_controllers_ports_tell_strangers_nothing, certificates_of_a_short_life_are_renewed_under_load]
}

/// A port of a pod, on this machine's loopback.
struct Forwarded {
    child: Child,
    port: u16,
}

impl Forwarded {
    fn to(pod: &str, port: u16) -> Result<Forwarded> {
        let mut child = Command::new("kubectl")
            .args(["port-forward", "-n", SYSTEM, &format!("pod/{pod}"), &format!(":{port}"), "--address", "127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("standard output is a pipe")?).lines();
        let said = lines.next().context("kubectl port-forward said nothing")??;
        // It tells of each connection, and would end if nobody listened.
        std::thread::spawn(move || lines.for_each(drop));
        let port = said.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")?.parse().ok());
        Ok(Forwarded { child, port: port.with_context(|| format!("no port in {said:?}"))? })
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The authority of the cluster, as callers see it.
struct Authority<'a> {
    cluster: &'a Cluster,
    rt: tokio::runtime::Runtime,
    roots: String,
    door: Forwarded,
}

impl<'a> Authority<'a> {
    fn of(cluster: &'a Cluster, istiod: &str) -> Result<Authority<'a>> {
        let map = cluster.json(&["get", "configmap", "istio-ca-root-cert", "-n", SYSTEM])?;
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Authority { cluster, rt, roots: text(&map["data"]["root-cert.pem"]), door: Forwarded::to(istiod, 15012)? })
    }

    /// A token of an account, bound to a pod where one is named.
    fn token(&self, account: &str, pod: Option<&str>, audience: &str) -> Result<String> {
        let (namespace, name) = account.split_once('/').context("NAMESPACE/ACCOUNT")?;
        let bound: Vec<&str> = pod.into_iter().flat_map(|pod| ["--bound-object-kind", "Pod", "--bound-object-name", pod]).collect();
        let token = self.cluster.kubectl(&[&["create", "token", name, "-n", namespace, "--audience", audience], bound.as_slice()].concat())?;
        Ok(token.trim().to_owned())
    }

    /// A certificate for an identity, as the holder of a token asks for it. `mode` says whether it names whom it means.
    fn certify(&self, token: &str, wanted: &SpiffeId, mode: Mode) -> Result<Vec<String>> {
        let tls = ChannelTls::new(RootSource::Pem(self.roots.clone()), "localhost", None, KeyExchange::default(), Arc::new(SystemClock))?;
        let address = Address { host: "localhost".into(), port: self.door.port };
        let source = if token.is_empty() { TokenSource::None } else { TokenSource::Static(token.to_owned()) };
        self.rt.block_on(async {
            let channel = connect(&address, Arc::new(tls), tcp)?;
            let authority = GrpcAuthority::new(channel, CallHeaders::new(source, "Kubernetes", &[])?, mode);
            Ok(authority.sign(csr::request(wanted)?.csr, wanted, Duration::from_secs(3600)).await?)
        })
    }
}

fn identity(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", namespace, account)
}

// T-30, V-30: on the real API server, whose tokens and pods these are.
fn a_node_gets_certificates_of_its_own_pods_only(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let istiod = text(&parts(cluster, "istiod")?.first().context("no istiod")?["metadata"]["name"]);
    let authority = Authority::of(cluster, &istiod)?;
    let daemon = ztunnel(cluster, &cluster.nodes[0])?;
    let node = authority.token(&format!("{SYSTEM}/ztunnel"), Some(&daemon), AUDIENCE)?;
    let pod = authority.token(&in_mesh(CALLERS[0]), Some(CALLERS[0]), AUDIENCE)?;
    let (near, far) = (identity(MESH, CALLERS[0]), identity(MESH, SERVERS[1]));

    authority.certify(&node, &near, Mode::Shared).context("a pod of the daemon's own node")?;
    authority.certify(&pod, &near, Mode::Dedicated).context("a pod for itself")?;

    done_pod(cluster)?;
    let refusals = || stand.api.metric(&istiod, 15014, "citadel_server_authentication_failure_count", &[]);
    let before = refusals()?;
    let cases = [
        ("a pod of another node", &node, far.clone(), Mode::Shared),
        ("an account of that name in another namespace", &node, identity(OUTSIDE, CALLERS[0]), Mode::Shared),
        ("an account without a pod", &node, identity(MESH, "default"), Mode::Shared),
        ("a pod that has ended", &node, identity(MESH, "done"), Mode::Shared),
        ("another trust domain", &node, SpiffeId::new("elsewhere.local", MESH, CALLERS[0]), Mode::Shared),
        ("a pod for its neighbour", &pod, identity(MESH, SERVERS[0]), Mode::Shared),
        ("without a token", &String::new(), near.clone(), Mode::Shared),
        ("a token that is none", &"a.b.c".to_owned(), near.clone(), Mode::Shared),
        ("a token for somebody else", &authority.token(&format!("{SYSTEM}/ztunnel"), Some(&daemon), "vault")?, near.clone(), Mode::Shared),
        ("a daemon's token that is bound to no pod", &authority.token(&format!("{SYSTEM}/ztunnel"), None, AUDIENCE)?, near.clone(), Mode::Shared),
    ];
    for (what, token, wanted, mode) in &cases {
        let answer = authority.certify(token, wanted, *mode);
        ensure!(answer.is_err(), "{what}: {wanted} was certified");
        let said = format!("{:#}", answer.err().context("an error")?);
        ensure!(said.contains("refused"), "{what}: {said}");
    }
    let counted = refusals()? - before;
    ensure!(counted >= cases.len() as f64, "{counted} of {} refusals were counted", cases.len());
    let log = cluster.kubectl(&["logs", "-n", SYSTEM, &istiod, "--tail=400"])?;
    ensure!(log.lines().any(|line| line.contains(&far.to_string())), "the log does not name whom a node asked for in vain");

    // A pod that goes takes its node's right with it.
    cluster.kubectl(&["delete", "pod", "-n", MESH, "done", "--wait=true"])?;
    let short = super::stand::talker(MESH, "short", &cluster.nodes[0], &["serve"], "stand: other");
    cluster.apply(&short)?;
    super::stand::wait_for(cluster, MESH, "app=short")?;
    authority.certify(&node, &identity(MESH, "short"), Mode::Shared).context("a pod that has come to the node")?;
    cluster.kubectl(&["delete", "pod", "-n", MESH, "short", "--wait=true"])?;
    until(SOON, "the node's right to a pod that went ends", || {
        Ok(authority.certify(&node, &identity(MESH, "short"), Mode::Shared).is_err().then_some(()))
    })?;
    cluster.delete(&short)?;
    drop(stand);
    Ok(())
}

/// A pod on the first node that has run and ended.
fn done_pod(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: done, namespace: {MESH}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: done, namespace: {MESH}, labels: {{stand: other}}}}\n\
         spec:\n  nodeName: {}\n  serviceAccountName: done\n  restartPolicy: Never\n  containers:\n  - {{name: done, image: '{}', args: [--version]}}\n",
        cluster.nodes[0],
        image()
    ))?;
    until(PODS, "a pod has ended", || Ok((cluster.json(&["get", "pod", "-n", MESH, "done"])?["status"]["phase"] == "Succeeded").then_some(())))
}

// V-31: from a pod, without a certificate or a token.
fn the_controllers_ports_tell_strangers_nothing(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let from = super::stand::STRANGER;
    for istiod in parts(cluster, "istiod")? {
        let ip = text(&istiod["status"]["podIP"]);
        let ask = |port: u16, path: &str| {
            let answer = cluster.exec(from, &[super::load::PROGRAM, "ask", &format!("{ip}:{port}"), path]);
            answer.unwrap_or_else(|error| format!("{error:#}"))
        };
        for port in [9876, 15000, 15010] {
            let said = ask(port, "/");
            ensure!(said.contains("refused"), "port {port}: {said}");
        }
        for port in [15012, 15017] {
            let said = ask(port, "/debug/syncz");
            ensure!(said.contains("answer: ") || said.contains("end: ") || said.contains("reset"), "port {port} answered in the clear: {said}");
        }
        for (port, path) in [8080, 15014].into_iter().flat_map(|port| ["/debug/syncz", "/debug/connections", "/debug/statusz", "/debug/ambientz", "/debug/pprof"].map(|path| (port, path))) {
            let said = ask(port, path);
            ensure!(said.contains("for this machine only") || said.contains("not found"), "{port}{path}: {said}");
        }
        ensure!(ask_at(cluster, from, &format!("{ip}:15014")).is_err(), "there is no page of that name");
        ensure!(ask(15014, "/version").contains(env!("CARGO_PKG_VERSION")), "the version is nobody's secret");
    }
    drop(stand);
    Ok(())
}

fn certificates_of_a_short_life_are_renewed_under_load(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let life = format!("{}s", stand.size.short_life.as_secs());
    let short = [format!("istiod.env.DEFAULT_WORKLOAD_CERT_TTL={life}"), format!("ztunnel.env.SECRET_TTL={life}")];
    install(cluster, &short.each_ref().map(String::as_str))?;
    let held = (|| {
        stand.wait()?;
        let serials = || -> Result<Vec<String>> {
            let dump = stand.api.dump(&ztunnel(cluster, &cluster.nodes[0])?)?;
            let certificates = dump["certificates"].as_array().cloned().unwrap_or_default();
            Ok(certificates.iter().map(|one| text(&one["certChain"][0]["serialNumber"])).collect())
        };
        let failures = || -> Result<f64> {
            let daemons = cluster.nodes.iter().map(|node| stand.api.metric(&ztunnel(cluster, node)?, 15020, "isthmus_failures_total", &[]));
            daemons.sum()
        };
        let (first, failed) = (serials()?, failures()?);
        let began = std::time::Instant::now();
        let time = stand.size.short_lives_for;
        let pass = || until(time * 2, "some lives of certificates", || Ok((began.elapsed() >= time).then_some(())));
        under_load(Demand::fresh(50).with_open(4, 20), 1_000, pass, Report::all_held)?;
        let last = serials()?;
        ensure!(last.iter().all(|serial| !first.contains(serial)), "certificates were not renewed: {first:?}, {last:?}");
        ensure!(failures()? == failed, "{} connections failed at a daemon", failures()? - failed);
        Ok(())
    })();
    install(cluster, &[])?;
    held?;
    stand.wait()
}
