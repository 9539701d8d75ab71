//! Words of a local file with a form of their own: addresses, ranges, names in two parts, ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, NetworkCidr};
use mesh_model::workload::PolicyKey;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, de};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Gateway {
    destination: Destination,
    hbone_mtls_port: u16,
}

impl From<Gateway> for GatewayAddress {
    fn from(of: Gateway) -> GatewayAddress {
        GatewayAddress { destination: of.destination.0, hbone_mtls_port: of.hbone_mtls_port }
    }
}

/// `network/ip` or `namespace/hostname`.
struct Destination(GatewayDestination);

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Destination, D::Error> {
        text(from, |text| {
            let wrong = || format!("{text:?} is neither NETWORK/IP nor NAMESPACE/HOSTNAME");
            let (before, after) = text.split_once('/').ok_or_else(wrong)?;
            Ok(Destination(match after.parse::<IpAddr>() {
                Ok(ip) => GatewayDestination::Address(NetworkAddress::new(before, ip)),
                Err(_) => GatewayDestination::Hostname(NamespacedHostname::new(before, after)),
            }))
        })
    }
}

/// `namespace/hostname`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named(pub NamespacedHostname);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Named, D::Error> {
        text(from, |text| {
            let name = NamespacedHostname::parse(text).ok_or_else(|| format!("{text:?} is not NAMESPACE/HOSTNAME"))?;
            Ok(Named(name))
        })
    }
}

/// `namespace/name`.
pub(super) struct PolicyName(pub PolicyKey);

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<PolicyName, D::Error> {
        text(from, |text| match text.split_once('/') {
            Some(_) => Ok(PolicyName(PolicyKey::new(text))),
            None => Err(format!("{text:?} is not NAMESPACE/NAME of a policy")),
        })
    }
}

pub(super) struct Ip(pub IpAddr);

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Ip, D::Error> {
        text(from, |text| text.parse().map(Ip).map_err(|_| format!("{text:?} is not an IP address")))
    }
}

/// `network/ip`; the network may be empty.
pub(super) struct Vip(pub NetworkAddress);

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Vip, D::Error> {
        text(from, |text| {
            let parts = text.split_once('/').and_then(|(network, ip)| Some((network, ip.parse().ok()?)));
            let (network, ip) =
                parts.ok_or_else(|| format!("{text:?} is not NETWORK/IP (an empty network is written /10.0.0.1)"))?;
            Ok(Vip(NetworkAddress::new(network, ip)))
        })
    }
}

/// A range, or one address.
pub(super) struct Cidr(pub IpNet);

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Cidr, D::Error> {
        text(from, |text| cidr(text).map(Cidr))
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| one()).map_err(|_| format!("{text:?} is not a range of IP addresses such as 10.0.0.0/8"))
}

/// `{network, cidr}`.
pub(super) struct Range(pub NetworkCidr);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Range, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Parts {
            #[serde(default)]
            network: Arc<str>,
            cidr: Cidr,
        }
        let Parts { network, cidr } = Parts::deserialize(from)?;
        Ok(Range(NetworkCidr { network, cidr: cidr.0 }))
    }
}

/// A port as a key or a value: a number, or the same in quotes as JSON has keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port(pub u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Port, D::Error> {
        text(from, |text| text.parse().map(Port).map_err(|_| format!("{text:?} is not a port number (0 to 65535)")))
    }
}

/// The ports of a service, or of an endpoint for it.
pub(super) fn numbers(ports: BTreeMap<Port, Port>) -> BTreeMap<u16, u16> {
    ports.into_iter().map(|(port, target)| (port.0, target.0)).collect()
}

/// Reads a scalar as text and makes something of it; what is wrong is said at its place in the file.
fn text<'de, D: Deserializer<'de>, T>(from: D, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a word or a number")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    read(&from.deserialize_str(Text)?).map_err(D::Error::custom)
}
