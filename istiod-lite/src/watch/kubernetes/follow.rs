//! The watch of one kind: from the API server's events to news, through errors and new lists.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Error, Event, InitialListStrategy, watcher};
use kube::{Api, Client};
use mesh_runtime::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::Told;
use super::held::News;
use super::sent::Sent;
use crate::objects::{Kind, NsName};

/// Pause after an error: the first, and the longest. An API server that restarts is found again soon and is not stormed.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// One error is an API server that restarts or a connection that was cut, and is over before anybody has read of it.
pub(super) const ERRORS_OF_TROUBLE: u32 = 3;
/// Objects in a page of a list. A page is in memory three times while it is taken apart, of pods some ten megabytes.
const PAGE: u32 = 500;
/// A watch that has not failed for so long is open: longer than connecting may take (`api_server::CONNECT_TIMEOUT`).
const SETTLED_AFTER: Duration = Duration::from_secs(7);

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Stopped,
    /// The API server does not know the resource (any more).
    NotServed,
}

/// Watches one kind, or one object of it, until told to stop.
pub(super) async fn follow(client: Client, kind: Kind, resource: ApiResource, only: Option<NsName>, told: Told, stop: CancellationToken) -> Ended {
    tokio::select! {
        ended = forever(client, kind, resource, only, told) => ended,
        _ = stop.cancelled() => Ended::Stopped,
    }
}

async fn forever(client: Client, kind: Kind, resource: ApiResource, only: Option<NsName>, told: Told) -> Ended {
    let mut config = watcher::Config::default().streaming_lists().page_size(PAGE);
    let api: Api<Sent> = match only {
        Some(only) => {
            config = config.fields(&format!("metadata.name={}", only.name));
            Api::namespaced_with(client, &only.namespace, &resource)
        }
        None => Api::all_with(client, &resource),
    };
    let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let mut is_listing = false;
        let failed = loop {
            let next = match tokio::time::timeout(SETTLED_AFTER, events.next()).await {
                Ok(next) => next,
                Err(_nothing_happened) => {
                    if backoff.tries() >= ERRORS_OF_TROUBLE && told.send((kind, News::Settled.into())).await.is_err() {
                        return Ended::Stopped;
                    }
                    backoff.reset();
                    continue;
                }
            };
            let error = match next {
                Some(Ok(event)) => {
                    match event {
                        Event::Init => is_listing = true,
                        Event::InitDone => is_listing = false,
                        _ => {}
                    }
                    // That a list begins says only that it is asked for.
                    if !matches!(event, Event::Init) {
                        backoff.reset();
                    }
                    if told.send((kind, event.into())).await.is_err() {
                        return Ended::Stopped;
                    }
                    continue;
                }
                Some(Err(error)) => error,
                None => return Ended::Stopped,
            };
            if code(&error) == Some(404) && !kind.is_built_in() {
                return Ended::NotServed;
            }
            let streams = config.initial_list_strategy == InitialListStrategy::StreamingList;
            if is_from_the_start(&error) || streams && wants_no_stream(&error, is_listing) {
                break error;
            }
            pause(&mut backoff).await;
            if backoff.tries() == ERRORS_OF_TROUBLE && told.send((kind, News::Trouble(words(&resource, &error)).into())).await.is_err() {
                return Ended::Stopped;
            }
        };
        if !is_from_the_start(&failed) {
            tracing::info!(target: "source", %kind, error = %failed, "the API server streams no lists; they are read in pages");
            config.initial_list_strategy = InitialListStrategy::ListWatch;
        } else {
            pause(&mut backoff).await;
        }
    }
}

/// The wait after one more failure.
pub(super) async fn pause(backoff: &mut Backoff) {
    let wait = backoff.next(&mut rand::rng());
    tokio::time::sleep(wait).await;
}

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// The version that we know is too old to be asked for: everything is listed again. (An end of that kind in an open
/// watch is followed by a list without our doing.)
fn is_from_the_start(error: &Error) -> bool {
    matches!(error, Error::WatchStartFailed(_)) && code(error) == Some(410)
}

/// An API server without the feature WatchList refuses the question; one whose etcd is too old for it (before 3.4.25 and
/// 3.5.8) begins, and breaks off with an error of its own.
fn wants_no_stream(error: &Error, is_listing: bool) -> bool {
    match error {
        Error::WatchStartFailed(_) => matches!(code(error), Some(400 | 422)),
        Error::WatchError(status) => is_listing && status.code != 410,
        _ => false,
    }
}

fn words(resource: &ApiResource, error: &Error) -> String {
    let name = if resource.group.is_empty() { resource.plural.clone() } else { format!("{}.{}", resource.plural, resource.group) };
    match code(error) {
        Some(401 | 403) => format!("{error}; this controller's ServiceAccount needs list and watch of {name}"),
        _ => format!("{error}; what is known of {name} stays in force, and watching is tried again"),
    }
}
