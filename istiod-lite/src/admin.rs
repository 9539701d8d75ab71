//! The pages for operators: readiness, metrics, version, and what is told to whom (spec/controlplane.md 2.10, 10.2).
//! Nothing here changes anything. Debug pages show the whole mesh, so only this machine may read them.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use mesh_runtime::Ready;
use mesh_runtime::admin::{Answer, Ask, Peer, Routes};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::{self, Sources};
use crate::reconcile::Dump;
use crate::status::plan::Page;

#[derive(Clone)]
pub struct Admin {
    pub ready: Ready,
    pub sources: Sources,
    pub pages: watch::Receiver<Arc<Page>>,
    pub dumps: mpsc::Sender<Dump>,
    pub cluster_id: String,
}

impl Admin {
    pub fn routes(self) -> Routes {
        let of = |admin: &Admin| admin.clone();
        let (ready, scraped, synced, connected, status, dumped) = (of(&self), of(&self), of(&self), of(&self), of(&self), self);
        Routes::new()
            .get("/ready", move |_| std::future::ready(ready.readiness()))
            .get("/version", |_| std::future::ready(Answer::ok(env!("CARGO_PKG_VERSION"))))
            .get("/metrics", move |ask| std::future::ready(scraped.metrics(&ask)))
            .get("/debug/syncz", move |ask| std::future::ready(local(&ask, || synced.syncz())))
            .get("/debug/connections", move |ask| std::future::ready(local(&ask, || connected.connections())))
            .get("/debug/statusz", move |ask| std::future::ready(local(&ask, || status.statusz())))
            .get("/debug/ambientz", move |ask| {
                let admin = dumped.clone();
                async move { admin.ambientz(&ask).await }
            })
    }

    fn readiness(&self) -> Answer {
        let (status, mut body) = self.ready.answer();
        // Why it is not ready is in the files that could not be read.
        if status != 200 {
            body.extend(self.pages.borrow().findings.iter().map(|line| format!("{line}\n")));
        }
        Answer::text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body)
    }

    fn metrics(&self, ask: &Ask) -> Answer {
        metrics::collect(&self.sources);
        let asked = |name| ask.headers.get(name).and_then(|value| value.to_str().ok());
        let said = self.sources.recorder.expose(asked(header::ACCEPT), asked(header::ACCEPT_ENCODING), std::time::Instant::now());
        let answer = Answer::new(StatusCode::OK, said.content_type, said.body);
        match said.content_encoding {
            Some(encoding) => answer.header(header::CONTENT_ENCODING, HeaderValue::from_static(encoding)),
            None => answer,
        }
    }

    /// How far each client is, in the field's shape.
    fn syncz(&self) -> Answer {
        let clients = self.sources.ads.clients();
        let one = |client: &mesh_xds::ClientStatus| {
            let types = client.types.iter().map(|(name, status)| {
                (name.clone(), json!({ "sent": status.sent, "acked": status.acked, "nacks": status.nacks, "lastError": status.last_nack, "onDemand": status.on_demand }))
            });
            let mut parts = client.id.split('~');
            let kind = parts.next().unwrap_or_default();
            json!({
                "cluster_id": self.cluster_id,
                "proxy": parts.nth(1).unwrap_or_default(),
                "proxy_type": kind,
                "istio_version": env!("CARGO_PKG_VERSION"),
                "resources": types.collect::<Map<String, Value>>(),
            })
        };
        page(&clients.iter().map(one).collect::<Value>())
    }

    fn connections(&self) -> Answer {
        let clients = self.sources.ads.clients();
        let one = |client: &mesh_xds::ClientStatus| {
            json!({
                "connectionId": client.id,
                "connectedForSeconds": client.since.elapsed().as_secs(),
                "account": client.account.as_ref().map(|account| format!("{}/{}", account.namespace, account.service_account)),
                "node": client.node,
                "watches": client.types.keys().collect::<Vec<_>>(),
            })
        };
        page(&json!({ "totalClients": clients.len(), "clients": clients.iter().map(one).collect::<Vec<_>>() }))
    }

    fn statusz(&self) -> Answer {
        let current = self.pages.borrow().clone();
        page(&serde_json::to_value(&*current).unwrap_or(Value::Null))
    }

    async fn ambientz(&self, ask: &Ask) -> Answer {
        if !is_local(ask) {
            return refused();
        }
        let (answer, dump) = oneshot::channel();
        let gone = || Answer::text(StatusCode::SERVICE_UNAVAILABLE, "the controller is stopping\n");
        match self.dumps.send(answer).await {
            Ok(()) => dump.await.map_or_else(|_| gone(), |dump| page(&dump)),
            Err(_) => gone(),
        }
    }
}

fn page(value: &Value) -> Answer {
    Answer::json(format!("{value:#}\n"))
}

fn local(ask: &Ask, answer: impl FnOnce() -> Answer) -> Answer {
    if is_local(ask) { answer() } else { refused() }
}

fn is_local(ask: &Ask) -> bool {
    match ask.peer {
        Peer::Tcp(from) => from.ip().to_canonical().is_loopback(),
        Peer::Unix => true,
    }
}

fn refused() -> Answer {
    Answer::text(StatusCode::FORBIDDEN, "debug pages are for this machine only\n")
}
