//! What the controller is told at start: flags, each also an environment variable by the field's name where it has one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};
use mesh_identity::impersonate::Rules;
use mesh_identity::sign::Lifetimes;

use crate::ca::rotation::Times;
use crate::gateways;
use crate::objects::meta::check_name;
use crate::translate::Settings;

/// What the program does other than to serve.
#[derive(Clone, Debug, Subcommand)]
pub enum Instead {
    /// Print the CustomResourceDefinitions of the Istio kinds that are read, for clusters that no other mesh gave them to
    Crds {
        /// Write each into a file of this folder instead
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
}

/// The controller of the mesh: reads Kubernetes objects from folders, tells node daemons what is where and who may talk
/// to whom, and signs their workloads' certificates.
#[derive(Clone, Debug, Parser)]
#[command(version, about, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Config {
    /// Instead of serving
    #[command(subcommand)]
    pub instead: Option<Instead>,

    /// Folder of YAML files with the mesh's objects; may be given several times, the first one wins where two hold an object
    #[arg(long = "folder", required_unless_present = "kubernetes", value_name = "FOLDER")]
    pub folders: Vec<PathBuf>,
    /// Read the mesh's objects from an API server instead: that of the cluster this runs in, or of --kubeconfig
    #[arg(long, conflicts_with = "folders", default_value_t = false)]
    pub kubernetes: bool,
    /// How to reach the API server from outside of its cluster
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Name of this replica, another one for each; without it a random one
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Name of the cluster; callers of another one are refused
    #[arg(long, alias = "clusterID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Domain of the cluster's services
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub domain: String,
    /// Trust domain of every identity that is issued
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Root namespace: its policies without a selector are for the whole mesh
    #[arg(long, alias = "system-namespace", env = "POD_NAMESPACE", default_value = "istio-system")]
    pub namespace: String,
    /// Objects with another istio.io/rev belong to another controller
    #[arg(long, env = "REVISION", default_value = "default")]
    pub revision: String,

    /// Where discovery and certificates are served, over TLS
    #[arg(long, alias = "secureGRPCAddr", env = "SECURE_GRPC_ADDRESS", default_value = "0.0.0.0:15012", value_name = "IP:PORT")]
    pub secure_grpc_address: SocketAddr,
    /// Where metrics and the version are served
    #[arg(long, alias = "monitoringAddr", env = "MONITORING_ADDRESS", default_value = "0.0.0.0:15014", value_name = "IP:PORT")]
    pub monitoring_address: SocketAddr,
    /// Where readiness and debug pages are served
    #[arg(long, alias = "httpAddr", env = "HTTP_ADDRESS", default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    pub http_address: SocketAddr,
    /// More DNS names or addresses of the serving certificate, separated by commas
    #[arg(long = "dns-name", env = "ISTIOD_CUSTOM_HOST", value_delimiter = ',', value_name = "NAME")]
    pub dns_names: Vec<String>,

    /// Folder of a plugged-in authority (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem); without files in it the root is self-signed
    #[arg(long, env = "ROOT_CA_DIR", default_value = "./etc/cacerts", value_name = "FOLDER")]
    pub plugged_in_ca: PathBuf,
    /// Folder where a self-signed root is kept
    #[arg(long, env = "CA_HOME", default_value = "./var/lib/istiod-lite/ca", value_name = "FOLDER")]
    pub ca_home: PathBuf,
    /// File to which the root certificates are written for clients
    #[arg(long, env = "ROOT_CERT_OUT", value_name = "FILE")]
    pub root_cert_out: Option<PathBuf>,
    /// Life of a certificate when none is asked for
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", default_value = "24h", value_parser = duration)]
    pub default_cert_ttl: Duration,
    /// A longer life is refused
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", default_value = "90d", value_parser = duration)]
    pub max_cert_ttl: Duration,

    /// Life of a self-signed root
    #[arg(long, env = "CITADEL_SELF_SIGNED_CA_CERT_TTL", default_value = "3650d", value_parser = duration)]
    pub self_signed_ca_ttl: Duration,
    /// A self-signed root with less than this part of its life left is replaced, in percent
    #[arg(long, env = "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub root_renewal_percent: u32,
    /// How long the trust bundle takes to reach those who read it from a file or a ConfigMap
    #[arg(long, env = "ROOT_DISTRIBUTION_TIME", default_value = "10m", value_parser = duration)]
    pub root_distribution_time: Duration,

