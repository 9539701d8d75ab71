//! What is told of the requests of one service: its Telemetry settings put together (spec/waypoint.md 6.5). Pure.
//!
//! Of several settings the later wins field by field; providers are those of the last that names any; overrides are
//! merged by metric and tag.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::HeaderName;
use mesh_xds::messages::waypoint::{CustomTag, Telemetry};

use super::cel::Program;
use super::provider::{Kind, Provider};
use super::told::Looks;
use crate::facts::Rejection;

/// One Telemetry object, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    rank: u32,
    metrics_providers: Vec<String>,
    overrides: Vec<Override>,
    log: Option<LogSetting>,
    tracing: Option<TracingSetting>,
}

#[derive(Clone, Debug, PartialEq)]
struct Override {
    metrics: Vec<Metric>,
    disabled: Option<bool>,
    tags: Vec<(Arc<str>, Edit)>,
}

#[derive(Clone, Debug, PartialEq)]
struct LogSetting {
    providers: Vec<String>,
    disabled: Option<bool>,
    filter: Option<Arc<Program>>,
}

#[derive(Clone, Debug, PartialEq)]
struct TracingSetting {
    providers: Vec<String>,
    percent: Option<f64>,
    disabled: Option<bool>,
    tags: Vec<Tag>,
    istio_tags: Option<bool>,
    use_request_id: Option<bool>,
    disable_propagation: Option<bool>,
}

/// A metric as overrides name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpened,
    TcpClosed,
    TcpSent,
    TcpReceived,
    RequestMessages,
    ResponseMessages,
}

/// What becomes of a label.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Remove,
    Constant(Arc<str>),
    Expression(Arc<Program>),
}

/// What is told, to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// None: no metrics of requests.
    pub metrics: Option<Arc<Metrics>>,
    pub logs: Vec<Log>,
    pub tracing: Option<Tracing>,
    /// What has to be kept of a request for all of that.
    pub looks: Looks,
}

/// The metrics of a plan. Compared by what they are: plans come and go with settings, series stay.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    by_metric: BTreeMap<Metric, ByMetric>,
    /// The expressions of all tags, each once.
    pub expressions: Vec<Arc<Program>>,
    digest: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByMetric {
    pub disabled: bool,
    pub tags: BTreeMap<Arc<str>, Edit>,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub provider: Arc<Provider>,
    pub filter: Option<Arc<Program>>,
}

#[derive(Clone, Debug)]
pub struct Tracing {
    pub provider: Arc<Provider>,
    /// 0 to 100.
    pub percent: f64,
    /// Spans are not reported; what came with the request is continued all the same.
    pub silent: bool,
    pub tags: Vec<Tag>,
    pub istio_tags: bool,
    pub use_request_id: bool,
    pub propagate: bool,
}

/// A tag of the user's.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    pub name: String,
    pub source: TagSource,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TagSource {
    Literal(String),
    Header(HeaderName, String),
    Environment(String, String),
}

/// Per cent of requests that are traced where nobody says otherwise (spec/waypoint.md 6.4).
const SAMPLING_PERCENT: f64 = 1.0;
/// Each is a label of every series, or of every span.
const TAGS_MAX: usize = 32;

impl Metric {
    pub const ALL: [Metric; 10] = [
        Metric::RequestCount,
        Metric::RequestDuration,
        Metric::RequestSize,
        Metric::ResponseSize,
        Metric::TcpOpened,
        Metric::TcpClosed,
        Metric::TcpSent,
        Metric::TcpReceived,
        Metric::RequestMessages,
        Metric::ResponseMessages,
    ];

    fn parse(name: &str) -> Option<Vec<Metric>> {
        Some(vec![match name {
            "" | "ALL_METRICS" => return Some(Metric::ALL.to_vec()),
            "REQUEST_COUNT" => Metric::RequestCount,
            "REQUEST_DURATION" => Metric::RequestDuration,
            "REQUEST_SIZE" => Metric::RequestSize,
            "RESPONSE_SIZE" => Metric::ResponseSize,
            "TCP_OPENED_CONNECTIONS" => Metric::TcpOpened,
            "TCP_CLOSED_CONNECTIONS" => Metric::TcpClosed,
            "TCP_SENT_BYTES" => Metric::TcpSent,
            "TCP_RECEIVED_BYTES" => Metric::TcpReceived,
            "GRPC_REQUEST_MESSAGES" => Metric::RequestMessages,
            "GRPC_RESPONSE_MESSAGES" => Metric::ResponseMessages,
            _ => return None,
        }])
    }
}

