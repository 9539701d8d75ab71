//! The ruleset word for word; that the kernel takes it and that it does what it says is shown in
//! `e2e/tests/netns/machine.rs`.

use expect_test::expect;

use super::*;
use crate::pod::port_ranges;

fn machine() -> Capture {
    Capture {
        daemon: Daemon::user(1337).unwrap(),
        dns: true,
        inbound: true,
        exclude_inbound: port_ranges(EXCLUDE_INBOUND).unwrap(),
        exclude_outbound: vec![],
        older: Some(BTreeSet::new()),
    }
}

#[test]
fn a_user_that_somebody_may_become_is_no_daemons() {
    let subuid = "# delegated\nroot:0:1\nann:100000:65536\nbroken:x\nbob:165536:65536";
    let check = |uid| Daemon::user(uid).unwrap().check_delegated(subuid);
    for (uid, owner) in [(100_000, "ann"), (165_535, "ann"), (165_536, "bob"), (231_071, "bob")] {
        assert!(check(uid).unwrap_err().contains(&format!("/etc/subuid gives to {owner}")), "{uid}");
    }
    for uid in [1337, 61337, 99_999, 231_072, u32::MAX] {
        assert_eq!(check(uid), Ok(()), "{uid}");
    }
    assert_eq!(Daemon::cgroup("mesh").unwrap().check_delegated(subuid), Ok(()));
}

#[test]
fn a_machine() {
    expect![[r#"
        add table inet isthmus
        delete table inet isthmus
        table inet isthmus {
        	set older4 {
        		type ipv4_addr . inet_service . ipv4_addr . inet_service
        	}
        	set older6 {
        		type ipv6_addr . inet_service . ipv6_addr . inet_service
        	}
        	chain raw-output {
        		type filter hook output priority raw; policy accept;
        		meta skuid 1337 udp dport 53 ct original zone set 1
        	}
        	chain route-output {
        		type route hook output priority mangle; policy accept;
        		meta skuid 1337 oif "lo" ct direction original ct mark set 0x111
        		meta skuid 1337 accept
        		ct mark 0x111 ct direction reply meta mark set 0x111
        	}
        	chain nat-prerouting {
        		type nat hook prerouting priority dstnat; policy accept;
        		iif "lo" accept
        		fib daddr type != local accept
        		tcp dport { 15008, 22, 15020-15021 } accept
        		tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15006 comment "inbound"
        	}
        	chain nat-output {
        		type nat hook output priority -100; policy accept;
        		meta skuid 1337 accept
        		oif "lo" accept
        		udp dport 53 counter redirect to :15053 comment "dns"
        		tcp dport 53 tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15053 comment "dns"
        		tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15001 comment "outbound"
        	}
        	chain input {
        		type filter hook input priority filter; policy accept;
        		iif "lo" accept
        		tcp flags & (fin|syn|rst|ack) == syn tcp dport != { 15006, 15008, 22, 15020-15021 } counter drop comment "around the capture"
        	}
        	chain output {
        		type filter hook output priority filter; policy accept;
        		meta skuid 1337 accept
        		oif "lo" accept
        		tcp flags & (fin|syn|rst|ack) == syn ct status ! dnat counter drop comment "around the capture"
        		tcp sport { 22, 15020-15021 } accept
        		tcp flags & (fin|syn|rst|ack) == syn accept
        		ct state { invalid, new } ip saddr . tcp sport . ip daddr . tcp dport != @older4 counter drop comment "of no known connection"
        		ct state { invalid, new } ip6 saddr . tcp sport . ip6 daddr . tcp dport != @older6 counter drop comment "of no known connection"
        	}
        }
    "#]].assert_eq(&ruleset(&machine()));
}

#[test]
fn a_machine_that_captures_outbound_alone_by_a_cgroup() {
    let capture = Capture {
        daemon: Daemon::cgroup("/system.slice/ztunnel.service").unwrap(),
        dns: false,
        inbound: false,
        exclude_outbound: port_ranges("25,9000-9100").unwrap(),
        older: None,
        ..machine()
    };
    expect![[r#"
        add table inet isthmus
        delete table inet isthmus
        table inet isthmus {
        	chain route-output {
        		type route hook output priority mangle; policy accept;
        		socket cgroupv2 level 2 "system.slice/ztunnel.service" oif "lo" ct direction original ct mark set 0x111
        		socket cgroupv2 level 2 "system.slice/ztunnel.service" accept
        		ct mark 0x111 ct direction reply meta mark set 0x111
        	}
        	chain nat-output {
        		type nat hook output priority -100; policy accept;
        		socket cgroupv2 level 2 "system.slice/ztunnel.service" accept
        		oif "lo" accept
        		tcp dport { 25, 9000-9100 } accept
        		tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15001 comment "outbound"
        	}
        	chain output {
        		type filter hook output priority filter; policy accept;
        		socket cgroupv2 level 2 "system.slice/ztunnel.service" accept
        		oif "lo" accept
        		tcp dport { 25, 9000-9100 } accept
        		tcp flags & (fin|syn|rst|ack) == syn ct status ! dnat counter drop comment "around the capture"
        	}
        }
    "#]].assert_eq(&ruleset(&capture));
}

#[test]
fn a_daemon_that_cannot_be_told_from_others_is_refused() {
    assert!(Daemon::user(0).unwrap_err().contains("root"));
    for bad in ["", "/", "a b", "a\"b", "a;b"] {
        assert!(Daemon::cgroup(bad).is_err(), "{bad}");
    }
}
