//! Again, or stop (spec/waypoint.md 5.2). What counts as a retry's room at a destination is in `budget`.

pub mod budget;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, header};
use mesh_xds::messages::waypoint::{MeshSettings, RetryOn, RetryPolicy};
use rand::Rng;

use crate::choose::{Destination, Failure, Held, Outcome, Overflow, Policy};

/// The field's least wait; with full jitter it is half of that on average.
const BASE: Duration = Duration::from_millis(25);
/// Waits grow to this multiple of the least one.
const GROWTH_MAX: u32 = 10;
/// A `retry-after` beyond this is not waited for: the client hears of it instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Retries of a request whatever its route says: each holds memory for the request's body and a place at the backend.
const RETRIES_MAX: u32 = 100;
/// Set by whoever limits rates (spec/waypoint.md 5.10).
const RATE_LIMITED: &str = "x-envoy-ratelimited";

/// How requests of a rule are tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Beside the first try.
    pub retries: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    /// Those that have failed the request are not asked again while there are others.
    pub other_endpoint: bool,
    on: Causes,
    /// Statuses that are causes.
    codes: Option<Arc<[u16]>>,
    backoff: Backoff,
    retry_after: bool,
}

/// One bit for each `RetryOn`: a plan is made for each request, and makes no set for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Causes(u32);

impl Causes {
    const NONE: Causes = Causes(0);

    const fn of(on: &[RetryOn]) -> Causes {
        let (mut bits, mut at) = (0, 0);
        while at < on.len() {
            bits |= 1 << on[at] as u32;
            at += 1;
        }
        Causes(bits)
    }

    fn has(self, on: RetryOn) -> bool {
        self.0 & 1 << on as u32 != 0
    }

    fn iter(self) -> impl Iterator<Item = RetryOn> {
        (0..u32::BITS as i32).filter_map(|at| RetryOn::try_from(at).ok()).filter(move |on| self.has(*on))
    }
}

impl FromIterator<RetryOn> for Causes {
    fn from_iter<I: IntoIterator<Item = RetryOn>>(all: I) -> Causes {
        Causes(all.into_iter().fold(0, |bits, on| bits | 1 << on as u32))
    }
}

/// Waits double from the first to the longest. A wait that the user set is the least one, else it is from nothing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backoff {
    base: Duration,
    max: Duration,
    at_least_base: bool,
}

/// An attempt that did not do.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub outcome: Outcome,
    /// Of the answer.
    pub headers: Option<&'a HeaderMap>,
    pub method: &'a Method,
    /// Something of the request had been sent when it failed.
    pub sent: bool,
    /// The request can be sent again whole.
    pub replayable: bool,
    /// Retries that were made before this one would be.
    pub made: u32,
    /// Of the request's own time.
    pub left: Option<Duration>,
}

#[derive(Debug)]
pub enum Next {
    /// Wait, then try again; the permit is held until that try has ended.
    Again { after: Duration, permit: Held },
    Stop(Stop),
}

/// Why what the attempt brought is what the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is no cause for a retry.
    NotRetriable,
    /// The request's body is too long to be kept, or was consumed.
    NotReplayable,
    /// It may have had an effect, and a second time it would have another.
    NotIdempotent,
    /// All retries are used up: flag `URX`.
    Exhausted,
    /// No room for a retry at the destination: flag `UO`.
    Overflow,
    /// The wait is longer than what is left of the request's time, or than a client would wait.
    TooLate,
}

impl Stop {
    /// What the access log shows beside the outcome's own flag (spec/waypoint.md 6.2).
    pub fn flag(self) -> Option<&'static str> {
        match self {
            Stop::Exhausted => Some("URX"),
            Stop::Overflow => Some("UO"),
            Stop::NotRetriable | Stop::NotReplayable | Stop::NotIdempotent | Stop::TooLate => None,
        }
    }
}

