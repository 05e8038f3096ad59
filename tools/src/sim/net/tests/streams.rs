//! Streams, and the faults between hosts.

#![allow(clippy::unwrap_used)]

use coracle_wal::AlignedBuf;

use super::*;

#[test]
fn connecting_takes_a_round_trip_and_is_refused_where_nobody_listens() {
    let net = net(1, NetWeather::calm());
    net.name_host("n2", B);
    let refused = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap();
    assert_eq!(refused.err().map(|e| e.kind()), Some(io::ErrorKind::ConnectionRefused));
    let before = net.world().now();
    assert!(before >= Duration::from_micros(200) && before < ms(1), "{before:?}");
    let listener = net.listen(SERVER, B, ADDRESS).unwrap();
    assert_eq!(
        net.listen(SERVER, B, ADDRESS).err().map(|e| e.kind()),
        Some(io::ErrorKind::AddrInUse)
    );
    assert!(finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap().is_ok());
    drop(listener);
    let refused = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap();
    assert_eq!(refused.err().map(|e| e.kind()), Some(io::ErrorKind::ConnectionRefused));
}

#[test]
fn connecting_across_a_block_times_out_in_either_direction_and_goes_on_when_it_ends() {
    for (from, to) in [(A, B), (B, A)] {
        let net = net(1, NetWeather::calm());
        let _listener = net.listen(SERVER, B, ADDRESS).unwrap();
        net.block(from, to);
        let lost = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap();
        assert_eq!(lost.err().map(|e| e.kind()), Some(io::ErrorKind::TimedOut));
        assert_eq!(net.world().now(), TIMEOUT);
        let healing = net.clone();
        net.world().call_in(ms(500), move || healing.unblock(from, to));
        assert!(finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap().is_ok());
    }
}

#[test]
fn aligned_reads_take_exactly_what_they_ask_for_however_it_arrives() {
    for seed in 0..20 {
        let weather = NetWeather { chop: 0.5, chop_bytes_max: 300, ..NetWeather::calm() };
        let net = net(seed, weather);
        let ((mut reader, _near), (far, mut writer)) = pair(&net);
        let all: Vec<u8> = (0..300_000_usize).map(|i| (i % 251) as u8).collect();
        let sent = all.clone();
        net.world().spawn(SERVER, async move {
            let _far = far;
            write(&mut writer, &sent).await.unwrap();
        });
        let found = finish(&net, DIALLER, async move {
            let mut found = Vec::new();
            for (at, len) in [(0, 40), (7, 100_000), (4096, 1), (0, 0), (1, 199_959)] {
                let buf = AlignedBuf::zeroed(at + len);
                let (result, buf) = reader.read_aligned(buf, at, len).await;
                result.unwrap();
                found.extend_from_slice(&buf[at..at + len]);
            }
            let (ended, buf) = reader.read_aligned(AlignedBuf::zeroed(1), 0, 1).await;
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            let (refused, _) = reader.read_aligned(buf, 4096, 1).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            found
        });
        assert!(found.unwrap() == all, "seed {seed}");
    }
}

#[test]
fn a_full_queue_of_a_listener_answers_nobody() {
    let net = net(1, NetWeather { backlog: 2, ..NetWeather::calm() });
    let listener = Rc::new(net.listen(SERVER, B, ADDRESS).unwrap());
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap().unwrap());
        run_for(&net, ms(1));
    }
    let lost = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap();
    assert_eq!(lost.err().map(|e| e.kind()), Some(io::ErrorKind::TimedOut));
    let accepting = listener.clone();
    let accepted = finish(&net, SERVER, async move { accepting.accept().await }).unwrap();
    assert!(accepted.unwrap().2.starts_with("n1:"));
    assert!(finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap().is_ok());
}

