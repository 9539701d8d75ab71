//! Keeps the authority: looks whether a step of a change of the root is due (`rotation`) or other files are plugged in,
//! stores what follows, and only then shows it to those who sign and those who pass the bundle on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use mesh_identity::Clock;
use mesh_identity::channel::ServingTls;
use mesh_identity::clock::rfc3339;
use mesh_identity::sign::{Ca, Lifetimes, PluggedIn, home as files};
use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::rotation::{Step, Times};
use super::stored::Stored;
use super::{home, root, secret};

/// Files are looked at this often; no step is late by more.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two looks, however soon the next step is due.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// One change of a root has three steps; a book that asks for many more at once is wrong.
const STEPS_AT_ONCE_MAX: usize = 16;

/// Whose authority it is.
#[expect(clippy::large_enum_variant, reason = "there is one of it in a program")]
pub enum Source {
    /// Ours: its root is self-signed, and renewed in time.
    Own { folder: PathBuf, trust_domain: String, root_life: Duration },
    /// The same, shared by the replicas of a cluster: what is kept, and the version that we know.
    Cluster { secrets: Api<Secret>, version: String, trust_domain: String, root_life: Duration },
    /// An operator's, with the files of this folder.
    PluggedIn { folder: PathBuf, seen: Option<Box<PluggedIn>> },
}

pub struct Keep {
    pub source: Source,
    pub stored: Stored,
    /// What is stored was shown to everybody.
    pub is_told: bool,
    pub live: Arc<Live>,
    pub lifetimes: Lifetimes,
    pub times: Times,
    pub clock: Arc<dyn Clock>,
}

/// Who must hear of another signer or bundle besides those who sign.
pub struct Told {
    pub serving: Arc<ServingTls>,
    pub names: Vec<String>,
    pub root_cert_out: Option<PathBuf>,
}

