//! How cores of different nodes find and check each other: HELLO, dialling, accepting.
//!
//! Core *i* of a node listens on its peer port + *i*. Of two nodes, the one with the lower id dials;
//! each of its cores dials those cores of the other node with which it shares shards. To know them it
//! must know the other's core count, so every core first **introduces** itself to core 0 of every
//! other member: a connection that says HELLO, learns who is there, and ends. An introduction from a
//! member that we dial also tells that it is back, and ends our waiting between attempts.
//!
//! HELLO carries cluster id, protocol version, node, core, core count, shard count and the number of
//! the process (`instance`). What does not fit is refused with a reason that both sides log:
//!
//! | found | refused because |
//! |---|---|
//! | another cluster id, or another shard count | it is another cluster |
//! | a node id that is not a member, or is ours | it was not added yet, or the configurations differ |
//! | a member that was removed | it is one no more |
//! | any, while the core stops or after its log has failed | it takes no part any more |
//! | another live process under the same node id | a node id must be given to one process only |
//!
//! **Members change** while the core runs: [`Gate::take_members`] is told of each change of the address book. New
//! ones are introduced to; those at a new address are dialled there at the next attempt, which is now; those
//! that were removed are neither dialled nor accepted any more, and their links are closed. A node that knows
//! one address only [joins](joining) by an introduction, too: the answer to any is followed by the book.
//!
//! A connection that is to carry **snapshots** begins with a greeting of its own, SnapshotHello, which says
//! and is refused the same; then it belongs to the [`SnapshotService`] and not to a link.
//!
//! Another *version* shows in the frame codec's own version byte, and is refused like the others.

mod joining;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use thiserror::Error;

use super::inbox::Inbox;
use super::link::{self, Link, PeerCore};
use super::signal::Signal;
use crate::env::{Env, Listener, StreamReader, StreamWriter};
use crate::limits::{
    CONNECT_TIMEOUT, DIAL_PAUSE_MAX, DIAL_PAUSE_MIN, GOODBYE_TIME, HANDSHAKE_BYTES_MAX,
    HANDSHAKE_TIMEOUT, MEMBERS_BYTES_MAX, REFUSALS_REMEMBERED_MAX,
};
use crate::transfer::cancel::Cancel;
use crate::transfer::dial;
use crate::transfer::pull::ConnectError;
use crate::transfer::serve::SnapshotService;
use crate::wire::{
    EncodeError, Frame, FrameDecoder, HEADER_BYTES, Hello, HelloReply, OutBuf, RefuseReason,
    WireError,
};
use crate::{CoreId, NodeId, ShardId};

/// What all connection tasks of a core share.
pub(super) struct Gate {
    inbox: Rc<Inbox>,
    hello: Hello,
    links: RefCell<BTreeMap<PeerCore, Rc<Link>>>,
    /// All members but this node.
    peers: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    /// Members that were removed, and when their links are to be closed: they hear of it over these.
    leaving: RefCell<BTreeMap<NodeId, Duration>>,
    /// What was refused, and logged: whoever is refused tries again and again.
    refused: RefCell<BTreeSet<String>>,
    handshakes: Cell<usize>,
    silence_max: Duration,
    /// Set when the core talks to nobody any more.
    closing: Cancel,
}

/// A member, as the tasks see it that dial it.
#[derive(Default)]
struct Peer {
    /// Set when it introduced itself, or its address has changed: dial it now.
    poke: Signal,
    /// It is no member any more: the tasks end.
    gone: Cell<bool>,
}

/// Why a connection to a peer did not come about.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer to HELLO within {} ms", HANDSHAKE_TIMEOUT.as_millis())]
    Timeout,
    #[error("the peer closed the connection during HELLO")]
    Closed,
    #[error("bad answer to HELLO: {0}")]
    BadFrame(String),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("refused by {peer}: {text}")]
    Refused { peer: String, reason: RefuseReason, text: String },
    #[error("not welcome now: {0}")]
    Busy(String),
}

