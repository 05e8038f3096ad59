//! The body of a frame with an address book.
//!
//! A count, then one record after the other in the order of their ids:
//!
//! ```text
//! | id u64 | version u64 | flags u8 | incarnation u128 | client port u16 | peer port u16 | client host | peer host | admin |
//! ```
//! Hosts are texts with their length in front. Flag 1 says that the member was removed, flag 2 that there is an
//! incarnation, flag 4 that there is an admin address; what is not there is zero or empty.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::body::{Problem, finish, get_u16, get_u64};
use super::hello::{decode_text, encode_text};
use crate::NodeId;
use crate::limits::{BOOK_RECORDS_MAX, HOST_BYTES_MAX};
use crate::members::MemberRecord;

const REMOVED: u8 = 1;
const INCARNATION: u8 = 2;
const ADMIN: u8 = 4;

pub(super) fn encode<'a>(
    records: impl ExactSizeIterator<Item = &'a MemberRecord>,
    out: &mut BytesMut,
) {
    // A book too large by far makes a body too long, which is refused: the count need not be right then.
    out.put_u16_le(u16::try_from(records.len()).unwrap_or(u16::MAX));
    for record in records {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put_u64_le(record.id.0);
        out.put_u64_le(record.version);
        out.put_u8(
            flag(record.removed, REMOVED)
                | flag(record.incarnation.is_some(), INCARNATION)
                | flag(record.admin.is_some(), ADMIN),
        );
        out.put_u128_le(record.incarnation.unwrap_or(0));
        out.put_u16_le(record.client_port);
        out.put_u16_le(record.peer_port);
        encode_text(&record.client_host, HOST_BYTES_MAX, out);
        encode_text(&record.peer_host, HOST_BYTES_MAX, out);
        encode_text(record.admin.as_deref().unwrap_or(""), HOST_BYTES_MAX, out);
    }
}

pub(super) fn decode(mut body: Bytes) -> Result<Vec<MemberRecord>, Problem> {
    let count = usize::from(get_u16(&mut body)?);
    if count > BOOK_RECORDS_MAX {
        return Err(Problem("more members than a book has"));
    }
    let mut records: Vec<MemberRecord> = Vec::with_capacity(count);
    for _ in 0..count {
        let record = decode_record(&mut body)?;
        if records.last().is_some_and(|before| before.id >= record.id) {
            return Err(Problem("members are not in the order of their ids"));
        }
        if let Some(flaw) = record.flaw() {
            return Err(Problem(flaw));
        }
        records.push(record);
    }
    finish(&body)?;
    Ok(records)
}

fn decode_record(body: &mut Bytes) -> Result<MemberRecord, Problem> {
    let id = NodeId(get_u64(body)?);
    let version = get_u64(body)?;
    let flags = body.try_get_u8().map_err(|_| Problem::SHORT)?;
    let incarnation = body.try_get_u128_le().map_err(|_| Problem::SHORT)?;
    let (client_port, peer_port) = (get_u16(body)?, get_u16(body)?);
    let client_host = decode_text(body, HOST_BYTES_MAX)?;
    let peer_host = decode_text(body, HOST_BYTES_MAX)?;
    let admin = decode_text(body, HOST_BYTES_MAX)?;
    if flags & !(REMOVED | INCARNATION | ADMIN) != 0 {
        return Err(Problem("unknown flags of a member"));
    }
    if flags & INCARNATION == 0 && incarnation != 0 || flags & ADMIN == 0 && !admin.is_empty() {
        return Err(Problem("a member has what its flags say is not there"));
    }
    Ok(MemberRecord {
        id,
        version,
        removed: flags & REMOVED != 0,
        client_host,
        client_port,
        peer_host,
        peer_port,
        admin: (flags & ADMIN != 0).then_some(admin),
        incarnation: (flags & INCARNATION != 0).then_some(incarnation),
    })
}
