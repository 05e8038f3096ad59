//! Starts that cannot work: each is refused with a message that says what, where and what to do, and
//! the nodes that run are not disturbed.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::TcpListener;

use support::cluster::Cluster;
use support::confine::Confinement;
use support::ports::Ports;
use support::resp::Reply;
use support::wait::{self, SOON};

const FREE: Confinement = Confinement {
    locked_memory_bytes: None,
    open_files: None,
    user: None,
    deny_io_uring: false,
    network: None,
};

/// A running cluster that holds a key.
fn running() -> Cluster {
    let cluster = Cluster::start();
    cluster.client().set("kept", "yes", SOON).unwrap();
    cluster
}

/// Proves that all nodes run and the key is served.
#[track_caller]
fn still_serves(mut cluster: Cluster) {
    cluster.start_all();
    cluster.assert_running();
    assert_eq!(cluster.client().get("kept", SOON).unwrap(), Reply::Bulk(b"yes".to_vec()));
}

/// `arguments` with the value after `option` replaced.
fn with(arguments: &[String], option: &str, value: &str) -> Vec<String> {
    let mut arguments = arguments.to_vec();
    let at = arguments.iter().position(|argument| argument == option).unwrap();
    arguments[at + 1] = value.to_owned();
    arguments
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn nonsense_on_the_command_line() {
    let cluster = Cluster::prepare();
    let good = cluster.arguments(1);
    cluster.refuses(&words("conquer"), FREE, &["conquer"]);
    cluster.refuses(&words("dev --bogus"), FREE, &["--bogus"]);
    cluster.refuses(&words("dev --nodes 0"), FREE, &["nodes"]);
    cluster.refuses(&words("dev --port 65000"), FREE, &["port"]);
    cluster.refuses(&with(&good, "--id", "nine"), FREE, &["nine", "--id"]);
    cluster.refuses(&with(&good, "--id", "9"), FREE, &["9", "member"]);
    cluster.refuses(&with(&good, "--id", "0"), FREE, &["node 0", "member"]);
    cluster.refuses(&with(&good, "--shards", "0"), FREE, &["shards"]);
    cluster.refuses(&with(&good, "--shards", "20000"), FREE, &["shards"]);
    cluster.refuses(&with(&good, "--cores", "0"), FREE, &["cores"]);
    cluster.refuses(&with(&good, "--member", "1=localhost"), FREE, &["1=localhost", "member"]);
    cluster.refuses(&with(&good, "--member", "1=a:99999,b:1"), FREE, &["99999"]);
    cluster.refuses(&with(&good, "--member", &cluster.member(2)), FREE, &["2", "member"]);
}

#[test]
fn nonsense_in_the_configuration() {
    let cluster = Cluster::prepare();
    let file = cluster.path("coracle.toml");
    let arguments = words(&format!("serve --config {}", file.display()));
    cluster.refuses(&arguments, FREE, &["coracle.toml"]);
    for (text, fragments) in [
        ("id = 1\nbogus_key = 2\n", &["bogus_key", "coracle.toml"]),
        ("id = \"one\"\n", &["id", "coracle.toml"]),
        ("id = \n", &["coracle.toml", "1"]),
    ] {
        fs::write(&file, text).unwrap();
        cluster.refuses(&arguments, FREE, fragments);
    }
}

#[test]
fn a_port_in_use() {
    let mut cluster = running();
    cluster.kill(3);
    for address in [cluster.address(3), cluster.peer_address(3), cluster.admin_address(3)] {
        let bind = || TcpListener::bind(address).map_err(|error| error.to_string());
        let squatter = wait::until("the port of the killed node", SOON, bind);
        let port = address.port().to_string();
        let flags: &[&str] = if address == cluster.admin_address(3) {
            &[&port, "in use", "--admin", "--no-admin"]
        } else {
            &[&port, "in use"]
        };
        cluster.refuses(&cluster.arguments(3), FREE, flags);
        drop(squatter);
    }
    let mut ours = cluster.arguments(3);
    ours.extend(["--admin".to_owned(), cluster.peer_address(3).to_string()]);
    cluster.refuses(&ours, FREE, &["administration", "its peers"]);
    still_serves(cluster);
}

#[test]
fn a_data_directory_in_use() {
    let cluster = running();
    let directory = cluster.data_dir(1);
    cluster.refuses(&cluster.arguments(1), FREE, &[directory.to_str().unwrap(), "in use"]);
    still_serves(cluster);
}

#[test]
fn a_second_node_with_the_same_id() {
    let cluster = running();
    let impostor = cluster.path("impostor");
    let arguments = with(&cluster.arguments(1), "--data-dir", impostor.to_str().unwrap());
    cluster.refuses(&arguments, FREE, &["in use"]);
    still_serves(cluster);
}

#[test]
fn a_second_node_with_the_same_id_elsewhere() {
    let cluster = running();
    let ports = Ports::reserve();
    let elsewhere = format!("1=127.0.0.1:{},127.0.0.1:{}", ports.client(1), ports.peer(1));
    let impostor = cluster.path("impostor");
    let arguments = with(&cluster.arguments(1), "--data-dir", impostor.to_str().unwrap());
    let arguments = with(&arguments, "--member", &elsewhere);
    says(&cluster, &arguments, &["refused", "node id 1 is in use by another running process"]);
    still_serves(cluster);
}

#[test]
fn a_data_directory_of_another_node() {
    let mut cluster = running();
    cluster.kill(1);
    cluster.kill(2);
    let directory = cluster.data_dir(2);
    let directory = directory.to_str().unwrap();
    let arguments = with(&cluster.arguments(1), "--data-dir", directory);
    cluster.refuses(&arguments, FREE, &[directory, "belongs to node 2, not 1"]);
    still_serves(cluster);
}

#[test]
fn a_data_directory_made_with_other_settings() {
    let mut cluster = running();
    cluster.kill(1);
    let directory = cluster.data_dir(1);
    let directory = directory.to_str().unwrap();
    let ours = cluster.arguments(1);
    let elsewhere = [ours.clone(), words("--cluster-id other")].concat();
    cluster.refuses(&elsewhere, FREE, &[directory, "cluster coracle, not other"]);
    cluster.refuses(&with(&ours, "--shards", "16"), FREE, &[directory, "shard count", "not 16"]);
    cluster.refuses(&with(&ours, "--cores", "2"), FREE, &[directory, "core count", "not 2"]);
    still_serves(cluster);
}

/// Changes the file that says whose a data directory is.
fn edit_identity(cluster: &Cluster, id: u64, edit: impl FnOnce(&str) -> String) -> String {
    let file = cluster.data_dir(id).join("coracle.toml");
    let before = fs::read_to_string(&file).unwrap();
    let after = edit(&before);
    assert_ne!(before, after);
    fs::write(&file, after).unwrap();
    before
}

#[test]
fn a_data_directory_of_a_newer_format() {
    let mut cluster = running();
    cluster.kill(1);
    let newer = |text: &str| text.replace("format = 1\n", "format = 999\nnew_key = 1\n");
    let before = edit_identity(&cluster, 1, newer);
    let directory = cluster.data_dir(1);
    let fragments = [directory.to_str().unwrap(), "format 999", "newer"];
    cluster.refuses(&cluster.arguments(1), FREE, &fragments);
    edit_identity(&cluster, 1, |_| before);
    still_serves(cluster);
}

#[test]
fn a_damaged_data_directory() {
    let mut cluster = running();
    cluster.kill(1);
    let directory = cluster.data_dir(1);
    let directory = directory.to_str().unwrap();
    let before = edit_identity(&cluster, 1, |text| text[..text.len() / 2].to_owned());
    cluster.refuses(&cluster.arguments(1), FREE, &[directory, "damaged"]);

    let file = cluster.data_dir(1).join("coracle.toml");
    fs::remove_file(&file).unwrap();
    cluster.refuses(&cluster.arguments(1), FREE, &[directory, "not empty"]);
    fs::write(&file, before).unwrap();
    still_serves(cluster);
}

/// Starts `coracle` with `arguments` and waits until its output has all of `fragments`.
#[track_caller]
fn says(cluster: &Cluster, arguments: &[String], fragments: &[&str]) {
    let process = cluster.spawn("outsider", arguments, FREE);
    wait::until(&format!("the outsider to say {fragments:?}"), SOON, || {
        let output = process.output();
        let said = fragments.iter().all(|fragment| output.contains(fragment));
        if said { Ok(()) } else { Err(output) }
    });
    assert!(!process.output().contains("panicked"), "{}", process.output());
}

#[test]
fn peers_that_do_not_belong_here() {
    let mut cluster = running();
    cluster.kill(3);
    let fresh = |name: &str| {
        let directory = cluster.path(name);
        with(&cluster.arguments(3), "--data-dir", directory.to_str().unwrap())
    };
    let other_cluster = [fresh("other-cluster"), words("--cluster-id other")].concat();
    says(&cluster, &other_cluster, &["refused", "this is cluster 'coracle', not 'other'"]);
    let other_shards = with(&fresh("other-shards"), "--shards", "16");
    says(&cluster, &other_shards, &["refused", "this cluster has 8 shards, not 16"]);
    still_serves(cluster);
}

/// One address is all that it knows; what is missing is an operator's word.
#[test]
fn a_node_that_nobody_has_added() {
    let cluster = running();
    let directory = cluster.path("stranger");
    let ports = Ports::reserve();
    let (client, peer) = (ports.client(1), ports.peer(1));
    let own = format!("9=127.0.0.1:{client},127.0.0.1:{peer}");
    let arguments = words(&format!(
        "serve --id 9 --data-dir {} --shards 8 --client 127.0.0.1:{client} --peer 127.0.0.1:{peer} --join {}",
        directory.display(),
        cluster.peer_address(2),
    ));
    let command = format!("node 9 is not a member yet: run coraclectl add {own}");
    says(&cluster, &arguments, &["refused", &command]);
    cluster.refuses(&with(&arguments, "--join", "nowhere"), FREE, &["nowhere", "HOST:PORT"]);
    cluster.refuses(&with(&arguments, "--peer", "1"), FREE, &["--peer", "HOST:PORT"]);
    let voter = [arguments.clone(), words("--voter 9")].concat();
    cluster.refuses(&voter, FREE, &["--voter", "--join"]);
    let elsewhere = cluster.path("other-number");
    let shards = with(&arguments, "--shards", "16");
    let shards = with(&shards, "--data-dir", elsewhere.to_str().unwrap());
    says(&cluster, &shards, &["this cluster has 8 shards, not 16", "empty data directory"]);
    still_serves(cluster);
}

#[test]
fn a_data_directory_that_is_a_file() {
    let cluster = Cluster::prepare();
    let file = cluster.data_dir(1);
    fs::write(&file, "").unwrap();
    cluster.refuses(&cluster.arguments(1), FREE, &[file.to_str().unwrap(), "directory"]);
}

#[test]
fn a_data_directory_that_may_not_be_written() {
    let cluster = Cluster::prepare();
    let directory = cluster.data_dir(1);
    fs::create_dir(&directory).unwrap();
    let mut permissions = fs::metadata(&directory).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o555);
    fs::set_permissions(&directory, permissions).unwrap();
    let fragments = [directory.to_str().unwrap(), "permission denied"];
    cluster.refuses(&cluster.arguments(1), Confinement::unprivileged(), &fragments);
}

