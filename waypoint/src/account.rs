//! What a request or a stream cost and why it ended: metrics, one log line, a span (spec/waypoint.md 6).
//!
//! An `Account` is opened when the request arrives, is told facts as they become known, and is closed once. One that is
//! dropped unclosed says that the client went away: that is what hyper does with a request whose connection is gone.

pub mod books;
pub mod cel;
pub mod export;
pub mod format;
pub mod measure;
pub mod plan;
pub mod provider;
pub mod series;
pub mod told;
pub mod trace;
pub mod view;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Request, StatusCode, Version, header, request};
use mesh_model::workload::Workload;

pub use self::books::{Books, LIMITS};
pub use self::measure::{Direction, Flows, Tap};
pub use self::measure::headers_bytes;
use self::measure::{Framing, HTTP2_FRAME_HEAD};
pub use self::plan::{Plan, Settings, compile, plan};
pub use self::provider::{Provider, compile_provider};
use self::told::{Kind, Seen, Told, kept};
use self::trace::Trace;
pub use self::view::Own;
use self::view::View;
use crate::authorize::Note;
use crate::choose::BackendKey;
use crate::error::{Flags, Reason};
use crate::facts::{Arrival, Target};
use crate::hygiene;

/// One request's or stream's account.
pub struct Account {
    books: Arc<Books>,
    plan: Arc<Plan>,
    told: Box<Told>,
    request_framing: Framing,
    response_framing: Framing,
    closed: bool,
}

impl Books {
    /// A request's head has arrived.
    pub fn request(self: &Arc<Books>, plan: &Arc<Plan>, arrival: &Arc<Arrival>, version: Version) -> Account {
        self.requests_open.increment(1.0);
        Account::open(self, plan, arrival, Kind::Request { version, grpc: false }, None)
    }

    /// A stream of bytes that is not looked into.
    pub fn stream(self: &Arc<Books>, plan: &Arc<Plan>, arrival: &Arc<Arrival>, server_name: Option<&str>) -> Account {
        self.streams_open.increment(1.0);
        Account::open(self, plan, arrival, Kind::Stream, server_name)
    }
}

impl Account {
    fn open(books: &Arc<Books>, plan: &Arc<Plan>, arrival: &Arc<Arrival>, kind: Kind, server_name: Option<&str>) -> Account {
        let told = Told {
            arrival: arrival.clone(),
            kind,
            begun: Instant::now(),
            begun_at: SystemTime::now(),
            head: None,
            route: None,
            service: None,
            endpoint: None,
            upstream: None,
            upstream_local: None,
            attempts: 0,
            attempted: None,
            answered: None,
            responded: None,
            status: None,
            response_headers: Vec::new(),
            flags: Flags::NONE,
            details: None,
            termination: None,
            transport_failure: None,
            sni: server_name.map(Arc::from),
            notes: Vec::new(),
            trace: None,
            flows: Arc::default(),
        };
        Account {
            books: books.clone(),
            plan: plan.clone(),
            told: Box::new(told),
            request_framing: Framing::Bare,
            response_framing: Framing::Bare,
            closed: false,
        }
    }

    /// Another plan: what the request is found to be for has telemetry of its own.
    pub fn by(&mut self, plan: &Arc<Plan>) {
        self.plan = plan.clone();
    }

    /// The head as the client sent it: how large it is, and whether it is gRPC. First of all.
    pub fn arrived<B>(&mut self, request: &Request<B>) {
        let version = request.version();
        let grpc = version == Version::HTTP_2 && hygiene::is_grpc(request.headers());
        self.told.kind = Kind::Request { version, grpc };
        self.request_framing = framing(version, request.headers());
        let target = request.uri().path_and_query().map_or(1, |path| path.as_str().len());
        // `METHOD target HTTP/1.1`, and the empty line.
        let around = request.method().as_str().len() + target + 14;
        let frame = if version == Version::HTTP_2 { HTTP2_FRAME_HEAD } else { 0 };
        self.told.flows.request.around.store(around as u64 + headers_bytes(request.headers()) + frame, Relaxed);
    }

