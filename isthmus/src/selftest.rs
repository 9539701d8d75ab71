//! `isthmus selftest`: from inside a pod of a cluster, whether the mesh is there and has taken the pod in. `helm test` runs
//! it; it needs no permission in Kubernetes.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::cli::Selftest;
use crate::say;
use crate::shop::client::{ask, connect};

/// How often a level is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Each line says what holds; the exit status, whether all of it does.
pub async fn selftest(options: &Selftest) -> Result<ExitCode> {
    let mut held = true;
    if let Some(file) = &options.annotations {
        held &= line("this pod is in the mesh", within(options.wait, || enrolled(file)).await);
    }
    let version = within(options.wait, || version(&options.controller)).await;
    let right = version.and_then(|version| {
        let wanted = options.version.as_deref().unwrap_or(&version);
        ensure!(version == wanted, "version {version}; {wanted} was installed: an older one is still there, or an image has a wrong tag");
        Ok(())
    });
    held &= line(&format!("the controller answers at {}", options.controller), right);
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(what: &str, held: Result<()>) -> bool {
    match &held {
        Ok(()) => say::out(format!("holds  {what}")),
        Err(why) => say::out(format!("fails  {what}: {why:#}")),
    }
    held.is_ok()
}

/// Asks again until it holds or the time is over.
async fn within<T, F: Future<Output = Result<T>>>(limit: Duration, asked: impl Fn() -> F) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match asked().await {
            Err(_) if Instant::now() < end => sleep(LOOK_AGAIN).await,
            answer => return answer,
        }
    }
}

/// The agent writes the annotation when the pod's connections are captured (spec/dataplane.md 4.5); Kubernetes shows the
/// pod its annotations in a file.
async fn enrolled(file: &Path) -> Result<()> {
    let text = tokio::fs::read_to_string(file).await.with_context(|| file.display().to_string())?;
    state(&text)
}

/// Lines of `name="value"`.
fn state(annotations: &str) -> Result<()> {
    match annotations.lines().find_map(|line| line.strip_prefix("ambient.istio.io/redirection=")).map(|value| value.trim_matches('"')) {
        Some("enabled") => Ok(()),
        Some("pending") => bail!("the rules are there, and the node daemon has not taken it yet: kubectl logs -n istio-system -l app=ztunnel"),
        Some(other) => bail!("the annotation says {other:?}"),
        None => bail!("no annotation ambient.istio.io/redirection: kubectl logs -n istio-system -l app=mesh-cni"),
    }
}

async fn version(controller: &str) -> Result<String> {
    let mut connection = connect(controller).await?;
    let (status, body) = ask(&mut connection, controller, "/version").await?;
    ensure!(status.is_success(), "{controller}/version says {status}");
    Ok(String::from_utf8_lossy(&body).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_says_whether_the_pod_is_in_the_mesh() {
        for (file, held, said) in [
            ("a=\"b\"\nambient.istio.io/redirection=\"enabled\"\n", true, ""),
            ("ambient.istio.io/redirection=\"pending\"", false, "app=ztunnel"),
            ("ambient.istio.io/redirection=\"no\"", false, "\"no\""),
            ("x-ambient.istio.io/redirection=\"enabled\"", false, "app=mesh-cni"),
            ("", false, "app=mesh-cni"),
        ] {
            let found = state(file);
            assert_eq!(found.is_ok(), held, "{file}");
            assert!(found.err().map(|error| error.to_string()).unwrap_or_default().contains(said), "{file}");
        }
    }
}
