//! Which addresses are found, and what is none.

use ipveil::policy::View;

use crate::scrubber::{scrubbed, stays, with, word};

#[test]
fn addresses_are_found_wherever_they_stand() {
    for address in ["203.0.113.7", "2001:db8::7", "::1", "2001:DB8:1:2:3:4:5:6", "::ffff:203.0.113.7", "1::"] {
        for line in [
            "@",
            "from @ on",
            "ip=@",
            "ip=@;",
            "\"@\"",
            "'@'",
            "[@]",
            "(@)",
            "<@>",
            "{@}",
            "/@/",
            ",@,",
            "a,@",
            "|@|",
            "@\n",
            "\n@",
            "\t@\t",
            "{\"ip\":\"@\"}",
            "ip: @, next",
            "http://[@]/",
            "@, @",
            "@ @",
            "peer=@ user=7",
            "?ip=@&x=1",
            "*@*",
            "~@~",
            "é@é",
            "\\n@\\n",
            "\\\"@\\\"",
            "\\t@",
            "\u{1b}[3m@\u{1b}[0m",
            "\u{1b}[38;5;12m@\u{1b}[0m",
            "\\u001b[0m@\\u001b[0m",
            "\\x1b[31m@",
            "ip:@ x",
            "%5B@%5D",
            "%22@%22",
            "\\x22@\\x22",
            "\\u0022@\\u0022",
            "=%20@",
        ] {
            let (line, expected) = (line.replace('@', address), line.replace('@', "(ip)"));
            scrubbed(&line, &expected);
        }
    }
}

