use super::*;

fn told(settings: &[(&str, &str)]) -> Result<Config, WrongSettings> {
    let needed = [("POD_NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "wp"), ("GATEWAY_NAME", "wp")];
    let environment = needed.iter().chain(settings).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Config::parse(&Told { environment: &environment, is_file: &|path| path == Path::new("/token"), cores: 3 })
}

#[test]
fn a_pod_of_a_cluster_needs_to_be_told_its_names_alone() {
    let config = told(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]).unwrap();
    assert_eq!(config.place.identity().to_string(), "spiffe://cluster.local/ns/shop/sa/wp");
    assert_eq!(config.place.service().to_string(), "shop/wp.shop.svc.cluster.local");
    assert_eq!(config.xds.unwrap().address.host, "istiod.istio-system.svc");
    assert_eq!((config.workers, config.token), (3, TokenSource::None));
    assert_eq!(config.end, End { notice: Duration::from_secs(5), deadline: Duration::from_secs(25) });
}

#[test]
fn what_is_said_holds() {
    let config = told(&[
        ("XDS_ADDRESS", ""),
        ("CA_ADDRESS", "ca.test:9"),
        ("AUTH_TOKEN", "/token"),
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("ISTIO_CPU_LIMIT", "2"),
        ("WAYPOINT_CONFIG_FILE", "/etc/waypoint.yaml"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "3"),
    ])
    .unwrap();
    assert!(config.xds.is_none());
    assert_eq!((config.ca.address.host.as_str(), config.ca.address.port), ("ca.test", 9));
    assert_eq!(config.token, TokenSource::File("/token".into()));
    assert_eq!((&*config.place.cluster_id, config.workers), ("east", 2));
    assert_eq!(config.file, Some("/etc/waypoint.yaml".into()));
    assert_eq!(config.end.deadline, Duration::from_secs(1));
}

#[test]
fn what_cannot_be_used_stops_the_start_all_at_once() {
    let wrong = told(&[("CA_ADDRESS", "http://ca.test"), ("GATEWAY_NAME", ""), ("HBONE_PORT", "0"), ("RUST_LOG", "=x=")]);
    let names: Vec<String> = wrong.unwrap_err().0.into_iter().map(|wrong| wrong.env).collect();
    assert_eq!(names, ["GATEWAY_NAME", "CA_ADDRESS", "HBONE_PORT", "RUST_LOG"]);
}

#[test]
fn every_setting_is_declared_without_an_environment() {
    assert!(Config::knobs().iter().any(|knob| knob.env == "WAYPOINT_CONFIG_FILE"));
}

#[test]
fn the_page_of_settings_is_what_they_are() {
    let page = format!("{}{}", include_str!("page.md"), mesh_runtime::knobs::markdown(&Config::knobs()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config-waypoint.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/config-waypoint.md is not what the settings are: run `UPDATE=1 cargo test -p waypoint config`");
}
