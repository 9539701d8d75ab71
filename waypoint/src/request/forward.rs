//! A request to its endpoint and back: its tries, its copies, its deadline; and what the endpoint's answer becomes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderName, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version as Spoken};
use hyper::upgrade::OnUpgrade;
use mesh_model::service::AppProtocol;
use mesh_model::workload::Workload;
use mesh_xds::messages::waypoint::PortProtocol;

use super::answer::Asked;
use super::expect::Expectation;
use super::replay::Replay;
use super::upgrade::{self, Agreed};
use super::{Again, Chosen, Page, To, Turned, authority, outgoing};
use crate::account::Account;
use crate::attempts::{self, Attempts};
use crate::body::Body;
use crate::choose::{self, Affinity};
use crate::error::{Flags, Reason};
use crate::exchange::{Exchange, Fault, Rules, Version};
use crate::hygiene::{self, Found, Kind};
use crate::reach::Errand;
use crate::retry::Plan;
use crate::route::{Matched, Rule};
use crate::upstream::{Alpn, Endpoint, To as Address};
use crate::{reply, session};

impl Page<'_> {
    /// Steps 12 and 13.
    pub(super) async fn forward(
        &mut self,
        mut parts: Parts,
        (body, expectation): (Body, Option<Expectation>),
        found: Found,
        matched: Option<&Matched>,
        chosen: Chosen,
    ) -> Result<Answered, Box<Turned>> {
        let rule = matched.map(|matched| &*matched.rule);
        let within = found.grpc_timeout.into_iter().chain(rule.and_then(|rule| rule.request_timeout)).min();
        let deadline = within.map(|within| self.begun + within);
        upgrade::ask(found.kind, &mut parts.headers, &mut rand::rng());
        let client = parts.extensions.remove::<OnUpgrade>().filter(|_| found.kind != Kind::Plain);
        let affinity = self.affinity(&parts, &found, &chosen);
        self.account.trace(&mut parts.headers);
        self.account.head(&parts);

        let plan = self.plan(rule);
        let kept = if plan.may_retry() { self.policies.http.buffered_body_bytes } else { 0 };
        let replay = Replay::new(body, usize::try_from(kept).unwrap_or(usize::MAX));
        self.mirror(&chosen, rule, &parts, &found, deadline, &replay);
        let mut outgoing = Outgoing {
            parts: &parts,
            kind: found.kind,
            version: self.version(&chosen.to, &found),
            deadline: found.grpc_timeout.and(deadline),
            replay: &replay,
            expectation: expectation.as_ref(),
            account: &mut self.account,
        };
        let sent = match &chosen.to {
            To::Backend(backend) => {
                outgoing.account.backend(&backend.key);
                let errand = Errand {
                    backend,
                    destination: &self.cx.reach.backends.destination(&backend.key),
                    arrival: &self.connection.arrival,
                    host: Some(authority(&parts.headers)),
                    hash: affinity.hash,
                    wanted: chosen.held.as_ref().map(|held| &*held.endpoint),
                    from_client: self.settings.mesh().wire.locality_of_client,
                    connect_timeout: self.settings.mesh().connect_timeout,
                    alpn: alpn(outgoing.version),
                };
                let attempts = Attempts {
                    reach: &self.cx.reach,
                    exchange: &self.cx.exchange,
                    errand,
                    version: outgoing.version,
                    plan: &plan,
                    method: &parts.method,
                    grpc: found.grpc,
                    deadline: deadline.map(Into::into),
                };
                attempts::run(&attempts, &mut outgoing).await.map(Sent::from).map_err(|unanswered| {
                    self.account.flag(unanswered.flags);
                    self.account.reached(workload(unanswered.endpoint.as_ref()));
                    unanswered.reason
                })
            }
            To::Dialled(endpoint) => dialled(&self.cx.exchange, endpoint, &mut outgoing, deadline).await,
        };
        let mut sent = sent.map_err(|reason| match reason {
            // Whose deadline it was decides what a gRPC client is told.
            Reason::RequestTimeout if within == found.grpc_timeout => Reason::DeadlineExceeded,
            reason => reason,
        })?;
        self.account.flag(sent.flags);
        self.account.reached(workload(sent.endpoint.as_ref()));
        self.account.answered();
        if let Some(expectation) = expectation {
            expectation.answered(sent.response.status());
        }

        let agreed = upgrade::agreed(found.kind, sent.response.status(), sent.response.headers());
        let endpoint = sent.response.extensions_mut().remove::<OnUpgrade>();
        let headers = sent.response.headers_mut();
        hygiene::clean_response(headers);
        self.edit(headers, &chosen, rule, sent.endpoint.as_ref(), affinity);
        if self.policies.http.envoy_headers {
            headers.insert(UPSTREAM_SERVICE_TIME, HeaderValue::from(u64::try_from(sent.took.as_millis()).unwrap_or(u64::MAX)));
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(sent.attempts));
        }
        match (agreed, client, endpoint) {
            (Agreed::No, ..) => Ok(Answered { deadline, headers: parts.headers, ..Answered::from(sent, found.grpc) }),
            (Agreed::Yes, Some(client), Some(endpoint)) => {
                upgrade::tell(found.kind, &mut sent.response);
                Ok(Answered { upgraded: Some((client, endpoint)), ..Answered::from(sent, found.grpc) })
            }
            (Agreed::Yes | Agreed::Nonsense, ..) => {
                Err(Reason::Fault(Fault::Protocol("an upgrade that was not asked for".into())).into())
            }
        }
    }

    fn plan(&self, rule: Option<&Rule>) -> Plan {
        let of_rule = rule.and_then(|rule| rule.retry.as_ref());
        let mut plan = Plan::of(of_rule, rule.is_some(), &self.settings.mesh().wire);
        let per_try = rule.and_then(|rule| rule.backend_timeout);
        plan.per_try_timeout = plan.per_try_timeout.into_iter().chain(per_try).min();
        plan
    }

    /// What is spoken to the endpoint (spec/waypoint.md 1.4).
    fn version(&self, to: &To, found: &Found) -> Version {
        if found.kind != Kind::Plain {
            return Version::Http1;
        }
        let as_client = if self.spoken == Spoken::HTTP_2 { Version::Http2 } else { Version::Http1 };
        let (declared, pool) = match to {
            To::Dialled(_) => (self.connection.class, choose::policy::Pool::default()),
            To::Backend(backend) => (self.declared(&backend.key), backend.policy.pool()),
        };
        match declared {
            _ if found.grpc => Version::Http2,
            _ if pool.client_protocol => as_client,
            PortProtocol::Http2 | PortProtocol::Grpc | PortProtocol::GrpcWeb => Version::Http2,
            _ if pool.upgrade == choose::policy::Upgrade::Always => Version::Http2,
            PortProtocol::Http1 | PortProtocol::HttpProxy => Version::Http1,
            PortProtocol::Auto | PortProtocol::Tls | PortProtocol::Tcp => as_client,
        }
    }

    /// Of a port of ours the controller says it, of another's port the workload API.
    fn declared(&self, key: &choose::BackendKey) -> PortProtocol {
        let dialled = self.view.as_ref().filter(|view| view.port == key.port && view.host == key.host);
        if let Some(view) = dialled.or_else(|| self.settings.service(&key.host, key.port)) {
            return view.protocol;
        }
        let known = self.cx.world.with(|world| world.directory.service(&key.host)?.app_protocols.get(&key.port).copied());
        match known {
            Some(AppProtocol::Http11) => PortProtocol::Http1,
            Some(AppProtocol::Http2) => PortProtocol::Http2,
            Some(AppProtocol::Grpc) => PortProtocol::Grpc,
            Some(AppProtocol::Tcp | AppProtocol::Tls) | None => PortProtocol::Auto,
        }
    }

    /// Copies, of the rule's filters and the backend's.
    fn mirror(&self, chosen: &Chosen, rule: Option<&Rule>, parts: &Parts, found: &Found, deadline: Option<Instant>, replay: &Replay) {
        if found.kind != Kind::Plain {
            return;
        }
        let filters = rule.map(|rule| &rule.filters).into_iter().chain(&chosen.filters);
        for key in filters.flat_map(|filters| filters.mirrors(&mut rand::rng())) {
            let to = To::Backend(self.settings.backend(key));
            let version = self.version(&to, found);
            let request = outgoing::request(parts, found.kind, version, None, replay.mirror());
            let To::Backend(backend) = to else { continue };
            let connect_timeout = self.settings.mesh().connect_timeout;
            self.cx.mirrors.send(self.cx, backend, version, &self.connection.arrival, request, connect_timeout, deadline);
        }
    }

    fn affinity(&self, parts: &Parts, found: &Found, chosen: &Chosen) -> Affinity {
        match &chosen.to {
            To::Backend(backend) => choose::affinity(&backend.policy, &self.head(parts, found, None), &mut rand::rng()),
            To::Dialled(_) => Affinity::default(),
        }
    }

    /// Step 13: the backend's filters before the rule's.
    fn edit(&self, headers: &mut HeaderMap, chosen: &Chosen, rule: Option<&Rule>, endpoint: Option<&choose::Endpoint>, affinity: Affinity) {
        for filters in chosen.filters.iter().chain(rule.map(|rule| &rule.filters)) {
            filters.response(headers);
        }
        if let Some(cookie) = affinity.set_cookie {
            headers.append(SET_COOKIE, cookie);
        }
        let session = rule.and_then(|rule| rule.session.as_ref());
        if let (Some(session), To::Backend(backend), Some(endpoint)) = (session, &chosen.to, endpoint) {
            let (keys, nonce) = (&self.settings.mesh().session_keys, rand::random());
            let held = chosen.held.as_ref();
            let token = session::answer(session, held, &backend.key, &endpoint.id, false, keys, SystemTime::now(), nonce);
            if let Some((name, value)) = token {
                headers.append(name, value);
            }
        }
    }
}