    /// The head as it stands: once when it has been found sound, and again when it is forwarded. The later is told; the
    /// client's own path is that of the first.
    pub fn head(&mut self, parts: &request::Parts) {
        if !self.plan.looks.head {
            return;
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let original_path = match self.told.head.take() {
            Some(before) => before.original_path.or(Some(before.path)).filter(|original| *original != path),
            None => None,
        };
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str().to_owned(),
            None => parts
                .headers
                .get(header::HOST)
                .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
                .unwrap_or_default(),
        };
        self.told.head = Some(Box::new(Seen {
            method: parts.method.clone(),
            scheme: match parts.uri.scheme_str() {
                None | Some("http") => Cow::Borrowed("http"),
                Some(scheme) => Cow::Owned(scheme.to_owned()),
            },
            authority,
            path,
            original_path,
            headers: kept(&self.plan.looks.request, &parts.headers),
        }));
    }

    /// Finds the request's trace in its headers, or begins one, and writes it into them. Once, before it is forwarded.
    pub fn trace(&mut self, headers: &mut HeaderMap) {
        let Some(tracing) = &self.plan.tracing else { return };
        let trace = Trace::begin(headers, tracing, &mut rand::rng());
        if tracing.propagate {
            trace.inject(headers);
        }
        self.told.trace = Some(trace);
    }

    /// The rule that it goes by.
    pub fn route(&mut self, name: &Arc<str>) {
        self.told.route = Some(name.clone());
    }

    /// What it is for, after routing. Of several calls the last counts.
    pub fn backend(&mut self, service: &BackendKey) {
        self.told.service = Some(service.clone());
    }

    /// It is sent to this address, and to this endpoint where it is known already.
    pub fn attempt(&mut self, endpoint: Option<&Arc<Workload>>, address: Option<SocketAddr>) {
        self.told.endpoint = match &self.told.arrival.target {
            Target::Workload { workload, .. } => Some(workload.clone()),
            Target::Service { .. } => endpoint.cloned(),
        };
        self.told.upstream = address;
        self.told.attempts += 1;
        self.told.attempted = Some(Instant::now());
    }

    /// The endpoint of the last attempt, where it is a workload.
    pub fn reached(&mut self, endpoint: Option<&Arc<Workload>>) {
        if let Some(endpoint) = endpoint {
            self.told.endpoint = Some(endpoint.clone());
        }
    }

    /// The head of the endpoint's response is here. After `reached`.
    pub fn answered(&mut self) {
        self.told.answered = Some(Instant::now());
        if self.told.grpc()
            && let Some(metrics) = &self.plan.metrics
        {
            let _ = self.told.flows.live.set(self.books.book.messages(&self.told, metrics));
            self.told.flows.settle();
        }
    }

    /// The head of the response, as the client gets it.
    pub fn responded(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.told.status = Some(status.as_u16());
        self.told.responded = Some(Instant::now());
        if let Kind::Request { version, grpc } = self.told.kind {
            self.response_framing = framing(version, headers);
            let frame = if version == Version::HTTP_2 { HTTP2_FRAME_HEAD } else { 0 };
            let reason = status.canonical_reason().map_or(0, str::len);
            // `HTTP/1.1 200 OK`, and the empty line.
            self.told.flows.response.around.fetch_add((reason + 17) as u64 + headers_bytes(headers) + frame, Relaxed);
            // A response without a body has its status here.
            if grpc {
                self.told.flows.saw_status(headers);
            }
        }
        self.told.response_headers = kept(&self.plan.looks.response, headers);
    }

    /// What this body passes through. After `head`, or `responded`.
    pub fn tap(&self, direction: Direction) -> Tap {
        let framing = match direction {
            Direction::Request => self.request_framing,
            Direction::Response => self.response_framing,
        };
        Tap::new(self.told.flows.clone(), direction, framing, self.told.grpc(), self.plan.looks.trailers)
    }

    /// Why it ends as it does: flags and details, and what the transport said.
    pub fn because(&mut self, reason: &Reason) {
        let words = reason.words();
        self.told.flags = self.told.flags.and(words.flags);
        self.told.details = Some(words.details);
        match reason {
            Reason::Rbac { .. } => self.books.refused.rbac.increment(1),
            Reason::Jwt { .. } => self.books.refused.jwt.increment(1),
            Reason::ExtAuthz { .. } => self.books.refused.ext_authz.increment(1),
            _ => {}
        }
        if let Reason::Fault(crate::exchange::Fault::Connect(error)) = reason {
            self.told.transport_failure = Some(error.to_string());
        }
    }

