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
/// Label: by = rbac | jwt | ext_authz.
pub const REQUESTS_REFUSED: Family = Family::counter("waypoint_requests_refused_total", "Requests that policy refused");
/// Labels: policy, result = audit | would_deny | would_allow | would_not_allow.
pub const POLICY_NOTES: Family =
    Family::counter("waypoint_policy_notes_total", "What AUDIT policies and those in dry-run said of requests and streams");
pub const REQUESTS_PANICKED: Family =
    Family::counter("waypoint_requests_panicked_total", "Requests that a fault of the proxy's own ended; each was answered with 500");
/// Label: reason = flood | abandoned.
pub const CLIENTS_CUT: Family =
    Family::counter("waypoint_client_connections_cut_total", "Clients' HTTP/2 connections that were closed for what the client sent");
/// Label: type.
pub const RESOURCES: Family = Family::gauge("waypoint_resources", "Resources of the controller that are held");
/// Label: type.
pub const RESOURCES_PARTIAL: Family =
    Family::gauge("waypoint_resources_partial", "Resources of the controller of which not all is in force");
pub const CONFIG_CHANGES: Family = Family::counter("waypoint_config_changes_total", "Times that settings were published");
/// Label: provider.
pub const SPANS_SENT: Family = Family::counter("waypoint_spans_sent_total", "Spans that a collector took");
/// Labels: provider, reason = queue_full | refused | failed.
pub const SPANS_DROPPED: Family = Family::counter("waypoint_spans_dropped_total", "Spans that no collector got");

/// Label: outcome = bound | refused | crowded.
pub const BINDINGS_AWAITED: Family =
    Family::counter("waypoint_bindings_awaited_total", "Tunnels that waited for their service to be bound to this waypoint");
/// Label: what = request | stream.
pub const SERVED_PARTING: Family =
    Family::counter("waypoint_served_parting_total", "Requests and streams served for a service that had just been unbound");

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
    REQUESTS_REFUSED,
    POLICY_NOTES,
    REQUESTS_PANICKED,
    CLIENTS_CUT,
    RESOURCES,
    RESOURCES_PARTIAL,
    CONFIG_CHANGES,
    BINDINGS_AWAITED,
    SERVED_PARTING,
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