/// Where neither rule nor mesh says anything: what nobody has seen, and with a route what gRPC says of itself.
const NOT_ROUTED: Causes = Causes::of(&[RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest]);
const ROUTED: Causes = Causes::of(&[
    RetryOn::ConnectFailure,
    RetryOn::RefusedStream,
    RetryOn::ResetBeforeRequest,
    RetryOn::GrpcUnavailable,
    RetryOn::GrpcCancelled,
]);

impl Plan {
    pub const NONE: Plan = Plan {
        retries: 0,
        per_try_timeout: None,
        other_endpoint: true,
        on: Causes::NONE,
        codes: None,
        backoff: Backoff { base: BASE, max: Duration::from_millis(250), at_least_base: false },
        retry_after: false,
    };

    /// Of a rule's own policy; else of the mesh's for services with a route (`routed`) or without one; else what loses no
    /// request and does none twice, whoever it is for (spec/waypoint.md 5.2).
    pub fn of(rule: Option<&RetryPolicy>, routed: bool, mesh: &MeshSettings) -> Plan {
        let of_mesh = if routed { &mesh.default_retry } else { &mesh.default_inbound_retry };
        if let Some(policy) = rule.or(of_mesh.as_ref()) {
            return Plan::compile(policy);
        }
        Plan { retries: 2, on: if routed { ROUTED } else { NOT_ROUTED }, ..Plan::NONE }
    }

    fn compile(policy: &RetryPolicy) -> Plan {
        let base = if policy.backoff_base_ms == 0 { BASE } else { Duration::from_millis(policy.backoff_base_ms) };
        let max = if policy.backoff_max_ms == 0 { base * GROWTH_MAX } else { Duration::from_millis(policy.backoff_max_ms) };
        Plan {
            retries: policy.attempts.min(RETRIES_MAX),
            per_try_timeout: (policy.per_try_timeout_ms > 0).then(|| Duration::from_millis(policy.per_try_timeout_ms)),
            other_endpoint: !policy.same_endpoint,
            // A cause that this version does not know is no cause: fewer retries than asked for, never other ones.
            on: policy.on.iter().filter_map(|on| RetryOn::try_from(*on).ok()).collect(),
            codes: (!policy.codes.is_empty()).then(|| policy.codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect()),
            backoff: Backoff { base, max: max.max(base), at_least_base: policy.backoff_base_ms > 0 },
            retry_after: policy.retry_after,
        }
    }

    /// Whether a body is worth keeping for another try.
    pub fn may_retry(&self) -> bool {
        self.retries > 0
    }

    fn is_cause(&self, attempt: &Attempt<'_>) -> bool {
        self.on.iter().any(|on| match attempt.outcome {
            Outcome::Failed(failure) => fails_by(on, failure),
            Outcome::Answered { status, grpc, .. } => self.answers_by(on, status, grpc, attempt.headers),
        })
    }

    fn answers_by(&self, on: RetryOn, status: u16, grpc: Option<u16>, headers: Option<&HeaderMap>) -> bool {
        match on {
            RetryOn::FiveXx => (500..=599).contains(&status),
            RetryOn::GatewayError => (502..=504).contains(&status),
            RetryOn::Retriable4xx => status == 409,
            RetryOn::StatusCodes => self.codes.iter().any(|codes| codes.contains(&status)),
            RetryOn::RateLimited => headers.is_some_and(|headers| headers.contains_key(RATE_LIMITED)),
            RetryOn::GrpcCancelled => grpc == Some(1),
            RetryOn::GrpcDeadlineExceeded => grpc == Some(4),
            RetryOn::GrpcResourceExhausted => grpc == Some(8),
            RetryOn::GrpcInternal => grpc == Some(13),
            RetryOn::GrpcUnavailable => grpc == Some(14),
            RetryOn::ConnectFailure
            | RetryOn::RefusedStream
            | RetryOn::ResetBeforeRequest
            | RetryOn::Reset
            | RetryOn::AttemptTimeout => false,
        }
    }

