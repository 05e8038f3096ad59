//! Cores, streams and listeners, on loopback.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_engine::env::{Env, Listener, StreamReader, StreamWriter};
use coracle_wal::AlignedBuf;

use super::{CoreSpec, GlommioEnv, RuntimeError, TcpReader, spawn_core};

const ANY_PORT: &str = "127.0.0.1:0";
const TIMEOUT: Duration = Duration::from_secs(10);

fn on_core<F, Fut>(test: F)
where
    F: FnOnce(GlommioEnv) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    spawn_core(CoreSpec::new("test"), test).unwrap().join().unwrap();
}

async fn read_exactly(reader: &mut TcpReader, len: usize) -> Vec<u8> {
    let mut buf = BytesMut::new();
    while buf.len() < len {
        buf.reserve(len - buf.len());
        assert_ne!(reader.read(&mut buf).await.unwrap(), 0, "ended after {} bytes", buf.len());
    }
    buf.to_vec()
}

#[test]
fn bytes_come_back_whole_and_in_order_whatever_the_slices_and_sizes() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        env.spawn(async move {
            let (mut reader, mut writer, peer) = listener.accept().await.unwrap();
            assert!(peer.starts_with("127.0.0.1:"), "{peer}");
            let mut buf = BytesMut::new();
            loop {
                buf.reserve(10_000);
                if reader.read(&mut buf).await.unwrap() == 0 {
                    return;
                }
                writer.write_all(&mut vec![buf.split().freeze()]).await.unwrap();
            }
        });
        let (mut reader, mut writer) = env.connect(&address, TIMEOUT).await.unwrap();
        for (slices, len) in [(1, 1), (1, 511), (3, 512), (200, 7), (1, 4096), (5, 100_000)] {
            let bytes: Vec<Bytes> = (0..slices).map(|i| Bytes::from(vec![i as u8; len])).collect();
            let all: Vec<u8> = bytes.concat();
            let mut bufs = bytes;
            bufs.insert(0, Bytes::new());
            writer.write_all(&mut bufs).await.unwrap();
            assert!(bufs.is_empty());
            assert!(read_exactly(&mut reader, all.len()).await == all, "{slices} x {len}");
        }
    });
}

#[test]
fn aligned_reads_take_exactly_what_they_ask_for() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        let all: Vec<u8> = (0..3_000_000_usize).map(|i| (i % 251) as u8).collect();
        let sent = Bytes::from(all.clone());
        env.spawn(async move {
            let (_reader, mut writer, _) = listener.accept().await.unwrap();
            writer.write_all(&mut vec![sent]).await.unwrap();
        });
        let (mut reader, _writer) = env.connect(&address, TIMEOUT).await.unwrap();
        let mut found = Vec::new();
        let lens = [1, 511, 512, 513, 40, 1 << 20, 0, 40, 4096, 70_000];
        for (at, len) in lens.into_iter().enumerate() {
            let buf = AlignedBuf::zeroed(at + len + 1);
            let (result, buf) = reader.read_aligned(buf, at, len).await;
            result.unwrap();
            assert!(buf[..at].iter().chain(&buf[at + len..]).all(|byte| *byte == 0), "{len}");
            found.extend_from_slice(&buf[at..at + len]);
            found.extend(read_exactly(&mut reader, 100).await);
        }
        assert!(all.starts_with(&found));
        let (refused, buf) = reader.read_aligned(AlignedBuf::zeroed(4096), 4000, 97).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
        let left = all.len() - found.len();
        let (result, buf) =
            reader.read_aligned(AlignedBuf::zeroed(left + buf.len()), 0, left).await;
        result.unwrap();
        assert!(buf[..left] == all[found.len()..]);
        let (ended, _) = reader.read_aligned(buf, 0, 1).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_writer_waits_for_a_slow_reader_and_loses_nothing() {
    const LEN: usize = 24 << 20; // more than the socket buffers of both ends
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        let sent = Rc::new(RefCell::new(false));
        let done = sent.clone();
        env.spawn(async move {
            let (_reader, mut writer, _) = listener.accept().await.unwrap();
            let mut bufs: Vec<Bytes> =
                (0..LEN / 4096).map(|i| Bytes::from(vec![i as u8; 4096])).collect();
            writer.write_all(&mut bufs).await.unwrap();
            *done.borrow_mut() = true;
        });
        let (mut reader, _writer) = env.connect(&address, TIMEOUT).await.unwrap();
        for _ in 0..100 {
            env.yield_now().await;
        }
        assert!(!*sent.borrow(), "the writer did not wait");
        let bytes = read_exactly(&mut reader, LEN).await;
        for (i, block) in bytes.chunks(4096).enumerate() {
            assert!(block.iter().all(|b| *b == i as u8), "block {i}");
        }
    });
}

