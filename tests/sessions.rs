//! Client sessions over RESP with real processes: what is sent again across deaths of leaders is done once.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::client::{Client, Effect};
use support::cluster::{Cluster, key_in_shard};
use support::probe::{catches_up, writes_go_on};
use support::resp::Reply;
use support::wait::{self, SOON};

/// Sends a command until it is answered with something that is no error.
fn insist(client: &mut Client, key: &str, words: &[&str]) -> Reply {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    client.run(key, &words, Effect::Read, SOON).unwrap()
}

fn open(client: &mut Client, key: &str) -> String {
    let Reply::Array(opened) = insist(client, key, &["SESSION", "OPEN", key]) else {
        panic!("no session")
    };
    assert_eq!(opened[0].text().as_deref(), Some("session"));
    opened[1].text().unwrap()
}

/// The count after an increment, and whether an earlier copy was applied.
fn increment(client: &mut Client, key: &str, id: &str, number: u64) -> (i64, bool) {
    let number = number.to_string();
    let reply = insist(client, key, &["ONCE", id, &number, &number, "INCR", key]);
    match reply {
        Reply::Array(parts) => match parts[..] {
            [Reply::Int(count), Reply::Int(is_duplicate)] => (count, is_duplicate == 1),
            _ => panic!("{parts:?}"),
        },
        other => panic!("{other}"),
    }
}

#[test]
fn increments_that_are_sent_again_across_deaths_of_leaders_count_once() {
    let _alone = wait::alone();
    let mut cluster = Cluster::start();
    let key = key_in_shard("counter", 0);
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (mut client, mut other) = (cluster.client(), cluster.client());
    let id = open(&mut client, &key);
    let writer = {
        let (key, id, done, stop) = (key.clone(), id.clone(), done.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut again = 0;
            while !stop.load(Ordering::Relaxed) {
                let number = done.load(Ordering::Relaxed) + 1;
                let (count, is_duplicate) = increment(&mut client, &key, &id, number);
                assert_eq!(count, number as i64, "request {number}");
                again += u64::from(is_duplicate);
                // A copy that comes late, by another connection.
                if number % 7 == 0 {
                    assert_eq!(increment(&mut other, &key, &id, number), (count, true));
                }
                done.store(number, Ordering::Relaxed);
            }
            again
        })
    };
    let more = |by: u64| {
        let goal = done.load(Ordering::Relaxed) + by;
        wait::until("increments go on", SOON, || {
            assert!(!writer.is_finished(), "the writer has failed");
            let now = done.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    };
    for round in 0..3 {
        more(50);
        let leader = cluster.leader_of(&key, 1).or_else(|| cluster.leader_of(&key, 2));
        let victim = leader.unwrap_or(3);
        cluster.kill(victim);
        more(50);
        let value = format!("round-{round}");
        writes_go_on(&cluster, &value);
        cluster.start_node(victim);
        catches_up(&cluster, victim, &value);
    }
    stop.store(true, Ordering::Relaxed);
    let again = writer.join().unwrap();
    let all = done.load(Ordering::Relaxed);
    println!("{all} increments, {again} of them answered from an earlier copy");
    let read = cluster.client().get(&key, SOON).unwrap();
    assert_eq!(read, Reply::Bulk(all.to_string().into_bytes()));
}
