//! Asking an authorization service (spec/waypoint.md 4.5). `over_http` and `over_grpc` say what is asked and what an answer
//! means; here: which service, and what its errors mean.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mesh_xds::messages::waypoint::{BackendRef, ExtAuthzProtocol, ExtAuthzProvider};
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::authorize::Ask;
use crate::call::{Caller, Limits, To, Version};
use crate::facts::{Arrival, Head, Rejection};
use crate::grpc;

mod wire;
mod names;
mod edits;
mod over_http;
mod over_grpc;
mod peek;

pub use edits::{Edits, HeaderEdit, How};
pub use peek::{BodyLimit, PeekError, Shown, peek};

use names::Names;

/// For one question, where the provider says nothing: long enough for a service that looks something up, short enough that its
/// trouble is noticed.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Of an answer over HTTP: it may become the client's page.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// For one and the same trouble of one provider.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who is asked, and how.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Or why it cannot be asked.
    rules: Result<Rules, Arc<str>>,
}

#[derive(Clone, Debug)]
struct Rules {
    protocol: ExtAuthzProtocol,
    backend: BackendRef,
    timeout: Duration,
    fail_open: bool,
    status_on_error: StatusCode,
    clear_route_cache: bool,
    path_prefix: String,
    include: Names,
    additional: Vec<(HeaderName, HeaderValue)>,
    body: Option<BodyLimit>,
    pack_as_bytes: bool,
    to_upstream: Names,
    /// None: everything.
    to_client_on_deny: Option<Names>,
    to_client_on_allow: Names,
    /// When it was last said that the service cannot be asked.
    warned: Arc<Mutex<Option<Instant>>>,
}

/// What the service is asked about.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub head: &'a Head<'a>,
    pub version: http::Version,
    /// Where `Provider::body` asks for it.
    pub body: Option<&'a Shown>,
}

#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Answer {
    Allow(Edits),
    Deny(Response),
}

/// For the client, in place of the endpoint's.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `response_code_details` (spec/waypoint.md 6.2); the flag is UAEX.
    pub details: String,
}

/// What the service said.
#[derive(Debug)]
enum Said {
    Allow(Edits),
    Deny { status: StatusCode, headers: HeaderMap, body: Bytes },
    /// `status`: for the client, where the service gave one.
    Error { why: String, status: Option<StatusCode> },
}

/// A provider that cannot be used is kept: whatever would ask it is refused.
pub fn compile(wire: &ExtAuthzProvider) -> (Provider, Option<Rejection>) {
    let rules = rules(wire);
    let rejection = rules.as_ref().err().map(|why| Rejection::new("Invalid", format!("{why}: what would ask it is refused")));
    (Provider { rules: rules.map_err(Arc::from) }, rejection)
}

fn rules(wire: &ExtAuthzProvider) -> Result<Rules, String> {
    if !wire.invalid.is_empty() {
        return Err(wire.invalid.clone());
    }
    let names = |field: &str, texts: &[String]| Names::read(texts).map_err(|why| format!("{field} {why}"));
    let code = u16::try_from(wire.status_on_error).unwrap_or(u16::MAX);
    let status = if code == 0 { Some(StatusCode::FORBIDDEN) } else { StatusCode::from_u16(code).ok() };
    // An answer of the client's needs a final status that means something.
    let status = status.filter(|status| !status.is_informational() && status.canonical_reason().is_some());
    let additional = wire.additional_headers.iter().map(|header| {
        let name = HeaderName::try_from(header.name.as_str()).map_err(|_| format!("includeAdditionalHeadersInCheck: {:?} is not the name of a header", header.name))?;
        let value = HeaderValue::from_str(&header.value).map_err(|_| format!("includeAdditionalHeadersInCheck: the value of {:?} is not one of a header", header.name))?;
        Ok((name, value))
    });
    let deny = &wire.headers_to_downstream_on_deny;
    Ok(Rules {
        protocol: ExtAuthzProtocol::try_from(wire.protocol).map_err(|_| format!("protocol: {} is not known", wire.protocol))?,
        backend: wire.backend.clone().filter(|backend| backend.host.is_some()).ok_or("service: is missing")?,
        timeout: if wire.timeout_ms == 0 { TIMEOUT_DEFAULT } else { Duration::from_millis(wire.timeout_ms) },
        fail_open: wire.fail_open,
        status_on_error: status.ok_or_else(|| format!("statusOnError: {} is not a status of HTTP", wire.status_on_error))?,
        clear_route_cache: wire.clear_route_cache,
        path_prefix: wire.path_prefix.trim_end_matches('/').to_owned(),
        include: names("includeRequestHeadersInCheck", &wire.include_request_headers)?,
        additional: additional.collect::<Result<_, String>>()?,
        body: wire.body.as_ref().map(|body| BodyLimit { max_bytes: usize::try_from(body.max_bytes).unwrap_or(usize::MAX), allow_partial: body.allow_partial }),
        pack_as_bytes: wire.body.as_ref().is_some_and(|body| body.pack_as_bytes),
        to_upstream: names("headersToUpstreamOnAllow", &wire.headers_to_upstream_on_allow)?,
        to_client_on_deny: if deny.is_empty() { None } else { Some(names("headersToDownstreamOnDeny", deny)?) },
        to_client_on_allow: names("headersToDownstreamOnAllow", &wire.headers_to_downstream_on_allow)?,
        warned: Arc::default(),
    })
}

