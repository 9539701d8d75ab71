//! The state file: everything that `up` made, written before it is made, so that `down` finds it after a crash, and
//! so that the other commands know where things are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::lab::process::ProcessId;
use crate::objects::PodName;
use crate::plan::{Addresses, Ids, NodePlan};

/// A mesh on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub mesh: String,
    /// The `isthmus up` that runs it.
    pub up: ProcessId,
    pub run: PathBuf,
    /// The operator's folder of Kubernetes YAML.
    pub folder: PathBuf,
    /// Whether the mesh's programs run, or only nodes and pods (a hidden switch of `up`, for tests of the ground).
    pub meshed: bool,
    pub ids: Ids,
    pub netns: Vec<String>,
    pub nodes: Vec<NodePlan>,
    pub programs: Vec<Program>,
    pub pods: Vec<PodState>,
    /// Whether everything that the folder asked for at the start is running.
    pub ready: bool,
}

/// A program of the mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    /// The node that it serves; none for the controller.
    pub node: Option<String>,
    pub netns: String,
    pub process: Option<ProcessId>,
    pub log: PathBuf,
    pub restarts: u32,
}

/// A pod as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodState {
    pub name: PodName,
    pub uid: String,
    pub node: String,
    pub netns: String,
    pub veth: String,
    pub addresses: Addresses,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    /// Whom its first container runs as, if not root.
    pub user: Option<u32>,
    pub group: Option<u32>,
    /// Whether its labels ask for the mesh.
    pub wanted: bool,
    pub phase: PodPhase,
    /// What the node's agent says: enabled, pending, refused, and why.
    pub redirection: String,
    /// How often its commands were started again.
    #[serde(default)]
    pub restarts: u32,
    /// Why one of its commands does not run at the moment.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Process 1 of the pod.
    pub init: Option<ProcessId>,
    pub log: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Its network stands; it waits for the mesh before its commands start.
    Pending,
    Running,
    /// It could not be started; its log says why.
    Failed,
}

/// The folder that holds the run directories of all meshes of this user.
pub fn base() -> PathBuf {
    base_of(nix::unistd::geteuid().as_raw(), std::env::var("ISTHMUS_BASE").ok())
}

/// Root has /run. Others have /tmp, because their /run is covered inside the namespaces that `up` makes for them; the
/// folder is passed on into those by ISTHMUS_BASE.
fn base_of(uid: u32, inherited: Option<String>) -> PathBuf {
    match inherited {
        Some(base) => base.into(),
        None if uid == 0 => "/run/isthmus".into(),
        None => format!("/tmp/isthmus-{uid}").into(),
    }
}

/// Makes a folder that only its owner can enter; refuses one that somebody else has put there.
pub fn private_folder(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        bail!("{} must be a folder of yours that others cannot enter (mode 0700); remove it and try again", path.display());
    }
    Ok(())
}

impl State {
    pub fn file(run: &Path) -> PathBuf {
        run.join("state.json")
    }

    /// Writes the file whole or not at all.
    pub fn save(&self) -> anyhow::Result<()> {
        write_whole(&State::file(&self.run), &serde_json::to_vec_pretty(self)?)
    }

    pub fn load(run: &Path) -> anyhow::Result<State> {
        let file = State::file(run);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is from another version of isthmus; run `isthmus down`", file.display()))
    }

    /// The mesh called `name`, or the only one there is.
    pub fn find(name: Option<&str>) -> anyhow::Result<State> {
        let run = match name {
            Some(name) => base().join(name),
            None => the_only_one(&names())?,
        };
        if !State::file(&run).exists() {
            bail!("no mesh called {:?} runs here; start one with `isthmus up`", run.file_name().unwrap_or_default());
        }
        State::load(&run)
    }

    /// The pod that the operator means: NAME, or NAMESPACE/NAME.
    pub fn pod(&self, given: &str) -> anyhow::Result<&PodState> {
        let matches: Vec<&PodState> = self.pods.iter().filter(|pod| pod.name.name == given || pod.name.to_string() == given).collect();
        match matches.as_slice() {
            [pod] => Ok(pod),
            [] => {
                let names: Vec<String> = self.pods.iter().map(|pod| pod.name.to_string()).collect();
                bail!("there is no pod {given}; the pods are: {}", names.join(", "))
            }
            several => bail!("{given} is the name of {} pods; write {}", several.len(), several.iter().map(|pod| pod.name.to_string()).collect::<Vec<_>>().join(" or ")),
        }
    }
}

/// Names of the meshes that have a run directory.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(base()) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn the_only_one(names: &[String]) -> anyhow::Result<PathBuf> {
    match names {
        [] => bail!("no mesh runs here; start one with `isthmus up`"),
        [name] => Ok(base().join(name)),
        several => bail!("several meshes run here; say which with --name: {}", several.join(", ")),
    }
}

/// Writes beside the file and renames, so that a reader never sees half of it.
pub fn write_whole(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.new"));
    fs::write(&beside, content).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, file).with_context(|| format!("cannot replace {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_folder_of_their_own() {
        assert_eq!(base_of(0, None), Path::new("/run/isthmus"));
        assert_eq!(base_of(1000, None), Path::new("/tmp/isthmus-1000"));
        assert_eq!(base_of(0, Some("/tmp/isthmus-1000".into())), Path::new("/tmp/isthmus-1000"));
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::DirBuilder::new().mode(0o755).create(&open).unwrap();
        assert!(private_folder(&open).unwrap_err().to_string().contains("0700"));
        private_folder(&folder.path().join("new/own")).unwrap();
    }
}
