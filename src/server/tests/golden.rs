//! Replies compared byte for byte with those of Redis 7.0, which `testdata/record.py` has recorded.

use super::world::{World, command, request, view};
use crate::server::resp::Decoder;

/// Turns `< +OK\r\n` back into bytes.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, tail) = match tail {
            [b'n', tail @ ..] => (b'\n', tail),
            [b'r', tail @ ..] => (b'\r', tail),
            [b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                let text = std::str::from_utf8(&digits).unwrap();
                (u8::from_str_radix(text, 16).unwrap(), tail)
            }
            [other, tail @ ..] => (*other, tail),
            [] => panic!("a backslash at the end of {text:?}"),
        };
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

/// The words of a command line, by the rules of inline requests.
fn words(line: &str) -> Vec<Vec<u8>> {
    let line = format!("{line}\r\n").into_bytes();
    let mut decoder = Decoder::new();
    decoder.decode(&line).unwrap().unwrap();
    decoder.args(&line).iter().map(<[u8]>::to_vec).collect()
}

fn compare(name: &str, golden: &str) {
    let mut world = World::new(view(1, 1));
    let mut client = world.connect();
    let (mut asked, mut differences, mut compared) = (String::new(), Vec::new(), 0);
    let mut reply = Vec::new();
    for (number, line) in golden.lines().enumerate() {
        if let Some(command) = line.strip_prefix("> ") {
            let words = words(command);
            client.send(&request(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()));
            world.run();
            (asked, reply) = (command.to_owned(), client.received().to_vec());
        } else if let Some(expected) = line.strip_prefix("< ") {
            compared += 1;
            if reply != unescaped(expected) {
                let got = String::from_utf8_lossy(&reply).into_owned();
                differences.push(format!(
                    "{name}:{}: {asked}\n  Redis: {expected}\n  here:  {}",
                    number + 1,
                    got.escape_debug()
                ));
            }
        } else if line == "@new" {
            client = world.connect();
            assert_eq!(world.ask(&client, &command("FLUSHALL")), "+OK\r\n");
        } else if line == "@resp2" || line == "@resp3" {
            world.ask(&client, &command(&format!("HELLO {}", &line[5..])));
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{name}:{}: {line}", number + 1);
        }
    }
    assert!(compared > 50, "{name} has only {compared} replies");
    assert!(
        differences.is_empty(),
        "{} of {compared} replies differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn strings_like_redis() {
    compare("strings.golden", include_str!("../testdata/strings.golden"));
}

#[test]
fn floats_like_redis() {
    compare("floats.golden", include_str!("../testdata/floats.golden"));
}

#[test]
fn keys_like_redis() {
    compare("keys.golden", include_str!("../testdata/keys.golden"));
}

#[test]
fn connections_like_redis() {
    compare("connection.golden", include_str!("../testdata/connection.golden"));
}
