//! Puts the plugin where the container runtime finds it, keeps it there while others change the folder, and takes it away.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::conflist::{TYPE, candidates, with_us, without_us};
use crate::kubernetes::leave::Stay;
use crate::metrics::Metrics;
use crate::plugin::KUBECONFIG;

/// Between two looks: another network's installer may rewrite its list at any time, and until we are in it again pods of
/// the mesh start in the clear (they are found and enrolled while they run). A look reads one small file.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where a pod has the certificate of the API server's authority.
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// What is put where.
#[derive(Clone, Debug)]
pub struct Install {
    /// The folders of the node, as this process sees them.
    pub configurations: PathBuf,
    pub binaries: PathBuf,
    /// The agent's own folder, which is at the same path for the plugin.
    pub run: PathBuf,
    /// The list to be in; else the first by name.
    pub list: Option<String>,
    pub entry: Value,
    pub asking: Option<Asking>,
    /// The plugin as this agent put it there.
    pub put: Arc<Mutex<Option<Stamp>>>,
}

/// What tells a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    mode: u32,
    modified: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Stamp {
        Stamp { inode: meta.ino(), size: meta.len(), mode: meta.mode(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// How the plugin asks the API server.
#[derive(Clone, Debug)]
pub struct Asking {
    /// `https://HOST:PORT`.
    pub server: String,
    /// `None` while there is none yet.
    pub token: watch::Receiver<Option<String>>,
}

impl Install {
    /// Everything that is not as it should be is written. Whether anything was; `Ok(false)` too while there is no network
    /// yet to which the plugin could be added.
    ///
    /// # Errors
    /// What cannot be written, or read.
    pub fn put(&self) -> anyhow::Result<bool> {
        // The list last: from then on the runtime runs the rest.
        let binary = self.put_binary().with_context(|| format!("cannot put the plugin into {}", self.binaries.display()))?;
        let config = self.put_kubeconfig().with_context(|| format!("cannot write a kubeconfig for the plugin into {}", self.run.display()))?;
        Ok(self.put_entry()? | binary | config)
    }

    /// Into the file that the runtime takes.
    fn put_entry(&self) -> anyhow::Result<bool> {
        let mut wrong = None;
        for name in self.lists()? {
            let path = self.configurations.join(&name);
            let read = fs::read_to_string(&path).map_err(|error| error.to_string());
            match read.and_then(|text| with_us(&name, &text, &self.entry)) {
                Ok(None) => return Ok(false),
                Ok(Some((new_name, new_text))) => {
                    replace(&self.configurations.join(&new_name), new_text.as_bytes(), fs::metadata(&path)?.mode())?;
                    if new_name != name {
                        fs::remove_file(&path).with_context(|| path.display().to_string())?;
                    }
                    tracing::info!(list = new_name, "the plugin is in the node's list of CNI plugins");
                    return Ok(true);
                }
                Err(error) => drop(wrong.get_or_insert(format!("{}: {error}", path.display()))),
            }
        }
        wrong.map_or(Ok(false), |wrong| Err(anyhow::Error::msg(wrong)))
    }

    /// Takes everything of it away; what is not there is fine.
    ///
    /// # Errors
    /// The first that cannot be removed; the list comes first, so that the runtime never runs what is not there.
    pub fn remove(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.configurations).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(text) = fs::read_to_string(&path).ok() else { continue };
            if let Ok(Some(without)) = without_us(&text) {
                replace(&path, without.as_bytes(), fs::metadata(&path)?.mode())?;
            }
        }
        for path in [self.run.join(KUBECONFIG), self.binaries.join(TYPE)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(|| path.display().to_string()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps it as it should be until the agent leaves, then takes it away.
    pub async fn keep(self, metrics: Metrics, stay: watch::Sender<Stay>) {
        let mut told = String::new();
        let mut staying = stay.subscribe();
        while !stay.borrow().is_over() {
            let install = self.clone();
            match tokio::task::spawn_blocking(move || install.put()).await.expect("it does not panic") {
                Ok(written) => {
                    metrics.installs.increment(u64::from(written));
                    metrics.install_ready.set(1.0);
                    told.clear();
                }
                Err(error) => {
                    metrics.install_ready.set(0.0);
                    let text = format!("{error:#}");
                    if std::mem::replace(&mut told, text.clone()) != text {
                        tracing::error!(error = text, "the plugin is not installed as it should be, trying again; pods are still enrolled once they run");
                    }
                }
            }
            // An error: nobody holds the sender, and only the agent's end does that.
            let _ = timeout(LOOK_EVERY, staying.wait_for(|now| now.is_over())).await;
        }
        loop {
            let install = self.clone();
            match tokio::task::spawn_blocking(move || install.remove()).await.expect("it does not panic") {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the plugin cannot be removed, trying again");
                    sleep(LOOK_EVERY).await;
                }
            }
        }
        metrics.install_ready.set(0.0);
        tracing::info!("the plugin is no longer in the node's list of CNI plugins");
        stay.send_replace(Stay::Unplugged);
    }

    fn lists(&self) -> anyhow::Result<Vec<String>> {
        if let Some(name) = &self.list {
            return Ok(self.configurations.join(name).exists().then(|| name.clone()).into_iter().collect());
        }
        let folder = fs::read_dir(&self.configurations).with_context(|| self.configurations.display().to_string())?;
        Ok(candidates(folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()))
    }

    /// By each agent once, and whenever it is not as that left it: reading 20 MB each second would be noticed, and two
    /// versions may have the same size and the same time.
    fn put_binary(&self) -> io::Result<bool> {
        let path = self.binaries.join(TYPE);
        let mut put = self.put.lock().expect("no code that holds this lock can panic");
        if put.is_some() && fs::metadata(&path).is_ok_and(|there| *put == Some(Stamp::of(&there))) {
            return Ok(false);
        }
        let draft = self.binaries.join(format!(".{TYPE}"));
        let mut to = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&draft)?;
        io::copy(&mut fs::File::open("/proc/self/exe")?, &mut to)?;
        to.set_permissions(fs::Permissions::from_mode(0o755))?;
        to.sync_all()?;
        fs::rename(draft, path)?;
        *put = Some(Stamp::of(&to.metadata()?));
        Ok(true)
    }

    /// Written anew when the token is.
    fn put_kubeconfig(&self) -> io::Result<bool> {
        let Some(Asking { server, token }) = &self.asking else { return Ok(false) };
        let Some(token) = token.borrow().clone() else { return Ok(false) };
        let authority = fs::read(AUTHORITY)?;
        let authority = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, authority);
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "mesh",
            "clusters": [{"name": "mesh", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "mesh", "user": {"token": token}}],
            "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": "mesh"}}],
        })
        .to_string(); // JSON is YAML
        let path = self.run.join(KUBECONFIG);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(false);
        }
        fs::create_dir_all(&self.run)?;
        replace(&path, text.as_bytes(), 0o600)?;
        Ok(true)
    }
}

