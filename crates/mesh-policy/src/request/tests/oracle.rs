//! A second reading of spec/waypoint.md 4.2 to 4.4, as naive as can be, over texts and two truth values.

use super::*;
use crate::tests::oracle::Dice;

/// key, values, not values; as texts.
type Asks = (&'static str, Vec<&'static str>, Vec<&'static str>);

#[derive(Clone, Debug, Default)]
struct Texts {
    from: Vec<Vec<Asks>>,
    to: Vec<Vec<Asks>>,
    when: Vec<Asks>,
}

/// `*` in a pattern, anywhere, is any run of bytes.
fn wild(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| wild(rest, &text[skip..])),
        Some((first, rest)) => text.first() == Some(first) && wild(rest, &text[1..]),
    }
}

/// exact, `a*`, `*a`, `*`.
fn simple(pattern: &str, text: &[u8]) -> bool {
    match pattern {
        "*" => !text.is_empty(),
        _ if pattern.starts_with('*') || pattern.ends_with('*') => wild(pattern.as_bytes(), text),
        _ => pattern.as_bytes() == text,
    }
}

fn template(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) | (["{**}"], _) => true,
        (["{*}", more @ ..], [one, rest @ ..]) => !one.is_empty() && template(more, rest),
        ([literal, more @ ..], [one, rest @ ..]) => literal == one && template(more, rest),
        _ => false,
    }
}

fn in_range(range: &str, address: &str) -> bool {
    let bits = |text: &str| match text.parse::<std::net::IpAddr>().unwrap() {
        std::net::IpAddr::V4(v4) => (32, u128::from(u32::from(v4))),
        std::net::IpAddr::V6(v6) => (128, u128::from(v6)),
    };
    let (network, length) = range.split_once('/').unwrap_or((range, ""));
    let ((width, network), (other, address)) = (bits(network), bits(address));
    let length: u32 = length.parse().unwrap_or(width);
    width == other && (length == 0 || network >> (width - length) == address >> (width - length))
}

