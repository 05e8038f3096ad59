//! `coracle dev`: a whole cluster with one command, for somebody who sees it for the first time.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::time::Instant;

use support::cluster::{Dev, Place};
use support::resp::{Connection, Reply};
use support::wait::SOON;

#[test]
fn a_newcomer_sets_through_one_node_and_gets_through_the_others() {
    let start = Instant::now();
    let dev = Dev::start(&[]);
    println!("up after {:?}", start.elapsed());

    dev.client(1).set("greeting", "hello", SOON).unwrap();
    for id in [2, 3] {
        let reply = dev.client(id).get("greeting", SOON).unwrap();
        assert_eq!(reply, Reply::Bulk(b"hello".to_vec()), "through node {id}");
    }
}

#[test]
fn a_node_that_does_not_lead_says_who_does() {
    let dev = Dev::start(&[]);
    dev.client(1).set("greeting", "hello", SOON).unwrap();
    let replies: Vec<Reply> = (1..=3)
        .map(|id| Connection::open(dev.address(id), SOON).unwrap().command("GET greeting").unwrap())
        .collect();
    let served = replies.iter().filter(|reply| reply.error().is_none()).count();
    assert_eq!(served, 1, "one node leads the shard: {replies:?}");
    for error in replies.iter().filter_map(Reply::error) {
        let address = error.rsplit(' ').next().unwrap();
        assert!(error.starts_with("MOVED ") && address.starts_with("127.0.0.1:"), "{error}");
    }
}

#[test]
fn it_says_what_to_type_and_leaves_nothing_behind() {
    let dev = Dev::start(&[]);
    let hint = format!("redis-cli -c -p {}", dev.port());
    assert!(dev.process().output().contains(&hint), "{}", dev.process().output());
    assert!(!dev.place().temporary_files().is_empty());

    let (ended, place) = dev.end(libc::SIGINT);
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.output);
    assert!(!ended.output.contains("panicked"), "{}", ended.output);
    assert_eq!(place.temporary_files(), Vec::<PathBuf>::new());
}

#[test]
fn a_data_directory_keeps_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--data-dir", directory.path().to_str().unwrap()];
    let mut place = Place::reserve();
    for round in 0..2 {
        let dev = Dev::start_at(place, &arguments);
        let mut client = dev.client(1);
        if round == 0 {
            client.set("kept", "yes", SOON).unwrap();
        } else {
            assert_eq!(client.get("kept", SOON).unwrap(), Reply::Bulk(b"yes".to_vec()));
        }
        let (ended, left) = dev.end(libc::SIGTERM);
        assert!(ended.status.success(), "{}\n{}", ended.status, ended.output);
        place = left;
    }
}

#[test]
fn other_sizes_work_too() {
    for arguments in [
        &["--nodes", "1", "--shards", "1"] as &[&str],
        &["--nodes", "3", "--cores", "2", "--shards", "5"],
    ] {
        let dev = Dev::start(arguments);
        let mut client = dev.client(1);
        for number in 0..100 {
            let key = format!("key-{number}");
            client.set(&key, &key, SOON).unwrap();
            assert_eq!(client.get(&key, SOON).unwrap(), Reply::Bulk(key.into_bytes()));
        }
    }
}

#[test]
fn more_cores_than_there_are_run_unpinned_and_say_so() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let cores = (cpus + 1).min(10).to_string();
    let dev = Dev::start(&["--nodes", "1", "--cores", &cores]);
    dev.client(1).set("key", "value", SOON).unwrap();
    if cpus < 10 {
        let output = dev.process().output();
        assert!(output.contains("unpinned"), "{output}");
    }
}
