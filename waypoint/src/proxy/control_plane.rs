//! What comes from the control plane: certificates, who is where, and what is served how.

use std::sync::Arc;

use anyhow::Context as _;
use mesh_identity::authority::{GrpcAuthority, Mode as CaMode};
use mesh_identity::channel::{self, CallHeaders, ChannelTls};
use mesh_identity::clock::Clock;
use mesh_identity::crl::Revocations;
use mesh_identity::store::Credentials;
use mesh_runtime::Ready;
use mesh_telemetry::families;
use mesh_telemetry::labels::fixed;
use mesh_telemetry::recorder::Recorder;
use mesh_xds::client::{Client, ClientConfig, ClientLimits, NodeMetadata, Observe, Sink, Termination, waypoint_node};
use mesh_xds::messages::discovery::Node;
use mesh_xds::messages::waypoint as wire;
use mesh_xds::world::{Edit, WorldWriter};
use rand::SeedableRng;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Remote};
use crate::settings::Store;
use crate::settings::file::follow::Follow;

pub(super) fn revocations(config: &Config, clock: &Arc<dyn Clock>) -> Arc<Revocations> {
    let Some(path) = config.crl.clone() else { return Revocations::disabled() };
    let revocations = Revocations::new(clock.clone());
    let following = revocations.clone();
    tokio::spawn(async move { following.follow(&path).await });
    revocations
}

pub(super) fn credentials(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Credentials> {
    let tls = channel_tls(config, &config.ca, clock).context("CA_ADDRESS")?;
    let channel = channel::connect(&config.ca.address, tls, channel::tcp)?;
    let headers = CallHeaders::new(config.token.clone(), &config.place.cluster_id, &config.ca.headers).context("CA_HEADER_*")?;
    let authority = Arc::new(GrpcAuthority::new(channel, headers, CaMode::Dedicated));
    Ok(Credentials::new(authority, clock.clone(), config.certificate_life, rand::random()))
}

fn channel_tls(config: &Config, to: &Remote, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<ChannelTls>> {
    let alternative = to.alternative_name.as_deref();
    Ok(Arc::new(ChannelTls::new(to.roots.clone(), &to.address.host, alternative, config.key_exchange, clock.clone())?))
}

/// Learns who is where and what is served how: from the control plane, from a file, or the one from here and the other from
/// there. `complete` is ready when all of it is known.
pub(super) async fn learn(
    config: &Config,
    clock: &Arc<dyn Clock>,
    mut writer: WorldWriter,
    store: Store,
    recorder: &Recorder,
    complete: &Ready,
) -> anyhow::Result<()> {
    let store = store.counted_by(recorder.clone());
    match (&config.xds, &config.file) {
        (Some(xds), None) => follow(config, xds, clock, writer, Box::new(store), recorder, complete),
        (Some(xds), Some(file)) => {
            let file = Follow::begin(file, store, None).await.context("WAYPOINT_CONFIG_FILE")?;
            tokio::spawn(file.run());
            follow(config, xds, clock, writer, Box::new(Elsewhere), recorder, complete)
        }
        (None, Some(file)) => {
            writer.apply([Edit::AddressesSynced, Edit::PoliciesSynced]);
            let file = Follow::begin(file, store, Some(writer)).await.context("WAYPOINT_CONFIG_FILE")?;
            tokio::spawn(file.run());
            Ok(())
        }
        (None, None) => anyhow::bail!("XDS_ADDRESS is empty and there is no WAYPOINT_CONFIG_FILE: there is nobody to learn from"),
    }
}

fn follow(
    config: &Config,
    xds: &Remote,
    clock: &Arc<dyn Clock>,
    writer: WorldWriter,
    sink: Box<dyn Sink>,
    recorder: &Recorder,
    complete: &Ready,
) -> anyhow::Result<()> {
    let tls = channel_tls(config, xds, clock).context("XDS_ADDRESS")?;
    let (place, address) = (&config.place, xds.address.clone());
    let client_config = ClientConfig {
        server: format!("https://{}:{}", address.host, address.port).parse()?,
        node: node(config),
        cluster_id: place.cluster_id.to_string(),
        headers: xds.headers.clone(),
        on_demand: false,
        limits: ClientLimits::default(),
    };
    let dial = move || {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let io = channel::tcp(address).await?;
            tls.secure(io).await.map_err(std::io::Error::other)
        }
    };
    let source = config.token.clone();
    let token = move || source.read();
    let client = Client::new(client_config, dial, token, writer, rand::rngs::SmallRng::from_os_rng())
        .instead_of_policies(&wire::ALL, sink)
        .observed_by(Counted(recorder.clone()))
        .blocking(complete.block("control plane"));
    tokio::spawn(client.run(CancellationToken::new()));
    Ok(())
}

/// Who this is, to the control plane.
pub(super) fn node(config: &Config) -> Node {
    let place = &config.place;
    let metadata = place.metadata.iter().map(|(key, value)| NodeMetadata::text(key, value));
    let (name, namespace, domain) = (&place.pod_name, &place.namespace, &place.cluster_domain);
    waypoint_node(name, namespace, &place.node, place.instance_ip, &place.gateway, domain, metadata)
}

/// The control plane's resources, where a file has taken their place.
struct Elsewhere;

impl Sink for Elsewhere {
    fn take(&mut self, _: &str, _: &str, _: Option<&[u8]>) -> Result<(), Box<wire::ResourceStatus>> {
        Ok(())
    }

    fn settled(&mut self) {}
}

/// The client's life in metrics.
struct Counted(Recorder);

impl Observe for Counted {
    fn message(&self, type_url: &str, bytes: usize) {
        let labels = [metrics::Label::new("url", type_url.to_owned())];
        self.0.counter(&families::XDS_MESSAGES, &labels).increment(1);
        self.0.counter(&families::XDS_BYTES, &labels).increment(bytes as u64);
    }

    fn terminated(&self, how: Termination) {
        self.0.counter(&families::XDS_TERMINATIONS, &[fixed("reason", how.word())]).increment(1);
    }
}
