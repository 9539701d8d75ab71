//! `Account`: what one connection cost and why it ended. One log line and the counters, exactly once.
//!
//! The counters move while bytes move; the handles are taken once, when the hop or the admission is known. Closing is a
//! call (`close`), not a destructor: whoever opened the account says how the connection ended.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use mesh_identity::clock::Clock;
use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use mesh_net::relay::Meter;
use mesh_telemetry::access_log::{AccessLog, Direction, Event, Line, Who, Why};
use mesh_telemetry::families;
use mesh_telemetry::labels::{Reporter, ResponseFlags, Security, fixed};
use mesh_telemetry::levels::Level;
use mesh_telemetry::traffic::{Handles, Party, Same, Subject, Traffic};
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{Closed, Reason};
use crate::live::{Entry, Live};

/// Recent ends worth explaining that are kept for `GET /why`: a screenful per pod of a busy node.
const REMEMBERED: usize = 256;

/// Where accounts are opened; one per node. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Books>);

struct Books {
    traffic: Traffic,
    log: AccessLog,
    clock: Arc<dyn Clock>,
    sockets: [Gauge; 2],
    troubles: Mutex<VecDeque<Trouble>>,
    /// Told of every account that was closed: what a simulation checks its laws against.
    audit: Option<Audit>,
}

/// Sees every closed account.
pub type Audit = Box<dyn Fn(&Ended) + Send + Sync>;

/// An account that was closed.
#[derive(Clone, Debug)]
pub struct Ended {
    pub direction: Direction,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Bytes from the client to the server.
    pub forward: u64,
    pub backward: u64,
    pub reason: Option<Reason>,
}

/// A connection that was refused or broke, for the operator who asks why.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Trouble {
    /// Seconds since 1970.
    pub at: u64,
    pub direction: &'static str,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub stage: &'static str,
    pub reason: &'static str,
    pub error: String,
}

/// One connection's account.
pub struct Account {
    books: Accounts,
    direction: Direction,
    from: SocketAddr,
    to: SocketAddr,
    begun: Instant,
    measured: Option<Measured>,
    forward: AtomicU64,
    backward: AtomicU64,
    _live: Option<Entry>,
}

/// A connection of which is known who talks to whom. What it has in common with the others of its pair is theirs together.
struct Measured {
    handles: Arc<Handles>,
    address: SocketAddr,
    authority: Option<Box<str>>,
}

/// Who talks to whom: known with the hop, or with the admission.
pub struct Told {
    pub source: Party,
    pub source_identity: Option<SpiffeId>,
    pub destination: Party,
    pub destination_identity: Option<SpiffeId>,
    pub service: Option<Arc<Service>>,
    /// Where the socket really goes.
    pub address: SocketAddr,
    /// The authority of the tunnel, if there is one.
    pub authority: Option<String>,
    pub security: Security,
}

impl Told {
    pub fn plain(source: Party, destination: Party, address: SocketAddr) -> Told {
        Told {
            source,
            source_identity: None,
            destination,
            destination_identity: None,
            service: None,
            address,
            authority: None,
            security: Security::Unknown,
        }
    }

    fn subject(self, reporter: Reporter) -> Subject {
        Subject {
            reporter,
            source: self.source,
            source_principal: self.source_identity,
            destination: self.destination,
            destination_principal: self.destination_identity,
            service: self.service.map(Same),
            security: self.security,
        }
    }
}

impl Accounts {
    pub fn new(traffic: Traffic, log: AccessLog, clock: Arc<dyn Clock>) -> Accounts {
        Accounts::audited(traffic, log, clock, None)
    }

    pub fn audited(traffic: Traffic, log: AccessLog, clock: Arc<dyn Clock>, audit: Option<Audit>) -> Accounts {
        let gauge = |reporter: Reporter| {
            traffic.recorder().gauge(&families::TCP_SOCKETS_OPEN, &[fixed("reporter", reporter.as_str())])
        };
        let sockets = [gauge(Reporter::Source), gauge(Reporter::Destination)];
        Accounts(Arc::new(Books { traffic, log, clock, sockets, troubles: Mutex::default(), audit }))
    }

    /// A connection came. `to`: where it was meant to go, as far as that is known already.
    pub fn open(&self, direction: Direction, from: SocketAddr, to: SocketAddr) -> Account {
        self.sockets(direction).increment(1.0);
        Account {
            books: self.clone(),
            direction,
            from,
            to,
            begun: Instant::now(),
            measured: None,
            forward: AtomicU64::new(0),
            backward: AtomicU64::new(0),
            _live: None,
        }
    }

    /// A connection that never got as far as an account of its own, such as a failed handshake.
    pub fn denied(&self, from: SocketAddr, to: SocketAddr, closed: &Closed) {
        self.open(Direction::Inbound, from, to).close(Err(closed));
    }

    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// Recent connections that were refused or broke, the latest last.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.0.troubles.lock().iter().cloned().collect()
    }

    fn sockets(&self, direction: Direction) -> &Gauge {
        &self.0.sockets[usize::from(reporter(direction) == Reporter::Destination)]
    }

    fn remember(&self, trouble: Trouble) {
        let mut troubles = self.0.troubles.lock();
        if troubles.len() == REMEMBERED {
            troubles.pop_front();
        }
        troubles.push_back(trouble);
    }
}

fn reporter(direction: Direction) -> Reporter {
    match direction {
        Direction::Outbound => Reporter::Source,
        Direction::Inbound => Reporter::Destination,
    }
}

