//! The disk's contract, on real files.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use coracle_wal::{AlignedBuf, Disk, DiskFile, OpenMode};
use futures_util::FutureExt;

use super::{SyncMethod, UringDisk, UringOptions};
use crate::runtime::{CoreSpec, spawn_core};
use coracle_engine::env::Env;

const BLOCK: usize = coracle_wal::limits::BLOCK_BYTES;
const METHODS: [SyncMethod; 4] =
    [SyncMethod::Auto, SyncMethod::Linked, SyncMethod::Dsync, SyncMethod::BufferedNone];

/// Runs `test` on a core, in a temporary directory of its own.
fn on_core<F, Fut>(test: F)
where
    F: FnOnce(std::path::PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    spawn_core(CoreSpec::new("test"), move |_| test(path)).unwrap().join().unwrap();
}

fn filled(byte: u8, len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    buf.fill(byte);
    buf
}

async fn read_all(disk: &UringDisk, name: &str, len: usize) -> Vec<u8> {
    let file = disk.open(name, OpenMode::Existing).await.unwrap();
    let (count, buf) = file.read_at(0, AlignedBuf::zeroed(len), len).await;
    buf[..count.unwrap()].to_vec()
}

#[test]
fn files_are_created_written_read_renamed_and_removed_with_every_method() {
    on_core(|dir| async move {
        for method in METHODS {
            let disk = UringDisk::open(&dir, method).await.unwrap();
            assert_ne!(disk.sync_choice().method, SyncMethod::Auto);
            let file = disk.open("a", OpenMode::CreateNew).await.unwrap();
            file.allocate(8 * BLOCK as u64).await.unwrap();
            assert_eq!(file.size().await.unwrap(), 8 * BLOCK as u64);
            let (count, buf) = file.write_at(0, filled(1, BLOCK), BLOCK).await;
            assert_eq!(count.unwrap(), BLOCK);
            assert!(buf.iter().all(|b| *b == 1));
            let (count, _) =
                file.write_durable(BLOCK as u64, filled(2, 2 * BLOCK), 2 * BLOCK).await;
            assert_eq!(count.unwrap(), 2 * BLOCK);
            file.sync().await.unwrap();
            disk.rename("a", "b").await.unwrap();
            disk.sync_dir().await.unwrap();
            assert_eq!(disk.list().await.unwrap(), ["b"]);
            let bytes = read_all(&disk, "b", 8 * BLOCK).await;
            assert_eq!(bytes.len(), 8 * BLOCK);
            assert!(bytes[..BLOCK].iter().all(|b| *b == 1), "{method}");
            assert!(bytes[BLOCK..3 * BLOCK].iter().all(|b| *b == 2), "{method}");
            assert!(bytes[3 * BLOCK..].iter().all(|b| *b == 0), "{method}");
            disk.remove("b").await.unwrap();
            assert!(disk.list().await.unwrap().is_empty());
        }
    });
}

#[test]
fn open_modes_and_bad_names_are_errors_that_name_the_file() {
    on_core(|dir| async move {
        let disk = UringDisk::open(&dir, SyncMethod::Auto).await.unwrap();
        let error = disk.open("absent", OpenMode::Existing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("absent"), "{error}");
        disk.open("there", OpenMode::CreateNew).await.unwrap();
        let error = disk.open("there", OpenMode::CreateNew).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(disk.remove("absent").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.rename("absent", "x").await.unwrap_err().kind(), ErrorKind::NotFound);
        for bad in ["", ".", "..", "a/b", "/etc/passwd", "nul\0"] {
            let error = disk.open(bad, OpenMode::CreateNew).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    });
}

#[test]
fn a_missing_directory_is_an_error_that_names_it() {
    on_core(|dir| async move {
        let error = UringDisk::open(&dir.join("gone"), SyncMethod::Auto).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("gone"), "{error}");
    });
}