    /// Whether the user asked for retries of what may have had an effect.
    fn takes_the_risk(&self, failure: Failure) -> bool {
        let asked = |on: &[RetryOn]| on.iter().any(|on| self.on.has(*on));
        asked(&[RetryOn::Reset, RetryOn::FiveXx]) || (failure == Failure::AttemptTimeout && asked(&[RetryOn::AttemptTimeout]))
    }
}

fn fails_by(on: RetryOn, failure: Failure) -> bool {
    match on {
        RetryOn::FiveXx | RetryOn::GatewayError | RetryOn::Reset => true,
        RetryOn::ConnectFailure => failure == Failure::Connect,
        RetryOn::RefusedStream => failure == Failure::Refused,
        RetryOn::ResetBeforeRequest => matches!(failure, Failure::Connect | Failure::ResetBeforeRequest | Failure::Stale),
        RetryOn::AttemptTimeout => failure == Failure::AttemptTimeout,
        RetryOn::Retriable4xx
        | RetryOn::StatusCodes
        | RetryOn::RateLimited
        | RetryOn::GrpcCancelled
        | RetryOn::GrpcDeadlineExceeded
        | RetryOn::GrpcResourceExhausted
        | RetryOn::GrpcInternal
        | RetryOn::GrpcUnavailable => false,
    }
}

/// Decides after an attempt. `policy` is the destination's; its budget and its bound of retries are asked last, so that
/// nothing is taken from them in vain.
pub fn again(
    plan: &Plan,
    attempt: &Attempt<'_>,
    destination: &Arc<Destination>,
    policy: &Policy,
    now: Instant,
    chance: &mut impl Rng,
) -> Next {
    match judge(plan, attempt, chance) {
        Err(stop) => Next::Stop(stop),
        Ok(after) => match destination.retry(policy, now) {
            Ok(permit) => Next::Again { after, permit },
            Err(Overflow::Retries | Overflow::Requests | Overflow::Pending | Overflow::Connections) => Next::Stop(Stop::Overflow),
        },
    }
}

fn judge(plan: &Plan, attempt: &Attempt<'_>, chance: &mut impl Rng) -> Result<Duration, Stop> {
    if !plan.is_cause(attempt) {
        return Err(Stop::NotRetriable);
    }
    if attempt.made >= plan.retries {
        return Err(if plan.retries == 0 { Stop::NotRetriable } else { Stop::Exhausted });
    }
    if !attempt.replayable {
        return Err(Stop::NotReplayable);
    }
    if let Outcome::Failed(failure @ (Failure::Reset | Failure::Stale | Failure::AttemptTimeout)) = attempt.outcome
        && attempt.sent
        && !is_idempotent(attempt.method)
        && !plan.takes_the_risk(failure)
    {
        return Err(Stop::NotIdempotent);
    }
    let mut after = plan.backoff.after(attempt.made, chance);
    if let Some(asked) = attempt.headers.filter(|_| plan.retry_after).and_then(|headers| retry_after(attempt.outcome, headers)) {
        if asked > RETRY_AFTER_MAX {
            return Err(Stop::TooLate);
        }
        after = after.max(asked);
    }
    if attempt.left.is_some_and(|left| after >= left) { Err(Stop::TooLate) } else { Ok(after) }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// Seconds only: a date of another machine's clock is not worth more than our own wait.
fn retry_after(outcome: Outcome, headers: &HeaderMap) -> Option<Duration> {
    let Outcome::Answered { status: 429 | 503, .. } = outcome else { return None };
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

impl Backoff {
    fn after(self, made: u32, chance: &mut impl Rng) -> Duration {
        let longest = self.base.saturating_mul(2_u32.saturating_pow(made)).min(self.max);
        let least = if self.at_least_base { self.base } else { Duration::ZERO };
        let jitter = (longest - least.min(longest)).mul_f64(chance.random::<f64>());
        least + jitter
    }
}

#[cfg(test)]
mod tests;
