//! security.istio.io. What it says of a field is what becomes of it here (docs/objects.md); which fields there are is
//! compared with the reader (`objects::policy`).

use super::schema::{Schema, list, map, needing, object, one_of, open, text, texts};
use crate::objects::policy::{ACTIONS, MODES};

pub fn authorization_policy() -> Schema {
    object(
        "Who may connect to whom. Without selector and targetRefs it is for its whole namespace, in the root namespace for the mesh",
        [
            ("selector", selector()),
            ("targetRef", target("Deprecated: one of targetRefs")),
            ("targetRefs", list("Waypoints that it is for, instead of workloads; node daemons do not enforce it", target(""))),
            ("action", one_of("ALLOW where nothing is said: once a workload has such a policy, whoever none of them allows is refused. DENY comes first. AUDIT and CUSTOM are for waypoints", &ACTIONS)),
            ("provider", object("The service that decides where action is CUSTOM", [("name", text("Its name in the mesh's configuration"))])),
            ("rules", list("A connection matches the policy when it matches one of them. None: no connection matches", rule())),
        ],
    )
}

pub fn peer_authentication() -> Schema {
    let mode = |what: &str| object(what, [("mode", one_of("STRICT: what is not encrypted is refused. PERMISSIVE and DISABLE: it is accepted. UNSET: as the namespace or the mesh has it", &MODES))]);
    object(
        "Whether connections to workloads must come through the mesh. Without selector it is for its whole namespace, in the root namespace for the mesh",
        [
            ("selector", selector()),
            ("mtls", mode("For all ports")),
            ("portLevelMtls", map("For ports of the workload, by their numbers. Needs a selector", mode(""))),
        ],
    )
}

pub fn request_authentication() -> Schema {
    object(
        "Which tokens of end users are good at waypoints. A token that is there and not good is refused; that one is there is an AuthorizationPolicy's to ask",
        [
            ("selector", selector()),
            ("targetRef", target("Deprecated: one of targetRefs")),
            ("targetRefs", list("Waypoints, Services and ServiceEntries that it is for; without it has no effect", target(""))),
            ("jwtRules", list("Issuers whose tokens are good, each with its keys: issuer, audiences, jwksUri or jwks, fromHeaders, fromParams, fromCookies, outputClaimToHeaders and so on", open(""))),
        ],
    )
}

pub fn telemetry() -> Schema {
    object(
        "What waypoints tell of requests. Without targetRefs it is for its whole namespace, in the root namespace for the mesh",
        [
            ("selector", selector()),
            ("targetRef", target("Deprecated: one of targetRefs")),
            ("targetRefs", list("Waypoints, Services and ServiceEntries that it is for", target(""))),
            ("tracing", list("Whose requests are traced: providers, randomSamplingPercentage, customTags and so on", open(""))),
            ("metrics", list("What is counted: providers, overrides", open(""))),
            ("accessLogging", list("What is logged: providers, disabled, filter", open(""))),
        ],
    )
}

pub fn selector() -> Schema {
    object("Workloads of the policy's namespace", [("matchLabels", map("Labels that they have", text("")))])
}

fn target(what: &str) -> Schema {
    let fields = object(
        what,
        [
            ("group", text("gateway.networking.k8s.io of a Gateway or GatewayClass, networking.istio.io of a ServiceEntry, empty of a Service")),
            ("kind", text("Gateway, GatewayClass, Service or ServiceEntry")),
            ("name", text("Its name")),
            ("namespace", text("Only the policy's own is known")),
        ],
    );
    needing(fields, &["kind", "name"])
}

fn rule() -> Schema {
    let from = object("", [("source", source())]);
    let to = object("", [("operation", operation())]);
    object(
        "A connection matches when it matches one of from, one of to, and all of when",
        [
            ("from", list("Who connects; nothing said: anybody", from)),
            ("to", list("To what; nothing said: to everything", to)),
            ("when", list("Further conditions", condition())),
        ],
    )
}

fn source() -> Schema {
    object(
        "All of what is said must hold. * stands for any text, alone, at the begin or at the end",
        [
            ("principals", texts("Identities, TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")),
            ("notPrincipals", texts("Identities that do not match")),
            ("requestPrincipals", texts("Only a waypoint can look at it")),
            ("notRequestPrincipals", texts("Only a waypoint can look at it")),
            ("namespaces", texts("Namespaces of those who connect")),
            ("notNamespaces", texts("Namespaces that do not match")),
            ("serviceAccounts", texts("NAMESPACE/SERVICE-ACCOUNT, or SERVICE-ACCOUNT of the policy's namespace")),
            ("notServiceAccounts", texts("Service accounts that do not match")),
            ("ipBlocks", texts("Addresses and ranges of addresses")),
            ("notIpBlocks", texts("Addresses and ranges that do not match")),
            ("remoteIpBlocks", texts("Only a waypoint can look at it")),
            ("notRemoteIpBlocks", texts("Only a waypoint can look at it")),
            ("trustDomains", texts("Not known here: a policy with it is refused. Write principals with their trust domain")),
            ("notTrustDomains", texts("Not known here: a policy with it is refused. Write principals with their trust domain")),
        ],
    )
}

fn operation() -> Schema {
    object(
        "All of what is said must hold",
        [
            ("hosts", texts("Only a waypoint can look at it")),
            ("notHosts", texts("Only a waypoint can look at it")),
            ("ports", texts("Ports of the workload, as texts")),
            ("notPorts", texts("Ports that do not match")),
            ("methods", texts("Only a waypoint can look at it")),
            ("notMethods", texts("Only a waypoint can look at it")),
            ("paths", texts("Only a waypoint can look at it")),
            ("notPaths", texts("Only a waypoint can look at it")),
        ],
    )
}

fn condition() -> Schema {
    let fields = object(
        "",
        [
            ("key", text("source.ip, source.namespace, source.principal, destination.ip or destination.port; at others only a waypoint can look")),
            ("values", texts("Values that match")),
            ("notValues", texts("Values that do not match")),
        ],
    );
    needing(fields, &["key"])
}
