//! Names to addresses: what is kept, else what the servers say now. One question at a time for one name, however many wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use mesh_net::net::Net;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::ask::{Failed, Reply, Transport, Upstream};
use crate::held::{Answer, Book, NAMES_MAX};
use crate::hosts::Hosts;
use crate::lookup::{self, Family, Found};
use crate::resolv::Resolv;

/// Whose word counts.
#[derive(Clone, Debug)]
pub enum Sources {
    /// These servers, and no file.
    Servers(Resolv),
    /// `/etc/hosts`, then the servers of `/etc/resolv.conf`, as the files are now.
    System,
}

/// Why there is no address: a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The name has none, or there is no such name.
    #[error("{0}")]
    Absent(Arc<str>),
    /// Nobody says.
    #[error("{0}")]
    Failed(Arc<str>),
}

/// How much longer the second family is waited for when the first has answered (RFC 8305 3).
const OTHER_FAMILY: Duration = Duration::from_millis(50);
/// An answer of which one family is missing is asked for again soon.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// How often files are looked at for changes.
const FILES_EVERY: Duration = Duration::from_secs(10);

type Ask = dyn Fn(Arc<Upstream>, Vec<u8>, u16, Transport) -> BoxFuture<'static, Result<Reply, Failed>> + Send + Sync;

/// The names of a process.
pub struct Names {
    ask: Box<Ask>,
    system: bool,
    sources: Mutex<Known>,
    book: Mutex<Book>,
    /// Held while somebody asks: others wait for what comes of it.
    asking: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
}

/// The sources as they were read.
struct Known {
    upstream: Arc<Upstream>,
    search: Arc<[String]>,
    hosts: Arc<Hosts>,
    read: Option<Instant>,
    changed: [Option<SystemTime>; 2],
}

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

impl Names {
    pub fn new<N: Net>(net: N, sources: Sources) -> Names {
        let ask = move |upstream: Arc<Upstream>, question: Vec<u8>, number, transport| {
            let net = net.clone();
            async move { upstream.ask(&net, &question, number, transport).await }.boxed()
        };
        let (system, resolv) = match sources {
            Sources::Servers(resolv) => (false, resolv),
            Sources::System => (true, Resolv::default()),
        };
        let known = Known {
            upstream: Arc::new(Upstream::new(resolv.servers)),
            search: resolv.search.into(),
            hosts: Arc::default(),
            read: None,
            changed: [None; 2],
        };
        Names { ask: Box::new(ask), system, sources: Mutex::new(known), book: Mutex::default(), asking: Mutex::default() }
    }

