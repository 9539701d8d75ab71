//! Certificates that were taken back: reading revocation lists, and ending live connections whose chain they name.
//!
//! Rules of spec/dataplane.md 9.2: one file may hold several lists; a file that cannot be read keeps the last good lists
//! in force; a certificate that no list speaks of is good; an expired list still counts. The same path verification
//! decides at the handshake and for live connections, so that an unrelated certificate which a peer merely sent along,
//! or a list of another authority with the same name, ends nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio_util::sync::CancellationToken;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::clock::Clock;
use crate::credential::dates;
use crate::verify::{self, NotOurPeer, Roots, Usage};

/// The largest file that is read: about half a million revoked serial numbers.
pub const MAX_FILE_BYTES: u64 = 32 << 20;
/// One list per authority of a mesh, with room for a rotation of each.
const MAX_LISTS: usize = 256;
/// How often the file is looked at. A change counts when two looks see the same content, so a half-written file is not
/// taken for a list; revocation is in force within two seconds (spec/reliability.md G6).
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Chains that are checked after a reload before other tasks of the runtime get their turn; a check takes 0.1 to 0.3 ms.
const CHECKS_PER_TURN: usize = 8;

/// The revocation lists in force. Immutable; replaced as a whole.
#[derive(Default)]
pub struct CrlSet {
    lists: Vec<CertRevocationList<'static>>,
}

#[derive(Debug, thiserror::Error)]
pub enum BadCrl {
    #[error("cannot read revocation lists from {path}: {cause}")]
    Unreadable { path: String, cause: std::io::Error },
    #[error("the file of revocation lists is {0} bytes long; at most {MAX_FILE_BYTES} are read")]
    TooLong(u64),
    #[error("the file of revocation lists holds no list; an empty file means that nothing is revoked")]
    NoList,
    #[error("more than {MAX_LISTS} revocation lists in one file")]
    TooMany,
    #[error("revocation list {number} cannot be read: {cause}")]
    Broken { number: usize, cause: String },
}

impl CrlSet {
    /// Reads a concatenation of PEM or of DER lists. An empty text is an empty set: controllers publish one when there is
    /// nothing to revoke.
    pub fn parse(text: &[u8]) -> Result<CrlSet, BadCrl> {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if bytes > MAX_FILE_BYTES {
            return Err(BadCrl::TooLong(bytes));
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(CrlSet::default());
        }
        let ders = if text.first() == Some(&0x30) { der_elements(text)? } else { pem_elements(text)? };
        if ders.is_empty() {
            return Err(BadCrl::NoList);
        }
        let list = |(number, der): (usize, Vec<u8>)| {
            OwnedCertRevocationList::from_der(&der)
                .map(CertRevocationList::from)
                .map_err(|err| BadCrl::Broken { number, cause: err.to_string() })
        };
        Ok(CrlSet { lists: ders.into_iter().enumerate().map(list).collect::<Result<_, _>>()? })
    }

    pub fn len(&self) -> usize {
        self.lists.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Runs a path verification with the lists.
    ///
    /// webpki takes the first list whose issuer name fits and fails when its signature does not: that is the case of two
    /// authorities with one name (all self-signed roots of this family are `O=<trust domain>`). Such a list says nothing
    /// about this path, so the verification is repeated without it.
    pub(crate) fn with_lists_that_apply(
        &self,
        verify: impl Fn(Option<RevocationOptions<'_>>) -> Result<(), webpki::Error>,
    ) -> Result<(), webpki::Error> {
        let run = |lists: &[&CertRevocationList<'_>]| verify(options(lists));
        let all: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        match run(&all) {
            Err(err) if is_of_another_issuer(&err) => {
                let speaks = |list: &&CertRevocationList<'_>| {
                    !matches!(run(&[*list]), Err(err) if is_of_another_issuer(&err))
                };
                let fitting: Vec<_> = all.into_iter().filter(speaks).collect();
                run(&fitting)
            }
            decided => decided,
        }
    }
}

impl std::fmt::Debug for CrlSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CrlSet({})", self.lists.len())
    }
}

fn options<'a>(lists: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let builder = RevocationOptionsBuilder::new(lists).ok()?; // fails only without lists
    Some(
        builder
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build(),
    )
}

