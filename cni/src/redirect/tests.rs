//! One ruleset as it is sent to nft, word for word; of the others, how they differ from it. That nft takes them and that
//! they do what they say is shown in `tests/netns/capture.rs`.

use expect_test::{Expect, expect};

use super::*;

const MARKS: Marks = Marks { own: 0x1a2b_3c4d, fixed_too: false };

fn scope() -> Scope {
    Scope { dns: true, inbound: true, virtual_interfaces: vec![], exclude_inbound: vec![], exclude_outbound: vec![] }
}

fn starting() -> Capture {
    Capture { marks: MARKS, scope: scope(), probes: false, older: Some(BTreeSet::new()), apart: true }
}

/// The lines that differ (`-` gone, `+` new), each below the set or chain that it is in.
fn difference(from: &str, to: &str) -> String {
    let sections = |text: &str| -> Vec<(String, Vec<String>)> {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for line in text.lines() {
            match line.strip_prefix('\t') {
                Some(name) if name.ends_with('{') => all.push((name.trim_end_matches(" {").to_owned(), vec![])),
                Some(rule) if rule.starts_with('\t') => all.last_mut().unwrap().1.push(rule.trim().to_owned()),
                _ => {} // the table itself, and ends
            }
        }
        all
    };
    let (from, to) = (sections(from), sections(to));
    let of = |all: &[(String, Vec<String>)], name: &str| all.iter().find(|(n, _)| n == name).map(|(_, lines)| lines.clone());
    let mut names: Vec<&String> = from.iter().map(|(name, _)| name).collect();
    names.extend(to.iter().map(|(name, _)| name).filter(|name| of(&from, name).is_none()));
    let mut text = String::new();
    for name in names {
        let (before, after) = (of(&from, name), of(&to, name));
        if before == after {
            continue;
        }
        let (before, Some(after)) = (before.unwrap_or_default(), after) else {
            let _ = writeln!(text, "- {name}");
            continue;
        };
        let _ = writeln!(text, "{name}");
        let gone = before.iter().filter(|line| !after.contains(line)).map(|line| ("-", line));
        let new = after.iter().filter(|line| !before.contains(line)).map(|line| ("+", line));
        for (sign, line) in gone.chain(new) {
            let _ = writeln!(text, "  {sign} {line}");
        }
    }
    text
}

fn differs(change: impl FnOnce(&mut Capture), expected: Expect) {
    let mut capture = starting();
    change(&mut capture);
    expected.assert_eq(&difference(&ruleset(&starting()), &ruleset(&capture)));
}

