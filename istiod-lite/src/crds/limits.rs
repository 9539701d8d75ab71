//! isthmus.io, which is ours: what the field has no API for (docs/rate-limits.md).

use super::schema::{Schema, flag, list, needing, number, object, one_of, port, text};
use crate::objects::rate_limit::{COUNTED_BY, FAILURE_MODES, GRPC_STATUSES, PHASES};

pub fn rate_limit() -> Schema {
    object(
        "How many requests waypoints let through, and of whom",
        [
            ("targetRefs", list("What it is for, of its own namespace; a GatewayClass from the root namespace. Targets of several limits are under all of them", target())),
            ("phase", one_of("AfterAuthorization, where nothing is said: what is refused costs no quota. BeforeAuthentication: before anybody looks at who asks", &PHASES)),
            ("local", list("Limits that each waypoint pod keeps by itself. A request must find room in all of them", local())),
            ("global", global()),
            ("headers", flag("Clients are told of their limits: x-ratelimit-limit, -remaining, -reset")),
            ("shadow", flag("Counted, but never enforced")),
            ("grpcStatus", one_of("What gRPC clients are told: Unavailable, where nothing is said, or ResourceExhausted", &GRPC_STATUSES)),
        ],
    )
}

fn target() -> Schema {
    let fields = object(
        "",
        [
            ("group", text("gateway.networking.k8s.io of a Gateway, GatewayClass, HTTPRoute or GRPCRoute, networking.istio.io of a ServiceEntry, empty of a Service")),
            ("kind", text("Gateway, GatewayClass, Service, ServiceEntry, HTTPRoute or GRPCRoute")),
            ("name", text("Its name")),
            ("namespace", text("Only the limit's own is known")),
        ],
    );
    needing(fields, &["kind", "name"])
}

fn local() -> Schema {
    let fields = object(
        "",
        [
            ("name", text("For logs and metrics")),
            ("requests", number("So many requests", 1, u32::MAX)),
            ("per", text("in so long, such as 1s or 1m; at least 50ms")),
            ("burst", number("So many at once; requests, where nothing is said", 1, u32::MAX)),
            ("by", list("Each combination of these has room of its own. None: all requests share it", by())),
            ("shared", flag("All pods of the waypoint together have this much room")),
            ("matches", list("Only requests that one of these matches are counted; none: all", request_match())),
        ],
    );
    needing(fields, &["requests", "per"])
}

fn global() -> Schema {
    let service = needing(
        object("The service that counts for all; it speaks envoy.service.ratelimit.v3", [("name", text("")), ("namespace", text("The limit's own, where nothing is said")), ("port", port(""))]),
        &["name", "port"],
    );
    let descriptors = needing(object("", [("by", list("Its entries; without one of them that is not optional it is not asked about", by()))]), &["by"]);
    let fields = object(
        "A service is asked about each request",
        [
            ("domain", text("Of the service's configuration")),
            ("service", service),
            ("descriptors", list("What it is asked about", descriptors)),
            ("failureMode", one_of("Open, where nothing is said: requests pass while it does not answer. Closed: they are answered 500", &FAILURE_MODES)),
            ("timeout", text("For its answer; 20ms, where nothing is said")),
        ],
    );
    needing(fields, &["domain", "service", "descriptors"])
}

fn by() -> Schema {
    let fields = object(
        "",
        [
            ("type", one_of("What is looked at", &COUNTED_BY)),
            ("name", text("Of a Header, a Claim (a.b is b within a) or a QueryParameter")),
            ("value", text("Of Generic")),
            ("prefixLength", number("Of RemoteAddress: addresses with so many bits in common are one", 0, 128)),
            ("key", text("In what the service is asked; what is usual for the type, where nothing is said")),
            ("optional", flag("Where it is missing, the rest counts")),
        ],
    );
    needing(fields, &["type"])
}

fn request_match() -> Schema {
    let pair = |what: &str| list(what, needing(object("", [("type", text("Exact or RegularExpression")), ("name", text("")), ("value", text(""))]), &["name", "value"]));
    object(
        "As in an HTTPRoute",
        [
            ("path", object("", [("type", text("PathPrefix, Exact or RegularExpression")), ("value", text(""))])),
            ("headers", pair("")),
            ("queryParams", pair("")),
            ("method", text("")),
        ],
    )
}
