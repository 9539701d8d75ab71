//! Tokens of end users (spec/waypoint.md 4.6).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mesh_xds::messages::waypoint::JwtPolicy;

use crate::call::Caller;
use crate::facts::{Claims, Rejection};

/// The rules of one RequestAuthentication.
#[derive(Clone, Debug)]
pub struct Policy {
    wire: JwtPolicy,
}

/// Where tokens are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// No rule finds a token.
    None,
    Verified(Box<Verified>),
    Refused(Refused),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    pub claims: Claims,
    pub edits: Edits,
}

/// What becomes of the request that brought the token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
    /// The new query, where the token stood in it.
    pub query: Option<Option<String>>,
}

/// The answer is `status`, `text` (text/plain) and the header `www-authenticate`.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    pub status: StatusCode,
    pub text: &'static str,
    pub www_authenticate: HeaderValue,
    /// `response_code_details` (spec/waypoint.md 6.2).
    pub details: String,
}

/// A policy is in force whatever is wrong with it: a rule that cannot be read verifies no token.
pub fn compile(wire: &JwtPolicy) -> (Policy, Option<Rejection>) {
    (Policy { wire: wire.clone() }, None)
}

impl Edits {
    pub fn apply(&self, headers: &mut HeaderMap, query: &mut Option<String>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        if let Some(new) = &self.query {
            query.clone_from(new);
        }
    }
}

/// The keys of every issuer; one per process.
pub struct Keys {
    caller: Arc<dyn Caller>,
}

impl Keys {
    pub fn new(caller: Arc<dyn Caller>) -> Keys {
        Keys { caller }
    }

    /// Not for a CORS preflight, which carries no token.
    pub async fn authenticate(&self, policies: &[Arc<Policy>], parts: Parts<'_>) -> Outcome {
        let _ = (&self.caller, parts);
        match policies.iter().find(|policy| !policy.wire.rules.is_empty()) {
            None => Outcome::None,
            Some(_) => Outcome::Refused(Refused {
                status: StatusCode::UNAUTHORIZED,
                text: "Jwt verification fails",
                www_authenticate: HeaderValue::from_static("Bearer"),
                details: "jwt_authn_access_denied{Jwt_verification_fails}".to_owned(),
            }),
        }
    }
}
