//! The handles of metrics, made once for whom and what they are about: a request finds them by pointers and adds
//! (spec/waypoint.md 6.1). No text is made for a request whose like has been seen.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Workload;
use mesh_telemetry::Recorder;
use mesh_telemetry::families::{self, Family, waypoint as ours};
use mesh_telemetry::labels::{self, End, Labelled, Reporter, Security, UNKNOWN, fixed};
use mesh_telemetry::recorder::LabelText;
use metrics::{Counter, Histogram, Label};
use parking_lot::RwLock;

use super::measure::Live;
use super::plan::{Edit, Metric, Metrics};
use super::told::{Kind, Told};
use super::view::View;
use crate::choose::BackendKey;
use crate::error::Flags;

/// All handles. One per process.
#[derive(Debug)]
pub struct Book {
    recorder: Recorder,
    hasher: RandomState,
    /// By the hash of their keys, so that a request finds its pair without making a key of its own.
    pairs: RwLock<HashMap<u64, Vec<Arc<Pair>>>>,
}

/// Who talks to whom, and by which settings it is told. Workloads are the same where they are one: those of the
/// directory's snapshot.
#[derive(Debug)]
struct Key {
    source: Option<Arc<Workload>>,
    principal: SpiffeId,
    destination: Option<Arc<Workload>>,
    service: Option<BackendKey>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub struct Pair {
    key: Key,
    /// Without what a single request decides.
    labels: Vec<Label>,
    outcomes: RwLock<HashMap<Outcome, Arc<Handles>, RandomState>>,
    messages: OnceLock<[Counter; 2]>,
    /// Asked for since the last sweep.
    used: AtomicBool,
}

/// What a single request decides of its labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Outcome {
    protocol: &'static str,
    code: u16,
    grpc_status: Option<u32>,
    flags: Flags,
    /// Values of the expressions, in their order.
    values: Vec<String>,
}

/// The handles of requests that ended alike, or of streams.
#[derive(Debug)]
enum Handles {
    Request { count: Option<Counter>, duration: Option<Histogram>, received: Option<Histogram>, sent: Option<Histogram> },
    Stream { opened: Option<Counter>, closed: Option<Counter>, received: Option<Counter>, sent: Option<Counter> },
}

/// Pairs at hand: as many as the recorder has room for, at a handful of series each.
const PAIRS: usize = 8_192;
/// Pairs of one hash that are kept: by chance there are not two.
const ALIKE: usize = 4;
/// Outcomes at hand of one pair. More are told correctly, each at the price of its labels' text.
const OUTCOMES: usize = 64;
/// A tag whose value is longer is an accident, and a peer may have made it.
const TAG_BYTES_MAX: usize = 256;

impl Book {
    pub fn new(recorder: Recorder) -> Book {
        Book { recorder, hasher: RandomState::default(), pairs: RwLock::default() }
    }

    /// A request ended.
    pub fn request(&self, view: &View<'_>, metrics: &Arc<Metrics>) {
        let told = view.told;
        let pair = self.pair(told, metrics);
        let grpc_status = told.grpc().then(|| told.flows.grpc_status()).flatten();
        let outcome = outcome(view, metrics, told.response_code(), grpc_status);
        if told.grpc() {
            if told.flows.live.get().is_none() {
                let _ = told.flows.live.set(self.live_messages(&pair));
            }
            told.flows.settle();
        }
        let handles = self.handles(&pair, outcome, told.kind);
        let Handles::Request { count, duration, received, sent } = &*handles else { return };
        if let Some(count) = count {
            count.increment(1);
        }
        for (histogram, value) in
            [(duration, view.duration().as_secs_f64() * 1e3), (received, view.received() as f64), (sent, view.sent() as f64)]
        {
            if let Some(histogram) = histogram {
                histogram.record(value);
            }
        }
    }

    /// The counters that move while this gRPC request lives; known with its destination.
    pub fn messages(&self, told: &Told, metrics: &Arc<Metrics>) -> Live {
        self.live_messages(&self.pair(told, metrics))
    }

    fn live_messages(&self, pair: &Pair) -> Live {
        let counter = |metric, family| match pair.key.metrics.disabled(metric) {
            true => Counter::noop(),
            false => self.recorder.counter(&family, &edited(&pair.labels, &pair.key.metrics, metric, &[])),
        };
        let [request, response] = pair
            .messages
            .get_or_init(|| {
                [
                    counter(Metric::RequestMessages, ours::REQUEST_MESSAGES),
                    counter(Metric::ResponseMessages, ours::RESPONSE_MESSAGES),
                ]
            })
            .clone();
        Live { request, response }
    }

