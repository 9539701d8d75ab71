//! The controller put together, in the order in which its parts need each other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use kube::{Api, Client};
use mesh_identity::channel::{HandshakeLimits, ServingTls, incoming};
use mesh_identity::serve::CaService;
use mesh_identity::tls::KeyExchange;
use mesh_identity::token::Verifier;
use mesh_identity::Clock;
use mesh_runtime::{Drain, Ready, Watched, admin, watched};
use mesh_xds::{Ads, ServerLimits, catalog};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::admission::bundle::keep_bundle;
use crate::admission::serve;
use crate::api_server;
use crate::ca::distribute::distribute;
use crate::ca::authn::{Authn, DiscoveryAuthn, Tokens};
use crate::ca::issue::{Counters, Issue};
use crate::ca::keep::{Keep, Told};
use crate::ca::live::Live;
use crate::ca::placements::Placements;
use crate::ca::review::Reviews;
use crate::ca::root;
use crate::config::Config;
use crate::gateways::apply::deploy;
use crate::gateways::template::Settings;
use crate::leader::{Candidate, Leadership};
use crate::metrics::{self, Sources};
use crate::reconcile::{ByName, Numbers, Reconcile};
use crate::status::plan::Page;
use crate::status::shown::Statuses;
use crate::status::{apply, objects};
use crate::translate::Translation;
use crate::watch::kubernetes::by_name;
use crate::watch::{files, kubernetes};

/// Where a running controller listens.
#[derive(Clone, Debug)]
pub struct Started {
    pub grpc: SocketAddr,
    pub monitoring: SocketAddr,
    pub http: SocketAddr,
    pub ready: Ready,
}

/// Starts everything; it runs until the drain ends it.
///
/// # Errors
/// What cannot be used, and what to do: a flag, a key, a port.
pub async fn start(config: Config, clock: Arc<dyn Clock>, drain: &Drain) -> anyhow::Result<Started> {
    let meaning = config.meaning().map_err(anyhow::Error::msg)?;

    let client = match config.kubernetes {
        true => Some(api_server::connect(config.kubeconfig.as_deref()).await?),
        false => None,
    };

    // who calls
    let (placements, placed) = watched(Placements::default());
    let tokens = match (&client, &config.token_public_key) {
        (Some(client), _) => Tokens::Cluster(Reviews::new(client.clone(), &config.token_audience)),
        (None, Some(path)) => Tokens::Ours(verifier(path, &config)?),
        (None, None) => anyhow::bail!("without --kubernetes tokens are checked with --token-public-key"),
    };
    let authn = Arc::new(Authn { tokens, cluster_id: config.cluster_id.clone(), rules: meaning.rules, machines: meaning.machines, placements: placed, clock: clock.clone() });

    // the authority, and its certificate for our own port
    let now = clock.now();
    let begin = root::Start {
        plugged_in: &config.plugged_in_ca,
        own: &config.ca_home,
        trust_domain: &config.trust_domain,
        root_life: config.self_signed_ca_ttl,
        published: &root::published(config.root_cert_out.as_deref()),
        lifetimes: meaning.lifetimes,
        times: meaning.times,
    };
    let (source, stored) = match &client {
        Some(client) => root::load_in_cluster(&begin, Api::namespaced(client.clone(), &config.namespace), Api::namespaced(client.clone(), &config.namespace), now).await?,
        None => root::load(&begin, now)?,
    };
    let ca = stored.ca(meaning.lifetimes, now)?;
    let serving = root::serving(&ca, &meaning.serving_names, now)?;
    let tls = ServingTls::new(serving.chain, &serving.key, ca.roots(), KeyExchange::default(), clock.clone()).context("our own certificate cannot be served")?;
    let tls = Arc::new(tls);
    if let Some(path) = &config.root_cert_out {
        root::write_bundle(&ca, path)?;
    }
    let live = Arc::new(Live::new(ca, stored.book.longest_life, stored.session_seeds()));
    let keep = Keep { source, stored, is_told: true, live: live.clone(), lifetimes: meaning.lifetimes, times: meaning.times, clock };

    // what is told, and to whom
    let (writer, told) = catalog();
    let ads = Ads::new(told.clone(), DiscoveryAuthn(authn.clone()), ServerLimits::default(), rand::random(), drain.soft_token());
    let recorder = metrics::recorder();
    ads.measured_by(metrics::Pushes::new(&recorder));
    let certificates = Arc::new(Counters::default());
    let issue = Issue { live: live.clone(), authn, counters: certificates.clone() };

    // the ports, all of them before anything is served
    let grpc = listen("--secure-grpc-address", config.secure_grpc_address).await?;
    let monitoring = listen("--monitoring-address", config.monitoring_address).await?;
    let http = listen("--http-address", config.http_address).await?;
    let https = match (&client, config.validation) {
        (Some(_), true) => Some(listen("--https-address", config.https_address).await?),
        _ => None,
    };
    let ready = Ready::new();
    let started = Started { grpc: grpc.local_addr()?, monitoring: monitoring.local_addr()?, http: http.local_addr()?, ready: ready.clone() };

    // the cluster: sources, translation, status
    let (pages, shown) = watch::channel(Arc::new(Page::default()));
    let (numbers, counted) = watch::channel(Numbers::default());
    let (batches, batched) = mpsc::channel(1);
    let (dumps, dumped) = mpsc::channel(4);
    let mut translation = Translation::new(meaning.settings, &config.revision);
    if let Some(path) = &config.status_file {
        for (entry, host, ip) in apply::earlier(path).remembered() {
            translation.remember(entry, host.into(), ip);
        }
        drain.spawn(apply::keep(path.clone(), shown.clone(), drain.soft_token()));
    }
    let configuration = translation.cluster().config_key().name.clone();
    let block = Some(ready.block("sources"));
    let session_seeds = live.session_seeds();
    translation.seal_sessions_with(session_seeds.borrow().clone());
    let by_name = client.clone().map(|client| {
        let (wanted, asked) = watch::channel(by_name::Wanted::new());
        let (answers, found) = mpsc::channel(1);
        drain.spawn(by_name::read_by_name(client, asked, answers, drain.soft_token()));
        ByName { wanted, found, answered: Default::default() }
    });
    let rejections = ads.rejections();
    let (origins, findings) = Default::default();
    let reconcile = Reconcile { translation, session_seeds, catalog: writer, placements, pages, numbers, rejections, block, by_name, origins, findings, is_read: false };
    drain.spawn(reconcile.run(batched, dumped, drain.soft_token()));
    let leadership = match client {
        Some(client) => {
            let (publisher, statuses) = watched(Statuses::default());
            drain.spawn(kubernetes::watch(client.clone(), configuration, batches, publisher, drain.soft_token()));
            let me = config.replica();
            let (candidate, leadership) = Candidate::new(Api::namespaced(client.clone(), &config.namespace), &config.lease(), &me);
            let writes = Writes { client, me, manager: objects::field_manager(&config.revision), bundle: live.bundle(), pages: shown.clone(), statuses, webhook: config.webhook(), waypoints: config.waypoints().map_err(anyhow::Error::msg)? };
            drain.spawn(lead(candidate, leadership.clone(), writes, drain.soft_token()));
            leadership
        }
        None => {
            drain.spawn(files::watch(config.folders.clone(), batches, drain.soft_token()));
            Leadership::always()
        }
    };

    // serve
    let reviews = Arc::new(serve::Counters::default());
    if let Some(https) = https {
        drain.spawn(serve::serve(https, tls.clone(), reviews.clone(), drain.clone()));
    }
    let sources = Sources { started: Instant::now(), ads: ads.clone(), catalog: told, numbers: counted, certificates, reviews, leadership, authority: live, recorder };
    let routes = Arc::new(Admin { ready, sources, pages: shown, dumps, cluster_id: config.cluster_id }.routes());
    drain.spawn(admin::serve_tcp(monitoring, routes.clone(), admin::Limits::DEFAULT, drain.clone()));
    drain.spawn(admin::serve_tcp(http, routes, admin::Limits::DEFAULT, drain.clone()));
    let services = ads.beside(CaService::new(Arc::new(issue)));
    let told = Told { serving: tls.clone(), names: meaning.serving_names, root_cert_out: config.root_cert_out };
    drain.spawn(keep.run(told, drain.soft_token()));
    let connections = incoming(grpc, tls, HandshakeLimits::default());
    let stop = drain.soft_token().cancelled_owned();
    drain.spawn(async move {
        if let Err(error) = mesh_xds::server::server().serve_with_incoming_shutdown(services, connections, stop).await {
            tracing::error!(%error, "discovery and certificates are not served any more; restart the controller");
        }
    });
    Ok(started)
}