#[test]
fn a_writer_waits_for_a_slow_reader_and_goes_on_when_it_reads() {
    let net = net(1, NetWeather { window_bytes: (1000, 1000), ..NetWeather::calm() });
    let ((_keep, mut writer), (reader, _writer)) = pair(&net);
    let written: Shelf<u32> = Rc::default();
    let count = written.clone();
    net.world().spawn(DIALLER, async move {
        for _ in 0..5 {
            write(&mut writer, &[7; 400]).await.unwrap();
            *count.borrow_mut() += 1;
        }
        writer.shutdown();
    });
    run_for(&net, Duration::from_secs(10));
    assert_eq!(*written.borrow(), 2);
    let received = collect(&net, SERVER, reader);
    run_for(&net, ms(10));
    assert_eq!((*written.borrow(), received.len(), received.end()), (5, 2000, Some(None)));
}

#[test]
fn what_a_dropped_write_has_taken_arrives_but_not_after_the_end() {
    for ends in [false, true] {
        let net = net(1, NetWeather { window_bytes: (1000, 1000), ..NetWeather::calm() });
        let ((_keep, mut writer), (reader, _writer)) = pair(&net);
        let mut bufs = vec![Bytes::from(vec![7; 3000])];
        {
            let writing = std::pin::pin!(writer.write_all(&mut bufs));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(writing.poll(&mut cx).is_pending());
        }
        assert!(bufs.is_empty());
        if ends {
            writer.shutdown();
        }
        let received = collect(&net, SERVER, reader);
        run_for(&net, ms(10));
        assert_eq!(received.len(), if ends { 1000 } else { 3000 });
    }
}

#[test]
fn shutting_down_ends_the_own_read_and_the_other_side_after_the_data() {
    let net = net(1, NetWeather::calm());
    let ((reader, mut writer), (far_reader, far_writer)) = pair(&net);
    let own = collect(&net, DIALLER, reader);
    let far = collect(&net, SERVER, far_reader);
    let writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"last words").await.unwrap();
        writer.shutdown();
        assert!(write(&mut writer, b"more").await.is_err());
        writer
    });
    run_for(&net, ms(1));
    assert_eq!((own.end(), far.end()), (Some(None), Some(None)));
    assert_eq!(&far.bytes.borrow()[..], b"last words");
    drop((writer, far_writer));
    assert!(net.connections().is_empty());
}

#[test]
fn a_stream_whose_other_side_is_closed_breaks_after_a_round_trip() {
    let net = net(1, NetWeather::calm());
    let ((_reader, mut writer), far) = pair(&net);
    drop(far);
    run_for(&net, ms(1));
    let world = net.world().clone();
    let outcome = finish(&net, DIALLER, async move {
        write(&mut writer, b"a").await.unwrap();
        world.sleep(ms(1)).await;
        write(&mut writer, b"b").await
    });
    let kind = outcome.unwrap().err().map(|e| e.kind());
    assert_eq!(kind, Some(io::ErrorKind::ConnectionReset));
}

#[test]
fn closing_with_unread_bytes_resets() {
    let net = net(1, NetWeather::calm());
    let ((reader, mut writer), far) = pair(&net);
    let own = collect(&net, DIALLER, reader);
    let writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"unread").await.unwrap();
        writer
    });
    run_for(&net, ms(1));
    drop(far);
    run_for(&net, ms(1));
    assert_eq!(own.end(), Some(Some(io::ErrorKind::ConnectionReset)));
    drop(writer);
    run_for(&net, ms(1));
    assert!(net.connections().is_empty());
}

