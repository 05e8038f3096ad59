//! Snapshots of a shard: a stream of chunks while keys change, and the way back.
//!
//! # Format
//! ```text
//! image  = begin | item ... | end          cut into chunks between records; records are not cut
//! begin  = "CKV2" | log time, ms since 1970, u64 LE | keys u64 LE
//! item   = kind u8 | [position u64 LE] | [deadline u64 LE] | key length u32 LE | value length u32 LE
//!        | key | value
//! tail   = 16 | length u32 LE | bytes      what follows of the value of the item before
//! end    = 32 | crc32 u32 LE of all bytes of the image before it
//! kind   = 1 | 2 if there is a deadline | 4 if there is a position
//! ```
//! Keys have positions, from 0, and an item without one has the lowest that has not been given yet: that is
//! the order of all items unless keys changed faster than the snapshot was written, when those that changed
//! are ahead of their turn. A value has tails only if its item does not fit a chunk as a whole.
//!
//! An image is valid if and only if its parts are there in this order and nothing else, no key and no position
//! is there twice, each position below `keys` is there, no key or value is larger than the largest payload, and
//! the checksum is right. Equal states (keys, values, deadlines, positions, log time) give equal images, byte
//! for byte, as long as nothing is ahead of its turn; an image in which something is gives the same state when
//! it is restored.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use coracle_engine::limits::PAYLOAD_BYTES_MAX;
use coracle_engine::snapshot::ChunkSink;
use coracle_engine::{Restore, SnapshotError, SnapshotStream};

use super::State;
use super::keyspace::{Item, Keyspace};
use super::shadow::{Bounds, Next, Shadow};

const MAGIC: &[u8; 4] = b"CKV2";
const ITEM: u8 = 1;
const WITH_DEADLINE: u8 = 2;
const WITH_POSITION: u8 = 4;
const TAIL: u8 = 16;
const END: u8 = 32;

const END_BYTES: usize = 1 + 4;
/// Kind, position, deadline and the two lengths.
const ITEM_HEAD_BYTES_MAX: usize = 1 + 8 + 8 + 4 + 4;
const TAIL_HEAD_BYTES: usize = 1 + 4;

/// How a snapshot is taken; tests have odd ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) bounds: Bounds,
    /// Positions that one chunk looks at.
    pub(super) items_per_chunk_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    Items,
    End,
    Done,
}

/// An item that was taken out of the state and is not written yet, or not all of its value.
#[derive(Debug)]
struct Held {
    position: Option<u64>,
    key: Bytes,
    item: Item,
    /// Bytes of the value that are written; `None` while not even the key is.
    written: Option<usize>,
}

/// A snapshot under way.
#[derive(Debug)]
pub(super) struct Stream {
    state: Rc<RefCell<State>>,
    serial: u64,
    log_time_ms: u64,
    keys: u64,
    items_per_chunk_max: usize,
    phase: Phase,
    held: Option<Held>,
    crc: crc32fast::Hasher,
}

