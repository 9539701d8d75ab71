//! Policies that are dropped into the folder, as the kernel's sockets see them: within a second, on open connections
//! too, by identity and by address.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::app::{End, Server, ask, dial, echo, watch};
use super::mesh::{MARKER, Mesh, SOON, until_ok, until_refused, v4, v6};
use e2e::{Check, checks};

/// What is promised of a policy.
const EFFECT_WITHIN: Duration = Duration::from_secs(1);

pub fn checks() -> Vec<Check<Mesh>> {
    checks![a_deny_cuts_within_a_second, an_allow_list_shuts_others_out, addresses_can_be_denied, strict_and_permissive]
}

pub const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: app}
spec:
  mtls: {mode: STRICT}
";

fn policy(name: &str, action: &str, source: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: app}}\nspec:\n  selector: {{matchLabels: {{app: blank}}}}\n  \
         action: {action}\n  rules:\n  - from:\n    - source: {{{source}}}\n"
    )
}

/// One connection from a pod to the echo server, and a word over it.
fn call(mesh: &Mesh, pod: &str) -> Result<()> {
    ask(&mut dial(mesh, &mesh.pod(pod), v4(&mesh.pod("blank"), 7000))?, MARKER)
}

// Z-260
fn a_deny_cuts_within_a_second(mesh: &Mesh) -> Result<()> {
    let (client, other, blank) = (mesh.pod("client"), mesh.pod("other"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    let mut ours = dial(mesh, &client, v6(&blank, 7000))?;
    ask(&mut ours, MARKER)?;
    ours.set_read_timeout(None)?;
    let mut theirs = dial(mesh, &other, v4(&blank, 7000))?;
    ask(&mut theirs, MARKER)?;
    let cut = watch(ours.try_clone()?);
    let dropped = Instant::now();
    let file = mesh.apply("deny.yaml", &policy("deny", "DENY", "principals: [cluster.local/ns/app/sa/client]"))?;
    let (at, end) = cut.recv_timeout(SOON).context("the open connection is cut")?;
    ensure!(at - dropped <= EFFECT_WITHIN, "the open connection was cut after {:?}", at - dropped);
    ensure!(end == End::Reset, "the client is told that this was not all: {end:?}");
    ensure!(call(mesh, "client").is_err(), "a new connection is refused");
    ask(&mut theirs, MARKER).context("the open connection of another identity lives on")?;
    let refused = mesh.metric(
        "node-2",
        "istio_tcp_connections_failed_total",
        &["destination_workload=\"blank\"", "source_workload=\"client\""],
    )?;
    ensure!(refused >= 1.0, "the refusal is counted: {refused}");
    drop(file);
    let healed = until_ok(SOON, || call(mesh, "client"))?;
    ensure!(healed <= EFFECT_WITHIN, "the file removed, it took {healed:?} until the client was served");
    Ok(())
}

fn an_allow_list_shuts_others_out(mesh: &Mesh) -> Result<()> {
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let file = mesh.apply("allow.yaml", &policy("allow", "ALLOW", "principals: [cluster.local/ns/app/sa/other]"))?;
    let took = until_refused(SOON, "the client is shut out", || call(mesh, "client"))?;
    ensure!(took <= EFFECT_WITHIN, "{took:?}");
    call(mesh, "other").context("who is on the list is served")?;
    ensure!(call(mesh, "stranger").is_err(), "who has no identity is on no list of identities");
    drop(file);
    until_ok(SOON, || call(mesh, "client")).map(drop)
}

// T-06: the address that a policy sees is the one that the node vouches for.
fn addresses_can_be_denied(mesh: &Mesh) -> Result<()> {
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    let source = format!("ipBlocks: ['{}/32', '{}/128']", v4(&client, 0).ip(), v6(&client, 0).ip());
    let file = mesh.apply("block.yaml", &policy("block", "DENY", &source))?;
    until_refused(SOON, "the address is refused", || call(mesh, "client"))?;
    ensure!(dial(mesh, &client, v6(&blank, 7000)).and_then(|mut stream| ask(&mut stream, MARKER)).is_err(), "by IPv6 too");
    call(mesh, "other").context("other addresses are served")?;
    drop(file);
    until_ok(SOON, || call(mesh, "client")).map(drop)
}

// T-22
fn strict_and_permissive(mesh: &Mesh) -> Result<()> {
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let server = Server::start(mesh, &blank, 7000, echo)?;
    let mut open = dial(mesh, &stranger, v4(&blank, 7000))?;
    ask(&mut open, "permissive").context("PERMISSIVE is the default")?;
    open.set_read_timeout(None)?;
    let cut = watch(open);
    let file = mesh.apply("strict.yaml", STRICT)?;
    cut.recv_timeout(SOON).context("the open connection in the clear is cut")?;
    let took = until_refused(SOON, "STRICT refuses", || call(mesh, "stranger"))?;
    ensure!(took <= EFFECT_WITHIN, "{took:?}");
    let (accepted, received) = (server.accepted(), server.received());
    for port in [7000, 7001, 22] {
        for to in [v4(&blank, port), v6(&blank, port)] {
            ensure!(dial(mesh, &stranger, to).and_then(|mut stream| ask(&mut stream, "in the clear")).is_err(), "{to}");
        }
    }
    ensure!((server.accepted(), server.received()) == (accepted, received), "the application accepted nothing and read nothing");
    call(mesh, "client").context("an identity is served under STRICT")?;
    drop(file);
    until_ok(SOON, || call(mesh, "stranger")).map(drop)
}
