//! Asking an authorization service (spec/waypoint.md 4.5).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mesh_xds::messages::waypoint::ExtAuthzProvider;

use crate::authorize::Ask;
use crate::call::Caller;
use crate::facts::{Arrival, Head, Rejection};

/// Who is asked, and how.
#[derive(Clone, Debug)]
pub struct Provider {
    wire: ExtAuthzProvider,
}

/// How much of a request's body the service is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit {
    pub max_bytes: usize,
    /// The first `max_bytes` of a longer body are shown; else such a request is refused (413).
    pub allow_partial: bool,
}

/// The beginning of a request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub bytes: Bytes,
    /// There is more of it.
    pub partial: bool,
}

#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Answer {
    Allow(Edits),
    Deny(Response),
}

/// What an allowed request and its response get.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    pub request: Vec<(HeaderEdit, HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
    pub set_query: Vec<(String, String)>,
    pub remove_query: Vec<String>,
    pub response: Vec<(HeaderEdit, HeaderName, HeaderValue)>,
    /// The route is matched anew.
    pub clear_route_cache: bool,
    pub metadata: Option<prost_types::Struct>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

/// For the client, in place of the service's.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `response_code_details` (spec/waypoint.md 6.2); the flag is UAEX.
    pub details: String,
}

/// A provider that cannot be used is kept: whatever would ask it is refused.
pub fn compile(wire: &ExtAuthzProvider) -> (Provider, Option<Rejection>) {
    (Provider { wire: wire.clone() }, None)
}

impl Provider {
    /// None: the service does not want to see bodies.
    pub fn body(&self) -> Option<BodyLimit> {
        let body = self.wire.body.as_ref()?;
        Some(BodyLimit { max_bytes: usize::try_from(body.max_bytes).unwrap_or(usize::MAX), allow_partial: body.allow_partial })
    }
}

/// `provider`: none where there is no provider of the name that `ask` gives; then the request is refused. `body`: given
/// where `Provider::body` asks for it. Errors have become one of the two answers here, as the provider says.
pub async fn check(provider: Option<&Provider>, ask: &Ask, head: &Head<'_>, body: Option<&Body>, caller: &dyn Caller) -> Answer {
    let _ = (provider, head, body, caller);
    Answer::Deny(refusal(ask))
}

/// May this stream of bytes pass? A provider that speaks HTTP is not asked (spec/waypoint.md 4.4).
///
/// # Errors
/// `response_code_details` of a refusal: the stream is closed.
pub async fn check_stream(provider: Option<&Provider>, ask: &Ask, arrival: &Arrival, server_name: Option<&str>, caller: &dyn Caller) -> Result<(), String> {
    let _ = (provider, arrival, server_name, caller);
    Err(refusal(ask).details)
}

fn refusal(ask: &Ask) -> Response {
    let details = format!("ext_authz_error[{}]", ask.provider);
    Response { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: Bytes::new(), details }
}
