//! Waypoints that lead to each other: what goes in a circle ends at once (spec/reliability.md T-19).

use super::*;

/// Three services, each bound to a waypoint of its own and served by whoever has the address of the next one. Where those
/// addresses lead to the waypoints again, as a load balancer's may, everything goes round.
const RING: &str = "
node a: client 10.0.0.1 sa=shop/client
node c: x0 10.96.0.10 sa=shop/wp
node c: x1 10.96.0.11 sa=shop/wp
node c: x2 10.96.0.12 sa=shop/wp
service s0.shop 10.96.0.10 80->80 : FIRST
service s1.shop 10.96.0.11 80->80 : SECOND
service s2.shop 10.96.0.12 80->80 : x0
";

struct Ring {
    client: Pool<()>,
    proxies: Vec<Arc<Proxy>>,
    _stores: Vec<Store>,
}

/// `length`: of the circle.
async fn ring(length: u8) -> Ring {
    let clock = Arc::new(SimClock::start());
    let lifetimes = Lifetimes { default: YEARS, max: YEARS };
    let ca = Arc::new(Ca::self_signed("cluster.local", YEARS, lifetimes, clock.now()).unwrap());
    let fabric = Fabric::new(1);
    fabric.add_pod("a", ip(1));
    let (mut writer, watched) = world();
    let next = |number: u8| if number + 1 == length { "x0" } else { ["x1", "x2"][usize::from(number.min(1))] };
    let mesh = fixture::parse(&RING.replace("FIRST", next(0)).replace("SECOND", next(1))).unwrap();
    writer.apply(mesh.changes.iter().cloned().map(Edit::Address).chain([Edit::AddressesSynced]));
    let mut ring = Ring { client: node(&ca, &clock, &fabric, SocketAddr::from(([10, 96, 0, 10], 15008))), proxies: Vec::new(), _stores: Vec::new() };
    for number in 0..length {
        // Who is at the virtual address.
        let at = IpAddr::from([10, 96, 0, 10 + number]);
        fabric.add_pod("c", at);
        let (mut store, settings) = crate::settings::store(None);
        bind(&mut store, &format!("s{number}"), 80);
        store.publish();
        let own = Own { addresses: [ip(20 + number)].into(), ..own() };
        let proxy = waypoint_of(own, &ca, &clock, &fabric.daemon(at), watched.clone(), settings);
        let listener = fabric.daemon(at).listen(SocketAddr::new(at, 15008)).await.unwrap();
        tokio::spawn(listen::listen::<SimNet>(proxy.clone(), listener, CancellationToken::new()));
        ring.proxies.push(proxy);
        ring._stores.push(store);
    }
    ring
}

impl Ring {
    async fn open(&self) -> Tunnel {
        let request = ConnectRequest { to: "10.96.0.10:80".parse().unwrap(), headers: HeaderMap::new() };
        self.client.open(&(), &request).await.unwrap().0
    }

    /// Tunnels that all of them have sent.
    fn tunnels(&self) -> usize {
        self.proxies.iter().map(|proxy| proxy.connector.rows().len()).sum()
    }
}

// T-19
#[tokio::test(start_paused = true)]
async fn a_circle_of_waypoints_dies_within_a_second() {
    for length in [1, 2, 3] {
        let ring = ring(length).await;
        let began = tokio::time::Instant::now();
        let mut tunnel = ring.open().await;
        tunnel.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let answer = said(&mut tunnel).await;
        assert!(answer.starts_with("HTTP/1.1 508 "), "{length}: {answer}");
        let mut tunnel = ring.open().await;
        tunnel.write_all(b"\0x").await.unwrap();
        assert_eq!(tunnel.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{length}");
        assert!(began.elapsed() < Duration::from_secs(1), "{length}: {:?}", began.elapsed());
        // One connection from each to the next: nothing was tried twice.
        assert!(ring.tunnels() <= usize::from(length), "{length}: {} tunnels", ring.tunnels());
    }
}
