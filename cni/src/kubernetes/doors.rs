//! Where the agent is asked: by the plugin on a unix socket, by the kubelet and by operators over HTTP.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::Context;
use http::{HeaderValue, StatusCode, header};
use mesh_runtime::Drain;
use mesh_runtime::admin::{Answer, Limits, Routes, serve_tcp, serve_unix};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use super::Asked;
use crate::agent::Node;
use crate::plugin::event::{Event, PATH};

/// A node has up to 110 pods, and each waits for its enrolment when all start at once.
const CONNECTIONS_MAX: usize = 256;

/// Serves the plugin at `socket`. Only root may connect: who can, can hold up pods.
///
/// # Errors
/// When the socket cannot be made.
pub fn plugin(socket: &Path, ask: mpsc::Sender<Asked>) -> anyhow::Result<()> {
    let named = || format!("the plugin's socket {}", socket.display());
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).with_context(named)?;
    }
    if let Err(error) = std::fs::remove_file(socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(named);
    }
    let listener = UnixListener::bind(socket).with_context(named)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).with_context(named)?;
    let routes = Routes::new().post(PATH, "usage: POST /cmdadd, by the CNI plugin\n", move |asked| {
        let ask = ask.clone();
        async move { sandbox(&asked.body, &ask).await }
    });
    let limits = Limits { connections: CONNECTIONS_MAX, ..Limits::DEFAULT };
    tokio::spawn(serve_unix(listener, Arc::new(routes), limits, Drain::new()));
    Ok(())
}

async fn sandbox(body: &[u8], ask: &mpsc::Sender<Asked>) -> Answer {
    let event: Event = match serde_json::from_slice(body) {
        Ok(event) => event,
        Err(error) => return Answer::text(StatusCode::BAD_REQUEST, format!("the event cannot be read: {error}\n")),
    };
    let (answer, answered) = oneshot::channel();
    let gone = || Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the agent is ending\n");
    if ask.send(Asked { event, answer }).await.is_err() {
        return gone();
    }
    match answered.await {
        Ok(Ok(_)) => Answer::ok(""),
        Ok(Err(why)) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
        Err(_) => gone(),
    }
}

/// Serves what operators and the kubelet ask: `/readyz`, `/healthz`, `/metrics`, and `/pods`, how each pod stands.
///
/// # Errors
/// When the port is taken.
pub async fn operators(port: u16, node: Arc<Node>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("::", port)).await;
    let listener = match listener {
        Ok(listener) => listener,
        Err(_no_ipv6) => TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on port {port}"))?,
    };
    let (ready, counted, standing) = (node.clone(), node.clone(), node);
    let routes = Routes::new()
        .get("/healthz", |_| async { Answer::ok("ok\n") })
        .get("/readyz", move |_| {
            let (serving, leaving) = (ready.serving.load(SeqCst), ready.leaving.load(SeqCst));
            async move {
                match (serving, leaving) {
                    (_, true) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready: this agent has left; its DaemonSet is marked isthmus.io/leaving, or gone\n"),
                    (true, false) => Answer::ok("ready\n"),
                    (false, false) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the node's pods are being taken over\n"),
                }
            }
        })
        .get("/metrics", move |asked| {
            let said = |name| asked.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
            let body = counted.metrics.exposed(said(header::ACCEPT), said(header::ACCEPT_ENCODING));
            let mut answer = Answer::new(StatusCode::OK, body.content_type, body.body);
            if let Some(encoding) = body.content_encoding {
                answer = answer.header(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            async move { answer }
        })
        .get("/pods", move |_| {
            let shown = serde_json::to_vec_pretty(&*standing.standing()).unwrap_or_default();
            async move { Answer::json(shown) }
        });
    tokio::spawn(serve_tcp(listener, Arc::new(routes), Limits::DEFAULT, Drain::new()));
    Ok(())
}
