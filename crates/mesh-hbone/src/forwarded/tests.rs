//! Tests of `forwarded`.

use proptest::prelude::*;

use super::*;

fn headers(name: &'static str, lines: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line).unwrap());
    }
    headers
}

// Z-096
#[test]
fn the_source_is_quoted_and_the_host_is_not() {
    let v4: SocketAddr = "10.0.0.1:4000".parse().unwrap();
    let v6: SocketAddr = "[fd00::1]:4000".parse().unwrap();
    assert_eq!(emit(v4, None), r#"for="10.0.0.1:4000""#);
    assert_eq!(emit(v6, None), r#"for="[fd00::1]:4000""#);
    assert_eq!(emit(v6, Some("web.shop")), r#"for="[fd00::1]:4000";host=web.shop"#);
    for bad in ["", "a;b", "a\"b", "a b", "a\r\nx: y"] {
        assert_eq!(emit(v4, Some(bad)), r#"for="10.0.0.1:4000""#, "{bad:?}");
    }
}

// Z-069
#[test]
fn the_host_is_read_quoted_unquoted_and_among_many() {
    let table: &[(&[&[u8]], Option<&str>)] = &[
        (&[b"host=web.shop"], Some("web.shop")),
        (&[b"host=\"web.shop\""], Some("web.shop")),
        (&[b"for=\"10.0.0.1:1\";host=web.shop;proto=http"], Some("web.shop")),
        (&[b"for=x; host=web.shop "], Some("web.shop")),
        (&[b"host=a;host=b"], Some("a")),
        (&[b"host=a", b"host=b"], Some("a")),
        (&[b"for=x", b"host=b"], None),
        (&[b"Host=a"], None),
        (&[b"host="], None),
        (&[b"host=\"\""], None),
        (&[b"host=\"a"], Some("\"a")),
        (&[b"host=\xff"], None),
        (&[b""], None),
        (&[], None),
    ];
    for (lines, expected) in table {
        assert_eq!(host(&headers(FORWARDED, lines)), *expected, "{lines:?}");
    }
}

// Z-097
#[test]
fn another_network_is_told_without_regard_to_case() {
    let table: &[(&[&[u8]], bool)] =
        &[(&[b"n2"], true), (&[b"n1"], false), (&[b"N1"], false), (&[b""], true), (&[b"\xff"], false), (&[], false)];
    for (lines, expected) in table {
        assert_eq!(from_other_network(&headers(X_FORWARDED_NETWORK, lines), "n1"), *expected, "{lines:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(line in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(value) = HeaderValue::from_bytes(&line) {
            let mut map = HeaderMap::new();
            map.insert(FORWARDED, value);
            prop_assert!(host(&map).is_none_or(|host| !host.is_empty()));
        }
    }

    #[test]
    fn a_hostname_is_read_back(ip in any::<std::net::IpAddr>(), port: u16, name in "[a-z0-9.-]{1,80}") {
        let mut map = HeaderMap::new();
        map.insert(FORWARDED, emit(SocketAddr::new(ip, port), Some(&name)));
        prop_assert_eq!(host(&map), Some(name.as_str()));
    }
}

#[test]
fn the_source_is_read_back_and_nothing_else_is_one() {
    for (line, expected) in [
        (r#"for="10.0.0.1:4000""#, Some("10.0.0.1:4000")),
        (r#"for="[fd00::1]:4000";host=web.shop"#, Some("[fd00::1]:4000")),
        ("host=web.shop; for=10.0.0.1:4000", Some("10.0.0.1:4000")),
        (r#"for="[::ffff:10.0.0.1]:4000""#, Some("10.0.0.1:4000")),
        ("for=10.0.0.1", None),
        ("for=_hidden", None),
        ("host=web.shop", None),
    ] {
        let expected: Option<SocketAddr> = expected.map(|text| text.parse().unwrap());
        assert_eq!(source(&headers(FORWARDED, &[line.as_bytes()])), expected, "{line}");
    }
}
