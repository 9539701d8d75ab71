//! A machine that is no node: one workload in a network of its own, with a daemon in dedicated mode that runs as a user of
//! its own, rules of `mesh-cni machine`, a token of `isthmus token`, and a WorkloadEntry by which the mesh knows it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use isthmus::lab::netns;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use tempfile::TempDir;

use super::annex::Annex;
use super::app::{PATIENCE, Server, ask, dial, dial_in, echo, greet, greeted};
use super::mesh::{Applied, Daemon, MARKER, Mesh, SOON, program, said, until, until_ok, until_refused, v4, v6};
use super::policy::STRICT;
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        a_machine_takes_part_in_the_mesh,
        a_machine_serves_callers_that_are_not_in_the_mesh,
        a_machine_calls_servers_that_are_not_in_the_mesh,
        a_machine_is_shut_while_its_daemon_is_down,
        a_taken_port_of_the_workload_stops_the_start,
    ]
}

/// Whom the daemon runs as. Nobody else on this machine does.
pub const DAEMON: u32 = 61337;
/// The namespace and account of the machine's workload, as `Mesh::up` tells the controller.
pub const ACCOUNT: &str = "app/machine";

pub struct Machine<'a> {
    pub annex: Annex<'a>,
    mesh: &'a Mesh,
    /// What the daemon may read and write: its program, its token, its admin socket.
    home: TempDir,
    entry: Option<Applied>,
    pub daemon: Option<Daemon>,
}

