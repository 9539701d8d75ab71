//! Where objects come from. A source tells in batches: `folder` and `files` are one, `kubernetes` is the other.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::cluster::Event;
use crate::objects::ObjectKey;
use crate::objects::read::Fault;

pub mod folder;
pub mod files;
pub mod kubernetes;
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

/// What is wrong or left unread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Kinds that an API server does not let us watch at present.
    pub troubles: Vec<String>,
    /// Objects of an API server that cannot be used.
    pub refused: Vec<Refused>,
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

/// An object whose newest state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub key: ObjectKey,
    /// Whose the object is: its label `istio.io/rev`, where it has one.
    pub revision: Option<Arc<str>>,
    pub generation: i64,
    pub field: Option<String>,
    pub what: String,
    pub instead: Instead,
}

/// What is in force in the place of a state that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// What the object said before.
    LastGood,
    /// A policy that was never read: whom it selects is closed.
    Closed,
    Nothing,
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Instead::LastGood => "the last good state stays in force",
            Instead::Closed => "until it can be read, nobody may reach whom it selects in the way that it would restrict",
            Instead::Nothing => "it is not used",
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field.as_ref().map(|field| format!("field {field}: ")).unwrap_or_default();
        write!(f, "{}: {field}{}; {}", self.key, self.what, self.instead)
    }
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
        let refused = self.refused.iter().map(Refused::to_string);
        self.troubles.iter().cloned().chain(refused).chain(faults).chain(duplicates).chain(unknown).chain(foreign).collect()
    }
}
