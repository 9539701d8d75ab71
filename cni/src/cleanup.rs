//! Takes everything of ours out of a node: out of every network namespace that there is, and out of the node's own.
//! Connections that are captured end; what starts later goes as without a mesh.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mesh_net::netns::{Identity, Netns};

use crate::apply::{Error, Place};
use crate::host;
use crate::kubernetes::find::Finder;
use crate::netlink::Change;
use crate::redirect::{self, GUARD_TABLE, TABLE};

/// How many namespaces had something of ours. What cannot be cleaned is logged; the rest goes on.
pub fn everything(finder: &Finder) -> usize {
    let mut cleaned = 0;
    for netns in namespaces(finder).into_values() {
        let inode = netns.identity().inode;
        match pod(&finder.place(netns)) {
            Ok(true) => cleaned += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(inode, %error, "cannot take the rules out of a network namespace"),
        }
    }
    if let Err(error) = finder.place(finder.host.clone()).nft(&host::removal()) {
        tracing::warn!(%error, "cannot take the rules about probes out of the node's network namespace");
    }
    cleaned
}

fn pod(place: &Place) -> Result<bool, Error> {
    let ours = !place.listing("inet", TABLE)?.is_empty() || !place.listing("inet", GUARD_TABLE)?.is_empty();
    if ours {
        place.nft(&redirect::removal())?;
        place.route(Change::Remove)?;
        place.restore(&[]);
    }
    Ok(ours)
}

/// All but the node's own.
fn namespaces(finder: &Finder) -> BTreeMap<(u64, u64), Netns> {
    let processes = fs::read_dir(&finder.proc).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_processes = processes.filter(|path| is_process(path)).map(|path| path.join("ns/net"));
    let mounts = fs::read_dir(&finder.netns).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = [finder.home.identity(), finder.host.identity()];
    let all = of_processes.chain(mounts).filter_map(|path| Netns::open(&path).ok());
    all.filter(|netns| !own.contains(&netns.identity()))
        .map(|netns| {
            let Identity { device, inode } = netns.identity();
            ((device, inode), netns)
        })
        .collect()
}

fn is_process(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
}