#[test]
fn addresses_are_found_in_every_form() {
    for (line, expected) in [
        // IPv4, also inside words.
        ("x203.0.113.7y", "x(ip)y"),
        ("_203.0.113.7_", "_(ip)_"),
        ("v1.2.3.4", "v(ip)"),
        ("#011203.0.113.7", "#011(ip)"),
        ("\\011203.0.113.7", "\\011(ip)"),
        ("#0112001:db8::7", "#011(ip)"),
        ("\\0112001:db8::7", "\\011(ip)"),
        ("user@203.0.113.7", "user@(ip)"),
        ("203.0.113.7.", "(ip)."),
        ("203.0.113.7...", "(ip)..."),
        ("at...203.0.113.7", "at...(ip)"),
        ("203.000.113.007", "(ip)"),
        ("203.0.113.7-198.51.100.3", "(ip)-(ip)"),
        ("203%2E0%2E113%2E7", "(ip)"),
        ("x=203%2e0%2e113%2e7&", "x=(ip)&"),
        ("ip=3D2001:db8:1::7=20", "ip=3D(ip)=20"),
        ("ip=3dfe80::7", "ip=3d(ip)"),
        ("ip=3D203.0.113.7", "ip=3D(ip)"),
        // Zones.
        ("fe80::7%eth0", "(ip)"),
        ("[fe80::7%25eth0]:80", "[(ip)]:80"),
        ("fe80::7%20HTTP", "(ip)%20HTTP"),
        ("fe80::7%12", "(ip)"),
        ("fe80::7%3 ", "(ip) "),
        ("fe80::7%123]", "(ip)]"),
        ("fe80::7%br-4f2a:", "(ip):"),
        ("fe80::7%en0.1,", "(ip),"),
        ("fe80::7%eth0.", "(ip)."),
        ("fe80::7%eth0-fe80::8%eth1", "(ip)-(ip)"),
        ("fe80::7%lo-203.0.113.7", "(ip)-(ip)"),
        ("fe80::7%22%5B%0A", "(ip)%22%5B%0A"),
        // Ports.
        ("203.0.113.7:443", "(ip):443"),
        ("203.0.113.7:51234", "(ip):0"),
        ("[2001:db8::7]:51234", "[(ip)]:0"),
        ("http://203.0.113.7:8080/", "http://(ip):8080/"),
        ("http://[2001:db8::7]:8080/", "http://[(ip)]:8080/"),
        ("2001:db8:1:2:3:4:5:6:51234", "(ip):0"),
        ("1a00:c820:1180:c84c:ad3f::d991:ec2e:49225", "(ip):0"),
        ("203.0.113.7:2026-11-25", "(ip):2026-11-25"),
        ("IP 203.0.113.7.51234 > 198.51.100.3.443: Flags", "IP (ip).0 > (ip).443: Flags"),
        ("IP6 2001:db8::7.51234 > 2001:db8::8.443: Flags", "IP6 (ip).0 > (ip).443: Flags"),
        ("tcp4 0 0 203.0.113.7.51234 10.0.0.1.443 ESTABLISHED", "tcp4 0 0 (ip).0 (ip).443 ESTABLISHED"),
        ("203.0.113.7.51234>10.0.0.1.443", "(ip).0>(ip).443"),
        ("203.0.113.7.51234 -> 10.0.0.1.443", "(ip).0 -> (ip).443"),
        ("203.000.113.007.02345-010.011.012.013.45103", "(ip).0-(ip).0"),
        ("002.000.113.007.02345-010.011.012.013.00080", "(ip).0-(ip).00080"),
        ("203.0.113.7.203.0.113.8", "(ip).(ip)"),
        ("1.40.113.7.443", "(ip).443"),
        ("IP 203.0.113.7.2984313216 > 198.51.100.5.2049: 112 getattr", "IP (ip).2984313216 > (ip).0: 112 getattr"),
        ("write tcp 203.0.113.7:51234->10.0.0.1:443: broken pipe", "write tcp (ip):0->(ip):443: broken pipe"),
        ("203.0.113.7:51234-198.51.100.3:51235", "(ip):0-(ip):0"),
        ("x=203.0.113.7%3A51234%26", "x=(ip)%3A0%26"),
        ("from 203.0.113.7 port 51234 ssh2", "from (ip) port 0 ssh2"),
        ("from 2001:db8::7 port=51234", "from (ip) port=0"),
        ("client @0x7f 203.0.113.7#51234 (example.com): query", "client @0x7f (ip)#0 (example.com): query"),
        ("203.0.113.7(51234) postgres", "(ip)(0) postgres"),
        ("203.0.113.7[4500] to 198.51.100.3[500]", "(ip)[0] to (ip)[500]"),
        ("outside:203.0.113.7/51234 (203.0.113.7/51234)", "outside:(ip)/0 ((ip)/0)"),
        ("('203.0.113.7', 51234)", "('(ip)', 0)"),
        ("('2001:db8::7', 51234, 0, 0)", "('(ip)', 0, 0, 0)"),
        ("{ ip: 203.0.113.7, port: 51234 }", "{ ip: (ip), port: 0 }"),
        ("{\"ip\":\"203.0.113.7\",\"port\":51234}", "{\"ip\":\"(ip)\",\"port\":0}"),
        ("/at/203.0.113.7/2026/11/25", "/at/(ip)/2026/11/25"),
        ("203.0.113.7 51234", "(ip) 51234"),
        ("http://user:pw@203.0.113.7:8080/x", "http://user:pw@(ip):8080/x"),
        ("user@203.0.113.7:51234", "user@(ip):0"),
        // Prefixes that are longer than those of networks that may be known.
        ("203.0.113.7/32", "(ip)/32"),
        ("203.0.113.7/24", "(ip)/24"),
        ("203.0.113.16/28", "(ip)/28"),
        ("2001:db8::/64", "(ip)/64"),
        ("2001:db8::7/48", "(ip)/48"),
        // Names.
        ("7.113.0.203.in-addr.arpa", "(ip).in-addr.arpa"),
        ("7.113.0.203.IN-ADDR.ARPA.", "(ip).IN-ADDR.ARPA."),
        ("7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "(ip).ip6.arpa"),
        ("? b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa.", "? (ip).ip6.arpa."),
        ("7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.zen.example", "(ip).zen.example"),
        ("a.b.c.d.0.0.0.0.8.b.d.0.1.0.0.2.ip6.int", "(ip).ip6.int"),
        ("a.b.c.d.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "(ip).ip6.arpa"),
        ("ec2-203-0-113-7.compute.example", "ec2-(ip).compute.example"),
        ("203-0-113-7.dyn.example", "(ip).dyn.example"),
        ("ip-10-0-0-12 sshd[1]:", "ip-(ip) sshd[1]:"),
        ("a203-0-113-7.deploy.example", "a(ip).deploy.example"),
        ("7.113.0.203.dyn.example", "(ip).dyn.example"),
        ("host.7.113.0.203.dyn.example", "host.(ip).dyn.example"),
        ("2001-0db8-0000-0000-0000-0000-0000-0007.dyn.example", "(ip).dyn.example"),
        ("2001-db8-9a80-1f4-1-2-3-7c8d.dynamic.isp.example", "(ip).dynamic.isp.example"),
        ("host-2001-db8-1-2-3-4-5-6-dynamic.example", "host-(ip)-dynamic.example"),
        ("ip6-2001-db8-a-b-c-d-e-f.example", "ip6-(ip).example"),
        ("2001-db8-1-2-3-4-5-6.example", "(ip).example"),
        ("2001-db8--7.default.pod.cluster.local", "(ip).default.pod.cluster.local"),
        ("fe80--7s4.ipv6-literal.net", "(ip)s4.ipv6-literal.net"),
        // IPv6.
        ("2001:0db8:0000:0000:0000:0000:0000:0007", "(ip)"),
        ("64:ff9b::203.0.113.7", "(ip)"),
        ("1:2:3:4:5:6:203.0.113.7", "(ip)"),
        ("2001%3Adb8%3A%3A7", "(ip)"),
        ("ip=2001%3adb8%3a0%3a1%3a2%3a3%3a4%3a5&", "ip=(ip)&"),
        ("2001%253Adb8%253A%253A7", "(ip)"),
        ("%3A%3Affff%3A203.0.113.7", "(ip)"),
        ("x=%5B2001%3Adb8%3A%3A7%5D%3A51234", "x=%5B(ip)%5D%3A0"),
        ("x=%5B2001:db8::7%5D%3A51234%2F", "x=%5B(ip)%5D%3A0%2F"),
        ("from 2001:db8::7.", "from (ip)."),
        ("from 2001:db8::7: refused", "from (ip): refused"),
        ("from 2001:db8::: refused", "from (ip): refused"),
        ("client:2001:db8::7", "client:(ip)"),
        ("client:::1", "client:(ip)"),
        ("remote_node:2001:db8::7", "remote_node:(ip)"),
        ("eth0:2001:db8::7", "eth0:(ip)"),
        ("add:2001:db8:1:2:3:4:5:6", "add:(ip)"),
        ("ip2001:db8::7", "ip(ip)"),
        ("2001:db8::7xyz", "(ip)xyz"),
        ("2001:db8::7 down", "(ip) down"),
        ("2001:db8::7:failed", "(ip):failed"),
        ("peer::ffff:203.0.113.7", "peer::ffff:(ip)"),
        ("host::2001:db8::7", "host::(ip)"),
        // What can be read both ways.
        ("release 4.10.2.1", "release (ip)"),
        ("dead::beef", "(ip)"),
        ("Chrom/120.0.0.0", "Chrom/(ip)"),
        ("2001:db8::1:2001:db8::2", "(ip)"),
    ] {
        scrubbed(line, expected);
    }
}

#[test]
fn what_is_longer_than_a_group_is_no_part_of_an_address() {
    for (line, expected) in [
        ("rl:2001:db8::7:1700000000", "rl:(ip):1700000000"),
        ("2001:db8:1:2:3:4:5:6:1732834800", "(ip):1732834800"),
        ("2001:db8:1:2::7:65536", "(ip):65536"),
        ("2001:db8:1:2::7:cafebabe01", "(ip):cafebabe01"),
        ("123456:2001:db8::5:123456", "123456:(ip):123456"),
        ("64:ff9b:1::7:1700000000", "(ip):1700000000"),
        ("1700000000:64:ff9b:1::7", "1700000000:(ip)"),
        // Its end is the first group.
        ("E2001:db8:1:2::7", "E(ip)"),
        ("TYPE2001:db8:1:2::7", "TYPE(ip)"),
        ("node2001:db8:1:2::7", "node(ip)"),
        ("12001:db8:1:2::7", "1(ip)"),
        ("nodefe80::7", "node(ip)"),
    ] {
        scrubbed(line, expected);
    }
}

#[test]
fn an_address_is_found_behind_groups_of_something_else() {
    for (line, expected) in [
        ("12:00:00:2001:db8:1:2:3:4:5:6 GET", "12:00:00:(ip) GET"),
        ("1:2001:db8:1:2:3:4:5:6", "1:(ip)"),
        ("1:2001:db8:1:2:3:4:5:6:51234", "1:(ip):0"),
        ("00:16:3e:5e:6c:00:2001:db8::7", "00:16:3e:5e:6c:00:(ip)"),
        ("00:16:3e:5e:6c:00:2001:db8::7:51234", "00:16:3e:5e:6c:00:(ip):0"),
    ] {
        scrubbed(line, expected);
    }
}

#[test]
fn an_address_is_found_among_other_numbers_in_dots() {
    for (line, expected) in [
        ("Apache=203.0.113.77.1795919110123456", "Apache=(ip).1795919110123456"),
        ("<36210.203.0.113.77.1169124128.squirrel@x>", "<36210.(ip).1169124128.squirrel@x>"),
        ("203.0.113.77.1795919110", "(ip).1795919110"),
        ("203.0.113.77.1795919110.42", "(ip).1795919110.42"),
        ("203.0.113.77.65536", "(ip).65536"),
        ("1795919110.203.0.113.77", "1795919110.(ip)"),
        ("02:25:10.123456.198.51.100.23 GET", "02:25:10.123456.(ip) GET"),
        ("<20261129.022510.203.0.113.77.1@x>", "<20261129.022510.(ip).1@x>"),
        ("upload.203.0.113.77.20261129.tmp", "upload.(ip).20261129.tmp"),
        ("203.000.113.077.1795919110", "(ip).1795919110"),
        ("203%2E0%2E113%2E77%2E1795919110", "(ip)%2E1795919110"),
        ("%2236210.203.0.113.77", "%2236210.(ip)"),
        ("%22203.0.113.77.1795919110", "%22(ip).1795919110"),
        ("99999.203.0.113.77.99999.198.51.100.3.99999", "99999.(ip).99999.(ip).99999"),
        ("2026.11.25.12.34 2026.203.0.113.77", "2026.11.25.12.34 2026.(ip)"),
        // No arc of an object identifier has so many digits.
        ("Apache=2.10.113.77.1795919110123456", "Apache=(ip).1795919110123456"),
        // Nobody can tell which four.
        ("7.42.203.0.113.77", "(ip)"),
        ("203.0.113.77.5.6.99999", "(ip).99999"),
    ] {
        scrubbed(line, expected);
    }
    assert_eq!(with(View::token("log")).scrub_str("7.42.203.0.113.77"), "unknown");
    for (line, expected) in [
        ("ip-203-45-113-77:8080", "ip-(ip):0"),
        ("ip-203-45-113-77:8080.", "ip-(ip):0."),
        ("ip-203-45-113-77:db8::7", "ip-203-45-113-(ip)"),
        ("node-1-203-45-113-77.isp.example", "node-(ip).isp.example"),
        ("203-45-113-77-9.isp.example", "(ip).isp.example"),
        ("backup-2026-11-25-12-30-45-123.tar", "backup-2026-11-25-12-30-45-123.tar"),
        ("app-1-2-3-4-5", "app-1-2-3-4-5"),
    ] {
        scrubbed(line, expected);
    }
    let long = "203.0.113.77.99999.".repeat(20);
    scrubbed(&long, "(ip).");
}

#[test]
fn the_quad_of_an_address_is_part_of_it_whatever_is_behind() {
    for (line, expected) in [
        ("IP6 ::ffff:203.0.113.7.443 > ::ffff:10.0.0.1.51234: Flags [S]", "IP6 (ip).443 > (ip).0: Flags [S]"),
        ("64:ff9b::203.0.113.7.443", "(ip).443"),
        ("::ffff:203.0.113.7.1.2", "(ip).1.2"),
        ("::ffff:203%2E0%2E113%2E7 x", "(ip) x"),
        ("%3A%3Affff%3A203%2E0%2E113%2E7:80", "(ip):80"),
        ("::ffff:203%252E0%252E113%252E7%2E443", "(ip)%2E443"),
        ("::ffff:203.000.113.007 x", "(ip) x"),
        ("[::ffff:203.000.113.007]:80", "[(ip)]:80"),
        ("%3A%3Affff%3A203.000.113.007", "(ip)"),
        ("1:2:3:4:5:6:203.0.113.7.80", "(ip).80"),
        ("2001:db8:1:2:3:4:5:6:7:8:9:203.0.113.7", "(ip)"),
    ] {
        scrubbed(line, expected);
    }
}

#[test]
fn what_joins_two_addresses_is_not_left_standing() {
    let scrubber = with(View::token("log"));
    assert_eq!(scrubber.scrub_str("2001:db8::1:2001:db8::2"), "unknown");
    assert_eq!(scrubber.scrub_str("1a00:c820:49225:c84c:ad3f::d991:ec2e:49225"), "unknown");
    for (line, expected) in [
        ("2001:db8::1::443", "unknown"),
        ("login::2001:db8::7::1", "login::unknown"),
        ("fe80::1:fe80::2", "unknown"),
        ("src=2001::1:2001::2;", "src=unknown;"),
        ("64:ff9b::1::443", "unknown"),
        ("2001:db8:1:2:3:4:5:6:dead:", "unknown:"),
        ("2001:db8:1:2::123456", "unknown"),
        ("2001:db8:1:2:3:4:5:612345", "unknown"),
        ("3000:2001:db8:1:2:3:4:5:6", "unknown"),
        ("::ffff:cb00:7107:2001:db8::7", "unknown"),
        ("2001:db8::1::203.0.113.7", "unknown"),
    ] {
        assert_eq!(scrubber.scrub_str(line), expected, "{line}");
    }
}

#[test]
fn what_is_no_address_stays() {
    for line in [
        "",
        "12:34:56",
        "2026-11-25T12:34:56.789Z",
        "[25/Nov/2026:12:34:56 +0000]",
        "00:1b:21:3c:9d:f8",
        "MAC=aa:bb:cc:1a:b4:ff:00:1b:21:ce:8f:e2:08:00",
        "SHA256:2Xo0zJp3v5k4JQyY0v3R5b1J3Qf0s1k5o8M9n2l7a6c",
        "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
        "3f786850e387550fdab836ed7e6dc881de23001b",
        "550e8400-e29b-41d4-a716-446655440000",
        "1.2.3",
        "1.2.3.400",
        "120.0.6099.109",
        "1.3.6.1.4.1.311",
        "1.2.3.4.5",
        "2.5.29.15.1",
        "11.208.09.01.21",
        "4.1.2.3.4.5",
        "2026.11.25.12.34",
        "2026.11.25.12.34.56",
        "11.208.09.01.20231017",
        "1.2.3.4.20231017",
        "iso.3.6.1.4.1.311.21.20",
        "1.3.6.1.4.1.8072.3.2.10.1.1.4",
        "enterprises.8072.1.3.2.3.1.1.4",
        "2.16.840.1.101.3.4.2.1",
        "1..2.3.4",
        "std::fmt::Display",
        "std::vec",
        "a C++ :: b",
        "::std::cout",
        "foo::bar::baz",
        "core::fd::b::x",
        "ab::Cd::Efgh",
        "sha256::digest",
        "base64::decode",
        "face::Of",
        "12:12345::a",
        "a::b::c",
        "abba::dead::beef",
        "std::foo::bar",
        "arn:aws:iam::123456782012:role",
        "5a:1b:3c:4d:5e:6f:70:81",
        "5a:1b:3c:4d:5e:6f:70:81:92",
        "00:5a:1b:3c:4d:5e:6f:70:81",
        "1-2-3-4",
        "555-123-45-67",
        "25-11-26",
        "2026-11-25-04",
        "log-2026-11-25--10-20-30.txt",
        "backup-2026-11-25-12-34-56-01-02.tar",
        "2001-db8--7",
        "run --feed --dead-beef a--b.example card--face.css",
        "-----BEGIN",
        "10:20",
        "a:b:c",
        "key:value",
        "::",
        "0.0.0.0:8080",
        "[::]:8080",
        "255.255.255.0",
        "240.1.2.3",
        "2001:20::1",
        "2001:2f:ffff:1:2:3:4:5",
        "203.0.113.0/24",
        "10.0.0.0/8 via",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "0.0.0.0/0",
        "::/0",
        "_caos25yjvuyeb2vxdys27ky47a",
        "Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.0.0",
        "113.0.203.in-addr.arpa",
        "8.b.d.0.1.0.0.2.ip6.arpa",
        "a.b.c.d.0.0.0.0.8.b.d.0.1.0.0.2.example",
        "50% of 3",
        "%20%2F%3A",
        "http%3A%2F%2Fexample.com",
    ] {
        stays(line);
    }
}

#[test]
fn bytes_of_any_kind_are_scrubbed() {
    let text = b"\xff\xfe203.0.113.7\x00\xc3 2001:db8::7\x80";
    assert_eq!(&*word().scrub(text), b"\xff\xfe(ip)\x00\xc3 (ip)\x80");
}

#[test]
fn long_runs_of_what_could_be_addresses_are_read_once() {
    // A quadratic reader would take minutes for each of these.
    for piece in [
        "1.",
        "1-",
        "a:",
        ":",
        "1:",
        "%3A",
        "a%3A",
        "1.2.3.4-",
        "1.2.3.4.",
        "203.0.113.7.99999.",
        "203.0.113.7.",
        "1-2-3-4.",
        "0.a.",
        "::1:",
        "a-",
        "--",
        "-",
        "2001-db8--",
        "fe80-",
        "%2E1",
        "f",
        "[",
        "\x1b[3",
    ] {
        let text = piece.repeat(300_000);
        let mut out = Vec::new();
        word().scrub_into(text.as_bytes(), &mut out);
    }
}

#[test]
fn of_a_long_log_all_addresses_are_found_and_nothing_else() {
    // As many lines as IPVEIL_LOG_MB megabytes are.
    let megabytes = std::env::var("IPVEIL_LOG_MB").map_or(4, |text| text.parse().unwrap());
    let log = crate::log::lines(megabytes << 20);
    let scrubber = word();
    let mut found = scrubber.find(&log.text);
    for place in &log.truth {
        let next = found.next();
        let shown =
            String::from_utf8_lossy(&log.text[place.start.saturating_sub(40)..log.text.len().min(place.end + 20)]);
        assert_eq!(next.as_ref(), Some(place), "{shown}");
    }
    assert_eq!(found.next(), None);
}