#[test]
fn a_read_past_the_end_is_short_and_a_transfer_past_the_buffer_is_refused() {
    on_core(|dir| async move {
        let disk = UringDisk::open(&dir, SyncMethod::Auto).await.unwrap();
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, filled(7, BLOCK), BLOCK).await.0.unwrap();
        let (count, _) = file.read_at(0, AlignedBuf::zeroed(4 * BLOCK), 4 * BLOCK).await;
        assert_eq!(count.unwrap(), BLOCK);
        let (count, _) = file.read_at(BLOCK as u64, AlignedBuf::zeroed(BLOCK), BLOCK).await;
        assert_eq!(count.unwrap(), 0);
        let (result, _) = file.write_durable(0, filled(1, BLOCK), 2 * BLOCK).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_failed_write_of_a_linked_pair_is_that_error_and_not_its_cancelled_sync() {
    on_core(|dir| async move {
        let disk = UringDisk::open(&dir, SyncMethod::Linked).await.unwrap();
        if !disk.is_direct() {
            return; // only O_DIRECT refuses an odd position
        }
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        let (result, _) = file.write_durable(1, filled(1, BLOCK), BLOCK).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let (result, _) = file.write_durable(0, filled(1, BLOCK), BLOCK).await;
        assert_eq!(result.unwrap(), BLOCK);
    });
}

#[test]
fn dropped_futures_leave_the_kernel_its_buffers_and_the_ring_usable() {
    on_core(|dir| async move {
        let disk = UringDisk::open(&dir, SyncMethod::Linked).await.unwrap();
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        file.allocate(1024 * BLOCK as u64).await.unwrap();
        for round in 0..1000_u64 {
            let position = round % 1024 * BLOCK as u64;
            // Submitted by the first poll, dropped at once.
            let write = file.write_durable(position, filled(9, BLOCK), BLOCK);
            drop(write.now_or_never());
        }
        file.sync().await.unwrap();
        let (count, buf) = file.read_at(0, AlignedBuf::zeroed(BLOCK), BLOCK).await;
        assert_eq!(count.unwrap(), BLOCK);
        assert!(buf.iter().all(|b| *b == 9));
        drop(disk.open("g", OpenMode::CreateNew).now_or_never());
        drop((file, disk)); // with operations in flight
    });
}

/// The kernel looks a directory's number up only when it gets to the request: an abandoned creation
/// once ended in another directory, which had got the number meanwhile.
#[test]
fn an_abandoned_creation_stays_in_its_own_directory() {
    on_core(|dir| async move {
        let (own, other) = (dir.join("own"), dir.join("other"));
        std::fs::create_dir(&own).unwrap();
        std::fs::create_dir(&other).unwrap();
        for round in 0..200 {
            let disk = UringDisk::open(&own, SyncMethod::Auto).await.unwrap();
            drop(disk.open(&format!("f{round}"), OpenMode::CreateNew).now_or_never());
            drop(disk);
            let reused = std::fs::File::open(&other).unwrap();
            glommio::timer::sleep(Duration::from_micros(200)).await;
            drop(reused);
        }
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
    });
}

#[test]
fn more_operations_than_the_ring_holds_wait_for_room() {
    on_core(|dir| async move {
        let disk = UringDisk::open(&dir, SyncMethod::Linked).await.unwrap();
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        let count = super::ring::OPS_IN_FLIGHT_MAX * 5;
        file.allocate((count * BLOCK) as u64).await.unwrap();
        let writes = (0..count).map(|i| {
            let file = file.clone();
            let position = (i * BLOCK) as u64;
            async move { file.write_at(position, filled(i as u8, BLOCK), BLOCK).await.0.unwrap() }
        });
        futures_util::future::join_all(writes).await;
        let bytes = read_all(&disk, "f", count * BLOCK).await;
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            assert!(block.iter().all(|b| *b == i as u8), "block {i}");
        }
    });
}

/// Whoever reads ahead may look at what it has begun much later, or never: others go on beside the log all the same.
#[test]
fn bulk_that_nobody_polls_holds_up_nobody() {
    on_core(|dir| async move {
        const MIB: usize = 1 << 20;
        let disk = UringDisk::open(&dir, SyncMethod::Auto).await.unwrap();
        let file = disk.open("a", OpenMode::CreateNew).await.unwrap();
        file.allocate(MIB as u64).await.unwrap();
        let mut begun = Vec::new();
        for round in 0..8 {
            let (count, _) = file.write_durable(0, filled(round, BLOCK), BLOCK).await;
            assert_eq!(count.unwrap(), BLOCK);
            let mut read = Box::pin(file.read_at(0, AlignedBuf::zeroed(MIB), MIB));
            let _ = read.as_mut().now_or_never();
            begun.push(read);
        }
        let (count, _) = file.read_at(0, AlignedBuf::zeroed(MIB), MIB).await;
        assert_eq!(count.unwrap(), MIB);
    });
}

#[test]
fn spinning_for_completions_works_too() {
    on_core(|dir| async move {
        let options =
            UringOptions { sync_method: SyncMethod::Auto, spin: Duration::from_millis(5) };
        let disk = UringDisk::open_with(&dir, options).await.unwrap();
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        for _ in 0..20 {
            file.write_durable(0, filled(1, BLOCK), BLOCK).await.0.unwrap();
        }
    });
}

#[test]
fn a_directory_without_o_direct_still_works() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        eprintln!("SKIPPED: no /dev/shm on this host");
        return;
    }
    let dir = tempfile::tempdir_in(shm).unwrap();
    let path = dir.path().to_owned();
    let core = spawn_core(CoreSpec::new("test"), move |_| async move {
        let disk = UringDisk::open(&path, SyncMethod::Auto).await.unwrap();
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        file.allocate(4 * BLOCK as u64).await.unwrap();
        file.write_durable(0, filled(3, BLOCK), BLOCK).await.0.unwrap();
        file.sync().await.unwrap();
        disk.sync_dir().await.unwrap();
        assert_eq!(read_all(&disk, "f", BLOCK).await, vec![3; BLOCK]);
    });
    core.unwrap().join().unwrap();
}

