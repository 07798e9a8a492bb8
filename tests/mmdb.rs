//! Small files in MaxMind's format (MaxMind DB, version 2.0), as their specification describes it.

use std::net::IpAddr;

use ipnet::IpNet;

/// What a file says of a network.
#[derive(Clone)]
pub(crate) enum Value {
    Text(&'static str),
    U16(u16),
    U32(u32),
    U64(u64),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

/// As in a file of countries.
pub(crate) fn country(code: &'static str) -> Value {
    Value::Map(vec![("country", iso(code))])
}

pub(crate) fn iso(code: &'static str) -> Value {
    Value::Map(vec![("iso_code", Value::Text(code))])
}

/// A file for IPv6, with IPv4 below `::/96`. No network is inside of another.
pub(crate) fn mmdb(networks: &[(&str, Value)]) -> Vec<u8> {
    write(6, networks)
}

/// A file for IPv4 alone.
#[allow(dead_code, reason = "not all tests need one")]
pub(crate) fn mmdb_v4(networks: &[(&str, Value)]) -> Vec<u8> {
    write(4, networks)
}

#[derive(Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    Data(usize),
}

fn write(version: u16, networks: &[(&str, Value)]) -> Vec<u8> {
    let mut tree = vec![[Record::Nothing; 2]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let bits = path(version, network.parse().expect("it is a network"));
        let (last, before) = bits.split_last().expect("it is not everything");
        let mut node = 0;
        for &bit in before {
            node = match tree[node][bit] {
                Record::Node(next) => next,
                Record::Nothing => {
                    tree.push([Record::Nothing; 2]);
                    let next = tree.len() - 1;
                    tree[node][bit] = Record::Node(next);
                    next
                }
                Record::Data(_) => panic!("{network} is inside of another"),
            };
        }
        tree[node][*last] = Record::Data(data.len());
        encode(value, &mut data);
    }

    let nodes = tree.len();
    let number = |record| match record {
        Record::Nothing => nodes,
        Record::Node(node) => node,
        // Behind 16 zeros.
        Record::Data(place) => nodes + 16 + place,
    };
    let mut file = Vec::new();
    for record in tree.into_iter().flatten() {
        file.extend(&number(record).to_be_bytes()[5..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = [
        ("binary_format_major_version", Value::U16(2)),
        ("binary_format_minor_version", Value::U16(0)),
        ("build_epoch", Value::U64(1_700_000_000)),
        ("database_type", Value::Text("Test-Country")),
        ("description", Value::Map(vec![("en", Value::Text("a test"))])),
        ("ip_version", Value::U16(version)),
        ("languages", Value::List(vec![Value::Text("en")])),
        ("node_count", Value::U32(nodes as u32)),
        ("record_size", Value::U16(24)),
    ];
    encode(&Value::Map(metadata.into()), &mut file);
    file
}

/// Which way to go at each node.
fn path(version: u16, network: IpNet) -> Vec<usize> {
    let (address, length) = match network.addr() {
        IpAddr::V4(address) if version == 4 => (u128::from(address.to_bits()) << 96, network.prefix_len()),
        IpAddr::V4(address) => (address.to_bits().into(), 96 + network.prefix_len()),
        IpAddr::V6(address) => (address.to_bits(), network.prefix_len()),
    };
    (0..length).map(|bit| (address >> (127 - bit) & 1) as usize).collect()
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            control(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Value::U16(number) => encode_number(5, (*number).into(), out),
        Value::U32(number) => encode_number(6, (*number).into(), out),
        Value::U64(number) => encode_number(9, *number, out),
        Value::List(values) => {
            control(11, values.len(), out);
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Map(pairs) => {
            control(7, pairs.len(), out);
            for (key, value) in pairs {
                encode(&Value::Text(key), out);
                encode(value, out);
            }
        }
    }
}

fn encode_number(kind: u8, number: u64, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    let short = &bytes[number.leading_zeros() as usize / 8..];
    control(kind, short.len(), out);
    out.extend(short);
}

fn control(kind: u8, length: usize, out: &mut Vec<u8>) {
    let length = u8::try_from(length).ok().filter(|&length| length < 29).expect("short values are enough");
    match kind {
        // Extended: the kind is in a byte of its own, less 7.
        8.. => out.extend([length, kind - 7]),
        kind => out.push(kind << 5 | length),
    }
}
