//! The server: says who called, holds connections, answers probes (HTTP, TCP, gRPC).

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::{ECHO_PORT, GRPC_PORT, HTTP_PORT, OTHER_HTTP_PORT, client};

/// HealthCheckResponse { status: SERVING }, with gRPC's prefix: not compressed, two bytes.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];

/// Until it is told to stop, and then for as long as it is to linger.
pub async fn run(name: &str, first: Option<String>, linger: Duration) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let ready = Arc::new(AtomicBool::new(first.is_none()));
    if let Some(at) = first {
        tokio::spawn(ask_first(at, ready.clone()));
    }
    let (http, other) = (listen(HTTP_PORT).await?, listen(OTHER_HTTP_PORT).await?);
    let (echo, grpc) = (listen(ECHO_PORT).await?, listen(GRPC_PORT).await?);
    let name = Arc::<str>::from(name);
    let page = move |stream, peer| answer(stream, peer, name.clone(), ready.clone());
    tokio::select! {
        never = accept(http, page.clone()) => never,
        never = accept(other, page) => never,
        never = accept(echo, |stream, _| say_back(stream)) => never,
        never = accept(grpc, |stream, _| be_healthy(stream)) => never,
        () = async { terminate.recv().await; tokio::time::sleep(linger).await } => Ok(()),
    }
}

/// IPv4 and IPv6, where the pod has both.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await.with_context(|| format!("cannot listen on port {port}")),
    }
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F) -> anyhow::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, peer) = listener.accept().await.context("cannot accept")?;
        let _ = stream.set_nodelay(true); // only slower without
        tokio::spawn(serve(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())));
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, name: Arc<str>, ready: Arc<AtomicBool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let path = request.uri().path();
        let status = if path == "/ready" && !ready.load(Ordering::SeqCst) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let said = serde_json::json!({"name": &*name, "path": path, "peer": peer.to_string()});
        let mut response = Response::new(Full::new(Bytes::from(said.to_string())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        async { Ok::<_, Infallible>(response) }
    });
    // A client that goes away is no event, here and below.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn say_back(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// `grpc.health.v1.Health/Check`, and the same to whatever else is called: nobody here calls anything else.
async fn be_healthy(stream: TcpStream) {
    let service = service_fn(|_: Request<Incoming>| async {
        let fine = HeaderMap::from_iter([(hyper::header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        let body = Full::new(Bytes::from_static(&SERVING)).with_trailers(async { Some(Ok(fine)) });
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok::<_, Infallible>(response)
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// From the first moment of the process: whoever lets a packet of a new pod pass too early lets this one pass.
async fn ask_first(at: String, ready: Arc<AtomicBool>) {
    let to = client::To::new(at, &[]);
    while client::fresh(&to, "/first").await.is_err() {
        // At once would be a flood; the next one goes out as soon as a person could tell.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ready.store(true, Ordering::SeqCst);
}