impl Keep {
    pub async fn run(mut self, told: Told, stop: CancellationToken) {
        let mut said = String::new();
        loop {
            let now = self.clock.now();
            let turned = match &self.source {
                Source::Cluster { .. } => self.turn_in_cluster(now).await,
                _ => self.turn(now),
            };
            let turned = turned.and_then(|(until, ca)| {
                if let Some(ca) = ca {
                    told.tell(&ca, now)?;
                    self.live.replace(ca, self.stored.session_seeds());
                    self.is_told = true;
                }
                Ok(until)
            });
            let until = turned.unwrap_or_else(|error| {
                let error = format!("{error:#}");
                // Once per cause; the next look tries again.
                if error != said {
                    tracing::error!(target: "ca", error, "the authority stays as it is");
                    said = error;
                }
                now + LOOK_EVERY
            });
            let pause = until.duration_since(now).unwrap_or_default().clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One look: what is to be shown now, if it differs, and until when nothing is due.
    ///
    /// # Errors
    /// What cannot be stored or does not work. Nothing has changed then.
    pub fn turn(&mut self, now: SystemTime) -> anyhow::Result<(SystemTime, Option<Ca>)> {
        let (until, next) = self.plan(now)?;
        let Some(next) = next else { return Ok((until, None)) };
        if let Source::Own { folder, .. } = &self.source {
            home::save(folder, &next.data()).with_context(|| format!("the authority cannot be stored in {}", folder.display()))?;
        }
        Ok((until, Some(self.adopt(next, now)?)))
    }

    /// The same where replicas share what is kept: first what another one did is taken, and a step that another one takes
    /// at the same time is his.
    ///
    /// # Errors
    /// As `turn`, and what the API server says.
    pub async fn turn_in_cluster(&mut self, now: SystemTime) -> anyhow::Result<(SystemTime, Option<Ca>)> {
        self.take_from_cluster(now).await.with_context(|| format!("Secret {}", secret::NAME))?;
        let (until, next) = self.plan(now)?;
        let Some(next) = next else { return Ok((until, None)) };
        if next != self.stored
            && let Source::Cluster { secrets, version, .. } = &mut self.source
        {
            let replaced = secret::replace(secrets, version, &next.data()).await;
            match replaced.with_context(|| format!("Secret {} cannot be written", secret::NAME))? {
                Some(kept) => *version = kept.version,
                None => return Ok((now, None)),
            }
        }
        Ok((until, Some(self.adopt(next, now)?)))
    }

    async fn take_from_cluster(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let Source::Cluster { secrets, version, .. } = &mut self.source else { return Ok(()) };
        let kept = match secret::load(secrets).await? {
            Some(kept) => kept,
            // Somebody deleted it. Certificates of it are still about, so it goes on.
            None => secret::create(secrets, &self.stored.data()).await?,
        };
        if kept.version == *version {
            return Ok(());
        }
        let stored = Stored::parse(&kept.data, self.lifetimes, now)?.context("it holds no authority any more")?;
        *version = kept.version;
        if stored != self.stored {
            tracing::warn!(target: "ca", ends = %rfc3339(stored.book.signer.ends), roots = stored.book.roots.len(), "another replica has changed the authority");
            (self.stored, self.is_told) = (stored, false);
        }
        Ok(())
    }

    /// What follows from the time and from the files. `None`: nothing new.
    fn plan(&mut self, now: SystemTime) -> anyhow::Result<(SystemTime, Option<Stored>)> {
        let mut next = self.stored.clone();
        next.book.issued(self.live.longest_life());
        self.plug_in(&mut next, now);
        let until = self.advance(&mut next, now)?;
        let is_new = next != self.stored || !self.is_told;
        Ok((until, is_new.then_some(next)))
    }

    fn adopt(&mut self, next: Stored, now: SystemTime) -> anyhow::Result<Ca> {
        let ca = next.ca(self.lifetimes, now).context("the authority does not work")?;
        (self.stored, self.is_told) = (next, false);
        Ok(ca)
    }

    /// Files that cannot be used are no reason to leave a step undone.
    fn plug_in(&mut self, next: &mut Stored, now: SystemTime) {
        let Source::PluggedIn { folder, seen } = &mut self.source else { return };
        let found = match files::plugged_in_files(folder) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => return tracing::error!(target: "ca", %error, "the plugged-in authority stays as it was"),
        };
        if seen.as_deref() == Some(&found) {
            return;
        }
        match next.plug_in(&found, self.lifetimes, now) {
            Ok(()) => tracing::info!(target: "ca", folder = %folder.display(), "another authority is plugged in"),
            Err(error) => tracing::error!(target: "ca", folder = %folder.display(), %error, "what is plugged in cannot be used; the authority stays as it was"),
        }
        *seen = Some(Box::new(found));
    }

    /// Does all steps that are due.
    fn advance(&self, next: &mut Stored, now: SystemTime) -> anyhow::Result<SystemTime> {
        for _ in 0..STEPS_AT_ONCE_MAX {
            let renews = !matches!(self.source, Source::PluggedIn { .. });
            match (next.book.step(&self.times, renews, now), &self.source) {
                (Step::Wait { until }, _) => return Ok(until),
                (Step::Announce, Source::Own { trust_domain, root_life, .. } | Source::Cluster { trust_domain, root_life, .. }) => {
                    let ca = Ca::self_signed(trust_domain, *root_life, self.lifetimes, now).context("no new root")?;
                    let wait = self.times.wait(next.book.longest_life);
                    tracing::warn!(target: "ca", ends = %rfc3339(next.book.signer.ends), ?wait, "the root comes to its end: a new one is in the bundle, and signs when every node knows it");
                    next.announce(&ca, now);
                }
                (Step::Announce, Source::PluggedIn { .. }) => anyhow::bail!("a plugged-in root is renewed by whoever plugs it in"),
                (Step::Promote, _) => {
                    next.promote(now);
                    tracing::warn!(target: "ca", ends = %rfc3339(next.book.signer.ends), "another certificate signs from now on");
                }
                (Step::Drop(root), _) => {
                    next.book.drop_root(&root);
                    tracing::warn!(target: "ca", left = next.book.roots.len(), "a root is not needed any more and has left the bundle");
                }
            }
        }
        anyhow::bail!("the book of roots asks for more steps than there are")
    }
}

impl Told {
    fn tell(&self, ca: &Ca, now: SystemTime) -> anyhow::Result<()> {
        let serving = root::serving(ca, &self.names, now)?;
        self.serving.replace(serving.chain, &serving.key, ca.roots()).context("our own certificate cannot be served")?;
        match &self.root_cert_out {
            Some(path) => root::write_bundle(ca, path),
            None => Ok(()),
        }
    }
}
