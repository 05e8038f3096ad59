//! `coracle-bench pulse`: whether a sign of life between two cores should be a frame on the connection that they
//! have, or a datagram.
//!
//! All on loopback, one after the other in one run, with frames of the peer protocol:
//! 1. **send**: processor time of the sender for one frame that goes alone, and for one that goes with others that
//!    are sent anyway, which is how a core's turn sends;
//! 2. **way**: time from sending to having it, on a connection that is idle;
//! 3. **behind bulk**: the same while the connection carries append frames of 1 MiB as fast as they are read. A
//!    datagram does not wait behind them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::Args;
use coracle_engine::raft::{Append, Entry, EntryKind, Message};
use coracle_engine::wire::{Frame, FrameDecoder, OutBuf, Pulse};
use coracle_engine::{LogIndex, ShardId, Term};
use hdrhistogram::Histogram;

/// Payload of each bulk frame.
const BULK_BYTES: usize = 1 << 20;
/// What the receiver takes at once, as a core's links do.
const RECEIVE_BYTES: usize = 64 << 10;
/// Signs of life that are thrown away at the beginning.
const WARM_UP: u32 = 200;

/// Longest way that is told from longer ones, in nanoseconds.
const WAY_NS_MAX: u64 = 10_000_000_000;

/// Options of `coracle-bench pulse`.
#[derive(Args, Clone, Debug)]
pub struct PulseArgs {
    /// Signs of life per measurement
    #[arg(long, default_value_t = 20_000)]
    count: u32,
    /// Pause between two of them where their way is measured, in microseconds
    #[arg(long, default_value_t = 200)]
    pause_us: u64,
}

/// Runs the command.
///
/// # Errors
/// What the operating system says.
pub fn run(args: &PulseArgs) -> io::Result<()> {
    println!("send, alone over TCP         {:>8.2} us", send_alone_tcp(args)?);
    println!("send, alone as a datagram    {:>8.2} us", send_alone_udp(args)?);
    println!("send, with others over TCP   {:>8.2} us", send_along(args));
    let way = |name: &str, ways: Histogram<u64>| {
        let us = |quantile| ways.value_at_quantile(quantile) as f64 / 1000.0;
        let (half, most) = (us(0.5), us(0.999));
        println!("{name} {half:>8.1} us median {most:>9.1} us at 99.9 %");
    };
    way("way, TCP                    ", way_tcp(args, false)?);
    way("way, datagram               ", way_udp(args, false)?);
    way("way behind bulk, TCP        ", way_tcp(args, true)?);
    way("way behind bulk, datagram   ", way_udp(args, true)?);
    Ok(())
}

fn pulse(number: u32) -> Bytes {
    let mut out = OutBuf::new();
    out.push_pulse(&Pulse { count: number, hash: 0 }).expect("pulses are short");
    joined(&mut out)
}

fn joined(out: &mut OutBuf) -> Bytes {
    let mut pieces = Vec::new();
    out.take(&mut pieces);
    pieces.concat().into()
}

fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    near.set_nodelay(true)?;
    Ok((near, listener.accept()?.0))
}

