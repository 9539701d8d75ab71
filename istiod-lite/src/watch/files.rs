//! Folders of YAML files, looked at often: what changed is read when it has stopped changing.
//!
//! Looking is cheap next to reading, works on every file system, and needs no descriptor per folder. A file is taken
//! when two looks in a row saw the same size and times, and is gone when two looks missed it: half of a file that
//! somebody is writing must not look like a mesh with half of its policies.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::folder::{FileId, Folder, News};
use super::{Batch, Findings};
use crate::objects::read::Fault;

/// Two looks must fit in well under a second, which is the promise.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Folders so large that looking takes long are looked at less often, so that it stays a twentieth of one CPU.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(400);
/// Far above any folder of objects; a file beyond it is a mistake.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Looks after which a file that never rests is taken as it is: late by a second is promised, never is not.
const RESTLESS_LOOKS_MAX: u32 = 7;
/// Folders within folders, so that a loop of links ends.
const DEPTH_MAX: usize = 8;

/// The state of looking.
#[derive(Debug)]
pub struct Files {
    folders: Vec<PathBuf>,
    folder: Folder,
    known: BTreeMap<FileId, Seen>,
    findings: Arc<Findings>,
    unlisted: BTreeMap<usize, String>,
    was_whole: bool,
    told_whole: bool,
    has_told: bool,
}

#[derive(Debug, Default)]
struct Seen {
    /// As it was when it was read.
    taken: Option<Stamp>,
    /// As the last look saw it; `None`: it was not there.
    last: Option<Stamp>,
    /// Looks in a row that saw it change.
    restless: u32,
}

/// Changes whenever a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks until told to stop, or nobody listens.
pub async fn watch(folders: Vec<PathBuf>, batches: mpsc::Sender<Batch>, stop: CancellationToken) {
    let mut files = Files::new(folders);
    loop {
        let begin = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            let batch = files.look();
            (files, batch)
        });
        let Ok((returned, batch)) = looked.await else {
            tracing::error!("looking at the folders failed; what was read so far stays in force, restart to read changes");
            return;
        };
        files = returned;
        if let Some(batch) = batch
            && batches.send(batch).await.is_err()
        {
            return;
        }
        let pause = (begin.elapsed() * 20).clamp(LOOK_EVERY, LOOK_AT_MOST_EVERY);
        tokio::select! {
            _ = tokio::time::sleep(pause) => {}
            _ = stop.cancelled() => return,
        }
    }
}

impl Files {
    pub fn new(folders: Vec<PathBuf>) -> Files {
        Files { folders, folder: Folder::default(), known: BTreeMap::new(), findings: Arc::default(), unlisted: BTreeMap::new(), was_whole: false, told_whole: false, has_told: false }
    }

    /// One look. `None`: nothing to tell.
    pub fn look(&mut self) -> Option<Batch> {
        let mut seen = BTreeMap::new();
        let mut unlisted = BTreeMap::new();
        for (index, folder) in self.folders.iter().enumerate() {
            if let Err(error) = list(index, folder, 0, &mut seen) {
                unlisted.insert(index, error);
            }
        }
        let mut batch = Batch::default();
        let (mut is_settled, mut has_taken) = (true, false);
        let ids: std::collections::BTreeSet<FileId> = seen.keys().chain(self.known.keys()).cloned().collect();
        for id in ids.into_iter().filter(|id| !unlisted.contains_key(&id.folder)) {
            let stamp = seen.get(&id).copied();
            let before = self.known.entry(id.clone()).or_default();
            let is_quiet = before.last == stamp || before.restless >= RESTLESS_LOOKS_MAX;
            before.last = stamp;
            before.restless = if is_quiet { 0 } else { before.restless + 1 };
            if before.taken == stamp && stamp.is_some() {
                continue;
            }
            is_settled &= is_quiet;
            if is_quiet {
                has_taken = true;
                self.take(&id, stamp, &mut batch);
            }
        }
        let is_whole = self.was_whole || (is_settled && unlisted.is_empty() && !self.folder.has_faults());
        let has_news = has_taken || unlisted != self.unlisted || is_whole != self.was_whole || !self.has_told;
        (self.unlisted, self.was_whole) = (unlisted, is_whole);
        has_news.then(|| self.tell(batch)).flatten()
    }

    fn take(&mut self, id: &FileId, stamp: Option<Stamp>, batch: &mut Batch) {
        let Some(stamp) = stamp else {
            self.known.remove(id);
            return batch.add(self.folder.remove(id));
        };
        match text(&id.path, stamp) {
            Ok(text) => batch.add(self.folder.read(id, &text)),
            Err(fault) => self.folder.fail(id, fault),
        }
        if let Some(seen) = self.known.get_mut(id) {
            seen.taken = Some(stamp);
        }
    }

    fn tell(&mut self, mut batch: Batch) -> Option<Batch> {
        let mut findings = self.folder.findings();
        for (index, what) in &self.unlisted {
            findings.faults.push((self.folders[*index].as_path().into(), Fault { line: 0, field: None, what: what.clone() }));
        }
        let has_found = *self.findings != findings;
        self.findings = findings.into();
        (batch.findings, batch.is_whole) = (self.findings.clone(), self.was_whole);
        let is_news = !batch.events.is_empty() || has_found || self.was_whole != self.told_whole || !self.has_told;
        (self.has_told, self.told_whole) = (true, self.was_whole);
        is_news.then_some(batch)
    }
}

impl Batch {
    fn add(&mut self, news: News) {
        self.events.extend(news.events);
        self.origins.extend(news.origins);
    }
}

/// Files whose names end in .yaml, .yml or .json; names that begin with a dot are skipped, among them the folders that
/// Kubernetes swaps behind a mounted ConfigMap's links.
fn list(index: usize, folder: &Path, depth: usize, files: &mut BTreeMap<FileId, Stamp>) -> Result<(), String> {
    let told = |error: std::io::Error| format!("cannot list {}: {error}; create the folder or make it readable", folder.display());
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Gone between the two calls, or a link to nothing: the next look tells.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let is_hidden = name.starts_with('.');
        let is_yaml = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if metadata.is_dir() && !is_hidden && depth < DEPTH_MAX {
            list(index, &path, depth + 1, files)?;
        } else if metadata.is_file() && !is_hidden && is_yaml {
            let stamp = Stamp {
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            files.insert(FileId { folder: index, path: path.into() }, stamp);
        }
    }
    Ok(())
}

fn text(path: &Path, stamp: Stamp) -> Result<String, Fault> {
    let at = |line, what| Fault { line, field: None, what };
    if stamp.size > FILE_BYTES_MAX {
        return Err(at(1, format!("the file has {} bytes, more than {FILE_BYTES_MAX}; divide it", stamp.size)));
    }
    let bytes = std::fs::read(path).map_err(|error| at(1, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        at(good.iter().filter(|byte| **byte == b'\n').count() + 1, "is not UTF-8".into())
    })
}
