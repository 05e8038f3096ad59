//! One core's io_uring and the operations in flight on it.
//!
//! An operation occupies a slot from its submission until its last completion. The slot owns
//! everything the kernel may touch (buffers, names, result structures), so dropping the future of an
//! operation only marks the slot as abandoned: the memory stays until the kernel is done with it, and
//! the descriptor open.
//!
//! A **durable write** is a pair of linked requests, write and then data sync, in one slot. The
//! kernel runs the sync only when the write was complete; after a short or failed write it cancels
//! it. Where the kernel can (5.17), a successful write posts no completion of its own: one durable
//! write, one completion, one wake-up.
//!
//! An operation that the [pace](super::pace) holds back waits in its slot, built and not submitted.
//!
//! All `unsafe` calls into the ring are in this file.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::poll_fn;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use coracle_wal::AlignedBuf;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

use super::pace::Pace;

/// Operations in flight on one ring at most; more wait for room. A log keeps four writes in flight,
/// recovery reads sixteen blocks ahead, segments are filled beside that.
pub(super) const OPS_IN_FLIGHT_MAX: usize = 128;
/// Every operation has at most two requests, so the submission queue never overflows.
const SQ_ENTRIES: usize = OPS_IN_FLIGHT_MAX * 2;
const _: () = assert!(SQ_ENTRIES.is_power_of_two());

/// The bit of `user_data` that tells a linked sync from the write before it.
const LINKED_SYNC: u64 = 1;

/// What an operation owns while the kernel works on it.
pub(super) enum Payload {
    None,
    Buf(AlignedBuf),
    Name(CString),
    Names(CString, CString),
    Stat(Box<libc::statx>),
}

/// The requests of one operation.
pub(super) enum Requests {
    One(Entry),
    /// A write of `len` bytes and the sync that follows it.
    WriteThenSync {
        write: Entry,
        sync: Entry,
        len: i32,
    },
}

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A durable write.
    Log,
    /// A transfer of so many bytes that is not durable.
    Transfer(usize),
    /// The result is a new descriptor, to be closed when nobody takes it.
    Opens,
    Other,
}

/// The raw results of an operation: counts, or negated error numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Result of the request, or of the write of a linked pair.
    pub(super) result: i32,
    /// Result of the linked sync, unless the write failed or was short.
    pub(super) sync: Option<i32>,
}

enum Slot {
    Vacant,
    Busy(Busy),
    Done(Payload, Outcome),
}

struct Busy {
    payload: Payload,
    /// The descriptor that the requests name by number. The kernel looks numbers up when it gets to a
    /// request, which may be after the future is gone: until then the number must mean this file.
    _descriptor: Option<Rc<OwnedFd>>,
    /// Completions still to come.
    left: u8,
    result: Option<i32>,
    sync: Option<i32>,
    /// The result of a linked write whose success posts no completion: its whole length.
    silent_result: Option<i32>,
    waker: Option<Waker>,
    abandoned: bool,
    kind: Kind,
    /// The request of an operation that has not begun yet.
    held: Option<Entry>,
}

/// A core's ring; clones share it.
#[derive(Clone)]
pub(super) struct Ring(Rc<RefCell<Inner>>);

struct Inner {
    uring: IoUring,
    slots: Vec<Slot>,
    generations: Vec<u32>,
    vacant: Vec<u32>,
    /// Slots that the kernel has not finished, or not been given.
    busy: usize,
    pace: Pace,
    /// The kernel refused the last submission for now; it must be repeated.
    unsubmitted: bool,
    skips_success: bool,
    waiting_for_room: VecDeque<Waker>,
    /// Wakers of completed operations, to be woken when the ring is no longer borrowed.
    to_wake: Vec<Waker>,
    reaper: Option<Waker>,
    closed: bool,
}

