//! Watches over rules that somebody else may change: waits for the kernel to say that something changed, then has it
//! looked at and put back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mesh_net::netlink::Monitor;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::metrics::Metrics;
use crate::rules::{Repaired, Rules};

/// Between two looks: one takes 10 ms of `nft`, and others may change tables of their own all the time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Where the kernel cannot be asked to tell (spec/reliability.md F-40).
const POLL_EVERY: Duration = Duration::from_secs(5);

/// A pod's rules, until dropped. `repairs` counts what was put back.
pub async fn over_pod(uid: String, rules: Arc<Rules>, metrics: Metrics, repairs: watch::Sender<u64>) {
    let opened = rules.clone();
    let monitors = tokio::task::spawn_blocking(move || opened.monitors()).await.expect("it does not panic");
    let monitors = match monitors {
        Ok((tables, routes)) => vec![tables, routes],
        Err(error) => {
            tracing::warn!(uid, %error, "cannot hear of changes to a pod's rules, looking every {} s", POLL_EVERY.as_secs());
            vec![]
        }
    };
    over(monitors, async || {
        let looked = rules.clone();
        match tokio::task::spawn_blocking(move || looked.repair()).await.expect("it does not panic") {
            Ok(None) => true,
            Ok(Some(Repaired { strays })) => {
                tracing::warn!(uid, strays, "somebody else had changed the rules in a pod, they are in force again; connections that came about in between were cut");
                metrics.repairs_in_pods.increment(1);
                metrics.strays.increment(strays as u64);
                repairs.send_modify(|repairs| *repairs += 1);
                true
            }
            Err(error) => {
                tracing::error!(uid, %error, "somebody else has changed the rules in a pod, and they cannot be put back");
                metrics.repairs_failed.increment(1);
                false
            }
        }
    })
    .await
}

/// Calls `look` after each change, and again soon when that failed. Without monitors: every 5 s.
pub async fn over<F: Future<Output = bool>>(mut monitors: Vec<Monitor>, look: impl Fn() -> F) {
    let mut fine = true;
    loop {
        if fine && !changed(&monitors).await {
            monitors.clear();
        }
        fine = look().await;
        sleep(LOOK_EVERY).await;
    }
}

/// Whether the monitors are of use.
async fn changed(monitors: &[Monitor]) -> bool {
    let heard = match monitors {
        [one] => one.changed().await,
        [one, other] => tokio::select! { heard = one.changed() => heard, heard = other.changed() => heard },
        _ => {
            sleep(POLL_EVERY).await;
            Ok(())
        }
    };
    if let Err(error) = &heard {
        tracing::warn!(%error, "can no longer hear of changes to rules, looking every {} s", POLL_EVERY.as_secs());
    }
    heard.is_ok()
}
