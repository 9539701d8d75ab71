//! Tests of `connect`.

use proptest::prelude::*;

use super::*;

fn host(name: &str, port: u16) -> ConnectHead {
    ConnectHead::Host { name: name.into(), port }
}

fn address(text: &str) -> ConnectHead {
    ConnectHead::Address(text.parse().unwrap())
}

#[test]
fn authorities_are_read_as_the_family_writes_them() {
    let long = format!("{}:80", "a".repeat(254));
    let table: &[(&str, Result<ConnectHead, BadAuthority>)] = &[
        ("10.0.0.1:80", Ok(address("10.0.0.1:80"))),
        ("[fd00::1]:8080", Ok(address("[fd00::1]:8080"))),
        ("[::ffff:10.0.0.1]:80", Ok(address("10.0.0.1:80"))),
        ("web.shop.svc.cluster.local:443", Ok(host("web.shop.svc.cluster.local", 443))),
        ("*.example.com:443", Ok(host("*.example.com", 443))),
        ("my_host:1", Ok(host("my_host", 1))),
        ("10.0.0.1", Err(BadAuthority::NoPort)),
        ("10.0.0.1:", Err(BadAuthority::NoPort)),
        ("[::1]", Err(BadAuthority::NoPort)),
        ("[::1]80", Err(BadAuthority::NoPort)),
        ("web", Err(BadAuthority::NoPort)),
        ("", Err(BadAuthority::Missing)),
        ("10.0.0.1:0", Err(BadAuthority::BadPort)),
        ("10.0.0.1:65536", Err(BadAuthority::BadPort)),
        ("10.0.0.1:+80", Err(BadAuthority::BadPort)),
        ("10.0.0.1:000080", Err(BadAuthority::BadPort)),
        ("10.0.0.1:8a", Err(BadAuthority::BadPort)),
        ("[10.0.0.1]:80", Err(BadAuthority::BadAddress)),
        ("[fe80::1%eth0]:80", Err(BadAuthority::BadAddress)),
        ("[::1:80", Err(BadAuthority::BadAddress)),
        ("::1:80", Err(BadAuthority::BadHostname)),
        (":80", Err(BadAuthority::BadHostname)),
        ("user@web:80", Err(BadAuthority::BadHostname)),
        ("web/../x:80", Err(BadAuthority::BadHostname)),
        (&long, Err(BadAuthority::BadHostname)),
    ];
    for (authority, expected) in table {
        assert_eq!(authority.parse::<ConnectHead>(), *expected, "{authority}");
    }
}

#[test]
fn a_request_has_a_method_and_an_authority_and_nothing_else() {
    for (to, authority) in [(address("[fd00::1]:80"), "[fd00::1]:80"), (host("*.x_y.z", 1), "*.x_y.z:1")] {
        let request = ConnectRequest::new(to).to_http();
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.uri().authority().unwrap().as_str(), authority);
        assert_eq!((request.uri().scheme(), request.uri().path_and_query()), (None, None));
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Ok(head) = text.parse::<ConnectHead>() {
            // What is read can be sent on.
            let request = ConnectRequest::new(head.clone()).to_http();
            prop_assert_eq!(request.uri().authority().unwrap().as_str(), head.to_string());
        }
    }

    #[test]
    fn near_authorities_are_read_or_refused(text in "\\[?[0-9a-fA-F:.]{0,12}\\]?:?[0-9+]{0,6}") {
        let _ = text.parse::<ConnectHead>();
    }

    #[test]
    fn what_is_printed_is_read_back(ip in any::<std::net::IpAddr>(), name in "[a-z0-9._*-]{1,60}[a-z]", port in 1u16..) {
        for head in [ConnectHead::from(SocketAddr::new(ip, port)), ConnectHead::host(&name, port).unwrap()] {
            prop_assert_eq!(head.to_string().parse::<ConnectHead>(), Ok(head));
        }
    }
}
