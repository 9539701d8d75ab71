//! The authority as a value: the book of its roots, and the keys of who signs and who will.
//!
//! A self-signed one is kept as texts by name, the same in a folder and in the data of a Secret `istio-ca-secret`
//! (spec/controlplane.md 3.6). `ca-cert.pem` and `ca-key.pem` are what signs now, so that an authority of the field can
//! read ours and we theirs; `root-cert.pem` is the whole bundle and never stale; what is more than theirs stands beside.
//! Where the texts lie is `home`; a plugged-in authority is kept by whoever plugs it in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::derived::Seed;
use mesh_identity::pem;
use mesh_identity::sign::{BadCa, Ca, CannotSign, Lifetimes, PluggedIn};

use super::rotation::{Book, Pem, Signer, Trust};

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const NEXT_KEY: &str = "next-ca-key.pem";
const BOOK: &str = "rotation.json";
const EARLIER_SESSIONS: &str = "earlier-sessions";

/// What the seeds of sessions are for: see `Stored::session_seeds`.
const SESSIONS: &str = "sessions of waypoints";

/// Texts by name.
pub type Data = BTreeMap<String, String>;

#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    pub book: Book,
    keys: Keys,
    next_keys: Option<Keys>,
    /// Of the signer before this one: what was sealed then can still be opened.
    earlier_sessions: Option<Seed>,
}

/// What a signer needs beside its certificate.
#[derive(Clone, PartialEq, Eq)]
struct Keys {
    key: Arc<str>,
    /// From the signer's certificate up; empty for a root.
    chain: Arc<str>,
}

