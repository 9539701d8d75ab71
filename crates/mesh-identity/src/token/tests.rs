use super::*;
use serde_json::{Value, json};

use crate::testing::{DAY, start};

const ISSUER: &str = "https://issuer.test";

fn minter() -> Minter {
    Minter::generate(ISSUER).unwrap()
}

fn verifier(minter: &Minter) -> Verifier {
    Verifier::new(&minter.public_pem(), ISSUER, AUDIENCE).unwrap()
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { name: name.to_owned(), uid: format!("uid-{name}") }
}

fn subject() -> Subject {
    Subject {
        namespace: "system".to_owned(),
        service_account: object("ztunnel"),
        pod: Some(object("zt-1")),
        node: Some(object("n1")),
    }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

#[test]
fn what_is_minted_is_verified_by_the_public_key_alone() {
    let minter = minter();
    let token = minter.mint(&subject(), AUDIENCE, minutes(10), start()).unwrap();
    assert_eq!(verifier(&minter).verify(&token, start()), Ok(subject()));
    assert_eq!(verifier(&minter).verify_until(&token, start()), Ok((subject(), start() + minutes(10))));
    let again = Minter::from_private_pem(&minter.private_pem(), ISSUER).unwrap();
    assert_eq!(again.public_pem(), minter.public_pem());
    let token = again.mint(&Subject { pod: None, node: None, ..subject() }, AUDIENCE, minutes(10), start()).unwrap();
    assert_eq!(verifier(&minter).verify(&token, start()).unwrap().pod, None);
}

#[test]
fn the_claims_are_those_of_a_bound_token() {
    let token = minter().mint(&subject(), AUDIENCE, DAY, start()).unwrap();
    let part = |number: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(number).unwrap()).unwrap()).unwrap()
    };
    assert_eq!(part(0), json!({"typ": "JWT", "alg": "ES256"}));
    let now = unix_seconds(start());
    assert_eq!(part(1), json!({
        "iss": ISSUER, "sub": "system:serviceaccount:system:ztunnel", "aud": ["istio-ca"],
        "iat": now, "nbf": now, "exp": now + 3600,
        "kubernetes.io": {
            "namespace": "system",
            "node": {"name": "n1", "uid": "uid-n1"},
            "pod": {"name": "zt-1", "uid": "uid-zt-1"},
            "serviceaccount": {"name": "ztunnel", "uid": "uid-ztunnel"},
        },
    }));
}

#[test]
fn time_is_an_argument() {
    let minter = minter();
    let token = minter.mint(&subject(), AUDIENCE, minutes(10), start()).unwrap();
    let at = |offset: i64| {
        let shift = Duration::from_secs(offset.unsigned_abs());
        verifier(&minter).verify(&token, if offset < 0 { start() - shift } else { start() + shift })
    };
    assert!(at(599).is_ok());
    assert_eq!(at(600), Err(BadToken::Expired(0)));
    assert_eq!(at(86_400), Err(BadToken::Expired(85_800)));
    assert!(at(-10).is_ok());
    assert_eq!(at(-11), Err(BadToken::NotYet(11)));
}

/// A token with any header and claims, truly signed.
fn signed(minter: &Minter, header: &Value, claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(&header.to_string()), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &minter.key, Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

fn claims() -> Value {
    let now = unix_seconds(start());
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:system:ztunnel", "aud": ["istio-ca"],
        "iat": now, "nbf": now, "exp": now + 600,
        "kubernetes.io": {"namespace": "system", "serviceaccount": {"name": "ztunnel", "uid": "u"}},
    })
}

fn with(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims();
    change(&mut claims);
    claims.to_string()
}

