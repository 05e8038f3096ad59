//! A replicated key-value store on Coracle's public API: three nodes in this process, four shards.
//!
//! ```text
//! cargo run --release --example kv
//! ```
//! Commands and their encoding, the state machine, a client that finds the leader, and a `main`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle::{
    Apply, Consistency, ImageBuffer, LocalCluster, LocalClusterConfig, NodeHandle, NodeId,
    ProposeError, QueryError, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    WholeImage,
};
use futures_util::future::Future;

/// What clients ask for. Strings are encoded as length (u32) and bytes.
#[derive(Debug)]
enum Command<'a> {
    /// Sets a key.
    Put { key: &'a [u8], value: &'a [u8] },
    /// Removes a key.
    Delete { key: &'a [u8] },
    /// Sets a key if it has the expected value.
    Swap { key: &'a [u8], expected: &'a [u8], value: &'a [u8] },
}

impl<'a> Command<'a> {
    fn encode(&self) -> Bytes {
        let (tag, fields): (u8, &[&[u8]]) = match self {
            Self::Put { key, value } => (0, &[key, value]),
            Self::Delete { key } => (1, &[key]),
            Self::Swap { key, expected, value } => (2, &[key, expected, value]),
        };
        let mut out = BytesMut::new();
        out.put_u8(tag);
        for field in fields {
            out.put_u32(u32::try_from(field.len()).expect("fields are small"));
            out.put_slice(field);
        }
        out.freeze()
    }

    /// Reads a command; `None` if it is malformed, which a state machine must survive.
    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (tag, mut rest) = bytes.split_first()?;
        let mut field = || -> Option<&'a [u8]> {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = u32::from_be_bytes(*length) as usize;
            let (field, after) = (after.get(..length)?, &after[length..]);
            rest = after;
            Some(field)
        };
        Some(match tag {
            0 => Self::Put { key: field()?, value: field()? },
            1 => Self::Delete { key: field()? },
            2 => Self::Swap { key: field()?, expected: field()?, value: field()? },
            _ => return None,
        })
    }
}

/// The replicated state of one shard. Replies begin with one byte: `+` done, `-` not done.
#[derive(Default)]
struct Store {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    restoring: ImageBuffer,
}

impl StateMachine for Store {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        let done = match Command::decode(entry.payload) {
            Some(Command::Put { key, value }) => {
                self.values.insert(key.to_vec(), value.to_vec());
                true
            }
            Some(Command::Delete { key }) => self.values.remove(key).is_some(),
            Some(Command::Swap { key, expected, value }) => match self.values.get_mut(key) {
                Some(current) if current == expected => {
                    value.clone_into(current);
                    true
                }
                _ => false,
            },
            None => false,
        };
        reply.put_u8(if done { b'+' } else { b'-' });
    }

    fn query(&self, key: &Bytes, reply: &mut BytesMut) {
        match self.values.get(&key[..]) {
            Some(value) => {
                reply.put_u8(b'+');
                reply.put_slice(value);
            }
            None => reply.put_u8(b'-'),
        }
    }

    /// All values as `Put` commands, each behind its length. A large state would rather be streamed.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        let mut image = Vec::new();
        for (key, value) in &self.values {
            let put = Command::Put { key, value }.encode();
            image.put_u32(u32::try_from(put.len()).expect("values are small"));
            image.put_slice(&put);
        }
        Ok(Box::new(WholeImage::new(image)))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        let Some(image) = self.restoring.take(part)? else { return Ok(()) };
        self.values.clear();
        let mut rest = &image[..];
        while !rest.is_empty() {
            let length = rest.try_get_u32().unwrap_or(u32::MAX) as usize;
            let put = rest.split_off(..length).and_then(Command::decode);
            let Some(Command::Put { key, value }) = put else {
                return Err(SnapshotError::Damaged("not a row of values".to_owned()));
            };
            self.values.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }
}

/// Why a call gave up.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("no leader answered in time")]
    Timeout,
    #[error("the write may or may not have happened: look before repeating it")]
    OutcomeUnknown,
    #[error("{0}")]
    Failed(String),
}

/// Finds leaders and tries again where that is safe.
struct Client {
    nodes: Vec<NodeHandle>,
    shards: u32,
    timeout: Duration,
}

impl Client {
    fn new(cluster: &LocalCluster, shards: u32) -> Self {
        Self { nodes: cluster.handles(), shards, timeout: Duration::from_secs(10) }
    }

    fn shard_of(&self, key: &[u8]) -> ShardId {
        let hash = key.iter().fold(5381u32, |h, b| h.wrapping_mul(33) ^ u32::from(*b));
        ShardId(hash % self.shards)
    }

    fn put(&self, key: &str, value: &str) -> Result<bool, ClientError> {
        self.write(key, &Command::Put { key: key.as_bytes(), value: value.as_bytes() })
    }

    fn delete(&self, key: &str) -> Result<bool, ClientError> {
        self.write(key, &Command::Delete { key: key.as_bytes() })
    }

