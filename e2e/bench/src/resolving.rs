//! How long `resolve` takes while a hundred thousand workloads are pushed: one thread writes the world as the xDS client
//! does, another decides. Nothing else runs in this process then.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use mesh_model::change::Change;
use mesh_model::workload::{TunnelProtocol, Workload};
use mesh_xds::world::{Edit, World, world};
use serde::Serialize;
use ztunnel::resolve::{Ask, Known, Resolution, Via, resolve};

const PUSHED: usize = 100_000;
/// Decided over and over again on the quiet world, for comparison.
const QUIET: Duration = Duration::from_secs(1);
const PORTS: &[u16] = &[15001, 15006, 15008];

/// Times of one decision, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub decisions: usize,
    pub median: f64,
    pub p99: f64,
    pub worst: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Resolving {
    pub pushed: usize,
    /// How long the push took, in seconds.
    pub push: f64,
    pub quiet: Times,
    pub during: Times,
}

pub fn measure() -> anyhow::Result<Resolving> {
    eprintln!("resolve while {PUSHED} workloads are pushed");
    let (mut writer, watched) = world();
    writer.apply((0..1_000).map(edit).chain([Edit::AddressesSynced, Edit::PoliciesSynced]));
    let me = workload(0);
    let quiet_until = Instant::now() + QUIET;
    let quiet = times(&me, |decide| {
        while Instant::now() < quiet_until {
            watched.with(decide)?;
        }
        Ok(())
    })?;
    let done = AtomicBool::new(false);
    let (during, push) = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let edits: Vec<Edit> = (1_000..1_000 + PUSHED).map(edit).collect();
            let began = Instant::now();
            writer.apply(edits);
            done.store(true, Relaxed);
            began.elapsed()
        });
        let during = times(&me, |decide| {
            while !done.load(Relaxed) {
                watched.with(decide)?;
            }
            Ok(())
        });
        (during, pushing.join())
    });
    let Ok(push) = push else { bail!("the push panicked") };
    Ok(Resolving { pushed: PUSHED, push: push.as_secs_f64(), quiet, during: during? })
}

/// Runs `many` with a decision to make; each is timed, the snapshot's lookup by the caller is not moved out of it.
fn times(me: &Workload, many: impl FnOnce(&dyn Fn(&World) -> anyhow::Result<()>) -> anyhow::Result<()>) -> anyhow::Result<Times> {
    let taken = std::cell::RefCell::new(Vec::with_capacity(4_000_000));
    let network: Arc<str> = "".into();
    let known = Known::default();
    many(&|world| {
        let seed = taken.borrow().len() as u64;
        let to = SocketAddr::new(address(1 + seed as usize % 999), 8080);
        let ask = Ask { source: me, to, network: &network, own_ports: PORTS, complete: true };
        let began = Instant::now();
        let hop = resolve(&world.directory, &ask, &known, seed);
        taken.borrow_mut().push(began.elapsed());
        ensure!(matches!(hop, Ok(Resolution::Hop(hop)) if matches!(hop.via, Via::Tunnel(_))), "{to} is not reached by a tunnel");
        Ok(())
    })?;
    let mut taken = taken.into_inner();
    ensure!(!taken.is_empty(), "no decision was made");
    taken.sort_unstable();
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    Ok(Times { decisions: taken.len(), median: at(0.5), p99: at(0.99), worst: at(1.0) })
}

fn edit(number: usize) -> Edit {
    Edit::Address(Change::Workload(Arc::new(workload(number))))
}

fn workload(number: usize) -> Workload {
    let uid = format!("Kubernetes//Pod/ns-{}/pod-{number}", number % 100);
    let namespace = format!("ns-{}", number % 100);
    Workload {
        addresses: vec![address(number)],
        tunnel_protocol: TunnelProtocol::Hbone,
        ..Workload::named(&uid, &namespace, &format!("pod-{number}"))
    }
}

fn address(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a10_0000 + number as u32))
}
