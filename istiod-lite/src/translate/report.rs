//! What is to be told about an object: conditions of its status (spec/controlplane.md 4.13), and notes about what of it
//! is not honoured. Nothing is ignored in silence.

use std::collections::BTreeSet;
use std::fmt;

use crate::objects::NsName;
use crate::objects::route::ParentReference;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub is_true: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What is said of a route to one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReport {
    pub reference: ParentReference,
    pub conditions: Vec<Condition>,
    /// The waypoints that route by it.
    pub routed_by: BTreeSet<NsName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub conditions: Vec<Condition>,
    pub parents: Vec<ParentReport>,
    pub notes: Vec<String>,
}

impl Report {
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.parents.is_empty() && self.notes.is_empty()
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn holds(&mut self, kind: &'static str, reason: &'static str, message: impl Into<String>) {
        self.conditions.push(Condition { kind, is_true: true, reason, message: message.into() });
    }

    pub fn fails(&mut self, kind: &'static str, reason: &'static str, message: impl Into<String>) {
        self.conditions.push(Condition { kind, is_true: false, reason, message: message.into() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Condition { kind, is_true, reason, message } in &self.conditions {
            let status = if *is_true { "True" } else { "False" };
            writeln!(f, "{kind}={status} {reason}: {message}")?;
        }
        for ParentReport { reference, conditions, .. } in &self.parents {
            let port = reference.port.map(|port| format!(":{port}")).unwrap_or_default();
            for Condition { kind, is_true, reason, message } in conditions {
                let status = if *is_true { "True" } else { "False" };
                writeln!(f, "parent {}{port}: {kind}={status} {reason}: {message}", reference.name)?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
