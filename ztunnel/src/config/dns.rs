//! Names, as pods ask for them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mesh_runtime::knobs::{Knobs, Setting};

use super::{Dns, Place};
use crate::capture;

pub(super) fn dns(knobs: &mut Knobs<'_>, place: &Place, ipv6: bool, on_demand: bool) -> Dns {
    knobs.section("DNS");
    knobs.declare(
        "ISTIO_META_DNS_CAPTURE",
        "`true` or anything else".to_owned(),
        "true",
        "Serve DNS in each pod; also `DNS_CAPTURE` in `proxyMetadata`.",
    );
    knobs.declare(
        "ISTIO_META_DNS_PROXY_ADDR",
        "host:port".to_owned(),
        "localhost:15053",
        "Where DNS is served in each pod; `localhost` is both loopbacks. Also `DNS_PROXY_ADDR` in `proxyMetadata`.",
    );
    let own: Option<String> = knobs.optional("DNS_PROXY_ADDR", "ISTIO_META_DNS_PROXY_ADDR", "The same.");
    let preferred: Option<String> = knobs.optional(
        "PREFERED_SERVICE_NAMESPACE",
        "–",
        "Among services of one name in several other namespaces, this namespace's is meant.",
    );
    let limits = crate::dns::Limits {
        per_second: knobs.within(
            "DNS_QUERIES_PER_SECOND",
            "5000",
            1..=10_000_000,
            "DNS questions of one pod in a second; more are refused.",
        ),
        in_flight: knobs.within(
            "DNS_IN_FLIGHT_MAX",
            "256",
            1..=65_536,
            "DNS questions of one pod that wait for an upstream server; more fail at once.",
        ),
        connections: knobs.within("DNS_TCP_CONNECTIONS_MAX", "64", 1..=65_536, "DNS connections of one pod over TCP."),
    };
    let capture = place.metadata.get("DNS_CAPTURE").map_or("true", String::as_str);
    let enabled = capture.eq_ignore_ascii_case("true");
    if enabled && on_demand {
        knobs.refuse("XDS_ON_DEMAND", "false, because DNS needs to know every name; or set ISTIO_META_DNS_CAPTURE=false");
    }
    let text = own.as_ref().or_else(|| place.metadata.get("DNS_PROXY_ADDR"));
    let addresses = match text {
        None => loopbacks(capture::DNS, ipv6),
        Some(text) => dns_addresses(text, ipv6).unwrap_or_else(|| {
            let whose = if own.is_some() { "DNS_PROXY_ADDR" } else { "ISTIO_META_DNS_PROXY_ADDR" };
            knobs.refuse(whose, format!("an address and a port, like localhost:15053 or 127.0.0.1:15053, not {text:?}"));
            Vec::new()
        }),
    };
    Dns { enabled, addresses, preferred_namespace: preferred.filter(|name| !name.is_empty()).map(Arc::from), limits }
}

fn dns_addresses(text: &str, ipv6: bool) -> Option<Vec<SocketAddr>> {
    if let Some(port) = text.strip_prefix("localhost:") {
        return u16::parse(port).filter(|port| *port != 0).map(|port| loopbacks(port, ipv6));
    }
    SocketAddr::parse(text).map(|address| vec![address])
}

fn loopbacks(port: u16, ipv6: bool) -> Vec<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if ipv6 { vec![v4, v6] } else { vec![v4] }
}
