//! One client connection: a task that reads and submits, a task that replies in order.
//!
//! The reading task decodes as many requests as have arrived and submits each at once, so that a
//! pipeline becomes one group commit. It stops taking requests in while too many wait for replies or
//! the client does not take its replies: the client then feels it through TCP. The writing task turns
//! outcomes into replies in the order of the requests and sends what is ready with one gather write.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use coracle_engine::ProposeError;
use coracle_engine::core::{Committed, Pending};
use coracle_engine::env::{Env, StreamReader, StreamWriter};

use super::fan;
use super::limits::{LINGER_BYTES_MAX, READ_BYTES_MAX, READ_BYTES_MIN, READ_BYTES_PER_CORE_MAX};
use super::once;
use super::output::Output;
use super::refusal;
use super::resp::Decoder;
use super::session::{Session, Step};
use super::state::{Asked, Client, Shared, Slot, add};

/// Takes a client off the list when both of its tasks have ended.
pub(super) struct Registration<E: Env> {
    pub(super) server: Rc<Shared<E>>,
    pub(super) client: Rc<Client>,
}

impl<E: Env> Drop for Registration<E> {
    fn drop(&mut self) {
        let waiting = self.client.payload_bytes_waiting();
        self.server.payload_bytes.set(self.server.payload_bytes.get() - waiting);
        self.server.clients.borrow_mut().remove(&self.client.id);
        self.server.client_left.notify();
    }
}

/// Serves a connection: starts the writing task and becomes the reading task.
pub(super) async fn run<E: Env>(
    registration: Rc<Registration<E>>,
    mut reader: E::Reader,
    writer: E::Writer,
) {
    let (server, client) = (registration.server.clone(), registration.client.clone());
    let for_writer = registration.clone();
    server.env.spawn(async move {
        let (server, client) = (&for_writer.server, &for_writer.client);
        write_replies(server, client, writer).await;
        // Nothing can be answered any more, so nothing needs to be read.
        client.kill();
    });
    let mut input = Input { server: server.clone(), buffer: BytesMut::new(), extra_bytes: 0 };
    let mut session = Session::new(server, client.clone());
    if read_requests(&mut session, &mut input, &mut reader).await == End::ProtocolError {
        client.lingering_since.set(Some(session.server.env.now()));
        client.end_input();
        discard(&mut session, &mut input, &mut reader).await;
        client.lingering_since.set(None);
    }
    client.end_input();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    ProtocolError,
}

/// The receive buffer; what it holds beyond its first size counts against the core's limit.
struct Input<E: Env> {
    server: Rc<Shared<E>>,
    buffer: BytesMut,
    extra_bytes: usize,
}

impl<E: Env> Input<E> {
    /// Makes room for at least `bytes` in all. `false` if the core's limit forbids it.
    fn make_room(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.buffer.len()).max(1);
        if self.buffer.capacity() - self.buffer.len() < missing {
            self.buffer.reserve(missing);
        }
        let extra = self.buffer.capacity().saturating_sub(READ_BYTES_MIN);
        let others = self.server.read_bytes.get() - self.extra_bytes;
        self.extra_bytes = extra;
        self.server.read_bytes.set(others + extra);
        extra == 0 || others + extra <= READ_BYTES_PER_CORE_MAX
    }

    /// Gives a large buffer back when nothing is in it.
    fn shrink(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > READ_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
    }
}

impl<E: Env> Drop for Input<E> {
    fn drop(&mut self) {
        self.server.read_bytes.set(self.server.read_bytes.get() - self.extra_bytes);
    }
}

