//! Where objects come from. A source tells in batches; `folder` and `files` are the first source, an API server will be
//! another one that gives the same batches.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::cluster::Event;
use crate::objects::ObjectKey;
use crate::objects::read::Fault;

pub mod folder;
pub mod files;
#[cfg(test)]
mod tests;

/// What a source has to tell at once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub events: Vec<Event>,
    /// Where changed objects stand now; `None`: nowhere any more.
    pub origins: Vec<(ObjectKey, Option<Origin>)>,
    /// All that is wrong with the source at present.
    pub findings: Arc<Findings>,
    /// Everything was read without an error at least once. Before that the mesh is not told anything: a policy could be
    /// missing.
    pub is_whole: bool,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub file: Arc<Path>,
    pub line: usize,
}

/// What is wrong or left unread, by file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Files whose newest content is not used.
    pub faults: Vec<(Arc<Path>, Fault)>,
    /// Objects that stand in several files of one folder: the first is used.
    pub duplicates: Vec<Duplicate>,
    /// Objects of kinds that are not read here.
    pub foreign: Vec<(Origin, String)>,
    /// Fields that a Kubernetes object's type does not know.
    pub unknown_fields: Vec<(Origin, ObjectKey, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    pub key: ObjectKey,
    pub used: Origin,
    pub unused: Origin,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Findings {
    /// One line each, the worst first.
    pub fn lines(&self) -> Vec<String> {
        let faults = self.faults.iter().map(|(file, fault)| format!("{}: {fault}; the last good state of the file stays", file.display()));
        let duplicates = self.duplicates.iter().map(|Duplicate { key, used, unused }| format!("{unused}: {key} is already in {used}; that one is used"));
        let unknown = self.unknown_fields.iter().map(|(origin, key, field)| format!("{origin}: {key}: field {field} is not known and not used"));
        let foreign = self.foreign.iter().map(|(origin, what)| format!("{origin}: {what} is not a kind that is read"));
        faults.chain(duplicates).chain(unknown).chain(foreign).collect()
    }
}
