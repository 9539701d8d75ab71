//! Spans and log records on their way to collectors: a bounded queue, batches, one call at a time for each provider. A
//! request never waits here: what does not fit is dropped and counted.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use mesh_telemetry::Recorder;
use mesh_telemetry::families::waypoint as families;
use metrics::Label;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use super::provider::{Collector, Kind, OtlpWay, Provider};
use super::trace::otlp::{self, Exported, Record};
use super::trace::{Span, zipkin};
use crate::call::{Caller, Limits, To, Version};
use crate::grpc;

/// One thing for a collector.
#[derive(Debug)]
pub enum Item {
    Span(Box<Span>),
    Record(Box<Record>),
}

/// The end of the queue that requests write to.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: mpsc::Sender<(Arc<Provider>, Item)>,
    recorder: Recorder,
}

/// The other end.
pub type Taken = mpsc::Receiver<(Arc<Provider>, Item)>;

/// Waiting for the task that sends: a second of a busy proxy that traces everything. A span is about 4 kB.
const QUEUE: usize = 2048;
/// Waiting for a provider that is busy: as much again.
const PENDING_MAX: usize = 2048;
/// In one call, as the exporters of the field do it.
const BATCH: usize = 512;
/// How old a span becomes before it is sent.
const PERIOD: Duration = Duration::from_secs(1);
/// What is left at the end of the process gets this long.
const LAST: Duration = Duration::from_secs(3);
/// A collector's answer says nothing, or what it did not take.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

impl Queue {
    pub fn new(recorder: Recorder) -> (Queue, Taken) {
        let (sender, taken) = mpsc::channel(QUEUE);
        (Queue { sender, recorder }, taken)
    }

    pub fn put(&self, provider: &Arc<Provider>, item: Item) {
        if self.sender.try_send((provider.clone(), item)).is_err() {
            dropped(&self.recorder, provider, "queue_full", 1);
        }
    }
}

/// Pure: what waits for which provider.
#[derive(Default)]
struct Waiting {
    by_provider: HashMap<usize, Pending>,
}

struct Pending {
    provider: Arc<Provider>,
    items: Vec<Item>,
    busy: bool,
}

impl Waiting {
    /// Whether there was room.
    fn push(&mut self, provider: Arc<Provider>, item: Item) -> bool {
        let pending =
            self.by_provider.entry(key(&provider)).or_insert_with(|| Pending { provider, items: Vec::new(), busy: false });
        let room = pending.items.len() < PENDING_MAX;
        if room {
            pending.items.push(item);
        }
        room
    }

    /// Batches that may go now: of providers that are not busy, full ones, or all.
    fn ready(&mut self, all: bool) -> Vec<(Arc<Provider>, Vec<Item>)> {
        let mut ready = Vec::new();
        for pending in self.by_provider.values_mut().filter(|pending| !pending.busy) {
            if pending.items.len() >= BATCH || all && !pending.items.is_empty() {
                let rest = pending.items.split_off(pending.items.len().min(BATCH));
                pending.busy = true;
                ready.push((pending.provider.clone(), mem::replace(&mut pending.items, rest)));
            }
        }
        ready
    }

