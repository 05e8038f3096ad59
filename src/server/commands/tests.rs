//! The table of commands: complete, consistent, and found by any spelling.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::{Handler, all, find};
use crate::server::resp::Decoder;

#[test]
fn every_command_is_found_in_any_case() {
    for spec in all() {
        assert_eq!(find(spec.name.as_bytes()).unwrap().name, spec.name);
        assert_eq!(find(spec.name.to_ascii_uppercase().as_bytes()).unwrap().name, spec.name);
    }
    let names: BTreeSet<_> = all().iter().map(|spec| spec.name).collect();
    assert_eq!(names.len(), all().len(), "no name twice");
    assert!(find(b"").is_none() && find(b"nosuch").is_none() && find(&[b'x'; 100]).is_none());
}

#[test]
fn what_goes_to_a_shard_has_keys_and_nothing_else_does() {
    for spec in all() {
        if spec.name == "session" {
            continue; // a container whose subcommands have a key
        }
        let keyed = matches!(spec.handler, Handler::Read(_) | Handler::Write(_) | Handler::Once);
        assert_eq!(keyed, spec.keys.0 > 0, "{}", spec.name);
        let writes = matches!(spec.handler, Handler::Write(_) | Handler::Once);
        if keyed {
            assert_eq!(writes, spec.flags.split(' ').any(|flag| flag == "write"), "{}", spec.name);
            assert!(spec.arity.unsigned_abs() >= 2, "{} needs a key", spec.name);
        }
    }
}

#[test]
fn keys_are_found_by_position() {
    let keys = |line: &str| {
        let line = format!("{line}\r\n").into_bytes();
        let mut decoder = Decoder::new();
        decoder.decode(&line).unwrap();
        let args = decoder.args(&line);
        let keys = find(&args[0]).unwrap().keys_of(args);
        keys.map(|key| String::from_utf8(key.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys("GET a"), ["a"]);
    assert_eq!(keys("SET a v EX 1"), ["a"]);
    assert_eq!(keys("MSET a 1 b 2"), ["a", "b"]);
    assert_eq!(keys("MSET a 1 b"), ["a", "b"]);
    assert_eq!(keys("DEL a b c"), ["a", "b", "c"]);
    assert_eq!(keys("COPY a b REPLACE"), ["a", "b"]);
    assert!(keys("PING").is_empty());
}
