//! A waypoint program that knows nothing of tunnels, behind its node's daemon: what arrives in a tunnel for anything that
//! it is a waypoint of is handed to it, as it is or with a PROXY header; what it sends on is captured like any pod's, and
//! must not be sent back to it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::app::{Conversation, Server, ask, dial, echo, greet, greeted};
use super::mesh::{Applied, MARKER, Mesh, SOON, until, v4, v6};
use super::peer::{HBONE, account, connect_with, credential};
use super::waypoint::{gateway, steered};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![a_sandwiched_waypoint_gets_plain_bytes, a_sandwiched_waypoint_gets_a_proxy_header]
}

/// Where the program listens.
const PORT: u16 = 15088;
const VIP: &str = "10.96.7.44:80";

/// What a PROXY header said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    /// By its number.
    values: Vec<(u8, String)>,
}

/// Reads a PROXY header, version 2, as haproxy.org's proxy-protocol.txt 2.2 lays it out; not with the code under test.
fn read_header(stream: &mut impl std::io::Read) -> std::io::Result<Told> {
    let wrong = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    if head[..12] != *b"\r\n\r\n\0\r\nQUIT\n" || head[12] != 0x21 {
        return Err(wrong("no PROXY header of version 2"));
    }
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut body)?;
    let (ips, bytes): ([IpAddr; 2], usize) = match head[13] {
        0x11 => {
            let ip = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]).into();
            ([ip(0), ip(4)], 8)
        }
        0x21 => {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&body[at..at + 16]).unwrap_or_default()).into();
            ([ip(0), ip(16)], 32)
        }
        _ => return Err(wrong("neither TCP over IPv4 nor over IPv6")),
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let mut told = Told {
        source: Some(SocketAddr::new(ips[0], port(bytes))),
        destination: Some(SocketAddr::new(ips[1], port(bytes + 2))),
        values: Vec::new(),
    };
    let mut rest = &body[bytes + 4..];
    while let [kind, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = more.get(..length).ok_or_else(|| wrong("a value that is cut off"))?;
        told.values.push((*kind, String::from_utf8_lossy(value).into_owned()));
        rest = &more[length..];
    }
    Ok(told)
}

/// A waypoint for services, whose pods take what is theirs in this form.
fn bind(mesh: &Mesh, protocol: &str) -> Result<Applied> {
    let binding = format!("{protocol}/{PORT}");
    let annotation = format!("ambient.istio.io/waypoint-inbound-binding: {binding}");
    let file = mesh.apply("51-sand.yaml", &gateway("sand", "service", "IPAddress", "10.96.7.43", &annotation))?;
    steered(mesh, "sandwiched", &[("services", true)])?;
    until(SOON, &format!("node-1 knows that {binding} is how the waypoint takes connections"), || {
        let dump = mesh.admin("node-1", "/config_dump").ok()?;
        let sand = dump["workloads"].as_array()?.iter().find(|one| one["name"] == "sand")?.clone();
        (sand["applicationTunnel"]["protocol"] == protocol && sand["applicationTunnel"]["port"] == PORT).then_some(())
    })?;
    Ok(file)
}

// Z-255
fn a_sandwiched_waypoint_gets_plain_bytes(mesh: &Mesh) -> Result<()> {
    let (client, sand) = (mesh.pod("client"), mesh.pod("sand"));
    let _program = Server::start(mesh, &sand, PORT, greet)?;
    let file = bind(mesh, "NONE")?;
    let seen = greeted(dial(mesh, &client, VIP.parse()?)?)?;
    ensure!(seen == client.addresses.v4.to_string(), "the program sees {seen}, not the client");
    drop(file);
    steered(mesh, "sandwiched", &[("services", false)])
}