impl Gate {
    pub(super) fn new(inbox: Rc<Inbox>, hello: Hello, silence_max: Duration) -> Rc<Self> {
        let members: Vec<NodeId> = inbox.view.borrow().members.iter().map(|m| m.id).collect();
        let others = members.into_iter().filter(|id| *id != hello.node);
        let peers = others.map(|id| (id, Rc::default())).collect();
        Rc::new(Self {
            inbox,
            hello,
            links: RefCell::default(),
            peers: RefCell::new(peers),
            leaving: RefCell::default(),
            refused: RefCell::default(),
            handshakes: Cell::new(0),
            silence_max,
            closing: Cancel::default(),
        })
    }

    /// Starts the tasks that dial, introduce and accept. Without `snapshots`, those who ask for some are
    /// told that there are none now.
    pub(super) fn start<E: Env>(
        self: &Rc<Self>,
        env: &E,
        listener: E::Listener,
        snapshots: Option<Rc<SnapshotService<E::Disk>>>,
    ) {
        env.spawn(accept_all(env.clone(), self.clone(), listener, snapshots));
        for (member, peer) in self.peers.borrow().iter() {
            env.spawn(introduce(env.clone(), self.clone(), *member, peer.clone()));
        }
    }

    /// Starts to ask for the members at `address`, the one that is known.
    pub(super) fn join<E: Env>(self: &Rc<Self>, env: &E, address: String) {
        env.spawn(joining::join(env.clone(), self.clone(), address));
    }

    /// The view has other members now, `moved` of them at other addresses.
    pub(super) fn take_members<E: Env>(self: &Rc<Self>, env: &E, moved: &[NodeId]) {
        self.refused.borrow_mut().clear();
        let view = self.inbox.view.borrow();
        let mut peers = self.peers.borrow_mut();
        let mut leaving = self.leaving.borrow_mut();
        peers.retain(|id, peer| {
            let stays = view.member(*id).is_some();
            if !stays {
                peer.gone.set(true);
                leaving.insert(*id, env.now() + GOODBYE_TIME);
            }
            if !stays || moved.contains(id) {
                peer.poke.set();
            }
            stays
        });
        for member in view.members.iter().filter(|member| member.id != self.hello.node) {
            leaving.remove(&member.id);
            peers.entry(member.id).or_insert_with(|| {
                let peer = Rc::new(Peer::default());
                env.spawn(introduce(env.clone(), self.clone(), member.id, peer.clone()));
                peer
            });
        }
    }

    /// Shuts the links of members that were removed. Called every tick.
    pub(super) fn close_removed(&self, now: Duration) {
        self.leaving.borrow_mut().retain(|id, close_at| {
            if now < *close_at {
                return true;
            }
            let links = self.links.borrow();
            links.values().filter(|link| link.peer.node == *id).for_each(|link| link.close());
            false
        });
    }

    /// Whether a refusal with this text has not been logged lately.
    fn is_new_refusal(&self, text: &str) -> bool {
        let mut refused = self.refused.borrow_mut();
        if refused.len() >= REFUSALS_REMEMBERED_MAX {
            refused.clear();
        }
        refused.insert(text.to_owned())
    }

    /// Shuts every link, and lets no new one come about.
    pub(super) fn close(&self) {
        self.closing.cancel();
        self.links.borrow().values().for_each(|link| link.close());
    }

    /// Whether this core and `core` of a node with `cores` cores have a shard in common.
    fn shares_shards(&self, core: CoreId, cores: u16) -> bool {
        let shards = self.hello.shards;
        (0..shards).map(ShardId).any(|shard| {
            CoreId::hosting(shard, shards, cores) == core
                && CoreId::hosting(shard, shards, self.hello.cores) == self.hello.core
        })
    }

    /// Why `hello` is not welcome, if it is not.
    fn refusal(&self, hello: &Hello, now: Duration) -> Option<(RefuseReason, String)> {
        let ours = &self.hello;
        if self.closing.is_cancelled() {
            sometimes!(peer_refused_stopping);
            let text = "this core takes no part any more: it is stopping, or its log has failed";
            return Some((RefuseReason::Busy, text.to_owned()));
        }
        if hello.cluster_id != ours.cluster_id {
            let text = format!(
                "this is cluster '{}', not '{}'; check --cluster-id on both nodes",
                ours.cluster_id, hello.cluster_id
            );
            return Some((RefuseReason::Cluster, text));
        }
        if hello.shards != ours.shards {
            let text = format!(
                "this cluster has {} shards, not {}; --shards must be the same on all nodes",
                ours.shards, hello.shards
            );
            return Some((RefuseReason::Shards, text));
        }
        if hello.node == ours.node {
            let text =
                format!("node id {} is this node; every node needs an id of its own", ours.node);
            return Some((RefuseReason::UnknownNode, text));
        }
        if !self.peers.borrow().contains_key(&hello.node) {
            return Some(self.stranger(hello.node));
        }
        self.duplicate(hello, now)
    }

