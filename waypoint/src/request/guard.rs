//! What policies say of a request, in the order of spec/waypoint.md 1.5: those whom CUSTOM policies ask, the token, then
//! AUDIT, DENY, ALLOW. Each sees the request as the one before has left it.

use std::sync::Arc;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, Uri};

use crate::authorize::{self, Ask, Note};
use crate::body::Body;
use crate::call::Caller;
use crate::error::Reason;
use crate::ext_authz::{self, Answer, PeekError, Question};
use crate::facts::{Arrival, Claims, Head};
use crate::hygiene::Found;
use crate::jwt;
use crate::reply;
use crate::settings::{Policies, Settings};

/// What a request is judged by, beside itself.
pub struct Guard<'a> {
    pub settings: &'a Settings,
    pub policies: &'a Policies,
    pub keys: &'a jwt::Keys,
    pub caller: &'a dyn Caller,
    pub arrival: &'a Arrival,
    pub found: &'a Found,
}

/// What is known of a request that may go on.
#[derive(Debug, Default)]
pub struct Passed {
    pub claims: Option<Claims>,
    /// For the response, and for the log.
    pub asked: Vec<ext_authz::Edits>,
    /// The route is to be matched anew: claims are known now, or were made up by the client and are gone, or somebody who was
    /// asked has changed the request and wants it so. Where another rule is found, its policies are to be heard as well: `Guard::again`.
    pub rematch: bool,
    /// On whose behalf somebody was asked already.
    heard: Vec<Ask>,
    pub allowed_by: Option<authorize::PolicyName>,
    pub notes: Vec<Note>,
}

/// Why it may not, and what the client is told.
pub struct Refused {
    pub reason: Reason,
    pub answer: Response<Body>,
}

