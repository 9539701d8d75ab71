//! The daemon's own tunnel listener: its metrics over HBONE, with its own identity, under the policies of its own
//! workload (spec/dataplane.md 1.1, spec/controlplane.md 2.11). There is one in shared mode when the daemon has been told
//! who it is; in dedicated mode the port is the workload's.

use std::sync::Arc;

use mesh_model::identity::SpiffeId;
use mesh_net::linux::HostNet;
use mesh_net::sockopt::{Options, Spoofing};
use mesh_runtime::Drain;
use tokio::runtime::Handle;

use crate::config::{Config, Mode};
use crate::enroll::PodInfo;
use crate::pod::{Mesh, Pod, Serves};

/// As whom the daemon speaks, where it has been told: `POD_NAMESPACE`, `SERVICE_ACCOUNT` and `POD_NAME`, all three.
pub fn identity(config: &Config) -> Option<SpiffeId> {
    let place = &config.place;
    let told = [&place.pod_namespace, &place.service_account, &place.pod_name].iter().all(|name| !name.is_empty());
    let shared = matches!(config.mode, Mode::Shared { .. });
    (shared && told).then(|| SpiffeId::new(&place.trust_domain, &place.pod_namespace, &place.service_account))
}

/// Serves it until the daemon drains.
///
/// # Errors
/// The port is taken.
pub async fn serve(config: &Config, options: Options, mesh: &Arc<Mesh>, workers: &Handle, drain: Drain) -> std::io::Result<()> {
    let Some(identity) = identity(config) else { return Ok(()) };
    let info = PodInfo {
        name: config.place.pod_name.as_str().into(),
        namespace: identity.namespace.clone(),
        service_account: identity.service_account.clone(),
    };
    let serves = Serves::Daemon { identity, port: config.ports.metrics };
    // Nothing is captured where the daemon itself runs, and its metrics need not know who reads them.
    let net = HostNet::new(Options { mark: None, spoofing: Spoofing::Never, ..options });
    let mesh = mesh.clone();
    let starting = workers.spawn(async move { Pod::start_own(info, serves, net, mesh, drain).await });
    starting.await.map_err(std::io::Error::other)?.map(drop)
}
