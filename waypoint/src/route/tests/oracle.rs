//! Which match takes a request, written a second time, straight from the text of spec/waypoint.md 2.2 and 2.3 and with no
//! thought of speed: every match of every rule is asked, those that hold are ordered, the first has it. Nothing of the
//! first writing is used here but the messages.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use mesh_xds::messages::waypoint::{
    GrpcMatch, HttpMatch, HttpRoute, KeyMatch, MatchOrder, Meta, PathKind, PathMatch, SourceRef, StrMatch, StrMatchKind,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Asked, asked};
use crate::route::{Rule, Table};

// ── the oracle ──

thread_local! {
    /// There are few, and each is asked often.
    static PATTERNS: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
}

fn text_holds(wanted: &StrMatch, text: &str) -> bool {
    match wanted.kind.as_ref().unwrap() {
        StrMatchKind::Exact(exact) => text == exact,
        StrMatchKind::Prefix(prefix) => text.strip_prefix(prefix.as_str()).is_some(),
        StrMatchKind::Suffix(suffix) => text.strip_suffix(suffix.as_str()).is_some(),
        StrMatchKind::Regex(pattern) => {
            let covers =
                |pattern: &regex::Regex| pattern.find_iter(text).any(|found| found.start() == 0 && found.end() == text.len());
            PATTERNS.with_borrow_mut(|known| {
                covers(known.entry(pattern.clone()).or_insert_with(|| regex::Regex::new(pattern).unwrap()))
            })
        }
        StrMatchKind::Present(_) => true,
    }
}

fn path_holds(wanted: &PathMatch, path: &str) -> bool {
    let (path, value) = match wanted.ignore_case {
        true => (path.to_ascii_lowercase(), wanted.value.to_ascii_lowercase()),
        false => (path.to_owned(), wanted.value.clone()),
    };
    match wanted.kind() {
        PathKind::Exact => path == value,
        PathKind::PrefixString => path.starts_with(&value),
        PathKind::Regex => text_holds(&StrMatch { kind: Some(StrMatchKind::Regex(value)) }, &path),
        PathKind::PrefixSegment => {
            // Element by element; a slash at the rule's end says nothing.
            let value = value.strip_suffix('/').unwrap_or(&value);
            let wanted: Vec<&str> = value.split('/').collect();
            let given: Vec<&str> = path.split('/').collect();
            given.len() >= wanted.len() && wanted.iter().zip(&given).all(|(wanted, given)| wanted == given)
        }
    }
}

fn first_of_each_name(list: &[KeyMatch], fold: bool) -> Vec<&KeyMatch> {
    let key = |one: &KeyMatch| if fold { one.name.to_lowercase() } else { one.name.clone() };
    (0..list.len()).filter(|at| !list[..*at].iter().any(|before| key(before) == key(&list[*at]))).map(|at| &list[at]).collect()
}

fn header_holds(wanted: &KeyMatch, asked: &Asked) -> bool {
    let lines: Vec<String> = if wanted.name.eq_ignore_ascii_case("host") {
        vec![asked.authority.clone()]
    } else {
        asked.headers.get_all(wanted.name.as_str()).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let value = wanted.value.as_ref().unwrap();
    let holds = !lines.is_empty() && (lines.iter().any(|line| text_holds(value, line)) || text_holds(value, &lines.join(",")));
    holds ^ wanted.invert
}

fn query_holds(wanted: &KeyMatch, asked: &Asked) -> bool {
    let query = asked.query.clone().unwrap_or_default();
    let first = query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == wanted.name).then_some(value)
    });
    first.is_some_and(|value| text_holds(wanted.value.as_ref().unwrap(), value)) ^ wanted.invert
}

fn grpc_holds(wanted: &GrpcMatch, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let ["", service, method] = parts[..] else { return false };
    let holds = |wanted: &Option<StrMatch>, given: &str| wanted.as_ref().is_none_or(|wanted| text_holds(wanted, given));
    holds(&wanted.service, service) && holds(&wanted.method, method)
}

fn holds(one: &HttpMatch, asked: &Asked) -> bool {
    one.path.as_ref().is_none_or(|path| path_holds(path, &asked.path))
        && one.method.as_ref().is_none_or(|method| text_holds(method, asked.method.as_str()))
        && one.grpc.as_ref().is_none_or(|grpc| grpc_holds(grpc, &asked.path))
        && (one.source_namespace.is_empty() || one.source_namespace == *asked.arrival.identity.namespace)
        && (one.port == 0 || one.port == u32::from(asked.arrival.target.port()))
        && first_of_each_name(&one.headers, true).into_iter().all(|wanted| header_holds(wanted, asked))
        && first_of_each_name(&one.query, false).into_iter().all(|wanted| query_holds(wanted, asked))
}

