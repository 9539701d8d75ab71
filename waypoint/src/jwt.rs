//! Tokens of end users (spec/waypoint.md 4.6). Read `rule` (what an operator wrote), `place` (where tokens stand), `token` and
//! `jwks` (when one is good), `judge` (what several rules say), `held` and `fetch` (issuers' keys). Here: the page that
//! brings them together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mesh_xds::messages::waypoint::JwtPolicy;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tracing::{debug, warn};

use crate::call::Caller;
use crate::facts::{Claims, Rejection};

pub mod rule;
mod url;
mod place;
mod jwks;
mod token;
mod judge;
mod held;
mod fetch;

use held::{Advice, Held};
use judge::{Known, Need, Step, judge};
use rule::{Remote, Rule};

/// Keys that nobody has asked for in so long are forgotten.
const UNUSED_FOR: Duration = Duration::from_secs(24 * 3600);

/// The rules of one RequestAuthentication.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// Where tokens are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
    /// Named in a refusal.
    pub authority: &'a str,
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
    let mut complaints = Vec::new();
    let read = |(index, wire)| {
        let (rule, wrong) = Rule::read(wire);
        complaints.extend(wrong.into_iter().map(|wrong| format!("rules[{index}].{wrong}")));
        rule
    };
    let rules = wire.rules.iter().enumerate().map(read).collect();
    let rejection = (!complaints.is_empty()).then(|| Rejection::new("PartiallyInvalid", complaints.join("; ")));
    (Policy { rules }, rejection)
}

/// Takes away what a client wrote into the headers that tell of verified tokens. For every request, whether its token
/// is looked at or not. `done`: policies for which this was done before; what stands in their headers now is ours. Whether
/// there was such a thing.
pub fn sanitize(policies: &[Arc<Policy>], done: &[Arc<Policy>], headers: &mut HeaderMap) -> bool {
    fn outputs(policies: &[Arc<Policy>]) -> impl Iterator<Item = &HeaderName> {
        policies.iter().flat_map(|policy| &policy.rules).flat_map(Rule::outputs)
    }
    let names = outputs(policies).filter(|name| !outputs(done).any(|known| known == *name));
    names.fold(false, |found, name| headers.remove(name).is_some() | found)
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
    slots: Mutex<HashMap<Remote, Arc<Slot>>>,
}

/// One issuer's.
#[derive(Default)]
struct Slot {
    held: Mutex<Held>,
    used: Mutex<Option<Instant>>,
    /// Held while somebody fetches: the others wait for what comes of it.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

impl Keys {
    pub fn new(caller: Arc<dyn Caller>) -> Keys {
        Keys { caller, slots: Mutex::default() }
    }

    /// Not for a CORS preflight, which carries no token.
    pub async fn authenticate(&self, policies: &[Arc<Policy>], parts: Parts<'_>) -> Outcome {
        let rules = || policies.iter().flat_map(|policy| &policy.rules);
        let mut learned: HashMap<Remote, Known> = HashMap::new();
        loop {
            let known = |remote: &Remote| learned.get(remote).cloned().unwrap_or_else(|| self.known(remote));
            match judge(rules(), parts, &known, SystemTime::now()) {
                Step::Done(outcome) => return outcome,
                // Each ends with `Failed` or with `last`: no issuer is asked for twice on behalf of one request and reason.
                Step::Need(need) => drop(learned.insert(need.keys.clone(), self.learn(&need).await)),
            }
        }
    }

    /// Without asking anybody.
    fn known(&self, remote: &Remote) -> Known {
        let slots = self.slots.lock();
        let Some(slot) = slots.get(remote) else { return Known::Nothing };
        *slot.used.lock() = Some(Instant::now());
        match slot.held.lock().advice(Instant::now()) {
            Advice::Use(keys) => Known::Keys { keys, last: false },
            Advice::Fetch | Advice::Fail => Known::Nothing,
        }
    }

    async fn learn(&self, need: &Need) -> Known {
        let slot = self.slot(&need.keys);
        let before = Instant::now();
        let turn = slot.fetching.clone().lock_owned().await;
        let now = Instant::now();
        let advice = slot.held.lock().advice(now);
        let (keys, fetch) = match advice {
            Advice::Fail => return Known::Failed,
            Advice::Fetch => (None, true),
            // Somebody else may have fetched them while this one waited.
            Advice::Use(keys) => {
                let may = need.anew && slot.held.lock().may_fetch_anew(before);
                (Some(keys), may)
            }
        };
        if fetch {
            // In a task of its own: a client that goes away does not make the next one begin anew.
            let fetching = refill(self.caller.clone(), slot.clone(), need.clone(), turn);
            if let Err(error) = tokio::spawn(fetching).await {
                warn!(%error, "fetching the keys of an issuer ended badly");
            }
        }
        match (slot.held.lock().advice(Instant::now()), keys) {
            (Advice::Use(keys), _) | (_, Some(keys)) => Known::Keys { keys, last: need.anew || fetch },
            _ => Known::Failed,
        }
    }

    fn slot(&self, remote: &Remote) -> Arc<Slot> {
        let now = Instant::now();
        let mut slots = self.slots.lock();
        if !slots.contains_key(remote) {
            slots.retain(|_, slot| slot.used.lock().is_none_or(|used| now.saturating_duration_since(used) < UNUSED_FOR));
        }
        let slot = slots.entry(remote.clone()).or_default().clone();
        *slot.used.lock() = Some(now);
        slot
    }
}

async fn refill(caller: Arc<dyn Caller>, slot: Arc<Slot>, need: Need, turn: OwnedMutexGuard<()>) {
    let fetched = fetch::keys(&*caller, &need.keys, need.timeout).await;
    let now = Instant::now();
    match fetched {
        Ok((keys, max_age)) => {
            debug!(?keys, "fetched the keys of an issuer");
            slot.held.lock().fetched(Arc::new(keys), max_age, now);
        }
        Err(error) => {
            warn!(%error, "the keys of an issuer cannot be fetched; tokens that need them are refused, or verified with earlier keys for up to a day");
            slot.held.lock().failed(now);
        }
    }
    drop(turn);
}

#[cfg(test)]
mod tests;
