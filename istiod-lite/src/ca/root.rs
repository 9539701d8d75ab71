//! Whose authority this is: files that an operator plugged in, or a self-signed root in a folder of our own; and the
//! root's certificate where clients look for it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use mesh_identity::clock::rfc3339;
use mesh_identity::pem;
use mesh_identity::sign::{Ca, Lifetimes, PluggedIn, Serving, home};

use super::keep::Source;
use super::rotation::{Step, Times};
use super::{distribute, secret};
use super::stored::Stored;

/// The serving certificate lives as long as the signer: ten years at most (spec/controlplane.md 2.10).
const SERVING_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Replicas that start together write one Secret; each reads again what another one has written.
const WRITES_MAX: usize = 8;

/// What the start of the authority hangs on.
#[derive(Clone, Copy)]
pub struct Start<'a> {
    pub plugged_in: &'a Path,
    pub own: &'a Path,
    pub trust_domain: &'a str,
    /// Of a new self-signed root.
    pub root_life: Duration,
    /// The bundle that clients were told before; empty if there is none.
    pub published: &'a str,
    pub lifetimes: Lifetimes,
    pub times: Times,
}

/// Plugged-in files win; a folder without any means self-signed.
pub fn load(start: &Start<'_>, now: SystemTime) -> anyhow::Result<(Source, Stored)> {
    if let Some(files) = files(start)? {
        return plugged_in(start, files, now);
    }
    let Start { own, trust_domain, root_life, .. } = *start;
    let stored = self_signed(start, now).with_context(|| format!("the self-signed root in {} cannot be used", own.display()))?;
    tracing::info!(target: "ca", folder = %own.display(), ends = %rfc3339(stored.book.signer.ends), "certificates are signed with a self-signed root");
    Ok((Source::Own { folder: own.to_owned(), trust_domain: trust_domain.to_owned(), root_life }, stored))
}

/// The same in a cluster, where all replicas share a self-signed root in a Secret, and what nodes were told before stands
/// in a ConfigMap.
pub async fn load_in_cluster(start: &Start<'_>, secrets: Api<Secret>, maps: Api<ConfigMap>, now: SystemTime) -> anyhow::Result<(Source, Stored)> {
    if let Some(files) = files(start)? {
        let published = published_in(&maps).await?;
        let start = Start { published: &published, ..*start };
        return match giving_way(&start, &files, &secrets, now).await? {
            Some(mut stored) => {
                // Before anything is signed: where the wait is over, others may have dropped the old root already.
                if stored.book.step(&start.times, false, now) == Step::Promote {
                    stored.promote(now);
                }
                tracing::warn!(target: "ca", folder = %start.plugged_in.display(), secret = secret::NAME, "the self-signed root signs until every node knows the plugged-in one");
                Ok((source(&start, files), stored))
            }
            None => plugged_in(&start, files, now),
        };
    }
    let Start { trust_domain, root_life, lifetimes, .. } = *start;
    let held = secret::load(&secrets).await.with_context(|| format!("Secret {}: this controller's ServiceAccount needs get of it", secret::NAME))?;
    let kept = match held {
        Some(kept) => kept,
        None => {
            let new = Stored::new(&Ca::self_signed(trust_domain, root_life, lifetimes, now)?, lifetimes.default);
            secret::create(&secrets, &new.data()).await.with_context(|| format!("Secret {}: this controller's ServiceAccount needs create of secrets", secret::NAME))?
        }
    };
    let bad = || format!("Secret {} cannot be used: complete it, or delete it for a new root", secret::NAME);
    let stored = Stored::parse(&kept.data, lifetimes, now).with_context(bad)?.with_context(bad)?;
    tracing::info!(target: "ca", secret = secret::NAME, ends = %rfc3339(stored.book.signer.ends), "certificates are signed with a self-signed root");
    Ok((Source::Cluster { secrets, version: kept.version, trust_domain: trust_domain.to_owned(), root_life }, stored))
}

fn files(start: &Start<'_>) -> anyhow::Result<Option<PluggedIn>> {
    home::plugged_in_files(start.plugged_in).context("the plugged-in authority cannot be used")
}

fn source(start: &Start<'_>, files: PluggedIn) -> Source {
    Source::PluggedIn { folder: start.plugged_in.to_owned(), seen: Some(Box::new(files)) }
}

