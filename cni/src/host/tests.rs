use expect_test::expect;

use super::*;

#[test]
fn the_nodes_table() {
    let pods = ["10.0.1.5".parse().unwrap(), "fd00:1::5".parse().unwrap(), "10.0.1.6".parse().unwrap()];
    expect![[r#"
        add table inet isthmus-probes
        delete table inet isthmus-probes
        table inet isthmus-probes {
        	set pods4 {
        		type ipv4_addr
        		elements = { 10.0.1.5, 10.0.1.6 }
        	}
        	set pods6 {
        		type ipv6_addr
        		elements = { fd00:1::5 }
        	}
        	chain forged {
        		type filter hook prerouting priority raw; policy accept;
        		iif "lo" accept
        		ip saddr 169.254.7.127 counter drop comment "forged probe"
        		ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff counter drop comment "forged probe"
        	}
        	chain probes {
        		type nat hook postrouting priority srcnat; policy accept;
        		meta l4proto tcp meta skuid 0 ip daddr @pods4 counter snat ip to 169.254.7.127
        		meta l4proto tcp meta skuid 0 ip6 daddr @pods6 counter snat ip6 to fd16:9254:7127:1337:ffff:ffff:ffff:ffff
        	}
        }
    "#]]
    .assert_eq(&ruleset(&ProbeSender::User(0), &pods));
    expect![[r#"
        add table inet isthmus-probes
        delete table inet isthmus-probes
        table inet isthmus-probes {
        	set pods4 {
        		type ipv4_addr
        	}
        	set pods6 {
        		type ipv6_addr
        	}
        	chain forged {
        		type filter hook prerouting priority raw; policy accept;
        		iif "lo" accept
        		ip saddr 169.254.7.127 counter drop comment "forged probe"
        		ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff counter drop comment "forged probe"
        	}
        	chain probes {
        		type nat hook postrouting priority srcnat; policy accept;
        		meta l4proto tcp socket cgroupv2 level 2 "kubelet.slice/kubelet.service" ip daddr @pods4 counter snat ip to 169.254.7.127
        		meta l4proto tcp socket cgroupv2 level 2 "kubelet.slice/kubelet.service" ip6 daddr @pods6 counter snat ip6 to fd16:9254:7127:1337:ffff:ffff:ffff:ffff
        	}
        }
    "#]].assert_eq(&ruleset(&ProbeSender::Cgroup("/kubelet.slice/kubelet.service".to_owned()), &[]));
}

#[test]
fn a_pods_interface() {
    expect![[r#"
        add table netdev isthmus-probes
        add chain netdev isthmus-probes pod-0f3a-1 { type filter hook ingress device "veth-cart" priority -500; policy accept; }
        flush chain netdev isthmus-probes pod-0f3a-1
        add rule netdev isthmus-probes pod-0f3a-1 ip saddr 169.254.7.127 counter drop comment "forged probe"
        add rule netdev isthmus-probes pod-0f3a-1 ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff counter drop comment "forged probe"
    "#]].assert_eq(&interface_ruleset("0f3a-1", "veth-cart"));
}
