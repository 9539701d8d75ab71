//! Connections kept for reuse: the shell of `ledger`. One lock around the book, never held across an `await`.
//!
//! A connection lives in one task, which begins as its dial and goes on as its driver; a caller that goes away while it
//! dials leaves the dial to those who wait with it.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use http::response;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::ConnectRequest;
use crate::dial::{self, Client, Driver, Silence, Turned, Watch};
use crate::error::OpenError;
use crate::ledger::{Answer, ConnectionId, DialId, Ledger, Row, Rules};
use crate::limits::{Limits, ROUNDS_MAX};
use crate::stream::{Lease, Seat, Seats, Tunnel};

/// The connections of one workload. `K` says what may share a connection: whose identity, to whom, where.
pub struct Pool<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    limits: Limits,
    dial: Box<dyn Fn(K) -> BoxFuture<'static, Result<Opened, OpenError>> + Send + Sync>,
    state: Mutex<State<K>>,
    /// Ends every connection with what is on it.
    cut: CancellationToken,
    tasks: TaskTracker,
}

struct State<K> {
    ledger: Ledger<K>,
    links: HashMap<ConnectionId, Link>,
    waiting: HashMap<K, Vec<oneshot::Sender<Wake>>>,
}

struct Link {
    /// Gone when the connection takes no new riders: it then closes after the last one.
    client: Option<Client>,
    cut: CancellationToken,
}

/// A connection fresh from the dial.
struct Opened {
    client: Client,
    driver: Box<dyn Drive>,
}

/// A driver whose kind of stream is forgotten: one allocation per connection, none per tunnel or chunk.
trait Drive: Send {
    fn run(self: Box<Self>, watch: Arc<dyn Watch>, cut: CancellationToken) -> BoxFuture<'static, Result<(), OpenError>>;
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drive for Driver<T> {
    fn run(self: Box<Self>, watch: Arc<dyn Watch>, cut: CancellationToken) -> BoxFuture<'static, Result<(), OpenError>> {
        Box::pin(async move { Driver::run(*self, &*watch, &cut).await })
    }
}

enum Wake {
    /// Something changed for this key.
    Again,
    Failed(OpenError),
}

