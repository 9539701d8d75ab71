//! HTTP/1.1, as little of it as the sample needs: a server of pages, and a client that opens a connection per request.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

/// The port of every service.
const PORT: u16 = 9080;
/// A page that has not come by then is of no use to a reader.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The services' answers are a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

pub struct Answer {
    pub status: StatusCode,
    pub kind: &'static str,
    pub body: String,
}

impl Answer {
    pub fn json(value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_string(value).expect("names and numbers can always be written as JSON");
        Self { status: StatusCode::OK, kind: "application/json", body }
    }

    pub fn html(body: String) -> Self {
        Self { status: StatusCode::OK, kind: "text/html; charset=utf-8", body }
    }

    pub fn error(status: StatusCode, why: impl std::fmt::Display) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: format!("{why}\n") }
    }
}

/// Serves until the process ends: `page` answers paths, all but `/health`.
pub async fn serve<F>(page: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> anyhow::Result<()>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = listen().await?;
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let page = page.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let page = page.clone();
                async move {
                    let answer = if path == "/health" { Answer::json(&"healthy") } else { page(path).await };
                    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
                    *response.status_mut() = answer.status;
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
                    Ok::<_, Infallible>(response)
                }
            });
            // A client that goes away is no event.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// IPv4 and IPv6, where the pod has both.
async fn listen() -> anyhow::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))
            .await
            .with_context(|| format!("cannot listen on port {PORT}")),
    }
}

/// GET on a connection of its own.
pub async fn get(authority: &str, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let end = Instant::now() + TIMEOUT;
    let late = |what: &str| format!("{authority} {what} within {TIMEOUT:?}");
    let addresses = timeout_at(end, lookup_host(authority)).await.with_context(|| late("could not be looked up"))?;
    let addresses: Vec<SocketAddr> = addresses.with_context(|| format!("cannot look up {authority}"))?.collect();
    let stream = timeout_at(end, TcpStream::connect(&addresses[..])).await.with_context(|| late("took no connection"))?;
    let stream = stream.with_context(|| format!("cannot connect to {authority}"))?;
    timeout_at(end, exchange(stream, authority, path)).await.with_context(|| late("did not answer"))?
}

async fn exchange(stream: TcpStream, authority: &str, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, authority).header("connection", "close").body(Empty::<Bytes>::new())?;
    let response = send.send_request(request).await.with_context(|| format!("{authority} did not answer"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    driven.abort();
    Ok((status, body))
}

/// GET of JSON that says 200.
pub async fn ask<T: serde::de::DeserializeOwned>(authority: &str, path: &str) -> anyhow::Result<T> {
    let (status, body) = get(authority, path).await?;
    anyhow::ensure!(status == StatusCode::OK, "{authority}{path} said {status}");
    serde_json::from_slice(&body).with_context(|| format!("{authority}{path} said something else than expected"))
}

/// Until the standard input says that there is no more, or breaks.
pub async fn input_ends() {
    let read = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // However it ends, there is no more.
    let _ = tokio::task::spawn_blocking(read).await;
}

/// Process 1 of a container gets no default action for a signal: without this it would be killed after the grace period.
pub async fn told_to_stop() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a handler for SIGTERM can be set while the program starts");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
