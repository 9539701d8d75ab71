//! Faults of programs, nodes and the wire (spec/reliability.md 5): what lives on, what ends, how soon, and how it is told.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use isthmus::lab::netns;
use isthmus::lab::state::PodState;
use nix::sys::signal::Signal;

use super::app::{End, Server, ask, dial, echo, reset_at_close, to_end, watch};
use super::mesh::{MARKER, Mesh, SAID, SOON, freeze, until, until_ok, v4, v6};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        resets_are_told_as_resets,
        a_frozen_daemon_breaks_nothing_in_three_seconds,
        a_hanging_daemon_is_given_up_within_ten_seconds,
        a_daemon_with_a_tenth_of_its_time_breaks_nothing,
        a_short_partition_breaks_nothing,
        a_node_without_power_is_noticed,
        a_killed_controller_stops_nothing,
        a_killed_daemon_is_replaced,
        nothing_leaked_while_faults_were_made,
    ]
}

fn open(mesh: &Mesh, from: &str) -> Result<std::net::TcpStream> {
    let mut stream = dial(mesh, &mesh.pod(from), v4(&mesh.pod("blank"), 7000))?;
    ask(&mut stream, MARKER)?;
    Ok(stream)
}

// F-33
fn resets_are_told_as_resets(mesh: &Mesh) -> Result<()> {
    const TIMES: usize = 100;
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let ends: [Arc<AtomicUsize>; 2] = Default::default();
    let (finished, reset) = (ends[0].clone(), ends[1].clone());
    // Speaks, hears one word and breaks off when it is told to; otherwise listens to the end and counts how that comes.
    let _server = Server::start(mesh, &blank, 7000, move |conversation| {
        let mut word = [0; 5];
        conversation.stream.write_all(b"begin")?;
        conversation.stream.read_exact(&mut word)?;
        if &word == b"break" {
            return reset_at_close(&conversation.stream).map_err(std::io::Error::other);
        }
        conversation.stream.write_all(b"heard")?;
        let mut rest = Vec::new();
        match conversation.stream.read_to_end(&mut rest) {
            Ok(_) => finished.fetch_add(1, Ordering::SeqCst),
            Err(_) => reset.fetch_add(1, Ordering::SeqCst),
        };
        Ok(())
    })?;
    let begin = |word: &[u8], to| -> Result<std::net::TcpStream> {
        let mut stream = dial(mesh, &client, to)?;
        stream.read_exact(&mut [0; 5])?;
        stream.write_all(word)?;
        Ok(stream)
    };
    for number in 0..TIMES {
        let to = if number % 2 == 0 { v4(&blank, 7000) } else { v6(&blank, 7000) };
        let mut stream = begin(b"break", to)?;
        let (_, end) = to_end(&mut stream);
        ensure!(end == End::Reset, "the server's reset number {number} is told as {end:?}");
        let mut stream = begin(b"hears", to)?;
        stream.read_exact(&mut [0; 5])?;
        reset_at_close(&stream)?;
        drop(stream);
    }
    let [finished, reset] = ends;
    until(SOON, "the server has heard the end of each connection", || {
        (finished.load(Ordering::SeqCst) + reset.load(Ordering::SeqCst) == TIMES).then_some(())
    })?;
    ensure!(
        finished.load(Ordering::SeqCst) == 0,
        "{} of {TIMES} resets of the client were told as an end",
        finished.load(Ordering::SeqCst)
    );
    Ok(())
}