    /// One thing more that happened to it.
    pub fn flag(&mut self, flag: Flags) {
        self.told.flags = self.told.flags.and(flag);
    }

    pub fn details(&mut self, details: impl Into<Cow<'static, str>>) {
        self.told.details = Some(details.into());
    }

    /// Why the connection ended before its time.
    pub fn termination(&mut self, details: impl Into<Cow<'static, str>>) {
        self.told.termination = Some(details.into());
    }

    /// For the span alone.
    pub fn note(&mut self, name: &'static str, value: String) {
        self.told.notes.push((name, value));
    }

    /// What AUDIT and dry-run policies said, for the span, and counted: a stream has no span.
    pub fn noted(&mut self, notes: &[Note]) {
        for note in notes {
            let (name, result, policy, told, word) = match note {
                Note::Audit { policy, .. } => ("istio.authorization.audit_policy.name", None, policy, "", "audit"),
                Note::WouldDeny { policy, .. } => (DRY_RUN_DENY[0], Some(DRY_RUN_DENY[1]), policy, "denied", "would_deny"),
                Note::WouldAllow { policy, .. } => (DRY_RUN_ALLOW[0], Some(DRY_RUN_ALLOW[1]), policy, "allowed", "would_allow"),
                Note::WouldNotAllow { policy } => (DRY_RUN_ALLOW[0], Some(DRY_RUN_ALLOW[1]), policy, "denied", "would_not_allow"),
            };
            self.books.noted(policy, word);
            self.note(name, policy.to_string());
            if let Some(result) = result {
                self.note(result, told.to_owned());
            }
        }
    }

    /// The stream's destination is connected: its bytes are counted from here on as they flow.
    pub fn opened(&mut self) {
        if let Some(metrics) = &self.plan.metrics {
            let live = self.books.book.opened(&View { told: &self.told, own: &self.books.own, ended: Instant::now() }, metrics);
            let _ = self.told.flows.live.set(live);
            self.told.flows.settle();
        }
    }

    /// What the relay tells of a stream's bytes.
    pub fn meter(&self) -> Arc<Flows> {
        self.told.flows.clone()
    }

    /// How long it has lasted.
    pub fn lasted(&self) -> std::time::Duration {
        self.told.begun.elapsed()
    }

    /// It is over.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.closed = true;
        let (books, plan) = (&*self.books, &*self.plan);
        match self.told.kind {
            Kind::Request { .. } => books.requests_open.decrement(1.0),
            Kind::Stream => books.streams_open.decrement(1.0),
        }
        let view = View { told: &self.told, own: &books.own, ended: Instant::now() };
        if let Some(metrics) = &plan.metrics {
            match self.told.kind {
                Kind::Request { .. } => books.book.request(&view, metrics),
                // One that never had a destination is told all the same: it was opened, and it ended.
                Kind::Stream => {
                    if self.told.flows.live.get().is_none() {
                        let _ = self.told.flows.live.set(books.book.opened(&view, metrics));
                        self.told.flows.settle();
                    }
                    books.book.closed(&view, metrics);
                }
            }
        }
        books.tell(&view, plan);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.closed {
            self.because(&Reason::ClientGone);
            self.end();
        }
    }
}

/// Tags of a policy in dry-run: its name, and what it would have decided (spec/waypoint.md 6.4).
const DRY_RUN_DENY: [&str; 2] =
    ["istio.authorization.dry_run.deny_policy.name", "istio.authorization.dry_run.deny_policy.result"];
const DRY_RUN_ALLOW: [&str; 2] =
    ["istio.authorization.dry_run.allow_policy.name", "istio.authorization.dry_run.allow_policy.result"];

fn framing(version: Version, headers: &HeaderMap) -> Framing {
    match version {
        Version::HTTP_2 => Framing::Http2,
        _ if headers.contains_key(header::TRANSFER_ENCODING) => Framing::Chunked,
        _ => Framing::Bare,
    }
}

#[cfg(test)]
mod tests;
