//! Pure: how many waypoints a tunnel has come through, as each says in the CONNECT that it sends. What goes in a circle,
//! between addresses that lead to each other, ends here and not when everybody's memory does (spec/reliability.md T-19).
//!
//! It stands at the tunnel, where no application can write or lose it, and bytes have it as well as requests.

use http::header::{HeaderName, HeaderValue};
use http::HeaderMap;

/// Our own: peers that do not know it ignore it.
const HOPS: HeaderName = HeaderName::from_static("x-isthmus-hops");

/// A waypoint sends to pods and never to a waypoint (spec/waypoint.md 1.4), a gateway may send to one: two is what there
/// can be, and twice that is a circle.
pub const HOPS_MAX: u8 = 4;

/// Waypoints that a tunnel came through. What cannot be read counts as too many.
pub fn read(headers: &HeaderMap) -> u8 {
    let one = |value: &HeaderValue| value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u8::MAX);
    headers.get_all(HOPS).iter().map(one).max().unwrap_or(0)
}

/// What a tunnel says that has come through so many.
pub fn write(hops: u8) -> HeaderMap {
    HeaderMap::from_iter([(HOPS, HeaderValue::from(u16::from(hops)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_understood_is_too_many() {
        let table: &[(&[&str], u8)] =
            &[(&[], 0), (&["0"], 0), (&["3"], 3), (&["1", "3"], 3), (&["-1"], 255), (&["256"], 255), (&[""], 255), (&["1, 2"], 255)];
        for (values, hops) in table {
            let headers = values.iter().map(|value| (HOPS, HeaderValue::from_static(value))).collect();
            assert_eq!(read(&headers), *hops, "{values:?}");
        }
        for hops in [0, 1, HOPS_MAX, u8::MAX] {
            assert_eq!(read(&write(hops)), hops);
        }
    }
}
