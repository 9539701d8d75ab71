//! Pure: what a rule does to a request and to its answer beside sending it on: header edits, redirects, rewrites, CORS,
//! answers of its own, mirrors, and which backend it goes to (spec/waypoint.md 2.4, 2.5, 5.1).
//!
//! Names and values are validated when a rule is compiled. A filter that cannot be done as written is an error for the
//! requests that meet it, never left out.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mesh_xds::messages::waypoint::{self as wire, FilterKind};
use rand::Rng;

use crate::choose::BackendKey;
use crate::facts::Rejection;
use crate::route::Matched;

pub mod backend;
pub mod cors;
pub mod headers;
pub mod redirect;
pub mod rewrite;

pub use backend::{Backend, choose_backend, compile_backends};
pub use cors::Cors;

use headers::HeaderEdit;
use redirect::Redirect;
use rewrite::Rewrite;

/// Filters of one rule or backend. Gateway API allows 16 (spec/waypoint.md 2.1).
pub const FILTERS_MAX: usize = 64;

/// Bytes of a body in an answer of our own, from configuration.
pub const DIRECT_BODY_BYTES_MAX: usize = 1 << 20;

/// What we answer in the place of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub reason: Reason,
}

/// Why there is an answer of our own: what is told of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Redirect,
    Direct,
    Preflight,
    /// What was configured cannot be done; the reason is the controller's word, or ours.
    Invalid(Arc<str>),
    /// The rule has no backend that may be chosen.
    NoBackend,
}

/// What a filter needs to know beside the request itself.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// `http` or `https`, as the client speaks.
    pub scheme: &'a str,
    /// As the client wrote it.
    pub authority: &'a str,
    /// The service's port that was dialled: what Gateway API calls the listener's.
    pub port: u16,
    /// Which match the request fell under; decides what part of the path a prefix is.
    pub matched: Option<&'a Matched>,
}

/// Of a rule or a backend, in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Request(HeaderEdit),
    Response(HeaderEdit),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(backend::Mirror),
    Cors(Cors),
    Fault(wire::Fault),
    ExtAuthz(Arc<str>),
    /// A direct response, or a filter that cannot be done.
    Answer(Answer),
}

impl Filters {
    /// What cannot be done stands among them as an error; the second part says what it is.
    pub fn compile(filters: &[wire::Filter]) -> (Filters, Vec<String>) {
        let mut wrong = Vec::new();
        let mut steps = Vec::new();
        if filters.len() > FILTERS_MAX {
            wrong.push(format!("more than {FILTERS_MAX} filters"));
            steps.push(Step::Answer(Answer::invalid("too many filters")));
        }
        for (at, filter) in filters.iter().take(FILTERS_MAX).enumerate() {
            match Step::compile(filter) {
                Ok(step) => steps.push(step),
                Err(rejection) => {
                    wrong.push(format!("filter {at}: {}", rejection.message));
                    steps.push(Step::Answer(Answer::invalid(&rejection.message)));
                }
            }
        }
        (Filters { steps }, wrong)
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Header edits and rewrites, in order; a redirect, a direct response or a filter that cannot be done ends it with an answer.
    #[allow(
        clippy::result_large_err,
        reason = "an answer is what many rules are for, no rarity: it is moved, once for a request"
    )]
    pub fn request(&self, parts: &mut Parts, site: &Site<'_>) -> Result<(), Answer> {
        for step in &self.steps {
            match step {
                Step::Request(edit) => edit.apply(&mut parts.headers),
                Step::Rewrite(rewrite) => rewrite.apply(parts, site)?,
                Step::Redirect(redirect) => return Err(redirect.answer(parts, site)),
                Step::Answer(answer) => return Err(answer.clone()),
                Step::Response(_) | Step::Mirror(_) | Step::Cors(_) | Step::Fault(_) | Step::ExtAuthz(_) => {}
            }
        }
        Ok(())
    }

    /// Header edits of the answer. CORS is `Cors::response`.
    pub fn response(&self, headers: &mut HeaderMap) {
        for step in &self.steps {
            if let Step::Response(edit) = step {
                edit.apply(headers);
            }
        }
    }

    /// An answer that one of these filters gave, with their header edits of answers.
    #[must_use]
    pub fn dressed(&self, mut answer: Answer) -> Answer {
        self.response(&mut answer.headers);
        answer
    }

    /// Whether the answer will be our own, so that no backend need be chosen.
    pub fn answers(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Redirect(_) | Step::Answer(_)))
    }

    pub fn cors(&self) -> Option<&Cors> {
        self.steps.iter().find_map(|step| match step {
            Step::Cors(cors) => Some(cors),
            _ => None,
        })
    }

    pub fn fault(&self) -> Option<&wire::Fault> {
        self.steps.iter().find_map(|step| match step {
            Step::Fault(fault) => Some(fault),
            _ => None,
        })
    }

    /// Names of the providers that are to be asked, in order.
    pub fn ext_authz(&self) -> impl Iterator<Item = &Arc<str>> {
        self.steps.iter().filter_map(|step| match step {
            Step::ExtAuthz(provider) => Some(provider),
            _ => None,
        })
    }

    /// Where copies of this request go: each mirror is drawn by itself.
    pub fn mirrors(&self, chance: &mut impl Rng) -> Vec<&BackendKey> {
        let mirrors = self.steps.iter().filter_map(|step| match step {
            Step::Mirror(mirror) => Some(mirror),
            _ => None,
        });
        mirrors.filter(|mirror| mirror.drawn(chance)).map(|mirror| &mirror.key).collect()
    }

    /// The backends that mirrors may be sent to.
    pub fn mirror_keys(&self) -> impl Iterator<Item = &BackendKey> {
        self.steps.iter().filter_map(|step| match step {
            Step::Mirror(mirror) => Some(&mirror.key),
            _ => None,
        })
    }

    /// One word for each, for operators.
    pub fn words(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| match step {
            Step::Request(_) => "request-headers",
            Step::Response(_) => "response-headers",
            Step::Redirect(_) => "redirect",
            Step::Rewrite(_) => "rewrite",
            Step::Mirror(_) => "mirror",
            Step::Cors(_) => "cors",
            Step::Fault(_) => "fault",
            Step::ExtAuthz(_) => "ext-authz",
            Step::Answer(Answer { reason: Reason::Direct, .. }) => "direct-response",
            Step::Answer(_) => "invalid",
        })
    }
}