/// What the client gets of it, and what is still to be told.
pub(super) struct Answered {
    pub response: Response<Body>,
    pub asked: Option<Asked>,
    pub deadline: Option<Instant>,
    /// The two ends of a stream of bytes.
    pub upgraded: Option<(OnUpgrade, OnUpgrade)>,
    /// What goes on after its head, as it was sent.
    pub headers: HeaderMap,
    pub again: Option<Again>,
}

const UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// What an endpoint answered, wherever it is.
struct Sent {
    response: Response<Body>,
    endpoint: Option<choose::Endpoint>,
    active: Option<choose::Active>,
    judged: bool,
    attempts: u32,
    flags: Flags,
    took: Duration,
}

/// The request as it is sent, as often as it is.
struct Outgoing<'p> {
    parts: &'p Parts,
    kind: Kind,
    version: Version,
    /// A gRPC client's, which the endpoint is told.
    deadline: Option<Instant>,
    replay: &'p Replay,
    expectation: Option<&'p Expectation>,
    account: &'p mut Account,
}

impl attempts::Send for Outgoing<'_> {
    fn request(&mut self, to: &Endpoint, _: u32) -> Request<Body> {
        let address = match &to.to {
            Address::Address(address) => Some(*address),
            Address::Name(..) => None,
        };
        self.account.attempt(None, address);
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut request = outgoing::request(self.parts, self.kind, self.version, left, self.replay.attempt());
        if let Some(expectation) = self.expectation.cloned() {
            hyper::ext::on_informational(&mut request, move |informational| {
                if informational.status() == StatusCode::CONTINUE {
                    expectation.wanted();
                }
            });
        }
        request
    }

    fn is_whole(&self) -> bool {
        self.replay.is_whole()
    }

    fn last(&mut self) {
        self.replay.seal();
    }
}

