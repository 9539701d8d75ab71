//! An HTTP request, top to bottom (spec/waypoint.md 1.5).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONNECTION, HeaderName, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version as Spoken};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use mesh_model::service::AppProtocol;
use mesh_model::workload::Workload;
use mesh_runtime::Watched;
use mesh_xds::messages::waypoint::PortProtocol;
use mesh_xds::world::World;
use tokio::time::sleep;

use crate::account::{Account, Books, Direction};
use crate::body::Body;
use crate::attempts::{self, Attempts};
use crate::authorize::Ask;
use crate::call::Caller;
use crate::choose::{self, Affinity};
use crate::edit::{self, Filters, Site};
use crate::error::{Flags, Reason};
use crate::exchange::{Exchange, Fault, Rules, Version};
use crate::facts::{Claims, Head, Target};
use crate::http1or2::Connection;
use crate::hygiene::{self, Found, Kind, Manner};
use crate::limit::{self, Phase, Subject};
use crate::reach::{Errand, Reach};
use crate::reply;
use crate::retry::Plan;
use crate::route::{Matched, Rule};
use crate::settings::{Policies, ServiceView, Settings};
use crate::{fault, jwt, session};
use crate::upstream::{Alpn, Endpoint, To as Address};

mod answer;
mod expect;
pub mod guard;
mod inbound;
mod mirror;
mod outgoing;
mod replay;
mod upgrade;

pub use answer::Answer;
use answer::{End, Idle};
use expect::Expectation;
use guard::Guard;
use inbound::Inbound;
pub use mirror::Mirrors;
use replay::Replay;
use upgrade::Agreed;

/// What requests share.
pub struct Context {
    pub settings: Watched<Settings>,
    pub world: Watched<World>,
    pub reach: Arc<Reach>,
    pub exchange: Exchange,
    pub books: Arc<Books>,
    pub mirrors: Mirrors,
    /// Keys that tokens are verified with.
    pub keys: jwt::Keys,
    /// For questions of our own.
    pub caller: Arc<dyn Caller>,
}

/// A request is answered by ourselves.
pub struct Turned {
    pub reason: Reason,
    /// None: what the reason says.
    pub answer: Option<Response<Body>>,
}

impl From<Reason> for Box<Turned> {
    fn from(reason: Reason) -> Box<Turned> {
        Box::new(Turned { reason, answer: None })
    }
}

/// One request on its way: what it is judged by, and what its answer gets.
struct Page<'a> {
    cx: &'a Arc<Context>,
    connection: &'a Connection,
    /// One snapshot, from here to the end.
    settings: Arc<Settings>,
    view: Option<Arc<ServiceView>>,
    policies: Arc<Policies>,
    account: Account,
    begun: Instant,
    spoken: Spoken,
    method: Method,
    grpc: bool,
    /// The rule whose CORS the answer gets, and for whom.
    cors: Option<(Arc<Rule>, Option<HeaderValue>)>,
    /// What the answer gets beside.
    extra: HeaderMap,
}

/// What decides where a request goes.
enum Route {
    Rule(Matched),
    /// Nothing is attached: the service itself, or the workload that was dialled.
    Service,
    None,
}

impl Route {
    fn rule(&self) -> Option<&Matched> {
        match self {
            Route::Rule(matched) => Some(matched),
            Route::Service | Route::None => None,
        }
    }
}

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

/// What the client gets of it, and what is still to be told.
struct Answered {
    response: Response<Body>,
    asked: Option<answer::Asked>,
    deadline: Option<Instant>,
    upgraded: Option<(OnUpgrade, OnUpgrade)>,
}

pub async fn request(incoming: Request<Incoming>, connection: &Connection, cx: &Arc<Context>) -> Response<Answer> {
    let mut page = Page::open(&incoming, connection, cx);
    match page.run(incoming).await {
        Ok(answered) => page.finish(answered),
        Err(turned) => page.refuse(*turned),
    }
}