impl Step {
    fn compile(filter: &wire::Filter) -> Result<Step, Rejection> {
        let kind = filter.kind.as_ref().ok_or_else(|| Rejection::new("UnsupportedValue", "a filter of no kind"))?;
        Ok(match kind {
            FilterKind::RequestHeaders(edit) => Step::Request(HeaderEdit::compile(edit)?),
            FilterKind::ResponseHeaders(edit) => Step::Response(HeaderEdit::compile(edit)?),
            FilterKind::Redirect(redirect) => Step::Redirect(Redirect::compile(redirect)?),
            FilterKind::Rewrite(rewrite) => Step::Rewrite(Rewrite::compile(rewrite)?),
            FilterKind::Mirror(mirror) => Step::Mirror(backend::Mirror::compile(mirror)?),
            FilterKind::Cors(cors) => Step::Cors(Cors::compile(cors)?),
            FilterKind::Direct(direct) => Step::Answer(Answer::direct(direct)?),
            FilterKind::Fault(fault) => Step::Fault(fault.clone()),
            FilterKind::ExtAuthz(provider) => Step::ExtAuthz(provider.as_str().into()),
            FilterKind::Invalid(invalid) => Step::Answer(Answer::of_invalid(invalid)),
        })
    }
}

impl Answer {
    pub fn empty(status: StatusCode, reason: Reason) -> Answer {
        Answer { status, headers: HeaderMap::new(), body: Bytes::new(), reason }
    }

    /// 500: what is configured cannot be done.
    pub fn invalid(why: &str) -> Answer {
        Answer::empty(StatusCode::INTERNAL_SERVER_ERROR, Reason::Invalid(why.into()))
    }

    pub fn of_invalid(invalid: &wire::Invalid) -> Answer {
        let status = u16::try_from(invalid.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        // A status that is none, or that would look like success, is an error all the same.
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        let reason = Reason::Invalid(invalid.reason.as_str().into());
        Answer::empty(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), reason)
    }

    fn direct(direct: &wire::DirectResponse) -> Result<Answer, Rejection> {
        // Below 200 an answer is no answer yet.
        let status = u16::try_from(direct.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.filter(|status| status.as_u16() >= 200);
        let status =
            status.ok_or_else(|| Rejection::new("UnsupportedValue", format!("{} is no status of an answer", direct.status)))?;
        if direct.body.len() > DIRECT_BODY_BYTES_MAX {
            return Err(Rejection::new("UnsupportedValue", format!("a body of more than {DIRECT_BODY_BYTES_MAX} bytes")));
        }
        let mut answer = Answer { body: direct.body.clone().into(), ..Answer::empty(status, Reason::Direct) };
        if !answer.body.is_empty() {
            answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Ok(answer)
    }
}

/// The host of an authority, without its port.
pub(crate) fn host_of(authority: &str) -> &str {
    // After the last `]` of an IPv6 address; a port is digits only.
    let after = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after..].rfind(':') {
        Some(colon) if authority[after + colon + 1..].bytes().all(|c| c.is_ascii_digit()) => &authority[..after + colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests;