    /// What somebody is told who is no member.
    fn stranger(&self, node: NodeId) -> (RefuseReason, String) {
        if self.inbox.book.borrow().get(node).is_some_and(|record| record.removed) {
            let text = format!("node {node} was removed from the cluster; it may be added again");
            return (RefuseReason::Removed, text);
        }
        let text = format!(
            "node {node} is not a member of the cluster; it has to be added, or --id and --member checked on both nodes"
        );
        (RefuseReason::UnknownNode, text)
    }

    /// Another live process with the same node id.
    fn duplicate(&self, hello: &Hello, now: Duration) -> Option<(RefuseReason, String)> {
        let links = self.links.borrow();
        let live = links.values().find(|link| {
            link.peer.node == hello.node
                && link.instance != hello.instance
                && !link.is_closed()
                && now.saturating_sub(link.heard_at.get()) < self.silence_max / 2
        })?;
        sometimes!(duplicate_node_refused);
        let text = format!(
            "node id {} is in use by another running process (connected as {}); every process \
             needs an id of its own",
            hello.node, live.peer
        );
        Some((RefuseReason::DuplicateNode, text))
    }

    /// Notes that a member is there with so many cores.
    fn note_member(&self, hello: &Hello) {
        let mut view = self.inbox.view.borrow_mut();
        if let Some(member) = view.members.iter_mut().find(|member| member.id == hello.node) {
            member.cores = Some(hello.cores);
        }
    }

    fn address(&self, member: NodeId, core: CoreId) -> Option<String> {
        let view = self.inbox.view.borrow();
        let member = view.member(member)?;
        let port = member.peer_port.checked_add(core.0)?;
        Some(format!("{}:{port}", member.peer_host))
    }

    /// Opens a connection to the core that hosts `shard` on another node, to pull a snapshot over it.
    pub(super) async fn connect_for_snapshots<E: Env>(
        &self,
        env: &E,
        node: NodeId,
        shard: ShardId,
    ) -> Result<dial::Greeted<E>, ConnectError> {
        let core = self.inbox.view.borrow().core_of(node, shard);
        let known = core.and_then(|core| Some((core, self.address(node, core)?)));
        let Some((core, address)) = known else {
            let reason = format!("node {node} has not been heard of yet");
            return Err(ConnectError::Refused(reason));
        };
        dial::connect(env, &address, &self.hello, (node, core)).await
    }

    /// Makes `link` the one of its peer core; an older one ends.
    fn admit(&self, link: &Rc<Link>) {
        if let Some(old) = self.links.borrow_mut().insert(link.peer, link.clone()) {
            sometimes!(link_replaced);
            old.close();
        }
    }

    fn forget(&self, link: &Rc<Link>) {
        let mut links = self.links.borrow_mut();
        if links.get(&link.peer).is_some_and(|known| Rc::ptr_eq(known, link)) {
            links.remove(&link.peer);
        }
    }

    async fn run_link<E: Env>(
        &self,
        env: &E,
        hello: &Hello,
        stream: (E::Reader, E::Writer),
        received: BytesMut,
    ) {
        let peer = PeerCore { node: hello.node, core: hello.core };
        let out_bytes_max = self.inbox.limits.link_buffer_bytes_max;
        let link = Rc::new(Link::new(peer, hello.instance, env.now(), out_bytes_max));
        self.admit(&link);
        tracing::info!(%peer, "peer connected");
        link::run(env.clone(), self.inbox.clone(), link.clone(), stream, received).await;
        self.forget(&link);
    }

    fn is_stopping(&self) -> bool {
        self.closing.is_cancelled() || self.inbox.stopping.get()
    }
}

