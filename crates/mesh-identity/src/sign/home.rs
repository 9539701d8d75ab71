//! Where the authority's key lives: a folder of our own, or the files that an operator plugs in.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{BadCa, Ca, Lifetimes, PluggedIn};

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

#[derive(Debug, thiserror::Error)]
pub enum NoHome {
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("{folder} holds {present} but not {missing}: complete the set, or empty the folder for a self-signed root")]
    Partial { folder: PathBuf, present: &'static str, missing: &'static str },
    #[error("{folder}: {cause}")]
    Bad { folder: PathBuf, cause: BadCa },
}

/// Reads plugged-in files (`/etc/cacerts`): `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`, or the layout
/// of a kubernetes.io/tls secret. `None` when there is nothing; a partial set is an error (spec/controlplane.md 3.6).
pub fn plugged_in(folder: &Path, lifetimes: Lifetimes, now: SystemTime) -> Result<Option<Ca>, NoHome> {
    plugged_in_files(folder)?.map(|files| load(folder, &files, lifetimes, now)).transpose()
}

/// The same files, unused.
pub fn plugged_in_files(folder: &Path) -> Result<Option<PluggedIn>, NoHome> {
    let tls_layout = read(&folder.join("tls.crt"))?.is_some();
    let [certificate, key, chain, roots] =
        if tls_layout { ["tls.crt", "tls.key", "tls.crt", "ca.crt"] } else { [CERTIFICATE, KEY, CHAIN, ROOTS] };
    let files = [certificate, key, chain, roots];
    let mut texts = Vec::new();
    for file in files {
        texts.push(read(&folder.join(file))?);
    }
    let present = files.iter().zip(&texts).find_map(|(file, text)| text.is_some().then_some(*file));
    let missing = files.iter().zip(&texts).find_map(|(file, text)| text.is_none().then_some(*file));
    match (present, missing, texts.as_slice()) {
        (None, _, _) => Ok(None),
        (_, None, [Some(certificate), Some(key), Some(chain), Some(roots)]) => {
            let [certificate, key, chain, roots] = [certificate, key, chain, roots].map(String::clone);
            Ok(Some(PluggedIn { certificate, key, chain, roots }))
        }
        (Some(present), missing, _) => {
            Err(NoHome::Partial { folder: folder.to_owned(), present, missing: missing.unwrap_or(key) })
        }
    }
}

/// Takes the self-signed root of a folder, or makes one there: key of mode 0600, folder of mode 0700. Of two programs
/// that start together one makes it and the other reads it.
pub fn self_signed(folder: &Path, trust_domain: &str, life: Duration, lifetimes: Lifetimes, now: SystemTime) -> Result<Ca, NoHome> {
    if let Some(ca) = stored(folder, lifetimes, now)? {
        return Ok(ca);
    }
    let bad = |cause| NoHome::Bad { folder: folder.to_owned(), cause };
    let ca = Ca::self_signed(trust_domain, life, lifetimes, now).map_err(bad)?;
    let io = |cause| NoHome::Io { path: folder.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    match store(folder, &ca) {
        Ok(()) => Ok(ca),
        // Another program was first; its files are complete, because they appear together.
        Err(err) if is_taken(&err) => stored(folder, lifetimes, now)?.ok_or(NoHome::Io { path: folder.join(KEY), cause: err }),
        Err(cause) => Err(io(cause)),
    }
}

fn stored(folder: &Path, lifetimes: Lifetimes, now: SystemTime) -> Result<Option<Ca>, NoHome> {
    match (read(&folder.join("root").join(CERTIFICATE))?, read(&folder.join("root").join(KEY))?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let roots = certificate.clone();
            load(folder, &PluggedIn { certificate, key, chain: String::new(), roots }, lifetimes, now).map(Some)
        }
        (Some(_), None) => Err(NoHome::Partial { folder: folder.to_owned(), present: CERTIFICATE, missing: KEY }),
        (None, Some(_)) => Err(NoHome::Partial { folder: folder.to_owned(), present: KEY, missing: CERTIFICATE }),
    }
}

/// Both files appear at once: they are written into a folder beside, which is then renamed. Renaming onto a folder that
/// is not empty fails, so a root that exists is never replaced.
fn store(folder: &Path, ca: &Ca) -> io::Result<()> {
    let beside = folder.join(format!(".root-{}", rand::random::<u64>()));
    DirBuilder::new().mode(0o700).create(&beside)?;
    let written = write(&beside.join(KEY), &ca.private_pem(), 0o600)
        .and_then(|()| write(&beside.join(CERTIFICATE), &ca.certificate_pem(), 0o644))
        .and_then(|()| fs::rename(&beside, folder.join("root")))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = fs::remove_dir_all(&beside); // what is left holds a key that signed nothing
    }
    written
}

fn is_taken(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn load(folder: &Path, files: &PluggedIn, lifetimes: Lifetimes, now: SystemTime) -> Result<Ca, NoHome> {
    Ca::load(files, lifetimes, now).map_err(|cause| NoHome::Bad { folder: folder.to_owned(), cause })
}

fn read(path: &Path) -> Result<Option<String>, NoHome> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(NoHome::Io { path: path.to_owned(), cause }),
    }
}
