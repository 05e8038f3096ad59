//! The network under test: streams without faults, each fault, and that a seed repeats itself.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use coracle_engine::env::{Listener, StreamReader, StreamWriter};
use coracle_engine::raft::{HeartbeatReply, Message, Standing};
use coracle_engine::wire::{Frame, FrameDecoder, OutBuf, Pulse};
use coracle_engine::{ShardId, Term};
use fastrand::Rng;

use super::*;
use crate::sim::world::Step;

const A: HostId = HostId(1);
const B: HostId = HostId(2);
const DIALLER: ProcessId = ProcessId(1);
const SERVER: ProcessId = ProcessId(2);
const ADDRESS: &str = "n2:7100";
const TIMEOUT: Duration = Duration::from_secs(2);

mod frames;
mod streams;

type Shelf<T> = Rc<RefCell<T>>;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn net(seed: u64, weather: NetWeather) -> Net {
    Net::new(World::new(seed), weather)
}

fn run_until(net: &Net, until: Duration) {
    let mut polls = 0;
    loop {
        match net.world().step(until, &mut polls) {
            Step::Ran => {}
            Step::Idle => return,
            Step::Stuck => panic!("tasks wake each other for ever"),
        }
    }
}

fn run_for(net: &Net, duration: Duration) {
    run_until(net, net.world().now() + duration);
}

/// Runs a future of a process to its end, or until nothing happens for an hour.
fn finish<T: 'static>(
    net: &Net,
    process: ProcessId,
    task: impl Future<Output = T> + 'static,
) -> Option<T> {
    let slot: Shelf<Option<T>> = Rc::default();
    let result = slot.clone();
    net.world().spawn(process, async move {
        let value = task.await;
        *result.borrow_mut() = Some(value);
    });
    let (mut polls, end) = (0, net.world().now() + Duration::from_secs(3600));
    while slot.borrow().is_none() && net.world().step(end, &mut polls) == Step::Ran {}
    slot.take()
}

type Halves = (SimReader, SimWriter);

/// A stream from A to B: the halves of the side that connected, and those of the other.
fn pair(net: &Net) -> (Halves, Halves) {
    let listener = net.listen(SERVER, B, ADDRESS).unwrap();
    dial(net, &Rc::new(listener))
}

fn dial(net: &Net, listener: &Rc<SimListener>) -> (Halves, Halves) {
    let dialled = connect(net, TIMEOUT);
    let here = finish(net, DIALLER, dialled).unwrap().unwrap();
    let listener = listener.clone();
    let (reader, writer, _) =
        finish(net, SERVER, async move { listener.accept().await }).unwrap().unwrap();
    (here, (reader, writer))
}

fn connect(net: &Net, timeout: Duration) -> impl Future<Output = io::Result<Halves>> + 'static {
    let net = net.clone();
    async move { net.connect(DIALLER, A, ADDRESS, timeout).await }
}

async fn write(writer: &mut SimWriter, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(&mut vec![Bytes::copy_from_slice(bytes)]).await
}

/// Reads to the end of the stream, with buffers of random size.
async fn read_all(mut reader: SimReader, mut rng: Rng) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    loop {
        let mut buf = BytesMut::with_capacity(rng.usize(1..5000));
        match reader.read(&mut buf).await {
            Ok(0) => return (all, Ok(())),
            Ok(count) => {
                assert_eq!(count, buf.len());
                all.extend_from_slice(&buf);
            }
            Err(error) => return (all, Err(error)),
        }
    }
}

/// A task that reads whatever comes, and where that and the end of it can be seen.
fn collect(net: &Net, process: ProcessId, mut reader: SimReader) -> Received {
    let received = Received::default();
    let (bytes, end) = (received.bytes.clone(), received.end.clone());
    net.world().spawn(process, async move {
        loop {
            let mut buf = BytesMut::with_capacity(4096);
            match reader.read(&mut buf).await {
                Ok(0) => break *end.borrow_mut() = Some(None),
                Ok(_) => bytes.borrow_mut().extend_from_slice(&buf),
                Err(error) => break *end.borrow_mut() = Some(Some(error.kind())),
            }
        }
    });
    received
}

#[derive(Default)]
struct Received {
    bytes: Shelf<BytesMut>,
    /// The end, and its error, if there was one.
    end: Shelf<Option<Option<io::ErrorKind>>>,
}

impl Received {
    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn end(&self) -> Option<Option<io::ErrorKind>> {
        *self.end.borrow()
    }

