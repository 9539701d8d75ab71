//! Rate limits (spec/waypoint.md 5.10): buckets of this process, and a service that counts for all.
//!
//! A request takes a token of every local limit that it falls under, or, where one has none, of none of them. Then the
//! services that count are asked. The first that refuses has the say; limits in shadow only tell.

pub mod bucket;
pub mod descriptor;
pub mod remote;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_xds::messages::waypoint as wire;

pub use self::descriptor::Subject;

use self::bucket::{Buckets, Key, Rate};
use self::descriptor::{Entry, values};
use self::remote::{DescriptorEntry, RateLimitDescriptor, RateLimitRequest, Told};
use crate::call::Caller;
use crate::facts::Rejection;
use crate::route::Matcher;

/// A faster fill is a rate that fewer tokens at a time can say.
const FILL_MIN: Duration = Duration::from_millis(50);
/// The field's: a counter that is slower than this costs more than it saves.
const TIMEOUT: Duration = Duration::from_millis(20);

/// A RateLimit object in force. It holds its buckets, so it is shared by everything that it is for.
#[derive(Debug)]
pub struct Limit {
    /// `namespace/name` of the user's object.
    pub name: Arc<str>,
    phase: Phase,
    local: Vec<Local>,
    global: Option<Global>,
    headers: bool,
    shadow: bool,
    grpc_status: u16,
    /// Why it cannot be done as it is written: nobody knows how much may pass, so nothing does.
    broken: Option<Box<str>>,
    epoch: OnceLock<Instant>,
}

/// When a limit is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before anybody has looked at who asks: protects what looks.
    BeforeAuthn,
    /// What is refused costs no quota.
    AfterAuthz,
}

#[derive(Debug)]
struct Local {
    name: Box<str>,
    burst: u32,
    tokens: u32,
    interval: Duration,
    key_by: Vec<Entry>,
    divide: bool,
    matches: Vec<Matcher>,
    buckets: Buckets,
}

#[derive(Debug)]
struct Global {
    domain: String,
    backend: wire::BackendRef,
    descriptors: Vec<Vec<Entry>>,
    fail_closed: bool,
    timeout: Duration,
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub refused: Option<Refused>,
    /// For the answer, whoever gives it.
    pub answer_headers: HeaderMap,
    /// For the backend.
    pub request_headers: HeaderMap,
    /// What did not count: limits in shadow that would have refused, services that did not answer and may be passed by.
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// 429, or 500 where the service that counts failed.
    pub status: u16,
    /// What a gRPC client is told.
    pub grpc: u16,
    /// spec/waypoint.md 6.2.
    pub flag: &'static str,
    /// Which limit of which object.
    pub by: String,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Shadow { by: String },
    Unanswered { by: String, why: String },
}

impl Note {
    /// What it is called in a span.
    pub fn name(&self) -> &'static str {
        match self {
            Note::Shadow { .. } => "rate_limit_shadow",
            Note::Unanswered { .. } => "rate_limit_unanswered",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Shadow { by } => f.write_str(by),
            Note::Unanswered { by, why } => write!(f, "{by}: {why}"),
        }
    }
}

/// A limit that cannot be done as it is written refuses what it is for. `Rejection`: what is wrong, where the controller
/// does not say so already.
pub fn compile(limit: &wire::RateLimit) -> (Limit, Option<Rejection>) {
    if !limit.invalid.is_empty() {
        return (Limit::broken(limit, &limit.invalid), None);
    }
    match whole(limit) {
        Ok(whole) => (whole, None),
        Err(rejection) => (Limit::broken(limit, &rejection.message), Some(rejection)),
    }
}

fn name_of(limit: &wire::RateLimit) -> Arc<str> {
    let source = limit.meta.as_ref().and_then(|meta| meta.source.as_ref());
    source.map_or_else(String::new, |source| format!("{}/{}", source.namespace, source.name)).into()
}

fn whole(limit: &wire::RateLimit) -> Result<Limit, Rejection> {
    let phase = wire::RateLimitPhase::try_from(limit.phase)
        .map_err(|_| Rejection::new("UnknownValue", format!("this version knows no phase {}", limit.phase)))?;
    Ok(Limit {
        name: name_of(limit),
        phase: match phase {
            wire::RateLimitPhase::AfterAuthz => Phase::AfterAuthz,
            wire::RateLimitPhase::BeforeAuthn => Phase::BeforeAuthn,
        },
        local: limit.local.iter().map(local).collect::<Result<_, _>>()?,
        global: limit.global.as_ref().map(global).transpose()?,
        headers: limit.headers,
        shadow: limit.shadow,
        grpc_status: if limit.resource_exhausted { 8 } else { 14 },
        broken: None,
        epoch: OnceLock::new(),
    })
}

