//! Telemetry objects, each with its rank among those that are for the same traffic: of several the last wins field by
//! field (spec/waypoint.md 6.5).

use std::sync::Arc;

use mesh_xds::messages::waypoint::{
    AccessLogSetting, CustomTag as TagMessage, MetricOverride, MetricsSetting, TELEMETRY, TagOverride, Telemetry as Message,
    TracingSetting,
};

use super::providers::everywhere;
use super::resource::{Audience, Resource, source};
use super::targets::{self, resolve};
use super::{Derived, Lens, Read, Report};
use crate::cluster::Cluster;
use crate::objects::request::{CustomTag, ProviderRef};
use crate::objects::{Kind, ObjectKey, Telemetry};

/// Who is heard last.
const ROOT: u32 = 1;
const OF_WAYPOINT: u32 = 2;
const OF_SERVICE: u32 = 3;
const ATTACHED: u32 = 4;

pub fn telemetry(lens: &Lens<'_>, object: &Telemetry) -> Derived {
    let meta = &object.meta;
    let mut report = Report::default();
    let mut derived = Derived::default();
    let mut told = Vec::new();
    if object.targets().next().is_some() {
        let targets = resolve(lens, meta, object.targets());
        targets.tell("WaypointAccepted", &mut report);
        told.push(("", ATTACHED, targets.targets, targets.audience));
    } else if object.spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty()) {
        report.note("has no effect: waypoints are not selected by labels; name them, or services, in spec.targetRefs");
    } else if let Some(first) = first_of_namespace(lens, object).filter(|first| *first != meta.name) {
        report.note(format!("has no effect: {first} is older and is for the whole namespace, too"));
    } else if meta.namespace == lens.settings.root_namespace {
        told.push(("", ROOT, vec![everywhere()], Audience::everybody()));
    } else {
        let (targets, audience) = targets::waypoints_of(lens, &meta.namespace);
        told.push(("@waypoints", OF_WAYPOINT, targets, audience));
        let (targets, audience) = targets::services_of(lens, &meta.namespace);
        told.push(("@services", OF_SERVICE, targets, audience));
    }
    let message = converted(object, &mut report);
    for (suffix, rank, targets, audience) in told {
        if !audience.is_empty() {
            let message = Message { targets, rank, ..message.clone() };
            derived.resources.push(Resource::new(TELEMETRY, &format!("{}{suffix}", meta.ns_name()), &message, &audience));
        }
    }
    derived.reports.push((ObjectKey { kind: Kind::Telemetry, name: meta.ns_name() }, report));
    derived
}

/// The oldest that is for the whole namespace.
fn first_of_namespace(lens: &Lens<'_>, object: &Telemetry) -> Option<Arc<str>> {
    lens.note(Read::Within(Kind::Telemetry, object.meta.namespace.clone()));
    let all = Cluster::within(&lens.cluster.telemetries, &object.meta.namespace).filter(|one| is_for_namespace(one));
    all.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority())).map(|first| first.meta.name.clone())
}

pub fn is_for_namespace(object: &Telemetry) -> bool {
    object.targets().next().is_none() && object.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty())
}

fn names(providers: &[ProviderRef]) -> Vec<String> {
    providers.iter().map(|provider| provider.name.to_string()).collect()
}

/// A waypoint is a server to its clients: what is for the client's side alone is not for it.
fn is_ours(mode: Option<&str>, field: &str, report: &mut Report) -> bool {
    let is_ours = matches!(mode, None | Some("CLIENT_AND_SERVER" | "SERVER"));
    if !is_ours {
        report.note(format!("{field}.match.mode {} has no effect: waypoints report as servers", mode.unwrap_or_default()));
    }
    is_ours
}

fn converted(object: &Telemetry, report: &mut Report) -> Message {
    let mut message = Message { meta: source(Kind::Telemetry, &object.meta, ""), ..Message::default() };
    for (index, asked) in object.spec.metrics.iter().enumerate() {
        let into = message.metrics.get_or_insert_with(MetricsSetting::default);
        if !asked.providers.is_empty() {
            into.providers = names(&asked.providers);
        }
        if asked.reporting_interval.is_some() {
            report.note(format!("spec.metrics[{index}].reportingInterval has no effect: metrics are counted as they happen"));
        }
        for (at, one) in asked.overrides.iter().enumerate() {
            let matching = one.r#match.clone().unwrap_or_default();
            if !is_ours(matching.mode.as_deref(), &format!("spec.metrics[{index}].overrides[{at}]"), report) {
                continue;
            }
            let tags = one.tag_overrides.iter().map(|(name, tag)| TagOverride { name: name.to_string(), remove: tag.operation.as_deref() == Some("REMOVE"), value: tag.value.to_string() });
            let metric = matching.metric.or(matching.custom_metric).map(|metric| metric.to_string()).unwrap_or_default();
            into.overrides.push(MetricOverride { metric, disabled: one.disabled, tags: tags.collect() });
        }
    }
    for (index, asked) in object.spec.access_logging.iter().enumerate() {
        if !is_ours(asked.r#match.as_ref().and_then(|matching| matching.mode.as_deref()), &format!("spec.accessLogging[{index}]"), report) {
            continue;
        }
        let into = message.access_log.get_or_insert_with(AccessLogSetting::default);
        if !asked.providers.is_empty() {
            into.providers = names(&asked.providers);
        }
        into.disabled = asked.disabled.or(into.disabled);
        if let Some(filter) = &asked.filter {
            into.filter = filter.expression.to_string();
        }
    }
    for (index, asked) in object.spec.tracing.iter().enumerate() {
        if !is_ours(asked.r#match.as_ref().and_then(|matching| matching.mode.as_deref()), &format!("spec.tracing[{index}]"), report) {
            continue;
        }
        let into = message.tracing.get_or_insert_with(TracingSetting::default);
        if !asked.providers.is_empty() {
            into.providers = names(&asked.providers);
        }
        into.sampling_percent = asked.random_sampling_percentage.or(into.sampling_percent);
        into.disabled = asked.disable_span_reporting.or(into.disabled);
        into.istio_tags = asked.enable_istio_tags.or(into.istio_tags);
        into.use_request_id = asked.use_request_id_for_trace_sampling.or(into.use_request_id);
        into.disable_propagation = asked.disable_context_propagation.or(into.disable_propagation);
        if !asked.custom_tags.is_empty() {
            into.custom_tags = asked.custom_tags.iter().map(|(name, tag)| custom_tag(name, tag, report)).collect();
        }
    }
    message
}

fn custom_tag(name: &str, tag: &CustomTag, report: &mut Report) -> TagMessage {
    if tag.formatter.is_some() {
        report.note(format!("spec.tracing.customTags.{name}.formatter has no effect: write literal, header or environment"));
    }
    let named = tag.header.as_ref().or(tag.environment.as_ref());
    TagMessage {
        name: name.to_owned(),
        literal: tag.literal.as_ref().map(|literal| literal.value.to_string()).unwrap_or_default(),
        header: tag.header.as_ref().map(|header| header.name.to_string()).unwrap_or_default(),
        environment: tag.environment.as_ref().map(|environment| environment.name.to_string()).unwrap_or_default(),
        default_value: named.map(|named| named.default_value.to_string()).unwrap_or_default(),
    }
}
