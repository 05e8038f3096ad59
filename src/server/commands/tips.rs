//! Hints for cluster clients: to which nodes a command without a single slot is to be sent, and how
//! the replies are put together. Clients that know them (redis-py among others) rely on them.

const ALL_SHARDS: &str = "request_policy:all_shards";
const MULTI_SHARD: &str = "request_policy:multi_shard";
const ALL_SUCCEEDED: &str = "response_policy:all_succeeded";
const SUM: &str = "response_policy:agg_sum";
const VARIES: &str = "nondeterministic_output";
const ORDER_VARIES: &str = "nondeterministic_output_order";

/// The hints for a command, as Redis 7.0 gives them.
pub(super) fn tips(name: &str) -> &'static [&'static str] {
    match name {
        "ping" | "flushall" | "flushdb" => &[ALL_SHARDS, ALL_SUCCEEDED],
        "info" => &[VARIES, ALL_SHARDS, "response_policy:special"],
        "dbsize" => &[ALL_SHARDS, SUM],
        "mget" => &[MULTI_SHARD],
        "mset" => &[MULTI_SHARD, ALL_SUCCEEDED],
        "msetnx" => &[MULTI_SHARD, "response_policy:agg_min"],
        "del" | "unlink" | "exists" | "touch" => &[MULTI_SHARD, SUM],
        "keys" => &[ALL_SHARDS, ORDER_VARIES],
        "scan" => &[VARIES, "request_policy:special"],
        "randomkey" => &[ALL_SHARDS, VARIES],
        "ttl" | "pttl" | "time" | "lastsave" => &[VARIES],
        "command" => &[ORDER_VARIES],
        _ => &[],
    }
}
