//! The network namespace of a pod that runs already: by a process of the pod's cgroup, else among the runtime's mounts; and
//! only one that has an address of the pod (spec/dataplane.md 4.5).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mesh_net::netns::{Identity, Netns};

use crate::apply::Place;
use crate::netlink;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Finder {
    /// The node's `/proc`, as this process sees it.
    pub proc: PathBuf,
    /// The runtime's mounts of namespaces, as this process sees them.
    pub netns: PathBuf,
    /// This process's own namespace.
    pub home: Netns,
    /// The node's.
    pub host: Netns,
}

/// The node's processes that are in pods: by the pod's uid, the oldest first.
#[derive(Debug, Default)]
pub struct Processes(BTreeMap<String, Vec<(u64, u32)>>);

/// Where a pod's namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub identity: Identity,
    /// The host's end of its link.
    pub interface: Option<String>,
}

impl Finder {
    /// Looks at all processes once.
    ///
    /// # Errors
    /// When the node's processes cannot be listed.
    pub fn processes(&self) -> io::Result<Processes> {
        let mut all: BTreeMap<String, Vec<(u64, u32)>> = BTreeMap::new();
        for entry in fs::read_dir(&self.proc)? {
            let Some(pid) = entry.ok().and_then(|e| e.file_name().to_str()?.parse::<u32>().ok()) else { continue };
            let folder = self.proc.join(pid.to_string());
            // A process that ends while it is looked at is no process of a pod.
            let Ok(cgroup) = fs::read_to_string(folder.join("cgroup")) else { continue };
            let Some(uid) = pod_uid(&cgroup) else { continue };
            let Some(start) = fs::read_to_string(folder.join("stat")).ok().and_then(|stat| start_time(&stat)) else { continue };
            all.entry(uid).or_default().push((start, pid));
        }
        all.values_mut().for_each(|of_pod| of_pod.sort_unstable());
        Ok(Processes(all))
    }

    /// Where the namespace of the pod with this uid and these addresses is; `None` while there is none that is its own.
    pub fn find(&self, processes: &Processes, uid: &str, ips: &[IpAddr]) -> Option<Found> {
        let of_pod = processes.0.get(uid).into_iter().flatten();
        let mut by_process = of_pod.map(|(_, pid)| self.proc.join(pid.to_string()).join("ns/net"));
        let mounts: Vec<PathBuf> = fs::read_dir(&self.netns).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let Some(found) = by_process.find_map(|path| self.belonging(path, ips)) else {
            return mounts.into_iter().find_map(|path| self.belonging(path, ips));
        };
        // The runtime's name for it is better: the number of a process that has ended becomes another's.
        let same = |path: &PathBuf| Netns::open(path).is_ok_and(|netns| netns.identity() == found.identity);
        let path = mounts.into_iter().find(same).unwrap_or_else(|| found.path.clone());
        Some(Found { path, ..found })
    }

    /// The namespace at this path, if it is a pod's with one of these addresses.
    pub fn belonging(&self, path: PathBuf, ips: &[IpAddr]) -> Option<Found> {
        let netns = self.pods_own(&path, ips)?;
        Some(Found { interface: self.host_interface(&netns), identity: netns.identity(), path })
    }

    /// Whether that is so.
    pub fn belongs(&self, path: &Path, ips: &[IpAddr]) -> bool {
        self.pods_own(path, ips).is_some()
    }

    fn pods_own(&self, path: &Path, ips: &[IpAddr]) -> Option<Netns> {
        let netns = Netns::open(path).ok()?;
        let not_of_a_pod: [Identity; 2] = [self.home.identity(), self.host.identity()];
        if not_of_a_pod.contains(&netns.identity()) {
            return None;
        }
        let has = netns.run(&self.home, || Ok(netlink::addresses()?.iter().any(|ip| ips.contains(ip)))).ok()?;
        has.then_some(netns)
    }

    /// The node's end of the pod's first link; `None` where it has none there (a macvlan, or a link of another kind).
    fn host_interface(&self, netns: &Netns) -> Option<String> {
        let links = netns.run(&self.home, netlink::links).ok()?;
        let peer = links.iter().find(|link| link.name != "lo" && link.peer.is_some())?.peer?;
        let at_host = self.host.run(&self.home, netlink::links).ok()?;
        at_host.into_iter().find(|link| link.index == peer).map(|link| link.name)
    }

