//! Which tokens are good, where they stand, what becomes of them, and where keys come from. Tokens are made with keys of this
//! run.

use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{hmac, rsa::KeySize};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mesh_xds::messages::waypoint::{ClaimHeader, JwtHeader, JwtRule};
use serde_json::{Value, json};

use super::jwks::Jwks;
use super::judge::Step;
use super::token::Bad;
use super::*;
use crate::call::{CallError, Limits, Reply, To, Version};

struct Signers {
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    rsa: RsaKeyPair,
    ed: Ed25519KeyPair,
    other: EcdsaKeyPair,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers {
    p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    p521: EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
    other: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
});

const SECRET: &[u8] = b"a secret of the operator's";
const NOW: u64 = 1_800_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(id: &str, curve: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "kid": id, "x": b64(x), "y": b64(y)})
}

/// 2048 bits: `SEQUENCE { INTEGER (257 bytes, the first 0), INTEGER 65537 }`.
fn rsa(id: &str, key: &RsaKeyPair) -> Value {
    json!({"kty": "RSA", "kid": id, "n": b64(&key.public_key().as_ref()[9..265]), "e": "AQAB"})
}

fn set() -> Value {
    let signers = &*SIGNERS;
    json!({"keys": [
        ec("p256", "P-256", &signers.p256), ec("p384", "P-384", &signers.p384), ec("p521", "P-521", &signers.p521),
        rsa("rsa", &signers.rsa), {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(signers.ed.public_key())},
        {"kty": "oct", "kid": "oct", "k": b64(SECRET)},
        {"kty": "unheard of", "kid": "new"}, {"kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": "AA", "y": "AA"},
    ]})
}

fn sign(algorithm: &str, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let signers = &*SIGNERS;
    let rsa = |encoding: &'static dyn signature::RsaEncoding| {
        let mut made = vec![0; signers.rsa.public_modulus_len()];
        signers.rsa.sign(encoding, &random, message, &mut made).unwrap();
        made
    };
    let ec = |key: &EcdsaKeyPair| key.sign(&random, message).unwrap().as_ref().to_vec();
    let mac = |kind, secret: &[u8]| hmac::sign(&hmac::Key::new(kind, secret), message).as_ref().to_vec();
    match algorithm {
        "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
        "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
        "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
        "PS256" => rsa(&signature::RSA_PSS_SHA256),
        "PS384" => rsa(&signature::RSA_PSS_SHA384),
        "PS512" => rsa(&signature::RSA_PSS_SHA512),
        "ES256" => ec(&signers.p256),
        "ES384" => ec(&signers.p384),
        "ES512" => ec(&signers.p521),
        "EdDSA" => signers.ed.sign(message).as_ref().to_vec(),
        "HS256" => mac(hmac::HMAC_SHA256, SECRET),
        "HS384" => mac(hmac::HMAC_SHA384, SECRET),
        "HS512" => mac(hmac::HMAC_SHA512, SECRET),
        "other" => ec(&signers.other),
        _ => Vec::new(),
    }
}

/// `header` and `payload` as they are, signed as `with` signs.
fn token(header: &Value, payload: &Value, with: &str) -> String {
    let signed = format!("{}.{}", b64(header.to_string()), b64(payload.to_string()));
    format!("{signed}.{}", b64(sign(with, signed.as_bytes())))
}

fn payload() -> Value {
    json!({"iss": "https://issuer", "sub": "bob", "aud": ["web", "api"], "exp": NOW + 300})
}

fn edited(edit: impl FnOnce(&mut Value)) -> Value {
    let mut payload = payload();
    edit(&mut payload);
    payload
}

fn good() -> String {
    token(&json!({"alg": "ES256", "kid": "p256"}), &payload(), "ES256")
}

fn wire() -> JwtRule {
    JwtRule { issuer: "https://issuer".into(), jwks: set().to_string(), ..JwtRule::default() }
}