/// Keys are not for logs.
impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored").field("roots", &self.book.roots.len()).field("has_next", &self.book.next.is_some()).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BadData {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{BOOK} cannot be read: {0}")]
    Book(#[from] serde_json::Error),
    #[error(transparent)]
    Ca(#[from] BadCa),
}

impl BadData {
    /// The signer has ended, and with it every certificate that it signed.
    pub fn is_ended(&self) -> bool {
        matches!(self, BadData::Ca(BadCa::Trial(CannotSign::SignerExpired(_))))
    }
}

impl Stored {
    /// A new authority with a root of its own.
    pub fn new(ca: &Ca, longest_life: Duration) -> Stored {
        Stored { book: Book::begin(own_root(ca), [], longest_life), keys: Keys::of_root(ca), next_keys: None, earlier_sessions: None }
    }

    /// An authority that somebody plugs in. `published` is the bundle that nodes were told before, empty if there is none:
    /// what of it is not plugged in any more may still be needed, and what is not in it is not known to them.
    ///
    /// # Errors
    /// The files do not fit together.
    pub fn plugged_in(files: &PluggedIn, published: &str, lifetimes: Lifetimes, now: SystemTime) -> Result<Stored, BadCa> {
        let known: BTreeSet<Pem> = roots(published)?.into_iter().collect();
        let plugged = roots(&files.roots)?;
        let signer = hanging_on(files, &plugged, &known, lifetimes, now)?;
        let mut book = Book::begin(signer, plugged, lifetimes.default);
        if !known.is_empty() {
            for (root, trust) in &mut book.roots {
                trust.since = if known.contains(root) { SystemTime::UNIX_EPOCH } else { now };
            }
            let gone = Trust { since: SystemTime::UNIX_EPOCH, wanted: false, unused: Some(now) };
            for root in known {
                book.roots.entry(root).or_insert(gone.clone());
            }
        }
        Ok(Stored { book, keys: Keys::of(files), next_keys: None, earlier_sessions: None })
    }

    /// A self-signed authority of ours in the place of which somebody plugs another one in: it signs on until everybody
    /// knows the other's root. `published` is the bundle that nodes were told before; `None`: they do not trust ours any
    /// more, so it has nothing to sign.
    ///
    /// # Errors
    /// The files do not fit together.
    pub fn give_way(mut self, files: &PluggedIn, published: &str, lifetimes: Lifetimes, now: SystemTime) -> Result<Option<Stored>, BadCa> {
        let known: BTreeSet<Pem> = roots(published)?.into_iter().collect();
        if !known.contains(&self.book.signer.root) {
            return Ok(None);
        }
        // Our own successor is not wanted any more.
        (self.book.next, self.next_keys) = (None, None);
        for (_, trust) in self.book.roots.iter_mut().filter(|(root, _)| !known.contains(*root)) {
            // It was stored and never told.
            trust.since = now;
        }
        // Those that are plugged in are told from now on, if the book knows of no earlier time.
        let plugged = roots(&files.roots)?;
        for root in known.into_iter().filter(|root| !plugged.contains(root)) {
            self.book.roots.entry(root).or_insert(Trust { since: SystemTime::UNIX_EPOCH, wanted: false, unused: Some(now) });
        }
        self.plug_in(files, lifetimes, now)?;
        Ok(Some(self))
    }

    /// Takes files that somebody plugs in while the authority works.
    ///
    /// # Errors
    /// The files do not fit together; nothing has changed.
    pub fn plug_in(&mut self, files: &PluggedIn, lifetimes: Lifetimes, now: SystemTime) -> Result<(), BadCa> {
        let plugged = roots(&files.roots)?;
        let known = self.book.roots.keys().cloned().collect();
        let signer = hanging_on(files, &plugged, &known, lifetimes, now)?;
        self.book.want(signer, &plugged.into_iter().collect(), now);
        match self.book.next {
            Some(_) => self.next_keys = Some(Keys::of(files)),
            None => (self.keys, self.next_keys) = (Keys::of(files), None),
        }
        Ok(())
    }

    /// Adds a root of our own that will sign when everybody knows it.
    pub fn announce(&mut self, ca: &Ca, now: SystemTime) {
        let next = own_root(ca);
        let only = [next.root.clone()].into();
        self.book.want(next, &only, now);
        self.next_keys = Some(Keys::of_root(ca));
    }

    pub fn promote(&mut self, now: SystemTime) {
        if let Some(keys) = self.next_keys.take() {
            self.book.promote(now);
            let before = std::mem::replace(&mut self.keys, keys);
            self.earlier_sessions = before.session_seed();
        }
    }

    /// What the secrets of waypoints' sessions are derived from. Sessions are sealed with the first; the others open what was
    /// sealed before the signer changed, and what a replica that has changed it already has its waypoints seal.
    pub fn session_seeds(&self) -> Vec<Seed> {
        let next = self.next_keys.as_ref().and_then(Keys::session_seed);
        self.keys.session_seed().into_iter().chain(next).chain(self.earlier_sessions.clone()).collect()
    }

    /// The authority that signs now, with all roots of the book.
    ///
    /// # Errors
    /// The signer does not work, for example because it has ended.
    pub fn ca(&self, lifetimes: Lifetimes, now: SystemTime) -> Result<Ca, BadCa> {
        let files = PluggedIn {
            certificate: self.book.signer.certificate.to_string(),
            key: self.keys.key.to_string(),
            chain: self.keys.chain.to_string(),
            roots: self.book.bundle(),
        };
        Ca::load(&files, lifetimes, now)
    }

    /// Reads what an authority left: ours, or one of the field, which has no book. `None`: nothing is there.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub fn parse(data: &Data, lifetimes: Lifetimes, now: SystemTime) -> Result<Option<Stored>, BadData> {
        let (certificate, key) = match (data.get(CERTIFICATE), data.get(KEY)) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (None, Some(_)) => return Err(BadData::Missing(CERTIFICATE)),
            (Some(_), None) => return Err(BadData::Missing(KEY)),
        };
        let files = PluggedIn { certificate: certificate.clone(), key: key.clone(), chain: String::new(), roots: certificate.clone() };
        let mut found = Stored::new(&Ca::load(&files, lifetimes, now)?, lifetimes.default);
        found.earlier_sessions = data.get(EARLIER_SESSIONS).and_then(|text| Seed::of_text(text));
        let Some(text) = data.get(BOOK) else { return Ok(Some(found)) };
        let mut book: Book = serde_json::from_str(text)?;
        let mut next_keys = data.get(NEXT_KEY).map(|key| Keys { key: key.as_str().into(), chain: "".into() });
        if book.signer != found.book.signer {
            // Somebody else put another root in. It signs, and what was trusted before goes when nobody needs it.
            next_keys = None;
            book.signer = found.book.signer.clone();
            book.want(found.book.signer, &BTreeSet::new(), now);
        }
        book.next = book.next.filter(|_| next_keys.is_some());
        Ok(Some(Stored { book, next_keys, ..found }))
    }

    /// What is kept of a self-signed authority.
    pub fn data(&self) -> Data {
        let book = serde_json::to_string_pretty(&self.book).expect("a book is made of texts, numbers and maps by text");
        let mut data: Data = [
            (CERTIFICATE, self.book.signer.certificate.to_string()),
            (KEY, self.keys.key.to_string()),
            (CHAIN, String::new()),
            ("key.pem", String::new()),
            (ROOTS, self.book.bundle()),
            (BOOK, book),
        ]
        .map(|(name, text)| (name.to_owned(), text))
        .into();
        data.extend(self.next_keys.as_ref().map(|keys| (NEXT_KEY.to_owned(), keys.key.to_string())));
        data.extend(self.earlier_sessions.as_ref().map(|seed| (EARLIER_SESSIONS.to_owned(), seed.to_text())));
        data
    }
}

