use super::*;

/// As a little-endian machine prints them; on others the words differ and the table of the kernel is read the same way.
const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0501000A:C001 0700000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0501000A:C002 0700000A:0050 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0
   3: 0501000A:C003 0700000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0
   4: 0100007F:3A99 0501000A:C003 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0
   5: 0501000A:0050 6346C8C6:D001 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0
   6: 6346C8C6:D001 0501000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 6 1 0
   7: 0501000A:3A9E 6346C8C6:D002 01 00000000:00000000 00:00000000 00000000     0        0 7 1 0
   8: 0100007F:D005 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 8 1 0
";
const TCP6: &str = "\
  sl  local_address                         remote_address                        st
   0: 000100FD000000000000000005000000:C009 000200FD000000000000000007000000:0050 08 0
   1: 0000000000000000FFFF00000501000A:0050 0000000000000000FFFF00000700000A:C00A 01 0
";

fn shown(flows: &BTreeSet<Flow>) -> Vec<String> {
    flows.iter().map(|f| format!("{} {}", f.local, f.remote)).collect()
}

#[test]
#[cfg(target_endian = "little")]
fn only_connections_past_the_mesh_count() {
    let mut entries = parse(TCP);
    assert_eq!(entries.len(), 9);
    entries.extend(parse(TCP6));
    assert_eq!(
        shown(&bypassing(&entries)),
        [
            "10.0.1.5:80 10.0.0.7:49162",           // dual-stack server: IPv4 in IPv6 form
            "10.0.1.5:49153 10.0.0.7:80",           // an old client connection
            "[fd00:100::5]:49161 [fd00:200::7]:80", // half-closed counts
        ],
        "not: listening, TIME_WAIT, redirected (the daemon's end is there), spoofed by the daemon, the daemon's own, loopback"
    );
    assert_eq!(carried(&entries), 2, "one on 15001, one on 15006");
}

#[test]
fn lines_that_are_no_sockets_are_left_out() {
    for text in
        ["", "x", " 0: zz:1 00000000:0 01", " 0: 0100007F:1 0100007F", " 0: 01:1 02:2 01", " 0: 0100007F:10000 0100007F:1 01"]
    {
        assert_eq!(parse(text), []);
    }
}
