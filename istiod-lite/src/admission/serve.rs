//! The webhook: reviews over TLS with our own certificate (spec/controlplane.md 2.10, port 15017).
//!
//! An API server shows no certificate of its own, so anybody who reaches the port may ask; the answer depends on the
//! question alone, and what a caller can occupy is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use http::{Method, StatusCode};
use mesh_identity::channel::{HandshakeLimits, ServingTls, incoming_http1};
use mesh_runtime::Drain;
use mesh_runtime::admin::{Answer, Ask, Limits, Peer, Routes, serve_accepted};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::review::{answer, decide};

const LIMITS: Limits = Limits {
    // Every API server keeps a few.
    connections: 64,
    // Over HTTP/1.1 each review on its way has its own; an address that wants them all does not get them.
    per_address: 16,
    header_bytes: 16 << 10,
    // API servers close a connection that was idle for 90 s; if we did, it could be while they send a review.
    header_time: Duration::from_secs(120),
    // They store no object beyond 1.5 MiB, and send it with the one that it replaces.
    body_bytes: 4 << 20,
    // A moment in a cluster's network; an API server waits 10 s for the whole review.
    body_time: Duration::from_secs(5),
    connection_time: Duration::from_secs(600),
};

/// Reviews that are read at a time, beside certificates and discovery and not on their threads: a few megabytes of YAML are
/// milliseconds of a core.
const READ_AT_A_TIME: usize = 2;

/// Counted since the start (spec/controlplane.md 10.1, `galley_validation_*`).
#[derive(Debug, Default)]
pub struct Counters {
    pub passed: AtomicU64,
    pub failed: AtomicU64,
    pub http_errors: AtomicU64,
}

/// Serves until the drain ends it.
pub async fn serve(listener: TcpListener, tls: Arc<ServingTls>, counters: Arc<Counters>, drain: Drain) {
    serve_within(LIMITS, listener, tls, counters, drain).await;
}

async fn serve_within(limits: Limits, listener: TcpListener, tls: Arc<ServingTls>, counters: Arc<Counters>, drain: Drain) {
    let accepted = incoming_http1(listener, tls, HandshakeLimits::default()).filter_map(|stream| {
        let from = stream.from();
        std::future::ready(from.map(|from| (stream, Peer::Tcp(from))))
    });
    serve_accepted(accepted, Arc::new(routes(counters)), limits, drain).await;
}

fn routes(counters: Arc<Counters>) -> Routes {
    let reading = Arc::new(Semaphore::new(READ_AT_A_TIME));
    Routes::new().any("/validate", move |ask| review(ask, counters.clone(), reading.clone()))
}