/// Learns a member's core count from its core 0; starts the dialling if that is ours to do.
async fn introduce<E: Env>(env: E, gate: Rc<Gate>, member: NodeId, peer: Rc<Peer>) {
    let mut pause = Pause::default();
    let mut reported = String::new();
    while !gate.is_stopping() && !peer.gone.get() {
        let known = gate.inbox.view.borrow().member(member).and_then(|m| m.cores);
        let cores = match known {
            Some(cores) => Ok(cores),
            None => {
                say_hello(&env, &gate, member, CoreId(0), true).await.map(|(hello, ..)| hello.cores)
            }
        };
        match cores {
            Ok(cores) => {
                if gate.hello.node < member {
                    start_dialling(&env, &gate, (member, &peer), cores);
                }
                return;
            }
            Err(error) => {
                report(&PeerCore { node: member, core: CoreId(0) }, &error, &mut reported);
            }
        }
        pause.wait(&env, &peer.poke).await;
    }
}

fn start_dialling<E: Env>(
    env: &E,
    gate: &Rc<Gate>,
    (member, peer): (NodeId, &Rc<Peer>),
    cores: u16,
) {
    for core in (0..cores).map(CoreId).filter(|core| gate.shares_shards(*core, cores)) {
        env.spawn(dial(env.clone(), gate.clone(), (member, core), peer.clone()));
    }
}

/// Keeps one link up for as long as the core runs and the other node is a member.
async fn dial<E: Env>(env: E, gate: Rc<Gate>, (member, core): (NodeId, CoreId), peer: Rc<Peer>) {
    let mut pause = Pause::default();
    let mut reported = String::new();
    while !gate.is_stopping() && !peer.gone.get() {
        match say_hello(&env, &gate, member, core, false).await {
            Ok((hello, reader, writer, received)) => {
                pause = Pause::default();
                reported.clear();
                gate.run_link(&env, &hello, (reader, writer), received).await;
            }
            Err(error) => report(&PeerCore { node: member, core }, &error, &mut reported),
        }
        if !gate.is_stopping() && !peer.gone.get() {
            pause.wait(&env, &peer.poke).await;
        }
    }
}

/// Logs a failure once, not at each attempt.
fn report(peer: &impl fmt::Display, error: &DialError, reported: &mut String) {
    let text = error.to_string();
    if *reported != text {
        if matches!(error, DialError::Refused { .. }) {
            tracing::error!("cannot join {peer}: {text}");
        } else {
            tracing::info!("cannot reach {peer} yet: {text}");
        }
        *reported = text;
    }
}

/// Growing, jittered pauses between attempts.
#[derive(Default)]
struct Pause {
    attempts: u32,
}

impl Pause {
    async fn wait<E: Env>(&mut self, env: &E, poke: &Signal) {
        let base = DIAL_PAUSE_MIN.saturating_mul(1 << self.attempts.min(10)).min(DIAL_PAUSE_MAX);
        self.attempts += 1;
        let jitter = base.mul_f64((env.random() % 1000) as f64 / 2000.0);
        let sleep = pin!(env.sleep(base / 2 + jitter));
        let poked = pin!(poke.wait());
        if let Either::Right(_) = select(sleep, poked).await {
            sometimes!(dial_poked);
            self.attempts = 0;
        }
    }
}

type Greeted<E> = (Hello, <E as Env>::Reader, <E as Env>::Writer, BytesMut);

/// Connects to a core of a member, says HELLO, and checks the answer.
async fn say_hello<E: Env>(
    env: &E,
    gate: &Gate,
    member: NodeId,
    core: CoreId,
    introduction: bool,
) -> Result<Greeted<E>, DialError> {
    let address = gate.address(member, core).ok_or(DialError::Closed)?;
    let greeted = exchange_hellos(env, gate, &address, introduction).await?;
    let theirs = &greeted.0;
    if theirs.node != member || theirs.core != core {
        let text = format!("{address} is node {} core {}", theirs.node, theirs.core);
        return Err(DialError::Refused { peer: address, reason: RefuseReason::WrongCore, text });
    }
    gate.note_member(theirs);
    Ok(greeted)
}