/// Nobody ever sees half of it, also after a crash.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{TYPE}"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode & 0o777).open(&draft)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    file.sync_all()?;
    fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_put_kept_and_taken_away() {
        let node = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = node.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let install = Install {
            configurations: folder("net.d"),
            binaries: folder("bin"),
            run: folder("run"),
            list: None,
            entry: json!({"type": TYPE, "name": TYPE}),
            asking: None,
            put: Arc::default(),
        };
        assert!(install.put().unwrap(), "the binary");
        assert!(!install.put().unwrap(), "there is no network yet");
        let list = install.configurations.join("10-net.conflist");
        let theirs = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}).to_string();
        let ours = || fs::read_to_string(&list).unwrap().contains(TYPE);
        for _ in 0..2 {
            // the network's installer writes its list, and does so again later
            fs::write(&list, &theirs).unwrap();
            fs::set_permissions(&list, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(install.put().unwrap() && ours());
            assert_eq!(fs::metadata(&list).unwrap().mode() & 0o777, 0o640);
            assert!(!install.put().unwrap(), "nothing to do");
        }
        let binary = install.binaries.join(TYPE);
        assert_eq!(fs::metadata(&binary).unwrap().mode() & 0o777, 0o755);
        fs::write(&binary, "old").unwrap();
        assert!(install.put().unwrap() && fs::metadata(&binary).unwrap().len() > 1000);
        // the runtime passes over what is no configuration, and so do we
        let junk = install.configurations.join("05-junk.conf");
        fs::write(&junk, "{").unwrap();
        fs::write(&list, &theirs).unwrap();
        assert!(install.put().unwrap() && ours());
        assert_eq!(fs::read_to_string(&junk).unwrap(), "{");
        fs::remove_file(junk).unwrap();
        // a list that cannot be read is reported and left alone
        fs::write(&list, "{").unwrap();
        assert!(install.put().unwrap_err().to_string().contains("10-net.conflist"));
        assert_eq!(fs::read_to_string(&list).unwrap(), "{");
        fs::write(&list, &theirs).unwrap();
        install.put().unwrap();
        install.remove().unwrap();
        install.remove().unwrap();
        assert!(!ours() && !binary.exists());
        assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(&list).unwrap()).unwrap(), serde_json::from_str::<Value>(&theirs).unwrap());
        let left: Vec<_> = fs::read_dir(&install.configurations).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["10-net.conflist"]);
    }
}