fn is_of_another_issuer(err: &webpki::Error) -> bool {
    use webpki::Error::*;
    matches!(
        err,
        InvalidCrlSignatureForPublicKey
            | UnsupportedCrlSignatureAlgorithmContext(_)
            | UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
            | IssuerNotCrlSigner
    )
}

fn pem_elements(text: &[u8]) -> Result<Vec<Vec<u8>>, BadCrl> {
    let mut found = Vec::new();
    for (number, list) in CertificateRevocationListDer::pem_slice_iter(text).enumerate() {
        let list = list.map_err(|err| BadCrl::Broken { number, cause: err.to_string() })?;
        found.push(list.as_ref().to_vec());
        if found.len() > MAX_LISTS {
            return Err(BadCrl::TooMany);
        }
    }
    Ok(found)
}

/// Splits concatenated DER SEQUENCEs by their lengths (X.690 8.1.3).
fn der_elements(mut text: &[u8]) -> Result<Vec<Vec<u8>>, BadCrl> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let broken = || BadCrl::Broken { number: found.len(), cause: "DER length does not fit the file".to_owned() };
        let whole = der_length(text).filter(|&whole| whole <= text.len()).ok_or_else(broken)?;
        let (element, rest) = text.split_at(whole);
        found.push(element.to_vec());
        text = rest;
        if found.len() > MAX_LISTS {
            return Err(BadCrl::TooMany);
        }
    }
    Ok(found)
}

/// Bytes of the SEQUENCE at the start of `text`, header included.
fn der_length(text: &[u8]) -> Option<usize> {
    let (&0x30, rest) = text.split_first()? else { return None };
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let size = usize::from(first & 0x7f);
    if size == 0 || size > 4 {
        return None; // indefinite, or more than 4 GiB
    }
    let length = rest.get(..size)?.iter().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
    length.checked_add(2 + size)
}

/// The lists in force and the live connections that depend on them.
#[derive(Debug)]
pub struct Revocations {
    enabled: bool,
    lists: ArcSwap<CrlSet>,
    live: Mutex<HashMap<ChainKey, LiveChain>>,
    unchecked: AtomicU64,
    clock: Arc<dyn Clock>,
}

/// Connections that showed the same chain under the same roots share one entry: a node has thousands of connections,
/// but few peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ChainKey {
    digest: [u8; 32],
    roots: usize,
    usage: Usage,
}

#[derive(Debug, Clone)]
struct LiveChain {
    chain: Arc<[CertificateDer<'static>]>,
    roots: Arc<Roots>,
    usage: Usage,
    connections: usize,
    revoked: CancellationToken,
}

/// One live connection's place in the book; leaving is `Drop`.
#[derive(Debug)]
pub struct Registered {
    book: Option<(Arc<Revocations>, ChainKey)>,
    revoked: CancellationToken,
}

impl Registered {
    /// Completes when a certificate of the peer's path is revoked; never, when revocation is not configured.
    pub async fn revoked(&self) {
        self.revoked.cancelled().await;
    }

    pub fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }

    /// Cancelled at that moment.
    pub(crate) fn token(&self) -> CancellationToken {
        self.revoked.clone()
    }

    /// In no book: revoked by nobody but the holder of its token.
    pub(crate) fn alone() -> Registered {
        Registered { book: None, revoked: CancellationToken::new() }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some((book, key)) = self.book.take() {
            book.leave(&key);
        }
    }
}

impl Revocations {
    /// No lists are configured: nothing is ever revoked and registering costs nothing.
    pub fn disabled() -> Arc<Revocations> {
        Revocations::make(false, Arc::new(crate::clock::SystemClock))
    }