impl Account {
    /// Who talks to whom is known now: from here on the connection is measured.
    pub fn tell(&mut self, mut told: Told) {
        let (address, authority) = (told.address, told.authority.take().map(String::into_boxed_str));
        let handles = self.books.0.traffic.handles(&told.subject(reporter(self.direction)));
        handles.opened();
        self.measured = Some(Measured { handles, address, authority });
        if self.books.0.log.wants(Level::Debug) {
            self.write(Event::Opened);
        }
    }

    /// Who connected, and where they meant to go, as far as that was known at the beginning.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.from, self.to)
    }

    /// Shows the connection among the live ones, until it is closed.
    pub fn show(&mut self, live: &Live, entry: crate::live::Connection) {
        self._live = Some(live.enter(entry));
    }

    /// The one log line, the counters, and the memory of what went wrong.
    pub fn close(self, ended: Result<(), &Closed>) {
        self.books.sockets(self.direction).decrement(1.0);
        if let Err(closed) = ended {
            self.count_trouble(closed);
        }
        let flags = ended.err().map_or(ResponseFlags::None, |closed| closed.reason().words().flags);
        match (&self.measured, ended) {
            (Some(measured), _) => {
                measured.handles.closed(flags);
                self.write_end(ended);
            }
            (None, Err(closed)) => self.write_denied(closed),
            // Nothing was decided and nothing went wrong: the client left before anything could be said.
            (None, Ok(())) => {}
        }
        if let Some(audit) = &self.books.0.audit {
            audit(&Ended {
                direction: self.direction,
                from: self.from,
                to: self.to,
                forward: self.forward.load(Relaxed),
                backward: self.backward.load(Relaxed),
                reason: ended.err().map(Closed::reason),
            });
        }
    }

    fn count_trouble(&self, closed: &Closed) {
        let (stage, words) = (closed.stage().as_str(), closed.reason().words());
        let family = match closed {
            Closed::Refused(_) => &families::REFUSALS,
            Closed::Failed(_) => &families::FAILURES,
        };
        let labels = [fixed("reporter", reporter(self.direction).as_str()), fixed("stage", stage), fixed("reason", words.code)];
        let recorder = self.books.0.traffic.recorder();
        recorder.counter(family, &labels).increment(1);
        if closed.reason() == Reason::Revoked {
            recorder.counter(&families::CRL_REJECTIONS, &labels[..1]).increment(1);
        }
        let at = self.books.0.clock.now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.books.remember(Trouble {
            at,
            direction: self.direction.as_str(),
            from: self.from,
            to: self.to,
            stage,
            reason: words.code,
            error: closed.to_string(),
        });
    }

    fn write_end(&self, ended: Result<(), &Closed>) {
        let wanted = if ended.is_ok() { Level::Info } else { Level::Error };
        if !self.books.0.log.wants(wanted) {
            return;
        }
        let (forward, backward) = (self.forward.load(Relaxed), self.backward.load(Relaxed));
        // The source's line speaks as its pod does: sent is what the client sent (spec/dataplane.md 8.1).
        let (bytes_sent, bytes_recv) = match self.direction {
            Direction::Outbound => (forward, backward),
            Direction::Inbound => (backward, forward),
        };
        let text = ended.err().map(Closed::to_string);
        let failure = ended.err().zip(text.as_deref()).map(|(closed, error)| why(closed, error));
        self.write(Event::Complete { bytes_sent, bytes_recv, duration: self.begun.elapsed(), failure });
    }

    fn write_denied(&self, closed: &Closed) {
        if self.books.0.log.wants(Level::Warn) {
            let text = closed.to_string();
            self.write(Event::Denied(why(closed, &text)));
        }
    }

    fn write(&self, event: Event<'_>) {
        let measured = self.measured.as_ref();
        let about = measured.map(|measured| measured.handles.subject());
        let line = Line {
            src_addr: self.from,
            src: about.map_or_else(Who::default, |about| who(&about.source, about.source_principal.as_ref())),
            dst_addr: measured.map_or(self.to, |measured| measured.address),
            hbone_addr: measured.and_then(|measured| measured.authority.as_deref()),
            service: about.and_then(|about| about.service.as_ref()).map(|service| &*service.0.hostname),
            dst: about.map_or_else(Who::default, |about| who(&about.destination, about.destination_principal.as_ref())),
            direction: self.direction,
            event,
        };
        self.books.0.log.write(self.books.0.clock.now(), &line);
    }
}

fn who<'a>(party: &'a Party, identity: Option<&'a SpiffeId>) -> Who<'a> {
    match party {
        Party::Known(known) => {
            let workload: &Workload = &known.0;
            Who {
                workload: Some(&workload.name),
                namespace: Some(&workload.namespace),
                identity,
                cluster: Some(&workload.cluster_id),
            }
        }
        Party::Told(told) => Who {
            workload: Some(&told.canonical_name),
            namespace: Some(&told.namespace),
            identity,
            cluster: Some(&told.cluster),
        },
        Party::Unknown => Who { identity, ..Who::default() },
    }
}

fn why<'a>(closed: &Closed, error: &'a str) -> Why<'a> {
    let words = closed.reason().words();
    Why { stage: closed.stage().as_str(), reason: words.code, error }
}

impl Meter for Account {
    fn forward(&self, bytes: u64) {
        self.forward.fetch_add(bytes, Relaxed);
        if let Some(measured) = &self.measured {
            measured.handles.received(bytes);
        }
    }

    fn backward(&self, bytes: u64) {
        self.backward.fetch_add(bytes, Relaxed);
        if let Some(measured) = &self.measured {
            measured.handles.sent(bytes);
        }
    }
}
