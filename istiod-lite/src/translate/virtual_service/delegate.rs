//! A rule that delegates (spec/waypoint.md 5.1): the rules of another VirtualService, one without hosts, stand in its place.
//! Each of them matches what both match, and has what it does not say itself from the rule that delegates. One level deep.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::virtual_service::{HttpRule, HttpRuleMatch, Text};
use crate::objects::{Kind, Labels, Meta, NsName, VirtualService};
use crate::translate::Lens;

/// Matches of a rule in whose place another's stand: a product of two lists. The definitions of the field have no bound; one
/// more would be a mistake.
const MATCHES_MAX: usize = 1024;

/// What two things that are to hold together come to; `None`: nothing meets both.
type Both<T> = Option<T>;

/// The VirtualService that a rule delegates to.
///
/// # Errors
/// Why there is none that may be used.
pub fn target<'a>(lens: &Lens<'a>, meta: &Meta, rule: &HttpRule) -> Result<&'a Arc<VirtualService>, String> {
    let asked = rule.delegate.clone().unwrap_or_default();
    let namespace = if asked.namespace.is_empty() { meta.namespace.clone() } else { asked.namespace };
    let name = NsName { namespace, name: asked.name };
    lens.note_object(Kind::VirtualService, &name);
    let found = lens.cluster.virtual_services.get(&name).ok_or_else(|| format!("VirtualService {name} does not exist"))?;
    if !found.spec.hosts.is_empty() {
        return Err(format!("VirtualService {name} has hosts of its own, and one that is delegated to has none"));
    }
    let sees = |place: &Arc<str>| match &**place {
        "*" => true,
        "." => found.meta.namespace == meta.namespace,
        place => *place == *meta.namespace,
    };
    if !found.spec.export_to.is_empty() && !found.spec.export_to.iter().any(sees) {
        return Err(format!("VirtualService {name} is not exported to namespace {}", meta.namespace));
    }
    if !rule.route.is_empty() || rule.redirect.is_some() || rule.direct_response.is_some() {
        return Err("a rule that delegates has no route, redirect or directResponse".into());
    }
    Ok(found)
}

/// A rule of the other one as it counts here. `None`: it matches nothing that the rule here matches.
///
/// # Errors
/// What it cannot be.
pub fn merged(outer: &HttpRule, inner: &HttpRule) -> Result<Option<HttpRule>, String> {
    if inner.delegate.is_some() {
        return Err("delegates once more, and only one level is followed".into());
    }
    if outer.r#match.len().max(1) * inner.r#match.len().max(1) > MATCHES_MAX {
        return Err(format!("has more than {MATCHES_MAX} matches together with those of the rule that delegates"));
    }
    let r#match = match (outer.r#match.as_slice(), inner.r#match.as_slice()) {
        ([], inner) => inner.to_vec(),
        (outer, []) => outer.to_vec(),
        (outer, inner) => {
            let pairs = outer.iter().flat_map(|outer| inner.iter().filter_map(move |inner| both_matches(outer, inner)));
            let found: Vec<HttpRuleMatch> = pairs.collect();
            if found.is_empty() {
                return Ok(None);
            }
            found
        }
    };
    let name = match (&*outer.name, &*inner.name) {
        ("", name) | (name, "") => name.into(),
        (outer, inner) => format!("{outer}-{inner}").into(),
    };
    let has_own_mirror = inner.mirror.is_some() || !inner.mirrors.is_empty();
    let mirror_of = if has_own_mirror { inner } else { outer };
    Ok(Some(HttpRule {
        name,
        r#match,
        delegate: None,
        route: inner.route.clone(),
        redirect: inner.redirect.clone(),
        direct_response: inner.direct_response.clone(),
        rewrite: inner.rewrite.clone().or_else(|| outer.rewrite.clone()),
        timeout: inner.timeout.or(outer.timeout),
        retries: inner.retries.clone().or_else(|| outer.retries.clone()),
        fault: inner.fault.clone().or_else(|| outer.fault.clone()),
        mirror: mirror_of.mirror.clone(),
        mirrors: mirror_of.mirrors.clone(),
        mirror_percent: mirror_of.mirror_percent,
        mirror_percentage: mirror_of.mirror_percentage,
        cors_policy: inner.cors_policy.clone().or_else(|| outer.cors_policy.clone()),
        headers: inner.headers.clone().or_else(|| outer.headers.clone()),
    }))
}