// V-29: the claims
#[test]
fn wrong_claims_are_refused_whatever_their_type() {
    let minter = minter();
    let now = unix_seconds(start());
    let header = json!({"alg": "ES256"});
    assert!(verifier(&minter).verify(&signed(&minter, &header, &claims().to_string()), start()).is_ok());
    let set = |key: &'static str, value: Value| with(|claims| claims[key] = value);
    let rows: Vec<(String, &str)> = vec![
        (set("iss", json!("https://other")), "another issuer"),
        (set("iss", json!(null)), "one is missing or of another type"),
        (set("aud", json!(["other"])), "another audience"),
        (set("aud", json!([])), "another audience"),
        (set("aud", json!("istio-ca")), "one is missing or of another type"),
        (set("exp", json!(now)), "expired 0 s ago"),
        (set("exp", json!(-1)), "one is missing or of another type"),
        (set("exp", json!(u64::MAX)), "lives longer"),
        (set("exp", json!(1e300)), "one is missing or of another type"),
        (set("exp", json!("soon")), "one is missing or of another type"),
        (set("exp", json!(now + 3601)), "lives longer"),
        (set("nbf", json!(u64::MAX)), "is valid only in"),
        (set("iat", json!(now + 60)), "is valid only in 60 s"),
        (set("sub", json!(7)), "one is missing or of another type"),
        (set("sub", json!(["a"])), "one is missing or of another type"),
        (with(|claims| { claims.as_object_mut().unwrap().remove("sub"); }), "one is missing or of another type"),
        (with(|claims| { claims.as_object_mut().unwrap().remove("exp"); }), "one is missing or of another type"),
        (with(|claims| { claims.as_object_mut().unwrap().remove("kubernetes.io"); }), "one is missing or of another type"),
        (set("sub", json!("")), "subject"),
        (set("sub", json!("system:serviceaccount:system")), "subject"),
        (set("sub", json!("system:serviceaccount:system:ztunnel:x")), "subject"),
        (set("sub", json!("system:serviceaccount:shop:ztunnel")), "subject"),
        (set("sub", json!("system:serviceaccount:system:admin")), "subject"),
        (with(|claims| {
            claims["sub"] = json!("system:serviceaccount:a/b:ztunnel");
            claims["kubernetes.io"]["namespace"] = json!("a/b");
        }), "subject"),
        (with(|claims| claims["kubernetes.io"]["pod"] = json!({"name": "../x", "uid": "u"})), "subject"),
        (with(|claims| claims["kubernetes.io"]["node"] = json!({"name": "", "uid": "u"})), "subject"),
        ("[".repeat(10_000), "one is missing or of another type"),
        (format!("{{\"sub\":{}", "{\"a\":".repeat(2000)), "one is missing or of another type"),
        (claims().to_string().replacen("\"exp\"", "\"exp\":1,\"exp\"", 1), "one is missing or of another type"),
        ("null".to_owned(), "one is missing or of another type"),
        (String::new(), "one is missing or of another type"),
    ];
    for (claims, expect) in rows {
        let token = signed(&minter, &header, &claims);
        let err = verifier(&minter).verify(&token, start()).unwrap_err().to_string();
        assert!(err.contains(expect), "{claims:.120}: expected {expect:?}, got {err:?}");
    }
}

// V-29: the header and the signature
#[test]
fn the_algorithm_is_ours_not_the_tokens() {
    let minter = minter();
    let verifier = verifier(&minter);
    let claims = claims().to_string();
    let refused = |token: &str| verifier.verify(token, start()).unwrap_err();
    for alg in ["none", "None", "", "HS256", "HS512", "RS256", "PS256", "ES384", "EdDSA", "es256"] {
        assert_eq!(refused(&signed(&minter, &json!({"alg": alg}), &claims)), BadToken::Algorithm, "{alg}");
    }
    assert_eq!(refused(&signed(&minter, &json!({}), &claims)), BadToken::Algorithm);
    assert_eq!(refused(&signed(&minter, &json!({"alg": "ES256", "crit": ["exp"]}), &claims)), BadToken::Critical);
    // A key that the token brings along is not looked at.
    let stranger = Minter::generate(ISSUER).unwrap();
    let own_key = json!({"alg": "ES256", "jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "kid": "../../x", "jku": "http://169.254.169.254/"});
    assert_eq!(refused(&signed(&stranger, &own_key, &claims)), BadToken::Signature);

    // HMAC with the public key as secret, the classic confusion.
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part("{\"alg\":\"HS256\"}"), part(&claims));
    for secret in [minter.public_pem().into_bytes(), minter.pair.der_bytes().to_vec()] {
        let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(&secret), Algorithm::HS256).unwrap();
        assert_eq!(refused(&format!("{message}.{mac}")), BadToken::Algorithm);
    }
}