fn udp_pair() -> io::Result<(UdpSocket, UdpSocket)> {
    let (near, far) =
        (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    near.connect(far.local_addr()?)?;
    Ok((near, far))
}

/// Microseconds for each of `count` calls.
fn each(count: u32, mut call: impl FnMut(u32) -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    for number in 0..count {
        call(number)?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

fn send_alone_tcp(args: &PulseArgs) -> io::Result<f64> {
    let (mut near, mut far) = tcp_pair()?;
    let reading = thread::spawn(move || io::copy(&mut far, &mut io::sink()));
    let cost = each(args.count, |number| near.write_all(&pulse(number)))?;
    drop(near);
    drop(reading.join());
    Ok(cost)
}

fn send_alone_udp(args: &PulseArgs) -> io::Result<f64> {
    let (near, far) = udp_pair()?;
    far.set_read_timeout(Some(Duration::from_millis(200)))?;
    let reading = thread::spawn(move || while far.recv(&mut [0; 64]).is_ok() {});
    let cost = each(args.count, |number| near.send(&pulse(number)).map(drop))?;
    drop(reading.join());
    Ok(cost)
}

/// What a frame adds to a buffer that is sent anyway: a system call is not among it.
fn send_along(args: &PulseArgs) -> f64 {
    let mut out = OutBuf::new();
    let cost = each(args.count, |number| {
        out.push_pulse(&Pulse { count: number, hash: 0 }).expect("pulses are short");
        Ok(())
    });
    assert!(!out.is_empty());
    cost.unwrap_or(0.0)
}

fn bulk() -> Bytes {
    let entry = Entry {
        term: Term(1),
        index: LogIndex(1),
        kind: EntryKind::Normal,
        payload: vec![7; BULK_BYTES].into(),
    };
    let append = Append {
        term: Term(1),
        prev_index: LogIndex(0),
        prev_term: Term(0),
        commit: LogIndex(0),
        entries: vec![entry],
    };
    let mut out = OutBuf::new();
    out.push_message(ShardId(0), &Message::Append(append)).expect("it fits a frame");
    joined(&mut out)
}

/// Reads frames until the other end closes; gives when each pulse came.
fn receive(mut stream: TcpStream, count: u32) -> Vec<Option<Instant>> {
    let mut came = vec![None; count as usize];
    let (mut decoder, mut received) = (FrameDecoder::new(), BytesMut::new());
    let mut piece = vec![0; RECEIVE_BYTES];
    while let Ok(bytes) = stream.read(&mut piece) {
        if bytes == 0 {
            break;
        }
        received.extend_from_slice(&piece[..bytes]);
        while let Ok(Some(frame)) = decoder.decode(&mut received) {
            if let Frame::Pulse(pulse) = frame {
                came[pulse.count as usize] = Some(Instant::now());
            }
        }
    }
    came
}

fn way_tcp(args: &PulseArgs, loaded: bool) -> io::Result<Histogram<u64>> {
    let (mut near, far) = tcp_pair()?;
    let count = args.count.min(5000);
    let reading = thread::spawn(move || receive(far, count));
    let bulk = bulk();
    let mut sent = Vec::new();
    for number in 0..count {
        sent.push(Instant::now());
        near.write_all(&pulse(number))?;
        if loaded {
            near.write_all(&bulk)?;
        } else {
            thread::sleep(Duration::from_micros(args.pause_us));
        }
    }
    drop(near);
    Ok(ways(&sent, &reading.join().unwrap_or_default()))
}

fn way_udp(args: &PulseArgs, loaded: bool) -> io::Result<Histogram<u64>> {
    let count = args.count.min(5000);
    let (near, far) = udp_pair()?;
    far.set_read_timeout(Some(Duration::from_millis(200)))?;
    let reading = thread::spawn(move || {
        let mut came = vec![None; count as usize];
        let mut frame = [0; 64];
        while let Ok(bytes) = far.recv(&mut frame) {
            let mut received = BytesMut::from(&frame[..bytes]);
            if let Ok(Some(Frame::Pulse(pulse))) = FrameDecoder::new().decode(&mut received) {
                came[pulse.count as usize] = Some(Instant::now());
            }
        }
        came
    });
    let (mut bulk_near, bulk_far) = tcp_pair()?;
    let bulk_reading = thread::spawn(move || receive(bulk_far, 0));
    let (bulk, done) = (bulk(), Arc::new(AtomicBool::new(false)));
    let is_done = done.clone();
    let loading = thread::spawn(move || {
        while loaded && !is_done.load(Ordering::Relaxed) && bulk_near.write_all(&bulk).is_ok() {}
    });
    let mut sent = Vec::new();
    for number in 0..count {
        sent.push(Instant::now());
        near.send(&pulse(number))?;
        thread::sleep(Duration::from_micros(args.pause_us));
    }
    done.store(true, Ordering::Relaxed);
    drop((loading.join(), bulk_reading.join()));
    Ok(ways(&sent, &reading.join().unwrap_or_default()))
}

/// Nanoseconds from sending to having, of those that came.
fn ways(sent: &[Instant], came: &[Option<Instant>]) -> Histogram<u64> {
    let mut ways = Histogram::new_with_bounds(1, WAY_NS_MAX, 3).expect("the bounds are in order");
    for (sent, came) in sent.iter().zip(came).skip(WARM_UP as usize) {
        if let Some(came) = came {
            ways.saturating_record((*came - *sent).as_nanos() as u64);
        }
    }
    ways
}