// F-05
fn a_frozen_daemon_breaks_nothing_in_three_seconds(mesh: &Mesh) -> Result<()> {
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let mut stream = open(mesh, "client")?;
    for node in ["node-2", "node-1"] {
        let daemon = mesh.daemon(node).context("the daemon runs")?;
        freeze(daemon)?;
        stream.write_all(b"x")?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut byte = [0];
        let silence = stream.read(&mut byte);
        daemon.signal(Signal::SIGCONT);
        ensure!(
            matches!(&silence, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "while {node} stands still nothing comes: {silence:?}"
        );
        stream.set_read_timeout(Some(SOON))?;
        stream.read_exact(&mut byte).with_context(|| format!("the word that waited for {node}"))?;
        ask(&mut stream, MARKER).with_context(|| format!("the open connection after {node} stood still"))?;
        let took = until_ok(SOON, || open(mesh, "client"))?;
        ensure!(took < Duration::from_secs(1), "a new connection took {took:?}");
    }
    Ok(())
}

// F-05: a daemon that hangs for longer is given up, although its machine answers.
fn a_hanging_daemon_is_given_up_within_ten_seconds(mesh: &Mesh) -> Result<()> {
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let mut stream = open(mesh, "client")?;
    stream.set_read_timeout(None)?;
    let daemon = mesh.daemon("node-2").context("the daemon runs")?;
    freeze(daemon)?;
    let frozen = Instant::now();
    let told = (|| {
        stream.write_all(b"x")?;
        let (at, end) = watch(stream).recv_timeout(SOON).context("the client is told")?;
        ensure!(end == End::Reset, "{end:?}");
        Ok(at - frozen)
    })();
    daemon.signal(Signal::SIGCONT);
    let told = told?;
    ensure!(told > Duration::from_secs(4), "it was given up after {told:?}: a freeze of 3 s must not be mistaken for it");
    let back = until_ok(SOON, || open(mesh, "client"))?;
    ensure!(back < Duration::from_secs(1), "served again {back:?} after the daemon moved on");
    println!("  the client was told after {:.1} s", told.as_secs_f32());
    Ok(())
}

// F-54, G13: a daemon that gets a tenth of its time is slow, and not dead.
fn a_daemon_with_a_tenth_of_its_time_breaks_nothing(mesh: &Mesh) -> Result<()> {
    const LASTS: Duration = Duration::from_secs(12);
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let mut streams = (0..20).map(|_| open(mesh, "client")).collect::<Result<Vec<_>>>()?;
    let daemon = mesh.daemon("node-2").context("the daemon runs")?;
    let over = Arc::new(AtomicUsize::new(0));
    let stop = over.clone();
    let throttle = std::thread::spawn(move || {
        while stop.load(Ordering::SeqCst) == 0 {
            daemon.signal(Signal::SIGSTOP);
            std::thread::park_timeout(Duration::from_millis(90)); // the part of the time that is taken from it
            daemon.signal(Signal::SIGCONT);
            std::thread::park_timeout(Duration::from_millis(10));
        }
    });
    let began = Instant::now();
    let mut words = 0;
    let talk = (|| {
        while began.elapsed() < LASTS {
            for stream in &mut streams {
                ask(stream, MARKER).context("an open connection")?;
                words += 1;
            }
            open(mesh, "other").context("a new connection")?;
        }
        Ok(())
    })();
    over.store(1, Ordering::SeqCst);
    let _ = throttle.join();
    println!("  {words} words with a tenth of the time");
    talk
}

/// The cable of a node or a pod, cut in both directions without anybody being told.
pub struct Cut(String);

impl Cut {
    fn of(mesh: &Mesh, node: &str) -> Result<Cut> {
        Cut::in_namespace(&mesh.node(node).netns)
    }

    pub fn in_namespace(netns: &str) -> Result<Cut> {
        let rules = "table netdev e2e_cut {\n  chain in { type filter hook ingress device \"eth0\" priority -400; policy drop; }\n  chain out { type filter hook egress device \"eth0\" priority -400; policy drop; }\n}\n";
        netns::nft(netns, rules)?;
        Ok(Cut(netns.to_owned()))
    }

    fn heal(self) {}
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = netns::nft(&self.0, "delete table netdev e2e_cut\n");
    }
}

