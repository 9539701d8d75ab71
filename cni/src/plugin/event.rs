//! What the plugin tells the agent when the runtime makes a pod's sandbox (spec/dataplane.md 4.2): `POST /cmdadd` on a
//! unix socket. Both ends are here, so that they cannot drift apart.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The socket, in the agent's run folder.
pub const SOCKET: &str = "pluginevent.sock";
pub const PATH: &str = "/cmdadd";

/// A sandbox that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    /// Where the runtime has its network namespace.
    pub netns: String,
    pub pod_name: String,
    pub pod_namespace: String,
    /// An addition of ours: tells a pod from its successor of the same name. Empty where the runtime does not say.
    #[serde(default)]
    pub pod_uid: String,
    #[serde(rename = "IPs", default)]
    pub ips: Option<Vec<Ip>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ip {
    #[serde(default)]
    pub interface: Option<u32>,
    pub address: Network,
    #[serde(default)]
    pub gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    #[serde(rename = "IP")]
    pub ip: IpAddr,
    /// The bytes of the netmask, in base64.
    #[serde(rename = "Mask")]
    pub mask: String,
}

impl Event {
    /// IPv4 may come in its IPv6 form.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.ips.iter().flatten().map(|ip| ip.address.ip.to_canonical()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_message_is_read() {
        let text = r#"{"Netns":"/var/run/netns/cni-1","PodName":"a","PodNamespace":"b",
            "IPs":[{"Interface":2,"Address":{"IP":"10.0.0.5","Mask":"/////w=="},"Gateway":"10.0.0.1"},
                   {"Interface":null,"Address":{"IP":"::ffff:10.0.0.5","Mask":""},"Gateway":""}]}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(event.addresses(), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        assert_eq!(serde_json::from_str::<Event>(&serde_json::to_string(&event).unwrap()).unwrap(), event);
        let bare: Event = serde_json::from_str(r#"{"Netns":"x","PodName":"a","PodNamespace":"b","IPs":null}"#).unwrap();
        assert!(bare.addresses().is_empty());
    }
}
