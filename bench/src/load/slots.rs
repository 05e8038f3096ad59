//! The slots of a Redis Cluster: which slot a key has, and which server owns it.
//!
//! A key's slot is CRC-16/XMODEM of the key (or of what stands between the first `{` and the next
//! `}`, if that is not empty) modulo 16,384. `CLUSTER SLOTS` lists ranges with their owner first:
//!
//! ```text
//! [[first, last, [host, port, id, …], replica…], …]
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use thiserror::Error;

use super::resp::Reply;

/// Slots in a Redis Cluster.
pub const SLOTS: usize = 16_384;

const CRC16: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// The slot of `key`.
pub fn slot_of(key: &[u8]) -> u16 {
    let hashed = hash_tag(key).unwrap_or(key);
    let crc = hashed
        .iter()
        .fold(0u16, |crc, &byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS as u16
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let tail = &key[open + 1..];
    let len = tail.iter().position(|&byte| byte == b'}')?;
    (len > 0).then(|| &tail[..len])
}

/// `CLUSTER SLOTS` cannot be understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SlotsError {
    /// The server answered with an error.
    #[error("the server refuses CLUSTER SLOTS: {0}")]
    Refused(String),
    /// The reply has another shape than the documented one.
    #[error("CLUSTER SLOTS: {0}")]
    Malformed(&'static str),
    /// A host name has no address.
    #[error("CLUSTER SLOTS names {0}, which cannot be resolved")]
    Unresolvable(String),
    /// No slot has an owner.
    #[error("no slot of the cluster has an owner (yet)")]
    NoOwner,
}

/// A range of slots and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot, included.
    pub last: u16,
    /// Where its commands go.
    pub owner: SocketAddr,
}

/// Reads a `CLUSTER SLOTS` reply. `asked` is where it came from: it stands in for hosts that the
/// server leaves empty ("the address you used").
///
/// # Errors
/// [`SlotsError`]; never panics, whatever the server said.
pub fn parse_cluster_slots(
    reply: &Reply<'_>,
    asked: SocketAddr,
) -> Result<Vec<SlotRange>, SlotsError> {
    let ranges = match reply {
        Reply::Array(ranges) => ranges,
        Reply::Error(text) => {
            return Err(SlotsError::Refused(String::from_utf8_lossy(text).into_owned()));
        }
        _ => return Err(SlotsError::Malformed("the reply is not an array")),
    };
    let parsed: Vec<SlotRange> =
        ranges.iter().map(|range| parse_range(range, asked)).collect::<Result<_, _>>()?;
    if parsed.is_empty() { Err(SlotsError::NoOwner) } else { Ok(parsed) }
}

fn parse_range(range: &Reply<'_>, asked: SocketAddr) -> Result<SlotRange, SlotsError> {
    let Reply::Array(fields) = range else {
        return Err(SlotsError::Malformed("a range is not an array"));
    };
    let [Reply::Integer(first), Reply::Integer(last), Reply::Array(owner), ..] = &fields[..] else {
        return Err(SlotsError::Malformed("a range does not start with two slots and an owner"));
    };
    let (first, last) = match (u16::try_from(*first), u16::try_from(*last)) {
        (Ok(first), Ok(last)) if first <= last && usize::from(last) < SLOTS => (first, last),
        _ => return Err(SlotsError::Malformed("a range is not within 0..16384")),
    };
    let (host, port) = match &owner[..] {
        [Reply::Bulk(host), Reply::Integer(port), ..] => (*host, *port),
        [Reply::Nil, Reply::Integer(port), ..] => (&b""[..], *port),
        _ => return Err(SlotsError::Malformed("an owner does not start with host and port")),
    };
    let port =
        u16::try_from(port).map_err(|_| SlotsError::Malformed("an owner's port is no port"))?;
    Ok(SlotRange { first, last, owner: resolve(host, port, asked)? })
}

fn resolve(host: &[u8], port: u16, asked: SocketAddr) -> Result<SocketAddr, SlotsError> {
    if host.is_empty() || host == b"?" {
        return Ok(SocketAddr::new(asked.ip(), port));
    }
    let host = String::from_utf8_lossy(host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    (&*host, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| SlotsError::Unresolvable(format!("{host}:{port}")))
}

/// Reads the text of a `MOVED` error (`MOVED <slot> <host>:<port>`). Host names are left to the next
/// `CLUSTER SLOTS`: resolving one would hold up every other client of the thread.
pub fn parse_moved(text: &[u8], asked: SocketAddr) -> Option<(u16, SocketAddr)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.strip_prefix("MOVED ")?.split(' ');
    let slot: u16 = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let ip = match host {
        "" | "?" => asked.ip(),
        host => host.trim_matches(['[', ']']).parse().ok()?,
    };
    (usize::from(slot) < SLOTS).then_some((slot, SocketAddr::new(ip, port)))
}