    fn done(&mut self, provider: &Arc<Provider>) {
        let key = key(provider);
        if let Some(pending) = self.by_provider.get_mut(&key) {
            pending.busy = false;
            // A provider that settings have replaced is not kept.
            if pending.items.is_empty() {
                self.by_provider.remove(&key);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.by_provider.is_empty()
    }
}

/// Providers are told apart by where they are; the map holds them, so a place is not used twice.
fn key(provider: &Arc<Provider>) -> usize {
    Arc::as_ptr(provider) as usize
}

/// Sends until `end`, then what is left.
pub async fn run(mut taken: Taken, caller: Arc<dyn Caller>, recorder: Recorder, end: CancellationToken) {
    let mut waiting = Waiting::default();
    let mut sending: JoinSet<Arc<Provider>> = JoinSet::new();
    let mut items = Vec::with_capacity(BATCH);
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut all = false;
        tokio::select! {
            biased;
            () = end.cancelled() => break,
            Some(provider) = sending.join_next() => if let Ok(provider) = provider { waiting.done(&provider) },
            _ = period.tick() => all = true,
            count = taken.recv_many(&mut items, BATCH) => {
                if count == 0 {
                    break;
                }
                sort(&mut items, &mut waiting, &recorder);
            }
        }
        start(&mut waiting, all, &mut sending, &caller, &recorder);
    }
    let last = Instant::now() + LAST;
    while let Ok(item) = taken.try_recv() {
        items.push(item);
    }
    sort(&mut items, &mut waiting, &recorder);
    while !waiting.is_empty() {
        start(&mut waiting, true, &mut sending, &caller, &recorder);
        match timeout_at(last, sending.join_next()).await {
            Ok(Some(Ok(provider))) => waiting.done(&provider),
            // A task of ours that broke, none left, or no time.
            _ => return,
        }
    }
}

fn sort(items: &mut Vec<(Arc<Provider>, Item)>, waiting: &mut Waiting, recorder: &Recorder) {
    for (provider, item) in items.drain(..) {
        if !waiting.push(provider.clone(), item) {
            dropped(recorder, &provider, "queue_full", 1);
        }
    }
}

fn start(waiting: &mut Waiting, all: bool, sending: &mut JoinSet<Arc<Provider>>, caller: &Arc<dyn Caller>, recorder: &Recorder) {
    for (provider, items) in waiting.ready(all) {
        let (caller, recorder) = (caller.clone(), recorder.clone());
        sending.spawn(async move {
            let count = items.len() as u64;
            match send(&*caller, &provider, items).await {
                Ok(refused) => {
                    let refused = refused.min(count);
                    recorder.counter(&families::SPANS_SENT, &[name(&provider)]).increment(count - refused);
                    if refused > 0 {
                        dropped(&recorder, &provider, "refused", refused);
                    }
                }
                Err(error) => {
                    dropped(&recorder, &provider, "failed", count);
                    tracing::warn!(provider = %name(&provider).value(), spans = count, %error, "a collector did not take spans; they are dropped. Is it there, and does the mesh know its service?");
                }
            }
            provider
        });
    }
}

/// How many were refused.
async fn send(caller: &dyn Caller, provider: &Provider, items: Vec<Item>) -> Result<u64, String> {
    let (mut spans, mut records) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Span(span) => spans.push(*span),
            Item::Record(record) => records.push(*record),
        }
    }
    match &provider.kind {
        Kind::Otlp { to, way: OtlpWay::Grpc } => unary(caller, to, otlp::EXPORT_TRACES, &otlp::traces(&spans)).await,
        Kind::OtlpLog { to, .. } => unary(caller, to, otlp::EXPORT_LOGS, &otlp::logs(&records)).await,
        Kind::Otlp { to, way: OtlpWay::Http } => {
            let body = post(caller, to, "application/x-protobuf", otlp::traces(&spans).encode_to_vec()).await?;
            Exported::decode(body)
                .map(|exported| refused(&exported))
                .map_err(|error| format!("the answer cannot be read: {error}"))
        }
        Kind::Zipkin { to } => post(caller, to, "application/json", zipkin::spans(&spans)).await.map(|_| 0),
        Kind::Prometheus | Kind::File { .. } => Ok(0),
    }
}

async fn unary<Q: Message>(caller: &dyn Caller, to: &Collector, path: &str, question: &Q) -> Result<u64, String> {
    let answer =
        grpc::unary(caller, To::Backend(&to.backend), &authority(to), path, to.headers.clone(), question, to.timeout).await;
    answer.map(|exported: Exported| refused(&exported)).map_err(|failure| failure.to_string())
}

fn refused(exported: &Exported) -> u64 {
    exported.partial_success.as_ref().map_or(0, |partial| u64::try_from(partial.rejected).unwrap_or(0))
}

async fn post(caller: &dyn Caller, to: &Collector, content_type: &'static str, body: Vec<u8>) -> Result<Bytes, String> {
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        format!("http://{}{}", authority(to), to.path).parse().map_err(|error| format!("{}: {error}", to.path))?;
    let headers: &mut HeaderMap = request.headers_mut();
    *headers = to.headers.clone();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let limits = Limits { timeout: to.timeout, max_body: ANSWER_BYTES_MAX };
    let reply =
        caller.call(To::Backend(&to.backend), Version::Http1, request, limits).await.map_err(|error| error.to_string())?;
    if reply.status.is_success() { Ok(reply.body) } else { Err(format!("HTTP status {}", reply.status.as_u16())) }
}

fn authority(to: &Collector) -> String {
    let host = to.backend.host.as_ref().map(|host| host.hostname.as_str()).unwrap_or_default();
    format!("{host}:{}", to.backend.port)
}

fn name(provider: &Provider) -> Label {
    Label::new("provider", provider.collector().map(authority).unwrap_or_default())
}

fn dropped(recorder: &Recorder, provider: &Provider, reason: &'static str, count: u64) {
    recorder.counter(&families::SPANS_DROPPED, &[name(provider), Label::from_static_parts("reason", reason)]).increment(count);
}

#[cfg(test)]
mod tests;
