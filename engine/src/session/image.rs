//! Sessions in snapshots: written ahead of the machine's chunks, read from any cut of them.
//!
//! ```text
//! image   = "CSE1" | limits (6 numbers) | wall clock | session clock | sessions | session ... | crc32 u32 LE
//! session = id | last use - id | idle time | first | replies | reply ...
//! reply   = id - first | 0, or length + 1 and so many bytes
//! ```
//! All numbers are LEB128 in their shortest form. Sessions and replies are in the order of their ids, so equal
//! tables give equal images. The checksum is of all bytes of the image before it. The image ends with a chunk; the
//! chunks of the machine follow. The limits are together in the first chunk.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;

use bytes::{BufMut, Bytes};

use super::bounds::SessionLimits;
use super::table::{Session, Table, cost};
use super::{RequestId, SessionId};
use crate::layer::{CutOff, Parse, Records, take, varint};
use crate::limits::{SESSION_REPLY_BYTES_MAX, SESSION_WINDOW_MAX, SESSIONS_MAX};
use crate::{LogIndex, SnapshotError};

/// The sessions of a moment, on their way into an image.
pub(super) struct SessionRecords {
    /// The first record, until it is written.
    head: Option<Vec<u8>>,
    sessions: vec::IntoIter<(SessionId, Rc<Session>)>,
    /// The session whose replies are being written, and the next of them.
    open: Option<(Rc<Session>, RequestId)>,
    clock_ms: u64,
}

impl SessionRecords {
    /// Takes the sessions as they are now, with a pointer for each.
    pub(super) fn new(table: &Table) -> Self {
        let mut sessions = table.share();
        if cfg!(mutant = "session-dropped-by-snapshot") {
            sessions.clear();
        }
        let (wall_ms, clock_ms) = table.clocks();
        let mut head = SessionParse::MAGIC.to_vec();
        table.limits().encode(&mut head);
        for number in [wall_ms, clock_ms, sessions.len() as u64] {
            varint::put(&mut head, number);
        }
        Self { head: Some(head), sessions: sessions.into_iter(), open: None, clock_ms }
    }
}

impl Records for SessionRecords {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(head) = self.head.take() {
            *out = head;
        } else if let Some((session, from)) = &mut self.open
            && let Some((request, reply)) = session.replies.range(*from..).next()
        {
            sometimes!(session_replies_in_snapshot);
            varint::put(out, request.0 - session.first.0);
            match reply {
                None => varint::put(out, 0),
                Some(reply) => {
                    varint::put(out, reply.len() as u64 + 1);
                    out.put_slice(reply);
                }
            }
            match request.0.checked_add(1) {
                Some(next) => *from = RequestId(next),
                None => self.open = None,
            }
        } else if let Some((id, session)) = self.sessions.next() {
            let numbers = [
                id.0,
                session.used.0 - id.0,
                self.clock_ms - session.used_ms,
                session.first.0,
                session.replies.len() as u64,
            ];
            numbers.into_iter().for_each(|number| varint::put(out, number));
            let first = session.first;
            self.open = Some((session, first));
        } else {
            return false;
        }
        true
    }
}

/// What comes next.
#[derive(Debug, Default)]
enum Expect {
    #[default]
    Head,
    /// So many sessions.
    Sessions(u64),
    /// So many sessions after this one, which lacks so many replies.
    Replies {
        sessions: u64,
        id: SessionId,
        session: Session,
        replies: u64,
    },
    End,
}

/// Sessions on their way out of an image.
#[derive(Debug, Default)]
pub(super) struct SessionParse {
    expect: Expect,
    table: Table,
    /// The last session's id.
    last: u64,
}

impl Parse for SessionParse {
    const MAGIC: &'static [u8; 4] = b"CSE1";
    const NAME: &'static str = "its sessions";
    type State = Table;