/// Waits with an open eye: the connection must not end while the time passes.
fn stays_open(stream: &std::net::TcpStream, time: Duration) -> Result<()> {
    stream.set_read_timeout(Some(time))?;
    let mut byte = [0];
    let seen = stream.peek(&mut byte);
    stream.set_read_timeout(Some(SOON))?;
    ensure!(matches!(&seen, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "it ended: {seen:?}");
    Ok(())
}

// F-30
fn a_short_partition_breaks_nothing(mesh: &Mesh) -> Result<()> {
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let (mut first, mut second) = (open(mesh, "client")?, open(mesh, "other")?);
    let cut = Cut::of(mesh, "node-2")?;
    first.write_all(b"x")?;
    stays_open(&first, Duration::from_secs(2))?;
    stays_open(&second, Duration::from_millis(1))?;
    cut.heal();
    let healed = Instant::now();
    first.read_exact(&mut [0]).context("what was said during the partition arrives")?;
    ask(&mut first, MARKER)?;
    ask(&mut second, MARKER)?;
    // What was lost is sent again after the kernel's own timer, which has doubled a few times.
    ensure!(healed.elapsed() < Duration::from_secs(4), "{:?}", healed.elapsed());
    until_ok(SOON, || open(mesh, "client")).map(drop)
}

// F-29
fn a_node_without_power_is_noticed(mesh: &Mesh) -> Result<()> {
    /// What is promised. The kernel gives up after 4 s (`TUNNEL_DEAD_AFTER`) and looks every second.
    const NOTICED_WITHIN: Duration = Duration::from_millis(5_500);
    let (client, web) = (mesh.pod("client"), mesh.pod("web"));
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let mut stream = open(mesh, "client")?;
    stream.set_read_timeout(None)?;
    // Of another pod, so on a tunnel connection of its own: it has nothing to say, and only waits.
    let idle = open(mesh, "other")?;
    idle.set_read_timeout(None)?;
    let cut = Cut::of(mesh, "node-2")?;
    let off = Instant::now();
    stream.write_all(b"x")?;
    let ends = watch(stream);
    let waits = watch(idle);
    let new = mesh.exec("client", &["curl", "-sS", "-m", "20", &format!("http://{}/", v4(&web, 8080))])?;
    let new_failed = off.elapsed();
    ensure!(!new.status.success(), "nobody can answer");
    ensure!(new_failed < NOTICED_WITHIN, "a new connection was told after {new_failed:?}");
    let (at, end) = ends.recv_timeout(NOTICED_WITHIN).context("the open connection ends")?;
    ensure!(end == End::Reset, "the client is told that this was not all: {end:?}");
    ensure!(at - off < NOTICED_WITHIN, "{:?}", at - off);
    let (waited, end) = waits.recv_timeout(NOTICED_WITHIN).context("who only waits is told too")?;
    ensure!(end == End::Reset && waited - off < NOTICED_WITHIN, "who only waits: {end:?} after {:?}", waited - off);
    // Pods of the node that is there are reached meanwhile.
    let near = mesh.curl("client", "http://near/")?;
    ensure!(near.contains(SAID), "{near}");
    cut.heal();
    let healed = until_ok(SOON, || call(mesh, &client, &web))?;
    ensure!(healed < Duration::from_secs(3), "after the node is back it took {healed:?}");
    println!(
        "  open connection ended after {:.1} s, a waiting one after {:.1} s, new one refused after {:.1} s, served again {:.1} s after the node was back",
        (at - off).as_secs_f32(),
        (waited - off).as_secs_f32(),
        new_failed.as_secs_f32(),
        healed.as_secs_f32()
    );
    Ok(())
}

fn call(mesh: &Mesh, from: &PodState, to: &PodState) -> Result<()> {
    let mut stream = dial(mesh, from, v4(to, 8080))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let (page, _) = to_end(&mut stream);
    ensure!(String::from_utf8_lossy(&page).contains(SAID));
    Ok(())
}

// F-06
fn a_killed_controller_stops_nothing(mesh: &Mesh) -> Result<()> {
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo)?;
    let mut stream = open(mesh, "client")?;
    let state = mesh.state();
    let controller = state
        .programs
        .iter()
        .find(|program| program.name == "istiod-lite")
        .and_then(|program| program.process)
        .context("the controller runs")?;
    controller.signal(Signal::SIGKILL);
    until(SOON, "the controller is gone", || (!controller.is_alive()).then_some(()))?;
    for _ in 0..20 {
        ask(&mut stream, MARKER)?;
        open(mesh, "other")?;
    }
    let file_after = |mesh: &Mesh| {
        mesh.state()
            .programs
            .iter()
            .find(|program| program.name == "istiod-lite")
            .and_then(|program| program.process)
            .filter(|now| *now != controller && now.is_alive())
    };
    until(SOON, "the controller is started again", || file_after(mesh))?;
    ask(&mut stream, MARKER)?;
    // It is listened to again: a policy takes effect.
    let _file = mesh.apply(
        "after.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: after, namespace: app}\nspec:\n  selector: {matchLabels: {app: blank}}\n  action: DENY\n  rules:\n  - from:\n    - source: {principals: [cluster.local/ns/app/sa/other]}\n",
    )?;
    super::mesh::until_refused(Duration::from_secs(25), "a policy that came after the controller's death", || {
        open(mesh, "other")
    })?;
    ask(&mut stream, MARKER)
}