impl Stored {
    /// What is kept of one that gives way: its successor's key is kept by whoever plugs it in.
    pub fn data_without_next(&self) -> Data {
        let mut data = self.data();
        data.remove(NEXT_KEY);
        data
    }
}

impl Keys {
    fn of(files: &PluggedIn) -> Keys {
        Keys { key: files.key.as_str().into(), chain: files.chain.as_str().into() }
    }

    fn of_root(ca: &Ca) -> Keys {
        Keys { key: ca.private_pem().into(), chain: "".into() }
    }

    /// None for a key that cannot be read, which does not sign either.
    fn session_seed(&self) -> Option<Seed> {
        Seed::of_key(&self.key, SESSIONS).ok()
    }
}

fn own_root(ca: &Ca) -> Signer {
    let certificate: Pem = ca.certificate_pem().into();
    Signer { root: certificate.clone(), certificate, begins: ca.not_before(), ends: ca.not_after() }
}

/// The signer of plugged-in files and the root that it hangs on. Of several one that is known already, because nobody has
/// to wait for it.
fn hanging_on(files: &PluggedIn, plugged: &[Pem], known: &BTreeSet<Pem>, lifetimes: Lifetimes, now: SystemTime) -> Result<Signer, BadCa> {
    let whole = Ca::load(files, lifetimes, now)?;
    let (first, then): (Vec<&Pem>, Vec<&Pem>) = plugged.iter().partition(|root| known.contains(*root));
    let leads = |root: &&Pem| Ca::load(&PluggedIn { roots: root.to_string(), ..files.clone() }, lifetimes, now).is_ok();
    let root = first.into_iter().chain(then).find(leads).ok_or(BadCa::Empty(ROOTS))?;
    Ok(Signer { certificate: whole.certificate_pem().into(), root: root.clone(), begins: whole.not_before(), ends: whole.not_after() })
}

/// The roots of a bundle, each in the form that the book knows.
fn roots(bundle: &str) -> Result<Vec<Pem>, BadCa> {
    let certificates = pem::certificates(bundle.as_bytes()).map_err(|cause| BadCa::Pem { file: ROOTS, cause })?;
    Ok(certificates.iter().map(|root| pem::encode(root).into()).collect())
}

#[cfg(test)]
mod tests;