    /// A stream's destination is known: it counts as opened, and these counters move with its bytes. Flags are those of
    /// this moment (spec/waypoint.md 6.1: values are frozen at the first report).
    pub fn opened(&self, view: &View<'_>, metrics: &Arc<Metrics>) -> Live {
        let handles = self.stream(view, metrics);
        let Handles::Stream { opened, received, sent, .. } = &*handles else {
            return Live { request: Counter::noop(), response: Counter::noop() };
        };
        if let Some(opened) = opened {
            opened.increment(1);
        }
        let or_none = |counter: &Option<Counter>| counter.clone().unwrap_or_else(Counter::noop);
        Live { request: or_none(received), response: or_none(sent) }
    }

    pub fn closed(&self, view: &View<'_>, metrics: &Arc<Metrics>) {
        if let Handles::Stream { closed: Some(closed), .. } = &*self.stream(view, metrics) {
            closed.increment(1);
        }
    }

    fn stream(&self, view: &View<'_>, metrics: &Arc<Metrics>) -> Arc<Handles> {
        let pair = self.pair(view.told, metrics);
        self.handles(&pair, outcome(view, metrics, 0, None), Kind::Stream)
    }

    /// Lets go of what was not asked for since the last sweep; then the recorder may let go of the series. Called
    /// before each scrape.
    pub fn sweep(&self) {
        self.pairs.write().retain(|_, pairs| {
            pairs.retain(|pair| Arc::strong_count(pair) > 1 || pair.used.swap(false, Ordering::Relaxed));
            !pairs.is_empty()
        });
    }

    fn pair(&self, told: &Told, metrics: &Arc<Metrics>) -> Arc<Pair> {
        let hash = self.hash(told, metrics);
        let find = |pairs: &[Arc<Pair>]| pairs.iter().find(|pair| pair.key.is_of(told, metrics)).cloned();
        if let Some(pair) = self.pairs.read().get(&hash).and_then(|pairs| find(pairs)) {
            if !pair.used.load(Ordering::Relaxed) {
                pair.used.store(true, Ordering::Relaxed);
            }
            return pair;
        }
        let key = Key {
            source: told.arrival.source_workload.clone(),
            principal: told.arrival.identity.clone(),
            destination: told.endpoint.clone(),
            service: told.service.clone(),
            metrics: metrics.clone(),
        };
        let pair = Arc::new(Pair {
            labels: key.labels(),
            key,
            outcomes: RwLock::default(),
            messages: OnceLock::new(),
            used: AtomicBool::new(true),
        });
        let mut pairs = self.pairs.write();
        if pairs.len() < PAIRS {
            let pairs = pairs.entry(hash).or_default();
            match find(pairs) {
                Some(known) => return known,
                None if pairs.len() < ALIKE => pairs.push(pair.clone()),
                None => {}
            }
        }
        pair
    }

    /// Pointers, which no peer chooses. The identity goes in where no workload stands for it.
    fn hash(&self, told: &Told, metrics: &Metrics) -> u64 {
        let place = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|workload| Arc::as_ptr(workload) as usize);
        let source = place(&told.arrival.source_workload);
        let identity = if source.is_some() { None } else { Some(&told.arrival.identity) };
        self.hasher.hash_one((source, identity, place(&told.endpoint), &told.service, metrics.digest()))
    }

    fn handles(&self, pair: &Pair, outcome: Outcome, kind: Kind) -> Arc<Handles> {
        if let Some(handles) = pair.outcomes.read().get(&outcome) {
            return handles.clone();
        }
        let handles = Arc::new(self.made(pair, &outcome, kind));
        let mut outcomes = pair.outcomes.write();
        if outcomes.len() < OUTCOMES {
            return outcomes.entry(outcome).or_insert(handles).clone();
        }
        handles
    }

    fn made(&self, pair: &Pair, outcome: &Outcome, kind: Kind) -> Handles {
        let mut labels = pair.labels.clone();
        labels.push(fixed("request_protocol", outcome.protocol));
        if matches!(kind, Kind::Request { .. }) {
            labels.push(Label::new("response_code", outcome.code.to_string()));
            let status = outcome.grpc_status.map(|status| status.to_string()).unwrap_or_default();
            labels.push(Label::new("grpc_response_status", status));
        }
        labels.push(Label::new("response_flags", outcome.flags.to_string()));
        // Both ends of a tunnel have proved who they are.
        labels.push(fixed("connection_security_policy", Security::MutualTls.as_str()));
        let mut text = Texts { metrics: &pair.key.metrics, labels: &labels, values: &outcome.values, last: None };
        match kind {
            Kind::Request { .. } => Handles::Request {
                count: text.of(Metric::RequestCount).map(|text| self.recorder.counter_at(&ours::REQUESTS, &text)),
                duration: text.of(Metric::RequestDuration).map(|text| self.recorder.histogram_at(&ours::REQUEST_DURATION, &text)),
                received: text.of(Metric::RequestSize).map(|text| self.recorder.histogram_at(&ours::REQUEST_BYTES, &text)),
                sent: text.of(Metric::ResponseSize).map(|text| self.recorder.histogram_at(&ours::RESPONSE_BYTES, &text)),
            },
            Kind::Stream => {
                let mut counter = |metric, family: Family| text.of(metric).map(|text| self.recorder.counter_at(&family, &text));
                Handles::Stream {
                    opened: counter(Metric::TcpOpened, families::TCP_OPENED),
                    closed: counter(Metric::TcpClosed, families::TCP_CLOSED),
                    received: counter(Metric::TcpReceived, families::TCP_RECEIVED),
                    sent: counter(Metric::TcpSent, families::TCP_SENT),
                }
            }
        }
    }
}

