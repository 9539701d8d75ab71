//! The families of a waypoint: what the field knows (spec/waypoint.md 6.1), and our own, which begin with `waypoint_`.

use super::{
    BUILD, CPU, Family, LINES_DROPPED, MAX_FDS, OPEN_FDS, RESIDENT, SERIES_DROPPED, TCP_CLOSED, TCP_OPENED, TCP_RECEIVED,
    TCP_SENT, TOKIO_BUSY, TOKIO_PARK, TOKIO_PARK_UNPARK, TOKIO_QUEUE, TOKIO_TASKS, TOKIO_WORKERS, XDS_BYTES, XDS_MESSAGES,
    XDS_TERMINATIONS,
};

/// Bounds of every histogram of requests, in milliseconds or bytes, as the field's dashboards expect them.
pub const BOUNDS: &[f64] =
    &[0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

pub const REQUESTS: Family = Family::counter("istio_requests_total", "Requests that ended");
pub const REQUEST_DURATION: Family = Family::histogram(
    "istio_request_duration_milliseconds",
    BOUNDS,
    "From the first byte of a request to the end of its response, in milliseconds",
);
pub const REQUEST_BYTES: Family =
    Family::histogram("istio_request_bytes", BOUNDS, "Bytes of a request as clients sent it, head and trailers included");
pub const RESPONSE_BYTES: Family =
    Family::histogram("istio_response_bytes", BOUNDS, "Bytes of a response as clients got it, head and trailers included");
pub const REQUEST_MESSAGES: Family = Family::counter("istio_request_messages_total", "gRPC messages from clients");
pub const RESPONSE_MESSAGES: Family = Family::counter("istio_response_messages_total", "gRPC messages to clients");

pub const REQUESTS_OPEN: Family = Family::gauge("waypoint_requests_open", "Requests that are being answered");
pub const STREAMS_OPEN: Family = Family::gauge("waypoint_streams_open", "Opaque streams that are open");
/// Label: level = tunnel | http.
pub const POOL_CONNECTIONS: Family = Family::gauge("waypoint_pool_connections", "Connections to endpoints that are kept");
/// Label: action = allow | deny | audit | custom; result.
pub const AUTHZ_DECISIONS: Family = Family::counter("waypoint_authz_decisions_total", "Decisions of authorization");
/// Labels: issuer, result.
pub const JWKS_FETCHES: Family = Family::counter("waypoint_jwks_fetches_total", "Times that keys of an issuer were fetched");
/// Label: type_url.
pub const RESOURCES: Family = Family::gauge("waypoint_resources", "Resources of the controller that are in force");
/// Label: type_url.
pub const RESOURCES_REJECTED: Family =
    Family::gauge("waypoint_resources_rejected", "Resources of the controller that are not in force as they stand");
pub const CONFIG_VERSION: Family = Family::gauge("waypoint_config_version", "Changes of settings since the start");
/// Label: provider.
pub const SPANS_SENT: Family = Family::counter("waypoint_spans_sent_total", "Spans that a collector took");
/// Labels: provider, reason = queue_full | refused | failed.
pub const SPANS_DROPPED: Family = Family::counter("waypoint_spans_dropped_total", "Spans that no collector got");

/// All that a waypoint tells.
pub const ALL: &[Family] = &[
    REQUESTS,
    REQUEST_DURATION,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    REQUEST_MESSAGES,
    RESPONSE_MESSAGES,
    TCP_OPENED,
    TCP_CLOSED,
    TCP_SENT,
    TCP_RECEIVED,
    BUILD,
    XDS_TERMINATIONS,
    XDS_MESSAGES,
    XDS_BYTES,
    REQUESTS_OPEN,
    STREAMS_OPEN,
    POOL_CONNECTIONS,
    AUTHZ_DECISIONS,
    JWKS_FETCHES,
    RESOURCES,
    RESOURCES_REJECTED,
    CONFIG_VERSION,
    SPANS_SENT,
    SPANS_DROPPED,
    CPU,
    RESIDENT,
    OPEN_FDS,
    MAX_FDS,
    TOKIO_WORKERS,
    TOKIO_QUEUE,
    TOKIO_TASKS,
    TOKIO_BUSY,
    TOKIO_PARK,
    TOKIO_PARK_UNPARK,
    SERIES_DROPPED,
    LINES_DROPPED,
];