impl Stream {
    /// Begins a snapshot of the state as it is now.
    pub(super) fn begin(shared: &Rc<RefCell<State>>, manner: Manner) -> Self {
        let mut state = shared.borrow_mut();
        state.snapshots_begun += 1;
        let (serial, keys) = (state.snapshots_begun, state.keys.len());
        state.keys.open_shadow(Shadow::new(serial, keys, manner.bounds));
        Self {
            state: shared.clone(),
            serial,
            log_time_ms: state.log_time_ms,
            keys: keys as u64,
            items_per_chunk_max: manner.items_per_chunk_max,
            phase: Phase::Begin,
            held: None,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Writes items until the chunk is full or has taken enough time. True: there are no more.
    fn fill_items(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        let state = self.state.clone();
        let mut state = state.borrow_mut();
        let shadow = state.keys.shadow().filter(|(shadow, _)| shadow.serial() == self.serial);
        let Some((shadow, items)) = shadow else {
            return Err(SnapshotError::Abandoned(
                "another one was begun, or too much changed while it was written".to_owned(),
            ));
        };
        for _ in 0..self.items_per_chunk_max {
            if let Some(held) = self.held.take() {
                self.held = write_held(chunk, held)?;
                if self.held.is_some() {
                    return Ok(false);
                }
            }
            if chunk.is_full() {
                return Ok(false);
            }
            if shadow.is_large()
                && let Some((position, key, item)) = shadow.take_ahead(items)
            {
                let position = Some(position as u64);
                self.held = Some(Held { position, key, item, written: None });
                continue;
            }
            match shadow.next(items) {
                Next::Nothing => {}
                Next::End => return Ok(true),
                Next::Taken(key, item) => {
                    self.held = Some(Held { position: None, key, item, written: None });
                }
                Next::InPlace(key, item) if fits(chunk, None, key, item) => {
                    write_item(chunk, None, key, item, item.value.len())?;
                    shadow.pass();
                }
                Next::InPlace(..) if !chunk.is_empty() => return Ok(false),
                Next::InPlace(key, item) => {
                    // Larger than a whole chunk.
                    let (key, item) = (key.clone(), item.clone());
                    self.held = Some(Held { position: None, key, item, written: None });
                    shadow.pass();
                }
            }
        }
        Ok(false)
    }
}

impl SnapshotStream for Stream {
    fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        if self.phase == Phase::Begin {
            let [time, keys] = [self.log_time_ms, self.keys].map(u64::to_le_bytes);
            put(chunk, &[MAGIC, &time, &keys])?;
            self.phase = Phase::Items;
        }
        if self.phase == Phase::Items && self.fill_items(chunk)? {
            self.phase = Phase::End;
        }
        let ends = self.phase == Phase::End && chunk.remaining() >= END_BYTES;
        if ends {
            put(chunk, &[&[END]])?;
        }
        self.crc.update(chunk.bytes());
        if ends {
            put(chunk, &[&self.crc.clone().finalize().to_le_bytes()])?;
            self.phase = Phase::Done;
        }
        Ok(self.phase != Phase::Done)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        if state.keys.shadow().is_some_and(|(shadow, _)| shadow.serial() == self.serial) {
            state.keys.close_shadow();
        }
    }
}

fn put(chunk: &mut ChunkSink<'_>, parts: &[&[u8]]) -> Result<(), SnapshotError> {
    for part in parts {
        chunk.put(part)?;
    }
    Ok(())
}

fn head_bytes(position: Option<u64>, item: &Item) -> usize {
    let optional = 8 * (usize::from(position.is_some()) + usize::from(item.deadline_ms.is_some()));
    1 + optional + 4 + 4
}

fn fits(chunk: &ChunkSink<'_>, position: Option<u64>, key: &[u8], item: &Item) -> bool {
    head_bytes(position, item) + key.len() + item.value.len() <= chunk.remaining()
}

/// Writes an item with the first `bytes` of its value.
fn write_item(
    chunk: &mut ChunkSink<'_>,
    position: Option<u64>,
    key: &[u8],
    item: &Item,
    bytes: usize,
) -> Result<(), SnapshotError> {
    let mut head = [0; ITEM_HEAD_BYTES_MAX];
    let mut length = 1;
    head[0] = ITEM;
    for (number, flag) in [(position, WITH_POSITION), (item.deadline_ms, WITH_DEADLINE)] {
        if let Some(number) = number {
            head[0] |= flag;
            head[length..length + 8].copy_from_slice(&number.to_le_bytes());
            length += 8;
        }
    }
    for field in [key.len(), bytes] {
        // Both fit: keys and values come out of payloads.
        head[length..length + 4].copy_from_slice(&(field as u32).to_le_bytes());
        length += 4;
    }
    put(chunk, &[&head[..length], key, &item.value[..bytes]])
}

/// Writes what is held, as a whole if the chunk or an empty one has room for it. Gives back what is left.
fn write_held(chunk: &mut ChunkSink<'_>, mut held: Held) -> Result<Option<Held>, SnapshotError> {
    let Held { position, key, item, .. } = &held;
    let Some(written) = held.written else {
        if fits(chunk, *position, key, item) {
            write_item(chunk, *position, key, item, item.value.len())?;
            return Ok(None);
        }
        if chunk.is_empty() {
            let room = chunk.remaining().saturating_sub(head_bytes(*position, item) + key.len());
            write_item(chunk, *position, key, item, room)?;
            held.written = Some(room);
        }
        return Ok(Some(held));
    };
    let rest = &item.value[written..];
    let room = rest.len().min(chunk.remaining().saturating_sub(TAIL_HEAD_BYTES));
    if room == 0 {
        return Ok(Some(held));
    }
    put(chunk, &[&[TAIL], &(room as u32).to_le_bytes(), &rest[..room]])?;
    let ended = room == rest.len();
    held.written = Some(written + room);
    Ok((!ended).then_some(held))
}

fn damaged(what: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::Damaged(what.to_string())
}

/// An item whose value may go on in the next record.
#[derive(Debug)]
struct Open {
    position: Option<u64>,
    key: Bytes,
    value: Vec<u8>,
    deadline_ms: Option<u64>,
}

/// A state that is being restored.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// Log time and number of keys, once they are known.
    begun: Option<(u64, u64)>,
    keys: Keyspace,
    /// Items ahead of their turn, by position: none below the keys that are there.
    ahead: BTreeMap<u64, Open>,
    open: Option<Open>,
    crc: crc32fast::Hasher,
    ended: bool,
}

