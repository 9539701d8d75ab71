//! The attempts of one request: choose, send, judge, and again or not (spec/waypoint.md 5.2, 5.3).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response};
use tokio::time::{Instant, sleep, timeout_at};

use crate::body::Body;
use crate::choose::{self, Active, Failure, Held, NoEndpoint, Outcome};
use crate::error::{Flags, Reason};
use crate::exchange::{Exchange, Fault, Rules, Version};
use crate::reach::{Errand, Reach, Reached, Unreached};
use crate::retry::{Attempt, Next, Plan, again};
use crate::upstream::{ConnectError, Endpoint, Kind};

/// What the attempts of a request have in common.
pub struct Attempts<'a> {
    pub reach: &'a Reach,
    pub exchange: &'a Exchange,
    pub errand: Errand<'a>,
    pub version: Version,
    pub plan: &'a Plan,
    pub method: &'a Method,
    pub grpc: bool,
    /// Of the whole request.
    pub deadline: Option<Instant>,
}

/// How a request is sent, once for each attempt.
pub trait Send: std::marker::Send {
    /// The request, from its beginning; `attempt` counts from 1.
    fn request(&mut self, to: &Endpoint, attempt: u32) -> Request<Body>;
    /// Whether `request` can give all of it again.
    fn is_whole(&self) -> bool;
    /// No other attempt will follow: nothing need be kept.
    fn last(&mut self);
}

/// The answer that the client gets.
pub struct Answered {
    pub response: Response<Body>,
    pub from: Arrived,
    /// Until its head was there.
    pub took: Duration,
    /// The request counts at the endpoint until this goes, with the body of the response. Where `judged` is false the
    /// outcome is to be told when the trailers are there.
    pub active: Active,
    pub judged: bool,
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered").field("status", &self.response.status()).field("from", &self.from).finish_non_exhaustive()
    }
}

/// Where an attempt went.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub endpoint: choose::Endpoint,
    /// Attempts, this one among them.
    pub attempts: u32,
    pub last_resort: bool,
    /// `URX`, `UO`: why there was no other attempt, where there would have been one.
    pub flags: Flags,
}

/// There is no answer.
#[derive(Debug)]
pub struct Unanswered {
    pub reason: Reason,
    /// The last endpoint that was tried.
    pub endpoint: Option<choose::Endpoint>,
    pub attempts: u32,
    pub flags: Flags,
}

/// # Errors
/// What the client is to be told instead of an answer.
pub async fn run(attempts: &Attempts<'_>, send: &mut dyn Send) -> Result<Answered, Unanswered> {
    let mut tried: Vec<Arc<str>> = Vec::new();
    let mut made = 0;
    let mut _permit: Option<Held> = None;
    loop {
        if made >= attempts.plan.retries {
            send.last();
        }
        let avoid = if attempts.plan.other_endpoint { &tried[..] } else { &[] };
        let fail = |reason, endpoint, flags| Unanswered { reason, endpoint, attempts: made + 1, flags };
        let (chosen, last_resort, active, sent) = match attempts.reach.next(&attempts.errand, avoid, now()) {
            Ok(Reached { chosen, to, last_resort, mut active }) => {
                let sent = match attempts.connection().await {
                    Ok(connection) => {
                        connection.into_iter().for_each(|connection| active.occupies(connection));
                        let began = Instant::now();
                        let sent = attempts.send(&to, send, made + 1).await;
                        sent.map(|response| (response, began.elapsed()))
                    }
                    Err(reason) => return Err(fail(reason, Some(chosen), Flags::NONE)),
                };
                (chosen, last_resort, Some(active), sent)
            }
            Err(Unreached::None(none)) => return Err(fail(reason_of(none), None, Flags::NONE)),
            // As if it could not be connected to, so that another one is tried.
            Err(Unreached::NoWay { endpoint, why }) => {
                let place = choose::Place::Name(endpoint.clone());
                (choose::Endpoint { id: endpoint, place, port: 0 }, false, None, Err(Failed::Fault(Fault::Connect(why))))
            }
        };
        let (outcome, headers) = match &sent {
            Ok((response, took)) => {
                let grpc = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
                (Outcome::Answered { status: response.status().as_u16(), grpc, took: *took }, Some(response.headers()))
            }
            // The client's doing, and what no other endpoint does better.
            Err(Failed::Fault(fault @ (Fault::Body(_) | Fault::Connect(ConnectError { kind: Kind::Loop, .. })))) => {
                return Err(fail(Reason::Fault(fault.clone()), Some(chosen), Flags::NONE));
            }
            Err(failed) => (Outcome::Failed(failed.failure()), None),
        };
        // A gRPC status that is still to come may make another outcome of it.
        let judged = !(attempts.grpc && matches!(outcome, Outcome::Answered { status: 200, grpc: None, .. }));
        let mut active = active;
        if let (Some(active), true) = (&mut active, judged) {
            active.saw(outcome, now());
        }
        let next = attempts.judge(outcome, headers, send.is_whole(), made);
        let flags = match next {
            Next::Again { after, permit } => {
                _permit = Some(permit);
                drop(sent);
                drop(active);
                tried.push(chosen.id);
                made += 1;
                sleep(after).await;
                continue;
            }
            Next::Stop(stop) => stop.flag().map_or(Flags::NONE, Flags::of_word),
        };
        return match (sent, active) {
            (Ok((response, took)), Some(active)) => {
                let from = Arrived { endpoint: chosen, attempts: made + 1, last_resort, flags };
                Ok(Answered { response, from, took, active, judged })
            }
            (Err(failed), _) => Err(fail(failed.reason(), Some(chosen), flags)),
            (Ok(_), None) => unreachable!("an answer came from an endpoint that was reached"),
        };
    }
}