/// # Errors
/// What of the object is not understood. Nothing of it is in force then.
pub fn compile(wire: &Telemetry) -> Result<Settings, Rejection> {
    let metrics = wire.metrics.clone().unwrap_or_default();
    let overrides = metrics.overrides.iter().map(compile_override).collect::<Result<_, _>>()?;
    let log = match &wire.access_log {
        None => None,
        Some(log) => Some(LogSetting {
            providers: log.providers.clone(),
            disabled: log.disabled,
            filter: match log.filter.as_str() {
                "" => None,
                text => Some(Arc::new(
                    Program::parse_condition(text)
                        .map_err(|wrong| Rejection::new("InvalidFilter", format!("accessLogging.filter.expression: {wrong}")))?,
                )),
            },
        }),
    };
    let tracing = match &wire.tracing {
        None => None,
        Some(tracing) => {
            if let Some(percent) = tracing.sampling_percent
                && !(0.0..=100.0).contains(&percent)
            {
                let message = format!("tracing.randomSamplingPercentage is {percent}; it is between 0 and 100");
                return Err(Rejection::new("InvalidSampling", message));
            }
            few(tracing.custom_tags.len(), "tracing.customTags")?;
            Some(TracingSetting {
                providers: tracing.providers.clone(),
                percent: tracing.sampling_percent,
                disabled: tracing.disabled,
                tags: tracing.custom_tags.iter().map(compile_tag).collect::<Result<_, _>>()?,
                istio_tags: tracing.istio_tags,
                use_request_id: tracing.use_request_id,
                disable_propagation: tracing.disable_propagation,
            })
        }
    };
    Ok(Settings { rank: wire.rank, metrics_providers: metrics.providers, overrides, log, tracing })
}

fn few(count: usize, what: &str) -> Result<(), Rejection> {
    if count <= TAGS_MAX {
        return Ok(());
    }
    Err(Rejection::new("TooManyTags", format!("{what} has {count} entries; {TAGS_MAX} are allowed")))
}

fn compile_override(wire: &mesh_xds::messages::waypoint::MetricOverride) -> Result<Override, Rejection> {
    let metrics = Metric::parse(&wire.metric).ok_or_else(|| {
        Rejection::new("UnknownMetric", format!("metrics.overrides names {:?}, which is no metric that is known", wire.metric))
    })?;
    few(wire.tags.len(), "metrics.overrides.tagOverrides")?;
    let mut tags = Vec::with_capacity(wire.tags.len());
    for tag in &wire.tags {
        let label = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if tag.name.is_empty() || !tag.name.chars().all(label) || tag.name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Rejection::new(
                "InvalidTag",
                format!("tagOverrides names {:?}, which is no label of Prometheus", tag.name),
            ));
        }
        // `le` is what a histogram's buckets are told apart by.
        if tag.name == "le" {
            return Err(Rejection::new("InvalidTag", "tagOverrides names `le`, which belongs to histograms"));
        }
        let edit = match tag.remove {
            true => Edit::Remove,
            false => {
                let program = Program::parse(&tag.value)
                    .map_err(|wrong| Rejection::new("InvalidTag", format!("tagOverrides {:?}: {wrong}", tag.name)))?;
                match program.constant() {
                    Some(constant) => Edit::Constant(constant.into()),
                    None => Edit::Expression(Arc::new(program)),
                }
            }
        };
        tags.push((tag.name.as_str().into(), edit));
    }
    Ok(Override { metrics, disabled: wire.disabled, tags })
}

fn compile_tag(wire: &CustomTag) -> Result<Tag, Rejection> {
    let source = match (wire.header.as_str(), wire.environment.as_str()) {
        ("", "") => TagSource::Literal(wire.literal.clone()),
        ("", environment) => TagSource::Environment(environment.to_owned(), wire.default_value.clone()),
        (header, _) => {
            let name = HeaderName::from_bytes(header.as_bytes());
            let wrong =
                |_| Rejection::new("InvalidTag", format!("customTags {:?}: {header:?} is no name of a header", wire.name));
            TagSource::Header(name.map_err(wrong)?, wire.default_value.clone())
        }
    };
    Ok(Tag { name: wire.name.clone(), source })
}

/// Puts together what applies at one place, the least specific first. Stably sorted by rank: what is attached by name
/// counts more than what is for a whole namespace, whatever either is attached to.
pub fn plan(applying: &[Arc<Settings>], providers: &dyn Fn(&str) -> Option<Arc<Provider>>) -> Arc<Plan> {
    let mut applying: Vec<&Settings> = applying.iter().map(Arc::as_ref).collect();
    applying.sort_by_key(|settings| settings.rank);
    // Two names exist without an object: what the field's defaults are called.
    let provider = |name: &String| providers(name).or_else(|| Provider::built_in(name));
    let metrics = metrics(&applying, &provider);
    let logs = logs(&applying, &provider);
    let tracing = tracing(&applying, &provider);
    Arc::new(Plan::of(metrics, logs, tracing))
}

/// The providers of the last that names any.
fn last_named<'s>(lists: impl DoubleEndedIterator<Item = &'s Vec<String>>) -> Option<&'s Vec<String>> {
    lists.rev().find(|list| !list.is_empty())
}