fn local(local: &wire::LocalLimit) -> Result<Local, Rejection> {
    let interval = Duration::from_millis(local.fill_interval_ms);
    if interval < FILL_MIN {
        return Err(Rejection::new("Invalid", format!("local limit {:?}: fillInterval {interval:?} is less than {FILL_MIN:?}", local.name)));
    }
    if local.max_tokens == 0 {
        return Err(Rejection::new("Invalid", format!("local limit {:?}: maxTokens is 0, which no request passes; deny it by an AuthorizationPolicy", local.name)));
    }
    let key_by: Vec<Entry> = local.key_by.iter().map(Entry::compile).collect::<Result<_, _>>()?;
    Ok(Local {
        name: local.name.as_str().into(),
        burst: local.max_tokens,
        tokens: local.tokens_per_fill.max(1),
        interval,
        buckets: Buckets::new(!key_by.is_empty()),
        key_by,
        divide: local.divide_by_replicas,
        matches: local.matches.iter().map(Matcher::compile).collect::<Result<_, _>>()?,
    })
}

fn global(global: &wire::GlobalLimit) -> Result<Global, Rejection> {
    let list = |list: &wire::DescriptorList| list.entries.iter().map(Entry::compile).collect();
    let backend = global.backend.clone().ok_or_else(|| Rejection::new("Invalid", "a global limit without the service that counts"))?;
    Ok(Global {
        domain: global.domain.clone(),
        backend,
        descriptors: global.descriptors.iter().map(list).collect::<Result<_, _>>()?,
        fail_closed: global.fail_closed,
        timeout: if global.timeout_ms == 0 { TIMEOUT } else { Duration::from_millis(global.timeout_ms) },
    })
}

/// The limits of one phase, in their order.
pub async fn check(limits: &[Arc<Limit>], phase: Phase, subject: &Subject<'_>, now: Instant, caller: &dyn Caller) -> Verdict {
    let mut verdict = Verdict::default();
    let of_phase = || limits.iter().filter(|limit| limit.phase == phase);
    for limit in of_phase() {
        limit.refuse_if_broken(&mut verdict);
    }
    if verdict.refused.is_some() {
        return verdict;
    }
    take(of_phase(), subject, now, &mut verdict);
    for limit in of_phase() {
        if verdict.refused.is_some() {
            break;
        }
        if let Some((global, question)) = limit.question(subject) {
            let said = remote::ask(caller, &global.backend, &question, global.timeout).await;
            limit.heed(global, said, &mut verdict);
        }
    }
    verdict
}

/// A token of each local limit, or of none.
fn take<'l>(limits: impl Iterator<Item = &'l Arc<Limit>>, subject: &Subject<'_>, now: Instant, verdict: &mut Verdict) {
    let mut taken: Vec<(&Local, Key, Rate)> = Vec::new();
    let mut tightest: Option<Told> = None;
    for limit in limits {
        let epoch = *limit.epoch.get_or_init(|| now);
        let nanos = u64::try_from(now.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX);
        for local in &limit.local {
            let Some(key) = local.falls_under(subject) else { continue };
            let rate = Rate::new(local.burst, local.tokens, local.interval, if local.divide { subject.replicas } else { 1 });
            let told = |remaining, reset| Told { limit: rate.burst, window: rate.window(), remaining, reset };
            match local.buckets.take(key, rate, nanos) {
                Ok(left) => {
                    taken.push((local, key, rate));
                    let told = told(left.remaining, left.full_in);
                    if limit.headers && !limit.shadow && tightest.is_none_or(|other| told.remaining < other.remaining) {
                        tightest = Some(told);
                    }
                }
                Err(_) if limit.shadow => verdict.notes.push(Note::Shadow { by: limit.by(&local.name) }),
                Err(empty) => {
                    for (local, key, rate) in taken {
                        local.buckets.give_back(key, rate);
                    }
                    limit.refuse(limit.by(&local.name), empty.next_in, Some(told(0, empty.full_in)), Vec::new(), verdict);
                    return;
                }
            }
        }
    }
    if let Some(told) = tightest {
        tell(told, &mut verdict.answer_headers);
    }
}

impl Local {
    /// The bucket that counts; `None`: the request does not fall under the limit.
    fn falls_under(&self, subject: &Subject<'_>) -> Option<Key> {
        if !self.matches.is_empty() && !self.matches.iter().any(|matcher| matcher.matches(subject.head)) {
            return None;
        }
        let values = if self.key_by.is_empty() { Vec::new() } else { values(&self.key_by, subject)? };
        Some(self.buckets.key(&values))
    }
}