// Z-256
fn a_sandwiched_waypoint_gets_a_proxy_header(mesh: &Mesh) -> Result<()> {
    let (client, sand, served) = (mesh.pod("client"), mesh.pod("sand"), mesh.pod("served"));
    let application = Server::start(mesh, &served, 7000, echo)?;
    let told: Arc<Mutex<Vec<(Told, SocketAddr)>>> = Arc::default();
    let (telling, netns) = (told.clone(), isthmus::lab::netns::path(&sand.netns));
    // Sends on to where the client wanted to go: captured, as every connection of its pod.
    let program = Server::start(mesh, &sand, PORT, move |conversation: &mut Conversation| {
        let header = read_header(&mut conversation.stream)?;
        let to = header.destination.unwrap_or(conversation.from);
        telling.lock().unwrap_or_else(PoisonError::into_inner).push((header, conversation.from));
        let onward = isthmus::lab::netns::within(&netns, move || TcpStream::connect(to)).map_err(std::io::Error::other)??;
        both_ways(&conversation.stream, &onward)
    })?;
    let file = bind(mesh, "PROXY")?;

    ask(&mut dial(mesh, &client, VIP.parse()?)?, MARKER)?;
    let (header, from) = told.lock().unwrap_or_else(PoisonError::into_inner).pop().context("the program was told")?;
    ensure!(
        header.source.is_some_and(|source| source.ip() == client.addresses.v4),
        "the client, as the tunnel's peer: {header:?}"
    );
    ensure!(header.destination == Some(VIP.parse()?), "what the client wanted: {header:?}");
    ensure!(header.values == [(0xd0, account("client").to_string())], "who the client proved to be: {header:?}");
    ensure!(from.ip().is_loopback(), "it is reached over the loopback: {from}");
    // It was asked once: what it sent on to the same service went to the endpoint, as the waypoint.
    ensure!(program.accepted() == 1 && application.accepted() == 1, "{} at the waypoint", program.accepted());
    let as_waypoint = mesh.metric(
        "node-2",
        "istio_tcp_connections_opened_total",
        &[
            "reporter=\"destination\"",
            "source_principal=\"spiffe://cluster.local/ns/app/sa/sand\"",
            "destination_workload=\"served\"",
        ],
    )?;
    ensure!(as_waypoint >= 1.0, "the endpoint's node saw the waypoint's identity");

    // A tunnel that names the service: the header has an address of it, and the name.
    let stranger = mesh.pod("stranger");
    let own = credential(&mesh.ca()?, &account("other"), SystemTime::now())?;
    for (to, name) in
        [(v4(&sand, HBONE), "sandwiched.app.svc.cluster.local"), (v6(&sand, HBONE), "sandwiched.app.svc.cluster.local")]
    {
        let mut tunnel =
            connect_with(mesh, &stranger, to, &own, &account("sand"), &format!("{name}:80"))?.with_context(|| name.to_owned())?;
        mesh.rt.block_on(async {
            tunnel.write_all(MARKER.as_bytes()).await?;
            let mut answer = vec![0; MARKER.len()];
            tunnel.read_exact(&mut answer).await?;
            ensure!(answer == MARKER.as_bytes());
            Ok(())
        })?;
        let (header, _) = told.lock().unwrap_or_else(PoisonError::into_inner).pop().context("the program was told")?;
        ensure!(
            header.destination.is_some_and(|to| to.ip().to_canonical() == IpAddr::from([10, 96, 7, 44]) && to.port() == 80),
            "{header:?}"
        );
        ensure!(header.values == [(0xd0, account("other").to_string()), (0xd1, name.to_owned())], "{header:?}");
    }
    drop(file);
    steered(mesh, "sandwiched", &[("services", false)])
}

/// Moves bytes until both sides have said all.
fn both_ways(one: &TcpStream, other: &TcpStream) -> std::io::Result<()> {
    let pump = |mut from: TcpStream, mut to: TcpStream| {
        let mut buffer = [0; 4096];
        loop {
            match from.read(&mut buffer)? {
                0 => return to.shutdown(std::net::Shutdown::Write),
                count => to.write_all(&buffer[..count])?,
            }
        }
    };
    let (back, forth) = (other.try_clone()?, one.try_clone()?);
    let answering = std::thread::spawn(move || pump(back, forth));
    pump(one.try_clone()?, other.try_clone()?)?;
    answering.join().map_err(|_| std::io::Error::other("the other direction"))?
}
