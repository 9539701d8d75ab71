//! What rules do with requests and answers (spec/waypoint.md 2.4).

use mesh_xds::messages::waypoint::{
    Cors, ExtAuthzBody, ExtAuthzProtocol, ExtAuthzProvider, Filter, FilterKind, Fraction, HeaderEdit, HeaderValue, Invalid, Mirror, PathEdit, PathEditKind, Redirect,
    Rewrite, WeightedBackend,
};

use super::backends::{self, Problems, follow};
use crate::objects::Meta;
use crate::objects::route::{BackendReference, ExternalAuth, Header, HeaderModifier, PathModifier, RequestMirror, RouteFilter};
use crate::translate::Lens;

/// Where filters stand.
#[derive(Clone, Copy)]
pub struct Place {
    /// The rule has one match, of a path prefix: only then there is a prefix to replace.
    pub is_one_prefix: bool,
    pub is_grpc: bool,
}

/// Makes the filters of one rule.
pub struct Made<'a, 'l> {
    lens: &'a Lens<'l>,
    meta: &'a Meta,
    /// Of the rule, for what it gives a name to.
    name: &'a str,
    place: Place,
    problems: &'a mut Problems,
    providers: &'a mut Vec<(String, ExtAuthzProvider)>,
    /// Why the rule cannot be done as written.
    wrong: Option<String>,
}

impl<'a, 'l> Made<'a, 'l> {
    pub fn new(lens: &'a Lens<'l>, meta: &'a Meta, name: &'a str, place: Place, problems: &'a mut Problems, providers: &'a mut Vec<(String, ExtAuthzProvider)>) -> Made<'a, 'l> {
        Made { lens, meta, name, place, problems, providers, wrong: None }
    }

