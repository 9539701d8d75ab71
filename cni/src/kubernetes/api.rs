//! The connection to the API server: from within its cluster, or by a kubeconfig.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

/// An API server of the same cluster answers in milliseconds; one that has not after this is gone, and another replica
/// behind its address may be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// # Errors
/// What is missing, and where it was looked for. That the API server answers is not asked here.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let named = || format!("kubeconfig {}", path.display());
            let read = Kubeconfig::read_from(path).with_context(named)?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.with_context(named)?
        }
        None => Config::incluster().context("this process is not in a pod with a ServiceAccount's token; outside of a cluster name a file with --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).context("the client of the API server cannot be made")
}