    /// Where settings of network namespaces can be written: a container's own `/proc/sys` is read-only.
    pub fn sysctls(&self) -> PathBuf {
        self.proc.join("sys")
    }

    /// To work in one of the node's namespaces.
    pub fn place(&self, within: Netns) -> Place {
        Place { home: self.home.clone(), within, sysctls: self.sysctls() }
    }

    /// The path of a namespace as the runtime says it, as this process sees it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        if let Ok(rest) = path.strip_prefix("/proc") {
            return self.proc.join(rest);
        }
        let mounted = path.file_name().map(|name| self.netns.join(name)).filter(|mounted| mounted.exists());
        mounted.unwrap_or_else(|| path.to_owned())
    }

    /// The user of the kubelet, whose connections are probes; `None` when it is not found.
    pub fn kubelet_user(&self) -> Option<u32> {
        use std::os::unix::fs::MetadataExt;
        let processes = fs::read_dir(&self.proc).ok()?.flatten().map(|entry| entry.path());
        let kubelet = processes.filter(|folder| {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            matches!(name.trim(), "kubelet" | "kubelite" | "k3s" | "k3s-server" | "k3s-agent")
        });
        kubelet.filter_map(|folder| fs::metadata(folder).ok()).map(|meta| meta.uid()).min()
    }
}

/// The pod's uid in the path of a cgroup: `…/pod1b4e28ba-2fa1-11d2-883f-0016d3cca427/…`, with `_` for `-` where systemd
/// makes the groups, and without either for a pod from a file of the kubelet's.
fn pod_uid(cgroup: &str) -> Option<String> {
    let separated = |candidate: &str| {
        candidate.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
    };
    cgroup.match_indices("pod").find_map(|(at, _)| {
        let uid = cgroup.get(at + 3..at + 39).map(|candidate| candidate.replace('_', "-")).filter(|uid| separated(uid));
        uid.or_else(|| {
            let hash = cgroup.get(at + 3..at + 35)?;
            let ends = !cgroup[at + 35..].starts_with(|c: char| c.is_alphanumeric());
            (ends && hash.chars().all(|c| c.is_ascii_hexdigit())).then(|| hash.to_owned())
        })
    })
}

/// Field 22 of `/proc/PID/stat`; the second is a name in parentheses that may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

    #[test]
    fn a_cgroup_names_the_pod() {
        for (cgroup, expected) in [
            ("0::/kubepods/besteffort/pod1b4e28ba-2fa1-11d2-883f-0016d3cca427/9f8e\n", Some(UID)),
            ("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice/cri-containerd-9f8e.scope\n", Some(UID)),
            ("11:memory:/node-1/kubepods/pod1b4e28ba-2fa1-11d2-883f-0016d3cca427/9f8e\n1:name=systemd:/x\n", Some(UID)),
            ("0::/../../pod1b4e28ba-2fa1-11d2-883f-0016d3cca427", Some(UID)),
            ("0::/kubepods/burstable/pod9f86d081884c7d659a2feaa0c55ad015/9f8e\n", Some("9f86d081884c7d659a2feaa0c55ad015")),
            ("0::/kubepods/burstable/pod9f86d081884c7d659a2feaa0c55ad015a/9f8e\n", None),
            ("0::/system.slice/containerd.service\n", None),
            ("0::/user/podman/pod1234\n", None),
            ("0::/kubepods/pod1b4e28ba-2fa1-11d2-883f-0016d3cca42", None),
            ("0::/podépodéééééééééééééééééééééééééé", None),
            ("", None),
        ] {
            assert_eq!(pod_uid(cgroup).as_deref(), expected, "{cgroup}");
        }
    }

    #[test]
    fn the_start_is_read_past_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 100";
        assert_eq!(start_time(&format!("17 (a) b (c)) {rest}")), Some(4711));
        assert_eq!(start_time("17 (x) S 1"), None);
        assert_eq!(start_time(""), None);
    }
}