    /// PEM file of the ES256 public key that callers' tokens are checked with; with --kubernetes the API server checks them
    #[arg(long, env = "TOKEN_PUBLIC_KEY", required_unless_present = "kubernetes", conflicts_with = "kubernetes", value_name = "FILE")]
    pub token_public_key: Option<PathBuf>,
    /// Issuer of the tokens (their claim iss)
    #[arg(long, env = "TOKEN_ISSUER", default_value = "https://isthmus.local")]
    pub token_issuer: String,
    /// Audience of the tokens
    #[arg(long, env = "TOKEN_AUDIENCES", default_value = mesh_identity::token::AUDIENCE)]
    pub token_audience: String,
    /// Accounts of node daemons, NAMESPACE/SERVICE-ACCOUNT separated by commas: they see the whole mesh and get certificates for the workloads of their node
    #[arg(long, env = "CA_TRUSTED_NODE_ACCOUNTS", default_value = "istio-system/ztunnel")]
    pub trusted_node_accounts: String,
    /// Accounts of machines that run a daemon in dedicated mode, NAMESPACE/SERVICE-ACCOUNT separated by commas: they see the whole mesh and get certificates for themselves alone
    #[arg(long, env = "MACHINE_ACCOUNTS", default_value = "")]
    pub machine_accounts: String,

    /// Send dry-run policies. Node daemons before Istio 1.29 enforce them
    #[arg(long, env = "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub dry_run_policies: bool,
    /// Open workloads behind a waypoint to that waypoint, and thereby close them to everybody whom no other policy allows
    #[arg(long, env = "PILOT_AUTO_ALLOW_WAYPOINT_POLICY", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub auto_allow_waypoints: bool,
    /// Close workloads to everybody but the waypoints of their services while a policy with targetRefs is in force there, so that
    /// nobody goes past it; whom another policy allows still comes
    #[arg(long, env = "CLOSE_BEHIND_WAYPOINTS", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub close_behind_waypoints: bool,
    /// Give addresses to hosts of ServiceEntries that have none
    #[arg(long, env = "PILOT_ENABLE_IP_AUTOALLOCATE", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub ip_autoallocate: bool,
    /// IPv4 pool of those addresses
    #[arg(long, env = "PILOT_IP_AUTOALLOCATE_IPV4_PREFIX", default_value = "240.240.0.0/16")]
    pub ipv4_pool: Ipv4Net,
    /// IPv6 pool of those addresses; a prefix of 96 bits or less
    #[arg(long, env = "PILOT_IP_AUTOALLOCATE_IPV6_PREFIX", default_value = "2001:2::/48")]
    pub ipv6_pool: Ipv6Net,

    /// Validate objects before the API server stores them; what is let through is reported in status anyway
    #[arg(long, env = "VALIDATION_ENABLED", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub validation: bool,
    /// Where objects are validated, over TLS
    #[arg(long, alias = "httpsAddr", env = "HTTPS_ADDRESS", default_value = "0.0.0.0:15017", value_name = "IP:PORT")]
    pub https_address: SocketAddr,
    /// The ValidatingWebhookConfiguration that is made to trust us; istio-validator[-REVISION]-NAMESPACE if none is named
    #[arg(long, env = "VALIDATION_WEBHOOK_CONFIG_NAME", value_name = "NAME")]
    pub validation_webhook: Option<String>,

    /// Image of the waypoints that are deployed for Gateways of class istio-waypoint; without it none is
    #[arg(long, env = "WAYPOINT_IMAGE", requires = "kubernetes", value_name = "IMAGE")]
    pub waypoint_image: Option<String>,
    /// When that image is pulled
    #[arg(long, env = "WAYPOINT_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub waypoint_image_pull_policy: String,
    /// Names of secrets of each waypoint's namespace that the image is pulled with, separated by commas
    #[arg(long, env = "WAYPOINT_IMAGE_PULL_SECRETS", value_delimiter = ',', value_name = "NAME")]
    pub waypoint_image_pull_secrets: Vec<String>,
    /// Where waypoints find this controller; its Service, if nothing is said
    #[arg(long, env = "WAYPOINT_DISCOVERY_ADDRESS", value_name = "HOST:PORT")]
    pub waypoint_discovery_address: Option<String>,
    /// What waypoints log, as error, warn, info, debug, trace, or more finely
    #[arg(long, env = "WAYPOINT_LOG_LEVEL", default_value = "info")]
    pub waypoint_log_level: String,
    /// More environment of waypoints, NAME=VALUE, one a line
    #[arg(long, env = "WAYPOINT_ENV", default_value = "", hide_default_value = true)]
    pub waypoint_env: String,