fn rule(wire: &JwtRule) -> Rule {
    let (rule, wrong) = Rule::read(wire);
    assert_eq!(wrong, [""; 0]);
    rule
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn ask(rules: &[Rule], headers: &HeaderMap, query: Option<&str>) -> Outcome {
    let parts = Parts { headers, query, authority: "shop.example:80" };
    match judge(rules, parts, &|_| Known::Failed, now()) {
        Step::Done(outcome) => outcome,
        Step::Need(need) => panic!("{need:?}"),
    }
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

/// The claims' subject, or the words of the refusal.
fn result(rules: &[Rule], token: &str) -> Result<String, &'static str> {
    match ask(rules, &bearer(token), None) {
        Outcome::Verified(verified) => Ok(verified.claims.subject.as_deref().unwrap_or("-").to_owned()),
        Outcome::Refused(refused) => Err(refused.text),
        Outcome::None => Err("none"),
    }
}

// Acceptance 14
#[test]
fn every_algorithm_with_its_own_kind_of_key() {
    let kinds = [("RS256", "rsa"), ("RS384", "rsa"), ("RS512", "rsa"), ("PS256", "rsa"), ("PS384", "rsa"), ("PS512", "rsa"), ("ES256", "p256"), ("ES384", "p384"), ("ES512", "p521"), ("EdDSA", "ed"), ("HS256", "oct"), ("HS384", "oct"), ("HS512", "oct")];
    let rules = [rule(&wire())];
    for (algorithm, key) in kinds {
        for named in [true, false] {
            let header = if named { json!({"alg": algorithm, "kid": key}) } else { json!({"alg": algorithm}) };
            assert_eq!(result(&rules, &token(&header, &payload(), algorithm)), Ok("bob".into()), "{algorithm}");
            let mut broken = token(&header, &payload(), algorithm);
            let at = broken.len() - 10;
            let other = if broken.as_bytes()[at] == b'A' { "B" } else { "A" };
            broken.replace_range(at..=at, other);
            assert_eq!(result(&rules, &broken), Err(Bad::Signature.text()), "{algorithm}");
        }
        // Another key's name, another algorithm of the same key, somebody else's key.
        for wrong in kinds.map(|(_, key)| key).iter().filter(|wrong| **wrong != key) {
            assert_eq!(result(&rules, &token(&json!({"alg": algorithm, "kid": wrong}), &payload(), algorithm)), Err(Bad::UnknownKey.text()), "{algorithm} {wrong}");
        }
    }
    assert_eq!(result(&rules, &token(&json!({"alg": "RS512", "kid": "rsa"}), &payload(), "RS256")), Err(Bad::Signature.text()));
    assert_eq!(result(&rules, &token(&json!({"alg": "PS256", "kid": "rsa"}), &payload(), "RS256")), Err(Bad::Signature.text()));
    assert_eq!(result(&rules, &token(&json!({"alg": "ES256", "kid": "p256"}), &payload(), "other")), Err(Bad::Signature.text()));
    // A key that says its algorithm is used with no other.
    let mut only = rsa("rsa", &SIGNERS.rsa);
    only["alg"] = "RS256".into();
    let rules = [rule(&JwtRule { jwks: json!({"keys": [only]}).to_string(), ..wire() })];
    assert_eq!(result(&rules, &token(&json!({"alg": "RS256"}), &payload(), "RS256")), Ok("bob".into()));
    assert_eq!(result(&rules, &token(&json!({"alg": "RS384"}), &payload(), "RS384")), Err(Bad::UnknownKey.text()));
}

// V-29
#[test]
fn what_is_no_token() {
    let rules = [rule(&wire())];
    let es256 = json!({"alg": "ES256", "kid": "p256"});
    let with = |payload: Value| token(&es256, &payload, "ES256");
    let raw = |header: &str, payload: &str| {
        let signed = format!("{}.{}", b64(header), b64(payload));
        format!("{signed}.{}", b64(sign("ES256", signed.as_bytes())))
    };
    let header = es256.to_string();
    let unsigned = format!("{}.{}.", b64(json!({"alg": "none"}).to_string()), b64(payload().to_string()));
    // The public key as the secret of a MAC.
    let confused = {
        let signed = format!("{}.{}", b64(json!({"alg": "HS256", "kid": "rsa"}).to_string()), b64(payload().to_string()));
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SIGNERS.rsa.public_key().as_ref()), signed.as_bytes());
        format!("{signed}.{}", b64(mac))
    };
    let deep = raw(&header, &format!("{{\"iss\":\"https://issuer\",\"a\":{}{}}}", "[".repeat(2_000), "]".repeat(2_000)));
    let table: Vec<(&str, String, Bad)> = vec![
        ("one part", "abc".into(), Bad::Form),
        ("two parts", "abc.def".into(), Bad::Form),
        ("four parts", format!("{}.x", good()), Bad::Form),
        ("empty parts", "..".into(), Bad::Form),
        ("padded", good().replacen('.', "=.", 1), Bad::Form),
        ("not base64", format!("*{}", good()), Bad::Form),
        ("a header of text", raw("\"ES256\"", &payload().to_string()), Bad::Form),
        ("a payload of a list", raw(&header, "[]"), Bad::Form),
        ("no UTF-8", format!("{}.{}.AA", b64(&header), b64(b"{\"iss\":\"https://issuer\",\"sub\":\"\xff\"}")), Bad::Form),
        ("deep", deep, Bad::Form),
        ("none", unsigned, Bad::Algorithm),
        ("None", raw(&json!({"alg": "None"}).to_string(), &payload().to_string()), Bad::Algorithm),
        ("no algorithm", raw("{}", &payload().to_string()), Bad::Form),
        ("a number as algorithm", raw("{\"alg\":256}", &payload().to_string()), Bad::Form),
        ("lower case", raw(&json!({"alg": "es256"}).to_string(), &payload().to_string()), Bad::Algorithm),
        ("confusion of key and secret", confused, Bad::UnknownKey),
        ("crit", token(&json!({"alg": "ES256", "kid": "p256", "crit": ["exp"]}), &payload(), "ES256"), Bad::Form),
        ("a list as kid", token(&json!({"alg": "ES256", "kid": ["p256"]}), &payload(), "ES256"), Bad::Form),
        ("a path as kid", token(&json!({"alg": "ES256", "kid": "../../etc/passwd"}), &payload(), "ES256"), Bad::UnknownKey),
        ("another issuer", with(edited(|p| p["iss"] = "https://issuer/".into())), Bad::Issuer),
        ("no issuer", with(edited(|p| drop(p.as_object_mut().unwrap().remove("iss")))), Bad::Issuer),
        ("a number as issuer", with(edited(|p| p["iss"] = 7.into())), Bad::Form),
        ("a number as subject", with(edited(|p| p["sub"] = 7.into())), Bad::Form),
        ("a list as subject", with(edited(|p| p["sub"] = json!(["bob"]))), Bad::Form),
        ("null as subject", with(edited(|p| p["sub"] = Value::Null)), Bad::Form),
        ("a number as audience", with(edited(|p| p["aud"] = 7.into())), Bad::Form),
        ("a list of numbers as audience", with(edited(|p| p["aud"] = json!(["web", 7]))), Bad::Form),
        ("a text as end", with(edited(|p| p["exp"] = NOW.to_string().into())), Bad::Form),
        ("expired", with(edited(|p| p["exp"] = (NOW - 60).into())), Bad::Expired),
        ("a negative end", with(edited(|p| p["exp"] = (-1).into())), Bad::Expired),
        ("not yet", with(edited(|p| p["nbf"] = (NOW + 61).into())), Bad::NotYet),
        ("9 KiB", with(edited(|p| p["pad"] = "x".repeat(7_000).into())), Bad::TooLong),
        ("1 MiB", "x".repeat(1 << 20), Bad::TooLong),
    ];
    for (name, token, bad) in table {
        assert_eq!(result(&rules, &token), Err(bad.text()), "{name}");
    }
    let good = [
        ("as it is", payload(), "bob"),
        ("no subject", edited(|p| drop(p.as_object_mut().unwrap().remove("sub"))), "-"),
        ("within the skew", edited(|p| p["exp"] = (NOW - 59).into()), "bob"),
        ("within the skew", edited(|p| p["nbf"] = (NOW + 60).into()), "bob"),
        ("no end", edited(|p| drop(p.as_object_mut().unwrap().remove("exp"))), "bob"),
        ("an end beyond all times", edited(|p| p["exp"] = u64::MAX.into()), "bob"),
        ("a fraction", edited(|p| p["exp"] = json!(1_800_000_300.5)), "bob"),
        ("a text as audience", edited(|p| p["aud"] = "web".into()), "bob"),
    ];
    for (name, payload, subject) in good {
        assert_eq!(result(&rules, &with(payload)), Ok(subject.into()), "{name}");
    }
}

