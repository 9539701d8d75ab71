//! The messages read as YAML what they write, and refuse what they do not know.

use prost::Message;

use super::*;

#[test]
fn a_route_reads_as_yaml_and_goes_over_the_wire() {
    let yaml = r#"
parent: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}
order: SPECIFICITY
matches:
- path: {kind: PREFIX_SEGMENT, value: /v2}
  headers: [{name: x-user, value: {kind: {exact: jo}}}]
filters:
- kind: {requestHeaders: {set: [{name: a, value: b}]}}
backends:
- {weight: 90, backend: {host: {namespace: shop, hostname: v1.shop.svc.cluster.local}, port: 80}}
retry: {attempts: 3, on: [retriable-status-codes, connect-failure], codes: [503]}
"#;
    let route: HttpRoute = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(route.matches[0].path.as_ref().unwrap().kind(), PathKind::PrefixSegment);
    assert_eq!(route.retry.as_ref().unwrap().on, [RetryOn::StatusCodes as i32, RetryOn::ConnectFailure as i32]);
    assert_eq!(HttpRoute::decode(route.encode_to_vec().as_slice()).unwrap(), route);
    let again: HttpRoute = serde_saphyr::from_str(&serde_json::to_string(&route).unwrap()).unwrap();
    assert_eq!(again, route, "JSON is YAML");
}

#[test]
fn an_unknown_word_or_field_is_refused_with_what_is_known() {
    let wrong = serde_saphyr::from_str::<PathMatch>("{kind: GLOB, value: /}").unwrap_err().to_string();
    assert!(wrong.contains("GLOB") && wrong.contains("PREFIX_SEGMENT"), "{wrong}");
    let wrong = serde_saphyr::from_str::<PathMatch>("{kind: EXACT, vlaue: /}").unwrap_err().to_string();
    assert!(wrong.contains("vlaue"), "{wrong}");
}

#[test]
fn a_body_is_written_as_text_where_it_is_text() {
    for (yaml, body) in [("{status: 200, body: hello}", &b"hello"[..]), ("{status: 200, body: [255, 0]}", &[255, 0]), ("{status: 200}", &[])] {
        let read: DirectResponse = serde_saphyr::from_str(yaml).unwrap();
        assert_eq!(read.body, body, "{yaml}");
        let again: DirectResponse = serde_saphyr::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}

#[test]
fn secrets_are_in_no_dump_and_no_log() {
    let tls = TlsClient { cert_pem: "shown".into(), key_pem: "KEY-OF-IT".into(), ..TlsClient::default() };
    let policy = BackendPolicy { tls: Some(tls), ..BackendPolicy::default() };
    let settings = MeshSettings { trust_domain: "shown".into(), session_secrets: vec!["SECRET-ONE".into(), "SECRET-TWO".into()], ..MeshSettings::default() };
    let shown = |type_url, body: Vec<u8>, debug: String| [to_json(type_url, &body).unwrap().to_string(), debug];
    let policy = shown(BACKEND_POLICY, policy.encode_to_vec(), format!("{policy:?}"));
    let settings = shown(MESH_SETTINGS, settings.encode_to_vec(), format!("{settings:?}"));
    for text in policy.iter().chain(&settings) {
        assert!(text.contains("shown") && !text.contains("KEY") && !text.contains("SECRET"), "{text}");
    }
}
