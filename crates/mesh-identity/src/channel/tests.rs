use super::*;
use crate::clock::SystemClock;

#[test]
fn addresses_are_https() {
    let good = [
        ("https://istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012),
        ("istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012),
        ("https://10.0.0.1:15012/", "10.0.0.1", 15012),
        ("https://[fd00::1]:15012", "[fd00::1]", 15012),
        ("https://ca.example.org", "ca.example.org", 443),
    ];
    for (text, host, port) in good {
        assert_eq!(text.parse::<Address>().unwrap(), Address { host: host.to_owned(), port });
    }
    let bad = ["", "https://", "http://istiod:15012", "unix:///x", "ftp://a:1", "https://a:1/path", "https://a:1?x", "https://u@a:1", "a b:1", "a:99999"];
    for text in bad {
        let err = text.parse::<Address>().unwrap_err().to_string();
        assert!(err.contains("expected https://HOST:PORT"), "{text}: {err}");
    }
}

#[test]
fn a_root_source_is_a_word_a_text_or_a_path() {
    let parse = |text: &str| text.parse::<RootSource>().unwrap();
    assert_eq!(parse("SYSTEM"), RootSource::System);
    assert_eq!(parse("./var/run/root.pem"), RootSource::File("./var/run/root.pem".into()));
    let pem = "-----BEGIN CERTIFICATE-----\n";
    assert_eq!(parse(pem), RootSource::Pem(pem.to_owned()));
}

#[test]
fn names_are_dns_or_addresses() {
    let make = |host| ChannelTls::new(RootSource::System, host, None, KeyExchange::Standard, Arc::new(SystemClock));
    for fine in ["istiod.istio-system.svc", "127.0.0.1", "[::1]", "::1"] {
        assert!(make(fine).is_ok(), "{fine}");
    }
    for bad in ["", "a b", "-x-", "*.svc"] {
        assert!(matches!(make(bad), Err(ChannelFailure::BadName(_))), "{bad:?}");
    }
}

// T-09: the controller's own accept
#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped_after_five_seconds() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = crate::sign::Ca::self_signed("td", crate::sign::ROOT_LIFE, Default::default(), clock.now()).unwrap();
    let serving = ca.serving(&["istiod.test".into()], Duration::from_secs(3600), clock.now()).unwrap();
    let tls = ServingTls::new(serving.chain, &serving.key, ca.roots(), KeyExchange::Standard, clock.clone()).unwrap();
    let (near, far) = tokio::io::duplex(1024);
    let began = tokio::time::Instant::now();
    assert!(matches!(tls.accept(far).await, Err(TlsFailure::TimedOut(_))));
    assert_eq!(began.elapsed(), HANDSHAKE_TIMEOUT);
    let client = ChannelTls::new(RootSource::Pem(ca.root_bundle()), "istiod.test", None, KeyExchange::Standard, clock).unwrap();
    let (_server, silent) = tokio::io::duplex(1024);
    assert!(matches!(client.secure(silent).await, Err(ChannelFailure::Tls(TlsFailure::TimedOut(_)))));
    drop(near);
}
