//! What the agent does to a network namespace: runs `nft` in it, adds the route, reads what is there. Synchronous;
//! callers are on a thread that may block.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_net::netns::Netns;

use crate::netlink::{self, Change, Family};
use crate::redirect::TABLE;
use crate::sockets::{Entry, Flow, parse};

/// The state in which a connection waits for its second side to end.
const CLOSE_WAIT_SECONDS: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

/// A namespace to work in, and the one to come back to.
#[derive(Clone, Debug)]
pub struct Place {
    pub home: Netns,
    pub within: Netns,
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

    /// Adds or removes the rule and the route of the return mark.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn route(&self, change: Change) -> io::Result<()> {
        self.within.run(&self.home, || {
            netlink::change(Family::V4, change)?;
            if ipv6_on_loopback() { netlink::change(Family::V6, change) } else { Ok(()) }
        })
    }

    /// How long conntrack remembers a connection of which one side has ended: as long as the relay lets it live. With
    /// the kernel's 60 s, an answer that takes longer would lose its redirect, and with it the connection. `None`
    /// restores what the node has. Best effort: a namespace of an unprivileged user does not offer the setting.
    pub fn remember_half_closed(&self, time: Option<Duration>) {
        let kept = match time {
            Some(time) => Ok(time.as_secs().to_string()),
            None => fs::read_to_string(CLOSE_WAIT_SECONDS),
        };
        let written = kept.and_then(|kept| self.within.run(&self.home, || fs::write(CLOSE_WAIT_SECONDS, kept.trim())));
        if let Err(error) = written {
            tracing::debug!(%error, "half-closed connections of a pod are forgotten after the kernel's time");
        }
    }

    /// The TCP sockets of the namespace.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub fn sockets(&self) -> io::Result<Vec<Entry>> {
        self.within.run(&self.home, || {
            let mut entries = parse(&fs::read_to_string("/proc/thread-self/net/tcp")?);
            match fs::read_to_string("/proc/thread-self/net/tcp6") {
                Ok(text) => entries.extend(parse(&text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // a kernel without IPv6
                Err(error) => return Err(error),
            }
            Ok(entries)
        })
    }

    /// The marks that our table in this namespace exempts; `None` when there is no such table.
    ///
    /// # Errors
    /// [`Error`], except that nft does not know the set.
    pub fn exempt(&self) -> Result<Option<Vec<u32>>, Error> {
        Ok(self.elements("exempt")?.map(|all| all.iter().filter_map(|e| e.as_u64()?.try_into().ok()).collect()))
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