impl Guard<'_> {
    /// # Errors
    /// The request goes no further.
    pub async fn pass(&self, parts: &mut Parts, body: &mut Body) -> Result<Passed, Box<Refused>> {
        let forged = jwt::sanitize(&self.policies.jwt, &[], &mut parts.headers);
        let mut passed = Passed { rematch: forged, ..Passed::default() };
        let trust_domains = &self.settings.mesh().trust_domains;
        for ask in authorize::custom(&self.policies.authz, &self.head(parts, None), trust_domains) {
            self.ask(&ask, parts, body, &mut passed).await?;
        }
        if !is_preflight(&parts.method, &parts.headers) {
            passed.claims = self.authenticate(&self.policies.jwt, parts).await?;
            passed.rematch |= passed.claims.is_some();
        }
        self.judge(parts, &mut passed)?;
        Ok(passed)
    }

    /// Of a rule that was found only now: what its policies say beside those of `before`, which were heard. A token that was
    /// verified has been taken off, and no other is looked for.
    ///
    /// # Errors
    /// The request goes no further.
    pub async fn again(&self, before: &Policies, parts: &mut Parts, body: &mut Body, passed: &mut Passed) -> Result<(), Box<Refused>> {
        let is_new = |policy: &&Arc<jwt::Policy>| !before.jwt.iter().any(|known| Arc::ptr_eq(known, policy));
        let new: Vec<Arc<jwt::Policy>> = self.policies.jwt.iter().filter(is_new).cloned().collect();
        jwt::sanitize(&new, &before.jwt, &mut parts.headers);
        let asks = authorize::custom(&self.policies.authz, &self.head(parts, passed.claims.as_ref()), &self.settings.mesh().trust_domains);
        for ask in asks {
            if !passed.heard.iter().any(|heard| heard.provider == ask.provider) {
                self.ask(&ask, parts, body, passed).await?;
            }
        }
        if passed.claims.is_none() && !is_preflight(&parts.method, &parts.headers) {
            passed.claims = self.authenticate(&new, parts).await?;
        }
        self.judge(parts, passed)
    }

    fn judge(&self, parts: &Parts, passed: &mut Passed) -> Result<(), Box<Refused>> {
        let head = self.head(parts, passed.claims.as_ref());
        let verdict = authorize::decide(&self.policies.authz, &head, &self.settings.mesh().trust_domains);
        passed.notes = verdict.notes;
        passed.allowed_by = verdict.allowed_by;
        match verdict.refused {
            None => Ok(()),
            Some(refused) => {
                tracing::debug!(source = %self.arrival.identity, details = refused.details, malformed = refused.malformed, "a request is refused");
                Err(self.refused(Reason::Rbac { details: refused.details.into() }))
            }
        }
    }

    /// One provider: for a CUSTOM policy, or for the filter of a route (`Ask::of_route`), which stands further down the page.
    ///
    /// # Errors
    /// The request goes no further.
    pub async fn ask(&self, ask: &Ask, parts: &mut Parts, body: &mut Body, passed: &mut Passed) -> Result<(), Box<Refused>> {
        let provider = self.settings.ext_authz(&ask.provider).map(|provider| &**provider);
        let mut shown = None;
        if let Some(limit) = provider.and_then(ext_authz::Provider::body) {
            let (beginning, whole) = ext_authz::peek(std::mem::take(body), limit).await.map_err(|error| match error {
                PeekError::TooLarge => self.refused(Reason::BodyTooLarge),
                PeekError::Broken(_) => self.refused(Reason::ClientGone),
            })?;
            *body = whole;
            shown = Some(beginning);
        }
        let head = self.head(parts, passed.claims.as_ref());
        let question = Question { head: &head, version: parts.version, body: shown.as_ref() };
        match ext_authz::check(provider, ask, &question, self.caller).await {
            Answer::Allow(edits) => {
                edit(parts, |headers, query| edits.apply(headers, query));
                passed.rematch |= edits.clear_route_cache;
                passed.asked.push(edits);
                passed.heard.push(ask.clone());
                Ok(())
            }
            Answer::Deny(response) => {
                let reason = Reason::ExtAuthz { status: response.status, details: response.details.into() };
                let answer = reply::composed(response.status, response.headers, response.body, self.found.grpc);
                Err(Box::new(Refused { reason, answer }))
            }
        }
    }

    async fn authenticate(&self, policies: &[Arc<jwt::Policy>], parts: &mut Parts) -> Result<Option<Claims>, Box<Refused>> {
        let of_token = jwt::Parts { headers: &parts.headers, query: parts.uri.query(), authority: authority(&parts.headers) };
        match self.keys.authenticate(policies, of_token).await {
            jwt::Outcome::None => Ok(None),
            jwt::Outcome::Verified(verified) => {
                edit(parts, |headers, query| verified.edits.apply(headers, query));
                Ok(Some(verified.claims))
            }
            jwt::Outcome::Refused(refused) => {
                let mut denied = self.refused(Reason::Jwt { text: refused.text, details: refused.details.into() });
                denied.answer.headers_mut().insert(WWW_AUTHENTICATE, refused.www_authenticate);
                Err(denied)
            }
        }
    }

    fn head<'a>(&'a self, parts: &'a Parts, claims: Option<&'a Claims>) -> Head<'a> {
        Head {
            arrival: self.arrival,
            remote: self.found.remote,
            method: &parts.method,
            scheme: self.found.scheme,
            authority: authority(&parts.headers),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
            grpc: self.found.grpc,
            claims,
        }
    }

    fn refused(&self, reason: Reason) -> Box<Refused> {
        let answer = reply::of(&reason, self.found.grpc);
        Box::new(Refused { reason, answer })
    }
}

/// A browser's question whether it may ask: it carries no token, and asks for none.
fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// After hygiene the name stands there once.
pub(super) fn authority(headers: &HeaderMap) -> &str {
    headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

fn edit(parts: &mut Parts, apply: impl FnOnce(&mut HeaderMap, &mut Option<String>)) {
    let before = parts.uri.query().map(str::to_owned);
    let mut query = before.clone();
    apply(&mut parts.headers, &mut query);
    if query == before {
        return;
    }
    let target = match query {
        Some(query) => format!("{}?{query}", parts.uri.path()),
        None => parts.uri.path().to_owned(),
    };
    // What was taken from a URI, and percent-encoded text, make a URI.
    if let Ok(target) = PathAndQuery::try_from(target) {
        parts.uri = Uri::from(target);
    }
}

#[cfg(test)]
mod tests;