    fn swap(&self, key: &str, expected: &str, value: &str) -> Result<bool, ClientError> {
        let (expected, value) = (expected.as_bytes(), value.as_bytes());
        self.write(key, &Command::Swap { key: key.as_bytes(), expected, value })
    }

    fn write(&self, key: &str, command: &Command<'_>) -> Result<bool, ClientError> {
        let (shard, payload) = (self.shard_of(key.as_bytes()), command.encode());
        let committed = self.with_leader(|node| {
            wait(node.propose(shard, payload.clone())).map_err(|error| match error {
                ProposeError::NotLeader { leader, .. } => Next::Try(leader),
                ProposeError::Overloaded(_) => Next::Try(Some(node.id())),
                ProposeError::OutcomeUnknown { .. } => Next::GiveUp(ClientError::OutcomeUnknown),
                other => Next::GiveUp(ClientError::Failed(other.to_string())),
            })
        })?;
        Ok(committed.reply[..] == *b"+")
    }

    fn get(&self, key: &str) -> Result<Option<String>, ClientError> {
        let (shard, key) = (self.shard_of(key.as_bytes()), Bytes::copy_from_slice(key.as_bytes()));
        let reply = self.with_leader(|node| {
            let answer = node.query(shard, key.clone(), Consistency::Linearizable);
            wait(answer).map_err(|error| match error {
                QueryError::NotLeader { leader, .. } => Next::Try(leader),
                QueryError::Overloaded(_) => Next::Try(Some(node.id())),
                other => Next::GiveUp(ClientError::Failed(other.to_string())),
            })
        })?;
        Ok(reply.strip_prefix(b"+").map(|value| String::from_utf8_lossy(value).into_owned()))
    }

    /// Calls one node after the other, hints first, until one gives a result or time is up.
    fn with_leader<T>(
        &self,
        call: impl Fn(&NodeHandle) -> Result<T, Next>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut at = 0;
        while Instant::now() < deadline {
            match call(&self.nodes[at]) {
                Ok(result) => return Ok(result),
                Err(Next::GiveUp(error)) => return Err(error),
                Err(Next::Try(Some(hint))) => {
                    at = self.nodes.iter().position(|node| node.id() == hint).unwrap_or(0);
                }
                Err(Next::Try(None)) => {
                    at = (at + 1) % self.nodes.len();
                    std::thread::sleep(Duration::from_millis(20)); // an election is under way
                }
            }
        }
        Err(ClientError::Timeout)
    }
}

/// What to do after a failed call.
enum Next {
    Try(Option<NodeId>),
    GiveUp(ClientError),
}

/// The futures of Coracle need no particular runtime: this one parks the thread.
fn wait<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut config = LocalClusterConfig::on_free_ports(dir.path())?;
    config.shards = 4;

    let cluster = LocalCluster::start(&config, |_shard| Box::new(Store::default()))?;
    demo(&Client::new(&cluster, config.shards))?;
    cluster.stop();

    let cluster = LocalCluster::start(&config, |_shard| Box::new(Store::default()))?;
    let value = Client::new(&cluster, config.shards).get("boat")?;
    println!("after a restart, boat = {value:?}");
    cluster.stop();
    Ok(())
}

fn demo(client: &Client) -> Result<(), ClientError> {
    client.put("boat", "coracle")?;
    println!("boat = {:?}", client.get("boat")?);
    println!("swap raft -> ark: {}", client.swap("boat", "raft", "ark")?);
    println!("swap coracle -> raft: {}", client.swap("boat", "coracle", "raft")?);
    println!("boat = {:?}", client.get("boat")?);
    client.put("gone", "soon")?;
    println!("delete gone: {}, again: {}", client.delete("gone")?, client.delete("gone")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn commands_read_as_they_were_written_and_rubbish_is_refused() {
        let swap = Command::Swap { key: b"k", expected: b"", value: b"v" }.encode();
        assert!(matches!(
            Command::decode(&swap),
            Some(Command::Swap { key: b"k", expected: b"", value: b"v" })
        ));
        for length in 0..swap.len() {
            assert!(Command::decode(&swap[..length]).is_none());
        }
        assert!(Command::decode(b"\x09").is_none());
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = LocalClusterConfig::on_free_ports(dir.path()).unwrap();
        config.shards = 4;
        for round in 0..2 {
            let cluster = LocalCluster::start(&config, |_| Box::new(Store::default())).unwrap();
            let client = Client::new(&cluster, config.shards);
            for key in 0..20 {
                let (key, value) = (format!("key{key}"), format!("value{key}"));
                if round == 0 {
                    client.put(&key, &value).unwrap();
                }
                assert_eq!(client.get(&key).unwrap().as_deref(), Some(&value[..]));
            }
            assert!(client.swap("key3", "value3", "other").unwrap());
            assert!(!client.swap("key3", "value3", "other").unwrap());
            assert!(client.swap("key3", "other", "value3").unwrap());
            assert!(!client.delete("nothing").unwrap());
            cluster.stop();
        }
    }
}