impl Limit {
    fn broken(limit: &wire::RateLimit, why: &str) -> Limit {
        Limit {
            name: name_of(limit),
            // What is refused for its token or its sender is told so first.
            phase: Phase::AfterAuthz,
            local: Vec::new(),
            global: None,
            headers: false,
            shadow: limit.shadow,
            grpc_status: 13,
            broken: Some(why.into()),
            epoch: OnceLock::new(),
        }
    }

    fn refuse_if_broken(&self, verdict: &mut Verdict) {
        let Some(why) = &self.broken else { return };
        let by = self.name.to_string();
        if self.shadow {
            verdict.notes.push(Note::Unanswered { by, why: why.to_string() });
        } else if verdict.refused.is_none() {
            verdict.refused = Some(Refused { status: 500, grpc: self.grpc_status, flag: "RLSE", by: format!("{by} cannot be used: {why}"), body: Vec::new() });
        }
    }

    /// What to ask the service that counts; nothing where no descriptor is whole.
    fn question(&self, subject: &Subject<'_>) -> Option<(&Global, RateLimitRequest)> {
        let global = self.global.as_ref()?;
        let entry = |(key, value): (&str, String)| DescriptorEntry { key: key.to_owned(), value };
        let of = |entries: &Vec<Entry>| {
            values(entries, subject).map(|values| RateLimitDescriptor { entries: values.into_iter().map(entry).collect() })
        };
        let descriptors: Vec<RateLimitDescriptor> = global.descriptors.iter().filter_map(of).collect();
        let question = RateLimitRequest { domain: global.domain.clone(), descriptors, hits_addend: 0 };
        (!question.descriptors.is_empty()).then_some((global, question))
    }

    fn heed(&self, global: &Global, said: Result<remote::Said, crate::grpc::Failure>, verdict: &mut Verdict) {
        let by = self.by(&global.domain);
        match said {
            Ok(said) if said.over && self.shadow => verdict.notes.push(Note::Shadow { by }),
            Ok(said) if said.over => {
                let wait = said.tightest.map_or(Duration::ZERO, |told| told.reset);
                extend(&mut verdict.answer_headers, said.answer_headers);
                self.refuse(by, wait, said.tightest, said.body, verdict);
            }
            Ok(said) => {
                if let Some(told) = said.tightest.filter(|_| self.headers && !self.shadow) {
                    tell(told, &mut verdict.answer_headers);
                }
                extend(&mut verdict.answer_headers, said.answer_headers);
                extend(&mut verdict.request_headers, said.request_headers);
            }
            Err(failure) if global.fail_closed && !self.shadow => {
                tracing::warn!(limit = %by, %failure, "the rate limit service failed: the request is refused, as failureMode says");
                verdict.refused = Some(Refused { status: 500, grpc: 13, flag: "RLSE", by, body: Vec::new() });
            }
            Err(failure) => verdict.notes.push(Note::Unanswered { by, why: failure.to_string() }),
        }
    }

    fn refuse(&self, by: String, wait: Duration, told: Option<Told>, body: Vec<u8>, verdict: &mut Verdict) {
        let headers = &mut verdict.answer_headers;
        headers.insert(HeaderName::from_static("x-envoy-ratelimited"), HeaderValue::from_static("true"));
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait).max(1)));
        if let Some(told) = told.filter(|_| self.headers) {
            tell(told, headers);
        }
        verdict.refused = Some(Refused { status: 429, grpc: self.grpc_status, flag: "RL", by, body });
    }

    fn by(&self, part: &str) -> String {
        if part.is_empty() { self.name.to_string() } else { format!("{}/{part}", self.name) }
    }
}

/// `x-ratelimit-*`, as the draft of version 3 has them.
fn tell(told: Told, headers: &mut HeaderMap) {
    let limit = format!("{0}, {0};w={1}", told.limit, seconds(told.window).max(1));
    headers.insert(HeaderName::from_static("x-ratelimit-limit"), HeaderValue::try_from(limit).expect("digits"));
    headers.insert(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(told.remaining));
    headers.insert(HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(seconds(told.reset)));
}

/// Whole seconds, upwards: who waits so long gets what was promised.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn extend(headers: &mut HeaderMap, more: HeaderMap) {
    let mut last = None;
    for (name, value) in more {
        if let Some(name) = name.or_else(|| last.clone()) {
            headers.append(&name, value);
            last = Some(name);
        }
    }
}

#[cfg(test)]
mod tests;
