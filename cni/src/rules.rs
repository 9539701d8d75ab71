//! The rules of one pod as they stand: which were applied last, under whose marks, and whether they are still so.
//! Synchronous and locked, so that the pod's own life, a daemon's arrival and a repair can change them in any order.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use mesh_net::netlink::Monitor;
use mesh_net::netns::Identity;
use mesh_net::tcp_table::{Flow, Servers};

use crate::apply::{Error, Place};
use crate::netlink::Change;
use crate::pod::Scope;
use crate::redirect::{self, Capture, GUARD_TABLE, Marks, TABLE, own_mark, usable_mark};
use crate::sockets::{OLDER_MAX, bypassing, carried, forgotten_ends, strays};

/// One pod's rules.
#[derive(Debug)]
pub struct Rules {
    place: Place,
    own: u32,
    /// A daemon with the fixed mark is connected: shared by all pods.
    fixed: Arc<AtomicBool>,
    /// The daemon's calls are kept apart: but in a pod whose rules are older than that, until they go.
    apart: bool,
    stand: Mutex<Stand>,
}

/// What is in the namespace, if nobody else changed it.
#[derive(Debug, Default)]
struct Stand {
    guarded: bool,
    table: Table,
    /// Both tables as nft showed them after they were last applied.
    listing: String,
    /// Settings of the namespace that were changed, and what they were.
    settings: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug, Default)]
enum Table {
    #[default]
    None,
    Capturing(Capture),
    Draining(Scope),
}

/// What was found changed and put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Connections that came about while the rules were not in force, and were cut.
    pub strays: usize,
}

impl Rules {
    /// Looks at what an earlier run left in the namespace: its mark stays the pod's mark. `random` gives the bits of a new one.
    ///
    /// # Errors
    /// When nft cannot be run there.
    pub fn adopt(place: Place, fixed: Arc<AtomicBool>, mut random: impl FnMut() -> u32) -> Result<(Rules, Found), Error> {
        let earlier = place.exempt()?;
        let apart = earlier.is_none() || redirect::keeps_apart(&place.listing("inet", TABLE)?);
        let found = match &earlier {
            Some(_) if place.is_draining()? => Found::Draining,
            Some(_) => {
                let guarded = !place.listing("inet", GUARD_TABLE)?.is_empty();
                Found::Captured { older: place.older()?, guarded }
            }
            None => Found::Nothing,
        };
        let own = earlier.as_deref().and_then(own_mark).unwrap_or_else(|| {
            loop {
                if let Some(mark) = usable_mark(random()) {
                    return mark;
                }
            }
        });
        let guarded = matches!(found, Found::Captured { guarded: true, .. });
        let stand = Mutex::new(Stand { guarded, ..Stand::default() });
        Ok((Rules { place, own, fixed, apart, stand }, found))
    }

    /// Which namespace these are in.
    pub fn namespace(&self) -> Identity {
        self.place.within.identity()
    }

    /// This pod's own mark.
    pub fn mark(&self) -> u32 {
        self.own
    }

