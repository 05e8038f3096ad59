//! The codecs: peer frames, both ways, and what clients send.

#![allow(missing_docs)] // criterion's macros make public items

mod profiler;

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use coracle::server::resp::Decoder;
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, Entry, EntryKind, Message, Standing,
};
use coracle_engine::wire::{FrameDecoder, OutBuf};
use coracle_engine::{LogIndex, ShardId, Term};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn append(entries: u64, payload_bytes: usize) -> Message {
    let payload = Bytes::from(vec![7; payload_bytes]);
    let entry = |offset| Entry {
        term: Term(3),
        index: LogIndex(1000 + offset),
        kind: EntryKind::Normal,
        payload: payload.clone(),
    };
    Message::Append(Append {
        term: Term(3),
        prev_index: LogIndex(999),
        prev_term: Term(3),
        commit: LogIndex(990),
        entries: (0..entries).map(entry).collect(),
    })
}

fn messages() -> Vec<(String, Message)> {
    let reply = AppendReply {
        term: Term(3),
        outcome: AppendOutcome::Accepted { matched: LogIndex(1) },
        standing: Standing::Member,
    };
    let mut messages = vec![("append_reply".to_owned(), Message::AppendReply(reply))];
    for (entries, bytes) in [(1, 128), (10, 128), (512, 128), (512, 1024), (16, 65536)] {
        messages.push((format!("append_{entries}x{bytes}"), append(entries, bytes)));
    }
    messages
}

fn encoded(message: &Message) -> BytesMut {
    let mut out = OutBuf::new();
    out.push_message(ShardId(7), message).expect("fits a frame");
    let mut pieces = Vec::new();
    out.take(&mut pieces);
    pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
}

fn wire_encode(criterion: &mut Criterion) {
    let mut benchmarks = criterion.benchmark_group("wire/encode");
    for (name, message) in messages() {
        benchmarks.throughput(Throughput::Bytes(encoded(&message).len() as u64));
        let (mut out, mut pieces) = (OutBuf::new(), Vec::new());
        benchmarks.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                out.push_message(ShardId(7), black_box(&message)).expect("fits a frame");
                out.take(&mut pieces);
                pieces.clear();
            });
        });
    }
    benchmarks.finish();
}

fn wire_decode(criterion: &mut Criterion) {
    let mut benchmarks = criterion.benchmark_group("wire/decode");
    for (name, message) in messages() {
        let frame = encoded(&message);
        benchmarks.throughput(Throughput::Bytes(frame.len() as u64));
        let mut decoder = FrameDecoder::new();
        benchmarks.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_batched_ref(
                || frame.clone(),
                |received| decoder.decode(received).expect("a valid frame").expect("in full"),
                BatchSize::SmallInput,
            );
        });
    }
    benchmarks.finish();
}

/// Requests as they arrive: one alone, and sixteen in one buffer.
fn resp_decode(criterion: &mut Criterion) {
    let mut benchmarks = criterion.benchmark_group("resp/decode_request");
    let value = "v".repeat(128);
    let get = "*2\r\n$3\r\nGET\r\n$16\r\nload:00000000042\r\n".to_owned();
    let set = format!("*3\r\n$3\r\nSET\r\n$16\r\nload:00000000042\r\n$128\r\n{value}\r\n");
    for (name, requests) in
        [("get", get), ("set_128", set.clone()), ("set_128_x16", set.repeat(16))]
    {
        benchmarks.throughput(Throughput::Bytes(requests.len() as u64));
        let mut decoder = Decoder::new();
        benchmarks.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(requests.as_bytes());
                while !rest.is_empty() {
                    let used = decoder.decode(rest).expect("RESP").expect("in full");
                    black_box(decoder.args(rest).len());
                    rest = &rest[used..];
                }
            });
        });
    }
    benchmarks.finish();
}

criterion_group! {
    name = benches;
    config = profiler::criterion();
    targets = wire_encode, wire_decode, resp_decode
}
criterion_main!(benches);
