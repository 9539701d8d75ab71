//! Pure: which addresses outside of the mesh nobody is sent to, whoever wrote them down and whatever a name resolves to: this
//! proxy itself, its machine, what only its machine may ask, and what is no machine's at all (spec/reliability.md V-28).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not dialled: the end of a sentence that begins with it.
pub type Forbidden = &'static str;

/// Where clouds answer each of their machines with its credentials, beside the link-local 169.254.169.254.
const METADATA: [IpAddr; 5] = [
    // AWS, IPv6
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Google, IPv6
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Azure
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// `own`: the addresses of this proxy's pod.
///
/// # Errors
/// It must not be dialled.
pub fn may_be_dialled(address: IpAddr, own: &[IpAddr]) -> Result<(), Forbidden> {
    let address = plain(address);
    if own.iter().any(|own| plain(*own) == address) {
        return Err("is this waypoint's own");
    }
    match is_of_this_machine(address) {
        true => Err("means this machine, or what only this machine may ask"),
        false if is_nobodys(address) => Err("stands for a name in the mesh, and is no machine's"),
        false => Ok(()),
    }
}

/// Addresses that mean whoever dials them, or the machine's own services (the metadata of a cloud among them).
pub fn is_of_this_machine(address: IpAddr) -> bool {
    let address = plain(address);
    METADATA.contains(&address)
        || match address {
            // 0.0.0.0/8 is "this network" (RFC 1122 3.2.1.3); Linux takes 0.0.0.0 for its loopback.
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
        }
}

/// The ranges from which services without addresses are given some (spec/waypoint.md 0).
fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.segments()[..3] == [0x2001, 2, 0],
    }
}

/// An IPv4 address in whichever IPv6 form: mapped (RFC 4291 2.5.5.2), or behind a translator (RFC 6052 2.1).
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // V-28
    #[test]
    fn who_may_be_dialled() {
        let own: [IpAddr; 2] = ["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()];
        for (text, may) in [
            ("192.0.2.1", true),
            ("10.0.0.10", true),
            ("fd00::10", true),
            ("2606:4700::1", true),
            ("64:ff9b::c000:201", true),
            ("10.0.0.9", false),
            ("::ffff:10.0.0.9", false),
            ("64:ff9b::a00:9", false),
            ("fd00::9", false),
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("::", false),
            ("169.254.169.254", false),
            ("::ffff:a9fe:a9fe", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("fd20:ce::254", false),
            ("168.63.129.16", false),
            ("100.100.100.200", false),
            ("192.0.0.192", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
            ("240.240.0.7", false),
            ("2001:2::7", false),
        ] {
            assert_eq!(may_be_dialled(text.parse().unwrap(), &own).is_ok(), may, "{text}");
        }
    }
}