/// The text of labels for one metric after another; those with the same edits share it.
struct Texts<'a> {
    metrics: &'a Metrics,
    labels: &'a [Label],
    values: &'a [String],
    last: Option<(Metric, LabelText)>,
}

impl Texts<'_> {
    fn of(&mut self, metric: Metric) -> Option<LabelText> {
        if self.metrics.disabled(metric) {
            return None;
        }
        let tags = |metric| self.metrics.of_metric(metric).map(|by| &by.tags).filter(|tags| !tags.is_empty());
        if let Some((last, text)) = &self.last
            && tags(*last) == tags(metric)
        {
            return Some(text.clone());
        }
        let text = LabelText::of(&edited(self.labels, self.metrics, metric, self.values));
        self.last = Some((metric, text.clone()));
        Some(text)
    }
}

/// The labels with the user's edits for this metric.
fn edited(labels: &[Label], metrics: &Metrics, metric: Metric, values: &[String]) -> Vec<Label> {
    let mut labels = labels.to_vec();
    let Some(by) = metrics.of_metric(metric) else { return labels };
    for (name, edit) in &by.tags {
        let value: Arc<str> = match edit {
            Edit::Remove => {
                labels.retain(|label| label.key() != &**name);
                continue;
            }
            Edit::Constant(value) => value.clone(),
            Edit::Expression(program) => {
                let index = metrics.expressions.iter().position(|known| known == program);
                index.and_then(|index| values.get(index)).map_or(UNKNOWN, String::as_str).into()
            }
        };
        let label = Label::new(name.clone(), metrics::SharedString::from_shared(value));
        match labels.iter_mut().find(|label| label.key() == &**name) {
            Some(known) => *known = label,
            None => labels.push(label),
        }
    }
    labels
}

fn outcome(view: &View<'_>, metrics: &Metrics, code: u16, grpc_status: Option<u32>) -> Outcome {
    let value = |program: &Arc<super::cel::Program>| {
        let mut text = program.value(view).map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string());
        text.truncate(text.floor_char_boundary(TAG_BYTES_MAX));
        text
    };
    Outcome {
        protocol: view.told.request_protocol(),
        code,
        grpc_status,
        flags: view.told.flags,
        values: metrics.expressions.iter().map(value).collect(),
    }
}

/// Hostname, namespace and short name. A host of the cluster is called by its first label, another by all of it.
fn service(key: &BackendKey) -> [Arc<str>; 3] {
    let (hostname, namespace) = (&key.host.hostname, &key.host.namespace);
    let name = match hostname.split_once('.') {
        Some((name, rest)) if rest.strip_prefix(&**namespace).is_some_and(|rest| rest.starts_with(".svc.")) => name.into(),
        _ => hostname.clone(),
    };
    [hostname.clone(), namespace.clone(), name]
}

fn same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl Key {
    fn is_of(&self, told: &Told, metrics: &Arc<Metrics>) -> bool {
        same(&self.source, &told.arrival.source_workload)
            && same(&self.destination, &told.endpoint)
            && self.service == told.service
            && self.principal == told.arrival.identity
            && (Arc::ptr_eq(&self.metrics, metrics) || self.metrics == *metrics)
    }

    fn labels(&self) -> Vec<Label> {
        let identity = self.destination.as_ref().map(|workload| workload.identity());
        let what = Labelled {
            reporter: Reporter::Waypoint,
            source: self.source.as_deref().map_or(End::Unknown, End::Known),
            source_principal: Some(&self.principal),
            destination: self.destination.as_deref().map_or(End::Unknown, End::Known),
            destination_principal: identity.as_ref(),
            service: None,
            security: Security::MutualTls,
        };
        labels::waypoint(&what, self.service.as_ref().map(service))
    }
}
