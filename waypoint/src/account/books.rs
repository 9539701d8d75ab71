//! What all accounts share: the recorder, the handles, the files, the queue to the collectors. One per process.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Instant;

use mesh_telemetry::families::waypoint as families;
use mesh_telemetry::families::{BUILD, LINES_DROPPED};
use mesh_telemetry::labels::fixed;
use mesh_telemetry::lines::{Lines, ROOM_BYTES, WhenFull};
use mesh_telemetry::recorder::{Exposition, Limits, Recorder};
use metrics::{Counter, Gauge, Label};
use parking_lot::Mutex;

use super::export::{Item, Queue, Taken};
use super::plan::Plan;
use super::provider::{Kind, Provider};
use super::series::Book;
use super::trace::otlp::Record;
use super::trace::span;
use super::view::{Own, View};
use crate::authorize::PolicyName;
use crate::settings::Count;

pub struct Books {
    pub own: Own,
    recorder: Recorder,
    pub(super) book: Book,
    pub(super) requests_open: Gauge,
    pub(super) streams_open: Gauge,
    pub(super) refused: Refused,
    files: Mutex<HashMap<String, Option<Lines>>>,
    queue: Queue,
}

/// Requests that policy refused.
pub(super) struct Refused {
    pub rbac: Counter,
    pub jwt: Counter,
    pub ext_authz: Counter,
}

impl Refused {
    fn new(recorder: &Recorder) -> Refused {
        let by = |by| recorder.counter(&families::REQUESTS_REFUSED, &[fixed("by", by)]);
        Refused { rbac: by("rbac"), jwt: by("jwt"), ext_authz: by("ext_authz") }
    }
}

/// Settings were published. `counts`: of the types of which resources have come or gone.
pub fn configured<'c>(recorder: &Recorder, counts: impl Iterator<Item = (&'c &'static str, &'c Count)>) {
    for (type_url, Count { all, partial }) in counts {
        let of_type = [Label::new("type", type_url.rsplit('.').next().unwrap_or(type_url))];
        recorder.gauge(&families::RESOURCES, &of_type).set(*all as f64);
        recorder.gauge(&families::RESOURCES_PARTIAL, &of_type).set(*partial as f64);
    }
    recorder.counter(&families::CONFIG_CHANGES, &[]).increment(1);
}

/// Series of a waypoint. A request's four share their labels' text; with 20,000 the text is at most some 10 MB, and each
/// histogram is one of them.
pub const LIMITS: Limits = Limits {
    series: 20_000,
    // A pod that is gone is not told of any more after this; five scrapes of a minute see its last value.
    idle: std::time::Duration::from_secs(300),
};

impl Books {
    /// And what `export::run` takes from.
    pub fn new(own: Own, recorder: Recorder) -> (Arc<Books>, Taken) {
        let (queue, taken) = Queue::new(recorder.clone());
        let build = [fixed("component", "proxy"), Label::new("tag", own.version.to_string())];
        recorder.gauge(&BUILD, &build).set(1.0);
        let books = Books {
            own,
            book: Book::new(recorder.clone()),
            requests_open: recorder.gauge(&families::REQUESTS_OPEN, &[]),
            streams_open: recorder.gauge(&families::STREAMS_OPEN, &[]),
            refused: Refused::new(&recorder),
            recorder,
            files: Mutex::default(),
            queue,
        };
        (Arc::new(books), taken)
    }

    /// A policy that decides nothing said this of a request or a stream.
    pub(super) fn noted(&self, policy: &PolicyName, result: &'static str) {
        let labels = [Label::new("policy", policy.to_string()), fixed("result", result)];
        self.recorder.counter(&families::POLICY_NOTES, &labels).increment(1);
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// A fault of ours has ended a request.
    pub fn panicked(&self) {
        self.recorder.counter(&families::REQUESTS_PANICKED, &[]).increment(1);
    }

    /// A client's connection is closed for what it sent.
    pub fn cut(&self, why: &'static str) {
        self.recorder.counter(&families::CLIENTS_CUT, &[fixed("reason", why)]).increment(1);
    }

    /// The answer to a scrape.
    pub fn expose(&self, accept: Option<&str>, accept_encoding: Option<&str>) -> Exposition {
        self.book.sweep();
        let dropped: u64 = self.files.lock().values().flatten().map(Lines::dropped).sum();
        self.recorder.counter(&LINES_DROPPED, &[fixed("log", "access")]).absolute(dropped);
        self.recorder.expose(accept, accept_encoding, Instant::now())
    }

    /// Waits until all lines are written, at most `limit`. For the end of the process.
    pub fn flush(&self, limit: std::time::Duration) -> bool {
        let lines: Vec<Lines> = self.files.lock().values().flatten().cloned().collect();
        lines.iter().all(|lines| lines.flush(limit))
    }

    /// The line and the span of what has ended.
    pub(super) fn tell(&self, view: &View<'_>, plan: &Plan) {
        for log in &plan.logs {
            if log.filter.as_ref().is_none_or(|filter| filter.holds(view)) {
                self.write(view, &log.provider);
            }
        }
        if let (Some(tracing), Some(trace)) = (&plan.tracing, &view.told.trace)
            && trace.sampled
            && !tracing.silent
        {
            let span = span::span(view, trace.clone(), tracing);
            self.queue.put(&tracing.provider, Item::Span(Box::new(span)));
        }
    }

    fn write(&self, view: &View<'_>, provider: &Arc<Provider>) {
        match &provider.kind {
            Kind::File { path, format, lines } => {
                if let Some(lines) = lines.get_or_init(|| self.file(path)) {
                    // The size of a line with long names: one allocation.
                    let mut line = Vec::with_capacity(768);
                    format.write(&mut line, view);
                    lines.write(&line);
                }
            }
            Kind::OtlpLog { format, .. } => {
                let mut line = Vec::with_capacity(768);
                format.write(&mut line, view);
                let body = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                let trace = view.told.trace.as_ref().map(|trace| (trace.id, trace.span));
                let service = format!("{}.{}", self.own.canonical_name, self.own.namespace).into();
                self.queue.put(provider, Item::Record(Box::new(Record { at: view.told.begun_at, body, trace, service })));
            }
            Kind::Prometheus | Kind::Otlp { .. } | Kind::Zipkin { .. } => {}
        }
    }

    /// A file that lines are appended to, opened once for all who name it.
    fn file(&self, path: &str) -> Option<Lines> {
        let mut files = self.files.lock();
        if let Some(known) = files.get(path) {
            return known.clone();
        }
        let opened = match path {
            "/dev/stdout" => Lines::to(std::io::stdout(), ROOM_BYTES, WhenFull::Drop),
            "/dev/stderr" => Lines::to(std::io::stderr(), ROOM_BYTES, WhenFull::Drop),
            path => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|file| Lines::to(file, ROOM_BYTES, WhenFull::Drop)),
        };
        let lines = opened
            .inspect_err(|error| tracing::error!(path, %error, "the access log's file cannot be opened; its lines are not written until the process is started anew"))
            .ok();
        files.insert(path.to_owned(), lines.clone());
        lines
    }
}
