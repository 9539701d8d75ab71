//! The folder of pod files: what changed in it since it was last looked at, and pods that come from there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::lives::{Lives, Source};
use crate::podfile::{MAX_BYTES, PodFile, is_pod_file, parse, status_path};
use crate::report::Report;
use crate::status::{self, Counts, State};

/// Between two looks at the folder: enrolment takes 30 ms, so this is most of a pod's wait. 100 files cost 0.2 ms.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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

/// Pods that files announce, and which file speaks for which.
pub struct Files {
    folder: Folder,
    by_path: BTreeMap<PathBuf, String>,
}

impl Files {
    /// # Errors
    /// When the folder cannot be made.
    pub fn of(folder: &Path) -> anyhow::Result<Files> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder of pods {}", folder.display()))?;
        Ok(Files { folder: Folder::new(folder), by_path: BTreeMap::new() })
    }

    fn take(&mut self, events: Vec<Event>, lives: &mut Lives, seen: Option<&mpsc::Sender<()>>) {
        for event in events {
            match event {
                Event::Removed(path) => self.gone(&path, lives),
                Event::Changed(path, Ok(pod)) => self.wanted(path, pod, lives, seen),
                Event::Changed(path, Err(reason)) => self.broken(&path, &reason, lives),
            }
        }
    }

    fn gone(&mut self, path: &Path, lives: &Lives) {
        if !self.by_path.remove(path).is_some_and(|uid| lives.gone(&uid)) {
            let _ = fs::remove_file(status_path(path)); // of a file that never was a pod
        }
    }

    fn wanted(&mut self, path: PathBuf, pod: Box<PodFile>, lives: &mut Lives, seen: Option<&mpsc::Sender<()>>) {
        if self.by_path.get(&path).is_some_and(|uid| *uid != pod.uid) {
            self.gone(&path, lives); // another pod took the name
        }
        if let Some((other, _)) = self.by_path.iter().find(|(other, uid)| **uid == pod.uid && **other != path) {
            let reason = format!("uid: {} is announced by {} already", pod.uid, other.display());
            return self.broken(&path, &reason, lives);
        }
        let report = Report::File(status_path(&path));
        self.by_path.insert(path, pod.uid.clone());
        lives.wanted(report, pod, seen);
    }

    fn broken(&mut self, path: &Path, reason: &str, lives: &Lives) {
        tracing::warn!(reason, "a pod file is refused");
        if self.by_path.get(path).is_some_and(|uid| lives.broken(uid, reason)) {
            return;
        }
        if let Err(error) = status::write(&status_path(path), "", State::Refused, reason, Counts::default()) {
            tracing::warn!(%error, path = %path.display(), "cannot write a status file");
        }
    }
}

impl Source for Files {
    async fn first(&mut self, lives: &mut Lives, seen: &mpsc::Sender<()>) -> anyhow::Result<()> {
        let events = self.folder.changes().context("cannot read the folder of pods")?;
        self.take(events, lives, Some(seen));
        Ok(())
    }

    async fn follow(&mut self, lives: &mut Lives) -> anyhow::Result<Infallible> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.folder.changes() {
                Ok(events) => self.take(events, lives, None),
                Err(error) => tracing::warn!(%error, "cannot read the folder of pods, pods stay as they are"),
            }
        }
    }
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