#[test]
fn a_starting_pod() {
    expect![[r#"
        add table inet isthmus
        delete table inet isthmus
        table inet isthmus {
        	set exempt {
        		type mark
        		elements = { 0x1a2b3c4d }
        	}
        	set older4 {
        		type ipv4_addr . inet_service . ipv4_addr . inet_service
        	}
        	set older6 {
        		type ipv6_addr . inet_service . ipv6_addr . inet_service
        	}
        	chain raw-prerouting {
        		type filter hook prerouting priority raw; policy accept;
        		iif != "lo" udp sport 53 ct zone set 1
        	}
        	chain raw-output {
        		type filter hook output priority raw; policy accept;
        		meta mark @exempt udp dport 53 ct zone set 1
        		meta mark @exempt oif "lo" meta l4proto tcp ct original zone set 2
        		meta mark @exempt accept
        		meta mark 0 accept
        		counter comment "foreign mark"
        		limit rate over 100/second burst 100 packets counter drop comment "foreign marks too fast"
        	}
        	chain route-output {
        		type route hook output priority mangle; policy accept;
        		meta mark @exempt oif "lo" ct direction original ct mark set 0x111
        		meta mark @exempt accept
        		ct mark 0x111 ct direction reply meta mark set 0x111
        	}
        	chain nat-prerouting {
        		type nat hook prerouting priority dstnat; policy accept;
        		iif "lo" accept
        		tcp dport { 15008 } accept
        		tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15006 comment "inbound"
        	}
        	chain nat-output {
        		type nat hook output priority -100; policy accept;
        		meta mark @exempt accept
        		oif "lo" accept
        		udp dport 53 counter redirect to :15053 comment "dns"
        		tcp dport 53 tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15053 comment "dns"
        		tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15001 comment "outbound"
        	}
        	chain input {
        		type filter hook input priority filter; policy accept;
        		iif "lo" accept
        		tcp flags & (fin|syn|rst|ack) == syn tcp dport != { 15006, 15008 } counter drop comment "around the capture"
        	}
        	chain output {
        		type filter hook output priority filter; policy accept;
        		meta mark @exempt accept
        		oif "lo" accept
        		tcp flags & (fin|syn|rst|ack) == syn ct status ! dnat counter drop comment "around the capture"
        		tcp flags & (fin|syn|rst|ack) == syn accept
        		ct state { invalid, new } ip saddr . tcp sport . ip daddr . tcp dport != @older4 counter drop comment "of no known connection"
        		ct state { invalid, new } ip6 saddr . tcp sport . ip6 daddr . tcp dport != @older6 counter drop comment "of no known connection"
        	}
        	chain last {
        		type filter hook postrouting priority 2147483647; policy accept;
        		meta mark @exempt meta mark set 0
        	}
        }
    "#]].assert_eq(&ruleset(&starting()));
}

#[test]
fn a_running_pod_keeps_its_older_connections() {
    let flow = |local: &str, remote: &str| Flow { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
    let older = [flow("10.0.1.5:49153", "10.0.0.7:80"), flow("[fd00:1::5]:80", "[fd00:2::7]:5000")];
    differs(|capture| capture.older = Some(older.into()), expect![[r#"
        set older4
          + elements = { 10.0.1.5 . 49153 . 10.0.0.7 . 80 }
        set older6
          + elements = { fd00:1::5 . 80 . fd00:2::7 . 5000 }
    "#]]);
}

#[test]
fn a_running_pod_whose_connections_are_not_known_yet() {
    differs(|capture| capture.older = None, expect![[r#"
        - set older4
        - set older6
        chain output
          - tcp flags & (fin|syn|rst|ack) == syn accept
          - ct state { invalid, new } ip saddr . tcp sport . ip daddr . tcp dport != @older4 counter drop comment "of no known connection"
          - ct state { invalid, new } ip6 saddr . tcp sport . ip6 daddr . tcp dport != @older6 counter drop comment "of no known connection"
    "#]]);
}

#[test]
fn dns_is_left_alone() {
    differs(|capture| capture.scope.dns = false, expect![[r#"
        chain raw-prerouting
          - iif != "lo" udp sport 53 ct zone set 1
        chain raw-output
          - meta mark @exempt udp dport 53 ct zone set 1
        chain nat-output
          - udp dport 53 counter redirect to :15053 comment "dns"
          - tcp dport 53 tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15053 comment "dns"
    "#]]);
}

#[test]
fn plaintext_goes_straight_to_the_application() {
    differs(|capture| capture.scope.inbound = false, expect![[r#"
        chain nat-prerouting
          - iif "lo" accept
          - tcp dport { 15008 } accept
          - tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15006 comment "inbound"
        - chain input
        chain output
          - tcp flags & (fin|syn|rst|ack) == syn accept
          - ct state { invalid, new } ip saddr . tcp sport . ip daddr . tcp dport != @older4 counter drop comment "of no known connection"
          - ct state { invalid, new } ip6 saddr . tcp sport . ip6 daddr . tcp dport != @older6 counter drop comment "of no known connection"
    "#]]);
}

#[test]
fn ports_are_excluded() {
    differs(
        |capture| {
            capture.scope.exclude_inbound = vec![Ports { first: 22, last: 22 }, Ports { first: 9000, last: 9100 }];
            capture.scope.exclude_outbound = vec![Ports { first: 25, last: 25 }];
        },
        expect![[r#"
            chain nat-prerouting
              - tcp dport { 15008 } accept
              + tcp dport { 15008, 22, 9000-9100 } accept
            chain nat-output
              + tcp dport { 25 } accept
            chain input
              - tcp flags & (fin|syn|rst|ack) == syn tcp dport != { 15006, 15008 } counter drop comment "around the capture"
              + tcp flags & (fin|syn|rst|ack) == syn tcp dport != { 15006, 15008, 22, 9000-9100 } counter drop comment "around the capture"
            chain output
              + tcp dport { 25 } accept
              + tcp sport { 22, 9000-9100 } accept
        "#]],
    );
}

#[test]
fn machines_in_the_pod_are_captured_as_outbound() {
    let interfaces = vec!["k6t-eth0".into(), "docker0".into()];
    differs(|capture| capture.scope.virtual_interfaces = interfaces, expect![[r#"
        chain nat-prerouting
          + iifname { "k6t-eth0", "docker0" } tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15001 comment "outbound of a virtual interface"
          + iifname { "k6t-eth0", "docker0" } accept
        chain input
          + iifname { "k6t-eth0", "docker0" } tcp dport 15001 accept
    "#]]);
}

#[test]
fn probes_of_the_node_reach_the_application() {
    differs(|capture| capture.probes = true, expect![[r#"
        chain raw-output
          + ip saddr 169.254.7.127 counter drop comment "forged probe"
          + ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff counter drop comment "forged probe"
        chain nat-prerouting
          + ip saddr 169.254.7.127 accept
          + ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
        chain input
          + ip saddr 169.254.7.127 accept
          + ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
        chain output
          + ip daddr 169.254.7.127 accept
          + ip6 daddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
    "#]]);
}

#[test]
fn a_daemon_with_the_fixed_mark_is_connected() {
    differs(|capture| capture.marks.fixed_too = true, expect![[r#"
        set exempt
          - elements = { 0x1a2b3c4d }
          + elements = { 0x1a2b3c4d, 0x00000539 }
    "#]]);
}

#[test]
fn a_leaving_pod_captures_nothing_new() {
    expect![[r#"
        - set older4
        - set older6
        chain raw-output
          - meta mark @exempt accept
          - meta mark 0 accept
          - counter comment "foreign mark"
          - limit rate over 100/second burst 100 packets counter drop comment "foreign marks too fast"
        chain nat-prerouting
          - iif "lo" accept
          - tcp dport { 15008 } accept
          - tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15006 comment "inbound"
        chain nat-output
          - meta mark @exempt accept
          - oif "lo" accept
          - udp dport 53 counter redirect to :15053 comment "dns"
          - tcp dport 53 tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15053 comment "dns"
          - tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15001 comment "outbound"
        - chain input
        - chain output
    "#]].assert_eq(&difference(&ruleset(&starting()), &draining(MARKS, &scope(), true)));
    assert!(draining(MARKS, &scope(), true).contains("type nat hook output"), "what is open is still translated");
}

#[test]
fn the_guard_and_small_changes() {
    expect![[r#"
        add table inet isthmus-guard
        delete table inet isthmus-guard
        table inet isthmus-guard {
        	chain input {
        		type filter hook input priority filter; policy accept;
        		iif "lo" accept
        		meta l4proto { tcp, udp } counter drop comment "guarded until enrolled"
        	}
        	chain output {
        		type filter hook output priority filter; policy accept;
        		oif "lo" accept
        		meta l4proto { tcp, udp } counter drop comment "guarded until enrolled"
        	}
        	chain forward {
        		type filter hook forward priority filter; policy accept;
        		iif "lo" accept
        		meta l4proto { tcp, udp } counter drop comment "guarded until enrolled"
        	}
        }
    "#]]
    .assert_eq(&guard());
    expect![[r#"
        add table inet isthmus
        delete table inet isthmus
        add table inet isthmus-guard
        delete table inet isthmus-guard
    "#]]
    .assert_eq(&removal());
    expect![[r#"
        flush set inet isthmus exempt
        add element inet isthmus exempt { 0x1a2b3c4d, 0x00000539 }
    "#]]
    .assert_eq(&remark(Marks { fixed_too: true, ..MARKS }));
}

#[test]
fn marks_that_mean_something_else_are_not_drawn() {
    for (bits, usable) in [
        (0, false),
        (FIXED_MARK, false),
        (RETURN_MARK, false),
        (0x7777_7539, false),
        (0x8000_0111, false),
        (1, true),
        (u32::MAX, true),
    ] {
        assert_eq!(usable_mark(bits), usable.then_some(bits), "{bits:#x}");
    }
    assert_eq!(own_mark(&[FIXED_MARK, 77]), Some(77));
    assert_eq!(own_mark(&[77]), Some(77));
    assert_eq!(own_mark(&[FIXED_MARK]), None);
}