#[test]
fn tampering_is_noticed() {
    let minter = minter();
    let verifier = verifier(&minter);
    let token = minter.mint(&subject(), AUDIENCE, minutes(10), start()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let other = minter.mint(&Subject { namespace: "shop".into(), ..subject() }, AUDIENCE, minutes(10), start()).unwrap();
    let other: Vec<&str> = other.split('.').collect();
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    for (bad, expect) in [
        (format!("{}.{}.{}", parts[0], other[1], parts[2]), BadToken::Signature),
        (format!("{}.{}.{}", parts[0], parts[1], other[2]), BadToken::Signature),
        (format!("{}.{}.{zeros}", parts[0], parts[1]), BadToken::Signature),
        (format!("{}.{}.", parts[0], parts[1]), BadToken::Signature),
        (format!("{}.{}", parts[0], parts[1]), BadToken::Malformed),
        (format!("{token}.x"), BadToken::Malformed),
        (String::new(), BadToken::Malformed),
        ("..".to_owned(), BadToken::Algorithm),
        ("!.!.!".to_owned(), BadToken::Malformed),
        ("a".repeat(MAX_TOKEN_BYTES + 1), BadToken::TooLong),
        ("a".repeat(1 << 20), BadToken::TooLong),
    ] {
        assert_eq!(verifier.verify(&bad, start()), Err(expect), "{bad:.80}");
    }
    for position in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        assert!(verifier.verify(&String::from_utf8(bytes).unwrap(), start()).is_err(), "byte {position}");
    }
}

#[test]
fn keys_of_another_kind_are_refused() {
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(matches!(Minter::from_private_pem(&p384.serialize_pem(), ISSUER), Err(BadKey::WrongKind)));
    assert!(matches!(Verifier::new(&p384.public_key_pem(), ISSUER, AUDIENCE), Err(BadKey::WrongKind)));
    for text in ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        assert!(matches!(Verifier::new(text, ISSUER, AUDIENCE), Err(BadKey::Unreadable(_))), "{text:?}");
        assert!(matches!(Minter::from_private_pem(text, ISSUER), Err(BadKey::Unreadable(_))), "{text:?}");
    }
}

#[test]
fn a_name_that_no_object_has_is_not_minted() {
    for bad in ["", "A", "a:b", "a b", "a..b", &"a".repeat(254)] {
        let subject = Subject { service_account: object(bad), ..subject() };
        assert_eq!(minter().mint(&subject, AUDIENCE, minutes(1), start()), Err(BadToken::Subject), "{bad:?}");
    }
}

#[test]
fn secrets_are_not_printed() {
    assert_eq!(format!("{:?}", minter()), "Minter { issuer: \"https://issuer.test\", .. }");
}

// V-29: any bytes where a token should be
#[test]
fn mutated_tokens_never_panic_and_never_pass() {
    let minter = minter();
    let verifier = verifier(&minter);
    let token = minter.mint(&subject(), AUDIENCE, minutes(10), start()).unwrap();
    crate::testing::mutations(token.as_bytes(), 3000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        assert!(text == token || verifier.verify(&text, start()).is_err(), "{text}");
    });
    // The same with a valid signature over mutated claims: whatever passes says what it said before, but for the values.
    let claims = claims().to_string();
    crate::testing::mutations(claims.as_bytes(), 3000, |bytes| {
        let token = signed(&minter, &json!({"alg": "ES256"}), &String::from_utf8_lossy(bytes));
        if let Ok(subject) = verifier.verify(&token, start()) {
            assert!(is_object_name(&subject.namespace) && is_object_name(&subject.service_account.name));
        }
    });
}

#[test]
fn the_key_as_a_json_web_key_verifies_what_was_minted() {
    let minter = minter();
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&minter.public_jwks()).unwrap();
    let token = minter.mint(&subject(), "shop", MAX_LIFE, start()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["shop"]);
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    let key = DecodingKey::from_jwk(&set.keys[0]).unwrap();
    assert_eq!(jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims["iss"], ISSUER);
    let another = serde_json::from_str::<jsonwebtoken::jwk::JwkSet>(&Minter::generate(ISSUER).unwrap().public_jwks()).unwrap();
    assert!(jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(&another.keys[0]).unwrap(), &validation).is_err());
}