fn metrics(applying: &[&Settings], provider: &dyn Fn(&String) -> Option<Arc<Provider>>) -> Option<Metrics> {
    if let Some(names) = last_named(applying.iter().map(|settings| &settings.metrics_providers)) {
        let prometheus = |name| provider(name).is_some_and(|provider| matches!(provider.kind, Kind::Prometheus));
        if !names.iter().any(prometheus) {
            return None;
        }
    }
    let mut by_metric: BTreeMap<Metric, ByMetric> = BTreeMap::new();
    for one in applying.iter().flat_map(|settings| &settings.overrides) {
        for metric in &one.metrics {
            let by = by_metric.entry(*metric).or_default();
            by.disabled = one.disabled.unwrap_or(by.disabled);
            by.tags.extend(one.tags.iter().cloned());
        }
    }
    Some(Metrics::of(by_metric))
}

fn logs(applying: &[&Settings], provider: &dyn Fn(&String) -> Option<Arc<Provider>>) -> Vec<Log> {
    let settings = || applying.iter().filter_map(|settings| settings.log.as_ref());
    let Some(names) = last_named(settings().map(|log| &log.providers)) else { return Vec::new() };
    let disabled = settings().rev().find_map(|log| log.disabled).unwrap_or(false);
    if disabled {
        return Vec::new();
    }
    let filter = settings().rev().find_map(|log| log.filter.clone());
    let writes = |provider: &Arc<Provider>| matches!(provider.kind, Kind::File { .. } | Kind::OtlpLog { .. });
    names.iter().filter_map(provider).filter(writes).map(|provider| Log { provider, filter: filter.clone() }).collect()
}

fn tracing(applying: &[&Settings], provider: &dyn Fn(&String) -> Option<Arc<Provider>>) -> Option<Tracing> {
    let settings = || applying.iter().filter_map(|settings| settings.tracing.as_ref());
    // Only the first of a list is used (spec/waypoint.md 6.4).
    let provider = provider(last_named(settings().map(|tracing| &tracing.providers))?.first()?)?;
    if !matches!(provider.kind, Kind::Otlp { .. } | Kind::Zipkin { .. }) {
        return None;
    }
    fn last<'s, T>(
        settings: impl DoubleEndedIterator<Item = &'s TracingSetting>,
        of: fn(&TracingSetting) -> Option<T>,
    ) -> Option<T> {
        settings.rev().find_map(of)
    }
    Some(Tracing {
        provider,
        percent: last(settings(), |tracing| tracing.percent).unwrap_or(SAMPLING_PERCENT),
        silent: last(settings(), |tracing| tracing.disabled).unwrap_or(false),
        tags: settings().rev().find(|tracing| !tracing.tags.is_empty()).map(|tracing| tracing.tags.clone()).unwrap_or_default(),
        istio_tags: last(settings(), |tracing| tracing.istio_tags).unwrap_or(true),
        use_request_id: last(settings(), |tracing| tracing.use_request_id).unwrap_or(true),
        propagate: !last(settings(), |tracing| tracing.disable_propagation).unwrap_or(false),
    })
}

impl Plan {
    fn of(metrics: Option<Metrics>, logs: Vec<Log>, tracing: Option<Tracing>) -> Plan {
        let mut looks = Looks::default();
        for program in metrics.iter().flat_map(|metrics| &metrics.expressions) {
            super::format::expression_looks(program, &mut looks);
        }
        for log in &logs {
            if let Some(format) = log.provider.format() {
                format.looks(&mut looks);
            }
            if let Some(filter) = &log.filter {
                super::format::expression_looks(filter, &mut looks);
            }
        }
        if let Some(tracing) = &tracing {
            looks.head = true;
            for name in ["user-agent", "x-request-id"] {
                looks.at_request(&HeaderName::from_static(name));
            }
            for tag in &tracing.tags {
                if let TagSource::Header(name, _) = &tag.source {
                    looks.at_request(name);
                }
            }
        }
        Plan { metrics: metrics.map(Arc::new), logs, tracing, looks }
    }
}

/// Metrics, no log, no traces.
impl Default for Plan {
    fn default() -> Plan {
        Plan::of(Some(Metrics::of(BTreeMap::new())), Vec::new(), None)
    }
}

impl Metrics {
    fn of(by_metric: BTreeMap<Metric, ByMetric>) -> Metrics {
        let mut expressions: Vec<Arc<Program>> = Vec::new();
        for edit in by_metric.values().flat_map(|by| by.tags.values()) {
            if let Edit::Expression(program) = edit
                && !expressions.contains(program)
            {
                expressions.push(program.clone());
            }
        }
        let mut hasher = DefaultHasher::new();
        format!("{by_metric:?}").hash(&mut hasher);
        Metrics { by_metric, expressions, digest: hasher.finish() }
    }

    pub fn of_metric(&self, metric: Metric) -> Option<&ByMetric> {
        self.by_metric.get(&metric)
    }

    /// Of what it is: equal ones have the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn disabled(&self, metric: Metric) -> bool {
        self.of_metric(metric).is_some_and(|by| by.disabled)
    }
}

impl PartialEq for Metrics {
    fn eq(&self, other: &Metrics) -> bool {
        self.digest == other.digest && self.by_metric == other.by_metric
    }
}

impl Eq for Metrics {}

#[cfg(test)]
mod tests;