fn both_matches(outer: &HttpRuleMatch, inner: &HttpRuleMatch) -> Both<HttpRuleMatch> {
    let ignore_uri_case = match (&outer.uri, &inner.uri) {
        (Some(_), Some(_)) if outer.ignore_uri_case != inner.ignore_uri_case => return None,
        (Some(_), None) => outer.ignore_uri_case,
        _ => inner.ignore_uri_case,
    };
    Some(HttpRuleMatch {
        name: inner.name.clone(),
        uri: both_texts(&outer.uri, &inner.uri)?,
        scheme: both_texts(&outer.scheme, &inner.scheme)?,
        method: both_texts(&outer.method, &inner.method)?,
        authority: both_texts(&outer.authority, &inner.authority)?,
        headers: both_maps(&outer.headers, &inner.headers)?,
        without_headers: without_either(&outer.without_headers, &inner.without_headers)?,
        query_params: both_maps(&outer.query_params, &inner.query_params)?,
        port: both_or_one(&outer.port, &inner.port)?,
        source_labels: both_labels(&outer.source_labels, &inner.source_labels)?,
        gateways: if inner.gateways.is_empty() { outer.gateways.clone() } else { inner.gateways.clone() },
        ignore_uri_case,
        source_namespace: both_or_one(&outer.source_namespace, &inner.source_namespace)?,
        stat_prefix: inner.stat_prefix.clone(),
    })
}

/// The default says nothing.
fn both_or_one<T: Clone + Default + PartialEq>(outer: &T, inner: &T) -> Both<T> {
    let none = T::default();
    match (*outer == none, *inner == none) {
        (true, _) => Some(inner.clone()),
        (_, true) => Some(outer.clone()),
        _ => (outer == inner).then(|| outer.clone()),
    }
}

fn both_texts(outer: &Option<Text>, inner: &Option<Text>) -> Both<Option<Text>> {
    match (outer, inner) {
        (None, only) | (only, None) => Some(only.clone()),
        (Some(outer), Some(inner)) => narrower(outer, inner).map(Some),
    }
}

/// What is in the other one: a text that it begins is. Of two patterns nobody can tell.
fn narrower(outer: &Text, inner: &Text) -> Both<Text> {
    let of = |one: &Text, other: &Text| {
        let prefix = one.prefix.as_deref()?;
        let within = other.exact.as_deref().or(other.prefix.as_deref())?;
        within.starts_with(prefix).then(|| other.clone())
    };
    let anything = Text::default();
    match (outer, inner) {
        (outer, inner) if outer == inner || *inner == anything => Some(outer.clone()),
        (outer, inner) if *outer == anything => Some(inner.clone()),
        (outer, inner) => of(outer, inner).or_else(|| of(inner, outer)),
    }
}

type Texts = BTreeMap<Arc<str>, Text>;

fn both_maps(outer: &Texts, inner: &Texts) -> Both<Texts> {
    let mut all = outer.clone();
    for (name, text) in inner {
        let both = match outer.get(name) {
            Some(known) => narrower(known, text)?,
            None => text.clone(),
        };
        all.insert(name.clone(), both);
    }
    Some(all)
}

/// What may be in neither. Two different texts for one name cannot be said in one match.
fn without_either(outer: &Texts, inner: &Texts) -> Both<Texts> {
    let is_at_odds = inner.iter().any(|(name, text)| outer.get(name).is_some_and(|known| known != text));
    (!is_at_odds).then(|| outer.iter().chain(inner).map(|(name, text)| (name.clone(), text.clone())).collect())
}

