//! An API server as a source: one watch for each kind, all of them into the same batches.
//!
//! ```text
//!  follow(Pod) ──────┐
//!  follow(Service) ──┼──Raw──▶ Reader ──News──▶ Held ──Batch──▶ reconcile
//!  served: custom ───┘
//!  kinds, when there
//! ```
//! Nothing is told before every kind was listed once: a policy could be missing. ConfigMaps and Secrets that policies name
//! are read one by one (`by_name`).

pub mod sent;
pub mod by_name;
pub mod held;
mod first;
mod follow;
mod reader;
mod served;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::Client;
use mesh_runtime::Publisher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::first::First;
use self::follow::follow;
use self::held::Held;
use self::reader::{Raw, Reader};
use super::Batch;
use crate::objects::{Kind, NsName};
use crate::status::shown::Statuses;

/// News that a batch takes at most once the mesh is told: enough to absorb a burst, few enough that node daemons hear of
/// its beginning soon.
const BATCH_NEWS_MAX: usize = 4096;
/// News on the way from the watches, objects as texts; while the batch is busy they wait, and so does the API server. A page
/// of a list, so that the next one is on its way while this one is read.
const NEWS_MAX: usize = 512;

/// Where watches tell.
type Told = mpsc::Sender<(Kind, Raw)>;

/// Watches until told to stop, or nobody listens. `configuration` is the ConfigMap of the mesh.
pub async fn watch(client: Client, configuration: NsName, batches: mpsc::Sender<Batch>, mut statuses: Publisher<Statuses>, stop: CancellationToken) {
    let stop = stop.child_token();
    let _watches_end_with_this = stop.clone().drop_guard();
    let (told, mut news) = mpsc::channel(NEWS_MAX);
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_built_in() && kind.is_watched()) {
        let resource = sent::resource(kind, kind.group_versions().1[0]);
        // Of ConfigMaps only the one with the mesh's configuration; others are read by name (`by_name`).
        let only = (kind == Kind::ConfigMap).then(|| configuration.clone());
        tokio::spawn(follow(client.clone(), kind, resource, only, told.clone(), stop.clone()));
    }
    tokio::spawn(served::custom_kinds(client, told, stop.clone()));

    let (mut reader, mut held) = (Reader::default(), Held::new(&Kind::ALL.into_iter().filter(|kind| kind.is_watched()).collect::<Vec<_>>()));
    let (mut events, mut first_told) = (Vec::new(), First::default());
    let mut last = Batch::default();
    loop {
        let first = tokio::select! {
            first = news.recv() => first,
            _ = stop.cancelled() => return,
        };
        let Some((kind, one)) = first else { return };
        held.take(kind, reader.read(kind, one), &mut events);
        for _ in 1..BATCH_NEWS_MAX {
            let Ok((kind, one)) = news.try_recv() else { break };
            held.take(kind, reader.read(kind, one), &mut events);
        }
        if let Some(changed) = held.statuses() {
            statuses.publish(changed);
        }
        let batch = Batch { findings: held.findings(), is_whole: held.is_whole(), ..Batch::default() };
        if !batch.is_whole {
            first_told.take(&mut events);
        }
        let has_events = batch.is_whole && !events.is_empty();
        if has_events || batch.is_whole != last.is_whole || !Arc::ptr_eq(&batch.findings, &last.findings) {
            last = batch.clone();
            let events = if batch.is_whole { first_told.then(&mut events) } else { Vec::new() };
            if batches.send(Batch { events, ..batch }).await.is_err() {
                return;
            }
        }
    }
}
