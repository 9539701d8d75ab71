//! The operator's folder of YAML: noticing changes, and keeping the last good content of a file that is broken now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;

use crate::objects::{self, Complaint, Objects};

/// A file larger than this is not configuration (the controller takes files of up to 1,000 objects).
const FILE_MAX: u64 = 16 << 20;

/// Folders within folders, so that a loop of links ends; as deep as the controller looks.
const DEPTH_MAX: usize = 8;

/// What is known of the folder.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    files: BTreeMap<PathBuf, Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// The newest content that had no complaints.
    good: String,
}

/// Tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

/// What a look at the folder brought.
#[derive(Debug, Default)]
pub struct Look {
    pub changed: bool,
    pub complaints: Vec<Complaint>,
}

impl Folder {
    pub fn new(path: &Path) -> anyhow::Result<Folder> {
        let path = fs::canonicalize(path).with_context(|| format!("folder {} cannot be read; give the folder that holds your YAML files with -f", path.display()))?;
        anyhow::ensure!(path.is_dir(), "{} is a file; give the folder that holds it", path.display());
        Ok(Folder { path, files: BTreeMap::new() })
    }

    /// Reads the files that changed since the last look.
    pub fn look(&mut self) -> anyhow::Result<Look> {
        let mut look = Look::default();
        let found = list(&self.path)?;
        let before = self.files.len();
        self.files.retain(|path, _| found.contains_key(path));
        look.changed = self.files.len() != before;
        for (path, stamp) in found {
            let known = self.files.get(&path);
            if known.is_some_and(|known| known.stamp == stamp) {
                continue;
            }
            let mut good = known.map(|known| known.good.clone()).unwrap_or_default();
            let complaints = match text_of(&path, stamp) {
                Ok(text) => {
                    let complaints = objects::read(&path, &text, &mut Objects::default());
                    if complaints.is_empty() {
                        good = text;
                    }
                    complaints
                }
                Err(problem) => vec![Complaint { file: path.clone(), line: 1, problem, is_syntax: true }],
            };
            look.changed = true;
            look.complaints.extend(complaints);
            self.files.insert(path, Known { stamp, good });
        }
        Ok(look)
    }

    /// The objects of all files, as of the last look.
    pub fn objects(&self) -> (Objects, Vec<Complaint>) {
        let mut objects = Objects::default();
        let complaints = self.files.iter().flat_map(|(path, known)| objects::read(path, &known.good, &mut objects)).collect();
        (objects, complaints)
    }
}

fn list(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    list_into(folder, DEPTH_MAX, &mut found).with_context(|| format!("folder {} cannot be read any more", folder.display()))?;
    Ok(found)
}

fn list_into(folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        // A file may go between the listing and the look; then it is simply not there.
        let Ok(about) = fs::metadata(&path) else { continue };
        if hidden {
            continue;
        }
        if about.is_dir() && depth > 0 {
            // A folder that cannot be read is the controller's complaint too.
            let _ = list_into(&path, depth - 1, found);
        } else if about.is_file() && is_object_file(&path) {
            found.insert(path, Stamp { modified: about.modified().ok(), bytes: about.len() });
        }
    }
    Ok(())
}

fn is_object_file(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
}

fn text_of(path: &Path, stamp: Stamp) -> Result<String, String> {
    if stamp.bytes > FILE_MAX {
        return Err(format!("is larger than {} MiB; split it", FILE_MAX >> 20));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_keeps_its_last_good_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "kind: Namespace\nmetadata: {name: one}\n").unwrap();
        fs::write(folder.path().join("notes.txt"), "kind: [").unwrap();
        let mut known = Folder::new(folder.path()).unwrap();
        assert!(known.look().unwrap().changed);
        assert!(!known.look().unwrap().changed, "nothing changed");
        fs::write(&file, "kind: Namespace\nmetadata: {name: [\n").unwrap();
        let look = known.look().unwrap();
        assert_eq!((look.changed, look.complaints.len()), (true, 1));
        assert!(known.objects().0.namespaces.contains_key("one"));
        fs::remove_file(&file).unwrap();
        assert!(known.look().unwrap().changed);
        assert!(known.objects().0.namespaces.is_empty());
    }
}
