//! Sockets, tunnels, and what one pod may have of them.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_net::sockopt::{Keepalive, Spoofing};
use mesh_runtime::knobs::Knobs;

use super::{Mode, Pods, Sockets, Tunnels};

pub(super) fn sockets(knobs: &mut Knobs<'_>, mode: &Mode) -> Sockets {
    knobs.section("Sockets");
    let mark: Option<u32> = knobs.optional(
        "PACKET_MARK",
        "1337 in shared mode, else none",
        "The mark that exempts our packets from capture where the agent gives none.",
    );
    let port_reuse = knobs.value("INPOD_PORT_REUSE", "true", "An old and a new daemon may listen together while one takes over.");
    let spoof: Option<bool> = knobs.optional(
        "ENABLE_ORIG_SRC",
        "where it is possible",
        "Applications see their real client's address; `true`: or nothing works.",
    );
    let on = knobs.value::<bool>("KEEPALIVE_ENABLED", "true", "TCP keepalive of connections with applications and with what is outside the mesh; for tunnels see TUNNEL_DEAD_AFTER.");
    let idle = knobs.value("KEEPALIVE_TIME", "180s", "Silence before the first probe.");
    let interval = knobs.value("KEEPALIVE_INTERVAL", "180s", "Time between probes.");
    let retries = knobs.within("KEEPALIVE_RETRIES", "9", 1..=127, "Probes without an answer before a connection is given up.");
    let user_timeout = knobs.value::<bool>(
        "USER_TIMEOUT_ENABLED",
        "false",
        "Give up such a connection when its bytes are not acknowledged for time + retries × interval.",
    );
    let ipv6 = knobs.value("IPV6_ENABLED", "true", "Listen on IPv6 too, and tell IPv6 addresses by DNS.");
    let spoofing = match spoof {
        None => Spoofing::Auto,
        Some(true) => Spoofing::Required,
        Some(false) => Spoofing::Never,
    };
    let default_mark = matches!(mode, Mode::Shared { .. }).then_some(1337);
    Sockets {
        // Mark 0 is what every other packet has: it exempts nothing.
        mark: mark.or(default_mark).filter(|mark| *mark != 0),
        port_reuse,
        spoofing,
        keepalive: on.then_some(Keepalive { idle, interval, retries }),
        user_timeout: user_timeout.then(|| idle + interval * retries),
        ipv6,
    }
}

pub(super) fn tunnels(knobs: &mut Knobs<'_>) -> Tunnels {
    knobs.section("Tunnels");
    // HTTP/2 allows windows up to 2^31-1 and frames from 2^14 to 2^24-1 bytes (RFC 9113 6.5.2).
    const WINDOWS: std::ops::RangeInclusive<u32> = 65_535..=0x7fff_ffff;
    let stream_window = knobs.optional(
        "HTTP2_STREAM_WINDOW_SIZE",
        "256 KiB that grows to 4 MiB",
        "Bytes that may be on their way in one stream.",
    );
    if stream_window.is_some_and(|bytes| !WINDOWS.contains(&bytes)) {
        knobs.refuse("HTTP2_STREAM_WINDOW_SIZE", "a number from 65535 to 2147483647");
    }
    Tunnels {
        stream_window,
        connection_window: knobs.within(
            "HTTP2_CONNECTION_WINDOW_SIZE",
            "16777216",
            WINDOWS,
            "Bytes that may be on their way in all streams of one tunnel connection.",
        ),
        frame_size: knobs.within(
            "HTTP2_FRAME_SIZE",
            "1048576",
            16_384..=16_777_215,
            "The largest frame that is taken, in bytes.",
        ),
        streams_per_connection: knobs.within(
            "POOL_MAX_STREAMS_PER_CONNECTION",
            "100",
            1..=65_535,
            "Streams of ours on one tunnel connection; the peer's limit lowers it.",
        ),
        unused_release: knobs.value("POOL_UNUSED_RELEASE_TIMEOUT", "5m", "How long a tunnel connection without streams is kept."),
        dead_after: dead_after(knobs),
        baggage: knobs.value(
            "ENABLE_RESPONSE_BAGGAGE",
            "true",
            "Tell peers about the workload, and read what they tell (for telemetry only).",
        ),
    }
}

/// Between 1 s, the kernel's shortest probe, and what is longer than no limit of our own.
const DEAD_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

fn dead_after(knobs: &mut Knobs<'_>) -> Duration {
    let after = knobs.value(
        "TUNNEL_DEAD_AFTER",
        "4s",
        "A node whose kernel answers nothing for so long is gone, with the tunnels to it. Longer than the outages of the network that should go unnoticed.",
    );
    if !DEAD_AFTER.contains(&after) {
        knobs.refuse("TUNNEL_DEAD_AFTER", "a time from 1s to 1h");
    }
    after
}

pub(super) fn pods(knobs: &mut Knobs<'_>) -> Pods {
    knobs.section("Pods");
    // A daemon without its proxy would leave redirected traffic unanswered.
    let proxy: bool = knobs.value("ENABLE_PROXY", "true", "Always `true`; another value stops the start.");
    if !proxy {
        knobs.refuse("ENABLE_PROXY", "true: this daemon does nothing else than carry traffic");
    }
    let app_tunnel_over_loopback =
        knobs.value("LOCALHOST_APP_TUNNEL", "true", "Reach an application that takes the PROXY protocol by the loopback.");
    let socks5 = knobs.value("UNSTABLE_ENABLE_SOCKS5", "false", "Serve SOCKS5 on each pod's 127.0.0.1:15080.");
    let connections = knobs.within(
        "POD_CONNECTIONS_MAX",
        "16384",
        1..=1_000_000,
        "Connections that one pod may have open through us; more are refused.",
    );
    let ranges: String = knobs.value(
        "MESH_RANGES",
        "",
        "Ranges of pods and services, as `10.244.0.0/16,10.96.0.0/12`. An unknown destination there is refused after a second, never passed through in the clear.",
    );
    let parsed: Option<Vec<IpNet>> = ranges.split(',').map(str::trim).filter(|range| !range.is_empty()).map(|range| range.parse().ok()).collect();
    if parsed.is_none() {
        knobs.refuse("MESH_RANGES", "ranges separated by commas, like 10.244.0.0/16,fd00::/48");
    }
    let mesh_ranges: Arc<[IpNet]> = parsed.unwrap_or_default().into();
    let snapshot_age = knobs.value(
        "SNAPSHOT_AGE_MAX",
        "24h",
        "After so long without the control plane connections are refused: policies may have come that we never saw.",
    );
    let older_grace = knobs.value(
        "OLDER_CONNECTION_GRACE",
        "30s",
        "A connection that was open before its pod was enrolled is cut when policy has refused it for so long.",
    );
    knobs.declare(
        "AUTHZ_POLICY_INFO_LOGGING",
        "`true` or anything else".to_owned(),
        "false",
        "Write the policy that allowed a connection into the log at level info.",
    );
    let policy_in_log = knobs.given("AUTHZ_POLICY_INFO_LOGGING") == Some("true");
    Pods { app_tunnel_over_loopback, socks5, connections, policy_in_log, mesh_ranges, snapshot_age, older_grace }
}
