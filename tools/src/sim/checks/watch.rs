//! Glue: a shared checker that watches cores and state machines, and keeps the first violation.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use coracle_engine::core::{CoreView, Observer};
use coracle_engine::hook::{HookCall, HookTimes, LeaderHook};
use coracle_engine::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use coracle_engine::snapshot::ChunkSink;
use coracle_engine::wire::Frame;
use coracle_engine::{
    Apply, Fold, LogIndex, NodeId, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
};
use coracle_wal::AlignedBuf;

use super::{Checked, Checker, Violation, hash_bytes};

#[derive(Debug)]
struct Inner {
    checker: RefCell<Checker>,
    violation: RefCell<Option<Violation>>,
    /// What the chunks of snapshots have about.
    chunk_bytes: usize,
}

/// A checker that many share. Cloning gives another handle to it.
#[derive(Clone, Debug)]
pub struct Watch(Rc<Inner>);

impl Watch {
    /// Shares `checker`. State machines give snapshots in chunks of about `chunk_bytes`.
    #[must_use]
    pub fn new(checker: Checker, chunk_bytes: usize) -> Self {
        let (checker, violation) = (RefCell::new(checker), RefCell::new(None));
        Self(Rc::new(Inner { checker, violation, chunk_bytes }))
    }

    /// The first violation, if there was one.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.0.violation.borrow().clone()
    }

    /// Whether there was a violation; to be asked after every event.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        self.0.violation.borrow().is_some()
    }

    /// The checker, to look at.
    #[must_use]
    pub fn checker(&self) -> Ref<'_, Checker> {
        self.0.checker.borrow()
    }

    /// The checker, to be told of starts, stops and faults.
    #[must_use]
    pub fn checker_mut(&self) -> RefMut<'_, Checker> {
        self.0.checker.borrow_mut()
    }

    /// Keeps the violation of `outcome`, if it is the first. For checks made outside of this watch, too.
    pub fn keep(&self, outcome: Checked) {
        if let Err(violation) = outcome {
            self.0.violation.borrow_mut().get_or_insert(*violation);
        }
    }

    /// Feeds the checker, unless it has found something: then its state means nothing any more.
    fn feed(&self, check: impl FnOnce(&mut Checker) -> Checked) {
        if !self.is_violated() {
            let outcome = check(&mut self.0.checker.borrow_mut());
            self.keep(outcome);
        }
    }

    /// For the net's tap: a frame is sent now.
    pub fn sent(&self, from: NodeId, to: NodeId, frame: &Frame) {
        self.feed(|checker| checker.sent(from, to, frame));
    }

    /// For [`Core::observe`](coracle_engine::core::Core::observe).
    #[must_use]
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(self.clone())
    }

    /// Puts a state machine of `node` under watch.
    #[must_use]
    pub fn machine(
        &self,
        node: NodeId,
        shard: ShardId,
        inner: Box<dyn StateMachine>,
    ) -> Box<dyn StateMachine> {
        Box::new(Watched {
            watch: self.clone(),
            node,
            shard,
            inner,
            applied: Some(LogIndex(0)),
            restored: false,
            stream: Weak::new(),
            buf: None,
        })
    }
}

impl Observer for Watch {
    fn after_turn(&mut self, core: &CoreView<'_>) {
        self.feed(|checker| checker.after_turn(core));
    }
}

/// The whole state of a replica is compared with that of the others after every so many entries, if the
/// state machine gives snapshots. Often enough that most runs do it, rare enough that it costs little.
const IMAGE_EVERY: u64 = 16;

/// A state machine under watch.
struct Watched {
    watch: Watch,
    node: NodeId,
    shard: ShardId,
    inner: Box<dyn StateMachine>,
    /// The last entry applied since the start, or since a snapshot took the place of the state.
    applied: Option<LogIndex>,
    /// The state is that of a snapshot, and nothing was applied to it yet.
    restored: bool,
    /// A stream that the core has, until it is dropped.
    stream: Weak<()>,
    /// What chunks are written to that are only hashed.
    buf: Option<AlignedBuf>,
}

