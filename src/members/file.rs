//! The file with the address book in the data directory.
//!
//! ```text
//! # comment
//! format = 1
//! voters = [1, 2, 3]          voters of every shard before its first entry, as of the first start
//!
//! [[member]]                  once for each record, in the order of the ids
//! id = 1
//! client = "10.0.0.1:7001"
//! peer = "10.0.0.1:8001"
//! admin = "10.0.0.1:9001"     if known
//! version = 3
//! removed = true              if it is
//! incarnation = "0f..."       in hexadecimal, if known
//! ```
//! It is replaced as a whole and durably. One that cannot be read stops the start: without it, the node would
//! forget who voted first, and could found its cluster anew.

use std::fs;
use std::io;
use std::path::Path;

use coracle_engine::NodeId;
use coracle_engine::limits::{BOOK_RECORDS_MAX, HOST_BYTES_MAX};
use coracle_engine::members::{Book, MemberRecord};
use serde::{Deserialize, Serialize};

use crate::config::host_port;
use crate::data_dir::{DataDirError, replace_file};

const FILE: &str = "members.toml";
const FORMAT: u32 = 1;

/// Largest file that is read: far more than all records take.
const BYTES_MAX: u64 = (BOOK_RECORDS_MAX * (256 + 3 * HOST_BYTES_MAX)) as u64;

const COMMENT: &str = "\
# Where the members of the cluster are reached, as this node heard last. It is written by the node: change addresses
# with its flags, add and remove members with coraclectl.
";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Voters of every shard before its first entry.
    pub(super) voters: Vec<NodeId>,
    pub(super) book: Book,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    voters: Vec<u64>,
    #[serde(default)]
    member: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: u64,
    client: String,
    peer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
    version: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    incarnation: Option<String>,
}

impl Line {
    fn of(record: &MemberRecord) -> Self {
        Self {
            id: record.id.0,
            client: format!("{}:{}", record.client_host, record.client_port),
            peer: format!("{}:{}", record.peer_host, record.peer_port),
            admin: record.admin.clone(),
            version: record.version,
            removed: record.removed,
            incarnation: record.incarnation.map(|number| format!("{number:032x}")),
        }
    }

    fn record(&self) -> Result<MemberRecord, String> {
        let wrong = |what: &str| format!("member {}: {what}", self.id);
        let (client_host, client_port) =
            host_port(&self.client).ok_or_else(|| wrong("client is not HOST:PORT"))?;
        let (peer_host, peer_port) =
            host_port(&self.peer).ok_or_else(|| wrong("peer is not HOST:PORT"))?;
        let incarnation = self.incarnation.as_ref().map(|text| u128::from_str_radix(text, 16));
        let record = MemberRecord {
            id: NodeId(self.id),
            version: self.version,
            removed: self.removed,
            client_host,
            client_port,
            peer_host,
            peer_port,
            admin: self.admin.clone(),
            incarnation: incarnation.transpose().map_err(|e| wrong(&e.to_string()))?,
        };
        match record.flaw() {
            Some(flaw) => Err(wrong(flaw)),
            None => Ok(record),
        }
    }
}

/// Reads the file in the directory `dir`; `None` if there is none. Blocking.
///
/// # Errors
/// [`DataDirError::Io`] and [`DataDirError::Members`].
pub(super) fn read(dir: &Path) -> Result<Option<Stored>, DataDirError> {
    let path = dir.join(FILE);
    let fail = |source| DataDirError::Io { path: path.clone(), what: "read it", source };
    let damaged = |reason: String| DataDirError::Members { path: path.clone(), reason };
    let bytes = match fs::metadata(&path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if bytes > BYTES_MAX {
        return Err(damaged(format!("it has {bytes} bytes, at most {BYTES_MAX} can be")));
    }
    let text = fs::read(&path).map_err(fail)?;
    let text = String::from_utf8(text).map_err(|error| damaged(error.to_string()))?;
    parse(&text).map(Some).map_err(damaged)
}

fn parse(text: &str) -> Result<Stored, String> {
    // The format comes first: a newer one may have keys that this version does not know.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let describe = |error: toml::de::Error| error.message().to_owned();
    let Format { format } = toml::from_str(text).map_err(describe)?;
    if format > FORMAT {
        return Err(format!("it has format {format}, this version knows up to {FORMAT}"));
    }
    let content: Content = toml::from_str(text).map_err(describe)?;
    if content.member.len() > BOOK_RECORDS_MAX {
        return Err(format!("it has more than {BOOK_RECORDS_MAX} members"));
    }
    let mut book = Book::default();
    for line in &content.member {
        let record = line.record()?;
        if book.get(record.id).is_some() {
            return Err(format!("member {} is there twice", record.id));
        }
        book.merge([record]);
    }
    Ok(Stored { voters: content.voters.into_iter().map(NodeId).collect(), book })
}

/// Replaces the file in the directory `dir`, durably. Blocking.
///
/// # Errors
/// [`DataDirError::Io`]; the file is as before then.
pub(super) fn write(dir: &Path, stored: &Stored) -> Result<(), DataDirError> {
    let fail = |source| DataDirError::Io { path: dir.join(FILE), what: "write it", source };
    let content = Content {
        format: FORMAT,
        voters: stored.voters.iter().map(|id| id.0).collect(),
        member: stored.book.records().map(Line::of).collect(),
    };
    let text = toml::to_string(&content).map_err(io::Error::other).map_err(fail)?;
    replace_file(dir, FILE, &format!("{COMMENT}{text}")).map_err(fail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn stored() -> Stored {
        let mut book = Book::default();
        let mut first = MemberRecord::new(NodeId(1), ("a.example", 7001), ("[::1]", 8001));
        first.admin = Some("127.0.0.1:9001".to_owned());
        first.incarnation = Some(7);
        book.put(first).unwrap();
        let mut second = MemberRecord::new(NodeId(2), ("b", 1), ("b", 2));
        second.removed = true;
        book.put(second).unwrap();
        Stored { voters: vec![NodeId(1)], book }
    }

    #[test]
    fn a_book_survives_the_way_to_the_disk_and_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), &stored()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(stored()));
        let joined = Stored { voters: Vec::new(), ..stored() };
        write(dir.path(), &joined).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(joined));
    }

    #[test]
    fn what_is_damaged_is_refused_with_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &stored()).unwrap();
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let refused = |content: Vec<u8>| {
            fs::write(&path, content).unwrap();
            let error = read(dir.path()).unwrap_err();
            assert!(matches!(error, DataDirError::Members { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains("members.toml") && message.contains("restore"), "{message}");
            message
        };
        assert!(refused(text.replace("format = 1", "format = 2\nmore = 1").into()).contains("2"));
        refused(text.replace("id = 2", "id = 1").into());
        refused(text.replace("id = 2", "id = 0").into());
        refused(text.replace("\"b:1\"", "\"b\"").into());
        refused(text.replace("\"b:1\"", "\"b c:1\"").into());
        refused(text.replace("voters", "electors").into());
        refused(text[..text.len() - 20].into());
        refused(vec![0xFF; 100]);
        refused(vec![b'#'; BYTES_MAX as usize + 1]);
        refused(Vec::new());
    }
}
