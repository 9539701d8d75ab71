//! The connection to a cluster: by kubeconfig, or from within a pod; and asking a pod on its own loopback, by
//! port-forward: node daemons and controllers answer operators there only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use crate::mesh::ask::over;

/// An API server that has not taken a connection after this is not to be reached from here.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A pod's answer comes through the API server and a kubelet, and may be a dump of some megabytes.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// How the operator named the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    /// The context and the server's address, for people.
    pub about: String,
    /// The namespace of the context: where names without one are looked for.
    pub namespace: String,
}

pub async fn connect(named: &Named) -> anyhow::Result<Cluster> {
    let (mut config, context) = config(named).await?;
    config.connect_timeout = Some(CONNECT_WITHIN);
    config.read_timeout = Some(ANSWER_WITHIN);
    let about = format!("cluster {context} at {}", config.cluster_url.to_string().trim_end_matches('/'));
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).with_context(|| {
        format!("{about}: the client cannot be made; if the reason is UnsupportedCertVersion, the kubeconfig's client certificate is of X.509 version 1: make one of version 3, or use a token")
    })?;
    Ok(Cluster { client, about, namespace })
}

/// The kubeconfig as kubectl finds it (`--kubeconfig`, KUBECONFIG, ~/.kube/config), else this pod's own account.
async fn config(named: &Named) -> anyhow::Result<(Config, String)> {
    let read = match &named.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {} cannot be read", path.display())),
        None => Kubeconfig::read().context("there is no kubeconfig (KUBECONFIG, ~/.kube/config); name one with --kubeconfig"),
    };
    let read = match read {
        Ok(read) => read,
        Err(_) if named == &Named::default() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
            return Ok((Config::incluster().context("this pod has no account's token to ask the API server with")?, "of this pod".to_owned()));
        }
        Err(error) => return Err(error),
    };
    let context = named.context.clone().or_else(|| read.current_context.clone()).unwrap_or_default();
    let known = read.contexts.iter().map(|one| one.name.clone()).collect::<Vec<_>>().join(", ");
    let options = KubeConfigOptions { context: named.context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read, &options).await.with_context(|| format!("context {context:?} of the kubeconfig cannot be used; its contexts are: {known}"))?;
    Ok((config, context))
}

/// GET from a port on the loopback of a pod.
pub async fn get(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> anyhow::Result<Bytes> {
    let asked = async {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let mut forwarded = pods.portforward(pod, &[port]).await.context("port-forward is refused (it needs the right to create pods/portforward)")?;
        let stream = forwarded.take_stream(port).context("the API server forwards no such port")?;
        let failed = forwarded.take_error(port).context("the API server forwards no such port")?;
        tokio::select! {
            answer = over(stream, path) => answer,
            Some(why) = failed => anyhow::bail!("{}", why.trim()),
        }
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await.map_err(|_| anyhow::anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs()));
    answer.and_then(|answer| answer).with_context(|| format!("GET {path} from port {port} of pod {namespace}/{pod} failed"))
}
