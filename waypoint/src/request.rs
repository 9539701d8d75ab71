//! An HTTP request, top to bottom (spec/waypoint.md 1.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version as Spoken};
use hyper::body::Incoming;
use mesh_runtime::Watched;
use mesh_xds::messages::waypoint::PortProtocol;
use mesh_xds::world::World;
use tokio::time::{sleep, timeout};

use crate::account::{Account, Books, Direction};
use crate::authorize::Ask;
use crate::body::Body;
use crate::call::Caller;
use crate::edit::{self, Filters, Site};
use crate::error::{Flags, Reason};
use crate::exchange::{Exchange, Fault};
use crate::facts::{Claims, Head, Target};
use crate::http1or2::Connection;
use crate::hygiene::{self, Found, Kind, Manner};
use crate::limit::{self, Phase, Subject};
use crate::permits::{Law, Permits, Under};
use crate::reach::Reach;
use crate::route::{Matched, Rule};
use crate::settings::{Policies, ServiceView, Settings};
use crate::upstream::Endpoint;
use crate::{choose, fault, jwt, reply, session};

mod again;
mod answer;
mod close;
mod expect;
mod forward;
mod grpc_web;
pub mod guard;
mod guests;
mod inbound;
mod judged;
mod lasting;
mod mirror;
mod outgoing;
mod replay;
mod upgrade;

use again::Again;
pub use answer::{Answer, Carrier};
use expect::Expectation;
use forward::Answered;
use grpc_web::Dialect;
use guard::{Guard, authority};
pub use guests::{Entered, Guest, Guests};
use inbound::Inbound;
pub use judged::Judged;
pub use mirror::Mirrors;

/// What requests share.
pub struct Context {
    pub settings: Watched<Settings>,
    pub world: Watched<World>,
    pub reach: Arc<Reach>,
    pub exchange: Exchange,
    pub books: Arc<Books>,
    pub mirrors: Mirrors,
    pub guests: Guests,
    pub permits: Permits,
    /// Keys that tokens are verified with.
    pub keys: jwt::Keys,
    /// For questions of our own.
    pub caller: Arc<dyn Caller>,
    /// The process is to end.
    pub stopping: AtomicBool,
}

