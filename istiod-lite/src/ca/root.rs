//! Whose authority this is: files that an operator plugged in, or a self-signed root in a folder of our own; and the
//! root's certificate where clients look for it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use mesh_identity::clock::rfc3339;
use mesh_identity::sign::{Ca, Lifetimes, Serving, home};

use super::keep::Source;
use super::secret;
use super::stored::Stored;

/// The serving certificate lives as long as the signer: ten years at most (spec/controlplane.md 2.10).
const SERVING_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// What the start of the authority hangs on.
pub struct Start<'a> {
    pub plugged_in: &'a Path,
    pub own: &'a Path,
    pub trust_domain: &'a str,
    /// Of a new self-signed root.
    pub root_life: Duration,
    /// The bundle that clients were told before; empty if there is none.
    pub published: &'a str,
    pub lifetimes: Lifetimes,
}

/// Plugged-in files win; a folder without any means self-signed.
pub fn load(start: &Start<'_>, now: SystemTime) -> anyhow::Result<(Source, Stored)> {
    if let Some(plugged_in) = plugged_in(start, now)? {
        return Ok(plugged_in);
    }
    let Start { own, trust_domain, root_life, .. } = *start;
    let stored = self_signed(start, now).with_context(|| format!("the self-signed root in {} cannot be used", own.display()))?;
    tracing::info!(target: "ca", folder = %own.display(), ends = %rfc3339(stored.book.signer.ends), "certificates are signed with a self-signed root");
    Ok((Source::Own { folder: own.to_owned(), trust_domain: trust_domain.to_owned(), root_life }, stored))
}

/// The same in a cluster, where all replicas share a self-signed root in a Secret.
pub async fn load_in_cluster(start: &Start<'_>, secrets: Api<Secret>, now: SystemTime) -> anyhow::Result<(Source, Stored)> {
    if let Some(plugged_in) = plugged_in(start, now)? {
        return Ok(plugged_in);
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

fn plugged_in(start: &Start<'_>, now: SystemTime) -> anyhow::Result<Option<(Source, Stored)>> {
    let Start { plugged_in, published, lifetimes, .. } = *start;
    let Some(files) = home::plugged_in_files(plugged_in).context("the plugged-in authority cannot be used")? else { return Ok(None) };
    let stored = Stored::plugged_in(&files, published, lifetimes, now).with_context(|| format!("the plugged-in authority in {} cannot be used", plugged_in.display()))?;
    tracing::info!(target: "ca", folder = %plugged_in.display(), "certificates are signed with the plugged-in authority");
    if stored.book.roots.get(&stored.book.signer.root).is_some_and(|trust| trust.since == now) {
        tracing::warn!(target: "ca", "nodes do not know the plugged-in root yet: until each has renewed its certificates, connections between old and new ones can fail. Change the files while the controller runs, and it waits");
    }
    Ok(Some((Source::PluggedIn { folder: plugged_in.to_owned(), seen: Some(Box::new(files)) }, stored)))
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
