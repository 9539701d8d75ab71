//! Whose authority this is: files that an operator plugged in, or a self-signed root in a folder of our own; and the
//! root's certificate where clients look for it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use mesh_identity::sign::{Ca, Lifetimes, Serving, home};

/// The serving certificate lives as long as the signer: ten years at most (spec/controlplane.md 2.10).
const SERVING_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Plugged-in files win; a folder without any means self-signed.
pub fn load(plugged_in: &Path, own: &Path, trust_domain: &str, lifetimes: Lifetimes, now: SystemTime) -> anyhow::Result<Ca> {
    if let Some(ca) = home::plugged_in(plugged_in, lifetimes, now).context("the plugged-in authority cannot be used")? {
        tracing::info!(target: "ca", folder = %plugged_in.display(), "certificates are signed with the plugged-in authority");
        return Ok(ca);
    }
    let ca = home::self_signed(own, trust_domain, lifetimes, now).context("the self-signed root cannot be used")?;
    tracing::info!(target: "ca", folder = %own.display(), "certificates are signed with a self-signed root");
    Ok(ca)
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
