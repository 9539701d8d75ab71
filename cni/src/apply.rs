//! What the agent does to a network namespace: runs `nft` in it, adds the route, reads what is there. Synchronous;
//! callers are on a thread that may block.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mesh_net::conntrack::{self, Tracked};
use mesh_net::netlink::Monitor;
use mesh_net::netns::Netns;
use mesh_net::tcp_table::{self, Entry, Flow};

use crate::netlink::{self, Change, Family};
use crate::redirect::TABLE;

/// Settings of a captured pod's namespace.
///
/// - How long conntrack remembers a connection of which one side has ended: as long as the relay lets it live
///   (`mesh_net::relay::HALF_CLOSED_MAX`). With the kernel's 60 s, an answer that takes longer would lose its redirect,
///   and with it the connection.
/// - Connections that wait to be accepted go over to another listener of the same port when theirs closes: an old daemon
///   hands over to a new one without losing any.
const SETTINGS: [Setting; 2] = [
    Setting { path: "net/netfilter/nf_conntrack_tcp_timeout_close_wait", ours: "3600", kernels: "60" },
    Setting { path: "net/ipv4/tcp_migrate_req", ours: "1", kernels: "0" },
];

/// Where the kernel shows the settings of the network namespace that a thread is in.
pub const SYSCTLS: &str = "/proc/sys";

struct Setting {
    /// Below [`SYSCTLS`].
    path: &'static str,
    ours: &'static str,
    /// What a new namespace has.
    kernels: &'static str,
}

/// A namespace to work in, and the one to come back to.
#[derive(Clone, Debug)]
pub struct Place {
    pub home: Netns,
    pub within: Netns,
    /// [`SYSCTLS`]; or where that is mounted anew for a container, whose own is read-only.
    pub sysctls: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run nft: {0}; is the package nftables installed?")]
    NoNft(io::Error),
    /// nft's own words, which name the line.
    #[error("nft refused: {0}")]
    Nft(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Place {
    /// Applies a ruleset as one transaction: all of it or nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub fn nft(&self, ruleset: &str) -> Result<(), Error> {
        self.run_nft(&["-f", "-"], ruleset).map(drop)
    }

    fn run_nft(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        // The child is born in the namespace that its parent's thread is in.
        let mut child = self
            .within
            .run(&self.home, || {
                let mut nft = Command::new("nft");
                nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
            })
            .map_err(Error::NoNft)?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // nft reads all before it writes anything, so there is no standstill; if it ended early, its exit status says why.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Error::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// Adds or removes the rule and the route of the return mark. Whether something was changed.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn route(&self, change: Change) -> io::Result<bool> {
        self.within.run(&self.home, || {
            let changed = netlink::change(Family::V4, change)?;
            Ok(changed | if ipv6_on_loopback() { netlink::change(Family::V6, change)? } else { false })
        })
    }

    /// Sets what capture needs of the namespace's settings; each is restored by [`Self::restore`]. Best effort: a
    /// container's `/proc/sys` may be read-only, and a namespace of an unprivileged user does not offer all of them.
    pub fn tune(&self) -> Vec<(&'static str, String)> {
        let mut before = Vec::new();
        for Setting { path, ours: value, .. } in SETTINGS {
            let file = self.sysctls.join(path);
            let tuned = self.within.run(&self.home, || {
                let earlier = fs::read_to_string(&file)?.trim().to_owned();
                if earlier != value { fs::write(&file, value).map(|()| Some(earlier)) } else { Ok(None) }
            });
            match tuned {
                Ok(Some(earlier)) => before.push((path, earlier)),
                Ok(None) => {} // an earlier run did
                Err(error) => tracing::info!(%error, path = %file.display(), value, "cannot change a setting of a pod's namespace; see docs/operating.md"),
            }
        }
        before
    }

    /// Puts the settings back. One that an earlier run changed gets the kernel's value.
    pub fn restore(&self, before: &[(&'static str, String)]) {
        for Setting { path, ours, kernels } in SETTINGS {
            let earlier = before.iter().find(|(changed, _)| *changed == path).map_or(kernels, |(_, earlier)| earlier);
            let file = self.sysctls.join(path);
            let restored = self.within.run(&self.home, || match fs::read_to_string(&file)?.trim() == ours {
                true => fs::write(&file, earlier),
                false => Ok(()), // somebody else's wish
            });
            if let Err(error) = restored {
                tracing::debug!(%error, path, "a setting of a pod's namespace stays as it is");
            }
        }
    }

    /// The TCP sockets of the namespace.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn sockets(&self) -> io::Result<Vec<Entry>> {
        self.within.run(&self.home, tcp_table::list)
    }

    /// From which ports clients in the namespace connect.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn client_ports(&self) -> io::Result<RangeInclusive<u16>> {
        self.within.run(&self.home, tcp_table::client_ports)
    }

    /// Ends these connections.
    ///
    /// # Errors
    /// The first of netlink.
    pub fn end(&self, connections: &[Entry]) -> io::Result<()> {
        self.within.run(&self.home, || connections.iter().try_for_each(tcp_table::destroy))
    }

    /// The TCP connections that conntrack knows in the namespace.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn tracked(&self) -> io::Result<Vec<Tracked>> {
        self.within.run(&self.home, conntrack::list)
    }

