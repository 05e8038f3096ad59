//! Glue: a shared checker that watches cores and state machines, and keeps the first violation.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use coracle_engine::core::{CoreView, Observer};
use coracle_engine::wire::Frame;
use coracle_engine::{Apply, NodeId, SnapshotError, StateMachine};

use super::{Checked, Checker, Violation, hash_bytes};

#[derive(Debug)]
struct Inner {
    checker: RefCell<Checker>,
    violation: RefCell<Option<Violation>>,
}

/// A checker that many share. Cloning gives another handle to it.
#[derive(Clone, Debug)]
pub struct Watch(Rc<Inner>);

impl Watch {
    /// Shares `checker`.
    #[must_use]
    pub fn new(checker: Checker) -> Self {
        let (checker, violation) = (RefCell::new(checker), RefCell::new(None));
        Self(Rc::new(Inner { checker, violation }))
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
    pub fn machine(&self, node: NodeId, inner: Box<dyn StateMachine>) -> Box<dyn StateMachine> {
        Box::new(Watched { watch: self.clone(), node, inner })
    }
}

impl Observer for Watch {
    fn after_turn(&mut self, core: &CoreView<'_>) {
        self.feed(|checker| checker.after_turn(core));
    }
}

/// The whole state of a replica is compared with that of the others after every so many entries, if the
/// state machine gives images of it. Often enough that most runs do it, rare enough that it costs little.
const IMAGE_EVERY: u64 = 16;

/// A state machine under watch.
struct Watched {
    watch: Watch,
    node: NodeId,
    inner: Box<dyn StateMachine>,
}

impl StateMachine for Watched {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        self.inner.apply(entry, reply);
        self.watch.feed(|checker| checker.applied(self.node, &entry, reply));
        if entry.index.0.is_multiple_of(IMAGE_EVERY) {
            let mut image = Vec::new();
            if self.inner.snapshot(&mut image).is_ok() {
                let digest = hash_bytes(&image);
                self.watch
                    .feed(|checker| checker.digest(self.node, entry.shard, entry.index, digest));
            }
        }
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.inner.query(request, reply);
    }

    fn snapshot(&self, image: &mut dyn std::io::Write) -> Result<(), SnapshotError> {
        self.inner.snapshot(image)
    }

    fn restore(&mut self, image: &mut dyn std::io::Read) -> Result<(), SnapshotError> {
        self.inner.restore(image)
    }
}