/// Whether one text matches one of the observed values. `bad` was sorted out before.
fn hits(key: &str, pattern: &str, asked: &Asked, observed: &[Vec<u8>]) -> bool {
    match key {
        "source.ip" => in_range(pattern, asked.source),
        "remote.ip" => in_range(pattern, asked.remote),
        "destination.ip" => in_range(pattern, asked.destination.unwrap()),
        "source.serviceAccount" => {
            let full = if pattern.contains('/') { pattern.to_owned() } else { format!("shop/{pattern}") };
            asked.identity.as_ref().is_some_and(|id| full == format!("{}/{}", id.namespace, id.service_account))
        }
        "source.namespace" | "source.trustDomain" => observed.iter().any(|one| if pattern == "*" { !one.is_empty() } else { wild(pattern.as_bytes(), one) }),
        "request.auth.principal" => {
            let Some(token) = asked.token.as_ref().filter(|token| !token.issuer.is_empty() && !token.subject.is_empty()) else { return false };
            let (issuer, subject) = (token.issuer.as_str(), token.subject.as_str());
            let Some(at) = pattern.rfind('/') else {
                return pattern == "*" || pattern.strip_prefix('*').is_some_and(|end| subject.ends_with(end)) || pattern.strip_suffix('*').is_some_and(|begin| issuer.starts_with(begin));
            };
            simple(&pattern[..at], issuer.as_bytes()) && simple(&pattern[at + 1..], subject.as_bytes())
        }
        "host" => observed.iter().any(|one| pattern == "*" || simple(&pattern.to_lowercase(), &one.to_ascii_lowercase())),
        "method" | "request.headers[x-one]" => observed.iter().any(|one| pattern == "*" || simple(pattern, one)),
        "path" if pattern.contains('{') => observed.iter().any(|one| {
            let path = String::from_utf8_lossy(one);
            template(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
        }),
        _ => observed.iter().any(|one| simple(pattern, one)),
    }
}

fn observed(key: &str, asked: &Asked) -> Vec<Vec<u8>> {
    let id = asked.identity.as_ref();
    let one = |text: &str| vec![text.as_bytes().to_vec()];
    let claims = |name: &str| -> Vec<Vec<u8>> {
        let claims = asked.token.iter().flat_map(|token| &token.claims).filter(|(path, _)| path[..] == [name]);
        claims.flat_map(|(_, texts)| texts.iter().map(|text| text.clone().into_bytes())).collect()
    };
    match key {
        "source.principal" => id.map(|id| {
            let known = asked.trust_domains.contains(&id.trust_domain);
            let domains = if known { asked.trust_domains.clone() } else { vec![id.trust_domain.clone()] };
            domains.iter().map(|td| format!("{td}/ns/{}/sa/{}", id.namespace, id.service_account).into_bytes()).collect()
        }).unwrap_or_default(),
        "source.namespace" => id.map(|id| one(&id.namespace)).unwrap_or_default(),
        "source.trustDomain" => id.map(|id| one(&id.trust_domain)).unwrap_or_default(),
        "destination.port" => one(&asked.port.to_string()),
        "connection.sni" => asked.server_name.as_deref().map(one).unwrap_or_default(),
        "host" => one(&asked.authority),
        "method" => one(&asked.method),
        "path" => one(&asked.path),
        "request.headers[x-one]" => asked.headers.iter().filter(|(name, _)| name == "x-one").map(|(_, value)| value.clone()).collect(),
        "request.auth.audiences" => claims("aud"),
        "request.auth.claims[group]" => claims("group"),
        _ => Vec::new(),
    }
}

/// `/a;x/b` without `;x`.
fn stripped(path: &str) -> String {
    path.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/")
}

/// What an endpoint may take it for: everything decoded, merged and removed, with parameters and without.
fn taken_for(key: &str, asked: &Asked) -> Vec<Vec<u8>> {
    let plain = |path: &str| {
        let decoded = path.replace("%2F", "/").replace("%2f", "/").replace("%61", "a").replace("%3B", ";").replace('\\', "/");
        let mut kept: Vec<&str> = Vec::new();
        for segment in decoded.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
            match segment {
                ".." => drop(kept.pop()),
                name => kept.push(name),
            }
        }
        let folder = !kept.is_empty() && ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
        format!("/{}{}", kept.join("/"), if folder { "/" } else { "" }).into_bytes()
    };
    match key {
        "method" => vec![asked.method.to_uppercase().into_bytes()],
        "path" => vec![plain(&asked.path), stripped(&asked.path).into_bytes(), plain(&stripped(&asked.path))],
        "host" => {
            let host = asked.authority.to_lowercase();
            let (name, port) = host.split_once(':').unwrap_or((&host, ""));
            let name = name.strip_suffix('.').unwrap_or(name);
            let port = if port.is_empty() { asked.port.to_string() } else { port.to_owned() };
            vec![name.as_bytes().to_vec(), format!("{name}:{port}").into_bytes()]
        }
        _ => Vec::new(),
    }
}

fn is_http(key: &str) -> bool {
    key.starts_with("request.") || ["host", "method", "path"].contains(&key)
}

fn is_bad(key: &str, value: &str) -> bool {
    key == "unknown" || BAD.contains(&(key, value))
}