    /// Has conntrack forget these.
    ///
    /// # Errors
    /// The first of netlink.
    pub fn forget(&self, connections: &[Tracked]) -> io::Result<()> {
        self.within.run(&self.home, || connections.iter().try_for_each(conntrack::forget))
    }

    /// Hears of changes to rules and routes in the namespace.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn monitors(&self) -> io::Result<(Monitor, Monitor)> {
        self.within.run(&self.home, || Ok((netlink::tables_monitor()?, netlink::routes_monitor()?)))
    }

    /// One of our tables as nft shows it, without counters; empty when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn listing(&self, family: &str, table: &str) -> Result<String, Error> {
        match self.run_nft(&["-s", "list", "table", family, table], "") {
            Err(Error::Nft(text)) if text.contains("No such file or directory") => Ok(String::new()),
            listed => listed,
        }
    }

    /// The marks that our table in this namespace exempts; `None` when there is no such table.
    ///
    /// # Errors
    /// [`Error`], except that nft does not know the set.
    pub fn exempt(&self) -> Result<Option<Vec<u32>>, Error> {
        Ok(self.elements("exempt")?.map(|all| all.iter().filter_map(|e| e.as_u64()?.try_into().ok()).collect()))
    }

    /// Whether our table in this namespace captures nothing new.
    ///
    /// # Errors
    /// [`Error`].
    pub fn is_draining(&self) -> Result<bool, Error> {
        Ok(!self.listing("inet", TABLE)?.contains("chain output {"))
    }

    /// The older connections that our table lets live; `None` when they were never listed.
    ///
    /// # Errors
    /// [`Error`], except that nft does not know the sets.
    pub fn older(&self) -> Result<Option<BTreeSet<Flow>>, Error> {
        let mut flows = BTreeSet::new();
        for set in ["older4", "older6"] {
            let Some(elements) = self.elements(set)? else { return Ok(None) };
            flows.extend(elements.iter().filter_map(flow));
        }
        Ok(Some(flows))
    }

    fn elements(&self, set: &str) -> Result<Option<Vec<serde_json::Value>>, Error> {
        let listed = match self.run_nft(&["-j", "list", "set", "inet", TABLE, set], "") {
            Ok(listed) => listed,
            Err(Error::Nft(text)) if text.contains("No such file or directory") => return Ok(None),
            Err(error) => return Err(error),
        };
        let listed: serde_json::Value =
            serde_json::from_str(&listed).map_err(|e| Error::Nft(format!("its JSON cannot be read: {e}")))?;
        let found = listed["nftables"].as_array().and_then(|all| all.iter().find_map(|o| o.get("set")));
        let elements = found.and_then(|set| set["elem"].as_array()).cloned();
        Ok(Some(elements.unwrap_or_default())) // an empty set has no "elem"
    }
}

/// `{"concat": ["10.0.0.1", 4711, "10.0.0.2", 80]}`
fn flow(element: &serde_json::Value) -> Option<Flow> {
    let parts = element["concat"].as_array()?;
    let address = |at: usize| -> Option<SocketAddr> {
        let port: u16 = parts.get(at + 1)?.as_u64()?.try_into().ok()?;
        Some(SocketAddr::new(parts.get(at)?.as_str()?.parse().ok()?, port))
    };
    Some(Flow { local: address(0)?, remote: address(2)? })
}

fn ipv6_on_loopback() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}