async fn read_requests<E: Env>(
    session: &mut Session<E>,
    input: &mut Input<E>,
    reader: &mut E::Reader,
) -> End {
    let mut decoder = Decoder::new();
    let mut wanted = READ_BYTES_MIN;
    loop {
        input.shrink();
        if !input.make_room(decoder.needed().max(wanted)) {
            let text = "ERR the receive buffers of this core are full, try again later";
            session.client.push(Slot::Ready(refusal::error(text)));
            return End::ProtocolError;
        }
        let spare = input.buffer.capacity() - input.buffer.len();
        let client = session.client.clone();
        let reading = reader.read(&mut input.buffer);
        match client.reader.unless(|| client.stops_reading(), reading).await {
            None | Some(Ok(0) | Err(_)) => return End::Closed,
            Some(Ok(bytes)) => {
                add(&session.server.stats.input_bytes, bytes as u64);
                // A full buffer means that more is waiting in the socket.
                wanted = if bytes == spare { (wanted * 2).min(READ_BYTES_MAX) } else { wanted };
            }
        }
        client.last_active.set(session.server.env.now());
        session.now_ms = session.server.env.unix_ms();
        match take_requests(session, &mut decoder, &mut input.buffer).await {
            None => decoder.trim(),
            Some(end) => return end,
        }
    }
}

/// Takes all complete requests out of the buffer.
async fn take_requests<E: Env>(
    session: &mut Session<E>,
    decoder: &mut Decoder,
    buffer: &mut BytesMut,
) -> Option<End> {
    let mut taken = 0;
    let end = loop {
        match decoder.decode(&buffer[taken..]) {
            Ok(None) => break None,
            Ok(Some(bytes)) => {
                let request = &buffer[taken..taken + bytes];
                taken += bytes;
                if !session.client.has_room() {
                    let client = session.client.clone();
                    client.room.until(|| client.has_room() || client.is_killed()).await;
                    session.now_ms = session.server.env.unix_ms();
                }
                if session.client.is_killed() || take_one(session, decoder, request).await {
                    break Some(End::Closed);
                }
            }
            Err(error) => {
                add(&session.server.stats.errors, 1);
                session.client.push(Slot::Ready(refusal::error(&format!("ERR {error}"))));
                break Some(End::ProtocolError);
            }
        }
    };
    buffer.advance(taken);
    end
}

/// Takes one request; whether it was the last.
async fn take_one<E: Env>(session: &mut Session<E>, decoder: &Decoder, request: &[u8]) -> bool {
    loop {
        match session.take(decoder.args(request)) {
            Step::Next => return false,
            Step::Close => return true,
            Step::AfterReads(shard) => {
                let client = session.client.clone();
                client.room.until(|| !client.reads_unfinished(shard) || client.is_killed()).await;
                if client.is_killed() {
                    return true;
                }
                session.now_ms = session.server.env.unix_ms();
            }
            Step::Fan(request) => {
                let client = session.client.clone();
                client.room.until(|| client.is_idle() || client.is_killed()).await;
                let asking = fan::run(&session.server, &client, request);
                let reply = client.room.unless(|| client.is_killed(), asking).await;
                let Some(reply) = reply else { return true };
                client.push(Slot::Ready(reply));
                return false;
            }
        }
    }
}

/// Drops what still arrives after a protocol error, so that the error itself can be read.
async fn discard<E: Env>(session: &mut Session<E>, input: &mut Input<E>, reader: &mut E::Reader) {
    let client = session.client.clone();
    let mut dropped_bytes = 0;
    while dropped_bytes < LINGER_BYTES_MAX {
        input.buffer.clear();
        input.buffer.reserve(READ_BYTES_MIN);
        let reading = reader.read(&mut input.buffer);
        match client.reader.unless(|| client.is_killed(), reading).await {
            None | Some(Ok(0) | Err(_)) => return,
            Some(Ok(bytes)) => dropped_bytes += bytes,
        }
        client.lingering_since.set(Some(session.server.env.now()));
    }
}

async fn write_replies<E: Env>(server: &Shared<E>, client: &Client, mut writer: E::Writer) {
    let mut output = Output::default();
    loop {
        let Some(slot) = client.pop() else {
            if !output.is_empty() {
                if !flush(server, client, &mut writer, &mut output).await {
                    return;
                }
            } else if client.is_killed() {
                return;
            } else if client.input_ended() {
                break;
            } else {
                client.writer.until(|| client.wakes_writer()).await;
            }
            continue;
        };
        let Some(reply) = resolve(server, client, &mut writer, &mut output, slot).await else {
            return;
        };
        client.replied(reply.len());
        output.push(reply);
        if output.is_full() && !flush(server, client, &mut writer, &mut output).await {
            return;
        }
    }
    // While the reading task drops what is still under way, the connection must not be reset.
    client.writer.until(|| client.is_killed() || client.lingering_since.get().is_none()).await;
}

