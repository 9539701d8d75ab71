//! Policies of one place, and what they come to together (spec/waypoint.md 8.2): who may and how much is the union of all
//! that is attached, manners are the most specific one's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_xds::messages::waypoint::{EscapedSlash, HttpPolicy, PathNormalization};

use crate::{account, authorize, jwt, limit};

/// Bytes of a body that are held for retries and for external authorization, where nothing else is said
/// (spec/waypoint.md 2.6).
const BUFFERED_BODY_BYTES: u64 = 64 * 1024;

/// Everything that is in force at one place: for a port of a service, for one rule of it, for the whole Gateway.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// By name, as are the next two.
    pub authz: Vec<Arc<authorize::Policy>>,
    pub jwt: Vec<Arc<jwt::Policy>>,
    pub limits: Vec<Arc<limit::Limit>>,
    pub telemetry: Arc<account::Plan>,
    pub http: HttpSettings,
    /// Names of the resources all this comes from, for operators.
    pub names: Vec<Arc<str>>,
}

/// Bounds and manners of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    pub normalization: PathNormalization,
    pub escaped_slash: EscapedSlash,
    pub buffered_body_bytes: u64,
    /// None: a stream may be silent for as long as it likes.
    pub stream_idle_timeout: Option<Duration>,
    pub envoy_headers: bool,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            normalization: PathNormalization::Base,
            escaped_slash: EscapedSlash::Keep,
            buffered_body_bytes: BUFFERED_BODY_BYTES,
            stream_idle_timeout: None,
            envoy_headers: false,
        }
    }
}

/// One policy, compiled.
#[derive(Clone, Debug)]
pub(super) enum Policy {
    Authz(Arc<authorize::Policy>),
    Jwt(Arc<jwt::Policy>),
    Limit(Arc<limit::Limit>),
    Telemetry(Arc<account::Settings>),
    Http(Arc<HttpPolicy>),
}

/// What is attached to one place, by type and name of the resource: one policy may name several ports or rules of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Attached(BTreeMap<(&'static str, Arc<str>), Vec<Attachment>>);

#[derive(Clone, Debug)]
struct Attachment {
    /// 0: every port.
    port: u16,
    /// Empty: every rule.
    rule: Arc<str>,
    policy: Policy,
}

impl Attached {
    pub fn put(&mut self, type_url: &'static str, name: &Arc<str>, port: u16, rule: &str, policy: Policy) {
        self.0.entry((type_url, name.clone())).or_default().push(Attachment { port, rule: rule.into(), policy });
    }

    pub fn take(&mut self, type_url: &'static str, name: &Arc<str>) {
        self.0.remove(&(type_url, name.clone()));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything is for this port, or for this rule.
    pub fn concerns(&self, port: u16, rule: &str) -> bool {
        self.0.values().flatten().any(|attachment| attachment.concerns(port, rule))
    }
}

impl Attachment {
    fn concerns(&self, port: u16, rule: &str) -> bool {
        (self.port == 0 || self.port == port) && (self.rule.is_empty() || *self.rule == *rule)
    }
}

/// The mesh and the Gateway are the first of the places; what they come to is the same for every service.
const PLACES_OF_GATEWAY: usize = 2;

/// What a plan of telemetry is made with.
pub(super) struct Telemetry<'s> {
    pub providers: &'s dyn Fn(&str) -> Option<Arc<account::Provider>>,
    /// The plan of the Gateway, where it is made already: it serves all that say nothing of their own.
    pub of_gateway: Option<&'s Arc<account::Plan>>,
}

impl Policies {
    /// `places`: from the mesh to the rule. A policy that is attached at several counts once, at the most specific.
    pub(super) fn merged(places: &[&Attached], port: u16, rule: &str, telemetry: &Telemetry<'_>) -> Policies {
        let mut all: BTreeMap<(&'static str, &Arc<str>), (usize, &Policy)> = BTreeMap::new();
        for (level, place) in places.iter().enumerate() {
            for ((type_url, name), attachments) in &place.0 {
                let concerned = attachments.iter().find(|attachment| attachment.concerns(port, rule));
                all.extend(concerned.map(|attachment| ((*type_url, name), (level, &attachment.policy))));
            }
        }
        let mut policies = Policies::default();
        let mut told = Vec::new();
        let mut manners = Vec::new();
        for ((_, name), (level, policy)) in all {
            policies.names.push(name.clone());
            match policy {
                Policy::Authz(policy) => policies.authz.push(policy.clone()),
                Policy::Jwt(policy) => policies.jwt.push(policy.clone()),
                Policy::Limit(limit) => policies.limits.push(limit.clone()),
                Policy::Telemetry(settings) => told.push((level, settings.clone())),
                Policy::Http(http) => manners.push((level, http)),
            }
        }
        told.sort_by_key(|(level, _)| *level);
        policies.telemetry = match telemetry.of_gateway {
            Some(of_gateway) if told.iter().all(|(level, _)| *level < PLACES_OF_GATEWAY) => of_gateway.clone(),
            _ => {
                let told: Vec<Arc<account::Settings>> = told.into_iter().map(|(_, settings)| settings).collect();
                account::plan(&told, telemetry.providers)
            }
        };
        manners.sort_by_key(|(level, _)| *level);
        for (_, http) in manners {
            policies.http.take(http);
        }
        policies
    }
}

impl HttpSettings {
    /// What the more specific one says; what it leaves out stays.
    fn take(&mut self, wire: &HttpPolicy) {
        if wire.normalization() != PathNormalization::Base {
            self.normalization = wire.normalization();
        }
        if wire.escaped_slash() != EscapedSlash::Keep {
            self.escaped_slash = wire.escaped_slash();
        }
        if wire.buffered_body_bytes != 0 {
            self.buffered_body_bytes = wire.buffered_body_bytes;
        }
        if wire.stream_idle_timeout_ms != 0 {
            self.stream_idle_timeout = Some(Duration::from_millis(wire.stream_idle_timeout_ms));
        }
        self.envoy_headers |= wire.envoy_headers;
    }
}
