//! Connections that carried one request and now carry nothing: what each costs in each proxy, and what is left of that
//! a minute after they closed.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use isthmus::lab::netns;
use serde::Serialize;

use crate::process;
use crate::world::{Carrier, World};

/// The chain needs two descriptors for a connection in each process, of 20,000.
const CHAIN_MAX: usize = 5_000;
/// After the last request: whatever a proxy does about idle connections, it has begun.
const SETTLE: Duration = Duration::from_secs(5);
/// By when memory is to be given back.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    pub carrier: &'static str,
    pub connections: usize,
    /// Bytes of private memory per connection: the client's proxy, the server's.
    pub each: [f64; 2],
    /// Bytes of private memory before the first connection, with all, and a minute after the last.
    pub private: [[u64; 2]; 3],
}

/// Connections that are open and idle; dropping it closes them.
pub struct Held(#[expect(dead_code, reason = "held only to stay open")] Vec<TcpStream>);

pub fn measure(world: &World, most: usize) -> anyhow::Result<Vec<Idle>> {
    let small = most.min(1_000);
    let mut found = vec![one(world, Carrier::Ours, small)?, one(world, Carrier::Chain, small)?];
    if most > small {
        found.push(one(world, Carrier::Ours, most)?);
        found.push(one(world, Carrier::Chain, most.min(CHAIN_MAX))?);
    }
    Ok(found)
}

fn one(world: &World, carrier: Carrier, connections: usize) -> anyhow::Result<Idle> {
    eprintln!("{connections} idle connections by {carrier:?}");
    let before = private(world, carrier)?;
    let held = hold(world, carrier, connections)?;
    std::thread::park_timeout(SETTLE);
    let with_all = private(world, carrier)?;
    drop(held);
    let after = given_back(world, carrier, before)?;
    let each = [0, 1].map(|end: usize| (with_all[end] as f64 - before[end] as f64) / connections as f64);
    let carrier = if carrier == Carrier::Ours { "ours" } else { "haproxy" };
    Ok(Idle { carrier, connections, each, private: [before, with_all, after] })
}

/// What is left after a minute; earlier when nothing more than a tenth above the beginning is left.
fn given_back(world: &World, carrier: Carrier, before: [u64; 2]) -> anyhow::Result<[u64; 2]> {
    let closed = Instant::now();
    loop {
        let now = private(world, carrier)?;
        let back = now.iter().zip(before).all(|(now, before)| *now <= before + before / 10);
        if back || closed.elapsed() > GIVEN_BACK_WITHIN {
            return Ok(now);
        }
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

fn private(world: &World, carrier: Carrier) -> anyhow::Result<[u64; 2]> {
    let [near, far] = world.pids(carrier);
    Ok([process::memory(near)?.private, process::memory(far)?.private])
}

/// Opens connections one after the other and has each answer one request, so that it is a tunnel to the application.
pub fn hold(world: &World, carrier: Carrier, connections: usize) -> anyhow::Result<Held> {
    let (host, port) = world.http(carrier);
    let to = SocketAddr::new(host.parse::<IpAddr>()?, port);
    let open = move || {
        (0..connections)
            .map(|number| opened(to).with_context(|| format!("connection {number} of {connections}")))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    Ok(Held(netns::within(&netns::path(&world.client.netns), open)??))
}

fn opened(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer)?;
    anyhow::ensure!(
        answer[..length].starts_with(b"HTTP/1.1 200"),
        "the answer is {:?}",
        String::from_utf8_lossy(&answer[..length])
    );
    Ok(stream)
}
