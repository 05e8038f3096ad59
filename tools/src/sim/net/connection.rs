//! One stream: two ends, and a pipe for each direction.
//!
//! Wakers are collected and called when no borrow is held any more.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::frames::{self, Fate, SentFrame, Unit};
use super::path::{By, Incident, Path};
use super::pipe::{Item, Late, Packet, Pipe};
use super::{HostId, Net};
use crate::sim::world::ProcessId;

/// Longest time that a sender needs to notice that a block is over.
const RETRANSMIT_MAX: Duration = Duration::from_millis(400);
/// And when the whole network is healed at once.
const RETRANSMIT_HEALED: Duration = Duration::from_millis(20);
/// First words of what is folded into the trace hash.
const TRACE: u64 = 0x6e65_7400;

/// What an end is to its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not accepted yet.
    Coming,
    /// Held by its process.
    Open,
    /// Given up by its process, or its process died: the host knows nothing of it any more.
    Closed,
    /// Its host has lost power.
    Gone,
}

struct End {
    host: HostId,
    process: ProcessId,
    stage: Stage,
    /// Reader and writer that the process still holds.
    halves: u8,
    error: Option<io::ErrorKind>,
    /// The process wants to read no more than what is there.
    read_shut: bool,
    reset_on_the_way: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Both {
    ends: [End; 2],
    /// Pipe `s` goes out from end `s`.
    pipes: [Pipe; 2],
}

/// A stream. End 0 has connected, end 1 has accepted.
pub(super) struct Connection {
    pub(super) id: u64,
    /// Where end 1 was found.
    pub(super) address: Rc<str>,
    both: RefCell<Both>,
}

/// Wakers of tasks that have something to do.
#[derive(Default)]
struct Wakes([Option<Waker>; 4]);

impl Wakes {
    fn reader(&mut self, end: &mut End) {
        self.add(end.reader.take());
    }

    fn writer(&mut self, end: &mut End) {
        self.add(end.writer.take());
    }

    fn add(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker
            && let Some(slot) = self.0.iter_mut().find(|slot| slot.is_none())
        {
            *slot = Some(waker);
        }
    }

