//! Configuration files: any text.

use coracle::{Config, Pin};

use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "config",
    run,
    mend: None,
    seeds,
    memory: Memory {
        constant: 1 << 20,
        factor: 512,
        reason: "the TOML reader keeps a node of some 100 bytes for a value of 2 bytes; two configurations and \
                 their texts are kept",
    },
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match Config::from_toml(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let verdict = config.validate();
    let written = write(&config);
    let again = Config::from_toml(&written).expect("what was read can be written and read");
    assert_eq!(format!("{again:?}"), format!("{config:?}"), "and is the same");
    assert_eq!(again.validate(), verdict);
    if verdict.is_ok() {
        let own = config.own_member().expect("a valid configuration names this node");
        assert_eq!(own.to_string().parse(), Ok(own.clone()), "a member reads as it prints");
        assert_eq!(config.shard_ids().count(), config.shards as usize);
    }
}

/// The file that says what `config` says.
fn write(config: &Config) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let members: Vec<String> =
        config.members.iter().map(|member| quoted(&member.to_string())).collect();
    let voters = match &config.voters {
        Some(voters) => format!("voters = {voters:?}\n"),
        None => String::new(),
    };
    let pin = match config.pin {
        Pin::Auto => "auto",
        Pin::Always => "always",
        Pin::Never => "never",
    };
    format!(
        "id = {}\ndata_dir = {}\ncores = {}\nshards = {}\nmembers = [{}]\n{voters}cluster_id = {}\n\
         election_timeout_ms = {}\nheartbeat_interval_ms = {}\nsync_method = {}\nsegment_mib = {}\n\
         pin = \"{pin}\"\nclients_max = {}\nstart_on_damage = {}\n",
        config.id.0,
        quoted(&config.data_dir.to_string_lossy()),
        config.cores,
        config.shards,
        members.join(", "),
        quoted(&config.cluster_id),
        config.election_timeout_ms,
        config.heartbeat_interval_ms,
        quoted(&config.sync_method.to_string()),
        config.segment_mib,
        config.clients_max,
        config.start_on_damage,
    )
}

fn seeds() -> Vec<Seed> {
    let member = "1=10.0.0.1:7001,10.0.0.1:8001";
    let small = format!("id = 1\ndata_dir = \"data\"\nmembers = [\"{member}\"]\n");
    let full = Config::from_toml(&small).map(|config| write(&config)).unwrap_or_default();
    let three = "id = 2\ndata_dir = \"/var/lib/coracle\"\ncores = 2\nshards = 64\nsync_method = \"linked\"\n\
                 pin = \"never\"\nmembers = [\n  \"1=a:7001,a:8001\",\n  \"2=[::1]:7001,[::1]:8001\",\n  \
                 \"3=c.example:7001,c.example:65534\",\n]\n";
    vec![
        Seed::new("small", small.clone()),
        Seed::new("full", full),
        Seed::new("three", three),
        Seed::new("unknown-key", format!("{small}shardz = 4\n")),
        Seed::new("no-toml", "id = [1, {"),
    ]
}
