//! The image of a shard: all keys in the order of the vector, so that equal states give equal images.
//!
//! ```text
//! image = "CKV1" | log time, ms since 1970, u64 LE | keys u64 LE | keys x record | crc32 of all before
//! record = key length u32 LE | value length u32 LE | deadline u64 LE, MAX for none | key | value
//! ```
//! An image is valid if and only if the magic, every length and the checksum are right and no key is there
//! twice.

use std::io::{Read, Write};

use bytes::Bytes;
use coracle_engine::SnapshotError;

use super::keyspace::Keyspace;
use crate::server::limits::BULK_BYTES_MAX;

const MAGIC: &[u8; 4] = b"CKV1";

struct Checked<'a, T: ?Sized> {
    inner: &'a mut T,
    crc: crc32fast::Hasher,
}

fn damaged(what: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::Damaged(what.to_string())
}

impl<'a, T: ?Sized> Checked<'a, T> {
    fn new(inner: &'a mut T) -> Self {
        Self { inner, crc: crc32fast::Hasher::new() }
    }
}

impl Checked<'_, dyn Write + '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.crc.update(bytes);
        self.inner.write_all(bytes).map_err(damaged)
    }
}

impl Checked<'_, dyn Read + '_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.inner.read_exact(bytes).map_err(damaged)?;
        self.crc.update(bytes);
        Ok(())
    }

    fn bytes(&mut self, length: u32) -> Result<Bytes, SnapshotError> {
        let length = length as usize;
        if length > BULK_BYTES_MAX {
            return Err(damaged(format_args!("a key or value of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes.into())
    }
}

pub(super) fn write(
    keys: &Keyspace,
    log_time_ms: u64,
    image: &mut dyn Write,
) -> Result<(), SnapshotError> {
    let mut out: Checked<'_, dyn Write> = Checked::new(image);
    out.put(MAGIC)?;
    out.put(&log_time_ms.to_le_bytes())?;
    out.put(&(keys.len() as u64).to_le_bytes())?;
    for (key, item) in keys.iter() {
        // Lengths fit: keys and values are at most BULK_BYTES_MAX.
        out.put(&(key.len() as u32).to_le_bytes())?;
        out.put(&(item.value.len() as u32).to_le_bytes())?;
        out.put(&item.deadline_ms.unwrap_or(u64::MAX).to_le_bytes())?;
        out.put(key)?;
        out.put(&item.value)?;
    }
    let crc = out.crc.finalize();
    out.inner.write_all(&crc.to_le_bytes()).map_err(damaged)
}

pub(super) fn read(image: &mut dyn Read) -> Result<(Keyspace, u64), SnapshotError> {
    let mut input: Checked<'_, dyn Read> = Checked::new(image);
    if &input.take::<4>()? != MAGIC {
        return Err(damaged("it does not start with CKV1"));
    }
    let log_time_ms = u64::from_le_bytes(input.take()?);
    let count = u64::from_le_bytes(input.take()?);
    let mut keys = Keyspace::default();
    for _ in 0..count {
        let key_bytes = u32::from_le_bytes(input.take()?);
        let value_bytes = u32::from_le_bytes(input.take()?);
        let deadline_ms = u64::from_le_bytes(input.take()?);
        let key = input.bytes(key_bytes)?;
        let value = input.bytes(value_bytes)?;
        keys.put(&key, value, (deadline_ms != u64::MAX).then_some(deadline_ms));
    }
    if keys.len() as u64 != count {
        return Err(damaged("a key is there twice"));
    }
    let crc = input.crc.finalize();
    let mut stored = [0; 4];
    input.inner.read_exact(&mut stored).map_err(damaged)?;
    if u32::from_le_bytes(stored) != crc {
        return Err(damaged("its checksum is wrong"));
    }
    Ok((keys, log_time_ms))
}