/// A seat taken, and through whom to ask.
struct Boarded {
    client: Client,
    connection: ConnectionId,
    used: bool,
    seat: Seat,
}

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Pool { inner: self.inner.clone() }
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Pool<K> {
    /// `connect` makes the stream for a key: TCP and TLS. It is called in a task of its own, once at a time per key.
    pub fn new<F, Fut, T>(limits: Limits, connect: F) -> Self
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = limits.allowed();
        let rules = Rules {
            streams_per_connection: limits.streams_per_connection,
            connections_per_key: limits.connections_per_key,
            streams_before_spread: limits.streams_before_spread,
            idle_connections: limits.idle_connections,
            idle_release: limits.idle_release,
            surplus_release: limits.surplus_release,
        };
        let state = State { ledger: Ledger::new(rules), links: HashMap::new(), waiting: HashMap::new() };
        let dial_limits = limits.clone();
        let inner = Inner {
            limits,
            dial: Box::new(move |key| Box::pin(open_connection(connect(key), dial_limits.clone()))),
            state: Mutex::new(state),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Pool { inner: Arc::new(inner) }
    }

    /// A tunnel to where `request` says, on a connection for `key`: an open one, or a new one.
    ///
    /// A request that the peer has certainly not processed, or that died with a connection which had stood before, is
    /// asked once more on another connection: nothing of the user's was sent before the 200.
    pub async fn open(&self, key: &K, request: &ConnectRequest) -> Result<(Tunnel, response::Parts), OpenError> {
        let mut moved = false;
        let mut rounds = 0;
        loop {
            rounds += 1;
            let Boarded { client, connection, used, seat } = self.inner.board(key).await?;
            let silence = if used && !moved { Silence::Leave } else { Silence::Bear };
            let lease = Lease::Pooled { _seat: seat };
            let turned = match client.open(request, &self.inner.limits, silence, lease).await {
                Ok(opened) => return Ok(opened),
                Err(turned) => turned,
            };
            self.inner.turned(connection, &turned);
            let again = match &turned {
                Turned::Closed(_) => true,
                Turned::Refused(_) | Turned::Unprocessed(_) => !std::mem::replace(&mut moved, true),
                Turned::Broken(_) => used && !std::mem::replace(&mut moved, true),
                Turned::Failed(_) => false,
            };
            if !again || rounds == ROUNDS_MAX {
                return Err(turned.into_error());
            }
        }
    }

    /// Connections and dials whose key is no longer wanted take no new tunnels; the tunnels on them live on.
    pub fn retire(&self, unwanted: impl FnMut(&K) -> bool) {
        self.inner.retire(unwanted, false);
    }

    /// As `retire`, and the tunnels on them are cut: the peer's certificate was revoked.
    pub fn sever(&self, unwanted: impl FnMut(&K) -> bool) {
        self.inner.retire(unwanted, true);
    }

    /// From now on `open` fails with `Draining`, also for those who wait; the tunnels live on.
    pub fn drain(&self) {
        let mut state = self.inner.state.lock();
        let shut = state.ledger.drain();
        state.let_go(&shut, false);
        for (_, waiting) in state.waiting.drain() {
            notify(waiting, || Wake::Failed(OpenError::Draining));
        }
    }

    /// Drains, and cuts every tunnel now.
    pub fn force(&self) {
        self.drain();
        self.inner.cut.cancel();
    }

    /// After `drain` or `force`: resolves when no connection and no dial is left.
    pub async fn closed(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// What there is, for the operator's eyes.
    pub fn rows(&self) -> Vec<Row<K>> {
        self.inner.state.lock().ledger.rows()
    }
}

/// TCP and TLS by the owner, HTTP/2 by us.
async fn open_connection<T>(connecting: impl Future<Output = io::Result<T>>, limits: Limits) -> Result<Opened, OpenError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let io = match timeout(limits.connect, connecting).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => return Err(OpenError::Dial(Arc::new(error))),
        Ok(Err(_)) | Err(_) => return Err(OpenError::ConnectTimeout { after: began.elapsed() }),
    };
    let (client, driver) = dial::handshake(io, &limits).await?;
    Ok(Opened { client, driver: Box::new(driver) })
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Inner<K> {
    /// A seat, after as much waiting as it takes.
    async fn board(self: &Arc<Self>, key: &K) -> Result<Boarded, OpenError> {
        // The longest honest way: a dial that others began, found wanting, and one more.
        let patience = (self.limits.connect + self.limits.handshake) * 2;
        let deadline = Instant::now() + patience;
        let mut dials = 0;
        loop {
            let waiting = match self.ask(key, dials < ROUNDS_MAX)? {
                Asked::Boarded(boarded) => return Ok(boarded),
                Asked::Waiting(waiting) => waiting,
                Asked::Dialling(waiting) => {
                    dials += 1;
                    waiting
                }
            };
            match timeout_at(deadline, waiting).await {
                Ok(Ok(Wake::Again)) => {}
                Ok(Ok(Wake::Failed(error))) => return Err(error),
                Ok(Err(_)) => return Err(OpenError::Draining),
                Err(_) => return Err(OpenError::ConnectTimeout { after: patience }),
            }
        }
    }

    /// `may_dial`: a peer that takes connections and ends them must not make one caller dial for ever.
    fn ask(self: &Arc<Self>, key: &K, may_dial: bool) -> Result<Asked, OpenError> {
        let mut state = self.state.lock();
        match state.ledger.ask(key) {
            Answer::Ride { connection, used, dial } => {
                if let Some(dial) = dial {
                    self.spawn_dial(key, dial);
                }
                let client = state.links.get(&connection).and_then(|link| link.client.clone());
                let client = client.expect("a connection that takes riders has its client");
                let seat = Seat { connection: connection.0, pool: self.clone() };
                Ok(Asked::Boarded(Boarded { client, connection, used, seat }))
            }
            Answer::Open(dial) if may_dial => {
                self.spawn_dial(key, dial);
                Ok(Asked::Dialling(state.wait(key)))
            }
            Answer::Open(dial) => {
                state.ledger.failed(dial, key);
                Err(OpenError::Handshake("the peer ends every connection before it can be used".into()))
            }
            Answer::Wait => Ok(Asked::Waiting(state.wait(key))),
            Answer::Draining => Err(OpenError::Draining),
        }
    }

    fn spawn_dial(self: &Arc<Self>, key: &K, dial: DialId) {
        // The task must not keep the pool alive: a pool that is dropped lets its unused connections close.
        let dialing = Dialing { pool: Arc::downgrade(self), key: key.clone(), dial, error: None };
        let (connecting, cut) = ((self.dial)(key.clone()), self.cut.clone());
        self.tasks.spawn(async move {
            let opened = tokio::select! {
                biased;
                _ = cut.cancelled() => Err(OpenError::Draining),
                opened = connecting => opened,
            };
            match opened {
                Ok(opened) => Self::carry(dialing, opened).await,
                Err(error) => dialing.failed(error),
            }
        });
    }

    fn dial_failed(&self, key: &K, dial: DialId, error: OpenError) {
        let mut state = self.state.lock();
        if state.ledger.failed(dial, key) {
            let waiting = state.waiting.remove(key).unwrap_or_default();
            notify(waiting, || Wake::Failed(error.clone()));
        }
    }

    /// A connection from its first rider to its end.
    async fn carry(dialing: Dialing<K>, opened: Opened) {
        let Opened { client, driver } = opened;
        let Some((watch, cut)) = dialing.admitted(client) else { return };
        let ended = driver.run(watch.clone(), cut).await;
        tracing::debug!(connection = watch.connection.0, ?ended, "HBONE connection is over");
        if let (Err(why), Some(pool)) = (ended, watch.pool.upgrade()) {
            pool.gone(watch.connection, why);
        }
    }

    fn admit(&self, key: &K, dial: DialId, client: Client, cut: CancellationToken) -> Option<ConnectionId> {
        let mut state = self.state.lock();
        let connection = state.ledger.opened(dial, key, now())?;
        state.links.insert(connection, Link { client: Some(client), cut });
        state.wake(key);
        Some(connection)
    }

    /// The connection is over. One that never came to stand is a failed dial for those who wait for it: asking again
    /// would dial a peer that hangs up on everyone as often as there are callers.
    fn gone(&self, connection: ConnectionId, why: OpenError) {
        let mut state = self.state.lock();
        let Some(key) = state.ledger.key(connection).cloned() else { return };
        let settled = state.ledger.is_settled(connection);
        state.ledger.gone(connection);
        state.links.remove(&connection);
        let waiting = state.waiting.remove(&key).unwrap_or_default();
        notify(waiting, || if settled { Wake::Again } else { Wake::Failed(why.clone()) });
    }

    /// What one request learned about its connection.
    fn turned(&self, connection: ConnectionId, turned: &Turned) {
        match turned {
            Turned::Closed(_) | Turned::Unprocessed(_) | Turned::Broken(_) => {
                let settled = self.state.lock().ledger.is_settled(connection);
                // Of one that never came to stand, `gone` tells those who wait.
                if settled {
                    self.shut(connection);
                }
            }
            Turned::Refused(_) => {
                let mut state = self.state.lock();
                if state.ledger.refused(connection) {
                    state.let_go(&[(connection, true)], false);
                }
            }
            Turned::Failed(_) => {}
        }
    }

    /// No new riders there; those who waited for it find another way.
    fn shut(&self, connection: ConnectionId) {
        let mut state = self.state.lock();
        let key = state.ledger.key(connection).cloned();
        let empty = state.ledger.shut(connection);
        state.let_go(&[(connection, empty)], false);
        if let Some(key) = key {
            state.wake(&key);
        }
    }

    fn retire(&self, mut unwanted: impl FnMut(&K) -> bool, cut: bool) {
        let mut state = self.state.lock();
        let shut = state.ledger.retire(&mut unwanted);
        state.let_go(&shut, cut);
        // Those who wait for a retired dial ask again, and begin their own.
        let keys: Vec<K> = state.waiting.keys().filter(|key| unwanted(key)).cloned().collect();
        for key in keys {
            state.wake(&key);
        }
    }
}

