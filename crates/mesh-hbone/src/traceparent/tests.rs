//! Tests of `traceparent`.

use proptest::prelude::*;

use super::*;

const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn parse(text: &[u8]) -> Option<TraceParent> {
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, HeaderValue::from_bytes(text).ok()?);
    TraceParent::parse(&headers)
}

#[test]
fn a_fresh_one_is_unsampled_version_zero() {
    let fresh = TraceParent::new(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
    assert_eq!(fresh.emit(), GOOD);
    assert_eq!(parse(GOOD.as_bytes()), Some(fresh));
}

#[test]
fn what_has_not_four_fields_of_hex_is_none() {
    let table: &[&[u8]] = &[
        b"",
        b"00",
        b"---",
        // V-72: the right length and too few dashes
        &[b'0'; 55],
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033310000",
        b"000af7651916cd43dd8448eb211c80319c--b7ad6b7169203331-00",
        b"00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-00",
        b"00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-0",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\xff",
    ];
    for text in table {
        assert_eq!(parse(text), None, "{}", String::from_utf8_lossy(text));
    }
    assert_eq!(TraceParent::parse(&HeaderMap::new()), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse(&text);
    }

    #[test]
    fn near_ones_are_read_or_refused(text in "[0-9a-fg-]{55}") {
        let _ = parse(text.as_bytes());
    }

    #[test]
    fn what_is_printed_is_read_back(trace: u128, parent: u64) {
        let it = TraceParent::new(trace, parent);
        prop_assert_eq!(parse(it.to_string().as_bytes()), Some(it));
    }
}
