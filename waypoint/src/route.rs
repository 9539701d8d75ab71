//! Pure: which rule a request falls under (spec/waypoint.md 2.2, 2.3, 5.1).
//!
//! A rule is compiled once; the tables of the services that it is for share it. A table is made anew when one of its rules
//! changes, and never changes itself.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use mesh_xds::messages::waypoint::{HttpRoute, MatchOrder, Meta, RetryPolicy, Session, SourceRef};

use crate::edit::{self, Answer, Filters};
use crate::facts::Rejection;
use crate::session;

pub mod matcher;
pub mod stream;
pub mod table;
pub mod text;
pub mod told;

pub use matcher::Matcher;
pub use stream::{StreamRule, TlsTable};
pub use table::Table;
pub use text::Text;

/// Matches of one rule. Gateway API allows 64 (spec/waypoint.md 2.1); VirtualServices are not bounded.
pub const MATCHES_MAX: usize = 1024;

/// A rule of a user's route.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The resource's name.
    pub resource: Arc<str>,
    /// `namespace/name`, and `/` and the rule where it has a name: what logs and metrics call it.
    pub name: Arc<str>,
    pub rule_name: Arc<str>,
    pub source: SourceRef,
    pub age: Age,
    pub order: u32,
    pub grpc: bool,
    /// First match wins, instead of the most specific.
    pub listed: bool,
    /// What could not be read is not among them: a rule without any matches nothing.
    pub matches: Vec<Matcher>,
    pub filters: Filters,
    pub backends: Vec<edit::Backend>,
    pub request_timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    /// None: the mesh's default.
    pub retry: Option<RetryPolicy>,
    pub session: Option<Session>,
    /// The whole rule cannot be done as written: this is the answer.
    pub invalid: Option<Answer>,
}

/// The rule a request falls under, and by which of its matches.
#[derive(Clone, Debug)]
pub struct Matched {
    pub rule: Arc<Rule>,
    pub by: usize,
}

/// Older objects come before younger ones, then names decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    pub created_unix: u64,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Age {
    pub fn of(meta: Option<&Meta>) -> Age {
        let Some(meta) = meta else { return Age::default() };
        let source = meta.source.as_ref();
        Age {
            created_unix: meta.created_unix,
            namespace: source.map_or("", |source| &source.namespace).into(),
            name: source.map_or("", |source| &source.name).into(),
        }
    }
}

impl Rule {
    /// Whether a request that falls under it may be another one when it is sent.
    pub fn is_filtered(&self) -> bool {
        !self.filters.is_empty() || self.backends.iter().any(|backend| !backend.filters.is_empty())
    }

    /// The rule is usable whatever is wrong with it: a match that cannot be read matches nothing, a filter that cannot be
    /// done is answered with an error, sessions without a usable name are not kept. What is wrong is the second part.
    pub fn compile(resource: &str, wire: &HttpRoute) -> (Rule, Option<Rejection>) {
        let mut wrong = Vec::new();
        let source = wire.meta.as_ref().and_then(|meta| meta.source.clone()).unwrap_or_default();
        let matches = compile_matches(wire, &mut wrong);
        let (filters, wrong_filters) = Filters::compile(&wire.filters);
        wrong.extend(wrong_filters);
        let backends = edit::compile_backends(&wire.backends, &mut wrong);
        let session = wire.session.clone().filter(|session| match session::check(session) {
            Ok(()) => true,
            Err(rejection) => {
                wrong.push(format!("session: {}", rejection.message));
                false
            }
        });
        let rule = Rule {
            resource: resource.into(),
            name: name_of(resource, &source, &wire.rule_name),
            rule_name: wire.rule_name.as_str().into(),
            age: Age::of(wire.meta.as_ref()),
            source,
            order: wire.rule_order,
            grpc: wire.grpc,
            listed: wire.order() == MatchOrder::Listed,
            matches,
            filters,
            backends,
            request_timeout: milliseconds(wire.request_timeout_ms),
            backend_timeout: milliseconds(wire.backend_timeout_ms),
            retry: wire.retry.clone(),
            session,
            invalid: wire.invalid.as_ref().map(Answer::of_invalid),
        };
        (rule, Rejection::of_all(wrong))
    }

    /// Smaller comes first in a table.
    fn rank(&self, by: usize) -> impl Ord + use<> {
        let specificity = if self.listed { Specificity::default() } else { Specificity::of(&self.matches[by]) };
        (Reverse(specificity), self.age.clone(), self.order, by, self.resource.clone())
    }
}

impl Matched {
    pub fn matcher(&self) -> &Matcher {
        &self.rule.matches[self.by]
    }
}

/// The dimensions of spec/waypoint.md 2.3 from the one that counts most; greater is more specific.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    /// Exact, then patterns, then prefixes.
    path_kind: u8,
    path_chars: usize,
    grpc_service_chars: usize,
    grpc_method_chars: usize,
    method: bool,
    headers: usize,
    query: usize,
}

impl Specificity {
    fn of(matcher: &Matcher) -> Specificity {
        use matcher::Path;
        let (path_kind, path_chars) = match &matcher.path {
            Path::Exact { path, .. } => (2, path.chars().count()),
            Path::Pattern { chars, .. } => (1, *chars),
            // The prefix `/` stands for no prefix, and is one character long.
            Path::Elements { prefix, .. } | Path::Text { prefix, .. } => (0, prefix.chars().count().max(1)),
            Path::Any => (0, 1),
        };
        Specificity {
            path_kind,
            path_chars,
            grpc_service_chars: matcher.grpc.as_ref().map_or(0, |grpc| grpc.service_chars),
            grpc_method_chars: matcher.grpc.as_ref().map_or(0, |grpc| grpc.method_chars),
            method: matcher.method.is_some(),
            headers: matcher.headers.len(),
            query: matcher.query.len(),
        }
    }
}

fn compile_matches(wire: &HttpRoute, wrong: &mut Vec<String>) -> Vec<Matcher> {
    if wire.matches.is_empty() {
        return vec![Matcher::any()];
    }
    if wire.matches.len() > MATCHES_MAX {
        wrong.push(format!("more than {MATCHES_MAX} matches in one rule: those after them are left out"));
    }
    let mut matches = Vec::new();
    for (at, one) in wire.matches.iter().take(MATCHES_MAX).enumerate() {
        match Matcher::compile(one) {
            Ok(matcher) => matches.push(matcher),
            Err(rejection) => wrong.push(format!("match {at}: {}", rejection.message)),
        }
    }
    matches
}

pub(crate) fn name_of(resource: &str, source: &SourceRef, rule: &str) -> Arc<str> {
    let rule = if rule.is_empty() { source.section.as_str() } else { rule };
    match (source.name.is_empty(), rule.is_empty()) {
        (true, _) => resource.into(),
        (false, true) => format!("{}/{}", source.namespace, source.name).into(),
        (false, false) => format!("{}/{}/{rule}", source.namespace, source.name).into(),
    }
}

fn milliseconds(number: u64) -> Option<Duration> {
    (number != 0).then(|| Duration::from_millis(number))
}

#[cfg(test)]
pub(crate) mod tests;
