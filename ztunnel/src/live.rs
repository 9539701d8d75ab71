//! The connections of one pod that are open now: for `/config_dump` and for counting. Entered and left by a guard.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::numbered::Numbered;

/// One open connection as the dump shows it (spec/dataplane.md 8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub direction: Direction,
    pub source: SocketAddr,
    /// Outbound: where the application meant to go. Inbound: the service that the peer named.
    pub original: Option<Arc<str>>,
    pub actual: SocketAddr,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Hbone,
    Tcp,
}

/// The open connections of one pod. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Mutex<Numbered<Connection>>>);

/// A connection's place among the live ones; leaving is `Drop`.
#[derive(Debug)]
pub struct Entry {
    live: Live,
    id: u64,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Hbone => "HBONE",
            Protocol::Tcp => "TCP",
        }
    }
}

impl Live {
    pub fn enter(&self, connection: Connection) -> Entry {
        let id = self.0.lock().add(connection);
        Entry { live: self.clone(), id }
    }

    /// All that are open, in the order in which they came.
    pub fn list(&self) -> Vec<Connection> {
        let mut open: Vec<(u64, Connection)> = self.0.lock().iter().map(|(id, open)| (id, open.clone())).collect();
        open.sort_by_key(|(id, _)| *id);
        open.into_iter().map(|(_, connection)| connection).collect()
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live.0.lock().remove(self.id);
    }
}