/// The reply of a slot; earlier replies are sent before it is waited for. `None` ends the connection.
async fn resolve<E: Env>(
    server: &Shared<E>,
    client: &Client,
    writer: &mut E::Writer,
    output: &mut Output,
    slot: Slot,
) -> Option<Bytes> {
    match slot {
        Slot::Ready(reply) => Some(reply),
        Slot::Read(mut asked) => {
            let first = outcome(server, client, writer, output, &mut asked.pending).await?;
            let settling = fan::settle(server, &asked, first);
            let reply = client.writer.unless(|| client.is_killed(), settling).await;
            finished(server, client, &asked, false);
            reply
        }
        Slot::Write(asked) => {
            let written = written(server, client, writer, output, asked).await?;
            Some(written.unwrap_or_else(|refusal| refusal))
        }
        Slot::InSession(asked) => {
            let shard = asked.shard;
            let written = written(server, client, writer, output, asked).await?;
            Some(written.map_or_else(|refusal| refusal, |reply| once::reply(shard, &reply)))
        }
        Slot::LoggedRead(mut asked) => {
            let result = outcome(server, client, writer, output, &mut asked.pending).await;
            let reply = match result? {
                Ok(committed) => Some(committed.reply),
                // It changes nothing, and all earlier writes have their outcome: just ask.
                Err(_) => {
                    let asking = fan::ask(server, asked.shard, asked.slot, asked.payload.clone());
                    client.writer.unless(|| client.is_killed(), asking).await
                }
            };
            finished(server, client, &asked, true);
            reply
        }
    }
}

/// What the state machine replied to a proposal, or the error reply. `None` ends the connection.
async fn written<E: Env>(
    server: &Shared<E>,
    client: &Client,
    writer: &mut E::Writer,
    output: &mut Output,
    mut asked: Asked<Pending<Committed, ProposeError>>,
) -> Option<Result<Bytes, Bytes>> {
    let result = outcome(server, client, writer, output, &mut asked.pending).await;
    finished(server, client, &asked, true);
    if asked.sets_expiry {
        server.expiry.note_write(asked.shard);
    }
    let refused = |why| {
        add(&server.stats.errors, 1);
        refusal::of_proposal(&server.core.view(), asked.slot, &why)
    };
    Some(result?.map(|committed| committed.reply).map_err(refused))
}

fn finished<E: Env, P>(server: &Shared<E>, client: &Client, asked: &Asked<P>, logged: bool) {
    server.payload_bytes.set(server.payload_bytes.get() - asked.bytes);
    client.finished(asked.shard, asked.bytes, logged);
}

async fn outcome<E: Env, F: Future + Unpin>(
    server: &Shared<E>,
    client: &Client,
    writer: &mut E::Writer,
    output: &mut Output,
    pending: &mut F,
) -> Option<F::Output> {
    if output.is_empty() {
        return client.writer.unless(|| client.is_killed(), pending).await;
    }
    let now = poll_fn(|cx| Poll::Ready(Pin::new(&mut *pending).poll(cx))).await;
    if let Poll::Ready(result) = now {
        return Some(result);
    }
    if !flush(server, client, writer, output).await {
        return None;
    }
    client.writer.unless(|| client.is_killed(), pending).await
}

/// Sends what has been gathered. `false` ends the connection.
async fn flush<E: Env>(
    server: &Shared<E>,
    client: &Client,
    writer: &mut E::Writer,
    output: &mut Output,
) -> bool {
    let bytes = output.bytes();
    client.writing_since.set(Some(server.env.now()));
    let writing = writer.write_all(output.chunks());
    let result = client.writer.unless(|| client.is_killed(), writing).await;
    client.writing_since.set(None);
    output.written();
    add(&server.stats.output_bytes, bytes as u64);
    matches!(result, Some(Ok(())))
}
