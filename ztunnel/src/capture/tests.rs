//! What a connection's task holds while it is open.

use mesh_net::linux::PodNet;

use super::*;
use crate::inbound::inbound;

fn of_two<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of_three<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

/// A page that grows by an argument held twice, or by something that is needed only for opening, shows here. Below the
/// band is news as well: then the band is to be moved.
#[test]
fn a_connection_holds_what_it_needs_and_no_more() {
    let pages = [
        ("outbound", of_two(outbound::outbound::<PodNet>), 900..=1150),
        ("inbound", of_three(inbound::<PodNet>), 950..=1200),
        ("plaintext", of_two(passthrough::passthrough::<PodNet>), 850..=1050),
    ];
    let wrong: Vec<_> = pages.iter().filter(|(_, size, band)| !band.contains(size)).collect();
    assert!(wrong.is_empty(), "bytes, and what was expected: {wrong:?}");
}