impl<'a> Machine<'a> {
    pub fn build(mesh: &'a Mesh, host: u8) -> Result<Machine<'a>> {
        let annex = Annex::build(mesh, "machine", host)?;
        annex.join_pods()?;
        let home = TempDir::new()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
        chown(home.path(), Some(DAEMON), Some(DAEMON))?;
        // Where this was built the daemon's user may not come.
        fs::copy(program("ztunnel")?, home.path().join("ztunnel"))?;
        Ok(Machine { annex, mesh, home, entry: None, daemon: None })
    }

    /// In the mesh, with its rules in force.
    fn joined(mesh: &'a Mesh, host: u8) -> Result<Machine<'a>> {
        let mut machine = Machine::build(mesh, host)?;
        machine.entry = Some(mesh.apply("95-machine.yaml", &entry(&machine.annex.addresses.v4.to_string()))?);
        machine.start(&[])?;
        machine.rules(&["apply", "--daemon-uid", &DAEMON.to_string()])?;
        machine.is_known()?;
        Ok(machine)
    }

    fn is_known(&self) -> Result<()> {
        let takes = |node: &str| {
            let dump = self.mesh.admin(node, "/config_dump").ok()?;
            let workloads = dump["workloads"].as_array()?.clone();
            workloads.iter().any(|one| one["name"] == "machine" && one["protocol"] == "HBONE").then_some(())
        };
        until(SOON, "both nodes know that the machine takes tunnels", || takes("node-1").and_then(|()| takes("node-2")))
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self, more: &[(&str, &str)]) -> Result<()> {
        self.daemon = Some(self.launch(more)?);
        until(SOON, "the machine's daemon is ready", || {
            let daemon = self.daemon.as_mut()?;
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Some(Err(anyhow::anyhow!("{status}: {}", fs::read_to_string(&daemon.log).unwrap_or_default())));
            }
            let ready = self.mesh.rt.block_on(isthmus::mesh::ask::get(&self.annex.netns, 15021, "/healthz/ready"));
            ready.ok().map(|_| Ok(()))
        })?
    }

    /// The daemon as a service of an operating system would start it: a user of its own, one capability.
    fn launch(&self, more: &[(&str, &str)]) -> Result<Daemon> {
        let home = self.home.path();
        let token = said(
            &["isthmus", "token"],
            Command::new(program("isthmus")?).args(["--name", &self.mesh.name, "token", ACCOUNT]).output()?,
        )?;
        fs::write(home.join("token"), token)?;
        chown(home.join("token"), Some(DAEMON), Some(DAEMON))?;
        fs::set_permissions(home.join("token"), fs::Permissions::from_mode(0o600))?;
        let root = fs::read_to_string(isthmus::mesh::root_certificate(&self.mesh.state().run))?;
        let text = |path: &str| home.join(path).display().to_string();
        let environment = [
            ("PROXY_MODE", "dedicated".to_owned()),
            ("PROXY_WORKLOAD_INFO", "app/machine/machine".to_owned()),
            ("XDS_ADDRESS", self.annex.controller()),
            ("CA_ADDRESS", self.annex.controller()),
            ("ALT_XDS_HOSTNAME", "istiod.istio-system.svc".to_owned()),
            ("ALT_CA_HOSTNAME", "istiod.istio-system.svc".to_owned()),
            ("XDS_ROOT_CA", root.clone()),
            ("CA_ROOT_CA", root),
            ("AUTH_TOKEN", text("token")),
            ("ADMIN_UDS", text("admin.sock")),
            ("INSTANCE_IP", self.annex.addresses.v4.to_string()),
            ("LOG_FORMAT", "json".to_owned()),
            ("CONNECTION_TERMINATION_DEADLINE", "1s".to_owned()),
        ];
        let log = self.mesh.scratch("machine");
        let out = fs::File::create(&log)?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns::path(&self.annex.netns).display()))
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--reuid",
                &DAEMON.to_string(),
                "--regid",
                &DAEMON.to_string(),
                "--clear-groups",
            ])
            .args(["--inh-caps", "-all,+net_raw", "--ambient-caps", "-all,+net_raw", "--bounding-set", "-all,+net_raw", "--"])
            .arg(home.join("ztunnel"))
            .current_dir(home)
            .env_clear()
            .envs(environment)
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()?;
        Ok(Daemon { child, log })
    }

    fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.signal(Signal::SIGTERM);
        let (status, log) = daemon.ends(SOON)?;
        ensure!(status.success(), "{status}: {log}");
        Ok(())
    }

    /// `mesh-cni machine` in the machine's network.
    pub fn rules(&self, words: &[&str]) -> Result<String> {
        let words = [&["machine"][..], words].concat();
        said(&words, self.command(&program("mesh-cni")?).args(&words).output()?)
    }

    /// A program of the machine's own, of root's.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns::path(&self.annex.netns).display())).arg(program);
        command
    }

    pub fn dial(&self, to: SocketAddr) -> Result<std::net::TcpStream> {
        dial_in(self.mesh, &self.annex.netns, to)
    }

    pub fn serve(
        &self,
        port: u16,
        serve: impl Fn(&mut super::app::Conversation) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Server> {
        Server::bind(self.mesh, &self.annex.netns, SocketAddr::new("::".parse()?, port), serve)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.annex.addresses.v4.into(), port)
    }

    /// Connections that the machine's daemon has counted.
    fn counted(&self, with: &[&str]) -> Result<f64> {
        until(SOON, &format!("a connection is counted with {with:?}"), || {
            self.annex.metric("istio_tcp_connections_opened_total", with)
        })
    }
}

/// As the mesh knows a machine that runs a daemon of its own.
fn entry(address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: machine\n  namespace: app\n  labels: {{app: machine, networking.istio.io/tunnel: http}}\n\
         spec:\n  address: {address}\n  serviceAccount: machine\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: machine, namespace: app}}\nspec:\n  clusterIP: 10.96.7.51\n  selector: {{app: machine}}\n  ports:\n  - {{name: tcp, port: 80, targetPort: 7000}}\n"
    )
}

