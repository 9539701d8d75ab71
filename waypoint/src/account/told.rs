//! What was told of one request or stream while it lasted: what metrics, log lines and spans are made of. Data only, and
//! the questions that all three ask of it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use mesh_model::workload::Workload;

use super::measure::Flows;
use super::trace::Trace;
use crate::choose::BackendKey;
use crate::error::Flags;
use crate::facts::{Arrival, Target};

/// All of it.
pub struct Told {
    pub arrival: Arc<Arrival>,
    pub kind: Kind,
    pub begun: Instant,
    pub begun_at: SystemTime,
    /// Where somebody looks at it; else nothing is kept.
    pub head: Option<Box<Seen>>,
    pub route: Option<Arc<str>>,
    /// After routing.
    pub service: Option<BackendKey>,
    pub endpoint: Option<Arc<Workload>>,
    pub upstream: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    pub attempts: u32,
    /// Of the last attempt.
    pub attempted: Option<Instant>,
    pub answered: Option<Instant>,
    pub responded: Option<Instant>,
    /// None: nothing was answered before the client left.
    pub status: Option<u16>,
    /// Where somebody looks at them.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    pub flags: Flags,
    pub details: Option<Cow<'static, str>>,
    pub termination: Option<Cow<'static, str>>,
    pub transport_failure: Option<String>,
    pub sni: Option<Arc<str>>,
    /// What else is worth telling in a span.
    pub notes: Vec<(&'static str, String)>,
    pub trace: Option<Trace>,
    pub flows: Arc<Flows>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request { version: Version, grpc: bool },
    Stream,
}

/// A request's head, as far as somebody looks at it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: http::Method,
    pub scheme: Cow<'static, str>,
    pub authority: String,
    /// With query, as it is forwarded.
    pub path: String,
    /// As the client wrote it, where that is another.
    pub original_path: Option<String>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What is kept of headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Looks {
    /// Anything of the request at all: log or span.
    pub head: bool,
    pub request: Vec<HeaderName>,
    pub response: Vec<HeaderName>,
    pub trailers: bool,
}

impl Looks {
    pub fn at_request(&mut self, name: &HeaderName) {
        self.head = true;
        insert(&mut self.request, name);
    }

    pub fn at_response(&mut self, name: &HeaderName) {
        insert(&mut self.response, name);
    }
}

fn insert(names: &mut Vec<HeaderName>, name: &HeaderName) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}

/// Those of the headers that are looked at; of several of one name the first.
pub fn kept(names: &[HeaderName], headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// One of the headers that were kept.
pub fn find<'h>(headers: &'h [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'h HeaderValue> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

impl Told {
    pub fn grpc(&self) -> bool {
        matches!(self.kind, Kind::Request { grpc: true, .. })
    }

    /// `HTTP/1.1` and so on; none for a stream.
    pub fn protocol(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Request { version, .. } => Some(match version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_3 => "HTTP/3",
                _ => "HTTP/1.1",
            }),
            Kind::Stream => None,
        }
    }

    /// `request_protocol` of metrics.
    pub fn request_protocol(&self) -> &'static str {
        match self.kind {
            Kind::Request { grpc: true, .. } => "grpc",
            Kind::Request { .. } => "http",
            Kind::Stream => "tcp",
        }
    }

    pub fn response_code(&self) -> u16 {
        self.status.unwrap_or(0)
    }

    pub fn response_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.response_headers, name)
    }

    pub fn request_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.head.as_ref()?.headers, name)
    }

    /// From the last attempt to the upstream's answer.
    pub fn upstream_time(&self) -> Option<Duration> {
        Some(self.answered?.saturating_duration_since(self.attempted?))
    }

    /// The destination in the words that users know (spec/waypoint.md 6.3): `inbound-vip|…` for the service that was
    /// dialled, `outbound|…` for another.
    pub fn cluster(&self) -> Option<String> {
        let service = self.service.as_ref()?;
        let own = matches!(&self.arrival.target, Target::Service { key, .. } if *key == service.host);
        let BackendKey { host, port, subset } = service;
        let host = &host.hostname;
        Some(match (own, self.kind, subset.is_empty()) {
            (true, Kind::Stream, _) => format!("inbound-vip|{port}|tcp|{host}"),
            (true, Kind::Request { .. }, true) => format!("inbound-vip|{port}|http|{host}"),
            (true, Kind::Request { .. }, false) => format!("inbound-vip|{port}|http/{subset}|{host}"),
            (false, ..) => format!("outbound|{port}|{subset}|{host}"),
        })
    }

    /// Where the client's bytes were for.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.arrival.dialled
    }
}
