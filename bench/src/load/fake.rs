//! A RESP server for tests: a thread per connection, and a script that decides every answer.
//!
//! It keeps what was SET, so that GET answers truly; the script can refuse, redirect, stall or drop
//! instead. Everything ends with the [`Fake`].

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::resp::{Reply, parse};

/// What the server does with one command.
pub enum Act {
    /// Answers as a store does.
    Serve,
    /// Answers with these bytes.
    Say(String),
    /// Never answers, and reads nothing more on this connection.
    Stall,
    /// Closes the connection.
    Drop,
}

/// Decides on a command from its number (over all connections, from 1, control commands not counted)
/// and its words.
pub type Script = dyn Fn(u64, &[Vec<u8>]) -> Act + Send + Sync;

struct State {
    script: Box<Script>,
    slots: Mutex<String>,
    data: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    commands: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// A running server.
pub struct Fake {
    pub address: SocketAddr,
    state: Arc<State>,
    listener: Option<JoinHandle<()>>,
}

impl Fake {
    /// Starts one on a free loopback port. It answers `CLUSTER SLOTS` with itself for all slots.
    pub fn start(script: impl Fn(u64, &[Vec<u8>]) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            slots: Mutex::new(slots(&[(0, 16383, address)])),
            data: Mutex::default(),
            commands: AtomicU64::new(0),
            open: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let listener = std::thread::spawn(move || accept(&listener, &shared));
        Self { address, state, listener: Some(listener) }
    }

    /// A store without tricks.
    pub fn store() -> Self {
        Self::start(|_, _| Act::Serve)
    }

    /// What it says to `CLUSTER SLOTS` from now on.
    pub fn set_slots(&self, ranges: &[(u16, u16, SocketAddr)]) {
        *self.state.slots.lock().unwrap() = slots(ranges);
    }

    /// Commands that arrived, control commands not counted.
    pub fn commands(&self) -> u64 {
        self.state.commands.load(Ordering::SeqCst)
    }

    /// Keys that were SET.
    pub fn keys(&self) -> usize {
        self.state.data.lock().unwrap().len()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; the port is this test's own.
        drop(TcpStream::connect(self.address));
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap();
        }
    }
}

fn slots(ranges: &[(u16, u16, SocketAddr)]) -> String {
    let mut text = format!("*{}\r\n", ranges.len());
    for (first, last, owner) in ranges {
        let host = owner.ip().to_string();
        text.push_str(&format!(
            "*3\r\n:{first}\r\n:{last}\r\n*3\r\n${}\r\n{host}\r\n:{}\r\n$2\r\nid\r\n",
            host.len(),
            owner.port()
        ));
    }
    text
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let stream = stream.unwrap();
        state.open.lock().unwrap().push(stream.try_clone().unwrap());
        let state = Arc::clone(state);
        std::thread::spawn(move || serve(stream, &state));
    }
}

fn serve(mut stream: TcpStream, state: &State) {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut out = Vec::new();
        let mut used = 0;
        while let Some((command, len)) = parse(&received[used..]).unwrap() {
            let Reply::Array(parts) = command else { panic!("{command:?} is no command") };
            let words: Vec<Vec<u8>> = parts
                .iter()
                .map(|part| match part {
                    Reply::Bulk(word) => word.to_vec(),
                    other => panic!("{other:?} in a command"),
                })
                .collect();
            match answer(state, &words) {
                Ok(text) => out.extend_from_slice(&text),
                Err(Act::Stall) => {
                    let _ = stream.write_all(&out);
                    // Sleeps until the test ends or the client closes; never answers.
                    while !matches!(stream.read(&mut chunk), Ok(0) | Err(_)) {}
                    return;
                }
                Err(_) => {
                    let _ = stream.write_all(&out);
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
            used += len;
        }
        received.drain(..used);
        if stream.write_all(&out).is_err() {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => received.extend_from_slice(&chunk[..count]),
        }
    }
}

fn answer(state: &State, words: &[Vec<u8>]) -> Result<Vec<u8>, Act> {
    match &words[0][..] {
        b"PING" => return Ok(b"+PONG\r\n".to_vec()),
        b"CLUSTER" => return Ok(state.slots.lock().unwrap().clone().into_bytes()),
        _ => {}
    }
    let number = state.commands.fetch_add(1, Ordering::SeqCst) + 1;
    match (state.script)(number, words) {
        Act::Serve => {}
        Act::Say(text) => return Ok(text.into_bytes()),
        act => return Err(act),
    }
    let mut data = state.data.lock().unwrap();
    Ok(match (&words[0][..], &words[1..]) {
        (b"SET", [key, value]) => {
            data.insert(key.clone(), value.clone());
            b"+OK\r\n".to_vec()
        }
        (b"GET", [key]) => match data.get(key) {
            Some(value) => {
                let mut text = format!("${}\r\n", value.len()).into_bytes();
                text.extend_from_slice(value);
                text.extend_from_slice(b"\r\n");
                text
            }
            None => b"$-1\r\n".to_vec(),
        },
        _ => panic!("unexpected command {words:?}"),
    })
}
