//! The folder of pod files: what changed in it since it was last looked at.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::podfile::{MAX_BYTES, PodFile, is_pod_file, parse};

/// A folder and what was last seen in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    seen: BTreeMap<PathBuf, Stamp>,
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// New, or another content. The error says what is wrong with it.
    Changed(PathBuf, Result<Box<PodFile>, String>),
    Removed(PathBuf),
}

impl Folder {
    pub fn new(path: &Path) -> Folder {
        Folder { path: path.to_owned(), seen: BTreeMap::new() }
    }

    /// What changed since the last call, in the order of the names; removals first, so that a renamed file's pod can
    /// be announced by its new name.
    ///
    /// # Errors
    /// When the folder cannot be read; what was seen stays as it was.
    pub fn changes(&mut self) -> io::Result<Vec<Event>> {
        let mut now = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            // A file that vanishes between being listed and being looked at is simply not there.
            if is_pod_file(&path)
                && let Ok(stamp) = stamp(&path)
            {
                now.insert(path, stamp);
            }
        }
        let removed = self.seen.keys().filter(|path| !now.contains_key(*path)).cloned().map(Event::Removed);
        let changed = now.iter().filter(|(path, stamp)| self.seen.get(*path) != Some(stamp));
        let events = removed.chain(changed.map(|(path, stamp)| Event::Changed(path.clone(), read(path, stamp)))).collect();
        self.seen = now;
        Ok(events)
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok(Stamp { inode: meta.ino(), size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) })
}

fn read(path: &Path, stamp: &Stamp) -> Result<Box<PodFile>, String> {
    if stamp.size > MAX_BYTES {
        return Err(format!("{}: {} bytes, a pod file has at most {MAX_BYTES}", path.display(), stamp.size));
    }
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(path, &text).map(Box::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"uid": "u1", "name": "n", "namespace": "s", "netns": "/run/netns/x", "ips": ["10.0.0.1"]}"#;

    #[test]
    fn changes_are_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut watched = Folder::new(folder.path());
        assert_eq!(watched.changes().unwrap(), []);
        let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
        fs::write(&a, POD).unwrap();
        fs::write(folder.path().join(".hidden.json"), "x").unwrap();
        fs::write(folder.path().join("a.status.json"), "x").unwrap();
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let pod = Box::new(parse(&a, POD).unwrap());
        assert_eq!(watched.changes().unwrap(), [Event::Changed(a.clone(), Ok(pod.clone()))]);
        assert_eq!(watched.changes().unwrap(), []);
        fs::rename(&a, &b).unwrap();
        assert_eq!(watched.changes().unwrap(), [Event::Removed(a), Event::Changed(b.clone(), Ok(pod))]);
        fs::write(&b, "{").unwrap();
        let broken = watched.changes().unwrap();
        assert!(
            matches!(&broken[..], [Event::Changed(path, Err(text))] if path == &b && text.contains("b.json: EOF while parsing"))
        );
        fs::remove_file(&b).unwrap();
        assert_eq!(watched.changes().unwrap(), [Event::Removed(b)]);
        drop(folder);
        assert!(watched.changes().is_err());
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, vec![b' '; 70_000]).unwrap();
        let events = Folder::new(folder.path()).changes().unwrap();
        let expected = format!("{}: 70000 bytes, a pod file has at most 65536", path.display());
        assert_eq!(events, [Event::Changed(path, Err(expected))]);
    }
}