enum Asked {
    Boarded(Boarded),
    /// For what others have begun.
    Waiting(oneshot::Receiver<Wake>),
    /// For a dial begun for this caller.
    Dialling(oneshot::Receiver<Wake>),
}

impl<K: Clone + Eq + Hash> State<K> {
    fn wait(&mut self, key: &K) -> oneshot::Receiver<Wake> {
        let (wake, woken) = oneshot::channel();
        let waiting = self.waiting.entry(key.clone()).or_default();
        if waiting.len().is_power_of_two() {
            // Callers that went away must not pile up behind a dial that takes long.
            waiting.retain(|wake| !wake.is_closed());
        }
        waiting.push(wake);
        woken
    }

    fn wake(&mut self, key: &K) {
        if let Some(waiting) = self.waiting.remove(key) {
            notify(waiting, || Wake::Again);
        }
    }

    /// A place was freed: one of those who wait can have it. The others wait for what they waited for.
    fn wake_one(&mut self, key: &K) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        while let Some(wake) = waiting.pop() {
            if wake.send(Wake::Again).is_ok() {
                break;
            }
        }
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
    }

    /// Connections without future: the empty ones close now, the others with their last tunnel, or now if `cut`.
    fn let_go(&mut self, shut: &[(ConnectionId, bool)], cut: bool) {
        for (connection, empty) in shut {
            let Some(link) = self.links.get_mut(connection) else { continue };
            link.client = None;
            if cut {
                link.cut.cancel();
            }
            if *empty {
                self.links.remove(connection);
            }
        }
    }
}

