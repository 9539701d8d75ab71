//! The mesh as a local file (`LOCAL_XDS_PATH`, `LOCAL_XDS`): workloads, services and policies in YAML, used instead of a
//! control plane or beside one (spec/dataplane.md 9.5).
//!
//! Here: text to nouns, and what is wrong with the text, with its line. Not here: reading and watching the file.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mesh_model::change::Change;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use mesh_policy::Policy;

mod shape;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFile {
    pub workloads: Vec<Arc<Workload>>,
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Arc<Policy>>,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFileError {
    /// The path, or the name of the variable that held the text.
    pub file: String,
    /// Counted from 1; `None` when the fault has no single place.
    pub line: Option<usize>,
    pub column: Option<usize>,
    /// The key at that line with those above it, `workloads.workloadIps`, where it can be told.
    pub field: Option<String>,
    pub why: String,
}

impl LocalFile {
    /// Reads the text of a file; `name` is for error messages.
    pub fn parse(name: &str, text: &str) -> Result<LocalFile, LocalFileError> {
        let shape: shape::File = serde_saphyr::from_str(text).map_err(|error| LocalFileError::at(name, text, &error))?;
        let file = shape.into_nouns();
        file.refuse_twins().map_err(|why| LocalFileError {
            file: name.to_owned(),
            line: None,
            column: None,
            field: None,
            why,
        })?;
        Ok(file)
    }

    /// What to apply to a directory.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let workloads = self.workloads.iter().cloned().map(Change::Workload);
        workloads.chain(self.services.iter().cloned().map(Change::Service))
    }

    /// What to take away from a directory that holds this file, to make room for `next`.
    pub fn gone_in(&self, next: &LocalFile) -> impl Iterator<Item = Change> {
        let staying: BTreeSet<Arc<str>> = next.names().collect();
        let gone: Vec<Arc<str>> = self.names().filter(|name| !staying.contains(name)).collect();
        gone.into_iter().map(Change::Remove)
    }

    fn names(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        let services = self.services.iter().map(|service| service.key().to_string().into());
        self.workloads.iter().map(|workload| workload.uid.0.clone()).chain(services)
    }

    /// Of two with one name only the last would count, and the first would be lost without a word.
    fn refuse_twins(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let policies = self.policies.iter().map(|policy| ("policy", policy.key().to_string()));
        let services = self.services.iter().map(|service| ("service", service.key().to_string()));
        let workloads = self.workloads.iter().map(|workload| ("workload", workload.uid.to_string()));
        for (kind, name) in workloads.chain(services).chain(policies) {
            if !seen.insert((kind, name.clone())) {
                return Err(format!("the {kind} {name} stands twice in the file; give each a name of its own"));
            }
        }
        Ok(())
    }
}

impl LocalFileError {
    fn at(file: &str, text: &str, error: &serde_saphyr::Error) -> LocalFileError {
        let mut options = serde_saphyr::RenderOptions::default();
        options.snippets = serde_saphyr::SnippetMode::Off;
        let rendered = error.without_snippet().render_with_options(options);
        let first = rendered.lines().next().unwrap_or_default();
        // The renderer says the place as well; we say it in front, as compilers do.
        let why = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ").to_owned();
        let place = error.location();
        let number = |number: u64| usize::try_from(number).ok();
        let line = place.and_then(|place| number(place.line()));
        LocalFileError {
            file: file.to_owned(),
            line,
            column: place.and_then(|place| number(place.column())),
            field: line.and_then(|line| field_at(text, line)).and_then(|field| owner(field, text, line, &why)),
            why,
        }
    }
}

/// A key that is missing is reported at the last key that was read beside it, which is not at fault: what is above it
/// lacks something. In flow style the line's own key is what is above.
fn owner(field: String, text: &str, line: Option<usize>, why: &str) -> Option<String> {
    let line = line.and_then(|line| text.lines().nth(line.checked_sub(1)?)).unwrap_or_default();
    if !why.contains("missing field") || line.contains('{') {
        return Some(field);
    }
    field.rsplit_once('.').map(|(above, _)| above.to_owned())
}

impl fmt::Display for LocalFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        f.write_str(": ")?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for LocalFileError {}

/// The key at a line of block-style YAML, with the keys of smaller indentation above it. In flow style it is the key of
/// the line on which the collection began.
fn field_at(text: &str, line: usize) -> Option<String> {
    let mut path: Vec<&str> = Vec::new();
    let mut depth = usize::MAX;
    for text in text.lines().take(line).collect::<Vec<_>>().into_iter().rev() {
        let bare = text.trim_start_matches([' ', '-']);
        let indent = text.len() - bare.len();
        let Some((key, _)) = bare.split_once(':') else { continue };
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric());
        if is_key && indent < depth {
            path.push(key);
            depth = indent;
        }
    }
    path.reverse();
    (!path.is_empty()).then(|| path.join("."))
}

#[cfg(test)]
mod tests;