fn both_labels(outer: &Labels, inner: &Labels) -> Both<Labels> {
    let is_at_odds = inner.iter().any(|(name, value)| outer.get(name).is_some_and(|known| known != value));
    (!is_at_odds).then(|| outer.iter().chain(inner.iter()).map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(word: &str) -> Option<Text> {
        let (kind, value) = word.split_once(':')?;
        let value: Option<Arc<str>> = Some(value.into());
        Some(match kind {
            "exact" => Text { exact: value, ..Text::default() },
            "prefix" => Text { prefix: value, ..Text::default() },
            "regex" => Text { regex: value, ..Text::default() },
            _ => Text::default(),
        })
    }

    #[test]
    fn what_two_matches_come_to() {
        // outer, inner, both; `none`: nothing
        let table = [
            ("", "", ""),
            ("prefix:/a", "", "prefix:/a"),
            ("", "regex:/a.*", "regex:/a.*"),
            ("prefix:/a", "prefix:/a/b", "prefix:/a/b"),
            ("prefix:/a/b", "prefix:/a", "prefix:/a/b"),
            ("prefix:/a", "exact:/a/b", "exact:/a/b"),
            ("exact:/a/b", "prefix:/a", "exact:/a/b"),
            ("exact:/a", "exact:/a", "exact:/a"),
            ("regex:/a", "regex:/a", "regex:/a"),
            ("any:", "exact:/a", "exact:/a"),
            ("exact:/a", "any:", "exact:/a"),
            ("prefix:/a", "prefix:/b", "none"),
            ("exact:/a", "exact:/b", "none"),
            ("exact:/a", "prefix:/a/b", "none"),
            ("regex:/a.*", "exact:/ab", "none"),
            ("prefix:/a", "regex:/a.*", "none"),
        ];
        for (outer, inner, both) in table {
            let found = both_texts(&text(outer), &text(inner));
            let expected = if both == "none" { None } else { Some(text(both)) };
            assert_eq!(found, expected, "{outer} {inner}");
        }
    }

    fn rule(yaml: &str) -> HttpRule {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_rule_has_what_it_does_not_say_from_the_one_that_delegates() {
        let outer = rule("{name: a, match: [{uri: {prefix: /x}, headers: {h: {exact: '1'}}}, {port: 81}], timeout: 5s, retries: {attempts: 1}, delegate: {name: d}, mirror: {host: m}, mirrorPercent: 5, headers: {request: {remove: [o]}}}");
        let inner = rule("{name: b, match: [{uri: {prefix: /x/y}, headers: {i: {}}, port: 80}], timeout: 1s, rewrite: {uri: /z}, route: [{destination: {host: v1}}], headers: {response: {remove: [i]}}}");
        let both = merged(&outer, &inner).unwrap().unwrap();
        let expected = rule("{name: a-b, match: [{uri: {prefix: /x/y}, headers: {h: {exact: '1'}, i: {}}, port: 80}], timeout: 1s, retries: {attempts: 1}, rewrite: {uri: /z}, mirror: {host: m}, mirrorPercent: 5, \
            route: [{destination: {host: v1}}], headers: {response: {remove: [i]}}}");
        assert_eq!(both, expected, "the second match of the outer one is at odds with the port");
    }

    #[test]
    fn what_cannot_be_is_said() {
        let outer = rule("{match: [{uri: {prefix: /x}}]}");
        assert_eq!(merged(&outer, &rule("{match: [{uri: {prefix: /y}}]}")).unwrap(), None);
        assert!(merged(&outer, &rule("{delegate: {name: e}}")).unwrap_err().contains("one level"));
        let many = |count: usize| HttpRule { r#match: vec![HttpRuleMatch::default(); count], ..HttpRule::default() };
        assert!(merged(&many(33), &many(32)).unwrap_err().contains("1024"));
        assert_eq!(merged(&many(32), &many(32)).unwrap().unwrap().r#match.len(), 1024);
        assert_eq!(merged(&outer, &HttpRule::default()).unwrap().unwrap().r#match, outer.r#match);
    }
}