#[test]
fn a_block_holds_one_direction_and_what_it_held_comes_late() {
    let net = net(1, NetWeather::calm());
    let ((reader, mut writer), (far_reader, mut far_writer)) = pair(&net);
    let (here, there) = (collect(&net, DIALLER, reader), collect(&net, SERVER, far_reader));
    net.block(A, B);
    net.world().spawn(DIALLER, async move {
        for _ in 0..3 {
            write(&mut writer, b"abc").await.unwrap();
        }
        std::future::pending::<()>().await;
        drop(writer);
    });
    net.world().spawn(SERVER, async move {
        write(&mut far_writer, b"other way").await.unwrap();
        std::future::pending::<()>().await;
        drop(far_writer);
    });
    run_for(&net, Duration::from_secs(60));
    assert_eq!((here.len(), there.len()), (9, 0));
    net.unblock(A, B);
    run_for(&net, Duration::from_secs(1));
    assert_eq!(&there.bytes.borrow()[..], b"abcabcabc");
    assert_eq!((here.end(), there.end()), (None, None));
}

#[test]
fn acknowledgements_are_blocked_too() {
    let net = net(1, NetWeather { window_bytes: (1000, 1000), ..NetWeather::calm() });
    let ((_reader, mut writer), (far_reader, _far_writer)) = pair(&net);
    let there = collect(&net, SERVER, far_reader);
    net.block(B, A);
    let world = net.world().clone();
    net.world().spawn(DIALLER, async move {
        for _ in 0..50 {
            write(&mut writer, &[1; 100]).await.unwrap();
            world.sleep(ms(1)).await;
        }
        std::future::pending::<()>().await;
        drop(writer);
    });
    run_for(&net, Duration::from_secs(60));
    assert_eq!(there.len(), 1000);
    net.unblock(B, A);
    run_for(&net, Duration::from_secs(1));
    assert_eq!(there.len(), 5000);
}

#[test]
fn streams_may_break_when_a_block_ends() {
    let net = net(1, NetWeather { reset_after_block: 1.0, ..NetWeather::calm() });
    let ((_reader, mut writer), (far_reader, _far_writer)) = pair(&net);
    let there = collect(&net, SERVER, far_reader);
    net.block(A, B);
    let _writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"lost").await.unwrap();
        writer
    });
    run_for(&net, ms(5));
    net.unblock(A, B);
    run_for(&net, ms(5));
    assert_eq!((there.len(), there.end()), (0, Some(Some(io::ErrorKind::ConnectionReset))));
    assert_eq!(net.world().counts()["net.reset_after_block"], 1);
}

#[test]
fn a_reset_breaks_pending_reads_and_writes_at_both_ends() {
    let net = net(1, NetWeather { window_bytes: (10, 10), ..NetWeather::calm() });
    let ((reader, mut writer), (far_reader, far_writer)) = pair(&net);
    let here = collect(&net, DIALLER, reader);
    let error: Shelf<Option<io::ErrorKind>> = Rc::default();
    let seen = error.clone();
    net.stall(A, B);
    let there = collect(&net, SERVER, far_reader);
    net.world().spawn(DIALLER, async move {
        *seen.borrow_mut() = write(&mut writer, &[1; 100]).await.err().map(|e| e.kind());
    });
    run_for(&net, ms(5));
    assert_eq!((*error.borrow(), here.end()), (None, None));
    net.reset(B, A);
    net.unstall(A, B);
    run_for(&net, ms(5));
    let reset = Some(io::ErrorKind::ConnectionReset);
    assert_eq!((*error.borrow(), here.end(), there.end()), (reset, Some(reset), Some(reset)));
    drop(far_writer);
    assert!(net.connections().is_empty());
}

#[test]
fn a_dead_process_closes_its_streams_and_listeners() {
    for (with_reset, end) in [(0.0, None), (1.0, Some(io::ErrorKind::ConnectionReset))] {
        let net = net(1, NetWeather { reset_at_death: with_reset, ..NetWeather::calm() });
        let ((reader, _writer), far) = pair(&net);
        let here = collect(&net, DIALLER, reader);
        net.world().spawn(SERVER, async move {
            std::future::pending::<()>().await;
            drop(far);
        });
        run_for(&net, ms(1));
        net.kill_process(SERVER, false);
        net.world().kill(SERVER);
        assert_eq!(here.end(), None);
        run_for(&net, ms(1));
        assert_eq!(here.end(), Some(end));
        let refused = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap();
        assert_eq!(refused.err().map(|e| e.kind()), Some(io::ErrorKind::ConnectionRefused));
    }
}