#[test]
fn too_little_locked_memory() {
    let cluster = Cluster::prepare();
    let confinement =
        Confinement { locked_memory_bytes: Some(64 << 10), ..Confinement::unprivileged() };
    cluster.refuses(&cluster.arguments(1), confinement, &["locked", "ulimit -l"]);
}

#[test]
fn eight_mebibytes_of_locked_memory_are_enough() {
    let mut cluster = Cluster::prepare();
    let confinement =
        Confinement { locked_memory_bytes: Some(8 << 20), ..Confinement::unprivileged() };
    for id in 1..=3 {
        cluster.start_node_in(id, confinement);
    }
    cluster.wait_ready();
}

#[test]
fn io_uring_denied_by_a_filter() {
    let cluster = Cluster::prepare();
    let confinement = Confinement { deny_io_uring: true, ..FREE };
    cluster.refuses(&cluster.arguments(1), confinement, &["io_uring", "seccomp"]);
}

#[test]
fn more_cores_than_can_be() {
    let cluster = Cluster::prepare();
    let arguments = with(&cluster.arguments(1), "--cores", "4096");
    cluster.refuses(&arguments, FREE, &["cores", "4096"]);
    let arguments = with(&cluster.arguments(1), "--cores", "9");
    cluster.refuses(&arguments, FREE, &["8 shards", "9 cores"]);
}