impl Loading {
    /// Takes the next chunk.
    pub(super) fn chunk(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let cut = |_| damaged("a record is cut off");
        let mut rest = chunk;
        if self.begun.is_none() {
            let magic = rest.split_off(..4).unwrap_or_default();
            if magic != MAGIC {
                return Err(damaged("it does not start with CKV2"));
            }
            self.begun =
                Some((rest.try_get_u64_le().map_err(cut)?, rest.try_get_u64_le().map_err(cut)?));
        }
        while let Ok(kind) = rest.try_get_u8() {
            if self.ended {
                return Err(damaged("something follows its end"));
            }
            match kind {
                TAIL => {
                    let length = rest.try_get_u32_le().map_err(cut)?;
                    let open = self.open.as_mut().ok_or_else(|| damaged("a tail of nothing"))?;
                    let bytes = take(&mut rest, length)?;
                    if open.value.len() + bytes.len() > PAYLOAD_BYTES_MAX {
                        return Err(damaged("a value is too large"));
                    }
                    open.value.extend_from_slice(bytes);
                }
                END => {
                    self.close()?;
                    self.crc.update(&chunk[..chunk.len() - rest.len()]);
                    if rest.try_get_u32_le().map_err(cut)? != self.crc.clone().finalize() {
                        return Err(damaged("its checksum is wrong"));
                    }
                    self.ended = true;
                }
                _ if kind & !(WITH_DEADLINE | WITH_POSITION) == ITEM => {
                    self.close()?;
                    let mut number = |flag: u8| {
                        (kind & flag != 0).then(|| rest.try_get_u64_le().map_err(cut)).transpose()
                    };
                    let (position, deadline_ms) = (number(WITH_POSITION)?, number(WITH_DEADLINE)?);
                    let key_bytes = rest.try_get_u32_le().map_err(cut)?;
                    let value_bytes = rest.try_get_u32_le().map_err(cut)?;
                    let key = Bytes::copy_from_slice(take(&mut rest, key_bytes)?);
                    let value = take(&mut rest, value_bytes)?.to_vec();
                    self.open = Some(Open { position, key, value, deadline_ms });
                }
                _ => return Err(damaged(format_args!("a record of kind {kind}"))),
            }
        }
        if !self.ended {
            self.crc.update(chunk);
        }
        Ok(())
    }

    /// The item before is complete: gives it its position.
    fn close(&mut self) -> Result<(), SnapshotError> {
        let Some(item) = self.open.take() else { return Ok(()) };
        let keys = self.begun.map_or(0, |(_, keys)| keys);
        match item.position {
            None => self.insert(item)?,
            Some(position) if position < self.keys.len() as u64 || position >= keys => {
                return Err(damaged(format_args!("an item is ahead of its turn at {position}")));
            }
            Some(position) => {
                if self.ahead.insert(position, item).is_some() {
                    return Err(damaged(format_args!("two items are at {position}")));
                }
            }
        }
        while let Some((position, _)) = self.ahead.first_key_value()
            && *position == self.keys.len() as u64
            && let Some((_, item)) = self.ahead.pop_first()
        {
            self.insert(item)?;
        }
        Ok(())
    }

    fn insert(&mut self, item: Open) -> Result<(), SnapshotError> {
        if self.keys.get(&item.key).is_some() {
            return Err(damaged("a key is there twice"));
        }
        let value = Bytes::from(item.value.into_boxed_slice());
        self.keys.put(&item.key, value, item.deadline_ms);
        Ok(())
    }

    /// The keys and the log time, if the image was whole.
    pub(super) fn end(self) -> Result<(Keyspace, u64), SnapshotError> {
        match self.begun {
            Some((log_time_ms, keys)) if self.ended => {
                if self.keys.len() as u64 != keys || !self.ahead.is_empty() {
                    let found = self.keys.len();
                    return Err(damaged(format_args!("{found} of its {keys} keys are there")));
                }
                Ok((self.keys, log_time_ms))
            }
            _ => Err(damaged("it has no end")),
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: u32) -> Result<&'a [u8], SnapshotError> {
    let length = length as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(damaged(format_args!("a key or value of {length} bytes")));
    }
    rest.split_off(..length).ok_or_else(|| damaged("a record is cut off"))
}

/// Takes one step of a restoration; the last one gives keys and log time.
pub(super) fn restore(
    loading: &mut Option<Box<Loading>>,
    part: Restore<'_>,
) -> Result<Option<(Keyspace, u64)>, SnapshotError> {
    let out_of_order = || damaged("its chunks come without a beginning");
    match part {
        Restore::Begin => *loading = Some(Box::default()),
        Restore::Chunk(chunk) => {
            let mut current = loading.take().ok_or_else(out_of_order)?;
            current.chunk(chunk)?;
            *loading = Some(current);
        }
        Restore::End => return loading.take().ok_or_else(out_of_order)?.end().map(Some),
    }
    Ok(None)
}
