//! A proxy outside that carries a connection on (DestinationRule `tunnel`; RFC 9110 9.3.6): it is asked where to, and what
//! follows its answer is the far end's. The host of the rule is the proxy; the rule names where it is to connect.

use std::sync::Arc;

use http::uri::Authority;
use mesh_xds::messages::waypoint::ForwardProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BoxIo, ConnectError, Kind, broken};
use crate::facts::Rejection;

/// An answer's head. Proxies say a line or two.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Interim answers before the one that counts.
const INTERIM_MAX: usize = 10;

/// Where the proxy is to connect. Equal ones may share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// `host:port`, or why no connection may be opened: past the proxy nothing goes.
    target: Result<Box<str>, Box<str>>,
}

impl Forward {
    /// What cannot be used compiles to what refuses every connection: see `wrong`.
    pub fn compile(wire: &ForwardProxy) -> Arc<Forward> {
        Arc::new(Forward { target: target(wire).map_err(Into::into) })
    }

    /// Why no connection comes about by it.
    pub fn wrong(&self) -> Option<Rejection> {
        self.target.as_ref().err().map(|why| Rejection::new("InvalidTunnel", format!("{why}; connections that it is for are refused")))
    }

    /// Has the proxy at the far end of `io` carry it on.
    ///
    /// # Errors
    /// It does not; or the rule cannot be kept.
    pub async fn through(&self, mut io: BoxIo) -> Result<BoxIo, ConnectError> {
        let target = self.target.as_ref().map_err(|why| ConnectError::new(Kind::Other, &**why))?;
        let lost = |why: std::io::Error| broken(&format!("the proxy on the way to {target}"), &why);
        let question = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        io.write_all(question.as_bytes()).await.map_err(lost)?;
        io.flush().await.map_err(lost)?;
        for _ in 0..INTERIM_MAX {
            let head = head(&mut io).await.map_err(lost)?;
            match status(&head) {
                Some(100..=199) => {}
                Some(200..=299) => return Ok(io),
                Some(status) => return Err(ConnectError::new(Kind::Refused, format!("the proxy on the way to {target} answered {status}"))),
                None => break,
            }
        }
        Err(ConnectError::new(Kind::Refused, format!("the proxy on the way to {target} does not answer as one")))
    }
}

fn target(wire: &ForwardProxy) -> Result<Box<str>, String> {
    if wire.post {
        return Err("tunnel.protocol POST is not supported: CONNECT".to_owned());
    }
    let port = u16::try_from(wire.target_port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("tunnel.targetPort {} is no port", wire.target_port))?;
    let host = &wire.target_host;
    let bracketed = host.parse::<std::net::Ipv6Addr>().map(|ip| format!("[{ip}]"));
    let text = format!("{}:{port}", bracketed.as_deref().unwrap_or(host));
    let readable = text.parse::<Authority>().is_ok_and(|authority| authority.port_u16() == Some(port) && !authority.host().is_empty() && !text.contains('@'));
    if readable { Ok(text.into()) } else { Err(format!("tunnel.targetHost {host:?} is no host")) }
}

/// Up to and with the empty line. A byte at a time: what comes behind is the tunnel's.
async fn head(io: &mut BoxIo) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(128);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(std::io::Error::other("its answer has no end"));
        }
        head.push(io.read_u8().await?);
    }
    Ok(head)
}

/// Of a head's first line: `HTTP/1.1 200 Connection established`.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    let version = words.next().filter(|version| matches!(*version, "HTTP/1.0" | "HTTP/1.1"));
    version.and(words.next()).filter(|status| status.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use mesh_net::memory::pair;

    use super::*;

    fn wire(host: &str, port: u32) -> ForwardProxy {
        ForwardProxy { target_host: host.into(), target_port: port, post: false }
    }

    #[test]
    fn where_to_is_read_once() {
        for (host, port, expected) in [
            ("example.com", 443, Ok("example.com:443")),
            ("192.0.2.1", 80, Ok("192.0.2.1:80")),
            ("fd00::1", 80, Ok("[fd00::1]:80")),
            ("example.com", 0, Err(())),
            ("example.com", 70_000, Err(())),
            ("", 443, Err(())),
            ("a b", 443, Err(())),
            ("a\r\nX: y", 443, Err(())),
            ("user@a", 443, Err(())),
            ("a/b", 443, Err(())),
        ] {
            let forward = Forward::compile(&wire(host, port));
            assert_eq!(forward.target.as_deref().map_err(|_| ()), expected, "{host:?}:{port}");
            assert_eq!(forward.wrong().is_some(), expected.is_err());
        }
        assert!(Forward::compile(&ForwardProxy { post: true, ..wire("a", 1) }).wrong().is_some());
    }

    #[tokio::test]
    async fn what_follows_the_proxys_answer_is_the_far_ends() {
        for (answer, expected) in [
            ("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello", Ok(())),
            ("HTTP/1.0 200 OK\r\n\r\nhello", Ok(())),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\nhello", Ok(())),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Err("answered 407")),
            ("HTTP/1.1 503 no\r\nContent-Length: 5\r\n\r\nhello", Err("answered 503")),
            ("SSH-2.0-server\r\n\r\n", Err("does not answer as one")),
            ("HTTP/1.1 20x yes\r\n\r\n", Err("does not answer as one")),
            ("HTTP/1.1 200 cut", Err("")),
        ] {
            let (near, mut far) = pair(64 * 1024);
            let forward = Forward::compile(&wire("example.com", 443));
            let proxy = tokio::spawn(async move {
                let expected = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n";
                let mut asked = vec![0; expected.len()];
                far.read_exact(&mut asked).await.unwrap();
                assert_eq!(asked, expected);
                far.write_all(answer.as_bytes()).await.unwrap();
                far.shutdown().await.unwrap();
                far
            });
            match (forward.through(Box::new(near)).await, expected) {
                (Ok(mut io), Ok(())) => {
                    let mut rest = String::new();
                    io.read_to_string(&mut rest).await.unwrap();
                    assert_eq!(rest, "hello", "{answer}");
                }
                (Err(why), Err(text)) => assert!(why.message.contains(text) && why.message.contains("example.com:443"), "{why}"),
                (outcome, _) => panic!("{answer}: {:?}", outcome.err()),
            }
            let _ = proxy.await.unwrap();
        }
        let (near, _far) = pair(64);
        assert!(Forward::compile(&wire("", 1)).through(Box::new(near)).await.is_err(), "nothing goes past it");
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_none() {
        let (near, mut far) = pair(64 * 1024);
        tokio::spawn(async move { while far.write_all(&[b'x'; 1024]).await.is_ok() {} });
        let why = Forward::compile(&wire("example.com", 443)).through(Box::new(near)).await.err().unwrap();
        assert!(why.message.contains("no end"), "{why}");
    }
}