    /// Closes the pod until [`Self::unguard`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn guard(&self) -> Result<(), Error> {
        let mut stand = self.lock();
        self.place.nft(&redirect::guard())?;
        stand.guarded = true;
        self.note(&mut stand)
    }

    /// # Errors
    /// [`Error`].
    pub fn unguard(&self) -> Result<(), Error> {
        let mut stand = self.lock();
        self.place.nft(&redirect::unguard())?;
        stand.guarded = false;
        self.note(&mut stand)
    }

    /// Captures by this scope, and routes the answers back.
    ///
    /// # Errors
    /// [`Error`]; the earlier rules then stay.
    pub fn capture(&self, scope: Scope, probes: bool, older: Option<BTreeSet<Flow>>) -> Result<(), Error> {
        let mut stand = self.lock();
        let capture = Capture { marks: self.marks(), scope, probes, older, apart: self.apart };
        self.place.route(Change::Add)?;
        self.put(&mut stand, Table::Capturing(capture))?;
        let changed = self.place.tune();
        stand.settings.extend(changed);
        Ok(())
    }

    /// The connections that pass the mesh by, if they can be told apart one by one.
    ///
    /// # Errors
    /// [`Error`].
    pub fn bypassing(&self) -> Result<Option<BTreeSet<Flow>>, Error> {
        let flows = self.flows_past_us()?;
        Ok((flows.len() <= OLDER_MAX).then_some(flows))
    }

    fn flows_past_us(&self) -> Result<BTreeSet<Flow>, Error> {
        Ok(bypassing(&self.place.sockets()?, self.marks())?.iter().map(|entry| entry.flow).collect())
    }

    /// Has conntrack forget connections that ended while none of our rules had it look. To be called when they are in
    /// force: what ends from then on it sees. How many there were.
    ///
    /// # Errors
    /// [`Error`]; a kernel may not offer it.
    pub fn forget_ended(&self) -> Result<usize, Error> {
        // In this order: one that begins in between has a socket by then.
        let tracked = self.place.tracked()?;
        let ended = forgotten_ends(tracked, &self.place.sockets()?);
        self.place.forget(&ended)?;
        Ok(ended.len())
    }

    /// How many older connections are left; the rules forget those that ended.
    ///
    /// # Errors
    /// [`Error`].
    pub fn sweep(&self) -> Result<usize, Error> {
        let mut stand = self.lock();
        let Table::Capturing(capture) = &stand.table else { return Ok(0) };
        let Some(older) = &capture.older else { return Ok(self.flows_past_us()?.len()) };
        if older.is_empty() {
            return Ok(0); // the usual case costs nothing
        }
        let left: BTreeSet<Flow> = older.intersection(&self.flows_past_us()?).copied().collect();
        let count = left.len();
        if count < older.len() {
            let capture = Capture { older: Some(left), ..capture.clone() };
            self.put(&mut stand, Table::Capturing(capture))?;
        }
        Ok(count)
    }

    /// Lets the right daemons' marks pass after one came or went.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remark(&self) -> Result<(), Error> {
        let mut stand = self.lock();
        let marks = self.marks();
        match &mut stand.table {
            Table::None => return Ok(()),
            Table::Capturing(capture) if capture.marks == marks => return Ok(()),
            Table::Capturing(capture) => capture.marks = marks,
            Table::Draining(_) => {}
        }
        self.place.nft(&redirect::remark(marks))?;
        self.note(&mut stand)
    }

    /// Captures nothing new.
    ///
    /// # Errors
    /// [`Error`].
    pub fn drain(&self, scope: &Scope) -> Result<(), Error> {
        self.put(&mut self.lock(), Table::Draining(scope.clone()))
    }

    /// Connections that the daemon still holds in this pod.
    ///
    /// # Errors
    /// [`Error`].
    pub fn carried(&self) -> Result<usize, Error> {
        Ok(carried(&self.place.sockets()?, self.marks()))
    }

    /// Takes everything of ours out of the namespace.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remove(&self) -> Result<(), Error> {
        let mut stand = self.lock();
        self.place.nft(&redirect::removal())?;
        let settings = std::mem::take(&mut *stand).settings; // nothing of ours is there to be repaired
        self.place.route(Change::Remove)?;
        self.place.restore(&settings);
        Ok(())
    }

    /// Hears when anybody changes rules or routes in the namespace: then [`Self::repair`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn monitors(&self) -> Result<(Monitor, Monitor), Error> {
        Ok(self.place.monitors()?)
    }

    /// Puts back what somebody else changed (spec/reliability.md F-40), and cuts the connections that came about in
    /// between. `None` when all is as it should be.
    ///
    /// # Errors
    /// [`Error`].
    pub fn repair(&self) -> Result<Option<Repaired>, Error> {
        let mut stand = self.lock();
        if let Table::None = stand.table
            && !stand.guarded
        {
            return Ok(None);
        }
        let rerouted = !matches!(stand.table, Table::None) && self.reroute()?;
        if !rerouted && self.listing(&stand)? == stand.listing {
            return Ok(None);
        }
        // Twice: now, since a reset is a packet that the rules would not know; and what came until they were in force.
        let early = self.cut_strays(&stand.table)?;
        let table = stand.table.clone();
        self.put(&mut stand, table)?;
        let strays = early + self.cut_strays(&stand.table)?;
        // Best effort, as at an enrolment: a kernel may not offer it.
        if let Err(error) = self.forget_ended() {
            tracing::debug!(%error, "conntrack may take new connections of a repaired pod for ones that have ended");
        }
        Ok(Some(Repaired { strays }))
    }

    /// Whether routes were missing. There can be none while loopback is down, as when the runtime takes a namespace apart;
    /// nothing is delivered there then either, and when it comes up, routes change again.
    fn reroute(&self) -> Result<bool, Error> {
        match self.place.route(Change::Add) {
            Err(error) if error.kind() == io::ErrorKind::NetworkDown => Ok(false),
            rerouted => Ok(rerouted?),
        }
    }

    /// Two looks: a captured connection that came between the two halves of one look has only one end in it.
    fn cut_strays(&self, table: &Table) -> Result<usize, Error> {
        let Table::Capturing(capture) = table else { return Ok(0) };
        let Some(older) = &capture.older else { return Ok(0) }; // older ones were never told apart
        let clients = self.place.client_ports()?;
        let look = || -> Result<_, Error> {
            let entries = self.place.sockets()?;
            let servers = Servers::of(&entries, clients.clone());
            Ok(strays(&bypassing(&entries, self.marks())?, &servers, &capture.scope, capture.probes, older))
        };
        let mut found = look()?;
        if found.is_empty() {
            return Ok(0);
        }
        let again: BTreeSet<[u8; 8]> = look()?.iter().map(|entry| entry.cookie()).collect();
        found.retain(|entry| again.contains(&entry.cookie()));
        self.place.end(&found)?;
        Ok(found.len())
    }

    /// Applies both tables in one transaction.
    fn put(&self, stand: &mut Stand, table: Table) -> Result<(), Error> {
        let guard = if stand.guarded { redirect::guard() } else { String::new() };
        let rules = match &table {
            Table::None => String::new(),
            Table::Capturing(capture) => redirect::ruleset(capture),
            Table::Draining(scope) => redirect::draining(self.marks(), scope, self.apart),
        };
        self.place.nft(&(guard + &rules))?;
        stand.table = table;
        self.note(stand)
    }

    /// Remembers how it looks.
    fn note(&self, stand: &mut Stand) -> Result<(), Error> {
        stand.listing = self.listing(stand)?;
        Ok(())
    }

    fn listing(&self, stand: &Stand) -> Result<String, Error> {
        let guard = if stand.guarded { self.place.listing("inet", GUARD_TABLE)? } else { String::new() };
        let rules = if let Table::None = stand.table { String::new() } else { self.place.listing("inet", TABLE)? };
        Ok(guard + &rules)
    }

    fn marks(&self) -> Marks {
        Marks { own: self.own, fixed_too: self.fixed.load(SeqCst) }
    }

    fn lock(&self) -> MutexGuard<'_, Stand> {
        self.stand.lock().expect("no code that holds this lock can panic")
    }
}

/// What an earlier run had done to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// It was leaving: nothing new is captured.
    Draining,
    /// Its rules are in force. `older` as they have it.
    Captured {
        older: Option<BTreeSet<Flow>>,
        /// Its enrolment was not completed: it is closed.
        guarded: bool,
    },
}