    /// The rounds of the heartbeat replies that came, read by the engine's decoder.
    fn rounds(&self) -> Result<Vec<u64>, String> {
        let mut bytes = self.bytes.borrow().clone();
        let (mut decoder, mut rounds) = (FrameDecoder::new(), Vec::new());
        while let Some(frame) = decoder.decode(&mut bytes).map_err(|e| e.to_string())? {
            match frame {
                Frame::Raft { message: Message::HeartbeatReply(m), .. } => rounds.push(m.round),
                other => panic!("{other:?}"),
            }
        }
        Ok(rounds)
    }
}

fn frame(round: u64) -> Vec<Bytes> {
    let mut out = OutBuf::new();
    let message = Message::HeartbeatReply(HeartbeatReply {
        term: Term(3),
        round,
        standing: Standing::Member,
        quiet_ms: 0,
        priority: 0,
    });
    out.push_message(ShardId(5), &message).unwrap();
    let mut bufs = Vec::new();
    out.take(&mut bufs);
    bufs
}

/// Sends frames with these rounds, one at a time.
fn send_frames(net: &Net, mut writer: SimWriter, rounds: std::ops::Range<u64>) -> SimWriter {
    let sent = async move {
        for round in rounds {
            writer.write_all(&mut frame(round)).await.unwrap();
        }
        writer
    };
    finish(net, DIALLER, sent).unwrap()
}

fn faultless(rng: &mut Rng) -> NetWeather {
    NetWeather {
        frames: FrameRates::NONE,
        reset: 0.0,
        reset_after_block: 0.0,
        reset_at_death: 0.0,
        ..NetWeather::draw(rng)
    }
}

fn some_bytes(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    if rng.bool() {
        for round in 0..rng.u64(..60) {
            frame(round).iter().for_each(|piece| bytes.extend_from_slice(piece));
        }
    }
    let rest = rng.usize(..20_000);
    bytes.extend((0..rest).map(|_| rng.u8(..)));
    bytes
}

/// Both directions at once, with windows, pieces, spikes, blackouts and stalls of all sizes.
fn exchange(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let net = net(seed, faultless(&mut rng));
    if rng.bool() {
        net.world().shuffle_tasks();
    }
    let (here, there) = pair(&net);
    let sent = [some_bytes(&mut rng), some_bytes(&mut rng)];
    let got: [Shelf<Vec<u8>>; 2] = Default::default();
    let done: Shelf<u32> = Rc::default();
    for (side, (reader, mut writer)) in [here, there].into_iter().enumerate() {
        let (bytes, got, done) = (sent[side].clone(), got[1 - side].clone(), done.clone());
        let (expected, mut rng, world) = (sent[1 - side].len(), rng.fork(), net.world().clone());
        net.world().spawn([DIALLER, SERVER][side], async move {
            let writing = async {
                let mut rest = Bytes::from(bytes);
                let mut rng = rng.fork();
                while !rest.is_empty() {
                    let mut bufs = Vec::new();
                    for _ in 0..rng.usize(1..5) {
                        bufs.push(rest.split_to(rng.usize(..=rest.len().min(3000))));
                    }
                    writer.write_all(&mut bufs).await.unwrap();
                    assert!(bufs.is_empty());
                    if rng.u8(..10) == 0 {
                        world.sleep(ms(rng.u64(..5))).await;
                    }
                }
                writer
            };
            let mut reader_rng = Rng::with_seed(seed);
            let mut reader = reader;
            let reading = async {
                let mut all = Vec::new();
                while all.len() < expected {
                    let mut buf = BytesMut::with_capacity(reader_rng.usize(1..5000));
                    assert_ne!(reader.read(&mut buf).await.unwrap(), 0, "an early end");
                    all.extend_from_slice(&buf);
                }
                all
            };
            let (mut writer, all) = futures_util::join!(writing, reading);
            writer.shutdown();
            assert_eq!(reader.read(&mut BytesMut::with_capacity(9)).await.unwrap(), 0);
            *got.borrow_mut() = all;
            *done.borrow_mut() += 1;
        });
    }
    let mut polls = 0;
    while *done.borrow() < 2 {
        let step = net.world().step(Duration::from_secs(36_000), &mut polls);
        assert_eq!(step, Step::Ran, "seed {seed}: hangs");
    }
    for side in 0..2 {
        assert!(*got[side].borrow() == sent[side], "seed {seed}: bytes of side {side} differ");
    }
    run_for(&net, Duration::from_secs(100));
    assert!(net.connections().is_empty(), "seed {seed}: the stream is forgotten when it is over");
    let hash = net.world().trace_hash();
    net.world().end();
    hash
}

#[test]
fn without_faults_all_bytes_arrive_in_order() {
    for seed in 0..2000 {
        exchange(seed);
    }
}

#[test]
fn a_seed_repeats_itself_and_seeds_differ() {
    for seed in 0..50 {
        assert_eq!(exchange(seed), exchange(seed));
    }
    assert_ne!(exchange(1), exchange(2));
}
