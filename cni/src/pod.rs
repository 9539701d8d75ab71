//! Pure: a pod's labels and annotations to what its capture shall look like, or why it is not enrolled.
//!
//! | annotation | effect |
//! |---|---|
//! | `ambient.istio.io/bypass-inbound-capture: "true"` | plaintext goes straight to the application, 15008 still works |
//! | `ambient.istio.io/dns-capture: "true"` or `"false"` | overrides the agent's setting |
//! | `istio.io/reroute-virtual-interfaces: "if1,if2"` | what comes in there (a VM in the pod) is captured as outbound |
//! | `ambient.isthmus.io/exclude-inbound-ports: "22,9000-9100"` | these ports of the pod are not captured |
//! | `ambient.isthmus.io/exclude-outbound-ports: "25"` | connections to these ports of anybody are not captured |

use std::collections::BTreeMap;
use std::fmt;

use crate::podfile::{PodFile, interface_name};

pub const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
pub const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
pub const VIRTUAL_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
pub const EXCLUDE_INBOUND: &str = "ambient.isthmus.io/exclude-inbound-ports";
pub const EXCLUDE_OUTBOUND: &str = "ambient.isthmus.io/exclude-outbound-ports";
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

/// The daemon's own ports in a pod (spec/dataplane.md 1.1); excluding them from capture would mean nothing good.
const MESH_PORTS: [u16; 5] = [15001, 15006, 15008, 15053, 15080];
/// Entries of one annotation: each becomes an element of a set in the kernel.
const ENTRIES_MAX: usize = 64;

/// What of a pod's traffic is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub dns: bool,
    /// Whether plaintext that arrives goes to 15006.
    pub inbound: bool,
    pub virtual_interfaces: Vec<String>,
    pub exclude_inbound: Vec<Ports>,
    pub exclude_outbound: Vec<Ports>,
}

/// A range of ports, both ends included. Printed as nftables has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

/// Whether a pod is enrolled (spec/dataplane.md 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Enrolled(Scope),
    /// Its label says so.
    NotEnrolled,
}

/// `dns`: what the agent does where the pod does not say.
///
/// # Errors
/// What in the pod keeps it from being enrolled, in a sentence that names the annotation.
pub fn wanted(pod: &PodFile, dns: bool) -> Result<Wanted, String> {
    if pod.host_network {
        return Err("hostNetwork: a pod in the node's own network namespace cannot be captured".to_owned());
    }
    if pod.annotations.contains_key(SIDECAR_STATUS) {
        return Err(format!("annotation {SIDECAR_STATUS}: the pod has a sidecar, which captures its traffic already"));
    }
    if pod.labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == "none") {
        return Ok(Wanted::NotEnrolled);
    }
    Ok(Wanted::Enrolled(Scope {
        dns: flag(&pod.annotations, DNS_CAPTURE)?.unwrap_or(dns),
        inbound: !flag(&pod.annotations, BYPASS_INBOUND)?.unwrap_or(false),
        virtual_interfaces: interfaces(&pod.annotations)?,
        exclude_inbound: ports(&pod.annotations, EXCLUDE_INBOUND)?,
        exclude_outbound: ports(&pod.annotations, EXCLUDE_OUTBOUND)?,
    }))
}

fn flag(annotations: &BTreeMap<String, String>, name: &str) -> Result<Option<bool>, String> {
    match annotations.get(name).map(String::as_str) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(format!("annotation {name}: {other:?} is neither \"true\" nor \"false\"")),
    }
}

fn interfaces(annotations: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let text = annotations.get(VIRTUAL_INTERFACES).map(String::as_str).unwrap_or_default();
    listed(text)
        .map_err(|why| format!("annotation {VIRTUAL_INTERFACES}: {why}"))?
        .into_iter()
        .map(|name| match interface_name(name) && name != "lo" {
            true => Ok(name.to_owned()),
            false => Err(format!("annotation {VIRTUAL_INTERFACES}: {name:?} is not the name of an interface other than lo")),
        })
        .collect()
}

fn ports(annotations: &BTreeMap<String, String>, name: &str) -> Result<Vec<Ports>, String> {
    let text = annotations.get(name).map(String::as_str).unwrap_or_default();
    port_ranges(text).map_err(|why| format!("annotation {name}: {why}"))
}

/// A list like `22,9000-9100`. Sorted, with overlapping and adjacent ranges joined: nftables refuses a set whose ranges
/// overlap.
///
/// # Errors
/// What in it cannot be used.
pub fn port_ranges(text: &str) -> Result<Vec<Ports>, String> {
    let mut ranges = Vec::new();
    for entry in listed(text)? {
        let range = Ports::parse(entry)
            .ok_or_else(|| format!("{entry:?} is neither a port (1-65535) nor a range of ports like 9000-9100"))?;
        if let Some(ours) = MESH_PORTS.iter().find(|p| (range.first..=range.last).contains(p)) {
            return Err(format!("{entry} covers {ours}, a port that the mesh itself uses"));
        }
        ranges.push(range);
    }
    ranges.sort();
    let mut joined: Vec<Ports> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

fn listed(text: &str) -> Result<Vec<&str>, String> {
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|e| !e.is_empty()).collect();
    match entries.len() {
        0..=ENTRIES_MAX => Ok(entries),
        many => Err(format!("{many} entries, at most {ENTRIES_MAX} are taken")),
    }
}

impl Ports {
    fn parse(text: &str) -> Option<Ports> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first.trim())?, port(last.trim())?),
            None => (port(text)?, port(text)?),
        };
        (first <= last).then_some(Ports { first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests;
