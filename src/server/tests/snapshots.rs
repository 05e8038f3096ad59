//! Snapshots on request, and what the server says about them.

use coracle_engine::ShardId;
use coracle_engine::core::testing::change_counters;

use super::world::{World, command, view};

#[test]
fn a_background_save_asks_for_a_snapshot_of_every_shard_of_the_core() {
    let mut world = World::new(view(4, 1));
    let client = world.connect();
    let started = "+Background saving started\r\n";
    assert_eq!(world.ask(&client, &command("BGSAVE")), started);
    assert_eq!(world.snapshots, [0, 1, 2, 3].map(ShardId), "led or not");
    assert_eq!(world.ask(&client, &command("bgsave schedule")), started);
    assert_eq!(world.snapshots.len(), 8);
    assert_eq!(world.ask(&client, &command("BGSAVE NOW")), "-ERR syntax error\r\n");
    assert_eq!(world.ask(&client, &command("BGSAVE SCHEDULE NOW")), "-ERR syntax error\r\n");
    assert_eq!(world.snapshots.len(), 8);
}

#[test]
fn info_and_lastsave_tell_of_snapshots() {
    let mut world = World::new(view(2, 1));
    let client = world.connect();
    assert_eq!(world.ask(&client, &command("LASTSAVE")), ":0\r\n");
    change_counters(&world.core, |counters| {
        counters.snapshots = 5;
        counters.snapshots_now = 2;
        counters.snapshots_failed = 1;
        counters.snapshot_oldest_ms = 1_767_225_600_999;
        counters.disk_bytes = 1 << 30;
        counters.log_memory_bytes = 1 << 20;
    });
    assert_eq!(world.ask(&client, &command("LASTSAVE")), ":1767225600\r\n");
    let info = world.ask(&client, &command("INFO persistence"));
    for line in [
        "rdb_bgsave_in_progress:1",
        "rdb_last_save_time:1767225600",
        "rdb_saves:5",
        "snapshots_in_progress:2",
        "snapshots_failed:1",
        "log_memory_bytes:1048576",
        "log_disk_bytes:1073741824",
    ] {
        assert!(info.contains(line), "{line} is not in {info}");
    }
}