// Z-246
fn a_machine_takes_part_in_the_mesh(mesh: &Mesh) -> Result<()> {
    let machine = Machine::joined(mesh, 96)?;
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let strict = mesh.apply("strict.yaml", STRICT)?;
    let stranger = mesh.pod("stranger");
    let there = Server::start(mesh, &blank, 7000, greet)?;
    until_refused(SOON, "STRICT holds", || greeted(dial(mesh, &stranger, v4(&blank, 7000))?))?;

    // Out: to a pod and to a service, by both families; the pod's program sees the machine's own address.
    let own = machine.annex.addresses;
    for (to, from) in [
        (v4(&blank, 7000), own.v4.to_string()),
        ("10.96.7.31:7000".parse()?, own.v4.to_string()),
        (v6(&blank, 7000), own.v6.context("IPv6 is there")?.to_string()),
    ] {
        let seen = greeted(machine.dial(to)?).with_context(|| format!("the machine calls {to}"))?;
        ensure!(seen == from, "{to} sees {seen}, not {from}");
    }
    let outbound = ["reporter=\"source\"", "source_principal=\"spiffe://cluster.local/ns/app/sa/machine\"", "mutual_tls"];
    machine.counted(&[&outbound[..], &["destination_principal=\"spiffe://cluster.local/ns/app/sa/blank\""]].concat())?;
    ensure!(there.accepted() >= 3);

    // A mark, which every program with CAP_NET_RAW may set, exempts nobody: in the clear STRICT would refuse.
    for mark in [0x539, 0x1a2b_3c4d] {
        let SocketAddr::V4(to) = v4(&blank, 7000) else { anyhow::bail!("an IPv4 address is meant") };
        let marked = mesh.within(&machine.annex.netns, move || -> Result<std::net::TcpStream> {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            setsockopt(&socket, sockopt::Mark, &mark)?;
            let stream = std::net::TcpStream::from(socket);
            nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &nix::sys::socket::SockaddrIn::from(to))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })?;
        greeted(marked?).with_context(|| format!("marked {mark:#x}"))?;
    }

    // In: by address and by service, from a pod of the mesh; under STRICT nothing else is served.
    let here = machine.serve(7000, greet)?;
    for to in [machine.at(7000), "10.96.7.51:80".parse()?] {
        let mut seen = String::new();
        until_ok(SOON, || {
            seen = greeted(dial(mesh, &client, to)?)?;
            Ok(())
        })
        .with_context(|| format!("a pod calls {to}"))?;
        ensure!(seen == client.addresses.v4.to_string(), "the machine's program sees {seen} at {to}");
    }
    machine.counted(&[
        "reporter=\"destination\"",
        "source_principal=\"spiffe://cluster.local/ns/app/sa/client\"",
        "mutual_tls",
    ])?;
    let accepted = here.accepted();
    ensure!(dial(mesh, &stranger, machine.at(7000)).and_then(greeted).is_err(), "plaintext is refused under STRICT");
    ensure!(here.accepted() == accepted, "and the program saw nothing of it");

    // Policy that selects the machine.
    let deny = mesh.apply(
        "deny.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: app}\nspec:\n  selector: {matchLabels: {app: machine}}\n  action: DENY\n  \
         rules:\n  - from:\n    - source: {principals: [cluster.local/ns/app/sa/client]}\n",
    )?;
    until_refused(SOON, "the denied pod is refused", || greeted(dial(mesh, &client, machine.at(7000))?))?;
    drop(deny);
    until_ok(SOON, || greeted(dial(mesh, &client, machine.at(7000))?))?;

    // Names of the mesh, asked of a server that is not there: the daemon answers in its place.
    for how in ["+notcp", "+tcp"] {
        let words = [how, "+short", "+tries=1", "+time=5", "@192.0.2.53", "blank.app.svc.cluster.local"];
        let answer = said(&words, machine.command(Path::new("dig")).args(words).output()?)?;
        ensure!(answer.trim() == "10.96.7.31", "{how}: {answer:?}");
    }

    // Its open connections, on the page of its own; what changes something is on its socket alone.
    let open = machine.dial(v4(&blank, 7000))?;
    until(SOON, "an open connection of the machine is shown", || {
        let shown = mesh.rt.block_on(isthmus::mesh::ask::get(&machine.annex.netns, 15000, "/connections")).ok()?;
        let shown: serde_json::Value = serde_json::from_slice(&shown).ok()?;
        let own = &shown["dedicated"];
        (own["info"]["name"] == "machine" && own["connections"]["outbound"][0]["protocol"] == "HBONE").then_some(())
    })?;
    drop(open);
    let (meshed, own) = (mesh.is_meshed(), own.all());
    let (seen, records) = mesh.sightings(MARKER, |ip| meshed(ip) || own.contains(&ip));
    ensure!(seen == 0 && records > 0, "the marker was seen {seen} times on the wire, beside {records} records of TLS");
    drop(strict);
    until_ok(SOON, || greeted(dial(mesh, &stranger, v4(&blank, 7000))?)).map(drop)
}