/// A small number that stands for a server's address for the length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// One thread's view of who owns which slot. Servers get numbers once and keep them.
#[derive(Debug)]
pub struct SlotMap {
    owners: Vec<Option<ServerId>>,
    addresses: Vec<SocketAddr>,
    ids: HashMap<SocketAddr, ServerId>,
}

impl SlotMap {
    /// A map in which nobody owns anything.
    pub fn new() -> Self {
        Self { owners: vec![None; SLOTS], addresses: Vec::new(), ids: HashMap::new() }
    }

    /// Replaces all owners.
    pub fn replace(&mut self, ranges: &[SlotRange]) {
        self.owners.fill(None);
        for range in ranges {
            let id = self.intern(range.owner);
            self.owners[usize::from(range.first)..=usize::from(range.last)].fill(Some(id));
        }
    }

    /// Notes that `slot` moved to `owner`.
    pub fn note_moved(&mut self, slot: u16, owner: SocketAddr) {
        let id = self.intern(owner);
        self.owners[usize::from(slot)] = Some(id);
    }

    /// Who owns `slot`.
    pub fn owner(&self, slot: u16) -> Option<ServerId> {
        self.owners[usize::from(slot)]
    }

    /// Where the server `id` listens.
    pub fn address(&self, id: ServerId) -> SocketAddr {
        self.addresses[id.0 as usize]
    }

    fn intern(&mut self, address: SocketAddr) -> ServerId {
        if let Some(&id) = self.ids.get(&address) {
            return id;
        }
        let id = ServerId(u32::try_from(self.addresses.len()).expect("fewer than 2^32 servers"));
        self.addresses.push(address);
        self.ids.insert(address, id);
        id
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked() -> SocketAddr {
        "10.0.0.9:7001".parse().unwrap()
    }

    #[test]
    fn slots_agree_with_the_published_examples() {
        // From the Redis Cluster specification: CRC16("123456789") = 0x31C3; the others by redis-cli.
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), 8363);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn cluster_slots_gives_ranges_and_fills_in_missing_hosts() {
        let reply = Reply::Array(vec![
            Reply::Array(vec![
                Reply::Integer(0),
                Reply::Integer(99),
                Reply::Array(vec![Reply::Bulk(b"127.0.0.1"), Reply::Integer(7001)]),
            ]),
            Reply::Array(vec![
                Reply::Integer(100),
                Reply::Integer(16383),
                Reply::Array(vec![Reply::Nil, Reply::Integer(7002), Reply::Bulk(b"id")]),
            ]),
        ]);
        let ranges = parse_cluster_slots(&reply, asked()).unwrap();
        let mut map = SlotMap::new();
        map.replace(&ranges);
        assert_eq!(map.address(map.owner(99).unwrap()), "127.0.0.1:7001".parse().unwrap());
        assert_eq!(map.address(map.owner(100).unwrap()), "10.0.0.9:7002".parse().unwrap());
        map.note_moved(100, "127.0.0.1:7001".parse().unwrap());
        assert_eq!(map.owner(100), map.owner(99));
        assert_eq!(map.owner(0), map.owner(99));
    }

    #[test]
    fn nonsense_is_refused_not_believed() {
        let range = |first, last, owner| {
            Reply::Array(vec![Reply::Array(vec![
                Reply::Integer(first),
                Reply::Integer(last),
                Reply::Array(owner),
            ])])
        };
        let owner = || vec![Reply::Bulk(b"127.0.0.1"), Reply::Integer(7001)];
        for bad in [
            Reply::Nil,
            Reply::Array(vec![Reply::Integer(1)]),
            range(5, 4, owner()),
            range(0, 16384, owner()),
            range(-1, 5, owner()),
            range(0, 1, vec![Reply::Integer(7001)]),
            range(0, 1, vec![Reply::Bulk(b"127.0.0.1"), Reply::Integer(70000)]),
        ] {
            let got = parse_cluster_slots(&bad, asked());
            assert!(matches!(got, Err(SlotsError::Malformed(_))), "{bad:?} gave {got:?}");
        }
        assert_eq!(parse_cluster_slots(&Reply::Array(vec![]), asked()), Err(SlotsError::NoOwner));
        let refused = parse_cluster_slots(&Reply::Error(b"ERR no cluster"), asked());
        assert_eq!(refused, Err(SlotsError::Refused("ERR no cluster".into())));
    }

    #[test]
    fn moved_names_slot_and_owner() {
        let to = |text: &[u8]| parse_moved(text, asked());
        assert_eq!(to(b"MOVED 7 127.0.0.1:9"), Some((7, "127.0.0.1:9".parse().unwrap())));
        assert_eq!(to(b"MOVED 7 ::1:9"), Some((7, "[::1]:9".parse().unwrap())));
        assert_eq!(to(b"MOVED 7 :9"), Some((7, "10.0.0.9:9".parse().unwrap())));
        for bad in
            ["MOVED", "MOVED x 1.2.3.4:5", "MOVED 16384 1.2.3.4:5", "MOVED 1 name:5", "ASK 1"]
        {
            assert_eq!(to(bad.as_bytes()), None, "{bad}");
        }
    }
}
