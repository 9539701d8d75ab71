//! A second reading of spec/dataplane.md 6.2-6.4, in another style: whole lists, bit strings, no short cuts, and every
//! malformed entry tried both ways. Random worlds are built through `PolicySet` and through the plainest model of it.
//!
//! `MESH_POLICY_CASES` sets the number of cases, `MESH_POLICY_SEED` the seed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;

/// Each malformed entry consumes one bit: matched or did not.
struct Guess {
    bits: u64,
    asked: u32,
}

impl Guess {
    fn next(&mut self) -> bool {
        let bit = self.bits >> self.asked & 1 == 1;
        self.asked += 1;
        bit
    }
}

fn bits(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("4{:032b}", u32::from(ip)),
        IpAddr::V6(ip) => format!("6{:0128b}", u128::from(ip)),
    }
}

fn in_range(range: &ipnet::IpNet, ip: IpAddr) -> bool {
    let length = usize::from(range.prefix_len()) + 1; // the family is the first character
    bits(ip)[..length.min(bits(ip).len())] == bits(range.addr())[..length]
}

fn text_matches(wanted: &StringMatch, text: &str) -> bool {
    let n = text.len();
    match wanted {
        StringMatch::Presence => n > 0,
        StringMatch::Exact(w) => text.as_bytes() == w.as_bytes(),
        StringMatch::Prefix(w) => w.len() <= n && text.as_bytes()[..w.len()] == *w.as_bytes(),
        StringMatch::Suffix(w) => w.len() <= n && text.as_bytes()[n - w.len()..] == *w.as_bytes(),
    }
}

fn answers<T>(entries: &[Entry<T>], guess: &mut Guess, f: impl Fn(&T) -> bool) -> Vec<bool> {
    let mut all = Vec::new();
    for entry in entries {
        all.push(match entry {
            Entry::Value(value) => f(value),
            Entry::Malformed => guess.next(),
        });
    }
    all
}

fn match_holds(m: &Match, flow: &Flow, guess: &mut Guess) -> bool {
    let id = flow.identity();
    let ns = id.map(|i| i.namespace.to_string()).unwrap_or_default();
    let spiffe = id.map(|i| i.to_string()["spiffe://".len()..].to_string());
    let principal = |w: &StringMatch| match &spiffe {
        None => false,
        Some(s) => text_matches(w, s),
    };
    let sa = |w: &ServiceAccountMatch| id.is_some_and(|i| format!("{}/{}", i.namespace, i.service_account) == format!("{}/{}", w.namespace, w.service_account));
    let port = |p: &u16| *p == flow.destination().port();
    let accounts: Vec<Entry<ServiceAccountMatch>> = m.service_accounts.iter().cloned().map(Entry::Value).collect();
    let not_accounts: Vec<Entry<ServiceAccountMatch>> = m.not_service_accounts.iter().cloned().map(Entry::Value).collect();
    let positive = [
        answers(&m.namespaces, guess, |w| text_matches(w, &ns)),
        answers(&accounts, guess, sa),
        answers(&m.principals, guess, principal),
        answers(&m.source_ips, guess, |r| in_range(r, flow.source())),
        answers(&m.destination_ips, guess, |r| in_range(r, flow.destination().ip())),
        answers(&m.destination_ports, guess, port),
    ];
    let negative = [
        answers(&m.not_namespaces, guess, |w| text_matches(w, &ns)),
        answers(&not_accounts, guess, sa),
        answers(&m.not_principals, guess, principal),
        answers(&m.not_source_ips, guess, |r| in_range(r, flow.source())),
        answers(&m.not_destination_ips, guess, |r| in_range(r, flow.destination().ip())),
        answers(&m.not_destination_ports, guess, port),
    ];
    let asks_nothing = positive.iter().chain(&negative).all(Vec::is_empty);
    let positive_hold = positive.iter().all(|field| field.is_empty() || field.contains(&true));
    let negative_hold = negative.iter().all(|field| !field.contains(&true));
    !asks_nothing && positive_hold && negative_hold
}

