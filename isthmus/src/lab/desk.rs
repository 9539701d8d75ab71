//! The files that `up` lays out for the nodes' agents and for the controller. Each is written whole, where its content
//! changed, and taken away when it is laid out no more.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::lab::state::write_whole;

#[derive(Debug, Default)]
pub struct Desk {
    written: BTreeMap<PathBuf, Vec<u8>>,
}

impl Desk {
    /// From now on these files are there, and no others of ours.
    pub fn lay_out(&mut self, files: BTreeMap<PathBuf, Vec<u8>>) -> anyhow::Result<()> {
        let stale: Vec<PathBuf> = self.written.keys().filter(|path| !files.contains_key(*path)).cloned().collect();
        for path in stale {
            let _ = std::fs::remove_file(&path); // already gone is as well
            self.written.remove(&path);
        }
        for (path, content) in files {
            if self.written.get(&path) != Some(&content) {
                write_whole(&path, &content)?;
                self.written.insert(path, content);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_out_is_there_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, foreign] = ["a", "b", "foreign"].map(|name| folder.path().join(name));
        std::fs::write(&foreign, "x").unwrap();
        let mut desk = Desk::default();
        desk.lay_out([(a.clone(), b"1".to_vec()), (b.clone(), b"1".to_vec())].into()).unwrap();
        std::fs::write(&a, "changed by somebody").unwrap();
        desk.lay_out([(a.clone(), b"1".to_vec())].into()).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), b"changed by somebody", "what did not change is not written again");
        assert!(!b.exists() && foreign.exists());
        desk.lay_out([(a.clone(), b"2".to_vec())].into()).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), b"2");
    }
}
