//! The controller's own metrics (spec/controlplane.md 10.1), read from where they are counted when somebody scrapes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_runtime::Watched;
use mesh_telemetry::recorder::{Limits, Recorder};
use mesh_telemetry::{Family, families, process};
use mesh_xds::messages::{ADDRESS, AUTHORIZATION};
use mesh_xds::{Ads, Catalog};
use metrics::Label;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::serve;
use crate::ca::issue::Counters;
use crate::ca::live::Live;
use crate::leader::Leadership;
use crate::objects::Kind;
use crate::reconcile::Numbers;

mod pushes;
pub use pushes::Pushes;

const INFO: Family = Family::gauge("pilot_info", "The version that runs");
const UPTIME: Family = Family::gauge("istiod_uptime_seconds", "Seconds since the start");
const CLIENTS: Family = Family::gauge("pilot_xds", "Connected discovery clients");
const STREAMS: Family = Family::counter_of_fractions("pilot_xds_streams", "Discovery streams that were opened");
const RESOURCES: Family = Family::counter_of_fractions("pilot_xds_resources_sent", "Resources sent in them");
const TIMEOUTS: Family = Family::counter_of_fractions("pilot_xds_write_timeout", "Streams that were ended because the client did not read");
const REJECTS: Family = Family::counter_of_fractions("pilot_total_xds_rejects", "Answers that a client refused");
const EXPIRED: Family = Family::gauge("pilot_xds_expired_nonce", "Requests of connected clients with a nonce of another stream");
const REFUSED: Family = Family::counter_of_fractions("pilot_xds_refused", "Discovery clients and subscriptions that were refused, by reason");
const EVENTS: Family = Family::counter_of_fractions("pilot_inbound_updates", "Objects that changed in the sources: svc Services, eds Pods and EndpointSlices, config all others");
const OF_CONFIGURATION: Family = Family::counter_of_fractions("pilot_k8s_cfg_events", "Events of kinds that come with a definition");
const OF_REGISTRY: Family = Family::counter_of_fractions("pilot_k8s_reg_events", "Events of Kubernetes' own kinds");
const TRIGGERS: Family = Family::counter_of_fractions("pilot_push_triggers", "Batches that changed what is told: endpoint workloads, service services, config policies");
const BATCHES: Family = Family::counter_of_fractions("pilot_source_batches", "Batches of changes that the sources told");
const UNITS: Family = Family::counter_of_fractions("pilot_translation_units", "Pieces of the translation that were computed");
const TRANSLATION: Family = Family::gauge("pilot_translation_seconds", "Duration of the last translation");
const SERVICES: Family = Family::gauge("pilot_services", "Services that are told");
const WORKLOADS: Family = Family::gauge("pilot_workloads", "Workloads that are told");
const POLICIES: Family = Family::gauge("pilot_policies", "Policies that are told");
const FAULTS: Family = Family::gauge("pilot_source_faults", "Files whose newest content is not used, and kinds that cannot be watched");
const CSR: Family = Family::counter_of_fractions("citadel_server_csr_count", "Certificate requests");
const ISSUED: Family = Family::counter_of_fractions("citadel_server_success_cert_issuance_count", "Certificates issued");
const CA_AUTHN: Family = Family::counter_of_fractions("citadel_server_authentication_failure_count", "Certificate requests of unknown callers or for identities they may not have");
const CSR_PARSE: Family = Family::counter_of_fractions("citadel_server_csr_parsing_err_count", "Certificate requests that cannot be read");
const CSR_SIGN: Family = Family::counter_of_fractions("citadel_server_csr_sign_err_count", "Certificates that could not be signed");
const ID_EXTRACTION: Family = Family::counter_of_fractions("citadel_server_id_extraction_err_count", "Certificate requests for what is no identity");
const LEADS: Family = Family::gauge("istiod_leader", "1 on the replica that writes statuses and objects");
const REFUSED_OBJECTS: Family = Family::gauge("pilot_refused_objects", "Objects of the API server whose newest state cannot be used");
const VALID: Family = Family::counter_of_fractions("galley_validation_passed", "Objects that were validated and found good");
const INVALID: Family = Family::counter_of_fractions("galley_validation_failed", "Objects that were refused before they were stored");
const VALIDATION_ERRORS: Family = Family::counter_of_fractions("galley_validation_http_error", "Requests to the webhook that were no reviews");
const ROOTS: Family = Family::gauge("pilot_ca_roots", "Roots in the trust bundle: more than one while the root is changed");
const ROOT_LEFT: Family = Family::gauge("citadel_server_root_cert_expiry_seconds", "Life that the first root of the trust bundle to end has left, seconds");
const ROOT_EXPIRY: Family = Family::gauge("citadel_server_root_cert_expiry_timestamp", "When the first root of the trust bundle ends, seconds since 1970");
const CHAIN_LEFT: Family = Family::gauge("citadel_server_cert_chain_expiry_seconds", "Life that the signing certificate has left, or one between it and the roots, seconds");
const CHAIN_EXPIRY: Family = Family::gauge("citadel_server_cert_chain_expiry_timestamp", "When the signing certificate ends, or one between it and the roots, seconds since 1970");

