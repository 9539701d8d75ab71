//! The tables of spec/waypoint.md 4: one row, one fact. `oracle` compares everything against a second reading of it.

mod oracle;

use std::sync::Arc;

use mesh_model::identity::SpiffeId;

use super::*;
use crate::policy::Entry;

/// What a test asks with; `ask` makes a `Request` of it.
#[derive(Clone, Debug)]
struct Asked {
    identity: Option<SpiffeId>,
    source: &'static str,
    remote: &'static str,
    destination: Option<&'static str>,
    port: u16,
    server_name: Option<String>,
    trust_domains: Vec<Arc<str>>,
    opaque: bool,
    method: String,
    authority: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    token: Option<OfToken>,
}

#[derive(Clone, Debug)]
struct OfToken {
    issuer: String,
    subject: String,
    /// Path to texts.
    claims: Vec<(Vec<&'static str>, Vec<String>)>,
}

fn plain() -> Asked {
    Asked {
        identity: Some(SpiffeId::new("td", "front", "cart")),
        source: "10.0.0.1",
        remote: "192.0.2.7",
        destination: Some("10.96.0.9"),
        port: 8080,
        server_name: None,
        trust_domains: vec!["td".into()],
        opaque: false,
        method: "GET".into(),
        authority: "shop.example:8080".into(),
        path: "/admin/users".into(),
        headers: vec![("x-one".into(), b"a".to_vec()), ("x-two".into(), b"a".to_vec()), ("x-two".into(), b"b".to_vec()), ("x-empty".into(), Vec::new())],
        token: Some(OfToken {
            issuer: "https://issuer/realm".into(),
            subject: "bob".into(),
            claims: vec![
                (vec!["aud"], vec!["web".into(), "api".into()]),
                (vec!["azp"], vec!["cli".into()]),
                (vec!["realm", "roles"], vec!["admin".into(), "user".into()]),
                (vec!["group"], vec!["ops".into()]),
            ],
        }),
    }
}

fn ask<T>(asked: &Asked, judge: impl FnOnce(&Request<'_>) -> T) -> T {
    let header = |name: &str| asked.headers.iter().filter(|(is, _)| is == name).map(|(_, value)| &value[..]).collect();
    let claim = |path: &[Arc<str>]| -> Vec<&str> {
        let claims = asked.token.iter().flat_map(|token| &token.claims);
        let same = |is: &Vec<&'static str>| is.iter().map(|name| &**name).eq(path.iter().map(|name| &**name));
        claims.filter(|(is, _)| same(is)).flat_map(|(_, texts)| texts.iter().map(String::as_str)).collect()
    };
    let token = asked.token.as_ref().map(|token| Token { issuer: &token.issuer, subject: &token.subject, claim: &claim });
    let http = Http { method: &asked.method, authority: &asked.authority, path: &asked.path, header: &header, token };
    judge(&Request {
        identity: asked.identity.as_ref(),
        source: asked.source.parse().unwrap(),
        remote: asked.remote.parse().unwrap(),
        destination: asked.destination.map(|address| address.parse().unwrap()),
        port: asked.port,
        server_name: asked.server_name.as_deref(),
        trust_domains: &asked.trust_domains,
        http: (!asked.opaque).then_some(http),
    })
}

fn entries(attribute: &Attribute, texts: &[&str]) -> Vec<Entry<Pattern>> {
    let read = |text: &&str| Pattern::read(attribute, text, &"shop".into()).map_or(Entry::Malformed, Entry::Value);
    texts.iter().map(read).collect()
}

/// `key` is one of `when`, or `host`, `method`, `path`.
fn condition(key: &str, values: &[&str], not_values: &[&str]) -> Condition {
    let attribute = match key {
        "host" => Attribute::Host,
        "method" => Attribute::Method,
        "path" => Attribute::Path,
        _ => Attribute::of_key(key).unwrap_or(Attribute::Unreadable),
    };
    if attribute == Attribute::Unreadable {
        return Condition::unreadable();
    }
    Condition { values: entries(&attribute, values), not_values: entries(&attribute, not_values), attribute }
}

fn policy(action: Action, rules: Vec<Rule>) -> Policy {
    Policy { namespace: "shop".into(), name: "p".into(), action, dry_run: false, rules }
}

fn when(condition: Condition) -> Rule {
    Rule { when: vec![condition], ..Rule::default() }
}

fn allows(policies: &[Policy], asked: &Asked) -> bool {
    ask(asked, |request| decide(policies, request).because.is_allowed())
}

/// Whether an ALLOW and a DENY of one condition match.
fn matched(condition: &Condition, asked: &Asked) -> (bool, bool) {
    let allow = policy(Action::Allow, vec![when(condition.clone())]);
    let deny = policy(Action::Deny, vec![when(condition.clone())]);
    (allows(&[allow], asked), !allows(&[deny], asked))
}

// F-45: what each key compares with, and how. V-41, V-42: hosts and methods.
#[test]
fn every_key_and_every_form_of_text() {
    let table: &[(&str, &str, bool)] = &[
        ("source.principal", "td/ns/front/sa/cart", true),
        ("source.principal", "spiffe://td/ns/front/sa/cart", false),
        ("source.principal", "TD/ns/front/sa/cart", false),
        ("source.principal", "td/ns/front/*", true),
        ("source.principal", "*/sa/cart", true),
        ("source.principal", "*", true),
        ("source.principal", "td/ns/front/sa/car", false),
        ("source.namespace", "front", true),
        ("source.namespace", "fron", false),
        ("source.namespace", "f*t", true),
        ("source.namespace", "*ron*", true),
        ("source.namespace", "f*o*x*t", false),
        ("source.namespace", "fr*ront", false),
        ("source.namespace", "*", true),
        ("source.serviceAccount", "front/cart", true),
        ("source.serviceAccount", "cart", false),
        ("source.serviceAccount", "shop/cart", false),
        ("source.trustDomain", "td", true),
        ("source.trustDomain", "t*", true),
        ("source.trustDomain", "*", true),
        ("source.trustDomain", "d*", false),
        ("source.ip", "10.0.0.1", true),
        ("source.ip", "10.0.0.0/24", true),
        ("source.ip", "10.0.0.99/24", true),
        ("source.ip", "::ffff:10.0.0.0/120", true),
        ("source.ip", "192.0.2.7", false),
        ("source.ip", "::/0", false),
        ("remote.ip", "192.0.2.0/24", true),
        ("remote.ip", "10.0.0.1", false),
        ("destination.ip", "10.96.0.9", true),
        ("destination.port", "8080", true),
        ("destination.port", "80", false),
        ("connection.sni", "*", false),
        ("host", "shop.example:8080", true),
        ("host", "SHOP.example:*", true),
        ("host", "example:8080", false),
        ("host", "*.EXAMPLE:8080", true),
        ("host", "*", true),
        ("method", "GET", true),
        ("method", "get", false),
        ("method", "G*", true),
        ("method", "*", true),
        ("path", "/admin/users", true),
        ("path", "/admin*", true),
        ("path", "*/users", true),
        ("path", "/Admin*", false),
        ("path", "/admin/{*}", true),
        ("path", "/{*}/users", true),
        ("path", "/{*}", false),
        ("path", "/{**}", true),
        ("path", "/admin/users/{**}", true),
        ("path", "/admin/users/{*}", false),
        ("path", "/admin/{**}", true),
        ("path", "/users/{**}", false),
        ("request.headers[X-One]", "a", true),
        ("request.headers[x-one]", "A", false),
        ("request.headers[x-one]", "*", true),
        ("request.headers[x-empty]", "*", true),
        ("request.headers[x-empty]", "", true),
        ("request.headers[x-none]", "*", false),
        ("request.headers[x-none]", "", false),
        ("request.auth.principal", "https://issuer/realm/bob", true),
        ("request.auth.principal", "*", true),
        ("request.auth.principal", "*/bob", true),
        ("request.auth.principal", "*/realm/bob", true),
        ("request.auth.principal", "*issuer/bob", false),
        ("request.auth.principal", "https://issuer/realm/*", true),
        ("request.auth.principal", "https://issuer/realm/b*", true),
        ("request.auth.principal", "https://issuer/*", false),
        ("request.auth.principal", "*ob", true),
        ("request.auth.principal", "https:*", true),
        ("request.auth.principal", "bob", false),
        ("request.auth.audiences", "api", true),
        ("request.auth.audiences", "web,api", false),
        ("request.auth.presenter", "cli", true),
        ("request.auth.claims[group]", "ops", true),
        ("request.auth.claims[group]", "o*", true),
        ("request.auth.claims[realm][roles]", "user", true),
        ("request.auth.claims[realm][roles]", "root", false),
        ("request.auth.claims[realm]", "*", false),
        ("request.auth.claims[none]", "*", false),
    ];
    for (key, text, expected) in table {
        let expected = *expected;
        let one = condition(key, &[text], &[]);
        assert!(one.is_readable(), "{key} {text}");
        assert_eq!(matched(&one, &plain()), (expected, expected), "{key} = {text}");
        let not = condition(key, &[], &[text]);
        assert_eq!(matched(&not, &plain()), (!expected, !expected), "{key} != {text}");
    }
}

#[test]
fn path_templates() {
    let table = [
        ("/a/{*}", "/a/b", true),
        ("/a/{*}", "/a/", false),
        ("/a/{*}", "/a", false),
        ("/a/{*}", "/a/b/", false),
        ("/a/{*}/c", "/a/b/c", true),
        ("/a/{*}/c", "/a//c", false),
        ("/a/{**}", "/a", true),
        ("/a/{**}", "/a/", true),
        ("/a/{**}", "/a/b/c/", true),
        ("/a/{**}", "/ab", false),
        ("/{*}/b/{**}", "/a/b", true),
        ("/{*}/b/{**}", "/a/c", false),
        ("/{**}", "/", true),
        ("/a.c/{*}", "/abc/x", false),
    ];
    for (text, path, expected) in table {
        let asked = Asked { path: path.into(), ..plain() };
        assert_eq!(matched(&condition("path", &[text], &[]), &asked), (expected, expected), "{text} {path}");
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let table: &[(&str, &str)] = &[
        ("source.principal", ""),
        ("source.principal", "td/*/sa/x"),
        ("source.serviceAccount", "a/b/c"),
        ("source.serviceAccount", "a/*"),
        ("source.serviceAccount", "/x"),
        ("source.trustDomain", "*a*"),
        ("source.trustDomain", "a/b"),
        ("source.ip", "10.0.0"),
        ("source.ip", "10.0.0.0/33"),
        ("remote.ip", "*"),
        ("destination.port", "0"),
        ("destination.port", "65536"),
        ("destination.port", "http"),
        ("host", "a.*.b"),
        ("method", "G*T"),
        ("path", "/a/{**}/b"),
        ("path", "/a/{*}*"),
        ("path", "/a*/{*}"),
        ("path", "a/{*}"),
        ("path", "/x{*}"),
        ("request.auth.principal", "*a/b*"),
        ("request.auth.principal", "a/b*c"),
    ];
    for (key, text) in table {
        let attribute = condition(key, &["x"], &[]).attribute;
        assert!(Pattern::read(&attribute, text, &"shop".into()).is_err(), "{key} {text}");
    }
    for key in ["", "source.ips", "request.headers", "request.headers[]", "request.headers[a][b]", "request.auth.claims", "request.auth.claims[a", "request.auth.claims[a]]", "experimental.envoy.filters.x[y]", "Source.ip"] {
        assert_eq!(Attribute::of_key(key), None, "{key}");
    }
}

// Bad values void a rule that allows; elsewhere they are left out, and alone they may mean anything.
#[test]
fn what_cannot_be_read_allows_nothing_and_refuses_what_it_may_have_meant() {
    let table: &[(Condition, (bool, bool))] = &[
        (condition("destination.port", &["bad"], &[]), (false, true)),
        (condition("destination.port", &["bad", "8080"], &[]), (false, true)),
        (condition("destination.port", &["bad", "81"], &[]), (false, false)),
        (condition("destination.port", &[], &["bad"]), (false, true)),
        (condition("destination.port", &[], &["bad", "8080"]), (false, false)),
        (condition("source.colour", &["x"], &[]), (false, true)),
    ];
    for (condition, expected) in table {
        assert_eq!(matched(condition, &plain()), *expected, "{condition:?}");
    }
    // An address that is not known here is neither this one nor another one.
    let by_name = Asked { destination: None, ..plain() };
    for (values, not_values) in [(&["0.0.0.0/0"][..], &[][..]), (&[], &["10.0.0.0/8"])] {
        assert_eq!(matched(&condition("destination.ip", values, not_values), &by_name), (false, true));
    }
    // The other rules of the policy live.
    let good = when(condition("destination.port", &["8080"], &[]));
    let bad = when(condition("destination.port", &["bad"], &[]));
    assert!(allows(&[policy(Action::Allow, vec![bad.clone(), good])], &plain()));
    // The reason names it.
    let deny = [policy(Action::Deny, vec![Rule { when: vec![condition("method", &["PUT"], &[])], ..Rule::default() }, bad.clone()])];
    assert_eq!(ask(&plain(), |request| decide(&deny, request).because), Because::MayBeDeniedBy(&deny[0], 1));
    let allow = [policy(Action::Allow, vec![bad])];
    assert_eq!(ask(&plain(), |request| decide(&allow, request).because), Because::NoneAllowed { malformed: Some((&allow[0], 0)) });
}

// V-40, V-41, V-42: what an endpoint may take for what a DENY names is denied; what an ALLOW names is what was written.
#[test]
fn other_spellings_of_what_is_meant() {
    let path = |path: &str| Asked { path: path.into(), ..plain() };
    let host = |host: &str| Asked { authority: host.into(), ..plain() };
    let method = |method: &str| Asked { method: method.into(), ..plain() };
    // what was asked; key, value; whether an ALLOW and a DENY of the value match; the same for what is not the value
    type Matched = (bool, bool);
    let table: &[(Asked, &str, &str, Matched, Matched)] = &[
        (path("/admin"), "path", "/admin", (true, true), (false, false)),
        (path("//admin"), "path", "/admin", (false, true), (false, true)),
        (path("/admin;x=1"), "path", "/admin", (false, true), (false, true)),
        (path("/admin;x=1"), "path", "/admin*", (true, true), (false, false)),
        (path("/admin;x=1"), "path", "/admin;x=1", (true, true), (false, false)),
        (path("/x%2Fadmin"), "path", "/x/admin", (false, true), (false, true)),
        (path("/x%2Fy/z"), "path", "/{*}/z", (true, true), (false, false)),
        (path("/c%2B%2B"), "path", "/c++", (false, true), (false, true)),
        (path("/admin;.css"), "path", "*.css", (false, true), (false, true)),
        (path("/a;v=1/b"), "path", "/a/{*}", (false, true), (false, true)),
        (path("/a/b;v=1"), "path", "/a/{*}", (true, true), (false, false)),
        (path("/a/b;v=1"), "path", "/a/b", (false, true), (false, true)),
        (host("admin.x"), "host", "admin.x", (true, true), (false, false)),
        (host("ADMIN.x"), "host", "admin.X", (true, true), (false, false)),
        (host("admin.x:80"), "host", "admin.x", (false, true), (false, true)),
        (host("admin.x."), "host", "admin.x", (false, true), (false, true)),
        (host("Admin.x.:80"), "host", "admin.x", (false, true), (false, true)),
        (host("admin.x:80"), "host", "admin.x:80", (true, true), (false, false)),
        (host("admin.x:80"), "host", "admin.x:*", (true, true), (false, false)),
        (host("admin.x"), "host", "admin.x:8080", (false, true), (false, true)),
        (host("a.admin.x:80"), "host", "*.admin.x", (false, true), (false, true)),
        (host("admin.y:80"), "host", "admin.x", (false, false), (true, true)),
        (method("get"), "method", "GET", (false, true), (false, true)),
        (method("gEt"), "method", "G*", (false, true), (false, true)),
        (method("GET"), "method", "get", (false, false), (true, true)),
    ];
    for (asked, key, value, values, not_values) in table {
        let said = (&asked.path, &asked.authority, &asked.method, key, value);
        assert_eq!(matched(&condition(key, &[value], &[]), asked), *values, "{said:?}");
        assert_eq!(matched(&condition(key, &[], &[value]), asked), *not_values, "not {said:?}");
    }
}

// V-43, and spec/waypoint.md 9
#[test]
fn a_header_sent_several_times() {
    let two = || "request.headers[x-two]";
    let table: &[(Condition, (bool, bool))] = &[
        (condition(two(), &["a"], &[]), (false, true)),
        (condition(two(), &["b"], &[]), (false, true)),
        (condition(two(), &["a,b"], &[]), (true, true)),
        (condition(two(), &["c"], &[]), (false, false)),
        (condition(two(), &["*"], &[]), (true, true)),
        (condition(two(), &[], &["a"]), (false, true)),
        (condition(two(), &[], &["a,b"]), (false, true)),
        (condition(two(), &[], &["a", "b", "a,b"]), (false, false)),
        (condition(two(), &[], &["c"]), (true, true)),
    ];
    for (condition, expected) in table {
        assert_eq!(matched(condition, &plain()), *expected, "{condition:?}");
    }
    let crumbs = Asked { headers: vec![("cookie".into(), b"a=1".to_vec()), ("cookie".into(), b"b=2".to_vec())], ..plain() };
    assert_eq!(matched(&condition("request.headers[cookie]", &["a=1; b=2"], &[]), &crumbs), (true, true));
}

// V-44
#[test]
fn bytes_that_are_no_text_are_compared_all_the_same() {
    let odd = Asked { headers: vec![("x-odd".into(), b"adm\xffin".to_vec())], ..plain() };
    let table: &[(&[&str], &[&str], bool)] =
        &[(&["adm*"], &[], true), (&["*in"], &[], true), (&["admin"], &[], false), (&["*"], &[], true), (&[], &["adm*"], false), (&[], &["x"], true)];
    for (values, not_values, expected) in table {
        assert_eq!(matched(&condition("request.headers[x-odd]", values, not_values), &odd), (*expected, *expected), "{values:?} {not_values:?}");
    }
}

#[test]
fn the_absent_is_no_value_and_excludes_nothing() {
    let nobody = Asked { identity: None, token: None, headers: Vec::new(), server_name: None, ..plain() };
    let no_subject = |asked: Asked| Asked { token: asked.token.map(|token| OfToken { subject: String::new(), ..token }), ..asked };
    let keys = ["source.principal", "source.namespace", "source.trustDomain", "request.auth.principal", "request.auth.claims[group]", "request.headers[x]", "connection.sni"];
    for key in keys {
        assert_eq!(matched(&condition(key, &["*"], &[]), &nobody), (false, false), "{key}");
        assert_eq!(matched(&condition(key, &[], &["*"]), &nobody), (true, true), "{key}");
    }
    for text in ["*", "*/bob", "https://issuer/realm", "https://issuer/*", "https:*"] {
        assert_eq!(matched(&condition("request.auth.principal", &[text], &[]), &no_subject(plain())), (false, false), "{text}");
    }
}

#[test]
fn a_trust_domain_has_aliases() {
    let aliased = Asked { trust_domains: vec!["td".into(), "old".into()], ..plain() };
    let table = [
        ("source.principal", "td/ns/front/sa/cart", true),
        ("source.principal", "old/ns/front/sa/cart", true),
        ("source.principal", "old/ns/*", true),
        ("source.principal", "other/ns/front/sa/cart", false),
        ("source.principal", "*/ns/front/sa/cart", true),
        ("source.trustDomain", "old", false),
    ];
    for (key, text, expected) in table {
        assert_eq!(matched(&condition(key, &[text], &[]), &aliased), (expected, expected), "{text}");
        assert_eq!(matched(&condition(key, &[], &[text]), &aliased), (!expected, !expected), "not {text}");
    }
    // A stranger's domain has none.
    let stranger = Asked { identity: Some(SpiffeId::new("elsewhere", "front", "cart")), ..aliased };
    assert_eq!(matched(&condition("source.principal", &["td/ns/front/sa/cart"], &[]), &stranger), (false, false));
}

// spec/waypoint.md 4.4
#[test]
fn a_stream_has_no_attributes_of_a_request() {
    let stream = Asked { opaque: true, ..plain() };
    let http = ["host", "method", "path", "request.headers[x]", "request.auth.principal", "request.auth.claims[x]", "request.auth.audiences"];
    for key in http {
        assert_eq!(matched(&condition(key, &["never"], &[]), &stream), (false, true), "{key}");
        assert_eq!(matched(&condition(key, &[], &["never"]), &stream), (false, true), "not {key}");
    }
    let both = |port| Rule { to: vec![vec![condition("method", &["POST"], &[]), condition("destination.port", &[port], &[])]], ..Rule::default() };
    assert!(!allows(&[policy(Action::Deny, vec![both("8080")])], &stream));
    assert!(allows(&[policy(Action::Deny, vec![both("81")])], &stream), "what is left must hold");
    assert!(!allows(&[policy(Action::Allow, vec![both("8080")])], &stream));
    assert!(allows(&[policy(Action::Allow, vec![both("8080"), when(condition("destination.port", &["8080"], &[]))])], &stream));
}

#[test]
fn from_to_and_when() {
    let yes = || condition("destination.port", &["8080"], &[]);
    let no = || condition("destination.port", &["81"], &[]);
    type Parts = (Vec<Vec<Condition>>, Vec<Vec<Condition>>, Vec<Condition>);
    let table: Vec<(Parts, bool)> = vec![
        ((vec![], vec![], vec![]), true),
        ((vec![vec![no()], vec![yes()]], vec![], vec![]), true),
        ((vec![vec![no(), yes()]], vec![], vec![]), false),
        ((vec![vec![yes()]], vec![vec![no()], vec![yes()]], vec![yes()]), true),
        ((vec![vec![yes()]], vec![vec![yes()]], vec![yes(), no()]), false),
        ((vec![vec![yes()]], vec![vec![no()]], vec![yes()]), false),
        ((vec![vec![no()]], vec![vec![yes()]], vec![yes()]), false),
    ];
    for ((from, to, when), expected) in table {
        let rule = Rule { from, to, when };
        assert_eq!(allows(&[policy(Action::Allow, vec![rule.clone()])], &plain()), expected, "{rule:?}");
        assert_eq!(!allows(&[policy(Action::Deny, vec![rule.clone()])], &plain()), expected, "{rule:?}");
    }
}

// Acceptance 13: actions, numbers of rules, requests and streams.
#[test]
fn the_order_of_actions_and_what_no_rule_means() {
    let named = |name: &str, action: Action, dry_run: bool, rules: Vec<Rule>| Policy { name: name.into(), dry_run, ..policy(action, rules) };
    let hit = || when(condition("destination.port", &["8080"], &[]));
    let miss = || when(condition("destination.port", &["81"], &[]));
    let custom = || Action::Custom { provider: "opa".into() };
    let all = Rule::default;
    for opaque in [false, true] {
        let asked = Asked { opaque, ..plain() };
        // The policies, whether they allow.
        let table: Vec<(Vec<Policy>, bool)> = vec![
            (vec![], true),
            (vec![named("a", Action::Allow, false, vec![])], false),
            (vec![named("a", Action::Allow, false, vec![all()])], true),
            (vec![named("a", Action::Allow, false, vec![miss()])], false),
            (vec![named("a", Action::Allow, false, vec![miss(), hit()])], true),
            (vec![named("a", Action::Allow, false, vec![miss()]), named("b", Action::Allow, false, vec![hit()])], true),
            (vec![named("d", Action::Deny, false, vec![])], true),
            (vec![named("d", Action::Deny, false, vec![all()])], false),
            (vec![named("a", Action::Allow, false, vec![hit()]), named("d", Action::Deny, false, vec![miss(), hit()])], false),
            (vec![named("a", Action::Allow, false, vec![hit()]), named("d", Action::Deny, false, vec![miss()])], true),
            (vec![named("x", Action::Audit, false, vec![all()])], true),
            (vec![named("x", Action::Audit, false, vec![all()]), named("a", Action::Allow, false, vec![])], false),
            (vec![named("c", custom(), false, vec![all()])], true),
            (vec![named("d", Action::Deny, true, vec![all()])], true),
            (vec![named("a", Action::Allow, true, vec![miss()])], true),
            (vec![named("a", Action::Allow, true, vec![all()]), named("b", Action::Allow, false, vec![miss()])], false),
        ];
        for (policies, expected) in table {
            assert_eq!(allows(&policies, &asked), expected, "{policies:#?}");
        }
        let policies = [
            named("audit", Action::Audit, false, vec![miss(), hit()]),
            named("nothing", Action::Audit, false, vec![]),
            named("dry-deny", Action::Deny, true, vec![hit()]),
            named("dry-allow", Action::Allow, true, vec![hit()]),
            named("dry-miss", Action::Allow, true, vec![miss()]),
            named("deny", Action::Deny, false, vec![miss(), miss(), hit()]),
        ];
        let [audit, _, dry_deny, dry_allow, dry_miss, deny] = &policies;
        let decision = ask(&asked, |request| decide(&policies, request));
        assert_eq!(decision.because, Because::DeniedBy(deny, 2));
        assert_eq!(decision.notes, [Note::Audit(audit, 1), Note::WouldDeny(dry_deny, 0), Note::WouldAllow(dry_allow, 0), Note::WouldNotAllow(dry_miss)]);

        let to = |provider: &str| Action::Custom { provider: provider.into() };
        let policies = [
            named("1", to("z"), false, vec![miss()]),
            named("2", to("z"), false, vec![miss(), hit()]),
            named("3", to("b"), false, vec![hit()]),
            named("4", to("b"), false, vec![all()]),
            named("5", to("a"), false, vec![miss()]),
            named("6", to("c"), true, vec![all()]),
            named("7", to("d"), false, vec![]),
        ];
        let [_, second, third, ..] = &policies;
        let asked = ask(&asked, |request| super::asked(&policies, request));
        assert_eq!(asked, [("b".into(), third, 0), ("z".into(), second, 1)]);
    }
}