#[test]
fn audiences() {
    let only = |list: &[&str]| [rule(&JwtRule { audiences: list.iter().map(|one| (*one).to_owned()).collect(), ..wire() })];
    assert_eq!(result(&only(&["api"]), &good()), Ok("bob".into()));
    assert_eq!(result(&only(&["x", "web"]), &good()), Ok("bob".into()));
    assert_eq!(result(&only(&["x"]), &good()), Err(Bad::Audience.text()));
    let none = token(&json!({"alg": "ES256"}), &edited(|p| drop(p.as_object_mut().unwrap().remove("aud"))), "ES256");
    assert_eq!(result(&only(&["x"]), &none), Err(Bad::Audience.text()));
}

#[test]
fn where_tokens_stand() {
    let token = good();
    let custom = JwtRule {
        from_headers: vec![JwtHeader { name: "X-Token".into(), prefix: "jwt ".into() }, JwtHeader { name: "x-bare".into(), prefix: String::new() }],
        from_params: vec!["tok en".into()],
        from_cookies: vec!["session".into()],
        ..wire()
    };
    let custom = [rule(&custom)];
    let default = [rule(&wire())];
    let found = |rules: &[Rule], pairs: &[(&'static str, &str)], query: Option<&str>| !matches!(ask(rules, &headers(pairs), query), Outcome::None);
    let bearer = format!("Bearer {token}");
    assert!(found(&default, &[("authorization", &bearer)], None));
    assert!(found(&default, &[], Some(&format!("a=b&access_token={token}"))));
    assert!(!found(&default, &[("authorization", &token)], None));
    assert!(!found(&default, &[("authorization", "Basic x")], None));
    assert!(!found(&default, &[("authorization", "Bearer ")], None));
    assert!(!found(&default, &[("cookie", &format!("session={token}"))], Some("access_token=&x")));
    assert!(found(&custom, &[("x-token", &format!("jwt {token}"))], None));
    assert!(found(&custom, &[("x-bare", &token)], None));
    assert!(found(&custom, &[("cookie", "a=b"), ("cookie", &format!("c=d; session={token}"))], None));
    assert!(found(&custom, &[], Some(&format!("tok%20en={token}"))));
    assert!(!found(&custom, &[("authorization", &bearer)], Some(&format!("access_token={token}"))), "only where the rule says");
}

#[test]
fn what_becomes_of_the_request() {
    let token = good();
    let apply = |wire: JwtRule, pairs: &[(&'static str, &str)], query: Option<&str>| {
        let (mut after, mut after_query) = (headers(pairs), query.map(str::to_owned));
        let Outcome::Verified(verified) = ask(&[rule(&wire)], &after, query) else { panic!("not verified") };
        verified.edits.apply(&mut after, &mut after_query);
        (after, after_query)
    };
    let places = || JwtRule { from_headers: vec![JwtHeader { name: "x-t".into(), ..JwtHeader::default() }], from_params: vec!["t".into()], from_cookies: vec!["t".into()], ..wire() };
    let kept = ("x", "y");
    assert_eq!(apply(places(), &[kept, ("x-t", &token)], None), (headers(&[kept]), None));
    let (cookie, query) = (format!("a=b; t={token}; c=d"), format!("a=b&t={token}&c"));
    assert_eq!(apply(places(), &[kept, ("cookie", &cookie)], None), (headers(&[kept, ("cookie", "a=b; c=d")]), None));
    assert_eq!(apply(places(), &[("cookie", &format!("t={token}"))], None), (headers(&[]), None));
    assert_eq!(apply(places(), &[], Some(&query)), (headers(&[]), Some("a=b&c".into())));
    assert_eq!(apply(places(), &[], Some(&format!("t={token}"))), (headers(&[]), None));
    let forward = JwtRule { forward_original_token: true, ..places() };
    assert_eq!(apply(forward, &[("cookie", &cookie)], Some(&query)), (headers(&[("cookie", &cookie)]), Some(query)));

    let payload = edited(|p| {
        p["realm"] = json!({"level": 3, "yes": true, "list": ["a"], "half": 0.5});
        p["odd"] = "a\r\nx: y".into();
        p["wide"] = "gr\u{fc}n".into();
    });
    let claim = |header: &str, claim: &str| ClaimHeader { header: header.into(), claim: claim.into() };
    let told = JwtRule {
        output_payload_to_header: "X-Payload".into(),
        output_claims: vec![claim("x-sub", "sub"), claim("x-level", "realm.level"), claim("x-yes", "realm.yes"), claim("x-list", "realm.list"), claim("x-half", "realm.half"), claim("x-odd", "odd"), claim("x-wide", "wide"), claim("x-none", "a.b.c")],
        ..wire()
    };
    let signed = super::tests::token(&json!({"alg": "ES256"}), &payload, "ES256");
    let (after, _) = apply(told.clone(), &[("authorization", &format!("Bearer {signed}")), ("x-sub", "root"), kept], None);
    let mut expected = headers(&[kept, ("x-payload", &b64(payload.to_string())), ("x-sub", "bob"), ("x-level", "3"), ("x-yes", "true")]);
    expected.insert("x-wide", HeaderValue::from_bytes("gr\u{fc}n".as_bytes()).unwrap());
    assert_eq!(after, expected);
    // Whoever comes without a token cannot say what only a token says.
    let policies = [Arc::new(Policy { rules: vec![rule(&told)] })];
    let mut forged = headers(&[("x-sub", "root"), ("x-payload", "e30"), ("x-odd", "1"), kept]);
    sanitize(&policies, &[], &mut forged);
    assert_eq!(forged, headers(&[kept]));
    // What another of its policies has written there meanwhile stays.
    let mut written = headers(&[("x-sub", "bob")]);
    sanitize(&policies, &policies, &mut written);
    assert_eq!(written, headers(&[("x-sub", "bob")]));
}

#[test]
fn lists_that_are_written_as_one_text() {
    let payload = edited(|p| {
        p["scope"] = "read  write".into();
        p["permission"] = json!(["x"]);
        p["groups"] = "a b".into();
        p["name"] = "Bob B".into();
    });
    let Outcome::Verified(verified) = ask(&[rule(&JwtRule { space_delimited_claims: vec!["groups".into()], ..wire() })], &bearer(&token(&json!({"alg": "ES256"}), &payload, "ES256")), None) else { panic!("not verified") };
    let claims = verified.claims;
    assert_eq!([&claims.payload["scope"], &claims.payload["permission"], &claims.payload["groups"], &claims.payload["name"]], [&json!(["read", "write"]), &json!(["x"]), &json!(["a", "b"]), &json!("Bob B")]);
    assert_eq!((claims.principal().as_deref(), claims.audiences.len(), claims.presenter), (Some("https://issuer/bob"), 2, None));
}

// Two rules: one good token is enough, wherever a bad one stands; a token of nobody's is refused.
#[test]
fn any_rule_that_verifies_decides() {
    let second = JwtRule { issuer: "https://second".into(), from_headers: vec![JwtHeader { name: "x-second".into(), ..JwtHeader::default() }], ..wire() };
    let rules = [rule(&wire()), rule(&second)];
    let of = |issuer: &str| token(&json!({"alg": "ES256"}), &edited(|p| (p["iss"], p["sub"]) = (issuer.into(), issuer.into())), "ES256");
    let (first, second, stranger) = (of("https://issuer"), of("https://second"), of("https://x"));
    let expired = token(&json!({"alg": "ES256"}), &edited(|p| p["exp"] = 1.into()), "ES256");
    let result = |authorization: &str, other: &str| {
        let mut pairs = vec![];
        let bearer = format!("Bearer {authorization}");
        pairs.extend(Some(("authorization", &*bearer)).filter(|_| !authorization.is_empty()));
        pairs.extend(Some(("x-second", other)).filter(|_| !other.is_empty()));
        match ask(&rules, &headers(&pairs), None) {
            Outcome::None => "none".to_owned(),
            Outcome::Verified(verified) => verified.claims.issuer.to_string(),
            Outcome::Refused(refused) => refused.text.to_owned(),
        }
    };
    let table = [
        ("", "", "none"),
        (&*first, "", "https://issuer"),
        ("", &*second, "https://second"),
        (&first, &second, "https://issuer"),
        (&first, "bad", "https://issuer"),
        ("bad", &second, "https://second"),
        (&expired, &second, "https://second"),
        (&expired, "", "Jwt is expired"),
        (&expired, &first, "Jwt is expired"),
        (&stranger, "", "Jwt issuer is not configured"),
        (&second, "", "Jwt issuer is not configured"),
        ("", &first, "Jwt issuer is not configured"),
    ];
    for (authorization, other, expected) in table {
        assert_eq!(result(authorization, other), expected);
    }
    // Within a rule, each place has its token.
    let both = ask(&[rule(&wire())], &bearer("bad"), Some(&format!("access_token={first}")));
    assert!(matches!(both, Outcome::Verified(_)));
}

#[test]
fn a_refusal_reads_as_in_the_field() {
    let Outcome::Refused(refused) = ask(&[rule(&wire())], &bearer("x"), None) else { panic!("not refused") };
    assert_eq!(refused.status, 401);
    assert_eq!(refused.www_authenticate, "Bearer realm=\"shop.example:80\", error=\"invalid_token\"");
    let expired = token(&json!({"alg": "ES256"}), &edited(|p| p["exp"] = 1.into()), "ES256");
    let Outcome::Refused(refused) = ask(&[rule(&wire())], &bearer(&expired), None) else { panic!("not refused") };
    assert_eq!(refused.details, "jwt_authn_access_denied{Jwt_is_expired}");
    // A name that would end the quotes is left out.
    let headers = bearer("x");
    let Step::Done(Outcome::Refused(refused)) = judge(&[rule(&wire())], Parts { headers: &headers, query: None, authority: "a\"b" }, &|_| Known::Failed, now()) else { panic!("not refused") };
    assert_eq!(refused.www_authenticate, "Bearer realm=\"\", error=\"invalid_token\"");
}

#[test]
fn a_rule_that_cannot_be_read_verifies_nothing() {
    let table = [
        (JwtRule { issuer: String::new(), ..wire() }, "issuer: is empty"),
        (JwtRule { jwks: "{".into(), ..wire() }, "jwks: is not JSON"),
        (JwtRule { jwks: "{\"keys\":[{\"kty\":\"x\"}]}".into(), ..wire() }, "jwks: holds no key that can be used"),
        (JwtRule { jwks: String::new(), jwks_uri: "file:///etc/passwd".into(), ..wire() }, "jwksUri: \"file:///etc/passwd\" is not a URL"),
        (JwtRule { jwks: String::new(), issuer: "bob".into(), ..wire() }, "issuer: there is no jwks and no jwksUri"),
    ];
    for (wire, complaint) in table {
        let (policy, rejection) = compile(&JwtPolicy { rules: vec![wire], ..JwtPolicy::default() });
        let message = rejection.unwrap().message;
        assert!(message.starts_with(&format!("rules[0].{complaint}")) && message.contains("no token is good"), "{message}");
        assert!(result(&policy.rules, &good()).is_err());
    }
    let (_, rejection) = compile(&JwtPolicy { rules: vec![JwtRule { output_payload_to_header: "a b".into(), ..wire() }], ..JwtPolicy::default() });
    assert_eq!(rejection.unwrap().message, "rules[0].outputPayloadToHeader: \"a b\" is not the name of a header");
}

// V-28
#[test]
fn urls_that_are_never_asked() {
    for bad in ["", "keys", "/keys", "ftp://a/b", "file:///a", "https://", "http://user@host/", "http://localhost/x", "http://LOCALHOST./x", "http://a.localhost", "http://127.0.0.1:15000/", "http://127.9.9.9/", "http://169.254.169.254/latest", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/", "http://0.0.0.0/", "http://[::]/", "http://224.0.0.1/"] {
        assert!(url::Url::read(bad).is_err(), "{bad}");
    }
    let url = url::Url::read("https://Keys.example/a?b=c").unwrap();
    assert_eq!((url.tls, url.host.as_str(), url.port), (true, "keys.example", 443));
    let redirects = [("/x", true), ("https://keys.example/x", true), ("https://keys.example:443/x", true), ("http://keys.example/x", false), ("https://other/x", false), ("//other/x", false), ("https://169.254.169.254/", false), ("https://keys.example:8443/", false), ("", false), ("file:///x", false)];
    for (location, follows) in redirects {
        assert_eq!(url.redirected(location).is_ok(), follows, "{location}");
    }
}

// V-27: how long keys are good for.
#[test]
fn keys_age() {
    let keys = Arc::new(Jwks::inline(set().to_string().as_bytes()).unwrap());
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let used = Advice::Use(keys.clone());
    // What the issuer says, and after how many seconds it is asked again.
    for (max_age, asked) in [(None, 300), (Some(0), 60), (Some(100), 100), (Some(999_999), 3600)] {
        let mut held = Held::default();
        held.fetched(keys.clone(), max_age.map(Duration::from_secs), at(0));
        assert_eq!([held.advice(at(asked - 1)), held.advice(at(asked))], [used.clone(), Advice::Fetch], "{max_age:?}");
    }
    let mut held = Held::default();
    assert_eq!(held.advice(at(0)), Advice::Fetch);
    held.failed(at(0));
    assert_eq!([held.advice(at(9)), held.advice(at(10))], [Advice::Fail, Advice::Fetch]);
    // The last keys serve while the issuer is down, for a day.
    held.fetched(keys.clone(), None, at(0));
    for seconds in [300, 3600, 86_399] {
        held.failed(at(seconds));
        assert_eq!(held.advice(at(seconds)), used, "{seconds}");
    }
    held.failed(at(86_400));
    assert_eq!(held.advice(at(86_400)), Advice::Fail);
    // A key that is not there: every 30 s, whoever asks.
    let mut held = Held::default();
    held.fetched(keys, None, at(0));
    let may: Vec<bool> = [1, 29, 30, 31, 59, 60].map(|seconds| held.may_fetch_anew(at(seconds))).into();
    assert_eq!(may, [false, false, true, false, false, true]);
}

type Answers = dyn Fn(&str, usize) -> Result<Reply, CallError> + Send + Sync;

/// An issuer, and how often it was asked for what.
struct Issuer {
    answers: Box<Answers>,
    asked: Mutex<Vec<String>>,
}

impl Issuer {
    fn new(answers: impl Fn(&str, usize) -> Result<Reply, CallError> + Send + Sync + 'static) -> (Arc<Issuer>, Keys) {
        let issuer = Arc::new(Issuer { answers: Box::new(answers), asked: Mutex::default() });
        (issuer.clone(), Keys::new(issuer))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

impl Caller for Issuer {
    fn call<'a>(&'a self, to: To<'a>, version: Version, request: http::Request<bytes::Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        assert!(matches!(to, To::Url { .. }));
        assert_eq!((version, limits.max_body, request.method().as_str()), (Version::Http1, 1 << 20, "GET"));
        let mut asked = self.asked.lock();
        asked.push(request.uri().to_string());
        let answer = (self.answers)(&request.uri().to_string(), asked.len());
        async move {
            tokio::task::yield_now().await;
            answer
        }
        .boxed()
    }
}

fn reply(status: u16, head: &[(&'static str, &str)], body: impl Into<bytes::Bytes>) -> Result<Reply, CallError> {
    Ok(Reply { status: StatusCode::from_u16(status).unwrap(), headers: headers(head), body: body.into(), trailers: None })
}

fn remote(uri: &str) -> [Arc<Policy>; 1] {
    [Arc::new(compile(&JwtPolicy { rules: vec![JwtRule { jwks: String::new(), jwks_uri: uri.into(), ..wire() }], ..JwtPolicy::default() }).0)]
}

/// Tokens of these tests never end by the clock of the machine.
fn lasting(kid: &str, with: &str) -> HeaderMap {
    bearer(&token(&json!({"alg": "ES256", "kid": kid}), &edited(|p| p["exp"] = u64::MAX.into()), with))
}

async fn outcome(keys: &Keys, policies: &[Arc<Policy>], headers: &HeaderMap) -> &'static str {
    match keys.authenticate(policies, Parts { headers, query: None, authority: "shop" }).await {
        Outcome::None => "none",
        Outcome::Verified(_) => "verified",
        Outcome::Refused(refused) => refused.text,
    }
}

#[tokio::test]
async fn keys_are_fetched_once_for_many_and_only_for_tokens_that_need_them() {
    let (issuer, keys) = Issuer::new(|_, _| reply(200, &[], set().to_string()));
    let policies = remote("https://issuer/keys");
    for cheap in [HeaderMap::new(), bearer("x"), bearer(&token(&json!({"alg": "none"}), &payload(), ""))] {
        outcome(&keys, &policies, &cheap).await;
    }
    assert!(issuer.asked().is_empty(), "nothing is fetched for what cannot be good");
    let headers = lasting("p256", "ES256");
    let many = (0..50).map(|_| outcome(&keys, &policies, &headers));
    assert_eq!(futures_util::future::join_all(many).await, ["verified"; 50]);
    assert_eq!(issuer.asked(), ["https://issuer/keys"]);
    // A name that nobody knows: the keys are younger than 30 s, so nobody is asked.
    for _ in 0..5 {
        assert_eq!(outcome(&keys, &policies, &lasting("unknown", "ES256")).await, Bad::UnknownKey.text());
    }
    assert_eq!(issuer.asked().len(), 1);
    // A published secret is no key.
    assert_eq!(outcome(&keys, &policies, &bearer(&token(&json!({"alg": "HS256", "kid": "oct"}), &edited(|p| p["exp"] = u64::MAX.into()), "HS256"))).await, Bad::UnknownKey.text());
}

// V-27: whatever the issuer answers, there is no key but its own.
#[tokio::test]
async fn an_issuer_in_trouble_verifies_nothing_and_is_left_in_peace() {
    let garbage: Vec<Result<Reply, CallError>> = vec![
        Err(CallError::Timeout),
        Err(CallError::TooLarge(1 << 20)),
        Err(CallError::Connect("refused".into())),
        reply(500, &[], set().to_string()),
        reply(404, &[], ""),
        reply(204, &[], ""),
        reply(200, &[], ""),
        reply(200, &[], "garbage"),
        reply(200, &[], "{\"keys\":[]}"),
        reply(302, &[("location", "https://other/keys")], ""),
        reply(302, &[("location", "http://169.254.169.254/")], ""),
        reply(302, &[], ""),
        reply(302, &[("location", "/keys")], ""),
    ];
    for answer in garbage {
        let told = answer.clone();
        let (issuer, keys) = Issuer::new(move |_, _| told.clone());
        let policies = remote("https://issuer/keys");
        for _ in 0..3 {
            assert_eq!(outcome(&keys, &policies, &lasting("p256", "ES256")).await, Bad::NoKeys.text(), "{answer:?}");
        }
        let asked = issuer.asked();
        assert!(asked.len() <= 4 && asked.iter().all(|uri| uri == "https://issuer/keys"), "{answer:?}: {asked:?}");
    }
}

#[tokio::test]
async fn redirects_within_a_host_and_discovery() {
    let (issuer, keys) = Issuer::new(|uri, _| match uri {
        "https://issuer/keys" => reply(307, &[("location", "/v2/keys")], ""),
        "https://issuer/v2/keys" => reply(200, &[("cache-control", "public, max-age=120")], set().to_string()),
        "https://issuer/.well-known/openid-configuration" => reply(200, &[], json!({"issuer": "https://issuer", "jwks_uri": "https://issuer/keys"}).to_string()),
        _ => reply(404, &[], ""),
    });
    assert_eq!(outcome(&keys, &remote("https://issuer/keys"), &lasting("p256", "ES256")).await, "verified");
    assert_eq!(outcome(&keys, &remote(""), &lasting("p256", "ES256")).await, "verified");
    assert_eq!(issuer.asked(), ["https://issuer/keys", "https://issuer/v2/keys", "https://issuer/.well-known/openid-configuration", "https://issuer/keys", "https://issuer/v2/keys"]);
    // A description of somebody else, or of keys on this machine.
    for description in [json!({"issuer": "https://other", "jwks_uri": "https://issuer/v2/keys"}), json!({"issuer": "https://issuer", "jwks_uri": "http://127.0.0.1:15000/"}), json!({"issuer": "https://issuer"}), json!([])] {
        let (_, keys) = Issuer::new(move |_, _| reply(200, &[], description.to_string()));
        assert_eq!(outcome(&keys, &remote(""), &lasting("p256", "ES256")).await, Bad::NoKeys.text());
    }
}