impl Provider {
    /// None: the service does not want to see bodies.
    pub fn body(&self) -> Option<BodyLimit> {
        self.rules.as_ref().ok()?.body
    }
}

/// `provider`: none where there is no provider of the name that `ask` gives; then the request is refused. Errors have become
/// one of the two answers here, as the provider says.
pub async fn check(provider: Option<&Provider>, ask: &Ask, question: &Question<'_>, caller: &dyn Caller) -> Answer {
    let rules = match usable(provider, ask) {
        Ok(rules) => rules,
        Err(response) => return Answer::Deny(*response),
    };
    let said = match rules.protocol {
        ExtAuthzProtocol::Http => check_over_http(rules, question, caller).await,
        ExtAuthzProtocol::Grpc => check_over_grpc(rules, over_grpc::request(rules, question, SystemTime::now()), caller).await,
    };
    answer(rules, ask, said)
}

/// May this stream of bytes pass? A provider that speaks HTTP is not asked (spec/waypoint.md 4.4).
///
/// # Errors
/// `response_code_details` of a refusal: the stream is closed.
pub async fn check_stream(provider: Option<&Provider>, ask: &Ask, arrival: &Arrival, server_name: Option<&str>, caller: &dyn Caller) -> Result<(), String> {
    let rules = usable(provider, ask).map_err(|response| response.details)?;
    if rules.protocol == ExtAuthzProtocol::Http {
        return Ok(());
    }
    let said = check_over_grpc(rules, over_grpc::request_of_stream(arrival, server_name, SystemTime::now()), caller).await;
    match answer(rules, ask, said) {
        Answer::Allow(_) => Ok(()),
        Answer::Deny(response) => Err(response.details),
    }
}

/// A policy whose provider cannot be asked refuses what it matches.
fn usable<'p>(provider: Option<&'p Provider>, ask: &Ask) -> Result<&'p Rules, Box<Response>> {
    let why = match provider.map(|provider| &provider.rules) {
        Some(Ok(rules)) => return Ok(rules),
        Some(Err(why)) => why,
        None => "there is no provider of this name",
    };
    debug!(provider = %ask.provider, why, "refused: the provider cannot be asked");
    let details = details("ext_authz_error", ask);
    Err(Box::new(Response { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: Bytes::from_static(b"RBAC: access denied"), details }))
}

/// For the log: what happened, and on whose behalf somebody was asked.
fn details(what: &str, ask: &Ask) -> String {
    match &ask.policy {
        Some(policy) => format!("{what}[provider[{}]-ns[{}]-policy[{}]-rule[{}]]", ask.provider, policy.namespace, policy.name, ask.rule),
        None => format!("{what}[provider[{}]]", ask.provider),
    }
}

async fn check_over_http(rules: &Rules, question: &Question<'_>, caller: &dyn Caller) -> Said {
    let limits = Limits { timeout: rules.timeout, max_body: ANSWER_BYTES_MAX };
    match over_http::request(rules, question) {
        Err(why) => Said::Error { why, status: None },
        Ok(request) => match caller.call(To::Backend(&rules.backend), Version::Http1, request, limits).await {
            Ok(reply) => over_http::answer(rules, reply),
            Err(error) => Said::Error { why: error.to_string(), status: None },
        },
    }
}

async fn check_over_grpc(rules: &Rules, request: wire::CheckRequest, caller: &dyn Caller) -> Said {
    let host = rules.backend.host.as_ref().map_or("", |host| &host.hostname);
    let authority = format!("{host}:{}", rules.backend.port);
    match grpc::unary(caller, To::Backend(&rules.backend), &authority, wire::CHECK, HeaderMap::new(), &request, rules.timeout).await {
        Ok(response) => over_grpc::answer(response),
        Err(failure) => Said::Error { why: failure.to_string(), status: None },
    }
}

fn answer(rules: &Rules, ask: &Ask, said: Said) -> Answer {
    match said {
        Said::Allow(mut edits) => {
            edits.clear_route_cache = rules.clear_route_cache && edits.changes_the_request();
            Answer::Allow(edits)
        }
        Said::Deny { status, headers, body } => Answer::Deny(Response { status, headers, body, details: details("ext_authz_denied", ask) }),
        Said::Error { why, status } => {
            rules.warn(ask, &why);
            if rules.fail_open {
                return Answer::Allow(Edits { failed_open: true, ..Edits::default() });
            }
            let status = status.unwrap_or(rules.status_on_error);
            Answer::Deny(Response { status, headers: HeaderMap::new(), body: Bytes::new(), details: details("ext_authz_error", ask) })
        }
    }
}

impl Rules {
    /// A service in trouble is in trouble for every request: the log says it now and then.
    fn warn(&self, ask: &Ask, why: &str) {
        let now = Instant::now();
        let mut warned = self.warned.lock();
        if warned.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY) {
            *warned = Some(now);
            let then = if self.fail_open { "requests pass, because the provider fails open" } else { "requests are refused" };
            warn!(provider = %ask.provider, why, "the authorization service cannot be asked: {then}");
        }
    }
}

#[cfg(test)]
mod tests;
