//! Reads the file, and reads it again when it has changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_xds::world::{Edit, WorldWriter};

use super::{File, FileError, short};
use crate::settings::Store;

/// How often the file is looked at. A look reads it: a file that is replaced through a link (a ConfigMap) keeps its dates.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A larger file is refused unread.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A file in force, and what it was made of.
pub struct Follow {
    path: PathBuf,
    store: Store,
    /// None: addresses come from the control plane.
    world: Option<WorldWriter>,
    text: String,
    file: File,
}

impl Follow {
    /// Reads the file for the first time and puts it in force.
    ///
    /// # Errors
    /// The file cannot be read, or its text; a proxy does not start with half of what it was to enforce.
    pub async fn begin(path: &Path, store: Store, world: Option<WorldWriter>) -> anyhow::Result<Follow> {
        let mut follow = Follow { path: path.to_owned(), store, world, text: String::new(), file: File::default() };
        let text = read(path).await?;
        follow.apply(text)?;
        Ok(follow)
    }

    /// Follows the file for as long as it is polled. What cannot be read leaves in force what was.
    pub async fn run(mut self) {
        let mut refused = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let text = match read(&self.path).await {
                Ok(text) if text == self.text || text == refused => continue,
                Ok(text) => text,
                Err(error) => {
                    tracing::warn!(%error, "the configuration cannot be read; what was read before stays in force");
                    continue;
                }
            };
            match self.apply(text.clone()) {
                Ok(()) => {
                    refused.clear();
                    tracing::info!(file = %self.path.display(), "the configuration has changed and is in force");
                }
                Err(error) => {
                    tracing::error!(%error, "the configuration is refused; what was read before stays in force");
                    refused = text;
                }
            }
        }
    }

    fn apply(&mut self, text: String) -> Result<(), FileError> {
        let name = self.path.display().to_string();
        let next = File::parse(&name, &text)?;
        if self.world.is_none() && !(next.workloads.is_empty() && next.services.is_empty()) {
            let why =
                "addresses come from the control plane: take Workload and Service out, or leave XDS_ADDRESS empty".to_owned();
            return Err(FileError { file: name, line: 1, why });
        }
        for (type_url, gone) in self.file.resources.keys().filter(|key| !next.resources.contains_key(*key)) {
            // A removal is never refused.
            let _ = self.store.take(type_url, gone, None);
        }
        for ((type_url, resource), content) in &next.resources {
            if let Err(problem) = self.store.take(type_url, resource, Some(&content.bytes)) {
                let kind = short(type_url);
                tracing::error!(
                    state = problem.state.word(),
                    "{name}:{}: {kind} {resource}: {}",
                    content.line,
                    problem.rejection
                );
            }
        }
        self.store.publish();
        if let Some(world) = &mut self.world {
            world.apply(next.changes_from(&self.file).into_iter().map(Edit::Address));
        }
        self.file = next;
        self.text = text;
        Ok(())
    }
}

async fn read(path: &Path) -> anyhow::Result<String> {
    use anyhow::Context;
    let size = tokio::fs::metadata(path).await.with_context(|| format!("{}", path.display()))?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{}: more than {FILE_BYTES_MAX} bytes", path.display());
    tokio::fs::read_to_string(path).await.with_context(|| format!("{}", path.display()))
}