impl Watched {
    /// A digest of the state, if the state machine gives snapshots. A machine has one stream at a time: none
    /// may be alive.
    fn digest(&mut self) -> Option<u64> {
        if self.stream.strong_count() > 0 {
            return None;
        }
        let mut stream = self.inner.snapshot().ok()?;
        let buf = self.buf.get_or_insert_with(|| AlignedBuf::zeroed(SNAPSHOT_CHUNK_BYTES_MAX));
        let mut image = Vec::new();
        loop {
            let mut chunk = ChunkSink::new(buf);
            let more = stream.fill(&mut chunk).ok()?;
            image.extend_from_slice(chunk.bytes());
            if !more {
                break;
            }
        }
        Some(hash_bytes(&image))
    }

    /// Notes a digest of the state after `index`.
    fn note_digest(&mut self, index: LogIndex) {
        let (node, shard) = (self.node, self.shard);
        if let Some(digest) = self.digest() {
            self.watch.feed(|checker| checker.digest(node, shard, index, digest));
        }
    }
}

impl StateMachine for Watched {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        let (node, shard) = (self.node, self.shard);
        if std::mem::take(&mut self.restored)
            && let Some(digest) = self.digest()
        {
            let next = entry.index;
            self.watch.feed(|checker| checker.digest_before(node, shard, next, digest));
        }
        self.inner.apply(entry, reply);
        self.watch.feed(|checker| checker.applied(node, &entry, reply));
        self.applied = Some(entry.index);
        if entry.index.0.is_multiple_of(IMAGE_EVERY) {
            self.note_digest(entry.index);
        }
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.inner.query(request, reply);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        if let Some(index) = self.applied {
            // What the stream must show, however long it takes and whatever is applied meanwhile.
            self.note_digest(index);
        }
        let inner = self.inner.snapshot()?;
        let alive = Rc::new(());
        self.stream = Rc::downgrade(&alive);
        let (watch, node) = (self.watch.clone(), self.node);
        let at = self.applied.map(|index| (self.shard, index));
        let buf = AlignedBuf::zeroed(SNAPSHOT_CHUNK_BYTES_MAX);
        let image = Vec::new();
        Ok(Box::new(WatchedStream { watch, node, at, inner, image, buf, _alive: alive }))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        let ends = matches!(part, Restore::End);
        self.applied = None;
        self.inner.restore(part)?;
        if ends {
            self.restored = true;
            let (node, shard) = (self.node, self.shard);
            if let Some(digest) = self.digest() {
                self.watch.feed(|checker| checker.restored(node, shard, digest));
            }
        }
        Ok(())
    }

    fn fold(&self) -> Option<Box<dyn Fold>> {
        self.inner.fold()
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        self.inner.hook().map(|_| self as &dyn LeaderHook)
    }
}

impl LeaderHook for Watched {
    fn times(&self) -> HookTimes {
        HookTimes::of(self.inner.hook())
    }

    fn call(&self, call: HookCall) -> Vec<Bytes> {
        self.watch.feed(|checker| checker.hook_called(self.node, &call));
        self.inner.hook().map_or_else(Vec::new, |hook| hook.call(call))
    }
}

/// A snapshot under watch: what it showed in the end is compared with the state at its beginning.
struct WatchedStream {
    watch: Watch,
    node: NodeId,
    /// The last entry in it; unknown for what was restored and not applied to since.
    at: Option<(ShardId, LogIndex)>,
    inner: Box<dyn SnapshotStream>,
    image: Vec<u8>,
    buf: AlignedBuf,
    _alive: Rc<()>,
}

impl SnapshotStream for WatchedStream {
    fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        let mut small = ChunkSink::with_target(&mut self.buf, self.watch.0.chunk_bytes);
        let more = self.inner.fill(&mut small)?;
        chunk.put(small.bytes())?;
        self.image.extend_from_slice(chunk.bytes());
        if let (false, Some((shard, index))) = (more, self.at) {
            let digest = hash_bytes(&self.image);
            self.watch.feed(|checker| checker.digest(self.node, shard, index, digest));
        }
        Ok(more)
    }
}