fn notify(waiting: Vec<oneshot::Sender<Wake>>, wake: impl Fn() -> Wake) {
    for waiter in waiting {
        // One that went away needs no wake-up.
        let _ = waiter.send(wake());
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Seats for Inner<K> {
    fn left(&self, connection: u64) {
        let connection = ConnectionId(connection);
        let mut state = self.state.lock();
        let key = state.ledger.key(connection).cloned();
        if state.ledger.left(connection, now()) {
            state.let_go(&[(connection, true)], false);
        }
        while let Some(evicted) = state.ledger.evict() {
            state.let_go(&[(evicted, true)], false);
        }
        if let Some(key) = key {
            state.wake_one(&key);
        }
    }
}

/// A dial that the ledger waits for. However it ends, the ledger hears of it: also by a panic in `connect`.
struct Dialing<K: Clone + Eq + Hash + Send + Sync + 'static> {
    pool: Weak<Inner<K>>,
    key: K,
    dial: DialId,
    error: Option<OpenError>,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Dialing<K> {
    fn failed(mut self, error: OpenError) {
        self.error = Some(error);
    }

    /// `None`: nobody wants the connection any more. The drop below then finds its dial already settled.
    fn admitted(self, client: Client) -> Option<(Arc<Watcher<K>>, CancellationToken)> {
        let pool = self.pool.upgrade()?;
        let cut = pool.cut.child_token();
        let connection = pool.admit(&self.key, self.dial, client, cut.clone())?;
        Some((Arc::new(Watcher { pool: self.pool.clone(), connection }), cut))
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Drop for Dialing<K> {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let vanished = || OpenError::Dial(Arc::new(io::Error::other("the dial ended without a result")));
        pool.dial_failed(&self.key, self.dial, self.error.take().unwrap_or_else(vanished));
    }
}

/// How a driver talks back to its pool, if that still exists. It goes with the connection, and the ledger hears of it.
struct Watcher<K: Clone + Eq + Hash + Send + Sync + 'static> {
    pool: Weak<Inner<K>>,
    connection: ConnectionId,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Drop for Watcher<K> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.gone(self.connection, OpenError::Handshake("the peer has closed the connection at once".into()));
        }
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Watch for Watcher<K> {
    fn streams(&self, limit: usize) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut state = pool.state.lock();
        state.ledger.limited(self.connection, limit);
        if let Some(key) = state.ledger.key(self.connection).cloned() {
            state.wake(&key);
        }
    }

    fn unusable(&self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.shut(self.connection);
        }
    }

    fn is_used(&self) -> bool {
        self.pool.upgrade().is_some_and(|pool| pool.state.lock().ledger.is_used(self.connection))
    }

    fn tick(&self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut state = pool.state.lock();
        if state.ledger.expired(self.connection, now()) {
            state.let_go(&[(self.connection, true)], false);
        }
    }
}

/// The ledger's times are those of tokio's clock, which tests can move.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;