async fn review(ask: Ask, counters: Arc<Counters>, reading: Arc<Semaphore>) -> Answer {
    let permit = reading.acquire_owned().await;
    let read = tokio::task::spawn_blocking(move || {
        // Kept until it is read, though the caller may go.
        let _permit = permit;
        validate(&ask, &counters)
    });
    read.await.unwrap_or_else(|_| Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the review was not finished\n"))
}

fn validate(ask: &Ask, counters: &Counters) -> Answer {
    let count = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let refuse = |status, why: String| {
        count(&counters.http_errors);
        Answer::text(status, why + "\n")
    };
    if ask.method != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview".into());
    }
    match answer(&ask.body, decide) {
        Ok((answer, allowed)) => {
            count(if allowed { &counters.passed } else { &counters.failed });
            Answer::json(answer.to_string())
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use mesh_identity::SystemClock;
    use mesh_identity::Clock;
    use mesh_identity::sign::{Ca, Lifetimes};
    use mesh_identity::tls::KeyExchange;
    use mesh_runtime::Drained;
    use rustls::pki_types::ServerName;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio_rustls::client::TlsStream;

    use super::*;

    struct Served {
        address: SocketAddr,
        connector: tokio_rustls::TlsConnector,
        counters: Arc<Counters>,
        drain: Drain,
    }

    /// Clients do as an API server does: TLS that offers HTTP/1.1 alone, the name of the Service, our root.
    async fn served(limits: Limits) -> Served {
        let now = SystemClock.now();
        let ca = Ca::self_signed("cluster.local", Duration::from_secs(3600), Lifetimes::default(), now).unwrap();
        let serving = ca.serving(&["istiod.istio-system.svc".into()], Duration::from_secs(600), now).unwrap();
        let tls = ServingTls::new(serving.chain, &serving.key, ca.roots(), KeyExchange::default(), Arc::new(SystemClock)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (counters, drain) = (Arc::new(Counters::default()), Drain::new());
        drain.spawn(serve_within(limits, listener, Arc::new(tls), counters.clone(), drain.clone()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.roots()[0].clone()).unwrap();
        let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Served { address, connector: Arc::new(client).into(), counters, drain }
    }

    impl Served {
        async fn connect(&self, from: &str) -> TlsStream<TcpStream> {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
            self.connector.connect(name, socket.connect(self.address).await.unwrap()).await.unwrap()
        }

        async fn ask(&self, from: &str, method: &str, body: &str) -> String {
            said(self.connect(from).await, method, body.len(), body).await
        }
    }

    /// What is answered to a question; nothing where the connection is closed.
    async fn said(mut stream: TlsStream<TcpStream>, method: &str, length: usize, body: &str) -> String {
        let request = format!("{method} /validate?timeout=5s HTTP/1.1\r\nHost: istiod\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut text = String::new();
        // Whether the end is said by TLS is not the question here.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    // strangers who keep connections and say nothing, or say it slowly
    #[tokio::test]
    async fn one_address_cannot_have_all_places() {
        let served = served(Limits { per_address: 4, connections: 6, body_time: Duration::from_millis(200), ..LIMITS }).await;
        let (stranger, api_server) = ("127.0.0.2", "127.0.0.3");
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(served.connect(stranger).await);
        }
        for _ in 0..10 {
            assert_eq!(served.ask(stranger, "POST", "garbage").await, "", "it has its places");
            assert!(served.ask(api_server, "POST", "garbage").await.starts_with("HTTP/1.1 400"));
        }
        let slow = said(silent.remove(0), "POST", 100, "{").await;
        assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
        // Its place is free when its connection is gone, a moment after the answer.
        while served.ask(stranger, "POST", "garbage").await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_had_its_time_ends_after_its_answer() {
        let served = served(Limits { connection_time: Duration::from_millis(700), body_time: Duration::from_millis(1400), ..LIMITS }).await;
        let slow = said(served.connect("127.0.0.2").await, "POST", 100, "{").await;
        assert!(slow.starts_with("HTTP/1.1 408"), "answered after its time, not cut: {slow}");
        let mut idle = served.connect("127.0.0.2").await;
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn an_api_server_is_answered() {
        let served = served(LIMITS).await;
        let ask = |method: &'static str, body: String| {
            let served = &served;
            async move { served.ask("127.0.0.1", method, &body).await }
        };
        let review = |spec: &str| format!(r#"{{"request":{{"uid":"u","kind":{{"group":"security.istio.io","version":"v1","kind":"AuthorizationPolicy"}},"object":{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"namespace":"shop","name":"p"}},"spec":{spec}}}}}}}"#);
        let good = ask("POST", review("{}")).await;
        assert!(good.starts_with("HTTP/1.1 200") && good.contains(r#""allowed":true"#), "{good}");
        let bad = ask("POST", review(r#"{"rule":[]}"#)).await;
        assert!(bad.starts_with("HTTP/1.1 200") && bad.contains(r#""allowed":false"#) && bad.contains("field spec.rule: "), "{bad}");
        assert!(ask("POST", "garbage".into()).await.starts_with("HTTP/1.1 400"));
        assert!(ask("GET", String::new()).await.starts_with("HTTP/1.1 405"));
        let counted = [&served.counters.passed, &served.counters.failed, &served.counters.http_errors].map(|counter| counter.load(Ordering::Relaxed));
        assert_eq!(counted, [1, 1, 2]);
        assert_eq!(served.drain.shutdown(Duration::from_secs(20)).await, Drained::Clean);
    }
}
