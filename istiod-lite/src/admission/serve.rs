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

use super::review::{answer, decide};

const LIMITS: Limits = Limits {
    // Every API server keeps a few.
    connections: 64,
    header_bytes: 16 << 10,
    // API servers close a connection that was idle for 90 s; if we did, it could be while they send a review.
    header_time: Duration::from_secs(120),
    // They store no object beyond 1.5 MiB, and send it with the one that it replaces.
    body_bytes: 4 << 20,
    connection_time: Duration::from_secs(600),
};

/// Counted since the start (spec/controlplane.md 10.1, `galley_validation_*`).
#[derive(Debug, Default)]
pub struct Counters {
    pub passed: AtomicU64,
    pub failed: AtomicU64,
    pub http_errors: AtomicU64,
}

/// Serves until the drain ends it.
pub async fn serve(listener: TcpListener, tls: Arc<ServingTls>, counters: Arc<Counters>, drain: Drain) {
    let accepted = incoming_http1(listener, tls, HandshakeLimits::default()).filter_map(|stream| {
        let from = stream.from();
        std::future::ready(from.map(|from| (stream, Peer::Tcp(from))))
    });
    serve_accepted(accepted, Arc::new(routes(counters)), LIMITS, drain).await;
}

fn routes(counters: Arc<Counters>) -> Routes {
    Routes::new().any("/validate", move |ask| std::future::ready(validate(&ask, &counters)))
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// As an API server does: TLS that offers HTTP/1.1 alone, the name of the Service, our root.
    #[tokio::test]
    async fn an_api_server_is_answered() {
        let now = SystemClock.now();
        let ca = Ca::self_signed("cluster.local", Duration::from_secs(3600), Lifetimes::default(), now).unwrap();
        let serving = ca.serving(&["istiod.istio-system.svc".into()], Duration::from_secs(600), now).unwrap();
        let tls = ServingTls::new(serving.chain, &serving.key, ca.roots(), KeyExchange::default(), Arc::new(SystemClock)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (counters, drain) = (Arc::new(Counters::default()), Drain::new());
        drain.spawn(serve(listener, Arc::new(tls), counters.clone(), drain.clone()));

        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.roots()[0].clone()).unwrap();
        let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let ask = |method: &'static str, body: String| {
            let connector = connector.clone();
            async move {
                let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
                let mut stream = connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
                let request = format!("{method} /validate?timeout=5s HTTP/1.1\r\nHost: istiod\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut text = String::new();
                // Whether the end is said by TLS is not the question here.
                let _ = stream.read_to_string(&mut text).await;
                text
            }
        };
        let review = |spec: &str| format!(r#"{{"request":{{"uid":"u","kind":{{"group":"security.istio.io","version":"v1","kind":"AuthorizationPolicy"}},"object":{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"namespace":"shop","name":"p"}},"spec":{spec}}}}}}}"#);
        let good = ask("POST", review("{}")).await;
        assert!(good.starts_with("HTTP/1.1 200") && good.contains(r#""allowed":true"#), "{good}");
        let bad = ask("POST", review(r#"{"rule":[]}"#)).await;
        assert!(bad.starts_with("HTTP/1.1 200") && bad.contains(r#""allowed":false"#) && bad.contains("field spec.rule: "), "{bad}");
        assert!(ask("POST", "garbage".into()).await.starts_with("HTTP/1.1 400"));
        assert!(ask("GET", String::new()).await.starts_with("HTTP/1.1 405"));
        let counted = [&counters.passed, &counters.failed, &counters.http_errors].map(|counter| counter.load(Ordering::Relaxed));
        assert_eq!(counted, [1, 1, 2]);
        assert_eq!(drain.shutdown(Duration::from_secs(20)).await, Drained::Clean);
    }
}
