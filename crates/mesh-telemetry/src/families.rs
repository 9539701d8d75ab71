//! Every metric family by name (spec/dataplane.md 7 and 8.1), and our own. A name is spelled once, here.

pub mod waypoint;

use std::borrow::Cow;

/// A family of series: the name its samples carry, what it is and what it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub help: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Counter,
    /// A counter whose value is not whole (seconds); set through a gauge's handle.
    CounterOfFractions,
    Gauge,
    /// With its upper bounds, growing; what is above the last one is counted too.
    Histogram(&'static [f64]),
}

impl Family {
    pub const fn counter(name: &'static str, help: &'static str) -> Family {
        Family { name: Cow::Borrowed(name), kind: Kind::Counter, help: Cow::Borrowed(help) }
    }

    pub const fn counter_of_fractions(name: &'static str, help: &'static str) -> Family {
        Family { name: Cow::Borrowed(name), kind: Kind::CounterOfFractions, help: Cow::Borrowed(help) }
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Family {
        Family { name: Cow::Borrowed(name), kind: Kind::Gauge, help: Cow::Borrowed(help) }
    }

    pub const fn histogram(name: &'static str, bounds: &'static [f64], help: &'static str) -> Family {
        Family { name: Cow::Borrowed(name), kind: Kind::Histogram(bounds), help: Cow::Borrowed(help) }
    }
}

/// Bounds in seconds of a histogram that says nothing of its own.
pub const SECONDS: &[f64] = &[0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

// Traffic; labels: `labels::traffic`.
pub const TCP_OPENED: Family = Family::counter("istio_tcp_connections_opened_total", "TCP connections opened");
pub const TCP_CLOSED: Family = Family::counter("istio_tcp_connections_closed_total", "TCP connections closed");
pub const TCP_RECEIVED: Family = Family::counter("istio_tcp_received_bytes_total", "Bytes from clients to servers");
pub const TCP_SENT: Family = Family::counter("istio_tcp_sent_bytes_total", "Bytes from servers to clients");
pub const TCP_FAILED: Family = Family::counter("istio_tcp_connections_failed_total", "TCP connections that ended in a failure");
/// Label: reporter. Accepted downstream sockets only.
pub const TCP_SOCKETS_OPEN: Family = Family::gauge("istio_tcp_sockets_open", "Downstream sockets that are open now");
/// Labels: `labels::source`, then hostname.
pub const ON_DEMAND_DNS: Family =
    Family::counter("istio_on_demand_dns_total", "Hostnames of workloads resolved when a connection needed them");

// DNS proxy; labels: request_query_type, request_protocol, source_canonical_service, source_canonical_revision.
pub const DNS_REQUESTS: Family = Family::counter("istio_dns_requests_total", "DNS requests");
pub const DNS_UPSTREAM_REQUESTS: Family =
    Family::counter("istio_dns_upstream_requests_total", "DNS requests passed to an upstream server");
pub const DNS_UPSTREAM_FAILURES: Family =
    Family::counter("istio_dns_upstream_failures_total", "DNS requests that upstream servers failed to answer");
pub const DNS_UPSTREAM_DURATION: Family = Family::histogram(
    "istio_dns_upstream_request_duration_seconds",
    SECONDS,
    "Time until an upstream server answered a DNS request, in seconds",
);

/// Label: reporter.
pub const CRL_REJECTIONS: Family =
    Family::counter("istio_crl_policy_rejections_total", "Connections refused or cut because a certificate is revoked");
/// Label: reporter.
pub const CRL_UNTRACKED: Family = Family::counter(
    "istio_crl_untracked_connections_total",
    "Connections whose certificates are not checked again when revocation lists change",
);

/// Labels: component, tag.
pub const BUILD: Family = Family::gauge("istio_build", "The version that runs");
/// Label: reason = ConnectionError | Error | Reconnect | Complete.
pub const XDS_TERMINATIONS: Family =
    Family::counter("istio_xds_connection_terminations_total", "Ends of the connection to the control plane");
/// Label: url, the type of the resources.
pub const XDS_MESSAGES: Family = Family::counter("istio_xds_message_total", "Messages from the control plane");
/// Label: url.
pub const XDS_BYTES: Family = Family::counter("istio_xds_message_bytes_total", "Bytes of messages from the control plane");

pub const ACTIVE_PROXIES: Family = Family::gauge("workload_manager_active_proxy_count", "Enrolled pods that are served");
pub const PENDING_PROXIES: Family =
    Family::gauge("workload_manager_pending_proxy_count", "Enrolled pods that are not served yet");
pub const PROXIES_STARTED: Family = Family::counter("workload_manager_proxies_started_total", "Pods whose serving began");
pub const PROXIES_STOPPED: Family = Family::counter("workload_manager_proxies_stopped_total", "Pods whose serving ended");

pub const OPEN_FDS: Family = Family::gauge("process_open_fds", "Open file descriptors");
pub const CPU: Family = Family::counter_of_fractions("process_cpu_seconds_total", "Processor time used, seconds");
pub const RESIDENT: Family = Family::gauge("process_resident_memory_bytes", "Memory that is in use");
pub const MAX_FDS: Family = Family::gauge("process_max_fds", "File descriptors that may be open");
pub const TOKIO_WORKERS: Family = Family::gauge("tokio_num_workers", "Worker threads of the data path");
pub const TOKIO_QUEUE: Family = Family::gauge("tokio_global_queue_depth", "Tasks that wait for a worker thread");
pub const TOKIO_TASKS: Family = Family::gauge("tokio_num_alive_tasks", "Tasks of the data path that live");
/// Label of the three: worker.
pub const TOKIO_BUSY: Family =
    Family::counter_of_fractions("tokio_worker_total_busy_duration_seconds_total", "Time a worker thread was busy, in seconds");
pub const TOKIO_PARK: Family = Family::counter("tokio_worker_park_count_total", "Times a worker thread had nothing to do");
pub const TOKIO_PARK_UNPARK: Family =
    Family::counter("tokio_worker_park_unpark_count_total", "Times a worker thread went to sleep or was woken");

// Our own.
/// Labels: reporter, stage, reason. Every connection we refused, early ones too, by reason code.
pub const REFUSALS: Family =
    Family::counter("isthmus_refusals_total", "Connections refused by a decision of ours, by reason code");
/// Labels: reporter, stage, reason.
pub const FAILURES: Family = Family::counter("isthmus_failures_total", "Connections that broke, by reason code");
pub const OLDER_TROUBLES: Family = Family::counter(
    "isthmus_older_connections_troubles_total",
    "Times that connections older than a pod's enrolment could not be judged or cut",
);
pub const SERIES_DROPPED: Family =
    Family::counter("isthmus_metrics_series_dropped_total", "Series that did not fit and were counted together");
pub const LINES_DROPPED: Family =
    Family::counter("isthmus_log_lines_dropped_total", "Log lines dropped because their reader was too slow");

/// The families of the data plane.
pub const ALL: &[Family] = &[
    TCP_OPENED,
    TCP_CLOSED,
    TCP_RECEIVED,
    TCP_SENT,
    TCP_FAILED,
    TCP_SOCKETS_OPEN,
    ON_DEMAND_DNS,
    DNS_REQUESTS,
    DNS_UPSTREAM_REQUESTS,
    DNS_UPSTREAM_FAILURES,
    DNS_UPSTREAM_DURATION,
    CRL_REJECTIONS,
    CRL_UNTRACKED,
    BUILD,
    CPU,
    RESIDENT,
    XDS_TERMINATIONS,
    XDS_MESSAGES,
    XDS_BYTES,
    ACTIVE_PROXIES,
    PENDING_PROXIES,
    PROXIES_STARTED,
    PROXIES_STOPPED,
    OPEN_FDS,
    MAX_FDS,
    TOKIO_WORKERS,
    TOKIO_QUEUE,
    TOKIO_TASKS,
    TOKIO_BUSY,
    TOKIO_PARK,
    TOKIO_PARK_UNPARK,
    REFUSALS,
    FAILURES,
    OLDER_TROUBLES,
    SERIES_DROPPED,
    LINES_DROPPED,
];