/// Where the numbers are.
#[derive(Clone)]
pub struct Sources {
    pub started: Instant,
    pub ads: Ads,
    pub catalog: Watched<Catalog>,
    pub numbers: watch::Receiver<Numbers>,
    pub certificates: Arc<Counters>,
    pub reviews: Arc<serve::Counters>,
    pub leadership: Leadership,
    pub authority: Arc<Live>,
    pub recorder: Recorder,
}

pub fn recorder() -> Recorder {
    Recorder::with_families(Limits::DEFAULT, &[families::BUILD])
}

/// Brings the recorder up to date.
pub fn collect(from: &Sources) {
    let version = env!("CARGO_PKG_VERSION");
    let set = |family: &Family, labels: &[(&'static str, &'static str)], value: f64| {
        let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::from_static_parts(key, value)).collect();
        from.recorder.gauge(family, &labels).set(value);
    };
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;

    // The figures of the runtime are those of the thread that is asked.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        process::record(&from.recorder, &runtime);
    }
    set(&families::BUILD, &[("component", "pilot"), ("tag", version)], 1.0);
    set(&INFO, &[("version", version)], 1.0);
    set(&UPTIME, &[], from.started.elapsed().as_secs_f64());

    let clients = from.ads.clients();
    set(&CLIENTS, &[("version", version)], clients.len() as f64);
    for (name, label) in [(ADDRESS, "wds"), (AUTHORIZATION, "wads")] {
        let stale: u64 = clients.iter().filter_map(|client| client.types.get(name)).map(|status| status.stale).sum();
        set(&EXPIRED, &[("type", label)], stale as f64);
    }
    let streams = from.ads.counters();
    set(&STREAMS, &[], count(&streams.streams));
    set(&TIMEOUTS, &[], count(&streams.write_timeouts));
    set(&RESOURCES, &[], count(&streams.resources));
    set(&REJECTS, &[], count(&streams.nacks));
    set(&REFUSED, &[("reason", "unauthenticated")], count(&streams.unauthenticated));
    set(&REFUSED, &[("reason", "claim")], count(&streams.claims_refused));
    set(&REFUSED, &[("reason", "subscription")], count(&streams.subscriptions_refused));
    set(&REFUSED, &[("reason", "limit")], count(&streams.over_limit));

    let numbers = *from.numbers.borrow();
    for kind in Kind::ALL {
        let family = if kind.is_built_in() { &OF_REGISTRY } else { &OF_CONFIGURATION };
        for (what, count) in numbers.of(kind) {
            set(family, &[("type", kind.name()), ("event", what)], count as f64);
        }
    }
    for (name, count) in numbers.inbound() {
        set(&EVENTS, &[("type", name)], count as f64);
    }
    set(&BATCHES, &[], numbers.batches as f64);
    for (name, count) in [("endpoint", numbers.told.workloads), ("service", numbers.told.services), ("config", numbers.told.policies)] {
        set(&TRIGGERS, &[("type", name)], count as f64);
    }
    set(&UNITS, &[], numbers.units_computed as f64);
    set(&TRANSLATION, &[], numbers.last_us as f64 / 1e6);
    set(&FAULTS, &[], numbers.faults as f64);
    let (services, addresses, policies) = from.catalog.with(|catalog| {
        let shelf = catalog.shelf(ADDRESS);
        let services = shelf.map_or(0, |shelf| shelf.offers().filter(|offer| offer.is_service).count());
        (services, shelf.map_or(0, |shelf| shelf.len()), catalog.shelf(AUTHORIZATION).map_or(0, |shelf| shelf.len()))
    });
    set(&SERVICES, &[], services as f64);
    set(&WORKLOADS, &[], addresses.saturating_sub(services) as f64);
    set(&POLICIES, &[], policies as f64);

    let certificates = &from.certificates;
    set(&LEADS, &[], if from.leadership.is_held() { 1.0 } else { 0.0 });
    set(&REFUSED_OBJECTS, &[], numbers.refused as f64);
    set(&VALID, &[], count(&from.reviews.passed));
    set(&INVALID, &[], count(&from.reviews.failed));
    set(&VALIDATION_ERRORS, &[], count(&from.reviews.http_errors));

    set(&CSR, &[], count(&certificates.requests));
    set(&ISSUED, &[], count(&certificates.issued));
    set(&CA_AUTHN, &[], count(&certificates.unauthenticated) + count(&certificates.not_allowed));
    set(&CSR_PARSE, &[], count(&certificates.bad_requests));
    set(&CSR_SIGN, &[], count(&certificates.sign_errors));
    set(&ID_EXTRACTION, &[], count(&certificates.bad_identities));
    let ca = from.authority.ca();
    set(&ROOTS, &[], ca.roots().len() as f64);
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let now = since_1970(SystemTime::now());
    let (root, chain) = (since_1970(ca.roots_end()), since_1970(ca.chain_ends()));
    set(&ROOT_EXPIRY, &[], root);
    set(&ROOT_LEFT, &[], root - now);
    set(&CHAIN_EXPIRY, &[], chain);
    set(&CHAIN_LEFT, &[], chain - now);
}