impl Ring {
    /// A ring whose completions signal `eventfd`.
    pub(super) fn new(eventfd: RawFd) -> io::Result<Self> {
        let uring = IoUring::new(SQ_ENTRIES as u32)?;
        uring.submitter().register_eventfd(eventfd)?;
        let skips_success = uring.params().is_feature_skip_cqe_on_success();
        let slots = (0..OPS_IN_FLIGHT_MAX).map(|_| Slot::Vacant).collect();
        Ok(Self(Rc::new(RefCell::new(Inner {
            uring,
            slots,
            generations: vec![0; OPS_IN_FLIGHT_MAX],
            vacant: (0..OPS_IN_FLIGHT_MAX as u32).rev().collect(),
            busy: 0,
            pace: Pace::default(),
            unsubmitted: false,
            skips_success,
            waiting_for_room: VecDeque::new(),
            to_wake: Vec::new(),
            reaper: None,
            closed: false,
        }))))
    }

    /// Lets the kernel's workers of this ring run on every CPU of `cpus`, although the core's thread
    /// is pinned to one: a linked flush must not wait for a computing core.
    pub(super) fn spread_workers(&self, cpus: &libc::cpu_set_t) -> io::Result<()> {
        self.0.borrow().uring.submitter().register_iowq_aff(cpus)
    }

    /// Keeps the open file behind `fd`, and a lock on it, for as long as the kernel keeps this ring:
    /// until its last operation is complete, even after the process is gone.
    pub(super) fn hold(&self, fd: RawFd) -> io::Result<()> {
        self.0.borrow().uring.submitter().register_files(&[fd])
    }

