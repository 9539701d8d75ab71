//! Two nodes, two pods, two daemons: `isthmus up -f` on `world.yaml`, as a child process; and the HAProxy chain in the
//! same pods.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use isthmus::lab::netns;
use isthmus::lab::state::{PodState, State, base, write_whole};
use tempfile::TempDir;

use crate::chain::Chain;
use crate::process::{self, Memory};

pub const NAME: &str = "bench";
const UP_WITHIN: Duration = Duration::from_secs(90);
/// The address of the service in `world.yaml`.
pub const SERVICE: &str = "10.96.9.1";
pub const HTTP: u16 = 8080;
pub const BULK: u16 = 5201;

pub struct World {
    pub client: PodState,
    /// Process ids of the two node daemons: the client's, the server's.
    pub daemons: [i32; 2],
    pub chain: Chain,
    folder: TempDir,
    up: Child,
}

/// Who carries a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Ours,
    Chain,
}

impl World {
    /// Brings it up. Dropping it takes it down.
    pub fn up() -> anyhow::Result<World> {
        let isthmus = beside("isthmus")?;
        let folder = TempDir::new()?;
        let own = std::env::current_exe()?.display().to_string();
        fs::write(folder.path().join("world.yaml"), include_str!("../world.yaml").replace("@BENCH@", &own))?;
        Command::new(&isthmus).args(["--name", NAME, "down"]).stdout(Stdio::null()).status()?;
        let log = folder.path().join("up.log");
        let out = fs::File::create(&log)?;
        let mut up = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&isthmus)
            .args(["--name", NAME, "up", "-f"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()?;
        let state = wait_for_state(&mut up).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let (client, server) = (state.pod("client")?.clone(), state.pod("server")?.clone());
        for pod in [&client, &server] {
            // Tens of thousands of short connections in a row, for both carriers alike: ports are used again at once.
            netns::sysctl(&pod.netns, &[("net/ipv4/tcp_tw_reuse", "1"), ("net/ipv4/ip_local_port_range", "20000 65000")])?;
        }
        let daemons = [daemon(&state, "node-1")?, daemon(&state, "node-2")?];
        let chain = Chain::start(&client, &server)?;
        let world = World { client, daemons, chain, folder, up };
        for carrier in [Carrier::Ours, Carrier::Chain] {
            world.await_answer(carrier)?;
        }
        Ok(world)
    }

    pub fn pids(&self, carrier: Carrier) -> [i32; 2] {
        match carrier {
            Carrier::Ours => self.daemons,
            Carrier::Chain => self.chain.pids,
        }
    }

    /// Where the client finds the web server by this carrier.
    pub fn http(&self, carrier: Carrier) -> (&'static str, u16) {
        match carrier {
            Carrier::Ours => (SERVICE, HTTP),
            Carrier::Chain => ("127.0.0.1", Chain::HTTP),
        }
    }

    pub fn bulk(&self, carrier: Carrier) -> (&'static str, u16) {
        match carrier {
            Carrier::Ours => (SERVICE, BULK),
            Carrier::Chain => ("127.0.0.1", Chain::BULK),
        }
    }

    /// Runs a command in the client's pod to its end.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        said(words, isthmus::exec::inside(&self.client, words)?.stdin(Stdio::null()).output()?)
    }

    /// Memory of the two daemons before any load. They have answered one request each.
    pub fn at_rest(&self) -> anyhow::Result<[Memory; 2]> {
        Ok([process::memory(self.daemons[0])?, process::memory(self.daemons[1])?])
    }

    /// Replaces a file of the mesh's folder.
    pub fn apply(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        write_whole(&self.folder.path().join(name), yaml.as_bytes())
    }

    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.folder.path().join(name))?)
    }

    fn await_answer(&self, carrier: Carrier) -> anyhow::Result<()> {
        let (host, port) = self.http(carrier);
        let url = format!("http://{host}:{port}/");
        let began = Instant::now();
        loop {
            match self.run(&["curl", "-sSf", "-m", "5", &url]) {
                Ok(_) => return Ok(()),
                Err(why) if began.elapsed() > UP_WITHIN => return Err(why.context(format!("nothing answers by {carrier:?}"))),
                Err(_) => std::thread::park_timeout(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.chain.stop();
        let down = beside("isthmus").and_then(|isthmus| Ok(Command::new(isthmus).args(["--name", NAME, "down"]).output()?));
        if !down.is_ok_and(|output| output.status.success()) {
            eprintln!("the mesh {NAME} could not be removed; try `isthmus --name {NAME} down`");
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

fn wait_for_state(up: &mut Child) -> anyhow::Result<State> {
    let began = Instant::now();
    loop {
        if let Some(status) = up.try_wait()? {
            bail!("`isthmus up` ended: {status}");
        }
        if let Some(state) = State::load(&base().join(NAME)).ok().filter(|state| state.ready && state.up.is_alive()) {
            return Ok(state);
        }
        ensure!(began.elapsed() < UP_WITHIN, "`isthmus up` is not ready after {UP_WITHIN:?}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn daemon(state: &State, node: &str) -> anyhow::Result<i32> {
    program(state, &format!("ztunnel.{node}"))
}

/// The process of one of the mesh's programs.
pub fn program(state: &State, name: &str) -> anyhow::Result<i32> {
    let program = state
        .programs
        .iter()
        .find(|program| program.name == name)
        .with_context(|| format!("no {name} in the state of the mesh"))?;
    Ok(program.process.with_context(|| format!("{name} does not run"))?.pid)
}

/// A program built beside this one: the same profile.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is missing; `make bench` builds it", path.display());
    Ok(path)
}

pub fn said(words: &[&str], output: Output) -> anyhow::Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "`{}` ended with {}: {}{}",
        words.join(" "),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}