    pub fn filters(&mut self, asked: &[RouteFilter]) -> Vec<Filter> {
        let mut found = Vec::new();
        for (index, filter) in asked.iter().enumerate() {
            let is_core = !matches!(&*filter.r#type, "RequestMirror" | "ExtensionRef");
            if is_core && asked[..index].iter().any(|before| before.r#type == filter.r#type) {
                self.wrong.get_or_insert(format!("filters[{index}]: a second {} is not possible", filter.r#type));
            }
            match self.filter(filter) {
                Ok(Some(kind)) => found.push(Filter { kind: Some(kind) }),
                Ok(None) => {}
                Err(why) => {
                    self.wrong.get_or_insert(format!("filters[{index}].{why}"));
                }
            }
        }
        found
    }

    pub fn backends(&mut self, references: &[BackendReference]) -> Vec<WeightedBackend> {
        let mut all = Vec::new();
        for reference in references {
            let mut backend = backends::one(self.lens, self.meta, reference, self.problems);
            backend.filters = self.filters(&reference.filters);
            all.push(backend);
        }
        all
    }

    /// What of the rule as a whole is answered with an error.
    pub fn invalid(self, index: usize, asked: &[RouteFilter], to: &[BackendReference]) -> Option<Invalid> {
        let has = |kind: &str| asked.iter().any(|filter| &*filter.r#type == kind);
        if has("RequestRedirect") && has("URLRewrite") {
            self.problems.incompatible(format!("spec.rules[{index}].filters: RequestRedirect and URLRewrite exclude each other"));
        }
        if let Some(why) = self.wrong {
            self.problems.unsupported(index, why);
            return Some(Invalid { reason: "UnsupportedValue".into(), status: 500 });
        }
        if has("RequestRedirect") && !to.is_empty() {
            self.problems.incompatible(format!("spec.rules[{index}]: a rule with RequestRedirect has no backendRefs"));
        }
        (to.is_empty() && !has("RequestRedirect")).then(|| Invalid { reason: "NoBackendRefs".into(), status: 500 })
    }

    /// `None`: nothing is to be done.
    fn filter(&mut self, filter: &RouteFilter) -> Result<Option<FilterKind>, String> {
        let missing = |field: &str| format!("{field}: is missing beside type {}", filter.r#type);
        Ok(Some(match &*filter.r#type {
            "RequestHeaderModifier" => FilterKind::RequestHeaders(edit(filter.request_header_modifier.as_ref().ok_or_else(|| missing("requestHeaderModifier"))?)?),
            "ResponseHeaderModifier" => FilterKind::ResponseHeaders(edit(filter.response_header_modifier.as_ref().ok_or_else(|| missing("responseHeaderModifier"))?)?),
            "RequestMirror" => return Ok(self.mirror(filter.request_mirror.as_ref().ok_or_else(|| missing("requestMirror"))?)),
            "ExtensionRef" => {
                let named = filter.extension_ref.as_ref().map(|to| format!("{} {}", to.kind, to.name)).unwrap_or_default();
                self.problems.reference("InvalidKind", format!("filter {named}: no extension of this kind is known; requests that the rule matches are answered with 500"));
                FilterKind::Invalid(Invalid { reason: "InvalidKind".into(), status: 500 })
            }
            "RequestRedirect" if !self.place.is_grpc => {
                let asked = filter.request_redirect.as_ref().ok_or_else(|| missing("requestRedirect"))?;
                if let Some(scheme) = asked.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
                    return Err(format!("requestRedirect.scheme: {scheme:?} is not http or https"));
                }
                let status = asked.status_code.unwrap_or(302);
                if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                    return Err(format!("requestRedirect.statusCode: {status} is no redirect: 301, 302, 303, 307 or 308"));
                }
                FilterKind::Redirect(Redirect {
                    scheme: asked.scheme.as_deref().unwrap_or_default().to_owned(),
                    hostname: asked.hostname.as_deref().unwrap_or_default().to_owned(),
                    path: self.path(asked.path.as_ref())?,
                    port: asked.port.map_or(0, u32::from),
                    status,
                    port_of_scheme: false,
                })
            }
            "URLRewrite" if !self.place.is_grpc => {
                let asked = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
                FilterKind::Rewrite(Rewrite { hostname: asked.hostname.as_deref().unwrap_or_default().to_owned(), path: self.path(asked.path.as_ref())? })
            }
            "CORS" if !self.place.is_grpc => {
                let asked = filter.cors.as_ref().ok_or_else(|| missing("cors"))?;
                let texts = |list: &[std::sync::Arc<str>]| list.iter().map(|text| text.to_string()).collect();
                FilterKind::Cors(Cors {
                    allow_origins: texts(&asked.allow_origins),
                    allow_credentials: asked.allow_credentials == Some(true),
                    allow_methods: texts(&asked.allow_methods),
                    allow_headers: texts(&asked.allow_headers),
                    expose_headers: texts(&asked.expose_headers),
                    max_age_s: asked.max_age.unwrap_or(0),
                    ..Cors::default()
                })
            }
            "ExternalAuth" if !self.place.is_grpc => self.external(filter.external_auth.as_ref().ok_or_else(|| missing("externalAuth"))?),
            other => return Err(format!("type: {other:?} is no filter that can be done here")),
        }))
    }

    fn path(&self, asked: Option<&PathModifier>) -> Result<Option<PathEdit>, String> {
        let Some(asked) = asked else { return Ok(None) };
        let kind = match (&*asked.r#type, &asked.replace_full_path, &asked.replace_prefix_match) {
            ("ReplaceFullPath", Some(path), _) => PathEditKind::Full(path.to_string()),
            ("ReplacePrefixMatch", _, Some(prefix)) if self.place.is_one_prefix => PathEditKind::Prefix(prefix.to_string()),
            ("ReplacePrefixMatch", _, Some(_)) => return Err("path: ReplacePrefixMatch needs a rule with exactly one match, of type PathPrefix".into()),
            (kind, ..) => return Err(format!("path.type: {kind:?} is not ReplaceFullPath or ReplacePrefixMatch with its value")),
        };
        Ok(Some(PathEdit { kind: Some(kind) }))
    }

    /// A mirror that cannot be found is left out: what it copies is served all the same.
    fn mirror(&mut self, asked: &RequestMirror) -> Option<FilterKind> {
        let fraction = match (asked.percent, asked.fraction) {
            (Some(percent), _) => Some(Fraction { numerator: percent, denominator: 100 }),
            (None, Some(part)) => Some(Fraction { numerator: part.numerator, denominator: part.denominator.unwrap_or(100) }),
            (None, None) => None,
        };
        match follow(self.lens, self.meta, &asked.backend_ref) {
            Ok(backend) => Some(FilterKind::Mirror(Mirror { backend: Some(backend), fraction })),
            Err((reason, message)) => {
                self.problems.reference(reason, format!("mirror: {message}"));
                None
            }
        }
    }

    /// Who cannot be asked refuses.
    fn external(&mut self, asked: &ExternalAuth) -> FilterKind {
        let mut provider = ExtAuthzProvider { protocol: ExtAuthzProtocol::Http as i32, ..ExtAuthzProvider::default() };
        match &*asked.protocol {
            "HTTP" => {
                let http = asked.http.clone().unwrap_or_default();
                provider.path_prefix = http.path.to_string();
                let own = ["authorization".to_owned()];
                provider.include_request_headers = own.into_iter().chain(http.allowed_headers.iter().map(|name| name.to_string())).collect();
                provider.headers_to_upstream_on_allow = http.allowed_response_headers.iter().map(|name| name.to_string()).collect();
            }
            "GRPC" => {
                provider.protocol = ExtAuthzProtocol::Grpc as i32;
                let grpc = asked.grpc.clone().unwrap_or_default();
                provider.include_request_headers = grpc.allowed_headers.iter().map(|name| name.to_string()).collect();
            }
            other => provider.invalid = format!("externalAuth.protocol: {other:?} is not HTTP or GRPC"),
        }
        provider.body = asked.forward_body.filter(|body| body.max_size > 0).map(|body| ExtAuthzBody { max_bytes: body.max_size, ..ExtAuthzBody::default() });
        match follow(self.lens, self.meta, &asked.backend_ref) {
            Ok(backend) => provider.backend = Some(backend),
            Err((reason, message)) => {
                provider.invalid.clone_from(&message);
                self.problems.reference(reason, format!("externalAuth: {message}"));
            }
        }
        if !provider.invalid.is_empty() && provider.backend.is_some() {
            self.wrong.get_or_insert(provider.invalid.clone());
        }
        let name = format!("{}#{}", self.name, self.providers.len());
        self.providers.push((name.clone(), provider));
        FilterKind::ExtAuthz(name)
    }
}

fn edit(asked: &HeaderModifier) -> Result<HeaderEdit, String> {
    let list = |field: &str, list: &[Header]| -> Result<Vec<HeaderValue>, String> {
        let mut found: Vec<HeaderValue> = Vec::new();
        for Header { name, value } in list {
            check_header(name).map_err(|why| format!("{field}: {why}"))?;
            if found.iter().any(|known| known.name.eq_ignore_ascii_case(name)) {
                return Err(format!("{field}: {name} stands there twice"));
            }
            found.push(HeaderValue { name: name.to_string(), value: value.to_string() });
        }
        Ok(found)
    };
    Ok(HeaderEdit { set: list("set", &asked.set)?, add: list("add", &asked.add)?, remove: asked.remove.iter().map(|name| name.to_string()).collect() })
}

/// The name of a header (RFC 9110, section 5.6.2).
pub fn check_header(name: &str) -> Result<(), String> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.is_empty() && name.bytes().all(sound) { Ok(()) } else { Err(format!("{name:?} is no name of a header")) }
}