fn plugged_in(start: &Start<'_>, files: PluggedIn, now: SystemTime) -> anyhow::Result<(Source, Stored)> {
    let Start { plugged_in, published, lifetimes, .. } = *start;
    let stored = Stored::plugged_in(&files, published, lifetimes, now).with_context(|| format!("the plugged-in authority in {} cannot be used", plugged_in.display()))?;
    tracing::info!(target: "ca", folder = %plugged_in.display(), "certificates are signed with the plugged-in authority");
    if stored.book.roots.get(&stored.book.signer.root).is_some_and(|trust| trust.since == now) {
        tracing::warn!(target: "ca", "nodes do not know the plugged-in root yet: until each has renewed its certificates, connections between old and new ones can fail. Change the files while the controller runs, and it waits");
    }
    Ok((source(start, files), stored))
}

/// The self-signed authority of the Secret, while nodes trust it and the plugged-in one is on its way to them.
async fn giving_way(start: &Start<'_>, files: &PluggedIn, secrets: &Api<Secret>, now: SystemTime) -> anyhow::Result<Option<Stored>> {
    let Start { published, lifetimes, .. } = *start;
    for _ in 0..WRITES_MAX {
        let held = secret::load(secrets).await.with_context(|| format!("Secret {}: this controller's ServiceAccount needs get of it", secret::NAME))?;
        let Some(kept) = held else { return Ok(None) };
        let own = match Stored::parse(&kept.data, lifetimes, now) {
            Ok(Some(own)) => own,
            Ok(None) => return Ok(None),
            // It is not what signs, so it is no reason not to start.
            Err(error) => {
                tracing::warn!(target: "ca", secret = secret::NAME, %error, "what the self-signed root signed is not cared for: its Secret cannot be used");
                return Ok(None);
            }
        };
        let giving = own.give_way(files, published, lifetimes, now).with_context(|| format!("the plugged-in authority in {} cannot be used", start.plugged_in.display()))?;
        let Some(stored) = giving else { return Ok(None) };
        // Since when the other root is told must not be forgotten: a restart would begin the wait anew.
        let data = stored.data_without_next();
        let is_kept = data.iter().filter(|(_, text)| !text.is_empty()).eq(&kept.data);
        if is_kept || secret::replace(secrets, &kept.version, &data).await.with_context(|| format!("Secret {} cannot be written", secret::NAME))?.is_some() {
            return Ok(Some(stored));
        }
    }
    anyhow::bail!("Secret {} is written by others all the time", secret::NAME)
}

/// The bundle that nodes of this cluster were told; empty when there is none.
async fn published_in(maps: &Api<ConfigMap>) -> anyhow::Result<String> {
    let name = distribute::CONFIG_MAP;
    let map = maps.get_opt(name).await.with_context(|| format!("ConfigMap {name}: this controller's ServiceAccount needs get of it"))?;
    let text = map.and_then(|map| map.data?.remove(distribute::KEY)).unwrap_or_default();
    if let Err(error) = pem::certificates(text.as_bytes()) {
        tracing::warn!(target: "ca", config_map = name, %error, "which roots nodes trust cannot be read; they are taken for none");
        return Ok(String::new());
    }
    Ok(text)
}

fn self_signed(start: &Start<'_>, now: SystemTime) -> anyhow::Result<Stored> {
    let Start { own, trust_domain, root_life, lifetimes, .. } = *start;
    match Stored::parse(&super::home::load(own)?, lifetimes, now) {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => Ok(Stored::new(&home::self_signed(own, trust_domain, root_life, lifetimes, now)?, lifetimes.default)),
        // Nothing that it signed lives longer than it, so there is nothing left to break.
        Err(error) if error.is_ended() => {
            tracing::warn!(target: "ca", folder = %own.display(), %error, "the self-signed root has ended; a new one is made");
            let stored = Stored::new(&Ca::self_signed(trust_domain, root_life, lifetimes, now)?, lifetimes.default);
            super::home::save(own, &stored.data())?;
            Ok(stored)
        }
        Err(error) => Err(error.into()),
    }
}

/// The bundle that an earlier start wrote for clients; empty when there is none.
pub fn published(path: Option<&Path>) -> String {
    path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

/// The certificate of our own port.
pub fn serving(ca: &Ca, names: &[String], now: SystemTime) -> anyhow::Result<Serving> {
    ca.serving(names, SERVING_LIFE, now).with_context(|| format!("no certificate for our own port with the names {names:?}"))
}

/// Writes the trust bundle for clients. It appears whole or not at all.
pub fn write_bundle(ca: &Ca, path: &Path) -> anyhow::Result<()> {
    write_whole(path, ca.root_bundle().as_bytes()).with_context(|| format!("cannot write the root certificate to {}", path.display()))
}

/// Replaces a file by a complete one: written beside, then renamed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = OpenOptions::new().write(true).create(true).truncate(true).open(&beside).and_then(|mut file| file.write_all(bytes));
    let renamed = written.and_then(|()| std::fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&beside); // it may not even be there
    }
    renamed
}
