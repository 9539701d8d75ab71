//! Where the programs of the mesh are on this machine.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where the programs are: beside this one.
#[derive(Clone, Debug)]
pub struct Bin {
    pub folder: PathBuf,
}

impl Bin {
    pub fn own() -> anyhow::Result<Bin> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(Bin { folder: own.parent().unwrap_or(Path::new("/")).to_owned() })
    }

    pub fn find(&self, program: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(program);
        anyhow::ensure!(path.is_file(), "{program} is missing: it should be beside isthmus in {}; build it with `cargo build`", self.folder.display());
        Ok(path)
    }
}
