//! Many at once (spec/reliability.md 4.1): tunnels, addresses, half-open connections. Whoever makes the crowd may suffer;
//! the others are served.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, Outcome, checks};
use isthmus::lab::netns;
use socket2::{Domain, Protocol, Socket, Type};

use super::cluster::{Cluster, switch, text, until};
use super::kill;
use super::load::{Demand, Load, PROGRAM, until_answered};
use super::mesh::{parts, ztunnel};
use super::stand::{CALLERS, SERVERS, Stand, at, in_mesh};

/// What a tunnel may cost a daemon, both of its relays' buffers and its account included.
const TUNNEL_BYTES_MAX: u64 = 64 << 10;
/// What a daemon may remember of addresses that lead nowhere.
const ADDRESSES_BYTES_MAX: u64 = 32 << 20;

pub fn checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![many_tunnels_of_one_pod_leave_the_others_served, many_addresses_are_not_remembered];
    checks.push(Check { name: "half_open_connections_leave_the_others_served", run: half_open_connections_leave_the_others_served, known: None });
    checks
}

/// Bytes in memory of the daemon of a node, where it can be seen from here.
fn memory(cluster: &Cluster, node: usize) -> Result<Option<u64>> {
    let daemons = parts(cluster, "ztunnel")?;
    let daemon = daemons.iter().find(|pod| pod["spec"]["nodeName"] == cluster.nodes[node].as_str()).context("no daemon on the node")?;
    cluster.ours.then(|| kill::memory(daemon)).transpose()
}

// T-13, T-14
fn many_tunnels_of_one_pod_leave_the_others_served(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let before = [memory(cluster, 0)?, memory(cluster, 1)?];
    let tunnels = stand.size.tunnels;
    let crowd = Load::begin(&in_mesh(CALLERS[0]), &at(SERVERS[1]), Demand { pause: Duration::from_secs(20), ..Demand::fresh(0) }.with_open(0, tunnels))?;
    until(Duration::from_secs(120), "all tunnels are open", || {
        let dump = stand.api.loopback(&ztunnel(cluster, &cluster.nodes[0])?, 15000, "/connections")?;
        let open = String::from_utf8_lossy(&dump).matches("\"actualDst\"").count();
        ensure!(open >= tunnels as usize, "{open} of {tunnels} are open");
        Ok(Some(()))
    })?;
    let during = [memory(cluster, 0)?, memory(cluster, 1)?];
    // To the same server, to the same node, and from the same node.
    let others = [(CALLERS[1], SERVERS[1]), (CALLERS[1], SERVERS[0]), (SERVERS[0], SERVERS[1])];
    let others: Vec<Load> = others.iter().map(|(from, to)| Load::begin(&in_mesh(from), &at(to), Demand::fresh(50).with_open(2, 5))).collect::<Result<_>>()?;
    let began = Instant::now();
    until(Duration::from_secs(60), "some time with both", || Ok((began.elapsed() > Duration::from_secs(15)).then_some(())))?;
    let reports = others.into_iter().map(Load::end).collect::<Result<Vec<_>>>()?;
    let crowd = crowd.end()?;
    println!("    the crowd: {crowd}");
    reports.iter().for_each(|report| println!("    {report}"));
    for (node, (before, during)) in cluster.nodes.iter().zip(before.into_iter().zip(during)) {
        let (Some(before), Some(during)) = (before, during) else { continue };
        let each = during.saturating_sub(before) / u64::from(tunnels);
        println!("    {node}: {:.1} MB with {tunnels} tunnels, {each} bytes each", during as f64 / 1e6);
        ensure!(each <= TUNNEL_BYTES_MAX, "{each} bytes for a tunnel");
    }
    crowd.all_held()?;
    reports.iter().try_for_each(super::load::Report::all_held)
}

// T-18
fn many_addresses_are_not_remembered(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let controllers = || -> Result<f64> {
        let sent = parts(cluster, "istiod")?.iter().map(|pod| stand.api.metric(&text(&pod["metadata"]["name"]), 15014, "pilot_xds_pushes", &[])).sum::<Result<f64>>();
        sent.context("what the controllers sent")
    };
    let (memory_before, sent_before) = (memory(cluster, 0)?, controllers()?);
    let other = Load::begin(&in_mesh(CALLERS[1]), &at(SERVERS[0]), Demand::fresh(50))?;
    let began = Instant::now();
    // In the range of pods, where nobody is.
    cluster.exec(&in_mesh(CALLERS[0]), &[PROGRAM, "wander", "10.244.64.0", &stand.size.addresses.to_string()])?;
    let took = began.elapsed();
    let report = other.end()?;
    let grown = memory(cluster, 0)?.unwrap_or(0).saturating_sub(memory_before.unwrap_or(0));
    let asked = (controllers()? - sent_before) / took.as_secs_f64();
    println!("    {} addresses in {:.1} s: {} kB more, {asked:.0} answers a second of the controllers; {report}", stand.size.addresses, took.as_secs_f32(), grown / 1000);
    ensure!(grown <= ADDRESSES_BYTES_MAX, "{grown} bytes more");
    report.all_held()?;
    until_answered(cluster, &in_mesh(CALLERS[0]), &at(SERVERS[1]))
}

// T-10
fn half_open_connections_leave_the_others_served(cluster: &Cluster) -> Result<Outcome> {
    const LASTS: Duration = Duration::from_secs(10);
    if !cluster.ours {
        return Ok(Outcome::Skipped("nothing can be forged on the wire of this cluster from here".into()));
    }
    let stand = Stand::up(cluster)?;
    let IpAddr::V4(server) = stand.address(&in_mesh(SERVERS[1]))? else { return Ok(Outcome::Skipped("pods of this cluster have no IPv4".into())) };
    let load = Load::begin(&in_mesh(CALLERS[0]), &at(SERVERS[1]), Demand::fresh(100))?;
    let sent = netns::within(&netns::path(&switch()), move || flood(SocketAddrV4::new(server, 15008), LASTS))??;
    let report = load.end()?;
    println!("    {} first segments a second; {report}", sent / LASTS.as_secs());
    ensure!(report.failed() * 1000 <= report.ok(), "{report}");
    let after = Load::begin(&in_mesh(CALLERS[0]), &at(SERVERS[1]), Demand::fresh(100))?;
    let began = Instant::now();
    until(Duration::from_secs(30), "some time after", || Ok((began.elapsed() > Duration::from_secs(3)).then_some(())))?;
    after.end()?.all_held()?;
    Ok(Outcome::Held)
}

/// First segments of connections that nobody means to open, from addresses where nobody is; how many were sent.
fn flood(to: SocketAddrV4, lasts: Duration) -> Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW))).context("a raw socket")?;
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < lasts {
        for _ in 0..100 {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 90, 1, (sent % 250) as u8 + 1), 1024 + (sent / 250 % 60_000) as u16);
            // The queue of the cable may be full: that one is lost, as on any wire.
            sent += u64::from(socket.send_to(&first_segment(from, to, sent as u32), &to.into()).is_ok());
        }
    }
    Ok(sent)
}

/// IPv4 and TCP with SYN (RFC 791 3.1, RFC 9293 3.1). The kernel fills in length and checksum of the first.
fn first_segment(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> [u8; 40] {
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = 0x02;
    packet[34..36].copy_from_slice(&65_535_u16.to_be_bytes());
    let checksum = checksum(&packet);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Over the pseudo-header and the segment (RFC 9293 3.1).
fn checksum(packet: &[u8; 40]) -> u16 {
    let words = |bytes: &[u8]| bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum::<u32>();
    let mut sum = words(&packet[12..40]) + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