    /// File that is kept up to date with what there is to say about objects and files
    #[arg(long, env = "STATUS_FILE", value_name = "FILE")]
    pub status_file: Option<PathBuf>,
    /// How long streams may take to end at shutdown
    #[arg(long, alias = "shutdownDuration", env = "SHUTDOWN_DURATION", default_value = "10s", value_parser = duration)]
    pub shutdown_duration: Duration,
    /// Log as JSON
    #[arg(long, alias = "log_as_json", env = "LOG_AS_JSON", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub log_as_json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    mesh_runtime::knobs::duration(text).ok_or_else(|| format!("{text:?} is not a duration with its unit, like 10s, 5m or 24h"))
}

/// What the flags mean to the parts of the controller; made once, so that a wrong one stops the start.
#[derive(Clone, Debug)]
pub struct Meaning {
    pub settings: Settings,
    pub rules: Rules,
    /// Namespace and account of each machine's daemon.
    pub machines: Vec<(String, String)>,
    pub lifetimes: Lifetimes,
    pub times: Times,
    pub serving_names: Vec<String>,
}

impl Config {
    /// # Errors
    /// What a single flag's type cannot say, with the flag's name and what to write instead.
    pub fn meaning(&self) -> Result<Meaning, String> {
        check_name(&self.namespace).map_err(|why| format!("--namespace: {why}"))?;
        check_name(&self.domain).map_err(|why| format!("--domain: {why}"))?;
        check_name(&self.trust_domain).map_err(|why| format!("--trust-domain: {why}"))?;
        if self.cluster_id.is_empty() || self.cluster_id.contains('/') {
            return Err(format!("--cluster-id: {:?} cannot be part of a resource name: write a name without a slash", self.cluster_id));
        }
        if self.default_cert_ttl > self.max_cert_ttl || self.default_cert_ttl.is_zero() {
            return Err("--default-cert-ttl must be more than 0 and at most --max-cert-ttl".into());
        }
        if self.ipv6_pool.prefix_len() > 96 {
            return Err("--ipv6-pool: the prefix must have 96 bits or less".into());
        }
        let rules = Rules::parse(&self.trusted_node_accounts, &self.trust_domain).map_err(|why| format!("--trusted-node-accounts: {why}"))?;
        let machines = Rules::parse(&self.machine_accounts, &self.trust_domain).map_err(|why| format!("--machine-accounts: {why}"))?.trusted;
        let settings = Settings {
            cluster_id: self.cluster_id.as_str().into(),
            cluster_domain: self.domain.as_str().into(),
            trust_domain: self.trust_domain.as_str().into(),
            root_namespace: self.namespace.as_str().into(),
            sends_dry_run: self.dry_run_policies,
            allows_waypoints: self.auto_allow_waypoints,
            closes_behind_waypoints: self.close_behind_waypoints,
            vip_pools: self.ip_autoallocate.then_some((self.ipv4_pool, self.ipv6_pool)),
        };
        let lifetimes = Lifetimes { default: self.default_cert_ttl, max: self.max_cert_ttl };
        if self.self_signed_ca_ttl < self.max_cert_ttl {
            return Err("--self-signed-ca-ttl must be at least --max-cert-ttl: certificates end with the root that signed them".into());
        }
        let times = Times { distribution: self.root_distribution_time, renew_below_percent: self.root_renewal_percent };
        Ok(Meaning { settings, rules, machines, lifetimes, times, serving_names: self.serving_names() })
    }

    /// The Lease by which replicas of one revision choose who writes.
    pub fn lease(&self) -> String {
        match self.revision.as_str() {
            "default" => "istiod-lite".into(),
            revision => format!("istiod-lite-{revision}"),
        }
    }

