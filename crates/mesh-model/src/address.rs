//! Addresses as the workload API names them: an IP within a network, a hostname within a namespace.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// An IP address within a network; the same IP may exist in two networks. Printed `network/ip`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    pub network: Arc<str>,
    pub ip: IpAddr,
}

/// A range of VIPs within a network (`NetworkAddress.length` on the wire).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkCidr {
    pub network: Arc<str>,
    pub cidr: IpNet,
}

/// A hostname and the namespace that owns it; the key of a service. Printed `namespace/hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedHostname {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

/// Where a waypoint or a network gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayAddress {
    pub destination: GatewayDestination,
    /// Taken as it comes: never defaulted, 0 stays 0 (spec/dataplane.md 5.3).
    pub hbone_mtls_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayDestination {
    Hostname(NamespacedHostname),
    Address(NetworkAddress),
}

impl NetworkAddress {
    pub fn new(network: &str, ip: IpAddr) -> NetworkAddress {
        NetworkAddress { network: network.into(), ip }
    }
}

impl NamespacedHostname {
    pub fn new(namespace: &str, hostname: &str) -> NamespacedHostname {
        NamespacedHostname { namespace: namespace.into(), hostname: hostname.into() }
    }

    /// Reads `namespace/hostname`; `None` when there is no slash.
    pub fn parse(text: &str) -> Option<NamespacedHostname> {
        let (namespace, hostname) = text.split_once('/')?;
        Some(NamespacedHostname::new(namespace, hostname))
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

impl fmt::Display for NetworkCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.cidr)
    }
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GatewayDestination::Hostname(name) => name.fmt(f),
            GatewayDestination::Address(address) => address.fmt(f),
        }
    }
}