/// A small file system of its own, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_storage_full_and_works_again_when_space_returns() {
    let Some(small) = SmallDisk::mount("size=64k") else {
        eprintln!("SKIPPED: mounting a tmpfs needs privileges");
        return;
    };
    let path = small.0.path().to_owned();
    let core = spawn_core(CoreSpec::new("test"), move |_| async move {
        let disk = UringDisk::open(&path, SyncMethod::Linked).await.unwrap();
        let file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        let error = file.allocate(1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(
            error.to_string().contains("allocate space for") && error.to_string().contains('f')
        );
        let len = 1 << 20;
        let (result, buf) = file.write_durable(0, filled(1, len), len).await;
        let written = result.unwrap(); // short: what there was room for
        assert!(written < len);
        let (result, _) = file.write_durable(written as u64, buf, BLOCK).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        drop(file);
        disk.remove("f").await.unwrap();
        let file = disk.open("g", OpenMode::CreateNew).await.unwrap();
        // The space returns when the kernel's worker has closed the removed file.
        let mut result = file.write_durable(0, filled(2, BLOCK), BLOCK).await.0;
        for _ in 0..1000 {
            if result.is_ok() {
                break;
            }
            glommio::timer::sleep(Duration::from_millis(5)).await;
            result = file.write_durable(0, filled(2, BLOCK), BLOCK).await.0;
        }
        assert_eq!(result.unwrap(), BLOCK);
    });
    core.unwrap().join().unwrap();
}

/// Flushes that the disk has carried out since the system started.
fn flushes_of(disk: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/sys/block/{disk}/stat")).ok()?;
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// Writes one after another cannot share a flush: each is asked for after the one before is over. So
/// the disk itself must have counted at least as many, whatever other processes do.
#[test]
fn the_device_carries_out_a_flush_for_each_durable_write() {
    const WRITES: u64 = 50;
    on_core(|dir| async move {
        let facts = super::DeviceFacts::of(&dir).unwrap();
        let flushes = || facts.disk.as_deref().and_then(flushes_of);
        if facts.write_cache != Some(super::WriteCache::WriteBack) || flushes().is_none() {
            eprintln!("SKIPPED: the disk of {} counts no flushes ({facts})", dir.display());
            return;
        }
        for method in [SyncMethod::Linked, SyncMethod::Dsync] {
            let disk = UringDisk::open(&dir, method).await.unwrap();
            let file = disk.open(method.name(), OpenMode::CreateNew).await.unwrap();
            file.allocate(WRITES * BLOCK as u64).await.unwrap();
            let before = flushes().unwrap();
            for i in 0..WRITES {
                let write = file.write_durable(i * BLOCK as u64, filled(1, BLOCK), BLOCK).await;
                assert_eq!(write.0.unwrap(), BLOCK);
            }
            let count = flushes().unwrap() - before;
            assert!(count >= WRITES, "{method}: {count} flushes for {WRITES} durable writes");
        }
    });
}

/// More cores than may register memory for the runtime: the rest run with unregistered memory.
#[test]
fn many_cores_have_a_disk_each() {
    let dir = tempfile::tempdir().unwrap();
    let cores: Vec<_> = (0..8)
        .map(|i| {
            let path = dir.path().join(format!("core-{i}"));
            std::fs::create_dir(&path).unwrap();
            spawn_core(CoreSpec::new(format!("core-{i}")), move |_| async move {
                let disk = UringDisk::open(&path, SyncMethod::Auto).await.unwrap();
                let file = disk.open(&format!("f{i}"), OpenMode::CreateNew).await.unwrap();
                file.write_durable(0, filled(i, BLOCK), BLOCK).await.0.unwrap();
                let bytes = read_all(&disk, &format!("f{i}"), BLOCK).await;
                assert!(bytes.iter().all(|b| *b == i));
            })
            .unwrap()
        })
        .collect();
    for core in cores {
        core.join().unwrap();
    }
}

/// Two owners of one log would destroy it.
#[test]
fn a_directory_has_one_owner_and_is_free_when_that_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let own = move |held: Option<std::sync::mpsc::Receiver<()>>| {
        let path = path.clone();
        spawn_core(CoreSpec::new("owner"), move |env| async move {
            let disk = UringDisk::open(&path, SyncMethod::Auto).await.unwrap();
            let file = disk.open(&format!("f{}", env.random()), OpenMode::CreateNew).await.unwrap();
            file.write_durable(0, filled(1, BLOCK), BLOCK).await.0.unwrap();
            while held.as_ref().is_some_and(|held| held.try_recv().is_err()) {
                env.sleep(Duration::from_millis(1)).await;
            }
            env.now()
        })
        .unwrap()
    };
    let (release, held) = std::sync::mpsc::channel();
    let first = own(Some(held));
    let second = own(None);
    std::thread::sleep(Duration::from_millis(50)); // gives a wrong second owner the time to succeed
    assert!(!second.is_finished(), "two owners at once");
    release.send(()).unwrap();
    first.join().unwrap();
    second.join().unwrap();
}