impl Context {
    /// Nothing is kept, in flight or known yet.
    pub fn new(
        settings: Watched<Settings>,
        world: Watched<World>,
        reach: Arc<Reach>,
        exchange: Exchange,
        books: Arc<Books>,
        caller: Arc<dyn Caller>,
    ) -> Context {
        Context {
            permits: Permits::new(settings.clone()),
            settings,
            world,
            reach,
            exchange,
            books,
            mirrors: Mirrors::default(),
            guests: Guests::default(),
            keys: jwt::Keys::new(caller.clone()),
            caller,
            stopping: AtomicBool::new(false),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
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
    /// A client that speaks gRPC as browsers do.
    web: Option<Dialect>,
    /// Its place among what is in flight; none: there was no room.
    entered: Option<Entered>,
    /// Its service is bound to us no longer.
    parted: bool,
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

pub async fn request(incoming: Request<Incoming>, connection: &Connection, guest: &Guest, cx: &Arc<Context>) -> Response<Answer> {
    let mut page = Page::open(&incoming, connection, guest.enter(), cx);
    match page.run(incoming).await {
        Ok(answered) => page.finish(answered),
        Err(turned) => page.refuse(*turned),
    }
}

impl<'a> Page<'a> {
    fn open(incoming: &Request<Incoming>, connection: &'a Connection, entered: Option<Entered>, cx: &'a Arc<Context>) -> Page<'a> {
        let judged = match &connection.arrival.target {
            Target::Service { key, port } => cx.judged(key, *port),
            Target::Workload { .. } => Judged { settings: cx.settings.load(), view: None, parted: false },
        };
        judged.count(cx, "request");
        let Judged { settings, view, parted } = judged;
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
            web: None,
            entered,
            settings,
            parted,
        }
    }

    async fn run(&mut self, incoming: Request<Incoming>) -> Result<Answered, Box<Turned>> {
        let (mut parts, body) = incoming.into_parts();
        if self.entered.is_none() {
            return Err(Reason::ClientOverLimit.into());
        }
        let mut found = self.clean(&mut parts)?;
        self.account.head(&parts);
        let (mut body, expectation) = self.inbound(body, &found);
        if self.connection.class == PortProtocol::GrpcWeb
            && let Some(dialect) = Dialect::of(&parts.headers)
        {
            body = dialect.request(&mut parts.headers, body);
            (self.grpc, found.grpc) = (true, true);
            found.grpc_timeout = hygiene::grpc_timeout(&parts.headers).map_err(|what| Box::<Turned>::from(Reason::Malformed(what)))?;
            self.web = Some(dialect);
        }
        let mut matched = self.route(&parts, &found, None);
        let first = matched.rule().map(|matched| matched.rule.clone());
        self.limits(Phase::BeforeAuthn, &mut parts, &found, first.as_deref(), None).await?;
        let within = found.grpc_timeout.into_iter().chain(first.as_ref().and_then(|rule| rule.request_timeout)).min();
        let judged = self.guard(&found, async |guard| guard.pass(&mut parts, &mut body).await);
        let mut passed = self.in_time(within, &found, judged).await?;
        if passed.rematch {
            let before = self.policies.clone();
            matched = self.route(&parts, &found, passed.claims.as_ref());
            if !Arc::ptr_eq(&before, &self.policies) {
                let judged = self.guard(&found, async |guard| guard.again(&before, &mut parts, &mut body, &mut passed).await);
                self.in_time(within, &found, judged).await?;
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
        self.faults(rule.as_ref()).await?;
        self.cross_origin(&parts, rule.as_ref())?;
        for provider in rule.iter().flat_map(|rule| rule.filters.ext_authz()) {
            let ask = Ask::of_route(provider);
            let asked = self.guard(&found, async |guard| guard.ask(&ask, &mut parts, &mut body, &mut passed).await);
            self.in_time(within, &found, asked).await?;
        }
        // As it was judged, and not as an upgrade or a route's filters will leave it.
        let changes = found.kind != Kind::Plain || rule.as_ref().is_some_and(|rule| rule.is_filtered());
        let head = again::Head::of(&parts, &found, changes);
        let chosen = self.backend(&mut parts, &found, matched.rule())?;
        let mut answered = self.forward(parts, (body, expectation), found, matched.rule(), chosen).await?;
        for edits in &passed.asked {
            edits.apply_to_response(answered.response.headers_mut());
        }
        if answered.upgraded.is_some() || lasting::lasts(answered.response.body()) {
            let head = head.sent_with(std::mem::take(&mut answered.headers));
            answered.again = Some(self.again(head, passed, rule.as_deref()));
        }
        Ok(answered)
    }

    /// For what goes on after its answer.
    fn again(&self, (parts, found): (Parts, Found), passed: guard::Passed, rule: Option<&Rule>) -> Again {
        let under = Under::of(&self.connection.arrival.target, rule.map(|rule| &rule.resource));
        let judged_by = Law { policies: self.policies.clone(), mesh: self.settings.mesh().clone() };
        let permit = self.cx.permits.enter(under, judged_by);
        let (cx, arrival, policies) = (self.cx.clone(), self.connection.arrival.clone(), self.policies.clone());
        Again { cx, arrival, permit, policies, parts, found, passed }
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

    /// A step that waits for others, a client's body among them, takes no longer than the whole request may.
    async fn in_time<T>(
        &self,
        within: Option<Duration>,
        found: &Found,
        step: impl Future<Output = Result<T, Box<Turned>>>,
    ) -> Result<T, Box<Turned>> {
        let Some(within) = within else { return step.await };
        match timeout(within.saturating_sub(self.begun.elapsed()), step).await {
            Ok(done) => done,
            Err(_) if found.grpc_timeout == Some(within) => Err(Reason::DeadlineExceeded.into()),
            Err(_) => Err(Reason::RequestTimeout.into()),
        }
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
        let keys = &self.settings.mesh().session_keys;
        // Before the filters, which may take it away.
        let held = rule.session.as_ref().and_then(|session| session::open(session, &parts.headers, keys, SystemTime::now()));
        // As it was before they changed anything.
        let authority = if rule.filters.is_empty() && rule.backends.iter().all(|backend| backend.filters.is_empty()) {
            String::new()
        } else {
            authority(&parts.headers).to_owned()
        };
        let site = Site { scheme: found.scheme, authority: &authority, port, matched: Some(matched) };
        rule.filters.request(parts, &site).map_err(|answer| self.answered(rule.filters.dressed(answer)))?;
        let kept = held.as_ref().and_then(|held| held.among(&rule.backends));
        let backend = match kept {
            Some(backend) => backend,
            None => edit::choose_backend(&rule.backends, &mut rand::rng()).map_err(|answer| self.answered(answer))?,
        };
        let dressed = |answer| rule.filters.dressed(backend.filters.dressed(answer));
        backend.filters.request(parts, &site).map_err(|answer| self.answered(dressed(answer)))?;
        let to = To::Backend(self.settings.backend(&backend.key));
        Ok(Chosen { to, filters: Some(backend.filters.clone()), held })
    }

    /// A workload that was dialled by its own address.
    fn dialled(&self) -> Result<To, Box<Turned>> {
        let arrival = &self.connection.arrival;
        let (workload, port) = match &arrival.target {
            Target::Workload { workload, port } => (workload, port),
            // It was served when the tunnel came, and is no longer.
            Target::Service { .. } => return Err(Reason::RouteNotFound.into()),
        };
        let endpoint = Endpoint::dialled(self.cx.reach.own(), arrival, workload, *port);
        Ok(To::Dialled(Box::new(endpoint.map_err(|why| Reason::Fault(Fault::Connect(why)))?)))
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
}

/// Where a request goes.
enum To {
    Backend(Arc<choose::Backend>),
    /// The very workload that was dialled.
    Dialled(Box<Endpoint>),
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

#[cfg(test)]
mod tests;