impl<'a> Page<'a> {
    fn open(incoming: &Request<Incoming>, connection: &'a Connection, cx: &'a Arc<Context>) -> Page<'a> {
        let settings = cx.settings.load();
        let view = match &connection.arrival.target {
            Target::Service { key, port } => settings.service(key, *port).cloned(),
            Target::Workload { .. } => None,
        };
        let policies = view.as_ref().map_or_else(|| settings.gateway(), |view| view.policies(None)).clone();
        let mut account = cx.books.request(&policies.telemetry, &connection.arrival, incoming.version());
        account.arrived(incoming);
        // What is refused before a backend is drawn was for the service that was dialled.
        if let Some(view) = &view {
            account.backend(&view.backend.key);
        }
        let spoken = incoming.version();
        Page {
            cx,
            connection,
            view,
            policies,
            account,
            begun: Instant::now(),
            spoken,
            method: incoming.method().clone(),
            grpc: spoken == Spoken::HTTP_2 && hygiene::is_grpc(incoming.headers()),
            cors: None,
            extra: HeaderMap::new(),
            settings,
        }
    }

    async fn run(&mut self, incoming: Request<Incoming>) -> Result<Answered, Box<Turned>> {
        let (mut parts, body) = incoming.into_parts();
        let found = self.clean(&mut parts)?;
        self.account.head(&parts);
        let (mut body, expectation) = self.inbound(body, &found);
        self.limits(Phase::BeforeAuthn, &mut parts, &found, None, None).await?;
        let mut matched = self.route(&parts, &found, None);
        let mut passed = self.guard(&found, async |guard| guard.pass(&mut parts, &mut body).await).await?;
        if passed.rematch {
            let before = self.policies.clone();
            matched = self.route(&parts, &found, passed.claims.as_ref());
            if !Arc::ptr_eq(&before, &self.policies) {
                self.guard(&found, async |guard| guard.again(&mut parts, &mut body, &mut passed).await).await?;
            }
        }
        self.account.noted(&passed.notes);
        let rule = match &matched {
            Route::Rule(matched) => Some(matched.rule.clone()),
            Route::Service => None,
            Route::None => return Err(Reason::RouteNotFound.into()),
        };
        self.limits(Phase::AfterAuthz, &mut parts, &found, rule.as_deref(), passed.claims.as_ref()).await?;
        if let Some(answer) = rule.as_ref().and_then(|rule| rule.invalid.as_ref()) {
            return Err(self.answered(answer.clone()));
        }
        self.cross_origin(&parts, rule.as_ref())?;
        self.faults(rule.as_ref()).await?;
        for provider in rule.iter().flat_map(|rule| rule.filters.ext_authz()) {
            let ask = Ask::of_route(provider);
            self.guard(&found, async |guard| guard.ask(&ask, &mut parts, &mut body, &mut passed).await).await?;
        }
        let chosen = self.backend(&mut parts, &found, matched.rule())?;
        let mut answered = self.forward(parts, (body, expectation), found, matched.rule(), chosen).await?;
        for edits in &passed.asked {
            edits.apply_to_response(answered.response.headers_mut());
        }
        Ok(answered)
    }

    /// Step 1 and 2.
    fn clean(&self, parts: &mut Parts) -> Result<Found, Box<Turned>> {
        let mesh = &self.settings.mesh().wire;
        let manner = Manner {
            normalization: self.policies.http.normalization,
            escaped_slash: self.policies.http.escaped_slash,
            http10: mesh.http10,
            append_client_ip: mesh.append_client_ip,
            trusted_proxies: mesh.trusted_proxies,
            xfcc_by: mesh.xfcc_client_identity.then(|| self.cx.reach.own().identity.to_string().into()),
        };
        let arrival = &self.connection.arrival;
        match hygiene::clean(parts, arrival, self.connection.class, &manner, &mut rand::rng()) {
            Ok(found) => Ok(found),
            Err(hygiene::Turned::Refused(reason)) => Err(reason.into()),
            Err(hygiene::Turned::Redirect(to)) => {
                let answer = Some(reply::redirect(&to));
                Err(Box::new(Turned { reason: Reason::Direct(StatusCode::TEMPORARY_REDIRECT), answer }))
            }
        }
    }

    fn inbound(&self, body: Incoming, found: &Found) -> (Body, Option<Expectation>) {
        match Body::from(body) {
            Body::Empty => (Body::Empty, None),
            body => {
                let expectation = found.expects_continue.then(Expectation::default);
                let tap = self.account.tap(Direction::Request);
                (Body::boxed(Inbound::new(body, expectation.clone(), tap)), expectation)
            }
        }
    }

    /// Step 11, which decides what the steps before it are judged by.
    fn route(&mut self, parts: &Parts, found: &Found, claims: Option<&Claims>) -> Route {
        let Some(view) = self.view.clone() else { return Route::Service };
        let Some(table) = view.routes(&self.connection.arrival.identity.namespace) else { return Route::Service };
        let Some(matched) = table.find(&self.head(parts, found, claims)) else { return Route::None };
        self.account.route(&matched.rule.name);
        self.policies = view.policies(Some(&matched.rule)).clone();
        self.account.by(&self.policies.telemetry);
        Route::Rule(matched)
    }

    /// Steps 3, 5 and 7, or a part of them.
    async fn guard<T>(&self, found: &Found, step: impl AsyncFnOnce(Guard<'_>) -> Result<T, Box<guard::Refused>>) -> Result<T, Box<Turned>> {
        let guard = Guard {
            settings: &self.settings,
            policies: &self.policies,
            keys: &self.cx.keys,
            caller: &*self.cx.caller,
            arrival: &self.connection.arrival,
            found,
        };
        step(guard).await.map_err(|refused| Box::new(Turned { reason: refused.reason, answer: Some(refused.answer) }))
    }

    /// Step 8.
    async fn limits(
        &mut self,
        phase: Phase,
        parts: &mut Parts,
        found: &Found,
        rule: Option<&Rule>,
        claims: Option<&Claims>,
    ) -> Result<(), Box<Turned>> {
        if self.policies.limits.is_empty() {
            return Ok(());
        }
        let verdict = {
            let head = self.head(parts, found, claims);
            let subject = Subject {
                head: &head,
                route: rule.map(|rule| &*rule.name),
                service: self.connection.arrival.target.service(),
                replicas: self.settings.mesh().wire.replicas,
            };
            limit::check(&self.policies.limits, phase, &subject, Instant::now(), &*self.cx.caller).await
        };
        for note in &verdict.notes {
            self.account.note(note.name(), note.to_string());
        }
        parts.headers.extend(verdict.request_headers);
        self.extra.extend(verdict.answer_headers);
        let Some(refused) = verdict.refused else { return Ok(()) };
        let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
        let reason = match refused.flag {
            "RLSE" => Reason::RateServiceFailed,
            _ => Reason::RateLimited { status, grpc: Some(refused.grpc) },
        };
        let said = !self.grpc && !refused.body.is_empty();
        let answer = said.then(|| reply::plain(status, refused.body.into()));
        Err(Box::new(Turned { reason, answer }))
    }

    fn head<'p>(&'p self, parts: &'p Parts, found: &Found, claims: Option<&'p Claims>) -> Head<'p> {
        Head {
            arrival: &self.connection.arrival,
            remote: found.remote,
            method: &parts.method,
            scheme: found.scheme,
            authority: authority(&parts.headers),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
            grpc: found.grpc,
            claims,
        }
    }

    /// Step 9: a preflight is answered here; the headers of other answers are added at the end.
    fn cross_origin(&mut self, parts: &Parts, rule: Option<&Arc<Rule>>) -> Result<(), Box<Turned>> {
        let Some((rule, cors)) = rule.and_then(|rule| Some((rule, rule.filters.cors()?))) else { return Ok(()) };
        if let Some(answer) = cors.preflight(&parts.method, &parts.headers) {
            return Err(self.answered(answer));
        }
        self.cors = Some((rule.clone(), parts.headers.get(http::header::ORIGIN).cloned()));
        Ok(())
    }

    /// Step 9: delays and aborts on purpose.
    async fn faults(&mut self, rule: Option<&Arc<Rule>>) -> Result<(), Box<Turned>> {
        let Some(fault) = rule.and_then(|rule| rule.filters.fault()) else { return Ok(()) };
        let drawn = fault::draw(fault, &mut rand::rng());
        if let Some(delay) = drawn.delay {
            self.account.flag(Flags::DELAY_INJECTED);
            sleep(delay).await;
        }
        match drawn.abort {
            None => Ok(()),
            Some(fault::Abort::Http(status)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                Err(Reason::FaultAbort { status, grpc: None }.into())
            }
            Some(fault::Abort::Grpc(code)) => {
                let grpc = u16::try_from(code).ok();
                Err(Reason::FaultAbort { status: StatusCode::SERVICE_UNAVAILABLE, grpc }.into())
            }
        }
    }

    /// Step 12: which backend, and the filters, those of the rule before those of the backend.
    fn backend(&mut self, parts: &mut Parts, found: &Found, matched: Option<&Matched>) -> Result<Chosen, Box<Turned>> {
        let port = self.connection.arrival.target.port();
        let Some(matched) = matched else {
            return match &self.view {
                Some(view) => Ok(Chosen::plain(To::Backend(view.backend.clone()))),
                None => self.dialled().map(Chosen::plain),
            };
        };
        let rule = &matched.rule;
        let authority = authority(&parts.headers).to_owned();
        let site = Site { scheme: found.scheme, authority: &authority, port, matched: Some(matched) };
        rule.filters.request(parts, &site).map_err(|answer| self.answered(answer))?;
        let keys = &self.settings.mesh().session_keys;
        let held = rule.session.as_ref().and_then(|session| session::open(session, &parts.headers, keys, SystemTime::now()));
        let kept = held.as_ref().and_then(|held| held.among(&rule.backends));
        let backend = match kept {
            Some(backend) => backend,
            None => edit::choose_backend(&rule.backends, &mut rand::rng()).map_err(|answer| self.answered(answer))?,
        };
        backend.filters.request(parts, &site).map_err(|answer| self.answered(answer))?;
        let to = To::Backend(self.settings.backend(&backend.key));
        Ok(Chosen { to, filters: Some(backend.filters.clone()), held })
    }

    /// A workload that was dialled by its own address.
    fn dialled(&self) -> Result<To, Box<Turned>> {
        let arrival = &self.connection.arrival;
        let (workload, port) = match &arrival.target {
            Target::Workload { workload, port } => (workload, port),
            Target::Service { key, port } => {
                let key = choose::BackendKey { host: key.clone(), port: *port, subset: "".into() };
                return Ok(To::Backend(self.settings.backend(&key)));
            }
        };
        let address = arrival.dialled.map(|address| address.ip());
        let endpoint = Endpoint::of_workload(self.cx.reach.own(), workload, *port, None, address);
        Ok(To::Dialled(endpoint.map_err(|why| Reason::Fault(Fault::Connect(why)))?))
    }

    async fn forward(
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
        upgrade::ask(found.kind, &mut parts.method, &mut parts.headers, &mut rand::rng());
        let client = parts.extensions.remove::<OnUpgrade>().filter(|_| found.kind != Kind::Plain);
        let affinity = self.affinity(&parts, &found, &chosen);
        self.account.trace(&mut parts.headers);
        self.account.head(&parts);

        let plan = self.plan(rule, &found);
        let kept = if plan.may_retry() { self.policies.http.buffered_body_bytes } else { 0 };
        let replay = Replay::new(body, usize::try_from(kept).unwrap_or(usize::MAX));
        self.mirror(rule, &parts, &found, deadline, &replay);
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
            (Agreed::No, ..) => Ok(Answered { deadline, ..Answered::from(sent, found.grpc) }),
            (Agreed::Yes, Some(client), Some(endpoint)) => {
                upgrade::tell(found.kind, &mut sent.response);
                Ok(Answered { upgraded: Some((client, endpoint)), ..Answered::from(sent, found.grpc) })
            }
            (Agreed::Yes | Agreed::Nonsense, ..) => {
                Err(Reason::Fault(Fault::Protocol("an upgrade that was not asked for".into())).into())
            }
        }
    }

    fn plan(&self, rule: Option<&Rule>, found: &Found) -> Plan {
        let of_rule = rule.and_then(|rule| rule.retry.as_ref());
        let mut plan = Plan::of(of_rule, rule.is_some(), found.grpc, &self.settings.mesh().wire);
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
        if let Some(view) = self.settings.service(&key.host, key.port) {
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

    fn mirror(&self, rule: Option<&Rule>, parts: &Parts, found: &Found, deadline: Option<Instant>, replay: &Replay) {
        let Some(rule) = rule.filter(|_| found.kind == Kind::Plain) else { return };
        for key in rule.filters.mirrors(&mut rand::rng()) {
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

    /// What every answer gets, an endpoint's and ours.
    fn dress(&mut self, headers: &mut HeaderMap) {
        if let Some((rule, origin)) = self.cors.take()
            && let Some(cors) = rule.filters.cors()
        {
            cors.response(origin.as_ref(), headers);
        }
        for (name, value) in &self.extra {
            headers.append(name, value.clone());
        }
    }

    fn answered(&self, answer: edit::Answer) -> Box<Turned> {
        let edit::Answer { status, headers, body, reason } = answer;
        let reason = match reason {
            edit::Reason::Redirect | edit::Reason::Direct | edit::Reason::Preflight => {
                return Box::new(Turned { reason: Reason::Direct(status), answer: Some(reply::composed(status, headers, body, self.grpc)) });
            }
            edit::Reason::Invalid(reason) => Reason::Invalid { status, reason },
            edit::Reason::NoBackend => Reason::Invalid { status, reason: "no_backend".into() },
        };
        reason.into()
    }

    fn finish(mut self, answered: Answered) -> Response<Answer> {
        let Answered { mut response, asked, deadline, upgraded } = answered;
        *response.version_mut() = Spoken::HTTP_11;
        self.dress(response.headers_mut());
        self.account.because(&Reason::Upstream);
        let Some((client, endpoint)) = upgraded else { return self.close_with(response, asked, deadline) };
        // A stream of bytes from here on, which lasts as long as they flow.
        let mut account = self.account;
        account.responded(response.status(), response.headers());
        let (mut up, mut down) = (account.tap(Direction::Request), account.tap(Direction::Response));
        tokio::spawn(async move {
            upgrade::carry(client, endpoint, |bytes| up.data(bytes), |bytes| down.data(bytes)).await;
            drop(asked);
            account.close();
        });
        response.map(Answer::from)
    }

    fn refuse(mut self, turned: Turned) -> Response<Answer> {
        let Turned { reason, answer } = turned;
        let mut response = answer.unwrap_or_else(|| reply::of(&reason, self.grpc));
        self.dress(response.headers_mut());
        if matches!(reason, Reason::Malformed(_)) && self.spoken < Spoken::HTTP_2 {
            // Where the next request begins is anybody's guess.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(reason, Reason::Overflow) && self.policies.http.envoy_headers {
            response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        self.account.because(&reason);
        self.close_with(response, None, None)
    }

    fn close_with(mut self, response: Response<Body>, asked: Option<answer::Asked>, deadline: Option<Instant>) -> Response<Answer> {
        let (parts, mut body) = response.into_parts();
        if self.method == Method::HEAD && matches!(body, Body::Full(_)) {
            body = Body::Empty;
        }
        self.account.responded(parts.status, &parts.headers);
        let tap = self.account.tap(Direction::Response);
        let idle = self.policies.http.stream_idle_timeout.map(Idle::new);
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        Response::from_parts(parts, Answer::new(body, End { account: self.account, tap, asked, deadline, idle }))
    }
}

const UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Where a request goes.
enum To {
    Backend(Arc<choose::Backend>),
    /// The very workload that was dialled.
    Dialled(Endpoint),
}

struct Chosen {
    to: To,
    filters: Option<Filters>,
    held: Option<session::Held>,
}

impl Chosen {
    fn plain(to: To) -> Chosen {
        Chosen { to, filters: None, held: None }
    }
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
        let asked = active.map(|active| answer::Asked { active, judged, status, grpc, took });
        Answered { response, asked, deadline: None, upgraded: None }
    }
}

fn workload(endpoint: Option<&choose::Endpoint>) -> Option<&Arc<Workload>> {
    match &endpoint?.place {
        choose::Place::Workload(workload) => Some(workload),
        choose::Place::Name(_) | choose::Place::Address(_) => None,
    }
}

fn alpn(version: Version) -> Alpn {
    match version {
        Version::Http1 => Alpn::Http1,
        Version::Http2 => Alpn::Http2,
    }
}

/// After hygiene the name stands there once.
fn authority(headers: &HeaderMap) -> &str {
    headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
