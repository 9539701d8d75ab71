//! SOCKS5 on a pod's loopback (RFC 1928, CONNECT without authentication): the application says where it wants to go, and
//! from there on its connection is like any that was captured. Off unless asked for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_net::duplex::Duplex;
use mesh_net::net::Net;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::capture::Captured;
use crate::outbound::outbound;
use crate::pod::Pod;
use crate::resolve::Known;

/// From the first byte to the whole request: both ends are in one pod.
const PATIENCE: Duration = Duration::from_secs(5);
const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NOTHING_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;

/// What a request is answered (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    HostUnreachable = 4,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

/// Where a request wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

pub async fn socks5<N: Net>(pod: Arc<Pod<N>>, mut caught: Captured<N::Stream>) {
    match timeout(PATIENCE, negotiate(&pod, &mut caught.stream)).await {
        Ok(Ok(Some(to))) => outbound(pod, Captured { to, ..caught }).await,
        // Answered with the reason, as far as the client got.
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, pod = %pod.info.name, "a SOCKS5 client did not finish its request");
            caught.stream.reset();
        }
        Err(_) => caught.stream.reset(),
    }
}

async fn negotiate<N: Net>(pod: &Pod<N>, stream: &mut N::Stream) -> io::Result<Option<SocketAddr>> {
    if !greet(stream).await? {
        return Ok(None);
    }
    let target = match request(stream).await? {
        Ok(target) => target,
        Err(refused) => {
            reply(stream, refused).await?;
            return Ok(None);
        }
    };
    let to = match target {
        Target::Address(to) => Some(to),
        Target::Name(name, port) => look_up(pod, &name).await.map(|ip| SocketAddr::new(ip, port)),
    };
    reply(stream, if to.is_some() { Reply::Succeeded } else { Reply::HostUnreachable }).await?;
    Ok(to)
}

/// Whether both sides agree to do without authentication: whoever is on the pod's loopback is the pod.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<bool> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let mut methods = vec![0; usize::from(head[1])];
    stream.read_exact(&mut methods).await?;
    let agreed = head[0] == VERSION && methods.contains(&NO_AUTHENTICATION);
    stream.write_all(&[VERSION, if agreed { NO_AUTHENTICATION } else { NOTHING_ACCEPTABLE }]).await?;
    Ok(agreed)
}

async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Result<Target, Reply>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [_, command, _, kind] = head;
    let host = match kind {
        1 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            Ok(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        4 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets).await?;
            Ok(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
        }
        3 => {
            let length = stream.read_u8().await?;
            let mut name = vec![0; usize::from(length)];
            stream.read_exact(&mut name).await?;
            Err(name)
        }
        _ => return Ok(Err(Reply::AddressTypeNotSupported)),
    };
    let port = stream.read_u16().await?;
    if command != CONNECT {
        return Ok(Err(Reply::CommandNotSupported));
    }
    Ok(match host {
        Ok(ip) => Ok(Target::Address(SocketAddr::new(ip, port))),
        Err(name) => match String::from_utf8(name) {
            Ok(name) => Ok(Target::Name(name, port)),
            Err(_) => Err(Reply::AddressTypeNotSupported),
        },
    })
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, reply: Reply) -> io::Result<()> {
    // The address we connect from is not known yet; clients do not look at it.
    stream.write_all(&[VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

/// A service's own address, else what the name servers say.
async fn look_up<N: Net>(pod: &Pod<N>, name: &str) -> Option<IpAddr> {
    let me = pod.me().await.ok()?;
    let hostname = name.trim_end_matches('.').to_ascii_lowercase();
    let own = pod.mesh.world.with(|world| {
        let service = world.directory.service_named(&hostname, Some(&me.namespace), None)?;
        service.vips.iter().find(|vip| vip.network == me.network).map(|vip| vip.ip)
    });
    if own.is_some() {
        return own;
    }
    let mut known = Known::default();
    let need = crate::resolve::Need::Dns(hostname.as_str().into());
    pod.mesh.fetch.fetch(need, &me, &mut known).await.ok()?;
    known.names.get(hostname.as_str())?.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a request is read as.
    async fn read(bytes: &[u8]) -> io::Result<Result<Target, Reply>> {
        request(&mut &*bytes).await
    }

    #[tokio::test]
    async fn requests() {
        let v4 = [5, 1, 0, 1, 10, 0, 0, 1, 0, 80];
        assert_eq!(read(&v4).await.unwrap(), Ok(Target::Address("10.0.0.1:80".parse().unwrap())));
        let mut v6 = vec![5, 1, 0, 4];
        v6.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend([0x1f, 0x90]);
        assert_eq!(read(&v6).await.unwrap(), Ok(Target::Address("[fd00::1]:8080".parse().unwrap())));
        assert_eq!(read(b"\x05\x01\x00\x03\x03web\x00\x50").await.unwrap(), Ok(Target::Name("web".into(), 80)));
        assert_eq!(read(&[5, 2, 0, 1, 10, 0, 0, 1, 0, 80]).await.unwrap(), Err(Reply::CommandNotSupported));
        assert_eq!(read(&[5, 1, 0, 9]).await.unwrap(), Err(Reply::AddressTypeNotSupported));
        assert_eq!(read(b"\x05\x01\x00\x03\x01\xff\x00\x50").await.unwrap(), Err(Reply::AddressTypeNotSupported));
        for cut in 0..v4.len() {
            assert!(read(&v4[..cut]).await.is_err(), "{cut} bytes were enough");
        }
    }

    #[tokio::test]
    async fn only_clients_without_authentication_are_greeted() {
        for (hello, answer) in [(&[5u8, 1, 0][..], [5, 0]), (&[5, 2, 2, 0], [5, 0]), (&[5, 1, 2], [5, 0xff]), (&[4, 1, 0], [5, 0xff])] {
            let (mut near, mut far) = tokio::io::duplex(64);
            near.write_all(hello).await.unwrap();
            assert_eq!(greet(&mut far).await.unwrap(), answer[1] == 0);
            let mut said = [0; 2];
            near.read_exact(&mut said).await.unwrap();
            assert_eq!(said, answer);
        }
    }
}