/// Why an attempt has no answer.
#[derive(Debug)]
enum Failed {
    Fault(Fault),
    AttemptTimeout,
    RequestTimeout,
}

impl Attempts<'_> {
    /// In HTTP/1.1 an exchange has a connection to itself, of which the policy may allow so many (spec/waypoint.md 5.4).
    async fn connection(&self) -> Result<Option<Held>, Reason> {
        let policy = &self.errand.backend.policy;
        if self.version == Version::Http2 || policy.pool().connections.is_none() {
            return Ok(None);
        }
        let turn = self.errand.destination.turn(policy).map_err(|_| Reason::Overflow)?;
        match self.deadline {
            None => Ok(Some(turn.await)),
            Some(deadline) => timeout_at(deadline, turn).await.map(Some).map_err(|_| Reason::RequestTimeout),
        }
    }

    async fn send(&self, to: &Endpoint, send: &mut dyn Send, attempt: u32) -> Result<Response<Body>, Failed> {
        let per_try = self.plan.per_try_timeout.map(|after| Instant::now() + after);
        let until = [per_try, self.deadline].into_iter().flatten().min();
        let request = send.request(to, attempt);
        let rules = rules(&self.errand.backend.policy);
        let exchanged = self.exchange.send(to, self.version, &rules, request);
        let Some(until) = until else { return exchanged.await.map_err(Failed::Fault) };
        match timeout_at(until, exchanged).await {
            Ok(exchanged) => exchanged.map_err(Failed::Fault),
            Err(_) if self.deadline == Some(until) => Err(Failed::RequestTimeout),
            Err(_) => Err(Failed::AttemptTimeout),
        }
    }

    fn judge(&self, outcome: Outcome, headers: Option<&HeaderMap>, replayable: bool, made: u32) -> Next {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let sent = !matches!(outcome, Outcome::Failed(Failure::Connect | Failure::Refused | Failure::ResetBeforeRequest));
        let attempt = Attempt { outcome, headers, method: self.method, sent, replayable, made, left };
        again(self.plan, &attempt, self.errand.destination, &self.errand.backend.policy, now(), &mut rand::rng())
    }
}

/// What a destination's policy says of its connections.
pub fn rules(policy: &choose::Policy) -> Rules {
    let pool = policy.pool();
    let default = Rules::default();
    Rules {
        requests_per_connection: pool.requests_per_connection,
        streams_per_connection: pool.streams_per_connection.unwrap_or(default.streams_per_connection),
        idle: pool.idle_timeout.unwrap_or(default.idle),
    }
}

impl Failed {
    fn failure(&self) -> Failure {
        match self {
            Failed::Fault(Fault::Connect(_)) => Failure::Connect,
            Failed::Fault(Fault::Refused(_)) => Failure::Refused,
            Failed::Fault(Fault::Closed { reused: true, .. }) => Failure::Stale,
            Failed::Fault(Fault::Closed { .. } | Fault::Reset(_) | Fault::Protocol(_) | Fault::Body(_)) => Failure::Reset,
            Failed::AttemptTimeout | Failed::RequestTimeout => Failure::AttemptTimeout,
        }
    }

    fn reason(self) -> Reason {
        match self {
            Failed::Fault(fault) => Reason::Fault(fault),
            Failed::AttemptTimeout => Reason::AttemptTimeout,
            Failed::RequestTimeout => Reason::RequestTimeout,
        }
    }
}

pub fn reason_of(none: NoEndpoint) -> Reason {
    match none {
        NoEndpoint::NoSubset => Reason::NoCluster { status: http::StatusCode::SERVICE_UNAVAILABLE },
        NoEndpoint::OtherHost => Reason::RouteNotFound,
        NoEndpoint::NoEndpoints | NoEndpoint::NotDialled => Reason::NoHealthyUpstream,
        NoEndpoint::Overflow(_) => Reason::Overflow,
    }
}

/// The clock of choices is the runtime's, which tests may stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;