    /// The addresses of a name, in the order in which servers said them. A name without a dot is tried with each search
    /// domain first; one with dots is meant in full.
    ///
    /// # Errors
    /// It has none, or nobody says.
    pub async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, Unresolved> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok([ip].into());
        }
        let (upstream, search, hosts) = self.sources().await;
        if let Some(found) = hosts.find(&name) {
            return Ok(found);
        }
        let mut last = None;
        let searched = search.iter().filter(|_| !name.contains('.')).map(|domain| format!("{name}.{domain}"));
        for full in searched.chain([name.clone()]) {
            match self.one(&full.into(), &upstream).await {
                Ok(found) => return Ok(found),
                Err(why) => last = Some(why),
            }
        }
        Err(last.unwrap_or_else(|| Unresolved::Absent(format!("{name} is no name").into())))
    }

    async fn one(&self, name: &Arc<str>, upstream: &Arc<Upstream>) -> Result<Arc<[IpAddr]>, Unresolved> {
        if let Some(known) = self.book.lock().find(name, now()) {
            return used(known);
        }
        let turn = self.turn(name);
        let held = turn.lock().await;
        let known = self.book.lock().find(name, now());
        let answer = match known {
            // Somebody asked meanwhile.
            Some(known) => known,
            None => {
                let (answer, life) = self.look_up(name, upstream).await;
                self.book.lock().keep(name, answer, life, now())
            }
        };
        drop(held);
        // The last one who waits takes the lock away: the map's, and this one's.
        let mut asking = self.asking.lock();
        if Arc::strong_count(&turn) <= 2 {
            asking.remove(name);
        }
        used(answer)
    }

    fn turn(&self, name: &Arc<str>) -> Arc<tokio::sync::Mutex<()>> {
        let mut asking = self.asking.lock();
        // Of those who left before they had an answer.
        if asking.len() >= NAMES_MAX {
            asking.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        asking.entry(name.clone()).or_default().clone()
    }

    /// Both families at once; when one has answered, the other is waited for a moment only.
    async fn look_up(&self, name: &Arc<str>, upstream: &Arc<Upstream>) -> (Answer, Duration) {
        let (v4, v6) = (Box::pin(self.family(name, Family::V4, upstream)), Box::pin(self.family(name, Family::V6, upstream)));
        let (first, other) = match select(v4, v6).await {
            Either::Left((first, other)) | Either::Right((first, other)) => (first, other),
        };
        let other = match &first {
            Ok(Found::Addresses { .. }) => tokio::select! {
                biased;
                other = other => Some(other),
                () = sleep(OTHER_FAMILY) => None,
            },
            _ => Some(other.await),
        };
        together(name, first, other)
    }

    async fn family(&self, name: &str, family: Family, upstream: &Arc<Upstream>) -> Result<Found, Arc<str>> {
        for transport in [Transport::Udp, Transport::Tcp] {
            let number = rand::random();
            let question = lookup::question(name, family, number)?;
            let reply = (self.ask)(upstream.clone(), question, number, transport).await.map_err(|why| Arc::from(why.to_string()))?;
            match lookup::read(&reply.message, name, family)? {
                // What is too long for a datagram is asked for again.
                Found::Truncated => {}
                found => return Ok(found),
            }
        }
        Err("the answer is cut off, whichever way it is asked for".into())
    }

    /// The files as they are now: looked at now and then, read when they changed.
    async fn sources(&self) -> (Arc<Upstream>, Arc<[String]>, Arc<Hosts>) {
        let due = |known: &Known| self.system && known.read.is_none_or(|read| read.elapsed() >= FILES_EVERY);
        if due(&self.sources.lock()) {
            let changed = [modified(FILES[0]).await, modified(FILES[1]).await];
            let before = {
                let mut known = self.sources.lock();
                known.read = Some(Instant::now());
                std::mem::replace(&mut known.changed, changed)
            };
            if changed[0] != before[0] {
                let resolv = Resolv::parse(&text(FILES[0]).await);
                let mut known = self.sources.lock();
                (known.upstream, known.search) = (Arc::new(Upstream::new(resolv.servers)), resolv.search.into());
            }
            if changed[1] != before[1] {
                let hosts = Arc::new(Hosts::parse(&text(FILES[1]).await));
                self.sources.lock().hosts = hosts;
            }
        }
        let known = self.sources.lock();
        (known.upstream.clone(), known.search.clone(), known.hosts.clone())
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} names", self.book.lock().len())
    }
}

/// The runtime's clock, which tests may stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn modified(path: &str) -> Option<SystemTime> {
    tokio::fs::metadata(path).await.ok()?.modified().ok()
}

async fn text(path: &str) -> String {
    match tokio::fs::read(path).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            tracing::warn!(path, %error, "cannot read what names are resolved by; it counts as empty");
            String::new()
        }
    }
}

/// What two answers come to. `other`: none where it is not there yet.
fn together(name: &str, first: Result<Found, Arc<str>>, other: Option<Result<Found, Arc<str>>>) -> (Answer, Duration) {
    let whole = matches!(other, Some(Ok(_)));
    let (mut addresses, mut failed, mut exists) = (Vec::new(), None, false);
    let (mut lives, mut absent_for) = (Duration::MAX, Duration::MAX);
    for found in [Some(first), other].into_iter().flatten() {
        match found {
            Ok(Found::Addresses { addresses: some, life }) => {
                addresses.extend(some);
                lives = lives.min(life);
            }
            Ok(Found::Absent { exists: there, life }) => {
                exists |= there;
                absent_for = absent_for.min(life);
            }
            Ok(Found::Truncated) => {}
            Err(why) => failed = Some(why),
        }
    }
    match (addresses.is_empty(), failed) {
        (false, _) => (Answer::Addresses(addresses.into()), if whole { lives } else { lives.min(HALF_LIFE) }),
        (true, Some(why)) => (Answer::Failed(format!("{name}: {why}").into()), Duration::ZERO),
        (true, None) if exists => (Answer::Absent(format!("{name} has no address").into()), absent_for),
        (true, None) => (Answer::Absent(format!("there is no name {name}").into()), absent_for),
    }
}

fn used(answer: Answer) -> Result<Arc<[IpAddr]>, Unresolved> {
    match answer {
        Answer::Addresses(addresses) => Ok(addresses),
        Answer::Absent(why) => Err(Unresolved::Absent(why)),
        Answer::Failed(why) => Err(Unresolved::Failed(why)),
    }
}

#[cfg(test)]
mod tests;
