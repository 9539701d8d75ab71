//! Rules for bytes that nobody looks into: by the server name of TLS, or all (spec/waypoint.md 1.8, 2.9).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use mesh_xds::messages::waypoint::{Meta, SourceRef, TcpRoute, TlsRoute, WeightedBackend};

use super::{Age, name_of};
use crate::edit;
use crate::facts::Rejection;

/// Names of one rule (spec/waypoint.md 2.1).
pub const SERVER_NAMES_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct StreamRule {
    /// The resource's name.
    pub resource: Arc<str>,
    pub name: Arc<str>,
    pub source: SourceRef,
    pub age: Age,
    pub order: u32,
    /// In lower case. Of TLS; `None` of TCP, and where every name is meant.
    pub server_names: Option<Vec<Box<str>>>,
    pub backends: Vec<edit::Backend>,
}

/// Which rule a server name falls under.
#[derive(Clone, Debug, Default)]
pub struct TlsTable {
    exact: HashMap<Box<str>, Arc<StreamRule>>,
    /// By what follows the `*.`.
    wildcards: HashMap<Box<str>, Arc<StreamRule>>,
    any: Option<Arc<StreamRule>>,
}

impl StreamRule {
    pub fn of_tcp(resource: &str, wire: &TcpRoute) -> (StreamRule, Option<Rejection>) {
        StreamRule::compile(resource, wire.meta.as_ref(), wire.rule_order, None, &wire.backends)
    }

    pub fn of_tls(resource: &str, wire: &TlsRoute) -> (StreamRule, Option<Rejection>) {
        let names = (!wire.server_names.is_empty()).then_some(wire.server_names.as_slice());
        StreamRule::compile(resource, wire.meta.as_ref(), wire.rule_order, names, &wire.backends)
    }

    fn compile(
        resource: &str,
        meta: Option<&Meta>,
        order: u32,
        names: Option<&[String]>,
        backends: &[WeightedBackend],
    ) -> (StreamRule, Option<Rejection>) {
        let mut wrong = Vec::new();
        let source = meta.and_then(|meta| meta.source.clone()).unwrap_or_default();
        let server_names = names.map(|names| readable(names, &mut wrong));
        let backends = edit::compile_backends(backends, &mut wrong);
        let name = name_of(resource, &source, "");
        let rule = StreamRule { resource: resource.into(), name, age: Age::of(meta), source, order, server_names, backends };
        (rule, Rejection::of_all(wrong))
    }

    pub(super) fn rank(&self) -> impl Ord + use<> {
        (self.age.clone(), self.order, self.resource.clone())
    }
}

/// A name that cannot be read matches nothing.
fn readable(names: &[String], wrong: &mut Vec<String>) -> Vec<Box<str>> {
    if names.len() > SERVER_NAMES_MAX {
        wrong.push(format!("more than {SERVER_NAMES_MAX} server names: those after them are left out"));
    }
    let mut kept = Vec::new();
    for name in names.iter().take(SERVER_NAMES_MAX) {
        let bare = name.strip_prefix("*.").unwrap_or(name);
        if bare.is_empty() || bare.contains(['*', '/', ':']) || !bare.is_ascii() {
            wrong.push(format!("{name:?} is no server name: write host.example.com or *.example.com"));
        } else {
            kept.push(name.trim_end_matches('.').to_ascii_lowercase().into());
        }
    }
    kept
}

impl TlsTable {
    pub fn new(rules: impl IntoIterator<Item = Arc<StreamRule>>) -> TlsTable {
        let mut rules: Vec<_> = rules.into_iter().collect();
        rules.sort_by_cached_key(|rule| rule.rank());
        let mut table = TlsTable::default();
        for rule in rules {
            match &rule.server_names {
                None => {
                    table.any.get_or_insert_with(|| rule.clone());
                }
                Some(names) => {
                    for name in names {
                        let (map, name) = match name.strip_prefix("*.") {
                            Some(suffix) => (&mut table.wildcards, suffix),
                            None => (&mut table.exact, &**name),
                        };
                        map.entry(name.into()).or_insert_with(|| rule.clone());
                    }
                }
            }
        }
        table
    }

    /// Exact, then the longest wildcard, then what takes every name. No name falls only under the last (spec/waypoint.md 2.9).
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<StreamRule>> {
        let Some(name) = server_name else { return self.any.as_ref() };
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = if name.bytes().any(|c| c.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        if let Some(rule) = self.exact.get(&*name) {
            return Some(rule);
        }
        let mut rest = &*name;
        while let Some((label, suffix)) = rest.split_once('.') {
            if let Some(rule) = self.wildcards.get(suffix)
                && !label.is_empty()
            {
                return Some(rule);
            }
            rest = suffix;
        }
        self.any.as_ref()
    }

    /// Each rule with one of its names, in the order in which they are tried.
    pub fn names(&self) -> Vec<(String, &Arc<StreamRule>)> {
        let mut names: Vec<(String, &Arc<StreamRule>)> = self.exact.iter().map(|(name, rule)| (name.to_string(), rule)).collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let mut wildcards: Vec<_> = self.wildcards.iter().map(|(name, rule)| (format!("*.{name}"), rule)).collect();
        wildcards.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        names.extend(wildcards);
        names.extend(self.any.iter().map(|rule| ("*".to_owned(), rule)));
        names
    }
}

/// Of several rules for TCP the oldest has all the traffic (spec/waypoint.md 2.9).
pub fn oldest(rules: impl IntoIterator<Item = Arc<StreamRule>>) -> Option<Arc<StreamRule>> {
    rules.into_iter().min_by_key(|rule| rule.rank())
}
