//! Writes the page to its file whenever it differs, and reads it back at start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::Page;
use crate::ca::root::write_whole;

/// The page of the process before this one; nothing when there is none or it cannot be read, which costs only the
/// addresses of hosts that the pool's order does not give again.
pub fn earlier(path: &Path) -> Page {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Page::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the status of an earlier run cannot be read");
            return Page::default();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the status of an earlier run is not understood");
        Page::default()
    })
}

/// Writes until told to stop; the last page is always written.
pub async fn keep(path: PathBuf, mut pages: watch::Receiver<Arc<Page>>, stop: CancellationToken) {
    let mut written: Option<Arc<Page>> = None;
    loop {
        let is_last = tokio::select! {
            changed = pages.changed() => changed.is_err(),
            _ = stop.cancelled() => true,
        };
        let page = pages.borrow_and_update().clone();
        if written.as_ref() != Some(&page) && page.as_ref() != &Page::default() {
            match write(&path, &page).await {
                Ok(()) => written = Some(page),
                Err(error) => tracing::warn!(path = %path.display(), %error, "the status cannot be written"),
            }
        }
        if is_last {
            return;
        }
    }
}

async fn write(path: &Path, page: &Arc<Page>) -> std::io::Result<()> {
    let (path, page) = (path.to_owned(), page.clone());
    let task = tokio::task::spawn_blocking(move || write_whole(&path, &serde_json::to_vec_pretty(&*page)?));
    task.await.unwrap_or_else(|_| Err(std::io::Error::other("the writer was stopped")))
}