// F-01
fn a_killed_daemon_is_replaced(mesh: &Mesh) -> Result<()> {
    for node in ["node-2", "node-1"] {
        let blank = mesh.pod("blank");
        let heard: Arc<std::sync::Mutex<Option<(Instant, bool)>>> = Arc::default();
        let hears = heard.clone();
        let server = Server::start(mesh, &blank, 7000, move |conversation| {
            let outcome = echo(conversation);
            if let Ok(mut heard) = hears.lock() {
                *heard = Some((Instant::now(), outcome.is_ok()));
            }
            outcome
        })?;
        let stream = open(mesh, "client")?;
        stream.set_read_timeout(None)?;
        let ends = watch(stream);
        let daemon = mesh.daemon(node).context("the daemon runs")?;
        let killed = Instant::now();
        daemon.signal(Signal::SIGKILL);
        let (at, end) = ends.recv_timeout(SOON).context("the client does not hang")?;
        ensure!(at - killed < Duration::from_secs(1), "the client was told after {:?}", at - killed);
        // The kernel of the killed daemon's own side may say FIN; across the wire it must be RST.
        ensure!(node == "node-1" || end == End::Reset, "{node}: the client is told {end:?}");
        let (at, clean) = until(SOON, "the server does not hang", || *heard.lock().ok()?)?;
        ensure!(at - killed < Duration::from_secs(1), "the server was told after {:?}", at - killed);
        ensure!(node == "node-2" || !clean, "the server across the wire is told of a clean end");
        let next = until(SOON, "the daemon is started again", || mesh.daemon(node).filter(|next| *next != daemon))?;
        let started = Instant::now();
        until_ok(SOON, || open(mesh, "client"))?;
        let took = started.elapsed();
        println!(
            "  {node}: restarted after {:.2} s, served again {:.2} s later",
            (started - killed).as_secs_f32(),
            took.as_secs_f32()
        );
        ensure!(took < Duration::from_secs(1), "{node}: new connections work {took:?} after the daemon {} was started", next.pid);
        drop(server);
    }
    Ok(())
}

// T-63, G3
fn nothing_leaked_while_faults_were_made(mesh: &Mesh) -> Result<()> {
    let is_meshed = mesh.is_meshed();
    for word in [MARKER, SAID] {
        let (seen, _) = mesh.sightings(word, &is_meshed);
        ensure!(seen == 0, "{word:?} was seen {seen} times between pods of the mesh");
    }
    Ok(())
}
