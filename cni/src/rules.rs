//! The rules of one pod as they stand: which were applied last, under whose marks. Synchronous and locked, so that the
//! pod's own life and a daemon's arrival can both change them in any order.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use mesh_net::netns::Identity;
use mesh_net::relay::HALF_CLOSED_MAX;

use crate::apply::{Error, Place};
use crate::netlink::Change;
use crate::pod::Scope;
use crate::redirect::{self, Capture, Marks, own_mark, usable_mark};
use crate::sockets::{Flow, OLDER_MAX, bypassing, carried};

/// One pod's rules.
#[derive(Debug)]
pub struct Rules {
    place: Place,
    own: u32,
    /// A daemon with the fixed mark is connected: shared by all pods.
    fixed: Arc<AtomicBool>,
    applied: Mutex<Applied>,
}

#[derive(Debug)]
enum Applied {
    Nothing,
    Capturing(Capture),
    Draining,
}

impl Rules {
    /// Looks at what an earlier run left in the namespace: its mark stays the pod's mark. `random` gives the bits of a new one.
    ///
    /// # Errors
    /// When nft cannot be run there.
    pub fn adopt(place: Place, fixed: Arc<AtomicBool>, mut random: impl FnMut() -> u32) -> Result<(Rules, Found), Error> {
        let earlier = place.exempt()?;
        let found = match &earlier {
            Some(_) => Found::Captured { older: place.older()? },
            None => Found::Nothing,
        };
        let own = earlier.as_deref().and_then(own_mark).unwrap_or_else(|| {
            loop {
                if let Some(mark) = usable_mark(random()) {
                    return mark;
                }
            }
        });
        Ok((Rules { place, own, fixed, applied: Mutex::new(Applied::Nothing) }, found))
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
        self.place.nft(&redirect::guard())
    }

    /// # Errors
    /// [`Error`].
    pub fn unguard(&self) -> Result<(), Error> {
        self.place.nft(&redirect::unguard())
    }

    /// Captures by this scope, and routes the answers back.
    ///
    /// # Errors
    /// [`Error`]; the earlier rules then stay.
    pub fn capture(&self, scope: Scope, probes: bool, older: Option<BTreeSet<Flow>>) -> Result<(), Error> {
        let mut applied = self.lock();
        let capture = Capture { marks: self.marks(), scope, probes, older };
        self.place.route(Change::Add)?;
        self.place.nft(&redirect::ruleset(&capture))?;
        self.place.remember_half_closed(Some(HALF_CLOSED_MAX));
        *applied = Applied::Capturing(capture);
        Ok(())
    }

    /// The connections that pass the mesh by, if they can be told apart one by one.
    ///
    /// # Errors
    /// [`Error`].
    pub fn bypassing(&self) -> Result<Option<BTreeSet<Flow>>, Error> {
        let flows = bypassing(&self.place.sockets()?);
        Ok((flows.len() <= OLDER_MAX).then_some(flows))
    }

    /// How many older connections are left; the rules forget those that ended.
    ///
    /// # Errors
    /// [`Error`].
    pub fn sweep(&self) -> Result<usize, Error> {
        let mut applied = self.lock();
        let Applied::Capturing(capture) = &mut *applied else { return Ok(0) };
        let Some(older) = &capture.older else { return Ok(bypassing(&self.place.sockets()?).len()) };
        if older.is_empty() {
            return Ok(0); // the usual case costs nothing
        }
        let open = bypassing(&self.place.sockets()?);
        let left: BTreeSet<Flow> = older.intersection(&open).copied().collect();
        if left.len() < older.len() {
            capture.older = Some(left.clone());
            self.place.nft(&redirect::ruleset(capture))?;
        }
        Ok(left.len())
    }

    /// Lets the right daemons' marks pass after one came or went.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remark(&self) -> Result<(), Error> {
        let mut applied = self.lock();
        let marks = self.marks();
        match &mut *applied {
            Applied::Nothing => return Ok(()),
            Applied::Capturing(capture) if capture.marks == marks => return Ok(()),
            Applied::Capturing(capture) => capture.marks = marks,
            Applied::Draining => {}
        }
        self.place.nft(&redirect::remark(marks))
    }

    /// Captures nothing new.
    ///
    /// # Errors
    /// [`Error`].
    pub fn drain(&self, scope: &Scope) -> Result<(), Error> {
        let mut applied = self.lock();
        self.place.nft(&redirect::draining(self.marks(), scope))?;
        *applied = Applied::Draining;
        Ok(())
    }

    /// Connections that the daemon still holds in this pod.
    ///
    /// # Errors
    /// [`Error`].
    pub fn carried(&self) -> Result<usize, Error> {
        Ok(carried(&self.place.sockets()?))
    }

    /// Takes everything of ours out of the namespace.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remove(&self) -> Result<(), Error> {
        let mut applied = self.lock();
        self.place.nft(&redirect::removal())?;
        self.place.route(Change::Remove)?;
        self.place.remember_half_closed(None);
        *applied = Applied::Nothing;
        Ok(())
    }

    fn marks(&self) -> Marks {
        Marks { own: self.own, fixed_too: self.fixed.load(SeqCst) }
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().expect("no code that holds this lock can panic")
    }
}

/// What an earlier run had done to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// Its rules are in force. `older` as they have it.
    Captured {
        older: Option<BTreeSet<Flow>>,
    },
}