    fn wake(self) {
        self.0.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Connection {
    /// A stream whose first packet has just left end 0.
    pub(super) fn open(
        net: &Net,
        id: u64,
        address: Rc<str>,
        processes: [ProcessId; 2],
        paths: [Rc<Path>; 2],
    ) -> Rc<Self> {
        let hosts = [paths[0].from, paths[0].to];
        let end = |side: usize, stage, halves| End {
            host: hosts[side],
            process: processes[side],
            stage,
            halves,
            error: None,
            read_shut: false,
            reset_on_the_way: false,
            reader: None,
            writer: None,
        };
        let both = Both {
            ends: [end(0, Stage::Open, 2), end(1, Stage::Coming, 0)],
            pipes: paths.map(Pipe::new),
        };
        let this = Rc::new(Self { id, address, both: RefCell::new(both) });
        {
            let both = &mut *this.both.borrow_mut();
            let pipe = &mut both.pipes[0];
            let at = pipe.path.arrival(net.world().now(), 0);
            pipe.wire.push_back(Packet { at, item: Item::Open });
            this.arm(net, pipe, 0);
        }
        this
    }

    /// Sets the timer for the head of a pipe's wire, unless it is set.
    fn arm(self: &Rc<Self>, net: &Net, pipe: &mut Pipe, side: usize) {
        let Some(at) = pipe.wire.front().map(|packet| packet.at) else { return };
        if pipe.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        pipe.armed = Some(at);
        let (this, net_again) = (self.clone(), net.clone());
        net.world().call_at(at, move || this.arrive(&net_again, side, at));
    }

    /// What has arrived of pipe `side` at end `1 - side`.
    fn arrive(self: &Rc<Self>, net: &Net, side: usize, armed: Duration) {
        let mut wakes = Wakes::default();
        let (mut opened, mut unwanted) = (false, false);
        let mut whole_frames: Vec<SentFrame> = Vec::new();
        {
            let both = &mut *self.both.borrow_mut();
            let pipe = &mut both.pipes[side];
            if pipe.armed != Some(armed) {
                return; // another timer took its place
            }
            pipe.armed = None;
            if pipe.path.is_blocked() {
                return; // held until the path is open again
            }
            let now = net.world().now();
            while pipe.wire.front().is_some_and(|packet| packet.at <= now) {
                let Some(Packet { item, .. }) = pipe.wire.pop_front() else { break };
                let (near, far) = ends(&mut both.ends, side);
                let alive = matches!(far.stage, Stage::Open | Stage::Coming);
                match item {
                    Item::Open => {
                        opened = alive;
                        unwanted |= !alive;
                    }
                    Item::Fin => {
                        pipe.fin_arrived = true;
                        wakes.reader(far);
                    }
                    Item::Data(chunk) if alive && far.error.is_none() => {
                        net.world().trace(TRACE | side as u64, self.id ^ fold(&chunk.bytes));
                        if chunk.ends_frame && net.tells_arrivals() {
                            let bytes = chunk.whole.unwrap_or_else(|| chunk.bytes.clone());
                            whole_frames.push(self.sent_frame(near, far, bytes));
                        }
                        pipe.received_bytes += chunk.bytes.len();
                        pipe.received.push_back(chunk.bytes);
                        wakes.reader(far);
                    }
                    Item::Data(_) => unwanted |= !alive,
                }
            }
            self.arm(net, pipe, side);
        }
        wakes.wake();
        for frame in &whole_frames {
            net.tell_arrival(frame);
        }
        if opened {
            net.admit(self);
        } else if unwanted {
            self.refuse_data(net, 1 - side);
        }
    }

    fn sent_frame(&self, from: &End, to: &End, bytes: Bytes) -> SentFrame {
        SentFrame {
            from: from.host,
            from_process: from.process,
            to: to.host,
            to_process: to.process,
            connection: self.id,
            bytes,
        }
    }

    /// Data came for an end that is no more: its host says so, unless it is without power.
    fn refuse_data(self: &Rc<Self>, net: &Net, side: usize) {
        let (stage, host) = {
            let both = self.both.borrow();
            (both.ends[side].stage, both.ends[side].host)
        };
        if stage == Stage::Closed || (stage == Stage::Gone && !net.is_down(host)) {
            self.send_reset(net, 1 - side, Duration::ZERO);
        }
    }

    /// A reset for end `to` leaves the other one.
    fn send_reset(self: &Rc<Self>, net: &Net, to: usize, after: Duration) {
        let path = {
            let both = &mut *self.both.borrow_mut();
            let end = &mut both.ends[to];
            if end.stage != Stage::Open || end.error.is_some() || end.reset_on_the_way {
                return;
            }
            end.reset_on_the_way = true;
            both.pipes[1 - to].path.clone()
        };
        let (this, net_again) = (self.clone(), net.clone());
        net.world().call_in(after + path.latency(), move || {
            this.both.borrow_mut().ends[to].reset_on_the_way = false;
            if !path.is_blocked() {
                this.break_end(&net_again, to);
            }
        });
    }

    /// The process at one end learns that the stream was reset.
    fn break_end(self: &Rc<Self>, net: &Net, side: usize) {
        let mut wakes = Wakes::default();
        {
            let both = &mut *self.both.borrow_mut();
            let end = &mut both.ends[side];
            if end.stage == Stage::Coming {
                end.stage = Stage::Closed;
            }
            if end.stage != Stage::Open || end.error.is_some() {
                return;
            }
            net.world().trace(TRACE | 8 | side as u64, self.id);
            net.world().story(|| format!("net: {} #{}: connection reset", end.host, self.id));
            end.error = Some(io::ErrorKind::ConnectionReset);
            wakes.reader(end);
            wakes.writer(end);
            both.pipes[side].clear_queue();
            both.pipes[side].wire.clear();
            let incoming = &mut both.pipes[1 - side];
            incoming.wire.clear();
            if incoming.path.chance(0.5) {
                incoming.clear_received();
            }
        }
        wakes.wake();
    }

    /// Both ends lose the stream at once.
    pub(super) fn reset(self: &Rc<Self>, net: &Net) {
        self.break_end(net, 0);
        self.break_end(net, 1);
    }

    /// Whether the stream runs between two hosts, in either direction.
    pub(super) fn is_between(&self, a: HostId, b: HostId) -> bool {
        let both = self.both.borrow();
        let hosts = [both.ends[0].host, both.ends[1].host];
        hosts == [a, b] || hosts == [b, a]
    }

    fn is_over(&self) -> bool {
        let both = self.both.borrow();
        both.ends.iter().all(|end| matches!(end.stage, Stage::Closed | Stage::Gone))
    }

    /// The host on which a process holds an end.
    pub(super) fn host_of(&self, process: ProcessId) -> Option<HostId> {
        let both = self.both.borrow();
        both.ends.iter().find(|end| end.process == process).map(|end| end.host)
    }

    /// The listener's queue takes the stream.
    pub(super) fn accept(&self) -> String {
        let both = &mut *self.both.borrow_mut();
        let end = &mut both.ends[1];
        (end.stage, end.halves) = (Stage::Open, 2);
        format!("{}:{}", both.ends[0].host, 32_768 + self.id % 28_232)
    }

    /// Nobody accepts it: end 0 gets a reset.
    pub(super) fn turn_away(self: &Rc<Self>, net: &Net) {
        self.both.borrow_mut().ends[1].stage = Stage::Closed;
        self.send_reset(net, 0, Duration::ZERO);
        if self.is_over() {
            net.forget(self.id);
        }
    }

    // What the process at one end does.

    pub(super) fn poll_read(
        self: &Rc<Self>,
        net: &Net,
        side: usize,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let both = &mut *self.both.borrow_mut();
        let back = both.pipes[side].path.clone();
        let pipe = &mut both.pipes[1 - side];
        if pipe.received_bytes == 0 || pipe.path.is_stalled() {
            let end = &mut both.ends[side];
            if pipe.received_bytes == 0 {
                if let Some(kind) = end.error {
                    return Poll::Ready(Err(kind.into()));
                }
                if pipe.fin_arrived || end.read_shut {
                    return Poll::Ready(Ok(0));
                }
            }
            end.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let spare = buf.capacity() - buf.len();
        let count = pipe.path.piece(pipe.received_bytes).min(spare);
        let mut left = count;
        while left > 0 {
            let Some(first) = pipe.received.front_mut() else { break };
            let taken = left.min(first.len());
            buf.extend_from_slice(&first[..taken]);
            left -= taken;
            if taken == first.len() {
                pipe.received.pop_front();
            } else {
                first.advance(taken);
            }
        }
        pipe.received_bytes -= count;
        // A sender that waits must hear of it; one that does not, need not.
        if pipe.queue.is_empty() && pipe.credit == 0 && !back.is_blocked() {
            pipe.outstanding -= count;
        } else {
            pipe.credit += count;
            self.arm_credit(net, pipe, &back, 1 - side);
        }
        Poll::Ready(Ok(count))
    }

    /// Lets the sender of pipe `side` know what was read.
    fn arm_credit(self: &Rc<Self>, net: &Net, pipe: &mut Pipe, back: &Rc<Path>, side: usize) {
        if pipe.credit_armed || pipe.credit == 0 {
            return;
        }
        pipe.credit_armed = true;
        let (this, net_again, back) = (self.clone(), net.clone(), back.clone());
        net.world().call_in(back.latency(), move || {
            let mut wakes = Wakes::default();
            {
                let both = &mut *this.both.borrow_mut();
                let pipe = &mut both.pipes[side];
                pipe.credit_armed = false;
                if back.is_blocked() {
                    return;
                }
                pipe.outstanding -= std::mem::take(&mut pipe.credit);
                this.pump(&net_again, both, side, &mut wakes);
            }
            wakes.wake();
        });
    }

    /// Takes what a process has written.
    pub(super) fn write(self: &Rc<Self>, net: &Net, side: usize, units: &mut Vec<Unit>) {
        let mut wakes = Wakes::default();
        {
            let both = &mut *self.both.borrow_mut();
            let usable = both.ends[side].error.is_none() && !both.pipes[side].fin_sent;
            if !usable || both.ends[side].stage != Stage::Open {
                return units.clear();
            }
            for unit in units.drain(..) {
                match unit {
                    Unit::Raw(bytes) => both.pipes[side].enqueue(bytes, false),
                    Unit::Bulk(bytes) => Self::send_bulk(net, &mut both.pipes[side], bytes),
                    Unit::Frame(bytes) => self.send_frame(net, both, side, bytes),
                }
            }
            self.pump(net, both, side, &mut wakes);
        }
        wakes.wake();
    }

    pub(super) fn poll_written(&self, side: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let both = &mut *self.both.borrow_mut();
        let (end, pipe) = (&mut both.ends[side], &both.pipes[side]);
        if let Some(kind) = end.error {
            return Poll::Ready(Err(kind.into()));
        }
        if pipe.fin_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.queue.is_empty() {
            return Poll::Ready(Ok(()));
        }
        end.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What the tap is told of a frame that end `side` sends.
    pub(super) fn frame_of(&self, side: usize, bytes: Bytes) -> SentFrame {
        let both = self.both.borrow();
        self.sent_frame(&both.ends[side], &both.ends[1 - side], bytes)
    }

    /// Bytes behind the frames are only ever damaged.
    fn send_bulk(net: &Net, pipe: &mut Pipe, bytes: Bytes) {
        let path = pipe.path.clone();
        if path.damages_bulk() {
            net.world().count("net.corrupt_bulk");
            pipe.enqueue(path.damage(&bytes), false);
        } else {
            pipe.enqueue(bytes, false);
        }
    }

    /// Lets a frame meet its fate.
    fn send_frame(self: &Rc<Self>, net: &Net, both: &mut Both, side: usize, frame: Bytes) {
        let pipe = &mut both.pipes[side];
        let path = pipe.path.clone();
        let is_raft = frames::is_raft(&frame);
        let fate = path.fate(is_raft);
        let mut told: Option<(&'static str, Bytes)> = None;
        match fate {
            Fate::Pass => pipe.enqueue(frame.clone(), true),
            Fate::Drop => told = Some(("net.drop", frame.clone())),
            Fate::Duplicate => {
                pipe.enqueue(frame.clone(), true);
                pipe.enqueue(frame.clone(), true);
                told = Some(("net.duplicate", frame.clone()));
            }
            Fate::Delay => {
                self.hold_back(net, pipe, side, &frame);
                told = Some(("net.delay", frame.clone()));
            }
            Fate::Replay | Fate::Ghost => {
                let earlier = fate == Fate::Ghost;
                if let Some(old) = path.recall(&self.address, self.id, earlier) {
                    pipe.enqueue(old.clone(), true);
                    told = Some((if earlier { "net.ghost" } else { "net.replay" }, old));
                }
                pipe.enqueue(frame.clone(), true);
            }
            Fate::Corrupt => {
                pipe.enqueue(path.damage(&frame), true);
                told = Some(("net.corrupt", frame.clone()));
            }
        }
        if let Some((kind, bytes)) = told {
            net.world().count(kind);
            net.world().story(|| {
                let text = frames::describe(&bytes);
                format!("{kind}: {} -> {} #{}: {text}", path.from, path.to, self.id)
            });
        }
        if is_raft {
            path.remember(&self.address, self.id, &frame);
        }
        if fate != Fate::Delay && !pipe.late.is_empty() {
            pipe.pass_late();
        }
    }

    fn hold_back(self: &Rc<Self>, net: &Net, pipe: &mut Pipe, side: usize, frame: &Bytes) {
        let (overtakers, longest) = pipe.path.lateness();
        pipe.lates += 1;
        let number = pipe.lates;
        pipe.late.push(Late { number, overtakers, frame: frame.clone() });
        let (this, net_again) = (self.clone(), net.clone());
        net.world().call_in(longest, move || {
            let mut wakes = Wakes::default();
            {
                let both = &mut *this.both.borrow_mut();
                let pipe = &mut both.pipes[side];
                let Some(at) = pipe.late.iter().position(|late| late.number == number) else {
                    return; // gone already
                };
                let late = pipe.late.remove(at);
                pipe.enqueue(late.frame, true);
                this.pump(&net_again, both, side, &mut wakes);
            }
            wakes.wake();
        });
    }

    /// Sends what the window allows.
    fn pump(self: &Rc<Self>, net: &Net, both: &mut Both, side: usize, wakes: &mut Wakes) {
        let pipe = &mut both.pipes[side];
        let room = pipe.window.saturating_sub(pipe.outstanding).min(pipe.queue_bytes);
        if room > 0 && !pipe.fin_sent {
            let now = net.world().now();
            let first = pipe.path.cut(room).unwrap_or(room);
            pipe.depart(now, first);
            if first < room {
                pipe.depart(now, room - first);
            }
            self.arm(net, pipe, side);
            if pipe.path.has_incidents() {
                self.suffer(net, &pipe.path);
            }
        }
        if pipe.queue.is_empty() {
            wakes.writer(&mut both.ends[side]);
        }
    }

    /// What the weather does at a packet.
    fn suffer(self: &Rc<Self>, net: &Net, path: &Rc<Path>) {
        let Some(incident) = path.incident() else { return };
        let world = net.world();
        world.story(|| format!("net: weather at {} -> {}: {incident:?}", path.from, path.to));
        let (path, net_again, this) = (path.clone(), net.clone(), self.clone());
        match incident {
            Incident::Reset => {
                world.count("net.reset");
                let delay = path.latency();
                world.call_in(delay, move || {
                    if path.has_incidents() {
                        this.reset(&net_again);
                    }
                });
            }
            Incident::Blackout(duration) => {
                world.count("net.blackout");
                path.block(By::Weather);
                world.call_in(duration, move || net_again.unblock_path(&path, By::Weather));
            }
            Incident::Stall(duration) => {
                world.count("net.stall");
                path.stall(By::Weather);
                world.call_in(duration, move || net_again.unstall_path(&path, By::Weather));
            }
        }
    }

    /// Ends the stream in both directions: what is on the way arrives, what waits for room does not.
    pub(super) fn shutdown(self: &Rc<Self>, net: &Net, side: usize) {
        let mut wakes = Wakes::default();
        {
            let both = &mut *self.both.borrow_mut();
            both.ends[side].read_shut = true;
            wakes.reader(&mut both.ends[side]);
            wakes.writer(&mut both.ends[side]);
            self.send_fin(net, both, side);
        }
        wakes.wake();
    }

    fn send_fin(self: &Rc<Self>, net: &Net, both: &mut Both, side: usize) {
        let pipe = &mut both.pipes[side];
        if both.ends[side].error.is_some() || std::mem::replace(&mut pipe.fin_sent, true) {
            return;
        }
        pipe.clear_queue();
        let at = pipe.in_order(pipe.path.arrival(net.world().now(), 0));
        pipe.wire.push_back(Packet { at, item: Item::Fin });
        self.arm(net, pipe, side);
    }

    /// The process gives up its reader or its writer; with both the stream is closed.
    pub(super) fn drop_half(self: &Rc<Self>, net: &Net, side: usize) {
        let last = {
            let end = &mut self.both.borrow_mut().ends[side];
            end.halves = end.halves.saturating_sub(1);
            end.halves == 0 && end.stage == Stage::Open
        };
        if last {
            self.close(net, side, false);
        }
    }

    /// The host closes the stream on behalf of its process.
    fn close(self: &Rc<Self>, net: &Net, side: usize, with_reset: bool) {
        let resets = {
            let both = &mut *self.both.borrow_mut();
            let unread = both.pipes[1 - side].received_bytes > 0;
            both.pipes[1 - side].clear_received();
            // Closing a socket with unread data resets it.
            let resets = both.ends[side].error.is_none() && (unread || with_reset);
            if resets {
                both.pipes[side].clear_queue();
                both.pipes[side].fin_sent = true;
            } else {
                self.send_fin(net, both, side);
            }
            both.ends[side].stage = Stage::Closed;
            resets
        };
        if resets {
            self.send_reset(net, 1 - side, Duration::ZERO);
        }
        if self.is_over() {
            net.forget(self.id);
        }
    }

    // What happens to processes, hosts and paths.

    /// The process that holds an end dies. In a power cut nobody is told.
    pub(super) fn process_died(self: &Rc<Self>, net: &Net, process: ProcessId, power_cut: bool) {
        for side in 0..2 {
            let path = {
                let both = &mut *self.both.borrow_mut();
                let end = &mut both.ends[side];
                if end.process != process {
                    continue;
                }
                match end.stage {
                    Stage::Open => both.pipes[side].path.clone(),
                    Stage::Coming => {
                        // Its listener has promised to take it.
                        end.stage = if power_cut { Stage::Gone } else { Stage::Closed };
                        continue;
                    }
                    Stage::Closed | Stage::Gone => continue,
                }
            };
            if !power_cut {
                let with_reset = path.chance(net.reset_at_death());
                if with_reset {
                    net.world().count("net.reset_at_death");
                }
                self.close(net, side, with_reset);
                continue;
            }
            {
                let both = &mut *self.both.borrow_mut();
                both.ends[side].stage = Stage::Gone;
                both.pipes[side].clear_queue();
                both.pipes[side].fin_sent = true;
                both.pipes[1 - side].clear_received();
            }
            if self.is_over() {
                net.forget(self.id);
            }
        }
    }

    /// A host is back: whoever still sends to what it has forgotten gets a reset.
    pub(super) fn host_is_back(self: &Rc<Self>, net: &Net, host: HostId) {
        for side in 0..2 {
            let wait = {
                let both = self.both.borrow();
                let lost = both.ends[side].host == host && both.ends[side].stage == Stage::Gone;
                let pipe = &both.pipes[1 - side];
                (lost && pipe.outstanding > 0).then(|| pipe.path.within(RETRANSMIT_MAX))
            };
            if let Some(wait) = wait {
                self.send_reset(net, 1 - side, wait);
            }
        }
    }

    /// `path` is open again: what it held comes late, or the stream is reset.
    pub(super) fn path_opened(self: &Rc<Self>, net: &Net, path: &Rc<Path>, healed: bool) {
        let mut breaks = false;
        {
            let both = &mut *self.both.borrow_mut();
            for side in 0..2 {
                if !Rc::ptr_eq(&both.pipes[side].path, path) {
                    continue;
                }
                let pipe = &mut both.pipes[side];
                if pipe.armed.is_none() && !pipe.wire.is_empty() {
                    breaks |= !healed && path.chance(net.reset_after_block());
                    let longest = if healed { RETRANSMIT_HEALED } else { RETRANSMIT_MAX };
                    let from = net.world().now() + path.within(longest);
                    for packet in &mut pipe.wire {
                        packet.at = packet.at.max(from);
                    }
                    self.arm(net, pipe, side);
                }
                self.arm_credit(net, &mut both.pipes[1 - side], path, 1 - side);
            }
        }
        if breaks {
            net.world().count("net.reset_after_block");
            self.reset(net);
        }
    }

    /// `path` is fast again: what was to arrive late arrives sooner.
    pub(super) fn path_unclogged(self: &Rc<Self>, net: &Net, path: &Rc<Path>) {
        let both = &mut *self.both.borrow_mut();
        for side in 0..2 {
            let pipe = &mut both.pipes[side];
            if Rc::ptr_eq(&pipe.path, path) && pipe.armed.is_some() {
                let latest = net.world().now() + path.latency();
                for packet in &mut pipe.wire {
                    packet.at = packet.at.min(latest);
                }
                self.arm(net, pipe, side);
            }
        }
    }

    /// Receivers of `path` may read again.
    pub(super) fn path_unstalled(&self, path: &Rc<Path>) {
        let mut wakes = Wakes::default();
        {
            let both = &mut *self.both.borrow_mut();
            for side in 0..2 {
                if Rc::ptr_eq(&both.pipes[side].path, path) {
                    wakes.reader(&mut both.ends[1 - side]);
                }
            }
        }
        wakes.wake();
    }
}

fn ends(ends: &mut [End; 2], side: usize) -> (&End, &mut End) {
    let [first, second] = ends;
    if side == 0 { (first, second) } else { (second, first) }
}

/// Length and last bytes: cheap, and a frame's checksum or its end stands there.
fn fold(bytes: &Bytes) -> u64 {
    let tail = &bytes[bytes.len().saturating_sub(8)..];
    tail.iter().fold(bytes.len() as u64, |folded, byte| folded.rotate_left(8) ^ u64::from(*byte))
}
