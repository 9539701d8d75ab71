//! Somebody between our client and its server, who is not its server.

use super::*;

/// Somebody on the way flips a bit of the server's byte number `at`: what the client makes of it. `None` when the server
/// sends fewer bytes.
fn tampered(client: Arc<ClientConfig>, server: Arc<ServerConfig>, at: usize) -> Option<Result<(), rustls::Error>> {
    let mut client = ClientConnection::new(client, unspoken_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut passed = 0;
    for _ in 0..8 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            if server.process_new_packets().is_err() {
                return Some(Err(rustls::Error::DecryptError)); // the client's own flight no longer fits
            }
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        if let Some(at) = at.checked_sub(passed).filter(|at| *at < wire.len()) {
            if says_version(&wire, at) {
                return Some(Err(rustls::Error::General("not tried".to_owned())));
            }
            wire[at] ^= 1;
        }
        passed += wire.len();
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            if let Err(why) = client.process_new_packets() {
                return Some(Err(why));
            }
        }
    }
    (at < passed).then(|| if client.is_handshaking() { Err(rustls::Error::HandshakeNotComplete) } else { Ok(()) })
}

/// Whether a byte is the version in the header of a record: it says nothing, and is to be ignored (RFC 8446 5.1).
fn says_version(mut wire: &[u8], mut at: usize) -> bool {
    while let [_, _, _, high, low, ..] = *wire {
        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
        if at < length {
            return matches!(at, 1 | 2);
        }
        (wire, at) = (&wire[length..], at - length);
    }
    false
}

// T-61: whoever sits between our client and its server cannot change a byte of what the server says.
#[test]
fn a_man_in_the_middle_changes_nothing_unnoticed() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let tls = plain();
    let (client, server) = (tls.client_config(&cart, &[id("shop", "web")]), tls.server_config(&web));
    assert!(run(client.clone(), server.clone()).is_ok(), "left alone they meet");
    let (mut tried, mut unnoticed) = (0, Vec::new());
    for at in (0..).step_by(3) {
        let Some(ended) = tampered(client.clone(), server.clone(), at) else { break };
        tried += 1;
        if ended.is_ok() {
            unnoticed.push(at);
        }
    }
    assert!(tried > 200, "only {tried} bytes");
    assert!(unnoticed.is_empty(), "bytes {unnoticed:?}");
}

// T-61: downgrades towards our client. It hangs up, and nothing but its hello and an alert has left.
#[tokio::test(start_paused = true)]
async fn our_client_takes_no_lesser_protocol() {
    let root = Signer::root("a");
    let (cart, _) = pair(&root);
    let hello = |version: [u8; 2], suite: [u8; 2], extensions: &[u8]| {
        let body = [&version[..], &[7; 32], &[0], &suite, &[0], &(extensions.len() as u16).to_be_bytes(), extensions].concat();
        let message = [&[2, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        [&[0x16, 3, 3][..], &(message.len() as u16).to_be_bytes(), &message].concat()
    };
    let tls13 = [0, 43, 0, 2, 3, 4];
    for (what, answer) in [
        ("TLS 1.2", hello([3, 3], [0xc0, 0x2b], &[])),
        ("TLS 1.0", hello([3, 1], [0xc0, 0x13], &[])),
        ("SSL 3", hello([3, 0], [0, 0x2f], &[])),
        ("a suite that was not offered", hello([3, 3], [0x13, 0x03], &tls13)),
        ("no key share", hello([3, 3], [0x13, 0x01], &tls13)),
        ("SSL 2", b"\x80\x0b\x04\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00".to_vec()),
        ("plain HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ("plain HTTP/2", b"\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("an alert", vec![0x15, 3, 3, 0, 2, 1, 0]),
        ("nothing", Vec::new()),
    ] {
        let (near, mut far) = duplex(64 << 10);
        let between = async {
            let mut head = [0; 5];
            far.read_exact(&mut head).await.unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            far.read_exact(&mut hello).await.unwrap();
            far.write_all(&answer).await.unwrap();
            let mut rest = Vec::new();
            let _ = far.read_to_end(&mut rest).await;
            rest
        };
        let tls = plain();
        let (dialled, rest) = tokio::join!(async { tls.connect(near, &cart, &[id("shop", "web")]).await.map(drop) }, between);
        assert!(dialled.is_err(), "{what}: the client goes on");
        // A change of cipher spec (6 bytes) and an alert (7 bytes) are all that may follow.
        assert!(rest.len() <= 13, "{what}: {} bytes followed the hello", rest.len());
    }
}
