//! Where a self-signed authority is kept on a machine: a folder of our own.
//!
//! `root/` is what the first start made (`mesh_identity::sign::home`). Later versions are complete folders beside it, and
//! the link `current` names the one that counts; replacing a link is atomic, so a crash leaves the old or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

use super::stored::Data;

const CURRENT: &str = "current";
const FIRST: &str = "root";
const VERSIONS: &str = "version-";

/// What is kept in a folder; nothing where there is none.
pub fn load(folder: &Path) -> io::Result<Data> {
    let current = folder.join(CURRENT);
    let place = if current.exists() { current } else { folder.join(FIRST) };
    let mut data = Data::new();
    let entries = match fs::read_dir(&place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(data),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            data.insert(entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?);
        }
    }
    Ok(data)
}

/// Replaces what is kept, and removes the version before.
pub fn save(folder: &Path, data: &Data) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let name = format!("{VERSIONS}{:016x}", rand::random::<u64>());
    let version = folder.join(&name);
    DirBuilder::new().mode(0o700).create(&version)?;
    let beside = folder.join(format!(".{name}"));
    let written = write_all(&version, data).and_then(|()| symlink(&name, &beside)).and_then(|()| fs::rename(&beside, folder.join(CURRENT)));
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&version); // nobody names it
        return Err(error);
    }
    File::open(folder)?.sync_all()?;
    remove_others(folder, &version);
    Ok(())
}

fn write_all(version: &Path, data: &Data) -> io::Result<()> {
    for (name, text) in data {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(version.join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    File::open(version)?.sync_all()
}

/// What cannot be removed now is removed with the next version.
fn remove_others(folder: &Path, version: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let others = entries.map(|entry| entry.path()).filter(|path| path != version && is_version(path));
    for path in others {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(target: "ca", path = %path.display(), %error, "an old version of the authority cannot be removed");
        }
    }
}

fn is_version(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(VERSIONS) || name == FIRST)
}