    fn record(&mut self, rest: &mut &[u8]) -> Result<Result<(), CutOff>, SnapshotError> {
        match &mut self.expect {
            Expect::Head => {
                if rest.split_off(..4).unwrap_or_default() != Self::MAGIC {
                    return Err(Self::damaged("they do not start with CSE1"));
                }
                let limits = match SessionLimits::take(rest) {
                    Ok(limits) => limits,
                    Err(_) => return Err(Self::damaged("their limits are cut off")),
                };
                if let Some(flaw) = limits.flaw() {
                    return Err(Self::damaged(&flaw));
                }
                let (wall_ms, clock_ms, sessions) = (take!(rest), take!(rest), take!(rest));
                if sessions > limits.sessions.min(SESSIONS_MAX) {
                    return Err(Self::damaged("there are too many"));
                }
                self.table = Table::restored(limits, wall_ms, clock_ms);
                self.expect = Expect::Sessions(sessions);
            }
            Expect::Sessions(0) => self.expect = Expect::End,
            Expect::Sessions(sessions) => {
                let (id, unused_since, idle_ms) = (take!(rest), take!(rest), take!(rest));
                let (first, replies) = (take!(rest), take!(rest));
                let used =
                    id.checked_add(unused_since).ok_or_else(|| Self::damaged("a last use"))?;
                let used_ms = self.table.clocks().1.checked_sub(idle_ms);
                let used_ms =
                    used_ms.ok_or_else(|| Self::damaged("one is older than the clock"))?;
                if id <= self.last || first == 0 || replies > SESSION_WINDOW_MAX {
                    return Err(Self::damaged(
                        "one is not where it belongs, or has too many replies",
                    ));
                }
                self.last = id;
                let session = Session {
                    used: LogIndex(used),
                    used_ms,
                    first: RequestId(first),
                    replies: BTreeMap::new(),
                    kept_bytes: 0,
                };
                let sessions = *sessions - 1;
                self.expect = Expect::Replies { sessions, id: SessionId(id), session, replies };
            }
            Expect::Replies { sessions, replies: 0, .. } => {
                let then = Expect::Sessions(*sessions);
                let done = std::mem::replace(&mut self.expect, then);
                if let Expect::Replies { id, session, .. } = done
                    && !self.table.insert(id, session)
                {
                    return Err(Self::damaged("two were used by the same entry"));
                }
            }
            Expect::Replies { session, replies, .. } => {
                let (behind, length) = (take!(rest), take!(rest));
                let request = session.first.0.checked_add(behind);
                let request = RequestId(request.ok_or_else(|| Self::damaged("a request"))?);
                if session.replies.last_key_value().is_some_and(|(last, _)| *last >= request) {
                    return Err(Self::damaged("replies are in no order"));
                }
                let reply = match length {
                    0 => None,
                    length if length - 1 > SESSION_REPLY_BYTES_MAX => {
                        return Err(Self::damaged("a reply is too large"));
                    }
                    length => match rest.split_off(..length as usize - 1) {
                        Some(reply) => Some(Bytes::copy_from_slice(reply)),
                        None => return Ok(Err(CutOff)),
                    },
                };
                session.kept_bytes += cost(reply.as_ref());
                session.replies.insert(request, reply);
                *replies -= 1;
            }
            Expect::End => {}
        }
        Ok(Ok(()))
    }

    fn is_whole(&self) -> bool {
        matches!(self.expect, Expect::End)
    }

    fn finish(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::layer::testing::{assert_changes_are_noticed, chunks, chunks_with, come_back};
    use crate::session::table::Admission;

    fn table() -> Table {
        let mut table = Table::default();
        table.tick(5000);
        for index in [3, 4, 9] {
            table.open(LogIndex(index));
        }
        for (at, session, request) in [(10, 4, 1), (11, 9, 3), (12, 9, u64::MAX), (13, 9, 1)] {
            let id = SessionId(session);
            let first = RequestId(if request == u64::MAX { request } else { 1 });
            match table.admit(LogIndex(at), id, RequestId(request), first) {
                Admission::Apply => table.applied(id, RequestId(request), &[7; 100]),
                other => assert_eq!(other, Admission::Acknowledged),
            }
            table.tick(5000 + at);
        }
        table.applied(SessionId(3), RequestId(2), &[0; 20_000]);
        table.assert_whole();
        table
    }

    #[test]
    fn tables_come_back_from_chunks_of_any_size() {
        for table in [table(), Table::default()] {
            for back in come_back::<SessionParse, _>(&table, SessionRecords::new) {
                back.assert_whole();
            }
        }
    }

    #[test]
    fn a_writer_shows_what_was_when_it_was_made() {
        let mut table = table();
        let whole = chunks(SessionRecords::new(&table), 4096).concat();
        let records = SessionRecords::new(&table);
        let mut index = 100;
        let written = chunks_with(records, 20, || {
            index += 1;
            let id = table.open(LogIndex(index));
            table.applied(id, RequestId(1), b"new");
            table.close(SessionId(4));
            index += 1;
            table.keep_alive(LogIndex(index), SessionId(9), RequestId(2));
            table.tick(index * 1000);
        });
        assert_eq!(written.concat(), whole);
    }

    #[test]
    fn whatever_is_changed_in_an_image_is_noticed() {
        let image = chunks(SessionRecords::new(&table()), 4096).concat();
        assert_changes_are_noticed::<SessionParse>(&image);
    }
}
