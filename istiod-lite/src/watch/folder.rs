//! What the files of a folder say, as values: a file's new text in, events out. Pure.
//!
//! A file counts as a whole: while any of its documents is broken, all of its last good state stays. Unchanged documents
//! are not read again, and only objects of the changed file are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::{Duplicate, Findings, Origin};
use crate::cluster::Event;
use crate::objects::read::{self, Contents, Fault};
use crate::objects::{Object, ObjectKey};

/// A file: which of the folders it is in, and its path. The order says who wins where two files hold one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    pub folder: usize,
    pub path: Arc<Path>,
}

#[derive(Debug, Default)]
pub struct Folder {
    files: BTreeMap<FileId, File>,
    /// Which files hold an object; the first has it.
    places: BTreeMap<ObjectKey, BTreeSet<FileId>>,
}

#[derive(Debug, Default)]
struct File {
    /// By text, so that a document that moved within the file is known again.
    documents: HashMap<Arc<str>, Contents>,
    objects: BTreeMap<ObjectKey, Placed>,
    foreign: Vec<(usize, String)>,
    unknown_fields: Vec<(usize, ObjectKey, String)>,
    fault: Option<Fault>,
}

#[derive(Clone, Debug, PartialEq)]
struct Placed {
    line: usize,
    object: Object,
}

/// What a new text or the end of a file brought.
#[derive(Debug, Default)]
pub struct News {
    pub events: Vec<Event>,
    pub origins: Vec<(ObjectKey, Option<Origin>)>,
}

impl Folder {
    /// Takes the new text of a file.
    pub fn read(&mut self, file: &FileId, text: &str) -> News {
        let held = self.files.entry(file.clone()).or_default();
        match held.parse(text) {
            Ok(next) => self.replace(file, next),
            Err(fault) => {
                held.fault = Some(fault);
                News::default()
            }
        }
    }

    /// The file cannot be read at all; what it said stays.
    pub fn fail(&mut self, file: &FileId, fault: Fault) {
        self.files.entry(file.clone()).or_default().fault = Some(fault);
    }

    /// The file is gone, and all that it said.
    pub fn remove(&mut self, file: &FileId) -> News {
        let news = self.replace(file, File::default());
        self.files.remove(file);
        news
    }

    pub fn has_faults(&self) -> bool {
        self.files.values().any(|file| file.fault.is_some())
    }

    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for (id, file) in &self.files {
            let at = |line: usize| Origin { file: id.path.clone(), line };
            findings.faults.extend(file.fault.iter().map(|fault| (id.path.clone(), fault.clone())));
            findings.foreign.extend(file.foreign.iter().map(|(line, what)| (at(*line), what.clone())));
            findings.unknown_fields.extend(file.unknown_fields.iter().map(|(line, key, field)| (at(*line), key.clone(), field.clone())));
        }
        for (key, places) in self.places.iter().filter(|(_, places)| places.len() > 1) {
            let Some((first, others)) = places.iter().next().zip(Some(places.iter().skip(1))) else { continue };
            // One folder over another is how an object is completed on purpose; twice in one folder is a mistake.
            let beside = others.filter(|other| other.folder == first.folder);
            let both = beside.filter_map(|other| Some((self.origin(key, first)?, self.origin(key, other)?)));
            findings.duplicates.extend(both.map(|(used, unused)| Duplicate { key: key.clone(), used, unused }));
        }
        findings
    }

    fn replace(&mut self, file: &FileId, next: File) -> News {
        let before = self.files.insert(file.clone(), next).unwrap_or_default();
        let next = &self.files[file];
        let keys: BTreeSet<&ObjectKey> = before.objects.keys().chain(next.objects.keys()).collect();
        let changed: Vec<ObjectKey> = keys.into_iter().filter(|key| before.objects.get(*key) != next.objects.get(*key)).cloned().collect();
        let mut news = News::default();
        for key in changed {
            let is_there = next.objects.contains_key(&key);
            let owner_before = self.places.get(&key).and_then(BTreeSet::first).cloned();
            let places = self.places.entry(key.clone()).or_default();
            if is_there {
                places.insert(file.clone());
            } else {
                places.remove(file);
            }
            let owner = places.first().cloned();
            if places.is_empty() {
                self.places.remove(&key);
            }
            // A copy that is not used before and after is nobody's news.
            if owner_before == owner && owner.as_ref() != Some(file) {
                continue;
            }
            let origin = owner.as_ref().and_then(|owner| self.origin(&key, owner));
            let object = owner.as_ref().and_then(|owner| Some(self.files.get(owner)?.objects.get(&key)?.object.clone()));
            // An object that only moved within its file is where it is, and what it was.
            let is_as_before = owner_before == owner && before.objects.get(&key).map(|placed| &placed.object) == object.as_ref();
            if !is_as_before {
                news.events.push(object.map_or_else(|| Event::Deleted(key.clone()), Event::Applied));
            }
            news.origins.push((key, origin));
        }
        news
    }

    fn origin(&self, key: &ObjectKey, file: &FileId) -> Option<Origin> {
        Some(Origin { file: file.path.clone(), line: self.files.get(file)?.objects.get(key)?.line })
    }
}

impl File {
    fn parse(&self, text: &str) -> Result<File, Fault> {
        let mut next = File::default();
        for document in read::documents(text) {
            let contents = match self.documents.get(document.text) {
                Some(known) => known.clone(),
                None => read::document(document)?,
            };
            let line = document.begin();
            for found in &contents.objects {
                let key = found.object.key();
                next.unknown_fields.extend(found.unknown_fields.iter().map(|field| (line, key.clone(), field.clone())));
                if let Some(earlier) = next.objects.insert(key.clone(), Placed { line, object: found.object.clone() }) {
                    let what = format!("{key} is already in this file at line {}", earlier.line);
                    return Err(Fault { line, field: Some("metadata.name".into()), what });
                }
            }
            next.foreign.extend(contents.foreign.iter().map(|what| (line, what.clone())));
            next.documents.insert(document.text.into(), contents);
        }
        Ok(next)
    }
}