    /// What the waypoints that are deployed have in common; `None`: none is deployed.
    ///
    /// # Errors
    /// A line of their environment that is none.
    pub fn waypoints(&self) -> Result<Option<gateways::template::Settings>, String> {
        let Some(image) = self.waypoint_image.clone().filter(|image| !image.is_empty()) else { return Ok(None) };
        let lines = self.waypoint_env.lines().filter(|line| !line.trim().is_empty());
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.to_owned())).ok_or_else(|| format!("--waypoint-env: {line:?} is not NAME=VALUE"));
        Ok(Some(gateways::template::Settings {
            image,
            pull_policy: self.waypoint_image_pull_policy.clone(),
            pull_secrets: self.waypoint_image_pull_secrets.iter().filter(|name| !name.is_empty()).cloned().collect(),
            discovery: self.waypoint_discovery_address.clone().unwrap_or_else(|| format!("istiod.{}.svc:{}", self.namespace, self.secure_grpc_address.port())),
            root_namespace: self.namespace.clone(),
            cluster_id: self.cluster_id.clone(),
            cluster_domain: self.domain.clone(),
            trust_domain: self.trust_domain.clone(),
            log_level: self.waypoint_log_level.clone(),
            log_as_json: self.log_as_json,
            env: lines.map(pair).collect::<Result<_, _>>()?,
        }))
    }

    /// The webhook configuration that is ours to keep; `None`: nothing is validated.
    pub fn webhook(&self) -> Option<String> {
        let (revision, namespace) = (&self.revision, &self.namespace);
        let usual = || if revision == "default" { format!("istio-validator-{namespace}") } else { format!("istio-validator-{revision}-{namespace}") };
        self.validation.then(|| self.validation_webhook.clone().unwrap_or_else(usual))
    }

    /// Who this replica is to the others. A pod that restarts in place keeps its name and thereby its lease.
    pub fn replica(&self) -> String {
        self.pod_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| format!("istiod-lite-{:016x}", rand::random::<u64>()))
    }

    /// The names that clients know us by (spec/controlplane.md 2.10), and those of this machine.
    fn serving_names(&self) -> Vec<String> {
        let namespace = &self.namespace;
        let mut names = vec![
            format!("istiod.{namespace}.svc"),
            format!("istiod.{namespace}.svc.{}", self.domain),
            format!("istiod-{}.{namespace}.svc", self.revision),
            format!("istiod-remote.{namespace}.svc"),
            format!("istio-pilot.{namespace}.svc"),
            "localhost".into(),
            "127.0.0.1".into(),
            "::1".into(),
        ];
        names.extend(self.dns_names.iter().filter(|name| !name.is_empty()).cloned());
        let ip = self.secure_grpc_address.ip();
        if !ip.is_unspecified() {
            names.push(ip.to_string());
        }
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(["istiod-lite", "--folder", "a", "--token-public-key", "k"].iter().chain(more))
    }

    #[test]
    fn the_defaults_are_the_fields() {
        let config = parse(&[]).unwrap();
        let meaning = config.meaning().unwrap();
        assert_eq!(&*meaning.settings.root_namespace, "istio-system");
        assert_eq!(meaning.rules.trusted, [("istio-system".to_owned(), "ztunnel".to_owned())]);
        assert!(meaning.serving_names.contains(&"istiod.istio-system.svc".to_owned()));
        assert_eq!(config.secure_grpc_address.port(), 15012);
    }

    #[test]
    fn camel_case_flags_of_the_field_are_understood() {
        let config = parse(&["--secureGRPCAddr", "127.0.0.1:1", "--monitoringAddr", "127.0.0.1:2", "--clusterID", "c1", "--dry-run-policies"]).unwrap();
        assert_eq!((config.secure_grpc_address.port(), config.monitoring_address.port(), &*config.cluster_id), (1, 2, "c1"));
        assert!(config.dry_run_policies);
    }

    #[test]
    fn objects_come_from_folders_or_from_an_api_server() {
        let parse = |flags: &[&str]| Config::try_parse_from(["istiod-lite"].iter().chain(flags));
        let config = parse(&["--kubernetes", "--revision", "canary"]).unwrap();
        assert_eq!((config.lease(), config.webhook()), ("istiod-lite-canary".into(), Some("istio-validator-canary-istio-system".into())));
        assert_eq!(parse(&["--kubernetes", "--validation=false"]).unwrap().webhook(), None);
        for wrong in [&["--folder", "a"][..], &["--kubernetes", "--folder", "a"], &["--kubernetes", "--token-public-key", "k"], &[]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_wrong_flag_stops_the_start_and_says_what_to_write() {
        for (flags, said) in [
            (["--namespace", "UPPER"], "--namespace: \"UPPER\" is not a Kubernetes name"),
            (["--cluster-id", "a/b"], "--cluster-id: \"a/b\" cannot be part of a resource name"),
            (["--trusted-node-accounts", "nobody"], "--trusted-node-accounts: \"nobody\""),
            (["--machine-accounts", "vm"], "--machine-accounts: \"vm\""),
            (["--default-cert-ttl", "100d"], "--default-cert-ttl must be"),
            (["--ipv6-pool", "2001:2::/100"], "--ipv6-pool: the prefix must have 96 bits or less"),
        ] {
            let refused = parse(&flags).unwrap().meaning().unwrap_err();
            assert!(refused.starts_with(said), "{refused}");
        }
        for flags in [["--shutdown-duration", "5"], ["--secure-grpc-address", "nowhere"], ["--ipv4-pool", "x"]] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
    }
}