/// What one of several replicas writes for all of them.
struct Writes {
    client: Client,
    me: String,
    /// Who owns the statuses that we write.
    manager: String,
    bundle: watch::Receiver<String>,
    pages: watch::Receiver<Arc<Page>>,
    statuses: Watched<Statuses>,
    webhook: Option<String>,
    /// What is deployed for Gateways.
    waypoints: Option<Settings>,
}

/// Contends for the lease, and writes while it is held.
async fn lead(candidate: Candidate, leadership: Leadership, writes: Writes, stop: CancellationToken) {
    let writes = &writes;
    let write = leadership.while_held(|| async move {
        let Writes { client, me, manager, bundle, pages, statuses, webhook, waypoints } = writes;
        let trust = async {
            match webhook {
                Some(name) => keep_bundle(client.clone(), name.clone(), bundle.clone()).await,
                None => std::future::pending().await,
            }
        };
        let deploying = async {
            match waypoints {
                Some(settings) => deploy(client.clone(), settings.clone(), pages.clone()).await,
                None => std::future::pending().await,
            }
        };
        let saying = objects::write(client.clone(), me, manager, pages.clone(), statuses.clone());
        tokio::join!(distribute(client.clone(), bundle.clone()), saying, trust, deploying);
    });
    tokio::select! {
        () = candidate.run(stop) => {}
        () = write => {}
    }
}

fn verifier(path: &Path, config: &Config) -> anyhow::Result<Verifier> {
    let flag = || format!("--token-public-key {}", path.display());
    let key = std::fs::read_to_string(path).with_context(flag)?;
    Verifier::new(&key, &config.token_issuer, &config.token_audience).with_context(flag)
}

async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}: stop what uses the port, or choose another with {flag}"))
}

#[cfg(test)]
mod tests;
