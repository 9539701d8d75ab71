//! Against github.com/envoyproxy/ratelimit with a redis-server, which `e2e/ratelimit/try.sh` builds and starts.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::*;

/// HTTP/2 from the first byte, to one address; a connection for each call.
struct Real {
    address: String,
}

impl Caller for Real {
    fn call<'a>(&'a self, _: To<'a>, _: Version, request: Request<Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        let broken = |error: hyper::Error| CallError::Broken(error.to_string());
        Box::pin(async move {
            let call = async {
                let io = TcpStream::connect(&self.address).await.map_err(|error| CallError::Connect(error.to_string()))?;
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.map_err(broken)?;
                tokio::spawn(connection);
                let (head, body) = sender.send_request(request.map(Full::new)).await.map_err(broken)?.into_parts();
                let body = body.collect().await.map_err(broken)?;
                let trailers = body.trailers().cloned();
                Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
            };
            tokio::time::timeout(limits.timeout, call).await.map_err(|_| CallError::Timeout)?
        })
    }
}

// spec/waypoint.md 11, row 16
#[tokio::test]
#[ignore = "needs the service: e2e/ratelimit/try.sh"]
async fn the_reference_server_counts() {
    let real = Real { address: std::env::var("RATELIMIT_ADDRESS").unwrap() };
    let limits = |domain: &str| {
        let yaml = format!(
            "{{headers: true, global: {{domain: {domain}, timeoutMs: 5000, failClosed: true, backend: {{host: {{hostname: rls}}, port: 8081}}, \
             descriptors: [{{entries: [{{source: SOURCE_PRINCIPAL}}]}}, {{entries: [{{source: HEADER, name: x-tier, key: tier}}]}}]}}}}"
        );
        [limit(&yaml)]
    };
    // Three an hour for each principal: `config/shop.yaml`. Counters are of this run: its principals are nobody else's.
    let of = |account: String| {
        let mut asker = asker();
        asker.arrival.identity.service_account = account.into();
        asker
    };
    let run = rand::random::<u64>();
    for account in ["a", "b"] {
        let asker = of(format!("{account}-{run}"));
        for left in ["2", "1", "0"] {
            let verdict = asker.ask(&limits("shop"), Instant::now(), &real).await;
            assert_eq!((verdict.refused, header(&verdict.answer_headers, "x-ratelimit-remaining")), (None, left));
            assert_eq!(header(&verdict.answer_headers, "x-ratelimit-limit"), "3, 3;w=3600");
        }
        let over = asker.ask(&limits("shop"), Instant::now(), &real).await;
        assert_eq!(over.refused.map(|refused| (refused.status, refused.flag)), Some((429, "RL")));
        let wait: u64 = header(&over.answer_headers, "retry-after").parse().unwrap();
        assert!((1..=3600).contains(&wait), "{wait}");
    }
    // A value of a key that has a limit of its own, and one that has none.
    let mut gold = of(format!("gold-{run}"));
    gold.headers.insert("x-tier", HeaderValue::from_static("none"));
    assert_eq!(gold.ask(&limits("shop"), Instant::now(), &real).await.refused.map(|refused| refused.flag), Some("RL"), "0 a day");
    assert_eq!(of(format!("c-{run}")).ask(&limits("elsewhere"), Instant::now(), &real).await.refused, None, "a domain that is not configured");
}