#[test]
fn shutdown_ends_a_pending_read_here_and_there() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        let (mut reader, mut writer) = env.connect(&address, TIMEOUT).await.unwrap();
        let (mut far, _far_writer, _) = listener.accept().await.unwrap();
        let stopper = env.clone();
        env.spawn(async move {
            stopper.yield_now().await;
            writer.shutdown();
        });
        let mut buf = BytesMut::with_capacity(64);
        assert_eq!(reader.read(&mut buf).await.unwrap(), 0);
        assert_eq!(far.read(&mut buf).await.unwrap(), 0);
    });
}

#[test]
fn dropping_both_halves_closes_the_connection_for_the_peer() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        let near = env.connect(&address, TIMEOUT).await.unwrap();
        let (mut far, mut far_writer, _) = listener.accept().await.unwrap();
        drop(near);
        let mut buf = BytesMut::with_capacity(64);
        assert_eq!(far.read(&mut buf).await.unwrap(), 0);
        let mut last = Ok(());
        for _ in 0..1000 {
            last = far_writer.write_all(&mut vec![Bytes::from_static(b"x")]).await;
            if last.is_err() {
                break;
            }
            env.sleep(Duration::from_millis(1)).await;
        }
        let kind = last.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind:?}");
    });
}

#[test]
fn a_port_in_use_and_nonsense_addresses_are_explained() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        let error = env.listen(&address).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address), "{error}");
        let error = env.listen("not an address").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = env.connect("example.org:80", TIMEOUT).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_port_is_free_again_at_once_after_its_listener_went() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        let near = env.connect(&address, TIMEOUT).await.unwrap();
        let far = listener.accept().await.unwrap();
        drop((far, near, listener));
        let mut result = env.listen(&address).await;
        for _ in 0..1000 {
            if result.is_ok() {
                break;
            }
            env.sleep(Duration::from_millis(1)).await;
            result = env.listen(&address).await;
        }
        result.err().map_or(Ok(()), Err::<(), _>).unwrap();
    });
}

#[test]
fn nobody_listening_and_nobody_answering_are_told_apart() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let address = listener.address().to_string();
        drop(listener);
        let error = env.connect(&address, TIMEOUT).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(error.to_string().contains(&address), "{error}");
        // A full backlog answers nobody: fill one of the least length.
        let mute = std::net::TcpListener::bind(ANY_PORT).unwrap();
        // SAFETY: an open listening socket; listening again only sets the backlog.
        unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&mute), 0) };
        let address = mute.local_addr().unwrap().to_string();
        let mut held = Vec::new();
        let error = loop {
            match env.connect(&address, Duration::from_millis(50)).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 64, "a backlog of 0 took {} connections", held.len());
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    });
}

#[test]
fn tasks_start_later_than_spawn_and_time_goes_on() {
    on_core(|env| async move {
        let log = Rc::new(RefCell::new(Vec::new()));
        let borrowed = log.borrow_mut();
        let inner = log.clone();
        env.spawn(async move { inner.borrow_mut().push("task") });
        drop(borrowed);
        let before = env.now();
        env.sleep(Duration::from_millis(2)).await;
        assert_eq!(*log.borrow(), ["task"]);
        assert!(env.now() - before >= Duration::from_millis(2));
        assert!(env.unix_ms() > 1_600_000_000_000);
        assert_ne!(env.random(), env.random());
    });
}

#[test]
fn a_cpu_that_is_not_there_is_a_refusal_to_start() {
    let spec = CoreSpec::new("far").pinned_to(Some(1_000_000));
    let error = spawn_core(spec, |_| async {}).err().unwrap();
    assert!(matches!(error, RuntimeError::Start { .. }), "{error:?}");
    assert!(error.to_string().contains("1000000"), "{error}");
}

#[test]
fn a_panic_on_a_core_is_an_error_of_join_with_its_message() {
    let core = spawn_core(CoreSpec::new("odd"), |_| async { panic!("what now") });
    let error = core.unwrap().join().unwrap_err();
    assert!(error.to_string().contains("odd") && error.to_string().contains("what now"), "{error}");
}

#[test]
fn a_pinned_core_runs_where_it_was_told() {
    let core = spawn_core(CoreSpec::new("pinned").pinned_to(Some(0)), |_| async {
        // SAFETY: no arguments; tells the CPU of this thread.
        unsafe { libc::sched_getcpu() }
    });
    assert_eq!(core.unwrap().join().unwrap(), 0);
}

/// A listener waited for beside something busy in the same task piled up one waker for each turn, and
/// the runtime panics at the 32,768th.
#[test]
fn waiting_for_a_connection_beside_something_busy_costs_nothing() {
    on_core(|env| async move {
        let listener = env.listen(ANY_PORT).await.unwrap();
        let mut accept = std::pin::pin!(listener.accept());
        for _ in 0..40_000 {
            assert!(futures_util::poll!(accept.as_mut()).is_pending());
        }
        let address = listener.address().to_string();
        let connect = std::pin::pin!(env.connect(&address, TIMEOUT));
        let (accepted, connected) = futures_util::future::join(accept, connect).await;
        assert!(accepted.is_ok() && connected.is_ok());
    });
}
