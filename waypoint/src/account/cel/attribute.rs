//! What expressions may ask for, and of which type each is.

use super::Kind;

/// Whose headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    Request,
    Response,
}

impl Headers {
    pub fn parse(path: &str) -> Option<Headers> {
        match path {
            "request.headers" => Some(Headers::Request),
            "response.headers" => Some(Headers::Response),
            _ => None,
        }
    }
}

macro_rules! attributes {
    ($($name:ident: $kind:ident = $($path:literal)|+),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Attribute {
            $($name),*
        }

        impl Attribute {
            pub fn parse(path: &str) -> Option<Attribute> {
                match path {
                    $($($path)|+ => Some(Attribute::$name),)*
                    _ => None,
                }
            }

            pub fn kind(self) -> Kind {
                match self {
                    $(Attribute::$name => Kind::$kind),*
                }
            }
        }
    };
}

attributes! {
    RequestPath: Text = "request.path",
    RequestUrlPath: Text = "request.url_path",
    RequestQuery: Text = "request.query",
    RequestHost: Text = "request.host",
    RequestScheme: Text = "request.scheme",
    RequestMethod: Text = "request.method",
    RequestId: Text = "request.id",
    RequestUserAgent: Text = "request.useragent",
    RequestReferer: Text = "request.referer",
    RequestTime: Time = "request.time",
    RequestSize: Int = "request.size",
    RequestTotalSize: Int = "request.total_size",
    RequestProtocol: Text = "request.protocol",
    RequestDuration: Duration = "request.duration",
    ResponseCode: Int = "response.code",
    ResponseCodeDetails: Text = "response.code_details",
    ResponseFlags: Text = "response.flags",
    ResponseGrpcStatus: Int = "response.grpc_status",
    ResponseSize: Int = "response.size",
    ResponseTotalSize: Int = "response.total_size",
    ConnectionMtls: Bool = "connection.mtls",
    ConnectionServerName: Text = "connection.requested_server_name",
    ConnectionPeerSan: Text = "connection.uri_san_peer_certificate",
    ConnectionTermination: Text = "connection.termination_details",
    UpstreamAddress: Text = "upstream.address",
    UpstreamFailure: Text = "upstream.transport_failure_reason",
    UpstreamAttempts: Int = "upstream.request_attempt_count",
    UpstreamCluster: Text = "xds.cluster_name",
    RouteName: Text = "xds.route_name",
    SourceAddress: Text = "source.address",
    SourcePort: Int = "source.port",
    SourcePrincipal: Text = "source.principal" | "downstream_peer.principal",
    SourceWorkload: Text = "source.workload" | "downstream_peer.workload",
    SourceNamespace: Text = "source.namespace" | "downstream_peer.namespace",
    SourceCluster: Text = "source.cluster" | "downstream_peer.cluster",
    SourceService: Text = "source.canonical_service" | "downstream_peer.service",
    SourceRevision: Text = "source.canonical_revision" | "downstream_peer.revision",
    DestinationAddress: Text = "destination.address",
    DestinationPort: Int = "destination.port",
    DestinationPrincipal: Text = "destination.principal" | "upstream_peer.principal",
    DestinationWorkload: Text = "destination.workload" | "upstream_peer.workload",
    DestinationNamespace: Text = "destination.namespace" | "upstream_peer.namespace",
    DestinationCluster: Text = "destination.cluster" | "upstream_peer.cluster",
    DestinationCanonicalService: Text = "destination.canonical_service" | "upstream_peer.service",
    DestinationRevision: Text = "destination.canonical_revision" | "upstream_peer.revision",
    DestinationService: Text = "destination.service" | "destination.service.host",
}

impl Attribute {
    /// Known only where the request's head is kept.
    pub fn is_of_head(self) -> bool {
        use Attribute::*;
        matches!(
            self,
            RequestPath
                | RequestUrlPath
                | RequestQuery
                | RequestHost
                | RequestScheme
                | RequestMethod
                | RequestId
                | RequestUserAgent
                | RequestReferer
        )
    }

    /// The header that it is, if it is one.
    pub fn header(self) -> Option<http::HeaderName> {
        match self {
            Attribute::RequestId => Some(http::HeaderName::from_static("x-request-id")),
            Attribute::RequestUserAgent => Some(http::header::USER_AGENT),
            Attribute::RequestReferer => Some(http::header::REFERER),
            _ => None,
        }
    }
}
