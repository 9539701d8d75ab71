# What the trial asks (waypoint/src/ext_authz/tests/real.rs).
package envoy.authz

import rego.v1

http := input.attributes.request.http

default allow := {
	"allowed": false,
	"headers": {"x-why": "no rule allows it"},
	"body": "denied by OPA",
	"http_status": 451,
}

# Whoever comes from the namespace `front` may read what is public.
allow := {
	"allowed": true,
	"headers": {"x-user": input.attributes.source.principal, "x-host": http.host},
	"request_headers_to_remove": ["x-secret"],
	"response_headers_to_add": {"x-decided-by": "opa"},
	"query_parameters_to_remove": ["token"],
	"query_parameters_to_set": {"seen": "a b"},
	"dynamic_metadata": {"path": input.parsed_path[0]},
} if {
	http.method == "GET"
	input.parsed_path[0] == "public"
	startswith(input.attributes.source.principal, "spiffe://td/ns/front/")
	http.headers.cookie == "a=1; b=2"
}

# A user whose token was verified may do more.
allow if {
	input.parsed_path[0] == "roles"
	"admin" in input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].payload.roles
}

# What is sent is looked at.
allow if {
	input.parsed_path[0] == "body"
	http.body == "open sesame"
	http.headers["x-envoy-auth-partial-body"] == "false"
}

# A stream of bytes.
allow if {
	not input.attributes.request.http
	input.attributes.tlsSession.sni == "shop.example"
	input.attributes.destination.address.socketAddress.portValue == 8080
}
