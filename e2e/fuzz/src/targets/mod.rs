//! The table of targets; the numbers are those of spec/reliability.md 7.5.

mod dns;
mod files;
pub mod identity;
mod request;
mod tunnel;
mod waypoint;
mod xds;
mod zds;

use crate::Target;

/// Every target.
pub const ALL: &[Target] = &[
    tunnel::SERVER,       // 3, 6
    tunnel::CLIENT,       // 4, 6
    request::DECISION,    // 7
    request::AUTHORITY,   // 8
    request::BAGGAGE,     // 9
    request::FORWARDED,   // 10
    request::TRACEPARENT, // 10
    request::PROXY,       // 11
    request::ADMIN,       // 30
    identity::NAMES,      // 12
    identity::SPIFFE,     // 12
    identity::CHAIN,      // 12
    identity::CRL,        // 13
    identity::CSR,        // 14
    identity::TOKEN,      // 15
    xds::ADDRESS,         // 16, 17
    xds::AUTHORIZATION,   // 18
    xds::SEQUENCE,        // 19
    zds::REQUEST,         // 20
    dns::MESSAGE,         // 23
    dns::SERVER,          // 24
    dns::RESOLV,          // 29
    files::OBJECTS,       // 27
    files::LOCAL,
    files::POD,
    waypoint::HEAD,
    waypoint::PATH,
    waypoint::FIRST,
    waypoint::RESOURCE,
    waypoint::TOKEN,
];