fn matches_under(policy: &Policy, flow: &Flow, guess: &mut Guess) -> bool {
    let mut any_group = false;
    for group in &policy.groups {
        let mut all_rules = true;
        for rule in &group.rules {
            let mut any_match = rule.matches.is_empty();
            for m in &rule.matches {
                any_match |= match_holds(m, flow, guess);
            }
            all_rules &= any_match;
        }
        any_group |= all_rules;
    }
    any_group
}

/// ALLOW: under every guess. DENY: under some guess.
fn policy_matches(policy: &Policy, flow: &Flow) -> bool {
    let mut count = Guess { bits: 0, asked: 0 };
    let first = matches_under(policy, flow, &mut count);
    let (mut all, mut some) = (first, first);
    for bits in 1..1u64 << count.asked {
        let one = matches_under(policy, flow, &mut Guess { bits, asked: 0 });
        (all, some) = (all && one, some || one);
    }
    if policy.action == Action::Allow { all } else { some }
}

/// The plainest model of the set.
#[derive(Default)]
struct Model {
    present: BTreeMap<String, Policy>,
    ghosts: BTreeMap<String, Policy>,
    unreadable: BTreeMap<String, Affected>,
    workloads: Vec<Workload>,
}

impl Model {
    fn listed(&self, key: &str) -> bool {
        self.workloads.iter().any(|w| w.authorization_policies.iter().any(|k| &*k.0 == key))
    }

    fn forget_unlisted(&mut self) {
        let gone: Vec<String> = self.ghosts.keys().filter(|key| !self.listed(key)).cloned().collect();
        gone.iter().for_each(|key| drop(self.ghosts.remove(key)));
    }

    fn allowed(&self, workload: &Workload, flow: &Flow) -> bool {
        let mut candidates = Vec::new();
        for policy in self.present.values() {
            let own = policy.scope == Scope::Namespace && [&*workload.namespace, ""].contains(&&*policy.namespace);
            if own || policy.scope == Scope::Global {
                candidates.push(policy);
            }
        }
        let mut open_question = false;
        for key in &workload.authorization_policies {
            match self.present.get(&*key.0).or(self.ghosts.get(&*key.0)) {
                Some(policy) => candidates.push(policy),
                None => open_question = true,
            }
        }
        for reach in self.unreadable.values() {
            open_question |= *reach == Affected::Everyone || *reach == Affected::Namespace(workload.namespace.clone());
        }
        let real: Vec<_> = candidates.iter().filter(|p| !p.dry_run).collect();
        let hits = |action| real.iter().any(|p| p.action == action && policy_matches(p, flow));
        let allow_exists = real.iter().any(|p| p.action == Action::Allow);
        !open_question && !hits(Action::Deny) && (!allow_exists || hits(Action::Allow))
    }
}

