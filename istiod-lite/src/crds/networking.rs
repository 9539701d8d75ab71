//! networking.istio.io, as far as it says where workloads and services are. What it says of a field is what becomes of it
//! here (docs/objects.md); which fields there are is compared with the reader (`objects::istio`).

use super::schema::{Schema, list, map, needing, number, object, one_of, open, port, text, texts};
use super::security::selector;
use crate::objects::istio::{LOCATIONS, RESOLUTIONS};

pub fn service_entry() -> Schema {
    let fields = object(
        "Hosts that the mesh should know beside the Services of the cluster",
        [
            ("hosts", Schema { min_items: Some(1), ..texts("DNS names; the first label may be *") }),
            ("addresses", texts("Addresses of the hosts, or ranges of them. None: each host is given one, unless resolution is NONE")),
            ("ports", list("Ports of the hosts", entry_port())),
            ("location", one_of("Has no effect: whether an endpoint is in the mesh is told by the endpoint", &LOCATIONS)),
            ("resolution", one_of("How endpoints are found. NONE: a connection goes where it was sent", &RESOLUTIONS)),
            ("endpoints", list("Where the hosts are served. Excludes workloadSelector", place(""))),
            ("workloadSelector", object("Pods and WorkloadEntries of the namespace that serve the hosts", [("labels", labels("Labels that they have"))])),
            ("exportTo", texts("Not honoured: the host is visible as serviceEntryVisibility of the mesh's configuration says")),
            ("subjectAltNames", texts("Identities that endpoints may have")),
        ],
    );
    needing(fields, &["hosts"])
}

pub fn workload_entry() -> Schema {
    place("A workload that is no pod")
}

pub fn destination_rule() -> Schema {
    let subset = needing(object("", [("name", text("Its name, for routes")), ("labels", labels("Labels that its workloads have")), ("trafficPolicy", open("What differs from trafficPolicy"))]), &["name"]);
    let fields = object(
        "How waypoints reach the endpoints of a host",
        [
            ("host", text("A Service or a host of a ServiceEntry; * may stand for the first labels")),
            ("trafficPolicy", open("loadBalancer, connectionPool, outlierDetection, tls, portLevelSettings, tunnel, proxyProtocol, retryBudget")),
            ("subsets", list("Parts of the host's endpoints", subset)),
            ("exportTo", texts("Namespaces whose waypoints heed it; nothing said: all")),
            ("workloadSelector", selector()),
        ],
    );
    needing(fields, &["host"])
}

pub fn virtual_service() -> Schema {
    let fields = object(
        "Where waypoints send what is for a host, by rules in the order in which they are listed",
        [
            ("hosts", texts("Services and hosts of ServiceEntries")),
            ("gateways", texts("mesh, or nothing: waypoints; others have no effect here")),
            ("http", list("Rules for requests", open(""))),
            ("tls", list("Rules for TLS by server name, without looking inside", open(""))),
            ("tcp", list("Rules for other streams", open(""))),
            ("exportTo", texts("Not honoured: the namespaces of the host and of its waypoint have a say")),
        ],
    );
    needing(fields, &["hosts"])
}

fn entry_port() -> Schema {
    let fields = object(
        "",
        [
            ("number", port("Port of the host")),
            ("name", text("Its name, another one for each")),
            ("protocol", text("HTTP, HTTP2, GRPC, TLS, HTTPS, TCP or UDP")),
            ("targetPort", port("Port of the endpoints; nothing said: number")),
        ],
    );
    needing(fields, &["number", "name"])
}

fn place(what: &str) -> Schema {
    object(
        what,
        [
            ("address", text("IP address or DNS name. Can be left out where network is given")),
            ("ports", map("Port of this workload, by the name of the service's port", port(""))),
            ("labels", labels("Labels by which it is selected")),
            ("network", text("Network that it is in; nothing said: the cluster's")),
            ("locality", text("region/zone/subzone")),
            ("weight", number("Its part of connections beside others", 0, u32::MAX)),
            ("serviceAccount", text("Service account that it runs as, of its namespace")),
        ],
    )
}

fn labels(what: &str) -> Schema {
    map(what, text(""))
}