fn holds(asks: &Asks, asked: &Asked, allow: bool) -> bool {
    let (key, values, not_values) = asks;
    if asked.opaque && is_http(key) {
        return true;
    }
    if *key == "unknown" || (*key == "destination.ip" && asked.destination.is_none()) {
        return !allow;
    }
    let good = |list: &[&'static str]| -> Vec<&'static str> { list.iter().copied().filter(|value| !is_bad(key, value)).collect() };
    let (values_, not_values_) = (good(values), good(not_values));
    let each = observed(key, asked);
    let mut whole = each.clone();
    let many = *key == "request.headers[x-one]" && each.len() > 1;
    if many {
        let joined = each.join(&b","[..]);
        whole = if allow { vec![joined.clone()] } else { each.iter().cloned().chain([joined.clone()]).collect() };
    }
    let surely = |list: &[&'static str], seen: &[Vec<u8>]| {
        let bare = (*key == "path" && asked.path.contains(';')).then(|| vec![stripped(&asked.path).into_bytes()]);
        list.iter().any(|value| hits(key, value, asked, seen) && bare.as_ref().is_none_or(|bare| value.contains(';') || hits(key, value, asked, bare)))
    };
    let other = taken_for(key, asked);
    let yes = match allow {
        _ if values_.is_empty() => true,
        true => surely(&values_, &whole),
        false => values_.iter().any(|value| hits(key, value, asked, &[whole.clone(), other.clone()].concat())),
    };
    let every: Vec<Vec<u8>> = if many { each.iter().cloned().chain([each.join(&b","[..])]).collect() } else { each };
    let excluded = |seen: &[Vec<u8>]| not_values_.iter().any(|value| hits(key, value, asked, seen));
    let no = match (many, allow) {
        (true, false) => every.iter().any(|one| !excluded(std::slice::from_ref(one))),
        (false, false) => !surely(&not_values_, &every),
        (_, true) => !excluded(&[every, other].concat()),
    };
    yes && (not_values_.is_empty() || no)
}

fn rule_matches(rule: &Texts, asked: &Asked, allow: bool) -> bool {
    let everything = || rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if allow && everything().any(|(key, values, not_values)| *key == "unknown" || values.iter().chain(not_values).any(|value| is_bad(key, value))) {
        return false;
    }
    if allow && asked.opaque && everything().any(|(key, ..)| is_http(key)) {
        return false;
    }
    let all = |asks: &Vec<Asks>| asks.iter().all(|one| holds(one, asked, allow));
    (rule.from.is_empty() || rule.from.iter().any(all)) && (rule.to.is_empty() || rule.to.iter().any(all)) && all(&rule.when)
}

/// Values that mean nothing for their key.
const BAD: [(&str, &str); 9] = [
    ("source.principal", "a*b"),
    ("source.serviceAccount", "a/b/c"),
    ("source.trustDomain", "*a*"),
    ("source.ip", "10.0"),
    ("remote.ip", "10.0"),
    ("destination.ip", "10.0"),
    ("destination.port", "http"),
    ("connection.sni", "a*b"),
    ("request.auth.principal", "a/b*c"),
];

const KEYS: [(&str, &[&str]); 16] = [
    ("source.principal", &["td/ns/a/sa/x", "old/ns/a/sa/x", "td/ns/*", "*/sa/x", "*", "a*b"]),
    ("source.namespace", &["a", "a*", "*b", "*a*", "a*b", "*"]),
    ("source.serviceAccount", &["a/x", "x", "shop/x", "a/b/c"]),
    ("source.trustDomain", &["td", "t*", "*d", "*", "*a*"]),
    ("source.ip", &["10.0.0.1", "10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "10.0"]),
    ("remote.ip", &["10.0.0.1", "10.0.0.0/31", "fd00::1", "10.0"]),
    ("destination.ip", &["10.0.0.1", "10.0.0.0/8", "fd00::/8", "10.0"]),
    ("destination.port", &["80", "443", "http"]),
    ("connection.sni", &["a.b", "*.b", "a.*", "*", "a*b"]),
    ("request.auth.principal", &["i/s", "i/j/s", "*", "*/s", "i/*", "i/s*", "*j/s", "*s", "i*", "i", "a/b*c"]),
    ("request.auth.audiences", &["p", "p*", "*"]),
    ("request.auth.claims[group]", &["g", "*", "h"]),
    ("request.headers[x-one]", &["v", "w", "v,w", "*", "v*", "*w", ""]),
    ("host", &["a.b", "A.b", "*.B", "a.b:*", "a.b:80", "*"]),
    ("method", &["GET", "P*", "*", "get"]),
    ("path", &["/a", "/a*", "*b", "/{*}/b", "/a/{**}", "/{*}", "*", "/a;b"]),
];

impl Dice {
    fn asks(&mut self) -> Asks {
        if self.one_in(40) {
            return ("unknown", vec!["x"], vec![]);
        }
        let (key, pool) = self.pick(&KEYS);
        let list = |dice: &mut Dice| (0..1 + dice.roll(2)).map(|_| dice.pick(pool)).collect::<Vec<_>>();
        match self.roll(4) {
            0 => (key, list(self), list(self)),
            1 => (key, vec![], list(self)),
            _ => (key, list(self), vec![]),
        }
    }

    fn texts(&mut self) -> Texts {
        let asks = |dice: &mut Dice, most: usize| (0..dice.roll(most)).map(|_| dice.asks()).collect::<Vec<_>>();
        let sides = |dice: &mut Dice| (0..dice.roll(3)).map(|_| asks(dice, 3)).filter(|side| !side.is_empty()).collect::<Vec<_>>();
        Texts { from: sides(self), to: sides(self), when: asks(self, 3) }
    }

    fn asked(&mut self) -> Asked {
        let address = ["10.0.0.1", "10.0.0.2", "11.0.0.1", "fd00::1"];
        let token = OfToken {
            issuer: self.pick(&["i", "i/j", "", "x"]).to_owned(),
            subject: self.pick(&["s", "st", ""]).to_owned(),
            claims: vec![(vec!["aud"], vec![self.pick(&["p", "pq"]).to_owned(), "r".to_owned()]), (vec!["group"], if self.one_in(2) { vec!["g".to_owned()] } else { vec![] })],
        };
        let header = |dice: &mut Dice| ("x-one".to_owned(), dice.pick(&["v", "w", "", "vw"]).as_bytes().to_vec());
        Asked {
            identity: (!self.one_in(5)).then(|| SpiffeId::new(self.pick(&["td", "old", "xx"]), self.pick(&["a", "ab", "b", "shop"]), self.pick(&["x", "y"]))),
            source: self.pick(&address),
            remote: self.pick(&address),
            destination: (!self.one_in(8)).then(|| self.pick(&address)),
            port: self.pick(&[80, 443, 15008]),
            server_name: (!self.one_in(3)).then(|| self.pick(&["a.b", "c.b", "a.c"]).to_owned()),
            trust_domains: if self.one_in(2) { vec!["td".into(), "old".into()] } else { vec!["td".into()] },
            opaque: self.one_in(4),
            method: self.pick(&["GET", "get", "gEt", "POST", "PUT"]).to_owned(),
            authority: self.pick(&["a.b", "A.B", "a.b:80", "a.b.", "a.b.:443", "c.b", ""]).to_owned(),
            path: self.pick(&["/a", "/a/b", "/", "/a/", "/ab", "/a//b", "/c/b", "//a", "/%61", "/a;b", "/a;x/b", "/c%2Fb", "/a%3Bb", "/c/../a", "/c\\b/."]).to_owned(),
            headers: (0..self.roll(4)).map(|_| header(self)).collect(),
            token: (!self.one_in(4)).then_some(token),
        }
    }
}

fn read(rule: &Texts) -> Rule {
    let one = |(key, values, not_values): &Asks| condition(key, values, not_values);
    let side = |side: &Vec<Asks>| side.iter().map(one).collect();
    Rule { from: rule.from.iter().map(side).collect(), to: rule.to.iter().map(side).collect(), when: rule.when.iter().map(one).collect() }
}

// Acceptance 13, V-26, V-43
#[test]
fn hundreds_of_thousands_of_requests_equal_the_oracle() {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let cases = setting("MESH_POLICY_CASES").unwrap_or(300_000);
    let seed = setting("MESH_POLICY_SEED").unwrap_or(1);
    let mut seen = [0; 5];
    let mut asks = 0;
    for case in 0..cases {
        let mut dice = Dice(seed.wrapping_mul(1 << 32) + case);
        let mut policies = Vec::new();
        let mut told = Vec::new();
        for _ in 0..dice.roll(4) {
            let action = dice.pick(&[Action::Allow, Action::Deny, Action::Audit, Action::Custom { provider: "p".into() }]);
            let rules: Vec<Texts> = (0..dice.roll(3)).map(|_| dice.texts()).collect();
            let dry_run = dice.one_in(10);
            policies.push(Policy { dry_run, ..policy(action.clone(), rules.iter().map(read).collect()) });
            told.push((action, dry_run, rules));
        }
        let asked = dice.asked();
        let matching = |wanted: &Action| {
            told.iter().any(|(action, dry_run, rules)| action == wanted && !dry_run && rules.iter().any(|rule| rule_matches(rule, &asked, *action == Action::Allow)))
        };
        let allow_exists = told.iter().any(|(action, dry_run, _)| *action == Action::Allow && !dry_run);
        let expected = !matching(&Action::Deny) && (!allow_exists || matching(&Action::Allow));
        let (because, custom) = ask(&asked, |request| (decide(&policies, request).because, !super::super::asked(&policies, request).is_empty()));
        assert_eq!(because.is_allowed(), expected, "seed {seed}, case {case}: {because:?}\n{asked:#?}\n{told:#?}");
        assert_eq!(custom, matching(&Action::Custom { provider: "p".into() }), "seed {seed}, case {case}: CUSTOM\n{asked:#?}\n{told:#?}");
        asks += u64::from(custom);
        seen[match because {
            Because::NoAllowPolicy => 0,
            Because::AllowedBy(..) => 1,
            Because::DeniedBy(..) => 2,
            Because::MayBeDeniedBy(..) => 3,
            Because::NoneAllowed { .. } => 4,
        }] += 1;
    }
    // A test that never meets a reason says nothing about it.
    assert!(seen.iter().all(|count| count * 200 > cases) && asks * 50 > cases, "{seen:?}, {asks} of {cases}");
}