/// Connects to whoever is there, says HELLO, and is accepted.
async fn exchange_hellos<E: Env>(
    env: &E,
    gate: &Gate,
    address: &str,
    introduction: bool,
) -> Result<Greeted<E>, DialError> {
    let (mut reader, mut writer) = env.connect(address, CONNECT_TIMEOUT).await?;
    let book = gate.inbox.book.borrow().clone();
    let greeting = |out: &mut OutBuf| match introduction {
        // It may not know where we are by now, and then can't dial us.
        true if !book.is_empty() => {
            out.push_introduction(&gate.hello)?;
            out.push_members(book.records())
        }
        true => out.push_introduction(&gate.hello),
        false => out.push_hello(&gate.hello),
    };
    write(&mut writer, greeting).await?;
    let (frame, received) = read_frame(env, &mut reader).await?;
    match frame {
        Frame::HelloReply(HelloReply::Accepted(theirs)) => Ok((theirs, reader, writer, received)),
        Frame::HelloReply(HelloReply::Refused { reason: RefuseReason::Busy, text }) => {
            Err(DialError::Busy(text))
        }
        Frame::HelloReply(HelloReply::Refused { reason, text }) => {
            Err(DialError::Refused { peer: address.to_owned(), reason, text })
        }
        other => Err(DialError::BadFrame(format!("{other:?}"))),
    }
}

/// Sends one frame.
pub(crate) async fn write<W: StreamWriter>(
    writer: &mut W,
    push: impl FnOnce(&mut OutBuf) -> Result<(), EncodeError>,
) -> io::Result<()> {
    let mut out = OutBuf::new();
    push(&mut out).map_err(io::Error::other)?;
    let mut bufs: Vec<Bytes> = Vec::new();
    out.take(&mut bufs);
    writer.write_all(&mut bufs).await
}

/// Reads the first frame of a connection, within a time and a size fit for strangers.
pub(crate) async fn read_frame<E: Env>(
    env: &E,
    reader: &mut E::Reader,
) -> Result<(Frame, BytesMut), DialError> {
    let buf = BytesMut::with_capacity(HANDSHAKE_BYTES_MAX);
    read_frame_within(env, reader, buf, HANDSHAKE_BYTES_MAX).await
}

/// Reads the next frame, of which `buf` has the beginning, within the time of a handshake. Takes in so many bytes at
/// most.
async fn read_frame_within<E: Env>(
    env: &E,
    reader: &mut E::Reader,
    mut buf: BytesMut,
    bytes_max: usize,
) -> Result<(Frame, BytesMut), DialError> {
    let reading = pin!(async {
        let mut decoder = FrameDecoder::new();
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) => return Ok((frame, buf)),
                Ok(None) if buf.len() >= bytes_max => {
                    return Err(DialError::BadFrame("too long".to_owned()));
                }
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
            buf.reserve(bytes_max - buf.len());
            if reader.read(&mut buf).await? == 0 {
                return Err(DialError::Closed);
            }
        }
    });
    match select(reading, pin!(env.sleep(HANDSHAKE_TIMEOUT))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => {
            sometimes!(hello_timeout);
            Err(DialError::Timeout)
        }
    }
}

/// Accepts connections for as long as the core runs.
async fn accept_all<E: Env>(
    env: E,
    gate: Rc<Gate>,
    listener: E::Listener,
    snapshots: Option<Rc<SnapshotService<E::Disk>>>,
) {
    loop {
        match listener.accept().await {
            Ok((reader, writer, from))
                if gate.handshakes.get() < gate.inbox.limits.handshakes_max =>
            {
                gate.handshakes.set(gate.handshakes.get() + 1);
                let snapshots = snapshots.clone();
                env.spawn(greet(env.clone(), gate.clone(), snapshots, (reader, writer), from));
            }
            Ok((_, _, from)) => {
                sometimes!(handshakes_full);
                tracing::warn!(from, "too many handshakes under way, closed");
            }
            Err(error) => {
                tracing::warn!("cannot accept peer connections: {error}");
                env.sleep(DIAL_PAUSE_MAX).await;
            }
        }
    }
}

/// What a connection is for, by its greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Link,
    Introduction,
    Snapshots,
}