    /// Starts without lists; `follow` or `replace` bring them.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Revocations> {
        Revocations::make(true, clock)
    }

    fn make(enabled: bool, clock: Arc<dyn Clock>) -> Arc<Revocations> {
        Arc::new(Revocations {
            enabled,
            lists: ArcSwap::default(),
            live: Mutex::new(HashMap::new()),
            unchecked: AtomicU64::new(0),
            clock,
        })
    }

    pub fn lists(&self) -> Arc<CrlSet> {
        self.lists.load_full()
    }

    /// Distinct chains of live connections.
    pub fn chains(&self) -> usize {
        self.live.lock().len()
    }

    /// Live chains whose path could not be rebuilt when it was checked, so that revocation cannot reach them.
    pub fn unchecked(&self) -> u64 {
        self.unchecked.load(Ordering::Relaxed)
    }

    /// Enters a connection whose peer was just verified. `chain` is what the peer presented, leaf first; `usage` is the
    /// peer's side.
    ///
    /// The entry is made before the check, and a reload publishes its lists before it reads the entries: whichever comes
    /// second sees the other, so no reload can fall between.
    pub fn register(self: &Arc<Self>, chain: &[CertificateDer<'_>], roots: &Arc<Roots>, usage: Usage) -> Registered {
        if !self.enabled || chain.is_empty() {
            return Registered::alone();
        }
        let key = ChainKey { digest: digest(chain), roots: Arc::as_ptr(roots).addr(), usage };
        let (entry, is_new) = self.enter(&key, chain, roots, usage);
        if is_new {
            self.check(&entry, &self.lists());
        }
        Registered { book: Some((self.clone(), key)), revoked: entry.revoked }
    }

    fn enter(&self, key: &ChainKey, chain: &[CertificateDer<'_>], roots: &Arc<Roots>, usage: Usage) -> (LiveChain, bool) {
        let mut live = self.live.lock();
        let entry = live.entry(key.clone()).or_insert_with(|| LiveChain {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            roots: roots.clone(),
            usage,
            connections: 0,
            revoked: CancellationToken::new(),
        });
        entry.connections += 1;
        (entry.clone(), entry.connections == 1)
    }

    fn leave(&self, key: &ChainKey) {
        let mut live = self.live.lock();
        if let Some(entry) = live.get_mut(key) {
            entry.connections -= 1;
            if entry.connections == 0 {
                live.remove(key);
            }
        }
    }

    /// Puts new lists in force and ends the live connections that they revoke.
    pub async fn replace(&self, lists: CrlSet) {
        let lists = Arc::new(lists);
        self.lists.store(lists.clone());
        let live: Vec<LiveChain> = self.live.lock().values().cloned().collect();
        for some in live.chunks(CHECKS_PER_TURN) {
            for entry in some {
                self.check(entry, &lists);
            }
            tokio::task::yield_now().await;
        }
    }

    fn check(&self, entry: &LiveChain, lists: &CrlSet) {
        if lists.is_empty() || entry.revoked.is_cancelled() {
            return;
        }
        let Some((leaf, rest)) = entry.chain.split_first() else { return };
        // A leaf that has expired since the handshake must not hide that it was revoked.
        let now = self.clock.now();
        let at = dates(leaf).map_or(now, |(from, to)| now.clamp(from, to.max(from)));
        match verify::chain(leaf, rest, &entry.roots, entry.usage, at, lists) {
            Ok(()) => {}
            Err(NotOurPeer::Chain(webpki::Error::CertRevoked)) => entry.revoked.cancel(),
            Err(_) => {
                self.unchecked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Follows the file for ever: the first state is in force when the first look is done, changes within two seconds.
    pub async fn follow(&self, path: &Path) {
        let mut seen: Option<Stamp> = None;
        let mut pending: Option<Stamp> = None;
        loop {
            let stamp = stamp(path).await;
            let settled = seen.is_none() || pending == stamp;
            if stamp != seen && settled {
                self.load(path).await;
                seen = stamp.clone().or(seen);
            }
            pending = stamp;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reads the file now; on any error the last good lists stay in force.
    pub async fn load(&self, path: &Path) {
        match read(path).await.and_then(|text| CrlSet::parse(&text)) {
            Ok(lists) => {
                tracing::info!(path = %path.display(), lists = lists.len(), "revocation lists are in force");
                self.replace(lists).await;
            }
            Err(err) => tracing::warn!(error = %err, in_force = self.lists().len(), "revocation lists are not reloaded"),
        }
    }
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

async fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let found = tokio::fs::metadata(path).await.ok()?;
    Some(Stamp { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() })
}

async fn read(path: &Path) -> Result<Vec<u8>, BadCrl> {
    let unreadable = |cause| BadCrl::Unreadable { path: path.display().to_string(), cause };
    let bytes = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(BadCrl::TooLong(bytes));
    }
    tokio::fs::read(path).await.map_err(unreadable)
}

fn digest(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for certificate in chain {
        context.update(certificate); // DER carries its own length, so the concatenation is unambiguous
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests;