fn chars(text: &Option<StrMatch>) -> usize {
    match text.as_ref().and_then(|text| text.kind.as_ref()) {
        Some(StrMatchKind::Exact(text) | StrMatchKind::Regex(text) | StrMatchKind::Prefix(text) | StrMatchKind::Suffix(text)) => {
            text.len()
        }
        _ => 0,
    }
}

/// `Less`: the first of the two goes first.
fn before(a: (&HttpRoute, &HttpMatch, usize), b: (&HttpRoute, &HttpMatch, usize)) -> Ordering {
    let kind = |one: &HttpMatch| match one.path.as_ref().map(PathMatch::kind) {
        Some(PathKind::Exact) => 0,
        Some(PathKind::Regex) => 1,
        Some(PathKind::PrefixSegment | PathKind::PrefixString) | None => 2,
    };
    let length = |one: &HttpMatch| match &one.path {
        None => 1,
        Some(path) if path.kind() == PathKind::PrefixSegment && path.value.len() > 1 => path.value.trim_end_matches('/').len(),
        Some(path) => path.value.len(),
    };
    let grpc = |one: &HttpMatch| one.grpc.as_ref().map_or((0, 0), |grpc| (chars(&grpc.service), chars(&grpc.method)));
    let source = |route: &HttpRoute| route.meta.as_ref().and_then(|meta| meta.source.clone()).unwrap_or_default();
    let created = |route: &HttpRoute| route.meta.as_ref().map_or(0, |meta| meta.created_unix);
    let specific = if a.0.order() == MatchOrder::Listed {
        Ordering::Equal
    } else {
        kind(a.1)
            .cmp(&kind(b.1))
            .then(length(b.1).cmp(&length(a.1)))
            .then(grpc(b.1).0.cmp(&grpc(a.1).0))
            .then(grpc(b.1).1.cmp(&grpc(a.1).1))
            .then(b.1.method.is_some().cmp(&a.1.method.is_some()))
            .then(first_of_each_name(&b.1.headers, true).len().cmp(&first_of_each_name(&a.1.headers, true).len()))
            .then(first_of_each_name(&b.1.query, false).len().cmp(&first_of_each_name(&a.1.query, false).len()))
    };
    specific
        .then(created(a.0).cmp(&created(b.0)))
        .then(source(a.0).namespace.cmp(&source(b.0).namespace))
        .then(source(a.0).name.cmp(&source(b.0).name))
        .then(a.0.rule_order.cmp(&b.0.rule_order))
        .then(a.2.cmp(&b.2))
}

/// The number of the rule, and of its match.
fn expected(routes: &[HttpRoute], asked: &Asked) -> Option<(usize, usize)> {
    let every = HttpMatch::default();
    let mut all: Vec<(usize, usize, &HttpMatch)> = Vec::new();
    for (rule, route) in routes.iter().enumerate() {
        if route.matches.is_empty() {
            all.push((rule, 0, &every));
        }
        all.extend(route.matches.iter().enumerate().map(|(by, one)| (rule, by, one)));
    }
    all.retain(|(_, _, one)| holds(one, asked));
    let first = all.into_iter().min_by(|a, b| before((&routes[a.0], a.2, a.1), (&routes[b.0], b.2, b.1)));
    first.map(|(rule, by, _)| (rule, by))
}

// ── made-up rules and requests: of few words, so that they meet ──

const WORDS: [&str; 4] = ["a", "b", "ab", "A"];

fn text(chance: &mut SmallRng) -> Option<StrMatch> {
    let word = (*WORDS.choose(chance).unwrap()).to_owned();
    Some(StrMatch {
        kind: Some(match chance.random_range(0..8) {
            0 => StrMatchKind::Prefix(word),
            1 => StrMatchKind::Suffix(word),
            2 => StrMatchKind::Regex(["a|b", "a+b?", ".", "[ab]*"].choose(chance).unwrap().to_string()),
            3 => StrMatchKind::Present(true),
            _ => StrMatchKind::Exact(word),
        }),
    })
}

fn path(chance: &mut SmallRng) -> String {
    let mut path = String::new();
    for _ in 0..chance.random_range(0..4) {
        path.push('/');
        path.push_str(WORDS.choose(chance).unwrap());
    }
    if path.is_empty() || chance.random_ratio(1, 5) {
        path.push('/');
    }
    path
}

fn keys(chance: &mut SmallRng, most: usize) -> Vec<KeyMatch> {
    let one = |chance: &mut SmallRng| KeyMatch {
        name: (*["a", "b", "A", "host"].choose(chance).unwrap()).to_owned(),
        value: text(chance),
        invert: chance.random_ratio(1, 8),
    };
    (0..chance.random_range(0..=most)).map(|_| one(chance)).collect()
}