    /// Runs one operation: waits for room, submits, and waits for its completion. `build` gets the
    /// payload at the address where it stays; its requests name `descriptor` and no other.
    pub(super) async fn run(
        &self,
        payload: Payload,
        descriptor: &Rc<OwnedFd>,
        kind: Kind,
        build: impl FnOnce(&mut Payload) -> Requests,
    ) -> (Outcome, Payload) {
        poll_fn(|cx| self.poll_room(cx)).await;
        let descriptor = Some(descriptor.clone());
        let index = self.0.borrow_mut().start(payload, descriptor, kind, build);
        Op { ring: self, index, taken: false }.await
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.borrow().vacant.is_empty() {
            self.reap();
        }
        let mut inner = self.0.borrow_mut();
        if inner.vacant.is_empty() {
            inner.waiting_for_room.push_back(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Closes a descriptor off the core's thread, where the last close of a removed file frees its
    /// blocks. Falls back to closing here when the ring is full.
    pub(super) fn close(&self, fd: RawFd) {
        let mut inner = self.0.borrow_mut();
        if inner.vacant.is_empty() {
            drop(inner);
            // SAFETY: the caller gives up `fd`.
            unsafe { libc::close(fd) };
            return;
        }
        let request = opcode::Close::new(types::Fd(fd)).build().flags(Flags::ASYNC);
        let index = inner.start(Payload::None, None, Kind::Other, |_| Requests::One(request));
        inner.abandon(index);
    }

    /// Collects completions without a system call; returns how many there were.
    pub(super) fn reap(&self) -> usize {
        let count = self.0.borrow_mut().reap();
        if count > 0 {
            self.wake_completed();
        }
        count
    }

    /// Wakes outside of any borrow: a waker may drop a task, and with it operations of this ring.
    fn wake_completed(&self) {
        let mut wakers = std::mem::take(&mut self.0.borrow_mut().to_wake);
        for waker in wakers.drain(..) {
            waker.wake();
        }
        let mut inner = self.0.borrow_mut();
        if inner.to_wake.is_empty() {
            inner.to_wake = wakers;
        }
    }

    /// Hands requests to the kernel that it refused before. True when none are left.
    pub(super) fn flush(&self) -> bool {
        let mut inner = self.0.borrow_mut();
        if inner.unsubmitted {
            inner.submit();
        }
        !inner.unsubmitted
    }

    /// Waits until something is in flight (true) or every handle is gone (false).
    pub(super) async fn wait_for_work(&self) -> bool {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.busy > 0 {
                return Poll::Ready(true);
            }
            if inner.closed {
                return Poll::Ready(false);
            }
            inner.reaper = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether the kernel has nothing left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.0.borrow().busy == 0
    }

    /// Lets the reaper end once nothing is in flight.
    pub(super) fn close_ring(&self) {
        let mut inner = self.0.borrow_mut();
        inner.closed = true;
        if let Some(reaper) = inner.reaper.take() {
            reaper.wake();
        }
    }
}

impl Inner {
    /// Fills a vacant slot and submits its requests. The caller has made sure that there is one.
    fn start(
        &mut self,
        payload: Payload,
        descriptor: Option<Rc<OwnedFd>>,
        kind: Kind,
        build: impl FnOnce(&mut Payload) -> Requests,
    ) -> u32 {
        let index = self.vacant.pop().expect("the caller waited for room");
        let at = index as usize;
        self.slots[at] = Slot::Busy(Busy {
            payload,
            _descriptor: descriptor,
            left: 1,
            result: None,
            sync: None,
            silent_result: None,
            waker: None,
            abandoned: false,
            kind,
            held: None,
        });
        let begins = self.pace.begin(index, kind, Instant::now());
        let Slot::Busy(busy) = &mut self.slots[at] else { unreachable!("filled just now") };
        let user_data = u64::from(self.generations[at]) << 32 | u64::from(index) << 1;
        let requests = match build(&mut busy.payload) {
            Requests::One(request) if !begins => {
                busy.held = Some(request.user_data(user_data));
                self.busy += 1;
                return index;
            }
            requests => requests,
        };
        let mut queue = self.uring.submission();
        // SAFETY: everything the requests point at is owned by the slot, at a stable address (heap
        // memory), until their last completion, and so is the descriptor they name. The queue has room: it has two
        // entries per slot, and each slot uses them once.
        let pushed = unsafe {
            match requests {
                Requests::One(request) => queue.push(&request.user_data(user_data)),
                Requests::WriteThenSync { write, sync, len } => {
                    let mut flags = Flags::IO_LINK;
                    if self.skips_success {
                        flags |= Flags::SKIP_SUCCESS;
                        busy.silent_result = Some(len);
                    } else {
                        busy.left = 2;
                    }
                    queue.push_multiple(&[
                        write.flags(flags).user_data(user_data),
                        sync.user_data(user_data | LINKED_SYNC),
                    ])
                }
            }
        };
        pushed.expect("the submission queue has two entries per slot");
        drop(queue);
        self.busy += 1;
        self.submit();
        if let Some(reaper) = self.reaper.take() {
            reaper.wake();
        }
        index
    }

    /// Begins operations that had to wait, as far as they may now.
    fn begin_held(&mut self, now: Instant) {
        let mut begun = false;
        while let Some(index) = self.pace.next(now) {
            let Slot::Busy(busy) = &mut self.slots[index as usize] else {
                unreachable!("an operation that waits keeps its slot")
            };
            let request = busy.held.take().expect("it waits with its request");
            // SAFETY: as in `start`: the slot has owned all that the request points at since it was built.
            let pushed = unsafe { self.uring.submission().push(&request) };
            pushed.expect("the submission queue has two entries per slot");
            begun = true;
        }
        if begun {
            self.submit();
        }
    }

    /// Tells the kernel about new requests. When it has no room for them now, the reaper repeats it.
    fn submit(&mut self) {
        self.unsubmitted = loop {
            match self.uring.submit() {
                Ok(_) => break !self.uring.submission().is_empty(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "the kernel took no requests for now");
                    break true;
                }
            }
        };
    }

    fn reap(&mut self) -> usize {
        let count = self.collect();
        if count > 0 && self.pace.has_line() {
            self.begin_held(Instant::now());
        }
        count
    }

    fn collect(&mut self) -> usize {
        let mut count = 0;
        let mut now = None;
        let mut completions = self.uring.completion();
        loop {
            completions.sync();
            let before = count;
            for completion in completions.by_ref() {
                count += 1;
                let user_data = completion.user_data();
                let index = (user_data as u32 >> 1) as usize;
                let generation = (user_data >> 32) as u32;
                let known = self.generations.get(index).is_some_and(|at| *at == generation);
                let Some(Slot::Busy(busy)) = self.slots.get_mut(index).filter(|_| known) else {
                    debug_assert!(false, "a completion for no operation");
                    continue;
                };
                if !busy.accept(user_data & LINKED_SYNC != 0, completion.result()) {
                    continue;
                }
                self.busy -= 1;
                if busy.kind != Kind::Other {
                    self.pace.end(busy.kind, *now.get_or_insert_with(Instant::now));
                }
                let done = std::mem::replace(&mut self.slots[index], Slot::Vacant);
                let Slot::Busy(busy) = done else { unreachable!("matched above") };
                if busy.abandoned {
                    busy.discard();
                    release(&mut self.generations, &mut self.vacant, index);
                    self.to_wake.extend(self.waiting_for_room.drain(..));
                } else {
                    let outcome = busy.outcome();
                    self.to_wake.extend(busy.waker);
                    self.slots[index] = Slot::Done(busy.payload, outcome);
                }
            }
            if count == before {
                return count;
            }
        }
    }

    /// Frees a slot whose result was taken, or leaves it to the kernel until it completes.
    fn abandon(&mut self, index: u32) {
        let at = index as usize;
        match &mut self.slots[at] {
            Slot::Busy(busy) => {
                busy.abandoned = true;
                busy.waker = None;
            }
            Slot::Done(..) => {
                self.slots[at] = Slot::Vacant;
                release(&mut self.generations, &mut self.vacant, at);
                self.to_wake.extend(self.waiting_for_room.drain(..));
            }
            Slot::Vacant => {}
        }
    }
}

fn release(generations: &mut [u32], vacant: &mut Vec<u32>, index: usize) {
    generations[index] = generations[index].wrapping_add(1);
    vacant.push(index as u32);
}

impl Busy {
    /// Takes one completion; true when it was the last.
    fn accept(&mut self, is_sync: bool, result: i32) -> bool {
        if is_sync {
            self.sync = Some(result);
        } else {
            self.result = Some(result);
        }
        self.left -= 1;
        self.left == 0
    }

    fn outcome(&self) -> Outcome {
        let result = self.result.or(self.silent_result).unwrap_or(-libc::EIO);
        Outcome { result, sync: self.sync }
    }

    /// Drops what nobody waits for any more.
    fn discard(self) {
        if let Some(fd) = self.result.filter(|fd| self.kind == Kind::Opens && *fd >= 0) {
            // SAFETY: the kernel made this descriptor for an operation whose future is gone.
            unsafe { libc::close(fd) };
        }
    }
}

impl Drop for Inner {
    /// Waits for the kernel to finish with the memory of the slots before it is freed.
    fn drop(&mut self) {
        while self.busy > 0 {
            if let Err(error) = self.uring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
                && error.raw_os_error() != Some(libc::EBUSY)
                && error.raw_os_error() != Some(libc::EAGAIN)
            {
                tracing::error!(%error, "requests in flight are lost, their memory is leaked");
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
            self.reap();
        }
    }
}

/// The future of a submitted operation.
struct Op<'a> {
    ring: &'a Ring,
    index: u32,
    taken: bool,
}

impl Op<'_> {
    fn take(&mut self) -> Option<(Outcome, Payload)> {
        let mut inner = self.ring.0.borrow_mut();
        let at = self.index as usize;
        if !matches!(inner.slots[at], Slot::Done(..)) {
            return None;
        }
        let Slot::Done(payload, outcome) = std::mem::replace(&mut inner.slots[at], Slot::Vacant)
        else {
            unreachable!("matched above")
        };
        let Inner { generations, vacant, .. } = &mut *inner;
        release(generations, vacant, at);
        let room: Vec<Waker> = inner.waiting_for_room.drain(..).collect();
        drop(inner);
        room.into_iter().for_each(Waker::wake);
        self.taken = true;
        Some((outcome, payload))
    }
}

impl Future for Op<'_> {
    type Output = (Outcome, Payload);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.ring.reap();
        if let Some(done) = self.take() {
            return Poll::Ready(done);
        }
        let mut inner = self.ring.0.borrow_mut();
        let old = match &mut inner.slots[self.index as usize] {
            Slot::Busy(busy) if !busy.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) => {
                busy.waker.replace(cx.waker().clone())
            }
            _ => None,
        };
        drop(inner);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Op<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.ring.0.borrow_mut().abandon(self.index);
            self.ring.wake_completed();
        }
    }
}
