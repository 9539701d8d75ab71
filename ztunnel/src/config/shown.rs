//! The settings as `/config_dump` shows them (spec/dataplane.md 8.3): in camel case, without what proves us to others.

use std::fmt;
use std::net::IpAddr;

use mesh_identity::tls::KeyExchange;
use mesh_net::sockopt::Spoofing;
use mesh_runtime::knobs::duration_text;
use mesh_telemetry::access_log::Format;
use serde_json::{Value, json};

use super::{Config, Mode, Place, Remote, Root, Token};

impl Config {
    /// The settings in force. Left out: the token, the values of headers, and the local file, which has a place of its own.
    pub fn shown(&self) -> Value {
        let tunnels = &self.tunnels;
        json!({
            "proxyMode": mode(&self.mode),
            "place": place(&self.place),
            "xds": self.xds.as_ref().map(remote),
            "xdsOnDemand": self.xds_on_demand,
            "ca": remote(&self.ca),
            "secretTtl": duration_text(self.certificate_life),
            "crlPath": self.crl,
            "compliancePolicy": match self.key_exchange {
                KeyExchange::Standard => Value::Null,
                KeyExchange::PostQuantumOnly => "pqc".into(),
            },
            "sockets": self.sockets(),
            "tunnels": {
                "streamWindowSize": tunnels.stream_window,
                "connectionWindowSize": tunnels.connection_window,
                "frameSize": tunnels.frame_size,
                "poolMaxStreamsPerConn": tunnels.streams_per_connection,
                "poolUnusedReleaseTimeout": duration_text(tunnels.unused_release),
                "enableResponseBaggage": tunnels.baggage,
            },
            "pods": {
                "localhostAppTunnel": self.pods.app_tunnel_over_loopback,
                "socks5": self.pods.socks5,
                "connectionsMax": self.pods.connections,
                "meshRanges": self.pods.mesh_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "authzPolicyInfoLogging": self.pods.policy_in_log,
                "snapshotAgeMax": duration_text(self.pods.snapshot_age),
                "olderConnectionGrace": duration_text(self.pods.older_grace),
            },
            "dns": self.dns_shown(),
            "adminPort": self.ports.admin,
            "adminSocket": self.ports.admin_socket,
            "statsPort": self.ports.metrics,
            "readinessPort": self.ports.readiness,
            "numWorkerThreads": self.workers,
            "selfTerminationDeadline": duration_text(self.drain),
            "logLevels": self.log.levels,
            "logFormat": match self.log.format {
                Format::Text => "text",
                Format::Json => "json",
            },
            "metricsSeriesMax": self.metrics.series,
            "metricsSeriesIdle": duration_text(self.metrics.idle),
        })
    }

    fn sockets(&self) -> Value {
        let sockets = &self.sockets;
        json!({
            "packetMark": sockets.mark,
            "inpodPortReuse": sockets.port_reuse,
            "requireOriginalSource": match sockets.spoofing {
                Spoofing::Auto => Value::Null,
                Spoofing::Required => true.into(),
                Spoofing::Never => false.into(),
            },
            "keepalive": sockets.keepalive.as_ref().map(|keepalive| json!({
                "time": duration_text(keepalive.idle),
                "interval": duration_text(keepalive.interval),
                "retries": keepalive.retries,
            })),
            "userTimeout": sockets.user_timeout.map(duration_text),
            "ipv6Enabled": sockets.ipv6,
        })
    }

    fn dns_shown(&self) -> Value {
        let dns = &self.dns;
        json!({
            "enabled": dns.enabled,
            "addresses": dns.addresses,
            "preferredServiceNamespace": dns.preferred_namespace,
            "queriesPerSecond": dns.limits.per_second,
            "inFlightMax": dns.limits.in_flight,
            "tcpConnectionsMax": dns.limits.connections,
        })
    }
}

fn mode(mode: &Mode) -> Value {
    match mode {
        Mode::Shared { agent } => json!({ "shared": { "inpodUds": agent } }),
        Mode::Dedicated { namespace, name, service_account } => {
            json!({ "dedicated": { "namespace": namespace, "name": name, "serviceAccount": service_account } })
        }
    }
}

fn place(place: &Place) -> Value {
    json!({
        "localNode": place.node,
        "network": place.network,
        "clusterId": place.cluster_id,
        "clusterDomain": place.cluster_domain,
        "trustDomain": place.trust_domain,
        "podName": place.pod_name,
        "podNamespace": place.pod_namespace,
        "serviceAccount": place.service_account,
        "instanceIp": place.instance_ip.as_ref().map(IpAddr::to_string),
        "proxyMetadata": place.metadata,
        "proxyMetadataJson": place.metadata_json,
    })
}

fn remote(remote: &Remote) -> Value {
    let names: Vec<&String> = remote.headers.iter().map(|(name, _)| name).collect();
    let root = match &remote.root {
        Root::File(path) => json!(path),
        Root::Pem(_) => json!("(given as text)"),
    };
    json!({ "address": remote.url, "rootCert": root, "alternativeHostname": remote.alternative_name, "headers": names })
}

/// A token never appears in a log or a dump.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::None => f.write_str("None"),
            Token::File(path) => write!(f, "File({path:?})"),
            Token::Text(_) => f.write_str("Text(…)"),
        }
    }
}