impl Purpose {
    fn push_reply(self, out: &mut OutBuf, reply: &HelloReply) -> Result<(), EncodeError> {
        match self {
            Self::Link | Self::Introduction => out.push_hello_reply(reply),
            Self::Snapshots => out.push_snapshot_hello_reply(reply),
        }
    }
}

/// Says no, with the reason, and ends the connection.
async fn refuse<W: StreamWriter>(
    gate: &Gate,
    writer: &mut W,
    from: &str,
    purpose: Purpose,
    (reason, text): (RefuseReason, String),
) {
    if gate.is_new_refusal(&text) {
        tracing::warn!(from, "refused a peer: {text}");
    }
    let refused = HelloReply::Refused { reason, text };
    // If it does not want to hear the reason, our log has it.
    let _ = write(writer, |out| purpose.push_reply(out, &refused)).await;
    writer.shutdown();
}

/// Answers one connection's HELLO, and runs the link if it is welcome, or serves it snapshots.
async fn greet<E: Env>(
    env: E,
    gate: Rc<Gate>,
    snapshots: Option<Rc<SnapshotService<E::Disk>>>,
    (mut reader, mut writer): (E::Reader, E::Writer),
    from: String,
) {
    let first = read_frame(&env, &mut reader).await;
    gate.handshakes.set(gate.handshakes.get() - 1);
    let (hello, purpose, received) = match first {
        Ok((Frame::Hello(hello), received)) => (hello, Purpose::Link, received),
        Ok((Frame::Introduction(hello), received)) => (hello, Purpose::Introduction, received),
        Ok((Frame::SnapshotHello(hello), received)) => (hello, Purpose::Snapshots, received),
        Ok((other, _)) => return tracing::warn!(from, "expected HELLO, got {other:?}; closed"),
        Err(DialError::Wire(error @ WireError::Version { .. })) => {
            // Of our frame it can read the version, and may know this one.
            let why = (RefuseReason::Version, error.to_string());
            return refuse(&gate, &mut writer, &from, Purpose::Link, why).await;
        }
        Err(error) => return tracing::warn!(from, "peer port: {error}; closed"),
    };
    if let Some(why) = gate.refusal(&hello, env.now()) {
        return refuse(&gate, &mut writer, &from, purpose, why).await;
    }
    let service = snapshots.filter(|_| purpose == Purpose::Snapshots);
    if purpose == Purpose::Snapshots && service.is_none() {
        let why = (RefuseReason::Busy, "this core has no snapshots to give now".to_owned());
        return refuse(&gate, &mut writer, &from, purpose, why).await;
    }
    gate.note_member(&hello);
    let accepted = HelloReply::Accepted(gate.hello.clone());
    let book = gate.inbox.book.borrow().clone();
    let reply = |out: &mut OutBuf| {
        purpose.push_reply(out, &accepted)?;
        match purpose {
            // It may know nobody but us.
            Purpose::Introduction if !book.is_empty() => out.push_members(book.records()),
            _ => Ok(()),
        }
    };
    if let Err(error) = write(&mut writer, reply).await {
        return tracing::info!(from, "peer left during HELLO: {error}");
    }
    if let Some(service) = service {
        let peer = PeerCore { node: hello.node, core: hello.core }.to_string();
        let serving = pin!(service.serve(env, (reader, writer), received, peer));
        // A core that takes no part any more gives nothing away either.
        select(serving, pin!(gate.closing.cancelled())).await;
        return;
    }
    if purpose == Purpose::Introduction {
        if let Some(peer) = gate.peers.borrow().get(&hello.node) {
            peer.poke.set();
        }
        return take_book(&env, &gate, &mut reader, received).await;
    }
    gate.run_link(&env, &hello, (reader, writer), received).await;
}

/// Takes the address book that follows an introduction, if one does.
async fn take_book<E: Env>(env: &E, gate: &Gate, reader: &mut E::Reader, received: BytesMut) {
    if !gate.inbox.has_keeper() {
        return;
    }
    let bytes_max = HEADER_BYTES + MEMBERS_BYTES_MAX;
    if let Ok((Frame::Members(records), _)) =
        read_frame_within(env, reader, received, bytes_max).await
    {
        // Without room for it: it comes again with the link.
        let _ = gate.inbox.hear_members(records);
    }
}