// Z-247
fn a_machine_serves_callers_that_are_not_in_the_mesh(mesh: &Mesh) -> Result<()> {
    let machine = Machine::joined(mesh, 95)?;
    let stranger = mesh.pod("stranger");
    let (server, remote_login) = (machine.serve(7000, greet)?, machine.serve(22, greet)?);
    let call = |port: u16| greeted(dial(mesh, &stranger, machine.at(port))?);
    ensure!(call(7000)? == stranger.addresses.v4.to_string(), "the caller's own address is kept");
    machine.counted(&["reporter=\"destination\"", "source_principal=\"unknown\"", "connection_security_policy=\"unknown\""])?;
    let strict = mesh.apply("strict.yaml", STRICT)?;
    until_refused(SOON, "STRICT refuses plaintext", || call(7000))?;
    let accepted = server.accepted();
    ensure!(call(7000).is_err() && server.accepted() == accepted);
    // A way in that was left open does not depend on the mesh.
    call(22).context("remote login is not captured")?;
    ensure!(remote_login.accepted() == 1);
    drop(strict);
    until_ok(SOON, || call(7000)).map(drop)
}

// Z-248
fn a_machine_calls_servers_that_are_not_in_the_mesh(mesh: &Mesh) -> Result<()> {
    let machine = Machine::joined(mesh, 94)?;
    let stranger = mesh.pod("stranger");
    let _server = Server::start(mesh, &stranger, 7100, greet)?;
    let seen = greeted(machine.dial(v4(&stranger, 7100))?)?;
    ensure!(seen == machine.annex.addresses.v4.to_string(), "the server sees {seen}");
    machine
        .counted(&["reporter=\"source\"", "connection_security_policy=\"unknown\"", "destination_workload=\"stranger\""])
        .map(drop)
}

/// Fails closed: rules without a daemon let nothing through, in either direction; without the rules all is as before.
fn a_machine_is_shut_while_its_daemon_is_down(mesh: &Mesh) -> Result<()> {
    let mut machine = Machine::joined(mesh, 93)?;
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let _there = Server::start(mesh, &blank, 7000, echo)?;
    let here = machine.serve(7000, echo)?;
    // Older than a new set of rules, and not through the daemon: it lives on.
    machine.rules(&["remove"])?;
    let mut older = dial(mesh, &stranger, machine.at(7000))?;
    ask(&mut older, "before the rules")?;
    machine.rules(&["apply", "--daemon-uid", &DAEMON.to_string()])?;
    ask(&mut older, "after the rules").context("a connection that is older than the rules lives on")?;
    ask(&mut machine.dial(v4(&blank, 7000))?, MARKER)?;

    machine.stop()?;
    ensure!(machine.dial(v4(&blank, 7000)).is_err(), "nothing leaves past the daemon");
    let accepted = here.accepted();
    ensure!(dial(mesh, &stranger, machine.at(7000)).is_err(), "nothing comes in past the daemon");
    ensure!(here.accepted() == accepted);
    machine.start(&[])?;
    ask(&mut machine.dial(v4(&blank, 7000))?, MARKER)?;

    machine.rules(&["remove"])?;
    let left = said(&["nft"], machine.command(Path::new("nft")).args(["list", "ruleset"]).output()?)?;
    ensure!(left.trim().is_empty(), "{left}");
    let rules = said(&["ip"], machine.command(Path::new("ip")).args(["rule"]).output()?)?;
    ensure!(!rules.contains("0x111"), "{rules}");
    ask(&mut dial(mesh, &stranger, machine.at(7000))?, "straight").context("without rules all is as before")
}

// Z-223, Z-224, Z-225
fn a_taken_port_of_the_workload_stops_the_start(mesh: &Mesh) -> Result<()> {
    let machine = Machine::build(mesh, 92)?;
    for (port, what) in [(15008, "tunnels"), (15006, "plaintext"), (15001, "outbound"), (15053, "DNS")] {
        let at = if port == 15053 { "127.0.0.1:15053".to_owned() } else { format!("[::]:{port}") };
        let _taken = Server::bind(mesh, &machine.annex.netns, at.parse()?, echo)?;
        let (status, log) = machine.launch(&[])?.ends(SOON)?;
        ensure!(
            !status.success() && log.contains(&at) && log.contains("Address already in use"),
            "{what}, {at}: {status}, {log}"
        );
    }
    Ok(())
}