fn one_match(chance: &mut SmallRng, grpc: bool) -> HttpMatch {
    let mut one = HttpMatch::default();
    if grpc {
        let part = |chance: &mut SmallRng| chance.random_bool(0.6).then(|| text(chance)).flatten();
        one.grpc = chance.random_bool(0.8).then(|| GrpcMatch { service: part(chance), method: part(chance) });
    } else if chance.random_bool(0.8) {
        let kind = *[PathKind::Exact, PathKind::PrefixSegment, PathKind::PrefixSegment, PathKind::PrefixString, PathKind::Regex]
            .choose(chance)
            .unwrap();
        let value = match kind {
            PathKind::Regex => ["/.*", "/a/.*", "/[ab]", "/(a|b)/?", "/a"].choose(chance).unwrap().to_string(),
            _ => path(chance),
        };
        one.path = Some(PathMatch { kind: kind as i32, value, ignore_case: chance.random_ratio(1, 6) });
        if chance.random_ratio(1, 5) {
            one.method =
                Some(StrMatch { kind: Some(StrMatchKind::Exact((*["GET", "POST"].choose(chance).unwrap()).to_owned())) });
        }
    }
    if chance.random_ratio(1, 3) {
        one.headers = keys(chance, 3);
    }
    if chance.random_ratio(1, 4) {
        one.query = keys(chance, 2);
    }
    if chance.random_ratio(1, 12) {
        one.source_namespace = (*["shop", "other"].choose(chance).unwrap()).to_owned();
    }
    if chance.random_ratio(1, 12) {
        one.port = *[80, 81].choose(chance).unwrap();
    }
    one
}

fn routes(chance: &mut SmallRng) -> Vec<HttpRoute> {
    let (grpc, listed) = (chance.random_ratio(1, 5), chance.random_ratio(1, 4));
    let mut made = Vec::new();
    for name in 0..chance.random_range(1..4_u32) {
        let source = SourceRef {
            namespace: (*["n", "m"].choose(chance).unwrap()).to_owned(),
            name: format!("r{name}"),
            ..SourceRef::default()
        };
        let created_unix = chance.random_range(0..3);
        for rule_order in 0..chance.random_range(1..4) {
            made.push(HttpRoute {
                meta: Some(Meta { source: Some(source.clone()), created_unix }),
                grpc: grpc && !listed,
                rule_order,
                order: if listed { MatchOrder::Listed } else { MatchOrder::Specificity } as i32,
                matches: (0..chance.random_range(0..4)).map(|_| one_match(chance, grpc && !listed)).collect(),
                ..HttpRoute::default()
            });
        }
    }
    made
}

fn request(chance: &mut SmallRng) -> Asked {
    let mut target = path(chance);
    for number in 0..chance.random_range(0..3) {
        let pair = format!("{}={}", WORDS.choose(chance).unwrap(), WORDS.choose(chance).unwrap());
        target = format!("{target}{}{pair}", if number == 0 { '?' } else { '&' });
    }
    let mut headers = Vec::new();
    for _ in 0..chance.random_range(0..4) {
        headers.push((*["a", "b"].choose(chance).unwrap(), *WORDS.choose(chance).unwrap()));
    }
    let mut asked = asked(&target, &headers);
    asked.method = if chance.random_bool(0.5) { Method::GET } else { Method::POST };
    asked.authority = (*WORDS.choose(chance).unwrap()).to_owned();
    asked
}

/// `ROUTE_CASES` for more, `ROUTE_SEED` to play one set of rules again.
#[test]
fn made_up_rules_are_found_as_the_oracle_finds_them() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("ROUTE_CASES").unwrap_or(100_000);
    // Some requests for each set of rules.
    const REQUESTS: u64 = 50;
    let seeds = number("ROUTE_SEED").map_or(0..cases / REQUESTS, |seed| seed..seed + 1);
    let mut hits = 0;
    for seed in seeds {
        let mut chance = SmallRng::seed_from_u64(seed);
        let routes = routes(&mut chance);
        let compile = |(at, wire): (usize, &HttpRoute)| {
            let (rule, wrong) = Rule::compile(&at.to_string(), wire);
            assert_eq!(wrong, None);
            Arc::new(rule)
        };
        let table = Table::new(routes.iter().enumerate().map(compile));
        for _ in 0..REQUESTS {
            let asked = request(&mut chance);
            let found = table.find(&asked.head()).map(|matched| (matched.rule.resource.parse().unwrap(), matched.by));
            let expected = expected(&routes, &asked);
            assert_eq!(found, expected, "ROUTE_SEED={seed}: {asked:#?}\n{routes:#?}");
            hits += u64::from(found.is_some());
        }
    }
    if cases >= 10_000 && number("ROUTE_SEED").is_none() {
        assert!(hits > cases / 4 && hits < cases * 95 / 100, "the cases tell nothing apart: {hits} of {cases} find a rule");
    }
}