/// SplitMix64: a seed that once failed fails for ever, whatever becomes of random number libraries.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % sides as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())].clone()
    }

    /// Mostly empty: twelve fields that all ask something never match.
    fn field<T>(&mut self, mut value: impl FnMut(&mut Dice) -> Option<T>) -> Vec<Entry<T>> {
        let length = if self.one_in(5) { 1 + self.roll(2) } else { 0 };
        (0..length).map(|_| value(self).map_or(Entry::Malformed, Entry::Value)).collect()
    }

    fn text(&mut self, pool: &[&str]) -> Option<StringMatch> {
        let whole = self.pick(pool);
        let cut = self.roll(whole.len() + 1);
        match self.roll(9) {
            0..3 => Some(StringMatch::exact(whole)),
            3..5 => Some(StringMatch::prefix(&whole[..cut])),
            5..7 => Some(StringMatch::suffix(&whole[cut..])),
            7 => Some(StringMatch::Presence),
            _ => None,
        }
    }

    fn range(&mut self) -> Option<ipnet::IpNet> {
        let ip = self.pick(&IPS).parse().unwrap();
        let widest = if matches!(ip, IpAddr::V4(_)) { 32 } else { 128 };
        let length = self.pick(&[0, 8, 31, widest]);
        (!self.one_in(9)).then(|| ipnet::IpNet::new(ip, length).unwrap())
    }

    fn port(&mut self) -> Option<u16> {
        (!self.one_in(9)).then(|| self.pick(&[80, 443]))
    }

    fn accounts(&mut self) -> Vec<ServiceAccountMatch> {
        let length = if self.one_in(5) { 1 + self.roll(2) } else { 0 };
        (0..length).map(|_| account(self.pick(&NAMESPACES), self.pick(&ACCOUNTS))).collect()
    }

    fn a_match(&mut self) -> Match {
        const PRINCIPALS: [&str; 3] = ["td/ns/a/sa/x", "td/ns/ab/sa/y", "t2/ns/a/sa/x"];
        Match {
            namespaces: self.field(|d| d.text(&NAMESPACES)),
            not_namespaces: self.field(|d| d.text(&NAMESPACES)),
            service_accounts: self.accounts(),
            not_service_accounts: self.accounts(),
            principals: self.field(|d| d.text(&PRINCIPALS)),
            not_principals: self.field(|d| d.text(&PRINCIPALS)),
            source_ips: self.field(Dice::range),
            not_source_ips: self.field(Dice::range),
            destination_ips: self.field(Dice::range),
            not_destination_ips: self.field(Dice::range),
            destination_ports: self.field(Dice::port),
            not_destination_ports: self.field(Dice::port),
        }
    }

    fn a_policy(&mut self) -> Policy {
        let scope = self.pick(&[Scope::Global, Scope::Namespace, Scope::Namespace, Scope::WorkloadSelector, Scope::WorkloadSelector]);
        let action = self.pick(&[Action::Allow, Action::Deny]);
        let mut policy = Policy::new(self.pick(&["a", "b", "ab", ""]), "any", scope, action);
        policy.dry_run = self.one_in(8);
        for _ in 0..self.roll(3) {
            let rules = (0..self.roll(3)).map(|_| Rule::new((0..self.roll(3)).map(|_| self.a_match()).collect::<Vec<_>>()));
            policy.groups.push(Group::new(rules.collect::<Vec<_>>()));
        }
        policy
    }

    fn a_workload(&mut self) -> Workload {
        let mut workload = Workload::named("w", self.pick(&NAMESPACES), "w");
        let length = if self.one_in(2) { 0 } else { self.roll(3) };
        workload.authorization_policies = (0..length).map(|_| key(self.pick(&KEYS))).collect();
        workload
    }

    fn a_flow(&mut self) -> Flow {
        let identity = (!self.one_in(4))
            .then(|| SpiffeId::new(self.pick(&["td", "t2"]), self.pick(&NAMESPACES), self.pick(&ACCOUNTS)));
        let to = (self.pick(&IPS).parse::<IpAddr>().unwrap(), self.pick(&[80u16, 443, 15008]));
        Flow::new(self.pick(&IPS).parse().unwrap(), identity, to.into())
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "ab"];
const ACCOUNTS: [&str; 2] = ["x", "y"];
const IPS: [&str; 5] = ["10.0.0.1", "10.0.0.2", "11.0.0.1", "fd00::1", "fd00::2"];
const KEYS: [&str; 4] = ["a/1", "a/2", "b/1", "b/2"];

/// One random change, made to both.
fn step(dice: &mut Dice, set: &mut PolicySet, model: &mut Model) {
    let name = dice.pick(&KEYS).to_string();
    match dice.roll(8) {
        0..4 => {
            let policy = dice.a_policy();
            set.insert(key(&name), Arc::new(policy.clone()));
            model.ghosts.remove(&name);
            model.unreadable.remove(&name);
            model.present.insert(name, policy);
        }
        4 => {
            set.remove(&key(&name));
            model.unreadable.remove(&name);
            if let Some(policy) = model.present.remove(&name) {
                model.ghosts.insert(name, policy);
                model.forget_unlisted();
            }
        }
        5 if dice.one_in(3) => {
            let reach = dice.pick(&[Affected::Everyone, Affected::Namespace("a".into()), Affected::Referrers(key(&name))]);
            set.reject(key(&name), reach.clone());
            if !model.present.contains_key(&name) {
                model.unreadable.insert(name, reach);
            }
        }
        _ => {
            let new = dice.a_workload();
            let at = dice.roll(model.workloads.len());
            new.authorization_policies.iter().for_each(|key| set.reference(key));
            model.workloads[at].authorization_policies.iter().for_each(|key| set.unreference(key));
            model.workloads[at] = new;
            model.forget_unlisted();
        }
    }
}

