//! Asking a node's daemon. Its admin endpoints answer on the loopback of the node's own namespace only, so the question
//! is put from a socket that was opened in there.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::lab::netns;

/// spec/dataplane.md 8.3
pub const ADMIN_PORT: u16 = 15000;
/// spec/dataplane.md 8.1
pub const METRICS_PORT: u16 = 15020;
/// The daemon is on this machine; it answers at once or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A dump of 100,000 workloads is some 100 MB.
const ANSWER_MAX: usize = 512 << 20;

/// The daemon answered, and not with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    pub status: u16,
    pub words: String,
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is {}: {}", self.status, self.words)
    }
}

impl std::error::Error for Declined {}

/// GET from a port on the loopback of namespace `name`.
pub async fn get(name: &str, port: u16, path: &str) -> anyhow::Result<Bytes> {
    let place = format!("127.0.0.1:{port} in {name}");
    tokio::time::timeout(ANSWER_WITHIN, get_patiently(name, port, path))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs()))
        .and_then(|answer| answer)
        .with_context(|| format!("GET {path} from {place} failed"))
}

async fn get_patiently(name: &str, port: u16, path: &str) -> anyhow::Result<Bytes> {
    let netns = netns::path(name);
    let dial = move || netns::within(&netns, move || TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER_WITHIN));
    let stream = tokio::task::spawn_blocking(dial).await??.context("nobody listens; see `isthmus status`")?;
    stream.set_nonblocking(true)?;
    over(tokio::net::TcpStream::from_std(stream)?, path).await
}

/// GET over any stream that leads to such a port.
pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, path: &str) -> anyhow::Result<Bytes> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its end shows in the answer.
        let _ = connection.await;
    });
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    if !status.is_success() {
        return Err(Declined { status: status.as_u16(), words: String::from_utf8_lossy(&body).trim().to_owned() }.into());
    }
    Ok(body)
}