/// One try, at the workload that was dialled: it is that one or none.
async fn dialled(exchange: &Exchange, to: &Endpoint, outgoing: &mut Outgoing<'_>, deadline: Option<Instant>) -> Result<Sent, Reason> {
    let (version, began) = (outgoing.version, Instant::now());
    let request = attempts::Send::request(outgoing, to, 1);
    let (rules, late) = (Rules::default(), async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    });
    let response = tokio::select! {
        response = exchange.send(to, version, &rules, request) => response.map_err(Reason::Fault)?,
        () = late => return Err(Reason::RequestTimeout),
    };
    let took = began.elapsed();
    Ok(Sent { response, endpoint: None, active: None, judged: true, attempts: 1, flags: Flags::NONE, took })
}

impl From<attempts::Answered> for Sent {
    fn from(answered: attempts::Answered) -> Sent {
        let attempts::Answered { response, from, active, judged, took } = answered;
        let attempts::Arrived { endpoint, attempts, flags, .. } = from;
        Sent { response, endpoint: Some(endpoint), active: Some(active), judged, attempts, flags, took }
    }
}

impl Answered {
    fn from(sent: Sent, grpc: bool) -> Answered {
        let status = sent.response.status().as_u16();
        let grpc = if grpc { reply::grpc_status(sent.response.headers()) } else { None };
        let Sent { response, active, judged, took, .. } = sent;
        let asked = active.map(|active| Asked { active, judged, status, grpc, took });
        Answered { response, asked, deadline: None, upgraded: None, headers: HeaderMap::new(), again: None }
    }
}

fn workload(endpoint: Option<&choose::Endpoint>) -> Option<&Arc<Workload>> {
    match &endpoint?.place {
        choose::Place::Workload(workload) => Some(workload),
        choose::Place::Name(_) | choose::Place::Address(_) => None,
    }
}

pub(super) fn alpn(version: Version) -> Alpn {
    match version {
        Version::Http1 => Alpn::Http1,
        Version::Http2 => Alpn::Http2,
    }
}

