//! Other people's clients: `redis-cli`, `redis-benchmark` and redis-py, where they are installed.
//!
//! `CORACLE_BENCHMARK_REQUESTS` (default 20,000) is how many requests of each kind
//! `redis-benchmark` sends.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Stdio};

use support::cluster::{Cluster, Dev};
use support::wait::{self, SOON};

/// Runs a program to its end; its output, or `None` when it is not installed.
#[track_caller]
fn run(test: &str, program: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            wait::skip(test, &format!("{program}: {error}"));
            return None;
        }
    };
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.concat();
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    Some(text)
}

#[test]
fn redis_cli_follows_the_cluster() {
    let test = "redis_cli_follows_the_cluster";
    let dev = Dev::start(&[]);
    let port = |id| dev.address(id).port().to_string();
    let cli =
        |id, words: &[&str]| run(test, "redis-cli", &[&["-c", "-p", &port(id)], words].concat());
    // redis-cli gives up at CLUSTERDOWN: wait for a leader, and below until the others know it.
    dev.client(1).set("greeting", "early", SOON).unwrap();
    let Some(reply) = cli(1, &["set", "greeting", "hello"]) else { return };
    assert_eq!(reply.trim(), "OK");
    for id in [2, 3] {
        dev.client(id).get("greeting", SOON).unwrap();
        assert_eq!(cli(id, &["get", "greeting"]).unwrap().trim(), "hello", "through node {id}");
    }
    let hello = cli(1, &["-3", "hello", "3"]).unwrap();
    assert!(hello.contains("proto") && hello.contains('3'), "{hello}");
}

#[test]
fn redis_benchmark_ends_without_an_error() {
    let _alone = wait::alone();
    let cluster = Cluster::start();
    let port = cluster.address(1).port().to_string();
    let requests = wait::from_env("CORACLE_BENCHMARK_REQUESTS", 20_000).to_string();
    let arguments = "--cluster -t set,get,incr -r 10000 -d 128 -c 50 -q".split(' ');
    let arguments: Vec<&str> = arguments.chain(["-p", &port, "-n", &requests]).collect();
    let test = "redis_benchmark_ends_without_an_error";
    let Some(output) = run(test, "redis-benchmark", &arguments) else { return };
    for kind in ["SET:", "GET:", "INCR:"] {
        assert!(output.contains(kind), "{output}");
    }
    assert!(!output.to_lowercase().contains("error"), "{output}");
}

/// Mixed operations, each checked against a model.
const MIXED_OPERATIONS: &str = r"
import random, sys
from redis.cluster import RedisCluster
client = RedisCluster(host='127.0.0.1', port=int(sys.argv[1]), decode_responses=True)
random.seed(1)
model = {}
for number in range(int(sys.argv[2])):
    key = 'mixed-%d' % random.randrange(500)
    kind = random.randrange(6)
    if kind == 0:
        model[key] = str(number)
        assert client.set(key, number) is True
    elif kind == 1:
        got = client.get(key)
        assert got == model.get(key), (key, got, model.get(key))
    elif kind == 2:
        counter = 'n' + key
        model[counter] = str(int(model.get(counter, '0')) + 1)
        assert client.incr(counter) == int(model[counter])
    elif kind == 3:
        assert client.delete(key) == (1 if model.pop(key, None) is not None else 0)
    elif kind == 4:
        model[key] = model.get(key, '') + 'x'
        assert client.append(key, 'x') == len(model[key])
    else:
        assert client.exists(key) == (1 if key in model else 0)
print('checked', len(model), 'keys')
";

#[test]
fn redis_py_agrees_with_a_model() {
    let test = "redis_py_agrees_with_a_model";
    let python = Command::new("python3")
        .args(["-c", "import redis.cluster"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !python.is_ok_and(|status| status.success()) {
        return wait::skip(test, "python3 with the package `redis` is not installed");
    }
    let _alone = wait::alone();
    let cluster = Cluster::start();
    let port = cluster.address(1).port().to_string();
    let operations = wait::from_env("CORACLE_BENCHMARK_REQUESTS", 20_000).to_string();
    let output = run(test, "python3", &["-c", MIXED_OPERATIONS, &port, &operations]).unwrap();
    assert!(output.contains("checked"), "{output}");
}