// F-15, F-43
#[test]
fn a_million_random_decisions_equal_the_oracle() {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let cases = setting("MESH_POLICY_CASES").unwrap_or(1_000_000);
    let seed = setting("MESH_POLICY_SEED").unwrap_or(1);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut case = 0;
    let mut world = 0;
    while case < cases {
        world += 1;
        let mut dice = Dice(seed.wrapping_mul(1 << 32) + world);
        let mut set = PolicySet::default();
        let mut model = Model { workloads: vec![server(); 3], ..Model::default() };
        for _ in 0..12 {
            step(&mut dice, &mut set, &mut model);
            for _ in 0..4 {
                case += 1;
                let workload = dice.pick(&model.workloads);
                let flow = dice.a_flow();
                let verdict = decide(&set, &workload, &flow);
                assert_eq!(
                    verdict.is_allowed(),
                    model.allowed(&workload, &flow),
                    "seed {seed}, world {world}, case {case}: {verdict:?}\n{flow:?}\n{:?}\n{:#?}",
                    workload.authorization_policies, model.present
                );
                *seen.entry(verdict.because.code()).or_default() += 1;
            }
        }
    }
    // A test that never meets a reason says nothing about it.
    let met: Vec<_> = seen.iter().filter(|(_, count)| **count * 1000 > cases).map(|(code, _)| *code).collect();
    let expected = ["allowed", "denied", "malformed_allow", "malformed_deny", "no_allow_policy", "none_allowed", "unknown_policy", "unreadable_policy"];
    assert_eq!(met, expected, "{seen:?}");
}

// V-26: a character of a name stands for itself, whatever it means in patterns elsewhere.
#[test]
fn no_character_of_a_principal_is_a_pattern() {
    let mut dice = Dice(26);
    let odd = ['.', '*', '+', '?', '^', '$', '[', '(', '\\', '|', 'a', 'b', '%'];
    let mut word = || (0..=dice.roll(4)).map(|_| dice.pick(&odd)).collect::<String>();
    let (mut matched, mut other) = (0, 0);
    for _ in 0..200_000 {
        let names = [word(), word(), word()];
        let principal = format!("{}/ns/{}/sa/{}", names[0], names[1], names[2]);
        // Now and then the pattern is a part of the name, most often it is another name.
        let wanted = if other % 3 == 0 { principal.clone() } else { format!("{}/ns/{}/sa/{}", word(), names[1], names[2]) };
        let flow = Flow::new("10.0.0.1".parse().unwrap(), Some(SpiffeId::new(&names[0], &names[1], &names[2])), "10.0.0.2:80".parse().unwrap());
        let cut = wanted.char_indices().nth(wanted.chars().count() / 2).map_or(0, |(at, _)| at);
        for (entry, holds) in [
            (exact(&wanted), principal == wanted),
            (prefix(&wanted[..cut]), principal.starts_with(&wanted[..cut])),
            (suffix(&wanted[cut..]), principal.ends_with(&wanted[cut..])),
        ] {
            let mut set = PolicySet::default();
            let policy = policy(Action::Allow, [Match { principals: vec![entry], ..Match::default() }]);
            set.insert(policy.key(), Arc::new(policy));
            assert_eq!(decide(&set, &server(), &flow).is_allowed(), holds, "{wanted} and {principal}");
            matched += usize::from(holds);
        }
        other += 1;
    }
    assert!(matched > other / 3 && matched < other * 3, "{matched} of {other}");
}