#[test]
fn a_reset_is_lost_in_a_block_and_comes_again_when_there_is_data() {
    let net = net(1, NetWeather { reset_at_death: 1.0, ..NetWeather::calm() });
    let ((reader, mut writer), _far) = pair(&net);
    let here = collect(&net, DIALLER, reader);
    net.block(B, A);
    net.kill_process(SERVER, false);
    run_for(&net, Duration::from_secs(60));
    net.unblock(B, A);
    run_for(&net, Duration::from_secs(60));
    assert_eq!(here.end(), None);
    let _writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"anybody?").await.unwrap();
        writer
    });
    run_for(&net, ms(1));
    assert_eq!(here.end(), Some(Some(io::ErrorKind::ConnectionReset)));
}

#[test]
fn after_a_power_cut_there_is_silence_until_the_host_is_back() {
    let net = net(1, NetWeather::calm());
    let listener = Rc::new(net.listen(SERVER, B, ADDRESS).unwrap());
    let ((reader, mut writer), far) = dial(&net, &listener);
    let here = collect(&net, DIALLER, reader);
    net.kill_process(SERVER, true);
    drop((far, listener));
    let _writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"anybody?").await.unwrap();
        writer
    });
    run_for(&net, Duration::from_secs(60));
    assert_eq!(here.end(), None);
    let lost = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap();
    assert_eq!(lost.err().map(|e| e.kind()), Some(io::ErrorKind::TimedOut));
    let _listener = net.listen(ProcessId(3), B, ADDRESS).unwrap();
    run_for(&net, Duration::from_secs(1));
    assert_eq!(here.end(), Some(Some(io::ErrorKind::ConnectionReset)));
    assert!(finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap().is_ok());
}

#[test]
fn a_stream_on_its_way_to_a_dead_process_is_not_taken_by_the_next_one() {
    for power_cut in [false, true] {
        let net = net(1, NetWeather::calm());
        let listener = net.listen(SERVER, B, ADDRESS).unwrap();
        let (reader, _writer) = finish(&net, DIALLER, connect(&net, TIMEOUT)).unwrap().unwrap();
        let here = collect(&net, DIALLER, reader);
        net.kill_process(SERVER, power_cut);
        drop(listener);
        let listener = net.listen(ProcessId(3), B, ADDRESS).unwrap();
        run_for(&net, ms(5));
        assert_eq!(here.end(), Some(Some(io::ErrorKind::ConnectionReset)));
        assert!(listener.backlog.queue.borrow().is_empty());
    }
}

#[test]
fn a_clog_makes_slow_and_its_end_fast() {
    let net = net(1, NetWeather::calm());
    let ((_reader, mut writer), (far_reader, _far_writer)) = pair(&net);
    let there = collect(&net, SERVER, far_reader);
    net.clog(A, B, 1e6);
    let _writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"slow").await.unwrap();
        writer
    });
    run_for(&net, Duration::from_secs(60));
    assert_eq!(there.len(), 0);
    net.clog(A, B, 1.0);
    run_for(&net, ms(1));
    assert_eq!(there.len(), 4);
}

#[test]
fn a_stalled_receiver_gets_nothing_until_it_is_let_go() {
    let net = net(1, NetWeather::calm());
    let ((_reader, mut writer), (far_reader, _far_writer)) = pair(&net);
    net.stall(A, B);
    let there = collect(&net, SERVER, far_reader);
    let _writer = finish(&net, DIALLER, async move {
        write(&mut writer, b"later").await.unwrap();
        writer
    });
    run_for(&net, Duration::from_secs(60));
    assert_eq!(there.len(), 0);
    net.unstall(A, B);
    run_for(&net, ms(1));
    assert_eq!(there.len(), 5);
}
